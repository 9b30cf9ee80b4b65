"""fp16: smaller weights, the same interface, and nets that plain conversion ruins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from inferplan.profilers.variants.base import Order, Survey
from inferplan.profilers.variants.floats import Half
from inferplan.spec.document import LoadedWorkload
from inferplan.spec.errors import InputError
from inferplan.spec.stage import Variant


@pytest.mark.parametrize("tiny", [False, True])
def test_it_keeps_types_and_stays_near(
    tiny: bool, make_workload: Callable[..., LoadedWorkload], order_for: Callable[..., Order], conv: Callable[..., Path]
) -> None:
    """A normalisation whose variance fp16 cannot say gives outputs of another order of magnitude, unless it is folded
    into its convolution first."""
    loaded = make_workload({"conv": {"model": "conv.onnx", "params": {"pictures": True}}})
    conv("workload/conv.onnx", tiny_variance=tiny)
    order = order_for(loaded, "conv", {})
    Half().make(order)
    assert order.target.stat().st_size < order.source.stat().st_size
    x = np.random.default_rng(0).standard_normal((4, 3, 8, 8)).astype(np.float32)
    before, after = (
        onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
        for path in (order.source, order.target)
    )
    assert after.dtype == np.float32
    assert np.linalg.norm(after - before) / np.linalg.norm(before) < 0.01


@pytest.mark.parametrize(
    ("variant", "survey", "reason"),
    [
        (Variant(model="m.onnx"), Survey(kind="torchscript"), "ONNX models only"),
        (Variant(model="m.onnx"), Survey(kind="onnx", quantized=True, float_weights=1), "fp32 models only"),
        (Variant(model="m.onnx", precision="fp16"), Survey(kind="onnx", float_weights=1), "half precision already"),
        (Variant(model="m.onnx"), Survey(kind="onnx"), "no fp32 weights"),
        (Variant(model="m.onnx"), Survey(kind="onnx", float_weights=1), ""),
    ],
)
def test_refusals(variant: Variant, survey: Survey, reason: str) -> None:
    said = Half().refusal(variant, survey, {})
    assert reason in said
    assert bool(said) is bool(reason)


def test_it_has_no_settings() -> None:
    assert Half().parse("") == [{}]
    with pytest.raises(InputError, match="it has none"):
        Half().parse("fast")
