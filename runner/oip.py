"""Tensors of the Open Inference Protocol (KServe v2) over HTTP: JSON, and the binary tensor extension.

Pure functions between bytes and arrays. Everything a client can get wrong raises ProtocolError with the status
to answer; nothing is allocated by a size that a client merely claims.

Binary extension: the body is the JSON header (`Inference-Header-Content-Length` bytes), then the raw
little-endian data of every input whose parameters have `binary_data_size`, in order; BYTES elements are each
preceded by their length as u32.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inferplan.spec.stage import TensorSpec
from inferplan.spec.stagecode import Tensors

VERSION = "1"
HEADER_LENGTH = "inference-header-content-length"

DATATYPES = {
    "bool": "BOOL",
    "string": "BYTES",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
    **{f"{sign}int{bits}": f"{sign.upper()}INT{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}
_to_json = json.JSONEncoder(separators=(",", ":")).encode
_JSON_KINDS = {"b": "b", "i": "iu", "u": "iu", "f": "iuf"}


class ProtocolError(Exception):
    """The request cannot be answered; `status` is the HTTP status that says so."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A checked inference request. `wanted` maps the asked-for outputs to whether they go back as binary."""

    id: str | None
    tensors: Tensors
    rows: int
    wanted: Mapping[str, bool]
    parameters: Mapping[str, Any] = field(default_factory=dict)


def read_request(
    body: bytes, header_length: str | None, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> InferRequest:
    """Check and decode the body of an `infer` request. The arrays may be read-only views of the body."""
    length = _header_length(body, header_length)
    header = _object(_json(body[:length]), "the request")
    parameters = _object(header.get("parameters", {}), "parameters")
    tensors, end = _tensors(header, body, length, inputs)
    if end != len(body):
        raise ProtocolError(400, f"{len(body) - end} bytes follow the last binary tensor")
    rows = {len(array) for array in tensors.values()}
    if len(rows) != 1:
        sizes = ", ".join(f"{name}: {len(array)}" for name, array in tensors.items())
        raise ProtocolError(400, f"inputs differ in their batch size ({sizes})")
    identity = header.get("id")
    if identity is not None and not isinstance(identity, str):
        raise ProtocolError(400, "id must be a string")
    return InferRequest(identity, tensors, rows.pop(), _wanted(header, parameters, outputs), parameters)


def write_response(
    model: str, request: InferRequest, tensors: Tensors, parameters: Mapping[str, str | float] | None = None
) -> tuple[bytes, int | None]:
    """Body of the answer, and the length of its JSON header where binary data follows it."""
    described: list[dict[str, Any]] = []
    raw: list[bytes] = []
    for name, binary in request.wanted.items():
        array = tensors[name]
        entry: dict[str, Any] = {"name": name, "datatype": _datatype(array), "shape": list(array.shape)}
        if binary:
            raw.append(_to_bytes(array))
            entry["parameters"] = {"binary_data_size": len(raw[-1])}
        else:
            entry["data"] = array.ravel().tolist()
        described.append(entry)
    header: dict[str, Any] = {"model_name": model, "model_version": VERSION, "outputs": described}
    if request.id is not None:
        header["id"] = request.id
    if parameters:
        header["parameters"] = dict(parameters)
    text = _to_json(header).encode()
    return (text + b"".join(raw), len(text)) if raw else (text, None)


def checked_outputs(tensors: Mapping[str, Any], outputs: Sequence[TensorSpec], rows: int) -> Tensors:
    """What pipeline code's `encode` returned, in the declared types. Raises ProtocolError (500) naming what does
    not agree with the workload's `pipeline.outputs`."""
    checked: Tensors = {}
    for spec in outputs:
        if spec.name not in tensors:
            raise ProtocolError(500, f"the pipeline's encode returned no tensor {spec.name!r}")
        array = np.asarray(tensors[spec.name])
        if not _fits(list(array.shape), spec) or len(array) != rows:
            raise ProtocolError(
                500,
                f"the pipeline's encode returned {spec.name} with shape {list(array.shape)};"
                f" the workload declares {[rows, *spec.shape]}",
            )
        if spec.dtype == "string":
            array = np.array([_text(item) for item in array.ravel()], object).reshape(array.shape)
        elif array.dtype.kind in "OSU" or not np.can_cast(array.dtype, spec.dtype, "same_kind"):
            raise ProtocolError(500, f"the pipeline's encode returned {spec.name} as {array.dtype}, not {spec.dtype}")
        checked[spec.name] = array if spec.dtype == "string" else array.astype(spec.dtype, copy=False)
    return checked


def metadata(model: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> dict[str, Any]:
    """Model metadata; shapes carry -1 for the batch."""

    def described(specs: Sequence[TensorSpec]) -> list[dict[str, Any]]:
        return [{"name": s.name, "datatype": DATATYPES[s.dtype], "shape": [-1, *s.shape]} for s in specs]

    return {
        "name": model,
        "versions": [VERSION],
        "platform": "inferplan",
        "inputs": described(inputs),
        "outputs": described(outputs),
    }


def configuration(
    model: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], max_rows: int
) -> dict[str, Any]:
    """Model configuration in the JSON form of Triton's ModelConfig; dims exclude the batch."""

    def described(specs: Sequence[TensorSpec]) -> list[dict[str, Any]]:
        kinds = {s.name: "STRING" if s.dtype == "string" else DATATYPES[s.dtype] for s in specs}
        return [{"name": s.name, "data_type": f"TYPE_{kinds[s.name]}", "dims": list(s.shape)} for s in specs]

    return {
        "name": model,
        "platform": "inferplan",
        "backend": "",
        "max_batch_size": max_rows,
        "input": described(inputs),
        "output": described(outputs),
    }


def _header_length(body: bytes, given: str | None) -> int:
    if given is None:
        return len(body)
    if not (given.isascii() and given.isdigit() and len(given) < 20 and int(given) <= len(body)):
        raise ProtocolError(400, f"Inference-Header-Content-Length {given[:40]!r} is not within the body")
    return int(given)


def _json(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(400, f"the request is not JSON: {error}") from None


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ProtocolError(400, f"{what} must be a JSON object")
    return value


def _tensors(header: Mapping[str, Any], body: bytes, start: int, inputs: Sequence[TensorSpec]) -> tuple[Tensors, int]:
    entries = header.get("inputs")
    if not isinstance(entries, list) or not entries:
        raise ProtocolError(400, "inputs must be a list of tensors")
    known = {spec.name: spec for spec in inputs}
    tensors: Tensors = {}
    end = start
    for entry in entries:
        entry = _object(entry, "an input")
        name = entry.get("name")
        if not isinstance(name, str) or name not in known:
            raise ProtocolError(400, f"unknown input {str(name)[:80]!r}; expected {', '.join(known)}")
        if name in tensors:
            raise ProtocolError(400, f"input {name} is given twice")
        tensors[name], end = _tensor(entry, known[name], body, end)
    missing = [name for name in known if name not in tensors]
    if missing:
        raise ProtocolError(400, f"missing input: {', '.join(missing)}")
    return tensors, end


def _tensor(entry: Mapping[str, Any], spec: TensorSpec, body: bytes, start: int) -> tuple[NDArray[Any], int]:
    if entry.get("datatype") != DATATYPES[spec.dtype]:
        given = str(entry.get("datatype"))[:20]
        raise ProtocolError(400, f"input {spec.name} has datatype {given}, expected {DATATYPES[spec.dtype]}")
    shape = entry.get("shape")
    if not isinstance(shape, list) or not all(type(size) is int for size in shape) or not _fits(shape, spec):
        expected = [-1, *spec.shape]
        raise ProtocolError(400, f"input {spec.name} has shape {str(shape)[:80]}, expected {expected} (-1: any number)")
    if shape[0] < 1:
        raise ProtocolError(400, f"input {spec.name} has no rows")
    parameters = _object(entry.get("parameters", {}), f"parameters of input {spec.name}")
    size = parameters.get("binary_data_size")
    if size is None:
        if "data" not in entry:
            raise ProtocolError(400, f"input {spec.name} has neither data nor binary_data_size")
        return _from_json(entry["data"], spec, shape), start
    if "data" in entry:
        raise ProtocolError(400, f"input {spec.name} has both data and binary_data_size")
    if type(size) is not int or not 0 <= size <= len(body) - start:
        raise ProtocolError(400, f"input {spec.name}: its binary data is not within the body")
    return _from_bytes(body[start : start + size], spec, shape), start + size


def _fits(shape: Sequence[int], spec: TensorSpec) -> bool:
    """Whether a shape with its batch dimension agrees with a declaration without."""
    return len(shape) == 1 + len(spec.shape) and all(
        size >= 0 and wanted in (-1, size) for size, wanted in zip(shape, [-1, *spec.shape], strict=True)
    )


def _from_json(data: Any, spec: TensorSpec, shape: Sequence[int]) -> NDArray[Any]:
    count = math.prod(shape)
    if not isinstance(data, list):
        raise ProtocolError(400, f"data of input {spec.name} must be a list")
    if spec.dtype == "string":
        texts = _flattened(data)
        if not all(isinstance(item, str) for item in texts):
            raise ProtocolError(400, f"data of input {spec.name} must be strings")
        return _shaped(np.array(texts, object), spec, shape, count)
    try:
        array = np.asarray(data)
    except ValueError as error:
        raise ProtocolError(400, f"data of input {spec.name} is not a regular array: {error}") from None
    wanted = np.dtype(spec.dtype)
    if wanted.kind in "iu" and array.dtype.kind in "fO" and all(type(item) is int for item in _flattened(data)):
        array = np.array(_flattened(data), object)  # beyond int64; numpy would have met them half-way, in floats
    elif count and array.dtype.kind not in _JSON_KINDS[wanted.kind]:
        raise ProtocolError(400, f"data of input {spec.name} does not fit {DATATYPES[spec.dtype]}")
    array = _shaped(array, spec, shape, count)
    if wanted.kind in "iu" and count:
        limits = np.iinfo(wanted)
        if int(array.min()) < limits.min or int(array.max()) > limits.max:
            raise ProtocolError(400, f"data of input {spec.name} is out of range for {DATATYPES[spec.dtype]}")
    with np.errstate(over="ignore"):  # a number too large for its float type becomes infinite
        converted: NDArray[Any] = array.astype(wanted)
    return converted


def _flattened(data: list[Any]) -> list[Any]:
    while any(isinstance(item, list) for item in data):
        data = [inner for item in data for inner in (item if isinstance(item, list) else [item])]
    return data


def _from_bytes(raw: bytes, spec: TensorSpec, shape: Sequence[int]) -> NDArray[Any]:
    count = math.prod(shape)
    if spec.dtype == "string":
        return _shaped(np.array(_strings(raw, spec), object), spec, shape, count)
    dtype = np.dtype(spec.dtype).newbyteorder("<")
    if len(raw) != count * dtype.itemsize:
        raise ProtocolError(
            400, f"input {spec.name} has {len(raw)} bytes; shape {list(shape)} needs {count * dtype.itemsize}"
        )
    array: NDArray[Any] = np.frombuffer(raw, np.uint8) != 0 if spec.dtype == "bool" else np.frombuffer(raw, dtype)
    return array.astype(spec.dtype, copy=False).reshape(shape)


def _strings(raw: bytes, spec: TensorSpec) -> list[str]:
    texts: list[str] = []
    at = 0
    while at < len(raw):
        end = at + 4
        if end <= len(raw):
            end += struct.unpack_from("<I", raw, at)[0]
        if end > len(raw):
            raise ProtocolError(400, f"input {spec.name}: an element's length goes past the data")
        try:
            texts.append(raw[at + 4 : end].decode())
        except UnicodeDecodeError:
            raise ProtocolError(400, f"input {spec.name}: element {len(texts)} is not UTF-8") from None
        at = end
    return texts


def _shaped(array: NDArray[Any], spec: TensorSpec, shape: Sequence[int], count: int) -> NDArray[Any]:
    if array.size != count:
        raise ProtocolError(400, f"input {spec.name} has {array.size} elements; shape {list(shape)} needs {count}")
    return array.reshape(shape)


def _wanted(header: Mapping[str, Any], parameters: Mapping[str, Any], outputs: Sequence[TensorSpec]) -> dict[str, bool]:
    default = _flag(parameters, "binary_data_output")
    entries = header.get("outputs")
    known = [spec.name for spec in outputs]
    if not entries:
        return dict.fromkeys(known, default)
    if not isinstance(entries, list):
        raise ProtocolError(400, "outputs must be a list")
    wanted: dict[str, bool] = {}
    for entry in entries:
        entry = _object(entry, "an output")
        name = entry.get("name")
        if not isinstance(name, str) or name not in known:
            raise ProtocolError(400, f"unknown output {str(name)[:80]!r}; there are {', '.join(known)}")
        own = _object(entry.get("parameters", {}), f"parameters of output {name}")
        if own.get("classification"):
            raise ProtocolError(400, "the classification extension is not offered")
        wanted[name] = _flag(own, "binary_data", default)
    return wanted


def _flag(parameters: Mapping[str, Any], name: str, default: bool = False) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise ProtocolError(400, f"parameter {name} must be true or false")
    return value


def _datatype(array: NDArray[Any]) -> str:
    return "BYTES" if array.dtype.kind == "O" else DATATYPES[array.dtype.name]


def _to_bytes(array: NDArray[Any]) -> bytes:
    if array.dtype.kind == "O":
        encoded = [item.encode() for item in array.ravel()]
        return b"".join(struct.pack("<I", len(item)) + item for item in encoded)
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()


def _text(item: Any) -> str:
    return item.decode(errors="replace") if isinstance(item, bytes) else str(item)
