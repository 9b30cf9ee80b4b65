"""What is wrong with a profile, or missing from it, as far as models of service time go: what, where, what to do."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from inferplan.estimators.latency import GroupModel, SeriesModel
from inferplan.estimators.leave_one_out import bound
from inferplan.estimators.observations import GroupKey
from inferplan.estimators.points import Points, where
from inferplan.spec.profile import Profile
from inferplan.spec.rows import Measurement
from inferplan.spec.workload import Workload

Trouble = Literal["contradiction", "stale", "missing", "failed", "too few", "censored", "damaged"]
AGAIN = "run `inferplan profile` again"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that makes a model worse than it could be. `stage` is empty where it is of the whole profile."""

    trouble: Trouble
    stage: str
    where: str
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.trouble}: {self.where}: {self.what}; {self.remedy}"


def findings(
    workload: Workload, profile: Profile, points: Points, models: Mapping[GroupKey, GroupModel], target: str = "W"
) -> list[Finding]:
    """Everything found, the gravest first. `target` is how commands name the workload and its profile."""
    series = [one for group in models.values() for one in group.series.values()]
    return [
        *_rival_rows(profile, models, target),
        *(found for one in series for found in _falling(one, target)),
        *_disordered(points),
        *_stale(workload, points),
        *_missing(workload, points),
        *(_told("failed", text, "mend it, and run `inferplan profile --retry-failed`") for text in points.failed),
        *(found for one in series for found in _few(one, target)),
        *_censored(points),
        *(_told("damaged", text, f"{AGAIN}: its points are measured anew") for text in profile.damaged),
    ]


def _told(trouble: Trouble, text: str, remedy: str, suffix: str = "") -> Finding:
    """A finding from a line `STAGE/CHOICE ...: WHAT`, or `FILE: WHAT`."""
    place, _, what = text.partition(": ")
    stage = place.split("/")[0] if trouble != "damaged" else ""
    return Finding(trouble, stage, place, what + suffix, remedy)


def _falling(one: SeriesModel, target: str) -> Iterable[Finding]:
    """A larger batch that is faster than the one before it, by more than both intervals."""
    for small, large in itertools.pairwise(one.observations):
        if small.row is None or large.row is None:
            continue
        least = small.row.service.mean_lower_s
        most = large.row.service.mean_upper_s
        if least is not None and most is not None and most < least:
            yield Finding(
                "contradiction", one.key.stage, _place(one),
                f"batch {large.batch} ({_ms(large.mean_s)}) is faster than batch {small.batch} ({_ms(small.mean_s)}),"
                " by more than their intervals",
                f"measure both again: {remeasure(target, [small.batch, large.batch], one.key.threads)}",
            )  # fmt: skip


def _rival_rows(profile: Profile, models: Mapping[GroupKey, GroupModel], target: str) -> Iterable[Finding]:
    """Rows of one point, of one model and shape, of which the intervals do not meet and which are further apart than
    the error of models of that stage explains. Rows of different machines may differ."""
    groups: dict[tuple[object, ...], list[Measurement]] = defaultdict(list)
    for row in profile.measurements:
        key = row.key
        if row.status == "ok" and row.origin != "interpolated" and row.service.mean_s and key.runtime != "skip":
            groups[
                key.stage, row.choice, key.device, key.provider, key.batch, key.threads, key.model_sha256, key.options
            ].append(row)
    for rows in groups.values():
        ordered = sorted(rows, key=lambda row: (row.measured_at, row.key.id()))
        for one, other in itertools.combinations(ordered, 2):
            if _comparable(one, other) and _differ(one, other, models):
                yield Finding(
                    "contradiction", one.key.stage, where(one),
                    f"{_origin(one)} says {_ms(one.service.mean_s)}, {_origin(other)} {_ms(other.service.mean_s)}",
                    "keep one: measured rows count before imported ones, the newest before older ones; drop the other"
                    " with `inferplan profile compact --drop-stale`, or measure again: "
                    + remeasure(target, [one.key.batch], one.key.threads),
                )  # fmt: skip


def _comparable(one: Measurement, other: Measurement) -> bool:
    """Whether two rows should agree: of one machine, or one of them of a machine nobody here looked at, and fed the
    same as far as both say."""
    foreign = "imported" in (one.origin, other.origin)
    shapes = {(row.key.input_shape, row.key.inputs) for row in (one, other) if row.key.input_shape not in ("{}", "")}
    return (foreign or one.key.device_fingerprint == other.key.device_fingerprint) and len(shapes) < 2


def _differ(one: Measurement, other: Measurement, models: Mapping[GroupKey, GroupModel]) -> bool:
    (low, high), (least, most) = _interval(one), _interval(other)
    apart = abs(math.log((one.service.mean_s or 1.0) / (other.service.mean_s or 1.0)))
    group = models.get(GroupKey(one.key.stage, one.key.device, one.key.provider))
    explained = bound(group.logs()) if group is not None else None
    return (high < least or most < low) and apart > (explained or 0.0)


def _interval(row: Measurement) -> tuple[float, float]:
    found, mean_s = row.service, row.service.mean_s or 0.0
    return found.mean_lower_s or mean_s, found.mean_upper_s or mean_s


def _origin(row: Measurement) -> str:
    when = f" of {row.measured_at[:10]}" if row.measured_at else ""
    return f"{row.source}{when}" if row.origin == "imported" and row.source else f"the row measured{when}"


def _disordered(points: Points) -> Iterable[Finding]:
    """Percentiles that fall, which no measurement gives."""
    for row in _rows(points):
        known = [(name, getattr(row.service, f"{name}_s")) for name in ("p50", "p90", "p95", "p99", "p999")]
        told = [(name, value) for name, value in known if value is not None]
        for (low, one), (high, other) in itertools.pairwise(told):
            if other < one:
                yield Finding(
                    "contradiction", row.key.stage, where(row), f"{high} ({_ms(other)}) is below {low} ({_ms(one)})",
                    f"look at where it comes from ({row.source or row.origin}), and measure it here",
                )  # fmt: skip


def _stale(workload: Workload, points: Points) -> Iterable[Finding]:
    devices = workload.devices()
    for place, rows in sorted(points.rows.items()):
        if place[2] not in devices:
            yield Finding(
                "stale", place[0], f"{place[0]}/{place[1]} on {place[2]}",
                f"{len(rows)} rows of a device that the workload does not have: not used",
                "drop them with `inferplan profile compact --drop-stale`",
            )  # fmt: skip
    for text in (*points.stale, *points.superseded):
        yield _told("stale", text, f"{AGAIN}, or drop them with `inferplan profile compact --drop-stale`", ": not used")
    for _, text in sorted(points.aged.items()):
        yield _told("stale", text, AGAIN, ": used all the same")


def _missing(workload: Workload, points: Points) -> Iterable[Finding]:
    """Choices without any point that counts; of a variant some of whose subsets have one, the subsets are named."""
    measured = {(stage, choice) for stage, choice, _, _ in points.rows}
    for name, stage in workload.pipeline.stages.items():
        for choice, chosen in stage.choices().items():
            if stage.variants[chosen.variant].runtime == "skip" or (name, choice) in measured:
                continue
            siblings = [other for other in stage.choices().values() if other.variant == chosen.variant]
            some = any((name, other.name) in measured for other in siblings)
            what = "this subset of its modalities was not measured" if some else "no point that counts"
            yield Finding("missing", name, f"{name}/{choice}", what, "run `inferplan profile`")


def _few(one: SeriesModel, target: str) -> Iterable[Finding]:
    count = len(one.observations)
    if count > 2:
        return
    batches = ", ".join(str(item.batch) for item in one.observations)
    what = (
        f"one batch size ({batches}): how its time grows is unknown, and so is the error"
        if count == 1
        else f"two batch sizes ({batches}): what lies between them has no error of its own"
    )
    if count == 1 and one.errors().n:
        what = f"one batch size ({batches}): others are borrowed from its stage"
    remedy = f"measure more: inferplan profile {target} --exhaustive --set 'profile.batch_sizes={_suggested(one)}'"
    yield Finding("too few", one.key.stage, _place(one), what, remedy)


def _suggested(one: SeriesModel) -> str:
    """Batch sizes that would do: those there are, and three more in powers of two."""
    known = {item.batch for item in one.observations}
    more = [2**power for power in range(11) if 2**power not in known][: 4 - len(known)]
    return str(sorted({*known, *more})).replace(" ", "")


def _censored(points: Points) -> Iterable[Finding]:
    for row in _rows(points):
        if row.censored:
            yield Finding(
                "censored", row.key.stage, where(row),
                f"its throughput ({row.throughput_per_s or 0:.4g}/s) is the load that was offered: its time counts, its"
                " throughput says nothing of capacity",
                "measure it in a closed loop with `inferplan profile`",
            )  # fmt: skip


def _rows(points: Points) -> list[Measurement]:
    return [row for _, rows in sorted(points.rows.items()) for row in rows]


def _place(one: SeriesModel) -> str:
    return f"{one.key.name} on {one.key.device}, {one.key.threads} threads"


def remeasure(target: str, batches: Sequence[int], threads: int) -> str:
    """The command that measures points once more: more confidence than they have makes them due again."""
    sizes = ",".join(str(batch) for batch in sorted(set(batches)))
    return (
        f"inferplan profile {target} --exhaustive --confidence 0.999 --set 'profile.batch_sizes=[{sizes}]'"
        f" --set 'profile.threads=[{threads}]'"
    )


def _ms(value_s: float | None) -> str:
    return "-" if value_s is None else f"{value_s * 1e3:.4g} ms"
