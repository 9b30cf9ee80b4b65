"""Verdicts and intervals from independent replications.

The promise "the q-th percentile of latency stays within L" is the promise "at most a share 1 - q/100 of
requests takes longer than L". That share is a mean, so its estimate is unbiased however requests within one replication
depend on one another; the interval of a percentile is the set of latencies at which the share's interval still contains
1 - q/100. Verdict and interval therefore never disagree. Confidence is 99 %, two-sided; more where it is looked several
times (`simulation/looks`).

Late requests come in clumps, so that replications which saw few of them saw too little of their spread as well, and a
t interval around such a share ends below the truth far too often (one in ten, of ten replications with four late
requests each). The interval is therefore the wider one of t's and Wilson's with n / d independent requests, whose width
is that of the share at its end and not that of the one seen (Wilson 1927; design effect: Kish 1965), with t in place of
z. The design effect d is the largest one of three: at the limit, and at lower ones that four and sixteen times as many
requests are beyond, whose spread is seen better: it falls slowly (M/D/1 at 85 % load: 76 at 1 % late, 63 at 4 %, 47 at
16 %). `tests/estimators/test_intervals.py` counts how often ends are wrong.

A request that was never answered counts as one that took infinitely long.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from inferplan.spec.plan import Estimate, Verdict

Floats = NDArray[np.float64]
CONFIDENCE = 0.99
LOWER, UPPER = 1, 2
"""Ends of a share's interval, in (share, lower, upper)."""
WIDER = (4, 16)
"""How many times as many requests as are late their spread is looked at of, too."""
LEAST = 40
"""And how many at least: where next to none are late, how those that are nearly so come together."""
EXACT = 100
"""Degrees of freedom up to which Student's t is exact."""
BISECTIONS = 60
STEPS = 5
"""Of a bisection, looked up at once: 31 latencies."""


@cache
def t_quantile(freedom: int, confidence: float = CONFIDENCE) -> float:
    """Student's t at the two-sided confidence: exact for few degrees of freedom, within 0.01 % for many."""
    if freedom <= EXACT:
        low, high = 0.0, math.pi / 2
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            low, high = (middle, high) if _t_within(middle, freedom) < confidence else (low, middle)
        return math.sqrt(freedom) * math.tan(low)
    # Cornish and Fisher's expansion.
    z, v = NormalDist().inv_cdf(0.5 + confidence / 2), freedom
    return (
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
    )


def _t_within(angle: float, freedom: int) -> float:
    """Probability that |t| stays within √freedom tan(angle): a finite sum (Abramowitz and Stegun 26.7.3 and 4)."""
    sine, cosine, odd = math.sin(angle), math.cos(angle), freedom % 2
    term = cosine if odd else 1.0
    total = term if freedom > 1 else 0.0
    for k in range(2 if odd else 1, freedom - 2, 2):
        term *= cosine**2 * k / (k + 1)
        total += term
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


@dataclass(frozen=True)
class Latencies:
    """Latencies of a class in seconds: one sorted array per replication. `confidence` is that of all intervals."""

    replications: tuple[Floats, ...]
    confidence: float = CONFIDENCE

    @classmethod
    def of(cls, replications: Sequence[Floats], confidence: float = CONFIDENCE) -> Latencies:
        """Sort what each replication saw; replications without a request say nothing and are left out."""
        return cls(tuple(np.sort(seen) for seen in replications if len(seen)), confidence)

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
        return Latencies.of([seen[: int(np.searchsorted(seen, np.inf))] for seen in self.replications], self.confidence)

    def mean_s(self) -> Estimate:
        """Mean latency, with its interval."""
        means = np.array([seen.mean() for seen in self.replications])
        value = float(np.average(means, weights=self._sizes))
        half = self._half_width(means, value)
        return Estimate(value=value, lower=max(value - half, 0.0), upper=value + half)

    def share_above(self, limit_s: float) -> Estimate:
        """Share of requests that took longer than `limit_s`, with its interval."""
        value, lower, upper = self._shares(np.array([limit_s]))[0]
        return Estimate(value=value, lower=lower, upper=upper)

    def percentile_s(self, percentile: float) -> Estimate:
        """A percentile (0..100) with its interval; an end is None where there are too few requests to say."""
        pooled = self._pooled
        over = 1 - percentile / 100
        value = float(pooled[min(math.ceil(len(pooled) * (1 - over)) - 1, len(pooled) - 1)])
        # Both ends of the share's interval fall as the limit rises: bisect over what was seen.
        lower, upper = (self._first(end, over) for end in (LOWER, UPPER))
        return Estimate(
            value=value,
            lower=None if lower is None or math.isinf(lower) else min(lower, value),
            upper=None if upper is None or math.isinf(upper) else max(upper, value),
        )

    def verdict(self, percentile: float, limit_s: float) -> Verdict:
        """Whether the percentile (0..100) stays within the limit."""
        share, over = self.share_above(limit_s), 1 - percentile / 100
        assert share.upper is not None
        assert share.lower is not None
        if not share.lower <= over < share.upper:
            # Spreads are looked at of other requests at every limit, so an end of the share's may cross what is allowed
            # more than once; what is said of the percentile then counts.
            end = self._first(UPPER if share.upper <= over else LOWER, over)
            if share.upper <= over and end is not None and end <= limit_s:
                return "met"
            if share.lower > over and (end is None or end > limit_s):
                return "missed"
        return "undecided"

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

    @cached_property
    def _sizes(self) -> Floats:
        return np.array([len(seen) for seen in self.replications], dtype=np.float64)

    def _within(self, limits_s: Floats) -> Floats:
        """Requests of each replication [columns] that took no longer than each of rising limits [rows]."""
        return np.array([seen.searchsorted(limits_s, side="right") for seen in self.replications], dtype=np.float64).T

    def _shares(self, limits_s: Floats) -> list[tuple[float, float, float]]:
        """Share of requests beyond each of rising limits, with its interval."""
        sizes, total = self._sizes, self.requests
        beyond = sizes - self._within(limits_s)
        late = np.maximum(beyond.sum(axis=1), LEAST / min(WIDER))
        spreads = []
        for factor in WIDER:
            # So many requests are beyond a lower limit; all of them are among the slower half.
            wider = (factor * late).astype(np.int64)
            lower = np.where(2 * wider <= total, self._pooled[np.maximum(total - 1 - wider, 0)], np.inf)
            spreads.append(sizes - self._within(lower))
        return [self._share(counts, sizes, others) for counts, *others in zip(beyond, *spreads, strict=True)]

    def _share(self, counts: Floats, sizes: Floats, others: Sequence[Floats]) -> tuple[float, float, float]:
        """Share of requests, given how many there are of each replication; with its interval. `others`: those beyond
        lower limits, none where there is no telling."""
        total = float(sizes.sum())
        value = float(counts.sum()) / total
        if len(sizes) < 2:
            return value, 0.0, 1.0
        half = self._half_width(counts / sizes, value)
        effect = max(1.0, self._effect(counts), *(self._effect(one) for one in others))
        low, high = _wilson(value, total / effect, t_quantile(len(sizes) - 1, self.confidence))
        return value, max(min(value - half, low), 0.0), min(max(value + half, high), 1.0)

    def _effect(self, counts: Floats) -> float:
        """The design effect: variance of a share over that of as many independent requests; 0 where there is none."""
        sizes = self._sizes
        total = float(sizes.sum())
        share = float(counts.sum()) / total
        if not 0.0 < share < 1.0:
            return 0.0
        return self._variance(counts / sizes, share) * total / (share * (1 - share))

    def _first(self, end: int, over: float) -> float | None:
        """The first latency seen beyond which an end of the share's interval is no more than `over`: by bisection.

        Of the next `STEPS` steps every latency that may be asked about is looked up at once, which takes each
        replication about as long as looking up one.
        """
        pooled = self._pooled
        low, high = 0, len(pooled)
        while low < high:
            asked = sorted(_middles(low, high, STEPS))
            shares = dict(zip(asked, self._shares(pooled[asked]), strict=True))
            while low < high and (middle := (low + high) // 2) in shares:
                if shares[middle][end] <= over:
                    high = middle
                else:
                    low = middle + 1
        return float(pooled[low]) if low < len(pooled) else None

    def _half_width(self, values: Floats, mean: float) -> float:
        count = len(values)
        if count < 2:
            return math.inf
        return t_quantile(count - 1, self.confidence) * math.sqrt(self._variance(values, mean))

    def _variance(self, values: Floats, mean: float) -> float:
        """Of the mean of replications' values."""
        count = len(values)
        return float((self._squares * (values - mean) ** 2).sum()) * count / (count - 1)

    @cached_property
    def _squares(self) -> Floats:
        """Squared weights of the replications."""
        squares: Floats = (self._sizes / self._sizes.sum()) ** 2
        return squares


def _wilson(share: float, n: float, z: float) -> tuple[float, float]:
    """Wilson's interval of a share of n independent requests."""
    centre = share + z**2 / (2 * n)
    spread = z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    scale = 1 + z**2 / n
    return (centre - spread) / scale, (centre + spread) / scale


def _middles(low: int, high: int, steps: int) -> set[int]:
    """Where a bisection of [low, high) may look in its next steps."""
    if low >= high or steps == 0:
        return set()
    middle = (low + high) // 2
    return {middle} | _middles(low, middle, steps - 1) | _middles(middle + 1, high, steps - 1)
