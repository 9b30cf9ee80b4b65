"""When a point has been measured enough, and where its warm-up ends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inferplan.profilers.statistics import CONFIDENCE, least_count
from inferplan.spec.workload import ProfileSettings

Floats = NDArray[np.float64]

WARMUP_GAIN = 0.02
"""How much slower than the rest the first batches must be to count as warm-up."""
_BLOCKS = 50


@dataclass(frozen=True, slots=True)
class StoppingRule:
    """How much to measure. Times are measuring time of all processes together, warm-up not counted.

    It ends when `least_n` batches and `min_time_s` are reached; or, with `floor_n` batches, at `limit_s` (what
    a time budget leaves); or at `max_time_s` whatever there is. `confidence` is that of the upper bounds.
    """

    least_n: int
    processes: int
    min_time_s: float
    max_time_s: float
    limit_s: float = math.inf
    floor_n: int = 0
    confidence: float = CONFIDENCE

    @classmethod
    def of(cls, settings: ProfileSettings, limit_s: float = math.inf) -> StoppingRule:
        """The rule of a workload, with a shorter limit where a time budget sets one. Even then a median is
        measured."""
        most_s = settings.max_time_s
        least_s = min(settings.min_time_s, limit_s, most_s)
        confidence = settings.confidence
        least_n = least_count(settings.percentile, confidence=confidence)
        floor_n = least_count(50.0, confidence=confidence)
        return cls(least_n, settings.processes, least_s, most_s, limit_s, floor_n, confidence)

    def share(self, process: int) -> StoppingRule:
        """What one of the processes has to do (processes count from 0)."""
        parts = self.processes
        return StoppingRule(
            self.least_n // parts + (process < self.least_n % parts),
            1,
            self.min_time_s / parts,
            self.max_time_s / parts,
            self.limit_s / parts,
            self.floor_n // parts + (process < self.floor_n % parts),
            self.confidence,
        )

    def is_met(self, n: int, time_s: float) -> bool:
        """Whether both the minimum count and the minimum time are reached."""
        return n >= self.least_n and time_s >= self.min_time_s

    def is_over(self, n: int, time_s: float) -> bool:
        """Whether a time limit is reached."""
        return time_s >= self.max_time_s or (time_s >= self.limit_s and n >= self.floor_n)

    def wanted_n(self, n: int, spent_s: float) -> int:
        """How many batches to ask for next: what is missing of the rule (of the floor, once a time budget is
        used up) and a little more, because some may turn out to be warm-up."""
        missing = (self.least_n if spent_s < self.limit_s else self.floor_n) - n
        return max(1, missing + missing // 10)

    def progress(self, n: int, time_s: float, spent_s: float) -> float:
        """Share done, 0 to 1: towards the rule (`n` and `time_s` without warm-up), or towards a time limit."""
        towards_rule = min(_part(n, self.least_n), _part(time_s, self.min_time_s))
        towards_limit = _part(spent_s, min(self.limit_s, self.max_time_s))
        return min(1.0, max(towards_rule, towards_limit))

    def left_s(self, n: int, time_s: float) -> float:
        """Time until a limit may be reached, once `n` batches took `time_s`."""
        limit_s = self.limit_s if n >= self.floor_n else self.max_time_s
        return max(0.0, min(limit_s, self.max_time_s) - time_s)


def _part(value: float, whole: float) -> float:
    return value / whole if whole > 0 else 1.0


def warmup_end(durations_s: Floats) -> int:
    """How many of a process's first batches are warm-up.

    MSER (White 1997): cut where the standard error of the mean of what is left is least, at most half. It
    runs over medians of up to 50 blocks instead of single times, so that a rare slow call neither hides a
    warm-up nor looks like one; the blocks' medians are clipped to five deviations around those of the second
    half. A cut counts only if the median of what it leaves out is at least 2 % above the rest.
    """
    n = len(durations_s)
    size = max(1, math.ceil(n / _BLOCKS))
    blocks = n // size
    if blocks < 6:
        return 0
    medians = np.median(np.asarray(durations_s[: blocks * size]).reshape(blocks, size), axis=1)
    settled = medians[blocks // 2 :]
    centre = float(np.median(settled))
    spread = float(np.median(np.abs(settled - centre))) * 1.4826
    clipped = np.clip(medians, centre - 5 * spread, centre + 5 * spread) if spread > 0 else medians
    cut = min(range(blocks // 2 + 1), key=lambda d: (_squared_error(clipped[d:]), d)) * size
    if cut and np.median(durations_s[:cut]) >= (1 + WARMUP_GAIN) * np.median(durations_s[cut:]):
        return cut
    return 0


def cold_start(processes: Sequence[Floats]) -> bool:
    """Whether the first call of every process is warm-up, where there are too few calls for `warmup_end`.

    Large batches take new memory at first, up to three times as long. The first call of every process must be slower
    than all later calls of all processes; had first calls nothing special, that would happen once in
    n! / (k! (n - k)!) times for n calls of k processes (84 for three times three).
    """
    if len(processes) < 2 or any(len(times) < 2 for times in processes):
        return False
    later = np.concatenate([times[1:] for times in processes])
    firsts = min(float(times[0]) for times in processes)
    return firsts > float(later.max()) and firsts >= (1 + WARMUP_GAIN) * float(np.median(later))


def _squared_error(values: Floats) -> float:
    """Square of the standard error of the mean."""
    return float(values.var()) / len(values)
