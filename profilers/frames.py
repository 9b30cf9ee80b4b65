"""What goes over the pipe from the measuring process: a JSON header and raw arrays, never a pickle.

A frame is the magic bytes, the header's length (4 bytes, big endian), the header (JSON; `arrays` lists name
and length of what follows), then each array in numpy's own format.
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAGIC = b"IPW1"
MAX_HEADER_BYTES = 64 * 2**20
MAX_ARRAYS_BYTES = 2 * 2**30
_PREFIX = struct.Struct(">4sI")
Arrays = Mapping[str, NDArray[Any]]


class FrameError(Exception):
    """What came over the pipe is no frame."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One message of the measuring process. `event` says what it is."""

    event: str
    data: Mapping[str, Any] = field(default_factory=dict)
    arrays: Arrays = field(default_factory=dict)


def encode(frame: Frame) -> bytes:
    """The frame as bytes. Arrays of objects are refused (they would need a pickle)."""
    bodies: list[bytes] = []
    listed: list[tuple[str, int]] = []
    for name, array in frame.arrays.items():
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=False)
        bodies.append(buffer.getvalue())
        listed.append((name, len(bodies[-1])))
    header = json.dumps({"event": frame.event, "data": dict(frame.data), "arrays": listed}).encode()
    return _PREFIX.pack(MAGIC, len(header)) + header + b"".join(bodies)


class Decoder:
    """Cuts a stream of bytes into frames. The sender is not trusted: sizes and contents are checked."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, content: bytes) -> None:
        """Take in what was read from the pipe."""
        self._buffer += content

    def next(self) -> Frame | None:
        """The next whole frame, or None. Raises FrameError."""
        if len(self._buffer) < _PREFIX.size:
            return None
        magic, length = _PREFIX.unpack_from(self._buffer)
        if magic != MAGIC or length > MAX_HEADER_BYTES:
            raise FrameError("the measuring process sent something that is no message")
        start = _PREFIX.size + length
        if len(self._buffer) < start:
            return None
        try:
            header = json.loads(self._buffer[_PREFIX.size : start])
            listed = [(str(name), int(size)) for name, size in header["arrays"]]
            if any(size < 0 for _, size in listed) or sum(size for _, size in listed) > MAX_ARRAYS_BYTES:
                raise ValueError("sizes of arrays are out of bounds")
            end = start + sum(size for _, size in listed)
            if len(self._buffer) < end:
                return None
            arrays: dict[str, NDArray[Any]] = {}
            for name, size in listed:
                arrays[name] = np.load(io.BytesIO(self._buffer[start : start + size]), allow_pickle=False)
                start += size
            frame = Frame(str(header["event"]), dict(header["data"]), arrays)
        except (ValueError, KeyError, TypeError, EOFError) as error:
            raise FrameError(f"the measuring process sent a damaged message: {error}") from error
        del self._buffer[:end]
        return frame


def says_memory(text: str) -> bool:
    """Whether an error's words are those of an allocation that failed."""
    signs = ("bad_alloc", "bad allocation", "failed to allocate", "out of memory", "cannot allocate memory")
    return any(sign in text.lower() for sign in signs)
