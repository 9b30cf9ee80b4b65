"""The least limit of all groups above counts, in version 2, version 1, and both side by side."""

from __future__ import annotations

from pathlib import Path

import pytest

from inferplan.profilers.cgroups import cpu_quota, memory_limit_bytes


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    (tmp_path / "proc" / "self").mkdir(parents=True)
    return tmp_path / "proc"


@pytest.fixture
def cgroup(tmp_path: Path) -> Path:
    return tmp_path / "cgroup"


def belongs(proc: Path, *lines: str) -> None:
    (proc / "self" / "cgroup").write_text("\n".join(lines) + "\n")


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


def test_nested_groups_of_version_2(proc: Path, cgroup: Path) -> None:
    belongs(proc, "0::/pod/container")
    write(cgroup / "pod/container/cpu.max", "max 100000")
    write(cgroup / "pod/container/memory.max", "max")
    assert (cpu_quota(proc, cgroup), memory_limit_bytes(proc, cgroup)) == (None, None)
    write(cgroup / "pod/cpu.max", "250000 100000")
    write(cgroup / "pod/memory.max", str(2**30))
    assert (cpu_quota(proc, cgroup), memory_limit_bytes(proc, cgroup)) == (2.5, 2**30)
    write(cgroup / "pod/container/cpu.max", "50000 100000")
    write(cgroup / "pod/container/memory.max", str(2**33))
    assert (cpu_quota(proc, cgroup), memory_limit_bytes(proc, cgroup)) == (0.5, 2**30)


def test_version_1(proc: Path, cgroup: Path) -> None:
    belongs(proc, "5:cpu,cpuacct:/a/b", "4:memory:/a", "1:name=systemd:/")
    write(cgroup / "cpu,cpuacct/a/b/cpu.cfs_quota_us", "-1")
    write(cgroup / "cpu,cpuacct/a/b/cpu.cfs_period_us", "100000")
    write(cgroup / "memory/a/memory.limit_in_bytes", "9223372036854771712")
    assert (cpu_quota(proc, cgroup), memory_limit_bytes(proc, cgroup)) == (None, None)
    write(cgroup / "cpu,cpuacct/a/cpu.cfs_quota_us", "150000")
    write(cgroup / "cpu,cpuacct/a/cpu.cfs_period_us", "50000")
    write(cgroup / "memory/memory.limit_in_bytes", str(3 * 2**30))
    assert (cpu_quota(proc, cgroup), memory_limit_bytes(proc, cgroup)) == (3.0, 3 * 2**30)


def test_a_controller_under_its_own_name_and_version_2_beside_it(proc: Path, cgroup: Path) -> None:
    belongs(proc, "5:cpu,cpuacct:/x", "0::/y")
    write(cgroup / "cpu/x/cpu.cfs_quota_us", "400000")
    write(cgroup / "cpu/x/cpu.cfs_period_us", "100000")
    assert cpu_quota(proc, cgroup) == 4.0
    write(cgroup / "unified/y/cpu.max", "300000 100000")
    assert cpu_quota(proc, cgroup) == 3.0


@pytest.mark.parametrize("line", ["0::/docker/0123", "0::/../../docker/0123", "0::/"])
def test_a_container_sees_its_own_group_as_the_root(proc: Path, cgroup: Path, line: str) -> None:
    belongs(proc, line)
    write(cgroup / "cpu.max", "200000 100000")
    write(cgroup / "memory.max", "1000000")
    write(cgroup.parent / "cpu.max", "1 100000")  # above the mount: none of ours
    assert (cpu_quota(proc, cgroup), memory_limit_bytes(proc, cgroup)) == (2.0, 1_000_000)


@pytest.mark.parametrize("text", ["", "nonsense", "100000 0", "1 2 3"])
def test_files_that_say_nothing_are_no_limit(proc: Path, cgroup: Path, text: str) -> None:
    belongs(proc, "0::/")
    write(cgroup / "cpu.max", text)
    write(cgroup / "memory.max", text)
    assert (cpu_quota(proc, cgroup), memory_limit_bytes(proc, cgroup)) == (None, None)


def test_nothing_there(tmp_path: Path) -> None:
    assert (cpu_quota(tmp_path, tmp_path), memory_limit_bytes(tmp_path, tmp_path)) == (None, None)
