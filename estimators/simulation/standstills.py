"""When the machine leaves the router standing: requests that come meanwhile, and replies of replicas, are all held up
until the end. When it leaves replicas standing: nothing is begun, and what was begun goes on at the end.

It differs from a time drawn per request, as what comes meanwhile then comes at once. What waits for a replica already
is served while the router stands, which it is not in truth: that is few calls where stalls are short. Of several
replicas of a station one stands while others go on, in truth; here all stand at the same times, each as often as in
truth, so that queues may come out somewhat longer. A queue's delay then stands still with its replicas.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inferplan.estimators.network import Stalls

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Standstills:
    """When something stands still: from, until; rising and apart."""

    starts_s: Floats
    ends_s: Floats

    @classmethod
    def of(cls, stalls: Stalls, end_s: float, rng: np.random.Generator) -> Standstills:
        """Stalls that begin before `end_s`, as a Poisson process; those that overlap are one."""
        starts = np.sort(rng.random(int(rng.poisson(stalls.rate_hz * end_s))) * end_s)
        lengths = np.array(stalls.lengths_s)
        ends = np.maximum.accumulate(starts + lengths[(rng.random(len(starts)) * len(lengths)).astype(np.int64)])
        apart = np.flatnonzero(starts[1:] > ends[:-1]) + 1
        first = np.concatenate([np.zeros(min(len(starts), 1), dtype=np.int64), apart])
        last = np.concatenate([apart, np.full(min(len(starts), 1), len(starts))]) - 1
        return cls(starts[first], ends[last])

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
        passed: Floats = running_s + self._stood_s[np.searchsorted(at, running_s, side="right" if over else "left")]
        return passed

    @property
    def _stood_s(self) -> Floats:
        """For how long it has stood before the first standstill, after the first, after the second, ..."""
        return np.concatenate([[0.0], np.cumsum(self.ends_s - self.starts_s)])
