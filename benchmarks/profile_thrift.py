"""What the adaptive choice of points saves against measuring every point, and how far its interpolated points are off.

    python benchmarks/profile_thrift.py [--workload PATH ...] [--set PATH=VALUE ...] [--stores DIR]
    python benchmarks/profile_thrift.py --replay [--exhaustive-store DIR] [--workload PATH]

Both campaigns measure points only (no accuracies, no neighbours), one after the other: the exhaustive one, which has
tolerance 0, and the adaptive one with the workload's own tolerance. Without accuracies no choice is known to be
dominated, which is the harder case. Stores are kept with --stores, and what is there is not measured again.

--replay measures nothing: it replays the choice on an exhaustive store. A point costs the time that it took there (as
logged, else from the time stamps of the rows), a glance what starting a process took there and its calls; it sees the
first calls of each point's first process, and the other processes count as the measurement.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from inferplan.profilers.agenda import Outlook, batch_of
from inferplan.profilers.campaign import Campaign, plan_campaign, run_campaign
from inferplan.profilers.choosing import Candidate, decide
from inferplan.profilers.glances import LEAST_N, LEAST_S, SIZES, glance_s, most_glance_s
from inferplan.profilers.interpolation import Cell, Series
from inferplan.profilers.jobs import Event, JobFinished, PointJob
from inferplan.profilers.sizes import Calls, Cells
from inferplan.spec.document import LoadedWorkload, load_workload
from inferplan.spec.errors import InputError
from inferplan.spec.profile import Profile, read_profile
from inferplan.spec.rows import Measurement
from inferplan.spec.workload import ProfileSettings

SAMPLES = Path(__file__).resolve().parent.parent / "sample_workloads"
DEFAULTS = [SAMPLES / "ocr" / "workload.yaml", SAMPLES / "sentiment" / "workload.yaml"]
SETTINGS = [
    "profile.batch_sizes=[1,2,4,8,16]",
    "profile.threads=[1]",  # with two, means of the same point differ by 13 % (median) from run to run on two cores
    "profile.neighbours=none",
]
DURATIONS = "durations.json"


@dataclass
class Result:
    """One way of profiling: time, points measured, points predicted (mean by point id), those of no use."""

    seconds: float
    measured: int
    predicted: Mapping[str, float] = field(default_factory=dict)
    unused: int = 0
    glances_s: float | None = None


def points_only(loaded: LoadedWorkload, store: Path) -> Campaign:
    """A campaign of points alone."""
    campaign = plan_campaign(loaded, store)
    points = tuple(job for job in campaign.listed.jobs if isinstance(job, PointJob))
    jobs = tuple(job for job in campaign.jobs if job.name in {point.name for point in points})
    return replace(campaign, listed=replace(campaign.listed, jobs=points), jobs=jobs)


def live(loaded: LoadedWorkload, store: Path) -> Result:
    """Measure; how long each piece took is kept beside the store's tables."""
    campaign = points_only(loaded, store)
    at_most = "at most " if campaign.conditional else ""
    print(f"  {store.name}: {len(campaign.jobs)} points in {at_most}{campaign.estimate_s / 60:.0f} min", flush=True)
    file = store / DURATIONS
    durations: dict[str, float] = json.loads(file.read_text()) if file.is_file() else {}

    def tell(event: Event) -> None:
        if isinstance(event, JobFinished):
            durations[event.name] = event.seconds
            file.write_text(json.dumps(durations, indent=1))

    summary = run_campaign(campaign, tell)
    rows = read_profile(store).measurements
    return Result(
        sum(durations.values()),
        sum(row.origin == "measured" for row in rows),
        {row.key.id(): row.service.mean_s or math.nan for row in rows if row.origin == "interpolated"},
        sum(
            len(item.name.split(",")) for item in summary.left_out if "promise" in item.reason or "plan" in item.reason
        ),
    )


def walls_s(profile: Profile, names: Mapping[str, str]) -> dict[str, float]:
    """Seconds that every point took, by id: as logged, else since the row before it was finished.

    A gap of more than three times what samples and loading add up to (the run was interrupted) counts as that sum.
    """
    file = profile.path / DURATIONS
    logged = json.loads(file.read_text()) if file.is_file() else {}
    found: dict[str, float] = {}
    last = None
    for stamp, row in sorted([(row.measured_at, row) for row in profile.measurements], key=lambda pair: pair[0]):
        finished = np.datetime64(stamp.removesuffix("+00:00"))
        summed_s = row.n * (row.service.mean_s or 0.0) + row.processes * ((row.load_s or 0.0) + 0.4)
        gap_s = math.inf if last is None else float((finished - last) / np.timedelta64(1, "us")) / 1e6
        point = row.key.id()
        found[point] = logged.get(names.get(point, ""), gap_s if gap_s < 3 * summed_s else summed_s)
        last = finished
    return found


@dataclass(frozen=True)
class Recorded:
    """A point of an exhaustive store, as a replay sees it."""

    row: Measurement
    wall_s: float
    measured: Calls
    """All processes but the first."""
    glanced: Calls
    """What a glance sees: the first calls of the first process."""
    full_s: float
    sizes: Sequence[int]
    """Sizes of batches: a glance looks at as many, without running them."""

    @property
    def start_s(self) -> float:
        """Starting one process, loading, and what else a point costs beyond its samples."""
        return max(0.0, self.wall_s - self.full_s) / max(1, self.row.processes)


def recorded(profile: Profile, settings: ProfileSettings) -> dict[str, dict[Cell, Recorded]]:
    """The points of an exhaustive store by series, as far as they are in the grid that is asked for."""
    names = {row.key.id(): point_name(row) for row in profile.measurements}
    walls = walls_s(profile, names)
    found: dict[str, dict[Cell, Recorded]] = defaultdict(dict)
    for row in profile.measurements:
        samples = profile.samples(row.key)
        if row.key.batch not in settings.batch_sizes or row.key.threads not in settings.threads:
            continue
        if row.origin != "measured" or row.status != "ok" or samples is None or len(set(samples.process)) < 2:
            continue
        one = samples.process == samples.process[0]
        first, others = (
            Calls.of(samples.service_s[kept], samples.elements[kept], samples.process[kept]) for kept in (one, ~one)
        )
        full_s = float(samples.service_s.sum())
        elapsed = np.cumsum(first.times_s)
        until_s = most_glance_s(full_s)
        enough = (elapsed >= until_s) | ((np.arange(len(elapsed)) >= LEAST_N - 1) & (elapsed >= LEAST_S))
        seen = int(np.argmax(enough)) + 1 if enough.any() else len(elapsed)
        glanced = Calls.of(first.times_s[: max(seen, 2)], first.elements[: max(seen, 2)])
        series = f"{row.key.stage}={row.choice} ({row.key.provider})"
        found[series][Cell(row.key.batch, row.key.threads)] = Recorded(
            row, walls[row.key.id()], others, glanced.counted(), full_s, samples.elements.tolist()[:SIZES]
        )
    return found


def point_name(row: Measurement) -> str:
    """The name of the job that measured a row."""
    threads = f", {row.key.threads} threads" if row.key.threads > 1 else ""
    provider = f", {row.key.provider}" if row.key.provider != "cpu" else ""
    return f"{row.key.stage}={row.choice} batch {row.key.batch}{threads}{provider}"


def replayed(points: Mapping[str, Mapping[Cell, Recorded]], outlook: Outlook) -> Result:
    """The adaptive choice on what an exhaustive store recorded."""
    done: dict[str, set[Cell]] = {name: set() for name in points}
    seen: set[tuple[str, int]] = set()
    seconds = glances_s = 0.0
    while True:
        candidates = [candidate(name, row, done[name], seen) for name, row in points.items()]
        decision = decide(candidates, outlook.tolerance, outlook.limit_s)
        wanted = decision.next
        if wanted is None:
            break
        if wanted.cell is None:
            seen.add((wanted.series, wanted.threads))
            glances_s += glance_cost_s(points[wanted.series], wanted.threads)
        else:
            done[wanted.series].add(wanted.cell)
            seconds += points[wanted.series][wanted.cell].wall_s
            if wanted.glance:
                seen.add((wanted.series, wanted.threads))
                glances_s += glance_cost_s(points[wanted.series], wanted.threads, fresh=False)
    predicted = {points[name][p.cell].row.key.id(): p.mean_s for name, p in decision.interpolated}
    measured = sum(len(cells) for cells in done.values())
    return Result(seconds + glances_s, measured, predicted, len(decision.unused), glances_s)


def candidate(name: str, row: Mapping[Cell, Recorded], done: set[Cell], seen: set[tuple[str, int]]) -> Candidate:
    """A series as choosing sees it in a replay."""
    key = next(iter(row.values())).row.key
    base = min(cell.threads for cell in row)
    glanced = [cell for cell in row if (name, cell.threads) in seen]
    cells = Cells(
        {cell: row[cell].measured for cell in sorted(done)},
        {cell: row[cell].glanced for cell in glanced},
        [(cell.batch, row[cell].sizes) for cell in glanced],
        batch_of,
    )
    series = Series(
        name,
        key.stage,
        key.provider,
        base,
        *cells.means_s(),
    )
    unseen = {t: glance_cost_s(row, t) for t in {cell.threads for cell in row} if (name, t) not in seen}
    left = {cell: point.wall_s for cell, point in row.items() if cell not in done}
    return Candidate(series, left, unseen, timeless=key.runtime == "skip")


def glance_cost_s(row: Mapping[Cell, Recorded], threads: int, fresh: bool = True) -> float:
    """What glancing at one thread count of a series costs, in a fresh process or in one that is there."""
    points = [point for cell, point in sorted(row.items()) if cell.threads == threads]
    services_s = [point.row.service.mean_s or 0.0 for point in points]
    start_s = float(np.median([max(0.0, p.start_s - s) for p, s in zip(points, services_s, strict=True)]))
    return glance_s(start_s if fresh else 0.0, services_s, [most_glance_s(point.full_s) for point in points])


def report(name: str, exhaustive: Profile, whole: Result, thrifty: Result, truth: Mapping[str, float]) -> None:
    """Print the comparison of one workload."""
    names = {row.key.id(): point_name(row) for row in exhaustive.measurements}
    errors = [(abs(mean_s / truth[i] - 1), names[i]) for i, mean_s in thrifty.predicted.items() if i in truth]
    print(f"\n{name}")
    print(f"  {'':12} {'time':>8} {'measured':>9} {'interpolated':>13} {'of no use':>10}")
    print(f"  {'every point':12} {whole.seconds:6.0f} s {whole.measured:9} {0:13} {0:10}")
    counts = f"{thrifty.measured:9} {len(thrifty.predicted):13} {thrifty.unused:10}"
    print(f"  {'adaptive':12} {thrifty.seconds:6.0f} s {counts}")
    glancing = "" if thrifty.glances_s is None else f", of which glances {thrifty.glances_s / whole.seconds:.2f}"
    print(f"  share of the time: {thrifty.seconds / whole.seconds:.2f}{glancing}")
    if errors:
        sizes = [size for size, _ in errors]
        median, p90 = (100 * float(np.quantile(sizes, q)) for q in (0.5, 0.9))
        largest, where = max(errors)
        print(f"  interpolated against measured: median {median:.1f} %, p90 {p90:.1f} %, largest {100 * largest:.0f} %")
        print(f"  (largest: {where}; {len(errors)} of {len(thrifty.predicted)} have a measured twin)")
    noise = [error for row in exhaustive.measurements if (error := standard_error(exhaustive, row)) is not None]
    if noise:
        median, p90 = (100 * float(np.quantile(noise, q)) for q in (0.5, 0.9))
        print(f"  standard error of a measured mean, from the spread of its processes: {median:.1f} %, p90 {p90:.1f} %")


def standard_error(profile: Profile, row: Measurement) -> float | None:
    """Relative standard error of a point's mean by the spread of its processes' means."""
    samples = profile.samples(row.key) if row.origin == "measured" and row.key.runtime != "skip" else None
    if samples is None or not row.service.mean_s or len(set(samples.process)) < 2:
        return None
    means = [float(samples.service_s[samples.process == process].mean()) for process in sorted(set(samples.process))]
    return float(np.std(means, ddof=1)) / math.sqrt(len(means)) / row.service.mean_s


def compared(workload: Path, overrides: Sequence[str], stores: Path, given: Path | None, replay: bool) -> None:
    """One workload: measure what is missing, or replay, and print."""
    settings = [*SETTINGS, *overrides]
    adaptive = load_workload(workload, settings)
    exhaustive_store = given or stores / f"{adaptive.workload.name}.exhaustive"
    if not replay:
        whole = live(load_workload(workload, [*settings, "profile.tolerance=0"]), exhaustive_store)
        thrifty = live(adaptive, stores / f"{adaptive.workload.name}.adaptive")
        profile = read_profile(exhaustive_store)
        truth = {row.key.id(): row.service.mean_s for row in profile.measurements if row.service.mean_s}
    else:
        profile = read_profile(exhaustive_store)
        series = recorded(profile, adaptive.workload.profile)
        points = [point for row in series.values() for point in row.values()]
        if not points:
            raise InputError(f"{exhaustive_store} has no measured points of two processes or more to replay")
        whole = Result(sum(point.wall_s for point in points), len(points))
        device = points[0].row.key.device
        thrifty = replayed(series, Outlook.of(adaptive.workload, device))
        truth = {point.row.key.id(): float(point.measured.times_s.mean()) for point in points}
    report(adaptive.workload.name + (" (replayed)" if replay else ""), profile, whole, thrifty, truth)


def main() -> None:
    """Print a table per workload."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", type=Path, nargs="+", default=DEFAULTS)
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="PATH=VALUE")
    parser.add_argument("--stores", type=Path, help="keep the profiles here")
    parser.add_argument("--exhaustive-store", type=Path, help="an exhaustive profile of the one workload given")
    parser.add_argument("--replay", action="store_true", help="measure nothing: replay on an exhaustive profile")
    arguments = parser.parse_args()
    if arguments.exhaustive_store and len(arguments.workload) != 1:
        parser.error("--exhaustive-store goes with one --workload")
    if arguments.replay and not (arguments.exhaustive_store or arguments.stores):
        parser.error("--replay needs --exhaustive-store or --stores")
    with tempfile.TemporaryDirectory() as scratch:
        stores = arguments.stores or Path(scratch)
        print(f"{os.cpu_count()} cores; overrides: {' '.join([*SETTINGS, *arguments.overrides])}", flush=True)
        for workload in arguments.workload:
            compared(workload, arguments.overrides, stores, arguments.exhaustive_store, arguments.replay)


if __name__ == "__main__":
    main()
