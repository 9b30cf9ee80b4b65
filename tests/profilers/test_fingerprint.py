"""A machine is recognised; what it does not show is left out."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

from inferplan.profilers.fingerprint import Machine, cpu_quota, this_machine, usable_cores


def group(cgroup: Path, path: str, quota: str) -> None:
    (cgroup / path).mkdir(parents=True, exist_ok=True)
    (cgroup / path / "cpu.max").write_text(quota)


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    folder = tmp_path / "proc"
    (folder / "self").mkdir(parents=True)
    (folder / "self" / "cgroup").write_text("0::/a/b\n")
    (folder / "meminfo").write_text("MemTotal:       24500000 kB\n")
    (folder / "cpuinfo").write_text("processor: 0\nmodel name\t: Fast One\nmodel\t\t: 7\n\nmodel name\t: Other\n")
    return folder


def test_this_machine_is_the_same_twice() -> None:
    assert this_machine() == this_machine()
    assert this_machine().sha256() == this_machine().sha256()
    assert this_machine().cores >= 1


def test_what_the_files_say(proc: Path, tmp_path: Path) -> None:
    machine = this_machine(proc, tmp_path / "none")
    assert machine.cpu_model == "Fast One 7"
    assert machine.memory_gib == 23


def test_a_container_quota_bounds_the_cores(proc: Path, tmp_path: Path) -> None:
    cgroup = tmp_path / "cgroup"
    group(cgroup, "a/b", "max 100000")
    assert cpu_quota(proc, cgroup) is None
    group(cgroup, "a", "150000 100000")
    assert cpu_quota(proc, cgroup) == 1.5
    assert len(usable_cores(proc, cgroup)) == 1
    group(cgroup, "a/b", "10000 100000")
    assert cpu_quota(proc, cgroup) == 0.1
    assert len(usable_cores(proc, cgroup)) == 1


def test_affinity_bounds_the_cores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {5, 3}, raising=False)
    assert usable_cores(tmp_path, tmp_path) == (3, 5)


def test_a_machine_that_shows_nothing_is_still_a_machine(tmp_path: Path) -> None:
    machine = this_machine(tmp_path, tmp_path)
    assert machine.memory_gib == 0
    assert machine.cpu_model


def nvml(monkeypatch: pytest.MonkeyPatch, works: bool) -> None:
    fake = ModuleType("pynvml")

    class NVMLError(Exception):
        pass

    class Memory:
        total = 8 * 2**30

    def init() -> None:
        if not works:
            raise NVMLError("Library Not Found")

    for name, value in {
        "NVMLError": NVMLError,
        "nvmlInit": init,
        "nvmlShutdown": lambda: None,
        "nvmlSystemGetDriverVersion": lambda: b"550.1",
        "nvmlDeviceGetCount": lambda: 1,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetName": lambda handle: "Test GPU",
        "nvmlDeviceGetMemoryInfo": lambda handle: Memory,
    }.items():
        setattr(fake, name, value)
    monkeypatch.setitem(sys.modules, "pynvml", fake)


def test_gpus_count_and_a_missing_driver_means_none(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml(monkeypatch, works=False)
    assert this_machine().gpus == ()
    without = this_machine().sha256()
    nvml(monkeypatch, works=True)
    (gpu,) = this_machine().gpus
    assert (gpu.name, gpu.memory_bytes, gpu.driver) == ("Test GPU", 8 * 2**30, "550.1")
    assert this_machine().sha256() != without


def test_machines_that_differ_have_different_hashes() -> None:
    assert Machine("a", "x", 2, 8).sha256() != Machine("a", "x", 4, 8).sha256()
