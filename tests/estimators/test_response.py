"""Response curves: declared ones by hand computation, joins, made ones of measured combinations, intervals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from inferplan.estimators.accuracy import AccuracyModel, accuracy_model
from inferplan.spec.errors import InputError
from inferplan.spec.profile import Profile
from inferplan.spec.rows import AccuracyRow
from inferplan.spec.workload import Workload

# The visual question answering pipeline of JellyBean (PVLDB 16(3), 2022), as its per-operator profiles have it: image
# accuracy in percent, speech as a negative error.
IMAGE = {"resnet18": 89.074, "resnet34": 91.42}
SPEECH = {"base": -3.823, "large": -1.8621}
VQA = {(89.074, -3.823): 54.02, (89.074, -1.8621): 56.59, (91.42, -3.823): 54.37, (91.42, -1.8621): 56.85}


def model(
    stages: dict[str, dict[str, float | None]],
    edges: list[tuple[str, str]],
    responses: dict[str, Any],
    rows: tuple[AccuracyRow, ...] = (),
) -> AccuracyModel:
    """Stages of variants with their declared metric (of which None declares none)."""
    document = {
        "apiVersion": "inferplan/v1",
        "name": "w",
        "pipeline": {
            "stages": {
                name: {
                    "metric": {"name": "m"},
                    "variants": {v: {"model": "f"} for v in variants},
                }
                for name, variants in stages.items()
            },
            "edges": [{"from": a, "to": b} for a, b in edges],
        },
        "tiers": {"t": {"devices": {"d": {"price_usd_per_h": 1.0, "cores": 1}}}},
        "classes": {"c": {"rate_rps": 1.0}},
        "accuracy": {"metric": {"name": "m"}, "composition": "response", "responses": responses},
    }
    own = tuple(
        AccuracyRow("stage", stage, variant, "{}", "", "m", value, value - 0.01, value + 0.01, 500, "wilson", "")
        for stage, variants in stages.items()
        for variant, value in variants.items()
        if value is not None
    )
    found = accuracy_model(Workload.model_validate(document), Profile(Path(), (), (*own, *rows), (), ""))
    assert found is not None
    return found


def line(parent: str, points: dict[float, float]) -> dict[str, Any]:
    return {"curves": {"x": [{"given": {parent: at}, "output": out} for at, out in points.items()]}}


def whole(choices: dict[str, str], value: float) -> AccuracyRow:
    text = json.dumps(choices, sort_keys=True)
    return AccuracyRow("pipeline", "", "", text, "", "m", value, value - 0.02, value + 0.02, 500, "wilson", "")


def test_a_chain_is_composed_curve_after_curve() -> None:
    found = model(
        {"a": {"x": 0.8}, "b": {"x": None}, "c": {"x": None}},
        [("a", "b"), ("b", "c")],
        {"b": line("a", {0.6: 0.5, 1.0: 0.9}), "c": line("b", {0.5: 0.4, 0.6: 0.45, 0.9: 0.9})},
    ).of({"a": "x", "b": "x", "c": "x"})
    assert found is not None
    # b: 0.5 + 0.4 * (0.8 - 0.6) / 0.4 = 0.7; c: 0.45 + 0.45 * (0.7 - 0.6) / 0.3 = 0.6
    assert found.value == pytest.approx(0.6)
    assert found.source == "composed"
    # Slopes are 1 and 1.5: the interval of a, +-0.01, becomes +-0.015.
    assert (found.lower, found.upper) == (pytest.approx(0.585), pytest.approx(0.615))


def test_the_end_of_an_interval_is_clipped_to_the_curve() -> None:
    found = model({"a": {"x": 0.8}, "b": {"x": None}}, [("a", "b")], {"b": line("a", {0.6: 0.5, 0.8: 0.9})})
    estimate = found.of({"a": "x", "b": "x"})
    assert estimate is not None
    assert estimate.value == pytest.approx(0.9)
    assert estimate.lower == pytest.approx(0.88)
    assert estimate.upper == pytest.approx(0.9)


def test_an_input_outside_of_a_curve_is_an_error_that_says_which() -> None:
    found = model({"a": {"x": 0.5}, "b": {"x": None}}, [("a", "b")], {"b": line("a", {0.6: 0.5, 0.8: 0.9})})
    with pytest.raises(InputError, match=r"b=x covers accuracies of a from 0.6 to 0.8; it is given 0.5"):
        found.of({"a": "x", "b": "x"})


def vqa(image: dict[str, float | None], speech: dict[str, float | None]) -> AccuracyModel:
    points = [{"given": {"image": i, "speech": s}, "output": out} for (i, s), out in VQA.items()]
    stages: dict[str, dict[str, float | None]] = {
        "split": {"x": 1.0},
        "image": image,
        "speech": speech,
        "vqa": {"x": None},
    }
    alone = {
        name: {"curves": {v: _constant(value) for v, value in own.items()}}
        for name, own in stages.items()
        if name in ("image", "speech")
    }
    return model(
        stages,
        [("split", "image"), ("split", "speech"), ("image", "vqa"), ("speech", "vqa")],
        {**alone, "vqa": {"curves": {"x": points}}},
    )


def _constant(value: float | None) -> list[dict[str, Any]]:
    return [{"given": {"split": at}, "output": value} for at in (0.0, 1.0)]


@pytest.mark.parametrize("image", list(IMAGE))
@pytest.mark.parametrize("speech", list(SPEECH))
def test_a_join_gives_the_tabulated_value_of_its_inputs(image: str, speech: str) -> None:
    found = vqa(dict(IMAGE), dict(SPEECH)).of({"split": "x", "image": image, "speech": speech, "vqa": "x"})
    assert found is not None
    assert found.value == pytest.approx(VQA[IMAGE[image], SPEECH[speech]])


def test_between_the_points_of_a_join_every_axis_is_straight() -> None:
    middle = vqa({"m": (89.074 + 91.42) / 2}, {"m": (-3.823 - 1.8621) / 2})
    found = middle.of({"split": "x", "image": "m", "speech": "m", "vqa": "x"})
    assert found is not None
    assert found.value == pytest.approx(sum(VQA.values()) / 4)


CHAIN: dict[str, dict[str, float | None]] = {
    "a": {"x": 0.6, "y": 0.8, "z": 1.0, "low": 0.1},
    "b": {"x": 0.5, "one": 0.9},
}


def test_without_curves_the_last_stage_follows_what_was_measured_with_it() -> None:
    rows = (whole({"a": "x", "b": "x"}, 0.3), whole({"a": "z", "b": "x"}, 0.5), whole({"a": "x", "b": "one"}, 0.4))
    found = model(CHAIN, [("a", "b")], {}, rows)
    between = found.of({"a": "y", "b": "x"})
    assert between is not None
    assert between.value == pytest.approx(0.4)
    assert between.source == "composed"
    # The points' own ends (0.02) and the input's (0.01 at a slope of 0.5), in quadrature.
    assert between.lower == pytest.approx(0.4 - (0.02**2 + 0.005**2) ** 0.5)
    assert found.of({"a": "low", "b": "x"}) is None, "outside of what was measured"
    assert found.of({"a": "y", "b": "one"}) is None, "one point is no curve"
    measured = found.of({"a": "x", "b": "x"})
    assert measured is not None
    assert measured.source == "measured"


def test_measured_points_that_fall_are_levelled() -> None:
    rows = (whole({"a": "x", "b": "x"}, 0.4), whole({"a": "y", "b": "x"}, 0.3), whole({"a": "z", "b": "x"}, 0.5))
    found = model({**CHAIN, "a": {**CHAIN["a"], "mid": 0.7}}, [("a", "b")], {}, rows).of({"a": "mid", "b": "x"})
    assert found is not None
    assert found.value == pytest.approx(0.35)


def test_a_stage_before_the_last_multiplies_its_metric_in() -> None:
    rows = tuple(
        whole({"a": a, "b": b, "c": "x"}, value)
        for a, b, value in (("x", "x", 0.2), ("y", "one", 0.5), ("z", "one", 0.7))
    )
    found = model({**CHAIN, "c": {"x": None}}, [("a", "b"), ("b", "c")], {}, rows).of({"a": "z", "b": "x", "c": "x"})
    assert found is not None
    # Inputs of c: 0.3 -> 0.2 and 0.72 -> 0.5; z and x give 0.5.
    assert found.value == pytest.approx(0.2 + 0.3 * (0.5 - 0.3) / 0.42)
