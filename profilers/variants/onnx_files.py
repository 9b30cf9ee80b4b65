"""ONNX files as recipes need them: read with their weights, counted, written again with their metadata."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from inferplan.spec.errors import InputError, MissingExtraError

QUANTIZED = frozenset(
    ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger", "QLinearConv",
     "QLinearMatMul", "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "DynamicQuantizeLSTM", "QAttention", "QGemm",
     "MatMulNBits")
)  # fmt: skip
_MOST_BYTES = 2**31 - 2**20
"""A protobuf message holds no more than 2 GiB."""


def library() -> Any:
    """The onnx package. Raises MissingExtraError."""
    try:
        import onnx
    except ImportError as error:
        raise MissingExtraError("variants", "making variants of ONNX models") from error
    return onnx


def read_model(path: Path, weights: bool = True) -> Any:
    """The model, its functions written out where it has some, with the weights that lie beside it.

    Raises InputError for what is no ONNX model, or too large to be written as one file.
    """
    onnx = library()
    try:
        model = onnx.load(str(path), load_external_data=weights)
    except Exception as error:
        raise InputError(f"{path}: onnx cannot read it: {' '.join(str(error).split())[:300]}") from error
    if weights and model.ByteSize() > _MOST_BYTES:
        raise InputError(f"{path}: larger than 2 GiB with its weights; recipes write one file, which holds no more")
    if len(model.functions):
        from onnx import inliner

        model = inliner.inline_local_functions(model)
    return model


def write_model(model: Any, path: Path, like: Any) -> None:
    """Write a model as one file, with the metadata of the model it was made from (tools drop it)."""
    own = {entry.key: entry.value for entry in model.metadata_props}
    kept = {entry.key: entry.value for entry in like.metadata_props}
    library().helper.set_model_props(model, dict(sorted({**own, **kept}.items())))
    path.write_bytes(model.SerializeToString(deterministic=True))


def opset_of(model: Any) -> int:
    """Version of the default operator set."""
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)


def forget_shapes(model: Any) -> None:
    """Remove what an exporter noted of intermediate shapes: tools infer it anew, and stumble over what differs."""
    for graph in graphs(model.graph):
        graph.ClearField("value_info")


def graphs(graph: Any) -> Iterator[Any]:
    """A graph and all within it."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from graphs(attribute.g)
            for inner in attribute.graphs:
                yield from graphs(inner)


def counted_operators(model: Any) -> Counter[str]:
    """How many nodes there are of each type."""
    return Counter(node.op_type for graph in graphs(model.graph) for node in graph.node)


def constants(graph: Any) -> Iterator[tuple[str, Any]]:
    """Names and tensors of a graph's weights: initializers, and what some exporters write as Constant nodes."""
    for item in graph.initializer:
        yield item.name, item
    for node in graph.node:
        if node.op_type == "Constant":
            yield from ((node.output[0], attribute.t) for attribute in node.attribute if attribute.HasField("t"))


def counted_weights(model: Any) -> tuple[Counter[str], int]:
    """float32 weights (elements) by the type of the first operator that takes them, and all of them."""
    single = library().TensorProto.FLOAT
    counts: Counter[str] = Counter()
    total = 0
    for graph in graphs(model.graph):
        sizes = {name: math.prod(item.dims) for name, item in constants(graph) if item.data_type == single}
        total += sum(sizes.values())
        for node in graph.node:
            for name in node.input:
                counts[node.op_type] += sizes.pop(name, 0)
    return counts, total


def has_half(model: Any) -> bool:
    """Whether it has float16 or bfloat16 weights."""
    types = library().TensorProto
    half = (types.FLOAT16, types.BFLOAT16)
    return any(item.data_type in half for graph in graphs(model.graph) for _, item in constants(graph))


def at_opset(model: Any, opset: int) -> Any:
    """The model in another version of the default operator set. Raises InputError where it cannot be converted."""
    from onnx import version_converter

    if opset_of(model) == opset:
        return model
    try:
        return version_converter.convert_version(model, opset)
    except Exception as error:
        raise InputError(f"onnx cannot convert it to opset {opset}: {' '.join(str(error).split())[:300]}") from error


def optimised(source: Path, target: Path, level: str) -> Any:
    """The model as ONNX Runtime's optimisations leave it (`basic`: operators of the standard alone; `extended`).

    Raises InputError where the runtime cannot load it.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_ENABLE_{level.upper()}")
    options.optimized_model_filepath = str(target)
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    try:
        onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise InputError(f"onnxruntime cannot optimise it: {' '.join(str(error).split())[:300]}") from error
    return read_model(target)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the advice that tools log: it is for people who call them by hand."""
    import logging

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
