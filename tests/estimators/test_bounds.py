"""Planning on bounds: means up, accuracies down, draws with them."""

from __future__ import annotations

from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferplan.estimators.accuracy import AccuracyEstimate, AccuracyModel, Turn
from inferplan.estimators.bounds import low_accuracy, slow_points, widening, without_interval
from inferplan.estimators.points import ModelKey, Points
from inferplan.estimators.service import ServiceModel, ServicePoint
from inferplan.spec.rows import Measurement, PointKey, Quantiles

KEY = ModelKey("s", "v", "edge/cpu", "cpu", 1)


def row(mean_s: float, upper_s: float | None, origin: str = "measured") -> Measurement:
    key = PointKey("s", "v", "", "", "", "onnxruntime", "1", "{}", "cpu", "edge/cpu", "f", 1, 1, "{}")
    service = Quantiles(mean_s=mean_s, mean_upper_s=upper_s)
    return Measurement(key, n=9 if origin == "measured" else 0, status="ok", service=service, origin=origin)  # type: ignore[arg-type]


def slow(point: ServicePoint, confidence: float) -> ServiceModel:
    points = Points({KEY: ServiceModel((point,))}, {}, (), (), (), ())
    return slow_points(points, confidence).models[KEY]


@given(st.floats(0.51, 0.999))
def test_the_ends_of_95_percent_intervals_are_bounds_at_97_and_a_half(confidence: float) -> None:
    assert widening(0.975) == pytest.approx(1.0)
    assert widening(confidence) == pytest.approx(NormalDist().inv_cdf(confidence) / 1.959964, rel=1e-5)


def test_means_and_draws_move_to_the_bound() -> None:
    point = ServicePoint(1, 0.010, 0.002, row=row(0.010, 0.012))
    model = slow(point, 0.975)
    assert model.mean_s(1) == pytest.approx(0.012)
    assert model.std_s(1) == pytest.approx(0.0024)
    assert model.draws_s(1).mean() == pytest.approx(0.012)
    assert slow(point, 0.9).mean_s(1) == pytest.approx(0.010 + 0.002 * widening(0.9))


def test_an_interpolated_point_has_the_bound_of_its_prediction() -> None:
    point = ServicePoint(1, 0.010, row=row(0.010, 0.013, "interpolated"))
    assert slow(point, 0.6).mean_s(1) == pytest.approx(0.013)


def test_what_has_no_interval_stands_and_is_named() -> None:
    model = slow(ServicePoint(4, 0.010, row=row(0.010, None)), 0.99)
    assert model.mean_s(4) == 0.010
    assert without_interval(model, 4) == [4]
    assert without_interval(model, 2) == []


@pytest.mark.parametrize(("direction", "expected"), [("maximize", 0.88), ("minimize", 0.93)])
def test_accuracy_moves_to_its_worse_end(direction: str, expected: float) -> None:
    estimate = AccuracyEstimate(0.9, 0.88, 0.93, "measured")
    declared = AccuracyEstimate(0.7, source="declared")
    model = AccuracyModel(
        "m", Turn(direction), "minimum", ("s",), {("s", "v"): estimate, ("s", "w"): declared}, {("v",): estimate}
    )  # type: ignore[arg-type]
    low = low_accuracy(model, 0.975)
    assert low.values["s", "v"].value == pytest.approx(expected)
    assert low.measured["v",].value == pytest.approx(expected)
    assert low.values["s", "w"] == declared
