"""Frames survive the pipe in any cuts; what is no frame is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferplan.profilers.frames import Decoder, Frame, FrameError, encode


@given(cuts=st.lists(st.integers(1, 400), max_size=20), values=st.lists(st.floats(allow_nan=False), max_size=50))
def test_frames_come_out_whole_however_the_stream_is_cut(cuts: list[int], values: list[float]) -> None:
    frames = [Frame("a", {"x": 1}, {"v": np.array(values), "empty": np.empty((3, 0))}), Frame("b")]
    stream = b"".join(map(encode, frames))
    decoder, found, position = Decoder(), [], 0
    for cut in [*cuts, len(stream)]:
        decoder.feed(stream[position : position + cut])
        position += cut
        while (frame := decoder.next()) is not None:
            found.append(frame)
    assert [(frame.event, dict(frame.data)) for frame in found] == [("a", {"x": 1}), ("b", {})]
    np.testing.assert_array_equal(found[0].arrays["v"], np.array(values))
    assert found[0].arrays["empty"].shape == (3, 0)


@pytest.mark.parametrize(
    "noise",
    [
        b"hello, this is printed text",
        b"IPW1\xff\xff\xff\xff",
        b"IPW1\x00\x00\x00\x02{]",
        b"IPW1\x00\x00\x00\x02{}",
        b'IPW1\x00\x00\x00\x2b{"event":"x","data":{},"arrays":[["a",-1]]} ',
        b'IPW1\x00\x00\x00\x2b{"event":"x","data":{},"arrays":[["a", 4]]} rubb',
    ],
)
def test_noise_is_refused(noise: bytes) -> None:
    decoder = Decoder()
    decoder.feed(noise)
    with pytest.raises(FrameError):
        decoder.next()


def test_objects_are_never_sent_nor_taken() -> None:
    """Arrays of objects would need a pickle, which could run code in the parent."""
    with pytest.raises(ValueError, match="allow_pickle"):
        encode(Frame("x", {}, {"a": np.array([object()])}))
