"""Choosing between fits by the errors they make on points they have not seen, and how large those errors are.

One fit is chosen for all series of a stage on a device: a series has three to five points, and picking among as many
fits by so few errors picks luck. Of the candidates, the simplest counts whose mean error is not larger than that of
the best by more than the standard error of the difference (Breiman et al. 1984, 3.4.3, here paired): what a more
complicated one gains must be more than chance.

Choosing flatters what is chosen: a little, as there are at most four candidates for all points of a stage, and ties
go to the simplest. So the errors that come out where each fold of points is predicted by the fit that the other
folds choose (`choose_without`) are told beside those of the fit itself. They err to the other side: of two fits that
are as good as each other, the others prefer the one that is worse on the fold in question.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LEVEL = 0.9
"""Share of predictions that an interval is to hold."""
FOLDS = 5
_NORMAL = np.array([NormalDist().inv_cdf((i + 0.5) / 199) for i in range(199)])


@dataclass(frozen=True, slots=True)
class Errors:
    """Relative errors |predicted / measured - 1| of points that were left out: their number, median and 90th
    percentile (null without any)."""

    n: int
    median: float | None = None
    p90: float | None = None

    @classmethod
    def of(cls, logs: Sequence[float]) -> Errors:
        """From logarithms of predicted over measured."""
        if not logs:
            return cls(0)
        sizes = np.abs(np.expm1(np.asarray(logs)))
        return cls(len(logs), float(np.median(sizes)), float(np.quantile(sizes, LEVEL)))


def choose(costs: Floats) -> int:
    """Index of the candidate to take; `costs`: [point, candidate], simpler candidates first."""
    if not len(costs):
        return 0
    best = int(np.argmin(costs.mean(axis=0)))
    for index in range(best):
        worse = costs[:, index] - costs[:, best]
        if len(worse) > 1 and worse.mean() <= worse.std(ddof=1) / math.sqrt(len(worse)):
            return index
    return best


def choose_without(costs: Floats, folds: Sequence[int]) -> list[int]:
    """For every point, the candidate that the points of the other folds choose; that of all points where there is one
    fold only."""
    labels = np.asarray(folds)
    by_fold = {fold: choose(costs[labels != fold] if (labels != fold).any() else costs) for fold in set(folds)}
    return [by_fold[fold] for fold in folds]


def spread_folds(groups: Sequence[object]) -> list[int]:
    """Folds of points that are listed group by group: successive points of a group are in successive folds, and
    groups begin with different ones, so that no fold is all first or all last points."""
    order: dict[object, int] = {}
    counts: dict[object, int] = {}
    folds = []
    for group in groups:
        first = order.setdefault(group, len(order))
        counts[group] = counts.get(group, -1) + 1
        folds.append((first + counts[group]) % FOLDS)
    return folds


def bound(logs: Sequence[float]) -> float | None:
    """What the next |error| (of a logarithm) stays within nine times in ten: the k-th smallest of n with
    k = ceil(0.9 (n + 1)) (conformal prediction); None for fewer than nine."""
    rank = math.ceil(LEVEL * (len(logs) + 1) - 1e-9)
    return sorted(abs(log) for log in logs)[rank - 1] if rank <= len(logs) else None


def noise(errors: Sequence[float]) -> Errors:
    """The errors that a perfect prediction would be seen to make, because the means it is compared with are only
    known to these relative standard errors."""
    if not errors:
        return Errors(0)
    seen = np.abs(np.outer(np.asarray(errors), _NORMAL)).ravel()
    return Errors(len(errors), float(np.median(seen)), float(np.quantile(seen, LEVEL)))
