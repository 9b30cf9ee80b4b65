"""Which files a choice's model consists of, and their hash: what a profile and a plan rest on.

A large ONNX model may keep weights in files beside it ("external data"); the model names them. They are found
by walking the protobuf's wire format over a memory map, skipping everything but those names, so that neither
the onnx package nor the weights have to be loaded. What is no ONNX file has no files beside it.

Field numbers: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from inferplan.spec.errors import InputError
from inferplan.spec.evidence import code_sha256, combined_sha256, file_sha256

if TYPE_CHECKING:
    from inferplan.spec.workload import Workload  # heavy, and measuring processes import this module

# Messages by the numbers of the fields that lead to tensors, and what those fields hold.
_FIELDS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
_DEEPEST = 100
"""Messages within messages; protobuf itself reads no more."""
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class _NoModelError(Exception):
    """The bytes are no protobuf message."""


def model_sha256(workload: Workload, stage: str, choice: str) -> str:
    """Hash of a choice's model (`variant`, or `variant@subset`): that of its file's bytes where one file is all
    there is; else of all its files and of the factory's code and params together. Empty where no model runs.

    Runtime options are not in it: they are a column of their own. Raises InputError where a file cannot be read.
    """
    path = workload.model_path(stage, choice)
    variant = workload.pipeline.stages[stage].variants[choice.partition("@")[0]]
    factory = code_sha256(variant.factory, variant.params, workload.root)
    if path is None:
        return factory and combined_sha256(factory)
    files = model_files(path)
    if len(files) == 1 and not factory:
        return file_sha256(path)
    beside = {str(file.relative_to(path.parent)): file_sha256(file) for file in files[1:]}
    return combined_sha256(file_sha256(path), beside, factory)


def model_files(path: Path) -> list[Path]:
    """The model file, and the files with external data that it names, as far as they are there, sorted.

    Names that lead out of the model's folder are no part of it (runtimes refuse them). Raises InputError where
    the model cannot be read.
    """
    folder = path.parent.resolve()
    beside: set[Path] = set()
    for name in external_names(path):
        with contextlib.suppress(OSError, ValueError):  # a name that no file can have
            file = (folder / name).resolve()
            if file.is_relative_to(folder) and file.is_file():
                beside.add(path.parent / file.relative_to(folder))
    return [path, *sorted(beside - {path})]


def external_names(path: Path) -> set[str]:
    """Names of the files that an ONNX model's tensors lie in, as it gives them; empty for any other file."""
    try:
        with path.open("rb") as file:
            if file.seek(0, 2) == 0:
                return set()
            with contextlib.closing(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)) as content:
                return set(_locations(content, 0, len(content), "model", 0))
    except _NoModelError:
        return set()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error


def _locations(content: mmap.mmap, start: int, end: int, message: str, depth: int) -> Iterator[str]:
    """Values of `location` in the external data of all tensors below a message."""
    if depth > _DEEPEST:
        raise _NoModelError
    for number, first, last in _parts(content, start, end):
        inner = _FIELDS[message].get(number)
        if inner == "entry":
            entry = {part: content[a:b] for part, a, b in _parts(content, first, last)}
            if entry.get(1) == b"location":
                yield entry.get(2, b"").decode(errors="replace")
        elif inner is not None:
            yield from _locations(content, first, last, inner, depth + 1)


def _parts(content: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Length-delimited fields of a message: number, first byte, byte after the last."""
    position = start
    while position < end:
        tag, position = _varint(content, position, end)
        kind = tag & 7
        if kind == _BYTES:
            length, position = _varint(content, position, end)
            if position + length > end:
                raise _NoModelError
            yield tag >> 3, position, position + length
            position += length
        elif kind == _VARINT:
            _, position = _varint(content, position, end)
        elif kind in (_FIXED64, _FIXED32):
            position += 8 if kind == _FIXED64 else 4
        else:
            raise _NoModelError
    if position != end:
        raise _NoModelError


def _varint(content: mmap.mmap, position: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= end:
            raise _NoModelError
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise _NoModelError
