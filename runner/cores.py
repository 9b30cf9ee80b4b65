"""Which replica runs on which cores of this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from inferplan.spec.errors import InputError
from inferplan.spec.gpus import gpus_of_replicas
from inferplan.spec.plan import LoadedPlan, Plan

CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")
BUSY_POLL_S = 0.002
"""How long router and replicas ask for what comes next again and again before they sleep, where each has cores of its
own. A core that halts takes 20 to 150 us to come back on virtual machines, more or less by what the host does for
seconds, twice per batch: as long as a small model takes. After longer rests that is little beside the rest."""


@dataclass(frozen=True, slots=True)
class Slot:
    """The place of one replica: the plan's machine it belongs to, and the cores here that it is pinned to."""

    option: str
    machine: str
    cores: tuple[int, ...]
    gpu: int | None = None
    """The GPU it runs on, counted among those that programs here are shown; None: none, or its machine's only one."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What one replica asks for: how many cores, and which GPU."""

    option: str
    machine: str
    threads: int
    gpu: int | None = None


@dataclass(frozen=True, slots=True)
class Placing:
    """Every replica's slot, what is to be said about them, and the cores that no replica has."""

    slots: tuple[Slot, ...]
    notes: tuple[str, ...] = ()
    free: tuple[int, ...] = ()

    @property
    def apart(self) -> bool:
        """Whether router and replicas share no core, so that none takes time from another by busy polling."""
        return bool(self.free)


def available_cores() -> tuple[int, ...]:
    """Cores that this process may use, no more than a container's CPU quota allows."""
    if hasattr(os, "sched_getaffinity"):
        cores = sorted(os.sched_getaffinity(0))
    else:
        cores = list(range(os.cpu_count() or 1))
    return tuple(cores[: max(1, _quota(len(cores)))])


def _quota(count: int) -> int:
    try:
        quota, period = CGROUP_QUOTA.read_text().split()
        return count if quota == "max" else min(count, int(quota) // int(period))
    except (OSError, ValueError):
        return count


@contextmanager
def kept_to(cores: Sequence[int]) -> Iterator[None]:
    """Keep this thread to some cores meanwhile; what it starts begins there, too. No cores: it runs where it may.

    A router that the system puts on a replica's core, as it likes to at low load, drives the model out of that core's
    caches: calls of 0.2 ms then take a fifth longer (docs/runner.md).
    """
    if not cores or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def place_replicas(loaded: LoadedPlan, cores: Sequence[int], *, oversubscribe: bool = False) -> Placing:
    """Give every replica of the plan cores of its own, all machines of the plan side by side on this one, and the GPU
    that it has on the plan's machine.

    What is left over is for router and load generator. Raises InputError where there are too few cores, unless
    `oversubscribe`: then cores are shared, and a note says so.
    """
    plan, devices = loaded.plan, loaded.workload.workload.devices()
    wanted = [
        Wanted(
            option,
            f"{name}[{index}]",
            max(1, plan.options[option].threads),
            gpu if devices[name].gpu_count > 1 else None,
        )
        for name, machines in sorted(plan.machines.items())
        for index, placements in enumerate(machines.packing)
        for option, gpu in gpus_of_replicas(placements, plan.options, devices[name])
    ]
    needed = sum(one.threads for one in wanted)
    notes: list[str] = []
    if needed > len(cores):
        counts = f"the plan's replicas need {needed} cores, this machine has {len(cores)} for us"
        if not oversubscribe:
            raise InputError(
                f"{counts}: what is measured here would say nothing about the plan",
                ["run it on a larger machine, scale the traffic down and solve again, or share cores (oversubscribe)"],
            )
        notes.append(f"oversubscribed: {counts}, so replicas share cores and are slower than planned")
    elif needed == len(cores):
        notes.append("the replicas take every core: router and load generator share cores with them")
    slots = tuple(_spread(plan, wanted, cores))
    taken = {core for slot in slots for core in slot.cores}
    return Placing(slots, tuple(notes), tuple(core for core in cores if core not in taken))


def _spread(plan: Plan, wanted: Sequence[Wanted], cores: Sequence[int]) -> list[Slot]:
    """The busiest replicas choose first, each the cores with the least work on them, the last ones where equal.

    Where there are enough cores nobody shares one; where there are not, those share that have the least to do.
    """
    load = dict.fromkeys(cores, 0.0)
    slots: dict[int, Slot] = {}
    busiest_first = sorted(range(len(wanted)), key=lambda i: -plan.options[wanted[i].option].predicted.utilisation)
    for index in busiest_first:
        one = wanted[index]
        taken = sorted(cores, key=lambda core: (load[core], -core))[: one.threads]
        for core in taken:
            # An idle replica still counts, so that an empty core is always taken before a shared one.
            load[core] += max(plan.options[one.option].predicted.utilisation, 0.01)
        slots[index] = Slot(one.option, one.machine, tuple(sorted(taken)), one.gpu)
    return [slots[index] for index in range(len(wanted))]
