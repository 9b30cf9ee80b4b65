"""What was measured of service times, as the models of latency see it: one observation per point.

A *series* is a choice with one number of threads on one device with one provider; its observations differ in batch.
Interpolated rows are predictions of the profiler and no observations: they are kept apart (`interpolated`). Imported
rows count where nothing was measured (`points`).
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from inferplan.estimators.points import Place, Points
from inferplan.estimators.service import SampleSource
from inferplan.spec.rows import Measurement

_T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Student's t of 1, 2, ... degrees of freedom: half-widths of 95 % intervals in standard errors."""
_Z_975 = 1.96
_SAME_SIZE = 1e-3
"""Sizes per call that differ by less are of one input shape."""


class SeriesKey(NamedTuple):
    """What a series is of. `device` is the measured one."""

    stage: str
    choice: str
    device: str
    provider: str
    threads: int

    @property
    def group(self) -> GroupKey:
        """The stage, device and provider it belongs to."""
        return GroupKey(self.stage, self.device, self.provider)

    @property
    def name(self) -> str:
        """`stage/choice`, as plans name it."""
        return f"{self.stage}/{self.choice}"


class GroupKey(NamedTuple):
    """Series of which one fit is chosen for all: those of a stage on a device with a provider."""

    stage: str
    device: str
    provider: str


@dataclass(frozen=True, slots=True)
class Observation:
    """A point whose mean service time is known.

    `error` is the relative standard error of the mean, 0 where the row has no interval; `size` the mean number of
    elements that a batch of it was fed, None where no row says; `current` is false for points that differ from the
    one that plans use only in the shape they were fed.
    """

    key: SeriesKey
    batch: int
    mean_s: float
    error: float = 0.0
    size: float | None = None
    row: Measurement | None = None
    current: bool = True

    @property
    def log_s(self) -> float:
        """Logarithm of the mean in seconds."""
        return math.log(self.mean_s)


def observe(points: Points, samples: SampleSource) -> tuple[Observation, ...]:
    """The observations of a profile's rows that count, sorted by series, batch and age; none of devices that the
    workload no longer has."""
    found: list[Observation] = []
    devices = {key.device for key in points.models}
    for place, rows in sorted(points.rows.items()):
        for row in rows if place[2] in devices else ():
            if row.origin != "interpolated" and row.service.mean_s is not None and row.service.mean_s > 0:
                found.append(_observation(place, row, samples))
    return tuple(_marked(found))


def interpolated(points: Points) -> dict[SeriesKey, tuple[Observation, ...]]:
    """What the profiler predicted instead of measuring, by series and batch; plans use it as if it were measured."""
    found: dict[SeriesKey, list[Observation]] = defaultdict(list)
    for place, rows in sorted(points.rows.items()):
        for row in sorted(rows, key=lambda row: (row.key.batch, row.measured_at, row.key.id())):
            if row.origin == "interpolated" and row.service.mean_s:
                item = _observation(place, row, lambda key: None)
                found[item.key].append(item)
    return {key: tuple({item.batch: item for item in items}.values()) for key, items in found.items()}


def _observation(place: Place, row: Measurement, samples: SampleSource) -> Observation:
    stage, choice, device, provider = place
    key = SeriesKey(stage, choice, device, provider, row.key.threads)
    return Observation(
        key, row.key.batch, float(row.service.mean_s or 0.0), standard_error(row), _size(row, samples), row
    )


def standard_error(row: Measurement) -> float:
    """Relative standard error of a row's mean, from its 95 % interval; 0 where there is none.

    The interval is Student's with one degree of freedom less than there are processes (docs/measurement.md).
    """
    found = row.service
    if not found.mean_s or found.mean_upper_s is None or found.mean_lower_s is None:
        return 0.0
    freedom = max(row.processes - 1, 0)
    quantile = _T_975[freedom - 1] if 1 <= freedom <= len(_T_975) else _Z_975
    # The lower end may be cut at 0, so that the upper half is the whole story.
    return (found.mean_upper_s - found.mean_s) / quantile / found.mean_s


def _size(row: Measurement, samples: SampleSource) -> float | None:
    """Mean elements per batch: of what was fed where samples are kept, else of the shape that was declared."""
    kept = samples(row.key)
    if kept is not None and len(kept.elements) and kept.elements.min() > 0:
        return float(kept.elements.mean())
    try:
        shapes = json.loads(row.key.input_shape or "{}")
        sizes = [math.prod(shape) for shape in shapes.values()]
    except (TypeError, ValueError, AttributeError):  # a size that was drawn is no number
        return None
    total = sum(sizes)
    return float(total) if total > 0 else None


def _marked(found: Iterable[Observation]) -> list[Observation]:
    """Sorted; of one batch of a series the newest row is current, measured ones before imported ones."""
    groups: dict[tuple[SeriesKey, int], list[Observation]] = defaultdict(list)
    for item in found:
        groups[item.key, item.batch].append(item)
    marked: list[Observation] = []
    for place in sorted(groups):
        rows = sorted(groups[place], key=_standing)
        marked += [Observation(o.key, o.batch, o.mean_s, o.error, o.size, o.row, o is rows[-1]) for o in rows]
    return marked


def _standing(item: Observation) -> tuple[bool, str, str]:
    row = item.row
    return (False, "", "") if row is None else (row.origin == "measured", row.measured_at, row.key.id())


def by_series(observations: Iterable[Observation]) -> dict[SeriesKey, list[Observation]]:
    """Current observations of every series, by batch."""
    groups: dict[SeriesKey, list[Observation]] = defaultdict(list)
    for item in observations:
        if item.current:
            groups[item.key].append(item)
    return {key: sorted(groups[key], key=lambda item: item.batch) for key in sorted(groups)}


def by_group(observations: Iterable[Observation]) -> dict[GroupKey, list[Observation]]:
    """All observations of every group."""
    groups: dict[GroupKey, list[Observation]] = defaultdict(list)
    for item in observations:
        groups[item.key.group].append(item)
    return {key: groups[key] for key in sorted(groups)}


def size_matters(observations: Sequence[Observation]) -> bool:
    """Whether every size is known, and some choice was fed inputs of several sizes per call: then size says
    something that the batch does not."""
    per_call: Mapping[str, list[float]] = defaultdict(list)
    for item in observations:
        if item.size is None:
            return False
        per_call[item.key.choice].append(item.size / item.batch)
    return any(max(sizes) > min(sizes) * (1 + _SAME_SIZE) for sizes in per_call.values())
