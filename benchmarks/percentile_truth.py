"""Does the reported upper bound of p99 cover the true p99? Beside it, what rules with few samples report.

    python benchmarks/percentile_truth.py [--runs 500]

Service times are synthetic, so that their true p99 is known: log-normal, with rare slow calls. Each run goes through
the profiler's own code: three processes, the stopping rule, warm-up detection, statistics. The other rules are the
sample counts that three tools stop at by default, with the plain 99th percentile of those samples; samples are the same
stream's first ones.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from inferplan.profilers.statistics import quantiles
from inferplan.profilers.stopping import StoppingRule, warmup_end
from inferplan.spec.workload import ProfileSettings

Floats = NDArray[np.float64]
OTHERS = {"20 samples (Olive)": 20, "75 samples (Model Navigator)": 75, "150 samples (perf_analyzer)": 150}
TRUTH_DRAWS = 20_000_000
LOW = 0.9


@dataclass(frozen=True)
class Law:
    """A distribution of service times: log-normal around 10 ms, a share of the calls slower by a factor."""

    sigma: float
    slow_share: float
    slow_factor: float

    @property
    def name(self) -> str:
        """In words."""
        return f"sigma {self.sigma:g}, {100 * self.slow_share:g} % x {self.slow_factor:g}"

    def draw(self, generator: np.random.Generator, count: int) -> Floats:
        """Independent service times, in seconds."""
        times = 0.01 * np.exp(self.sigma * generator.standard_normal(count))
        return np.where(generator.random(count) < self.slow_share, self.slow_factor * times, times)


LAWS = [Law(0.05, 0.0, 1), Law(0.1, 0.005, 5), Law(0.1, 0.01, 5), Law(0.1, 0.02, 5), Law(0.5, 0.005, 10)]


def profiled(times: Callable[[int], Floats], rule: StoppingRule) -> tuple[float, float, int]:
    """p99, its upper bound and the samples of one run of the profiler's rule over a stream of service times."""
    kept = []
    for process in range(rule.processes):
        share = rule.share(process)
        found = np.empty(0)
        while not share.is_met(len(found) - warmup_end(found), 0.0):
            found = np.concatenate([found, times(share.wanted_n(len(found) - warmup_end(found), 0.0))])
        kept.append(found[warmup_end(found) :])
    reported = quantiles(np.concatenate(kept))
    assert reported.p99_s is not None
    assert reported.p99_upper_s is not None
    return reported.p99_s, reported.p99_upper_s, sum(map(len, kept))


def report(law: Law, runs: int, generator: np.random.Generator) -> int:
    """One law's lines of the table; how many of the runs' upper bounds covered the true p99."""
    truth = float(np.quantile(law.draw(generator, TRUTH_DRAWS), 0.99))
    # Time is not simulated: the count alone decides when a point ends.
    rule = replace(StoppingRule.of(ProfileSettings()), min_time_s=0.0, max_time_s=math.inf)
    found = np.array([profiled(lambda count: law.draw(generator, count), rule) for _ in range(runs)])
    line(law.name, "inferplan upper bound", found[:, 1] / truth, found[:, 2])
    line("", "inferplan estimate", found[:, 0] / truth, found[:, 2])
    for name, count in OTHERS.items():
        plain = np.array([np.quantile(law.draw(generator, count), 0.99) for _ in range(runs)])
        line("", name, plain / truth, np.full(runs, count))
    return int(np.sum(found[:, 1] >= truth))


def line(law: str, rule: str, ratios: Floats, counts: Floats) -> None:
    """One line of the table: ratios are reported over true p99."""
    covered, low = 100 * np.mean(ratios >= 1), 100 * np.mean(ratios < LOW)
    print(
        f"{law:26}  {rule:30}  {np.median(counts):6.0f}  {covered:8.1f} %  {low:14.1f} %  {np.median(ratios):6.2f}  "
        f"{np.quantile(ratios, 0.05):5.2f} .. {np.quantile(ratios, 0.95):.2f}"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=500)
    options = parser.parse_args()
    generator = np.random.default_rng(0)
    print(f"reported p99 over true p99, {options.runs} runs each")
    print(f"{'service times':26}  {'rule':30}  {'n':>6}  {'>= truth':>10}  {'> 10 % too low':>16}  median  5 .. 95 %")
    covered = sum(report(law, options.runs, generator) for law in LAWS)
    total = len(LAWS) * options.runs
    print(f"upper bounds that cover the true p99, all laws: {100 * covered / total:.2f} % of {total} (goal: 99 %)")


if __name__ == "__main__":
    main()
