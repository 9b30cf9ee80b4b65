"""When the machine leaves something standing for a moment.

The router: requests that come meanwhile, and replies of replicas, are all held up until the end. It differs from a time
drawn per request, as what comes meanwhile then comes at once, while replicas have run dry.

Replicas: nothing is begun, and what was begun goes on at the end. Of several replicas of a station one stands while
others go on, in truth; here all stand at the same times, each as often as in truth, so that queues may come out
somewhat longer. A queue's delay stands still with its replicas.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inferplan.estimators.network import Stalls

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Standstills:
    """From, until; rising and apart."""

    starts_s: Floats
    ends_s: Floats

    @classmethod
    def of(cls, stalls: Stalls, end_s: float, rng: np.random.Generator) -> Standstills:
        """Stalls that begin before `end_s`, as a Poisson process; those that overlap are one."""
        starts = np.sort(rng.random(int(rng.poisson(stalls.rate_hz * end_s))) * end_s)
        lengths = np.array(stalls.lengths_s)
        return cls._apart(starts, starts + lengths[(rng.random(len(starts)) * len(lengths)).astype(np.int64)])

    @classmethod
    def _apart(cls, starts_s: Floats, ends_s: Floats) -> Standstills:
        """Those that overlap as one; starts come rising."""
        if len(starts_s) == 0:
            return cls(starts_s, ends_s)
        latest = np.maximum.accumulate(ends_s)
        apart = np.flatnonzero(starts_s[1:] > latest[:-1]) + 1
        first = np.concatenate([[0], apart])
        last = np.concatenate([apart, [len(starts_s)]]) - 1
        return cls(starts_s[first], latest[last])

    def longer_than(self, least_s: float) -> Standstills:
        """Those that last for longer."""
        long = self.ends_s - self.starts_s > least_s
        return Standstills(self.starts_s[long], self.ends_s[long])

    def joined(self, other: Standstills) -> Standstills:
        """When either stands still."""
        starts = np.concatenate([self.starts_s, other.starts_s])
        order = np.argsort(starts, kind="stable")
        return self._apart(starts[order], np.concatenate([self.ends_s, other.ends_s])[order])

    def held_up(self, times_s: Floats) -> Floats:
        """Times, in any order, those in a standstill put off until its end."""
        if len(self.starts_s) == 0:
            return times_s
        before = np.searchsorted(self.starts_s, times_s, side="right") - 1
        until: Floats = np.where(before >= 0, self.ends_s[np.maximum(before, 0)], 0.0)
        return np.maximum(times_s, until)

    def running_s(self, times_s: Floats) -> Floats:
        """For how long what stands meanwhile has gone by these times."""
        begun = np.searchsorted(self.starts_s, times_s, side="right")
        until = np.concatenate([[0.0], self.ends_s])[begun]
        stood: Floats = self._stood_s[begun]
        gone: Floats = np.maximum(times_s, until) - stood
        return gone

    def passed_s(self, running_s: Floats, *, over: bool) -> Floats:
        """The inverse: when it has gone for so long. Of a standstill that begins then, its beginning, or, where it is
        to be `over`, its end."""
        at = self.starts_s - self._stood_s[:-1]
        # What begins in a standstill may have been rounded down to just before it.
        begun = np.searchsorted(at, running_s + 4 * np.spacing(running_s) if over else running_s)
        passed: Floats = running_s + self._stood_s[begun]
        return passed

    @property
    def _stood_s(self) -> Floats:
        """For how long it has stood before the first standstill, after the first, after the second, ..."""
        return np.concatenate([[0.0], np.cumsum(self.ends_s - self.starts_s)])
