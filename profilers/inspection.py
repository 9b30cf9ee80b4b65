"""A look at every choice before anything is measured: does it load, what is it fed with, how slow is it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from types import TracebackType

import numpy as np

from inferplan.profilers.frames import Frame
from inferplan.profilers.inputs import PipelineSpec
from inferplan.profilers.points import requests_json
from inferplan.profilers.process import Limits, WorkerFailure, WorkerProcess
from inferplan.profilers.runtimes.executor import ExecutorSpec
from inferplan.spec.errors import InputError
from inferplan.spec.rows import Status


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a look at a choice found. `shapes` has the JSON of what the model is fed with, per batch size. `count` and
    `data_sha256` are of what it is evaluated with; `arrived` says that latency is measured with what arrives.

    Where `status` is not ok the choice cannot be run, `reason` says why, and most of the rest is empty.
    """

    status: Status = "ok"
    reason: str = ""
    version: str = ""
    fixed_batch: int | None = None
    load_s: float = 0.0
    inputs_s: float = 0.0
    call_s: float = 0.0
    shapes: Mapping[int, str] = field(default_factory=dict)
    count: int = 0
    data_sha256: str = ""
    arrived: bool = False


class Inspector:
    """Looks at choices one after another in one measuring process, a fresh one after a failure."""

    def __init__(self, limits: Limits, bounded_data: bool = True) -> None:
        self._limits = limits
        self._bounded_data = bounded_data
        self._worker: WorkerProcess | None = None

    def __enter__(self) -> Inspector:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the measuring process."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def providers(self, runtime: str) -> tuple[str, ...]:
        """Providers that a runtime's library claims to have. Raises InputError where it cannot be asked."""
        try:
            return tuple(self._process().call("providers", "providers", runtime=runtime).data["providers"])
        except WorkerFailure as failure:
            self.close()
            raise InputError(f"runtime {runtime} does not work here: {failure.reason}") from failure

    def requests(self, pipeline: PipelineSpec) -> tuple[int, str]:
        """Number and hash of the labelled requests. Raises InputError."""
        try:
            data = self._process().call("requests", "inputs", pipeline=requests_json(pipeline)).data
        except WorkerFailure as failure:
            self.close()
            raise InputError(f"the pipeline's labelled requests cannot be had: {failure.reason}") from failure
        return int(data["count"]), str(data["sha256"])

    def variant(
        self, spec: ExecutorSpec, requests: PipelineSpec | None, provider: str, batches: Sequence[int]
    ) -> Inspection:
        """Look at a choice. A model that does not load or run is a finding.

        Raises InputError where the fault is in the user's code or data: nothing could be measured then.
        """
        found = _Findings()
        try:
            self._look(found, spec, requests, provider, batches)
        except WorkerFailure as failure:
            self.close()
            before_the_model = not found.loaded_code or (found.opened is not None and found.arrived is None)
            if failure.raised and before_the_model:
                raise InputError(_named(spec, failure.reason)) from failure
            names = (requests.upstream or {}).get("names", "") if requests is not None and found.arrived else ""
            reason = f"on what {names} sends it: {failure.reason}" if names else failure.reason
            return Inspection(failure.status, reason, found.version, arrived=bool(found.arrived))
        return found.inspection()

    def _look(
        self,
        found: _Findings,
        spec: ExecutorSpec,
        requests: PipelineSpec | None,
        provider: str,
        batches: Sequence[int],
    ) -> None:
        worker = self._process()
        for frame in worker.ask("open", spec=spec.to_json(), provider=provider, threads=1):
            if frame.event == "opened":
                found.opened = frame
                break
            found.loaded_code = True
            found.version = str(frame.data["version"])
        found.timed(lambda: worker.call("load_inputs", "inputs", requests=requests_json(requests), hashed=True))
        timed = worker.call("load_inputs", "inputs", requests=requests_json(requests), timed=True)
        found.arrived = bool(timed.data["arrived"])
        smallest = found.fixed_batch or min(batches)
        for batch in [smallest] if found.fixed_batch else batches:
            shape = worker.call("shape", "shape", batch=batch).data["shape"]
            found.shapes[batch] = json.dumps(shape, sort_keys=True)
        worker.call("begin", "begun", batch=smallest, seed=[0])
        times = worker.call("measure", "measured", least_n=5, min_time_s=0.0, max_time_s=0.2).arrays["times"]
        found.call_s = float(np.median(times.sum(axis=0))) / smallest

    def _process(self) -> WorkerProcess:
        if self._worker is None:
            self._worker = WorkerProcess(self._limits, 1, (), self._bounded_data)
        return self._worker


def _named(spec: ExecutorSpec, reason: str) -> str:
    """A reason that says whose it is, once."""
    known = reason.startswith(f"stage {spec.stage}")
    return reason if known else f"stage {spec.stage}, variant {spec.choice}: {reason}"


@dataclass(slots=True)
class _Findings:
    """What is known so far."""

    loaded_code: bool = False
    version: str = ""
    opened: Frame | None = None
    inputs: Frame | None = None
    inputs_s: float = 0.0
    arrived: bool | None = None
    shapes: dict[int, str] = field(default_factory=dict)
    call_s: float = 0.0

    @property
    def fixed_batch(self) -> int | None:
        return None if self.opened is None else self.opened.data["fixed_batch"]

    def timed(self, load: Callable[[], Frame]) -> None:
        start = perf_counter()
        self.inputs = load()
        self.inputs_s = perf_counter() - start

    def inspection(self) -> Inspection:
        assert self.opened is not None
        assert self.inputs is not None
        return Inspection(
            version=self.version,
            fixed_batch=self.fixed_batch,
            load_s=float(self.opened.data["load_s"]),
            inputs_s=self.inputs_s,
            call_s=self.call_s,
            shapes=self.shapes,
            count=int(self.inputs.data["count"]),
            data_sha256=str(self.inputs.data["sha256"]),
            arrived=bool(self.arrived),
        )
