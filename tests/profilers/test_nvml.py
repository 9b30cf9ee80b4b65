"""GPUs through a stand-in driver library: what is there is read, what is missing is a gap with its reason."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from inferplan.profilers.nvml import NoDriver, open_driver

Run = Callable[..., Any]
GIB = 2**30

READINGS = {
    "memory": ("nvmlDeviceGetMemoryInfo", "memory"),
    "clock_hz": ("nvmlDeviceGetClockInfo", "clock"),
    "max_clock_hz": ("nvmlDeviceGetMaxClockInfo", "max clock"),
    "temperature_c": ("nvmlDeviceGetTemperature", "temperature"),
    "power_w": ("nvmlDeviceGetPowerUsage", "power"),
    "power_limit_w": ("nvmlDeviceGetEnforcedPowerLimit", "power limit"),
    "energy_j": ("nvmlDeviceGetTotalEnergyConsumption", "energy"),
    "utilisation": ("nvmlDeviceGetUtilizationRates", "utilisation"),
    "held_back": ("nvmlDeviceGetCurrentClocksEventReasons", "throttle"),
    "processes": ("nvmlDeviceGetComputeRunningProcesses_v3", "processes"),
}

_READ_ALL = f"""
import dataclasses, json
from inferplan.profilers.nvml import NoDriver, open_driver

def plain(value):
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value

def read(gpu):
    values = {{name: plain(getattr(gpu, name)()) for name in {sorted([*READINGS, "mig_enabled"])!r}}}
    return {{"name": gpu.name, "uuid": gpu.uuid, **values, "gaps": gpu.gaps}}

def read_all():
    with open_driver() as driver:
        return {{
            "driver": driver.version(),
            "cuda": driver.cuda_version(),
            "gpus": [{{**read(gpu), "instances": [read(one) for one in gpu.instances()]}} for gpu in driver.gpus()],
        }}
"""
READ = f"""{_READ_ALL}
try:
    print(json.dumps(read_all()))
except NoDriver as error:
    print(json.dumps({{"no driver": str(error)}}))
"""
READ_WITH_FAILURES = f"""{_READ_ALL}
import os
found = {{}}
for failure in os.environ["FAILURES"].split():
    os.environ["NVML_FAIL"] = failure
    found[failure] = read_all()["gpus"][0]
print(json.dumps(found))
"""
PROCESSES = {"NVML_PROCESSES": "self:1048576,4242:2097152,77:na", "NVML_DRAWING": "4242:5,900:7"}


def test_all_that_a_gpu_shows(with_nvml: Run) -> None:
    found = with_nvml(READ, NVML_REASONS="0x45", **PROCESSES)
    assert (found["driver"], found["cuda"]) == ("575.51.03", "12.9")
    one, _ = found["gpus"]
    own = one.pop("processes")
    assert [(p["pid"], p["memory_bytes"]) for p in own if p["memory_bytes"] != 1048576] == [
        (77, None),
        (900, 7),
        (4242, 2097152),
    ]
    assert one == {
        "name": "Stand-in One",
        "uuid": "GPU-11111111-aaaa",
        "memory": {"total_bytes": 16 * GIB, "free_bytes": 12 * GIB, "used_bytes": 4 * GIB},
        "clock_hz": 1.41e9,
        "max_clock_hz": 1.98e9,
        "temperature_c": 47.0,
        "power_w": 70.5,
        "power_limit_w": 300.0,
        "energy_j": 1000.0,
        "utilisation": 0.25,
        "held_back": ["hardware-thermal", "power-cap"],
        "mig_enabled": False,
        "gaps": {},
        "instances": [],
    }


def test_instances_have_memory_of_their_own_and_share_the_rest(with_nvml: Run) -> None:
    _, two = with_nvml(READ)["gpus"]
    assert two["mig_enabled"] is True
    assert [(i["name"], i["memory"]["total_bytes"]) for i in two["instances"]] == [
        ("Stand-in Two MIG 3g.20gb", 20 * GIB),
        ("Stand-in Two MIG 1g.5gb", 5 * GIB),
    ]
    for instance in two["instances"]:
        assert (instance["clock_hz"], instance["temperature_c"], instance["power_limit_w"]) == (1.41e9, 47.0, 300.0)
        # What the whole board drew or did is nobody's in particular.
        assert (instance["energy_j"], instance["power_w"], instance["utilisation"]) == (None, None, None)
        assert instance["gaps"]["energy"] == "not told for a MIG instance"


def test_a_gap_of_the_gpu_is_one_of_its_instances(with_nvml: Run) -> None:
    _, two = with_nvml(READ, NVML_FAIL="nvmlDeviceGetClockInfo=4")["gpus"]
    assert {instance["gaps"]["clock"] for instance in two["instances"]} == {"no permission"}


@pytest.fixture(scope="module")
def failing(with_nvml: Run) -> Any:
    """What GPU 0 shows with each function failing alone, by failure. One process reads them all."""
    failures = " ".join(f"{function}={code}" for function, _ in READINGS.values() for code in _WHY)
    return with_nvml(READ_WITH_FAILURES, FAILURES=failures, NVML_GPUS="1")


_WHY = {3: "not supported by this GPU", 4: "no permission"}


@pytest.mark.parametrize("reading", sorted(READINGS))
@pytest.mark.parametrize("code", _WHY)
def test_each_reading_may_be_missing_alone(failing: Any, reading: str, code: int) -> None:
    function, gap = READINGS[reading]
    one = failing[f"{function}={code}"]
    assert one["gaps"] == {gap: _WHY[code]}
    assert {name for name in READINGS if one[name] is None} == {reading}


def test_without_permission_mig_is_not_known(with_nvml: Run) -> None:
    two = with_nvml(READ, NVML_FAIL="nvmlDeviceGetMigMode=4")["gpus"][1]
    assert (two["mig_enabled"], two["gaps"], two["instances"]) == (None, {"mig": "no permission"}, [])


def test_an_error_we_have_no_words_for_is_told_as_the_driver_does(with_nvml: Run) -> None:
    one = with_nvml(READ, NVML_FAIL="nvmlDeviceGetPowerUsage=999")["gpus"][0]
    assert (one["power_w"], one["gaps"]["power"]) == (None, "Unknown Error")


@pytest.mark.parametrize("function", ["nvmlDeviceGetName", "nvmlDeviceGetUUID"])
def test_a_gpu_without_a_name_is_still_one(with_nvml: Run, function: str) -> None:
    one = with_nvml(READ, NVML_FAIL=f"{function}=3")["gpus"][0]
    assert one["name"]
    assert one["memory"]["total_bytes"] == 16 * GIB


def test_a_lost_gpu_reads_as_gaps(with_nvml: Run) -> None:
    one = with_nvml(READ, NVML_GPUS="1", NVML_FAIL="device=15@1")["gpus"][0]
    assert {one[name] for name in READINGS} == {None}
    assert set(one["gaps"].values()) == {"the GPU is lost"}


def test_a_gpu_that_cannot_be_reached_hides_none_of_the_others(with_nvml: Run) -> None:
    found = with_nvml(READ, NVML_FAIL="nvmlDeviceGetHandleByIndex_v2#0=15")
    assert [gpu["name"] for gpu in found["gpus"]] == ["Stand-in Two"]


def test_an_old_driver_is_asked_by_the_old_names(with_nvml: Run, old_nvml_stand_in: Path) -> None:
    one = with_nvml(READ, old_nvml_stand_in, NVML_GPUS="1", NVML_REASONS="0x20", NVML_PROCESSES="5:1")["gpus"][0]
    assert one["held_back"] == ["thermal"]
    assert one["processes"] == [{"pid": 5, "memory_bytes": 1}]


@pytest.mark.parametrize("function", ["nvmlSystemGetDriverVersion", "nvmlSystemGetCudaDriverVersion_v2"])
def test_versions_may_be_missing(with_nvml: Run, function: str) -> None:
    found = with_nvml(READ, NVML_FAIL=f"{function}=999")
    assert "" in (found["driver"], found["cuda"])
    assert len(found["gpus"]) == 2


@pytest.mark.parametrize(
    ("code", "why"),
    [
        (9, "the NVIDIA driver is not loaded"),
        (4, "no permission"),
        (18, "the NVIDIA driver and its library are of different versions: restart"),
    ],
)
def test_a_driver_that_does_not_start_is_no_driver(with_nvml: Run, code: int, why: str) -> None:
    assert with_nvml(READ, NVML_FAIL=f"nvmlInitWithFlags={code}") == {"no driver": why}


def test_no_library(with_nvml: Run) -> None:
    code = "import ctypes\ndef none(*a, **k): raise OSError('no such file')\nctypes.CDLL = none\n"
    assert with_nvml(code + READ, None) == {"no driver": "no NVIDIA driver: NVML library not found"}


def test_no_binding(monkeypatch: pytest.MonkeyPatch) -> None:
    really = builtins.__import__

    def importing(name: str, *rest: Any) -> Any:
        if name == "pynvml":
            raise ImportError(name)
        return really(name, *rest)

    monkeypatch.setattr(builtins, "__import__", importing)
    with pytest.raises(NoDriver, match="nvidia-ml-py is not installed"), open_driver():
        pass


_FIRST, _SECOND = "Stand-in Two MIG 3g.20gb", "Stand-in Two MIG 1g.5gb"


@pytest.mark.parametrize("mig", [True, False])
def test_what_cuda_shows(with_nvml: Run, mig: bool) -> None:
    expected = {
        None: [_FIRST] if mig else ["Stand-in One", "Stand-in Two"],  # an instance, and nothing beside it
        "": [],
        "-1": [],
        "0": ["Stand-in One"],
        "0,7,1": ["Stand-in One"],  # the list ends at the first that is none
        "1,0": [_FIRST] if mig else ["Stand-in Two", "Stand-in One"],
        "GPU-1111": ["Stand-in One"],
        "GPU-": [],
        " MIG-44444444-dddd , 0": [_SECOND] if mig else [],
    }
    code = f"""
import json
from inferplan.profilers.nvml import open_driver
with open_driver() as driver:
    cases = [{{}} if value is None else {{"CUDA_VISIBLE_DEVICES": value}} for value in {list(expected)!r}]
    print(json.dumps([[gpu.name for gpu in driver.for_cuda(case)] for case in cases]))
"""
    found = with_nvml(code, **({} if mig else {"NVML_NO_MIG": "1"}))
    assert dict(zip(expected, found, strict=True)) == expected


USE = """
import json, os, sys
from pathlib import Path
from inferplan.profilers import nvml
here = os.stat("/proc/self/ns/pid").st_ino
nvml._INITIAL_PID_NAMESPACE = here if {initial} else here + 1
with nvml.open_driver() as driver:
    gpu = driver.gpus()[0]
    use = gpu.use_by(os.getpid())
    print(json.dumps([use.own_bytes, use.foreign_processes, gpu.gaps.get("process memory", "")]))
"""


@pytest.mark.parametrize(
    ("initial", "processes", "expected"),
    [
        (True, "self:1048576,4242:2097152", [1048576, 1, ""]),
        (False, "self:1048576,4242:2097152", [1048576, 1, ""]),
        (True, "self:na", [None, 0, "not told by the driver"]),
        (True, "4242:1,77:2", [None, 2, "the process has nothing on this GPU"]),
        (True, "", [None, 0, "the process has nothing on this GPU"]),
        (False, "", [None, 0, "the process has nothing on this GPU"]),
        (
            False,
            "4242:1,77:2",
            [None, None, "this process is not in the driver's list: a container has process ids of its own"],
        ),
    ],
)
def test_own_and_foreign_use(with_nvml: Run, initial: bool, processes: str, expected: list[Any]) -> None:
    assert with_nvml(USE.format(initial=initial), NVML_PROCESSES=processes) == expected


def test_the_fingerprint_has_the_gpus_that_cuda_shows(with_nvml: Run) -> None:
    code = """
        import dataclasses, json
        from inferplan.profilers.fingerprint import this_machine
        machine = this_machine()
        print(json.dumps([machine.sha256(), [dataclasses.asdict(gpu) for gpu in machine.gpus]]))
    """
    first, gpus = with_nvml(code)
    assert gpus == [
        {
            "name": "Stand-in Two MIG 3g.20gb",
            "memory_bytes": 20 * GIB,
            "driver": "575.51.03",
            "power_limit_w": 300,
        }
    ]
    assert with_nvml(code)[0] == first
    for variables in ({"CUDA_VISIBLE_DEVICES": "0"}, {"NVML_FAIL": "nvmlInitWithFlags=9"}):
        assert with_nvml(code, **variables)[0] != first
