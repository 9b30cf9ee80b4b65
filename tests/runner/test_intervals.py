"""Intervals cover the truth as often as they say, on correlated latencies too."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from inferplan.runner import intervals
from inferplan.runner.intervals import binomial_ranks, percentile, student_t, wilson
from inferplan.spec.stagecode import Scores


@given(count=st.integers(1, 3000), q=st.sampled_from([0.5, 0.9, 0.95, 0.99, 0.999]))
def test_ranks_are_those_of_the_binomial_distribution(count: int, q: float) -> None:
    below = stats.binom.cdf(np.arange(count + 1), count, q)
    lower, upper = int((below <= 0.025).sum()), int((below < 0.975).sum()) + 1
    assert binomial_ranks(count, q) == (lower or None, upper if upper <= count else None)


def test_students_t() -> None:
    for freedom in (9, 14, 19):
        assert student_t(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-3)


def queue_latencies(rng: np.random.Generator, load: float, count: int) -> NDArray[np.float64]:
    """Latencies of an M/M/1 queue with service rate 1, from its stationary state on (Lindley's recursion)."""
    latency = np.empty(count)
    current = rng.exponential(1 / (1 - load))
    gaps, services = rng.exponential(1 / load, count), rng.exponential(1.0, count)
    for i in range(count):
        current = max(0.0, current - gaps[i]) + services[i]
        latency[i] = current
    return latency


@pytest.mark.parametrize(("percent", "load"), [(50.0, 0.5), (90.0, 0.7), (99.0, 0.5)])
def test_coverage_on_a_queue(percent: float, load: float) -> None:
    """Stationary M/M/1 latency is exponential with rate 1 - load, so the true percentile is known."""
    truth = -math.log(1 - percent / 100) / (1 - load)
    rng = np.random.default_rng(7)
    runs = [percentile(queue_latencies(rng, load, 4000), percent) for _ in range(150)]
    # No upper bound is an honest answer, too, but not one to give often.
    covered = [(run.lower or 0.0) <= truth <= (run.upper or math.inf) for run in runs]
    assert sum(run.upper is not None for run in runs) > 100
    assert np.mean(covered) >= 0.88
    # Intervals that take requests to be independent cover far less: the correlation is really there.
    naive = []
    for _ in range(150):
        sample = np.sort(queue_latencies(rng, load, 4000))
        low, high = binomial_ranks(4000, percent / 100)
        assert low is not None
        assert high is not None
        naive.append(sample[low - 1] <= truth <= sample[high - 1])
    assert np.mean(naive) < np.mean(covered) - 0.1


def test_too_few_requests_have_no_upper_bound_and_a_cautious_lower_one() -> None:
    samples = np.linspace(1, 2, 40)
    result = percentile(samples, 99.0)
    assert result.value == 2.0
    assert result.upper is None
    assert result.lower is not None
    assert result.lower < 1.9
    assert percentile(np.empty(0), 99.0).value is None


def test_requests_without_answer_are_slower_than_any() -> None:
    samples = np.full(2000, 0.1)
    samples[::50] = np.inf  # 2 %
    result = percentile(samples, 99.0)
    assert result.value == math.inf
    assert percentile(samples, 90.0).upper == 0.1


def test_wilson_and_bootstrap() -> None:
    ours, theirs = wilson(0.9, 200), stats.binomtest(180, 200).proportion_ci(0.95, method="wilson")
    assert ours.lower == pytest.approx(theirs.low)
    assert ours.upper == pytest.approx(theirs.high)
    rng = np.random.default_rng(0)
    weights = rng.integers(1, 20, 400).astype(float)
    values = rng.binomial(weights.astype(int), 0.8) / weights
    result = intervals.accuracy(Scores(values, weights), seed=1)
    assert result.value == pytest.approx((values * weights).sum() / weights.sum())
    assert result.lower is not None
    assert result.upper is not None
    half = 1.96 * math.sqrt(0.16 / weights.sum())
    assert result.upper - result.lower == pytest.approx(2 * half, rel=0.25)
