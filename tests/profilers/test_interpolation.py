"""Predictions from glances, and how large their errors are said to be."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferplan.profilers.interpolation import Cell, Hardness, Interpolator, Series, error_bound, rising_logs

BATCHES = (1, 2, 4, 8)


def series(name: str, scale_s: float, off: float = 1.0, measured: tuple[int, ...] = (1,), stage: str = "s") -> Series:
    """A series whose true times are batch x scale, and whose glances are `off` times as long."""
    true_s = {Cell(batch, 1): batch * scale_s for batch in BATCHES}
    return Series(
        name,
        stage,
        "cpu",
        1,
        {Cell(b, 1): true_s[Cell(b, 1)] for b in measured},
        {c: s * off for c, s in true_s.items()},
    )


@given(st.lists(st.floats(0.0, 10.0), min_size=4, max_size=60), st.sampled_from([0.9, 0.95]))
def test_bound_is_never_below_the_quantile_of_the_errors(errors: list[float], level: float) -> None:
    assert error_bound(errors, level) >= np.quantile(errors, level, method="inverted_cdf")


def test_bound_says_nothing_of_three_errors() -> None:
    assert error_bound([0.01, 0.01, 0.01], 0.9) == math.inf


@pytest.mark.parametrize("n", [4, 6, 9, 12, 15, 19, 40])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_the_next_error_stays_within_the_bound_as_often_as_said(n: int, level: float) -> None:
    rng = np.random.default_rng(n)
    errors = np.abs(rng.normal(0.0, 0.05, (4000, n + 1)))
    held = np.mean([row[n] <= error_bound(list(row[:n]), level) for row in errors])
    assert held >= level - 0.015


@pytest.mark.parametrize(("level", "n"), [(0.9, 9), (0.9, 12), (0.9, 18), (0.95, 19), (0.95, 30)])
def test_it_does_where_one_error_is_much_larger_than_the_others(n: int, level: float) -> None:
    rng = np.random.default_rng(n)
    errors = np.abs(rng.standard_t(2, (4000, n + 1)))
    held = np.mean([row[n] <= error_bound(list(row[:n]), level) for row in errors])
    assert held >= level - 0.015


@given(
    st.dictionaries(st.sampled_from([1, 2, 4, 8, 16]), st.floats(-5, 5), min_size=1),
    st.dictionaries(st.sampled_from([1, 2, 4, 8, 16]), st.floats(-5, 5)),
)
def test_predictions_rise_with_the_batch_wherever_measured_ones_do(
    predicted: dict[int, float], measured: dict[int, float]
) -> None:
    guesses = {Cell(batch, 1): log for batch, log in predicted.items() if batch not in measured}
    known = {Cell(batch, 1): log for batch, log in measured.items()}
    result = rising_logs(guesses, known)
    assert set(result) == set(guesses)
    row = {**result, **known}
    ordered = [row[cell] for cell in sorted(row)]
    if [known[cell] for cell in sorted(known)] == sorted(known.values()):
        assert ordered == sorted(ordered)
    else:
        only = [result[cell] for cell in sorted(result)]
        assert only == sorted(only)


def test_rising_leaves_alone_what_rises() -> None:
    logs = {Cell(1, 1): 0.0, Cell(2, 1): 1.0, Cell(4, 2): 0.5, Cell(8, 2): 0.6}
    assert rising_logs(logs, {Cell(4, 1): 2.0}) == logs


def test_a_glance_that_is_always_long_is_corrected_by_what_was_measured() -> None:
    seen = [
        series(name, scale, 1.2, (1, 8)) for name, scale in zip("abcde", (0.01, 0.012, 0.015, 0.02, 0.03), strict=True)
    ]
    found = Interpolator(seen).row(seen[2], [Cell(2, 1), Cell(4, 1)])
    assert found[Cell(4, 1)].mean_s == pytest.approx(0.06, rel=0.03)
    assert found[Cell(4, 1)].error_90 < 0.05
    assert found[Cell(4, 1)].lower_s <= 0.06 <= found[Cell(4, 1)].upper_s
    assert ("c", Cell(8, 1)) in found[Cell(4, 1)].basis


def test_cells_without_a_glance_are_not_predicted() -> None:
    blind = Series("blind", "s", "cpu", 1, {Cell(1, 1): 0.01}, {})
    assert Interpolator([blind]).row(blind, [Cell(2, 1)]) == {}


def test_errors_are_unknown_where_the_largest_batch_was_never_checked() -> None:
    seen = [series(name, 0.01) for name in "abcdef"]
    found = Interpolator(seen).row(seen[0], [Cell(2, 1), Cell(8, 1)])
    assert math.isinf(found[Cell(8, 1)].error_90)
    checked = [series(name, 0.01, measured=(1, 8)) for name in "abcd"]
    found = Interpolator([*checked, *seen[4:]]).row(seen[4], [Cell(2, 1), Cell(8, 1)])
    assert found[Cell(8, 1)].error_90 == pytest.approx(0.0, abs=1e-6)
    assert found[Cell(2, 1)].error_90 == pytest.approx(0.0, abs=1e-6)


def test_nets_of_another_size_and_another_provider_teach_nothing() -> None:
    checked = [series(name, 0.001, measured=(1, 8)) for name in "abcd"]
    slow = series("slow", 1.0)
    assert math.isinf(Interpolator([*checked, slow]).row(slow, [Cell(8, 1)])[Cell(8, 1)].error_90)
    same = series("same", 0.001)
    elsewhere = Series("same", "s", "openvino", 1, same.measured, same.glances)
    assert math.isinf(Interpolator([*checked, elsewhere]).row(elsewhere, [Cell(8, 1)])[Cell(8, 1)].error_90)


def test_hardness() -> None:
    easy, hard = Hardness(1, 2, 1.0), Hardness(1, 0, 3.0)
    assert hard.covers(easy)
    assert not easy.covers(hard)
    assert not Hardness(2, 0, 3.0).covers(easy)


def test_what_a_measured_mean_is_in_doubt_by_is_no_error_of_its_prediction() -> None:
    def bounds(doubt: float) -> dict[Cell, float]:
        """Predictions' errors where one of five measured cells is 30 % above what its glance says."""
        known = [series(f"s{i}", 0.01 * (i + 1), measured=(1, 8)) for i in range(5)]
        slow = replace(
            known[0], measured={**known[0].measured, Cell(8, 1): 0.08 * 1.3}, doubts={Cell(8, 1): doubt, Cell(1, 1): 0}
        )
        asked = series("asked", 0.02)
        found = Interpolator([slow, *known[1:], asked]).row(asked, [Cell(8, 1)])
        return {cell: prediction.error_90 for cell, prediction in found.items()}

    sure, doubtful, hopeless = (bounds(doubt)[Cell(8, 1)] for doubt in (0.0, 0.2, 0.5))
    assert sure > doubtful > hopeless
    assert sure > 0.15 > hopeless
