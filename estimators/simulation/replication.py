"""One run of a network, from empty: calls fan out, queue, are served, join, and the last of them answers.

Calls fan out by the laws of the edges; a stage that joins several edges starts a call when all its sources are
done; a request is answered when the last of its calls is done and back. A call that is shed or lost is never done,
and so are the calls that would follow from it: its request is not answered. Its other calls go on, as nobody
calls them back.

Every source of chance has a generator of its own, seeded by (seed, replication, what it is for): the same seed
gives the same bytes, and two plans are judged on the same arrivals.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from inferplan.estimators.network import Network, Station, Stream, pauses_of
from inferplan.estimators.simulation.compiled import INTERPRETED, Loops
from inferplan.estimators.simulation.standstills import Standstills
from inferplan.estimators.simulation.station import Served, serve

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


class Randomness(Protocol):
    """Generators by purpose."""

    def of(self, *purpose: str) -> np.random.Generator:
        """The generator of one purpose: always the same, at its start."""


@dataclass(frozen=True)
class Chance:
    """Generators of one replication, keyed by what they are for."""

    seed: int
    replication: int

    def of(self, *purpose: str) -> np.random.Generator:
        """The generator of one purpose, e.g. ("arrivals", "web")."""
        words = [self.seed, self.replication, *"\0".join(purpose).encode()]
        # What fits in 32 bits is one word of the sequence either way; an array of them is taken as it is, and sooner.
        entropy = np.array(words, dtype=np.uint32) if max(words) < 2**32 else words
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))


@dataclass(frozen=True)
class Calls:
    """Calls of one class at one stage, in the order of the calls that made them.

    `owner` is the request's index; `parent` that of the call above, at every stage that feeds this one (None: it is
    the call's own). A call that is never made arrives at infinity, and one that is never done is done then.
    """

    owner: Counts
    parent: Counts | None
    arrived_s: Floats
    station: Counts
    """Index into the class's choices of the stage."""
    done_s: Floats
    one_each: bool
    """Whether every request makes exactly one call here."""


@dataclass
class Replication:
    """One run of the network, from empty. Latencies count requests that arrived in the counted time.

    For a class of jobs, its latencies are those of jobs. What was not answered took infinitely long.
    """

    warmup_s: float
    end_s: float
    entries_s: dict[str, Floats] = field(default_factory=dict)
    """When each class's requests arrived, all of them."""
    answered_s: dict[str, Floats] = field(default_factory=dict)
    latencies_s: dict[str, Floats] = field(default_factory=dict)
    ways: dict[str, Counts] = field(default_factory=dict)
    """Which way each request goes, of classes that go several."""
    calls: dict[tuple[str, str], Calls] = field(default_factory=dict)
    """By (class, stage)."""
    served: dict[str, tuple[Floats, Served]] = field(default_factory=dict)
    """Per station its sorted arrivals and what it did with them."""
    origins: dict[str, Origins] = field(default_factory=dict)
    """Per station, whose calls its arrivals are."""
    stalls: Standstills | None = None
    """When the machine stood still."""


def replicate(
    network: Network,
    chance: Randomness,
    horizon_s: float,
    warmup_s: float,
    *,
    clock_s: float | None = None,
    loops: Loops = INTERPRETED,
) -> Replication:
    """One replication: requests arrive for warm-up and horizon, and all of them are answered that ever can be.

    `clock_s` is what the clock of days and traces shows at the start; None: they begin with the counted time.
    """
    run = Replication(warmup_s, warmup_s + horizon_s)
    clock = -warmup_s if clock_s is None else clock_s
    for stream in network.streams:
        arrivals = stream.source.times_s(run.end_s, chance.of("arrivals", stream.name), clock)
        run.entries_s[stream.name] = np.repeat(arrivals, stream.job_size) if stream.job_size > 1 else arrivals
        if stream.ways:
            run.ways[stream.name] = _ways(stream, len(run.entries_s[stream.name]), chance)
    if network.stalls is not None:
        run.stalls = Standstills.of(network.stalls, run.end_s, chance.of("stalls"))
    choose = partial(drawn, run)
    for stage in network.order:
        arriving = {stream.name: arriving_at(network, stream, stage, run, chance, choose) for stream in network.streams}
        serve_stage(network, stage, arriving, run, chance, loops)
    answer(network, run)
    return run


def answer(network: Network, run: Replication) -> None:
    """When requests were answered, and how long that took them, once all their calls were served."""
    for stream in network.streams:
        entry, answered = run.entries_s[stream.name], answers_s(network, run, stream)
        run.answered_s[stream.name] = answered
        if stream.job_size > 1:
            entry, answered = entry[:: stream.job_size], answered.reshape(-1, stream.job_size).max(axis=1)
        run.latencies_s[stream.name] = (answered - entry)[int(np.searchsorted(entry, run.warmup_s)) :]


def answers_s(network: Network, run: Replication, stream: Stream) -> Floats:
    """When each of a class's requests was answered: when the last of its calls was done and back."""
    answered = run.entries_s[stream.name].copy()
    for stage in network.order:
        if not _followed(network, stream, stage):
            _latest(answered, run.calls[stream.name, stage], way_back_s(network, run, stream, stage))
    return answered


@dataclass(frozen=True, slots=True)
class Arriving:
    """A class's calls of a stage before they are served."""

    owner: Counts
    parent: Counts | None
    times_s: Floats
    station: Counts
    one_each: bool


Chooser = Callable[[Stream, str, Counts, Floats, Randomness], Counts]
"""Which of a class's stations of a stage serves each of its calls, given whose they are and when they were sent."""


def arriving_at(
    network: Network, stream: Stream, stage: str, run: Replication, chance: Randomness, choose: Chooser
) -> Arriving:
    """A class's calls of a stage, given what the stages above did."""
    sources = network.feeds[stage]
    if not sources:
        return _entering(network, stream, stage, run, chance, choose)
    upstream = run.calls[stream.name, sources[0]]
    fan_out = _fan_out(network, stream, (sources[0], stage), upstream.station, chance)
    if fan_out is None:
        parent, owner = None, upstream.owner
    else:
        parent = np.repeat(np.arange(len(fan_out)), fan_out)
        # Where every request made one call, calls are numbered like requests.
        owner = parent if upstream.one_each else upstream.owner[parent]
    done = [run.calls[stream.name, source].done_s for source in sources]
    done = done if parent is None else [times[parent] for times in done]
    chosen = choose(stream, stage, owner, np.max(done, axis=0) if len(done) > 1 else done[0], chance)
    times: Floats | None = None
    for source, sent in zip(sources, done, strict=True):
        calls = run.calls[stream.name, source]
        transfers = transfers_s(network, stream, source, stage)
        if transfers.any():
            sender = calls.station if parent is None else calls.station[parent]
            sent = sent + transfers[sender, chosen]
        times = sent if times is None else np.maximum(times, sent)
    assert times is not None
    return Arriving(owner, parent, times, chosen, upstream.one_each and fan_out is None)


def _entering(
    network: Network, stream: Stream, stage: str, run: Replication, chance: Randomness, choose: Chooser
) -> Arriving:
    entries_s = run.entries_s[stream.name]
    owner = np.arange(len(entries_s))
    chosen = choose(stream, stage, owner, entries_s, chance)
    if run.stalls is not None:
        entries_s = run.stalls.held_up(entries_s)
    delays = np.array([network.entry_delay_s.get((stream.name, name), 0.0) for name, _ in stream.routes[stage]])
    times = entries_s + delays[chosen] if delays.any() else entries_s
    for index, (name, _) in enumerate(stream.routes[stage]):
        draws = np.array(network.overheads_s.get((stream.name, name), ()))
        if len(draws):
            uniforms = chance.of("overhead", stream.name, name).random(len(times))
            times = times + np.where(chosen == index, draws[(uniforms * len(draws)).astype(np.int64)], 0.0)
        wakings = network.entry_wakings.get((stream.name, name), ())
        if wakings:
            rests, longer = (np.array([0.0, *(pair[i] for pair in wakings)]) for i in (0, 1))
            step = np.searchsorted(rests[1:], _rests_s(run, stream))
            times = times + np.where(chosen == index, longer[step], 0.0)
    return Arriving(owner, None, times, chosen, True)


def _rests_s(run: Replication, stream: Stream) -> Floats:
    """For how long no request of any class had come before each of a class's; 0 for the first."""
    mine = run.entries_s[stream.name]
    everything = np.sort(np.concatenate(list(run.entries_s.values()))) if len(run.entries_s) > 1 else mine
    before = np.searchsorted(everything, mine, side="left") - 1
    rests: Floats = np.where(before >= 0, mine - everything[np.maximum(before, 0)], 0.0)
    return rests


def _ways(stream: Stream, count: int, chance: Randomness) -> Counts:
    """Which way each of `count` requests goes: drawn by the shares; of every job, the first so many go the first."""
    requests = [way.requests for way in stream.ways]
    if stream.job_size > 1 and None not in requests:
        job = np.repeat(np.arange(len(requests)), np.array(requests, dtype=np.int64))
        return np.tile(job, count // stream.job_size)
    edges = np.cumsum([way.share for way in stream.ways])
    drawn = chance.of("way", stream.name).random(count) * edges[-1]
    chosen: Counts = np.minimum(np.searchsorted(edges, drawn, side="right"), len(edges) - 1).astype(np.int64)
    return chosen


def drawn(run: Replication, stream: Stream, stage: str, owner: Counts, sent_s: Floats, chance: Randomness) -> Counts:
    """Stations by the ways that requests go, else drawn by the class's shares."""
    choices, count = stream.routes[stage], len(owner)
    if len(choices) == 1:
        return np.zeros(count, dtype=np.int64)
    if stream.ways:
        position = {name: index for index, (name, _) in enumerate(choices)}
        stations = np.array([position[way.stations[stage]] for way in stream.ways])
        found: Counts = stations[run.ways[stream.name][owner]]
        return found
    edges = np.cumsum([share for _, share in choices])
    drawn = chance.of("route", stream.name, stage).random(count) * edges[-1]
    chosen: Counts = np.minimum(np.searchsorted(edges, drawn, side="right"), len(choices) - 1).astype(np.int64)
    return chosen


def transfers_s(network: Network, stream: Stream, source: str, stage: str) -> Floats:
    """Seconds from each of the class's stations of one stage (rows) to each of the next (columns)."""
    return np.array(
        [
            [network.transfer_s.get((sender, receiver), 0.0) for receiver, _ in stream.routes[stage]]
            for sender, _ in stream.routes[source]
        ]
    )


def way_back_s(network: Network, run: Replication, stream: Stream, stage: str) -> Floats | None:
    """Seconds that the answer of each of a class's calls of a stage takes back to where its requests come from, 0 for
    calls that made others; None where none takes any."""
    exits = np.array([network.exit_delay_s.get((stream.name, name), 0.0) for name, _ in stream.routes[stage]])
    if not exits.any():
        return None
    calls = run.calls[stream.name, stage]
    back: Floats = exits[calls.station]
    for below in [below for below in network.order if stage in network.feeds[below]]:
        parent = run.calls[stream.name, below].parent
        back[slice(None) if parent is None else parent] = 0.0
    return back


def _fan_out(
    network: Network, stream: Stream, edge: tuple[str, str], station: Counts, chance: Randomness
) -> Counts | None:
    """Downstream calls of each upstream call; None where each makes exactly one."""
    laws = [network.fan_outs.law(edge, network.stations[name].variant) for name, _ in stream.routes[edge[0]]]
    if all(law.is_one for law in laws):
        return None
    rng = chance.of("fan-out", stream.name, *edge)
    counts = np.ones(len(station), dtype=np.int64)
    for index, law in enumerate(laws):
        chosen = station == index
        counts[chosen] = law.draw(rng, int(chosen.sum()))
    return counts


@dataclass(frozen=True, slots=True)
class Part:
    """Calls of one class that go to one station: which of the class's calls (None: all), of how many."""

    stream: str
    which: Counts | None
    count: int

    @property
    def size(self) -> int:
        """How many go there."""
        return self.count if self.which is None else len(self.which)


@dataclass(frozen=True, slots=True)
class Origins:
    """The arrivals of a station before they were sorted: part after part; `order` sorts them (None: they were)."""

    parts: tuple[Part, ...]
    order: Counts | None

    def handed_back(self, values: NDArray[Any], missing: float) -> dict[str, NDArray[Any]]:
        """Per class, the values of the sorted arrivals in the order of the class's calls; others are `missing`."""
        if self.order is not None:
            unsorted = np.empty_like(values)
            unsorted[self.order] = values
            values = unsorted
        found: dict[str, NDArray[Any]] = {}
        start = 0
        for part in self.parts:
            own = values[start : start + part.size]
            start += part.size
            if part.which is None:
                found[part.stream] = own
            else:
                whole = found.setdefault(part.stream, np.full(part.count, missing, dtype=values.dtype))
                whole[part.which] = own
        return found


def serve_stage(
    network: Network,
    stage: str,
    arriving: Mapping[str, Arriving],
    run: Replication,
    chance: Randomness,
    loops: Loops,
) -> None:
    """Serve every station of a stage; calls of all classes share its queue."""
    done = {name: np.full(0, np.inf) for name in arriving}
    for name in [name for name, station in network.stations.items() if station.stage == stage]:
        parts = tuple(
            Part(stream.name, which, len(calls.owner))
            for stream in network.streams
            for index, (station, _) in enumerate(stream.routes[stage])
            if station == name
            for calls in [arriving[stream.name]]
            for which in [_going(calls, index, len(stream.routes[stage]))]
        )
        run.origins[name], run.served[name] = _serve_station(network, name, parts, arriving, run, chance, loops)
        for owner, times in run.origins[name].handed_back(run.served[name][1].done_s, np.inf).items():
            # A class's calls of a stage may go to several stations; each is done at one of them.
            done[owner] = times if len(done[owner]) == 0 else np.minimum(done[owner], times)
    for stream in network.streams:
        calls, times = arriving[stream.name], done[stream.name]
        if run.stalls is not None:
            times = run.stalls.held_up(times)
        run.calls[stream.name, stage] = Calls(
            calls.owner, calls.parent, calls.times_s, calls.station, times, calls.one_each
        )


def _going(calls: Arriving, index: int, choices: int) -> Counts | None:
    """Indices of the calls that are made and go to the class's station `index`; None: all of them."""
    if choices == 1 and (len(calls.times_s) == 0 or calls.times_s.max() < np.inf):
        return None
    made = np.isfinite(calls.times_s)
    if choices > 1:
        made &= calls.station == index
    return None if made.all() else np.flatnonzero(made)


def _serve_station(
    network: Network,
    name: str,
    parts: tuple[Part, ...],
    arriving: Mapping[str, Arriving],
    run: Replication,
    chance: Randomness,
    loops: Loops,
) -> tuple[Origins, tuple[Floats, Served]]:
    """Whose calls a station's arrivals are, their sorted times, and what it did with them."""
    station = network.stations[name]
    times = _together([_of(arriving[part.stream].times_s, part) for part in parts])
    order: Counts | None = None
    if np.any(times[1:] < times[:-1]):
        order = np.argsort(times, kind="stable")
        times = times[order]
    deadlines = None
    if station.order == "edf":
        limits = {stream.name: np.inf if stream.limit_s is None else stream.limit_s for stream in network.streams}
        # A deadline counts from when the request arrived, not from when it reached this stage.
        deadlines = _together(
            [run.entries_s[part.stream][_of(arriving[part.stream].owner, part)] + limits[part.stream] for part in parts]
        )
        deadlines = deadlines if order is None else deadlines[order]
    rng = chance.of("service", name)
    pauses = _pauses(station, run, chance)
    served = serve(times, station, rng, deadlines_s=deadlines, begin_s=run.warmup_s, pauses=pauses, loops=loops)
    return Origins(parts, order), (times, served)


def _pauses(station: Station, run: Replication, chance: Randomness) -> Standstills | None:
    """When a station's replicas stand still: when their cores do, and while the router does for longer than they take
    for a call, as they have run dry then."""
    if station.service is None:
        return None
    stalls = pauses_of(station)
    own = Standstills.of(stalls, run.end_s, chance.of("pauses", station.name)) if stalls else None
    if run.stalls is None:
        return own
    dry = run.stalls.longer_than(station.service.mean_s(1))
    return dry if own is None else own.joined(dry)


def _of(values: NDArray[np.generic], part: Part) -> NDArray[np.generic]:
    return values if part.which is None else values[part.which]


def _together(arrays: list[NDArray[np.generic]]) -> Floats:
    if len(arrays) == 1:
        return arrays[0].astype(np.float64, copy=False)
    return np.concatenate(arrays).astype(np.float64, copy=False) if arrays else np.zeros(0)


def _followed(network: Network, stream: Stream, stage: str) -> bool:
    """Whether every call of a stage makes others, which are done no earlier than itself: it answers nothing."""
    return any(
        all(network.fan_outs.law((stage, below), network.stations[name].variant).counts[0] > 0
            for name, _ in stream.routes[stage])
        for below in network.order
        if stage in network.feeds[below]
    )  # fmt: skip


def _latest(answered: Floats, calls: Calls, way_back: Floats | None) -> None:
    """Raise each request's time of answer to the last of its calls; calls stand in order of their requests."""
    if len(calls.owner) == 0:
        return
    back = calls.done_s if way_back is None else calls.done_s + way_back
    if calls.one_each:
        np.maximum(answered, back, out=answered)
        return
    first = np.concatenate([[0], 1 + np.flatnonzero(calls.owner[1:] != calls.owner[:-1])])
    owners = calls.owner[first]
    answered[owners] = np.maximum(answered[owners], np.maximum.reduceat(back, first))
