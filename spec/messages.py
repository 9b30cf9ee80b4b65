"""What to say of a wrong field: what was expected, in the user's words, and what to write instead."""

from __future__ import annotations

import difflib
import json
import types
import typing
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import BaseModel

UNITS = {
    "_s": "seconds",
    "_bytes": "bytes",
    "_rps": "requests per second",
    "_usd_per_h": "US dollars per hour",
    "_usd_per_gb": "US dollars per GB",
    "_bytes_per_s": "bytes per second",
    "_w": "watts",
    "_usd_per_kwh": "US dollars per kWh",
    "_g_per_kwh": "grams per kWh",
    "_per_h": "units per hour",
}
HINTS = {
    "apiVersion": "; write: apiVersion: inferplan/v1",
    "classes": " (the traffic classes, each with its rate and promises)",
    "tiers": " (the places with machines and their prices)",
    "pipeline": " (the stages and their variants)",
}


def hint(field: str) -> str:
    """A hint for a missing field."""
    return HINTS.get(field, f" ({unit})" if (unit := unit_of(field)) else "")


def unit_of(field: str) -> str | None:
    """The unit that a field's name ends in: the longest known suffix."""
    suffixes = [suffix for suffix in UNITS if field.endswith(suffix)]
    return UNITS[max(suffixes, key=len)] if suffixes else None


def unknown_field(name: str, known: Iterable[str]) -> str:
    """Message for a field that does not exist, with the one that was probably meant."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    stem = name.rsplit("_", 1)[0]
    same_stem = [other for other in names if other.rsplit("_", 1)[0] == stem]
    meant = (same_stem or near)[:1]
    if meant:
        unit = unit_of(meant[0])
        return f"unknown field; did you mean {meant[0]!r}{f' ({unit})' if unit else ''}?"
    return "unknown field" + (f"; known here: {', '.join(names)}" if names else "")


def expectation(item: Any, field: str) -> str:
    """One pydantic error in words, naming the unit where the field has one."""
    kind, context, given = item["type"], item.get("ctx", {}), item.get("input")
    got = _shown(given)
    unit = unit_of(field)
    number = f"a number of {unit}" if unit else "a number"
    if kind == "value_error":
        return str(context.get("error", item["msg"]))
    if kind == "literal_error":
        return f"expected {context['expected']}, got {got}"
    if kind in ("float_type", "float_parsing"):
        return f"expected {number}, got {got}" + (" (write the number alone)" if isinstance(given, str) else "")
    if kind in ("int_type", "int_parsing", "int_from_float"):
        return f"expected a whole {number[2:]}, got {got}" + (
            " (write the number alone)" if isinstance(given, str) else ""
        )
    if kind in ("greater_than", "greater_than_equal", "less_than", "less_than_equal"):
        sign = {"greater_than": ">", "greater_than_equal": ">=", "less_than": "<", "less_than_equal": "<="}[kind]
        bound = next(iter(context.values()))
        return f"expected {number} {sign} {bound:g}, got {got}"
    if kind == "string_pattern_mismatch":
        return _pattern(str(context.get("pattern", "")), got)
    if kind in ("model_type", "dict_type", "model_attributes_type"):
        return f"expected a mapping, got {got}"
    if kind == "list_type":
        return f"expected a list, got {got}"
    if kind == "string_type":
        return f"expected text, got {got}"
    if kind == "bool_type":
        return f"expected true or false, got {got}"
    if kind in ("too_short", "string_too_short"):
        return "must not be empty"
    return f"{item['msg'][:1].lower()}{item['msg'][1:]}, got {got}"


def _pattern(pattern: str, got: str) -> str:
    if "._-]" in pattern:
        return f"expected {'catalogue/type' if '/' in pattern else 'a type of machine'}; got {got}"
    if pattern.startswith("^[A-Za-z0-9][A-Za-z0-9_-]{0,63}"):
        return f"a name is 1 to 64 letters, digits, '_' or '-', starting with a letter or digit; got {got}"
    if ":[A-Za-z_]" in pattern:
        return f"expected module:Class, a class in a Python file next to the workload; got {got}"
    if "]*/[" in pattern:
        return f"expected tier/device; got {got}"
    return f"not allowed here: {got}"


def _shown(value: object) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def fields_at(model: type[BaseModel], path: Sequence[str | int]) -> set[str]:
    """Field names (as written in the document) of the record at `path` below `model`; empty if none."""
    current: Any = model
    for part in path:
        current = _step(current, part)
        if current is None:
            return set()
    record = _record(current)
    return {f.alias or name for name, f in record.model_fields.items()} if record else set()


def _step(annotation: Any, part: str | int) -> Any:
    record = _record(annotation)
    if record is not None:
        for name, f in record.model_fields.items():
            if part in (name, f.alias):
                return f.annotation
        return None
    for option in _options(annotation):
        if typing.get_origin(option) in (dict, list):
            return typing.get_args(option)[-1]
    return None


def _record(annotation: Any) -> type[BaseModel] | None:
    for option in _options(annotation):
        if isinstance(option, type) and issubclass(option, BaseModel):
            return option
    return None


def _options(annotation: Any) -> list[Any]:
    if typing.get_origin(annotation) is typing.Annotated:
        annotation = typing.get_args(annotation)[0]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [inner for option in typing.get_args(annotation) for inner in _options(option)]
    return [annotation]
