"""Published systems' rules beside ours on the sample workloads:
`python benchmarks/strategies.py --profiles DIR [--workloads digits,ocr] [--loads 1,4,8,16] [--results DIR]`.

Every workload of `sample_workloads` as it stands on three tiers (`NAME/three-tiers.yaml`; devices that were not
measured are like the measured one, by an assumed factor), at four load levels and by three kinds of traffic, all of
the same mean rates:

  steady       Poisson
  bursty       bursts of three times the mean rate, 10 s long in the mean, in which half of all requests come (mmpp)
  fluctuating  Poisson, a day of an hour with a peak of 1.8 times the mean (diurnal)

Profiles are DIR/NAME.profile, as `inferplan profile sample_workloads/NAME/workload.yaml` writes them. Workloads without
one, or whose models are not there, are left out and named.

In every case all strategies of `inferplan compare` decide, and are priced, simulated and checked alike. The first table
has per workload and strategy: in how many cases it kept every promise; its cost over that of `optimal` in those, in the
mean and at worst; how long it took to decide, median and most; which promises it broke how often. The second one has
the same over all workloads, by kind of traffic; costs are multiples of those of `optimal` there, median and worst. Last
come the cases in which some strategy kept every promise for less than `optimal`, or where `optimal` did not: there
should be none.

Cases are written to --results as they are done (one Parquet file each) and read from there the next time, so that a run
can be stopped and taken up again; --budget-s stops it.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from inferplan.reports.tables import Table, left, plain, right
from inferplan.solvers.contest import STRATEGIES, Entry, compare
from inferplan.solvers.problem import read_problem
from inferplan.spec.document import LoadedWorkload, load_workload
from inferplan.spec.errors import InferplanError
from inferplan.spec.profile import Profile, read_profile

SAMPLES = Path(__file__).parents[1] / "sample_workloads"
WORKLOADS = ("digits", "ocr", "sentiment", "smartwatch", "stamps")
LOADS = (1.0, 4.0, 8.0, 16.0)
TRAFFIC = {
    "steady": "{process: poisson}",
    "bursty": "{process: mmpp, burst_factor: 3.0, burst_s: 10.0}",
    "fluctuating": "{process: diurnal, period_s: 3600, peak_factor: 1.8}",
}
SAME = 1e-6
"""Costs are the same if they differ by less, relative."""


@dataclass(frozen=True)
class Row:
    """What came of a strategy in a case. Costs in USD/h."""

    workload: str
    load: float
    traffic: str
    strategy: str
    cost_usd_per_h: float | None
    over_optimal: float | None
    """Cost over that of `optimal`, less 1; None where one of the two keeps not every promise."""
    keeps: bool
    broken: str
    accuracy: float | None
    p99_s: float | None
    decision_s: float
    note: str


def changed(path: Path, load: float, traffic: str) -> LoadedWorkload:
    """A workload at another load and with another kind of traffic."""
    classes = load_workload(path).workload.classes
    settings = []
    for name, one in classes.items():
        assert one.rate_rps is not None
        settings += [f"classes.{name}.rate_rps={one.rate_rps * load!r}", f"classes.{name}.arrivals={TRAFFIC[traffic]}"]
    return load_workload(path, settings)


def case(name: str, loaded: LoadedWorkload, profile: Profile, load: float, traffic: str, limit_s: float) -> list[Row]:
    """All strategies on one instance."""
    entries = compare(read_problem(loaded.workload, profile), STRATEGIES, time_limit_s=limit_s)
    best = entries[0]
    assert best.strategy == "optimal"
    return [_row(name, load, traffic, entry, best) for entry in entries]


def _row(name: str, load: float, traffic: str, entry: Entry, best: Entry) -> Row:
    cost = None if entry.solution is None else entry.solution.cost_usd_per_h
    keeps = entry.solution is not None and not entry.broken
    over = None
    if keeps and cost is not None and best.solution is not None and not best.broken:
        over = cost / best.solution.cost_usd_per_h - 1
    streams = entry.result.streams.values() if entry.result is not None else ()
    return Row(
        name, load, traffic, entry.strategy, cost, over, keeps, ", ".join(entry.broken), entry.accuracy,
        max((stream.latency_p99_s.value for stream in streams), default=None), entry.decision_s, entry.note,
    )  # fmt: skip


def cases(workloads: Sequence[str], loads: Sequence[float], kinds: Sequence[str]) -> Iterator[tuple[str, float, str]]:
    """Every case, in an order that shows all workloads early."""
    yield from ((name, load, kind) for load, kind, name in itertools.product(loads, kinds, workloads))


def measured(arguments: argparse.Namespace) -> list[Row]:
    """Rows of all cases that are there, or that there was time for."""
    start = time.perf_counter()
    rows: list[Row] = []
    left_out: dict[str, str] = {}
    for name, load, kind in cases(arguments.workloads, arguments.loads, arguments.traffic):
        path = arguments.results / f"{name}-{load:g}-{kind}.parquet"
        if name in left_out:
            continue
        if path.exists():
            rows += [_read(record) for record in pd.read_parquet(path).to_dict("records")]
            continue
        if time.perf_counter() - start > arguments.budget_s:
            continue
        try:
            profile = read_profile(arguments.profiles / f"{name}.profile")
            loaded = changed(SAMPLES / name / "three-tiers.yaml", load, kind)
            found = case(name, loaded, profile, load, kind, arguments.time_limit_s)
        except InferplanError as error:
            left_out[name] = error.message
            continue
        arguments.results.mkdir(parents=True, exist_ok=True)
        pd.DataFrame([asdict(row) for row in found]).to_parquet(path)
        print(f"{name}, load x {load:g}, {kind}: {_line(found)}", flush=True)
        rows += found
    for name, why in left_out.items():
        print(f"{name} is left out: {why}")
    return rows


def _read(record: dict[str, object]) -> Row:
    """A row read back: what was None may have become NaN."""
    clean = {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in record.items()}
    return Row(**clean)  # type: ignore[arg-type]


def _line(rows: Sequence[Row]) -> str:
    kept = sum(row.keeps for row in rows)
    costs = [f"{row.strategy} {row.cost_usd_per_h:.4g}" for row in rows if row.keeps and row.cost_usd_per_h is not None]
    return f"{kept} of {len(rows)} keep every promise: {', '.join(costs)}"


def table(rows: Sequence[Row]) -> Table:
    """Per workload and strategy."""
    columns = [
        *left("workload", "strategy"),
        *right("cases", "kept", "cost over optimal", "at worst", "decided in", "at most"),
        *left("broken or not decided"),
    ]
    body = []
    for name in dict.fromkeys(row.workload for row in rows):
        for strategy in STRATEGIES:
            own = [row for row in rows if (row.workload, row.strategy) == (name, strategy)]
            over = [row.over_optimal for row in own if row.over_optimal is not None]
            times = [row.decision_s for row in own]
            body.append(
                [
                    name,
                    strategy,
                    str(len(own)),
                    str(sum(row.keeps for row in own)),
                    f"{100 * statistics.mean(over):+.1f} %" if over else "-",
                    f"{100 * max(over):+.1f} %" if over else "-",
                    f"{statistics.median(times):.2f} s",
                    f"{max(times):.2f} s",
                    _reasons(own),
                ]
            )
    return Table(columns, body)


def summary(rows: Sequence[Row]) -> Table:
    """Per strategy, over all workloads."""
    kinds = list(dict.fromkeys(row.traffic for row in rows))
    columns = [
        *left("strategy"),
        *right(*kinds, "cost", "at worst", "decided in", "at most"),
        *left("broken or not decided"),
    ]
    body = []
    for strategy in STRATEGIES:
        own = [row for row in rows if row.strategy == strategy]
        over = [1 + row.over_optimal for row in own if row.over_optimal is not None]
        times = [row.decision_s for row in own]
        kept = [[row.keeps for row in own if row.traffic == kind] for kind in kinds]
        body.append(
            [
                strategy,
                *(f"{sum(which)} of {len(which)}" for which in kept),
                f"x {statistics.median(over):.2f}" if over else "-",
                f"x {max(over):.2f}" if over else "-",
                f"{statistics.median(times):.2f} s",
                f"{max(times):.2f} s",
                _reasons(own),
            ]
        )
    return Table(columns, body)


def _reasons(rows: Sequence[Row]) -> str:
    """Which promises were broken, how often."""
    counts: Counter[str] = Counter()
    for row in rows:
        if row.cost_usd_per_h is None:
            counts["no deployment"] += 1
        counts.update({part.split(" of ")[0] for part in row.broken.split(", ") if part})
    return ", ".join(f"{what} {count}" for what, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def beaten(rows: Sequence[Row]) -> list[str]:
    """Cases in which a strategy keeps every promise for less than `optimal`, or where only others keep them."""
    lines = []
    for key in dict.fromkeys((row.workload, row.load, row.traffic) for row in rows):
        own = {row.strategy: row for row in rows if (row.workload, row.load, row.traffic) == key}
        best = own["optimal"]
        for row in own.values():
            if not row.keeps or row.cost_usd_per_h is None:
                continue
            if not best.keeps or row.cost_usd_per_h < (best.cost_usd_per_h or math.inf) * (1 - SAME):
                lines.append(
                    f"{key}: {row.strategy} {row.cost_usd_per_h:.6g}, optimal {best.cost_usd_per_h} {best.broken}"
                )
    return lines


def main() -> int:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profiles", type=Path, required=True, help="folder of NAME.profile")
    parser.add_argument("--workloads", type=lambda text: text.split(","), default=list(WORKLOADS))
    parser.add_argument("--loads", type=lambda text: [float(part) for part in text.split(",")], default=list(LOADS))
    parser.add_argument("--traffic", type=lambda text: text.split(","), default=list(TRAFFIC))
    parser.add_argument("--results", type=Path, default=Path("strategies.results"), help="a Parquet file per case")
    parser.add_argument("--parquet", type=Path, help="all rows in one file")
    parser.add_argument("--time-limit-s", type=float, default=30.0, help="for one strategy in one case")
    parser.add_argument("--budget-s", type=float, default=math.inf, help="begin no case after so many seconds")
    arguments = parser.parse_args()
    rows = measured(arguments)
    if not rows:
        print("no case was run")
        return 1
    print()
    print(plain(table(rows)))
    print()
    print(plain(summary(rows)))
    found = beaten(rows)
    print(f"\ncases in which a strategy kept every promise for less than optimal: {len(found)}")
    for line in found:
        print(f"  {line}")
    if arguments.parquet is not None:
        pd.DataFrame([asdict(row) for row in rows]).to_parquet(arguments.parquet)
    return 0


if __name__ == "__main__":
    sys.exit(main())
