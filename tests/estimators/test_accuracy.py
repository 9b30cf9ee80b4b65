"""Accuracy: compositions, measured combinations first, intervals, directions."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from inferplan.estimators.accuracy import AccuracyEstimate, AccuracyModel, Turn, accuracy_model, compose
from inferplan.estimators.mixture import routed
from inferplan.spec.errors import InputError
from inferplan.spec.profile import Profile
from inferplan.spec.rows import AccuracyRow
from inferplan.spec.workload import Workload


def model(
    composition: str,
    direction: str = "maximize",
    stage_direction: str | None = None,
    rows: tuple[AccuracyRow, ...] = (),
) -> AccuracyModel:
    metric = {"name": "m", "direction": stage_direction or direction}
    document = {
        "apiVersion": "inferplan/v1",
        "name": "w",
        "pipeline": {
            "stages": {
                s: {"metric": metric, "variants": {"x": {"model": "f", "accuracy": 0.5}, "y": {"model": "f"}}}
                for s in ("a", "b")
            },
            "edges": [{"from": "a", "to": "b"}],
        },
        "tiers": {"t": {"devices": {"d": {"price_usd_per_h": 1.0, "cores": 1}}}},
        "classes": {"c": {"rate_rps": 1.0}},
        "accuracy": {"metric": {"name": "m", "direction": direction}, "composition": composition},
    }
    found = accuracy_model(Workload.model_validate(document), Profile(Path(), (), rows, (), ""))
    assert found is not None
    return found


def stage(name: str, variant: str, value: float, width: float = 0.02) -> AccuracyRow:
    return AccuracyRow("stage", name, variant, "{}", "", "m", value, value - width, value + width, 500, "wilson", "")


def whole(a: str, b: str, value: float) -> AccuracyRow:
    text = json.dumps({"a": a, "b": b})
    return AccuracyRow("pipeline", "", "", text, "", "m", value, value - 0.01, value + 0.01, 500, "wilson", "")


ROWS = (stage("a", "x", 0.9), stage("a", "y", 0.8), stage("b", "x", 0.7), stage("b", "y", 0.95))


@pytest.mark.parametrize(("composition", "value"), [("product", 0.72), ("mean", 0.85), ("minimum", 0.8)])
def test_compositions(composition: str, value: float) -> None:
    rows = (stage("a", "x", 0.8), stage("b", "x", 0.9))
    found = model(composition, rows=rows).of({"a": "x", "b": "x"})
    assert found is not None
    assert found.value == pytest.approx(value)
    assert found.source == "composed"
    assert found.lower is not None
    assert found.upper is not None
    assert found.lower < value < found.upper


def test_the_worst_stage_is_the_largest_error() -> None:
    rows = (stage("a", "x", 0.1), stage("b", "x", 0.3))
    found = model("minimum", "minimize", rows=rows).of({"a": "x", "b": "x"})
    assert found is not None
    assert found.value == pytest.approx(0.3)


def test_a_measured_combination_wins() -> None:
    found = model("product", rows=(*ROWS, whole("x", "y", 0.6)))
    measured, composed = found.of({"a": "x", "b": "y"}), found.of({"a": "y", "b": "y"})
    assert measured == AccuracyEstimate(0.6, 0.59, 0.61, "measured")
    assert composed is not None
    assert composed.source == "composed"


def test_a_table_knows_measured_combinations_alone() -> None:
    found = model("table", rows=(*ROWS, whole("x", "y", 0.6)))
    assert found.of({"a": "x", "b": "x"}) is None
    assert found.knows("a", "x")
    assert not found.knows("a", "y")


def test_declared_values_are_marked_and_give_way_to_measured_ones() -> None:
    found = model("product", rows=(stage("b", "y", 0.9),)).of({"a": "x", "b": "y"})
    assert found is not None
    assert (found.value, found.source, found.lower) == (pytest.approx(0.45), "declared", None)
    measured = model("product", rows=ROWS).of({"a": "x", "b": "x"})
    assert measured is not None
    assert measured.source == "composed"


def test_unknown_stays_unknown() -> None:
    found = model("product")
    assert found.of({"a": "y", "b": "x"}) is None
    assert not found.knows("a", "y")


def test_a_products_interval_covers_as_often_as_its_factors_do() -> None:
    rng = np.random.default_rng(0)
    truth, n, covered = (0.9, 0.8, 0.95), 400, 0
    for _ in range(500):
        seen = rng.binomial(n, truth) / n
        half = 1.96 * np.sqrt(seen * (1 - seen) / n)
        parts = [AccuracyEstimate(float(v), float(v - h), float(v + h)) for v, h in zip(seen, half, strict=True)]
        found = compose("product", parts, Turn("maximize"))
        assert found.lower is not None
        assert found.upper is not None
        covered += found.lower <= math.prod(truth) <= found.upper
    assert 0.92 <= covered / 500 <= 0.98


@pytest.mark.parametrize(
    ("direction", "value", "floor", "keeps"),
    [("maximize", 0.9, 0.9, True), ("maximize", 0.89, 0.9, False), ("minimize", 0.1, 0.2, True),
     ("minimize", 0.3, 0.2, False), ("maximize", 0.3 * 3, 0.9, True)],
)  # fmt: skip
def test_floors_follow_the_direction(direction: str, value: float, floor: float, keeps: bool) -> None:
    assert Turn(direction).keeps(value, floor) == keeps  # type: ignore[arg-type]


def test_mixed_directions_are_refused() -> None:
    with pytest.raises(InputError, match="higher is better"):
        model("product", "minimize", "maximize")
    with pytest.raises(InputError, match="same direction"):
        model("mean", "maximize", "minimize")


def test_shares_per_stage_mix_all_combinations_that_are_met() -> None:
    found = model("product", rows=(*ROWS, whole("x", "y", 0.6)))
    routes = {"a": {"x": 0.25, "y": 0.75}, "b": {"x": 0.5, "y": 0.5}}
    mixed = routed(found, routes)
    assert mixed is not None
    # x with y was measured (0.6); the others are products of the stages' metrics.
    assert mixed.value == pytest.approx(0.125 * 0.63 + 0.125 * 0.6 + 0.375 * 0.56 + 0.375 * 0.76)
    assert mixed.lower is not None
    assert mixed.lower < mixed.value
    assert routed(model("table", rows=(whole("x", "y", 0.6),)), routes) is None
    with pytest.raises(ValueError, match="stage a do not add up"):
        routed(found, {**routes, "a": {"x": 0.5}})
