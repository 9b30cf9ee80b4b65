"""A class's requests over time while plans take turns: queues, calls in hand and loading replicas carry over.

Stage by stage, over the whole time, as `replication` does; what serves a stage changes from epoch to epoch. In an
epoch one plan is active. When the next one begins:

- calls that no replica has taken yet join the queues of the new plan's options, in the order they came in;
- a replica that stays (same stage, choice, device, provider and threads) goes on with the batch in its hands, or with
  loading, and then serves the new plan; where fewer stay than there are, those stay that are free last;
- a replica that stops finishes the batch in its hands, and takes no other;
- a replica that starts takes its first batch when it has loaded.

Where requests of a class go different ways, each request has a place in [0, 1) of its own, drawn once (of a job's b
requests the i-th has (i + 1/2) / b); in every plan it goes the way whose part of [0, 1) that is in. So it keeps its way
while a plan lasts, and most requests keep theirs where the next plan's shares are similar.

*Approximations.* The way to a stage (network, and into the server) is that of the plan that was active when the call
was sent. A call that waited for its batch to fill waits again after a switch. Neighbours slow replicas down as much as
at the load that their plan was made for. Loading takes nothing from what runs beside it.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from inferplan.estimators.fanout import fan_outs
from inferplan.estimators.interference import read_interference
from inferplan.estimators.network import (
    Network,
    Outage,
    Station,
    Stream,
    Way,
    build_network,
    delayed,
    slowdowns_of_plan,
    standing,
    station_of,
)
from inferplan.estimators.points import read_points
from inferplan.estimators.simulation.compiled import INTERPRETED, Loops
from inferplan.estimators.simulation.replication import (
    Arriving,
    Calls,
    Chooser,
    Randomness,
    Replication,
    answer,
    arriving_at,
)
from inferplan.estimators.simulation.station import Served, serve
from inferplan.estimators.transport import payloads_of
from inferplan.spec.plan import Plan
from inferplan.spec.profile import Profile
from inferplan.spec.workload import Workload

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
Identity = tuple[str, str, str, str, int]
"""Stage, choice, device, provider, threads: replicas of equal identity can stand in for one another."""


@dataclass(frozen=True)
class Epoch:
    """From `start_s` on plan number `plan` is active. `loading_s`: by option, how long after the start each replica
    that starts has loaded; the option's other replicas stay."""

    start_s: float
    plan: int
    loading_s: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class Fleet:
    """Several plans of one workload as one network: its stations are the plans' options, one after the other."""

    network: Network
    stations: tuple[Mapping[str, str], ...]
    """By plan: its options and their stations."""
    identities: Mapping[str, Identity]
    """Of stations."""
    plan_of: Mapping[str, int]
    """Plan that a station is of."""
    ways: tuple[Mapping[str, tuple[Way, ...]], ...] = ()
    """By plan: classes whose requests go several ways, and the ways, through stations; empty: there are none."""

    def stations_at(self, plan: int, stream: Stream, stage: str, places: Floats) -> Counts:
        """Where a class's requests of these places go at a stage under a plan: indices into its stations there."""
        position = {name: at for at, (name, _) in enumerate(stream.routes[stage])}
        ways = self.ways[plan].get(stream.name, ()) if self.ways else ()
        if not ways:
            (only,) = (at for name, at in position.items() if self.plan_of[name] == plan)
            return np.full(len(places), only, dtype=np.int64)
        weights = [way.share if way.requests is None else float(way.requests) for way in ways]
        edges = np.cumsum(weights) / math.fsum(weights)
        which = np.minimum(np.searchsorted(edges, places, side="right"), len(ways) - 1)
        return np.array([position[way.stations[stage]] for way in ways], dtype=np.int64)[which]


def fleet_of(plans: Sequence[Plan], workload: Workload, profile: Profile) -> Fleet:
    """Plans to take turns. Raises InputError where the profile lacks what one of them rests on."""
    points = read_points(workload, profile)
    disturbance = read_interference(workload, profile, points.model_sha256)
    names: list[dict[str, str]] = []
    stations: list[Station] = []
    identities: dict[str, Identity] = {}
    where: list[tuple[str, str, str, str, str]] = []
    routes: dict[str, dict[str, list[tuple[str, float]]]] = {}
    ways: list[dict[str, tuple[Way, ...]]] = []
    for index, plan in enumerate(plans):
        own = {option: f"{index:04d}:{option}" for option in plan.options}
        slow = slowdowns_of_plan(plan, workload, disturbance)
        for option, name in own.items():
            deployed = plan.options[option]
            stations.append(station_of(name, deployed, points, slow.get(option, ())))
            identities[name] = (
                deployed.stage, deployed.choice, deployed.device, deployed.provider, deployed.threads
            )  # fmt: skip
        for name, traffic in plan.classes.items():
            for stage, choices in traffic.routes.items():
                routes.setdefault(name, {}).setdefault(stage, []).extend((own[c.option], c.share) for c in choices)
        ways.append(
            {
                name: tuple(
                    Way(way.share, {stage: own[option] for stage, option in way.routes.items()}, way.requests)
                    for way in traffic.mixtures
                )
                for name, traffic in plan.classes.items()
                if traffic.mixtures
            }
        )
        where += [
            (name, stage, own[option], choice, tier) for name, stage, option, choice, tier in standing(plan, workload)
        ]
        names.append(own)
    network = build_network(workload, fan_outs(workload, profile), stations, routes)
    network = delayed(network, workload, payloads_of(workload, profile), where)
    plan_of = {name: i for i, own in enumerate(names) for name in own.values()}
    return Fleet(network, tuple(names), identities, plan_of, tuple(ways))


def replay(
    fleet: Fleet,
    epochs: Sequence[Epoch],
    arrivals_s: Mapping[str, Floats],
    chance: Randomness,
    loops: Loops = INTERPRETED,
) -> Replication:
    """Serve given arrivals, by class and rising, while plans take turns; a job's requests arrive one after the other at
    one instant. The first epoch begins with all replicas up; everything that ever can be is answered. Latencies of a
    class of jobs are those of jobs."""
    run = Replication(0.0, math.inf, entries_s=dict(arrivals_s))
    places = {
        stream.name: _places(stream, len(arrivals_s[stream.name]), chance)
        for stream in fleet.network.streams
        if any(stream.name in ways for ways in fleet.ways)
    }
    choose = _chooser(fleet, epochs, places)
    for stage in fleet.network.order:
        arriving = {s.name: arriving_at(fleet.network, s, stage, run, chance, choose) for s in fleet.network.streams}
        for name, (station, done) in _served(fleet, epochs, stage, arriving, run, places, chance, loops).items():
            calls = arriving[name]
            run.calls[name, stage] = Calls(calls.owner, calls.parent, calls.times_s, station, done, calls.one_each)
    answer(fleet.network, run)
    return run


def _places(stream: Stream, count: int, chance: Randomness) -> Floats:
    """The place in [0, 1) of each of a class's requests, which says what way it goes."""
    if stream.job_size > 1:
        return (np.arange(count) % stream.job_size + 0.5) / stream.job_size
    return np.asarray(chance.of("way", stream.name).random(count), dtype=np.float64)


def _chooser(fleet: Fleet, epochs: Sequence[Epoch], places: Mapping[str, Floats]) -> Chooser:
    """Calls go where the plan that is active when they are sent has them go."""
    starts = np.array([epoch.start_s for epoch in epochs])
    plans = np.array([epoch.plan for epoch in epochs], dtype=np.int64)

    def choose(stream: Stream, stage: str, owner: Counts, sent_s: Floats, chance: Randomness) -> Counts:
        active = plans[np.maximum(np.searchsorted(starts, sent_s, side="right") - 1, 0)]
        own = places[stream.name][owner] if stream.name in places else np.zeros(len(owner))
        chosen = np.zeros(len(owner), dtype=np.int64)
        for plan in np.unique(active).tolist():
            then = active == plan
            chosen[then] = fleet.stations_at(plan, stream, stage, own[then])
        return chosen

    return choose


class _Queue:
    """The calls of a stage, of all classes, in order of arrival. Those that are never made are left out."""

    def __init__(
        self,
        fleet: Fleet,
        stage: str,
        arriving: Mapping[str, Arriving],
        run: Replication,
        places: Mapping[str, Floats],
    ) -> None:
        streams = fleet.network.streams
        times = [arriving[stream.name].times_s for stream in streams]
        self.sizes = [len(own) for own in times]
        whole = np.concatenate(times) if times else np.zeros(0)
        who = np.repeat(np.arange(len(streams)), self.sizes)
        order = np.argsort(whole, kind="stable")
        self.order = order[: int(np.isfinite(whole).sum())]
        self.times_s = whole[self.order]
        self.who = who[self.order]
        self.done_s = np.full(len(self.order), np.inf)
        # Calls that are never made keep the station they would have been sent to.
        self._sent_to = np.concatenate([arriving[stream.name].station for stream in streams])
        self.station = self._sent_to[self.order]
        owners = [arriving[stream.name].owner for stream in streams]
        own = [
            places[stream.name][owner] if stream.name in places else np.zeros(len(owner))
            for stream, owner in zip(streams, owners, strict=True)
        ]
        self.places = np.concatenate(own)[self.order]
        # A deadline counts from when the request arrived, not from when it reached this stage.
        due = [
            run.entries_s[stream.name][owner] + (math.inf if stream.limit_s is None else stream.limit_s)
            for stream, owner in zip(streams, owners, strict=True)
        ]
        self.deadlines_s = np.concatenate(due)[self.order]

    def handed_back(self, names: Sequence[str]) -> dict[str, tuple[Counts, Floats]]:
        """Per class, in the order of its calls: the station that served each, and when it was done."""
        done = np.full(sum(self.sizes), np.inf)
        station = self._sent_to.copy()
        done[self.order], station[self.order] = self.done_s, self.station
        edges = np.cumsum([0, *self.sizes])
        return {name: (station[edges[i] : edges[i + 1]], done[edges[i] : edges[i + 1]]) for i, name in enumerate(names)}


def _served(
    fleet: Fleet,
    epochs: Sequence[Epoch],
    stage: str,
    arriving: Mapping[str, Arriving],
    run: Replication,
    places: Mapping[str, Floats],
    chance: Randomness,
    loops: Loops,
) -> dict[str, tuple[Counts, Floats]]:
    queue = _Queue(fleet, stage, arriving, run, places)
    streams = fleet.network.streams
    cuts = [0, *np.searchsorted(queue.times_s, [epoch.start_s for epoch in epochs[1:]]).tolist(), len(queue.times_s)]
    waiting = np.zeros(0, dtype=np.int64)
    free: dict[Identity, list[float]] = {}
    for index, epoch in enumerate(epochs):
        until = epochs[index + 1].start_s if index + 1 < len(epochs) else math.inf
        calls = np.concatenate([waiting, np.arange(cuts[index], cuts[index + 1])])
        # What waits goes where the plan that is active now has it go.
        for k, stream in enumerate(streams):
            mine = calls[queue.who[calls] == k]
            queue.station[mine] = fleet.stations_at(epoch.plan, stream, stage, queue.places[mine])
        left: list[Counts] = []
        freed: dict[Identity, list[float]] = {}
        for option, name in sorted(fleet.stations[epoch.plan].items()):
            station = fleet.network.stations[name]
            if station.stage != stage:
                continue
            at = np.array([_index(stream, stage, name) for stream in streams])
            own = calls[at[queue.who[calls]] == queue.station[calls]]
            frees = _frees(fleet, epoch, option, station, free, first=index == 0)
            begun, ends = _epoch(queue, own, station, frees, epoch.start_s, until, chance, str(index), loops)
            left.append(own[~begun])
            freed.setdefault(fleet.identities[name], []).extend(ends)
        waiting = np.sort(np.concatenate(left)) if left else calls
        free = freed
    return queue.handed_back([stream.name for stream in streams])


def _index(stream: Stream, stage: str, name: str) -> int:
    """Where a station stands among a class's of a stage; -1 where it does not."""
    return next((at for at, (station, _) in enumerate(stream.routes[stage]) if station == name), -1)


def _frees(
    fleet: Fleet, epoch: Epoch, option: str, station: Station, free: Mapping[Identity, list[float]], first: bool
) -> list[float]:
    """When each of a station's replicas can take its first batch of an epoch. Takes those that stay out of `free`."""
    if first:
        return [epoch.start_s] * station.replicas
    starting = [epoch.start_s + lasting for lasting in epoch.loading_s.get(option, ())]
    there = free.get(fleet.identities[station.name], [])
    there.sort()
    staying = [there.pop() for _ in range(min(station.replicas - len(starting), len(there)))]
    return [max(time, epoch.start_s) for time in (*staying, *starting)]


def _epoch(
    queue: _Queue,
    own: Counts,
    station: Station,
    frees: list[float],
    start_s: float,
    until_s: float,
    chance: Randomness,
    label: str,
    loops: Loops,
) -> tuple[NDArray[np.bool_], list[float]]:
    """Serve a station's calls of an epoch. Which of them are done with it (taken by a replica, or shed), and when its
    replicas are free after the epoch; the calls' times go into `queue`."""
    times = np.maximum(queue.times_s[own], start_s)
    if len(own) == 0:
        return np.ones(0, dtype=np.bool_), frees
    if station.service is None:
        queue.done_s[own] = times
        return np.ones(len(own), dtype=np.bool_), []
    late = tuple(Outage(r, -math.inf, time) for r, time in enumerate(frees) if time > start_s)
    served = serve(
        times,
        replace(station, outages=late),
        chance.of("service", station.name, label),
        deadlines_s=queue.deadlines_s[own],
        loops=loops,
    )
    ends = served.starts_s + served.services_s
    batch = served.batch_of()
    taken = batch >= 0
    begun = ~taken
    begun[taken] = served.starts_s[batch[taken]] < until_s
    queue.done_s[own[begun]] = served.done_s[begun]
    return begun, _after(served, ends, frees, until_s)


def _after(served: Served, ends: Floats, frees: list[float], until_s: float) -> list[float]:
    """When replicas are free that took the batches begun by a time: who is free first takes the next batch."""
    heap = list(frees)
    heapq.heapify(heap)
    if math.isfinite(until_s):
        # Batches that are done by then leave their replica free by then, whichever it was.
        for end in ends[(served.starts_s < until_s) & (ends > until_s)].tolist():
            heapq.heapreplace(heap, end)
    return heap
