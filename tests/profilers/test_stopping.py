"""When measuring stops, and what counts as warm-up."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferplan.profilers.stopping import StoppingRule, cold_start, warmup_end
from inferplan.spec.workload import ProfileSettings


def test_the_rule_is_the_workloads() -> None:
    rule = StoppingRule.of(ProfileSettings(percentile=99.0, processes=3, min_time_s=2.0, max_time_s=30.0))
    assert (rule.least_n, rule.processes, rule.min_time_s, rule.max_time_s) == (662, 3, 2.0, 30.0)


def test_a_time_budget_shortens_both_times() -> None:
    rule = StoppingRule.of(ProfileSettings(min_time_s=2.0, max_time_s=30.0), limit_s=0.5)
    assert (rule.min_time_s, rule.limit_s, rule.max_time_s) == (0.5, 0.5, 30.0)


def test_a_time_budget_leaves_enough_for_a_median_but_the_longest_time_ends_it() -> None:
    rule = StoppingRule.of(ProfileSettings(min_time_s=2.0, max_time_s=30.0), limit_s=0.5)
    assert not rule.is_over(10, 0.6)
    assert rule.is_over(11, 0.6)
    assert rule.is_over(1, 30.0)
    assert rule.left_s(10, 0.6) == pytest.approx(29.4)
    assert rule.left_s(11, 0.2) == pytest.approx(0.3)
    assert rule.left_s(11, 0.6) == 0.0


def test_a_little_more_than_what_is_missing_is_asked_for() -> None:
    rule = StoppingRule(662, 3, 1.0, 10.0, limit_s=2.0, floor_n=11)
    assert rule.wanted_n(0, 0.0) == 662 + 66
    assert rule.wanted_n(5, 2.5) == 6
    assert rule.wanted_n(900, 0.5) == 1


@given(least_n=st.integers(1, 10_000), processes=st.integers(1, 20))
def test_shares_add_up(least_n: int, processes: int) -> None:
    rule = StoppingRule(least_n, processes, 1.0, 10.0)
    shares = [rule.share(process) for process in range(processes)]
    assert sum(share.least_n for share in shares) == least_n
    assert sum(share.min_time_s for share in shares) == pytest.approx(1.0)


def test_both_count_and_time_are_needed() -> None:
    rule = StoppingRule(100, 1, 1.0, 10.0)
    assert rule.is_met(100, 1.0)
    assert not rule.is_met(99, 5.0)
    assert not rule.is_met(1000, 0.9)


@pytest.mark.parametrize("length", [30, 100, 400])
def test_a_slow_start_is_cut_off(length: int) -> None:
    generator = np.random.default_rng(length)
    decay = 1 + 4 * np.exp(-np.arange(10 * length) / (length / 3))
    cut = warmup_end(decay * generator.normal(1, 0.02, 10 * length))
    assert length / 2 <= cut <= 4 * length


def test_a_steady_series_keeps_nearly_all() -> None:
    """Over 200 steady series with rare slow calls the cut takes under 2 % of batches on the mean."""
    cuts = []
    for seed in range(200):
        generator = np.random.default_rng(seed)
        times = generator.lognormal(0, 0.1, 1000) + 20 * (generator.random(1000) < 0.01)
        cuts.append(warmup_end(times))
    assert np.mean(cuts) < 20


def test_one_slow_call_at_the_start_is_cut_without_the_rest() -> None:
    times = np.ones(40)
    times[0] = 50.0
    assert warmup_end(times) == 1


def test_a_speed_up_late_on_is_no_warm_up_beyond_half() -> None:
    times = np.concatenate([np.full(80, 2.0), np.full(20, 1.0)])
    assert warmup_end(times) <= 50


def test_a_series_that_gets_slower_is_not_cut() -> None:
    assert warmup_end(np.linspace(1.0, 2.0, 300)) == 0


def test_too_few_batches_to_tell_are_all_kept() -> None:
    assert warmup_end(np.array([9.0, 1.0, 1.0, 1.0, 1.0])) == 0


def test_slow_first_calls_of_all_processes_are_warm_up_where_there_are_few_calls() -> None:
    """As measured: detection of large pages in batches of eight, three calls in each of three processes."""
    processes = [np.array([1.281, 0.428, 0.439]), np.array([1.302, 0.441, 0.437]), np.array([1.254, 0.430, 0.435])]
    assert all(warmup_end(times) == 0 for times in processes), "too few to tell by themselves"
    assert cold_start(processes)
    assert not cold_start([*processes[:2], np.array([0.44, 0.43, 0.435])]), "not in every process"
    assert not cold_start([*processes[:2], np.array([1.3, 0.43, 1.29])]), "later ones are as slow"
    assert not cold_start([*processes[:2], np.array([1.3])])
    assert not cold_start(processes[:1])
    assert not cold_start([np.array([1.01, 1.0]), np.array([1.01, 1.0])]), "hardly slower"


def test_first_calls_that_are_nothing_special_are_hardly_ever_taken_for_warm_up() -> None:
    rng = np.random.default_rng(5)
    found = sum(cold_start([rng.lognormal(0, 0.2, 3) for _ in range(3)]) for _ in range(4000))
    assert found / 4000 == pytest.approx(1 / 84, abs=0.006)
