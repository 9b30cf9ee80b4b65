"""Predictions come from the past alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inferplan.estimators.forecast import PREDICTORS, predictions, predictor
from inferplan.spec.errors import InputError

loads_ = st.lists(st.floats(0, 1e4), min_size=1, max_size=40)


@given(loads=loads_, window=st.integers(1, 10))
def test_the_window_maximum_is_the_most_of_the_last(loads: list[float], window: int) -> None:
    found = predictions("max", np.array(loads), window=window, before=np.zeros(0))
    assert found.tolist() == [loads[0], *(max(loads[max(t - window, 0) : t]) for t in range(1, len(loads)))]
    last = predictions("last", np.array(loads), window=window, before=np.zeros(0))
    assert last.tolist() == [loads[0], *loads[:-1]]


@settings(max_examples=10, deadline=None)
@given(cut=st.integers(1, 99), seed=st.integers(0, 99))
def test_nothing_that_comes_later_changes_a_prediction(cut: int, seed: int) -> None:
    pytest.importorskip("statsmodels")
    rng = np.random.default_rng(seed)
    before, loads = rng.poisson(50, 60).astype(float), rng.poisson(50, 100).astype(float)
    other = np.concatenate([loads[:cut], loads[cut:] * 3 + 1])
    for name in PREDICTORS:
        one, two = (predictions(name, x, window=5, before=before) for x in (loads, other))
        assert len(one) == len(loads)
        np.testing.assert_array_equal(one[: cut + 1], two[: cut + 1])


def test_a_trend_is_followed() -> None:
    pytest.importorskip("statsmodels")
    rng = np.random.default_rng(1)
    rising = np.arange(200) * 2.0 + rng.normal(0, 1, 200)
    told = predictions("holt", rising, window=1, before=rising)
    late = predictions("last", rising, window=1, before=rising)
    assert np.abs(told - rising)[50:].mean() < np.abs(late - rising)[50:].mean()


def test_short_and_constant_loads_are_told_by_the_last() -> None:
    pytest.importorskip("statsmodels")
    for loads in (np.array([3.0]), np.array([3.0, 4.0, 5.0]), np.full(50, 7.0)):
        told = predictions("holt", loads, window=1, before=np.zeros(0))
        np.testing.assert_array_equal(told, predictions("last", loads, window=1, before=np.zeros(0)))


def test_an_unknown_predictor_is_refused() -> None:
    with pytest.raises(InputError, match="did you mean last"):
        predictor("lasst")
