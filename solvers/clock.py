"""The time there is to look: what takes long looks at the deadline, and ends without an answer where it has passed."""

from __future__ import annotations

import math
import time

from inferplan.spec.errors import UndecidedError

FIRST_S = 0.5
"""What tabulating, and building a first program, may take whatever the deadline: no time at all would say nothing."""


class OutOfTimeError(UndecidedError):
    """The deadline has passed before something was done: what is not known is no answer."""


def in_time(deadline: float, done: str) -> None:
    """Raise OutOfTimeError where the `deadline` (of `time.monotonic`) has passed; `done`: what is not done yet, as in
    "every option was tabulated"."""
    if deadline < math.inf and time.monotonic() >= deadline:
        raise too_late(done)


def too_late(done: str) -> OutOfTimeError:
    """The same, as an error to raise."""
    return OutOfTimeError(f"the time limit was over before {done}: give more time with --time-limit")
