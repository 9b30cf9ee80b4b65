"""Running a stage over all its inputs inside the measuring process: predictions, scores, what it sends on."""

from __future__ import annotations

import pickle
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from inferplan.profilers.frames import Frame
from inferplan.profilers.inputs import StageInputs
from inferplan.profilers.runtimes.executor import Executor
from inferplan.spec.stagecode import Scores


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


def score_stage(executor: Executor, inputs: StageInputs, batch: int) -> Iterator[Frame]:
    """Beats while predicting, then one frame `scored`: scores of labelled inputs, and the flow of all."""
    examples = inputs.examples
    predictions = yield from predict(executor, [example.input for example in examples], batch)
    scores = executor.score(predictions, [example.truth for example in examples]) if inputs.labelled else {}
    fan_outs: list[int] = []
    sizes: list[int] = []
    for example, prediction in zip(examples, predictions, strict=True):
        sent = executor.route(example.input, prediction)
        fan_outs.append(len(sent))
        sizes.extend(payload_bytes(item) for item in sent)
    payload = float(np.mean(sizes)) if sizes else None
    data = {"labelled": inputs.labelled, "n": len(examples), "fan_outs": fan_outs, "payload_bytes_mean": payload}
    yield scores_frame("scored", data, scores)


def scores_frame(event: str, data: Mapping[str, Any], scores: Mapping[str, Scores]) -> Frame:
    """A frame that carries scores; `scores_of` takes them out again."""
    names = sorted(scores)
    arrays = {}
    for index, name in enumerate(names):
        arrays[f"values{index}"] = scores[name].values
        arrays[f"weights{index}"] = scores[name].weights
    return Frame(event, {**data, "metrics": names}, arrays)


def scores_of(frame: Frame) -> dict[str, Scores]:
    """The scores a frame carries, by metric."""
    return {
        str(name): Scores(frame.arrays[f"values{index}"], frame.arrays[f"weights{index}"])
        for index, name in enumerate(frame.data["metrics"])
    }


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
