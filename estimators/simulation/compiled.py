"""The simulator's loops: compiled by numba where it is installed and pays, else as they are. The results are the same.

Importing numba takes some tenths of a second, so short simulations do without. What it compiles is kept beside the
source, or in the user's cache where that cannot be written.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import FunctionType
from typing import Any

from inferplan.estimators.simulation import kernels

WORTH_CALLS = 500_000
"""Stage calls from which on the interpreted loops take longer than importing numba does."""


@dataclass(frozen=True, slots=True)
class Loops:
    """The loops of `kernels`. Where they are compiled they take arrays, else lists."""

    compiled: bool
    singles: Callable[..., None]
    batches: Callable[..., int]
    disturbed: Callable[..., int]


INTERPRETED = Loops(False, kernels.singles, kernels.batches, kernels.disturbed)


def loops(calls: int) -> Loops:
    """The loops that are fastest for about so many stage calls."""
    if "numba" in sys.modules or (calls >= WORTH_CALLS and importlib.util.find_spec("numba") is not None):
        return compiled()
    return INTERPRETED


@cache
def compiled() -> Loops:
    """The compiled loops. Raises ImportError without numba."""
    import numba

    helpers = {name: numba.njit(getattr(kernels, name)) for name in ("longer", "reordered")}
    names = {**vars(kernels), **helpers, "heapreplace": helpers["reordered"]}

    def fast(function: Callable[..., Any]) -> Callable[..., Any]:
        # No fast-math: every operation on floats is the interpreted one, in the same order.
        made: Callable[..., Any] = numba.njit(cache=True)(FunctionType(function.__code__, names, function.__name__))
        return made

    return Loops(True, fast(kernels.singles), fast(kernels.batches), fast(kernels.disturbed))
