"""Other sizes: what may be asked of which variant."""

from __future__ import annotations

from typing import Any

import pytest

from inferplan.profilers.variants.base import Survey
from inferplan.profilers.variants.dimensions import Dim, Param, Shape
from inferplan.spec.errors import InputError
from inferplan.spec.stage import Variant

MADE_UP = Survey(kind="onnx", source="made-up", inputs={"x": [None, 3, "h", "w"], "ids": ["N", "words"]})
WITH_EXAMPLES = Survey(kind="onnx", source="examples", inputs=MADE_UP.inputs)
VARIANT = Variant(model="m.onnx", params={"side": 256, "gain": 1.0, "pad": "full", "flip": False})


@pytest.mark.parametrize(
    ("text", "values"),
    [("side=256,320", [256, 320]), ("gain=0.5", [0.5]), ("pad=longest", ["longest"]), ("flip=true", [True])],
)
def test_param_values(text: str, values: list[Any]) -> None:
    found = [each["value"] for each in Param().parse(text)]
    assert found == values
    assert [type(value) for value in found] == [type(value) for value in values]


@pytest.mark.parametrize("text", ["", "side", "side=", "=3", "../side=3", "a b=3"])
def test_param_needs_a_name_and_values(text: str) -> None:
    with pytest.raises(InputError, match="expected a name and values"):
        Param().parse(text)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("side", 320, ""),
        ("side", 256, "already"),
        ("side", "large", "another type"),
        ("flip", 1, "another type"),
        ("gain", 2, ""),
        ("width", 3, "has no param width"),
    ],
)
def test_param_refusals(name: str, value: Any, reason: str) -> None:
    said = Param().refusal(VARIANT, WITH_EXAMPLES, {"name": name, "value": value})
    assert reason in said
    assert bool(said) is bool(reason)


def test_a_param_changes_alone() -> None:
    changed = Param().changes(VARIANT, {"name": "side", "value": 320})
    assert changed == {"params": {"side": 320, "gain": 1.0, "pad": "full", "flip": False}}
    assert type(Param().changes(VARIANT, {"name": "gain", "value": 2})["params"]["gain"]) is float


def test_dims() -> None:
    recipe = Dim()
    assert recipe.refusal(VARIANT, MADE_UP, {"name": "words", "value": 8}) == ""
    assert "it has: h, w, words" in recipe.refusal(VARIANT, MADE_UP, {"name": "side", "value": 8})
    assert "recipe param" in recipe.refusal(VARIANT, WITH_EXAMPLES, {"name": "words", "value": 8})
    sized = Variant(model="m.onnx", input_dims={"words": 8, "h": 4})
    assert "already" in recipe.refusal(sized, MADE_UP, {"name": "words", "value": 8})
    assert recipe.changes(sized, {"name": "words", "value": 9}) == {"input_dims": {"words": 9, "h": 4}}
    with pytest.raises(InputError, match="a size of 1 or more"):
        recipe.parse("words=0")


def test_shapes() -> None:
    recipe = Shape()
    assert [each["value"] for each in recipe.parse("x=3x8x8,3x16x16")] == [[3, 8, 8], [3, 16, 16]]
    assert recipe.refusal(VARIANT, MADE_UP, {"name": "x", "value": [3, 8, 8]}) == ""
    assert "its input x has the shape 3x?x?" in recipe.refusal(VARIANT, MADE_UP, {"name": "x", "value": [1, 8, 8]})
    assert "its input x has the shape 3x?x?" in recipe.refusal(VARIANT, MADE_UP, {"name": "x", "value": [8]})
    assert "has no input y" in recipe.refusal(VARIANT, MADE_UP, {"name": "y", "value": [8]})
    assert recipe.changes(VARIANT, {"name": "x", "value": [3, 8, 8]}) == {"input_shapes": {"x": [3, 8, 8]}}


@pytest.mark.parametrize(
    ("recipe", "name", "value", "suffix"),
    [
        (Param(), "side", 320, "-side320"),
        (Param(), "gain", 0.5, "-gain0_5"),
        (Param(), "shift", -2, "-shiftm2"),
        (Param(), "pad", "../longest", "-pad-_longest"),
        (Param(), "flip", True, "-flip-true"),
        (Shape(), "x", [3, 8, 8], "-x-3x8x8"),
    ],
)
def test_suffixes_are_safe(recipe: Any, name: str, value: Any, suffix: str) -> None:
    assert recipe.suffix({"name": name, "value": value}) == suffix
