"""Predicting a point from a glance at it and from measured points, and how wrong that has been in this profile.

A *series* is a choice on one provider and device with its options; its *cells* are batch sizes by thread counts.
A *glance* (`profilers.glances`) is a handful of calls in one process: too little for any percentile, and a mean
that is off by what one process differs from the next. With g the logarithm of a glance's time and y that of the
measured mean, d = y - g is known where a cell was measured. Elsewhere y is predicted as g + d', where d' is

    m = (sum of w d) / (1 + sum of w)                        over the measured cells of the other series, and
    d' = (m + trust * sum of v (d - m)) / (1 + trust * sum of v) + ...  that is, m drawn towards the series' own d

with weights w that fall with the difference of service times and are greater within a stage, and v = 1 for the
series' cells of the same thread count (they share the glance's process), 1/2 for its others. How much a series'
own differences are trusted is whichever of three weights has predicted best so far.

How wrong: every measured cell is predicted as if it had not been measured, from no more cells of its own series
than the series in question has. What its measured mean is in doubt itself, by how its processes differ, is no error of
the prediction. The errors of predictions that were at least as hard (`Hardness`), of service
times within a factor of ten, say how large the error in question may be. Fewer than four of them, or of fewer
than three series, say nothing.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

LEAST_CASES = 4
LEAST_SERIES = 3
SHORTER, LONGER = math.log(10.0), math.log(30.0)
"""Service times down to a tenth and up to thirty times as long tell how wrong a prediction may be: a glance at
longer ones has fewer calls, so that it is harder to predict from."""
_WIDTH = math.log(4.0)
_SAME_STAGE = 4.0
"""How much more a series of the same stage counts."""
_TRUSTS = (0.0, 0.5, 2.0)
_NEGLIGIBLE = 0.05
_MANY = 19
"""Cases from which on a bound at 0.95 is one of them."""
_EPSILON = 1e-9


class Cell(NamedTuple):
    """A place in a series' grid."""

    batch: int
    threads: int


@dataclass(frozen=True)
class Series:
    """A choice with what was seen of it: mean service times (s) of `measured` cells, and of `glances`.

    `pool` names the series it may learn from: those of its provider.
    """

    name: str
    stage: str
    pool: str
    base_threads: int
    measured: Mapping[Cell, float]
    glances: Mapping[Cell, float]
    doubts: Mapping[Cell, float] = field(default_factory=dict)
    """Relative standard errors of the measured means, where they are known."""

    def differences(self) -> dict[Cell, float]:
        """Logarithms of measured means less those of glances, where there are both."""
        return {c: math.log(s / self.glances[c]) for c, s in self.measured.items() if c in self.glances}


@dataclass(frozen=True, slots=True)
class Hardness:
    """What makes a prediction hard: how many measured cells of its own row it has (at most 2 count), and how far
    (powers of two) its batch is from the smallest one."""

    threads: int
    anchors: int
    far: float

    def covers(self, other: Hardness) -> bool:
        """Whether a prediction under this hardness is at least as hard as one under the other."""
        return self.threads == other.threads and self.anchors <= other.anchors and self.far >= other.far - _EPSILON


@dataclass(frozen=True, slots=True)
class Case:
    """An error made: the logarithm of a measured mean less that of its prediction, as far as it is beyond that mean's
    own doubt. `log` is the cell's glance."""

    error: float
    hardness: Hardness
    series: str
    stage: str
    log: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """A cell's mean service time with its empirical error: relative, `error_90` nine times in ten at most,
    `error_95` nineteen in twenty; infinite where too few cases say so."""

    cell: Cell
    mean_s: float
    error_90: float
    error_95: float
    hardness: Hardness
    basis: tuple[tuple[str, Cell], ...]
    """The measured cells it rests on, as series name and cell."""
    cases: int = 0

    @property
    def lower_s(self) -> float:
        """Lower end of the mean's 95 % interval."""
        return self.mean_s / (1 + self.error_95)

    @property
    def upper_s(self) -> float:
        """Upper end of the mean's 95 % interval."""
        return self.mean_s * (1 + self.error_95)


class Interpolator:
    """Predictions for the series of one profile, from what was seen of all of them."""

    def __init__(self, series: Sequence[Series]) -> None:
        self._series = series
        self._differences = {one.name: one.differences() for one in series}
        self._spots = [
            _Spot(one, cell, math.log(one.glances[cell]), difference)
            for one in series
            for cell, difference in sorted(self._differences[one.name].items())
        ]
        self._pooled = {(spot.series.name, spot.cell): self._from_others(spot)[0] for spot in self._spots}
        self._cases: dict[tuple[str, frozenset[Cell]], list[Case]] = {}
        self._trust = 0.0
        self._trust = min(_TRUSTS, key=self._typical_error)

    def row(self, series: Series, cells: Iterable[Cell]) -> dict[Cell, Prediction]:
        """Predictions of those cells that were glanced at; rising with the batch."""
        wanted = sorted({cell for cell in cells if cell in series.glances})
        known = self._differences[series.name]
        guesses: dict[Cell, tuple[float, tuple[tuple[str, Cell], ...]]] = {}
        for cell in wanted:
            spot = _Spot(series, cell, math.log(series.glances[cell]), 0.0)
            pooled, basis = self._from_others(spot)
            own = tuple((series.name, other) for other in sorted(known))
            guesses[cell] = spot.log + self._drawn(pooled, known, cell), (*own, *basis)
        logs = {cell: log for cell, (log, _) in guesses.items()}
        rising = rising_logs(logs, {cell: math.log(mean) for cell, mean in series.measured.items()})
        return {cell: self._prediction(series, cell, rising[cell], guesses[cell][1]) for cell in wanted}

    def misleads(self, pool: str, tolerance: float) -> bool:
        """Whether glances of a pool have been off by more than the tolerance half the time, in eight or more cases
        without help from cells of the same series: nothing good enough can come of more of them."""
        errors = sorted(
            abs(self._case(spot, ()).error)
            for spot in self._spots
            if spot.series.pool == pool and self.hardness(spot.series, spot.cell, ()).far == 0
        )
        return len(errors) >= 2 * LEAST_CASES and math.expm1(errors[len(errors) // 2]) > tolerance

    def hardness(self, series: Series, cell: Cell, known: Collection[Cell]) -> Hardness:
        """How hard it is to predict a cell from `known` ones of its series."""
        anchors = sum(other.threads == cell.threads and other != cell for other in known)
        smallest = min(other.batch for other in (*series.glances, *series.measured))
        return Hardness(cell.threads, min(anchors, 2), math.log2(cell.batch / smallest))

    def cases(self, series: Series, cell: Cell) -> list[Case]:
        """Errors that say how wrong the prediction of a cell may be; those of its own stage alone where there
        are enough."""
        hardness = self.hardness(series, cell, self._differences[series.name])
        log = math.log(series.glances[cell])
        fitting = [
            case for case in self._all_cases(series) if case.hardness.covers(hardness) and tells_of(case.log, log)
        ]
        own = [case for case in fitting if case.stage == series.stage]
        return own if len(own) >= 2 * LEAST_CASES and _are_enough(own) else fitting

    def _prediction(self, series: Series, cell: Cell, log: float, basis: tuple[tuple[str, Cell], ...]) -> Prediction:
        cases = self.cases(series, cell)
        error_90 = error_95 = math.inf
        if _are_enough(cases):
            every = self._all_cases(series)
            error_90, error_95 = (math.expm1(_cautious_bound(cases, every, level)) for level in (0.90, 0.95))
        hardness = self.hardness(series, cell, self._differences[series.name])
        return Prediction(cell, math.exp(log), error_90, error_95, hardness, basis, len(cases))

    def _all_cases(self, series: Series) -> list[Case]:
        """Predictions of measured cells of all series from no more cells than this series has."""
        cells = frozenset(self._differences[series.name])
        if (series.pool, cells) not in self._cases:
            self._cases[series.pool, cells] = [
                self._case(spot, cells) for spot in self._spots if spot.series.pool == series.pool
            ]
        return self._cases[series.pool, cells]

    def _case(self, spot: _Spot, cells: Collection[Cell]) -> Case:
        differences = self._differences[spot.series.name]
        known = {cell: differences[cell] for cell in differences if cell in cells and cell != spot.cell}
        predicted = self._drawn(self._pooled[spot.series.name, spot.cell], known, spot.cell)
        hardness = self.hardness(spot.series, spot.cell, known)
        error = _beyond(spot.difference - predicted, spot.series.doubts.get(spot.cell, 0.0))
        return Case(error, hardness, spot.series.name, spot.series.stage, spot.log)

    def _drawn(self, pooled: float, known: Mapping[Cell, float], cell: Cell) -> float:
        """What is expected from other series, drawn towards the series' own differences."""
        total, weights = pooled, 1.0
        for other, difference in known.items():
            weight = self._trust * (1.0 if other.threads == cell.threads else 0.5)
            total += weight * difference
            weights += weight
        return total / weights

    def _from_others(self, spot: _Spot) -> tuple[float, tuple[tuple[str, Cell], ...]]:
        """The expected difference by the other series, and the cells that it comes from."""
        others = [
            other
            for other in self._spots
            if other.series.pool == spot.series.pool
            and other.series.name != spot.series.name
            and other.cell.threads == spot.cell.threads
        ]
        if not others:
            return 0.0, ()
        distances = (np.array([other.log for other in others]) - spot.log) / _WIDTH
        same = np.array([other.series.stage == spot.series.stage for other in others])
        weights = np.exp(-distances * distances / 2) * np.where(same, _SAME_STAGE, 1.0)
        differences = np.array([other.difference for other in others])
        basis = tuple(
            (other.series.name, other.cell)
            for other, weight in zip(others, weights, strict=True)
            if weight >= _NEGLIGIBLE
        )
        return float(weights @ differences / (1.0 + weights.sum())), basis

    def _typical_error(self, trust: float) -> float:
        """Median error of predicting every measured cell from all others, at this trust."""
        self._trust = trust
        errors = sorted(abs(self._case(spot, self._differences[spot.series.name]).error) for spot in self._spots)
        return errors[len(errors) // 2] if errors else 0.0


@dataclass(frozen=True, slots=True)
class _Spot:
    """A cell with the logarithm of its glance, and the difference where it was measured."""

    series: Series
    cell: Cell
    log: float
    difference: float


def _beyond(error: float, doubt: float) -> float:
    """The part of an error that a prediction made: what it is compared with has one of its own, and squares add."""
    return math.copysign(math.sqrt(max(0.0, error * error - doubt * doubt)), error)


def tells_of(log: float, other: float) -> bool:
    """Whether an error made at one service time (logarithms) says something of another."""
    return -SHORTER <= log - other <= LONGER


def _are_enough(cases: Sequence[Case]) -> bool:
    return len(cases) >= LEAST_CASES and len({case.series for case in cases}) >= LEAST_SERIES


def _cautious_bound(fitting: Sequence[Case], every: Sequence[Case], level: float) -> float:
    """The bound by the fitting cases; while they are few, not below that by every case.

    The bound is asked for after each measurement until it is small enough: few cases would be so by luck.
    """
    bound = error_bound([abs(case.error) for case in fitting], level)
    if len(fitting) >= _MANY or len(every) < _MANY:
        return bound
    return max(bound, error_bound([abs(case.error) for case in every], level))


def rising_logs(predicted: Mapping[Cell, float], measured: Mapping[Cell, float]) -> dict[Cell, float]:
    """Predictions moved as little as needed to rise with the batch between measured cells, which stay."""
    result: dict[Cell, float] = {}
    logs = {**predicted, **measured}
    for threads in {cell.threads for cell in predicted}:
        row = sorted(cell for cell in logs if cell.threads == threads)
        floor = -math.inf
        for index, cell in enumerate(row):
            if cell in measured:
                floor = max(floor, measured[cell])
                continue
            ceiling = min((measured[other] for other in row[index + 1 :] if other in measured), default=math.inf)
            # Where the measured ones themselves fall, those of smaller batches decide.
            floor = result[cell] = max(floor, min(predicted[cell], ceiling))
    return result


_STUDENT = {
    0.90: (2.132, 2.015, 1.943, 1.895, 1.860),
    0.95: (2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101),
}
"""Two-sided quantiles of Student's t for 4, 5, ... degrees of freedom."""


def error_bound(errors: Sequence[float], level: float) -> float:
    """What the next error stays within, with probability `level` (0.9 or 0.95), from four errors or more.

    Errors are absolute values. The k-th smallest of n with k = (n + 1) level (conformal prediction: it holds for
    errors of any law that come in any order), between two of them on a line (Beran and Hall 1993): where larger
    errors are rarer, that errs towards too large a bound. Where n is too small for that: the largest, or what
    Student's t says of errors around zero if that is more.
    """
    ordered = sorted(errors)
    n = len(ordered)
    place = round((n + 1) * level, 9)
    if place <= n:
        rank = int(place)
        larger = ordered[min(rank, n - 1)]
        return ordered[rank - 1] + (place - rank) * (larger - ordered[rank - 1])
    if n < LEAST_CASES:
        return math.inf
    return max(ordered[-1], _STUDENT[level][n - LEAST_CASES] * math.sqrt(sum(e * e for e in ordered) / n))
