"""Arrival processes have the rate, the variability and the course that they are asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from inferplan.spec.arrivals import Bursts, Source, arrival_times, day_curve
from inferplan.spec.trace import read_trace
from inferplan.spec.workload import Arrivals

BURSTY = Arrivals(process="mmpp", burst_factor=4.0, burst_s=2.0)
DAY = Arrivals(process="diurnal", period_s=50.0, peak_factor=1.8)


@pytest.mark.parametrize(
    ("arrivals", "cv"),
    [
        (Arrivals(process="poisson"), 1.0),
        (Arrivals(process="deterministic"), 0.0),
        (Arrivals(process="gamma", cv=0.4), 0.4),
        (Arrivals(process="gamma", cv=3.0), 3.0),
    ],
)
def test_mean_gap_and_its_variation(arrivals: Arrivals, cv: float) -> None:
    times = arrival_times(arrivals, 50.0, 2000.0, np.random.default_rng(1))
    gaps = np.diff(times)
    count = 100_000
    assert times[0] >= 0
    assert times[-1] < 2000
    assert (gaps >= 0).all()
    # Of a renewal process: sd of the count ~ cv sqrt(n), sd of the estimated cv below (1 + cv^2) / sqrt(n) or so.
    assert len(times) == pytest.approx(count, abs=5 * cv * count**0.5 + 1)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, abs=5 * (1 + cv**2) / count**0.5)


@pytest.mark.parametrize("process", [BURSTY, DAY, Arrivals(process="diurnal", period_s=50.0, peak_factor=6.0)])
def test_modulated_processes_keep_the_mean_rate_and_come_in_order(process: Arrivals) -> None:
    times = arrival_times(process, 50.0, 10_000.0, np.random.default_rng(1))
    assert (np.diff(times) >= 0).all()
    assert 0 <= times[0] < times[-1] < 10_000
    # The variance of an mmpp's count is that of Poisson times its index of dispersion, here about 225.
    assert len(times) == pytest.approx(500_000, abs=5 * (225 * 500_000) ** 0.5 if process is BURSTY else 4000)


def test_bursts_have_the_rates_lengths_and_share_that_are_documented() -> None:
    half = Bursts.of(BURSTY)
    assert half.share == pytest.approx(1 / 8)
    assert half.share * half.high == pytest.approx(0.5)
    assert half.share * half.high + (1 - half.share) * half.low == pytest.approx(1)
    given_share = Bursts.of(BURSTY.model_copy(update={"burst_share": 0.25}))
    assert (given_share.high, given_share.low, given_share.low_s) == (4.0, 0.0, pytest.approx(6.0))


def test_counts_of_an_mmpp_vary_as_theory_says() -> None:
    """Var N(t) = λt (1 + 2 (λ1 - λ2)² p (1 - p) / (λ θ) (1 - (1 - e^-θt) / θt)), θ = 1/high_s + 1/low_s."""
    bursts, rate, window = Bursts.of(BURSTY), 30.0, 4.0
    times = arrival_times(BURSTY, rate, 200_000.0, np.random.default_rng(3))
    counts = np.histogram(times, np.arange(0, 200_000.1, window))[0]
    theta, p = 1 / bursts.high_s + 1 / bursts.low_s, bursts.share
    swing = (bursts.high - bursts.low) ** 2 * p * (1 - p) * rate
    expected = 1 + 2 * swing / theta * (1 - (1 - np.exp(-theta * window)) / (theta * window))
    assert counts.var() / counts.mean() == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("peak", [1.2, 2.0, 3.0, 10.0])
def test_a_day_has_its_mean_and_its_peak_in_the_middle(peak: float) -> None:
    curve = day_curve(Arrivals(process="diurnal", period_s=1.0, peak_factor=peak))
    rates = curve((np.arange(100_000) + 0.5) / 100_000)
    assert rates.mean() == pytest.approx(1, abs=1e-3)
    assert rates.max() == pytest.approx(peak, rel=1e-6)
    assert rates.min() >= 0
    assert rates.argmax() == pytest.approx(50_000, abs=2)


def test_the_clock_says_where_in_the_day_it_starts() -> None:
    night, noon = (len(arrival_times(DAY, 100.0, 5.0, np.random.default_rng(0), clock)) for clock in (-2.5, 22.5))
    assert night == pytest.approx(5 * 100 * 0.2, rel=0.3)
    assert noon == pytest.approx(5 * 100 * 1.8, rel=0.1)


def test_a_rate_so_low_that_nothing_arrives() -> None:
    for process in (Arrivals(), Arrivals(process="deterministic"), BURSTY, DAY):
        assert len(arrival_times(process, 1e-9, 1.0, np.random.default_rng(0))) == 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"process": "mmpp", "burst_factor": 1.0, "burst_s": 1.0}, "above 1"),
        (
            {"process": "mmpp", "burst_factor": 4.0, "burst_s": 1.0, "burst_share": 0.3},
            "at most 1 / burst_factor = 0.25",
        ),
        ({"process": "mmpp", "burst_s": 1.0}, "needs burst_factor"),
        ({"process": "diurnal", "period_s": 60.0, "peak_factor": 0.5}, "above 1"),
        ({"process": "poisson", "burst_share": 0.5}, "has no burst_share"),
    ],
)
def test_impossible_processes_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Arrivals.model_validate(fields)


@given(
    gaps=st.lists(st.floats(0.01, 3.0), min_size=3, max_size=30),
    start=st.floats(-20, 50),
    end=st.floats(0.1, 100),
)
def test_a_trace_is_replayed_over_and_over_from_where_the_clock_stands(
    tmp_path_factory: pytest.TempPathFactory, gaps: list[float], start: float, end: float
) -> None:
    path = tmp_path_factory.mktemp("trace") / "t.csv"
    path.write_text("time_s\n" + "\n".join(repr(t) for t in (np.cumsum(gaps) - gaps[0]).tolist()))
    trace = read_trace(path)
    source = Source(Arrivals(), trace.rate_rps, trace)
    found = source.times_s(end, np.random.default_rng(0), start)
    first, last = int(start // trace.span_s) - 1, int((start + end) // trace.span_s) + 1
    every = np.concatenate([trace.times_s + k * trace.span_s for k in range(first, last + 1)]) - start
    expected = every[(every >= 0) & (every < end)]
    # An arrival on the very edge may round to either side.
    assert abs(len(found) - len(expected)) <= 1
    if len(found) == len(expected):
        np.testing.assert_allclose(found, expected, atol=1e-9)


def test_a_scaled_trace_is_as_much_faster(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("interval_s,count\n10,50\n10,150\n")
    trace = read_trace(tmp_path / "t.csv")
    fast = Source(Arrivals(), trace.rate_rps, trace).scaled(2.0)
    assert (fast.rate_rps, fast.cycle_s) == (20.0, 10.0)
    times = fast.times_s(10.0, np.random.default_rng(0))
    assert np.histogram(times, [0, 5, 10])[0].tolist() == [50, 150]
