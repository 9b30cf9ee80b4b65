"""What machines cost, and what they hold. Machines are bought whole, each at its device type's price."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from inferplan.spec.workload import Device, Workload

ON_GPU = ("cuda", "tensorrt")
"""Providers that run on a GPU."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """What one machine, or one replica, has or takes. Memory is None where it is not limited or not known."""

    cores: int
    memory_bytes: int | None = None
    gpus: int = 0


def machine_capacity(device: Device) -> Capacity:
    """What one machine offers to replicas. A machine of kind gpu has one GPU."""
    return Capacity(device.cores - device.reserved_cores, device.memory_bytes, 1 if device.kind == "gpu" else 0)


def replica_need(device: Device, provider: str, threads: int, memory_bytes: int | None) -> Capacity | None:
    """What one replica takes; None where that cannot be said (a memory limit, but memory never measured).

    A replica on a GPU takes the whole GPU: how replicas share one is not measured.
    """
    if device.memory_bytes is not None and memory_bytes is None:
        return None
    return Capacity(threads, memory_bytes if device.memory_bytes is not None else None, 1 if provider in ON_GPU else 0)


def fitting(machine: Capacity, need: Capacity) -> int:
    """How many replicas of one kind fit on an empty machine."""
    counts = [machine.cores // need.cores]
    if machine.memory_bytes is not None and need.memory_bytes:
        counts.append(machine.memory_bytes // need.memory_bytes)
    if need.gpus:
        counts.append(machine.gpus // need.gpus)
    return min(counts)


def cost_usd_per_h(workload: Workload, machines: Mapping[str, int]) -> float:
    """Price of a number of machines of each device type (tier/device)."""
    devices = workload.devices()
    return math.fsum(devices[name].price_usd_per_h * count for name, count in sorted(machines.items()))
