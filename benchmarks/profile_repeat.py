"""Two runs of the whole profile on one machine: how far p50, p99 and accuracy differ.

    python benchmarks/profile_repeat.py [WORKLOAD ...] [--set PATH=VALUE ...] [--stores DIR]

Every point of the workload is measured twice, in two separate runs of `inferplan profile --exhaustive`, the second
begun when the first has ended. With --stores the two profiles are kept, and measured only where they are missing.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from inferplan.spec.document import load_workload
from inferplan.spec.profile import Profile, read_profile

DEFAULT = Path(__file__).resolve().parent.parent / "sample_workloads" / "digits" / "workload.yaml"


def profiled(workload: Path, store: Path, overrides: list[str]) -> Profile:
    """A whole profile of its own."""
    command = [str(Path(sys.executable).with_name("inferplan")), "profile", str(workload), "--profile", str(store)]
    command += ["--exhaustive", *(part for override in overrides for part in ("--set", override))]
    start = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    print(f"  {store.name}: {time.monotonic() - start:.0f} s", flush=True)
    return read_profile(store)


def differences(first: Profile, second: Profile) -> dict[str, list[tuple[float, str]]]:
    """Per statistic: |difference| (relative for times, absolute for accuracies) and what it is of."""
    found: dict[str, list[tuple[float, str]]] = {"mean": [], "p50": [], "p99": [], "accuracy": []}
    twins = {row.key.id(): row for row in second.measurements if row.status == "ok" and row.origin == "measured"}
    for row in first.measurements:
        twin = twins.get(row.key.id())
        if twin is None or row.status != "ok":
            continue
        name = f"{row.key.stage}={row.choice} batch {row.key.batch}, {row.key.threads} thr"
        for statistic in ("mean", "p50", "p99"):
            one, other = (getattr(r.service, f"{statistic}_s") for r in (row, twin))
            if one is not None and other is not None:
                found[statistic].append((abs(other / one - 1), name))
    values = {(r.evaluation(), r.metric): r for r in second.accuracy if r.value is not None}
    for score in first.accuracy:
        other_score = values.get((score.evaluation(), score.metric))
        if other_score is not None and score.value is not None and other_score.value is not None:
            name = f"{score.stage}={score.choice}" if score.scope == "stage" else score.combination
            found["accuracy"].append((abs(other_score.value - score.value), name))
    return found


def table(found: dict[str, list[tuple[float, str]]]) -> Iterable[str]:
    """Lines: the median, the 90th percentile and the largest difference, and where that is."""
    yield f"  {'':9} {'points':>6} {'median':>9} {'p90':>9} {'largest':>9}  where"
    for statistic, pairs in found.items():
        if not pairs:
            yield f"  {statistic:9} {0:6}"
            continue
        sizes = [size for size, _ in pairs]
        unit = "" if statistic == "accuracy" else " %"
        factor = 1 if statistic == "accuracy" else 100
        median, p90 = factor * np.median(sizes), factor * np.quantile(sizes, 0.9)
        largest, where = max(pairs)
        digits = 4 if statistic == "accuracy" else 1
        yield (
            f"  {statistic:9} {len(pairs):6} {median:7.{digits}f}{unit:2} {p90:7.{digits}f}{unit:2} "
            f"{factor * largest:7.{digits}f}{unit:2}  {where}"
        )


def main() -> None:
    """Print a table per workload."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workloads", nargs="*", type=Path, default=[DEFAULT])
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--stores", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        for workload in options.workloads:
            name = load_workload(workload, options.overrides).workload.name
            print(name)
            stores = [(options.stores or Path(scratch)) / f"{name}-{run}" for run in ("first", "second")]
            first, second = (profiled(workload, store, options.overrides) for store in stores)
            for line in table(differences(first, second)):
                print(line)


if __name__ == "__main__":
    main()
