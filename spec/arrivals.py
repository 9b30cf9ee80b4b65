"""When requests arrive: the one implementation of arrival processes, for the simulator and the load generator.

*Poisson*, *gamma*, *deterministic*: gaps that are independent and alike; deterministic streams begin at a random
phase.

*mmpp*: a Poisson process whose rate switches between two states. In a burst it is `burst_factor` times the mean
rate. Bursts last `burst_s` in the mean and take the share `burst_share` of all time; where that is not given, half
of all requests arrive in bursts: burst_share = 1 / (2 burst_factor). Outside of bursts the rate is what leaves the mean
as it is: (1 - burst_share burst_factor) / (1 - burst_share). How long either state lasts is exponential.

*diurnal*: a Poisson process whose rate goes up and down once per `period_s`, from the trough at time 0 to
`peak_factor` times the mean in the middle. With f = peak_factor and x = t / period:

    f <= 2: mean (1 - (f - 1) cos 2πx)              f > 2: mean f sin(πx)^(2k),  k such that the mean is the mean

*trace*: replayed over and over (`spec.trace`).

Days and traces of several classes share one clock: `clock_s` is what it shows at the start.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from inferplan.spec.trace import Trace, read_trace
from inferplan.spec.workload import Arrivals, Workload

Floats = NDArray[np.float64]

STEPS_PER_DAY = 2048
"""Of the curve of a day: its rate is taken as straight between them."""


@dataclass(frozen=True)
class Source:
    """What makes the requests of a class arrive, at a mean of `rate_rps`. With a trace, `process` says nothing."""

    process: Arrivals
    rate_rps: float
    trace: Trace | None = None

    @property
    def cycle_s(self) -> float | None:
        """After how long it repeats: the length of a day or trace; None where it is the same at all times."""
        if self.trace is not None:
            return self.trace.span_s
        return self.process.period_s if self.process.process == "diurnal" else None

    def scaled(self, factor: float) -> Source:
        """`factor` times as many requests; a trace is replayed that much faster, days stay as long as they are."""
        trace = None if self.trace is None else self.trace.scaled(factor)
        return Source(self.process, self.rate_rps * factor, trace)

    def with_day(self, period_s: float) -> Source:
        """A day of another length, with as many requests per second; what has no days stays as it is."""
        if self.trace is not None or self.process.process != "diurnal":
            return self
        return replace(self, process=self.process.model_copy(update={"period_s": period_s}))

    def times_s(self, end_s: float, rng: np.random.Generator, clock_s: float = 0.0) -> Floats:
        """Arrival times in [0, end), rising, in seconds."""
        if self.trace is not None:
            return _replayed(self.trace, end_s, rng, clock_s)
        return arrival_times(self.process, self.rate_rps, end_s, rng, clock_s)


def source_of(workload: Workload, name: str) -> Source:
    """The source of a class. Raises InputError where its trace cannot be read."""
    traffic = workload.classes[name]
    if traffic.trace is None:
        assert traffic.rate_rps is not None
        return Source(traffic.arrivals, traffic.rate_rps)
    trace = read_trace(workload.root / traffic.trace)
    return Source(traffic.arrivals, trace.rate_rps, trace)


def arrival_times(
    arrivals: Arrivals, rate_rps: float, end_s: float, rng: np.random.Generator, clock_s: float = 0.0
) -> Floats:
    """Arrival times of a process in [0, end), rising, in seconds. `clock_s`: the time of day at 0."""
    if arrivals.process == "deterministic":
        phased = (np.arange(math.ceil(rate_rps * end_s) + 1, dtype=np.float64) + rng.random()) / rate_rps
        return phased[phased < end_s]
    if arrivals.process == "mmpp":
        return _modulated(*_bursts(arrivals, rate_rps, end_s, rng), rng)
    if arrivals.process == "diurnal":
        return _modulated(*_days(arrivals, rate_rps, end_s, clock_s), rng)
    return _renewals(1.0 if arrivals.process == "poisson" else (arrivals.cv or 1.0) ** -2, rate_rps, end_s, rng)


def _renewals(shape: float, rate_rps: float, end_s: float, rng: np.random.Generator) -> Floats:
    """Gaps of a gamma law of this shape, one after the other; shape 1 is Poisson."""
    expected = rate_rps * end_s
    blocks: list[Floats] = []
    last = 0.0
    while last < end_s:
        size = int(expected + 6 * math.sqrt(expected / shape) + 16)
        gaps = rng.exponential(size=size) if shape == 1.0 else rng.gamma(shape, 1 / shape, size)
        blocks.append(last + np.cumsum(gaps) / rate_rps)
        last = float(blocks[-1][-1])
    times = np.concatenate(blocks) if blocks else np.zeros(0)
    return times[times < end_s]


def _modulated(edges_s: Floats, expected: Floats, rng: np.random.Generator) -> Floats:
    """A Poisson process of which `expected` [n] arrive until each of `edges_s` [n], straight between them."""
    unit = _renewals(1.0, 1.0, float(expected[-1]), rng)
    times = np.asarray(np.interp(unit, expected, edges_s), dtype=np.float64)
    before: Floats = times[times < edges_s[-1]]
    return before


@dataclass(frozen=True, slots=True)
class Bursts:
    """The two states of an mmpp, as multiples of the mean rate, and their mean lengths in seconds."""

    high: float
    low: float
    high_s: float
    low_s: float

    @property
    def share(self) -> float:
        """Share of time in bursts."""
        return self.high_s / (self.high_s + self.low_s)

    @classmethod
    def of(cls, arrivals: Arrivals) -> Bursts:
        """Those of a process's parameters."""
        factor, length, share = arrivals.burst_factor, arrivals.burst_s, arrivals.burst_share
        assert factor is not None
        assert length is not None
        share = 1 / (2 * factor) if share is None else share
        return cls(factor, max(1 - share * factor, 0.0) / (1 - share), length, length * (1 - share) / share)


def _bursts(arrivals: Arrivals, rate_rps: float, end_s: float, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Edges of the states until `end_s`, and the arrivals expected until each."""
    bursts = Bursts.of(arrivals)
    high = bool(rng.random() < bursts.share)
    lengths = np.array([bursts.high_s, bursts.low_s] if high else [bursts.low_s, bursts.high_s])
    rates = np.array([bursts.high, bursts.low] if high else [bursts.low, bursts.high]) * rate_rps
    edges = np.zeros(1)
    while edges[-1] < end_s:
        pairs = int((end_s - edges[-1]) / lengths.sum() * 1.2) + 8
        stays = (rng.exponential(size=(pairs, 2)) * lengths).ravel()
        edges = np.concatenate([edges, edges[-1] + np.cumsum(stays)])
    last = int(np.searchsorted(edges, end_s))
    edges = np.append(edges[:last], end_s)
    stays = np.diff(edges)
    expected = np.concatenate([[0.0], np.cumsum(stays * rates[np.arange(len(stays)) % 2])])
    return edges, expected


def day_curve(arrivals: Arrivals) -> Callable[[Floats], Floats]:
    """Rate over mean rate, as a function of the part of the day (0..1)."""
    peak = arrivals.peak_factor
    assert peak is not None
    if peak <= 2:
        return lambda x: 1 - (peak - 1) * np.cos(2 * np.pi * x)
    power = _power(peak)
    return lambda x: peak * np.abs(np.sin(np.pi * x)) ** (2 * power)


@cache
def _power(peak: float) -> float:
    """k with a mean of sin^2k of 1 / peak: Γ(k + 1/2) / (√π Γ(k + 1)) falls with k."""
    low, high = 0.5, 4 * peak**2
    for _ in range(60):
        middle = (low + high) / 2
        mean = math.exp(math.lgamma(middle + 0.5) - math.lgamma(middle + 1)) / math.sqrt(math.pi)
        low, high = (middle, high) if mean > 1 / peak else (low, middle)
    return (low + high) / 2


def _days(arrivals: Arrivals, rate_rps: float, end_s: float, clock_s: float) -> tuple[Floats, Floats]:
    """Edges of the steps of a day's curve until `end_s`, and the arrivals expected until each."""
    period = arrivals.period_s
    assert period is not None
    steps = max(math.ceil(end_s / period * STEPS_PER_DAY), STEPS_PER_DAY // 4)
    edges = np.linspace(0.0, end_s, steps + 1)
    middles = (edges[:-1] + edges[1:]) / 2 + clock_s
    rates = day_curve(arrivals)(middles / period % 1.0) * rate_rps
    return edges, np.concatenate([[0.0], np.cumsum(rates * np.diff(edges))])


def _replayed(trace: Trace, end_s: float, rng: np.random.Generator, clock_s: float) -> Floats:
    """A trace from the time that the clock shows, over and over."""
    start = clock_s % trace.span_s
    passes = math.ceil((start + end_s) / trace.span_s)
    passed_s = [index * trace.span_s for index in range(passes)]
    found = [trace.arrivals_s(rng, max(start - p, 0.0), start + end_s - p) + p for p in passed_s]
    times = np.concatenate(found) - start
    return times[(times >= 0) & (times < end_s)]
