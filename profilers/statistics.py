"""Order statistics of service times and intervals of accuracies, in numpy alone.

Percentiles follow MLPerf LoadGen's early stopping. Of n independent samples, those above the true p-th
percentile number Bin(n, 1-p). With t the largest count for which P[Bin(n, 1-p) <= t] <= 1-c, the (t+1)-th
largest sample lies above the true percentile with confidence c: that is the upper bound reported. A
percentile is reported only where that holds with t >= 1, so that one outlier alone does not decide it.
"""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from inferplan.spec.rows import Quantiles
from inferplan.spec.stagecode import Scores

CONFIDENCE = 0.99
"""Confidence c of the upper bounds of percentiles."""
INTERVAL_CONFIDENCE = 0.95
"""Confidence of the two-sided intervals of accuracies."""
RESAMPLES = 2000

Floats = NDArray[np.float64]
_REPORTED = {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0, "p999": 99.9}


def binomial_cdf(n: int, q: float, most: int) -> Floats:
    """P[Bin(n, q) <= k] for k = 0..most, 0 < q < 1, by the recurrence of the terms' logarithms."""
    most = min(most, n)
    k = np.arange(1, most + 1, dtype=float)
    steps = np.log((n - k + 1) / k) + math.log(q / (1 - q))
    log_terms = n * math.log1p(-q) + np.concatenate([[0.0], np.cumsum(steps)])
    return np.asarray(np.exp(np.logaddexp.accumulate(log_terms)), dtype=np.float64)


@lru_cache(maxsize=256)
def most_over(n: int, percentile: float, confidence: float = CONFIDENCE) -> int:
    """The largest t with P[Bin(n, 1-p) <= t] <= 1-c; -1 where even t = 0 is too likely."""
    q = 1 - percentile / 100
    if n < 1:
        return -1
    # Beyond the mean the probability is at least about one half, so no t there can qualify.
    cdf = binomial_cdf(n, q, math.ceil(n * q) + 1)
    return int(np.searchsorted(cdf, 1 - confidence, side="right")) - 1


@lru_cache(maxsize=256)
def least_count(percentile: float, over: int = 1, confidence: float = CONFIDENCE) -> int:
    """Fewest samples with which `over` of them may lie above the bound: p90 64, p99 662, p99.9 6636."""
    low, high = over + 1, over + 2
    while most_over(high, percentile, confidence) < over:
        low, high = high, high * 2
    while low < high:
        middle = (low + high) // 2
        if most_over(middle, percentile, confidence) >= over:
            high = middle
        else:
            low = middle + 1
    return low


def upper_bound(ordered: Floats, percentile: float) -> float | None:
    """Upper bound of a percentile from samples in ascending order; None where there are too few."""
    over = most_over(len(ordered), percentile)
    return float(ordered[len(ordered) - 1 - over]) if over >= 1 else None


def quantiles(durations_s: Floats) -> Quantiles:
    """Statistics of durations, in seconds; percentiles None where there are too few samples to say."""
    if len(durations_s) == 0:
        return Quantiles()
    ordered = np.sort(np.asarray(durations_s, dtype=np.float64))
    values: dict[str, float | None] = {
        "mean_s": float(ordered.mean()),
        "std_s": float(ordered.std(ddof=1)) if len(ordered) > 1 else None,
        "min_s": float(ordered[0]),
    }
    for name, percentile in _REPORTED.items():
        bound = upper_bound(ordered, percentile)
        values[f"{name}_upper_s"] = bound
        values[f"{name}_s"] = None if bound is None else float(np.quantile(ordered, percentile / 100))
    return Quantiles(**values)


def drift(durations_s: Floats) -> float | None:
    """Median of the last third over the median of the first third, in order of measurement."""
    third = len(durations_s) // 3
    if third < 3:
        return None
    first = float(np.median(durations_s[:third]))
    return float(np.median(durations_s[-third:])) / first if first > 0 else None


def process_spread(medians_s: list[float]) -> float | None:
    """Largest over smallest of the processes' medians."""
    if len(medians_s) < 2 or min(medians_s) <= 0:
        return None
    return max(medians_s) / min(medians_s)


def wilson(successes: float, n: int, confidence: float = INTERVAL_CONFIDENCE) -> tuple[float, float]:
    """Wilson's score interval of a proportion."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / n
    denominator = 1 + z * z / n
    centre = (share + z * z / (2 * n)) / denominator
    half = z / denominator * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # Rounding must not put the estimate itself outside at 0 and at 1.
    return max(0.0, min(centre - half, share)), min(1.0, max(centre + half, share))


def bootstrap(scores: Scores, confidence: float = INTERVAL_CONFIDENCE, seed: int = 0) -> tuple[float, float]:
    """Percentile bootstrap of a weighted ratio: examples are drawn again, each with its weight."""
    generator = np.random.default_rng(seed)
    n = len(scores.values)
    weighted = scores.values * scores.weights
    drawn: list[float] = []
    rows = max(1, min(RESAMPLES, 4_000_000 // n))
    while len(drawn) < RESAMPLES:
        picks = generator.integers(0, n, (rows, n))
        totals = scores.weights[picks].sum(axis=1)
        sums = weighted[picks].sum(axis=1)
        drawn.extend(sums[totals > 0] / totals[totals > 0])
    tail = (1 - confidence) / 2
    lower, upper = np.quantile(drawn[:RESAMPLES], [tail, 1 - tail])
    return float(lower), float(upper)


def interval(scores: Scores) -> tuple[float, float, str]:
    """95 % interval of a metric and how it was made: Wilson for proportions, bootstrap otherwise.

    Where every example scored 0, or every one 1, resampling would claim certainty; Wilson does not.
    """
    counted = scores.values[scores.weights > 0]
    n = len(counted)
    certain = n > 0 and (bool(np.all(counted == 0.0)) or bool(np.all(counted == 1.0)))
    if scores.is_proportion or certain:
        return *wilson(float(counted.sum()), n), "wilson"
    return *bootstrap(scores), "bootstrap"
