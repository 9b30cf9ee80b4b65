"""Resamples: as many examples as there are, in pairs, and means of them."""

from __future__ import annotations

import numpy as np
import pytest

from inferplan.spec.resampling import percentile_interval, resample_counts, weighted_means


@pytest.mark.parametrize("n", [1, 7, 5000])
def test_every_resample_has_as_many_examples(n: int) -> None:
    chunks = list(resample_counts(n, 1000))
    counts = np.concatenate(chunks)
    assert counts.shape == (1000, n)
    assert np.all(counts.sum(axis=1) == n)
    # Each example comes up once on average, with variance 1 - 1/n.
    assert counts.var() == pytest.approx(1 - 1 / n, abs=0.06)


def test_the_same_seed_draws_in_pairs() -> None:
    first, second = (np.concatenate(list(resample_counts(30, 50, seed=3))) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, np.concatenate(list(resample_counts(30, 50, seed=4))))


def test_means_of_resamples() -> None:
    counts = np.array([[1.0, 1.0, 1.0], [0.0, 3.0, 0.0], [2.0, 0.0, 1.0]])
    means = weighted_means(counts, np.array([1.0, 2.0, 5.0]), np.array([1.0, 0.0, 3.0]))
    assert means[0] == 4.0
    assert np.isnan(means[1])
    assert means[2] == pytest.approx((2 * 1 + 15) / 5)


def test_the_interval_leaves_out_what_has_no_value() -> None:
    draws = np.concatenate([np.arange(101.0), [np.nan] * 50])
    assert percentile_interval(draws, 0.9) == pytest.approx((5.0, 95.0))
