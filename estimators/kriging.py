"""Borrowing between series: mean service times of all choices of a place as one Gaussian field (kriging).

With t the mean service time of a batch b of choice c (of stage s) on θ threads, and z its size (b itself, or the mean
number of elements it was fed), the logarithm of the time per unit of size is modelled as a sum of independent parts,

    log(t / z) = m + m_s + level_c + tilt_s log b + tilt_c log b + gain_s log θ + gain_c log θ
                 + curve_θ(b) + curve_cθ(b) + spread·e + noise

logarithms of b and θ to base 2. m and m_s are free; every other part is Gaussian around 0 with a standard deviation
of its own, curves are Brownian motions in log b (a straight line between the points they are pinned at), e has the
standard error of the measured mean. So a series with few points takes its slope and bends from the other choices of
its stage, from the same choice on other numbers of threads, and from what all choices have in common, each as far as
they have been alike here.

The standard deviations (`Scales`) are those under which every observation, predicted from all others, is most
likely (the leave-one-out predictive density; Rasmussen and Williams, Gaussian Processes for Machine Learning, 5.4.2:
its errors need only the inverse of one matrix). For the error of the model itself a point must play no part in what
predicts it, so `held_out_logs` takes the scales from the other folds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inferplan.estimators.leave_one_out import spread_folds
from inferplan.estimators.observations import Observation, SeriesKey

Floats = NDArray[np.float64]

PARTS = ("level", "tilt of stages", "tilt", "gain of stages", "gain", "curve", "own curve", "spread", "noise")
_FREE_VARIANCE = 100.0
"""Of m and m_s, in squared logarithms: wide enough to say nothing, small enough to invert."""
_START, _LEAST, _MOST = 0.08, 0.0025, 2.6
"""Standard deviations that are tried, by factors of two: from less than means are known to, to a factor of e."""
_SWEEPS = 12
_ENOUGH = 1e-3
"""Gain in log likelihood that is worth another sweep."""


@dataclass(frozen=True, slots=True)
class Spot:
    """A place in the field: a series, a batch, and what the batch is fed."""

    key: SeriesKey
    batch: float
    log_size: float
    error: float = 0.0

    @classmethod
    def of(cls, item: Observation, by_size: bool) -> Spot:
        """Where an observation stands."""
        size = item.size if by_size and item.size is not None else item.batch
        return cls(item.key, item.batch, float(np.log(size)), item.error)


class Field:
    """The field of one place (a device with a provider), pinned at observations."""

    def __init__(self, observations: Sequence[Observation], by_size: bool) -> None:
        self._spots = [Spot.of(item, by_size) for item in observations]
        self._values = np.array(
            [item.log_s - spot.log_size for item, spot in zip(observations, self._spots, strict=True)]
        )
        self._parts = _covariances(self._spots, self._spots)
        self._noise = np.array([spot.error**2 for spot in self._spots])
        self._fixed = _free(self._spots, self._spots)
        every = np.arange(len(self._spots))
        self.scales = self._fitted(every)
        self._inverse = np.linalg.inv(self._covariance(self.scales, every))

    def held_out_logs(self) -> Floats:
        """Logarithms of every observation's mean, predicted without it: neither its value nor the scales that weigh
        the others know it."""
        predicted = np.empty(len(self._spots))
        every = np.arange(len(self._spots))
        folds = np.array(spread_folds([spot.key for spot in self._spots]))
        for fold in sorted(set(folds.tolist())):
            out = folds == fold
            scales = self._fitted(every[~out]) if not out.all() else self.scales
            errors, _ = _left_out(self._covariance(scales, every), self._values)
            predicted[out] = (self._values - errors)[out]
        logs: Floats = predicted + np.array([spot.log_size for spot in self._spots])
        return logs

    def log_s(self, spots: Sequence[Spot]) -> Floats:
        """Logarithms of mean times (s) at other spots."""
        between = _free(spots, self._spots) + sum(
            variance * part
            for variance, part in zip(np.exp(2 * self.scales), _covariances(spots, self._spots), strict=False)
        )
        predicted: Floats = between @ self._inverse @ self._values + np.array([spot.log_size for spot in spots])
        return predicted

    def _covariance(self, scales: Floats, kept: NDArray[np.int64]) -> Floats:
        variances = np.exp(2 * scales)
        total = self._fixed.copy()
        for variance, part in zip(variances[:-2], self._parts, strict=True):
            total += variance * part
        total[np.diag_indices_from(total)] += variances[-2] * self._noise + variances[-1]
        return total[np.ix_(kept, kept)]

    def _fitted(self, kept: NDArray[np.int64]) -> Floats:
        """Logarithms of the scales that make the kept observations most likely, found by changing one after the other
        by a factor of two as long as that helps."""
        values = self._values[kept]
        scales: Floats = np.full(len(PARTS), np.log(_START))

        def cost(tried: Floats) -> float:
            errors, variances = _left_out(self._covariance(tried, kept), values)
            return float(np.sum(errors**2 / variances + np.log(variances))) / 2

        best = cost(scales)
        for _ in range(_SWEEPS):
            before = best
            for index in range(len(scales)):
                for step in (np.log(2.0), -np.log(2.0)):
                    while True:
                        tried = scales.copy()
                        tried[index] += step
                        if not np.log(_LEAST) - 1e-9 <= tried[index] <= np.log(_MOST) + 1e-9:
                            break
                        found = cost(tried)
                        if found >= best:
                            break
                        best, scales = found, tried
            if before - best < _ENOUGH:
                break
        return scales


def _left_out(covariance: Floats, values: Floats) -> tuple[Floats, Floats]:
    """Errors (value less prediction) and variances of predicting every value from all others."""
    inverse = np.linalg.inv(covariance)
    precision = np.diag(inverse)
    return (inverse @ values) / precision, 1 / precision


def _free(rows: Sequence[Spot], columns: Sequence[Spot]) -> Floats:
    return _FREE_VARIANCE * (1 + _same((s.key.stage for s in rows), (s.key.stage for s in columns)))


def _covariances(rows: Sequence[Spot], columns: Sequence[Spot]) -> list[Floats]:
    """Of all parts but spread and noise, each for a standard deviation of 1."""
    stage = _same((s.key.stage for s in rows), (s.key.stage for s in columns))
    choice = _same((s.key[:2] for s in rows), (s.key[:2] for s in columns))
    threads = _same((s.key.threads for s in rows), (s.key.threads for s in columns))
    mine, other = (np.log2([spot.batch for spot in spots]) for spots in (rows, columns))
    on, off = (np.log2([spot.key.threads for spot in spots]) for spots in (rows, columns))
    slopes, gains = np.outer(mine, other), np.outer(on, off)
    curve = np.minimum.outer(mine, other) * threads
    return [choice, stage * slopes, choice * slopes, stage * gains, choice * gains, curve, choice * curve]


def _same(rows: Iterable[object], columns: Iterable[object]) -> Floats:
    """1 where a row's label is a column's, else 0."""
    numbers: dict[object, int] = {}
    mine, others = ([numbers.setdefault(label, len(numbers)) for label in labels] for labels in (rows, columns))
    return np.equal.outer(mine, others).astype(np.float64)
