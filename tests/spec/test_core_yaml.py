"""Numbers and words are read as people mean them, and written so that they read back."""

from __future__ import annotations

import math

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from inferplan.spec.core_yaml import CoreDumper, CoreLoader

# PyYAML folds control characters and Unicode's line ends; names, paths and messages have none.
texts = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")))
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts


def load(text: str) -> object:
    return yaml.load(text, Loader=CoreLoader)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4), ("4e-05", 4e-05), ("1E6", 1e6), (".5", 0.5), ("5.", 5.0), ("-3", -3), ("010", 10),
        ("1:30", "1:30"), ("no", "no"), ("on", "on"), ("1_000", "1_000"), ("0x10", "0x10"),
        ("2026-01-01", "2026-01-01"),
        ("true", True), ("~", None), ("", None), (".inf", math.inf), ("1.2.3", "1.2.3"), ("e5", "e5"),
    ],
)  # fmt: skip
def test_scalars(text: str, value: object) -> None:
    found = load(text)
    assert found == value
    assert type(found) is type(value)


@given(st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=8))
def test_what_is_written_reads_back(value: object) -> None:
    assert load(yaml.dump(value, Dumper=CoreDumper, allow_unicode=True)) == value
