"""Recipes by name, and what the command line asks of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from inferplan.profilers.variants.base import Recipe
from inferplan.profilers.variants.dimensions import Dim, Param, Shape
from inferplan.profilers.variants.floats import Half
from inferplan.profilers.variants.graphs import Offline, Opset
from inferplan.profilers.variants.integers import Int8Dynamic, Int8Static
from inferplan.profilers.variants.options import Autocast, Compile, GraphLevel, Provider
from inferplan.profilers.variants.torch_exports import OnnxExport
from inferplan.spec.errors import InputError

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Int8Dynamic(), Int8Static(), Half(), OnnxExport(), GraphLevel(), Offline(), Opset(), Param(), Dim(), Shape(),
        Autocast(), Compile(), Provider("openvino"), Provider("tensorrt"),
    )
}  # fmt: skip
DEFAULTS = ("int8-dynamic", "int8-static", "fp16", "onnx")
"""Recipes used where none is named: those that need no choice, and may pay."""
NEED_VALUES = frozenset(("opset", "param", "dim", "shape"))


@dataclass(frozen=True, slots=True)
class Wanted:
    """A recipe with its settings, defaults included."""

    recipe: str
    settings: dict[str, Any]


def recipe(name: str) -> Recipe:
    """The recipe of this name. Raises InputError where there is none."""
    if name not in RECIPES:
        raise InputError(f"there is no recipe {name!r}; there are: {', '.join(RECIPES)}")
    return RECIPES[name]


def wanted(texts: Sequence[str]) -> list[Wanted]:
    """What `--recipe NAME[:SETTINGS]` asks for; the defaults where nothing does. Raises InputError."""
    found: list[Wanted] = []
    for text in texts or DEFAULTS:
        name, _, settings = text.strip().partition(":")
        for each in recipe(name).parse(settings):
            item = Wanted(name, each)
            if item not in found:
                found.append(item)
    return found
