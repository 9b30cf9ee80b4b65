"""Tables as data, and as aligned plain text. Colour is the terminal's business, not the table's."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class Column:
    """A column's title and how its cells stand."""

    title: str
    align: Literal["left", "right"] = "left"


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text under titled columns; `dim` holds indices of rows that matter less."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]
    dim: frozenset[int] = field(default_factory=frozenset)

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"a row has {len(row)} cells, the table {len(self.columns)} columns")


def left(*titles: str) -> list[Column]:
    """Columns of text."""
    return [Column(title) for title in titles]


def right(*titles: str) -> list[Column]:
    """Columns of numbers."""
    return [Column(title, "right") for title in titles]


def width(text: str) -> int:
    """Columns that `text` takes in a terminal."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


def plain(table: Table) -> str:
    """The table as aligned text without trailing blanks; every row on one line, however wide."""
    lines = [[column.title for column in table.columns], *table.rows]
    widths = [max(width(line[i]) for line in lines) for i in range(len(table.columns))]
    return "\n".join(_line(line, widths, table.columns) for line in lines)


def _line(cells: Sequence[str], widths: Sequence[int], columns: Sequence[Column]) -> str:
    padded = []
    for cell, wide, column in zip(cells, widths, columns, strict=True):
        blank = " " * (wide - width(cell))
        padded.append(blank + cell if column.align == "right" else cell + blank)
    return "  ".join(padded).rstrip()
