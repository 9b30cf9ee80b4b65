"""Analytic estimates: exact where theory is, stable exactly below capacity, near the simulation elsewhere."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferplan.estimators.fanout import FanOutLaw
from inferplan.estimators.network import Network, Station
from inferplan.estimators.queueing import Arrivals, Demand, capacity_rps, estimate
from inferplan.estimators.service import ServiceModel, ServicePoint
from inferplan.estimators.simulation import Effort, simulate


def erlang_c(n: int, offered: float) -> float:
    top = offered**n / math.factorial(n) / (1 - offered / n)
    return top / (sum(offered**j / math.factorial(j) for j in range(n)) + top)


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("rho", [0.2, 0.7, 0.95])
def test_mmn_wait_is_exact(n: int, rho: float, model: Callable[..., ServiceModel]) -> None:
    load = rho * n / 0.01
    found = estimate([Demand(model([(1, 0.01)], cv=1.0), 1, 0.0, (n,), Arrivals(load))])
    wait = erlang_c(n, rho * n)
    assert found.wait_probability[0] == pytest.approx(wait, rel=1e-6)
    assert found.wait_mean_s[0] == pytest.approx(0.01 / (n * (1 - rho)), rel=1e-6)
    if n == 1:
        # Sojourn of M/M/1 is exponential; the grid of service times costs a little.
        assert found.quantile_s(0.99)[0] == pytest.approx(math.log(100) * 0.01 / (1 - rho), rel=0.05)


@pytest.mark.parametrize("cv", [0.0, 0.5, 1.5])
def test_mg1_mean_wait_is_pollaczek_khinchine(cv: float, model: Callable[..., ServiceModel]) -> None:
    found = estimate([Demand(model([(1, 0.01)], cv=cv), 1, 0.0, (1,), Arrivals(80.0))])
    assert found.wait_probability[0] * found.wait_mean_s[0] == pytest.approx(
        80 * 0.01**2 * (1 + cv**2) / (2 * (1 - 0.8)), rel=1e-6
    )


@given(
    times=st.lists(st.floats(0.001, 0.1), min_size=1, max_size=4),
    n=st.integers(1, 6),
    share=st.floats(0.01, 1.5),
    group=st.integers(1, 9),
)
def test_stability_is_exact(times: list[float], n: int, share: float, group: int) -> None:
    service = ServiceModel(tuple(ServicePoint(2**i, t) for i, t in enumerate(np.cumsum(times).tolist())))
    batch = service.max_batch
    load = share * capacity_rps(service, batch, n)
    found = estimate([Demand(service, batch, 0.0, (n,), Arrivals(load, 1.0, FanOutLaw((group,), (1.0,))))])
    assert found.utilisation[0] == pytest.approx(share)
    assert math.isfinite(found.quantile_s(0.99)[0]) == (found.utilisation[0] < 1)


@given(load=st.floats(1, 500), cv=st.floats(0, 1))
def test_more_replicas_never_wait_longer(load: float, cv: float) -> None:
    service = ServiceModel(tuple(ServicePoint(b, 0.01 * (0.3 + 0.7 * b), 0.01 * cv) for b in (1, 2, 4, 8)))
    found = estimate([Demand(service, 8, 0.0, tuple(range(1, 12)), Arrivals(load))])
    stable = found.utilisation < 1
    tails = found.quantile_s(0.99)[stable]
    # Batches get smaller as replicas join, and measured spread need not: five per cent either way.
    assert np.all(np.diff(tails) <= 0.05 * tails[:-1])


@pytest.mark.parametrize("rho", [0.3, 0.6, 0.85])
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("times", [[(1, 0.01)], [(1, 0.01), (4, 0.02), (8, 0.03)], [(1, 0.01), (8, 0.07)]])
def test_tail_is_near_the_simulation(
    rho: float,
    n: int,
    times: list[tuple[int, float]],
    station: Callable[..., Station],
    single: Callable[..., Network],
) -> None:
    served = station("s", "s", times, n, cv=0.2)
    assert served.service is not None
    load = rho * served.capacity_rps
    found = estimate([Demand(served.service, served.max_batch, 0.0, (n,), Arrivals(load))])
    seen = simulate(single(served, load), effort=Effort(100_000)).streams["c"]
    assert found.quantile_s(0.99)[0] == pytest.approx(seen.latency_p99_s.value, rel=0.45)


def test_a_batch_waits_for_its_delay_only_while_it_is_not_full(model: Callable[..., ServiceModel]) -> None:
    service = model([(1, 0.01), (8, 0.02)])
    slow, fast = (Demand(service, 8, 0.05, (4,), Arrivals(load)) for load in (1.0, 1500.0))
    assert estimate([slow]).fill_tail_s[0] == pytest.approx(0.05)
    assert estimate([fast]).fill_tail_s[0] < 0.02


def test_many_demands_at_once_give_what_each_gives_alone(model: Callable[..., ServiceModel]) -> None:
    demands = [
        Demand(model([(1, 0.01)], cv=0.5), 1, 0.0, (1, 2), Arrivals(50.0)),
        Demand(model([(1, 0.01), (4, 0.02)], cv=0.1), 4, 0.01, (1, 3), Arrivals(90.0, 2.0, FanOutLaw((5,), (1.0,)))),
    ]
    together = estimate(demands)
    alone = np.concatenate([estimate([demand]).quantile_s(0.9) for demand in demands])
    assert together.quantile_s(0.9) == pytest.approx(alone)
