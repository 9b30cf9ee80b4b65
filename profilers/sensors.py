"""What else the machine was doing while a point was measured: clocks, heat, energy, other processes.

Every reading is optional: what this machine does not show is None, never an error.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, process_time

_IDLE_COLUMNS = (3, 4)
"""Columns idle and iowait of the first line of /proc/stat. Guest time is part of user time already."""
_COUNTED_COLUMNS = 8


@dataclass(frozen=True, slots=True)
class Reading:
    """The sensors at one moment. Counters (`*_s`, `energy_j`) only mean something as differences."""

    wall_s: float
    own_cpu_s: float
    busy_cpu_s: float | None
    clock_min_hz: float | None
    clock_max_hz: float | None
    temperature_c: float | None
    energy_j: dict[str, float]
    energy_range_j: dict[str, float]


def read_sensors(proc: Path = Path("/proc"), sys: Path = Path("/sys")) -> Reading:
    """Read everything now. `own_cpu_s` is the calling process's."""
    clocks = clocks_hz(proc, sys)
    counters = energy_counters(sys)
    return Reading(
        perf_counter(),
        process_time(),
        _busy_cpu_s(proc),
        min(clocks, default=None),
        max(clocks, default=None),
        max(temperatures_c(sys), default=None),
        counters.energy_j,
        counters.range_j,
    )


@dataclass(frozen=True, slots=True)
class Window:
    """What happened between two readings."""

    wall_s: float
    own_cpu_s: float
    foreign_cpu_s: float | None
    clock_min_hz: float | None
    clock_max_hz: float | None
    temperature_c: float | None
    energy_j: float | None

    @classmethod
    def between(cls, before: Reading, after: Reading) -> Window:
        """The window; `foreign_cpu_s` is CPU time of all other processes."""
        own = after.own_cpu_s - before.own_cpu_s
        foreign = None
        if before.busy_cpu_s is not None and after.busy_cpu_s is not None:
            foreign = max(0.0, after.busy_cpu_s - before.busy_cpu_s - own)
        return cls(
            after.wall_s - before.wall_s,
            own,
            foreign,
            _least(before.clock_min_hz, after.clock_min_hz),
            _most(before.clock_max_hz, after.clock_max_hz),
            _most(before.temperature_c, after.temperature_c),
            _energy_between(before, after),
        )


def joined(windows: list[Window]) -> Window | None:
    """Several windows taken together; a counter that one of them lacks is None."""
    if not windows:
        return None
    foreign = [window.foreign_cpu_s for window in windows]
    energy = [window.energy_j for window in windows]
    first = windows[0]
    for window in windows[1:]:
        first = Window(
            first.wall_s + window.wall_s,
            first.own_cpu_s + window.own_cpu_s,
            None,
            _least(first.clock_min_hz, window.clock_min_hz),
            _most(first.clock_max_hz, window.clock_max_hz),
            _most(first.temperature_c, window.temperature_c),
            None,
        )
    return Window(
        first.wall_s,
        first.own_cpu_s,
        _sum(foreign),
        first.clock_min_hz,
        first.clock_max_hz,
        first.temperature_c,
        _sum(energy),
    )


def resident_bytes(pid: int, proc: Path = Path("/proc")) -> int:
    """Resident memory of a process and all below it; 0 where it is gone or /proc is absent."""
    total, waiting = 0, [pid]
    while waiting:
        process = waiting.pop()
        folder = proc / str(process)
        try:
            total += int((folder / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            for children in folder.glob("task/*/children"):
                waiting.extend(int(child) for child in children.read_text().split())
        except (OSError, ValueError, IndexError):
            continue
    return total


def peak_resident_bytes(proc: Path = Path("/proc")) -> int | None:
    """Most resident memory this process ever had.

    Not `ru_maxrss`: that starts at the memory of the process that started this one.
    """
    try:
        for line in (proc / "self" / "status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        return None
    return None


def _busy_cpu_s(proc: Path) -> float | None:
    try:
        with (proc / "stat").open() as file:
            columns = [int(text) for text in file.readline().split()[1 : 1 + _COUNTED_COLUMNS]]
        busy = sum(columns) - sum(columns[index] for index in _IDLE_COLUMNS)
        return busy / float(os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError, IndexError):
        return None


def clocks_hz(proc: Path = Path("/proc"), sys: Path = Path("/sys")) -> list[float]:
    """Clocks of the cores now; empty where they are not told."""
    clocks = [
        value * 1e3
        for path in sys.glob("devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq")
        if (value := _number(path)) is not None
    ]
    if clocks:
        return clocks
    try:
        lines = (proc / "cpuinfo").read_text().splitlines()
        return [float(line.partition(":")[2]) * 1e6 for line in lines if line.startswith("cpu MHz")]
    except (OSError, ValueError):
        return []


def temperatures_c(sys: Path = Path("/sys")) -> list[float]:
    """All temperatures there are; empty where there are none."""
    paths = [*sys.glob("class/thermal/thermal_zone*/temp"), *sys.glob("class/hwmon/hwmon*/temp*_input")]
    return [value / 1e3 for path in paths if (value := _number(path)) is not None]


@dataclass(frozen=True, slots=True)
class EnergyCounters:
    """The energy counters (RAPL) of the processor packages, in joules, and the values at which they start anew.

    All packages or none: `gap` says why there are none.
    """

    energy_j: dict[str, float]
    range_j: dict[str, float]
    gap: str = ""


def energy_counters(sys: Path = Path("/sys")) -> EnergyCounters:
    """Read the counters now.

    Sub-zones (core, dram: two colons) are parts of their package or outside of it, and `psys` counts the whole
    board with the packages in it: packages alone add up.
    """
    energy: dict[str, float] = {}
    ranges: dict[str, float] = {}
    for folder in sorted(sys.glob("class/powercap/intel-rapl:*")):
        if folder.name.count(":") != 1 or _zone_name(folder) == "psys":
            continue
        try:
            energy[folder.name] = float((folder / "energy_uj").read_text()) / 1e6
            ranges[folder.name] = float((folder / "max_energy_range_uj").read_text()) / 1e6
        except PermissionError:
            return EnergyCounters({}, {}, f"no permission to read {folder / 'energy_uj'}")
        except (OSError, ValueError):
            return EnergyCounters({}, {}, f"{folder.name} does not tell its energy")
    if not energy:
        return EnergyCounters({}, {}, f"no counters (RAPL) in {sys / 'class/powercap'}")
    return EnergyCounters(energy, ranges)


def _zone_name(folder: Path) -> str:
    try:
        return (folder / "name").read_text().strip()
    except OSError:
        return ""


def _energy_between(before: Reading, after: Reading) -> float | None:
    if not before.energy_j or before.energy_j.keys() != after.energy_j.keys():
        return None
    total = 0.0
    for name, start in before.energy_j.items():
        spent = after.energy_j[name] - start
        total += spent if spent >= 0 else spent + after.energy_range_j[name]
    return total


def _number(path: Path) -> float | None:
    try:
        return float(path.read_text())
    except (OSError, ValueError):
        return None


def _least(*values: float | None) -> float | None:
    return min((value for value in values if value is not None), default=None)


def _most(*values: float | None) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _sum(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None
