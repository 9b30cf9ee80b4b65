"""ONNX Runtime loads what is a model, refuses what is none, and never pretends to run on another provider."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from inferplan.profilers.runtimes.base import ModelError, ModelSource
from inferplan.profilers.runtimes.onnxruntime import _providers, _session_options
from inferplan.profilers.runtimes.registry import runtime
from inferplan.spec.errors import InputError, MissingExtraError

MakeModel = Callable[..., Path]


def test_a_model_says_what_it_takes_and_gives(make_model: MakeModel) -> None:
    session = runtime("onnxruntime").load(ModelSource(make_model()), "cpu", 1)
    assert [(t.name, t.dtype, t.shape) for t in session.info.inputs] == [("x", "float32", (None, 4))]
    assert [(t.name, t.dtype, t.shape) for t in session.info.outputs] == [("y", "float32", (None, 4))]
    outputs = session.run({"x": np.ones((3, 4), np.float32)})
    np.testing.assert_array_equal(outputs["y"], np.full((3, 4), 2.0))
    assert session.provider == "cpu"


@pytest.mark.parametrize("damage", ["truncated", "text", "empty"])
def test_what_is_no_model_is_refused_by_name(make_model: MakeModel, damage: str) -> None:
    path = make_model()
    content = path.read_bytes()
    path.write_bytes({"truncated": content[: len(content) // 2], "text": b"hello world", "empty": b""}[damage])
    with pytest.raises(ModelError, match=r"model\.onnx: onnxruntime cannot load it"):
        runtime("onnxruntime").load(ModelSource(path), "cpu", 1)


def test_free_dimensions_have_the_names_that_the_model_gives_them(make_model: MakeModel) -> None:
    (x,) = runtime("onnxruntime").load(ModelSource(make_model(shape=["N", 3, None, "W"])), "cpu", 1).info.inputs
    assert x.shape == (None, 3, None, None)
    assert x.names == ("N", "", "", "W")


@pytest.mark.parametrize("level", ["all", "extended", "basic", "disabled"])
def test_graph_optimisation_is_as_asked_for(make_model: MakeModel, level: str) -> None:
    source = ModelSource(make_model(), options={"graph_optimization": level})
    session = runtime("onnxruntime").load(source, "cpu", 1)
    np.testing.assert_array_equal(session.run({"x": np.ones((1, 4), np.float32)})["y"], np.full((1, 4), 2.0))
    levels = onnxruntime.GraphOptimizationLevel
    name = {"disabled": "ORT_DISABLE_ALL"}.get(level, f"ORT_ENABLE_{level.upper()}")
    assert _session_options(onnxruntime, source.options, 1).graph_optimization_level == getattr(levels, name)


def test_options_and_sources_that_it_does_not_know_are_refused(make_model: MakeModel) -> None:
    loader, model = runtime("onnxruntime"), make_model()
    with pytest.raises(ModelError, match="no graph_optimization 'most'"):
        loader.load(ModelSource(model, options={"graph_optimization": "most"}), "cpu", 1)
    with pytest.raises(ModelError, match="takes no factory"):
        loader.load(ModelSource(model, "nets:make"), "cpu", 1)
    with pytest.raises(ModelError, match="needs a model file"):
        loader.load(ModelSource(), "cpu", 1)


def save_outside(folder: Path, location: str) -> Path:
    """A model whose only weight is said to lie in the file `location`."""
    weight = helper.make_tensor("factor", TensorProto.FLOAT, [4], [2.0] * 4)
    content = numpy_helper.to_array(weight).tobytes()
    weight.ClearField("float_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": "0", "length": str(len(content))}.items():
        weight.external_data.add(key=key, value=value)
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "factor"], ["y"])],
        "times",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    folder.mkdir(exist_ok=True)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return folder / "model.onnx"


def test_weights_beside_the_model_are_read(tmp_path: Path) -> None:
    path = save_outside(tmp_path / "model", "weights.bin")
    with pytest.raises(ModelError, match=r"the file with its weights is missing: .*weights\.bin"):
        runtime("onnxruntime").load(ModelSource(path), "cpu", 1)
    (path.parent / "weights.bin").write_bytes(np.full(4, 2.0, np.float32).tobytes())
    session = runtime("onnxruntime").load(ModelSource(path), "cpu", 1)
    np.testing.assert_array_equal(session.run({"x": np.ones((1, 4), np.float32)})["y"], np.full((1, 4), 2.0))


@pytest.mark.parametrize("location", ["../secret.bin", "{root}/secret.bin", "link.bin", "a\0b"])
def test_weights_outside_of_the_models_folder_are_refused(tmp_path: Path, location: str) -> None:
    (tmp_path / "secret.bin").write_bytes(np.full(4, 2.0, np.float32).tobytes())
    path = save_outside(tmp_path / "model", location.format(root=tmp_path))
    (path.parent / "link.bin").symlink_to(tmp_path / "secret.bin")
    with pytest.raises(ModelError, match="outside of the model's folder"):
        runtime("onnxruntime").load(ModelSource(path), "cpu", 1)


def test_openvino_runs_a_model_where_it_is_installed(make_model: MakeModel) -> None:
    loader = runtime("onnxruntime")
    if "openvino" not in loader.providers():
        with pytest.raises(ModelError, match=r"no provider openvino.*onnxruntime-openvino"):
            loader.load(ModelSource(make_model()), "openvino", 1)
        return
    session = loader.load(ModelSource(make_model()), "openvino", 1)
    np.testing.assert_array_equal(session.run({"x": np.ones((1, 4), np.float32)})["y"], np.full((1, 4), 2.0))
    assert session.provider == "openvino"


def test_openvino_is_told_the_number_of_threads() -> None:
    first, *others = _providers("openvino", 3)
    assert first == ("OpenVINOExecutionProvider", {"device_type": "CPU", "num_of_threads": "3"})
    assert others == ["CPUExecutionProvider"]


def test_a_provider_that_is_not_there_is_refused(make_model: MakeModel) -> None:
    loader = runtime("onnxruntime")
    if "cuda" in loader.providers():
        pytest.skip("a GPU build is installed")
    with pytest.raises(ModelError, match="no provider cuda"):
        loader.load(ModelSource(make_model()), "cuda", 1)
    with pytest.raises(ModelError, match="there is no provider 'npu'"):
        loader.load(ModelSource(make_model()), "npu", 1)


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_silent_fall_back_to_another_provider_is_an_error(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU build without a GPU lists CUDA, takes the request, and runs on the CPU."""
    loader = runtime("onnxruntime")
    monkeypatch.setattr(type(loader), "providers", lambda self: ("cuda", "cpu"))
    with pytest.raises(ModelError, match="asked for provider cuda, but onnxruntime runs it on cpu"):
        loader.load(ModelSource(make_model()), "cuda", 1)


def test_a_missing_library_is_a_missing_extra(make_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"inferplan\[cpu\]"):
        runtime("onnxruntime").load(ModelSource(make_model()), "cpu", 1)


def test_an_unknown_runtime_is_named() -> None:
    with pytest.raises(InputError, match="there is no runtime 'tflite'"):
        runtime("tflite")
