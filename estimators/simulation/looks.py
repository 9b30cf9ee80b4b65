"""When verdicts are looked at, and how sure each look has to be.

Who looks at an interval of 99 % after 10, 20, 40 and 80 replications, and stops where it decides, is wrong several
times as often as who looks once. So the error is spent bit by bit: after a share t of all the effort t^(3/4) of it is
spent (Lan and DeMets 1983; Kim and DeMets 1987), each look having what was added since the one before, 41 % the last.
What looks spend adds up to the error of one interval, so with 99 % confidence the intervals of all of them hold the
truth, however they depend on one another.

A question that an effort leaves undecided may be asked again with more. Both then have a part of the whole: the second
looks only beyond where the first ended, and spends only what that has left.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from inferplan.estimators.intervals import CONFIDENCE

FEWEST = 10
"""Replications that are looked at first: at least so many, and less than twice as many."""
WHOLE = (0.0, 1.0)
POWER = 0.75
"""Near 1 the last looks have most of the error, and limits near the percentile are decided more often; near 0 the first
have, and others are decided sooner. Between 1/2 and 1 either changes by a few in 100."""


@dataclass(frozen=True, slots=True)
class Look:
    """After so many replications, at intervals of this confidence, two-sided."""

    replications: int
    confidence: float


def looks(affordable: int, part: tuple[float, float] = WHOLE) -> tuple[Look, ...]:
    """The looks of an effort that allows so many replications, at least `FEWEST`: after all of them, half of them, a
    quarter. `part`: from which share of the whole effort on it may be looked, and which share it is itself."""
    begin, end = part
    found, spent = [], begin**POWER
    for count in _halves(affordable):
        share = end * count / affordable
        if share > begin:
            found.append(Look(count, 1 - (1 - CONFIDENCE) * (share**POWER - spent)))
            spent = share**POWER
    return tuple(found)


def _halves(most: int) -> list[int]:
    """From few to many, each about twice the one before, the last `most`."""
    counts = [most]
    while (half := math.ceil(counts[0] / 2)) >= FEWEST:
        counts.insert(0, half)
    return counts
