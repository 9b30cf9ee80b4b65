"""A profile sorted for people: per stage and place the choices, with the rows that count for each.

A place is a device of the workload with an execution provider. For each choice the rows of its newest state count
(machine, runtime version, code, model); imported rows count where nothing was measured. What does not count is
named in `notes`, never mixed in.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from inferplan.estimators.comparison import Comparison, compare
from inferplan.spec.errors import InputError
from inferplan.spec.freshness import IMPORTED, Freshness
from inferplan.spec.profile import Profile
from inferplan.spec.rows import AccuracyRow, InterferenceRow, Measurement, Quantiles
from inferplan.spec.stage import Choice, Metric
from inferplan.spec.workload import Workload

_LESS_IS_BETTER = {"cer", "wer", "mae", "mse", "rmse", "loss", "error"}
_PERCENTILES = ("p99", "p95", "p90", "p50")


@dataclass(frozen=True, slots=True)
class Lineage:
    """A choice beside the one it was made from. `time_ratio` is its mean service time over that of its parent, at
    `batch` and `threads`; its ends come from those of the two means' intervals, where those are known."""

    parent: str
    recipe: str
    accuracy: Comparison | None = None
    time_ratio: float | None = None
    time_lower: float | None = None
    time_upper: float | None = None
    batch: int = 0
    threads: int = 0


@dataclass(frozen=True, slots=True)
class ChoiceView:
    """A choice at a place. `points` are sorted by threads and batch."""

    choice: str
    skip: bool
    accuracy: AccuracyRow | None
    points: tuple[Measurement, ...]
    failed: tuple[Measurement, ...]
    lineage: Lineage | None = None
    dominated: bool = False

    @property
    def first(self) -> Measurement | None:
        """The point with the fewest threads and the smallest batch."""
        return self.points[0] if self.points else None

    @property
    def best(self) -> Measurement | None:
        """The point with the highest throughput."""
        known = [row for row in self.points if row.throughput_per_s is not None]
        return max(known, key=lambda row: row.throughput_per_s or 0.0) if known else None

    @property
    def memory_bytes(self) -> int | None:
        """Most memory over the points: of the GPU where that is known, else resident."""
        gpu = [row.peak_gpu_bytes for row in self.points if row.peak_gpu_bytes is not None]
        rss = [row.peak_rss_bytes for row in self.points if row.peak_rss_bytes is not None]
        return max(gpu or rss, default=None)

    @property
    def least_energy(self) -> Measurement | None:
        """The point with the least energy per call, where there are counters."""
        known = [row for row in self.points if row.energy_j is not None]
        return min(known, key=lambda row: row.energy_j or 0.0) if known else None


@dataclass(frozen=True, slots=True)
class Place:
    """The choices of a stage on one device with one provider; `device` is empty where nothing was measured."""

    stage: str
    metric: Metric | None
    device: str
    provider: str
    choices: tuple[ChoiceView, ...]


@dataclass(frozen=True, slots=True)
class ProfileView:
    """A profile, sorted."""

    workload: str
    places: tuple[Place, ...]
    combinations: tuple[AccuracyRow, ...]
    interference: tuple[InterferenceRow, ...]
    notes: tuple[str, ...]


def tail(found: Quantiles) -> tuple[str, float] | None:
    """The highest percentile up to p99 that is known, with its name; else the mean."""
    for name in _PERCENTILES:
        value: float | None = getattr(found, f"{name}_s")
        if value is not None:
            return name, value
    return None if found.mean_s is None else ("mean", found.mean_s)


def view(profile: Profile, workload: Workload | None = None, stage: str | None = None) -> ProfileView:
    """Sort a profile; the workload, where given, says order, parents, metrics, and what is stale.

    Raises InputError where `stage` is in neither.
    """
    return _Sorter(profile, workload).sorted(stage)


class _Sorter:
    def __init__(self, profile: Profile, workload: Workload | None) -> None:
        self._profile = profile
        self._workload = workload
        self._fresh = None if workload is None else Freshness(workload)
        self._left: Counter[str] = Counter()

    def sorted(self, wanted: str | None) -> ProfileView:
        stages = self._stages()
        if wanted is not None and wanted not in stages:
            raise InputError(f"there is no stage {wanted}; there are {', '.join(stages) or 'none'}")
        chosen = [name for name in stages if wanted in (None, name)]
        rows = self._usable_rows()
        places = tuple(place for name in chosen for place in self._places(name, rows))
        interference = [row for row in self._profile.interference if row.key.stage in chosen and self._counts(row)]
        missing = self._fresh.missing() if self._fresh is not None else []
        left = [f"{reason} ({count} row{'s' if count > 1 else ''})" for reason, count in sorted(self._left.items())]
        notes = [*left, *missing]
        return ProfileView(
            self._workload.name if self._workload is not None else "",
            places,
            tuple(row for row in self._profile.accuracy if row.scope == "pipeline") if wanted is None else (),
            tuple(interference),
            tuple(notes),
        )

    def _stages(self) -> list[str]:
        if self._workload is not None:
            return list(self._workload.pipeline.stages)
        measured = {row.key.stage for row in self._profile.measurements}
        return sorted(measured | {row.stage for row in self._profile.accuracy if row.scope == "stage"})

    def _counts(self, row: Measurement | InterferenceRow) -> bool:
        reason = self._fresh.stale(row) if self._fresh is not None else ""
        if reason:
            self._left[f"{row.key.stage}={row.choice}: {reason}"] += 1
        return not reason

    def _usable_rows(self) -> dict[tuple[str, str, str, str], list[Measurement]]:
        """Rows that count, by stage, choice, device, provider."""
        groups: dict[tuple[str, str, str, str], list[Measurement]] = defaultdict(list)
        for row in self._profile.measurements:
            if self._counts(row):
                groups[row.key.stage, row.choice, row.key.device, row.key.provider].append(row)
        return {group: self._newest_state(rows) for group, rows in groups.items()}

    def _newest_state(self, rows: list[Measurement]) -> list[Measurement]:
        """One row per threads and batch: of the newest state measured here; for thread counts of which nothing was
        measured, of the newest one imported."""
        own = self._of_newest([row for row in rows if row.origin != "imported"])
        threads = {row.key.threads for row in own if row.origin == "measured"}
        foreign = [row for row in rows if row.origin == "imported"]
        needed = [row for row in foreign if row.key.threads not in threads]
        if len(needed) < len(foreign):
            key = rows[0].key
            where = f"{key.stage}={rows[0].choice} on {key.device}"
            self._left[f"{where}: imported, but measured as well"] += len(foreign) - len(needed)
        shapes: dict[tuple[int, int], Measurement] = {}
        for row in (*self._of_newest(needed), *own):
            shapes[row.key.threads, row.key.batch] = row
        return [shapes[place] for place in sorted(shapes)]

    def _of_newest(self, rows: list[Measurement]) -> list[Measurement]:
        """Rows of the same state as the newest, oldest first, measured ones last."""
        ordered = sorted(rows, key=lambda row: (row.origin == "measured", row.measured_at, row.key.id()))
        for row in ordered:
            if _state(row) != _state(ordered[-1]):
                where = f"{row.key.stage}={row.choice} on {row.key.device}"
                self._left[f"{where}: of {_difference(row, ordered[-1])}"] += 1
        return [row for row in ordered if _state(row) == _state(ordered[-1])]

    def _places(self, stage: str, rows: dict[tuple[str, str, str, str], list[Measurement]]) -> list[Place]:
        metric = self._metric(stage)
        names = self._choices(stage)
        found = sorted({(device, provider) for name, _, device, provider in rows if name == stage}) or [("", "")]
        places = []
        for device, provider in found:
            of = {name: rows.get((stage, name, device, provider), []) for name in names}
            choices = [self._choice(stage, name, of[name], metric) for name in names]
            made = [self._with_lineage(stage, choice, choices, metric) for choice in choices]
            places.append(Place(stage, metric, device, provider, tuple(_dominance(made, metric))))
        return places

    def _choices(self, stage: str) -> list[str]:
        if self._workload is not None:
            return list(self._workload.pipeline.stages[stage].choices())
        measured = {row.choice for row in self._profile.measurements if row.key.stage == stage}
        return sorted(measured | {row.choice for row in self._profile.accuracy if row.stage == stage})

    def _metric(self, stage: str) -> Metric | None:
        if self._workload is not None:
            return self._workload.pipeline.stages[stage].metric
        names = sorted({row.metric for row in self._profile.accuracy if row.stage == stage and row.metric})
        direction: Literal["maximize", "minimize"] = "maximize"
        if names and names[0].lower() in _LESS_IS_BETTER:
            direction = "minimize"
        return Metric(name=names[0], direction=direction) if names else None

    def _choice(self, stage: str, name: str, rows: list[Measurement], metric: Metric | None) -> ChoiceView:
        accuracy = next(
            (
                row
                for row in self._profile.accuracy
                if (row.scope, row.stage, row.choice) == ("stage", stage, name)
                and (row.status != "ok" or (metric is not None and row.metric == metric.name))
            ),
            None,
        )
        skip = self._workload is not None and (
            self._workload.pipeline.stages[stage].variants[Choice.parse(name).variant].runtime == "skip"
        )
        good = tuple(row for row in rows if row.status == "ok")
        return ChoiceView(name, skip, accuracy, good, tuple(row for row in rows if row.status != "ok"))

    def _with_lineage(
        self, stage: str, choice: ChoiceView, others: Sequence[ChoiceView], metric: Metric | None
    ) -> ChoiceView:
        parent, recipe = self._parent(stage, choice)
        other = next((view for view in others if parent and view.choice == parent), None)
        if other is None:
            return replace(choice, lineage=Lineage(parent, recipe)) if parent else choice
        lineage = Lineage(parent, recipe, self._comparison(stage, choice, other, metric))
        return replace(choice, lineage=_timed(lineage, choice.points, other.points))

    def _parent(self, stage: str, choice: ChoiceView) -> tuple[str, str]:
        """Name of the parent's choice with the same modalities, and of the recipe; empty texts without one."""
        own = Choice.parse(choice.choice)
        if self._workload is not None:
            variant = self._workload.pipeline.stages[stage].variants[own.variant]
            parent = variant.parent or ""
            recipe = variant.recipe.name if variant.recipe is not None else ""
        else:
            text = next((row.lineage for row in (*choice.points, *choice.failed) if row.lineage), "{}")
            made = json.loads(text)
            parent = str(made.get("parent") or "")
            recipe = str((made.get("recipe") or {}).get("name", ""))
        return (Choice(parent, own.modalities).name, recipe) if parent else ("", "")

    def _comparison(
        self, stage: str, choice: ChoiceView, parent: ChoiceView, metric: Metric | None
    ) -> Comparison | None:
        if metric is None:
            return None
        try:
            return compare(self._profile, stage, choice.choice, parent.choice, metric)
        except InputError:
            return None


def _state(row: Measurement) -> tuple[str, ...]:
    key = row.key
    return (key.device_fingerprint, key.runtime_version, key.code_sha256, key.model_sha256, key.options, key.inputs)


def _difference(row: Measurement, newest: Measurement) -> str:
    names = (
        "another machine",
        "another runtime version",
        "other stage code",
        "another model file",
        "other options",
        "other inputs",
    )
    changed = [name for name, a, b in zip(names, _state(row), _state(newest), strict=True) if a != b]
    if row.key.device_fingerprint.startswith(IMPORTED):
        return f"another source ({row.source})"
    return " and ".join(changed)


def _timed(lineage: Lineage, own: Iterable[Measurement], parents: Iterable[Measurement]) -> Lineage:
    """With the ratio of mean service times at the smallest threads and batch that both were measured at."""
    there = {(row.key.threads, row.key.batch): row for row in parents}
    row = next((row for row in own if (row.key.threads, row.key.batch) in there), None)
    if row is None:
        return lineage
    mine, other = row.service, there[row.key.threads, row.key.batch].service
    if not mine.mean_s or not other.mean_s:
        return lineage
    ends = (mine.mean_lower_s, mine.mean_upper_s, other.mean_lower_s, other.mean_upper_s)
    lower = upper = None
    if all(ends):
        lower, upper = (ends[0] or 0.0) / (ends[3] or 1.0), (ends[1] or 0.0) / (ends[2] or 1.0)
    ratio = mine.mean_s / other.mean_s
    return Lineage(
        lineage.parent, lineage.recipe, lineage.accuracy, ratio, lower, upper, row.key.batch, row.key.threads
    )


def _dominance(choices: Sequence[ChoiceView], metric: Metric | None) -> list[ChoiceView]:
    """Mark choices that another beats: at least as accurate and as fast, one of them strictly."""
    sign = -1.0 if metric is not None and metric.direction == "minimize" else 1.0
    points = [_position(choice, sign) for choice in choices]
    found = []
    for choice, mine in zip(choices, points, strict=True):
        beaten = mine is not None and any(
            other is not None and other[0] >= mine[0] and other[1] <= mine[1] and other != mine for other in points
        )
        found.append(replace(choice, dominated=beaten))
    return found


def _position(choice: ChoiceView, sign: float) -> tuple[float, float] | None:
    """Accuracy (higher is better) and time of a choice; None where one is unknown."""
    value = choice.accuracy.value if choice.accuracy is not None else None
    first = choice.first
    time_s = 0.0 if choice.skip else None if first is None else (first.service.p50_s or first.service.mean_s)
    return None if value is None or time_s is None else (sign * value, time_s)
