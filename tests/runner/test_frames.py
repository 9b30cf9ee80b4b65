"""Frames survive sockets that take and give any number of bytes at a time."""

from __future__ import annotations

import socket
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inferplan.runner.frames import (
    Blob,
    ConnectionEnded,
    FrameReader,
    Reply,
    batch_frame,
    dump,
    load,
    read_batch,
    read_reply,
    reply_frame,
    send_all,
    send_some,
    socket_pair,
)

blobs = st.binary(max_size=30)


def through_socket(buffers: list[Blob]) -> memoryview:
    ours, theirs = socket_pair()
    with ours, theirs:
        sender = threading.Thread(target=send_all, args=(ours, buffers))
        sender.start()
        frame = FrameReader().wait(theirs)
        sender.join()
        return frame


@given(parts=st.integers(1, 3), data=st.data())
def test_batches_come_back(parts: int, data: st.DataObject) -> None:
    items: list[list[Blob]] = data.draw(
        st.lists(st.lists(blobs, min_size=parts, max_size=parts), min_size=1, max_size=6)
    )
    joined = b"".join(batch_frame(items, parts))
    assert [[bytes(part) for part in item] for item in read_batch(memoryview(joined)[8:])] == items


@given(
    outputs=st.lists(st.lists(blobs, max_size=4) | st.text(max_size=20), max_size=6),
    stalls=st.lists(st.floats(0, 9), max_size=3),
)
def test_replies_come_back(outputs: list[list[Blob] | str], stalls: list[float]) -> None:
    reply = Reply(0.25, 1.5, 0.125, 2.0, outputs, 0.5, stalls)
    read = read_reply(memoryview(b"".join(reply_frame(reply)))[8:])
    assert (read.pre_s, read.infer_s, read.post_s, read.busy_s, read.watched_s) == (0.25, 1.5, 0.125, 2.0, 0.5)
    assert list(read.stalls_s) == stalls
    assert [one if isinstance(one, str) else [bytes(b) for b in one] for one in read.outputs] == outputs


def test_frames_larger_than_any_buffer_and_of_many_pieces() -> None:
    picture = np.arange(3_000_000, dtype=np.uint8)
    many: list[list[Any]] = [[dump(picture)], *[[bytes([n % 256]) * n] for n in range(2000)]]
    read = read_batch(through_socket(batch_frame(many, 1)))
    np.testing.assert_array_equal(load(read[0][0]), picture)
    assert [[bytes(part) for part in item] for item in read[1:]] == many[1:]


@settings(max_examples=30)
@given(cuts=st.lists(st.integers(1, 50), min_size=1, max_size=20))
def test_a_frame_that_trickles_in(cuts: list[int]) -> None:
    whole = b"".join(batch_frame([[b"abc" * 40], [b""]], 1))
    ours, theirs = socket.socketpair()
    reader = FrameReader()
    with ours, theirs:
        at = 0
        for cut in [*cuts, len(whole)]:
            piece = whole[at : at + cut]
            if not piece:
                break
            ours.sendall(piece)
            at += len(piece)
            frame = reader.receive(theirs)
            assert (frame is not None) == (at == len(whole))
        theirs.setblocking(False)
        with pytest.raises(BlockingIOError):
            reader.receive(theirs)
        ours.close()
        with pytest.raises(ConnectionEnded):
            reader.receive(theirs)


def test_sending_goes_on_where_the_socket_stopped_taking() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        rest = send_some(ours, batch_frame([[bytes(2_000_000)], [b"end"]], 1))
        assert 0 < sum(len(piece) for piece in rest) < 2_000_000 + 40
        ours.setblocking(True)
        sender = threading.Thread(target=send_all, args=(ours, rest))
        sender.start()
        read = read_batch(FrameReader().wait(theirs))
        sender.join()
    assert (len(read[0][0]), bytes(read[1][0])) == (2_000_000, b"end")
