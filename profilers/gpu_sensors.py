"""What the GPU was doing while a point was measured: energy, clocks, heat, memory, who else was there.

It is watched from outside the measuring process, by a thread of the one that started it: a thread inside would
take the interpreter lock from the loop that is timed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from threading import Event, Thread
from time import perf_counter
from types import TracebackType
from typing import Any

from inferplan.profilers.nvml import NoDriver, NvmlGpu, open_driver

GPU_PROVIDERS = ("cuda", "tensorrt")
PERIOD_S = 0.1
"""Time between two looks. The driver itself renews clocks and power about as often."""
SHORTEST_WINDOW_S = 0.2
"""Energy counters are renewed every 20 to 100 ms: below this, power and energy are not known."""


@dataclass(frozen=True, slots=True)
class GpuReading:
    """A GPU at one moment. `energy_j` is a counter: it only means something as a difference."""

    wall_s: float
    energy_j: float | None
    power_w: float | None
    clock_hz: float | None
    temperature_c: float | None
    held_back: frozenset[str] | None
    own_bytes: int | None
    foreign_processes: int | None


def read_gpu(gpu: NvmlGpu, pid: int, proc: Path = Path("/proc")) -> GpuReading:
    """Read everything now. `own_bytes` is the memory of process `pid`."""
    energy_j = gpu.energy_j()
    power_w = gpu.power_w()
    use = gpu.use_by(pid, proc)
    return GpuReading(
        perf_counter(),
        energy_j,
        power_w,
        gpu.clock_hz(),
        gpu.temperature_c(),
        gpu.held_back(),
        use.own_bytes,
        use.foreign_processes,
    )


@dataclass(frozen=True, slots=True)
class GpuWindow:
    """What happened on a GPU in a stretch of time. `gaps` says why a field is None."""

    wall_s: float
    energy_j: float | None = None
    clock_min_hz: float | None = None
    clock_max_hz: float | None = None
    temperature_c: float | None = None
    held_back: frozenset[str] = frozenset()
    peak_bytes: int | None = None
    foreign_processes: int | None = None
    gaps: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, readings: Sequence[GpuReading], gaps: Mapping[str, str]) -> GpuWindow:
        """The window that readings, two or more in order of time, span."""
        clocks = [reading.clock_hz for reading in readings if reading.clock_hz is not None]
        return cls(
            readings[-1].wall_s - readings[0].wall_s,
            _energy_between(readings),
            min(clocks, default=None),
            max(clocks, default=None),
            max((r.temperature_c for r in readings if r.temperature_c is not None), default=None),
            frozenset(word for reading in readings for word in reading.held_back or ()),
            max((r.own_bytes for r in readings if r.own_bytes is not None), default=None),
            max((r.foreign_processes for r in readings if r.foreign_processes is not None), default=None),
            dict(gaps),
        )


def gpu_columns(windows: Sequence[GpuWindow], calls: int) -> dict[str, Any]:
    """Columns of a `spec.rows.Measurement` from all windows of its point; `calls` are its stage calls.

    Without windows there are none: a point that ran on no GPU keeps the processor's power and energy. On a
    GPU, `mean_power_w` and `energy_j` are the GPU's, or null.
    """
    if not windows:
        return {}
    wall_s = sum(window.wall_s for window in windows)
    energies = [window.energy_j for window in windows]
    known = [energy for energy in energies if energy is not None]
    energy_j = sum(known) if len(known) == len(energies) and wall_s >= SHORTEST_WINDOW_S else None
    return {
        "peak_gpu_bytes": _most(window.peak_bytes for window in windows),
        "gpu_clock_min_hz": min((w.clock_min_hz for w in windows if w.clock_min_hz is not None), default=None),
        "gpu_clock_max_hz": _most(window.clock_max_hz for window in windows),
        "gpu_temperature_c": _most(window.temperature_c for window in windows),
        "gpu_throttle": "+".join(sorted({word for window in windows for word in window.held_back})),
        "gpu_foreign_processes": _most(window.foreign_processes for window in windows),
        "mean_power_w": None if energy_j is None else energy_j / wall_s,
        "energy_j": None if energy_j is None or calls < 1 else energy_j / calls,
    }


class GpuWatch(AbstractContextManager["GpuWatch"]):
    """Watches what process `pid` does on the GPU that CUDA shows it first; nothing for a provider without one.

    Open it once per measuring process, and bracket every stretch of measuring with `start` and `stop`.
    """

    def __init__(self, provider: str, pid: int, period_s: float = PERIOD_S) -> None:
        self._wanted = provider in GPU_PROVIDERS
        self._pid = pid
        self._period_s = period_s
        self._resources = ExitStack()
        self._gpu: NvmlGpu | None = None
        self._gaps: Mapping[str, str] = {}
        self._readings: list[GpuReading] = []
        self._started_s = 0.0
        self._stopped = Event()
        self._thread: Thread | None = None

    def __enter__(self) -> GpuWatch:
        if self._wanted:
            try:
                shown = self._resources.enter_context(open_driver()).for_cuda()
            except NoDriver as error:
                self._gaps = {"gpu": str(error)}
            else:
                self._gpu = shown[0] if shown else None
                self._gaps = {} if shown else {"gpu": "NVML shows no GPU that CUDA could use"}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_thread()
        self._resources.close()

    def start(self) -> None:
        """Begin a window."""
        self._end_thread()
        self._started_s = perf_counter()
        if self._gpu is None:
            return
        self._readings = [read_gpu(self._gpu, self._pid)]
        self._stopped = Event()
        self._thread = Thread(target=self._watch, args=(self._gpu, self._stopped), daemon=True)
        self._thread.start()

    def stop(self) -> GpuWindow | None:
        """End the window; None for a provider that uses no GPU."""
        if self._gpu is None:
            return GpuWindow(perf_counter() - self._started_s, gaps=self._gaps) if self._wanted else None
        self._end_thread()
        self._readings.append(read_gpu(self._gpu, self._pid))
        return GpuWindow.of(self._readings, self._gpu.gaps)

    def _watch(self, gpu: NvmlGpu, stopped: Event) -> None:
        while not stopped.wait(self._period_s):
            self._readings.append(read_gpu(gpu, self._pid))

    def _end_thread(self) -> None:
        if self._thread is not None:
            self._stopped.set()
            self._thread.join()
            self._thread = None


def _energy_between(readings: Sequence[GpuReading]) -> float | None:
    """From the counter; without one, from the power that was sampled (trapezoids)."""
    first, last = readings[0].energy_j, readings[-1].energy_j
    if first is not None and last is not None:
        # The counter starts anew when the driver is loaded again: nothing is known then.
        return last - first if last >= first else None
    total_j = 0.0
    for before, after in pairwise(readings):
        if before.power_w is None or after.power_w is None:
            return None
        total_j += (before.power_w + after.power_w) / 2 * (after.wall_s - before.wall_s)
    return total_j


def _most(values: Iterable[Any]) -> Any:
    return max((value for value in values if value is not None), default=None)
