"""Measuring one point: fresh processes in turn, each with its share of the samples, until the rule is met."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inferplan.profilers.gpu_sensors import GPU_PROVIDERS, GpuWatch, GpuWindow, gpu_columns
from inferplan.profilers.inputs import PipelineSpec
from inferplan.profilers.process import Limits, WorkerFailure, WorkerProcess
from inferplan.profilers.runtimes.executor import ExecutorSpec
from inferplan.profilers.sensors import Window, joined
from inferplan.profilers.statistics import drift, process_spread, quantiles
from inferplan.profilers.stopping import StoppingRule, cold_start, warmup_end
from inferplan.spec.rows import Measurement, PointKey, Samples, Status

_SLICE_S = 1.0
"""Longest time between two looks at what was measured so far."""
_SHORTEST_WINDOW_S = 0.2
"""The system counts CPU time in hundredths of a second: below this, foreign load is not known."""

Floats = NDArray[np.float64]
Progress = Callable[[float], None]
"""Called with the share of a job that is done, 0 to 1."""
Afterwards = Callable[[WorkerProcess], None]
"""Called with a process that has measured its share, before it ends."""


@dataclass(frozen=True, slots=True)
class PointTask:
    """One point to measure, and with what. `requests` is the pipeline's code, and what it sends the stage."""

    key: PointKey
    spec: ExecutorSpec
    requests: PipelineSpec | None
    limits: Limits
    cores: tuple[int, ...] = ()
    lineage: str = ""
    """What the rows say of the variant's making: JSON, or empty."""

    @property
    def on_gpu(self) -> bool:
        """Whether a GPU runs the model."""
        return self.key.provider in GPU_PROVIDERS


@dataclass(slots=True)
class ProcessRun:
    """What one fresh process gave. `times_s` has rows pre, inference, post and a column per batch."""

    load_s: float = 0.0
    first_s: float = 0.0
    times_s: Floats = field(default_factory=lambda: np.empty((3, 0)))
    elements: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    windows: list[Window] = field(default_factory=list)
    gpu_windows: list[GpuWindow] = field(default_factory=list)
    peak_rss_bytes: int | None = None
    met: bool = False

    @property
    def service_s(self) -> Floats:
        """Time of each batch."""
        return np.asarray(self.times_s.sum(axis=0), dtype=np.float64)

    @property
    def wall_s(self) -> float:
        """Measuring time so far, with what the loop itself takes."""
        return sum(window.wall_s for window in self.windows)

    def kept(self) -> tuple[int, float]:
        """Batches after warm-up, and their part of the measuring time."""
        total = self.times_s.shape[1]
        count = total - warmup_end(self.service_s)
        return count, self.wall_s * count / total if total else 0.0


def measure_point(
    task: PointTask, rule: StoppingRule, cut_short_by: str, progress: Progress, afterwards: Afterwards | None = None
) -> tuple[Measurement, Samples | None]:
    """Measure a point. A failure is a measurement too: status and reason say so, and there are no samples.

    `cut_short_by` is what to call it when the rule's time limit comes first: "time" or "budget". `afterwards` gets
    the first process.
    """
    runs: list[ProcessRun] = []
    try:
        for process in range(rule.processes):

            def told(share: float, done: int = process) -> None:
                progress((done + share) / rule.processes)

            runs.append(run_process(task, rule.share(process), process, told, afterwards if process == 0 else None))
    except WorkerFailure as failure:
        return failed_point(task, failure.status, failure.reason), None
    return summary(task, runs, rule, cut_short_by)


def failed_point(task: PointTask, status: Status, reason: str) -> Measurement:
    """The row of a point that could not be measured."""
    return Measurement(task.key, status, reason, measured_at=now(), lineage=task.lineage)


def run_process(
    task: PointTask, share: StoppingRule, process: int, progress: Progress, afterwards: Afterwards | None = None
) -> ProcessRun:
    """One fresh process: load, first batch, then slices until its share of the rule is met.

    Raises WorkerFailure.
    """
    run = ProcessRun()
    with (
        point_process(task, pinned(task, process)) as worker,
        GpuWatch(task.key.provider, worker.pid) as watch,
    ):
        run.load_s, run.first_s = begin_point(worker, task, process)
        progress(0.0)
        while not _finished(run, share, progress):
            _take_slice(worker, watch, run, share)
        if afterwards is not None:
            afterwards(worker)
    return run


def point_process(task: PointTask, cores: Sequence[int]) -> WorkerProcess:
    """A fresh measuring process for a point, pinned to `cores`."""
    return WorkerProcess(task.limits, task.key.threads, cores, not task.on_gpu)


def begin_point(worker: WorkerProcess, task: PointTask, process: int) -> tuple[float, float]:
    """Load the model and the inputs, run the first batch: seconds of loading, seconds of that batch.

    Raises WorkerFailure, also where a runtime or provider other than the key's runs the model.
    """
    load_s = open_point(worker, task)
    return load_s, begin_batches(worker, task, process)


def open_point(worker: WorkerProcess, task: PointTask) -> float:
    """Load the model and the inputs: seconds that the model took. Raises WorkerFailure like `begin_point`."""
    key = task.key
    opened = worker.call("open", "opened", spec=task.spec.to_json(), provider=key.provider, threads=key.threads).data
    if opened["version"] != key.runtime_version or opened["provider"] != key.provider:
        raise WorkerFailure("failed", "the runtime changed while it was being measured; profile again")
    worker.call("load_inputs", "inputs", requests=requests_json(task.requests), timed=True)
    return float(opened["load_s"])


def begin_batches(worker: WorkerProcess, task: PointTask, process: int) -> float:
    """Run a point's first batch, in what was opened: its seconds. `process` decides which inputs come in turn."""
    seed = [int(task.key.id(), 16) % 2**32, process]
    return float(worker.call("begin", "begun", batch=task.key.batch, seed=seed).data["first_s"])


def _take_slice(worker: WorkerProcess, watch: GpuWatch, run: ProcessRun, share: StoppingRule) -> None:
    count, kept_s = run.kept()
    watch.start()
    frame = worker.call(
        "measure",
        "measured",
        least_n=share.wanted_n(count, run.wall_s),
        min_time_s=min(_SLICE_S, max(0.0, share.min_time_s - kept_s)),
        max_time_s=min(_SLICE_S, share.left_s(count, run.wall_s)),
    )
    gpu_window = watch.stop()
    times = frame.arrays.get("times")
    if times is None or times.ndim != 2 or times.shape[0] != 3 or not np.all(np.isfinite(times)):
        raise WorkerFailure("failed", "the measuring process sent times that are none")
    run.times_s = np.concatenate([run.times_s, times.astype(np.float64)], axis=1)
    run.elements = np.concatenate([run.elements, frame.arrays["elements"].astype(np.int64)])
    run.windows.append(Window(**frame.data["window"]))
    if gpu_window is not None:
        run.gpu_windows.append(gpu_window)
    run.peak_rss_bytes = frame.data["peak_rss_bytes"]


def _finished(run: ProcessRun, share: StoppingRule, progress: Progress) -> bool:
    if not run.windows:
        return False
    count, kept_s = run.kept()
    run.met = share.is_met(count, kept_s)
    progress(share.progress(count, kept_s, run.wall_s))
    return run.met or share.is_over(count, run.wall_s)


def summary(
    task: PointTask, runs: Sequence[ProcessRun], rule: StoppingRule, cut_short_by: str
) -> tuple[Measurement, Samples]:
    """Statistics of a point, warm-up left out, and its raw times (also without warm-up)."""
    key = task.key
    cuts = _cuts(runs, rule.floor_n)
    parts = [run.times_s[:, cut:] for run, cut in zip(runs, cuts, strict=True)]
    times = np.concatenate(parts, axis=1)
    service = np.asarray(times.sum(axis=0), dtype=np.float64)
    process = np.concatenate([np.full(part.shape[1], index, np.int32) for index, part in enumerate(parts)])
    medians = [float(np.median(part.sum(axis=0))) for part in parts]
    total_s = float(service.sum())
    measurement = Measurement(
        key=key,
        status="ok",
        n=len(service),
        processes=len(runs),
        service=quantiles(service, rule.confidence, process),
        infer=quantiles(times[1], rule.confidence, process),
        pre_mean_s=float(times[0].mean()),
        post_mean_s=float(times[2].mean()),
        throughput_per_s=key.batch * len(service) / total_s if total_s > 0 else None,
        load_s=float(np.median([run.load_s for run in runs])),
        first_inference_s=float(np.median([run.first_s for run in runs])),
        warmup_n=max(cuts),
        peak_rss_bytes=max((run.peak_rss_bytes for run in runs if run.peak_rss_bytes is not None), default=None),
        drift=_drift(parts),
        process_spread=process_spread(medians),
        stopped_by="percentile" if all(run.met for run in runs) else cut_short_by,
        measured_at=now(),
        confidence=rule.confidence,
        lineage=task.lineage,
        **_surroundings(runs, key.batch),
    )
    elements = np.concatenate([run.elements[cut:] for run, cut in zip(runs, cuts, strict=True)])
    return measurement, Samples(key.id(), process, service, np.asarray(times[1], dtype=np.float64), elements)


def _cuts(runs: Sequence[ProcessRun], floor_n: int) -> list[int]:
    """Batches of every process that are warm-up. Where the rule was met one first call among many decides nothing; it
    stays where `floor_n` batches, which a median takes, would not be left."""
    cuts = [warmup_end(run.service_s) for run in runs]
    total = sum(len(run.service_s) for run in runs)
    suffices = total < floor_n or total - len(runs) >= floor_n
    if not any(cuts) and not all(run.met for run in runs) and cold_start([run.service_s for run in runs]):
        return [1 if suffices else 0] * len(runs)
    return cuts


def _drift(parts: Sequence[Floats]) -> float | None:
    """Median over the processes: each has its own beginning and end."""
    drifts = [value for part in parts if (value := drift(np.asarray(part.sum(axis=0)))) is not None]
    return float(np.median(drifts)) if drifts else None


def _surroundings(runs: Sequence[ProcessRun], batch: int) -> dict[str, Any]:
    """Columns about machine and GPU; power and energy are the GPU's where it was used."""
    window = joined([window for run in runs for window in run.windows])
    if window is None:
        return {}
    calls = batch * sum(run.times_s.shape[1] for run in runs)
    known = window.wall_s >= _SHORTEST_WINDOW_S
    energy = window.energy_j if known else None
    foreign = window.foreign_cpu_s if known else None
    return {
        "cpu_utilisation": window.own_cpu_s / window.wall_s if window.wall_s > 0 else None,
        "foreign_cpu": None if foreign is None else foreign / window.wall_s,
        "clock_min_hz": window.clock_min_hz,
        "clock_max_hz": window.clock_max_hz,
        "temperature_c": window.temperature_c,
        "mean_power_w": None if energy is None else energy / window.wall_s,
        "energy_j": None if energy is None else energy / calls,
        **gpu_columns([window for run in runs for window in run.gpu_windows], calls),
    }


def pinned(task: PointTask, process: int) -> tuple[int, ...]:
    """The cores one process gets: as many as threads, others for every process, as replicas will have them.

    A process on a GPU is not pinned: its driver has threads of its own.
    """
    count, cores = task.key.threads, task.cores
    if task.on_gpu:
        return ()
    if count >= len(cores):
        return cores
    windows = len(cores) // count
    start = len(cores) - count * (process % windows + 1)
    return cores[start : start + count]


def requests_json(requests: PipelineSpec | None) -> Mapping[str, Any] | None:
    """Plain data for the measuring process."""
    return None if requests is None else requests.to_json()


def now() -> str:
    """This moment, UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="microseconds")
