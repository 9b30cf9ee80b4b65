"""int8 recipes: what becomes int8, on what it is calibrated, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from inferplan.profilers.variants.base import Order, Survey
from inferplan.profilers.variants.integers import Int8Dynamic, Int8Static, calibration_notes
from inferplan.profilers.variants.onnx_files import counted_operators, read_model
from inferplan.spec.document import LoadedWorkload
from inferplan.spec.errors import InputError
from inferplan.spec.stage import Variant

MakeWorkload = Callable[..., LoadedWorkload]
OrderFor = Callable[..., Order]
FP32 = Variant(model="m.onnx")
GOOD = Survey(kind="onnx", opset=17, weights={"MatMul": 90, "Conv": 10}, float_weights=100, source="examples")


def outputs(path: Path, shape: tuple[int, ...] = (6, 16)) -> Any:
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


def test_dynamic_makes_weights_int8_and_keeps_metadata(make_workload: MakeWorkload, order_for: OrderFor) -> None:
    loaded = make_workload()
    order = order_for(loaded, "mlp", Int8Dynamic().parse("")[0])
    assert Int8Dynamic().make(order) == {}
    made = read_model(order.target)
    assert counted_operators(made)["MatMulInteger"] == 2
    assert {entry.key: entry.value for entry in made.metadata_props}["labels"] == "a b c"
    before = outputs(order.source)
    assert 0 < np.linalg.norm(outputs(order.target) - before) / np.linalg.norm(before) < 0.05


def test_dynamic_is_not_misled_by_shapes_that_an_exporter_noted(
    make_workload: MakeWorkload, order_for: OrderFor, mlp: Callable[..., Path]
) -> None:
    loaded = make_workload()
    mlp("workload/mlp.onnx", reused=True)
    order = order_for(loaded, "mlp", Int8Dynamic().parse("per-channel")[0])
    Int8Dynamic().make(order)
    assert counted_operators(read_model(order.target))["MatMulInteger"] == 2


def test_dynamic_convolutions_run(make_workload: MakeWorkload, order_for: OrderFor) -> None:
    loaded = make_workload({"conv": {"model": "conv.onnx", "params": {"pictures": True}}})
    order = order_for(loaded, "conv", Int8Dynamic().parse("ops=Conv")[0])
    Int8Dynamic().make(order)
    assert counted_operators(read_model(order.target))["ConvInteger"] == 1
    assert np.all(np.isfinite(outputs(order.target, (2, 3, 8, 8))))


@pytest.mark.parametrize(("text", "per_channel"), [("", True), ("per-tensor", False)])
def test_static_is_calibrated_on_a_tenth_of_the_examples(
    text: str, per_channel: bool, make_workload: MakeWorkload, order_for: OrderFor
) -> None:
    loaded = make_workload({"conv": {"model": "conv.onnx", "params": {"pictures": True}}})
    (settings,) = Int8Static().parse(text)
    assert settings["per_channel"] is per_channel
    order = order_for(loaded, "conv", settings)
    further = Int8Static().make(order)
    assert further["calibration_source"] == "examples"
    assert len(further["calibrated_on"]) == 4  # of 40
    few, leak = calibration_notes({**settings, **further})
    assert "4 inputs only" in few
    assert "4 of the labelled inputs" in leak
    made = read_model(order.target)
    scales = [
        np.size(onnx.numpy_helper.to_array(item)) for item in made.graph.initializer if item.name.endswith("_scale")
    ]
    assert (max(scales) == 4) is per_channel  # one for each of the four channels
    before = outputs(order.source, (6, 3, 8, 8))
    assert np.linalg.norm(outputs(order.target, (6, 3, 8, 8)) - before) / np.linalg.norm(before) < 0.1


def test_static_gives_the_same_bytes_for_the_same_seed(make_workload: MakeWorkload, order_for: OrderFor) -> None:
    loaded = make_workload()
    made = {}
    for name, text in (("a", "share=50"), ("b", "share=50"), ("other", "share=50,seed=1")):
        order = order_for(loaded, "mlp", Int8Static().parse(text)[0], f"{name}/made.onnx")
        made[name] = (tuple(Int8Static().make(order)["calibrated_on"]), order.target.read_bytes())
    assert made["a"] == made["b"]
    assert made["a"][0] != made["other"][0]


def test_older_models_get_the_operators_that_scales_per_channel_need(
    make_workload: MakeWorkload, order_for: OrderFor, mlp: Callable[..., Path]
) -> None:
    loaded = make_workload()
    mlp("workload/mlp.onnx", opset=11)
    order = order_for(loaded, "mlp", Int8Static().parse("")[0])
    Int8Static().make(order)
    assert np.all(np.isfinite(outputs(order.target)))


def test_the_stage_code_may_have_calibration_inputs_of_its_own(
    make_workload: MakeWorkload, order_for: OrderFor
) -> None:
    loaded = make_workload(code="code:Calibrated")
    (settings,) = Int8Static().parse("")
    further = Int8Static().make(order_for(loaded, "mlp", settings))
    assert further["calibration_source"] == "calibration"
    assert len(further["calibrated_on"]) == 5
    (few,) = calibration_notes({**settings, **further})
    assert "5 inputs only" in few
    assert calibration_notes({}) == []


@pytest.mark.parametrize("recipe", [Int8Dynamic(), Int8Static()])
@pytest.mark.parametrize(
    ("variant", "survey", "reason"),
    [
        (FP32, Survey(kind="eager"), "ONNX models only"),
        (FP32, Survey(kind="onnx", quantized=True), "int8 already"),
        (Variant(model="m.onnx", precision="int8"), GOOD, "int8 already"),
        (FP32, Survey(kind="onnx", half=True), "fp32 models only"),
        (FP32, Survey(kind="onnx", weights={"Add": 10}, float_weights=10), "no weights of"),
        (FP32, Survey(kind="onnx", weights={"MatMul": 1, "Add": 99}, float_weights=100), "only 1.0 % of the weights"),
        (FP32, GOOD, ""),
    ],
)
def test_refusals(recipe: Any, variant: Variant, survey: Survey, reason: str) -> None:
    said = recipe.refusal(variant, survey, recipe.parse("")[0])
    assert reason in said
    assert bool(said) is bool(reason)


def test_static_needs_inputs() -> None:
    survey = Survey(kind="onnx", weights={"Conv": 1}, float_weights=1, source="made-up")
    assert "no labelled inputs" in Int8Static().refusal(FP32, survey, Int8Static().parse("")[0])


@pytest.mark.parametrize(
    "text", ["fast", "ops=Softmax", "ops=", "examples=0", "share=0", "share=101", "examples=many", "seed=-1"]
)
def test_wrong_settings(text: str) -> None:
    with pytest.raises(InputError):
        Int8Static().parse(text)


def test_settings_are_told_apart_by_name() -> None:
    texts = ["", "per-tensor", "reduce-range", "ops=Conv", "entropy", "examples=9", "share=50", "seed=2"]
    suffixes = [Int8Static().suffix(Int8Static().parse(text)[0]) for text in texts]
    assert len(set(suffixes)) == len(texts)
    assert suffixes[0] == "-int8s"
