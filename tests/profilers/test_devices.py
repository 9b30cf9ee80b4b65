"""What a machine has, with a GPU and without, and which devices of a workload it can be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from inferplan.profilers.devices import standings, take_inventory
from inferplan.profilers.fingerprint import Gpu, Machine, this_machine
from inferplan.spec.document import LoadedWorkload

Run = Callable[..., Any]
GIB = 2**30
BOX = Machine("cpu", "x86_64", 4, 16)
GPU_BOX = Machine("cpu", "x86_64", 4, 16, (Gpu("Card", 8 * GIB, "1", 300),))

TIERS = {
    "edge": {
        "devices": {
            "small": {"price_usd_per_h": 1.0, "cores": 2},
            "big": {"price_usd_per_h": 2.0, "cores": 64, "memory_bytes": 64 * GIB},
            "card": {"kind": "gpu", "price_usd_per_h": 3.0, "cores": 4, "gpu_memory_bytes": 16 * GIB},
            "twin": {"price_usd_per_h": 1.0, "cores": 2, "like": {"device": "edge/small"}},
        }
    }
}

INVENTORY = """
import dataclasses, json
from inferplan.profilers.devices import take_inventory
print(json.dumps(dataclasses.asdict(take_inventory(ask_runtimes=False))))
"""


def test_an_inventory_of_the_machine_this_runs_on() -> None:
    found = take_inventory(ask_runtimes=False)
    assert found.fingerprint == this_machine().sha256()
    assert len(found.processor.usable_cores) == this_machine().cores
    assert found.standings is None
    assert all(library.providers is None for library in found.libraries)


def test_gpus_and_what_cuda_shows_of_them(with_nvml: Run) -> None:
    found = with_nvml(INVENTORY, CUDA_VISIBLE_DEVICES="1,0", NVML_PROCESSES="1:2,3:4", NVML_REASONS="4")["graphics"]
    assert (found["driver"], found["cuda_version"], found["gap"]) == ("575.51.03", "12.9", "")
    one, two = found["gpus"]
    assert (one["cuda_index"], two["cuda_index"]) == (None, 0)  # beside an instance CUDA shows no whole GPU
    assert (one["processes"], one["throttle"], one["energy_counter"], one["gaps"]) == (2, ["power-cap"], True, {})
    assert [item["name"] for item in two["instances"]] == ["Stand-in Two MIG 3g.20gb", "Stand-in Two MIG 1g.5gb"]


def test_gaps_of_a_gpu_are_named(with_nvml: Run) -> None:
    found = with_nvml(INVENTORY, NVML_GPUS="1", NVML_FAIL="nvmlDeviceGetPowerUsage=3,nvmlDeviceGetMemoryInfo=4")
    gpu = found["graphics"]["gpus"][0]
    assert (gpu["power_w"], gpu["memory_bytes"]) == (None, None)
    assert gpu["gaps"] == {"memory": "no permission", "power": "not supported by this GPU"}


@pytest.mark.parametrize(
    ("variables", "gap"),
    [
        ({"NVML_FAIL": "nvmlInitWithFlags=9"}, "the NVIDIA driver is not loaded"),
        ({"NVML_GPUS": "0"}, "the driver shows none"),
    ],
)
def test_no_gpu_has_a_reason(with_nvml: Run, variables: dict[str, str], gap: str) -> None:
    found = with_nvml(INVENTORY, **variables)["graphics"]
    assert (found["gpus"], found["gap"]) == ([], gap)


def test_a_hidden_gpu_is_warned_of(with_nvml: Run) -> None:
    assert with_nvml(INVENTORY, CUDA_VISIBLE_DEVICES="0")["warnings"] == []
    (warning,) = with_nvml(INVENTORY, CUDA_VISIBLE_DEVICES="")["warnings"]
    assert "CUDA_VISIBLE_DEVICES" in warning


def test_what_a_machine_can_stand_for(make_workload: Callable[..., LoadedWorkload]) -> None:
    workload = make_workload(tiers=TIERS, profile={"threads": [1, 4, 2, 8]}).workload
    found = standings(workload, BOX)
    small, big, card, twin = found.devices
    assert (small.possible, small.threads, small.threads_beyond, small.notes) == (True, (1, 2), (4, 8), ())
    assert (big.possible, big.threads, big.threads_beyond) == (True, (1, 2, 4), (8,))
    assert big.notes == ("has 64 cores, here 4 can be used", "has 64 GiB of memory, this machine 16 GiB")
    assert (card.possible, card.why_not) == (False, "edge/card is a GPU, and this machine shows none")
    assert (twin.possible, twin.why_not) == (
        False,
        "edge/twin is not measured itself, it is like edge/small: measure that",
    )
    assert found.chosen == ""
    assert "--device edge/small | edge/big" in found.unclear


def test_a_gpu_with_less_memory_is_said(make_workload: Callable[..., LoadedWorkload]) -> None:
    workload = make_workload(tiers=TIERS).workload
    card = standings(workload, GPU_BOX).devices[2]
    assert card.possible
    assert card.notes == ("has 16 GiB of GPU memory, Card has 8 GiB",)


def test_a_device_without_room_for_any_thread_count(make_workload: Callable[..., LoadedWorkload]) -> None:
    workload = make_workload(profile={"threads": [8]}).workload
    (box,) = standings(workload, BOX).devices
    assert (box.possible, box.threads) == (False, ())
    assert "all exceed the 4 cores" in box.why_not


def test_the_one_device_that_fits_is_chosen(make_workload: Callable[..., LoadedWorkload]) -> None:
    found = standings(make_workload().workload, BOX)
    assert (found.chosen, found.unclear) == ("edge/box", "")
