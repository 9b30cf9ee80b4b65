"""Tensors through the protocol's two encodings, and everything that may be wrong with them."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from inferplan.runner import oip
from inferplan.runner.oip import DATATYPES, InferRequest, ProtocolError, checked_outputs, read_request, write_response
from inferplan.spec.stage import TensorSpec

NUMBERS = [dtype for dtype in DATATYPES if dtype != "string"]


def spec(dtype: Any, *shape: int, name: str = "x") -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=list(shape))


def read(header: dict[str, Any], raw: bytes, *specs: TensorSpec) -> InferRequest:
    text = json.dumps(header).encode()
    return read_request(text + raw, str(len(text)), specs, specs)


@given(data=st.data(), dtype=st.sampled_from(NUMBERS), binary=st.booleans())
def test_numbers_survive_either_encoding(data: st.DataObject, dtype: str, binary: bool) -> None:
    """What we write as an output is what we read as an input: the encodings are the same both ways."""
    shape = data.draw(st.tuples(st.integers(1, 3), st.integers(0, 3), st.just(2)))
    finite = hnp.from_dtype(np.dtype(dtype), allow_nan=False, allow_infinity=False)
    array: NDArray[Any] = data.draw(hnp.arrays(dtype, shape, elements=finite))
    request = InferRequest(None, {}, shape[0], {"x": binary})
    body, length = write_response("m", request, {"x": array})
    answer = json.loads(body[:length])
    again = read({"inputs": answer["outputs"]}, body[length:] if length else b"", spec(dtype, -1, 2))
    assert again.tensors["x"].dtype == array.dtype
    np.testing.assert_array_equal(again.tensors["x"], array)


@given(texts=st.lists(st.text(max_size=8), min_size=1, max_size=5), binary=st.booleans())
def test_strings_survive_either_encoding(texts: list[str], binary: bool) -> None:
    array = np.array([[text] for text in texts], object)
    body, length = write_response("m", InferRequest(None, {}, len(texts), {"x": binary}), {"x": array})
    answer = json.loads(body[:length])
    again = read({"inputs": answer["outputs"]}, body[length:] if length else b"", spec("string", 1))
    assert again.tensors["x"].tolist() == array.tolist()


def binary_input(size: int, datatype: str = "BYTES", shape: tuple[int, ...] = (2, 1)) -> dict[str, Any]:
    entry = {"name": "x", "datatype": datatype, "shape": list(shape), "parameters": {"binary_data_size": size}}
    return {"inputs": [entry]}


@pytest.mark.parametrize(
    ("raw", "complaint"),
    [
        (struct.pack("<I", 9) + b"abc", "goes past the data"),
        (b"\x01\x00", "goes past the data"),
        (struct.pack("<I", 1) + b"\xff" + struct.pack("<I", 0), "element 0 is not UTF-8"),
        (struct.pack("<I", 1) + b"a", "1 elements; shape [2, 1] needs 2"),
    ],
)
def test_wrong_binary_strings(raw: bytes, complaint: str) -> None:
    with pytest.raises(ProtocolError, match=complaint.replace("[", r"\[")):
        read(binary_input(len(raw)), raw, spec("string", 1))


def test_wrong_binary_sizes() -> None:
    for size, raw, complaint in (
        (7, bytes(7), "7 bytes; shape"),
        (8, bytes(7), "not within the body"),
        (8, bytes(9), "1 bytes follow the last binary tensor"),
        (-8, bytes(8), "not within the body"),
    ):
        with pytest.raises(ProtocolError, match=complaint):
            read(binary_input(size, "FP32"), raw, spec("float32", 1))


def test_several_inputs_share_the_body_in_order() -> None:
    a, b = np.arange(4, dtype=np.int16).reshape(2, 2), np.array([[True], [False]])
    header = {"inputs": [
        {"name": "b", "datatype": "BOOL", "shape": [2, 1], "parameters": {"binary_data_size": 2}},
        {"name": "a", "datatype": "INT16", "shape": [2, 2], "parameters": {"binary_data_size": 8}},
    ]}  # fmt: skip
    request = read(header, b.tobytes() + a.tobytes(), spec("int16", 2, name="a"), spec("bool", 1, name="b"))
    np.testing.assert_array_equal(request.tensors["a"], a)
    np.testing.assert_array_equal(request.tensors["b"], b)
    assert request.rows == 2
    header["inputs"][1]["shape"] = [1, 2]
    header["inputs"][1]["parameters"] = {"binary_data_size": 4}
    with pytest.raises(ProtocolError, match=r"differ in their batch size \(b: 2, a: 1\)"):
        read(header, bytes(6), spec("int16", 2, name="a"), spec("bool", 1, name="b"))


@pytest.mark.parametrize(
    ("dtype", "value", "complaint"),
    [
        ("uint8", 256, "out of range for UINT8"),
        ("int8", -129, "out of range for INT8"),
        ("uint64", -1, "out of range for UINT64"),
        ("int64", 2**64, "out of range for INT64"),
        ("int32", 1.5, "does not fit INT32"),
        ("bool", 1, "does not fit BOOL"),
        ("float32", True, "does not fit FP32"),
        ("string", 1, "must be strings"),
    ],
)
def test_json_values_that_do_not_fit_their_type(dtype: str, value: object, complaint: str) -> None:
    entry = {"name": "x", "datatype": DATATYPES[dtype], "shape": [1, 1], "data": [[value]]}
    with pytest.raises(ProtocolError, match=complaint) as caught:
        read({"inputs": [entry]}, b"", spec(dtype, 1))
    assert caught.value.status == 400


def test_what_encode_returns_is_held_to_the_declaration() -> None:
    declared = [spec("int64", 1, name="label")]
    good = checked_outputs({"label": np.array([[1], [2]], np.int32), "more": 1}, declared, 2)
    assert (list(good), good["label"].dtype) == (["label"], np.dtype("int64"))
    for wrong, complaint in (
        ({}, "no tensor 'label'"),
        ({"label": np.zeros((2, 2), np.int64)}, r"shape \[2, 2\]; the workload declares \[2, 1\]"),
        ({"label": np.zeros((1, 1), np.int64)}, r"declares \[2, 1\]"),
        ({"label": np.zeros((2, 1), np.float64)}, "as float64, not int64"),
        ({"label": np.array([["a"], ["b"]])}, "not int64"),
    ):
        with pytest.raises(ProtocolError, match=complaint) as caught:
            checked_outputs(wrong, declared, 2)
        assert caught.value.status == 500
    texts = checked_outputs({"t": np.array([["a"], [b"b"]], object)}, [spec("string", 1, name="t")], 2)
    assert texts["t"].tolist() == [["a"], ["b"]]


def test_metadata_and_configuration() -> None:
    specs = [spec("uint8", 28, 28, name="image"), spec("string", -1, name="text")]
    described = oip.metadata("m", specs, [])["inputs"]
    assert described[0] == {"name": "image", "datatype": "UINT8", "shape": [-1, 28, 28]}
    assert described[1]["datatype"] == "BYTES"
    config = oip.configuration("m", specs, [], 16)
    assert config["max_batch_size"] == 16
    assert config["input"][1] == {"name": "text", "data_type": "TYPE_STRING", "dims": [-1]}
