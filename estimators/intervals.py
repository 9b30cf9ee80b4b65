"""Verdicts and intervals from independent replications.

The promise "the q-th percentile of latency stays within L" is the promise "at most a share 1 - q/100 of
requests takes longer than L". That share is a mean, so its estimate is unbiased and a t interval over
replications holds however requests within one replication depend on one another; the interval of a percentile
is the set of latencies at which the share's interval still contains 1 - q/100. Verdict and interval therefore
never disagree. Confidence is 99 %, two-sided.

A request that was never answered counts as one that took infinitely long.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from inferplan.spec.plan import Estimate, Verdict

Floats = NDArray[np.float64]
CONFIDENCE = 0.99
_Z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)


def t_quantile(freedom: int, confidence: float = CONFIDENCE) -> float:
    """Student's t at the two-sided confidence (Cornish-Fisher; within 0.1 % from 9 degrees of freedom)."""
    z, v = NormalDist().inv_cdf(0.5 + confidence / 2), freedom
    return (
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
    )


@dataclass(frozen=True)
class Latencies:
    """Latencies of a class in seconds: one sorted array per replication."""

    replications: tuple[Floats, ...]

    @classmethod
    def of(cls, replications: Sequence[Floats]) -> Latencies:
        """Sort what each replication saw; replications without a request say nothing and are left out."""
        return cls(tuple(np.sort(seen) for seen in replications if len(seen)))

    @cached_property
    def _pooled(self) -> Floats:
        # Runs that are sorted already: a stable sort only merges them.
        return np.sort(np.concatenate(self.replications), kind="stable")

    @property
    def requests(self) -> int:
        """Requests in all replications."""
        return sum(len(seen) for seen in self.replications)

    def answered(self) -> Latencies:
        """Without the requests that were never answered."""
        if all(seen[-1] < np.inf for seen in self.replications):
            return self
        return Latencies.of([seen[: int(np.searchsorted(seen, np.inf))] for seen in self.replications])

    def mean_s(self) -> Estimate:
        """Mean latency, with its interval."""
        sizes = np.array([len(seen) for seen in self.replications], dtype=np.float64)
        means = np.array([seen.mean() for seen in self.replications])
        value = float(np.average(means, weights=sizes))
        half = self._half_width(means, sizes, value)
        return Estimate(value=value, lower=max(value - half, 0.0), upper=value + half)

    def share_above(self, limit_s: float) -> Estimate:
        """Share of requests that took longer than `limit_s`, with its interval."""
        sizes = np.array([len(seen) for seen in self.replications], dtype=np.float64)
        counts = sizes - np.array([np.searchsorted(seen, limit_s, side="right") for seen in self.replications])
        total = float(sizes.sum())
        value = float(counts.sum()) / total
        half = self._half_width(counts / sizes, sizes, value)
        low, high = _wilson(value, total)
        return Estimate(value=value, lower=max(min(value - half, low), 0.0), upper=min(max(value + half, high), 1.0))

    def percentile_s(self, percentile: float) -> Estimate:
        """A percentile (0..100) with its interval; an end is None where there are too few requests to say."""
        pooled = self._pooled
        over = 1 - percentile / 100
        value = float(pooled[min(math.ceil(len(pooled) * (1 - over)) - 1, len(pooled) - 1)])
        # Both ends of the share's interval fall as the limit rises: bisect over what was seen.
        upper = _first(pooled, lambda x: self._upper(x) <= over)
        lower = _first(pooled, lambda x: self._lower(x) <= over)
        return Estimate(
            value=value,
            lower=None if lower is None or math.isinf(lower) else min(lower, value),
            upper=None if upper is None or math.isinf(upper) else max(upper, value),
        )

    def verdict(self, percentile: float, limit_s: float) -> Verdict:
        """Whether the percentile (0..100) stays within the limit."""
        share, over = self.share_above(limit_s), 1 - percentile / 100
        if share.upper is not None and share.upper <= over:
            return "met"
        return "missed" if share.lower is not None and share.lower > over else "undecided"

    def requests_to_decide(self, percentile: float, limit_s: float) -> int | None:
        """About how many more requests would decide an undecided verdict, if the share beyond the limit stays what it
        is: half widths fall as 1 / √n. None where the share is so near what is allowed that no number would do."""
        share, over = self.share_above(limit_s), 1 - percentile / 100
        end = share.upper if share.value <= over else share.lower
        distance = abs(share.value - over)
        if end is None or distance <= 1e-3 * over:
            return None
        needed = self.requests * (abs(end - share.value) / distance) ** 2
        return max(math.ceil(needed) - self.requests, 0)

    def _upper(self, limit_s: float) -> float:
        return self.share_above(limit_s).upper or 0.0

    def _lower(self, limit_s: float) -> float:
        return self.share_above(limit_s).lower or 0.0

    def _half_width(self, values: Floats, sizes: Floats, mean: float) -> float:
        count = len(values)
        if count < 2:
            return math.inf
        weights = sizes / sizes.sum()
        variance = float((weights**2 * (values - mean) ** 2).sum()) * count / (count - 1)
        return t_quantile(count - 1) * math.sqrt(variance)


def _wilson(share: float, n: float) -> tuple[float, float]:
    """Wilson's interval: no interval from replications is narrower than that of independent requests."""
    centre = share + _Z**2 / (2 * n)
    spread = _Z * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
    scale = 1 + _Z**2 / n
    return (centre - spread) / scale, (centre + spread) / scale


def _first(values: Floats, holds: object) -> float | None:
    """The first of rising values at which a predicate that stays true becomes true."""
    assert callable(holds)
    low, high = 0, len(values)
    while low < high:
        middle = (low + high) // 2
        if holds(float(values[middle])):
            high = middle
        else:
            low = middle + 1
    return float(values[low]) if low < len(values) else None
