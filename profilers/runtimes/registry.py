"""Runtimes by the name that workloads call them. A runtime's library is imported when it is first used."""

from __future__ import annotations

from functools import cache

from inferplan.profilers.runtimes.base import Runtime
from inferplan.spec.errors import InputError

NAMES = ("onnxruntime", "torch", "skip")


@cache
def runtime(name: str) -> Runtime:
    """The runtime of this name. Raises InputError where there is none.

    The library behind it may still be missing: using it then raises MissingExtraError.
    """
    if name == "onnxruntime":
        from inferplan.profilers.runtimes.onnxruntime import OnnxRuntime

        return OnnxRuntime()
    if name == "torch":
        from inferplan.profilers.runtimes.pytorch import TorchRuntime

        return TorchRuntime()
    if name == "skip":
        from inferplan.profilers.runtimes.skip import SkipRuntime

        return SkipRuntime()
    if name == "external":
        raise InputError("external variants are run by something else: they can be planned, not profiled or run here")
    raise InputError(f"there is no runtime {name!r}; there are: {', '.join(NAMES)}")
