"""Recipes that change options alone, and providers, which are no variants."""

from __future__ import annotations

import pytest

from inferplan.profilers.variants.base import Survey
from inferplan.profilers.variants.options import Autocast, Compile, GraphLevel, Provider
from inferplan.spec.errors import InputError
from inferplan.spec.stage import RuntimeOptions, Variant

ONNX = Variant(model="m.onnx")
TORCH = Variant(model="m.pt", runtime="torch")


def test_graph_levels() -> None:
    recipe = GraphLevel()
    assert [each["level"] for each in recipe.parse("")] == ["extended", "basic", "disabled"]
    assert recipe.parse("basic,basic") == [{"level": "basic"}]
    assert recipe.refusal(ONNX, Survey(), {"level": "basic"}) == ""
    assert "already" in recipe.refusal(ONNX, Survey(), {"level": "all"})
    assert "onnxruntime" in recipe.refusal(TORCH, Survey(), {"level": "basic"})
    assert recipe.changes(ONNX, {"level": "basic"}) == {"options": {"graph_optimization": "basic"}}
    with pytest.raises(InputError, match="choose among"):
        recipe.parse("fast")


def test_autocast() -> None:
    recipe = Autocast()
    assert recipe.parse("") == [{"type": "bf16"}]
    assert recipe.refusal(TORCH, Survey(), {"type": "bf16"}) == ""
    assert "torch" in recipe.refusal(ONNX, Survey(), {"type": "bf16"})
    mixed = Variant(model="m.pt", runtime="torch", options=RuntimeOptions(autocast="bf16"))
    assert "fp32 variants only" in recipe.refusal(mixed, Survey(), {"type": "fp16"})
    compiled = Variant(model="m.pt", runtime="torch", options=RuntimeOptions(compile=True))
    assert recipe.changes(compiled, {"type": "bf16"})["options"] == {"compile": True, "autocast": "bf16"}


def test_compile() -> None:
    recipe = Compile()
    assert recipe.refusal(TORCH, Survey(kind="exported"), {}) == ""
    assert "no TorchScript" in recipe.refusal(TORCH, Survey(kind="torchscript"), {})
    assert "runtime torch" in recipe.refusal(ONNX, Survey(), {})
    with pytest.raises(InputError, match="no settings"):
        recipe.parse("fast")


def test_a_provider_is_never_a_variant() -> None:
    recipe = Provider("openvino")
    assert "has no openvino" in recipe.refusal(ONNX, Survey(providers=("cpu",)), {})
    assert "providers: [cpu, openvino]" in recipe.refusal(ONNX, Survey(providers=("openvino", "cpu")), {})
