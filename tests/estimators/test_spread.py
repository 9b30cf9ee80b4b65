"""Spread and tail: exact where measured, chosen by errors on points left out."""

from __future__ import annotations

import pytest
from latency_cases import rows

from inferplan.estimators.observations import Observation, SeriesKey
from inferplan.estimators.spread import spread_model


def observations(ratios: dict[str, list[float]]) -> list[Observation]:
    found = []
    for choice, values in ratios.items():
        for index, (value, made) in enumerate(zip(values, rows(choice, lambda b: 0.01 * b), strict=False)):
            mean_s = made.service.mean_s or 0.0
            changed = rows(choice, lambda b: 0.01 * b, (2**index,), std_s=value * mean_s)[0]
            found.append(Observation(SeriesKey("s", choice, "t/d", "cpu", 1), 2**index, mean_s, row=changed))
    return found


def test_ratios_are_exact_where_measured_and_those_of_the_series_elsewhere() -> None:
    items = observations({"a": [0.1] * 5, "b": [0.4] * 5, "c": [0.02] * 5})
    model = spread_model(items, "std")
    assert model.fit in ("series", "nearest", "line")
    assert model.errors.p90 == pytest.approx(0, abs=1e-9)
    assert model.ratio(items[0].key, 3) == pytest.approx(0.1)
    assert model.ratio(items[5].key, 16) == pytest.approx(0.4)


def test_what_differs_by_chance_only_is_averaged_over_the_stage() -> None:
    values = [0.1, 0.2, 0.05, 0.15, 0.08, 0.12, 0.3, 0.06, 0.11, 0.09, 0.2, 0.07, 0.14, 0.1, 0.05]
    model = spread_model(observations({"a": values[:5], "b": values[5:10], "c": values[10:]}), "std")
    assert model.fit == "stage"


def test_without_values_nothing_is_said() -> None:
    model = spread_model(observations({"a": [0.1] * 3}), "p99")
    assert (model.fit, model.errors.n) == ("", 0)
    assert model.ratio(SeriesKey("s", "a", "t/d", "cpu", 1), 2) is None
