"""What became of making variants from others: verdicts, and how far a made variant's outputs are from its parent's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Verdict = Literal["made", "current", "failed"]


@dataclass(frozen=True, slots=True)
class Distance:
    """How a variant's outputs differ from its parent's on the same `n` inputs; the largest over all outputs.

    `relative_l2` is |made - parent| / |parent|. `same_class`: share of equal arg-max where an output has one row of
    scores per input; `same_answer`: share of equal predictions where these are texts or whole numbers.
    None where it cannot be said: other input sizes give outputs of other shapes.
    """

    n: int
    max_abs: float | None = None
    relative_l2: float | None = None
    same_class: float | None = None
    same_answer: float | None = None


@dataclass(frozen=True, slots=True)
class Derived:
    """A variant that was made, that is there already as it would be made now, or that could not be made."""

    stage: str
    variant: str
    parent: str
    recipe: str
    settings: Mapping[str, Any]
    verdict: Verdict
    reason: str = ""
    parent_size_bytes: int | None = None
    size_bytes: int | None = None
    """Of its model files; None where it runs those of its parent."""
    distance: Distance | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Fit:
    """Whether a recipe applies to a variant; `reason` says why not, and is empty where it does."""

    stage: str
    variant: str
    recipe: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Generation:
    """What one run did. `path` is the workload file with the variants in it."""

    path: str
    derived: tuple[Derived, ...]
    refused: tuple[Fit, ...]
    notes: tuple[str, ...] = ()
    created: tuple[str, ...] = field(default=())
    """Workload files that were written."""
