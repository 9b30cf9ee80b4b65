"""How user code plugs in: load labelled inputs, pre-process, post-process, route, score.

A workload names its code as `module:Class`, a Python file next to the workload (`stages:Read` is class
`Read` in `stages.py`; `sub/dir/stages:Read` looks below it). The class is plain Python: it imports and
inherits nothing of inferplan, so the same file runs in the profiler, in the runner and inside an exported
Triton repository. Every method is optional; `StageAdapter` and `PipelineAdapter` give the defaults, which
make a pipeline of models that pass tensors to one another work without any code.

A *stage input* is whatever the upstream stage's `route` produced (any picklable object); without code it is
a dict of arrays without the batch dimension, one per model input.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from inferplan.spec.errors import InputError
from inferplan.spec.usercode import load_class

Tensors = dict[str, NDArray[Any]]
"""Arrays by tensor name; the first dimension is the batch."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One input or output of a model. `dtype` is a numpy name ("float32"; "object" for strings), and empty
    where the model does not say; a dimension is None where the model leaves it free, and then has a name where
    the model gives it one: `names` is empty or has one text per dimension. `shape` is None where not even the
    number of dimensions is known. An `optional` input need not be fed."""

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None
    names: tuple[str, ...] = ()
    optional: bool = False


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a model file says of itself."""

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Context:
    """What user code is told when it is made.

    `root` is the folder of the workload file; `params` are the variant's (stage code) or the pipeline's
    (pipeline code) `params`; `model` is None where no model is loaded (skip variants, and when only
    `examples` or `score` are wanted). `modalities` are those the variant is given, sorted; empty where its
    stage has none to choose from.
    """

    root: Path
    params: Mapping[str, Any] = field(default_factory=dict)
    stage: str = ""
    variant: str = ""
    model: ModelInfo | None = None
    modalities: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled input."""

    id: str
    input: Any
    truth: Any = None


@dataclass(frozen=True, slots=True)
class Scores:
    """A metric over n examples: value = sum(weights * values) / sum(weights).

    A plain mean has weights of one; a ratio of sums (F1, character accuracy) carries its denominators as
    weights. User code may return a plain sequence of numbers, or a pair (values, weights), instead.
    """

    values: NDArray[np.float64]
    weights: NDArray[np.float64]

    @property
    def value(self) -> float:
        """The metric, or NaN when nothing was weighed."""
        total = float(self.weights.sum())
        return float((self.values * self.weights).sum() / total) if total > 0 else float("nan")

    @property
    def is_proportion(self) -> bool:
        """Whether this is a share of equally weighted yes/no answers (a Wilson interval applies)."""
        return bool(np.all(self.weights == 1.0) and np.all((self.values == 0.0) | (self.values == 1.0)))


def as_scores(raw: object, count: int, owner: str) -> Scores:
    """Check and convert what a user's `score` returned for one metric over `count` examples."""
    if isinstance(raw, Scores):
        values, weights = raw.values, raw.weights
    elif isinstance(raw, tuple) and len(raw) == 2 and np.ndim(raw[0]) == 1:
        values, weights = np.asarray(raw[0], float), np.asarray(raw[1], float)
    else:
        values = np.asarray(raw, float)
        weights = np.ones_like(values)
    if values.shape != (count,) or weights.shape != (count,):
        raise InputError(
            f"{owner}: score must return one value per example ({count}); got shape {values.shape}"
            " (return an array of values, or a pair (values, weights))"
        )
    if not np.all(np.isfinite(values[weights > 0])) or np.any(weights < 0):
        raise InputError(f"{owner}: score returned a value that is not finite, or a negative weight")
    return Scores(values.astype(np.float64), weights.astype(np.float64))


class StageCode(Protocol):
    """The methods a stage class may define (all optional). Batches are lists of stage inputs."""

    def __init__(self, context: Context) -> None: ...

    def examples(self) -> Sequence[Example]:
        """Labelled inputs of this stage: the data of its accuracy, and the inputs of its latency."""

    def calibration(self) -> Sequence[Any]:
        """Stage inputs like those of `examples`, but none of them: what int8 variants are calibrated on."""

    def preprocess(self, inputs: Sequence[Any]) -> Tensors:
        """Batch of stage inputs -> model input tensors."""

    def postprocess(self, inputs: Sequence[Any], outputs: Tensors) -> Sequence[Any]:
        """Model output tensors -> one prediction per stage input."""

    def passthrough(self, inputs: Sequence[Any]) -> Sequence[Any]:
        """Predictions of the variant `runtime: skip`, which runs no model."""

    def route(self, stage_input: Any, prediction: Any) -> Sequence[Any]:
        """The stage inputs this call sends downstream; their number is the fan-out."""

    def score(self, predictions: Sequence[Any], truths: Sequence[Any]) -> Mapping[str, object]:
        """Metric name -> one value per example (see `Scores`)."""


class PipelineCode(Protocol):
    """The methods a pipeline class may define (all optional)."""

    def __init__(self, context: Context) -> None: ...

    def examples(self) -> Sequence[Example]:
        """Labelled requests; each input goes to the entry stage."""

    def join(self, request: Any, results: Mapping[str, Sequence[Any]]) -> Any:
        """A request's answer from the predictions of the last stages, in order of their calls."""

    def score(self, answers: Sequence[Any], truths: Sequence[Any]) -> Mapping[str, object]:
        """End-to-end metric name -> one value per request (see `Scores`)."""

    def decode(self, tensors: Tensors) -> Sequence[Any]:
        """Tensors of a served request (first dimension: batch) -> requests."""

    def encode(self, answers: Sequence[Any]) -> Tensors:
        """Answers -> tensors of the served response (first dimension: batch)."""


class StageAdapter:
    """User stage code with the defaults filled in and its results checked."""

    def __init__(self, code: object | None, context: Context) -> None:
        self.context = context
        self._code = code
        self.owner = f"stage {context.stage}" + (f" ({type(code).__name__})" if code is not None else "")

    def _method(self, name: str) -> Callable[..., Any] | None:
        return cast("Callable[..., Any] | None", getattr(self._code, name, None))

    def defines(self, name: str) -> bool:
        """Whether the user's code has this method itself, so that no default stands in for it."""
        return self._method(name) is not None

    def examples(self) -> list[Example]:
        method = self._method("examples")
        return as_examples(method(), self.owner) if method else []

    def calibration(self) -> list[Any]:
        """Inputs that no accuracy is judged on; empty where the code has none."""
        method = self._method("calibration")
        return list(method()) if method else []

    def preprocess(self, inputs: Sequence[Any]) -> Tensors:
        method = self._method("preprocess")
        if method:
            return cast(Tensors, method(inputs))
        return {name: self._stacked(name, [np.asarray(item[name]) for item in inputs]) for name in inputs[0]}

    def _stacked(self, name: str, arrays: list[NDArray[Any]]) -> NDArray[Any]:
        """One array of the batch. Where the model leaves dimensions free, items may differ in them: the smaller
        ones are filled up with zeros (empty texts) at the end, as anything that batches them has to."""
        shape = arrays[0].shape
        if all(array.shape == shape for array in arrays):
            return np.stack(arrays)
        known = {tensor.name: tensor.shape for tensor in self.context.model.inputs} if self.context.model else {}
        declared = known.get(name)
        if declared is None or any(len(declared) != array.ndim + 1 for array in arrays):
            raise InputError(f"{self.owner}: the items of a batch differ in the shape of {name}")
        largest = tuple(max(sizes) for sizes in zip(*(array.shape for array in arrays), strict=True))
        for index, free in enumerate(declared[1:]):
            if free is not None and any(array.shape[index] != free for array in arrays):
                raise InputError(
                    f"{self.owner}: the items of a batch differ in dimension {index + 1} of {name}, which the model"
                    f" has fixed at {free}"
                )
        filler: Any = "" if arrays[0].dtype.kind in "OU" else 0
        batch = np.full((len(arrays), *largest), filler, np.result_type(*arrays))
        for row, array in zip(batch, arrays, strict=True):
            row[tuple(slice(size) for size in array.shape)] = array
        return batch

    def postprocess(self, inputs: Sequence[Any], outputs: Tensors) -> list[Any]:
        method = self._method("postprocess")
        if method:
            return self._one_each(list(method(inputs, outputs)), inputs, "postprocess")
        return [{name: array[i] for name, array in outputs.items()} for i in range(len(inputs))]

    def passthrough(self, inputs: Sequence[Any]) -> list[Any]:
        method = self._method("passthrough")
        return self._one_each(list(method(inputs)), inputs, "passthrough") if method else list(inputs)

    def route(self, stage_input: Any, prediction: Any) -> list[Any]:
        method = self._method("route")
        return list(method(stage_input, prediction)) if method else [prediction]

    def score(self, predictions: Sequence[Any], truths: Sequence[Any]) -> dict[str, Scores]:
        method = self._method("score")
        return scored(method, predictions, truths, self.owner) if method else {}

    def _one_each(self, predictions: list[Any], inputs: Sequence[Any], what: str) -> list[Any]:
        if len(predictions) != len(inputs):
            raise InputError(f"{self.owner}: {what} returned {len(predictions)} predictions for {len(inputs)} inputs")
        return predictions


class PipelineAdapter:
    """User pipeline code with the defaults filled in and its results checked."""

    def __init__(self, code: object | None, context: Context) -> None:
        self.context = context
        self._code = code
        self.owner = "pipeline" + (f" ({type(code).__name__})" if code is not None else "")

    def _method(self, name: str) -> Callable[..., Any] | None:
        return cast("Callable[..., Any] | None", getattr(self._code, name, None))

    def examples(self) -> list[Example]:
        method = self._method("examples")
        return as_examples(method(), self.owner) if method else []

    def join(self, request: Any, results: Mapping[str, Sequence[Any]]) -> Any:
        """Default: the prediction of the one last stage; a list where it was called several times."""
        method = self._method("join")
        if method:
            return method(request, results)
        answers = [list(items) for items in results.values()]
        flat = answers[0] if len(answers) == 1 else answers
        return flat[0] if len(flat) == 1 else flat

    def score(self, answers: Sequence[Any], truths: Sequence[Any]) -> dict[str, Scores]:
        method = self._method("score")
        return scored(method, answers, truths, self.owner) if method else {}

    def decode(self, tensors: Tensors) -> list[Any]:
        """Default: row i of every tensor is request i, as a dict of arrays."""
        method = self._method("decode")
        if method:
            return list(method(tensors))
        count = min((len(array) for array in tensors.values()), default=0)
        return [{name: array[i] for name, array in tensors.items()} for i in range(count)]

    def encode(self, answers: Sequence[Any]) -> Tensors:
        """Default: answers are dicts of arrays; stack them by name."""
        method = self._method("encode")
        if method:
            return cast(Tensors, method(answers))
        return {name: np.stack([np.asarray(answer[name]) for answer in answers]) for name in answers[0]}


def scored(
    method: Callable[..., Any], predictions: Sequence[Any], truths: Sequence[Any], owner: str
) -> dict[str, Scores]:
    """Call a user's `score` and check what it returned."""
    raw = method(predictions, truths)
    if not isinstance(raw, Mapping):
        raise InputError(f"{owner}: score must return a mapping from metric name to values, got {type(raw)}")
    return {str(name): as_scores(value, len(truths), owner) for name, value in raw.items()}


def as_examples(raw: Sequence[Any], owner: str) -> list[Example]:
    """Accept Example objects, or (input, truth) pairs numbered from 0 (user code need not import us)."""
    examples = []
    for index, item in enumerate(raw):
        if isinstance(item, Example):
            examples.append(item)
        elif isinstance(item, tuple) and len(item) == 2:
            examples.append(Example(str(index), item[0], item[1]))
        else:
            raise InputError(f"{owner}: examples must yield (input, truth) pairs; item {index} is {type(item)}")
    return examples


def stage_adapter(reference: str | None, context: Context) -> StageAdapter:
    """Stage code by reference, with defaults; `None` gives the defaults alone."""
    return StageAdapter(load_class(reference, context.root)(context) if reference else None, context)


def pipeline_adapter(reference: str | None, context: Context) -> PipelineAdapter:
    """Pipeline code by reference, with defaults; `None` gives the defaults alone."""
    return PipelineAdapter(load_class(reference, context.root)(context) if reference else None, context)
