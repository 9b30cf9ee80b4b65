"""Other operator sets and optimised graphs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from inferplan.profilers.variants.base import Order, Survey
from inferplan.profilers.variants.graphs import Offline, Opset
from inferplan.profilers.variants.onnx_files import opset_of, read_model
from inferplan.spec.document import LoadedWorkload
from inferplan.spec.errors import InputError
from inferplan.spec.stage import Variant

FP32 = Variant(model="m.onnx")


def difference(order: Order) -> float:
    x = np.random.default_rng(0).standard_normal((3, 16)).astype(np.float32)
    runs = [onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]) for path in
            (order.source, order.target)]  # fmt: skip
    before, after = (session.run(None, {"x": x})[0] for session in runs)
    return float(np.abs(after - before).max())


def test_opset(make_workload: Callable[..., LoadedWorkload], order_for: Callable[..., Order]) -> None:
    assert Opset().parse("13,21") == [{"opset": 13}, {"opset": 21}]
    order = order_for(make_workload(), "mlp", {"opset": 21})
    Opset().make(order)
    assert opset_of(read_model(order.target)) == 21
    assert difference(order) < 1e-6


def test_opset_that_cannot_be_reached(
    make_workload: Callable[..., LoadedWorkload], order_for: Callable[..., Order]
) -> None:
    with pytest.raises(InputError, match="cannot convert it to opset 999"):
        Opset().make(order_for(make_workload(), "mlp", {"opset": 999}))


@pytest.mark.parametrize("text", ["", "x", "6", "17.5"])
def test_opset_needs_versions(text: str) -> None:
    with pytest.raises(InputError, match="expected versions"):
        Opset().parse(text)


def test_opset_refusals() -> None:
    assert "already" in Opset().refusal(FP32, Survey(kind="onnx", opset=17), {"opset": 17})
    assert "ONNX models only" in Opset().refusal(FP32, Survey(kind="eager"), {"opset": 17})
    assert Opset().refusal(FP32, Survey(kind="onnx", opset=13), {"opset": 17}) == ""


@pytest.mark.parametrize("level", ["basic", "extended"])
def test_offline(level: str, make_workload: Callable[..., LoadedWorkload], order_for: Callable[..., Order]) -> None:
    (settings,) = Offline().parse(level)
    order = order_for(make_workload(), "mlp", settings)
    Offline().make(order)
    assert difference(order) < 1e-5
    assert Offline().suffix(settings) == f"-off-{level}"


def test_a_damaged_model_is_said_to_be_one(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"no model at all")
    with pytest.raises(InputError, match=r"bad\.onnx: onnx cannot read it"):
        read_model(tmp_path / "bad.onnx")
