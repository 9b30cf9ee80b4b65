"""Requests that go different ways through the pipeline: loads, and what the simulation does with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from inferplan.estimators.fanout import ONE, FanOuts, law_of_mean
from inferplan.estimators.network import Network, Station, Stream, Way
from inferplan.estimators.simulation import Chance, replicate
from inferplan.spec.workload import Arrivals


@pytest.fixture
def split(station: Callable[..., Station]) -> Network:
    """Two stages with a fast and a slow station each; 30 % of the requests go fast, the others slow. Fast calls of the
    first stage make two of the second, slow ones one."""
    stations = {
        name: replace(station(name, stage, [(1, time)], 200), variant=variant)
        for name, stage, variant, time in (
            ("a-f", "a", "f", 0.01), ("a-s", "a", "s", 0.1), ("b-f", "b", "f", 0.01), ("b-s", "b", "s", 0.1),
        )
    }  # fmt: skip
    edge = ("a", "b")
    laws = FanOuts({}, {edge: {"f": law_of_mean(2), "s": ONE}}, {"a": (), "b": (edge,)})
    routes = {"a": (("a-f", 0.3), ("a-s", 0.7)), "b": (("b-f", 0.6 / 1.3), ("b-s", 0.7 / 1.3))}
    ways = (Way(0.3, {"a": "a-f", "b": "b-f"}), Way(0.7, {"a": "a-s", "b": "b-s"}))
    stream = Stream("web", 20.0, Arrivals(), 99.0, 10.0, routes, ways=ways)
    return Network(("a", "b"), {"a": (), "b": ("a",)}, laws, stations, (stream,))


def test_loads_follow_the_ways_and_their_fan_outs(split: Network) -> None:
    assert split.loads_rps() == pytest.approx({"a-f": 6.0, "a-s": 14.0, "b-f": 12.0, "b-s": 14.0})


def test_a_request_keeps_its_way(split: Network) -> None:
    run = replicate(split, Chance(0, 0), 100.0, 1.0)
    first, second = run.calls["web", "a"], run.calls["web", "b"]
    assert np.array_equal(second.station, first.station[second.owner])
    share = float(np.mean(first.station == 0))
    assert share == pytest.approx(0.3, abs=0.04)
    assert len(run.served["b-f"][0]) == 2 * len(run.served["a-f"][0])
    # Nothing waits: a request takes 0.02 s or 0.2 s, never something between.
    # Nothing waits.
    assert set(np.round(run.latencies_s["web"], 6)) == {0.02, 0.2}


def test_so_many_requests_of_every_job_go_each_way(split: Network) -> None:
    ways = tuple(replace(way, requests=count) for way, count in zip(split.streams[0].ways, (3, 7), strict=True))
    stream = replace(split.streams[0], ways=ways, job_size=10)
    run = replicate(replace(split, streams=(stream,)), Chance(0, 0), 50.0, 1.0)
    station = run.calls["web", "a"].station.reshape(-1, 10)
    assert (np.sort(station, axis=1) == [0] * 3 + [1] * 7).all()
    # A job is as slow as its slowest request.
    assert float(run.latencies_s["web"].min()) >= 0.2 - 1e-9


def test_shares_that_are_whole_change_nothing(split: Network) -> None:
    """One way that all requests go is no way at all."""
    stream = replace(split.streams[0], routes={"a": (("a-s", 1.0),), "b": (("b-s", 1.0),)}, ways=())
    alone = replace(split, streams=(stream,))
    with_way = replace(stream, ways=(Way(1.0, {"a": "a-s", "b": "b-s"}),))
    one, other = (replicate(n, Chance(3, 0), 50.0, 1.0) for n in (alone, replace(split, streams=(with_way,))))
    assert np.array_equal(one.latencies_s["web"], other.latencies_s["web"])
