"""Variants that run their parent's model on inputs of another size: shorter texts, smaller pictures.

Only the workload's author knows which param means what, so it is named: `param:side=256,320`. Where inputs are made
up, `dim:width=160` and `shape:x=3x256x256` say how large.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from inferplan.profilers.variants.base import Recipe, Settings, Survey, listed
from inferplan.spec.errors import InputError

if TYPE_CHECKING:
    from inferplan.spec.stage import Variant

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
Scalar = bool | int | float | str


class _Sized(Recipe):
    makes_file = False
    same_outputs = False
    uses_inputs = True
    example = ""

    def parse(self, text: str) -> list[dict[str, Any]]:
        key, equals, values = text.partition("=")
        found = listed(values)
        if not equals or not found or not _NAME.fullmatch(key.strip()):
            raise InputError(f"--recipe {self.name}:{text}: expected a name and values, e.g. {self.example}")
        return [{"name": key.strip(), "value": self.value(part)} for part in found]

    @abstractmethod
    def value(self, text: str) -> Any:
        """One value."""

    def suffix(self, settings: Settings) -> str:
        value = settings["value"]
        shown = "x".join(map(str, value)) if isinstance(value, list) else str(value).lower()
        shown = re.sub(r"[^A-Za-z0-9_-]+", "_", shown.replace("-", "m") if not isinstance(value, str) else shown)
        return f"-{settings['name']}{'-' if isinstance(value, str | bool | list) else ''}{shown}"


class Param(_Sized):
    """Another value of one of the variant's params."""

    name = "param"
    summary = "another value of a param that the stage code reads: param:side=256,320"
    example = "param:side=256,320"

    def value(self, text: str) -> Scalar:
        if text in ("true", "false"):
            return text == "true"
        for kind in (int, float):
            try:
                return kind(text)
            except ValueError:
                continue
        return text

    def refusal(self, variant: Variant, survey: Survey, settings: Settings) -> str:
        name, value = settings["name"], settings["value"]
        if variant.runtime == "skip":
            return "runs no model"
        if name not in variant.params:
            known = ", ".join(variant.params) or "none"
            return f"has no param {name} (it has: {known})"
        own = variant.params[name]
        if type(own) is not type(value) and not (isinstance(own, float) and type(value) is int):
            return f"its param {name} is {own!r}: {value!r} is of another type"
        return f"has {name}: {own} already" if own == value else ""

    def changes(self, variant: Variant, settings: Settings) -> dict[str, Any]:
        own, value = variant.params[settings["name"]], settings["value"]
        return {"params": {**variant.params, settings["name"]: float(value) if isinstance(own, float) else value}}


class Dim(_Sized):
    """Another size of a named free dimension."""

    name = "dim"
    summary = "another size of a free dimension, where inputs are made up: dim:width=160,320"
    example = "dim:width=160,320"

    def value(self, text: str) -> int:
        return _size(text, self.name)

    def refusal(self, variant: Variant, survey: Survey, settings: Settings) -> str:
        name = settings["name"]
        if reason := _decided_elsewhere(variant, survey):
            return reason
        free = sorted({*variant.input_dims, *(part for part in _parts(survey) if isinstance(part, str) and part)})
        if name not in free:
            return f"has no free dimension {name} (it has: {', '.join(free) or 'none'})"
        return f"has {name}: {settings['value']} already" if variant.input_dims.get(name) == settings["value"] else ""

    def changes(self, variant: Variant, settings: Settings) -> dict[str, Any]:
        dims = variant.model_dump(mode="json")["input_dims"]
        return {"input_dims": {**dims, settings["name"]: settings["value"]}}


class Shape(_Sized):
    """Another shape of an input, without the batch dimension."""

    name = "shape"
    summary = "another shape of an input, where inputs are made up: shape:x=3x256x256"
    example = "shape:x=3x256x256,3x320x320"

    def value(self, text: str) -> list[int]:
        return [_size(part, self.name) for part in text.split("x")]

    def refusal(self, variant: Variant, survey: Survey, settings: Settings) -> str:
        name, value = settings["name"], settings["value"]
        if reason := _decided_elsewhere(variant, survey):
            return reason
        if name not in survey.inputs:
            return f"has no input {name} (it has: {', '.join(survey.inputs)})"
        own = survey.inputs[name]
        if own is not None and (
            len(own) != len(value) + 1
            or any(isinstance(a, int) and a != b for a, b in zip(own[1:], value, strict=True))
        ):
            shown = "x".join("?" if not isinstance(part, int) else str(part) for part in own[1:])
            return f"its input {name} has the shape {shown}"
        return "has this shape already" if variant.input_shapes.get(name) == value else ""

    def changes(self, variant: Variant, settings: Settings) -> dict[str, Any]:
        return {"input_shapes": {**variant.input_shapes, settings["name"]: settings["value"]}}


def _size(text: str, recipe: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise InputError(f"--recipe {recipe}: {text!r}: expected a size of 1 or more")
    return int(text)


def _parts(survey: Survey) -> list[int | str | None]:
    return [part for shape in survey.inputs.values() for part in (shape or [])[1:]]


def _decided_elsewhere(variant: Variant, survey: Survey) -> str:
    if variant.runtime == "skip":
        return "runs no model"
    if survey.source != "made-up":
        return "its inputs are the stage code's, which decides their size (recipe param)"
    return ""
