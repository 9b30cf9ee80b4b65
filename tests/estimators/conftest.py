"""Small networks of queues for the simulator."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from inferplan.estimators.fanout import ONE, FanOutLaw, FanOuts
from inferplan.estimators.network import Network, Station, Stream
from inferplan.estimators.service import ServiceModel, ServicePoint
from inferplan.spec.workload import Arrivals

Times = Sequence[tuple[int, float]]


def service_model(times: Times, cv: float = 0.0) -> ServiceModel:
    """Points (batch, mean seconds) whose standard deviation is cv times the mean."""
    return ServiceModel(tuple(ServicePoint(batch, mean, cv * mean) for batch, mean in times))


def make_station(
    name: str, stage: str, times: Times | None, n: int = 1, delay_s: float = 0.0, cv: float = 0.0
) -> Station:
    """A station that batches up to its largest point; `times` None makes a skip variant."""
    if times is None:
        return Station(name, stage, name, 0, 1, 0.0, None)
    return Station(name, stage, name, n, max(batch for batch, _ in times), delay_s, service_model(times, cv))


def make_single(station: Station, rate_rps: float, process: Arrivals | None = None, limit_s: float = 1e9) -> Network:
    """One station and one class."""
    stream = Stream("c", rate_rps, process or Arrivals(), 99.0, limit_s, {station.stage: ((station.name, 1.0),)})
    laws = FanOuts({}, {}, {station.stage: ()})
    return Network((station.stage,), {station.stage: ()}, laws, {station.name: station}, (stream,))


def make_chain(
    stations: Sequence[Station], laws: Sequence[FanOutLaw], rates: dict[str, float], limit_s: float = 1e9
) -> Network:
    """One station per stage, one after the other; `laws` are those of the edges between them."""
    order = tuple(station.stage for station in stations)
    edges = list(itertools.pairwise(order))
    lineages = {stage: tuple(edges[:index]) for index, stage in enumerate(order)}
    feeds = {stage: (order[index - 1],) if index else () for index, stage in enumerate(order)}
    routes = {station.stage: ((station.name, 1.0),) for station in stations}
    streams = tuple(Stream(name, rate, Arrivals(), 99.0, limit_s, routes) for name, rate in sorted(rates.items()))
    fan_outs = FanOuts(dict(zip(edges, laws or [ONE] * len(edges), strict=True)), {}, lineages)
    return Network(order, feeds, fan_outs, {station.name: station for station in stations}, streams)


@pytest.fixture
def model() -> Callable[..., ServiceModel]:
    return service_model


@pytest.fixture(scope="session")
def station() -> Callable[..., Station]:
    return make_station


@pytest.fixture(scope="session")
def single() -> Callable[..., Network]:
    return make_single


@pytest.fixture(scope="session")
def chain() -> Callable[..., Any]:
    return make_chain
