"""A plan as a network of queues: what the simulator runs.

Stations are options with their replicas; classes are streams of requests with a route per stage. Everything is
kept sorted by name, so that the order in which a document lists things changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from inferplan.estimators.fanout import FanOuts, fan_outs
from inferplan.estimators.interference import Interference, read_interference, tenant_of
from inferplan.estimators.points import ModelKey, Points, read_points
from inferplan.estimators.service import SampleSource, ServiceModel
from inferplan.estimators.transport import Payloads, delays_of, payloads_of, tier_of, ways_of
from inferplan.spec.arrivals import Source, source_of
from inferplan.spec.errors import InputError
from inferplan.spec.plan import DeployedOption, Plan
from inferplan.spec.profile import Profile
from inferplan.spec.trace import Trace
from inferplan.spec.workload import Arrivals, Workload

DEFAULT_PERCENTILE = 99.0
"""Share of jobs (in percent) that must keep their deadline where the class names no percentile."""
WORTH_STALLING = 0.01
"""Share of what a request's stages take, below which stalls are too short to be worth simulating."""


@dataclass(frozen=True, slots=True)
class Outage:
    """A replica that takes no batch from `start_s` until `end_s` (infinity: it never comes back).

    Times count from the beginning of the counted time; before it they are negative. What the replica is working on
    when an outage begins is lost.
    """

    replica: int
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Station:
    """A deployed option: its replicas share one queue. `service` is None for a skip variant, which takes no time.

    `variant` names the choice; `slowdowns` are the factors of every replica's times, for what runs beside it on its
    machine; empty where nothing slows any of them down. `queue_limit` is the most calls that may wait, None for any
    number: one that finds the queue full is shed. `order` is whose turn it is: the call that came first, or the one
    with the earliest deadline. `outages` of one replica do not overlap.
    """

    name: str
    stage: str
    variant: str
    replicas: int
    max_batch: int
    max_queue_delay_s: float
    service: ServiceModel | None
    slowdowns: tuple[float, ...] = ()
    queue_limit: int | None = None
    order: Literal["fifo", "edf"] = "fifo"
    outages: tuple[Outage, ...] = ()

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

    def capacity_at_rps(self, time_s: float) -> float:
        """The same of the replicas that are up at a time (infinity: in the long run)."""
        if self.service is None:
            return math.inf
        down = {o.replica for o in self.outages if o.start_s <= time_s < o.end_s or (o.end_s == time_s == math.inf)}
        factors = self.slowdowns or (1.0,) * self.replicas
        up = math.fsum(1 / factor for replica, factor in enumerate(factors) if replica not in down)
        return up * self.service.capacity_per_s(self.max_batch)


@dataclass(frozen=True)
class Way:
    """One of several ways through the pipeline that a class's requests go: a station per stage. A request keeps its
    way. `share` is of the class's requests; of a class of jobs `requests` of every job go this way."""

    share: float
    stations: Mapping[str, str]
    requests: int | None = None


@dataclass(frozen=True)
class Stream:
    """A traffic class. `routes` gives per stage the stations and the shares of the calls that go to each.

    `percentile` (0..100) and `limit_s` are the SLO's; None where the class has none. A class of jobs sends `job_size`
    requests at one instant, and what was promised is the time until the last of them is answered (`limit_s`: the
    deadline). `rate_rps` counts requests, not jobs. With a trace, `arrivals` says nothing. With `ways` every request is
    sent one of them as a whole; without, every call is drawn by itself.
    """

    name: str
    rate_rps: float
    arrivals: Arrivals
    percentile: float | None
    limit_s: float | None
    routes: Mapping[str, tuple[tuple[str, float], ...]]
    trace: Trace | None = None
    job_size: int = 1
    ways: tuple[Way, ...] = ()

    @property
    def flows(self) -> tuple[tuple[float, Mapping[str, tuple[tuple[str, float], ...]]], ...]:
        """Shares of its requests that are routed alike, each with its routes."""
        if not self.ways:
            return ((1.0, self.routes),)
        return tuple((way.share, {s: ((name, 1.0),) for s, name in way.stations.items()}) for way in self.ways)

    @property
    def source(self) -> Source:
        """What makes its requests, or jobs, arrive."""
        return Source(self.arrivals, self.rate_rps / self.job_size, self.trace)

    @property
    def peak_factor(self) -> float:
        """Peak rate over mean rate of a day; 1 for what has no days."""
        return 1.0 if self.trace is not None else self.arrivals.peak_factor or 1.0


@dataclass(frozen=True, slots=True)
class Stalls:
    """Times at which the machine leaves the server's router, or a replica, standing: so many a second, of so many
    seconds, each of the lengths as likely as the others."""

    rate_hz: float
    lengths_s: tuple[float, ...]


@dataclass(frozen=True)
class Network:
    """A plan to simulate. `order` lists the stages, each after those that feed it; `feeds` its upstream stages.

    Delays of the network between places, in seconds; a pair that is not there has none:

    - `entry_delay_s[stream, station]`: from where a class's requests come from to a station of an entry stage;
    - `transfer_s[station, station]`: from a station to one downstream of it, for every call between them;
    - `exit_delay_s[stream, station]`: the way back to where the requests come from, after a call that makes no
      further calls (at a last stage, or where a fan-out drew none).

    A delay holds up the call and occupies nothing: links do not queue. So does what requests take on their way in
    and out of the server: `overheads_s[stream, station]`, times as likely each as the others.
    Requests that come when none has come for long take longer: `entry_wakings[stream, station]` has pairs of a rest and
    how much longer, seconds, rising in the first.
    """

    order: tuple[str, ...]
    feeds: Mapping[str, tuple[str, ...]]
    fan_outs: FanOuts
    stations: Mapping[str, Station]
    streams: tuple[Stream, ...]
    entry_delay_s: Mapping[tuple[str, str], float] = field(default_factory=dict)
    transfer_s: Mapping[tuple[str, str], float] = field(default_factory=dict)
    exit_delay_s: Mapping[tuple[str, str], float] = field(default_factory=dict)
    overheads_s: Mapping[tuple[str, str], tuple[float, ...]] = field(default_factory=dict)
    entry_wakings: Mapping[tuple[str, str], tuple[tuple[float, float], ...]] = field(default_factory=dict)
    stalls: Stalls | None = None

    def loads_rps(self) -> dict[str, float]:
        """Calls per second that reach every station."""
        return self._loads({stream.name: stream.rate_rps for stream in self.streams}, shedding=False)

    def loads_of(self, name: str) -> dict[str, float]:
        """Calls per second of one class that reach every station."""
        return self._loads({s.name: s.rate_rps if s.name == name else 0.0 for s in self.streams}, shedding=False)

    def _loads(self, rates: Mapping[str, float], shedding: bool) -> dict[str, float]:
        """The same at other rates of the classes. `shedding`: a bounded queue sends on no more than its capacity."""
        loads = dict.fromkeys(self.stations, 0.0)
        flows = [(rates[s.name] * share, routes) for s in self.streams for share, routes in s.flows]
        calls: list[dict[str, dict[str, float]]] = [{} for _ in flows]
        for stage in self.order:
            for (rate, routes), mine in zip(flows, calls, strict=True):
                mine[stage] = self._reaching(routes, rate, stage, mine)
                for station, reaching in mine[stage].items():
                    loads[station] += reaching
            for mine in calls if shedding else ():
                for name in mine[stage]:
                    station_ = self.stations[name]
                    if station_.queue_limit is not None and loads[name] > station_.capacity_at_rps(math.inf):
                        mine[stage][name] *= station_.capacity_at_rps(math.inf) / loads[name]
        return loads

    def _reaching(
        self,
        routes: Mapping[str, tuple[tuple[str, float], ...]],
        rate_rps: float,
        stage: str,
        calls: Mapping[str, Mapping[str, float]],
    ) -> dict[str, float]:
        """Calls per second of requests that are routed alike at each station of a stage, given those above."""
        sources = self.feeds[stage]
        rate = rate_rps
        if sources:
            source = sources[0]
            rate = sum(
                upstream * self.fan_outs.law((source, stage), self.stations[name].variant).mean
                for name, upstream in calls[source].items()
            )
        return {name: rate * share for name, share in routes[stage]}

    def unstable(self, at_peak: bool = False) -> tuple[str, ...]:
        """Stations whose load reaches their capacity in the long run, each with both figures.

        `at_peak`: at the peak of the classes' days. A bounded queue does not grow; it sheds.
        """
        rates = {stream.name: stream.rate_rps * (stream.peak_factor if at_peak else 1.0) for stream in self.streams}
        loads = self._loads(rates, shedding=True)
        found = []
        for name, station in sorted(self.stations.items()):
            capacity = station.capacity_at_rps(math.inf)
            if station.queue_limit is None and loads[name] >= capacity:
                when = " at the peak" if at_peak and loads[name] > self.loads_rps()[name] else ""
                found.append(f"{name}: {loads[name]:.6g} calls/s reach it{when}, its capacity is {capacity:.6g}")
        return tuple(found)


def build_network(
    workload: Workload,
    laws: FanOuts,
    stations: Sequence[Station],
    routes: Mapping[str, Mapping[str, Sequence[tuple[str, float]]]],
    ways: Mapping[str, Sequence[Way]] | None = None,
) -> Network:
    """A network of a workload's classes over stations; `routes` is class -> stage -> (station, share), `ways` the ways
    of classes that go several.

    Stations that serve a class of jobs take the earliest deadline first. `queue_limit` is that of the stage.
    """
    pipeline = workload.pipeline
    streams = [
        _stream(
            workload,
            name,
            {stage: tuple(sorted(choices)) for stage, choices in routes[name].items()},
            tuple((ways or {}).get(name, ())),
        )
        for name in sorted(workload.classes)
    ]
    urgent = {
        station
        for stream in streams
        if workload.classes[stream.name].kind == "jobs"
        for choices in stream.routes.values()
        for station, _ in choices
    }
    stations = [
        replace(
            station,
            order="edf" if station.name in urgent else station.order,
            queue_limit=pipeline.stages[station.stage].queue_limit,
        )
        for station in stations
    ]
    feeds = {
        stage: tuple(sorted(edge.source for edge in pipeline.edges if edge.target == stage))
        for stage in pipeline.stages
    }
    known = {station.name: station for station in sorted(stations, key=lambda s: s.name)}
    entered = _entered(feeds, known, streams)
    return Network(
        tuple(stage_order(workload)),
        feeds,
        laws,
        known,
        tuple(streams),
        overheads_s={pair: service.entry for pair, service in entered.items() if service.entry},
        entry_wakings={pair: woken for pair, service in entered.items() if (woken := _worth(service))},
        stalls=stalls_of(known.values()),
    )


def stalls_of(stations: Collection[Station]) -> Stalls | None:
    """What was seen where the stations were measured, together; None where that is nothing."""
    services = [station.service for station in stations if station.service is not None]
    watched = math.fsum(service.watched_s for service in services)
    least = WORTH_STALLING * sum({s.stage: s.service.mean_s(1) for s in stations if s.service is not None}.values())
    lengths = tuple(sorted(length for service in services for length in service.stalls if length >= least))
    return Stalls(len(lengths) / watched, lengths) if lengths else None


def pauses_of(station: Station) -> Stalls | None:
    """What was seen of replicas where a station was measured; None where that is nothing."""
    service = station.service
    if service is None or not service.replica_stalls:
        return None
    least = WORTH_STALLING * service.mean_s(1)
    lengths = tuple(sorted(length for length in service.replica_stalls if length >= least))
    return Stalls(len(lengths) / service.watched_s, lengths) if lengths else None


def _entered(
    feeds: Mapping[str, Sequence[str]], stations: Mapping[str, Station], streams: Sequence[Stream]
) -> dict[tuple[str, str], ServiceModel]:
    """Where requests come in, by class and station of an entry stage."""
    return {
        (stream.name, name): service
        for stream in streams
        for stage, choices in stream.routes.items()
        for name, _ in (choices if not feeds[stage] else ())
        if (service := stations[name].service) is not None
    }


def _worth(service: ServiceModel) -> tuple[tuple[float, float], ...]:
    """What a request's way in and out takes longer after rests; nothing where that is little beside a call."""
    least = WORTH_STALLING * service.mean_s(1)
    return tuple((rest, longer) for rest, longer in service.entry_wakings if longer >= least)


def _stream(
    workload: Workload, name: str, routes: Mapping[str, tuple[tuple[str, float], ...]], ways: tuple[Way, ...]
) -> Stream:
    """The stream of a class. Raises InputError where its trace cannot be read."""
    traffic, source = workload.classes[name], source_of(workload, name)
    percentile = traffic.slo.percentile if traffic.slo else None
    limit = traffic.slo.latency_s if traffic.slo else None
    size = 1
    if traffic.job is not None:
        percentile, limit, size = percentile or DEFAULT_PERCENTILE, traffic.job.deadline_s, traffic.job.requests
    # The times of a trace are those of jobs where the class has jobs.
    rate = source.rate_rps * (size if source.trace is not None else 1)
    return Stream(
        name, rate, source.process, percentile, limit, routes, source.trace, size, ways if len(ways) > 1 else ()
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
    ways = {
        name: [Way(mixture.share, mixture.routes, mixture.requests) for mixture in traffic.mixtures]
        for name, traffic in plan.classes.items()
    }
    network = build_network(workload, fan_outs(workload, profile), stations, routes, ways)
    return delayed(network, workload, payloads_of(workload, profile), standing(plan, workload))


def delayed(
    network: Network, workload: Workload, payloads: Payloads, where: Iterable[tuple[str, str, str, str, str]]
) -> Network:
    """A network with the delays between its tiers. `where`: (class, stage, station, choice, tier)."""
    if len(workload.tiers) == 1:
        return network
    delays = delays_of(workload, ways_of(workload), payloads, where)
    return replace(network, entry_delay_s=delays.entry_s, transfer_s=delays.transfer_s, exit_delay_s=delays.exit_s)


def standing(plan: Plan, workload: Workload) -> Iterator[tuple[str, str, str, str, str]]:
    """Where a plan's options answer; one that runs nothing does where its input is (the first of several tiers)."""
    for name, traffic in plan.classes.items():
        home = workload.classes[name].enters_at or next(iter(workload.tiers))
        whole = {stage: [choice.option for choice in choices] for stage, choices in traffic.routes.items()}
        # What is skipped on one way may have its input in another tier than on the other.
        ways = [{stage: [option] for stage, option in way.routes.items()} for way in traffic.mixtures]
        for routes in ways or [whole]:
            tiers: dict[str, str] = {}
            for stage in stage_order(workload):
                feeding = sorted(edge.source for edge in workload.pipeline.edges if edge.target == stage)
                passed = tiers[feeding[0]] if feeding else home
                for name_ in routes[stage]:
                    option = plan.options[name_]
                    tier = passed if option.runtime == "skip" else tier_of(option.device)
                    tiers.setdefault(stage, tier)
                    yield name, stage, name_, option.choice, tier


def slowdowns_of_plan(plan: Plan, workload: Workload, disturbance: Interference) -> dict[str, tuple[float, ...]]:
    """Factor of every replica's times, by option, as the plan packs its machines; options that nothing slows down
    are left out."""
    devices = workload.devices()
    machines = [
        {placement.option: placement.replicas for placement in placements}
        for _, bought in sorted(plan.machines.items())
        for placements in bought.packing
    ]
    tenants = {name: tenant_of(devices, option) for name, option in plan.options.items() if option.runtime != "skip"}
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
        slowdowns, order=option.order or "fifo",
    )  # fmt: skip
