"""Readings of the machine: differences of counters, and None for what is not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from inferplan.profilers.sensors import Reading, Window, energy_counters, joined, read_sensors, resident_bytes


def reading(**values: object) -> Reading:
    base: dict[str, object] = {
        "wall_s": 0.0,
        "own_cpu_s": 0.0,
        "busy_cpu_s": None,
        "clock_min_hz": None,
        "clock_max_hz": None,
        "temperature_c": None,
        "energy_j": {},
        "energy_range_j": {},
    }
    return Reading(**{**base, **values})  # type: ignore[arg-type]


def test_foreign_load_is_what_others_used() -> None:
    window = Window.between(
        reading(busy_cpu_s=100.0, own_cpu_s=5.0), reading(wall_s=2.0, busy_cpu_s=103.5, own_cpu_s=7.0)
    )
    assert window.foreign_cpu_s == pytest.approx(1.5)
    assert window.own_cpu_s == 2.0


def test_rounding_never_makes_foreign_load_negative() -> None:
    window = Window.between(reading(busy_cpu_s=1.0), reading(wall_s=1.0, busy_cpu_s=1.9, own_cpu_s=1.0))
    assert window.foreign_cpu_s == 0.0


def test_an_energy_counter_that_started_anew_is_followed() -> None:
    before = reading(energy_j={"package": 95.0}, energy_range_j={"package": 100.0})
    after = reading(energy_j={"package": 3.0}, energy_range_j={"package": 100.0})
    assert Window.between(before, after).energy_j == pytest.approx(8.0)


def rapl(sys: Path, zone: str, energy_uj: object, name: str = "package", range_uj: int = 9_000_000) -> Path:
    folder = sys / "class/powercap" / zone
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "energy_uj").write_text(f"{energy_uj}\n")
    (folder / "max_energy_range_uj").write_text(f"{range_uj}\n")
    return folder


def test_packages_add_up_each_with_its_own_range(tmp_path: Path) -> None:
    rapl(tmp_path, "intel-rapl:0", 8_000_000, "package-0")
    rapl(tmp_path, "intel-rapl:1", 1_000_000, "package-1", 20_000_000)
    before = read_sensors(tmp_path, tmp_path)
    rapl(tmp_path, "intel-rapl:0", 500_000, "package-0")  # started anew at 9 J
    rapl(tmp_path, "intel-rapl:1", 3_250_001, "package-1", 20_000_000)
    after = read_sensors(tmp_path, tmp_path)
    assert Window.between(before, after).energy_j == pytest.approx(1.5 + 2.250001, abs=1e-9)


def test_the_board_and_parts_of_a_package_are_not_counted_twice(tmp_path: Path) -> None:
    for zone, name in (("intel-rapl:0", "package-0"), ("intel-rapl:0:0", "core"), ("intel-rapl:1", "psys")):
        rapl(tmp_path, zone, 2_000_000, name)
    assert energy_counters(tmp_path).energy_j == {"intel-rapl:0": 2.0}


def test_one_package_that_may_not_be_read_means_no_energy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rapl(tmp_path, "intel-rapl:0", 2_000_000)
    forbidden = rapl(tmp_path, "intel-rapl:1", 2_000_000) / "energy_uj"
    read_text = Path.read_text

    def guarded(path: Path, *args: Any, **kwargs: Any) -> str:
        if path == forbidden:
            raise PermissionError(13, "Permission denied")
        return read_text(path, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", guarded)
    found = energy_counters(tmp_path)
    assert found.energy_j == {}
    assert found.gap == f"no permission to read {forbidden}"
    reading_now = read_sensors(tmp_path, tmp_path)
    assert Window.between(reading_now, reading_now).energy_j is None


def test_no_counters_and_broken_ones_say_so(tmp_path: Path) -> None:
    assert "no counters (RAPL)" in energy_counters(tmp_path).gap
    rapl(tmp_path, "intel-rapl:0", "")
    assert energy_counters(tmp_path).gap == "intel-rapl:0 does not tell its energy"


def test_a_package_that_came_or_went_means_no_energy() -> None:
    one = reading(energy_j={"a": 1.0}, energy_range_j={"a": 9.0})
    two = reading(energy_j={"a": 2.0, "b": 1.0}, energy_range_j={"a": 9.0, "b": 9.0})
    assert Window.between(one, two).energy_j is None


def test_windows_add_up_and_a_gap_in_one_is_a_gap_in_all() -> None:
    one = Window(1.0, 0.5, 0.2, 1e9, 2e9, 40.0, 3.0)
    two = Window(2.0, 1.0, None, 0.5e9, 1.5e9, 50.0, 4.0)
    assert joined([one, two]) == Window(3.0, 1.5, None, 0.5e9, 2e9, 50.0, 7.0)
    assert joined([]) is None


def test_a_machine_without_sensors_reads_as_none(tmp_path: Path) -> None:
    found = read_sensors(tmp_path, tmp_path)
    assert (found.busy_cpu_s, found.clock_min_hz, found.temperature_c, found.energy_j) == (None, None, None, {})
    assert resident_bytes(1, tmp_path) == 0


def test_what_the_files_say(tmp_path: Path) -> None:
    proc, sys = tmp_path / "proc", tmp_path / "sys"
    proc.mkdir()
    (proc / "stat").write_text("cpu  100 0 50 1000 7 0 0 50 30 0\ncpu0 1 2 3 4\n")
    for cpu, khz in (("cpu0", 1_000_000), ("cpu1", 3_000_000)):
        folder = sys / "devices/system/cpu" / cpu / "cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_cur_freq").write_text(f"{khz}\n")
    (sys / "class/thermal/thermal_zone0").mkdir(parents=True)
    (sys / "class/thermal/thermal_zone0/temp").write_text("45500\n")
    for zone in ("intel-rapl:0", "intel-rapl:0:0"):
        folder = sys / "class/powercap" / zone
        folder.mkdir(parents=True)
        (folder / "energy_uj").write_text("2000000")
        (folder / "max_energy_range_uj").write_text("9000000")
    found = read_sensors(proc, sys)
    assert found.busy_cpu_s == pytest.approx(2.0)
    assert (found.clock_min_hz, found.clock_max_hz, found.temperature_c) == (1e9, 3e9, 45.5)
    assert found.energy_j == {"intel-rapl:0": 2.0}
