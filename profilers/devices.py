"""What there is to measure with on this machine, and which devices of a workload it can stand for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from inferplan.profilers.fingerprint import Machine, this_machine
from inferplan.profilers.libraries import installed_libraries, warnings, with_providers
from inferplan.profilers.nvml import NoDriver, NvmlGpu, open_driver
from inferplan.profilers.processor import Files, read_memory, read_processor
from inferplan.spec.inventory import (
    GpuItem,
    Graphics,
    Inventory,
    Library,
    MigInstance,
    Standing,
    Standings,
)

if TYPE_CHECKING:
    from inferplan.spec.workload import Device, Workload


def take_inventory(workload: Workload | None = None, *, ask_runtimes: bool = True, root: Path = Path("/")) -> Inventory:
    """List what is here. Nothing that is missing is an error.

    With `ask_runtimes` the installed runtimes are started, in processes of their own, to name their providers.
    """
    files = Files(root)
    machine = this_machine(files.proc, files.cgroup)
    libraries = installed_libraries()
    if ask_runtimes:
        libraries = with_providers(libraries)
    graphics = read_graphics()
    return Inventory(
        machine.sha256(),
        read_processor(files),
        read_memory(files),
        graphics,
        libraries,
        None if workload is None else standings(workload, machine),
        (*warnings(libraries), *_unused(graphics, libraries)),
    )


def read_graphics() -> Graphics:
    """The GPUs of this machine, whether CUDA shows them or not."""
    try:
        with open_driver() as driver:
            shown = [(gpu.whole or gpu).index for gpu in driver.for_cuda()]
            gpus = tuple(_gpu(gpu, shown) for gpu in driver.gpus())
            gap = "" if gpus else "the driver shows none"
            return Graphics(driver.version(), driver.cuda_version(), gpus, gap)
    except NoDriver as error:
        return Graphics("", "", (), str(error))


def _gpu(gpu: NvmlGpu, shown: Sequence[int]) -> GpuItem:
    memory, processes = gpu.memory(), gpu.processes()
    return GpuItem(
        index=gpu.index,
        name=gpu.name,
        uuid=gpu.uuid,
        cuda_index=shown.index(gpu.index) if gpu.index in shown else None,
        memory_bytes=memory.total_bytes if memory else None,
        memory_free_bytes=memory.free_bytes if memory else None,
        mig_enabled=gpu.mig_enabled(),
        instances=tuple(_instance(instance) for instance in gpu.instances()),
        clock_hz=gpu.clock_hz(),
        clock_max_hz=gpu.max_clock_hz(),
        power_w=gpu.power_w(),
        power_limit_w=gpu.power_limit_w(),
        energy_counter=gpu.energy_j() is not None,
        temperature_c=gpu.temperature_c(),
        utilisation=gpu.utilisation(),
        throttle=tuple(sorted(gpu.held_back() or ())),
        processes=None if processes is None else len(processes),
        gaps=dict(gpu.gaps),
    )


def _instance(instance: NvmlGpu) -> MigInstance:
    memory = instance.memory()
    return MigInstance(instance.name, instance.uuid, memory.total_bytes if memory else None)


def standings(workload: Workload, machine: Machine) -> Standings:
    """Which devices of the workload this machine can stand for, and with which thread counts."""
    from inferplan.profilers.provision import resolve_device
    from inferplan.spec.errors import InputError

    chosen, unclear = "", ""
    try:
        chosen = resolve_device(workload, machine, None)
    except InputError as error:
        unclear = error.message
    found = tuple(_standing(workload, machine, name, device) for name, device in workload.devices().items())
    return Standings(workload.name, found, chosen, unclear)


def _standing(workload: Workload, machine: Machine, name: str, device: Device) -> Standing:
    from inferplan.profilers.provision import resolve_device, thread_counts
    from inferplan.spec.errors import InputError

    try:
        resolve_device(workload, machine, name)
        fitting, beyond = thread_counts(workload.profile, min(machine.cores, device.cores))
    except InputError as error:
        return Standing(name, device.kind, False, error.message, (), (), ())
    return Standing(name, device.kind, True, "", tuple(fitting), tuple(beyond), tuple(_differences(machine, device)))


def _differences(machine: Machine, device: Device) -> list[str]:
    """Where the workload says of the device what this machine is not."""
    found = []
    if device.cores > machine.cores:
        found.append(f"has {device.cores} cores, here {machine.cores} can be used")
    total = machine.memory_gib * 2**30
    if device.memory_bytes is not None and 0 < total < device.memory_bytes:
        found.append(f"has {device.memory_bytes / 2**30:.3g} GiB of memory, this machine {machine.memory_gib} GiB")
    if device.kind == "gpu" and device.gpu_memory_bytes is not None and machine.gpus:
        has = machine.gpus[0].memory_bytes
        if has < device.gpu_memory_bytes:
            found.append(
                f"has {device.gpu_memory_bytes / 2**30:.3g} GiB of GPU memory, {machine.gpus[0].name} has "
                f"{has / 2**30:.3g} GiB"
            )
    return found


def _unused(graphics: Graphics, libraries: Sequence[Library]) -> list[str]:
    """GPUs that nothing here could use."""
    if not graphics.gpus:
        return []
    found = []
    if all(gpu.cuda_index is None for gpu in graphics.gpus):
        found.append("CUDA shows no GPU to a process started here: look at CUDA_VISIBLE_DEVICES and MIG instances")
    asked = [library for library in libraries if library.providers is not None]
    if asked and not any("cuda" in (library.providers or ()) for library in asked):
        found.append("there is a GPU, but no installed runtime has the provider cuda: pip install 'inferplan[gpu]'")
    return found
