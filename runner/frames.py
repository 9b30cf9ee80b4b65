"""Frames between the router and its replicas: batches of opaque blobs over a Unix socket.

The router never looks inside an item. A request is pickled once on its way in, a replica unpickles it, runs
its stage and pickles every item it sends on; the router hands those bytes to the next stage as they are. So
the router's work per call does not depend on what the items are, and a big image is copied, never decoded.

Layout, little-endian; `u64 size` counts the bytes after itself:

| frame | after `u64 size` |
|---|---|
| batch | `u32 items, u32 parts`, then items x parts blobs |
| reply | `f64 pre_s, infer_s, post_s, busy_s, watched_s`, `u32 stalls, items`, `f64`s, `u32 count` per item, blobs |

Before blobs come their lengths, a `u32` each.

An item has several parts where its stage joins several parents, one per parent. In a reply `count` is the
number of items sent on (or 1: the prediction, at a last stage); `FAILED` means one blob, the reason in UTF-8.

Blobs are pickles (protocol 5). Both ends are processes of this program on a private socket pair; nothing that
comes from a file or a network is ever unpickled.
"""

from __future__ import annotations

import pickle
import socket
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

Blob = bytes | bytearray | memoryview

SIZE = struct.Struct("<Q")
BATCH_HEAD = struct.Struct("<II")
REPLY_HEAD = struct.Struct("<dddddII")
FAILED = 0xFFFF_FFFF
RECEIVE_BYTES = 1 << 18
SOCKET_BUFFER_BYTES = 4 << 20


class ConnectionEnded(Exception):
    """The other end has closed the socket."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a replica answers to a batch.

    `outputs[i]` is what item i sends on, or the reason (text) why it failed. `busy_s` is the time from the
    whole batch being received to the reply being ready; pre, infer and post are parts of it. Before the batch came the
    replica polled for `watched_s`, and was left standing meanwhile for each of `stalls_s`.
    """

    pre_s: float
    infer_s: float
    post_s: float
    busy_s: float
    outputs: list[list[Blob] | str]
    watched_s: float = 0.0
    stalls_s: Sequence[float] = ()


def dump(item: Any) -> bytes:
    """An item as a blob."""
    return pickle.dumps(item, protocol=5)


def load(blob: Blob) -> Any:
    """The item in a blob that one of our own processes made."""
    return pickle.loads(blob)  # noqa: S301


def batch_frame(items: Sequence[Sequence[Blob]], parts: int) -> list[Blob]:
    """A batch as buffers to send; every item has `parts` blobs."""
    blobs = [blob for item in items for blob in item]
    lengths = [len(blob) for blob in blobs]
    head = BATCH_HEAD.pack(len(items), parts) + struct.pack(f"<{len(lengths)}I", *lengths)
    return [SIZE.pack(len(head) + sum(lengths)) + head, *blobs]


def read_batch(frame: memoryview) -> list[list[memoryview]]:
    """The inverse of `batch_frame`, without the size; the blobs are views of the frame."""
    items, parts = BATCH_HEAD.unpack_from(frame)
    blobs = _cut(frame, BATCH_HEAD.size, items * parts)
    return [blobs[start : start + parts] for start in range(0, items * parts, parts)]


def reply_frame(reply: Reply) -> list[Blob]:
    """A reply as buffers to send."""
    counts: list[int] = []
    blobs: list[Blob] = []
    for output in reply.outputs:
        counts.append(FAILED if isinstance(output, str) else len(output))
        blobs.extend([output.encode()] if isinstance(output, str) else output)
    lengths = [len(blob) for blob in blobs]
    times = (reply.pre_s, reply.infer_s, reply.post_s, reply.busy_s, reply.watched_s)
    head = REPLY_HEAD.pack(*times, len(reply.stalls_s), len(counts))
    if reply.stalls_s:
        head += struct.pack(f"<{len(reply.stalls_s)}d", *reply.stalls_s)
    head += struct.pack(f"<{len(counts) + len(lengths)}I", *counts, *lengths)
    return [SIZE.pack(len(head) + sum(lengths)) + head, *blobs]


def read_reply(frame: memoryview) -> Reply:
    """The inverse of `reply_frame`, without the size; the blobs are views of the frame."""
    pre_s, infer_s, post_s, busy_s, watched_s, stalls, items = REPLY_HEAD.unpack_from(frame)
    stalls_s = struct.unpack_from(f"<{stalls}d", frame, REPLY_HEAD.size) if stalls else ()
    start = REPLY_HEAD.size + 8 * stalls
    counts = struct.unpack_from(f"<{items}I", frame, start)
    total = sum(1 if count == FAILED else count for count in counts)
    blobs = iter(_cut(frame, start + 4 * items, total))
    outputs: list[list[Blob] | str] = []
    for count in counts:
        if count == FAILED:
            outputs.append(bytes(next(blobs)).decode(errors="replace"))
        else:
            outputs.append([next(blobs) for _ in range(count)])
    return Reply(pre_s, infer_s, post_s, busy_s, outputs, watched_s, stalls_s)


def _cut(frame: memoryview, offset: int, count: int) -> list[memoryview]:
    lengths = struct.unpack_from(f"<{count}I", frame, offset)
    ends = accumulate(lengths, initial=offset + 4 * count)
    return [frame[start:end] for start, end in pairwise(ends)]


class FrameReader:
    """Collects one frame at a time from a socket, blocking or not.

    A router and a replica take turns, so bytes of a second frame never follow the first.
    """

    __slots__ = ("_buffer", "_filled", "_scratch")

    def __init__(self) -> None:
        self._scratch = bytearray(RECEIVE_BYTES)
        self._buffer: bytearray | None = None
        self._filled = 0

    def receive(self, sock: socket.socket) -> memoryview | None:
        """Read once; the frame if it is now whole, else None. The view stays valid for as long as it is held.

        Raises ConnectionEnded at the end of the stream, BlockingIOError as `recv` does.
        """
        # The first read goes to a scratch buffer: most frames are small, and then it is the only one.
        target = memoryview(self._scratch if self._buffer is None else self._buffer)
        count = sock.recv_into(target[self._filled :])
        if not count:
            raise ConnectionEnded
        self._filled += count
        if self._buffer is None:
            if self._filled < SIZE.size:
                return None
            body = target[SIZE.size : self._filled]
            self._buffer = bytearray(SIZE.unpack_from(target)[0])
            self._buffer[: len(body)] = body
            self._filled = len(body)
        if self._filled < len(self._buffer):
            return None
        frame = memoryview(self._buffer)
        self._buffer, self._filled = None, 0
        return frame

    def wait(self, sock: socket.socket) -> memoryview:
        """Read from a blocking socket until a frame is whole."""
        while True:
            frame = self.receive(sock)
            if frame is not None:
                return frame


def send_all(sock: socket.socket, buffers: Iterable[Blob]) -> None:
    """Send buffers over a blocking socket."""
    rest = send_some(sock, buffers)
    while rest:
        rest = send_some(sock, rest)


IOV_MAX = 512
"""Buffers per system call; the kernel's limit is 1024."""


def send_some(sock: socket.socket, buffers: Iterable[Blob]) -> list[Blob]:
    """Send what the socket takes now; returns what is left. Raises BlockingIOError where it takes nothing."""
    rest = list(buffers)
    sent = sock.sendmsg(rest[:IOV_MAX])
    for index, buffer in enumerate(rest):
        if sent < len(buffer):
            return [memoryview(buffer)[sent:], *rest[index + 1 :]]
        sent -= len(buffer)
    return []


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """A connected pair of Unix sockets with buffers as big as the system allows."""
    pair = socket.socketpair()
    for end in pair:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)
    return pair
