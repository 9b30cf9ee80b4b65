"""Intervals of what a run measured, at 95 % confidence.

**Percentiles** of correlated latencies. The requests of one run queue behind one another, so their latencies
are not independent, and an interval that takes them to be is too narrow. The percentile x is the order
statistic at rank ceil(q n). Its indicator I = [latency > x] is averaged over contiguous blocks; the variance of
the block means over that of independent draws is the design effect d = m var(block means) / (q (1 - q)), m
being the block size (batch means; at least 1; enlarged by the Student-t factor for few blocks). The run is then
worth n / d independent requests, and the bounds are the order statistics at the ranks of the binomial interval
for that number (Woodruff's interval). A bound is None where there are too few requests for it to exist.

**Proportions**: Wilson. **Other metrics** (weighted means, ratios of sums): percentile bootstrap.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from inferplan.spec.stagecode import Scores

CONFIDENCE = 0.95
Z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
MOST_BLOCKS = 20
LEAST_BLOCKS = 10
BLOCK_REQUESTS = 10
"""Fewest requests of a block."""
ASSUMED_DESIGN_EFFECT = 10.0
"""For runs too short to estimate it."""
RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with its bounds; None where there is too little data for one."""

    value: float | None
    lower: float | None = None
    upper: float | None = None


def percentile(samples: NDArray[np.float64], percent: float) -> Interval:
    """A percentile of latencies, which are in order of their requests; inf stands for requests without answer."""
    count = len(samples)
    if count == 0:
        return Interval(None)
    ordered = np.sort(samples)
    q = percent / 100.0
    value = float(ordered[max(1, math.ceil(q * count)) - 1])
    effective = max(1, int(count / design_effect(samples, value, q)))
    low_rank, high_rank = binomial_ranks(effective, q)
    lower = upper = None
    if low_rank is not None:
        lower = float(ordered[max(1, math.floor(low_rank * count / effective)) - 1])
    if high_rank is not None:
        upper = float(ordered[min(count, math.ceil(high_rank * count / effective)) - 1])
    return Interval(value, lower, upper)


def design_effect(samples: NDArray[np.float64], threshold: float, q: float) -> float:
    """How many requests of this run are worth one independent one, as to the share above `threshold`."""
    blocks = min(MOST_BLOCKS, len(samples) // BLOCK_REQUESTS)
    if blocks < LEAST_BLOCKS:
        return ASSUMED_DESIGN_EFFECT
    size = len(samples) // blocks
    above = (samples[: blocks * size] > threshold).reshape(blocks, size).mean(axis=1)
    estimate = size * float(above.var(ddof=1)) / (q * (1.0 - q))
    return max(1.0, estimate * (student_t(blocks - 1) / Z) ** 2)


def student_t(freedom: int) -> float:
    """Two-sided 95 % quantile of Student's t (Cornish-Fisher expansion; within 0.1 % from 9 degrees on)."""
    z = Z
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )


def binomial_ranks(count: int, q: float) -> tuple[int | None, int | None]:
    """Ranks (from 1) of the order statistics of `count` draws that enclose the q-quantile; None: no such rank.

    lower: the largest l with P[Bin(count, q) <= l - 1] <= alpha / 2; upper: the smallest u with
    P[Bin(count, q) <= u - 1] >= 1 - alpha / 2.
    """
    tail = (1.0 - CONFIDENCE) / 2
    spread = 12.0 * math.sqrt(count * q * (1 - q)) + 12.0
    first = max(0, math.floor(count * q - spread))
    last = min(count, math.ceil(count * q + spread))
    hits = np.arange(first, last + 1, dtype=np.float64)
    start = math.lgamma(count + 1) - math.lgamma(first + 1) - math.lgamma(count - first + 1)
    start += first * math.log(q) + (count - first) * math.log1p(-q)
    steps = np.log(count - hits[:-1]) - np.log(hits[:-1] + 1) + math.log(q) - math.log1p(-q)
    cumulative = np.cumsum(np.exp(start + np.concatenate([[0.0], np.cumsum(steps)])))
    lower = first + int(np.count_nonzero(cumulative <= tail))  # P[X <= l - 1] at hits[l - 1 - first]
    upper = first + 1 + int(np.count_nonzero(cumulative < 1.0 - tail))
    return (lower if lower >= 1 else None), (upper if upper <= count else None)


def accuracy(scores: Scores, seed: int) -> Interval:
    """A metric with its interval over the population that the examples were drawn from."""
    count = len(scores.values)
    if count == 0 or math.isnan(scores.value):
        return Interval(None)
    if scores.is_proportion:
        return wilson(scores.value, count)
    return bootstrap(scores, seed)


def wilson(share: float, count: int) -> Interval:
    """Wilson's interval of a proportion."""
    centre = (share + Z**2 / (2 * count)) / (1 + Z**2 / count)
    half = Z * math.sqrt(share * (1 - share) / count + Z**2 / (4 * count**2)) / (1 + Z**2 / count)
    return Interval(share, max(0.0, centre - half), min(1.0, centre + half))


def bootstrap(scores: Scores, seed: int) -> Interval:
    """Percentile bootstrap of sum(weights * values) / sum(weights)."""
    rng = np.random.default_rng(seed)
    count = len(scores.values)
    weighted = np.where(scores.weights > 0, scores.values * scores.weights, 0.0)
    means = []
    for _ in range(RESAMPLES):
        drawn = rng.integers(0, count, count)
        total = scores.weights[drawn].sum()
        if total > 0:
            means.append(weighted[drawn].sum() / total)
    lower, upper = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(scores.value, float(lower), float(upper))
