"""Tables of job splits against exhaustive enumeration:
`python benchmarks/mosel_jobs.py [--full] [--workload W --profile DIR]`.

1. MOSEL's instance: TVLT on CMU-MOSEI with its three modality subsets and their published mean accuracies
   (`data/mosel_accuracy.csv`), b = 1..32, and its grid of mean accuracies, from 0.660017 in steps of 0.002 up to
   0.743196 (`apps/tvlt/solve_all.py`). Its latency tables were never published, so times are stand-ins of three shapes:
   per batch a + c n, with c of the three subsets 1, 0.62 and 0.55 (a guess: what is read costs what it is long), with
   fixed costs a of 0, 5 and 20, in units of the full subset's time per request.
2. A random instance per number of configurations, with measured-looking times.
3. With --workload and --profile: the workload's own configurations and times.

Every cell is compared with the best of every split there is (C(b + m - 1, m - 1) of them for m configurations,
enumerated in numpy): `valid`: all requests served and the mean accuracy met; `equal`: same time within 1e-9. `table`
is the time of the whole table by labels, `enumeration` that of enumerating.
"""

from __future__ import annotations

import argparse
import csv
import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inferplan.estimators.composition import TOLERANCE, Turn
from inferplan.estimators.splits import Configuration, Split, batch_cuts, fastest, fronts, is_valid
from inferplan.reports.tables import Table, left, plain, right
from inferplan.solvers.jobs import read_jobs
from inferplan.spec.document import load_workload
from inferplan.spec.profile import read_profile

DATA = Path(__file__).parent / "data" / "mosel_accuracy.csv"
MOST = 32
GRID = tuple(0.660017 + 0.002 * step for step in range(42))
UP = Turn("maximize")
MOST_SPLITS = 3_000_000
"""Splits that are enumerated for one b; larger instances get smaller jobs, unless --full."""
CHUNK = 2_000_000


def configuration(name: str, accuracy: float, batches: Sequence[float], most: int) -> Configuration:
    """A configuration from times of batches of 1, 2, ..."""
    cuts = batch_cuts(lambda size: batches[size - 1], len(batches), most)
    return Configuration(name, accuracy, tuple(cut[0] for cut in cuts))


def published(fixed: float) -> list[Configuration]:
    """MOSEL's modality subsets, with stand-in times."""
    per_request = {"audio+video": 1.0, "audio": 0.62, "video": 0.55}
    with DATA.open() as file:
        rows = list(csv.DictReader(file))
    return [
        configuration(
            row["kept"],
            float(row["mean_accuracy"]),
            [(fixed + n) * per_request[row["kept"]] for n in range(1, MOST + 1)],
            MOST,
        )
        for row in rows
    ]


def random_instance(count: int, most: int, seed: int) -> list[Configuration]:
    """Configurations that are slower where they are better, roughly, measured up to batch 8."""
    rng = np.random.default_rng(seed)
    made = []
    for index in range(count):
        speed = rng.uniform(1, 10)
        batches = [speed * (rng.uniform(0.5, 2) + n * rng.uniform(0.7, 1)) for n in range(1, 9)]
        accuracy = 0.6 + 0.25 * (1 - math.exp(-speed / 5)) + rng.normal(0, 0.01)
        made.append(configuration(f"c{index}", accuracy, batches, most))
    return made


def every_split(b: int, parts: int) -> NDArray[np.int16]:
    """All ways to share b requests out: [ways, parts]."""
    rows = np.arange(b + 1, dtype=np.int16)[:, None]
    for _ in range(parts - 2):
        used = rows.sum(axis=1)
        counts = np.repeat(rows, b - used + 1, axis=0)
        more = np.concatenate([np.arange(b - u + 1, dtype=np.int16) for u in used])
        rows = np.concatenate([counts, more[:, None]], axis=1)
    if parts == 1:
        return np.full((1, 1), b, np.int16)
    return np.concatenate([rows, (b - rows.sum(axis=1))[:, None]], axis=1).astype(np.int16)


def enumerated(configurations: Sequence[Configuration], b: int, targets: Sequence[float]) -> list[float]:
    """Least time per target over every split; infinite where none reaches it.

    Every split is one of the first half of the configurations with one of the second half.
    """
    half = (len(configurations) + 1) // 2
    best = np.full(len(targets), math.inf)
    for used in range(b + 1):
        first, first_sum = _sums(configurations[:half], used)
        second, second_sum = _sums(configurations[half:], b - used)
        step = max(1, CHUNK // max(len(second), 1))
        for begin in range(0, len(first), step):
            times = np.add.outer(first[begin : begin + step], second).ravel()
            means = np.add.outer(first_sum[begin : begin + step], second_sum).ravel() / b
            for place, target in enumerate(targets):
                least = np.min(times, initial=math.inf, where=means >= target - TOLERANCE)
                best[place] = min(best[place], least)
    return [float(time_) for time_ in best]


def _sums(configurations: Sequence[Configuration], b: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Times and summed accuracies of every split over some of the configurations."""
    if not configurations:
        return np.zeros(1 if b == 0 else 0), np.zeros(1 if b == 0 else 0)
    splits = every_split(b, len(configurations))
    times, sums = np.zeros(len(splits)), np.zeros(len(splits))
    for index, one in enumerate(configurations):
        times += np.array(one.times_s)[splits[:, index]]
        sums += one.accuracy * splits[:, index]
    return times, sums


def compared(
    name: str, configurations: Sequence[Configuration], most: int, targets: Sequence[float], turn: Turn = UP
) -> list[str]:
    """One line: the table by labels beside enumeration."""
    start = time.perf_counter()
    table: dict[tuple[int, float], Split | None] = {}
    for b, front in enumerate(fronts(configurations, most, turn)):
        if b:
            table |= {(b, target): fastest(front, target, turn) for target in targets}
    ours_s = time.perf_counter() - start
    start = time.perf_counter()
    least = {b: enumerated(configurations, b, targets) for b in range(1, most + 1)}
    enumeration_s = time.perf_counter() - start
    valid = equal = feasible = 0
    for (b, target), split in table.items():
        best = least[b][list(targets).index(target)]
        feasible += split is not None
        valid += split is not None and is_valid(split, b, target, turn)
        equal += math.isclose(math.inf if split is None else split.time_s, best, rel_tol=1e-9)
    ways = math.comb(most + len(configurations) - 1, len(configurations) - 1)
    return [
        name, f"1..{most}", str(len(targets)), f"{ways:,}", str(len(table)), str(feasible), f"{valid} of {feasible}",
        f"{equal} of {len(table)}", f"{1000 * ours_s:.0f} ms", f"{1000 * enumeration_s:.0f} ms",
    ]  # fmt: skip


def largest(count: int, full: bool) -> int:
    """The largest b of which the splits are enumerated."""
    return MOST if full else max(b for b in range(1, MOST + 1) if math.comb(b + count - 1, count - 1) <= MOST_SPLITS)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", type=Path)
    parser.add_argument("--profile", type=Path)
    parser.add_argument("--full", action="store_true", help="all of b = 1..32, however many splits (minutes)")
    arguments = parser.parse_args()
    rows = [compared(f"MOSEL, fixed cost {fixed:g}", published(fixed), MOST, GRID) for fixed in (0.0, 5.0, 20.0)]
    for count in (3, 5, 9):
        most = largest(count, arguments.full)
        targets = [0.6 + 0.01 * step for step in range(30)]
        rows.append(compared(f"random, {count} configurations", random_instance(count, most, count), most, targets))
    if arguments.workload is not None:
        loaded = load_workload(arguments.workload)
        path = arguments.profile or loaded.path.parent / f"{loaded.workload.name}.profile"
        jobs = read_jobs(loaded.workload, read_profile(path), most=MOST)
        worst, best = (f(c.accuracy for c in jobs.configurations) for f in (min, max))
        targets = [worst + (best - worst) * step / 20 for step in range(21)]
        most = largest(len(jobs.configurations), arguments.full)
        rows.append(compared(loaded.workload.name, jobs.configurations, most, targets, jobs.turn))
    columns = [
        *left("instance"),
        *right("b", "targets", "splits at most", "cells", "feasible", "valid", "equal", "table", "enumeration"),
    ]
    print(plain(Table(columns, rows)))


if __name__ == "__main__":
    main()
