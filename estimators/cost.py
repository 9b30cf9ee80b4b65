"""What machines cost and draw, and what they hold.

Machines are bought whole, each at its device type's price, or by share: then the share of a machine's capacity that
replicas take, in the resource of which they take most, is what is paid (a share of 2.5 is two and a half machines).

*Interruptions.* A machine that is taken away r times per hour of running is bought anew each time: it is paid while
it starts (`start_s`), and every replica's share of it is paid while the replica loads its model (`load_s`):

    restarts_usd_per_h = price r start_s / 3600  per machine,   + price r load_s / 3600 share  per replica

*Power.* A machine draws its idle power, and for every replica at work what that adds:

    w = idle_w + Σ_replicas busy_w u,    u the share of time at work

busy_w is (power_w - idle_power_w) times the replica's share of the cores (on a GPU: its share of the GPUs); where
the profile has a power counter of the processors and the workload says what that reads when idle (idle_power_w), what
the counter showed over that. Without idle_power_w a machine draws power_w all the time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from inferplan.spec.gpus import ON_GPU
from inferplan.spec.workload import Device, Tier

HOUR_S = 3600.0
BYTES_PER_GB = 2**30
"""Links are priced per 2^30 bytes."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """What one machine, or one replica, has or takes. Memory is None where it is not limited or not known."""

    cores: int
    memory_bytes: int | None = None
    gpus: int = 0
    gpu_memory_bytes: int | None = None


def machine_capacity(device: Device) -> Capacity:
    """What one machine offers to replicas; its GPUs' memories are added up."""
    memory = device.gpu_memory_bytes
    return Capacity(
        device.cores - device.reserved_cores,
        device.memory_bytes,
        device.gpu_count,
        memory if memory is None else memory * max(device.gpu_count, 1),
    )


def has_own_gpu(device: Device, provider: str) -> bool:
    """Whether replicas of this provider have a GPU to themselves whatever else is on the machine: on one with several
    GPUs, none is shared."""
    return provider in ON_GPU and device.gpu_count > 1


def replica_need(
    device: Device,
    provider: str,
    threads: int,
    memory_bytes: int | None,
    gpu_memory_bytes: int | None = None,
    shares_gpu: bool = False,
) -> Capacity | None:
    """What one replica takes; None where that cannot be said (a memory limit, but memory never measured).

    A replica on a GPU takes the whole GPU, unless it `shares_gpu`: then it takes its peak of the GPU's memory. One
    whose peak is more than a GPU has takes more than there is, and fits nowhere.
    """
    if device.memory_bytes is not None and memory_bytes is None:
        return None
    memory = memory_bytes if device.memory_bytes is not None else None
    room = device.gpu_memory_bytes
    if provider not in ON_GPU:
        return Capacity(threads, memory)
    if shares_gpu and room is not None and gpu_memory_bytes is not None:
        return Capacity(threads, memory, 0, gpu_memory_bytes)
    if room is None:
        return Capacity(threads, memory, 1)
    peak = gpu_memory_bytes or 0
    return Capacity(threads, memory, 1, room if peak <= room else peak * max(device.gpu_count, 1))


def fitting(machine: Capacity, need: Capacity) -> int:
    """How many replicas of one kind fit on an empty machine."""
    counts = [machine.cores // need.cores]
    if machine.memory_bytes is not None and need.memory_bytes:
        counts.append(machine.memory_bytes // need.memory_bytes)
    if need.gpus:
        counts.append(machine.gpus // need.gpus)
    if machine.gpu_memory_bytes is not None and need.gpu_memory_bytes:
        counts.append(machine.gpu_memory_bytes // need.gpu_memory_bytes)
    return min(counts)


def shares(machine: Capacity, need: Capacity) -> tuple[float, ...]:
    """The share of a machine that a replica takes, per resource: cores, memory, GPUs, GPU memory."""
    pairs = (
        (machine.cores, need.cores),
        (machine.memory_bytes, need.memory_bytes),
        (machine.gpus, need.gpus),
        (machine.gpu_memory_bytes, need.gpu_memory_bytes),
    )
    return tuple((taken or 0) / room if room else 0.0 for room, taken in pairs)


def machines_used(machine: Capacity, replicas: Sequence[tuple[Capacity, int]]) -> float:
    """The share of machines that replicas use together (need, count), in the resource they take most of."""
    every = [[count * share for share in shares(machine, need)] for need, count in replicas]
    return max((math.fsum(resource) for resource in zip(*every, strict=True)), default=0.0)


@dataclass(frozen=True, slots=True)
class Tariff:
    """What one machine of a device type costs and draws. Powers are None where nothing is known of them."""

    price_usd_per_h: float
    billing: Literal["whole", "share"] = "whole"
    interruptions_per_h: float = 0.0
    start_s: float = 0.0
    power_w: float | None = None
    idle_power_w: float | None = None
    energy_price_usd_per_kwh: float = 0.0
    carbon_g_per_kwh: float | None = None

    @property
    def idle_w(self) -> float | None:
        """Power of a machine whose replicas all wait."""
        return self.idle_power_w if self.idle_power_w is not None else self.power_w

    @property
    def restarts_usd_per_h(self) -> float:
        """Money lost per machine-hour while machines that replace interrupted ones start."""
        return self.price_usd_per_h * self.interruptions_per_h * self.start_s / HOUR_S

    @property
    def hourly_usd(self) -> float:
        """All that a machine costs per hour whose replicas wait: price, restarts, electricity."""
        return self.price_usd_per_h + self.restarts_usd_per_h + self.electricity_usd_per_h(self.idle_w or 0.0)

    def electricity_usd_per_h(self, power_w: float) -> float:
        """What electricity costs that is not part of the price."""
        return power_w / 1000 * self.energy_price_usd_per_kwh

    def reloads_usd_per_h(self, share: float, load_s: float | None) -> float:
        """Money lost per hour while a replica with this share of a machine loads its model after interruptions."""
        return self.price_usd_per_h * self.interruptions_per_h * (load_s or 0.0) / HOUR_S * share

    def lost_share(self, load_s: float | None) -> float:
        """Expected share of time that a replica is gone: interrupted, until it is started and loaded again."""
        down_s = self.interruptions_per_h * (self.start_s + (load_s or 0.0))
        return down_s / (HOUR_S + down_s)


def tariff(device: Device, tier: Tier) -> Tariff:
    """The tariff of a device of a tier."""
    return Tariff(
        device.price_usd_per_h,
        device.billing,
        device.interruptions_per_h,
        device.start_s,
        device.power_w,
        device.idle_power_w,
        tier.energy_price_usd_per_kwh,
        device.carbon_g_per_kwh if device.carbon_g_per_kwh is not None else tier.carbon_g_per_kwh,
    )


def busy_w(device: Device, provider: str, threads: int, counter_w: float | None) -> float | None:
    """What a replica at work adds to its machine's idle power; None where neither is known.

    `counter_w`: mean power that was measured while it worked (RAPL, or on a GPU the GPU's).
    """
    idle, full = device.idle_power_w, device.power_w
    on_gpu = provider in ON_GPU
    if counter_w is not None and idle is not None and not on_gpu:
        return max(counter_w - idle, 0.0)
    if full is not None:
        share = 1 / max(device.gpu_count, 1) if on_gpu else min(threads / (device.cores - device.reserved_cores), 1.0)
        return (full - (full if idle is None else idle)) * share
    # The GPU's own idle power is counted twice then: rather too much than too little.
    return counter_w if counter_w is not None and idle is not None else None


def egress_usd_per_h(rate_rps: float, payload_bytes: float, price_usd_per_gb: float) -> float:
    """What a link costs per hour: calls per second, bytes of each, price per gigabyte (2^30 bytes)."""
    return rate_rps * HOUR_S * payload_bytes / BYTES_PER_GB * price_usd_per_gb
