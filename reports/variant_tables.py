"""What became of making variants, as tables."""

from __future__ import annotations

from collections.abc import Sequence

from inferplan.reports.quantities import DASH, percent, size
from inferplan.reports.tables import Column, Table, left, right
from inferplan.spec.derivation import Derived, Fit

NO_SPEED = "Nothing here is about speed or accuracy: {command} measures both. int8 and fp16 can be slower."


def derived_table(derived: Sequence[Derived]) -> Table:
    """Made variants beside their parents."""
    columns = [*left("VARIANT"), *right("size", "of parent", "max diff", "rel. L2", "same"), Column("verdict")]
    rows = [
        [
            f"{item.stage}={item.variant}",
            size(item.size_bytes) if item.size_bytes is not None else DASH,
            _share(item),
            _number(item.distance.max_abs if item.distance else None),
            _number(item.distance.relative_l2 if item.distance else None),
            percent(_same(item)),
            item.verdict,
        ]
        for item in derived
    ]
    failed = frozenset(index for index, item in enumerate(derived) if item.verdict == "failed")
    return Table(columns, rows, failed)


def fits_table(fits: Sequence[Fit]) -> Table:
    """Recipes that apply, by variant."""
    names = list(dict.fromkeys((fit.stage, fit.variant) for fit in fits))
    rows = []
    for stage, variant in names:
        applying = [fit.recipe for fit in fits if (fit.stage, fit.variant) == (stage, variant) and not fit.reason]
        rows.append([f"{stage}={variant}", " ".join(applying) or DASH])
    return Table(left("VARIANT", "recipes that apply"), rows)


def refusals_table(fits: Sequence[Fit]) -> Table:
    """Why others do not, with the variants that share a reason."""
    grouped: dict[tuple[str, str], list[str]] = {}
    by_recipe: dict[tuple[str, str, str], list[str]] = {}
    for fit in fits:
        if fit.reason:
            by_recipe.setdefault((fit.stage, fit.variant, fit.reason), []).append(fit.recipe)
    for (stage, variant, reason), recipes in by_recipe.items():
        grouped.setdefault((" ".join(recipes), reason), []).append(f"{stage}={variant}")
    rows = [[recipes, reason, _several(names)] for (recipes, reason), names in grouped.items()]
    return Table(left("NOT", "because", "for"), rows)


def _several(names: Sequence[str], most: int = 3) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _share(item: Derived) -> str:
    if item.size_bytes is None or not item.parent_size_bytes:
        return DASH
    return percent(item.size_bytes / item.parent_size_bytes)


def _same(item: Derived) -> float | None:
    """Equal answers; where predictions are no plain answers, equal classes."""
    if item.distance is None:
        return None
    return item.distance.same_answer if item.distance.same_answer is not None else item.distance.same_class


def _number(value: float | None) -> str:
    return DASH if value is None else "0" if value == 0 else f"{value:.2g}"
