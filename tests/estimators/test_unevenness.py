"""Bursts are estimated as theory has them in the limit, and all kinds near the simulation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from inferplan.estimators.network import Network, Station
from inferplan.estimators.queueing import Arrivals as Load
from inferplan.estimators.queueing import Demand, estimate
from inferplan.estimators.simulation import Effort, simulate
from inferplan.estimators.simulation.scenario import traced
from inferplan.estimators.unevenness import BurstLoad, Course, Unevenness, unevenness_of
from inferplan.spec.arrivals import Source, arrival_times
from inferplan.spec.trace import Trace
from inferplan.spec.workload import Arrivals

S = 0.01


def bursts(factor: float, length_s: float) -> Arrivals:
    return Arrivals(process="mmpp", burst_factor=factor, burst_s=length_s)


def trace_of(process: Arrivals, rate_rps: float, span_s: float) -> Trace:
    times = arrival_times(process, rate_rps, span_s, np.random.default_rng(5))
    return Trace(span_s, times, np.zeros(1), np.zeros(0, np.int64), "")


def load_of(source: Source) -> Load:
    found = unevenness_of(source)
    parts = () if found.uneven is None else ((1.0, found.uneven),)
    return Load(source.rate_rps, found.scv, uneven=parts, peak_factor=found.peak_factor)


def test_renewal_processes_keep_their_variation() -> None:
    assert unevenness_of(Source(Arrivals(), 5.0)) == Unevenness(1.0)
    assert unevenness_of(Source(Arrivals(process="deterministic"), 5.0)).scv == 0
    assert unevenness_of(Source(Arrivals(process="gamma", cv=2.0), 5.0)).scv == 4
    assert unevenness_of(Source(Arrivals(process="diurnal", period_s=9.0, peak_factor=1.5), 5.0)).peak_factor == 1.5


def test_without_bursts_nothing_is_longer_and_with_slow_ones_it_is_the_fluid_queue() -> None:
    """Fluid queues decay as exp(-(q1 / (λ1 - C) - q2 / (C - λ2)) x), x in calls."""
    one = np.ones(1)
    even = BurstLoad(0.7 * one, 0.7 * one, 0.01 * one, 0.01 * one, one, one)
    assert even.longer() == pytest.approx([1.0])
    high, low, leave_high, leave_low = 1.8, 0.4, 1e-5, 2e-6
    bursty = BurstLoad(high * one, low * one, leave_high * one, leave_low * one, one, one)
    mean = bursty.share[0] * high + (1 - bursty.share[0]) * low
    fluid = leave_high / (high - 1) - leave_low / (1 - low)
    assert bursty.longer()[0] == pytest.approx(2 * (1 - mean) / (mean + 1) / fluid, rel=1e-3)


def test_the_waits_of_a_course_are_those_of_a_queue() -> None:
    trace = trace_of(Arrivals(), 40.0, 300.0)
    course = Course.of(trace)
    free, waits = 0.0, []
    for at in trace.times_s.tolist():
        waits.append(max(free - at, 0.0))
        free = max(free, at) + 1 / 55
    np.testing.assert_allclose(course.waits_s(trace.rate_rps, 55.0), waits, atol=1e-9)
    thinned = Course.of(trace_of(Arrivals(), 400.0, 300.0))
    assert thinned.each == 8
    assert len(thinned.times_s) <= 16_384


@pytest.mark.parametrize("rho", [0.4, 0.6, 0.75])
@pytest.mark.parametrize("factor", [1.5, 3.0])
@pytest.mark.parametrize("length_s", [0.05, 0.5, 5.0])
def test_bursts_are_estimated_within_a_factor(
    rho: float, factor: float, length_s: float, station: Callable[..., Station], single: Callable[..., Network]
) -> None:
    """The 99th percentile to within a factor of 2.5, where bursts are short, long, and beyond capacity."""
    served = station("s", "s", [(1, S)], cv=0.5)
    assert served.service is not None
    source = Source(bursts(factor, length_s), rho / S)
    found = estimate([Demand(served.service, 1, 0.0, (1,), load_of(source))]).quantile_s(0.99)[0]
    seen = simulate(single(served, rho / S, source.process), effort=Effort(400_000, 40)).streams["c"]
    assert found / seen.latency_p99_s.value == pytest.approx(1, rel=1.5)
    assert seen.latency_p99_s.value / found == pytest.approx(1, rel=1.5)


def test_days_are_estimated_at_their_peak(station: Callable[..., Station], single: Callable[..., Network]) -> None:
    served = station("s", "s", [(1, S)], cv=0.5)
    assert served.service is not None
    source = Source(Arrivals(process="diurnal", period_s=100.0, peak_factor=1.6), 50.0)
    found = estimate([Demand(served.service, 1, 0.0, (1,), load_of(source))])
    assert found.utilisation[0] == pytest.approx(0.8)
    seen = simulate(single(served, 50.0, source.process), effort=Effort(400_000, 40)).streams["c"]
    assert seen.latency_p99_s.value <= 1.1 * found.quantile_s(0.99)[0] <= 2.0 * seen.latency_p99_s.value


def test_a_trace_is_estimated_like_the_process_it_was_drawn_from(
    station: Callable[..., Station], single: Callable[..., Network]
) -> None:
    served = station("s", "s", [(1, S)], cv=0.5)
    assert served.service is not None
    trace = trace_of(bursts(2.0, 0.5), 60.0, 500.0)
    found = estimate(
        [Demand(served.service, 1, 0.0, (1,), load_of(Source(Arrivals(), trace.rate_rps, trace)))]
    ).quantile_s(0.99)[0]
    seen = simulate(traced(single(served, 60.0), "c", trace), effort=Effort(400_000, 40)).streams["c"]
    assert found / seen.latency_p99_s.value == pytest.approx(1, rel=1.0)
    assert seen.latency_p99_s.value / found == pytest.approx(1, rel=1.0)
