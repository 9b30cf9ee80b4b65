"""ONNX Runtime loads what is a model, refuses what is none, and never pretends to run on another provider."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from inferplan.profilers.runtimes.base import ModelError, ModelSource
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
