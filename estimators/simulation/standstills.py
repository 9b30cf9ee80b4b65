"""When the machine leaves the router standing: requests that come meanwhile, and replies of replicas, are all held up
until the end.

It differs from a time drawn per request, as what comes meanwhile then comes at once, while replicas have run dry. What
waits for a replica already is served meanwhile, which it is not in truth: that is few calls where stalls are short.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inferplan.estimators.network import Stalls

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Standstills:
    """When the router stands still: from, until; rising and apart."""

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
