"""Order statistics against formulas, scipy, and coverage on distributions whose percentiles are known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import signal, stats

from inferplan.profilers.statistics import (
    binomial_cdf,
    bootstrap,
    drift,
    interval,
    least_count,
    mean_interval,
    most_over,
    process_spread,
    quantiles,
    t_quantile,
    upper_bound,
    wilson,
)
from inferplan.spec.stagecode import Scores

Floats = NDArray[np.float64]


@given(n=st.integers(1, 5000), q=st.floats(0.001, 0.6), most=st.integers(0, 200))
@settings(max_examples=200, deadline=None)
def test_the_binomial_is_scipys(n: int, q: float, most: int) -> None:
    k = np.arange(min(most, n) + 1)
    np.testing.assert_allclose(binomial_cdf(n, q, most), stats.binom.cdf(k, n, q), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize(("percentile", "count"), [(90.0, 64), (99.0, 662), (99.9, 6636), (50.0, 11)])
def test_least_counts_are_those_of_mlperf(percentile: float, count: int) -> None:
    """MLPerf LoadGen: a 90th percentile needs 64 queries, a 99th 662, with one over."""
    assert least_count(percentile) == count
    q = 1 - percentile / 100
    assert stats.binom.cdf(1, count, q) <= 0.01 < stats.binom.cdf(1, count - 1, q)


@given(n=st.integers(1, 20_000), percentile=st.sampled_from([50.0, 90.0, 95.0, 99.0, 99.9]))
@settings(max_examples=200, deadline=None)
def test_most_over_is_the_largest_that_is_unlikely_enough(n: int, percentile: float) -> None:
    t = most_over(n, percentile)
    q = 1 - percentile / 100
    if t >= 0:
        assert stats.binom.cdf(t, n, q) <= 0.01 * (1 + 1e-9)
    assert stats.binom.cdf(t + 1, n, q) > 0.01 * (1 - 1e-9)


@pytest.mark.parametrize("n", [662, 1000, 3000])
@pytest.mark.parametrize(
    "law", [stats.lognorm(0.5), stats.expon(), stats.pareto(2.5)], ids=["lognormal", "exponential", "pareto"]
)
def test_the_upper_bound_covers_the_true_p99(law: stats.rv_continuous, n: int) -> None:
    """With confidence 99 %: among 1000 runs, fewer than 2.2 % may miss (seeded; P < 0.001 if it were 1 %)."""
    generator = np.random.default_rng(7)
    samples = np.sort(law.rvs(size=(1000, n), random_state=generator), axis=1)
    missed = sum(upper_bound(row, 99.0) < law.ppf(0.99) for row in samples)
    assert missed <= 22


def test_the_upper_bound_holds_for_rare_slow_calls() -> None:
    """A mixture whose p99 lies among the slow 2 %: estimates from few samples would miss them."""
    generator = np.random.default_rng(3)
    slow = generator.random((1000, 662)) < 0.02
    times = np.sort(np.where(slow, 10.0 + generator.random(slow.shape), 1.0 + generator.random(slow.shape)), axis=1)
    true_p99 = 10.5
    assert sum(upper_bound(row, 99.0) < true_p99 for row in times) <= 22


@given(st.lists(st.floats(1e-6, 10), min_size=1, max_size=900))
@settings(deadline=None)
def test_percentiles_are_null_below_the_least_count_and_ordered_above(times: list[float]) -> None:
    values = np.array(times)
    result = quantiles(values)
    for name, percentile in (("p50", 50.0), ("p90", 90.0), ("p95", 95.0), ("p99", 99.0), ("p999", 99.9)):
        estimate, bound = getattr(result, f"{name}_s"), getattr(result, f"{name}_upper_s")
        assert (estimate is not None) == (bound is not None) == (len(values) >= least_count(percentile))
        if estimate is not None:
            assert result.min_s <= estimate <= bound <= values.max()
    assert result.mean_s == pytest.approx(values.mean())


def test_no_samples_give_no_numbers() -> None:
    assert quantiles(np.array([])).mean_s is None
    assert quantiles(np.array([1.0])).mean_upper_s is None


def test_bounds_hold_with_the_confidence_asked_for() -> None:
    times = np.random.default_rng(0).random(400)
    assert quantiles(times).p99_upper_s is None
    assert quantiles(times, 0.9).p99_upper_s is not None
    for confidence in (0.8, 0.95, 0.99):
        n = least_count(90.0, confidence=confidence)
        assert quantiles(times[:n], confidence).p90_upper_s is not None
        assert quantiles(times[: n - 1], confidence).p90_upper_s is None
    assert quantiles(times, 0.999).p50_upper_s > quantiles(times, 0.9).p50_upper_s


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.99])
def test_students_t_is_scipys(confidence: float) -> None:
    found = [t_quantile(freedom, confidence) for freedom in range(1, 60)]
    np.testing.assert_allclose(found, stats.t.ppf(0.5 + confidence / 2, np.arange(1, 60)), rtol=1e-9)


@pytest.mark.parametrize(
    ("processes", "correlation", "between", "least", "most"),
    [
        (1, 0.0, 0.0, 0.935, 0.965),  # batch means of one process
        (1, 0.8, 0.0, 0.92, 0.96),
        (3, 0.0, 1.0, 0.935, 0.965),  # processes that differ: Student's t of their means
        (5, 0.8, 1.0, 0.935, 0.97),
        (3, 0.0, 0.1, 0.95, 1.0),  # processes that hardly differ: on the safe side
        (3, 0.8, 0.0, 0.95, 1.0),
    ],
)
def test_the_interval_of_a_mean_covers_it(
    processes: int, correlation: float, between: float, least: float, most: float
) -> None:
    """Series of 300 with normal noise of one, correlated from call to call, in processes apart by `between`."""
    generator = np.random.default_rng(11)
    which = np.repeat(np.arange(processes, dtype=np.int32), 300)
    covered = 0
    for _ in range(1500):
        noise = signal.lfilter([1.0], [1.0, -correlation], generator.normal(size=(processes, 500)), axis=1)
        times = 100 + noise[:, -300:] + between * generator.normal(size=(processes, 1))
        lower, upper = mean_interval(times.ravel(), which)
        covered += lower <= 100 <= upper
    assert least <= covered / 1500 <= most


def test_the_interval_of_a_mean_lies_around_it() -> None:
    times = np.random.default_rng(2).exponential(0.01, 700)
    which = np.repeat(np.array([0, 1, 2], np.int32), [100, 250, 350])
    found = quantiles(times, process=which)
    assert found.mean_lower_s < found.mean_s < found.mean_upper_s
    assert (found.mean_lower_s, found.mean_upper_s) == mean_interval(times, which)
    assert mean_interval(np.array([0.0, 1e-9, 0.1])) >= (0.0, 0.0)
    # A process with one sample has a mean to compare, but no variance of its own.
    assert mean_interval(np.array([1.0, 1.0, 2.0]), np.array([0, 0, 1], np.int32))[1] > 2


@given(n=st.integers(1, 2000), data=st.data())
@settings(deadline=None)
def test_wilson_is_scipys(n: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, n))
    expected = stats.binomtest(successes, n).proportion_ci(method="wilson")
    lower, upper = wilson(successes, n)
    assert (lower, upper) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert 0 <= lower <= successes / n <= upper <= 1


def test_the_bootstrap_agrees_with_the_normal_interval_of_a_mean() -> None:
    values = np.random.default_rng(1).normal(5.0, 2.0, 4000)
    lower, upper = bootstrap(Scores(values, np.ones(4000)))
    half = 1.96 * values.std() / np.sqrt(4000)
    assert (lower, upper) == pytest.approx((values.mean() - half, values.mean() + half), abs=half / 5)


def test_the_bootstrap_of_a_ratio_draws_values_with_their_weights() -> None:
    """Where only one example has weight, its value is all there is."""
    values, weights = np.array([0.2, 0.9, 0.9]), np.array([5.0, 0.0, 0.0])
    assert bootstrap(Scores(values, weights)) == pytest.approx((0.2, 0.2))


def test_the_bootstrap_is_the_same_every_time() -> None:
    scores = Scores(np.random.default_rng(0).random(300), np.random.default_rng(1).random(300))
    assert bootstrap(scores) == bootstrap(scores)


def test_proportions_get_wilson_and_ratios_the_bootstrap() -> None:
    yes_no = np.array([1.0, 0.0] * 50)
    assert interval(Scores(yes_no, np.ones(100))) == (*wilson(50, 100), "wilson")
    assert interval(Scores(yes_no, np.arange(100.0)))[2] == "bootstrap"


def test_perfect_scores_are_not_certain() -> None:
    lower, upper, method = interval(Scores(np.ones(20), np.full(20, 3.0)))
    assert method == "wilson"
    assert upper == 1.0
    assert 0.8 < lower < 0.9


def test_drift_and_spread() -> None:
    assert drift(np.array([1.0] * 10 + [2.0] * 10 + [3.0] * 10)) == 3.0
    assert drift(np.ones(5)) is None
    assert process_spread([2.0, 3.0, 4.0]) == 2.0
    assert process_spread([2.0]) is None
