"""A machine is recognised; what it does not show is left out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from inferplan.profilers.fingerprint import Gpu, Machine, this_machine, usable_cores


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


def test_a_container_quota_bounds_the_cores(proc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)
    cgroup = tmp_path / "cgroup"
    group(cgroup, "a/b", "max 100000")
    assert usable_cores(proc, cgroup) == (0, 1, 2, 3)
    group(cgroup, "a", "250000 100000")
    assert usable_cores(proc, cgroup) == (0, 1)
    group(cgroup, "a/b", "10000 100000")
    assert usable_cores(proc, cgroup) == (0,)


def test_affinity_bounds_the_cores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {5, 3}, raising=False)
    assert usable_cores(tmp_path, tmp_path) == (3, 5)


def test_a_machine_that_shows_nothing_is_still_a_machine(tmp_path: Path) -> None:
    machine = this_machine(tmp_path, tmp_path)
    assert machine.memory_gib == 0
    assert machine.cpu_model


def test_machines_that_differ_have_different_hashes() -> None:
    assert Machine("a", "x", 2, 8).sha256() != Machine("a", "x", 4, 8).sha256()


def test_a_gpu_that_may_draw_less_is_another() -> None:
    full, capped = (Machine("a", "x", 2, 8, (Gpu("g", 2**34, "1", watts),)) for watts in (300, 200))
    assert full.sha256() != capped.sha256()
