"""Limits of this process's control groups: CPU quota and memory, of version 2 and version 1 alike.

A limit of any group above counts as well, so the least one is what there is. In a container the path that
`/proc/self/cgroup` names is often one of the host, and what is mounted is the container's own group: folders
that do not exist are passed over, up to the root of the mount.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
CGROUP = Path("/sys/fs/cgroup")
_NO_LIMIT_BYTES = 2**60
"""Version 1 writes the largest number of pages for "no limit"."""


def cpu_quota(proc: Path = PROC, cgroup: Path = CGROUP) -> float | None:
    """The least CPU quota, in cores, of this process's control group and those above it; None without one."""
    return _least(_folders(proc, cgroup, "cpu"), _quota_of)


def memory_limit_bytes(proc: Path = PROC, cgroup: Path = CGROUP) -> int | None:
    """The least memory limit of this process's control group and those above it; None without one."""
    limit = _least(_folders(proc, cgroup, "memory"), _memory_limit_of)
    return None if limit is None else int(limit)


@dataclass(frozen=True, slots=True)
class _Membership:
    """A line of `/proc/self/cgroup`. Version 2 has no controllers there."""

    controllers: tuple[str, ...]
    path: str


def _folders(proc: Path, cgroup: Path, controller: str) -> Iterator[Path]:
    """Folders of the groups that bound `controller`, of both versions, each with those above it."""
    groups = _memberships(proc)
    for group in groups or [_Membership((), "")]:
        if not group.controllers:
            # Beside version 1 controllers, version 2 is mounted one level down.
            roots = [cgroup, cgroup / "unified"]
        elif controller in group.controllers:
            roots = [cgroup / ",".join(group.controllers), cgroup / controller]
        else:
            continue
        for root in roots:
            yield from _upwards(root, group.path)


def _upwards(root: Path, path: str) -> Iterator[Path]:
    folder = root / path
    for place in (folder, *folder.parents):
        if not place.is_relative_to(root):
            return
        yield place


def _memberships(proc: Path) -> list[_Membership]:
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        parts = [part for part in path.strip().split("/") if part not in ("", "..")]
        found.append(_Membership(tuple(name for name in names.split(",") if name), "/".join(parts)))
    return found


def _least(folders: Iterator[Path], limit_of: Callable[[Path], float | None]) -> float | None:
    return min((limit for folder in folders if (limit := limit_of(folder)) is not None), default=None)


def _quota_of(folder: Path) -> float | None:
    """Quota over period; `max` in version 2 and -1 in version 1 stand for none."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text().strip()
            period = (folder / "cpu.cfs_period_us").read_text()
        return None if quota in ("max", "-1") else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _memory_limit_of(folder: Path) -> float | None:
    for name in ("memory.max", "memory.limit_in_bytes"):
        try:
            limit = int((folder / name).read_text())
        except (OSError, ValueError):
            continue
        return limit if limit < _NO_LIMIT_BYTES else None
    return None
