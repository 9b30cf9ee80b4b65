"""Which measurements would make the models better, and how to take them.

A command measures a batch size and a number of threads for all choices at once, so these are ranked: by how much
error they would take away, summed over the choices that a plan could use there. What a measurement takes away:

- of a point that was not measured: the error of predicting it (90th percentile of its kind of prediction in its
  stage; all of it, 100 %, where no error is known), less the noise that measuring would leave, if that is known;
- of an interpolated one: half the width of its interval, less that noise;
- of a measured one: half of its 95 % interval's half-width, by taking four times as long.

A plan could use a choice at a batch if its predicted mean is within the longest latency promised, and if no other
choice of the stage is both more accurate beyond its interval and faster by measurement.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from inferplan.estimators.latency import GroupModel, Kind, RangeError, SeriesModel
from inferplan.estimators.leave_one_out import noise
from inferplan.estimators.observations import GroupKey, SeriesKey
from inferplan.spec.profile import Profile
from inferplan.spec.rows import AccuracyRow
from inferplan.spec.workload import Workload

Deed = Literal["measure", "measure longer"]
WORTH = 0.01
"""Errors that would shrink by less than one in a hundred are not listed: no plan turns on them."""
_LONGER = 4.0
"""Times as many samples halve an interval."""


@dataclass(frozen=True, slots=True)
class Need:
    """A measurement that would help. `choices` are those of the stage that a plan could use at this batch; `error` is
    the largest relative error there is now, null where none is known; `gain` what would go, summed over them."""

    stage: str
    device: str
    provider: str
    threads: int
    batch: int
    deed: Deed
    choices: tuple[str, ...]
    error: float | None
    gain: float
    command: str


class _Case(NamedTuple):
    key: SeriesKey
    batch: int
    deed: Deed
    error: float | None
    gain: float
    seconds: float


def needs(workload: Workload, profile: Profile, models: Mapping[GroupKey, GroupModel], target: str = "W") -> list[Need]:
    """What would help, most first. `target` is how commands name the workload and its profile."""
    limit_s = longest_promise_s(workload)
    cases: dict[tuple[GroupKey, int, int, Deed], list[_Case]] = {}
    for key, group in models.items():
        beaten = _beaten(workload, profile, group)
        within = [
            case for one in group.series.values() for case in _cases(workload, one) if _within(one, case.batch, limit_s)
        ]
        for case in (*within, *_absent(workload, group)):
            if case.gain > 0 and case.key.choice not in beaten:
                cases.setdefault((key, case.key.threads, case.batch, case.deed), []).append(case)
    found = [_need(*place, items, workload, target) for place, items in cases.items()]
    return sorted(
        (need for need in found if need.gain >= WORTH),
        key=lambda need: (-need.gain, need.stage, need.device, need.provider, need.threads, need.batch),
    )


def longest_promise_s(workload: Workload) -> float:
    """The longest latency that some class was promised, or the deadline of a job; infinite where one has neither."""
    return max(
        [
            one.job.deadline_s if one.job is not None else one.slo.latency_s if one.slo is not None else math.inf
            for one in workload.classes.values()
        ],
        default=math.inf,
    )


def _cases(workload: Workload, one: SeriesModel) -> Iterable[_Case]:
    measured = {item.batch: item for item in one.observations}
    left = noise([item.error for item in one.group.observations]).p90 or 0.0
    guessed = {item.batch: item.row for item in one.guesses if item.row is not None}
    for batch in sorted({*workload.profile.batch_sizes, *measured}):
        item = measured.get(batch)
        if item is not None:
            row = item.row
            if row is not None and row.origin == "measured" and row.service.mean_upper_s is not None:
                half = row.service.mean_upper_s / item.mean_s - 1
                gain = half - half / math.sqrt(_LONGER)
                yield _Case(one.key, batch, "measure longer", half, gain, _LONGER * row.n * item.mean_s)
        elif batch in guessed and guessed[batch].service.mean_upper_s is not None:
            found = guessed[batch].service
            error = (found.mean_upper_s or 0.0) / (found.mean_s or 1.0) - 1
            yield _Case(one.key, batch, "measure", error, max(error - left, 0.0), 0.0)
        else:
            known = one.group.errors(_kind(one, batch)).p90
            yield _Case(one.key, batch, "measure", known, max((1.0 if known is None else known) - left, 0.0), 0.0)


def _absent(workload: Workload, group: GroupModel) -> Iterable[_Case]:
    """Every batch of choices and numbers of threads that the workload profiles and that have no series here."""
    stage = workload.pipeline.stages[group.key.stage]
    known = group.errors("borrowed").p90
    cores = workload.devices()[group.key.device].cores
    for choice, chosen in stage.choices().items():
        if stage.variants[chosen.variant].runtime == "skip":
            continue
        for threads in sorted(set(workload.profile.threads)):
            key = SeriesKey(group.key.stage, choice, group.key.device, group.key.provider, threads)
            seen = any(other.choice == choice for other in group.series)
            if key in group.series or threads > cores:
                continue
            error = known if seen else None
            for batch in sorted(set(workload.profile.batch_sizes)):
                yield _Case(key, batch, "measure", error, 1.0 if error is None else error, 0.0)


def _kind(one: SeriesModel, batch: int) -> Kind:
    batches = [item.batch for item in one.observations]
    if len(batches) < 2:
        return "borrowed"
    return "lower" if batch < batches[0] else "upper" if batch > batches[-1] else "interior"


def _within(one: SeriesModel, batch: int, limit_s: float) -> bool:
    """Whether a batch may be as fast as some promise asks; beyond the range, the largest one asked for decides."""
    try:
        return one.estimate(min(batch, one.range[1])).mean_s <= limit_s
    except RangeError:
        return True


def _beaten(workload: Workload, profile: Profile, group: GroupModel) -> set[str]:
    """Choices that another beats in accuracy, beyond both intervals, and in time wherever both were measured."""
    metric = workload.pipeline.stages[group.key.stage].metric
    if metric is None:
        return set()
    sign = 1.0 if metric.direction == "maximize" else -1.0
    accuracies = {
        row.choice: tuple(sorted((sign * row.lower, sign * row.upper)))
        for row in profile.accuracy
        if _tells(row, group.key.stage, metric.name) and row.lower is not None and row.upper is not None
    }
    times = {
        choice: {(o.key.threads, o.batch): o.mean_s for o in group.observations if o.current and o.key.choice == choice}
        for choice in {key.choice for key in group.series}
    }
    return {
        mine
        for mine in times
        for other in times
        if mine in accuracies
        and other in accuracies
        and accuracies[other][0] > accuracies[mine][1]
        and (shared := times[mine].keys() & times[other].keys())
        and all(times[other][cell] < times[mine][cell] for cell in shared)
    }


def _tells(row: AccuracyRow, stage: str, metric: str) -> bool:
    return (row.scope, row.stage, row.metric, row.status) == ("stage", stage, metric, "ok")


def _need(
    key: GroupKey, threads: int, batch: int, deed: Deed, cases: list[_Case], workload: Workload, target: str
) -> Need:
    errors = [case.error for case in cases]
    worst = None if None in errors else max(error for error in errors if error is not None)
    command = (
        f"inferplan profile {target} --exhaustive --set 'profile.batch_sizes=[{batch}]'"
        f" --set 'profile.threads=[{threads}]'"
    )
    if deed == "measure longer":
        # A point is due again once more confidence is asked for than it has.
        asked = 1 - (1 - workload.profile.confidence) / 2
        longest_s = max(case.seconds for case in cases)
        command += f" --confidence {asked:g} --set profile.min_time_s={longest_s:.3g}"
        if longest_s > workload.profile.max_time_s:
            command += f" --set profile.max_time_s={longest_s:.3g}"
    choices = tuple(sorted({case.key.choice for case in cases}))
    gain = math.fsum(case.gain for case in cases)
    return Need(key.stage, key.device, key.provider, threads, batch, deed, choices, worst, gain, command)
