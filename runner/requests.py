"""The requests a run sends, what becomes of their predictions, and how the answers are scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from inferplan.profilers.runtimes.executor import Executor, ExecutorSpec
from inferplan.runner.frames import dump, load
from inferplan.runner.router import Answers
from inferplan.spec.errors import InputError
from inferplan.spec.plan import LoadedPlan
from inferplan.spec.stagecode import Context, Example, PipelineAdapter, Scores, pipeline_adapter, stage_adapter
from inferplan.spec.workload import Workload


def pipeline_code(workload: Workload) -> PipelineAdapter:
    """The pipeline's own code, with defaults."""
    return pipeline_adapter(workload.pipeline.code, Context(workload.root, workload.pipeline.params))


def joined(adapter: PipelineAdapter, request: Any, answers: Answers) -> Any:
    """A request's answer from the blobs that the last stages sent."""
    return adapter.join(request, {stage: [load(blob) for blob in blobs] for stage, blobs in answers.items()})


MADE_UP = 64


class Requests:
    """The pipeline's labelled examples, in a seeded order; where it has none, those of the entry stage; where
    that has none, random inputs for the model the plan enters at (`made_up`).

    Raises InputError where there is nothing to send.
    """

    def __init__(self, loaded: LoadedPlan, seed: int) -> None:
        workload = loaded.workload.workload
        self._adapter = pipeline_code(workload)
        self._score: Callable[[Sequence[Any], Sequence[Any]], Mapping[str, Scores]] = self._adapter.score
        self.metric = workload.accuracy.metric.name if workload.accuracy else None
        self.made_up = False
        examples = self._adapter.examples()
        if not examples:
            entry = workload.pipeline.entry_stages()[0]
            stage = workload.pipeline.stages[entry]
            code = stage_adapter(stage.code, Context(workload.root, {}, entry))
            examples = code.examples()
            # A pipeline of one stage is as good as that stage; of others the answers have no truth.
            single = len(workload.pipeline.stages) == 1 and stage.metric is not None
            self._score, self.metric = code.score, stage.metric.name if single and stage.metric else None
        if not examples:
            examples = _made_up(loaded, seed)
            self.metric, self.made_up = None, True
        order = np.random.default_rng(seed).permutation(len(examples))
        self._examples = [examples[index] for index in order]

    def __len__(self) -> int:
        """How many different requests there are."""
        return len(self._examples)

    def blobs(self) -> list[bytes]:
        """Every request, ready to be sent."""
        return [dump(example.input) for example in self._examples]

    def finish(self, index: int, answers: Answers) -> Any:
        """The answer to request `index`."""
        return joined(self._adapter, self._examples[index].input, answers)

    def score(self, answers: Mapping[int, Any]) -> Scores | None:
        """The workload's metric over answers by index; None where nothing scores them."""
        chosen = sorted(answers)
        if not chosen or self.metric is None:
            return None
        scores = self._score([answers[i] for i in chosen], [self._examples[i].truth for i in chosen])
        return scores.get(self.metric)


def _made_up(loaded: LoadedPlan, seed: int) -> list[Example]:
    workload = loaded.workload.workload
    entry = workload.pipeline.entry_stages()[0]
    stage = workload.pipeline.stages[entry]
    option = next(option for option in loaded.plan.options.values() if option.stage == entry)
    spec = ExecutorSpec.of(workload.root, entry, stage, option.chosen)
    try:
        with Executor.from_spec(spec, "cpu" if option.provider == "none" else option.provider) as executor:
            inputs = executor.made_up_inputs(MADE_UP, seed)
    except InputError as error:
        raise InputError(
            f"{workload.name} has no requests to send: give its pipeline code an `examples` method", [str(error)]
        ) from error
    return [Example(str(index), item) for index, item in enumerate(inputs)]
