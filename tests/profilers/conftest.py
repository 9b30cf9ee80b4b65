"""Tiny models and workloads, made on the spot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

Shape = Sequence[int | str | None]


def save_model(path: Path, shape: Shape = ("N", 4), factor: float = 2.0, dtype: int = TensorProto.FLOAT) -> Path:
    """Write an ONNX model `x -> y = factor * x`."""
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "factor"], ["y"])],
        "times",
        [helper.make_tensor_value_info("x", dtype, list(shape))],
        [helper.make_tensor_value_info("y", dtype, list(shape))],
        [helper.make_tensor("factor", dtype, [], [factor])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    helper.set_model_props(model, {"made_by": "tests"})
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(path))
    return path


@pytest.fixture
def make_model(tmp_path: Path) -> Callable[..., Path]:
    """Writes a model below the test's folder: `make_model("a.onnx", shape=["N", 4])`."""

    def make(name: str = "model.onnx", **options: Any) -> Path:
        return save_model(tmp_path / name, **options)

    return make
