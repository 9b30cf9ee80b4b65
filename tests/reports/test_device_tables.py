"""A machine in words: what is missing is said, not left blank."""

from __future__ import annotations

import dataclasses
from typing import Any

from inferplan.reports.device_tables import (
    graphics_tables,
    libraries_table,
    memory_table,
    processor_table,
    standings_table,
)
from inferplan.reports.tables import Table
from inferplan.spec.inventory import (
    Cache,
    Distribution,
    GpuItem,
    Graphics,
    Library,
    MachineMemory,
    MigInstance,
    NumaNode,
    Processor,
    Standing,
    Standings,
)

GIB = 2**30
PROCESSOR = Processor(
    model="Fast One",
    architecture="x86_64",
    virtual_machine="QEMU",
    container=True,
    sockets=2,
    physical_cores=4,
    threads=8,
    usable_cores=(0, 1),
    quota_cores=2.5,
    caches=(Cache(1, "data", 48 * 2**10, 1), Cache(1, "instruction", 32 * 2**10, None), Cache(3, "unified", 2**20, 4)),
    instruction_sets=("avx2", "fma"),
    clock_min_hz=1e9,
    clock_max_hz=3e9,
    temperature_c=51.0,
    energy_counters=(),
    energy_gap="no permission to read x",
)
BARE = Processor("?", "arm64", "", False, None, None, 1, (0,), None, (), (), None, None, None, ("intel-rapl:0",), "")
GPU = GpuItem(
    index=0,
    name="Card",
    uuid="GPU-1",
    cuda_index=0,
    memory_bytes=16 * GIB,
    memory_free_bytes=12 * GIB,
    mig_enabled=False,
    instances=(),
    clock_hz=1.4e9,
    clock_max_hz=2e9,
    power_w=70.4,
    power_limit_w=300.0,
    energy_counter=True,
    temperature_c=47.0,
    utilisation=0.25,
    throttle=("power-cap", "thermal"),
    processes=3,
    gaps={},
)


def facts(table: Table) -> dict[str, str]:
    return {row[0]: row[1] for row in table.rows}


def gpu_facts(**changes: Any) -> dict[str, str]:
    (table,) = graphics_tables(Graphics("575.1", "12.9", (dataclasses.replace(GPU, **changes),), ""))
    return facts(table)


def test_a_processor() -> None:
    assert facts(processor_table(PROCESSOR)) == {
        "model": "Fast One, x86_64",
        "cores": "4 physical cores, 8 threads, 2 sockets",
        "usable": "2 threads by this process; the container's quota is 2.5 cores",
        "caches": "L1d 48.0 KiB, L1i 32.0 KiB, L3 1.00 MiB shared by 4",
        "instructions": "avx2 fma",
        "clock now": "1.00 to 3.00 GHz",
        "temperature": "51 °C",
        "energy": "not available: no permission to read x",
        "surroundings": "virtual machine (QEMU), container",
    }


def test_a_processor_that_shows_little() -> None:
    found = facts(processor_table(BARE))
    assert (found["cores"], found["usable"]) == ("1 thread", "1 thread by this process")
    assert (found["caches"], found["clock now"], found["temperature"]) == ("-", "-", "not shown")
    assert found["energy"] == "counted per package (RAPL)"


def test_memory() -> None:
    one = MachineMemory(8 * GIB, 4 * GIB, None, (NumaNode(0, "0-3", 8 * GIB),))
    assert facts(memory_table(one)) == {"total": "8.00 GiB, 4.00 GiB available", "NUMA nodes": "1"}
    two = MachineMemory(8 * GIB, None, 2 * GIB, (NumaNode(0, "0-1", 4 * GIB), NumaNode(1, "", None)))
    assert facts(memory_table(two)) == {
        "total": "8.00 GiB, - available",
        "container limit": "2.00 GiB",
        "NUMA nodes": "0 (cores 0-1, 4.00 GiB), 1 (cores -, -)",
    }


def test_no_gpu_says_why() -> None:
    (table,) = graphics_tables(Graphics("", "", (), "no NVIDIA driver: NVML library not found"))
    assert facts(table) == {"none": "no NVIDIA driver: NVML library not found"}


def test_a_gpu() -> None:
    found = gpu_facts()
    assert found["CUDA"] == "device 0, up to 12.9, driver 575.1"
    assert found["memory"] == "16.0 GiB, 12.0 GiB free"
    assert (found["MIG"], found["held back by"]) == ("off", "power-cap thermal")
    assert (found["clock now"], found["power now"]) == ("1.40 GHz of at most 2.00 GHz", "70 W of at most 300 W")
    assert (found["energy"], found["in use"]) == ("counted", "25.0 %, processes: 3")
    assert "not known" not in found


def test_gaps_of_a_gpu() -> None:
    why = {"power": "not supported by this GPU", "throttle": "no permission"}
    found = gpu_facts(power_w=None, energy_counter=False, throttle=(), processes=None, cuda_index=None, gaps=why)
    assert found["power now"] == "- of at most 300 W"
    assert (found["energy"], found["held back by"], found["in use"]) == ("not available", "-", "25.0 %, processes: -")
    assert found["CUDA"].startswith("not shown to processes started here")
    assert found["not known"] == "throttle: no permission"
    assert gpu_facts(energy_counter=False)["energy"] == "from sampled power"
    assert gpu_facts(throttle=())["held back by"] == "nothing"


def test_instances() -> None:
    found = gpu_facts(mig_enabled=True, instances=(MigInstance("Card MIG 1g.5gb", "MIG-1", 5 * GIB),))
    assert (found["MIG"], found["instance 0"]) == ("on, 1 instance", "Card MIG 1g.5gb, 5.00 GiB")
    assert found["energy"].startswith("of no instance alone")
    assert gpu_facts(mig_enabled=None)["MIG"] == "-"


def test_libraries() -> None:
    table = libraries_table(
        [
            Library("onnxruntime", "1.31", (Distribution("onnxruntime", "1.31"),), "onnxruntime", ("cpu", "cuda"), ""),
            Library("torch", "", (), "", None, "not installed"),
        ]
    )
    assert list(map(list, table.rows)) == [
        ["onnxruntime", "onnxruntime 1.31", "cpu cuda"],
        ["torch", "-", "not installed"],
    ]


def test_standings() -> None:
    fits = Standing("edge/a", "cpu", True, "", (1, 2), (4,), ("has 64 cores, here 2 can be used",))
    other = Standing("edge/b", "cpu", True, "", (1,), (), ())
    no = Standing("edge/c", "gpu", False, "edge/c is a GPU, and this machine shows none", (), (), ())
    table = standings_table(Standings("web", (fits, other, no), "edge/a", ""))
    assert [row[2] for row in table.rows] == ["yes, taken", "yes", "no"]
    assert table.rows[0][3:] == ["1 2", "has 64 cores, here 2 can be used; 4 threads: too few cores here"]
    assert table.rows[2][4] == no.why_not
    assert table.dim == {2}
