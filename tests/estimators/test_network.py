"""From a plan document to a network of queues."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from inferplan.estimators.fanout import FanOutLaw, law_of_mean
from inferplan.estimators.network import Network, Stalls, Station, pauses_of, stage_order, stalls_of
from inferplan.spec.workload import Workload


def test_loads_multiply_by_the_fan_out(station: Callable[..., Station], chain: Callable[..., Network]) -> None:
    stations = [station(name, name, [(1, 0.001)]) for name in "abc"]
    network = chain(stations, [law_of_mean(3), FanOutLaw((0, 1), (0.5, 0.5))], {"x": 10.0, "y": 5.0})
    assert network.loads_rps() == pytest.approx({"a": 15.0, "b": 45.0, "c": 22.5})
    assert network.unstable() == ()


def test_unstable_stations_are_named_with_both_figures(
    station: Callable[..., Station], single: Callable[..., Network]
) -> None:
    network = single(station("s", "s", [(1, 0.01), (4, 0.02)], n=2), 400.0)
    assert network.unstable() == ("s: 400 calls/s reach it, its capacity is 400",)
    assert single(station("s", "s", None), 1e9).unstable() == ()


def test_stalls_are_pooled_and_short_ones_left_out(station: Callable[..., Station]) -> None:
    """Seen in 2 s and in 3 s; a request's stages take 10 and 30 ms, so what is under 0.4 ms is not worth simulating."""

    def seen(name: str, mean_s: float, stalls: tuple[float, ...], watched_s: float) -> Station:
        plain = station(name, name, [(1, mean_s)])
        assert plain.service is not None
        return replace(plain, service=replace(plain.service, stalls=stalls, watched_s=watched_s))

    both = [seen("a", 0.01, (1e-4, 5e-4, 2e-3), 2.0), seen("b", 0.03, (3e-4, 4e-3), 3.0)]
    assert stalls_of(both) == Stalls(3 / 5, (5e-4, 2e-3, 4e-3))
    assert stalls_of([seen("a", 0.01, (), 2.0)]) is None
    assert stalls_of([station("a", "a", [(1, 0.01)]), station("s", "s", None)]) is None


def test_replicas_stall_as_they_did_where_they_were_measured(station: Callable[..., Station]) -> None:
    plain = station("a", "a", [(1, 0.01)])
    assert plain.service is not None
    seen = replace(plain, service=replace(plain.service, replica_stalls=(4e-3, 5e-5, 1e-3), watched_s=4.0))
    assert pauses_of(seen) == Stalls(0.5, (1e-3, 4e-3))
    assert pauses_of(plain) is None
    assert pauses_of(station("s", "s", None)) is None


def test_stage_order_does_not_depend_on_the_document() -> None:
    def spec(stages: str, edges: list[str]) -> Workload:
        document: dict[str, Any] = {
            "apiVersion": "inferplan/v1",
            "name": "w",
            "pipeline": {
                "stages": {s: {"variants": {"v": {"model": "m"}}} for s in stages},
                "edges": [{"from": a, "to": b} for a, b in edges],
            },
            "tiers": {"t": {"devices": {"d": {"price_usd_per_h": 1.0, "cores": 1}}}},
            "classes": {"c": {"rate_rps": 1.0}},
        }
        return Workload.model_validate(document)

    edges = ["za", "zb", "ac", "bc"]
    assert stage_order(spec("zabc", edges)) == ["z", "a", "b", "c"]
    assert stage_order(spec("cbaz", edges[::-1])) == ["z", "a", "b", "c"]
