"""Standard deviation and tail of service times: as ratios to the mean, which change less than the mean does.

Three statistics of a point: standard deviation, 90th and 99th percentile, each over its mean. For a point that was
not measured they are one of

- *stage*: the geometric mean over all points of the stage on that device,
- *series*: that over the points of its own series,
- *nearest*: that of the measured batch nearest in factors (the mean of two that are as near),
- *line*: straight in the logarithms of batch and ratio between measured batches, constant beyond,

chosen per stage and statistic by leave-one-out error, as means are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from inferplan.estimators.leave_one_out import Errors, choose
from inferplan.estimators.observations import Observation, SeriesKey, by_series

STATISTICS = ("std", "p90", "p99")


def ratio(item: Observation, statistic: str) -> float | None:
    """A statistic of a point over its mean; None where the row has none, or 0."""
    value: float | None = None if item.row is None else getattr(item.row.service, f"{statistic}_s")
    return value / item.mean_s if value is not None and value > 0 else None


Known = Sequence[tuple[int, float]]
"""Batch and logarithm of a ratio."""


def _stage(own: Known, others: Known, batch: int) -> float | None:
    return _mean([*own, *others])


def _series(own: Known, others: Known, batch: int) -> float | None:
    return _mean(own)


def _nearest(own: Known, others: Known, batch: int) -> float | None:
    if not own:
        return None
    near = min(_apart(other, batch) for other, _ in own)
    return _mean([(other, log) for other, log in own if _apart(other, batch) <= near + 1e-9])


def _line(own: Known, others: Known, batch: int) -> float | None:
    if not own:
        return None
    known = sorted(own)
    return float(np.interp(math.log(batch), [math.log(b) for b, _ in known], [log for _, log in known]))


FITS: dict[str, Callable[[Known, Known, int], float | None]] = {
    "stage": _stage,
    "series": _series,
    "nearest": _nearest,
    "line": _line,
}


def _mean(known: Known) -> float | None:
    return math.fsum(log for _, log in known) / len(known) if known else None


def _apart(one: int, other: int) -> float:
    return abs(math.log2(one / other))


@dataclass(frozen=True)
class SpreadModel:
    """Ratios of one statistic in a group. `fit` is empty where fewer than two points have one."""

    statistic: str
    fit: str
    errors: Errors
    _known: Mapping[SeriesKey, Known]

    def ratio(self, key: SeriesKey, batch: int) -> float | None:
        """The statistic over the mean at a batch of a series; exact where it was measured, None where unknown."""
        own = self._known.get(key, ())
        for measured, log in own:
            if measured == batch:
                return math.exp(log)
        if not self.fit:
            return None
        others = [item for name, known in self._known.items() if name != key for item in known]
        found = FITS[self.fit](own, others, batch)
        return None if found is None else math.exp(found)


def spread_model(observations: Sequence[Observation], statistic: str) -> SpreadModel:
    """The model of one statistic for the observations of a group."""
    known: dict[SeriesKey, list[tuple[int, float]]] = {}
    for key, items in by_series(observations).items():
        found = [(item.batch, ratio(item, statistic)) for item in items]
        known[key] = [(batch, math.log(value)) for batch, value in found if value is not None]
    costs: list[list[float]] = []
    for key, own in known.items():
        others = [item for name, items in known.items() if name != key for item in items]
        for batch, log in own:
            rest = [item for item in own if item[0] != batch]
            predicted = [fit(rest, others, batch) for fit in FITS.values()]
            if all(value is not None for value in predicted):
                costs.append([value - log for value in predicted if value is not None])
    errors = np.array(costs).reshape(len(costs), len(FITS))
    chosen = choose(np.abs(errors))
    fit = list(FITS)[chosen] if costs else "stage" if sum(map(len, known.values())) > 1 else ""
    return SpreadModel(statistic, fit, Errors.of(errors[:, chosen].tolist()), known)
