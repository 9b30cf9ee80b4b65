"""Intervals cover what they claim, and verdicts follow from them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from inferplan.estimators.intervals import CONFIDENCE, Latencies, t_quantile


@pytest.mark.parametrize("freedom", [9, 19, 39, 79, 400])
def test_t_quantile(freedom: int) -> None:
    assert t_quantile(freedom) == pytest.approx(scipy.stats.t.ppf(0.5 + CONFIDENCE / 2, freedom), rel=1e-3)


def replications(rng: np.random.Generator, count: int = 10, size: int = 400) -> Latencies:
    """Dependent requests: every replication has a level of its own."""
    return Latencies.of([rng.exponential(size=size) * rng.uniform(0.8, 1.2) for _ in range(count)])


def true_share_above(limit: float) -> float:
    grid = np.linspace(0.8, 1.2, 2001)
    return float(np.exp(-limit / grid).mean())


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    limit = 3.0
    share = true_share_above(limit)
    covered = missed_percentile = 0
    runs = 300
    for _ in range(runs):
        seen = replications(rng)
        above = seen.share_above(limit)
        assert above.lower is not None
        assert above.upper is not None
        covered += above.lower <= share <= above.upper
        percentile = seen.percentile_s(100 * (1 - share))
        missed_percentile += not (percentile.lower or 0) <= limit <= (percentile.upper or math.inf)
    assert covered >= 0.97 * runs
    assert missed_percentile <= 0.03 * runs


def clumped(rng: np.random.Generator) -> Latencies:
    """Ten replications of 400 requests, in which stretches of four in the mean are slow together, six in a replication:
    so 1 % of all take longer than 1 + ln 6."""
    runs = []
    for _ in range(10):
        seen, at = rng.uniform(0, 1, 400), 0
        for _ in range(rng.poisson(6)):
            size = rng.geometric(0.25)
            seen[at : at + size] = 1 + rng.exponential()
            at += size
        runs.append(seen)
    return Latencies.of(runs)


def test_late_requests_that_come_in_clumps_are_not_called_few_too_soon() -> None:
    """A t interval ends below the truth in 6 of 100 of these."""
    rng = np.random.default_rng(0)
    runs = 400
    found = [clumped(rng) for _ in range(runs)]
    shares = [seen.share_above(1 + math.log(6)) for seen in found]
    assert sum((share.upper or 0.0) < 0.01 for share in shares) <= 0.01 * runs
    assert sum((share.lower or 0.0) > 0.01 for share in shares) <= 0.01 * runs
    assert sum(seen.verdict(99.0, 1 + math.log(6) - 0.1) == "met" for seen in found) <= 0.005 * runs


def test_an_end_is_unknown_where_there_are_too_few_requests() -> None:
    few = Latencies.of([np.linspace(0, 1, 20) for _ in range(5)])
    assert few.percentile_s(99.9).upper is None
    assert few.percentile_s(50).upper is not None


def test_no_request_above_the_limit_is_no_proof_from_few_requests() -> None:
    few, many = (Latencies.of([np.full(size, 0.5) for _ in range(10)]) for size in (20, 2000))
    assert few.verdict(99.0, 1.0) == "undecided"
    assert many.verdict(99.0, 1.0) == "met"
    assert many.verdict(99.0, 0.4) == "missed"


def test_verdict_is_where_the_interval_ends() -> None:
    seen = replications(np.random.default_rng(1), size=4000)
    interval = seen.percentile_s(95.0)
    assert interval.lower is not None
    assert interval.upper is not None
    assert seen.verdict(95.0, interval.upper) == "met"
    assert seen.verdict(95.0, interval.lower * 0.999) == "missed"
    assert seen.verdict(95.0, interval.value) == "undecided"


def in_long_clumps(rng: np.random.Generator) -> Latencies:
    """Short stretches that are slow together, and long ones that are slower."""
    runs = []
    for _ in range(10):
        seen = rng.uniform(0, 1, 400)
        for count, level, end in ((6, 1.0, 0.25), (3, 2.0, 0.02)):
            for _ in range(rng.poisson(count)):
                size, at = rng.geometric(end), rng.integers(0, 400)
                seen[at : at + size] = level + 0.3 * rng.exponential()
        runs.append(seen)
    return Latencies.of(runs)


def test_what_is_met_or_missed_is_so_by_the_interval_of_the_percentile() -> None:
    """The share's ends need not fall as the limit rises: their spread is looked at of other requests at every limit."""
    for seed in range(15, 20):
        seen = in_long_clumps(np.random.default_rng(seed))
        interval = seen.percentile_s(99.0)
        for limit in np.quantile(np.concatenate(seen.replications), np.linspace(0.85, 0.9995, 60)).tolist():
            verdict = seen.verdict(99.0, limit)
            assert verdict != "met" or (interval.upper is not None and interval.upper <= limit)
            assert verdict != "missed" or (interval.lower is not None and interval.lower > limit)


def test_empty_replications_are_left_out() -> None:
    seen = Latencies.of([np.zeros(0), np.array([1.0, 2.0])])
    assert seen.requests == 2
    assert seen.mean_s().value == pytest.approx(1.5)


def test_requests_that_were_never_answered_are_late_and_no_part_of_means() -> None:
    rng = np.random.default_rng(0)
    seen = [np.append(rng.exponential(size=396), [math.inf] * 4) for _ in range(10)]
    latencies = Latencies.of(seen)
    assert latencies.share_above(1e6).value == pytest.approx(0.01)
    assert latencies.answered().requests == 3960
    assert latencies.answered().mean_s().value == pytest.approx(1, abs=0.05)
    tail = latencies.percentile_s(99.5)
    assert math.isinf(tail.value)
    assert tail.upper is None
    assert latencies.verdict(99.9, 1e6) == "missed"
    assert latencies.verdict(90, 1e6) == "met"


def test_half_widths_fall_as_the_root_of_the_number_of_requests() -> None:
    rng = np.random.default_rng(4)
    limit = 3.0
    share = true_share_above(limit)
    percentile = 100 * (1 - share * 1.04)
    seen = replications(rng, 40)
    assert seen.verdict(percentile, limit) == "undecided"
    more = seen.requests_to_decide(percentile, limit)
    assert more is not None
    assert more > 0
    exactly = 100 * (1 - seen.share_above(limit).value)
    assert seen.requests_to_decide(exactly, limit) is None


@pytest.mark.parametrize("percentile", [5.0, 50.0, 99.0, 99.9])
@pytest.mark.parametrize("count", [1, 2, 40])
def test_ends_of_a_percentile_are_found_by_bisection_over_what_was_seen(percentile: float, count: int) -> None:
    seen = replications(np.random.default_rng(count), count, 300)
    pooled = np.sort(np.concatenate(seen.replications))
    over = 1 - percentile / 100

    def first(end: str) -> float | None:
        low, high = 0, len(pooled)
        while low < high:
            middle = (low + high) // 2
            if getattr(seen.share_above(float(pooled[middle])), end) <= over:
                high = middle
            else:
                low = middle + 1
        return float(pooled[low]) if low < len(pooled) else None

    found = seen.percentile_s(percentile)
    lower, upper = first("lower"), first("upper")
    assert found.lower == (None if lower is None else min(lower, found.value))
    assert found.upper == (None if upper is None else max(upper, found.value))
