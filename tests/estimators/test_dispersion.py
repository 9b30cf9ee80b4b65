"""Dispersion is what theory or counting says, and estimates with it are near the simulation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from inferplan.estimators.dispersion import Unevenness, together, unevenness_of
from inferplan.estimators.network import Network, Station
from inferplan.estimators.queueing import Arrivals as Load
from inferplan.estimators.queueing import Demand, estimate
from inferplan.estimators.simulation import Effort, simulate
from inferplan.estimators.simulation.scenario import traced
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
    uneven = unevenness_of(source)
    return Load(source.rate_rps, uneven.scv, curve=uneven.dispersion, peak_factor=uneven.peak_factor)


def test_renewal_processes_keep_their_variation() -> None:
    assert unevenness_of(Source(Arrivals(), 5.0)) == Unevenness(1.0)
    assert unevenness_of(Source(Arrivals(process="deterministic"), 5.0)).scv == 0
    assert unevenness_of(Source(Arrivals(process="gamma", cv=2.0), 5.0)).scv == 4
    assert unevenness_of(Source(Arrivals(process="diurnal", period_s=9.0, peak_factor=1.5), 5.0)).peak_factor == 1.5


def test_dispersion_of_bursts_is_what_their_counts_have() -> None:
    process = bursts(3.0, 1.0)
    curve = unevenness_of(Source(process, 40.0)).dispersion
    assert curve is not None
    times = arrival_times(process, 40.0, 100_000.0, np.random.default_rng(1))
    for window in (0.1, 1.0, 10.0):
        counts = np.histogram(times, np.arange(0, 100_000.0 + window / 2, window))[0]
        assert float(curve.over(np.array([window]))[0]) == pytest.approx(counts.var() / counts.mean(), rel=0.1)


def test_a_trace_has_the_dispersion_of_the_process_it_was_drawn_from() -> None:
    process = bursts(3.0, 1.0)
    theory = unevenness_of(Source(process, 40.0)).dispersion
    trace = trace_of(process, 40.0, 20_000.0)
    counted = unevenness_of(Source(Arrivals(), trace.rate_rps, trace))
    assert theory is not None
    assert counted.dispersion is not None
    for window in (0.1, 1.0, 10.0):
        at = np.array([window])
        assert float(counted.dispersion.over(at)[0]) == pytest.approx(float(theory.over(at)[0]), rel=0.15)
    assert counted.peak_factor == pytest.approx(1, abs=0.15)
    steady = trace_of(Arrivals(), 40.0, 1000.0)
    even = unevenness_of(Source(Arrivals(), steady.rate_rps, steady))
    assert even.dispersion is not None
    assert even.dispersion.values == pytest.approx([1.0] * len(even.dispersion.values), abs=0.25)


def test_the_slow_changes_of_a_trace_are_its_peak() -> None:
    trace = trace_of(Arrivals(process="diurnal", period_s=1000.0, peak_factor=1.8), 40.0, 1000.0)
    found = unevenness_of(Source(Arrivals(), trace.rate_rps, trace))
    assert found.peak_factor == pytest.approx(1.8, rel=0.1)
    assert found.dispersion is not None
    # What the rate changes within a part is little.
    assert found.dispersion.values[0] == pytest.approx(1, abs=0.1)


def test_streams_add_up_by_their_rates() -> None:
    poisson, bursty = Unevenness(), unevenness_of(Source(bursts(3.0, 1.0), 30.0))
    assert together([(10.0, poisson), (30.0, poisson)]) == poisson
    both = together([(10.0, poisson), (30.0, bursty)])
    assert both.dispersion is not None
    assert bursty.dispersion is not None
    at = np.array([2.0])
    expected = 0.25 + 0.75 * float(bursty.dispersion.over(at)[0])
    assert float(both.dispersion.over(at)[0]) == pytest.approx(expected, rel=0.02)


def test_a_constant_dispersion_gives_what_it_gives_without_a_curve(
    station: Callable[..., Station],
) -> None:
    """Robust queueing with a constant index is the formula itself."""
    served = station("s", "s", [(1, S), (4, 2 * S)], 2, cv=0.5)
    assert served.service is not None
    flat = unevenness_of(Source(bursts(1.0 + 1e-9, 1.0), 1.0)).dispersion
    plain, curved = (
        estimate([Demand(served.service, 4, 0.0, (2, 3), Load(250.0, curve=curve))]) for curve in (None, flat)
    )
    assert curved.wait_mean_s == pytest.approx(plain.wait_mean_s, rel=0.02)


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
    assert seen.latency_p99_s.value <= 1.1 * found.quantile_s(0.99)[0] <= 1.6 * seen.latency_p99_s.value


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
