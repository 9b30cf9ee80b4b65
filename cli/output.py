"""What commands print: results on stdout (JSON, or text that is plain when piped), the rest on stderr."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from inferplan.reports.tables import Table, plain


def emit_json(data: Mapping[str, Any]) -> None:
    """Print one JSON object; numbers that are not finite become null, so that any parser reads it."""
    sys.stdout.write(json.dumps(_finite(data), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


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
    """Print a table: titles bold and lesser rows dim on a terminal, plain aligned text when piped."""
    lines = plain(table).split("\n")
    colour = coloured(sys.stdout)
    for index, line in enumerate(lines):
        text = " " * indent + line
        if colour and index == 0:
            text = f"\033[1m{text}\033[0m"
        elif colour and index - 1 in table.dim:
            text = f"\033[2m{text}\033[0m"
        say(text)


def show_pairs(pairs: Sequence[tuple[str, str]], indent: int = 0) -> None:
    """Print names and values, the values aligned."""
    wide = max((len(name) for name, _ in pairs), default=0)
    for name, value in pairs:
        say(f"{' ' * indent}{name:<{wide}}  {value}")
