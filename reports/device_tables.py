"""What a machine has, as tables of two columns: what, and what it is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from inferplan.reports.quantities import DASH, percent, size
from inferplan.reports.tables import Table, left
from inferplan.spec.inventory import (
    Cache,
    GpuItem,
    Graphics,
    Library,
    MachineMemory,
    NumaNode,
    Processor,
    Standings,
)

LISTED_ONLY = "Listed is what a library was built with; loading a model shows what works."


def processor_table(processor: Processor) -> Table:
    """The processors."""
    rows = [
        ("model", f"{processor.model}, {processor.architecture}"),
        ("cores", _cores(processor)),
        ("usable", _usable(processor)),
        ("caches", ", ".join(_cache(cache) for cache in processor.caches) or DASH),
        ("instructions", " ".join(processor.instruction_sets) or DASH),
        ("clock now", _range_hz(processor.clock_min_hz, processor.clock_max_hz)),
        ("temperature", _celsius(processor.temperature_c)),
        ("energy", f"not available: {processor.energy_gap}" if processor.energy_gap else "counted per package (RAPL)"),
        ("surroundings", ", ".join(_surroundings(processor)) or "nothing says that this is a virtual machine"),
    ]
    return _facts("PROCESSOR", rows)


def memory_table(memory: MachineMemory) -> Table:
    """The memory."""
    rows = [("total", f"{size(memory.total_bytes)}, {size(memory.available_bytes)} available")]
    if memory.limit_bytes is not None:
        rows.append(("container limit", size(memory.limit_bytes)))
    rows.append(("NUMA nodes", ", ".join(_node(node, len(memory.nodes)) for node in memory.nodes) or DASH))
    return _facts("MEMORY", rows)


def graphics_tables(graphics: Graphics) -> list[Table]:
    """One table per GPU; one that says why where there is none."""
    if not graphics.gpus:
        return [_facts("GPU", [("none", graphics.gap)])]
    return [_gpu_table(gpu, graphics) for gpu in graphics.gpus]


def libraries_table(libraries: Sequence[Library]) -> Table:
    """The runtimes."""
    rows = []
    for library in libraries:
        packages = ", ".join(f"{item.name} {item.version}" for item in library.distributions) or DASH
        if library.providers is None:
            providers = library.gap
        else:
            providers = " ".join(library.providers) or "none"
        rows.append([library.runtime, packages, providers])
    return Table(left("RUNTIME", "package", "providers listed"), rows)


def standings_table(standings: Standings) -> Table:
    """Which devices of a workload this machine can stand for."""
    rows = []
    for item in standings.devices:
        if not item.possible:
            rows.append([item.device, item.kind, "no", DASH, item.why_not])
            continue
        beyond = [f"{count} threads: too few cores here" for count in item.threads_beyond]
        chosen = "yes, taken" if item.device == standings.chosen else "yes"
        threads = " ".join(str(count) for count in item.threads)
        rows.append([item.device, item.kind, chosen, threads, "; ".join([*item.notes, *beyond])])
    impossible = frozenset(index for index, item in enumerate(standings.devices) if not item.possible)
    return Table(left(f"DEVICE of {standings.workload}", "kind", "can be", "threads", "but"), rows, impossible)


def lines_table(title: str, lines: Sequence[str]) -> Table:
    """Sentences under a title: on a terminal they break between words."""
    return Table(left(title), [[line] for line in lines])


def _gpu_table(gpu: GpuItem, graphics: Graphics) -> Table:
    shown = f"device {gpu.cuda_index}" if gpu.cuda_index is not None else "not shown to processes started here"
    clocks = _range_hz(gpu.clock_hz, None)
    rows = [
        ("name", gpu.name),
        ("uuid", gpu.uuid or DASH),
        ("CUDA", f"{shown}, up to {graphics.cuda_version or 'an unknown version'}, driver {graphics.driver or DASH}"),
        ("memory", f"{size(gpu.memory_bytes)}, {size(gpu.memory_free_bytes)} free"),
        ("MIG", _mig(gpu)),
        *((f"instance {i}", f"{item.name}, {size(item.memory_bytes)}") for i, item in enumerate(gpu.instances)),
        ("clock now", f"{clocks} of at most {_range_hz(gpu.clock_max_hz, None)}"),
        ("held back by", " ".join(gpu.throttle) or ("nothing" if "throttle" not in gpu.gaps else DASH)),
        ("power now", f"{_watts(gpu.power_w)} of at most {_watts(gpu.power_limit_w)}"),
        ("energy", _energy(gpu)),
        ("temperature", _celsius(gpu.temperature_c)),
        ("in use", f"{percent(gpu.utilisation)}, processes: {DASH if gpu.processes is None else gpu.processes}"),
        *(("not known", f"{what}: {why}") for what, why in sorted(gpu.gaps.items())),
    ]
    return _facts(f"GPU {gpu.index}", rows)


def _facts(title: str, rows: Iterable[tuple[str, str]]) -> Table:
    return Table(left(title, ""), [list(row) for row in rows])


def _cores(processor: Processor) -> str:
    parts = [_counted(processor.threads, "thread")]
    if processor.physical_cores is not None:
        parts.insert(0, _counted(processor.physical_cores, "physical core"))
    if processor.sockets is not None:
        parts.append(_counted(processor.sockets, "socket"))
    return ", ".join(parts)


def _usable(processor: Processor) -> str:
    text = _counted(len(processor.usable_cores), "thread") + " by this process"
    quota = processor.quota_cores
    return text if quota is None else f"{text}; the container's quota is {quota:g} cores"


def _surroundings(processor: Processor) -> list[str]:
    parts = [f"virtual machine ({processor.virtual_machine})"] if processor.virtual_machine else []
    return parts + (["container"] if processor.container else [])


def _cache(cache: Cache) -> str:
    letter = {"data": "d", "instruction": "i"}.get(cache.kind, "")
    shared = f" shared by {cache.shared_by}" if cache.shared_by is not None and cache.shared_by > 1 else ""
    return f"L{cache.level}{letter} {size(cache.size_bytes)}{shared}"


def _node(node: NumaNode, count: int) -> str:
    return "1" if count == 1 else f"{node.number} (cores {node.cores or DASH}, {size(node.memory_bytes)})"


def _mig(gpu: GpuItem) -> str:
    if gpu.mig_enabled is None:
        return DASH
    return f"on, {_counted(len(gpu.instances), 'instance')}" if gpu.mig_enabled else "off"


def _energy(gpu: GpuItem) -> str:
    if gpu.mig_enabled:
        return "of no instance alone: what there is counts the whole GPU"
    if gpu.energy_counter:
        return "counted"
    return "from sampled power" if gpu.power_w is not None else "not available"


def _range_hz(least: float | None, most: float | None) -> str:
    if least is None:
        return DASH
    if most is None or most == least:
        return f"{least / 1e9:.2f} GHz"
    return f"{least / 1e9:.2f} to {most / 1e9:.2f} GHz"


def _watts(value: float | None) -> str:
    return DASH if value is None else f"{value:.0f} W"


def _celsius(value: float | None) -> str:
    return "not shown" if value is None else f"{value:.0f} °C"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
