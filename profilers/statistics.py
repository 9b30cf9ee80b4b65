"""Order statistics and means of service times, intervals of accuracies, in numpy alone.

Percentiles follow MLPerf LoadGen's early stopping. Of n independent samples, those above the true p-th
percentile number Bin(n, 1-p). With t the largest count for which P[Bin(n, 1-p) <= t] <= 1-c, the (t+1)-th
largest sample lies above the true percentile with confidence c: that is the upper bound reported. A
percentile is reported only where that holds with t >= 1, so that one outlier alone does not decide it.

The interval of a mean allows for calls that resemble their neighbours in time and for processes that differ
from one another. Each process's series is cut into batches; their means vary as the mean of a correlated
series does (batch means). The means of the processes vary as they do where processes differ. The larger of
the two is taken for the variance of the grand mean, with Student's t of one degree of freedom less than there
are processes. It assumes that processes are alike in law, independent, with means near to normal, and that
what correlates within one does not outlast a batch (a tenth of its series). With one process alone it says
nothing of another.
"""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from inferplan.spec.resampling import RESAMPLES, percentile_interval, resample_counts, weighted_means
from inferplan.spec.rows import Quantiles
from inferplan.spec.stagecode import Scores

CONFIDENCE = 0.99
"""Confidence c of the upper bounds of percentiles."""
INTERVAL_CONFIDENCE = 0.95
"""Confidence of the two-sided intervals of accuracies and means."""
_BATCHES = 10
"""Batches a process's series is cut into."""

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


def upper_bound(ordered: Floats, percentile: float, confidence: float = CONFIDENCE) -> float | None:
    """Upper bound of a percentile from samples in ascending order; None where there are too few."""
    over = most_over(len(ordered), percentile, confidence)
    return float(ordered[len(ordered) - 1 - over]) if over >= 1 else None


def quantiles(
    durations_s: Floats, confidence: float = CONFIDENCE, process: NDArray[np.int32] | None = None
) -> Quantiles:
    """Statistics of durations, in seconds and in order of measurement.

    `confidence` is that of the upper bounds of percentiles, `process` says which fresh process each duration
    comes from (None: all from one). Percentiles are None where there are too few samples to say.
    """
    if len(durations_s) == 0:
        return Quantiles()
    times = np.asarray(durations_s, dtype=np.float64)
    ordered = np.sort(times)
    lower_s, upper_s = mean_interval(times, process) or (None, None)
    values: dict[str, float | None] = {
        "mean_s": float(ordered.mean()),
        "mean_lower_s": lower_s,
        "mean_upper_s": upper_s,
        "std_s": float(ordered.std(ddof=1)) if len(ordered) > 1 else None,
        "min_s": float(ordered[0]),
    }
    for name, percentile in _REPORTED.items():
        bound = upper_bound(ordered, percentile, confidence)
        values[f"{name}_upper_s"] = bound
        values[f"{name}_s"] = None if bound is None else float(np.quantile(ordered, percentile / 100))
    return Quantiles(**values)


def mean_interval(
    durations_s: Floats, process: NDArray[np.int32] | None = None, confidence: float = INTERVAL_CONFIDENCE
) -> tuple[float, float] | None:
    """Interval of the mean of durations in order of measurement (see the module's docstring); None for fewer
    than two durations."""
    times = np.asarray(durations_s, dtype=np.float64)
    if len(times) < 2:
        return None
    process = np.zeros(len(times), np.int32) if process is None else process
    parts = [times[process == name] for name in np.unique(process)]
    shares = np.array([len(part) for part in parts]) / len(times)
    within = [_mean_variance(part) for part in parts]
    known = [(variance, share) for (variance, _), share in zip(within, shares, strict=True) if variance is not None]
    variance = sum(share**2 * found for found, share in known)
    freedom = within[0][1]
    if len(parts) > 1:
        means = np.array([part.mean() for part in parts])
        scatter = float((shares * (means - times.mean()) ** 2).sum())
        squares = float((shares**2).sum())
        variance = max(variance, scatter * squares / (1 - squares))
        freedom = len(parts) - 1
    half = t_quantile(freedom, confidence) * math.sqrt(variance)
    mean = float(times.mean())
    return max(0.0, mean - half), mean + half


def _mean_variance(series: Floats) -> tuple[float | None, int]:
    """Variance of the mean of one process's series by batch means, and its degrees of freedom."""
    if len(series) < 2:
        return None, 1
    count = min(_BATCHES, len(series))
    size = len(series) // count
    # What does not fill a batch is left out at the beginning.
    means = series[len(series) - count * size :].reshape(count, size).mean(axis=1)
    return float(means.var(ddof=1)) / count, count - 1


@lru_cache(maxsize=256)
def t_quantile(freedom: int, confidence: float = INTERVAL_CONFIDENCE) -> float:
    """Student's t that lies within plus and minus the result with this confidence.

    By bisection of the finite sums for whole degrees of freedom (Abramowitz and Stegun 26.7.3, 26.7.4).
    """
    low, high = 0.0, 1.0
    while _within_t(high, freedom) < confidence:
        low, high = high, high * 2
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if _within_t(middle, freedom) < confidence else (low, middle)
    return high


def _within_t(t: float, freedom: int) -> float:
    """P[|T| <= t] of Student's t with a whole number of degrees of freedom."""
    angle = math.atan(t / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term = cosine if odd else 1.0
    total = term if freedom > 1 else 0.0
    for index in range(2 + odd, freedom - 1, 2):
        term *= (index - 1) / index * cosine**2
        total += term
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


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
    chunks = resample_counts(len(scores.values), RESAMPLES, seed)
    draws = np.concatenate([weighted_means(counts, scores.values, scores.weights) for counts in chunks])
    return percentile_interval(draws, confidence)


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
