"""Discrete-event simulation of a plan: the judge of its latency promises.

The pipeline is a feed-forward DAG, so every station is computed on its own, stage by stage, in one pass over
its sorted arrivals (`station.serve`). Calls fan out by the laws of the edges; a stage that joins several edges
starts a call when all its sources are done; a request is answered when the last of its calls is done.
Every source of chance has a generator of its own, seeded by (seed, replication, what it is for): the same seed
gives the same bytes, and two plans are judged on the same arrivals.

Replications are independent and start empty; what arrives during the warm-up is not counted. Their number
doubles until every class is decided or the effort is spent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from inferplan.estimators.intervals import Latencies
from inferplan.estimators.network import Network, Station, Stream
from inferplan.estimators.station import Served, serve
from inferplan.spec.arrivals import arrival_times
from inferplan.spec.errors import InputError
from inferplan.spec.plan import Estimate, Verdict

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

FIRST_REPLICATIONS = 10
RELAXATIONS = 5.0
"""Warm-up in relaxation times of the busiest station, which grow as 1 / (1 - utilisation)²."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How much to simulate: `calls` at most (all stages and replications together), and how many requests
    beyond the limit one replication should see at the promised percentile."""

    calls: int = 4_000_000
    beyond: float = 4.0


@dataclass(frozen=True)
class StreamResult:
    """What a class saw. Latencies are end to end; `latency_slo_s` is at the percentile of its SLO."""

    verdict: Verdict | None
    """None where the class has no SLO."""
    requests: int
    latency_mean_s: Estimate
    latency_p50_s: Estimate
    latency_p90_s: Estimate
    latency_p99_s: Estimate
    latency_slo_s: Estimate | None


@dataclass(frozen=True)
class StationResult:
    """What a station did. `batch_histogram` is the share of batches by size; latency is wait and service."""

    load_rps: float
    utilisation: float
    batch_mean: float
    batch_histogram: dict[int, float]
    latency_mean_s: float
    latency_tail_s: float


@dataclass(frozen=True)
class SimulationResult:
    """The outcome. Where `unstable` names stations nothing was simulated: their queues grow without bound."""

    seed: int
    replications: int
    streams: dict[str, StreamResult]
    stations: dict[str, StationResult]
    unstable: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of all classes; met where no class has an SLO and every queue is stable."""
        verdicts = {stream.verdict for stream in self.streams.values()}
        if self.unstable or "missed" in verdicts:
            return "missed"
        return "undecided" if "undecided" in verdicts else "met"


def simulate(network: Network, seed: int = 0, effort: Effort | None = None) -> SimulationResult:
    """Simulate a plan until every class's promise is decided or the effort is spent. Says "unstable" at once."""
    unstable = network.unstable()
    if unstable:
        return SimulationResult(seed, 0, {}, {}, unstable)
    effort = effort or Effort()
    warmup_s, horizon_s, affordable = _lengths(network, effort)
    runs: list[_Digest] = []
    wanted = min(FIRST_REPLICATIONS, affordable)
    while True:
        for index in range(len(runs), wanted):
            runs.append(_digest(network, replicate(network, Chance(seed, index), horizon_s, warmup_s)))
        streams = {stream.name: _judge(stream, runs) for stream in network.streams}
        decided = all(result.verdict != "undecided" for result in streams.values())
        if decided or wanted >= affordable:
            break
        wanted = min(2 * wanted, affordable)
    stations = {name: _summary(network, station, runs) for name, station in network.stations.items()}
    return SimulationResult(seed, len(runs), streams, stations)


def _lengths(network: Network, effort: Effort) -> tuple[float, float, int]:
    """Warm-up and counted time of a replication, in seconds, and how many replications the effort allows."""
    loads = network.loads_rps()
    relaxation = passing = 0.0
    for name, station in network.stations.items():
        if station.service is not None:
            busy = station.service.mean_s(station.max_batch) * max(station.slowdowns, default=1.0)
            relaxation = max(relaxation, busy / (1 - loads[name] / station.capacity_rps) ** 2)
            passing += busy + station.max_queue_delay_s
    warmup = RELAXATIONS * relaxation + passing
    needed = max(
        effort.beyond / (1 - (stream.percentile or 99.0) / 100) / stream.rate_rps for stream in network.streams
    )
    rate = sum(loads.values()) + sum(stream.rate_rps for stream in network.streams)
    # At least a handful of replications must fit, or there is no interval.
    longest = effort.calls / rate / FIRST_REPLICATIONS
    warmup = min(warmup, longest / 2)
    horizon = min(max(needed, 2 * warmup), longest - warmup)
    return warmup, horizon, max(int(effort.calls / (rate * (warmup + horizon))), FIRST_REPLICATIONS)


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
        words = np.frombuffer("\0".join(purpose).encode(), dtype=np.uint8).tolist()
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.seed, self.replication, *words])))


@dataclass(frozen=True)
class Calls:
    """Calls of one class at one stage, in the order of the calls that made them. `owner` is the request's index."""

    owner: Counts
    arrived_s: Floats
    station: Counts
    """Index into the class's choices of the stage."""
    done_s: Floats
    children: Counts
    """How many calls each made, of all stages below together."""


@dataclass
class Replication:
    """One run of the network, from empty. Latencies count requests that arrived in the counted time."""

    warmup_s: float
    end_s: float
    latencies_s: dict[str, Floats] = field(default_factory=dict)
    calls: dict[tuple[str, str], Calls] = field(default_factory=dict)
    """By (class, stage)."""
    served: dict[str, tuple[Floats, Served]] = field(default_factory=dict)
    """Per station its sorted arrivals and what it did with them."""


def replicate(network: Network, chance: Randomness, horizon_s: float, warmup_s: float) -> Replication:
    """One replication: requests arrive for warm-up and horizon, and all of them are answered."""
    run = Replication(warmup_s, warmup_s + horizon_s)
    entries = {
        stream.name: arrival_times(stream.arrivals, stream.rate_rps, run.end_s, chance.of("arrivals", stream.name))
        for stream in network.streams
    }
    for stage in network.order:
        arriving = {stream.name: _arriving(network, stream, stage, entries, run, chance) for stream in network.streams}
        _serve_stage(network, stage, arriving, run, chance)
    for stream in network.streams:
        entry = entries[stream.name]
        answered = entry.copy()
        for stage in network.order:
            _latest(answered, run.calls[stream.name, stage], _exits(network, stream, stage))
        run.latencies_s[stream.name] = (answered - entry)[entry >= warmup_s]
    return run


def _arriving(
    network: Network, stream: Stream, stage: str, entries: Mapping[str, Floats], run: Replication, chance: Randomness
) -> tuple[Counts, Floats, Counts]:
    """Owner, time and choice of station of a class's calls of a stage."""
    sources = network.feeds[stage]
    if not sources:
        times = entries[stream.name]
        chosen = _choice(stream, stage, len(times), chance)
        entry = np.array([network.entry_delay_s.get((stream.name, name), 0.0) for name, _ in stream.routes[stage]])
        return np.arange(len(times)), times + entry[chosen], chosen
    upstream = run.calls[stream.name, sources[0]]
    fan_out = _fan_out(network, stream, (sources[0], stage), upstream.station, chance)
    chosen = _choice(stream, stage, int(fan_out.sum()), chance)
    times = np.full(len(chosen), -np.inf)
    for source in sources:
        calls = run.calls[stream.name, source]
        calls.children[:] += fan_out
        sent, sender = np.repeat(calls.done_s, fan_out), np.repeat(calls.station, fan_out)
        times = np.maximum(times, sent + _transfers(network, stream, source, stage)[sender, chosen])
    return np.repeat(upstream.owner, fan_out), times, chosen


def _choice(stream: Stream, stage: str, count: int, chance: Randomness) -> Counts:
    """Which of the class's stations of a stage serves each of `count` calls."""
    choices = stream.routes[stage]
    if len(choices) == 1:
        return np.zeros(count, dtype=np.int64)
    edges = np.cumsum([share for _, share in choices])
    drawn = chance.of("route", stream.name, stage).random(count) * edges[-1]
    return np.minimum(np.searchsorted(edges, drawn, side="right"), len(choices) - 1)


def _transfers(network: Network, stream: Stream, source: str, stage: str) -> Floats:
    """Seconds from each of the class's stations of one stage (rows) to each of the next (columns)."""
    return np.array(
        [
            [network.transfer_s.get((sender, receiver), 0.0) for receiver, _ in stream.routes[stage]]
            for sender, _ in stream.routes[source]
        ]
    )


def _exits(network: Network, stream: Stream, stage: str) -> Floats:
    """Seconds from each of the class's stations of a stage back to where its requests come from."""
    return np.array([network.exit_delay_s.get((stream.name, name), 0.0) for name, _ in stream.routes[stage]])


def _fan_out(network: Network, stream: Stream, edge: tuple[str, str], station: Counts, chance: Randomness) -> Counts:
    """Downstream calls of each upstream call."""
    rng = chance.of("fan-out", stream.name, *edge)
    counts = np.ones(len(station), dtype=np.int64)
    for index, (name, _) in enumerate(stream.routes[edge[0]]):
        law = network.fan_outs.law(edge, network.stations[name].variant)
        chosen = station == index
        counts[chosen] = law.draw(rng, int(chosen.sum()))
    return counts


def _serve_stage(
    network: Network,
    stage: str,
    arriving: Mapping[str, tuple[Counts, Floats, Counts]],
    run: Replication,
    chance: Randomness,
) -> None:
    """Serve every station of a stage; calls of all classes share its queue in order of arrival."""
    done = {name: np.empty(len(times)) for name, (_, times, _) in arriving.items()}
    for name in [name for name, station in network.stations.items() if station.stage == stage]:
        parts: list[tuple[str, NDArray[np.bool_]]] = []
        for stream in network.streams:
            for index, (station, _) in enumerate(stream.routes[stage]):
                if station == name:
                    parts.append((stream.name, arriving[stream.name][2] == index))
        times = np.concatenate([arriving[owner][1][mask] for owner, mask in parts]) if parts else np.zeros(0)
        order = np.argsort(times, kind="stable")
        served = serve(times[order], network.stations[name], chance.of("service", name))
        finished = np.empty(len(times))
        finished[order] = served.done_s
        run.served[name] = (times[order], served)
        start = 0
        for owner, mask in parts:
            size = int(mask.sum())
            done[owner][mask] = finished[start : start + size]
            start += size
    for stream in network.streams:
        owners, times, station_of = arriving[stream.name]
        nothing = np.zeros(len(owners), dtype=np.int64)
        run.calls[stream.name, stage] = Calls(owners, times, station_of, done[stream.name], nothing)


def _latest(answered: Floats, calls: Calls, exits: Floats) -> None:
    """Raise each request's time of answer to the last of its calls; calls stand in order of their requests."""
    if len(calls.owner) == 0:
        return
    first = np.flatnonzero(np.diff(calls.owner, prepend=-1))
    owners = calls.owner[first]
    back = calls.done_s + np.where(calls.children > 0, 0.0, exits[calls.station])
    answered[owners] = np.maximum(answered[owners], np.maximum.reduceat(back, first))


def _judge(stream: Stream, runs: list[_Digest]) -> StreamResult:
    latencies = Latencies.of([run.latencies_s[stream.name] for run in runs])
    if latencies.requests == 0:
        raise InputError(f"class {stream.name}: its rate is too low beside the others' to be simulated together")
    verdict: Verdict | None = None
    at_slo: Estimate | None = None
    if stream.percentile is not None and stream.limit_s is not None:
        verdict = latencies.verdict(stream.percentile, stream.limit_s)
        at_slo = latencies.percentile_s(stream.percentile)
    return StreamResult(
        verdict,
        latencies.requests,
        latencies.mean_s(),
        latencies.percentile_s(50),
        latencies.percentile_s(90),
        latencies.percentile_s(99),
        at_slo,
    )


@dataclass(frozen=True, slots=True)
class _StationDigest:
    """A station's part in one replication, over its counted time. `batches` counts batches by size."""

    batches: dict[int, int]
    busy_s: float
    counted_s: float
    calls: int
    latency_sum_s: float
    latency_tail_s: float


@dataclass(frozen=True, slots=True)
class _Digest:
    """What is kept of a replication."""

    latencies_s: dict[str, Floats]
    stations: dict[str, _StationDigest]


def _digest(network: Network, run: Replication) -> _Digest:
    stations: dict[str, _StationDigest] = {}
    for name, (times, served) in run.served.items():
        latency = (served.done_s - times)[times >= run.warmup_s]
        counted = (served.starts_s >= run.warmup_s) & (served.starts_s < run.end_s)
        sizes, batches = np.unique(served.sizes[counted], return_counts=True)
        level = _strictest(network, network.stations[name]) / 100
        stations[name] = _StationDigest(
            dict(zip(sizes.tolist(), batches.tolist(), strict=True)),
            float(served.services_s[counted].sum()),
            run.end_s - run.warmup_s,
            len(latency),
            float(latency.sum()),
            float(np.quantile(latency, level)) if len(latency) else 0.0,
        )
    return _Digest(run.latencies_s, stations)


def _strictest(network: Network, station: Station) -> float:
    """The highest percentile that a class served by the station was promised; 99 where none was."""
    served = [s for s in network.streams if any(name == station.name for name, _ in s.routes[station.stage])]
    return max([stream.percentile for stream in served if stream.percentile is not None], default=99.0)


def _summary(network: Network, station: Station, runs: list[_Digest]) -> StationResult:
    """A station's figures over the counted time of all replications; its tail is the replications' mean."""
    seen = [run.stations[station.name] for run in runs]
    batches: Counter[int] = Counter()
    for part in seen:
        batches.update(part.batches)
    total = sum(batches.values())
    calls = sum(part.calls for part in seen)
    time = sum(part.counted_s for part in seen) * station.replicas
    return StationResult(
        network.loads_rps()[station.name],
        sum(part.busy_s for part in seen) / time if time else 0.0,
        sum(size * count for size, count in batches.items()) / total if total else 0.0,
        {size: batches[size] / total for size in sorted(batches)},
        sum(part.latency_sum_s for part in seen) / calls if calls else 0.0,
        sum(part.latency_tail_s * part.calls for part in seen) / calls if calls else 0.0,
    )
