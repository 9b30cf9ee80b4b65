"""Predictions as JSON: what comes back is what was kept, types and dtypes included."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inferplan.spec.predictions import MOST_BYTES, NotKept, from_text, texts_of, to_text

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=4) | st.integers() | st.tuples(st.integers()), inner, max_size=4)
        | st.frozensets(st.integers() | st.text(max_size=3), max_size=4)
        | st.sets(st.tuples(st.integers(), st.text(max_size=2)), max_size=4)
    ),
    max_leaves=12,
)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return a.dtype.kind == b.dtype.kind and a.shape == b.shape and all(map(same, a.ravel(), b.ravel()))
    if isinstance(a, float | np.floating):
        return type(a) is type(b) and (a == b or bool(np.isnan(a) and np.isnan(b)))
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return (
            isinstance(b, dict) and list(map(repr, a)) == list(map(repr, b)) and all(map(same, a.values(), b.values()))
        )
    return type(a) is type(b) and bool(a == b)


@given(PLAIN)
@settings(max_examples=300, deadline=None)
def test_plain_values_come_back(value: Any) -> None:
    assert same(value, from_text(to_text(value)))


@pytest.mark.parametrize(
    "value",
    [
        np.float32([[0.1, np.nan], [np.inf, -np.inf]]),
        np.arange(6, dtype=np.uint8).reshape(1, 2, 3),
        np.array([True, False]),
        np.array(["one", "longer", ""]),
        np.array([["x", None], [1.5, ("t",)]], object),
        np.empty((0, 4), np.int16),
        np.float16(0.333),
        np.float32("nan"),
        np.int64(2**60),
        np.bool_(True),
        {"boxes": [np.zeros((2, 4)), "text"], "$array": 1},
        {1: "a", "1": "b"},
    ],
    ids=repr,
)
def test_arrays_and_odd_dicts_come_back(value: Any) -> None:
    back = from_text(to_text(value))
    assert same(value, back)
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind != "U":
        assert back.dtype == value.dtype


def test_plain_predictions_are_plain_json() -> None:
    """Other tools read them: no mark where JSON has the thing itself."""
    assert to_text({"label": "cat", "score": 0.5, "box": [1, 2]}) == '{"label":"cat","score":0.5,"box":[1,2]}'
    assert json.loads(to_text(np.float32([1, 2]))) == {"$array": [1.0, 2.0], "dtype": "float32"}


def test_the_same_set_gives_the_same_text() -> None:
    assert to_text({"b", "a", "c"}) == to_text({"c", "b", "a"}) == '{"$set":["a","b","c"]}'


@pytest.mark.parametrize("value", [object(), 1j, np.array([1j]), np.datetime64("2020-01-01"), "\ud800", lambda: 0])
def test_what_has_no_json_form_is_not_kept(value: Any) -> None:
    with pytest.raises(NotKept):
        to_text([value])


def test_too_long_ones_are_not_kept() -> None:
    assert to_text("x" * (MOST_BYTES - 2))
    with pytest.raises(NotKept, match=f"takes {MOST_BYTES + 1} bytes as JSON, more than {MOST_BYTES}"):
        to_text("x" * (MOST_BYTES - 1))
    with pytest.raises(NotKept, match="the truth of example 1: a object cannot be written as JSON"):
        texts_of([1, object()], "the truth", 100)
    with pytest.raises(NotKept, match="more than 64 MiB"):
        texts_of(["abc", "def"], "the truth", 9)
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(NotKept):
        to_text(deep)
