"""Names of made variants."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from inferplan.profilers.variants.naming import fresh_name

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
names = st.from_regex(NAME, fullmatch=True)
marks = st.from_regex(r"-[A-Za-z0-9_-]{1,80}", fullmatch=True)


@given(names, st.lists(marks, min_size=1, max_size=8))
def test_names_are_valid_and_never_given_twice(parent: str, suffixes: list[str]) -> None:
    taken = {parent}
    for suffix in suffixes:
        name = fresh_name(parent, suffix, taken)
        assert NAME.fullmatch(name)
        assert name not in taken
        taken.add(name)


def test_plain_names_are_plain() -> None:
    assert fresh_name("cnn", "-int8", {"cnn"}) == "cnn-int8"
    assert fresh_name("cnn", "-int8", {"cnn", "cnn-int8"}) == "cnn-int8-2"
