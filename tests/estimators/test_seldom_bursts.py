"""Bursts that come less often than a replication is long: what replications did not see is not certified."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from inferplan.estimators.network import Network, Station
from inferplan.estimators.simulation import Effort, simulate
from inferplan.spec.workload import Arrivals

FEW = Effort(calls=400_000)
SELDOM = Arrivals(process="mmpp", burst_factor=3.0, burst_s=60.0, burst_share=0.01)
"""A burst in 100 minutes."""


@pytest.fixture
def network(station: Callable[..., Station], chain: Callable[..., Network]) -> Callable[[int], Network]:
    """Two classes of 100 requests a second share replicas that serve 100 each. Both have bursts of 300 a second."""

    def made(replicas: int) -> Network:
        both = chain([station("a", "a", [(1, 0.01)], replicas)], [], {"one": 100.0, "other": 100.0})
        return replace(both, streams=tuple(replace(s, arrivals=SELDOM, limit_s=0.5) for s in both.streams))

    return made


@pytest.mark.parametrize(("replicas", "verdict"), [(4, "undecided"), (8, "met")])
def test_what_is_met_without_bursts_has_to_be_met_in_them(
    network: Callable[[int], Network], replicas: int, verdict: str
) -> None:
    """Four replicas carry no burst, six one of each class: with eight nobody is late."""
    found = simulate(network(replicas), seed=0, effort=FEW)
    assert {one.verdict for one in found.streams.values()} == {verdict}
    assert all(one.late is not None and (one.late.upper or 1.0) < 0.01 for one in found.streams.values()), "none seen"
    assert any("bursts come less often" in note for note in found.notes)


def test_steady_traffic_is_certified_as_ever(network: Callable[[int], Network]) -> None:
    steady = network(4)
    steady = replace(steady, streams=tuple(replace(s, arrivals=Arrivals()) for s in steady.streams))
    assert simulate(steady, seed=1, effort=FEW).verdict == "met"
