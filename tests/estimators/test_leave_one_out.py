"""Choosing by errors on points left out: the simplest that is as good, and errors that choosing does not flatter."""

from __future__ import annotations

import numpy as np
import pytest

from inferplan.estimators.leave_one_out import Errors, bound, choose, choose_without, noise, spread_folds


def test_the_simpler_fit_is_taken_unless_the_other_is_better_beyond_chance() -> None:
    rng = np.random.default_rng(0)
    alike = np.abs(rng.normal(0, 0.05, (40, 2)))
    assert choose(np.stack([alike[:, 0], np.roll(alike[:, 0], 1) - 1e-4], axis=1)) == 0
    assert choose(alike + np.array([0.05, 0.0])) == 1
    assert choose(np.zeros((0, 3))) == 0


def test_a_fold_has_no_say_in_what_is_chosen_for_it() -> None:
    # The points of fold 0 alone speak for candidate 1; without them candidate 0 is taken.
    costs = np.array([[9.0, 0.0], [0.1, 0.2], [0.1, 0.2], [0.1, 0.2], [9.0, 0.0]])
    assert choose_without(costs, [0, 1, 2, 1, 0]) == [0, 1, 1, 1, 0]
    assert choose_without(costs, [3] * 5) == [1] * 5


def test_folds_go_across_groups() -> None:
    assert spread_folds("aaaaa") == [0, 1, 2, 3, 4]
    assert spread_folds("aaabbb") == [0, 1, 2, 1, 2, 3]


def test_errors_are_relative_to_what_was_measured() -> None:
    found = Errors.of([np.log(1.1), np.log(0.9), 0.0])
    assert found == Errors(3, pytest.approx(0.1), pytest.approx(0.1))
    assert Errors.of([]) == Errors(0, None, None)


def test_the_bound_needs_nine_errors_and_holds_nine_times_in_ten() -> None:
    assert bound([0.1] * 8) is None
    assert bound([0.1] * 8 + [-0.3]) == 0.3
    rng = np.random.default_rng(1)
    held = []
    for _ in range(4000):
        errors = rng.standard_t(3, 30)
        most = bound(errors[:29].tolist())
        assert most is not None
        held.append(abs(errors[29]) <= most)
    assert np.mean(held) == pytest.approx(0.9, abs=0.02)


def test_noise_is_what_a_perfect_prediction_would_be_seen_to_miss() -> None:
    rng = np.random.default_rng(2)
    seen = np.abs(rng.normal(0, [0.01, 0.05], (100_000, 2)))
    found = noise([0.01, 0.05])
    assert found.median == pytest.approx(np.median(seen), rel=0.03)
    assert found.p90 == pytest.approx(np.quantile(seen, 0.9), rel=0.03)
    assert noise([]).n == 0
