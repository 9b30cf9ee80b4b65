"""What this machine is: processor, cores that may be used, memory, GPU. What cannot be told is left out."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
from dataclasses import dataclass
from pathlib import Path

from inferplan.profilers.cgroups import cpu_quota
from inferplan.profilers.nvml import NoDriver, NvmlGpu, open_driver


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU, or a MIG instance of one (its name says so), as CUDA shows it to a process started here.

    The power limit is part of it: a GPU that may draw less runs at lower clocks. Clocks and temperature are
    not: they change by the minute, and every measurement carries its own.
    """

    name: str
    memory_bytes: int
    driver: str
    power_limit_w: int | None = None


@dataclass(frozen=True, slots=True)
class Machine:
    """This machine. `cores` are those this process may use (affinity, container quota), `gpus` those that CUDA
    shows it, in CUDA's order: points are measured on the first.

    `memory_gib` is rounded, because the same machine reports a little more or less after each start.
    """

    cpu_model: str
    architecture: str
    cores: int
    memory_gib: int
    gpus: tuple[Gpu, ...] = ()

    def sha256(self) -> str:
        """Hash of all of it: measurements of machines that differ in it are not mixed."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def this_machine(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> Machine:
    """Describe the machine this runs on."""
    return Machine(_cpu_model(proc), platform.machine(), len(usable_cores(proc, cgroup)), _memory_gib(proc), _gpus())


def usable_cores(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> tuple[int, ...]:
    """Numbers of the cores this process may use; as many as a container's quota allows, and at least one."""
    if hasattr(os, "sched_getaffinity"):
        cores = sorted(os.sched_getaffinity(0))
    else:
        cores = list(range(os.cpu_count() or 1))
    quota = cpu_quota(proc, cgroup)
    return tuple(cores if quota is None else cores[: max(1, int(quota))])


def _cpu_model(proc: Path) -> str:
    """Brand, and family, model and stepping: cloud machines give different processors one brand."""
    wanted = ("model name", "cpu family", "model", "stepping", "CPU implementer", "CPU part")
    found: dict[str, str] = {}
    try:
        for line in (proc / "cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() in wanted:
                found.setdefault(name.strip(), value.strip())
    except OSError:
        pass
    parts = [found[name] for name in wanted if name in found]
    return " ".join(parts) or platform.processor() or "unknown"


def _memory_gib(proc: Path) -> int:
    try:
        for line in (proc / "meminfo").read_text().splitlines():
            if line.startswith("MemTotal:"):
                return round(int(line.split()[1]) / 2**20)
    except (OSError, ValueError, IndexError):
        pass
    return 0


def _gpus() -> tuple[Gpu, ...]:
    """Those that CUDA shows a measuring process; none where binding, library or driver is missing."""
    try:
        with open_driver() as driver:
            version = driver.version()
            return tuple(_gpu(found, version) for found in driver.for_cuda())
    except NoDriver:
        return ()


def _gpu(found: NvmlGpu, driver: str) -> Gpu:
    memory, limit_w = found.memory(), found.power_limit_w()
    return Gpu(found.name, memory.total_bytes if memory else 0, driver, None if limit_w is None else round(limit_w))
