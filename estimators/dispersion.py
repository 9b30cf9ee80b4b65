"""How unevenly requests arrive, as queues feel it: the index of dispersion of counts, and the peak of a day.

The index of dispersion over a time t is Var N(t) / E N(t), of the number N(t) of arrivals in it: 1 at all t for
Poisson, and for bursts the larger the longer the time looked at. A queue feels it over the time that it takes to
settle (`queueing`). An mmpp of rates λ1 (a share p of the time) and λ2 with mean λ, whose states last 1/q1 and 1/q2:

    I(t) = 1 + 2 p (1 - p) (λ1 - λ2)² / (λ θ) (1 - (1 - exp(-θ t)) / (θ t)),    θ = q1 + q2

A day changes too slowly for a queue to average over it: what counts is its peak. A trace has both: its slow changes
are the rates of `SEGMENTS` parts, of which the highest is its peak; its dispersion is counted within them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inferplan.spec.arrivals import Bursts, Source
from inferplan.spec.trace import Trace

Floats = NDArray[np.float64]

SEGMENTS = 16
LEAST_IN_SEGMENT = 64
"""Of fewer arrivals a segment's rate says nothing."""
_STEPS = 24


@dataclass(frozen=True, slots=True)
class Dispersion:
    """Index of dispersion of counts over times (rising, seconds); beyond them as at the nearest."""

    times_s: tuple[float, ...]
    values: tuple[float, ...]

    def over(self, times_s: Floats) -> Floats:
        """The index over some times, straight in their logarithm."""
        return np.interp(np.log(times_s), np.log(self.times_s), self.values)


@dataclass(frozen=True, slots=True)
class Unevenness:
    """`scv`: squared coefficient of variation of the gaps between requests. `dispersion`: None where that says it all.
    `peak_factor`: peak rate over mean rate, of slow changes."""

    scv: float = 1.0
    dispersion: Dispersion | None = None
    peak_factor: float = 1.0


def unevenness_of(source: Source) -> Unevenness:
    """How unevenly a source's requests arrive."""
    process = source.process
    if source.trace is not None:
        return _of_trace(source.trace)
    if process.process == "mmpp":
        return Unevenness(1.0, _of_bursts(Bursts.of(process), source.rate_rps))
    if process.process == "diurnal":
        return Unevenness(1.0, None, process.peak_factor or 1.0)
    return Unevenness(0.0 if process.process == "deterministic" else (process.cv or 1.0) ** 2)


def _of_bursts(bursts: Bursts, rate_rps: float) -> Dispersion:
    theta = 1 / bursts.high_s + 1 / bursts.low_s
    swing = 2 * bursts.share * (1 - bursts.share) * (bursts.high - bursts.low) ** 2 * rate_rps / theta
    times = np.geomspace(1e-3, 1e3, 4 * _STEPS) / theta
    values = 1 + swing * (1 - -np.expm1(-theta * times) / (theta * times))
    return Dispersion(tuple(times.tolist()), tuple(values.tolist()))


def _of_trace(trace: Trace) -> Unevenness:
    """Peak and dispersion as they were recorded."""
    times = trace.arrivals_s(np.random.default_rng(0))
    gaps = np.diff(times)
    scv = float((gaps.std() / gaps.mean()) ** 2) if len(gaps) and gaps.mean() > 0 else 1.0
    segments = max(min(SEGMENTS, len(times) // LEAST_IN_SEGMENT), 1)
    counts = np.histogram(times, segments, (0.0, trace.span_s))[0]
    # A segment that stands out by no more than chance is no peak.
    busiest = float(counts.max()) - 2 * math.sqrt(float(counts.max()))
    peak = max(busiest * segments / len(times), 1.0)
    found_t, found_i = [], []
    longest = max(int(math.log2(len(times) / segments / 8)) if len(times) > 8 * segments else 0, 0)
    for step in range(longest + 1):
        # Windows with about 2^step arrivals each, the same number of them in every segment.
        windows = max(len(times) // (segments * 2**step), 2)
        seen = np.histogram(times, segments * windows, (0.0, trace.span_s))[0].reshape(segments, windows)
        found_t.append(trace.span_s / (segments * windows))
        found_i.append(float(seen.var(axis=1, ddof=1).mean() / seen.mean()))
    return Unevenness(scv, Dispersion(tuple(found_t), tuple(found_i)), peak)


def together(parts: list[tuple[float, Unevenness]]) -> Unevenness:
    """Independent streams as one, weighted by their rates: variances of counts add up."""
    total = sum(rate for rate, _ in parts)
    if total <= 0:
        return Unevenness()
    scv = sum(rate * part.scv for rate, part in parts) / total
    peak = sum(rate * part.peak_factor for rate, part in parts) / total
    curves = [part.dispersion for _, part in parts if part.dispersion is not None]
    if not curves:
        return Unevenness(scv, None, peak)
    times = np.geomspace(min(c.times_s[0] for c in curves), max(c.times_s[-1] for c in curves), 4 * _STEPS)
    values = np.zeros(len(times))
    for rate, part in parts:
        values += rate / total * (part.scv if part.dispersion is None else part.dispersion.over(times))
    return Unevenness(scv, Dispersion(tuple(times.tolist()), tuple(values.tolist())), peak)
