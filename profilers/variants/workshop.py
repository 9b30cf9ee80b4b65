"""What the measuring process does for variants: look at one, make a file from one, compare two.

Models and stage code are not trusted to end, or to spare memory: all of it happens in that process.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from inferplan.profilers.frames import Frame
from inferplan.profilers.inputs import PipelineSpec, examples_sha256
from inferplan.profilers.runtimes.executor import Executor, ExecutorSpec
from inferplan.profilers.runtimes.registry import runtime
from inferplan.profilers.variants import onnx_files, registry
from inferplan.profilers.variants.base import Order, Survey
from inferplan.profilers.variants.calibration import Pool
from inferplan.profilers.variants.comparison import DiffersError, compared
from inferplan.spec.errors import InferplanError, InputError

PACKAGES = ("onnx", "onnxruntime", "torch")
_RUNTIME_NAMES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino")


def answer(command: Mapping[str, Any]) -> Iterator[Frame]:
    """Frames of one step: `surveyed`, `made` or `compared` comes last. Errors pass through."""
    steps = {"survey": surveyed, "make": made, "compare": _compared}
    yield from steps[command["step"]](command)


def surveyed(command: Mapping[str, Any]) -> Iterator[Frame]:
    """Look at a variant. A model that does not load is a finding."""
    spec = ExecutorSpec(**command["spec"])
    requests = PipelineSpec(**command["requests"]) if command["requests"] else None
    try:
        survey = _survey(spec, requests)
    except InferplanError as error:
        survey = Survey(failure=" ".join(str(error).split()))
    yield Frame("surveyed", survey.to_json())


def _survey(spec: ExecutorSpec, requests: PipelineSpec | None) -> Survey:
    if spec.runtime == "skip":
        return Survey(failure="runs no model")
    tools = {name: version(name) for name in PACKAGES}
    with Executor.from_spec(spec) as executor:
        inputs = {tensor.name: _shape(tensor.shape, tensor.names) for tensor in executor.info.inputs}
        try:
            pool = Pool.of(executor, requests)
        except InputError as error:
            return Survey(failure=error.message)
    providers = runtime(spec.runtime).providers() if spec.runtime == "onnxruntime" else ()
    common: dict[str, Any] = {
        "inputs": inputs, "examples": len(pool.examples), "source": pool.source,
        "inputs_sha256": examples_sha256(pool.examples), "providers": providers,
        "tools": tools,
    }  # fmt: skip
    if spec.runtime != "onnxruntime":
        return Survey(kind=_torch_kind(spec), **common)
    assert spec.model is not None
    model = onnx_files.read_model(Path(spec.model), weights=False)
    operators = onnx_files.counted_operators(model)
    weights, total = onnx_files.counted_weights(model)
    return Survey(
        kind="onnx",
        opset=onnx_files.opset_of(model),
        operators=dict(operators),
        weights=dict(+weights),
        float_weights=total,
        half=onnx_files.has_half(model),
        quantized=any(name in onnx_files.QUANTIZED for name in operators),
        **common,
    )


def _shape(shape: tuple[int | None, ...] | None, names: tuple[str, ...]) -> list[int | str | None] | None:
    if shape is None:
        return None
    named = names or ("",) * len(shape)
    return [size if size is not None else name or None for size, name in zip(shape, named, strict=True)]


def _torch_kind(spec: ExecutorSpec) -> str:
    if spec.factory is not None:
        return "eager"
    import importlib

    from inferplan.profilers.runtimes.torch_archives import checked_kind

    assert spec.model is not None
    return checked_kind(importlib.import_module("torch"), Path(spec.model))


def version(package: str) -> str:
    """Installed version of a package; empty where it is not installed."""
    for name in _RUNTIME_NAMES if package == "onnxruntime" else (package,):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return ""


def made(command: Mapping[str, Any]) -> Iterator[Frame]:
    """Make a model file."""
    requests = PipelineSpec(**command["requests"]) if command["requests"] else None
    specs = tuple(ExecutorSpec(**data) for data in command["specs"])
    order = Order(specs, requests, command["settings"], Path(command["target"]))
    further = registry.recipe(command["recipe"]).make(order)
    if not order.target.is_file():
        raise RuntimeError("the recipe's tool wrote no file")
    yield Frame("made", {"settings": further})


def _compared(command: Mapping[str, Any]) -> Iterator[Frame]:
    try:
        yield from compared(command)
    except DiffersError as error:
        raise InputError(str(error)) from error
