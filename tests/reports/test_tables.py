"""Plain tables: aligned, one line per row, no trailing blanks."""

from __future__ import annotations

import pytest

from inferplan.reports.tables import Table, left, plain, right, width


def test_columns_are_aligned() -> None:
    table = Table([*left("name"), *right("rate")], [["a", "1.0"], ["longer", "20.0"]])
    assert plain(table) == "name    rate\na        1.0\nlonger  20.0"


def test_wide_characters_take_their_room() -> None:
    assert width("µs") == 2
    assert width("文") == 2
    table = Table(left("x", "y"), [["文", "1"], ["ab", "2"]])
    assert plain(table) == "x   y\n文  1\nab  2"


def test_a_row_must_fit_its_columns() -> None:
    with pytest.raises(ValueError, match="1 cells"):
        Table(left("a", "b"), [["only"]])
