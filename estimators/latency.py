"""Models of service time with known error: per choice, device, provider and number of threads, over the batch.

A measured point is what was measured. What was not is predicted by the affine fit of its series (`fits`) or by one that
borrows from the other series of the place (`kriging`), over the batch or over the number of elements a batch is fed
(where inputs of several sizes were fed). Which, is chosen per stage, device and provider by leave-one-out error
(`leave_one_out`); none has constants of its own. Predictions never leave the neighbours' times.

Errors are told apart by where the point stood that was left out: *interior* between others of its series, *lower* and
*upper* at its ends, where predicting it is extrapolation, *borrowed* where fewer than two of its series were left.

**Range.** A batch below the smallest measured one is padded up to it. Beyond the largest, a series is extrapolated as
far as leaving out the largest points has tried (as a factor of the batch; with batches in powers of two: one
doubling), if nine in ten of those errors are known to be within the tolerance of the profile; never further.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np

from inferplan.estimators.fits import LEAST_POINTS, affine, fitted_log_s, held_between
from inferplan.estimators.kriging import Field, Spot
from inferplan.estimators.leave_one_out import Errors, bound, choose, choose_without, noise, spread_folds
from inferplan.estimators.observations import (
    GroupKey,
    Observation,
    SeriesKey,
    by_group,
    by_series,
    size_matters,
)
from inferplan.estimators.spread import STATISTICS, SpreadModel, spread_model

Kind = Literal["interior", "lower", "upper", "borrowed"]
Basis = Literal["measured", "interpolated", "padded", "fitted", "borrowed", "extrapolated"]
KINDS: tuple[Kind, ...] = ("interior", "lower", "upper", "borrowed")
AFFINE = "affine"
POOLED = "pooled"


class Candidate(NamedTuple):
    """A fit, `affine` or `pooled`, over the batch or over the size of what a batch is fed."""

    fit: str
    by_size: bool = False

    @property
    def name(self) -> str:
        """`affine`, or `affine by size`."""
        return f"{self.fit} by size" if self.by_size else self.fit


class RangeError(ValueError):
    """A batch beyond what a series may be asked for."""


@dataclass(frozen=True, slots=True)
class Test:
    """A point that was left out. `errors` are logarithms of predicted over measured mean, per candidate; `chosen` is
    the fit of its group, `blind` the one that the points of other folds choose."""

    observation: Observation
    kind: Kind
    errors: Mapping[Candidate, float]
    chosen: Candidate
    blind: Candidate

    @property
    def error(self) -> float:
        """The error of the model."""
        return self.errors[self.chosen]


@dataclass(frozen=True, slots=True)
class LatencyEstimate:
    """Service time of a batch. `lower_s` and `upper_s` hold the mean: the row's 95 % interval where it was measured or
    interpolated by the profiler, nine in ten of the errors of such predictions elsewhere; null where that is unknown.
    Spread and percentiles are null where nothing is known."""

    batch: int
    mean_s: float
    lower_s: float | None
    upper_s: float | None
    basis: Basis
    std_s: float | None = None
    p90_s: float | None = None
    p99_s: float | None = None


@dataclass(frozen=True)
class GroupModel:
    """The models of a stage on a device with a provider. `candidates` were tried, in the order of `fit`."""

    key: GroupKey
    fit: Candidate
    candidates: tuple[Candidate, ...]
    observations: tuple[Observation, ...]
    tests: tuple[Test, ...]
    spreads: Mapping[str, SpreadModel]
    tolerance: float
    guesses: Mapping[SeriesKey, tuple[Observation, ...]] = field(repr=False)
    """What the profiler interpolated."""
    _fields: Mapping[bool, Field] = field(repr=False)

    @cached_property
    def series(self) -> dict[SeriesKey, SeriesModel]:
        """The models of its series."""
        measured = by_series(self.observations)
        return {key: SeriesModel(key, self, tuple(items), self._guesses(key, items)) for key, items in measured.items()}

    def _guesses(self, key: SeriesKey, items: Sequence[Observation]) -> tuple[Observation, ...]:
        known = {item.batch for item in items}
        return tuple(item for item in self.guesses.get(key, ()) if item.batch not in known)

    def logs(self, *kinds: Kind, series: SeriesKey | None = None) -> list[float]:
        """Errors of points left out, of some kinds (all: none given), of one series."""
        return [
            test.error
            for test in self.tests
            if (not kinds or test.kind in kinds) and series in (None, test.observation.key)
        ]

    def errors(self, *kinds: Kind, series: SeriesKey | None = None) -> Errors:
        """Size of the errors of points left out."""
        return Errors.of(self.logs(*kinds, series=series))

    def blind_errors(self) -> Errors:
        """Errors of points left out where the fit, too, is chosen without them."""
        return Errors.of([test.errors[test.blind] for test in self.tests if test.kind != "borrowed"])

    def noise(self) -> Errors:
        """What would be seen of a perfect model, for the noise of the means left out."""
        return noise([test.observation.error for test in self.tests if test.kind != "borrowed"])

    @cached_property
    def reach(self) -> float:
        """How many times the largest measured batch may be asked for: 1 where nothing is extrapolated."""
        upper = [test for test in self.tests if test.kind == "upper"]
        most = bound([test.error for test in upper])
        if most is None or math.expm1(most) > self.tolerance:
            return 1.0
        return min(test.observation.batch / _next_batch(test, self.observations) for test in upper)

    def predicted_log_s(self, series: SeriesModel, batch: int) -> float:
        """Logarithm of the mean (s) of a batch that was not measured, by the fit chosen."""
        fit = self.fit if len(series.observations) >= LEAST_POINTS else self.pooled
        if fit is None:
            raise RangeError(f"{series.key.name}: one batch size was measured, and nothing to borrow from")
        size = self.size(series.key, batch) if fit.by_size else float(batch)
        own = series.observations
        xs = [_x(item, fit.by_size) for item in own]
        times = [item.mean_s for item in own]
        if fit.fit == POOLED:
            spot = Spot(series.key, batch, math.log(size))
            found: float | None = float(self._fields[fit.by_size].log_s([spot])[0])
        else:
            found = fitted_log_s(affine, xs, times, size)
        assert found is not None
        return held_between(found, [item.batch for item in own], times, batch)

    @property
    def pooled(self) -> Candidate | None:
        """The borrowing candidate for series that are too short for a fit of their own."""
        pooled = [candidate for candidate in self.candidates if candidate.fit == POOLED]
        return self.fit if self.fit in pooled else pooled[-1] if pooled else None

    def size(self, key: SeriesKey, batch: float) -> float:
        """Elements that a batch of a choice is fed: straight in the logarithms of batch and elements per call between
        measured batches, as many per call as the nearest one beyond."""
        per_call: dict[int, list[float]] = {}
        for item in self.observations:
            if item.key.choice == key.choice and item.current and item.size is not None:
                per_call.setdefault(item.batch, []).append(math.log(item.size / item.batch))
        known = sorted(per_call)
        means = [math.fsum(per_call[b]) / len(per_call[b]) for b in known]
        return batch * math.exp(float(np.interp(math.log(batch), np.log(known), means)))


@dataclass(frozen=True)
class SeriesModel:
    """Service time of one series over the batch. `observations` are its measured points, by batch; `guesses` those
    that the profiler interpolated."""

    key: SeriesKey
    group: GroupModel
    observations: tuple[Observation, ...]
    guesses: tuple[Observation, ...] = ()

    @property
    def range(self) -> tuple[int, int]:
        """Batches it may be asked for: the smallest is 1, since batches can be padded."""
        reached = int(self.observations[-1].batch * self.group.reach + 1e-9)
        return 1, max([reached, *(item.batch for item in self.guesses)])

    def estimate(self, batch: int) -> LatencyEstimate:
        """Service time of a batch. Raises RangeError beyond the range, or where nothing tells how time grows."""
        if not 1 <= batch <= self.range[1]:
            raise RangeError(
                f"{self.key.name} on {self.key.device}, {self.key.threads} threads: no time for a batch of {batch};"
                f" measured up to {self.observations[-1].batch}, predicted up to {self.range[1]}"
            )
        for item in self.observations:
            if item.batch == batch:
                return self._of_row(item, batch, "measured")
        for item in self.guesses:
            if item.batch == batch:
                return self._of_row(item, batch, "interpolated")
        smallest = min((*self.observations, *self.guesses), key=lambda item: item.batch)
        return self._of_row(smallest, batch, "padded") if batch < smallest.batch else self._predicted(batch)

    def _of_row(self, item: Observation, batch: int, basis: Basis) -> LatencyEstimate:
        row = item.row
        lower, upper = (None, None) if row is None else (row.service.mean_lower_s, row.service.mean_upper_s)
        return self._with_spread(LatencyEstimate(batch, item.mean_s, lower, upper, basis), item.batch)

    def _predicted(self, batch: int) -> LatencyEstimate:
        mean_s = math.exp(self.group.predicted_log_s(self, batch))
        batches = [item.batch for item in self.observations]
        kind: Kind = "interior" if batches[0] < batch < batches[-1] else "upper"
        basis: Basis = "fitted" if kind == "interior" else "extrapolated"
        if len(self.observations) < LEAST_POINTS:
            kind = basis = "borrowed"
        most = bound(self.group.logs(kind))
        lower_s, upper_s = (None, None) if most is None else (mean_s * math.exp(-most), mean_s * math.exp(most))
        return self._with_spread(LatencyEstimate(batch, mean_s, lower_s, upper_s, basis), batch)

    def _with_spread(self, found: LatencyEstimate, batch: int) -> LatencyEstimate:
        ratios = {name: model.ratio(self.key, batch) for name, model in self.group.spreads.items()}
        values = {f"{name}_s": None if value is None else value * found.mean_s for name, value in ratios.items()}
        return LatencyEstimate(found.batch, found.mean_s, found.lower_s, found.upper_s, found.basis, **values)

    def errors(self) -> Errors:
        """Errors of its points, each left out."""
        return self.group.errors(series=self.key)


def latency_models(
    observations: Sequence[Observation],
    tolerance: float,
    guesses: Mapping[SeriesKey, tuple[Observation, ...]] | None = None,
) -> dict[GroupKey, GroupModel]:
    """The models of everything that was observed. `tolerance`: largest relative error, nine times in ten, with which
    a series is extrapolated; `guesses`: what the profiler interpolated. The order of observations changes nothing."""
    ordered = sorted(observations, key=_order)
    models: dict[GroupKey, GroupModel] = {}
    for place in sorted({item.key[2:4] for item in ordered}):
        here = [item for item in ordered if item.key[2:4] == place]
        sized = {key for key, items in by_group(here).items() if size_matters(items)}
        borrowing = _Borrowing(here, sized)
        for key, items in by_group(here).items():
            models[key] = _group_model(key, items, borrowing, key in sized, tolerance, guesses or {})
    return models


def _order(item: Observation) -> tuple[SeriesKey, int, float, float]:
    return item.key, item.batch, item.mean_s, item.size or 0.0


class _Borrowing:
    """The fields of a place, over the batch and, where some stage's inputs differ, over sizes."""

    def __init__(self, observations: Sequence[Observation], sized: Iterable[GroupKey]) -> None:
        current = [item for item in observations if item.current]
        self.fields: dict[bool, Field] = {}
        self._logs: dict[tuple[bool, int], float] = {}
        series = by_series(current)
        if max(map(len, series.values()), default=0) < LEAST_POINTS:
            return
        wanted = set(sized)
        kept = {False: current}
        if wanted:
            kept[True] = [item if item.key.group in wanted else _without_size(item) for item in observations]
        for by_size, items in kept.items():
            self.fields[by_size] = field_ = Field(items, by_size)
            self._logs |= {
                (by_size, _identity(item)): float(log) for item, log in zip(items, field_.held_out_logs(), strict=True)
            }

    def log_s(self, item: Observation, by_size: bool) -> float | None:
        """What is predicted of an observation without it."""
        return self._logs.get((by_size, _identity(item)))


def _identity(item: Observation) -> int:
    return hash((item.key, item.batch, item.mean_s, item.row.key.id() if item.row is not None else ""))


def _without_size(item: Observation) -> Observation:
    return Observation(item.key, item.batch, item.mean_s, item.error, None, item.row, item.current)


def _group_model(
    key: GroupKey,
    items: list[Observation],
    borrowing: _Borrowing,
    sized: bool,
    tolerance: float,
    guesses: Mapping[SeriesKey, tuple[Observation, ...]],
) -> GroupModel:
    scales = (False, True) if sized else (False,)
    candidates = [Candidate(AFFINE, by_size) for by_size in scales]
    candidates += [Candidate(POOLED, by_size) for by_size in scales if by_size in borrowing.fields]
    found = [
        (item, kind, _predictions(item, items, candidates, borrowing))
        for own in by_series(items).values()
        for item in own
        if (kind := _kind(item, own, items)) is not None
    ]
    full = [entry for entry in found if len(entry[2]) == len(candidates)]
    costs = np.array([[abs(errors[c]) for c in candidates] for _, _, errors in full]).reshape(-1, len(candidates))
    blind = iter(choose_without(costs, spread_folds([item.key for item, _, _ in full])))
    fit = candidates[choose(costs)]
    pooled = [c for c in candidates if c.fit == POOLED]
    tests = []
    for item, kind, errors in found:
        by = fit if fit in errors else pooled[-1]
        without = candidates[next(blind)] if len(errors) == len(candidates) else by
        tests.append(Test(item, kind, errors, by, without))
    spreads = {statistic: spread_model(items, statistic) for statistic in STATISTICS}
    return GroupModel(
        key, fit, tuple(candidates), tuple(items), tuple(tests), spreads, tolerance, guesses, borrowing.fields
    )


def _kind(item: Observation, own: Sequence[Observation], items: Sequence[Observation]) -> Kind | None:
    """Where a point stands among those of its series; None where its choice has no other point, so that nothing
    could predict it."""
    batches = [other.batch for other in own if other is not item]
    if len(batches) >= LEAST_POINTS:
        return "lower" if item.batch < batches[0] else "upper" if item.batch > batches[-1] else "interior"
    same = any(other is not item and other.current and other.key.choice == item.key.choice for other in items)
    return "borrowed" if same else None


def _predictions(
    item: Observation, items: Sequence[Observation], candidates: Sequence[Candidate], borrowing: _Borrowing
) -> dict[Candidate, float]:
    """Errors of every candidate that can predict a point without it."""
    errors: dict[Candidate, float] = {}
    for candidate in candidates:
        own = [o for o in items if o.key == item.key and o is not item and (o.current or candidate.by_size)]
        xs, times = [_x(o, candidate.by_size) for o in own], [o.mean_s for o in own]
        at = _x(item, candidate.by_size)
        if candidate.fit == POOLED:
            log_s = borrowing.log_s(item, candidate.by_size)
        else:
            log_s = fitted_log_s(affine, xs, times, at)
        if log_s is not None:
            errors[candidate] = held_between(log_s, xs, times, at) - item.log_s
    return errors


def _x(item: Observation, by_size: bool) -> float:
    return item.size if by_size and item.size is not None else float(item.batch)


def _next_batch(test: Test, observations: Sequence[Observation]) -> int:
    """The largest other batch of a point's series."""
    item = test.observation
    return max(o.batch for o in observations if o.key == item.key and o.current and o.batch < item.batch)
