"""A pipeline as a model of Triton's python backend: decode, stages, join, encode.

`inferplan export triton` copies this file as `model.py` next to `pipeline.json` and the user's stage code. It
imports nothing but numpy and the standard library, so that a server needs nothing of inferplan. Models are
called through the server they run in (BLS), or over HTTP where the plan put their replicas on other machines.
Every request runs on its own; calls of a stage go out in batches of up to the planned size, and the models'
own queues batch across requests.
"""

from __future__ import annotations

import asyncio
import http.client
import importlib
import importlib.util
import json
import struct
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

Tensors = dict[str, Any]
Call = Callable[[str, Tensors, Sequence[str]], Awaitable[Tensors]]
"""(model, inputs, names of the outputs wanted) -> outputs."""

REMOTE_TIMEOUT_S = 60.0
REMOTE_THREADS = 32

DTYPES = {
    "BOOL": "bool",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
    **{f"{sign}INT{bits}": f"{sign.lower()}int{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)},
}
WIRE_TYPES = {name: wire for wire, name in DTYPES.items()}


class PipelineError(Exception):
    """A request that cannot be answered; says why."""


@dataclass(frozen=True)
class TensorInfo:
    """One input or output of a model; a free dimension is None."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    names: tuple[str, ...] = ()
    optional: bool = False


@dataclass(frozen=True)
class ModelInfo:
    """What a model file says of itself."""

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Context:
    """What user code is told when it is made (the same as in the profiler and the runner)."""

    root: Path
    params: Mapping[str, Any] = field(default_factory=dict)
    stage: str = ""
    variant: str = ""
    model: ModelInfo | None = None
    modalities: tuple[str, ...] = ()


class Turns:
    """Deals out choices in proportion to their weights, as evenly as whole turns allow."""

    def __init__(self, weights: Sequence[float]) -> None:
        self._weights = list(weights)
        self._credit = [0.0] * len(self._weights)

    def next(self) -> int:
        """Index of the choice whose turn it is."""
        for index, weight in enumerate(self._weights):
            self._credit[index] += weight
        chosen = max(range(len(self._credit)), key=self._credit.__getitem__)
        self._credit[chosen] -= sum(self._weights)
        return chosen


class Choice:
    """One way to do a stage's task: a model with the stage's code around it, or no model at all."""

    def __init__(self, stage: str, code: str | None, spec: Mapping[str, Any], root: Path) -> None:
        self.max_batch = int(spec["max_batch"])
        model = spec["model"]
        self._stage = stage
        self._model = model
        info = None
        if model is not None:
            inputs, outputs = (tuple(_tensor_info(entry) for entry in model[side]) for side in ("inputs", "outputs"))
            info = ModelInfo(inputs, outputs, model["metadata"])
            self._targets = [target["endpoint"] for target in model["targets"]]
            self._turns = Turns([target["weight"] for target in model["targets"]])
        context = Context(root, spec["params"], stage, spec["variant"], info, tuple(spec["modalities"]))
        self._code = load_class(code, root)(context) if code else None

    async def predict(self, inputs: Sequence[Any], call: Callable[[str | None], Call]) -> list[Any]:
        """Predictions for up to `max_batch` stage inputs."""
        if self._model is None:
            predictions = self._use("passthrough", lambda items: items, inputs)
        else:
            tensors = self._use("preprocess", _stacked, inputs)
            names = [entry["name"] for entry in self._model["outputs"]]
            endpoint = self._targets[self._turns.next()]
            outputs = await call(endpoint)(self._model["name"], tensors, names)
            predictions = self._use("postprocess", _rows, inputs, outputs)
        predictions = list(predictions)
        if len(predictions) != len(inputs):
            raise PipelineError(f"stage {self._stage}: {len(predictions)} predictions for {len(inputs)} inputs")
        return predictions

    def route(self, stage_input: Any, prediction: Any) -> list[Any]:
        """The stage inputs that go on."""
        return list(self._use("route", lambda _, prediction: [prediction], stage_input, prediction))

    def _use(self, name: str, default: Callable[..., Any], *arguments: Any) -> Any:
        method = getattr(self._code, name, None) or default
        return method(*arguments)


class Pipeline:
    """The whole way of a request. `caller(endpoint)` gives the function that calls models there (None: here)."""

    def __init__(self, spec: Mapping[str, Any], root: Path, caller: Callable[[str | None], Call]) -> None:
        self._stages = spec["stages"]
        self._choices = {
            stage["name"]: [Choice(stage["name"], stage["code"], choice, root) for choice in stage["choices"]]
            for stage in self._stages
        }
        self._turns = {stage["name"]: Turns([choice["share"] for choice in stage["choices"]]) for stage in self._stages}
        self._outputs = spec["outputs"]
        self._caller = caller
        code = spec["code"]
        self._code = load_class(code, root)(Context(root, spec["params"])) if code else None

    async def answer(self, tensors: Tensors) -> Tensors:
        """Tensors of one served request (first dimension: its rows) -> tensors of the response."""
        requests = list(self._use("decode", _decoded, tensors))
        answers = await asyncio.gather(*[self._one(request) for request in requests])
        encoded = self._use("encode", _encoded, list(answers))
        return {spec["name"]: checked_output(encoded, spec, len(requests)) for spec in self._outputs}

    async def _one(self, request: Any) -> Any:
        """One request through all stages."""
        arrived: dict[str, dict[str | None, list[Any]]] = {stage["name"]: {} for stage in self._stages}
        arrived[self._stages[0]["name"]][None] = [request]
        results: dict[str, list[Any]] = {}
        for stage in self._stages:
            name = stage["name"]
            inputs = _joined(name, stage["parents"], arrived[name])
            choice = self._choices[name][self._turns[name].next()]
            chunks = [inputs[at : at + choice.max_batch] for at in range(0, len(inputs), choice.max_batch)]
            predicted = await asyncio.gather(*[choice.predict(chunk, self._caller) for chunk in chunks])
            predictions = [prediction for chunk in predicted for prediction in chunk]
            if not stage["children"]:
                results[name] = predictions
                continue
            sent = [
                item
                for stage_input, prediction in zip(inputs, predictions, strict=True)
                for item in choice.route(stage_input, prediction)
            ]
            for child in stage["children"]:
                arrived[child][name] = sent
        return self._use("join", _only_answer, request, results)

    def _use(self, name: str, default: Callable[..., Any], *arguments: Any) -> Any:
        method = getattr(self._code, name, None) or default
        return method(*arguments)


def _joined(stage: str, parents: Sequence[str], arrived: Mapping[str | None, list[Any]]) -> list[Any]:
    """Stage inputs; where several stages lead here, one dict per call with what each of them sent."""
    if len(parents) < 2:
        return [item for items in arrived.values() for item in items]
    if len({len(items) for items in arrived.values()}) > 1:
        raise PipelineError(f"stage {stage}: the stages it joins sent different numbers of items")
    return [dict(zip(parents, items, strict=True)) for items in zip(*(arrived[p] for p in parents), strict=True)]


def _stacked(inputs: Sequence[Any]) -> Tensors:
    return {name: _batch(name, [np.asarray(item[name]) for item in inputs]) for name in inputs[0]}


def _batch(name: str, arrays: list[Any]) -> Any:
    """One array of the batch; smaller items are filled up with zeros (empty texts) at the end, as in the profiler.
    Whether the model takes that size, the server says."""
    if all(array.shape == arrays[0].shape for array in arrays):
        return np.stack(arrays)
    if len({array.ndim for array in arrays}) > 1:
        raise PipelineError(f"the items of a batch differ in the number of dimensions of {name}")
    largest = tuple(max(sizes) for sizes in zip(*(array.shape for array in arrays), strict=True))
    filler: Any = "" if arrays[0].dtype.kind in "OU" else 0
    batch = np.full((len(arrays), *largest), filler, np.result_type(*arrays))
    for row, array in zip(batch, arrays, strict=True):
        row[tuple(slice(size) for size in array.shape)] = array
    return batch


def _rows(inputs: Sequence[Any], outputs: Tensors) -> list[Tensors]:
    return [{name: array[i] for name, array in outputs.items()} for i in range(len(inputs))]


def _decoded(tensors: Tensors) -> list[Tensors]:
    count = min((len(array) for array in tensors.values()), default=0)
    return [{name: array[i] for name, array in tensors.items()} for i in range(count)]


def _encoded(answers: Sequence[Any]) -> Tensors:
    return {name: np.stack([np.asarray(answer[name]) for answer in answers]) for name in answers[0]}


def _only_answer(request: Any, results: Mapping[str, Sequence[Any]]) -> Any:
    answers = [list(items) for items in results.values()]
    flat = answers[0] if len(answers) == 1 else answers
    return flat[0] if len(flat) == 1 else flat


def _tensor_info(entry: Mapping[str, Any]) -> TensorInfo:
    return TensorInfo(entry["name"], entry["dtype"], tuple(entry["shape"]))


def checked_output(encoded: Tensors, spec: Mapping[str, Any], rows: int) -> Any:
    """One tensor of the response, of the declared type and shape."""
    name = spec["name"]
    if name not in encoded:
        raise PipelineError(f"encode gave no tensor {name!r}")
    array = np.asarray(encoded[name], dtype=object if spec["dtype"] == "string" else None)
    wanted = [rows, *spec["shape"]]
    if array.ndim != len(wanted) or any(w not in (-1, have) for have, w in zip(array.shape, wanted, strict=True)):
        raise PipelineError(f"{name!r} has the shape {list(array.shape)}; the workload declares {wanted}")
    if spec["dtype"] == "string":
        flat = [item if isinstance(item, bytes) else str(item).encode() for item in array.reshape(-1).tolist()]
        strings = np.empty(len(flat), dtype=object)
        strings[:] = flat
        return strings.reshape(array.shape)
    if not np.can_cast(array.dtype, spec["dtype"], casting="same_kind"):
        raise PipelineError(f"{name!r} is {array.dtype}; the workload declares {spec['dtype']}")
    return np.ascontiguousarray(array, dtype=spec["dtype"])


def load_class(reference: str, root: Path) -> Any:
    """The class that `module:Class` names, from the code copied next to this file."""
    path, _, name = reference.partition(":")
    file = (root / f"{path}.py").resolve()
    if str(file.parent) not in sys.path:
        sys.path.insert(0, str(file.parent))
    module = sys.modules.get(file.stem)
    if module is None or getattr(module, "__file__", None) != str(file):
        spec = importlib.util.spec_from_file_location(file.stem, file)
        if spec is None or spec.loader is None:
            raise PipelineError(f"cannot import {file}")
        module = importlib.util.module_from_spec(spec)
        sys.modules[file.stem] = module
        spec.loader.exec_module(module)
    return getattr(module, name)


class Remote:
    """Calls models on another server: the Open Inference Protocol over HTTP, tensors in binary."""

    def __init__(self, endpoint: str, threads: ThreadPoolExecutor) -> None:
        self._endpoint = endpoint
        self._threads = threads
        self._idle: list[http.client.HTTPConnection] = []

    async def __call__(self, model: str, inputs: Tensors, outputs: Sequence[str]) -> Tensors:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._post, model, inputs, outputs)

    def _post(self, model: str, inputs: Tensors, outputs: Sequence[str]) -> Tensors:
        head, body = encode_request(inputs, outputs)
        headers = {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"}
        # A kept connection may have been closed by the other side meanwhile: then try once on a fresh one.
        for fresh in (False, True):
            reused = bool(self._idle) and not fresh
            connection = (
                self._idle.pop() if reused else http.client.HTTPConnection(self._endpoint, timeout=REMOTE_TIMEOUT_S)
            )
            try:
                connection.request("POST", f"/v2/models/{model}/infer", head + body, headers)
                answer = connection.getresponse()
                content = answer.read()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                if reused:
                    continue
                raise PipelineError(f"{self._endpoint}: {error or type(error).__name__}") from error
            self._idle.append(connection)
            if answer.status != 200:
                raise PipelineError(f"{self._endpoint}: {content[:500].decode(errors='replace')}")
            return decode_response(content, answer.getheader("Inference-Header-Content-Length"))
        raise PipelineError(f"{self._endpoint}: no connection")


def encode_request(inputs: Tensors, outputs: Sequence[str]) -> tuple[bytes, bytes]:
    """JSON head and binary body of an infer request."""
    entries, bodies = [], []
    for name, array in inputs.items():
        wire, data = encode_tensor(np.asarray(array))
        entries.append(
            {
                "name": name,
                "shape": list(np.shape(array)),
                "datatype": wire,
                "parameters": {"binary_data_size": len(data)},
            }
        )
        bodies.append(data)
    wanted = [{"name": name, "parameters": {"binary_data": True}} for name in outputs]
    return json.dumps({"inputs": entries, "outputs": wanted}).encode(), b"".join(bodies)


def decode_response(content: bytes, head_length: str | None) -> Tensors:
    """Tensors of an infer response with binary outputs."""
    at = int(head_length) if head_length else len(content)
    tensors = {}
    for entry in json.loads(content[:at])["outputs"]:
        size = entry["parameters"]["binary_data_size"]
        tensors[entry["name"]] = decode_tensor(entry["datatype"], content[at : at + size]).reshape(entry["shape"])
        at += size
    return tensors


def encode_tensor(array: Any) -> tuple[str, bytes]:
    """Wire type and bytes of an array; strings are each led by their length."""
    if array.dtype.kind in "OSU":
        items = [item if isinstance(item, bytes) else str(item).encode() for item in array.reshape(-1).tolist()]
        return "BYTES", b"".join(struct.pack("<I", len(item)) + item for item in items)
    return WIRE_TYPES[array.dtype.name], np.ascontiguousarray(array).tobytes()


def decode_tensor(wire: str, data: bytes) -> Any:
    """Flat array of a tensor's bytes."""
    if wire != "BYTES":
        return np.frombuffer(data, dtype=DTYPES[wire])
    items, at = [], 0
    while at < len(data):
        (length,) = struct.unpack_from("<I", data, at)
        items.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    strings = np.empty(len(items), dtype=object)
    strings[:] = items
    return strings


class TritonPythonModel:
    """The interface of Triton's python backend."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the pipeline next to this file."""
        self._triton: Any = importlib.import_module("triton_python_backend_utils")
        folder = Path(args["model_repository"]) / args["model_version"]
        spec = json.loads((folder / "pipeline.json").read_text("utf-8"))
        self._inputs = [entry["name"] for entry in spec["inputs"]]
        self._threads = ThreadPoolExecutor(REMOTE_THREADS)
        self._remotes: dict[str, Remote] = {}
        self._pipeline = Pipeline(spec, folder / "code", self._caller)

    async def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer requests, each on its own."""
        return list(await asyncio.gather(*[self._respond(request) for request in requests]))

    def finalize(self) -> None:
        """Let go of the threads that call other servers."""
        self._threads.shutdown(wait=False)

    async def _respond(self, request: Any) -> Any:
        triton = self._triton
        try:
            tensors = {name: triton.get_input_tensor_by_name(request, name).as_numpy() for name in self._inputs}
            answer = await self._pipeline.answer(tensors)
        except Exception as error:
            # One request's failure is its own answer; those beside it go on.
            message = str(error) if isinstance(error, PipelineError) else f"{type(error).__name__}: {error}"
            return triton.InferenceResponse(error=triton.TritonError(message))
        wanted = request.requested_output_names()
        return triton.InferenceResponse(
            [triton.Tensor(name, array) for name, array in answer.items() if name in wanted]
        )

    def _caller(self, endpoint: str | None) -> Call:
        if endpoint is None:
            return self._local
        if endpoint not in self._remotes:
            self._remotes[endpoint] = Remote(endpoint, self._threads)
        return self._remotes[endpoint]

    async def _local(self, model: str, inputs: Tensors, outputs: Sequence[str]) -> Tensors:
        triton = self._triton
        request = triton.InferenceRequest(
            model_name=model,
            requested_output_names=list(outputs),
            inputs=[triton.Tensor(name, np.ascontiguousarray(array)) for name, array in inputs.items()],
        )
        response = await request.async_exec()
        if response.has_error():
            raise PipelineError(f"model {model}: {response.error().message()}")
        return {name: triton.get_output_tensor_by_name(response, name).as_numpy() for name in outputs}
