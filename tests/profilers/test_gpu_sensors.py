"""A GPU watched while something is measured: energy to the millijoule, and a reason for what is not known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferplan.profilers.gpu_sensors import GpuReading, GpuWatch, GpuWindow, gpu_columns
from inferplan.profilers.process import Limits, WorkerProcess
from inferplan.spec.rows import Measurement

Run = Callable[..., Any]

WATCH = """
import json, os, time
from inferplan.profilers.gpu_sensors import GpuWatch, gpu_columns
with GpuWatch("cuda", os.getpid(), period_s={period_s}) as watch:
    windows = []
    for _ in range({times}):
        watch.start()
        time.sleep({seconds})
        windows.append(watch.stop())
    print(json.dumps({{
        "columns": gpu_columns(windows, {calls}),
        "energies": [window.energy_j for window in windows],
        "wall_s": sum(window.wall_s for window in windows),
        "gaps": windows[-1].gaps,
    }}))
"""


def watched(run: Run, period_s: float = 60.0, seconds: float = 0.1, times: int = 1, **variables: str) -> Any:
    variables.setdefault("CUDA_VISIBLE_DEVICES", "0")
    code = WATCH.format(period_s=period_s, seconds=seconds, times=times, calls=8)
    return run(code, **variables)


def test_energy_is_the_difference_of_the_counter(with_nvml: Run) -> None:
    # The stand-in's counter rises by so many millijoules with every reading; a window has two.
    found = watched(with_nvml, times=3, NVML_ENERGY_STEP_MJ="1237", NVML_POWER_MW="9999999")
    assert found["energies"] == pytest.approx([1.237] * 3, abs=1e-6)
    assert found["columns"]["energy_j"] == pytest.approx(3 * 1.237 / 8, abs=1e-6)
    assert found["columns"]["mean_power_w"] == pytest.approx(3 * 1.237 / found["wall_s"])


def test_looks_in_between_see_the_extremes(with_nvml: Run) -> None:
    found = watched(
        with_nvml,
        period_s=0.01,
        seconds=0.3,
        NVML_CLOCK_MHZ="1400,1980,210,1400,1400,1400,1400,1400",
        NVML_TEMPERATURE_C="40,83,41",
        NVML_REASONS="0x24",
        NVML_PROCESSES="self:5000000,4242:7",
        NVML_DRAWING="900:1",
    )["columns"]
    assert (found["gpu_clock_min_hz"], found["gpu_clock_max_hz"], found["gpu_temperature_c"]) == (210e6, 1980e6, 83.0)
    assert found["gpu_throttle"] == "power-cap+thermal"
    assert found["peak_gpu_bytes"] == 5_000_000
    assert found["gpu_foreign_processes"] == 2


def test_without_a_counter_energy_comes_from_sampled_power(with_nvml: Run) -> None:
    found = watched(
        with_nvml,
        period_s=0.02,
        seconds=0.4,
        NVML_PROCESSES="self:1",
        NVML_FAIL="nvmlDeviceGetTotalEnergyConsumption=3",
        NVML_POWER_MW="150000",
    )
    assert found["columns"]["mean_power_w"] == pytest.approx(150.0)
    assert found["columns"]["energy_j"] == pytest.approx(150.0 * found["wall_s"] / 8)
    assert found["gaps"] == {"energy": "not supported by this GPU"}


def test_a_gpu_lost_on_the_way_leaves_what_was_seen_before(with_nvml: Run) -> None:
    once = ("TotalEnergyConsumption", "PowerUsage", "ClockInfo", "Temperature", "CurrentClocksEventReasons")
    failures = [f"nvmlDeviceGet{name}=15@1" for name in once] + ["nvmlDeviceGetComputeRunningProcesses_v3=15@2"]
    found = watched(with_nvml, seconds=0.25, NVML_PROCESSES="self:1000", NVML_FAIL=",".join(failures))
    columns = found["columns"]
    assert columns["gpu_clock_max_hz"] == 1.41e9
    assert columns["peak_gpu_bytes"] == 1000
    assert (columns["energy_j"], columns["mean_power_w"]) == (None, None)
    assert set(found["gaps"].values()) == {"the GPU is lost"}


@pytest.mark.parametrize(
    ("variables", "gap"),
    [
        ({"NVML_FAIL": "nvmlInitWithFlags=9"}, "the NVIDIA driver is not loaded"),
        ({"CUDA_VISIBLE_DEVICES": ""}, "NVML shows no GPU that CUDA could use"),
    ],
)
def test_no_gpu_to_watch(with_nvml: Run, variables: dict[str, str], gap: str) -> None:
    found = watched(with_nvml, **variables)
    assert found["gaps"] == {"gpu": gap}
    assert found["columns"].pop("gpu_throttle") == ""
    assert set(found["columns"].values()) == {None}


def test_an_instance_has_no_energy_of_its_own(with_nvml: Run) -> None:
    found = watched(with_nvml, seconds=0.25, CUDA_VISIBLE_DEVICES="1")
    assert found["columns"]["energy_j"] is None
    assert found["columns"]["gpu_clock_max_hz"] == 1.41e9
    assert found["gaps"]["energy"] == "not told for a MIG instance"


def test_without_permission_for_processes_the_rest_is_there(with_nvml: Run) -> None:
    found = watched(with_nvml, NVML_FAIL="nvmlDeviceGetComputeRunningProcesses_v3=4")
    assert (found["columns"]["peak_gpu_bytes"], found["columns"]["gpu_foreign_processes"]) == (None, None)
    assert found["columns"]["gpu_clock_max_hz"] == 1.41e9
    assert found["gaps"] == {"processes": "no permission"}


def test_a_point_on_the_processor_is_not_watched() -> None:
    with GpuWatch("cpu", 1) as watch:
        watch.start()
        assert watch.stop() is None
    assert gpu_columns([], 10) == {}


def reading(wall_s: float, energy_j: float | None = None, power_w: float | None = None) -> GpuReading:
    return GpuReading(wall_s, energy_j, power_w, None, None, None, None, None)


def test_a_counter_that_started_anew_tells_nothing() -> None:
    window = GpuWindow.of([reading(0, 500.0, 10.0), reading(1, 2.0, 10.0)], {})
    assert window.energy_j is None


def test_one_look_without_power_is_no_power() -> None:
    assert GpuWindow.of([reading(0, None, 10.0), reading(1), reading(2, None, 10.0)], {}).energy_j is None


@given(st.lists(st.tuples(st.floats(0.001, 10), st.floats(0, 500)), min_size=2, max_size=20))
def test_sampled_energy_is_within_what_the_extremes_allow(samples: list[tuple[float, float]]) -> None:
    readings, wall_s = [], 0.0
    for gap_s, power_w in samples:
        readings.append(reading(wall_s, None, power_w))
        wall_s += gap_s
    window = GpuWindow.of(readings, {})
    powers = [power_w for _, power_w in samples]
    assert window.energy_j is not None
    assert min(powers) * window.wall_s * (1 - 1e-9) <= window.energy_j <= max(powers) * window.wall_s * (1 + 1e-9)


def test_windows_taken_together() -> None:
    one = GpuWindow(1.0, 30.0, 1e9, 2e9, 40.0, frozenset({"thermal"}), 100, 0)
    two = GpuWindow(3.0, 50.0, 0.5e9, 1.5e9, 60.0, frozenset({"power-cap"}), 300, 2)
    together = gpu_columns([one, two], 16)
    assert set(together) < set(Measurement.__dataclass_fields__)
    assert together == {
        "peak_gpu_bytes": 300,
        "gpu_clock_min_hz": 0.5e9,
        "gpu_clock_max_hz": 2e9,
        "gpu_temperature_c": 60.0,
        "gpu_throttle": "power-cap+thermal",
        "gpu_foreign_processes": 2,
        "mean_power_w": 20.0,
        "energy_j": 5.0,
    }
    gap = gpu_columns([one, GpuWindow(3.0)], 16)
    assert (gap["energy_j"], gap["mean_power_w"], gap["peak_gpu_bytes"]) == (None, None, 100)


def test_a_window_too_short_for_the_counter_has_no_energy() -> None:
    columns = gpu_columns([GpuWindow(0.1, 5.0, 1e9, 1e9)], 4)
    assert (columns["energy_j"], columns["mean_power_w"], columns["gpu_clock_min_hz"]) == (None, None, 1e9)


def test_measuring_processes_number_gpus_as_the_driver_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "FASTEST_FIRST")
    with WorkerProcess(Limits(20.0, 2**30), 1) as worker:
        variables = Path(f"/proc/{worker.pid}/environ").read_bytes().split(b"\0")
    assert b"CUDA_DEVICE_ORDER=PCI_BUS_ID" in variables


POINT = """
import dataclasses, json, sys
from pathlib import Path
from inferplan.profilers.points import PointTask, measure_point
from inferplan.profilers.process import Limits
from inferplan.profilers.runtimes.executor import ExecutorSpec
from inferplan.profilers.stopping import StoppingRule
from inferplan.spec.document import load_workload
from inferplan.spec.rows import PointKey
from inferplan.spec.stage import Choice

workload = load_workload(Path({path!r})).workload
spec = ExecutorSpec.of(workload.root, "s", workload.pipeline.stages["s"], Choice("nothing"))
key = PointKey("s", "nothing", "", "", "", "skip", "", "{{}}", {provider!r}, "edge/box", "f", 2, 1, "{{}}")
rule = StoppingRule(50, 2, 0.5, 5.0)
row, _ = measure_point(PointTask(key, spec, None, Limits(20.0, 2**30)), rule, "time", lambda share: None)
print(json.dumps(dataclasses.asdict(row)))
"""


@pytest.mark.parametrize("provider", ["cuda", "cpu"])
def test_a_point_on_a_gpu_carries_what_it_showed(
    with_nvml: Run, make_workload: Callable[..., Any], provider: str
) -> None:
    loaded = make_workload({"nothing": {"runtime": "skip"}})
    row = with_nvml(
        POINT.format(path=str(loaded.path), provider=provider),
        CUDA_VISIBLE_DEVICES="0",
        NVML_FAIL="nvmlDeviceGetTotalEnergyConsumption=3",
        NVML_POWER_MW="200000",
        NVML_REASONS="0x4",
        NVML_PROCESSES="4242:1",
    )
    assert (row["status"], row["reason"]) == ("ok", "")
    if provider == "cpu":
        assert (row["gpu_clock_max_hz"], row["gpu_foreign_processes"], row["gpu_throttle"]) == (None, None, "")
        return
    assert (row["gpu_clock_min_hz"], row["gpu_temperature_c"]) == (1.41e9, 47.0)
    assert (row["gpu_throttle"], row["gpu_foreign_processes"]) == ("power-cap", 1)
    assert row["peak_gpu_bytes"] is None  # the measuring process has nothing on the GPU
    assert row["mean_power_w"] == pytest.approx(200.0)
    # For as long as the rule says at least; on a busy machine calls take longer.
    watched_s = row["energy_j"] * 2 * row["n"] / 200.0
    assert 0.25 <= watched_s <= 5.0
