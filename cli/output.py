"""What commands print: results on stdout (JSON, or text that is plain when piped), the rest on stderr."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from typing import Any, TextIO

from inferplan.reports.tables import Table, plain


def emit_json(data: Mapping[str, Any]) -> None:
    """Print one JSON object; numbers that are not finite become null, so that any parser reads it."""
    sys.stdout.write(json.dumps(_finite(data), indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    sys.stdout.flush()


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def say(text: str = "") -> None:
    """Print a line of the result."""
    sys.stdout.write(text + "\n")


def note(text: str) -> None:
    """Print a line that is not part of the result."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def heading(text: str) -> None:
    """Print a heading: bold on a terminal, underlined nowhere."""
    say(f"\033[1m{text}\033[0m" if coloured(sys.stdout) else text)


def coloured(stream: TextIO) -> bool:
    """Whether colour is wanted: a terminal is there, and nobody said otherwise (NO_COLOR)."""
    import os

    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def show(table: Table, indent: int = 0) -> None:
    """Print a table: fitted to the terminal with bold titles and dim lesser rows; plain aligned text when piped."""
    if coloured(sys.stdout):
        _show_on_terminal(table, indent)
        return
    for line in plain(table).split("\n"):
        say(" " * indent + line)


def _show_on_terminal(table: Table, indent: int) -> None:
    from rich.console import Console
    from rich.padding import Padding
    from rich.table import Table as RichTable
    from rich.text import Text

    drawn = RichTable(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in table.columns:
        drawn.add_column(Text(column.title), justify=column.align, overflow="fold")
    for index, row in enumerate(table.rows):
        drawn.add_row(*(Text(cell) for cell in row), style="dim" if index in table.dim else "")
    Console(highlight=False).print(Padding(drawn, (0, 0, 0, indent)))
