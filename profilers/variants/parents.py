"""The variants to make others from, and the measuring processes that look at them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

from inferplan.profilers.inputs import PipelineSpec
from inferplan.profilers.points import requests_json
from inferplan.profilers.process import Limits, WorkerFailure, WorkerProcess
from inferplan.profilers.runtimes.executor import ExecutorSpec
from inferplan.profilers.variants.base import Survey
from inferplan.spec.document import LoadedWorkload, closest
from inferplan.spec.errors import InputError, MissingExtraError
from inferplan.spec.stage import Choice, Stage, Variant

TIME_LIMIT_S = 600.0
OnEvent = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Parent:
    """A variant to make others from, and what a look at it found."""

    stage: str
    name: str
    variant: Variant
    survey: Survey = Survey()


def parents(loaded: LoadedWorkload, stages: Sequence[str], variants: Sequence[str]) -> list[Parent]:
    """The variants chosen by name, in the order of the document; all where no names are given. Raises InputError."""
    found = [
        Parent(stage_name, name, variant)
        for stage_name, stage in loaded.workload.pipeline.stages.items()
        for name, variant in stage.variants.items()
    ]
    _check_names("--stage", stages, [parent.stage for parent in found])
    chosen = [parent for parent in found if not stages or parent.stage in stages]
    _check_names("--variant", variants, [parent.name for parent in chosen])
    return [parent for parent in chosen if not variants or parent.name in variants]


def _check_names(option: str, given: Sequence[str], known: Sequence[str]) -> None:
    for name in given:
        if name not in known:
            near = closest(name, known)
            meant = f"did you mean {near!r}?" if near else f"there are: {', '.join(dict.fromkeys(known))}"
            raise InputError(f"{option} {name}: there is none of that name; {meant}")


class Workplace:
    """Where variants of one workload are looked at and made: measuring processes with limits."""

    def __init__(
        self, loaded: LoadedWorkload, time_limit_s: float = TIME_LIMIT_S, on_event: OnEvent = lambda text: None
    ) -> None:
        self.loaded = loaded
        self._workload = loaded.workload
        self._root = loaded.workload.root
        self._limits = Limits(time_limit_s, loaded.workload.profile.memory_limit_bytes)
        self.on_event = on_event
        pipeline = self._workload.pipeline
        self._entry = pipeline.entry_stages()[0]
        self._requests = PipelineSpec(str(self._root), pipeline.code, pipeline.params) if pipeline.code else None

    def surveyed(self, chosen: Sequence[Parent]) -> list[Parent]:
        """The same with what a look at each found. Raises MissingExtraError."""
        if find_spec("onnx") is None and any(parent.variant.runtime == "onnxruntime" for parent in chosen):
            raise MissingExtraError("variants", "making variants of ONNX models")
        found: list[Parent] = []
        worker: WorkerProcess | None = None
        try:
            for index, parent in enumerate(chosen):
                self.on_event(f"looking at {parent.stage}={parent.name} ({index + 1} of {len(chosen)})")
                worker = worker or self.process()
                try:
                    survey = self._look(worker, parent)
                except WorkerFailure as failure:
                    worker.close()
                    worker = None
                    survey = Survey(failure=failure.reason)
                found.append(replace(parent, survey=survey))
        finally:
            if worker is not None:
                worker.close()
        return found

    def _look(self, worker: WorkerProcess, parent: Parent) -> Survey:
        if parent.variant.runtime == "skip":
            return Survey(failure="runs no model")
        spec = self.spec(parent.stage, parent.name, parent.variant, self.choices(parent)[0])
        data = worker.call(
            "variants", "surveyed", step="survey", spec=spec.to_json(), requests=self.requests_of(parent)
        ).data
        return Survey.of(data)

    def process(self) -> WorkerProcess:
        """A fresh measuring process."""
        return WorkerProcess(self._limits, 1)

    def requests_of(self, parent: Parent) -> Mapping[str, Any] | None:
        """The pipeline's requests, for variants of its entry stage."""
        return requests_json(self._requests) if parent.stage == self._entry else None

    def choices(self, parent: Parent) -> list[Choice]:
        """A variant with each of its modality subsets."""
        choices = self._workload.pipeline.stages[parent.stage].choices().values()
        return [choice for choice in choices if choice.variant == parent.name]

    def spec(self, stage_name: str, name: str, variant: Variant, choice: Choice) -> ExecutorSpec:
        """What opens a variant, be it in the workload or not yet."""
        stage: Stage = self._workload.pipeline.stages[stage_name].model_copy(update={"variants": {name: variant}})
        return ExecutorSpec.of(self._root, stage_name, stage, Choice(name, choice.modalities))
