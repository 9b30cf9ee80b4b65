"""What a model is fed with: shapes and types as model and workload declare them together, and made-up inputs.

A dimension has a size, or a name. Names are the model's own (ONNX: symbolic dimensions, exported programs: their
symbols) or those in the variant's `input_shapes`; `input_dims` has the size, or the distribution of sizes, of a
name. Inputs that share a name share the size drawn for it, item by item: token ids and their mask have one length.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inferplan.spec.errors import InputError
from inferplan.spec.stagecode import ModelInfo, TensorInfo

Dimension = int | str
Sizes = Mapping[str, Sequence[float]]
"""A distribution: `values` and `weights`."""


@dataclass(frozen=True, slots=True)
class InputDeclaration:
    """What a variant says of its model's inputs (`spec.stage.Variant`); shapes exclude the batch dimension."""

    owner: str
    shapes: Mapping[str, Sequence[Dimension]] = field(default_factory=dict)
    dims: Mapping[str, int | Sizes] = field(default_factory=dict)
    dtypes: Mapping[str, str] = field(default_factory=dict)


def completed(info: ModelInfo, declared: InputDeclaration) -> ModelInfo:
    """What the model says of its inputs, and where it says nothing, what the variant declares."""
    return dataclasses.replace(info, inputs=tuple(_completed(tensor, declared) for tensor in info.inputs))


def _completed(tensor: TensorInfo, declared: InputDeclaration) -> TensorInfo:
    given = declared.shapes.get(tensor.name)
    dtype = tensor.dtype or declared.dtypes.get(tensor.name, "")
    if given is None or (tensor.shape is not None and len(tensor.shape) != len(given) + 1):
        return dataclasses.replace(tensor, dtype=dtype)
    own = tensor.names or ("",) * (len(given) + 1)
    names = (own[0], *(new if isinstance(new, str) else old for new, old in zip(given, own[1:], strict=True)))
    shape = tensor.shape
    if shape is None:
        sizes = (declared.dims.get(part) if isinstance(part, str) else part for part in given)
        shape = (None, *(size if isinstance(size, int) else None for size in sizes))
    return dataclasses.replace(tensor, dtype=dtype, shape=shape, names=names)


def fed_dimensions(info: ModelInfo, declared: InputDeclaration) -> dict[str, tuple[Dimension, ...]]:
    """Dimensions of every model input without the batch: a size, or the name of a distribution of `dims`.

    Optional inputs are left out unless they are declared. Raises InputError naming every dimension and type that
    nobody declares, with the lines to add, and declarations that contradict the model.
    """
    questions = _Questions(info, declared)
    found = {
        tensor.name: questions.dimensions(tensor)
        for tensor in info.inputs
        if not tensor.optional or tensor.name in declared.shapes
    }
    questions.unused(found)
    if questions.problems:
        raise InputError(f"{declared.owner}: what its model is fed with is not known", questions.problems)
    return found


class _Questions:
    """Works out dimensions, and collects what has to be asked."""

    def __init__(self, info: ModelInfo, declared: InputDeclaration) -> None:
        self._declared = declared
        self._used: set[str] = set()
        known = {tensor.name for tensor in info.inputs}
        self.problems = [
            f"{what} names {name}, which is no input of the model (it has {', '.join(sorted(known))})"
            for what, given in (("input_shapes", declared.shapes), ("input_dtypes", declared.dtypes))
            for name in sorted(set(given) - known)
        ]

    def dimensions(self, tensor: TensorInfo) -> tuple[Dimension, ...]:
        """The dimensions of one input, as far as they are known."""
        name, declared = tensor.name, self._declared
        if not (tensor.dtype or declared.dtypes.get(name)):
            self.problems.append(
                f"input {name}: the model does not say its type: add `input_dtypes: {{{name}: float32}}`"
                " (or int64, ...) to the variant"
            )
        given = declared.shapes.get(name)
        if tensor.shape is None and given is None:
            self.problems.append(
                f"input {name}: the model does not say its shape: add `input_shapes: {{{name}: [...]}}` to the"
                " variant, without the batch dimension"
            )
            return ()
        if tensor.shape == ():
            self.problems.append(f"input {name} is a scalar; a batch dimension is needed")
            return ()
        own = tensor.shape[1:] if tensor.shape is not None else (None,) * len(given or ())
        names = tensor.names[1:] if tensor.names else ("",) * len(own)
        if given is not None and not self._fits(given, own):
            self.problems.append(
                f"input_shapes gives {name} the shape {list(given)}; the model has {_shown(own, names)}"
            )
            return ()
        wanted = (
            given
            if given is not None
            else [size if size is not None else text for size, text in zip(own, names, strict=True)]
        )
        return tuple(self._dimension(tensor, index, part, _shown(own, names)) for index, part in enumerate(wanted))

    def _fits(self, given: Sequence[Dimension], own: Sequence[int | None]) -> bool:
        if len(given) != len(own):
            return False
        sizes = [self._declared.dims.get(part) if isinstance(part, str) else part for part in given]
        return all(size in (None, value) for size, value in zip(own, sizes, strict=True))

    def _dimension(self, tensor: TensorInfo, index: int, part: Dimension, shown: str) -> Dimension:
        if isinstance(part, int):
            return part
        size = self._declared.dims.get(part)
        if size is None:
            called = f", {part!r}," if part else ""
            line = f"input_dims: {{{part}: 128}}" if part else f"input_shapes: {{{tensor.name}: {shown}}}"
            meant = "" if part else " with a size in place of the '?'"
            self.problems.append(
                f"input {tensor.name} has the shape {shown}: dimension {index + 1}{called} is free: add `{line}` to the"
                f" variant{meant} (its size, or a distribution: {{values: [...], weights: [...]}} under input_dims)"
            )
            return part
        self._used.add(part)
        return size if isinstance(size, int) else part

    def unused(self, found: Mapping[str, Sequence[Dimension]]) -> None:
        """Names in `input_dims` that no input has: mistyped, most likely."""
        if not self.problems and found:
            self.problems += [
                f"input_dims names {name}, which is no free dimension of an input"
                for name in sorted(set(self._declared.dims) - self._used)
            ]


def _shown(own: Sequence[int | None], names: Sequence[str]) -> str:
    sizes = ((name or "?") if size is None else str(size) for size, name in zip(own, names, strict=True))
    return "[" + ", ".join(sizes) + "]"


def fed_shape(info: ModelInfo, declared: InputDeclaration, batch: int) -> dict[str, list[Any]]:
    """Shape of every input at a batch size, as point keys have it: a drawn dimension is written as its name with
    its distribution. Raises InputError as `fed_dimensions`."""
    return {
        name: [batch, *(_written(part, declared) for part in dimensions)]
        for name, dimensions in sorted(fed_dimensions(info, declared).items())
    }


def _written(part: Dimension, declared: InputDeclaration) -> int | dict[str, Any]:
    sizes = declared.dims.get(part) if isinstance(part, str) else part
    return sizes if isinstance(sizes, int) else {"name": part, **(sizes or {})}


def random_inputs(
    info: ModelInfo, declared: InputDeclaration, count: int, seed: int = 0
) -> list[dict[str, NDArray[Any]]]:
    """`count` stage inputs: a dict of arrays without the batch dimension, one per model input.

    Sizes that are drawn are as often among them as their weights say, to within one item, in random order.
    Raises InputError as `fed_dimensions`.
    """
    dimensions = fed_dimensions(info, declared)
    types = {tensor.name: tensor.dtype or declared.dtypes.get(tensor.name, "") for tensor in info.inputs}
    generator = np.random.default_rng(seed)
    names = sorted({part for shape in dimensions.values() for part in shape if isinstance(part, str)})
    drawn = {name: drawn_sizes(declared.dims[name], count, generator) for name in names}

    def shape(item: int, wanted: Sequence[Dimension]) -> tuple[int, ...]:
        return tuple(int(drawn[part][item]) if isinstance(part, str) else part for part in wanted)

    return [
        {name: _array(generator, types[name], shape(item, wanted)) for name, wanted in dimensions.items()}
        for item in range(count)
    ]


def drawn_sizes(sizes: int | Sizes, count: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """`count` sizes by systematic sampling: each as often as its weight says, rounded up or down."""
    if isinstance(sizes, int):
        return np.full(count, sizes, np.int64)
    shares = np.cumsum(np.asarray(sizes["weights"], float))
    points = (np.arange(count) + generator.random()) / count * shares[-1]
    picks = np.minimum(np.searchsorted(shares, points, side="right"), len(shares) - 1)
    return generator.permutation(np.asarray(sizes["values"], np.int64)[picks])


def _array(generator: np.random.Generator, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return np.asarray(generator.standard_normal(shape)).astype(kind)
    if kind.kind == "O":
        return np.full(shape, "text", dtype=object)
    # Small whole numbers: valid as pixels, as indices into any table, and as masks.
    return np.asarray(generator.integers(0, 128 if kind.itemsize == 1 and kind.kind == "u" else 2, shape)).astype(kind)
