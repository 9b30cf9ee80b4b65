"""What a variant is measured with: what arrives at its stage, its labelled examples, or made-up tensors."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from inferplan.profilers.runtimes.executor import Executor
from inferplan.spec.errors import InputError
from inferplan.spec.stagecode import Context, Example, PipelineAdapter, pipeline_adapter
from inferplan.spec.usercode import load_class

MADE_UP = 64
"""Made-up inputs per model without data: enough that caches see different ones."""


@dataclass(frozen=True, slots=True)
class PipelineSpec:
    """The pipeline's own code, as plain data. `code` is None where it has none.

    For a stage past the entry, `upstream` says where what arrives there is kept (`upstream.Upstream`).
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
        """What arrives at the stage: the requests at the entry, past it what is kept. Raises InputError."""
        if self.upstream is None:
            return self.open().examples()
        where = f"stage {self.upstream['stage']}"
        if self.upstream["reason"]:
            raise InputError(f"{where}: it has no examples of its own, and {self.upstream['reason']}")
        try:
            contents = pickle.loads(Path(self.upstream["file"]).read_bytes())  # noqa: S301 - made by code that runs here
            return [Example(str(index), item) for index, item in enumerate(self._unpickled(contents))]
        except Exception as error:
            sent = f"what {self.upstream['names']} send it"
            raise InputError(f"{where}: {sent} cannot be read: {type(error).__name__}: {error}") from error

    def _unpickled(self, contents: Sequence[bytes]) -> list[Any]:
        try:
            return [pickle.loads(content) for content in contents]  # noqa: S301
        except (ImportError, AttributeError):  # its class is in the code of another stage, which was not loaded yet
            for code in [self.code, *(self.upstream or {})["codes"]]:
                if code:
                    load_class(code, Path(self.root))
            return [pickle.loads(content) for content in contents]  # noqa: S301


@dataclass(frozen=True, slots=True)
class StageInputs:
    """Inputs of a stage; `labelled` says whether they carry the truth that its `score` asks for, `made_up` that
    they are random tensors, `arrived` that other stages sent them."""

    examples: tuple[Example, ...]
    labelled: bool
    made_up: bool = False
    arrived: bool = False

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
        arriving = requests.arriving() if requests is not None and (at_entry or _particular(executor)) else []
        if arriving:
            return cls(tuple(arriving), False, arrived=not at_entry)
        made_up = executor.made_up_inputs(MADE_UP)
        return cls(tuple(Example(str(index), item) for index, item in enumerate(made_up)), False, True)

    @classmethod
    def timed(cls, executor: Executor, requests: PipelineSpec | None) -> StageInputs:
        """What latency is measured with: past the entry what arrives there, where it can be had and the stage does
        not make do with made-up tensors; else as `of`. Raises InputError, also where the stage takes its own examples
        and not what arrives."""
        kept = requests is not None and requests.upstream is not None and not requests.upstream["reason"]
        if requests is None or not kept or not (executor.adapter.defines("examples") or _particular(executor)):
            return cls.of(executor, requests)
        found = cls(tuple(requests.arriving()), False, arrived=True)
        _check_fit(executor, found.examples[0].input, (requests.upstream or {})["names"])
        return found

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


def _particular(executor: Executor) -> bool:
    """Whether made-up tensors are no inputs of the stage."""
    return executor.adapter.defines("preprocess") or executor.spec.runtime == "skip"


def _check_fit(executor: Executor, item: Any, names: str) -> None:
    """Raises InputError where stage code takes its own examples and not what arrives: the pipeline does not fit
    together. Code that takes neither is a variant that does not run."""
    if executor.spec.runtime == "skip":
        return
    try:
        executor.adapter.preprocess([item])
    except Exception as error:
        if _takes_its_own(executor):
            raised = f"{type(error).__name__}: {error}"
            raise InputError(
                f"{executor.adapter.owner}: preprocess fails on what {names} sends it: {raised}"
            ) from error


def _takes_its_own(executor: Executor) -> bool:
    try:
        own = [example.input for example in executor.examples()[:1]]
        return bool(own and executor.adapter.preprocess(own))
    except Exception:
        return False


def examples_sha256(examples: Sequence[Example]) -> str:
    """Hash of labelled data by content; of its number alone where it cannot be pickled."""
    digest = hashlib.sha256()
    for example in examples:
        try:
            digest.update(pickle.dumps((example.id, example.input, example.truth), protocol=5))
        except Exception:
            digest.update(b"unknown")
    return digest.hexdigest()
