"""Processor and memory as the system's files show them. What they do not tell is None or empty."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

from inferplan.profilers.cgroups import cpu_quota, memory_limit_bytes
from inferplan.profilers.fingerprint import usable_cores
from inferplan.profilers.sensors import clocks_hz, energy_counters, temperatures_c
from inferplan.spec.inventory import Cache, MachineMemory, NumaNode, Processor

_INSTRUCTIONS = (
    *("sse4_2", "avx", "f16c", "fma", "avx2", "avx_vnni", "avx_vnni_int8"),
    *("avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_int8", "amx_bf16", "amx_fp16"),
    *("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2", "sme"),
)
"""Flags of /proc/cpuinfo that change how fast models run, x86-64 first, then Arm."""
_KNOWN_AS = {"asimd": "neon", "asimdhp": "fp16", "asimddp": "dotprod"}
_KINDS = {"Data": "data", "Instruction": "instruction", "Unified": "unified"}
_FACTORS = {"K": 2**10, "M": 2**20, "G": 2**30}
_CONTAINER_MARKS = (".dockerenv", "run/.containerenv", "run/systemd/container")


@dataclass(frozen=True, slots=True)
class Files:
    """Where the system shows itself."""

    root: Path = Path("/")

    @property
    def proc(self) -> Path:
        """Processes, /proc/cpuinfo, /proc/meminfo."""
        return self.root / "proc"

    @property
    def sys(self) -> Path:
        """Devices."""
        return self.root / "sys"

    @property
    def cgroup(self) -> Path:
        """Control groups."""
        return self.sys / "fs" / "cgroup"


def read_processor(files: Files) -> Processor:
    """The processors of this machine."""
    fields = _cpuinfo(files.proc)
    cpus = sorted(files.sys.glob("devices/system/cpu/cpu[0-9]*/topology"))
    packages = [_text(cpu / "physical_package_id") for cpu in cpus]
    cores = {(package, _text(cpu / "core_id")) for package, cpu in zip(packages, cpus, strict=True)}
    clocks = clocks_hz(files.proc, files.sys)
    counters = energy_counters(files.sys)
    return Processor(
        model=fields.get("model name") or fields.get("Hardware") or platform.processor() or "unknown",
        architecture=platform.machine(),
        virtual_machine=_virtual_machine(fields, files.sys),
        container=any((files.root / mark).exists() for mark in _CONTAINER_MARKS),
        sockets=len(set(packages)) or None,
        physical_cores=len(cores) or None,
        threads=len(cpus) or os.cpu_count() or 1,
        usable_cores=usable_cores(files.proc, files.cgroup),
        quota_cores=cpu_quota(files.proc, files.cgroup),
        caches=_caches(files.sys),
        instruction_sets=_instruction_sets(fields),
        clock_min_hz=min(clocks, default=None),
        clock_max_hz=max(clocks, default=None),
        temperature_c=max(temperatures_c(files.sys), default=None),
        energy_counters=tuple(counters.energy_j),
        energy_gap=counters.gap,
    )


def read_memory(files: Files) -> MachineMemory:
    """The memory of this machine."""
    total = _meminfo(files.proc / "meminfo", "MemTotal:")
    limit = memory_limit_bytes(files.proc, files.cgroup)
    return MachineMemory(
        total,
        _meminfo(files.proc / "meminfo", "MemAvailable:"),
        limit if limit is not None and (total is None or limit < total) else None,
        tuple(_nodes(files.sys)),
    )


def _cpuinfo(proc: Path) -> dict[str, str]:
    """Fields of the first processor."""
    fields: dict[str, str] = {}
    for line in _text(proc / "cpuinfo").splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    return fields


def _instruction_sets(fields: dict[str, str]) -> tuple[str, ...]:
    flags = set(fields.get("flags", fields.get("Features", "")).split())
    return tuple(_KNOWN_AS.get(flag, flag) for flag in _INSTRUCTIONS if flag in flags)


def _virtual_machine(fields: dict[str, str], sys: Path) -> str:
    """What kind of virtual machine this is; empty where nothing says so."""
    product = " ".join(filter(None, (_text(sys / "class/dmi/id" / name) for name in ("sys_vendor", "product_name"))))
    hypervisor = _text(sys / "hypervisor/type")
    if "hypervisor" not in fields.get("flags", "").split() and not hypervisor:
        return ""
    return product or hypervisor or "of a kind that is not told"


def _caches(sys: Path) -> tuple[Cache, ...]:
    found = []
    for folder in sorted(sys.glob("devices/system/cpu/cpu0/cache/index[0-9]*")):
        size, level = _size(_text(folder / "size")), _text(folder / "level")
        if size is not None and level.isdecimal():
            shared = _count(_text(folder / "shared_cpu_list"))
            found.append(Cache(int(level), _KINDS.get(_text(folder / "type"), "unified"), size, shared))
    return tuple(sorted(found, key=lambda cache: (cache.level, cache.kind)))


def _nodes(sys: Path) -> list[NumaNode]:
    found = []
    for folder in sys.glob("devices/system/node/node[0-9]*"):
        number = int(folder.name.removeprefix("node"))
        found.append(NumaNode(number, _text(folder / "cpulist"), _meminfo(folder / "meminfo", "MemTotal:")))
    return sorted(found, key=lambda node: node.number)


def _meminfo(path: Path, name: str) -> int | None:
    """A line `... NAME 123 kB` in bytes."""
    for line in _text(path).splitlines():
        words = line.split()
        if name in words and words[-1] == "kB" and words[-2].isdecimal():
            return int(words[-2]) * 1024
    return None


def _size(text: str) -> int | None:
    """`48K` in bytes."""
    if not text:
        return None
    factor = _FACTORS.get(text[-1], 1)
    digits = text[:-1] if text[-1] in _FACTORS else text
    return int(digits) * factor if digits.isdecimal() else None


def _count(text: str) -> int | None:
    """How many numbers `0-3,8-11` lists."""
    total = 0
    for part in text.split(","):
        first, _, last = part.partition("-")
        if not first.isdecimal() or (last and not last.isdecimal()):
            return None
        total += int(last or first) - int(first) + 1
    return total


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
