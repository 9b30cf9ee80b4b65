"""A made variant beside its parent: same interface, finite outputs, and how far the outputs are apart."""

from __future__ import annotations

import numbers
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inferplan.profilers.frames import Frame
from inferplan.profilers.inputs import PipelineSpec, StageInputs
from inferplan.profilers.runtimes.executor import Executor, ExecutorSpec
from inferplan.spec.derivation import Distance
from inferplan.spec.stagecode import ModelInfo, TensorInfo, Tensors

COMPARED = 64
"""Most inputs compared."""
_BATCH = 4
_MOST_S = 60.0
_FLOATS = ("float16", "float32", "float64")


class DiffersError(Exception):
    """The made variant cannot stand in for its parent."""


def compared(command: Mapping[str, Any]) -> Iterator[Frame]:
    """Frames: `looked` per batch, then `compared` with the distance. Raises DiffersError, ModelError, InputError."""
    parent, child = ExecutorSpec(**command["parent"]), ExecutorSpec(**command["child"])
    requests = PipelineSpec(**command["requests"]) if command["requests"] else None
    same, reduced = bool(command["same_outputs"]), bool(command["reduced"])
    with ExitStack() as stack:
        ours = stack.enter_context(Executor.from_spec(child))
        theirs = stack.enter_context(Executor.from_spec(parent))
        interface = interface_differences(theirs.info, ours.info, same, reduced)
        if interface:
            raise DiffersError("; ".join(interface))
        inputs = [item.input for item in StageInputs.of(ours if not same else theirs, requests).examples[:COMPARED]]
        tally = Tally(reduced)
        start = perf_counter()
        for batch in _batches(inputs, ours.fixed_batch):
            made = ours.adapter.preprocess(batch)
            outputs = ours.session.run(made)
            check_finite(outputs)
            if same:
                tally.add(theirs.session.run(theirs.adapter.preprocess(batch)), outputs, len(batch))
            else:
                _beside(tally, theirs, batch, outputs)
            tally.answers(_answers(theirs, batch, tally.last), _answers(ours, batch, outputs))
            yield Frame("looked", {"n": tally.n})
            if perf_counter() - start > _MOST_S:
                break
        yield Frame("compared", {"distance": asdict(tally.distance()), "notes": tally.notes})


def _batches(inputs: Sequence[Any], fixed: int | None) -> Iterator[list[Any]]:
    """Batches of one and of several, or of the only size the model takes."""
    if fixed is None:
        yield list(inputs[:1])
    size = fixed or _BATCH
    for start in range(0 if fixed else 1, len(inputs), size):
        batch = list(inputs[start : start + size])
        while fixed and len(batch) < fixed:
            batch.append(inputs[len(batch) % len(inputs)])
        yield batch


def _beside(tally: Tally, parent: Executor, batch: Sequence[Any], outputs: Tensors) -> None:
    """The parent on its own sizes; where it cannot take these inputs, there is nothing to compare with."""
    try:
        theirs = parent.session.run(parent.adapter.preprocess(batch))
    except Exception:
        tally.skip(len(batch))
    else:
        tally.add(theirs, outputs, len(batch), same_shapes=False)


def _answers(executor: Executor, batch: Sequence[Any], outputs: Tensors | None) -> list[Any] | None:
    """Predictions, where each is a text or a whole number (boxes and the like are never quite equal)."""
    if outputs is None:
        return None
    found = executor.adapter.postprocess(batch, outputs)
    return found if all(isinstance(item, str | numbers.Integral | np.bool_) for item in found) else None


def interface_differences(parent: ModelInfo, made: ModelInfo, same_outputs: bool, reduced: bool) -> list[str]:
    """What of names, types, shapes and metadata is not as the parent has it; what either leaves open is as it is."""
    problems = _tensors("input", parent.inputs, made.inputs, same_outputs, False)
    if parent.outputs and made.outputs:
        problems += _tensors("output", parent.outputs, made.outputs, same_outputs, reduced)
    lost = sorted(key for key, value in parent.metadata.items() if made.metadata.get(key) != value)
    if lost:
        problems.append(f"its metadata lacks {', '.join(lost)}")
    return problems


def _tensors(
    what: str, parent: Sequence[TensorInfo], made: Sequence[TensorInfo], shapes: bool, reduced: bool
) -> list[str]:
    theirs = {tensor.name: tensor for tensor in parent if not tensor.optional}
    ours = {tensor.name: tensor for tensor in made}
    known = {tensor.name for tensor in parent}
    problems = [f"{what} {name} is missing" for name in theirs if name not in ours]
    problems += [f"{what} {name} is new" for name in ours if name not in known]
    for name in theirs.keys() & ours.keys():
        a, b = theirs[name], ours[name]
        if a.dtype and b.dtype and not same_type(a.dtype, b.dtype, reduced):
            problems.append(f"{what} {name} is {b.dtype}, its parent's {a.dtype}")
        if shapes and a.shape is not None and b.shape is not None and not _same_shape(a.shape, b.shape):
            problems.append(f"{what} {name} has the shape {_shown(b.shape)}, its parent's {_shown(a.shape)}")
    return problems


def same_type(parent: str, made: str, reduced: bool) -> bool:
    """Whether two types are one; with `reduced`, any floating-point type stands for another."""
    return parent == made or (reduced and parent in _FLOATS and made in _FLOATS)


def _same_shape(parent: Sequence[int | None], made: Sequence[int | None]) -> bool:
    """A dimension that the parent has free must stay free; one that it has fixed may be told or not."""
    return len(parent) == len(made) and all(b is None or a == b for a, b in zip(parent, made, strict=True))


def _shown(shape: Sequence[int | None]) -> str:
    return "x".join("?" if part is None else str(part) for part in shape)


def check_finite(outputs: Tensors) -> None:
    """Raises DiffersError where a floating-point output is not finite."""
    for name, array in outputs.items():
        if array.dtype.kind == "f" and not np.all(np.isfinite(array)):
            raise DiffersError(f"its output {name} is not finite")


@dataclass(slots=True)
class Tally:
    """Sums up differences, batch after batch."""

    reduced: bool = False
    n: int = 0
    notes: list[str] = field(default_factory=list)
    last: Tensors | None = None
    _max_abs: float = 0.0
    _squares: dict[str, tuple[float, float]] = field(default_factory=dict)
    _classes: list[bool] = field(default_factory=list)
    _answers: list[bool] = field(default_factory=list)
    _comparable: bool = True

    def add(self, parent: Tensors, made: Tensors, count: int, same_shapes: bool = True) -> None:
        """One batch of outputs. Raises DiffersError where they are not the parent's tensors."""
        self.n += count
        self.last = parent
        if parent.keys() != made.keys():
            raise DiffersError(f"its outputs are {', '.join(made)}; its parent's {', '.join(parent)}")
        for name, theirs in parent.items():
            ours = made[name]
            if not same_type(theirs.dtype.name, ours.dtype.name, self.reduced):
                raise DiffersError(f"its output {name} is {ours.dtype}, its parent's {theirs.dtype}")
            if theirs.shape != ours.shape:
                if same_shapes:
                    raise DiffersError(f"its output {name} has the shape {ours.shape}, its parent's {theirs.shape}")
                self._comparable = False
            else:
                self._tensor(name, theirs, ours)

    def skip(self, count: int) -> None:
        """A batch that the parent could not take."""
        self.n += count
        self.last = None
        self._comparable = False

    def answers(self, parent: Sequence[Any] | None, made: Sequence[Any] | None) -> None:
        """Predictions of one batch, where both have plain ones."""
        if parent is not None and made is not None and len(parent) == len(made):
            self._answers += [bool(a == b) for a, b in zip(parent, made, strict=True)]

    def _tensor(self, name: str, theirs: NDArray[Any], ours: NDArray[Any]) -> None:
        if theirs.dtype.kind not in "fiu" or not np.all(np.isfinite(theirs)):
            return
        a, b = theirs.astype(np.float64), ours.astype(np.float64)
        if a.size:
            self._max_abs = max(self._max_abs, float(np.abs(b - a).max()))
        if theirs.dtype.kind != "f":
            return
        difference, size = self._squares.get(name, (0.0, 0.0))
        self._squares[name] = (difference + float(((b - a) ** 2).sum()), size + float((a**2).sum()))
        if a.ndim == 2 and a.shape[1] >= 2:
            self._classes += list(a.argmax(axis=1) == b.argmax(axis=1))

    def distance(self) -> Distance:
        """What it comes to."""
        answers = float(np.mean(self._answers)) if self._answers else None
        if not self._comparable:
            return Distance(self.n, same_answer=answers)
        relative = [_ratio(difference, size) for difference, size in self._squares.values()]
        classes = float(np.mean(self._classes)) if self._classes else None
        return Distance(self.n, self._max_abs, max(relative, default=None), classes, answers)


def _ratio(difference: float, size: float) -> float:
    if difference == 0.0:
        return 0.0
    return float(np.sqrt(difference) / np.sqrt(size)) if size > 0 else float("inf")
