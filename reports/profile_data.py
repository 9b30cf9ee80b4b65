"""A sorted profile as plain data, for `inferplan profile show --json`."""

from __future__ import annotations

import json
from typing import Any

from inferplan.reports.profile_tables import MARGIN
from inferplan.reports.profile_view import ChoiceView, Lineage, Place, ProfileView
from inferplan.spec.rows import AccuracyRow, InterferenceRow, Measurement
from inferplan.spec.tables import to_record


def view_data(view: ProfileView, margin: float = MARGIN) -> dict[str, Any]:
    """Everything `show` knows; names and units are those of the profile's columns."""
    return {
        "workload": view.workload,
        "stages": [_place(place, margin) for place in view.places],
        "combinations": [_accuracy(row) | {"combination": row.stages()} for row in view.combinations],
        "interference": [_interference(row) for row in view.interference],
        "notes": list(view.notes),
    }


def _place(place: Place, margin: float) -> dict[str, Any]:
    return {
        "stage": place.stage,
        "device": place.device,
        "provider": place.provider,
        "metric": place.metric.name if place.metric is not None else None,
        "direction": place.metric.direction if place.metric is not None else None,
        "choices": [_choice(choice, margin) for choice in place.choices],
    }


def _choice(choice: ChoiceView, margin: float) -> dict[str, Any]:
    return {
        "choice": choice.choice,
        "skip": choice.skip,
        "dominated": choice.dominated,
        "accuracy": None if choice.accuracy is None else _accuracy(choice.accuracy),
        "lineage": None if choice.lineage is None else _lineage(choice.lineage, margin),
        "memory_bytes": choice.memory_bytes,
        "points": [_point(row) for row in choice.points],
        "failed": [_point(row) for row in choice.failed],
    }


def _accuracy(row: AccuracyRow) -> dict[str, Any]:
    names = ("metric", "value", "lower", "upper", "n", "method", "status", "reason", "source", "measured_at")
    return {name: getattr(row, name) for name in names}


def _point(row: Measurement) -> dict[str, Any]:
    """All columns that say something."""
    return {name: value for name, value in to_record(row).items() if value is not None and value != ""}


def _interference(row: InterferenceRow) -> dict[str, Any]:
    found = {name: value for name, value in to_record(row).items() if value is not None and value != ""}
    return found | {"neighbours": json.loads(row.neighbours)}


def _lineage(made: Lineage, margin: float) -> dict[str, Any]:
    accuracy: dict[str, Any] | None = None
    if made.accuracy is not None:
        names = ("difference", "lower", "upper", "p_value", "n", "method", "verdict")
        accuracy = {name: getattr(made.accuracy, name) for name in names}
        accuracy |= {"margin": margin, "as_accurate_within_margin": made.accuracy.as_accurate_within(margin)}
    return {
        "parent": made.parent,
        "recipe": made.recipe,
        "accuracy": accuracy,
        "time_ratio": made.time_ratio,
        "time_ratio_lower": made.time_lower,
        "time_ratio_upper": made.time_upper,
        "batch": made.batch,
        "threads": made.threads,
    }
