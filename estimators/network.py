"""A plan as a network of queues: what the simulator runs.

Stations are options with their replicas; classes are streams of requests with a route per stage. Everything is
kept sorted by name, so that the order in which a document lists things changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from inferplan.estimators.fanout import FanOuts, fan_outs
from inferplan.estimators.interference import Interference, Tenant, measured_on, read_interference
from inferplan.estimators.points import ModelKey, Points, read_points
from inferplan.estimators.service import SampleSource, ServiceModel
from inferplan.spec.errors import InputError
from inferplan.spec.plan import DeployedOption, Plan
from inferplan.spec.profile import Profile
from inferplan.spec.workload import Arrivals, Workload


@dataclass(frozen=True)
class Station:
    """A deployed option: its replicas share one queue. `service` is None for a skip variant, which takes no time.

    `variant` names the choice; `slowdowns` are the factors of every replica's times, for what runs beside it on its
    machine; empty where nothing slows any of them down.
    """

    name: str
    stage: str
    variant: str
    replicas: int
    max_batch: int
    max_queue_delay_s: float
    service: ServiceModel | None
    slowdowns: tuple[float, ...] = ()

    @property
    def interference(self) -> float:
        """By how much its replicas together are slower for what runs beside them: the harmonic mean."""
        return len(self.slowdowns) / math.fsum(1 / factor for factor in self.slowdowns) if self.slowdowns else 1.0

    @property
    def capacity_rps(self) -> float:
        """Calls per second beyond which the queue grows without bound."""
        if self.service is None:
            return math.inf
        return self.replicas * self.service.capacity_per_s(self.max_batch) / self.interference


@dataclass(frozen=True)
class Stream:
    """A traffic class. `routes` gives per stage the stations and the shares of the calls that go to each.

    `percentile` (0..100) and `limit_s` are the SLO's; None where the class has none.
    """

    name: str
    rate_rps: float
    arrivals: Arrivals
    percentile: float | None
    limit_s: float | None
    routes: Mapping[str, tuple[tuple[str, float], ...]]


@dataclass(frozen=True)
class Network:
    """A plan to simulate. `order` lists the stages, each after those that feed it; `feeds` its upstream stages.

    Delays of the network between places, in seconds; a pair that is not there has none:

    - `entry_delay_s[stream, station]`: from where a class's requests come from to a station of an entry stage;
    - `transfer_s[station, station]`: from a station to one downstream of it, for every call between them;
    - `exit_delay_s[stream, station]`: the way back to where the requests come from, after a call that makes no
      further calls (at a last stage, or where a fan-out drew none).

    A delay holds up the call and occupies nothing: links do not queue.
    """

    order: tuple[str, ...]
    feeds: Mapping[str, tuple[str, ...]]
    fan_outs: FanOuts
    stations: Mapping[str, Station]
    streams: tuple[Stream, ...]
    entry_delay_s: Mapping[tuple[str, str], float] = field(default_factory=dict)
    transfer_s: Mapping[tuple[str, str], float] = field(default_factory=dict)
    exit_delay_s: Mapping[tuple[str, str], float] = field(default_factory=dict)

    def loads_rps(self) -> dict[str, float]:
        """Calls per second that reach every station."""
        loads = dict.fromkeys(self.stations, 0.0)
        for stream in self.streams:
            calls: dict[str, dict[str, float]] = {}
            for stage in self.order:
                calls[stage] = self._reaching(stream, stage, calls)
                for station, rate in calls[stage].items():
                    loads[station] += rate
        return loads

    def _reaching(self, stream: Stream, stage: str, calls: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
        """Calls per second of a class at each station of a stage, given those of the stages above."""
        sources = self.feeds[stage]
        rate = stream.rate_rps
        if sources:
            source = sources[0]
            rate = sum(
                upstream * self.fan_outs.law((source, stage), self.stations[name].variant).mean
                for name, upstream in calls[source].items()
            )
        return {name: rate * share for name, share in stream.routes[stage]}

    def unstable(self) -> tuple[str, ...]:
        """Stations whose load reaches their capacity, each with both figures."""
        loads = self.loads_rps()
        return tuple(
            f"{name}: {loads[name]:.6g} calls/s reach it, its capacity is {station.capacity_rps:.6g}"
            for name, station in sorted(self.stations.items())
            if loads[name] >= station.capacity_rps
        )


def build_network(
    workload: Workload,
    laws: FanOuts,
    stations: Sequence[Station],
    routes: Mapping[str, Mapping[str, Sequence[tuple[str, float]]]],
) -> Network:
    """A network of a workload's classes over stations; `routes` is class -> stage -> (station, share)."""
    pipeline = workload.pipeline
    streams = []
    for name, traffic in sorted(workload.classes.items()):
        if traffic.rate_rps is None:
            raise InputError(f"class {name} has no rate_rps: only rates can be simulated")
        streams.append(
            Stream(
                name,
                traffic.rate_rps,
                traffic.arrivals,
                traffic.slo.percentile if traffic.slo else None,
                traffic.slo.latency_s if traffic.slo else None,
                {stage: tuple(sorted(choices)) for stage, choices in routes[name].items()},
            )
        )
    feeds = {
        stage: tuple(sorted(edge.source for edge in pipeline.edges if edge.target == stage))
        for stage in pipeline.stages
    }
    return Network(
        tuple(stage_order(workload)),
        feeds,
        laws,
        {station.name: station for station in sorted(stations, key=lambda s: s.name)},
        tuple(streams),
    )


def stage_order(workload: Workload) -> list[str]:
    """Stages, each after those that feed it, in an order that does not depend on how the document lists them."""
    waiting = {name: set[str]() for name in sorted(workload.pipeline.stages)}
    for edge in workload.pipeline.edges:
        waiting[edge.target].add(edge.source)
    ordered: list[str] = []
    while waiting:
        ready = [name for name, sources in waiting.items() if sources <= set(ordered)]
        ordered.append(ready[0])
        del waiting[ready[0]]
    return ordered


def network_of_plan(plan: Plan, workload: Workload, profile: Profile, samples: SampleSource | None = None) -> Network:
    """The network a plan describes, with the service times of a profile.

    Raises InputError where the profile lacks what the plan rests on.
    """
    points = read_points(workload, profile, samples)
    disturbance = read_interference(workload, profile, points.model_sha256)
    slowdowns = slowdowns_of_plan(plan, workload, disturbance)
    stations = [station_of(name, option, points, slowdowns.get(name, ())) for name, option in plan.options.items()]
    routes = {
        name: {
            stage: [(choice.option, choice.share) for choice in choices] for stage, choices in traffic.routes.items()
        }
        for name, traffic in plan.classes.items()
    }
    return build_network(workload, fan_outs(workload, profile), stations, routes)


def slowdowns_of_plan(plan: Plan, workload: Workload, disturbance: Interference) -> dict[str, tuple[float, ...]]:
    """Factor of every replica's times, by option, as the plan packs its machines; options that nothing slows down
    are left out."""
    devices = workload.devices()
    machines = [
        {placement.option: placement.replicas for placement in placements}
        for _, bought in sorted(plan.machines.items())
        for placements in bought.packing
    ]
    tenants = {
        name: Tenant(option.stage, option.choice, measured_on(devices, option.device), option.threads, option.max_batch)
        for name, option in plan.options.items()
        if option.runtime != "skip"
    }
    busy = {name: option.predicted.utilisation for name, option in plan.options.items()}
    return disturbance.slowdowns(tenants, machines, busy)


def station_of(name: str, option: DeployedOption, points: Points, slowdowns: tuple[float, ...] = ()) -> Station:
    """The station of a deployed option. Raises InputError where its points are not in the profile."""
    service: ServiceModel | None = None
    if option.runtime != "skip":
        key = ModelKey(option.stage, option.choice, option.device, option.provider, option.threads)
        service = points.models.get(key)
        if service is None or service.max_batch < option.max_batch:
            raise InputError(
                f"the profile has no measurement of option {name} up to batch {option.max_batch}:"
                " run `inferplan profile` and solve again"
            )
    return Station(
        name, option.stage, option.choice, option.replicas, option.max_batch, option.max_queue_delay_s, service,
        slowdowns,
    )  # fmt: skip
