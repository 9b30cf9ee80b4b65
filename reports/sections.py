"""A report in sections: what a verb prints and what its `--json` says, made in one place per subject."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from inferplan.reports.tables import Table


@dataclass(frozen=True, slots=True)
class Block:
    """A heading with a table, with lines below it, or with both."""

    heading: str
    table: Table | None = None
    lines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Section:
    """One subject. `data` becomes part of the JSON object."""

    blocks: tuple[Block, ...]
    data: Mapping[str, Any]
