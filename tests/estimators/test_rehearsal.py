"""Rehearsals: what other stations at one stage would change, told from replications that were kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from inferplan.estimators.fanout import ONE, law_of_mean
from inferplan.estimators.network import Network, Station
from inferplan.estimators.simulation import Chance, Effort, replicate, simulate
from inferplan.estimators.simulation.rehearsal import Rehearsal

EFFORT = Effort(calls=60_000)
SLOW, FAST = [(1, 0.03), (4, 0.06)], [(1, 0.02), (2, 0.03)]


@pytest.fixture
def network(station: Callable[..., Station], chain: Callable[..., Network]) -> Network:
    """Three stages that batch, two classes; every call of the first stage makes two of the second."""
    stages = [station(name, name, SLOW, 3, cv=0.3) for name in "abc"]
    return chain(stages, [law_of_mean(2), ONE], {"x": 15.0, "y": 5.0})


def with_station(network: Network, name: str, other: Station) -> Network:
    return replace(network, stations={**network.stations, name: other})


@pytest.mark.parametrize("stage", ["a", "b", "c"])
def test_what_does_not_change_is_what_was_simulated(network: Network, stage: str) -> None:
    rehearsal = Rehearsal.of(network, 3, EFFORT, 2)
    seen = rehearsal.latencies(network, stage)
    for name, latencies in seen.items():
        for own, (_, run) in zip(latencies.replications, rehearsal.runs, strict=True):
            assert own == pytest.approx(np.sort(run.latencies_s[name]), rel=1e-9)


def test_a_change_of_the_last_stage_is_told_exactly(network: Network, station: Callable[..., Station]) -> None:
    changed = with_station(network, "c", station("c", "c", FAST, 4, delay_s=0.001))
    chance = Chance(3, 0)
    kept = replicate(network, chance, 60.0, 5.0)
    seen = Rehearsal(((chance, kept),)).latencies(changed, "c")
    for name, latencies_s in replicate(changed, chance, 60.0, 5.0).latencies_s.items():
        assert seen[name].replications[0] == pytest.approx(np.sort(latencies_s), rel=1e-12)
        assert not np.array_equal(latencies_s, kept.latencies_s[name])


@pytest.mark.parametrize("stage", ["a", "b"])
def test_a_change_further_up_is_told_about_right(network: Network, station: Callable[..., Station], stage: str) -> None:
    changed = with_station(network, stage, station(stage, stage, [(1, 0.1), (4, 0.12)], 4, cv=0.3))
    about = Rehearsal.of(network, 3, EFFORT, 4).latencies(changed, stage)
    before, after = simulate(network, 3, EFFORT), simulate(changed, 3, EFFORT)
    for name, latencies in about.items():
        was, became = (result.streams[name].latency_slo_s for result in (before, after))
        assert was is not None
        assert became is not None
        told = latencies.percentile_s(99.0).value
        assert became.value > 1.3 * was.value
        assert told == pytest.approx(became.value, rel=0.1)


def test_what_sheds_less_answers_more(network: Network) -> None:
    """Calls that were never made take no time, whatever happens above them."""
    full = replace(network.stations["a"], replicas=1, queue_limit=1)
    rehearsal = Rehearsal.of(with_station(network, "a", full), 3, EFFORT, 1)
    shed = rehearsal.latencies(with_station(network, "a", full), "a")["x"]
    kept = rehearsal.latencies(network, "a")["x"]
    assert shed.answered().requests < shed.requests
    assert kept.answered().requests == kept.requests
