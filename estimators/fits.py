"""The fit of mean service time over the batch within one series: overhead and time per call, through its points.

Known are points (x rising, x the batch or what it was fed; t the mean in seconds). Of a + c x, with a and c not
negative, that with the least squared relative errors is taken, as most nets take some time per batch and some per
call. What it leaves over is carried along as a factor, straight in log x between points and constant beyond, so that
known points are exact. `held_between` keeps a prediction between the neighbours' times, so that points that rise are
never left for a curve that falls.

Other curves through the points (straight lines, power laws, monotone cubics) were tried and are not here: they were
the best on no sample workload (`benchmarks/model_errors.py` shows by how much). Where a curve bends in a way that
this one does not know, borrowing from other series does better (`kriging`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Fit = Callable[[Sequence[float], Sequence[float], float], float]
LEAST_POINTS = 2
"""Known points that a fit needs: one says nothing of how time grows."""


def affine(xs: Sequence[float], times_s: Sequence[float], at: float) -> float:
    """Overhead and time per unit, with what they leave over."""
    overhead_s, unit_s = affine_coefficients(xs, times_s)
    base = overhead_s + unit_s * np.asarray(xs)
    left = np.interp(math.log(at), np.log(xs), np.log(times_s) - np.log(base))
    return (overhead_s + unit_s * at) * math.exp(left)


def affine_coefficients(xs: Sequence[float], times_s: Sequence[float]) -> tuple[float, float]:
    """Overhead (s) and time per unit (s), neither negative, with the least sum of squared relative errors."""
    x, t = np.asarray(xs, dtype=np.float64), np.asarray(times_s, dtype=np.float64)
    (overhead_s, unit_s), *_ = np.linalg.lstsq(np.stack([1 / t, x / t], axis=1), np.ones(len(x)), rcond=None)
    if overhead_s < 0:
        return 0.0, float((x / t).sum() / ((x / t) ** 2).sum())
    if unit_s < 0:
        return float((1 / t).sum() / ((1 / t) ** 2).sum()), 0.0
    return float(overhead_s), float(unit_s)


def fitted_log_s(fit: Fit, xs: Sequence[float], times_s: Sequence[float], at: float) -> float | None:
    """Logarithm of the time that a fit predicts; None where fewer than two known points differ in x.

    Points may come in any order; of several at one x the geometric mean counts.
    """
    groups: dict[float, list[float]] = {}
    for x, time_s in zip(xs, times_s, strict=True):
        groups.setdefault(x, []).append(math.log(time_s))
    if len(groups) < LEAST_POINTS:
        return None
    known = sorted(groups)
    return math.log(fit(known, [math.exp(math.fsum(groups[x]) / len(groups[x])) for x in known], at))


def held_between(log_s: float, batches: Sequence[float], times_s: Sequence[float], at: float) -> float:
    """A prediction moved between the longest time of smaller batches and the shortest of larger ones."""
    below = max((math.log(t) for b, t in zip(batches, times_s, strict=True) if b < at), default=-math.inf)
    above = min((math.log(t) for b, t in zip(batches, times_s, strict=True) if b > at), default=math.inf)
    low, high = min(below, above), max(below, above)
    return min(max(log_s, low), high)
