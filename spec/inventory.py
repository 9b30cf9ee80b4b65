"""What a machine has for inference, as `inferplan devices` lists it. None is what the machine does not tell.

`gaps` and `*_gap` say in words why something is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cache:
    """A cache as the first core sees it. `shared_by` counts the threads that share it."""

    level: int
    kind: str
    size_bytes: int
    shared_by: int | None


@dataclass(frozen=True, slots=True)
class Processor:
    """Processors of the machine. `usable_cores` are the threads (as the system numbers them) that affinity and
    container quota leave; `quota_cores` is that quota."""

    model: str
    architecture: str
    virtual_machine: str
    """Empty where nothing says that this is one."""
    container: bool
    sockets: int | None
    physical_cores: int | None
    threads: int
    usable_cores: tuple[int, ...]
    quota_cores: float | None
    caches: tuple[Cache, ...]
    instruction_sets: tuple[str, ...]
    clock_min_hz: float | None
    clock_max_hz: float | None
    temperature_c: float | None
    energy_counters: tuple[str, ...]
    energy_gap: str


@dataclass(frozen=True, slots=True)
class NumaNode:
    """Cores and memory that are near to each other."""

    number: int
    cores: str
    memory_bytes: int | None


@dataclass(frozen=True, slots=True)
class MachineMemory:
    """Memory. `limit_bytes` is the container's, where it is less than there is."""

    total_bytes: int | None
    available_bytes: int | None
    limit_bytes: int | None
    nodes: tuple[NumaNode, ...]


@dataclass(frozen=True, slots=True)
class MigInstance:
    """A part of a GPU that was cut by MIG."""

    name: str
    uuid: str
    memory_bytes: int | None


@dataclass(frozen=True, slots=True)
class GpuItem:
    """A GPU by NVML. `cuda_index` is its number for CUDA (of its first shown instance, under MIG); None where
    CUDA does not show it."""

    index: int
    name: str
    uuid: str
    cuda_index: int | None
    memory_bytes: int | None
    memory_free_bytes: int | None
    mig_enabled: bool | None
    instances: tuple[MigInstance, ...]
    clock_hz: float | None
    clock_max_hz: float | None
    power_w: float | None
    power_limit_w: float | None
    energy_counter: bool
    temperature_c: float | None
    utilisation: float | None
    throttle: tuple[str, ...]
    processes: int | None
    gaps: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Graphics:
    """The GPUs and their driver. `gap` says why there is no driver to ask."""

    driver: str
    cuda_version: str
    gpus: tuple[GpuItem, ...]
    gap: str


@dataclass(frozen=True, slots=True)
class Distribution:
    """An installed package."""

    name: str
    version: str


@dataclass(frozen=True, slots=True)
class Library:
    """A runtime's library. `distributions` are the packages that own it, `loaded` the one whose files are there;
    `providers` is what the library claims, None where it was not asked or could not answer (`gap`)."""

    runtime: str
    version: str
    distributions: tuple[Distribution, ...]
    loaded: str
    providers: tuple[str, ...] | None
    gap: str


@dataclass(frozen=True, slots=True)
class Standing:
    """Whether this machine can stand for a device of a workload. `threads` are the profile's thread counts that
    fit, `threads_beyond` those that do not."""

    device: str
    kind: str
    possible: bool
    why_not: str
    threads: tuple[int, ...]
    threads_beyond: tuple[int, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Standings:
    """What this machine is to a workload: `chosen` is what `inferplan profile` takes it for, `unclear` why it
    cannot tell."""

    workload: str
    devices: tuple[Standing, ...]
    chosen: str
    unclear: str


@dataclass(frozen=True, slots=True)
class Inventory:
    """All of it. `fingerprint` is what measurements made here carry."""

    fingerprint: str
    processor: Processor
    memory: MachineMemory
    graphics: Graphics
    libraries: tuple[Library, ...]
    standings: Standings | None
    warnings: tuple[str, ...]
