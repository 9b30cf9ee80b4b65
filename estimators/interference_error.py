"""How wrong predicted slow-downs are: every measured one predicted from the others, as `interference` does it.

What a prediction rests on decides how wrong it is, so errors are told apart by it: the same pair of choices measured
with other batches, threads or numbers of neighbours; the choice beside copies of itself; its largest slow-down beside
anything. Beside them stands the error of taking nothing for slowed down. Of fewer than four cases no error is given.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from inferplan.estimators.interference import Disturbance, Interference
from inferplan.estimators.leave_one_out import Errors

LEAST_CASES = 4
Ground = Literal["same pair", "own copies", "largest of the choice"]
GROUNDS: tuple[Ground, ...] = ("same pair", "own copies", "largest of the choice")


@dataclass(frozen=True, slots=True)
class SlowdownErrors:
    """Errors of one ground; `ignored`: of taking the same cases for not slowed down. Both without values where there
    are fewer than four cases."""

    ground: Ground
    errors: Errors
    ignored: Errors


def slowdown_errors(known: Interference) -> tuple[SlowdownErrors, ...]:
    """Leave-one-out errors of slow-downs, by what predicts them."""
    logs: dict[Ground, list[float]] = {ground: [] for ground in GROUNDS}
    ignored: dict[Ground, list[float]] = {ground: [] for ground in GROUNDS}
    for row in known.measured:
        rest = [other for other in known.measured if other is not row]
        ground = _ground(row, rest)
        if ground is None:
            continue
        each = Interference(tuple(rest)).slowdown(row.subject, row.neighbour, row.copies)
        logs[ground].append(math.log(each**row.copies / row.slowdown))
        ignored[ground].append(-math.log(row.slowdown))
    return tuple(SlowdownErrors(ground, _told(logs[ground]), _told(ignored[ground])) for ground in GROUNDS)


def _ground(row: Disturbance, rest: Sequence[Disturbance]) -> Ground | None:
    """What the slow-down of a row would be predicted from; None where nothing of its choice was measured."""
    mine = [o for o in rest if o.subject.same_choice(row.subject) and o.subject.device == row.subject.device]
    if any(other.neighbour.same_choice(row.neighbour) for other in mine):
        return "same pair"
    if any(other.neighbour.same_choice(row.subject) for other in mine):
        return "own copies"
    return "largest of the choice" if mine else None


def _told(logs: Sequence[float]) -> Errors:
    return Errors.of(logs) if len(logs) >= LEAST_CASES else Errors(len(logs))
