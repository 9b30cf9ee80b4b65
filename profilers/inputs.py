"""What a variant is measured with: its labelled examples, else requests, else made-up tensors."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from inferplan.profilers.runtimes.executor import Executor
from inferplan.profilers.upstream import collected
from inferplan.spec.stagecode import Context, Example, PipelineAdapter, pipeline_adapter

MADE_UP = 64
"""Made-up inputs per model without data: enough that caches see different ones."""


@dataclass(frozen=True, slots=True)
class PipelineSpec:
    """The pipeline's own code, as plain data. `code` is None where it has none.

    `upstream` says what its requests have to go through to become a later stage's inputs (`upstream_of`).
    """

    root: str
    code: str | None
    params: Mapping[str, Any]
    upstream: Mapping[str, Any] | None = None

    def open(self) -> PipelineAdapter:
        """Import the code and make its object. Raises InputError."""
        return pipeline_adapter(self.code, Context(Path(self.root), self.params))

    def to_json(self) -> dict[str, Any]:
        """Plain data; `PipelineSpec(**data)` is the inverse."""
        return {"root": self.root, "code": self.code, "params": dict(self.params), "upstream": self.upstream}

    def arriving(self) -> list[Example]:
        """What arrives at the stage. Raises InputError."""
        examples = self.open().examples()
        if self.upstream is None or not examples:
            return examples
        inputs = collected(replace(self, upstream=None).to_json(), self.upstream)
        return [Example(str(index), item) for index, item in enumerate(inputs)]


@dataclass(frozen=True, slots=True)
class StageInputs:
    """Inputs of a stage; `labelled` says whether they carry the truth that its `score` asks for, `made_up` that
    they are random tensors."""

    examples: tuple[Example, ...]
    labelled: bool
    made_up: bool = False

    @classmethod
    def of(cls, executor: Executor, requests: PipelineSpec | None) -> StageInputs:
        """The stage's examples; without any, what `requests` makes of the pipeline's, else made-up tensors.

        Past the entry, made-up tensors come before the work of running everything upstream. Raises InputError
        where none of these can be had.
        """
        labelled = executor.examples()
        if labelled:
            return cls(tuple(labelled), True)
        at_entry = requests is not None and requests.upstream is None
        particular = executor.adapter.defines("preprocess") or executor.spec.runtime == "skip"
        arriving = requests.arriving() if requests is not None and (at_entry or particular) else []
        if arriving:
            return cls(tuple(arriving), False)
        made_up = executor.made_up_inputs(MADE_UP)
        return cls(tuple(Example(str(index), item) for index, item in enumerate(made_up)), False, True)

    def shape(self, executor: Executor, batch: int) -> dict[str, list[Any]]:
        """What the model is fed with at a batch size, as the `input_shape` of a point's key has it: sizes, and
        where made-up inputs have sizes that are drawn, the name and the distribution in place of the size."""
        if executor.spec.runtime == "skip":
            return {}
        if self.made_up:
            return executor.made_up_shape(batch)
        inputs = [self.examples[index % len(self.examples)].input for index in range(batch)]
        return {name: list(np.shape(array)) for name, array in sorted(executor.adapter.preprocess(inputs).items())}

    def sha256(self) -> str:
        """Hash of inputs and truths."""
        return examples_sha256(self.examples)

    def batches(self, size: int, seed: Sequence[int]) -> Iterator[list[Any]]:
        """Batches without end: the inputs in a random order that the seed fixes, over and over."""
        order = np.random.default_rng(list(seed)).permutation(len(self.examples))
        position = 0
        while True:
            picks = [order[(position + offset) % len(order)] for offset in range(size)]
            yield [self.examples[pick].input for pick in picks]
            position = (position + size) % len(order)


def examples_sha256(examples: Sequence[Example]) -> str:
    """Hash of labelled data by content; of its number alone where it cannot be pickled."""
    digest = hashlib.sha256()
    for example in examples:
        try:
            digest.update(pickle.dumps((example.id, example.input, example.truth), protocol=5))
        except Exception:
            digest.update(b"unknown")
    return digest.hexdigest()
