"""Processor and memory as the system's files show them, and as they do not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from inferplan.profilers.processor import Files, read_memory, read_processor
from inferplan.spec.inventory import Cache, NumaNode

X86 = "processor: 0\nmodel name\t: Fast One\nflags\t\t: fpu sse4_2 avx512_vnni avx avx2 hypervisor amx_int8 avx512f\n"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine of two sockets, each of two cores with two threads."""
    write(tmp_path / "proc/cpuinfo", X86)
    write(tmp_path / "proc/meminfo", "MemTotal:    8388608 kB\nMemFree:  1 kB\nMemAvailable:    1024 kB")
    cpus = tmp_path / "sys/devices/system/cpu"
    for thread in range(8):
        write(cpus / f"cpu{thread}/topology/physical_package_id", str(thread // 4))
        write(cpus / f"cpu{thread}/topology/core_id", str(thread % 4 // 2))
    for index, (level, kind, size, shared) in enumerate(
        [(1, "Data", "48K", "0,4"), (1, "Instruction", "32K", "0,4"), (3, "Unified", "105M", "0-3")]
    ):
        for name, text in (("level", str(level)), ("type", kind), ("size", size), ("shared_cpu_list", shared)):
            write(cpus / f"cpu0/cache/index{index}/{name}", text)
    for node, cores in ((1, "4-7"), (0, "0-3")):
        write(tmp_path / f"sys/devices/system/node/node{node}/cpulist", cores)
        write(tmp_path / f"sys/devices/system/node/node{node}/meminfo", f"Node {node} MemTotal:  4194304 kB")
    return tmp_path


def test_a_processor(root: Path) -> None:
    found = read_processor(Files(root))
    assert found.model == "Fast One"
    assert (found.sockets, found.physical_cores, found.threads) == (2, 4, 8)
    assert found.caches == (
        Cache(1, "data", 48 * 2**10, 2),
        Cache(1, "instruction", 32 * 2**10, 2),
        Cache(3, "unified", 105 * 2**20, 4),
    )
    assert found.instruction_sets == ("sse4_2", "avx", "avx2", "avx512f", "avx512_vnni", "amx_int8")
    assert (found.virtual_machine, found.container) == ("of a kind that is not told", False)
    assert found.energy_counters == ()
    assert "no counters (RAPL)" in found.energy_gap


def test_arm_names_are_those_people_use(root: Path) -> None:
    write(root / "proc/cpuinfo", "processor: 0\nFeatures\t: fp asimd asimddp sve i8mm bf16\nHardware: Board\n")
    found = read_processor(Files(root))
    assert found.model == "Board"
    assert found.instruction_sets == ("neon", "dotprod", "i8mm", "bf16", "sve")
    assert found.virtual_machine == ""


def test_virtual_machine_and_container(root: Path) -> None:
    write(root / "sys/class/dmi/id/sys_vendor", "QEMU")
    write(root / "sys/class/dmi/id/product_name", "Standard PC")
    write(root / ".dockerenv", "")
    found = read_processor(Files(root))
    assert (found.virtual_machine, found.container) == ("QEMU Standard PC", True)
    write(root / "proc/cpuinfo", X86.replace("hypervisor", ""))  # a real machine has a maker, too
    assert read_processor(Files(root)).virtual_machine == ""


def test_what_may_be_used(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 2, 5, 7}, raising=False)
    assert read_processor(Files(root)).usable_cores == (1, 2, 5, 7)
    write(root / "proc/self/cgroup", "0::/")
    write(root / "sys/fs/cgroup/cpu.max", "250000 100000")
    found = read_processor(Files(root))
    assert (found.usable_cores, found.quota_cores) == ((1, 2), 2.5)


def test_energy_that_can_be_read(root: Path) -> None:
    for name, text in (("name", "package-0"), ("energy_uj", "5"), ("max_energy_range_uj", "9")):
        write(root / f"sys/class/powercap/intel-rapl:0/{name}", text)
    found = read_processor(Files(root))
    assert (found.energy_counters, found.energy_gap) == (("intel-rapl:0",), "")


def test_memory_and_nodes(root: Path) -> None:
    found = read_memory(Files(root))
    assert (found.total_bytes, found.available_bytes, found.limit_bytes) == (2**33, 2**20, None)
    assert found.nodes == (NumaNode(0, "0-3", 2**32), NumaNode(1, "4-7", 2**32))


@pytest.mark.parametrize(("limit", "expected"), [(2**30, 2**30), (2**34, None)])
def test_a_limit_counts_where_it_is_less_than_there_is(root: Path, limit: int, expected: int | None) -> None:
    write(root / "proc/self/cgroup", "0::/")
    write(root / "sys/fs/cgroup/memory.max", str(limit))
    assert read_memory(Files(root)).limit_bytes == expected


def test_a_machine_that_shows_nothing(tmp_path: Path) -> None:
    processor, memory = read_processor(Files(tmp_path)), read_memory(Files(tmp_path))
    assert (processor.sockets, processor.physical_cores, processor.caches) == (None, None, ())
    assert processor.threads >= 1
    assert processor.usable_cores
    assert (memory.total_bytes, memory.limit_bytes, memory.nodes) == (None, None, ())


def test_files_that_make_no_sense_are_left_out(root: Path) -> None:
    cache = root / "sys/devices/system/cpu/cpu0/cache"
    write(cache / "index0/size", "much")
    write(cache / "index1/shared_cpu_list", "all")
    write(root / "proc/meminfo", "MemTotal: many kB")
    assert [(c.kind, c.shared_by) for c in read_processor(Files(root)).caches] == [
        ("instruction", None),
        ("unified", 4),
    ]
    assert read_memory(Files(root)).total_bytes is None
