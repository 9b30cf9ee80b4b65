"""The interface of an ONNX file: as the runtime sees it, or a message saying what is wrong with the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inferplan.exporters.onnx_graph import GraphTensor, read_graph
from inferplan.spec.errors import InputError

DIGITS = sorted((Path(__file__).parents[2] / "sample_workloads/digits/models").glob("*.onnx"))
OCR = sorted((Path(__file__).parents[2] / "sample_workloads/ocr/prepared").rglob("*.onnx"))
TYPES = {"tensor(float)": "TYPE_FP32", "tensor(uint8)": "TYPE_UINT8", "tensor(int64)": "TYPE_INT64"}
RELU = [("Relu", ["x"], ["y"], {})]


@pytest.mark.parametrize("path", [*DIGITS, *OCR], ids=lambda path: path.name)
def test_the_graph_is_what_the_runtime_sees(path: Path) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def seen(tensor: Any) -> GraphTensor:
        dims = tuple(size if isinstance(size, int) else -1 for size in tensor.shape)
        return GraphTensor(tensor.name, TYPES[tensor.type], dims)

    graph = read_graph(path)
    assert graph.inputs == tuple(map(seen, session.get_inputs()))
    assert graph.outputs == tuple(map(seen, session.get_outputs()))
    assert dict(graph.metadata) == session.get_modelmeta().custom_metadata_map


@pytest.mark.parametrize("declared", [None, [], ["a", "b", "c"]], ids=["none", "scalar", "wrong rank"])
def test_outputs_get_the_shape_that_follows_from_the_inputs(
    tmp_path: Path, make_model: Callable[..., Path], declared: Any
) -> None:
    import onnx

    path = make_model(tmp_path / "m.onnx", {"x": ("FLOAT", ["n", 4])}, {"y": ("FLOAT", ["n", 4])}, RELU)
    model = onnx.load(str(path))
    model.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, declared))
    onnx.save(model, str(path))
    assert read_graph(path).outputs == (GraphTensor("y", "TYPE_FP32", (-1, 4)),)
    assert read_graph(path).batchable


def test_a_fixed_first_dimension_cannot_be_the_batch(tmp_path: Path, make_model: Callable[..., Path]) -> None:
    path = make_model(tmp_path / "m.onnx", {"x": ("FLOAT", [1, 4])}, {"y": ("FLOAT", ["n", 4])}, RELU)
    graph = read_graph(path)
    assert not graph.inputs[0].free_first
    assert not graph.batchable
    assert graph.outputs[0].dims == (1, 4), "the runtime narrows what was declared by what it infers"


def test_weights_that_are_listed_as_inputs_are_no_inputs(tmp_path: Path, make_model: Callable[..., Path]) -> None:
    path = make_model(
        tmp_path / "m.onnx",
        {"x": ("FLOAT", ["n"]), "w": ("FLOAT", [1])},
        {"y": ("FLOAT", ["n"])},
        [("Mul", ["x", "w"], ["y"], {})],
        {"w": np.ones(1, np.float32)},
    )
    graph = read_graph(path)
    assert [tensor.name for tensor in graph.inputs] == ["x"]
    assert graph.overridable == ("w",)


def test_truncated_files_are_refused_at_every_length(tmp_path: Path, make_model: Callable[..., Path]) -> None:
    whole = make_model(tmp_path / "m.onnx", {"x": ("FLOAT", ["n"])}, {"y": ("FLOAT", ["n"])}, RELU).read_bytes()
    cut = tmp_path / "cut.onnx"
    for length in range(len(whole)):
        cut.write_bytes(whole[:length])
        with pytest.raises(InputError, match="not a whole ONNX model"):
            read_graph(cut)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 zip", b"\x00" * 64, b"name: text", b"\xff" * 4096])
def test_files_of_other_kinds_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(InputError, match="not a whole ONNX model"):
        read_graph(path)


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "gone.onnx", tmp_path):
        with pytest.raises(InputError, match="there is no such model file"):
            read_graph(path)


def test_what_is_not_a_tensor_is_refused(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    sequence = helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, ["n"])
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])
    graph = helper.make_graph([helper.make_node("SequenceConstruct", ["x"], ["y"])], "g", [x], [sequence])
    onnx.save(helper.make_model(graph), str(tmp_path / "m.onnx"))
    with pytest.raises(InputError, match="'y' is a sequence, not a tensor"):
        read_graph(tmp_path / "m.onnx")


def with_external_weights(path: Path, location: str) -> Path:
    """A model whose weights say that they lie in another file."""
    import onnx
    from onnx import TensorProto, helper

    weights = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    weights.external_data.add(key="location", value=location)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Mul", ["x", "w"], ["y"])], "g", [x], [y], [weights])
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph), str(path))
    return path


def test_weights_in_other_files_are_named_and_not_read(tmp_path: Path) -> None:
    (tmp_path / "model/parts").mkdir(parents=True)
    (tmp_path / "model/parts/w.bin").write_bytes(b"not sixteen bytes of weights")
    path = with_external_weights(tmp_path / "model/m.onnx", "parts/w.bin")
    assert read_graph(path).external_files == ("parts/w.bin",)


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "link", "", "a\\..\\b", "gone.bin"])
def test_weights_outside_of_the_model_folder_are_refused(tmp_path: Path, location: str) -> None:
    (tmp_path / "secret").write_text("secret")
    path = with_external_weights(tmp_path / "model/m.onnx", location)
    (path.parent / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match="keeps weights in"):
        read_graph(path)
