"""Drawing examples again, with replacement: the bootstrap that accuracies and their differences rest on."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
"""Resamples of an interval or a test."""
_CHUNK = 4_000_000

Floats = NDArray[np.float64]


def resample_counts(n: int, resamples: int = RESAMPLES, seed: int = 0) -> Iterator[Floats]:
    """How often each of n examples comes up in each resample: arrays [some, n], `resamples` rows in all.

    The same n and seed give the same counts, so that two metrics of the same examples are drawn in pairs.
    """
    generator = np.random.default_rng(seed)
    rows = max(1, _CHUNK // max(1, n))
    for start in range(0, resamples, rows):
        height = min(rows, resamples - start)
        picks = generator.integers(0, n, (height, n)) + np.arange(height)[:, None] * n
        yield np.bincount(picks.ravel(), minlength=height * n).reshape(height, n).astype(np.float64)


def weighted_means(counts: Floats, values: Floats, weights: Floats) -> Floats:
    """Weighted mean of each resample, [some]; NaN where nothing drawn has a weight."""
    sums = counts @ np.stack([values * weights, weights], axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(sums[:, 0] / sums[:, 1], dtype=np.float64)


def percentile_interval(draws: Floats, confidence: float) -> tuple[float, float]:
    """The middle share of the resampled values; resamples without a value (NaN) are left out."""
    tail = (1 - confidence) / 2
    lower, upper = np.quantile(draws[~np.isnan(draws)], [tail, 1 - tail])
    return float(lower), float(upper)
