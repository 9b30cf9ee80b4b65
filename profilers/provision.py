"""What this machine can measure for a workload: the device it stands for, runtimes, providers, threads."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from inferplan.profilers.fingerprint import Machine
from inferplan.profilers.runtimes.versions import runtime_versions
from inferplan.spec.errors import InputError, MissingExtraError
from inferplan.spec.workload import ProfileSettings, Workload

BY_KIND: Mapping[str, tuple[str, ...]] = {"cpu": ("cpu", "openvino"), "gpu": ("cuda", "tensorrt")}
"""Providers that make sense on a kind of device. The first is every runtime's."""
_EXTRAS = {"onnxruntime": ("cpu", "running ONNX models"), "torch": ("torch", "running torch models")}


@dataclass(frozen=True, slots=True)
class Providers:
    """Which providers each runtime is measured with, the common one first, and what is to be said about it."""

    by_runtime: Mapping[str, tuple[str, ...]]
    notes: tuple[str, ...] = ()

    @property
    def common(self) -> str:
        """The provider that whole combinations run on: the one that most runtimes have, as listed."""
        counts: dict[str, int] = {}
        for names in self.by_runtime.values():
            for name in names:
                counts[name] = counts.get(name, 0) + 1
        return max(counts, key=lambda name: counts[name])


def used_runtimes(workload: Workload) -> list[str]:
    """Names of the runtimes that the workload's variants use, sorted."""
    return sorted({v.runtime for stage in workload.pipeline.stages.values() for v in stage.variants.values()})


def providers(workload: Workload, device: str, available: Callable[[str], Iterable[str]]) -> Providers:
    """Providers to measure: those the workload lists, else cpu on a CPU, cuda and tensorrt on a GPU.

    `available` tells those that a runtime's library has. What a runtime lacks is left out, with a note where it
    was asked for by name. Raises InputError where a runtime is left without any.
    """
    kind = workload.devices()[device].kind
    listed = workload.profile.providers
    strange = [name for name in listed if name not in BY_KIND[kind]]
    notes = [f"provider {name} does not belong to {device}, which is a {kind.upper()}" for name in strange]
    # The common one comes first whatever the order of the list: other figures are told apart from its.
    wanted = [name for name in BY_KIND[kind] if name in listed] if listed else _default(kind)
    if not wanted:
        raise InputError(f"profile.providers: none of {', '.join(listed)} runs on {device}, which is a {kind.upper()}")
    found: dict[str, tuple[str, ...]] = {}
    for runtime in used_runtimes(workload):
        if runtime == "skip":
            continue
        has = set(available(runtime))
        found[runtime] = tuple(name for name in wanted if name in has)
        notes += [f"{runtime} has no provider {name} here" for name in wanted if name in listed and name not in has]
        if not found[runtime]:
            raise InputError(f"{device}: runtime {runtime} has none of the providers {', '.join(wanted)} here")
    # Passing things through runs nowhere in particular: it is measured once, beside the others.
    firsts = [names[0] for names in found.values()] or wanted
    found["skip"] = (firsts[0],)
    return Providers(found, tuple(notes))


def _default(kind: str) -> list[str]:
    return ["cpu"] if kind == "cpu" else list(BY_KIND["gpu"])


def thread_counts(settings: ProfileSettings, cores: int) -> tuple[list[int], list[int]]:
    """Thread counts that there are cores for, and those that there are not. Raises InputError where none is left."""
    wanted = sorted(set(settings.threads))
    usable = [threads for threads in wanted if threads <= cores]
    if not usable:
        raise InputError(f"profile.threads: {wanted} all exceed the {cores} cores there are to use")
    return usable, wanted[len(usable) :]


def resolve_device(workload: Workload, machine: Machine, wanted: str | None) -> str:
    """The workload's device that this machine stands for. Raises InputError where that is not clear."""
    devices = workload.devices()
    measurable = [name for name, device in devices.items() if device.like is None]
    if wanted is not None:
        if wanted not in devices:
            raise InputError(f"there is no device {wanted!r}; there are: {', '.join(devices)}")
        like = devices[wanted].like
        if like is not None:
            raise InputError(f"{wanted} is not measured itself, it is like {like.device}: measure that")
        if devices[wanted].kind == "gpu" and not machine.gpus:
            raise InputError(f"{wanted} is a GPU, and this machine shows none")
        return wanted
    fitting = [name for name in measurable if devices[name].kind == "cpu" or machine.gpus]
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        raise InputError(f"this machine can stand for none of the devices: {', '.join(measurable)}")
    raise InputError(f"which device does this machine stand for? --device {' | '.join(fitting)}")


def installed_versions(runtime: str) -> tuple[str, ...]:
    """Versions that the library behind a runtime may have, told without importing it: several where several of
    its packages are installed. The runtime that runs nothing has the empty version."""
    if runtime == "skip":
        return ("",)
    return tuple(package.version for package in runtime_versions().get(runtime, ()))


def require_runtimes(runtimes: Sequence[str]) -> None:
    """Raises MissingExtraError where one of the runtimes is not installed."""
    for runtime in runtimes:
        if runtime in _EXTRAS and importlib.util.find_spec(runtime) is None:
            raise MissingExtraError(*_EXTRAS[runtime])
