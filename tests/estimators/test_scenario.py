"""Failures, returns, added replicas, more and other traffic."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest

from inferplan.estimators.network import Network, Outage, Station
from inferplan.estimators.service import ServiceModel, ServicePoint
from inferplan.estimators.simulation import Chance, Effort, replicate, simulate
from inferplan.estimators.simulation.scenario import Failure, Start, happening, load_s, scaled, traced
from inferplan.spec.errors import InputError
from inferplan.spec.rows import Measurement, PointKey, Quantiles
from inferplan.spec.trace import Trace
from inferplan.spec.workload import Arrivals

Make = Callable[..., Network]
MakeStation = Callable[..., Station]
KEY = PointKey("s", "v", "", "", "", "onnxruntime", "1", "{}", "cpu", "edge/cpu", "f", 1, 1, "{}")


def loading(station: Station, seconds: float | None) -> Station:
    """The same station, whose replicas were measured to take this long to load."""
    assert station.service is not None
    row = Measurement(KEY, "ok", "", n=1000, service=Quantiles(mean_s=0.1), load_s=seconds)
    points = tuple(ServicePoint(p.batch, p.mean_s, p.std_s, row=row) for p in station.service.points)
    return dataclasses.replace(station, service=ServiceModel(points))


def test_a_failed_replica_loses_its_batch_and_comes_back(station: MakeStation, single: Make) -> None:
    """Calls every second, of 0.6 s each: the one under way at 10.2 s is lost, those until 13 s wait for the return."""
    network = single(station("s", "s", [(1, 0.6)]), 1.0, Arrivals(process="deterministic"))
    failed = happening(network, [Failure("s", 0, 10.2, 2.8)])
    run = replicate(failed, Chance(0, 0), 40.0, 0.0)
    times, served = run.served["s"]
    lost = times[~np.isfinite(served.done_s)]
    # With its random phase the stream may have no call under way just then.
    assert len(lost) == (1 if times[0] % 1 <= 0.2 or times[0] % 1 > 0.6 else 0)
    waited = times[(times > 10.2) & (times < 13.0)]
    first = served.done_s[np.searchsorted(times, waited[0])]
    assert first == pytest.approx(13.6)
    assert np.isfinite(served.done_s[times > 10.3]).all()


def test_without_a_return_everything_is_lost_with_the_last_replica(station: MakeStation, single: Make) -> None:
    network = happening(single(station("s", "s", [(1, 0.1)]), 2.0), [Failure("s", 0, 5.0)])
    assert network.unstable() == ("s: 2 calls/s reach it, its capacity is 0",)
    run = replicate(network, Chance(0, 0), 20.0, 0.0)
    times, served = run.served["s"]
    assert not np.isfinite(served.done_s[times >= 5.0]).any()
    assert np.isinf(run.latencies_s["c"]).sum() == np.isinf(served.done_s).sum()


def test_load_is_the_time_that_was_measured(station: MakeStation, single: Make) -> None:
    served = loading(station("s", "s", [(1, 0.1)], n=2), 3.0)
    network = happening(single(served, 2.0), [Failure("s", 1, 5.0, None)], [Start("s", 1.0)])
    assert network.stations["s"].replicas == 3
    assert network.stations["s"].outages == (Outage(1, 5.0, 8.0), Outage(2, -math.inf, 4.0))
    assert network.stations["s"].capacity_at_rps(-math.inf) == pytest.approx(20)
    assert network.stations["s"].capacity_at_rps(6.0) == pytest.approx(20)
    assert network.stations["s"].capacity_at_rps(math.inf) == pytest.approx(30)
    with pytest.raises(InputError, match="does not say how long a replica takes to load"):
        load_s(loading(served, None))


def test_outages_that_touch_are_one(station: MakeStation, single: Make) -> None:
    network = single(station("s", "s", [(1, 0.1)], n=2), 2.0)
    failures = [Failure("s", 0, 5.0, 3.0), Failure("s", 0, 8.0, 1.0), Failure("s", 1, 6.0, 1.0), Failure("s", 0, 20.0)]
    found = happening(network, failures).stations["s"].outages
    assert found == (Outage(0, 5.0, 9.0), Outage(0, 20.0, math.inf), Outage(1, 6.0, 7.0))


def test_what_does_not_exist_is_said(station: MakeStation, single: Make) -> None:
    network = single(station("s", "s", [(1, 0.1)], n=2), 2.0)
    with pytest.raises(InputError, match="there is no option 'x' with replicas; there are: s"):
        happening(network, [Failure("x", 0, 1.0)])
    with pytest.raises(InputError, match="has 2 replicas, numbered from 0: there is no #2"):
        happening(network, [Failure("s", 2, 1.0)])
    with pytest.raises(InputError, match="there is no class 'y'; there are: c"):
        traced(network, "y", Trace(1.0, np.array([0.5]), np.zeros(1), np.zeros(0, np.int64), ""))


def test_failures_cost_and_the_counted_time_covers_them(station: MakeStation, single: Make) -> None:
    network = single(station("s", "s", [(1, 0.01)], n=2, cv=0.5), 120.0, limit_s=0.2)
    whole = simulate(network, effort=Effort(200_000, 40))
    broken = simulate(happening(network, [Failure("s", 0, 20.0, 10.0)]), effort=Effort(200_000))
    assert broken.counted_s >= 60
    assert whole.verdict == "met"
    assert broken.verdict == "missed"
    assert broken.streams["c"].unanswered == broken.stations["s"].lost > 0
    # Utilisation is of the time that replicas were up: 10 s of one of them are missing.
    up = 1 - 10 / (2 * broken.counted_s)
    assert broken.stations["s"].utilisation == pytest.approx(120 * 0.01 / 2 / up, rel=0.05)


def test_more_than_memory_holds_is_refused(station: MakeStation, single: Make) -> None:
    network = single(station("s", "s", [(1, 0.001)], n=30), 20_000.0, limit_s=0.2)
    with pytest.raises(InputError, match=r"3600 s .* 1.44e\+08 requests and stage calls in one replication"):
        simulate(network, effort=Effort(counted_s=3600.0))
    late = happening(network, [Failure("s", 0, 1e9, 10.0)])
    with pytest.raises(InputError, match="be over within 5"):
        simulate(late)


def test_a_replica_that_is_added_makes_an_overload_end(station: MakeStation, single: Make) -> None:
    served = loading(station("s", "s", [(1, 0.01)], n=1, cv=0.5), 2.0)
    network = single(served, 150.0, limit_s=0.15)
    assert simulate(network).unstable
    late = [
        simulate(happening(network, [], [Start("s", at)]), effort=Effort(200_000, counted_s=60.0)).streams["c"].late
        for at in (0.0, 4.0)
    ]
    assert late[0] is not None
    assert late[1] is not None
    # Queues grow by 50 a second until the second replica has loaded, and shrink by 50 a second from then on.
    assert late[0].value == pytest.approx((2 + 2) / 60, abs=0.02)
    assert late[1].value == pytest.approx((6 + 6) / 60, abs=0.02)


def test_scaled_traffic(station: MakeStation, single: Make) -> None:
    network = single(station("s", "s", [(1, 0.01)]), 10.0)
    assert scaled(network, 3.0).loads_rps() == {"s": pytest.approx(30)}
    trace = Trace(10.0, np.arange(50) / 5, np.zeros(1), np.zeros(0, np.int64), "")
    fast = scaled(traced(network, "c", trace), 2.0)
    assert fast.loads_rps() == {"s": pytest.approx(10)}
    run = replicate(fast, Chance(0, 0), 5.0, 0.0)
    np.testing.assert_allclose(run.entries_s["c"], np.arange(50) / 10)
