"""What an ONNX file says of itself: inputs, outputs, data types, dimensions, and the files it refers to.

The file is untrusted: no weights are read from anywhere but where the model lies. Shapes are inferred by
onnx; only for an output of which that says nothing is the model loaded into the runtime and asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from inferplan.spec.errors import InputError, MissingExtraError

FREE = -1
"""A dimension that the model leaves open, as Triton writes it."""

# onnx.TensorProto.DataType -> Triton. What is missing here (4-bit, 8-bit float, complex) Triton cannot serve.
_TRITON_TYPES = {
    1: "TYPE_FP32", 2: "TYPE_UINT8", 3: "TYPE_INT8", 4: "TYPE_UINT16", 5: "TYPE_INT16", 6: "TYPE_INT32",
    7: "TYPE_INT64", 8: "TYPE_STRING", 9: "TYPE_BOOL", 10: "TYPE_FP16", 11: "TYPE_FP64", 12: "TYPE_UINT32",
    13: "TYPE_UINT64", 16: "TYPE_BF16",
}  # fmt: skip

# Weights above this many bytes say nothing about shapes, and are dropped before shapes are inferred.
_SHAPE_CONSTANT_BYTES = 65536


@dataclass(frozen=True, slots=True)
class GraphTensor:
    """An input or output of a graph.

    `data_type` is Triton's name ("TYPE_FP32"). `dims` has all dimensions, the batch too, -1 where free;
    it is None where not even their number is known.
    """

    name: str
    data_type: str
    dims: tuple[int, ...] | None

    @property
    def free_first(self) -> bool:
        """Whether there is a first dimension and the model leaves it open (so that it can be the batch)."""
        return bool(self.dims) and self.dims is not None and self.dims[0] == FREE


@dataclass(frozen=True, slots=True)
class OnnxGraph:
    """The interface of an ONNX file. `overridable` are weights a caller may replace, besides the inputs;
    `external_files` are the weight files it refers to, relative to its folder; `metadata` its key-value properties."""

    inputs: tuple[GraphTensor, ...]
    outputs: tuple[GraphTensor, ...]
    overridable: tuple[str, ...] = ()
    external_files: tuple[str, ...] = ()
    metadata: tuple[tuple[str, str], ...] = ()

    @property
    def batchable(self) -> bool:
        """Whether every input and every output leaves its first dimension free."""
        return all(tensor.free_first for tensor in (*self.inputs, *self.outputs))


def read_graph(path: Path) -> OnnxGraph:
    """Read the interface of an ONNX file. Raises InputError where it is not one, or cannot be served."""
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise MissingExtraError("export", "reading ONNX models") from error
    if not path.is_file():
        raise InputError(f"{path}: there is no such model file")
    try:
        model = onnx.load(str(path), load_external_data=False)
    except (DecodeError, OSError, ValueError) as error:
        raise InputError(f"{path}: not a whole ONNX model ({_first_line(error)})") from error
    graph = model.graph
    if model.ir_version < 1 or not model.opset_import or not graph.node or not graph.output:
        raise InputError(f"{path}: not a whole ONNX model (no graph, or no operators, outputs or opset in it)")
    weights = {tensor.name for tensor in graph.initializer}
    weights.update(tensor.values.name for tensor in graph.sparse_initializer)
    external = _external_files(model, path)
    outputs = [_tensor(value, path) for value in graph.output]
    inferred = _inferred_dims(model)
    if any(not tensor.dims and tensor.name not in inferred for tensor in outputs):
        inferred |= _runtime_dims(path)
    return OnnxGraph(
        inputs=tuple(_tensor(value, path) for value in graph.input if value.name not in weights),
        outputs=tuple(replace(tensor, dims=_merged(tensor.dims, inferred.get(tensor.name))) for tensor in outputs),
        overridable=tuple(value.name for value in graph.input if value.name in weights),
        external_files=external,
        metadata=tuple(sorted((entry.key, entry.value) for entry in model.metadata_props)),
    )


def _tensor(value: Any, path: Path) -> GraphTensor:
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        raise InputError(
            f"{path}: {value.name!r} is a {(kind or 'nothing').removesuffix('_type')}, not a tensor;"
            " export the model with tensors only (scikit-learn converters: zipmap=False)"
        )
    data_type = _TRITON_TYPES.get(value.type.tensor_type.elem_type)
    if data_type is None:
        number = value.type.tensor_type.elem_type
        raise InputError(f"{path}: {value.name!r} has ONNX element type {number}, which Triton cannot serve")
    return GraphTensor(value.name, data_type, _declared_dims(value))


def _declared_dims(value: Any) -> tuple[int, ...] | None:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return tuple(
        dim.dim_value if dim.WhichOneof("value") == "dim_value" and dim.dim_value >= 0 else FREE
        for dim in tensor.shape.dim
    )


def _merged(declared: tuple[int, ...] | None, inferred: tuple[int, ...] | None) -> tuple[int, ...] | None:
    """The runtime narrows declared dimensions by what it infers, and believes itself where the two contradict
    (some converters declare every output a scalar); so do we."""
    if inferred is None:
        return declared or None
    if declared is None or len(declared) != len(inferred):
        return inferred
    return tuple(found if found != FREE else said for said, found in zip(declared, inferred, strict=True))


def _inferred_dims(model: Any) -> dict[str, tuple[int, ...]]:
    """Output dimensions by shape inference; empty where it fails (a model may use operators onnx does not know).

    `model` loses what must not count here: large weights, of which the shapes are enough, and what it says
    of its outputs itself.
    """
    import onnx

    for tensor in model.graph.initializer:
        if len(tensor.raw_data) > _SHAPE_CONSTANT_BYTES:
            tensor.ClearField("raw_data")
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    try:
        known = onnx.shape_inference.infer_shapes(model, check_type=False, strict_mode=False, data_prop=True)
    except Exception:
        return {}
    found = {}
    for value in known.graph.output:
        if value.type.WhichOneof("value") == "tensor_type":
            dims = _declared_dims(value)
            if dims is not None:
                found[value.name] = dims
    return found


def _runtime_dims(path: Path) -> dict[str, tuple[int, ...]]:
    """Output dimensions by the runtime, which infers more than onnx does; empty where it is not installed."""
    try:
        import onnxruntime
    except ImportError:
        return {}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception:
        return {}
    return {
        output.name: tuple(size if isinstance(size, int) and size >= 0 else FREE for size in output.shape)
        for output in session.get_outputs()
        if output.shape
    }


def _external_files(model: Any, path: Path) -> tuple[str, ...]:
    found = set()
    for tensor in _tensors(model.graph):
        for entry in tensor.external_data:
            if entry.key == "location":
                found.add(_checked_location(entry.value, path))
    return tuple(sorted(found))


def _tensors(graph: Any) -> Iterator[Any]:
    """Every tensor stored in a graph and in the graphs inside it (loops, branches)."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield attribute.t
            yield from attribute.tensors
            for inner in (attribute.g, *attribute.graphs):
                if inner.node:
                    yield from _tensors(inner)


def _checked_location(location: str, path: Path) -> str:
    pure = PurePosixPath(location)
    inside = (path.parent / pure).resolve().is_relative_to(path.parent.resolve())
    if not location or pure.is_absolute() or ".." in pure.parts or "\\" in location or not inside:
        raise InputError(f"{path}: keeps weights in {location!r}, which is not below the model's own folder")
    if not (path.parent / pure).is_file():
        raise InputError(f"{path}: keeps weights in {location!r}, and there is no such file")
    return pure.as_posix()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
