"""Glances: a handful of calls per batch size in one process, to predict points that need not be measured.

A glance is no measurement: no percentile could be had from it, and its mean is that of one process. It is kept
beside the profile's tables (`glances/`, one small JSON file per choice, provider and thread count), so that a run
that goes on later decides alike; lost, it is taken again.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from inferplan.profilers.points import PointTask, begin_batches, open_point, pinned, point_process
from inferplan.profilers.process import WorkerFailure, WorkerProcess
from inferplan.profilers.sizes import ENOUGH, Calls, middle_mean
from inferplan.profilers.store import GLANCES
from inferplan.spec.evidence import combined_sha256

LEAST_N = ENOUGH
LEAST_S = 0.2
SIZES = 256
SIZES_S = 0.1
"""Batches whose sizes a glance looks at without running them, and the longest that this may take."""
_SHARE = 0.3
"""Largest share of the time that measuring the point would take: what is saved is the rest."""
_PROCESS = 1000
"""Seed of the inputs: other ones than those of the measuring processes."""


@dataclass(frozen=True, slots=True)
class Glance:
    """What a glance at one point saw: time of a batch, calls, most resident memory of the process so far.

    `times_s` and `elements` are the single calls and what the model was fed with in each; `sizes` the elements of
    further batches, which were prepared and not run.
    """

    mean_s: float
    n: int
    peak_rss_bytes: int | None = None
    times_s: tuple[float, ...] = ()
    elements: tuple[int, ...] = ()
    sizes: tuple[int, ...] = ()

    @classmethod
    def of(cls, calls: Calls, sizes: Sequence[int], peak_rss_bytes: int | None) -> Glance:
        """What calls say, those of them that count."""
        kept = calls.counted()
        elements = tuple(int(size) for size in kept.elements)
        seen = tuple(kept.times_s.tolist())
        return cls(middle_mean(kept.times_s), len(seen), peak_rss_bytes, seen, elements, tuple(sizes))

    @property
    def calls(self) -> Calls:
        """The single calls; where they were not kept, their mean as one."""
        return Calls.of(self.times_s or (self.mean_s,), self.elements or (1,))


def take_glances(
    tasks: Sequence[PointTask], most_s: Sequence[float], progress: Callable[[float], None]
) -> dict[str, Glance]:
    """Glance at points that differ in batch size only in a fresh process, as `look_around` does."""
    found: dict[str, Glance] = {}
    first = tasks[0]
    with contextlib.suppress(WorkerFailure), point_process(first, pinned(first, 0)) as worker:
        open_point(worker, first)
        found = look_around(worker, tasks, most_s, progress)
    return found


def look_around(
    worker: WorkerProcess, tasks: Sequence[PointTask], most_s: Sequence[float], progress: Callable[[float], None]
) -> dict[str, Glance]:
    """Glance at points that differ in batch size only, smallest first, in a process that has one of them open: by
    point id.

    Each gets at least four calls and 0.2 s, but no more than its `most_s` and always two calls. A point that cannot be
    run ends it: it and larger ones are missing then.
    """
    found: dict[str, Glance] = {}
    ordered = sorted(zip(tasks, most_s, strict=True), key=lambda pair: pair[0].key.batch)
    differ = True
    with contextlib.suppress(WorkerFailure):
        for index, (task, limit_s) in enumerate(ordered):
            begin_batches(worker, task, _PROCESS)
            calls, peak = _look(worker, limit_s)
            if not np.all(np.isfinite(calls.times_s) & (calls.times_s > 0)):
                break
            sizes = _sizes(worker, task.key.batch) if differ else []
            # Where single inputs are alike, batches of them are.
            differ = differ and not (task.key.batch == 1 and len(set(sizes)) == 1)
            found[task.key.id()] = Glance.of(calls, sizes, peak)
            progress((index + 1) / len(ordered))
    return found


def _sizes(worker: WorkerProcess, batch: int) -> list[int]:
    """Elements of further batches, which are prepared and not run."""
    frame = worker.call("sizes", "sizes", batch=batch, seed=[_PROCESS], most=SIZES, most_s=SIZES_S)
    return [int(size) for size in frame.arrays["elements"]]


def _look(worker: WorkerProcess, limit_s: float) -> tuple[Calls, int | None]:
    """Calls of the batch that was begun, two at least, and the process's peak of resident memory."""
    times: list[float] = []
    elements: list[int] = []
    least_n, least_s = LEAST_N, LEAST_S
    while len(times) < 2:
        frame = worker.call("measure", "measured", least_n=least_n, min_time_s=least_s, max_time_s=limit_s)
        times += np.asarray(frame.arrays["times"], dtype=np.float64).sum(axis=0).tolist()
        elements += frame.arrays["elements"].tolist()
        least_n, least_s = 1, 0.0
    return Calls.of(times, elements), frame.data["peak_rss_bytes"]


def most_glance_s(full_s: float) -> float:
    """The longest that the calls of a glance may take at a point whose measuring takes `full_s`."""
    return max(LEAST_S, _SHARE * full_s)


def glance_s(start_s: float, services_s: Sequence[float], most_s: Sequence[float]) -> float:
    """Expected time of glancing at batches that take `services_s`, in a process that takes `start_s` to start."""
    return start_s + sum(
        service_s + max(2 * service_s, min(limit_s, max(LEAST_S, LEAST_N * service_s)))
        for service_s, limit_s in zip(services_s, most_s, strict=True)
    )


def write_glances(profile: Path, glances: Mapping[str, Glance]) -> None:
    """Keep what was seen. Where that is not possible it is seen again next time."""
    if not glances:
        return
    folder = profile / GLANCES
    content = json.dumps({point: asdict(glance) for point, glance in sorted(glances.items())}, indent=1)
    name = combined_sha256(sorted(glances))[:24]
    with contextlib.suppress(OSError):
        folder.mkdir(exist_ok=True)
        unfinished = folder / f"{name}.{os.getpid()}.partial"
        unfinished.write_text(content + "\n")
        unfinished.rename(folder / f"{name}.json")


def read_glances(profile: Path) -> dict[str, Glance]:
    """What was seen before, by point id. Unreadable files are passed over."""
    found: dict[str, Glance] = {}
    for file in sorted((profile / GLANCES).glob("*.json")):
        with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
            read = {point: _read(seen) for point, seen in json.loads(file.read_text()).items()}
            if all(glance.mean_s > 0 for glance in read.values()):
                found.update(read)
    return found


def _read(seen: Mapping[str, Any]) -> Glance:
    """A glance as it was kept; earlier versions kept no single calls."""
    fields: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in seen.items()}
    return Glance(**fields)
