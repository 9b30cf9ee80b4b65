"""Fits of mean service time over the batch within one series, each through its measured points.

A fit maps known points (x rising, x the batch or what it was fed; t the mean in seconds) to a time at another x:

- *affine*: the a + c x, a and c not negative, with the least squared relative errors; what it leaves is carried over
  as a factor, straight in log x between points and constant beyond. Overhead and time per call: what most nets do.
- *power*: straight in log-log from point to point, beyond them with the slope of the least-squares line.
- *straight*: straight from point to point; beyond them on with the last two.

All three are exact at known points. `held_between` keeps a prediction between the neighbours' times, so that rising
points are never left for a curve that falls.
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


def straight(xs: Sequence[float], times_s: Sequence[float], at: float) -> float:
    """Piecewise linear. Where that falls to nothing below the first point, in proportion to it."""
    if xs[0] <= at <= xs[-1]:
        return float(np.interp(at, xs, times_s))
    near, far = (0, 1) if at < xs[0] else (-1, -2)
    slope = (times_s[near] - times_s[far]) / (xs[near] - xs[far])
    found = times_s[near] + slope * (at - xs[near])
    return found if found > 0 else times_s[near] * at / xs[near]


def power(xs: Sequence[float], times_s: Sequence[float], at: float) -> float:
    """Piecewise linear in log-log; the slope of all points beyond them."""
    logs_x, logs_t = np.log(xs), np.log(times_s)
    if xs[0] <= at <= xs[-1]:
        return math.exp(np.interp(math.log(at), logs_x, logs_t))
    near = 0 if at < xs[0] else -1
    deviations = logs_x - logs_x.mean()
    slope = float(deviations @ logs_t / (deviations @ deviations))
    return math.exp(logs_t[near] + slope * (math.log(at) - logs_x[near]))


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


FITS: dict[str, Fit] = {"affine": affine, "power": power, "straight": straight}
"""By name, the simpler ones first."""


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
