"""The simulator's loops: compiled by numba where it is installed and pays, else as they are. The results are the same.

Importing numba takes some tenths of a second, so short simulations do without. What it compiles is kept beside the
source, in the user's cache where that cannot be written, or where `NUMBA_CACHE_DIR` says.
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
"""Stage calls of a round of replications from which on compiled loops are loaded. That takes 0.4 s, as long as 2
million calls interpreted; rounds double while a promise is undecided, so those are soon reached."""


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
    """The compiled loops; as they are where what is compiled could not be kept: compiling takes seconds, and every
    start would pay for it. Raises ImportError without numba."""
    import numba

    helpers = {name: numba.njit(getattr(kernels, name)) for name in ("longer", "sifted")}
    names = {**vars(kernels), **helpers, "heapreplace": helpers["sifted"]}

    def fast(function: Callable[..., Any]) -> Callable[..., Any]:
        # No fast-math: every operation on floats is the interpreted one, in the same order.
        made: Callable[..., Any] = numba.njit(cache=True)(FunctionType(function.__code__, names, function.__name__))
        return made

    try:
        return Loops(True, fast(kernels.singles), fast(kernels.batches), fast(kernels.disturbed))
    except RuntimeError:
        # No place to keep it: neither beside the source, nor in the user's cache, nor in NUMBA_CACHE_DIR.
        return INTERPRETED
