"""Integer splits of a job's requests over configurations: least time for a mean accuracy, exactly.

A job of b requests runs on one replica that holds every configuration (MOSEL, EMNLP 2024: one model, its modality
subsets). Requests of one configuration run as batches of that configuration, one batch after the other, so

    time(n) = Σ_i T_i(n_i)      T_i(n) = least Σ of batch times over ways to cut n into batches of at most the largest
                                         measured one
    valid:  Σ_i n_i = b,   Σ_i n_i a_i >= b A     (accuracies turned so that higher is better; a tolerance of 1e-9)

T_i is found by dynamic programming over n. Splits are found by dynamic programming over configurations: for every
number of requests the splits that no other beats in both time and summed accuracy (Pareto labels). A partial split that
is beaten stays beaten whatever is added, so the labels of b hold the best split for every A at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inferplan.estimators.composition import TOLERANCE, Turn

Floats = NDArray[np.float64]
MOST_REQUESTS = 128
"""Largest job: labels grow with it."""


@dataclass(frozen=True)
class Configuration:
    """What a request can be served with. `times_s[n]` is the least time of n requests, n = 0, 1, ..."""

    name: str
    accuracy: float
    times_s: tuple[float, ...]


@dataclass(frozen=True)
class Split:
    """Requests per configuration (those with any), and what that takes and gives."""

    counts: Mapping[str, int]
    time_s: float
    accuracy: float
    """Mean over the requests, in the metric."""

    @property
    def requests(self) -> int:
        """Requests served."""
        return sum(self.counts.values())


def batch_cuts(time_of: Callable[[int], float], largest: int, most: int) -> list[tuple[float, tuple[int, ...]]]:
    """For n = 0..most: the least time of n calls in batches of at most `largest`, and those batches, largest first."""
    best: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    own = [0.0, *(time_of(size) for size in range(1, min(largest, most) + 1))]
    for n in range(1, most + 1):
        sizes = range(1, min(n, largest) + 1)
        size = min(sizes, key=lambda size: (best[n - size][0] + own[size], -size))
        best.append((best[n - size][0] + own[size], tuple(sorted((*best[n - size][1], size), reverse=True))))
    return best


def fronts(configurations: Sequence[Configuration], most: int, turn: Turn) -> list[list[Split]]:
    """For b = 0..most: every split of b requests that no other beats in time and accuracy, fastest first."""
    kept = [c for c in sorted(configurations, key=lambda c: c.name) if not _beaten(c, configurations, most, turn)]
    times = [np.zeros(1)] + [np.empty(0)] * most
    sums = [np.zeros(1)] + [np.empty(0)] * most
    counts = [np.zeros((1, len(kept)), np.int64)] + [np.empty((0, len(kept)), np.int64)] * most
    for index, configuration in enumerate(kept):
        worth = turn.turned(configuration.accuracy)
        added = [_joined(b, index, configuration.times_s, worth, times, sums, counts) for b in range(most + 1)]
        times, sums, counts = ([item[part] for item in added] for part in range(3))  # type: ignore[assignment]
    return [[_split(row, kept) for row in rows] for rows in counts]


def _joined(
    b: int,
    index: int,
    times_s: Sequence[float],
    worth: float,
    times: Sequence[Floats],
    sums: Sequence[Floats],
    counts: Sequence[NDArray[np.int64]],
) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Labels of b requests with a further configuration."""
    every = range(b + 1)
    time = np.concatenate([times[b - n] + times_s[n] for n in every])
    total = np.concatenate([sums[b - n] + n * worth for n in every])
    count = np.concatenate([counts[b - n] for n in every])
    count[:, index] = np.concatenate([np.full(len(times[b - n]), n) for n in every])
    order = np.lexsort((-total, time))
    best = np.maximum.accumulate(np.concatenate([[-math.inf], total[order][:-1]]))
    stays = order[total[order] > best]
    return time[stays], total[stays], count[stays]


def _beaten(own: Configuration, configurations: Sequence[Configuration], most: int, turn: Turn) -> bool:
    """Whether another configuration is as accurate and as fast for every number of requests.

    Where its time is subadditive all requests of `own` can move there. Of equals the first name stays.
    """
    for other in configurations:
        if other.name == own.name or turn.turned(other.accuracy) < turn.turned(own.accuracy):
            continue
        if not _subadditive(other.times_s, most):
            continue
        if any(other.times_s[n] > own.times_s[n] for n in range(most + 1)):
            continue
        same = other.accuracy == own.accuracy and other.times_s[: most + 1] == own.times_s[: most + 1]
        if not same or other.name < own.name:
            return True
    return False


def _subadditive(times_s: Sequence[float], most: int) -> bool:
    """Whether requests together never take longer than apart."""
    return all(times_s[n] <= times_s[k] + times_s[n - k] for n in range(2, most + 1) for k in range(1, n // 2 + 1))


def _split(row: NDArray[np.int64], configurations: Sequence[Configuration]) -> Split:
    used = [(c, int(n)) for c, n in zip(configurations, row, strict=True) if n]
    return split_of({c.name: n for c, n in used}, [c for c, _ in used])


def split_of(counts: Mapping[str, int], configurations: Sequence[Configuration]) -> Split:
    """Time and accuracy of a split."""
    by_name = {c.name: c for c in configurations}
    requests = sum(counts.values())
    time = math.fsum(by_name[name].times_s[n] for name, n in counts.items())
    total = math.fsum(by_name[name].accuracy * n for name, n in counts.items())
    return Split(dict(counts), time, total / requests if requests else 0.0)


def fastest(front: Sequence[Split], target: float | None, turn: Turn) -> Split | None:
    """The fastest split of a front that reaches a mean accuracy; None where none does."""
    return next((split for split in front if target is None or turn.keeps(split.accuracy, target)), None)


def most_accurate(front: Sequence[Split], deadline_s: float) -> Split | None:
    """The most accurate split of a front within a time; None where none is."""
    within = [split for split in front if split.time_s <= deadline_s]
    return within[-1] if within else None


def is_valid(split: Split, requests: int, target: float | None, turn: Turn) -> bool:
    """Whether a split serves all requests and reaches the mean accuracy."""
    served = split.requests == requests and all(n > 0 for n in split.counts.values())
    return served and (target is None or turn.turned(split.accuracy) >= turn.turned(target) - TOLERANCE)
