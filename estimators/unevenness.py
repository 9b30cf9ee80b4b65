"""How unevenly requests arrive, as queues feel it: variation of gaps, bursts, a recorded course, the peak of a day.

Every kind of unevenness changes the waits that `queueing` has for evenly mixed arrivals to another law of the same
form: with probability π a call waits, and then exponentially with some mean.

*Bursts* (mmpp). While a share p of the time, for 1/q1 in the mean, calls come at rate λ1, and else, for 1/q2, at λ2,
the backlog decays like exp(-θ x), x in calls: θ is the positive root of the largest eigenvalue of

    [ φ1(θ) - q1    q1 ]        φi(θ) = (λi / C - 1) θ + (λi / C d + c_s²) θ² / 2,
    [ q2    φ2(θ) - q2 ]        time in units of 1 / C

(C capacity, d dispersion of calls that come together, c_s² variation of service): the mean wait grows by θ without
bursts over θ. A call waits with the probability π that its state would have for good; where λ1 is beyond C every call
of a burst waits, and of the others the share p (λ1 - C) / ((1 - p) (C - λ2)) that finds the backlog of a fluid queue.

*A recorded course* (trace) is run through a server of the whole capacity, call by call or some at a time: the wait of
call i is max over j <= i of (i - j) / C - (t_i - t_j). Probability and mean are those of an exponential tail that has
the observed share of waits and the observed quantile.

*A day* changes too slowly for a queue to average over it: what counts is its peak.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inferplan.spec.arrivals import Bursts, Source
from inferplan.spec.trace import Trace

Floats = NDArray[np.float64]

COURSE_POINTS = 16_384
"""A longer trace is run through some arrivals at a time."""
_ROOT_STEPS = 50


@dataclass(frozen=True, eq=False)
class Course:
    """Times of every `each`-th recorded arrival, at a mean rate."""

    times_s: Floats
    each: int
    rate_rps: float

    @classmethod
    def of(cls, trace: Trace) -> Course:
        """That of a trace."""
        each = math.ceil(trace.requests / COURSE_POINTS)
        return cls(trace.some_s(each, np.random.default_rng(0)), each, trace.rate_rps)

    def waits_s(self, load: float, left: float) -> Floats:
        """Waits of its arrivals at a server that does `left` calls per second for it, of which it brings `load`."""
        work = np.arange(len(self.times_s)) * (self.each * load / self.rate_rps / left)
        ahead = work - self.times_s
        waits: Floats = ahead - np.minimum.accumulate(ahead)
        return waits

    def wait(self, load: float, left: float, level: float) -> tuple[float, float]:
        """Probability and conditional mean of the waits, by their share and their quantile (0..1)."""
        waits = self.waits_s(load, left)
        at_level, share = float(np.quantile(waits, level)), float(np.mean(waits > 0))
        if at_level <= 0 or share <= 1 - level:
            return 0.0, 0.0
        return share, at_level / math.log(share / (1 - level))


Uneven = Bursts | Course


@dataclass(frozen=True, slots=True)
class Unevenness:
    """`scv`: squared coefficient of variation of the gaps between requests. `bursts`: what else there is to them.
    `peak_factor`: peak rate over mean rate of a day."""

    scv: float = 1.0
    uneven: Uneven | None = None
    peak_factor: float = 1.0


def unevenness_of(source: Source) -> Unevenness:
    """How unevenly a source's requests arrive."""
    process = source.process
    if source.trace is not None:
        return Unevenness(1.0, Course.of(source.trace))
    if process.process == "mmpp":
        return Unevenness(1.0, Bursts.of(process))
    if process.process == "diurnal":
        return Unevenness(1.0, None, process.peak_factor or 1.0)
    return Unevenness(0.0 if process.process == "deterministic" else (process.cv or 1.0) ** 2)


@dataclass(frozen=True, slots=True)
class BurstLoad:
    """A station under bursts, one row per number of replicas, all rates as shares of its capacity.

    `high` and `low` are the loads in the two states, `leave_high` and `leave_low` the rates of leaving them;
    `dispersion` and `spread` those of calls and of service times.
    """

    high: Floats
    low: Floats
    leave_high: Floats
    leave_low: Floats
    dispersion: Floats
    spread: Floats

    @property
    def share(self) -> Floats:
        """Share of time in bursts."""
        return self.leave_low / (self.leave_high + self.leave_low)

    def longer(self) -> Floats:
        """By which factor the mean wait is longer than under the mean load without bursts."""
        mean = self.share * self.high + (1 - self.share) * self.low
        plain = 2 * (1 - mean) / (mean * self.dispersion + self.spread)
        low, high = np.zeros_like(plain), plain.copy()
        for _ in range(_ROOT_STEPS):
            middle = (low + high) / 2
            below = self._eigenvalue(middle) < 0
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        return np.maximum(plain / np.maximum(low, 1e-300), 1.0)

    def _eigenvalue(self, theta: Floats) -> Floats:
        one = self._exponent(self.high, theta) - self.leave_high
        two = self._exponent(self.low, theta) - self.leave_low
        found: Floats = (one + two + np.sqrt((one - two) ** 2 + 4 * self.leave_high * self.leave_low)) / 2
        return found

    def _exponent(self, load: Floats, theta: Floats) -> Floats:
        return (load - 1) * theta + (load * self.dispersion + self.spread) * theta**2 / 2

    def probability(self, in_high: Floats, in_low: Floats) -> Floats:
        """That a call waits, given that of either state for good."""
        share = self.share
        over = np.maximum(self.high - 1, 0.0) * share / ((1 - share) * np.maximum(1 - self.low, 1e-12))
        of_high = share * self.high / (share * self.high + (1 - share) * self.low)
        found: Floats = of_high * in_high + (1 - of_high) * np.maximum(in_low, np.minimum(over, 1.0))
        return found
