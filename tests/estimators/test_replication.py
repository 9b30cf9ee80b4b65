"""One replication, against a reference that knows nothing of passes over sorted arrivals: one event after the other.

Random networks have everything at once: chains and joins, fan-outs, batches and delays, unequal replicas, routers and
replicas that wake up and stall, bounded queues, deadlines, failures and late starts, jobs, routing shares, link delays.
Times are multiples of 1/8 s, stalls included, so that calls end, arrive and come due in the same instant.
"""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inferplan.estimators.fanout import ONE, FanOutLaw, FanOuts, law_of_mean
from inferplan.estimators.network import Network, Outage, Stalls, Station, Stream
from inferplan.estimators.service import ServiceModel, ServicePoint
from inferplan.estimators.simulation import Chance, Replication, replicate
from inferplan.estimators.simulation.compiled import INTERPRETED, compiled
from inferplan.estimators.simulation.spending import spending_of
from inferplan.estimators.simulation.standstills import Standstills
from inferplan.estimators.simulation.station import LOST, SERVED, SHED
from inferplan.spec.arrivals import Source
from inferplan.spec.workload import Arrivals

END_S = 25.0


@dataclass(order=True)
class Replica:
    """Since when it is free, how much slower it is, its number; whether it is up, and the batch in its hands."""

    since: float
    factor: float
    number: int
    up: bool = field(default=True, compare=False)
    batch: list[tuple[str, int]] | None = field(default=None, compare=False)
    ticket: int = field(default=0, compare=False)
    """Of the batch, so that the end of a lost batch is known to mean nothing."""


@dataclass
class Place:
    """A station at work. The queue holds (deadline, arrival, class number, class, call)."""

    station: Station
    uniforms: list[float]
    replicas: list[Replica]
    pauses: list[tuple[float, float]]
    """When all replicas stand still: from, until; rising and apart."""
    queue: list[tuple[float, float, int, str, int]] = field(default_factory=list)
    batches: list[tuple[float, int]] = field(default_factory=list)
    shed: set[tuple[str, int]] = field(default_factory=set)
    lost: set[tuple[str, int]] = field(default_factory=set)

    def worked(self, time: float, work: float) -> float:
        """When so much time has gone by since then in which the replicas did not stand still."""
        for start, end in self.pauses:
            if end > time:
                if time + work <= start:
                    break
                work -= max(start - time, 0.0)
                time = end
        return time + work

    def gone(self, time: float) -> float:
        """How much such time there was until then."""
        return time - sum(min(end, time) - start for start, end in self.pauses if start < time)


@dataclass
class Tree:
    """What is drawn and does not depend on time: per (class, stage) every call's owner, parent and station."""

    entries: dict[str, list[float]] = field(default_factory=dict)
    owners: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    parents: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    routes: dict[tuple[str, str], list[str]] = field(default_factory=dict)


def tree_of(network: Network, chance: Chance) -> Tree:
    tree = Tree()
    for stream in network.streams:
        source = Source(stream.arrivals, stream.rate_rps / stream.job_size)
        jobs = source.times_s(END_S, chance.of("arrivals", stream.name)).tolist()
        tree.entries[stream.name] = [time for time in jobs for _ in range(stream.job_size)]
        for stage in network.order:
            key, sources = (stream.name, stage), network.feeds[stage]
            if not sources:
                tree.owners[key] = list(range(len(tree.entries[stream.name])))
                tree.parents[key] = []
            else:
                above = (stream.name, sources[0])
                law = network.fan_outs.law((sources[0], stage), "v")
                rng, routes = chance.of("fan-out", stream.name, sources[0], stage), tree.routes[above]
                children = [1] * len(routes)
                # Drawn option by option.
                for name, _ in stream.routes[sources[0]]:
                    there = [call for call, route in enumerate(routes) if route == name]
                    for call, count in zip(there, law.draw(rng, len(there)).tolist(), strict=True):
                        children[call] = count
                tree.parents[key] = [call for call, n in enumerate(children) for _ in range(n)]
                tree.owners[key] = [tree.owners[above][call] for call in tree.parents[key]]
            names, shares = zip(*stream.routes[stage], strict=True)
            drawn = chance.of("route", stream.name, stage).random(len(tree.owners[key])).tolist()
            tree.routes[key] = [pick(names, shares, u) if len(names) > 1 else names[0] for u in drawn]
    return tree


def pick(names: tuple[str, ...], shares: tuple[float, ...], uniform: float) -> str:
    edges = np.cumsum(shares)
    return next((name for name, edge in zip(names, edges, strict=True) if uniform * edges[-1] < edge), names[-1])


@dataclass
class Outcome:
    """Per (class, stage) the time every call was done (infinity: never); per class when each request was answered."""

    done: dict[tuple[str, str], list[float]]
    answered: dict[str, list[float]]
    places: dict[str, Place]


def reference(network: Network, chance: Chance) -> Outcome:
    """The network, event by event. Events of one instant go stage by stage; of one stage: ends, failures and
    returns, arrivals; then replicas look."""
    tree = tree_of(network, chance)
    rank = {stage: index for index, stage in enumerate(network.order)}
    following = {stage: [s for s in network.order if stage in network.feeds[s]] for stage in network.order}
    number = {stream.name: index for index, stream in enumerate(network.streams)}
    limit_s = {s.name: math.inf if s.limit_s is None else s.limit_s for s in network.streams}
    done: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
    events: list[tuple[float, int, int, str, Any, int]] = []
    places: dict[str, Place] = {}
    stalls = stalls_of(network.stalls, chance.of("stalls"))
    for name, station in network.stations.items():
        calls = sum(route == name for stream in network.streams for route in tree.routes[stream.name, station.stage])
        replicas = [Replica(0.0, f, i) for i, f in enumerate(station.slowdowns or (1.0,) * station.replicas)]
        # More numbers than batches; the simulator draws as many as calls really arrive, from the same beginning.
        uniforms = chance.of("service", name).random(calls + 1).tolist()
        places[name] = Place(station, uniforms, replicas, pauses_of(station, stalls, chance))
        for outage in station.outages:
            if outage.start_s <= 0:
                replicas[outage.replica].up = False
            else:
                heapq.heappush(events, (outage.start_s, rank[station.stage], 1, "down", name, outage.replica))
            if math.isfinite(outage.end_s):
                heapq.heappush(events, (outage.end_s, rank[station.stage], 2, "up", name, outage.replica))
    for stream in network.streams:
        (first,) = [stage for stage in network.order if not network.feeds[stage]]
        for request, time in enumerate(tree.entries[stream.name]):
            pair = (stream.name, tree.routes[stream.name, first][request])
            way = network.entry_delay_s.get(pair, 0.0)
            longer = woken(network.entry_wakings.get(pair, ()), tree, time)
            event = (
                held_up(stalls, time) + way + longer,
                rank[first],
                3,
                "arrive",
                (number[stream.name], stream.name),
                request,
            )
            heapq.heappush(events, event)

    def finish(time: float, owner: str, stage: str, call: int) -> None:
        done[owner, stage][call] = held_up(stalls, time)
        for target in following[stage]:
            for child, parent in enumerate(tree.parents[owner, target]):
                if parent != call:
                    continue
                at = [
                    done[owner, source].get(call, math.inf)
                    + network.transfer_s.get((tree.routes[owner, source][call], tree.routes[owner, target][child]), 0.0)
                    for source in network.feeds[target]
                ]
                if math.isfinite(max(at)):
                    event = (max(at), rank[target], 3, "arrive", (number[owner], owner), child)
                    heapq.heappush(events, event)

    while events:
        time, level = events[0][0], events[0][1]
        stage = network.order[level]
        while events and events[0][:2] == (time, level):
            _, _, _, kind, who, which = heapq.heappop(events)
            if kind == "end":
                name, ticket = who
                replica = places[name].replicas[which]
                if replica.batch is not None and replica.ticket == ticket:
                    for owner, call in replica.batch:
                        finish(time, owner, stage, call)
                    replica.batch, replica.since = None, places[name].gone(time)
            elif kind == "down":
                replica = places[who].replicas[which]
                places[who].lost |= set(replica.batch or ())
                replica.up, replica.batch = False, None
            elif kind == "up":
                replica = places[who].replicas[which]
                replica.up, replica.since = True, max(places[who].gone(time), 0.0)
            elif kind == "arrive":
                k, owner = who
                place = places[tree.routes[owner, stage][which]]
                if place.station.service is None:
                    finish(time, owner, stage, which)
                elif len(place.queue) >= (place.station.queue_limit or math.inf):
                    place.shed.add((owner, which))
                else:
                    entry = tree.entries[owner][tree.owners[owner, stage][which]]
                    urgency = entry + limit_s[owner] if place.station.order == "edf" else 0.0
                    place.queue.append((urgency, time, k, owner, which))
        for name, place in places.items():
            if place.station.stage == stage and place.station.service is not None:
                look(name, place, time, level, events)
    for place in places.values():
        place.lost |= {(owner, call) for *_, owner, call in place.queue}
    times = {key: [done[key].get(call, math.inf) for call in range(len(owners))] for key, owners in tree.owners.items()}
    answered = {stream.name: answers(network, stream, tree, times, following) for stream in network.streams}
    return Outcome(times, answered, places)


def woken(wakings: tuple[tuple[float, float], ...], tree: Tree, time: float) -> float:
    """How much longer a request is on its way that comes then, as none has come for a while."""
    before = [entry for entries in tree.entries.values() for entry in entries if entry < time]
    rest = time - max(before) if before else 0.0
    return max((pair for pair in wakings if rest > pair[0]), default=(0.0, 0.0))[1]


def stalls_of(stalls: Stalls | None, rng: np.random.Generator) -> list[tuple[float, float]]:
    """When the router, or a station's replicas, stand still: from, until; rising and apart."""
    if stalls is None:
        return []
    starts = sorted((rng.random(int(rng.poisson(stalls.rate_hz * END_S))) * END_S).tolist())
    lengths = [stalls.lengths_s[int(u * len(stalls.lengths_s))] for u in rng.random(len(starts))]
    begins = [on_the_grid(start) for start in starts]
    return apart([(begin, begin + length) for begin, length in zip(begins, lengths, strict=True)])


def on_the_grid(time: float) -> float:
    return math.floor(8 * time) / 8


def apart(stalls: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those that overlap or touch as one."""
    found: list[tuple[float, float]] = []
    for start, end in sorted(stalls):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], end)
        else:
            found.append((start, end))
    return found


def pauses_of(station: Station, router: list[tuple[float, float]], chance: Chance) -> list[tuple[float, float]]:
    """The replicas' own, and those of the router that are longer than a call takes in the mean."""
    service = station.service
    if service is None:
        return []
    worth = [length for length in sorted(service.replica_stalls) if length >= 0.01 * service.mean_s(1)]
    seen = Stalls(len(worth) / service.watched_s, tuple(worth)) if worth else None
    own = stalls_of(seen, chance.of("pauses", station.name))
    return apart(own + [(start, end) for start, end in router if end - start > service.mean_s(1)])


@pytest.fixture
def gridded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stalls that begin at multiples of 1/8 s, too; arrivals and service times at multiples of 2^-20 s, so that nothing
    is rounded on clocks that stand still either, and what is first of two that coincide is no matter of rounding."""
    arrivals, draws = Source.times_s, ServiceModel.draws_s
    monkeypatch.setattr(Source, "times_s", lambda *given: finely(arrivals(*given)))
    monkeypatch.setattr(ServiceModel, "draws_s", lambda *given: finely(draws(*given)))
    of = Standstills._apart.__func__

    def rounded(kind: type[Standstills], starts: np.ndarray, ends: np.ndarray) -> Standstills:
        begin = np.floor(8 * starts) / 8
        return of(kind, begin, begin + np.round(8 * (ends - starts)) / 8)

    monkeypatch.setattr(Standstills, "_apart", classmethod(rounded))


def finely(times: np.ndarray) -> np.ndarray:
    """To multiples of 2^-20 s."""
    return np.asarray(np.round(times * 2**20) / 2**20)


def held_up(stalls: list[tuple[float, float]], time: float) -> float:
    """When the router gets to what comes then."""
    while any(start <= time < end for start, end in stalls):
        time = max(end for start, end in stalls if start <= time < end)
    return time


def look(name: str, place: Place, time: float, level: int, events: list[Any]) -> None:
    """Free replicas take batches that are due."""
    station = place.station
    standing = [end for start, end in place.pauses if start <= time < end]
    if standing:
        heapq.heappush(events, (standing[0], level, 4, "look", name, 0))
        return
    while place.queue:
        free = sorted(replica for replica in place.replicas if replica.up and replica.batch is None)
        if not free:
            return
        due = place.worked(min(waiting[1] for waiting in place.queue), station.max_queue_delay_s)
        if len(place.queue) < station.max_batch and due > time:
            heapq.heappush(events, (due, level, 4, "look", name, 0))
            return
        place.queue.sort()
        taken, place.queue = place.queue[: station.max_batch], place.queue[station.max_batch :]
        assert station.service is not None
        pool = station.service.draws_s(len(taken))
        took = pool[int(place.uniforms[len(place.batches)] * len(pool))] * free[0].factor
        took += max(
            (w for w in station.service.wakings if place.gone(time) - free[0].since > w[0]), default=(0.0, 0.0)
        )[1]
        end = place.worked(time, took)
        free[0].batch, free[0].ticket = [(owner, call) for *_, owner, call in taken], len(place.batches)
        place.batches.append((time, len(taken)))
        heapq.heappush(events, (end, level, 0, "end", (name, free[0].ticket), free[0].number))


def answers(
    network: Network, stream: Stream, tree: Tree, times: dict[Any, list[float]], following: dict[str, list[str]]
) -> list[float]:
    """When each request was answered: when its last call was done, and back where it made no further calls."""
    answered = list(tree.entries[stream.name])
    for stage in network.order:
        parents = {call for target in following[stage] for call in tree.parents[stream.name, target]}
        for call, owner in enumerate(tree.owners[stream.name, stage]):
            way = network.exit_delay_s.get((stream.name, tree.routes[stream.name, stage][call]), 0.0)
            back = times[stream.name, stage][call] + (0.0 if call in parents else way)
            answered[owner] = max(answered[owner], back)
    return answered


@st.composite
def stations(draw: st.DrawFn, name: str, stage: str) -> Station:
    if draw(st.integers(0, 5)) == 0:
        return Station(name, stage, "v", 0, 1, 0.0, None)
    base = draw(st.sampled_from([0.125, 0.25, 0.5]))
    batch = draw(st.sampled_from([1, 2, 4]))
    cv = draw(st.sampled_from([0.0, 0.0, 0.6]))
    points = tuple(ServicePoint(b, base * (0.5 + 0.5 * b), cv * base) for b in (1, 2, 4) if b <= batch)
    replicas = draw(st.integers(1, 3))
    slower = tuple(draw(st.sampled_from([1.0, 1.0, 1.5, 2.0])) for _ in range(draw(st.sampled_from([0, replicas]))))
    outages = []
    for replica in range(replicas if draw(st.integers(0, 2)) == 0 else 0):
        edges = sorted(draw(st.lists(st.integers(-8, 200), max_size=4, unique=True)))
        pairs = list(zip(edges[::2], edges[1::2], strict=False))
        outages += [Outage(replica, begin / 8, end / 8) for begin, end in pairs]
        if len(edges) % 2 and draw(st.booleans()):
            outages.append(Outage(replica, edges[-1] / 8, math.inf))
    service = ServiceModel(
        points,
        wakings=draw(st.sampled_from([(), (), ((0.0, 0.125),), ((0.25, 0.125), (1.0, 0.5))])),
        replica_stalls=draw(st.sampled_from([(), (), (0.125, 0.5, 1.0), (2.0,)])),
        watched_s=8.0,
    )
    return Station(
        name, stage, "v", replicas, batch, draw(st.sampled_from([0.0, 0.125, 1.0])), service, slower,
        draw(st.sampled_from([None, None, 1, 3, 6])), draw(st.sampled_from(["fifo", "fifo", "edf"])), tuple(outages),
    )  # fmt: skip


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """A chain of up to three stages, or a diamond whose branches join; one or two stations a stage, and classes."""
    diamond = draw(st.booleans())
    order = ("a", "b", "c", "d") if diamond else ("a", "b", "c")[: draw(st.integers(1, 3))]
    edges = (
        [("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")]
        if diamond
        else [(order[i], order[i + 1]) for i in range(len(order) - 1)]
    )
    laws = {
        edge: ONE if diamond else draw(st.sampled_from([ONE, FanOutLaw((0, 1, 3), (0.25, 0.5, 0.25)), law_of_mean(2)]))
        for edge in edges
    }
    found = {stage: [stage, f"{stage}2"][: draw(st.sampled_from([1, 1, 2]))] for stage in order}
    made = {name: draw(stations(name, stage)) for stage, names in found.items() for name in names}
    lineages: dict[str, tuple[tuple[str, str], ...]] = {order[0]: ()}
    for source, target in edges:
        lineages.setdefault(target, (*lineages[source], (source, target)))
    processes = [Arrivals(), Arrivals(process="deterministic"), Arrivals(process="gamma", cv=2.0)]
    streams = []
    for name in ("x", "y")[: draw(st.integers(1, 2))]:
        routes = {}
        for stage, names in found.items():
            chosen = draw(st.sampled_from([names, names[:1], names[-1:]]))
            routes[stage] = tuple((station, 1 / len(chosen)) for station in chosen)
        rate, process = draw(st.sampled_from([0.5, 1.0, 2.0])), draw(st.sampled_from(processes))
        limit = draw(st.sampled_from([None, 1.0, 4.0]))
        size = draw(st.sampled_from([1, 1, 1, 3]))
        streams.append(Stream(name, rate, process, 99.0, limit, routes, job_size=size))
    delays = st.sampled_from([0.0, 0.0, 0.125, 0.5])
    far = draw(st.booleans())
    pairs = [(up, down) for s, t in edges for up in found[s] for down in found[t]]
    ends = [(stream.name, name) for stream in streams for name in made]
    wakings = st.sampled_from([(), ((0.5, 0.125),), ((0.25, 0.125), (1.0, 0.5))])
    return Network(
        tuple(order),
        {stage: tuple(sorted(s for s, t in edges if t == stage)) for stage in order},
        FanOuts(laws, {}, lineages),
        dict(sorted(made.items())),
        tuple(streams),
        {pair: draw(delays) for pair in ends} if far else {},
        {pair: draw(delays) for pair in pairs} if far else {},
        {pair: draw(delays) for pair in ends} if far else {},
        entry_wakings={pair: draw(wakings) for pair in ends} if draw(st.booleans()) else {},
        stalls=draw(st.sampled_from([None, None, Stalls(0.5, (0.25, 1.0, 4.0))])),
    )


@pytest.mark.usefixtures("gridded")
@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(network=networks(), seed=st.integers(0, 10_000))
def test_equal_to_the_event_by_event_reference_to_the_last_event(network: Network, seed: int) -> None:
    run = replicate(network, Chance(seed, 0), END_S, 0.0)
    expected = reference(network, Chance(seed, 0))
    for stream in network.streams:
        for stage in network.order:
            assert run.calls[stream.name, stage].done_s.tolist() == expected.done[stream.name, stage]
        assert run.answered_s[stream.name].tolist() == expected.answered[stream.name]
    for name, place in expected.places.items():
        served = run.served[name][1]
        assert (served.count(SHED), served.count(LOST)) == (len(place.shed), len(place.lost))
        if place.station.service is not None:
            # Single calls start at their end less their service, which rounds.
            assert served.starts_s.tolist() == pytest.approx([start for start, _ in place.batches], abs=1e-9)
            assert served.sizes.tolist() == [size for _, size in place.batches]


@settings(max_examples=100, deadline=None)
@given(network=networks(), seed=st.integers(0, 10_000))
def test_what_enters_leaves_once_or_is_counted_as_shed_or_lost(network: Network, seed: int) -> None:
    run = replicate(network, Chance(seed, 0), END_S, 0.0)
    for name, (times, served) in run.served.items():
        station = network.stations[name]
        fates = [served.count(fate) for fate in (SERVED, SHED, LOST)]
        assert sum(fates) == len(times) == len(served.done_s)
        assert int(np.isfinite(served.done_s).sum()) == fates[0]
        if station.service is not None:
            in_batches = int((served.batch_of() >= 0).sum())
            assert served.sizes.sum() == in_batches
            assert served.sizes.max(initial=0) <= station.max_batch
            assert in_batches <= fates[0] + fates[2]
        calls = sum(
            int((np.isfinite(c.arrived_s) & (c.station == index)).sum())
            for stream in network.streams
            for c in [run.calls[stream.name, station.stage]]
            for index, (route, _) in enumerate(stream.routes[station.stage])
            if route == name
        )
        assert calls == len(times)
    for stream in network.streams:
        jobs = len(run.entries_s[stream.name]) // stream.job_size
        assert len(run.latencies_s[stream.name]) == jobs
        assert np.all(run.latencies_s[stream.name] >= 0)


@settings(max_examples=100, deadline=None)
@given(network=networks(), seed=st.integers(0, 10_000), warmup=st.sampled_from([0.0, 5.0]))
def test_the_times_on_the_way_add_up_to_the_latency(network: Network, seed: int, warmup: float) -> None:
    run = replicate(network, Chance(seed, 0), END_S - warmup, warmup)
    for stream in network.streams:
        spent = spending_of(network, run, stream)
        latencies = run.latencies_s[stream.name]
        answered = latencies[np.isfinite(latencies)]
        assert spent.answered == len(answered)
        on_the_way = sum(stage.path_sums_s.sum() for stage in spent.stages.values()) + spent.way_back_sum_s
        assert on_the_way == pytest.approx(answered.sum(), abs=1e-6)
        for stage in spent.stages.values():
            assert (stage.path_sums_s >= -1e-9).all()
            assert stage.sums_s[2:].sum() == pytest.approx(stage.latencies_s.sum(), abs=1e-6)


def same(one: Replication, other: Replication) -> bool:
    """Whether two replications are the same to the last bit."""
    return all(
        np.array_equal(one.calls[key].done_s, other.calls[key].done_s)
        and np.array_equal(one.calls[key].arrived_s, other.calls[key].arrived_s)
        for key in one.calls
    ) and all(
        np.array_equal(getattr(one.served[name][1], part), getattr(other.served[name][1], part))
        for name in one.served
        for part in ("done_s", "fates", "batches", "starts_s", "sizes", "services_s", "ready_s")
    )


@settings(max_examples=100, deadline=None)
@given(network=networks(), seed=st.integers(0, 10_000))
def test_compiled_loops_give_the_same_bytes(network: Network, seed: int) -> None:
    pytest.importorskip("numba")
    assert compiled().compiled
    plain, fast = (replicate(network, Chance(seed, 0), END_S, 0.0, loops=w) for w in (INTERPRETED, compiled()))
    assert same(plain, fast)


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1, 2**32, 2**70])
def test_generators_are_seeded_by_seed_replication_and_purpose(seed: int) -> None:
    words = [seed, 3, *"arrivals\0wéb".encode()]
    expected = np.random.Generator(np.random.PCG64(np.random.SeedSequence(words)))
    assert Chance(seed, 3).of("arrivals", "wéb").random(4).tolist() == expected.random(4).tolist()
