"""Running a stage over all its inputs inside the measuring process: predictions, scores, what it sends on."""

from __future__ import annotations

import json
import pickle
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inferplan.profilers.frames import Frame
from inferplan.profilers.inputs import PipelineSpec, StageInputs
from inferplan.profilers.metrics import Evaluated, evaluate
from inferplan.profilers.runtimes.executor import Executor, ExecutorSpec
from inferplan.spec.predictions import MOST_TOTAL_BYTES, NotKept, from_text, texts_of
from inferplan.spec.stagecode import Context, PipelineAdapter, Scores, StageAdapter, stage_adapter


def predict(executor: Executor, inputs: Sequence[Any], batch: int) -> Generator[Frame, None, list[Any]]:
    """A prediction per input (the return value), in batches, in the model's own size where that is fixed.

    Yields a frame `beat` after every batch: the sign of life that the call timeout waits for.
    """
    size = executor.fixed_batch or batch
    predictions: list[Any] = []
    for start in range(0, len(inputs), size):
        part = list(inputs[start : start + size])
        # A model of fixed batch size gets its last batch filled up; the answers to the filling are dropped.
        filling = part[-1:] * (size - len(part)) if executor.fixed_batch else []
        predictions += executor.execute(part + filling).predictions[: len(part)]
        yield Frame("beat", {"done": len(predictions), "total": len(inputs)})
    return predictions


def score_stage(
    executor: Executor, inputs: StageInputs, batch: int, metrics: Sequence[Mapping[str, Any]] = ()
) -> Iterator[Frame]:
    """Beats while predicting, then one frame `scored`: scores of labelled inputs, what was predicted for them,
    and the flow of all. `metrics` are computed beside what the stage's `score` returns."""
    examples = inputs.examples
    predictions = yield from predict(executor, [example.input for example in examples], batch)
    fan_outs: list[int] = []
    sizes: list[int] = []
    for example, prediction in zip(examples, predictions, strict=True):
        sent = executor.route(example.input, prediction)
        fan_outs.append(len(sent))
        sizes.extend(payload_bytes(item) for item in sent)
    payload = float(np.mean(sizes)) if sizes else None
    data = {"labelled": inputs.labelled, "n": len(examples), "fan_outs": fan_outs, "payload_bytes_mean": payload}
    if not inputs.labelled:
        yield outcome_frame("scored", data, {})
        return
    truths = [example.truth for example in examples]
    scores = executor.score(predictions, truths)
    found = yield from evaluated(scores, metrics, predictions, truths, Path(executor.spec.root))
    yield outcome_frame("scored", data, found, Answers([example.id for example in examples], predictions, truths))


def evaluated(
    scores: Mapping[str, Scores],
    metrics: Sequence[Mapping[str, Any]],
    predictions: Sequence[Any],
    truths: Sequence[Any],
    root: Path,
) -> Generator[Frame, None, dict[str, Evaluated]]:
    """`metrics.evaluate`, whose signs of life become beats."""
    work = evaluate(scores, metrics, predictions, truths, root)
    while True:
        try:
            next(work)
        except StopIteration as end:
            return dict(end.value)
        yield Frame("beat", {"done": len(truths), "total": len(truths)})


@dataclass(frozen=True, slots=True)
class Answers:
    """What was predicted for labelled examples."""

    ids: list[str]
    predictions: list[Any]
    truths: list[Any]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an evaluation found, as it leaves the measuring process. `predictions` and `truths` are JSON texts;
    both are empty where they are not kept, and `not_kept` says why."""

    metrics: Mapping[str, Evaluated]
    ids: tuple[str, ...] = ()
    predictions: tuple[str, ...] = ()
    truths: tuple[str, ...] = ()
    not_kept: str = ""


def outcome_frame(
    event: str, data: Mapping[str, Any], metrics: Mapping[str, Evaluated], answers: Answers | None = None
) -> Frame:
    """A frame that carries what an evaluation found; `outcome_of` takes it out again."""
    listed: list[dict[str, Any]] = []
    arrays: dict[str, NDArray[Any]] = {}
    for index, (name, found) in enumerate(sorted(metrics.items())):
        fields = {field: getattr(found, field) for field in ("value", "lower", "upper", "method", "n", "reason")}
        listed.append({"name": name, "scored": found.scores is not None, **fields})
        if found.scores is not None:
            arrays[f"values{index}"] = found.scores.values
            arrays[f"weights{index}"] = found.scores.weights
    kept: dict[str, Any] = {"ids": [], "predictions": [], "truths": []}
    not_kept = ""
    if answers is not None:
        kept["ids"] = [str(name) for name in answers.ids]
        try:
            predictions = texts_of(answers.predictions, "the prediction", MOST_TOTAL_BYTES)
            room = MOST_TOTAL_BYTES - sum(len(text.encode()) for text in predictions)
            kept |= {"predictions": predictions, "truths": texts_of(answers.truths, "the truth", room)}
        except NotKept as reason:
            not_kept = str(reason)
    arrays["kept"] = np.frombuffer(json.dumps(kept).encode(), np.uint8)
    return Frame(event, {**data, "metrics": listed, "not_kept": not_kept}, arrays)


def outcome_of(frame: Frame) -> Outcome:
    """What an evaluation found, from its frame."""
    metrics: dict[str, Evaluated] = {}
    for index, item in enumerate(frame.data["metrics"]):
        fields = dict(item)
        name, scored = str(fields.pop("name")), fields.pop("scored")
        scores = Scores(frame.arrays[f"values{index}"], frame.arrays[f"weights{index}"]) if scored else None
        metrics[name] = Evaluated(**fields, scores=scores)
    kept = json.loads(frame.arrays["kept"].tobytes())
    return Outcome(
        metrics,
        tuple(kept["ids"]),
        tuple(kept["predictions"]),
        tuple(kept["truths"]),
        str(frame.data["not_kept"]),
    )


def rescore(command: Mapping[str, Any]) -> Iterator[Frame]:
    """Score predictions that were kept, without a model: those of a stage's choice where the command has a
    `spec`, else answers of the `pipeline`. One frame `scored`, without a flow."""
    ids, predictions, truths = (list(command["kept"][name]) for name in ("ids", "predictions", "truths"))
    predictions, truths = [*map(from_text, predictions)], [*map(from_text, truths)]
    adapter: StageAdapter | PipelineAdapter
    if command.get("spec"):
        spec = ExecutorSpec(**command["spec"])
        context = Context(Path(spec.root), spec.params, spec.stage, spec.variant, None, tuple(spec.modalities))
        adapter = stage_adapter(spec.code, context)
    else:
        adapter = PipelineSpec(**command["pipeline"]).open()
    scores = adapter.score(predictions, truths)
    found = yield from evaluated(scores, command["metrics"], predictions, truths, adapter.context.root)
    yield outcome_frame("scored", {"labelled": True, "n": len(ids)}, found, Answers(ids, predictions, truths))


def payload_bytes(item: object) -> int:
    """Size of a stage input on its way: its arrays, texts and bytes, and what else it holds as pickled."""
    if isinstance(item, np.ndarray) and item.dtype != object:
        return item.nbytes
    if isinstance(item, bytes | bytearray):
        return len(item)
    if isinstance(item, str):
        return len(item.encode())
    if isinstance(item, Mapping):
        return sum(payload_bytes(key) + payload_bytes(value) for key, value in item.items())
    if isinstance(item, list | tuple):
        return sum(payload_bytes(part) for part in item)
    return len(pickle.dumps(item, protocol=5))
