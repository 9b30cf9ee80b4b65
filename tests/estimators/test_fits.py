"""The fit within a series: through measured points, exact on affine times, never falling where points rise."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferplan.estimators.fits import affine, affine_coefficients, fitted_log_s, held_between

TIMES = st.floats(1e-5, 10.0)
POINTS = st.lists(st.tuples(st.integers(1, 64), TIMES), min_size=2, max_size=6, unique_by=lambda point: point[0])


@given(POINTS)
def test_known_points_are_exact_in_any_order(points: list[tuple[int, float]]) -> None:
    for order in (points, points[::-1]):
        xs, times = zip(*order, strict=True)
        for x, time_s in points:
            assert fitted_log_s(affine, xs, times, x) == pytest.approx(math.log(time_s), abs=1e-9)


@given(POINTS)
def test_rising_points_give_a_rising_curve(points: list[tuple[int, float]]) -> None:
    xs = sorted(x for x, _ in points)
    times = sorted(time_s for _, time_s in points)
    held = []
    for batch in range(1, 2 * xs[-1]):
        log_s = fitted_log_s(affine, xs, times, batch)
        assert log_s is not None
        held.append(held_between(log_s, xs, times, batch) if batch not in xs else log_s)
    marks = [held[x - 1] for x in xs]
    for before, after in itertools.pairwise(marks):
        assert before <= after + 1e-9
    for batch, log_s in enumerate(held, 1):
        assert log_s <= min((mark for x, mark in zip(xs, marks, strict=True) if x > batch), default=math.inf) + 1e-9
        assert log_s >= max((mark for x, mark in zip(xs, marks, strict=True) if x < batch), default=-math.inf) - 1e-9


@given(overhead=st.floats(0, 1), unit=st.floats(1e-6, 1), at=st.floats(0.5, 100))
def test_affine_times_are_recovered(overhead: float, unit: float, at: float) -> None:
    xs = [1.0, 2.0, 8.0]
    times = [overhead + unit * x for x in xs]
    assert affine_coefficients(xs, times) == pytest.approx((overhead, unit), rel=1e-6, abs=1e-9)
    assert fitted_log_s(affine, xs, times, at) == pytest.approx(math.log(overhead + unit * at), abs=1e-6)


def test_affine_coefficients_are_not_negative() -> None:
    assert affine_coefficients([1, 2, 4], [1.0, 2.5, 6.0])[0] == 0.0
    overhead_s, unit_s = affine_coefficients([1, 2, 4], [1.0, 0.9, 0.8])
    assert overhead_s > 0
    assert unit_s == 0.0


def test_one_point_says_nothing_of_growth() -> None:
    assert fitted_log_s(affine, [4], [0.1], 8) is None
    assert fitted_log_s(affine, [4, 4], [0.1, 0.2], 8) is None


def test_predictions_stay_between_their_neighbours_also_where_those_fall() -> None:
    assert held_between(math.log(9), [1, 4], [1.0, 3.0], 2) == pytest.approx(math.log(3))
    assert held_between(math.log(0.1), [1, 4], [1.0, 3.0], 2) == 0
    assert held_between(math.log(2), [1, 4], [3.0, 1.0], 2) == pytest.approx(math.log(2))
    assert held_between(math.log(2), [1, 4], [1.0, 3.0], 8) == pytest.approx(math.log(3))
