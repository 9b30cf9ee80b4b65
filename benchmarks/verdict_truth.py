"""How often a certificate is wrong: `python benchmarks/verdict_truth.py [--seeds 300]`.

On the network like ocr's of `simulation_speed.py`, whose late requests come in clumps. What the p99 is, all seeds'
replications together say (80 each). Then every seed is judged as `simulate` does, after 10, 20, 40 and 80 replications
until it is decided, each look as sure as its share of the error wants it, with limits at, below and above that p99:
verdicts, and replications in the mean. `met` below it is
wrong, `missed` above it too; at the p99 itself either is. First comes how often the interval of ten replications lies
wholly on one side of the p99: 0.5 % is what its confidence allows for each side.
"""

from __future__ import annotations

import argparse
from collections import Counter

import numpy as np
from simulation_speed import ocr_like

from inferplan.estimators.intervals import Latencies
from inferplan.estimators.simulation.compiled import loops
from inferplan.estimators.simulation.looks import FEWEST, looks
from inferplan.estimators.simulation.replication import Chance, replicate

PERCENTILE = 99.0
LATE = 4.0
"""Late requests that a replication should see: as `simulate` plans it."""
WARMUP_S = 10.0
MOST = 80
"""Replications."""
FACTORS = (0.95, 0.97, 1.0, 1.1, 1.3)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=300)
    seeds = parser.parse_args().seeds
    network = ocr_like(1.0)
    (stream,) = network.streams
    counted_s = LATE / (1 - PERCENTILE / 100) / stream.rate_rps
    fast = loops(10**9)
    runs = [
        Latencies.of(
            [
                replicate(network, Chance(seed, index), counted_s, WARMUP_S, loops=fast).latencies_s[stream.name]
                for index in range(MOST)
            ]
        )
        for seed in range(seeds)
    ]
    truth_s = float(np.quantile(np.concatenate([seen for run in runs for seen in run.replications]), PERCENTILE / 100))
    first = [Latencies(run.replications[:FEWEST]).percentile_s(PERCENTILE) for run in runs]
    below = sum(one.upper is not None and one.upper < truth_s for one in first)
    above = sum(one.lower is not None and one.lower > truth_s for one in first)
    print(f"p99 {truth_s:.4g} s; of {seeds} intervals of {FEWEST} replications {below} lie below it, {above} above")
    print(f"  {'limit / p99':>11} {'met':>6} {'missed':>7} {'undecided':>10} {'replications':>13}")
    for factor in FACTORS:
        verdicts: Counter[str] = Counter()
        needed = []
        for run in runs:
            for look in looks(MOST):
                seen = Latencies(run.replications[: look.replications], look.confidence)
                verdict = seen.verdict(PERCENTILE, truth_s * factor)
                if verdict != "undecided":
                    break
            verdicts[verdict] += 1
            needed.append(look.replications)
        shown = " ".join(f"{verdicts[name]:>{width}}" for name, width in (("met", 6), ("missed", 7), ("undecided", 10)))
        print(f"  {factor:>11.2f} {shown} {np.mean(needed):>13.1f}")


if __name__ == "__main__":
    main()
