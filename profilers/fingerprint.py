"""What this machine is: processor, cores that may be used, memory, GPU. What cannot be told is left out."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU as NVML describes it."""

    name: str
    memory_bytes: int
    driver: str


@dataclass(frozen=True, slots=True)
class Machine:
    """This machine. `cores` are those this process may use: affinity and container quota count.

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


def cpu_quota(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> float | None:
    """The least CPU quota, in cores, of this process's control group and those above it; None without one."""
    quotas: list[float] = []
    own = _own_group(proc)
    for folder in [cgroup / own, *(cgroup / own).parents]:
        if not folder.is_relative_to(cgroup):
            break
        quota = _quota_of(folder)
        if quota is not None:
            quotas.append(quota)
    return min(quotas, default=None)


def _quota_of(folder: Path) -> float | None:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _own_group(proc: Path) -> str:
    """Path of the version 2 control group of this process, relative to where groups are mounted."""
    try:
        for line in (proc / "self" / "cgroup").read_text().splitlines():
            if line.startswith("0::"):
                return line[3:].strip().lstrip("/")
    except OSError:
        pass
    return ""


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
    """GPUs by NVML; none where its binding, its library or the driver is missing."""
    try:
        import pynvml
    except ImportError:
        return ()
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    try:
        driver = _text(pynvml.nvmlSystemGetDriverVersion())
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        return tuple(
            Gpu(_text(pynvml.nvmlDeviceGetName(handle)), int(pynvml.nvmlDeviceGetMemoryInfo(handle).total), driver)
            for handle in handles
        )
    except pynvml.NVMLError:
        return ()
    finally:
        pynvml.nvmlShutdown()


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
