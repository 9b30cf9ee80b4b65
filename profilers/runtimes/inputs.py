"""Made-up inputs for models without labelled data: right in shape and type, random in content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inferplan.spec.errors import InputError
from inferplan.spec.stagecode import ModelInfo, TensorInfo


def random_inputs(
    info: ModelInfo, declared: Mapping[str, Sequence[int | str]], count: int, owner: str, seed: int = 0
) -> list[dict[str, NDArray[Any]]]:
    """`count` stage inputs: a dict of arrays without the batch dimension, one per model input.

    Shapes are the model's own; a dimension it leaves free takes its value from `declared` (the variant's
    `input_shapes`). Raises InputError naming every free dimension without a value, and values that
    contradict the model.
    """
    shapes = input_shapes(info, declared, owner)
    generator = np.random.default_rng(seed)
    return [
        {tensor.name: _array(generator, tensor.dtype, shapes[tensor.name]) for tensor in info.inputs}
        for _ in range(count)
    ]


def input_shapes(
    info: ModelInfo, declared: Mapping[str, Sequence[int | str]], owner: str
) -> dict[str, tuple[int, ...]]:
    """Shape of every model input without the batch dimension. Raises InputError as `random_inputs`."""
    unknown = sorted(set(declared) - {tensor.name for tensor in info.inputs})
    problems = [f"input_shapes names {name}, which is no input of the model" for name in unknown]
    shapes: dict[str, tuple[int, ...]] = {}
    for tensor in info.inputs:
        given = declared.get(tensor.name)
        problem = _problem(tensor, given)
        if problem:
            problems.append(problem)
        else:
            shapes[tensor.name] = (
                tuple(int(size) for size in given)
                if given is not None
                else tuple(size or 0 for size in tensor.shape[1:])
            )
    if problems:
        raise InputError(f"{owner}: the shape of its inputs is not known", problems)
    return shapes


def _problem(tensor: TensorInfo, given: Sequence[int | str] | None) -> str | None:
    own = tensor.shape[1:]
    shown = "[" + ", ".join("?" if size is None else str(size) for size in own) + "]"
    if not tensor.shape:
        return f"input {tensor.name} is a scalar; a batch dimension is needed"
    if given is None:
        if None in own:
            return f"input {tensor.name} has the shape {shown}: give the '?' a value in the variant's input_shapes"
        return None
    fits = len(given) == len(own) and all(size in (None, value) for size, value in zip(own, given, strict=True))
    return None if fits else f"input_shapes gives {tensor.name} the shape {list(given)}; the model has {shown}"


def _array(generator: np.random.Generator, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return generator.standard_normal(shape).astype(kind)
    if kind.kind == "O":
        return np.full(shape, "text", dtype=object)
    # Small whole numbers: valid as pixels, as indices into any table, and as masks.
    return generator.integers(0, 128 if kind.itemsize == 1 and kind.kind == "u" else 2, shape).astype(kind)
