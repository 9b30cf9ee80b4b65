"""Classes of few requests beside classes of many, simulated at higher rates: what that says, what it leaves alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from inferplan.estimators.fanout import ONE
from inferplan.estimators.network import Network, Station, Stream
from inferplan.estimators.simulation import Effort, simulate
from inferplan.estimators.simulation.rarity import NEGLIGIBLE, denser
from inferplan.spec.plan import Verdict
from inferplan.spec.workload import Arrivals

EFFORT = Effort(calls=4_000_000)
BUSY_RPS, RARE_RPS = 200.0, 0.05


@pytest.fixture
def network(station: Callable[..., Station], chain: Callable[..., Network]) -> Network:
    """Two stages. Both classes share the first, 80 % busy; at the second either has replicas of its own."""
    shared = station("a", "a", [(1, 0.01), (4, 0.028)], 2, cv=0.5)
    both = chain([shared, station("b", "b", [(1, 0.004)], 2)], [ONE], {"busy": BUSY_RPS, "rare": RARE_RPS})
    own = station("b-rare", "b", [(1, 0.005)], 1, cv=0.5)
    own = replace(own, variant="b")
    busy, rare = both.streams
    rare = replace(rare, routes={"a": (("a", 1.0),), "b": (("b-rare", 1.0),)})
    return replace(both, stations={**both.stations, "b-rare": own}, streams=(busy, rare))


def with_limits(network: Network, busy_s: float, rare_s: float) -> Network:
    limits = {"busy": busy_s, "rare": rare_s}
    return replace(network, streams=tuple(replace(s, limit_s=limits[s.name]) for s in network.streams))


@pytest.fixture(scope="module")
def long_p99() -> dict[str, tuple[float, float, float]]:
    """Filled by the first test that asks."""
    return {}


def p99_of(network: Network, seen: dict[str, tuple[float, float, float]]) -> tuple[float, float, float]:
    """The rare class's 99th percentile with its interval by brute force: 80 000 s at its own rate."""
    if not seen:
        result = simulate(network, 11, Effort(calls=40_000_000, counted_s=8000.0))
        latency = result.streams["rare"].latency_slo_s
        assert result.notes == ()
        assert latency is not None
        assert latency.lower is not None
        assert latency.upper is not None
        seen["rare"] = latency.value, latency.lower, latency.upper
    return seen["rare"]


def test_a_rare_class_sees_what_a_long_simulation_shows(
    network: Network, long_p99: dict[str, tuple[float, float, float]]
) -> None:
    _, low, high = p99_of(network, long_p99)
    result = simulate(network, 3, EFFORT)
    found = result.streams["rare"].latency_slo_s
    assert found is not None
    assert found.lower is not None
    assert found.upper is not None
    # Both are intervals of 99 % of the same.
    assert found.lower <= high
    assert low <= found.upper
    assert result.streams["rare"].requests > 10 * RARE_RPS * result.counted_s * result.replications
    assert any("higher rate" in note and "rare" in note for note in result.notes)
    assert result.stations["b-rare"].load_rps == pytest.approx(RARE_RPS)


@pytest.mark.parametrize(("times", "verdict"), [(1.4, "met"), (0.6, "missed")])
def test_it_is_decided_like_any_other(
    network: Network, long_p99: dict[str, tuple[float, float, float]], times: float, verdict: Verdict
) -> None:
    value, _, _ = p99_of(network, long_p99)
    assert simulate(with_limits(network, 1.0, times * value), 3, EFFORT).streams["rare"].verdict == verdict


def test_what_only_the_load_added_breaks_is_not_missed(network: Network) -> None:
    """Just within the limit: with more load it may not be met, but missed it must not be."""
    found = simulate(with_limits(network, 1.0, 1.0), 3, EFFORT).streams["busy"].latency_slo_s
    assert found is not None
    tight = with_limits(network, found.value * 0.999, 1.0)
    assert simulate(tight, 3, EFFORT).streams["busy"].verdict != "missed"


def test_next_to_no_load_is_added_and_less_is_left_where_classes_share(network: Network) -> None:
    found = denser(network, {"rare": 1000.0, "busy": 0.1})
    assert found is not None
    assert set(found.factors) == {"rare"}
    before, after, less = (one.loads_rps() for one in (network, found.network, found.lighter))
    for name, station in network.stations.items():
        assert before[name] <= after[name] <= before[name] + NEGLIGIBLE * station.capacity_rps * (1 + 1e-9)
    assert less["a"] <= before["a"] * (1 + 1e-9)
    assert found.own == pytest.approx((after["b-rare"] - before["b-rare"]) / network.stations["b-rare"].capacity_rps)


def test_only_classes_that_come_at_random_and_are_few_are_simulated_so(network: Network) -> None:
    busy, rare = network.streams

    def with_rare(other: Stream) -> Network:
        return replace(network, streams=(busy, other))

    assert (
        denser(with_rare(replace(rare, arrivals=Arrivals(process="mmpp", burst_factor=2.0, burst_s=1.0))), {"rare": 9})
        is None
    )
    assert denser(with_rare(replace(rare, rate_rps=20.0)), {"rare": 9.0}) is None
    assert denser(network, {"rare": 1.0}) is None
    assert denser(network, {"rare": 9.0}) is not None
