"""GPUs as NVIDIA's management library (NVML) shows them: the only place that talks to it.

Every reading is optional. What a GPU, its driver or our permissions do not give is None, and `NvmlGpu.gaps`
says in words why. Nothing here creates a CUDA context, so looking at a GPU takes none of its memory.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

_WHY = {
    "NVML_ERROR_NOT_SUPPORTED": "not supported by this GPU",
    "NVML_ERROR_NO_PERMISSION": "no permission",
    "NVML_ERROR_GPU_IS_LOST": "the GPU is lost",
    "NVML_ERROR_RESET_REQUIRED": "the GPU needs a reset",
    "NVML_ERROR_FUNCTION_NOT_FOUND": "the driver is too old to say",
    "NVML_ERROR_DRIVER_NOT_LOADED": "the NVIDIA driver is not loaded",
    "NVML_ERROR_LIBRARY_NOT_FOUND": "no NVIDIA driver: NVML library not found",
    "NVML_ERROR_LIB_RM_VERSION_MISMATCH": "the NVIDIA driver and its library are of different versions: restart",
}
_NOT_SUPPORTED = _WHY["NVML_ERROR_NOT_SUPPORTED"]
_HELD_BACK = {
    0x002: "application-clocks",
    0x004: "power-cap",
    0x008: "hardware-slowdown",
    0x010: "sync-boost",
    0x020: "thermal",
    0x040: "hardware-thermal",
    0x080: "power-brake",
    0x100: "display-clocks",
    0x200: "board-limit",
    0x400: "reliability",
}
"""Bits of the clocks event reasons. 0x001 is left out: an idle GPU lowers its clocks, nothing holds it back."""
_INITIAL_PID_NAMESPACE = 0xEFFFFFFC
"""Inode of the machine's own process namespace (linux/proc_ns.h: PROC_PID_INIT_INO)."""
_ELSEWHERE = "this process is not in the driver's list: a container has process ids of its own"


class NoDriver(Exception):
    """There is no NVML to ask. The text says why. Never shown as such: it becomes a named gap."""


@dataclass(frozen=True, slots=True)
class GpuMemory:
    """Memory of a GPU or of a MIG instance."""

    total_bytes: int
    free_bytes: int
    used_bytes: int


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process that has a context on a GPU. `memory_bytes` is None where the driver does not say."""

    pid: int
    memory_bytes: int | None


@dataclass(frozen=True, slots=True)
class GpuUse:
    """Who uses a GPU, as seen by one process."""

    own_bytes: int | None
    foreign_processes: int | None


class NvmlGpu:
    """A GPU, or a MIG instance of one. `gaps` names the readings that could not be had, and why."""

    def __init__(self, library: Any, handle: Any, index: int, whole: NvmlGpu | None = None) -> None:
        self.index = index
        self.whole = whole
        """The GPU that this is an instance of; None for a whole GPU."""
        self.gaps: dict[str, str] = {}
        self._library = library
        self._handle = handle

    @cached_property
    def name(self) -> str:
        """As its maker calls it; an instance has its profile in the name."""
        return _text(self._ask("name", "nvmlDeviceGetName") or "unknown GPU")

    @cached_property
    def uuid(self) -> str:
        """`GPU-...`, or `MIG-...`; empty where it is not told."""
        return _text(self._ask("uuid", "nvmlDeviceGetUUID") or "")

    def memory(self) -> GpuMemory | None:
        """Its memory now."""
        found = self._ask("memory", "nvmlDeviceGetMemoryInfo")
        return None if found is None else GpuMemory(int(found.total), int(found.free), int(found.used))

    def mig_enabled(self) -> bool | None:
        """Whether it is cut into instances; False where it cannot be, None where that is not told."""
        if self.whole is not None:
            return False
        mode = self._ask("mig", "nvmlDeviceGetMigMode")
        if mode is None and self.gaps["mig"] == _NOT_SUPPORTED:
            del self.gaps["mig"]
            return False
        return None if mode is None else bool(mode[0])

    def instances(self) -> tuple[NvmlGpu, ...]:
        """Its MIG instances; none without MIG."""
        if not self.mig_enabled():
            return ()
        found = []
        for index in range(int(self._ask("mig instances", "nvmlDeviceGetMaxMigDeviceCount") or 0)):
            with suppress(self._library.NVMLError):  # most places for instances are empty
                handle = self._library.nvmlDeviceGetMigDeviceHandleByIndex(self._handle, index)
                found.append(NvmlGpu(self._library, handle, index, self))
        return tuple(found)

    def clock_hz(self) -> float | None:
        """Clock of its processors now."""
        return _scaled(self._of_whole("clock", "nvmlDeviceGetClockInfo", self._library.NVML_CLOCK_SM), 1e6)

    def max_clock_hz(self) -> float | None:
        """Highest clock of its processors."""
        return _scaled(self._of_whole("max clock", "nvmlDeviceGetMaxClockInfo", self._library.NVML_CLOCK_SM), 1e6)

    def temperature_c(self) -> float | None:
        """Temperature of the chip."""
        sensor = self._library.NVML_TEMPERATURE_GPU
        return _scaled(self._of_whole("temperature", "nvmlDeviceGetTemperature|nvmlDeviceGetTemperatureV", sensor), 1.0)

    def power_w(self) -> float | None:
        """Power drawn now, by the whole board."""
        return _scaled(self._ask("power", "nvmlDeviceGetPowerUsage"), 1e-3)

    def power_limit_w(self) -> float | None:
        """The power it may draw."""
        return _scaled(self._of_whole("power limit", "nvmlDeviceGetEnforcedPowerLimit"), 1e-3)

    def energy_j(self) -> float | None:
        """Energy drawn by the whole board since the driver was loaded: a counter, in steps of 1 mJ.

        A MIG instance has none: that of its GPU counts what other instances do.
        """
        return _scaled(self._ask("energy", "nvmlDeviceGetTotalEnergyConsumption"), 1e-3)

    def utilisation(self) -> float | None:
        """Share of the recent past in which some kernel ran, 0 to 1."""
        rates = self._ask("utilisation", "nvmlDeviceGetUtilizationRates")
        return None if rates is None else float(rates.gpu) / 100

    def held_back(self) -> frozenset[str] | None:
        """What keeps its clocks down at this moment."""
        names = "nvmlDeviceGetCurrentClocksEventReasons|nvmlDeviceGetCurrentClocksThrottleReasons"
        bits = self._of_whole("throttle", names)
        return None if bits is None else frozenset(word for bit, word in _HELD_BACK.items() if int(bits) & bit)

    def processes(self) -> tuple[GpuProcess, ...] | None:
        """Processes that compute or draw on it; None where computing ones are not told."""
        names = "nvmlDeviceGetComputeRunningProcesses_v3|nvmlDeviceGetComputeRunningProcesses_v2"
        computing = self._ask("processes", names)
        if computing is None:
            return None
        drawing: Sequence[Any] = ()
        with suppress(self._library.NVMLError, AttributeError):
            drawing = self._library.nvmlDeviceGetGraphicsRunningProcesses(self._handle)
        found: dict[int, int | None] = {int(item.pid): item.usedGpuMemory for item in [*drawing, *computing]}
        return tuple(GpuProcess(pid, memory) for pid, memory in sorted(found.items()))

    def use_by(self, pid: int, proc: Path = Path("/proc")) -> GpuUse:
        """What process `pid` has of it, and how many others there are.

        The driver may list ids of the machine where this runs in a container with ids of its own: a process
        that finds others but not itself then cannot tell which of them it is.
        """
        self.gaps.pop("process memory", None)
        self.gaps.pop("foreign processes", None)
        listed = self.processes()
        if listed is None:
            return GpuUse(None, None)
        own = [process for process in listed if process.pid == pid]
        if not own:
            apart = listed and not _in_initial_namespace(proc)
            self.gaps["process memory"] = _ELSEWHERE if apart else "the process has nothing on this GPU"
            if apart:
                self.gaps["foreign processes"] = _ELSEWHERE
            return GpuUse(None, None if apart else len(listed))
        if own[0].memory_bytes is None:
            self.gaps["process memory"] = "not told by the driver"
        return GpuUse(own[0].memory_bytes, len(listed) - 1)

    def _of_whole(self, what: str, names: str, *arguments: Any) -> Any:
        """A reading that an instance shares with its GPU."""
        if self.whole is None:
            return self._ask(what, names, *arguments)
        value = self.whole._ask(what, names, *arguments)
        if value is None:
            self.gaps[what] = self.whole.gaps[what]
        return value

    def _ask(self, what: str, names: str, *arguments: Any) -> Any:
        """Call the first of `names` that binding and driver know. None, and a gap, where it fails."""
        error: Exception | None = None
        for name in names.split("|"):
            try:
                value = getattr(self._library, name)(self._handle, *arguments)
                self.gaps.pop(what, None)
                return value
            except AttributeError as missing:
                error = error or missing
            except self._library.NVMLError as failure:
                error = failure
                if failure.value != self._library.NVML_ERROR_FUNCTION_NOT_FOUND:
                    break
        self.gaps[what] = self._why(error)
        return None

    def _why(self, error: Exception | None) -> str:
        if isinstance(error, AttributeError):
            return "the installed nvidia-ml-py is too old to ask"
        of_instances = (self._library.NVML_ERROR_NOT_SUPPORTED, self._library.NVML_ERROR_INVALID_ARGUMENT)
        if self.whole is not None and getattr(error, "value", None) in of_instances:
            return "not told for a MIG instance"
        return _why(self._library, error)


class Driver:
    """The driver, while `open_driver` holds it."""

    def __init__(self, library: Any) -> None:
        self._library = library

    def version(self) -> str:
        """Version of the driver; empty where it is not told."""
        return _text(self._try("nvmlSystemGetDriverVersion") or "")

    def cuda_version(self) -> str:
        """Newest CUDA that the driver runs, e.g. `12.4`; empty where it is not told."""
        number = self._try("nvmlSystemGetCudaDriverVersion_v2")
        return "" if not number else f"{number // 1000}.{number % 1000 // 10}"

    def gpus(self) -> tuple[NvmlGpu, ...]:
        """Every GPU that can be reached, in the order of their places on the bus."""
        found = []
        for index in range(self._try("nvmlDeviceGetCount") or 0):
            with suppress(self._library.NVMLError):  # one that is lost or forbidden hides none of the others
                found.append(NvmlGpu(self._library, self._library.nvmlDeviceGetHandleByIndex(index), index))
        return tuple(found)

    def for_cuda(self, environment: Mapping[str, str] | None = None) -> tuple[NvmlGpu, ...]:
        """What CUDA shows to a process with this environment, in CUDA's order; MIG instances in place of their GPU.

        CUDA_VISIBLE_DEVICES ends at the first entry that names nothing. Of several instances CUDA shows the
        first alone, and no whole GPU beside it. The order of GPUs is that of the bus: measuring processes
        are started with CUDA_DEVICE_ORDER=PCI_BUS_ID.
        """
        listed = (os.environ if environment is None else environment).get("CUDA_VISIBLE_DEVICES")
        gpus = self.gpus()
        chosen = list(gpus)
        if listed is not None:
            chosen = []
            everything = [*gpus, *(instance for gpu in gpus for instance in gpu.instances())]
            for entry in listed.split(","):
                gpu = _named(entry.strip(), gpus, everything)
                if gpu is None:
                    break
                chosen.append(gpu)
        shown = [instance for gpu in chosen for instance in ([gpu] if gpu.whole else gpu.instances())]
        return tuple(shown[:1] or [gpu for gpu in chosen if not gpu.mig_enabled()])

    def _try(self, name: str) -> Any:
        try:
            return getattr(self._library, name)()
        except self._library.NVMLError:
            return None


@contextmanager
def open_driver() -> Iterator[Driver]:
    """Hold NVML open. Raises NoDriver where there is none to ask."""
    try:
        import pynvml
    except ImportError:
        raise NoDriver("the package nvidia-ml-py is not installed (pip install 'inferplan[gpu]')") from None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise NoDriver(_why(pynvml, error)) from None
    try:
        yield Driver(pynvml)
    finally:
        with suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def _named(entry: str, gpus: Sequence[NvmlGpu], everything: Sequence[NvmlGpu]) -> NvmlGpu | None:
    """The GPU that an entry of CUDA_VISIBLE_DEVICES means: an index, or the start of one uuid."""
    if entry.isdecimal():
        return next((gpu for gpu in gpus if gpu.index == int(entry)), None)
    matching = [gpu for gpu in everything if entry and gpu.uuid.startswith(entry)]
    return matching[0] if len(matching) == 1 else None


def _in_initial_namespace(proc: Path) -> bool:
    try:
        return (proc / "self" / "ns" / "pid").stat().st_ino == _INITIAL_PID_NAMESPACE
    except OSError:
        return True


def _why(library: Any, error: Any) -> str:
    for name, text in _WHY.items():
        if getattr(error, "value", None) == getattr(library, name, -1):
            return text
    return str(error)


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else float(value) * factor


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
