"""What a model is fed with: declared shapes, sizes that are drawn, questions where nobody says."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferplan.profilers.runtimes.inputs import (
    InputDeclaration,
    completed,
    drawn_sizes,
    fed_dimensions,
    fed_shape,
    random_inputs,
)
from inferplan.spec.errors import InputError
from inferplan.spec.stagecode import ModelInfo, TensorInfo

LENGTHS = {"values": [16, 64, 128], "weights": [1.0, 2.0, 1.0]}


def info(*tensors: TensorInfo) -> ModelInfo:
    return ModelInfo(tensors, ())


def text_model() -> ModelInfo:
    names = ("batch", "length")
    return info(TensorInfo("ids", "int64", (None, None), names), TensorInfo("mask", "int64", (None, None), names))


def declared(**fields: object) -> InputDeclaration:
    return InputDeclaration("stage s, variant v", **fields)  # type: ignore[arg-type]


def asked(model: ModelInfo, **fields: object) -> str:
    with pytest.raises(InputError) as caught:
        fed_dimensions(model, declared(**fields))
    assert caught.value.message == "stage s, variant v: what its model is fed with is not known"
    return "\n".join(caught.value.details)


@given(
    weights=st.lists(st.floats(0.01, 100), min_size=1, max_size=6),
    count=st.integers(1, 200),
    seed=st.integers(0, 100),
)
def test_sizes_are_drawn_as_often_as_their_weights_say(weights: list[float], count: int, seed: int) -> None:
    sizes = {"values": list(range(1, len(weights) + 1)), "weights": weights}
    drawn = Counter(drawn_sizes(sizes, count, np.random.default_rng(seed)).tolist())
    assert sum(drawn.values()) == count
    for value, weight in zip(sizes["values"], weights, strict=True):
        assert abs(drawn[int(value)] - count * weight / sum(weights)) < 1 + 1e-6


def test_inputs_that_share_a_name_share_the_size() -> None:
    inputs = random_inputs(text_model(), declared(dims={"length": LENGTHS}), 64, seed=3)
    assert all(item["ids"].shape == item["mask"].shape for item in inputs)
    assert Counter(item["ids"].shape for item in inputs) == {(16,): 16, (64,): 32, (128,): 16}
    again = random_inputs(text_model(), declared(dims={"length": LENGTHS}), 64, seed=3)
    assert all(np.array_equal(a["ids"], b["ids"]) for a, b in zip(inputs, again, strict=True))


def test_names_in_input_shapes_are_sizes_too() -> None:
    model = info(TensorInfo("image", "float32", (None, 3, None, None)))
    wanted = declared(shapes={"image": [3, "side", "side"]}, dims={"side": {"values": [8, 9], "weights": [1, 1]}})
    shapes = {item["image"].shape for item in random_inputs(model, wanted, 20)}
    assert shapes == {(3, 8, 8), (3, 9, 9)}
    fixed = declared(shapes={"image": [3, "side", 7]}, dims={"side": 5})
    assert fed_dimensions(model, fixed) == {"image": (3, 5, 7)}


def test_the_fed_shape_has_the_distribution_in_place_of_a_drawn_size() -> None:
    assert fed_shape(text_model(), declared(dims={"length": LENGTHS}), 4) == {
        "ids": [4, {"name": "length", **LENGTHS}],
        "mask": [4, {"name": "length", **LENGTHS}],
    }
    assert fed_shape(text_model(), declared(dims={"length": 32}), 4) == {"ids": [4, 32], "mask": [4, 32]}


def test_a_free_dimension_with_a_name_is_asked_for_by_it() -> None:
    problem = asked(text_model())
    assert "input ids has the shape [length]: dimension 1, 'length', is free" in problem
    assert "add `input_dims: {length: 128}` to the variant" in problem
    assert "input mask" in problem


def test_a_free_dimension_without_a_name_is_asked_for_by_its_place() -> None:
    problem = asked(info(TensorInfo("x", "float32", (None, 3, None))))
    assert "input x has the shape [3, ?]: dimension 2 is free: add `input_shapes: {x: [3, ?]}`" in problem
    assert "with a size in place of the '?'" in problem


def test_a_name_without_a_size_is_asked_for() -> None:
    assert "'side', is free" in asked(info(TensorInfo("x", "float32", (None, None))), shapes={"x": ["side"]})


def test_what_a_program_does_not_say_is_asked_for() -> None:
    model = info(TensorInfo("x", "", None), TensorInfo("scale", "", None, optional=True))
    problem = asked(model)
    assert "input x: the model does not say its type: add `input_dtypes: {x: float32}`" in problem
    assert "input x: the model does not say its shape: add `input_shapes: {x: [...]}`" in problem
    assert "scale" not in problem
    wanted = declared(shapes={"x": [2]}, dtypes={"x": "int64"})
    (item,) = random_inputs(model, wanted, 1)
    assert list(item) == ["x"]
    assert item["x"].dtype == np.int64
    wanted = declared(shapes={"x": [2], "scale": []}, dtypes={"x": "int64", "scale": "float32"})
    (item,) = random_inputs(model, wanted, 1)
    assert item["scale"].shape == ()


def test_declarations_that_contradict_the_model_are_named() -> None:
    model = info(TensorInfo("x", "float32", (None, 3, None), ("N", "", "W")))
    problem = asked(model, shapes={"x": [4, 7], "z": [1]})
    assert "input_shapes names z, which is no input of the model (it has x)" in problem
    assert "input_shapes gives x the shape [4, 7]; the model has [3, W]" in problem
    assert "the model has [3, W]" in asked(model, shapes={"x": [3]})
    assert "the model has [3, W]" in asked(model, shapes={"x": ["C", 7]}, dims={"C": 4})
    assert "input_dims names H" in asked(model, dims={"W": 4, "H": 3})


def test_a_scalar_has_no_batch() -> None:
    assert "input x is a scalar" in asked(info(TensorInfo("x", "float32", ())))


def test_what_the_variant_declares_completes_what_the_model_says() -> None:
    model = info(
        TensorInfo("a", "", None), TensorInfo("b", "float32", (None, None)), TensorInfo("c", "", None, optional=True)
    )
    wanted = declared(
        shapes={"a": [3, "W", "L"], "b": ["L"]}, dims={"W": 5, "L": LENGTHS}, dtypes={"a": "int64", "c": "bool"}
    )
    a, b, c = completed(model, wanted).inputs
    assert a == TensorInfo("a", "int64", (None, 3, 5, None), ("", "", "W", "L"))
    assert b == TensorInfo("b", "float32", (None, None), ("", "L"))
    assert c == TensorInfo("c", "bool", None, optional=True)


@pytest.mark.parametrize("dtype", ["float16", "float64", "bool", "uint8", "int64", "object"])
def test_made_up_content_fits_the_type(dtype: str) -> None:
    (item,) = random_inputs(info(TensorInfo("x", dtype, (None, 50))), declared(), 1)
    assert item["x"].dtype == np.dtype(dtype)
    if dtype == "int64":
        assert set(item["x"].tolist()) == {0, 1}
