"""Replications until every class's promise is decided, or the effort is spent.

Replications are independent and start empty; what arrives during the warm-up is not counted. Their number
doubles until every class is decided (`looks`).

*Days and traces* repeat. Where the effort allows, the counted time is whole cycles, from their beginning. A day that
is longer goes by faster, at the same rates: queues settle in much less than a day, so every hour is seen with the
queues it has. A trace that is longer is entered at a random time in every replication.

*Classes of few requests* beside classes of many are simulated at higher rates, where that adds next to no load
(`rarity`).

*Failures and starts* happen at fixed times of the counted time, which then is at least twice as long as until
the last of them.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np

from inferplan.estimators.network import Network, Station, Stream
from inferplan.estimators.simulation.compiled import Loops, loops
from inferplan.estimators.simulation.looks import FEWEST, WHOLE, Look, looks
from inferplan.estimators.simulation.outcome import (
    Digest,
    SimulationResult,
    StreamResult,
    digest,
    judge,
    summary,
    verdict_of,
)
from inferplan.estimators.simulation.rarity import Denser, denser
from inferplan.estimators.simulation.replication import Chance, Replication, replicate
from inferplan.estimators.unevenness import BurstLoad
from inferplan.spec.arrivals import Bursts
from inferplan.spec.errors import InputError
from inferplan.spec.processes import Arrivals

RELAXATIONS = 5.0
"""Warm-up in relaxation times of the busiest station, which grow as 1 / (1 - utilisation)², and with bursts."""
MOST_CALLS = 20_000_000
"""Requests and stage calls of one replication: 400 to 500 bytes each."""
BURST_CYCLES = 2.0
"""Warm-up in bursts, where those come seldom."""
DAY_IN_WARMUPS = 20.0
"""A day goes by no faster than this many warm-ups, where the effort allows."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How much to simulate: `calls` at most (all stages and replications together), and how many requests
    beyond the limit one replication should see at the promised percentile. `counted_s` fixes the counted time of
    a replication instead. `part`: from which to which share this is of all the effort that the same question may take,
    where what it leaves undecided is asked again with another (`looks`)."""

    calls: int = 4_000_000
    beyond: float = 4.0
    counted_s: float | None = None
    part: tuple[float, float] = WHOLE


@dataclass(frozen=True, slots=True)
class _Plan:
    """How replications are run. `anywhere_s`: the clock of days and traces starts anywhere in this time; None where
    they begin with the counted time."""

    warmup_s: float
    counted_s: float
    looks: tuple[Look, ...]
    calls: float
    """Stage calls of one replication, about."""
    anywhere_s: float | None = None
    faster_days: bool = False
    notes: tuple[str, ...] = ()
    rare: Denser | None = None
    """Where some classes are simulated at higher rates."""
    seldom: tuple[str, ...] = ()
    """Classes whose bursts come less often than a replication is long."""


def simulate(
    network: Network, seed: int = 0, effort: Effort | None = None, *, detail: bool = False
) -> SimulationResult:
    """Simulate a plan until every class's promise is decided or the effort is spent. Says "unstable" at once.

    `detail`: also where time was spent. Raises InputError where a class's rate is too low beside the others'.
    """
    unstable = network.unstable()
    if unstable:
        return SimulationResult(seed, 0, {}, {}, unstable)
    effort = effort or Effort()
    asked, (network, plan) = network, _planned(network, effort)
    unstable = network.unstable(at_peak=True) if plan.faster_days else ()
    if unstable:
        return SimulationResult(seed, 0, {}, {}, unstable)
    runs, confidence = _decided(network, plan, seed, detail)
    streams = {stream.name: judge(stream, runs, confidence) for stream in network.streams}
    if plan.rare is not None:
        streams = _confirmed(network, plan.rare, streams, effort, seed)
    if plan.seldom:
        streams = _through_bursts(network, plan.seldom, streams, effort, seed)
    stations = {name: summary(asked, station, runs) for name, station in asked.stations.items()}
    return SimulationResult(seed, len(runs), streams, stations, (), plan.counted_s, plan.warmup_s, plan.notes)


def _decided(network: Network, plan: _Plan, seed: int, detail: bool) -> tuple[list[Digest], float]:
    """Replications until every class is decided or the effort is spent, and the confidence of the last look."""
    runs: list[Digest] = []
    for look in plan.looks:
        # The first replications decide most plans, and are done before compiled loops would be loaded.
        fast = loops(int((look.replications - len(runs)) * plan.calls))
        for index in range(len(runs), look.replications):
            runs.append(digest(network, _run(network, plan, Chance(seed, index), fast), detail))
        # A list, so that every class is looked at, and one that has no requests is found out.
        verdicts = [verdict_of(stream, runs, look.confidence) for stream in network.streams]
        if "undecided" not in verdicts:
            break
    return runs, look.confidence


def _confirmed(
    network: Network, rare: Denser, streams: dict[str, StreamResult], effort: Effort, seed: int
) -> dict[str, StreamResult]:
    """With more load than there is nothing is missed for certain: what then is missed with less, or not decided."""
    if all(stream.verdict != "missed" for stream in streams.values()):
        return streams
    lighter, plan = _planned(rare.lighter, effort, rare)
    runs, confidence = _decided(lighter, plan, seed, detail=False)
    found = dict(streams)
    for stream in network.streams:
        if found[stream.name].verdict != "missed":
            continue
        late = judge(stream, runs, confidence).late
        most = 1 - (stream.percentile or 100.0) / 100 + rare.own
        if late is None or late.lower is None or late.lower <= most:
            found[stream.name] = replace(found[stream.name], verdict="undecided")
    return found


def _through_bursts(
    network: Network, seldom: Collection[str], streams: dict[str, StreamResult], effort: Effort, seed: int
) -> dict[str, StreamResult]:
    """Replications that hardly see a burst, and two at once next to never, prove nothing of them: what they find met
    has to be met in bursts that do not end, too, or it is not decided."""
    if all(stream.verdict != "met" for stream in streams.values()):
        return streams
    lasting = replace(network, streams=tuple(_in_burst(s) if s.name in seldom else s for s in network.streams))
    met: set[str] = set()
    if not lasting.unstable():
        lasting, plan = _planned(lasting, effort)
        runs, confidence = _decided(lasting, plan, seed, detail=False)
        met = {stream.name for stream in lasting.streams if verdict_of(stream, runs, confidence) == "met"}
    return {
        name: replace(one, verdict="undecided") if one.verdict == "met" and name not in met else one
        for name, one in streams.items()
    }


def _in_burst(stream: Stream) -> Stream:
    """A class whose burst does not end."""
    return replace(stream, arrivals=Arrivals(), rate_rps=stream.rate_rps * Bursts.of(stream.arrivals).high)


def recorded(network: Network, seed: int, effort: Effort, most: int) -> tuple[tuple[Chance, Replication], ...]:
    """The first replications that `simulate` runs of a network whose queues are stable, at most so many, whole."""
    network, plan = _planned(network, effort)
    count = min(most, FEWEST)
    fast = loops(int(count * plan.calls))
    chances = [Chance(seed, index) for index in range(count)]
    return tuple((chance, _run(network, plan, chance, fast)) for chance in chances)


def _run(network: Network, plan: _Plan, chance: Chance, fast: Loops) -> Replication:
    clock = None if plan.anywhere_s is None else float(chance.of("clock").random()) * plan.anywhere_s
    return replicate(network, chance, plan.counted_s, plan.warmup_s, clock_s=clock, loops=fast)


def _planned(network: Network, effort: Effort, rare: Denser | None = None) -> tuple[Network, _Plan]:
    """Warm-up and counted time of a replication, in seconds, and how many replications the effort allows; and the
    network with days as long as they are simulated, and classes of few requests at higher rates (`rare`: they are)."""
    loads = network.loads_rps()
    rate = sum(loads.values()) + sum(stream.rate_rps for stream in network.streams)
    # At least a handful of replications must fit, or there is no interval.
    longest = effort.calls / rate / FEWEST
    warmup = min(_warmup_s(network, loads), longest / 2)
    if rare is None and effort.counted_s is None:
        wanted = {s.name: _needed_s(s, effort) / (longest - warmup) for s in network.streams}
        rare = denser(network, wanted)
        network = network if rare is None else rare.network
    needed = max(_needed_s(stream, effort) for stream in network.streams)
    counted = min(max(needed, 2 * warmup), longest - warmup)
    counted = max(counted, 2 * _last_event_s(network))
    cycles = {stream.name: stream.source.cycle_s for stream in network.streams if stream.source.cycle_s is not None}
    anywhere, notes = None, []
    seldom: list[str] = []
    if effort.counted_s is not None:
        counted = effort.counted_s
    elif cycles and (cycle := max(cycles.values())) <= longest - warmup:
        counted = cycle * max(round(counted / cycle), 1)
    elif cycles:
        counted = max(counted, min(DAY_IN_WARMUPS * warmup, longest - warmup))
        traces = [s.trace.span_s for s in network.streams if s.trace is not None and s.trace.span_s > counted]
        if traces:
            anywhere = max(traces)
            notes.append(f"traces are longer than the {counted:.4g} s simulated at a time: they are entered at random")
    elif seldom := [s.name for s in network.streams if _burst_cycle_s(s) > counted]:
        notes.append(
            f"bursts come less often than every {counted:.4g} s, as long as a replication: {', '.join(seldom)}"
        )
    if (calls := rate * (warmup + counted)) > MOST_CALLS:
        raise InputError(
            f"{counted:.6g} s of this plan's traffic are {calls:.3g} requests and stage calls in one replication, and"
            f" at most {MOST_CALLS:.3g} are simulated at a time: let the counted time, and what happens in it, be over"
            f" within {max(MOST_CALLS / rate - warmup, 0.0):.3g} s"
        )
    network, faster = _with_days(network, counted)
    notes += [*faster, *([rare.note] if rare is not None else [])]
    affordable = max(int(effort.calls / (rate * (warmup + counted))), FEWEST)
    seen = looks(affordable, effort.part)
    return network, _Plan(
        warmup, counted, seen, rate * (warmup + counted), anywhere, bool(faster), tuple(notes), rare, tuple(seldom)
    )


def _needed_s(stream: Stream, effort: Effort) -> float:
    """How long one replication should count for a class."""
    return effort.beyond * stream.job_size / (1 - (stream.percentile or 99.0) / 100) / stream.rate_rps


def _with_days(network: Network, counted_s: float) -> tuple[Network, list[str]]:
    """Days that are longer than the counted time go by in it."""
    long = [s.name for s in network.streams if s.trace is None and (s.source.cycle_s or 0.0) > counted_s * (1 + 1e-9)]
    if not long:
        return network, []
    streams = tuple(
        replace(s, arrivals=s.source.with_day(counted_s).process) if s.name in long else s for s in network.streams
    )
    return replace(network, streams=streams), [f"days go by in {counted_s:.4g} s: {', '.join(long)}"]


def _warmup_s(network: Network, loads: dict[str, float]) -> float:
    """Seconds until queues that start empty have settled; 0 where they would not before replicas are added."""
    relaxation = passing = 0.0
    for name, station in network.stations.items():
        if station.service is None:
            continue
        busy = station.service.mean_s(station.max_batch) * max(station.slowdowns, default=1.0)
        utilisation = loads[name] / _capacity_before_rps(station)
        if station.queue_limit is not None:
            # A bounded queue settles when it has filled, at the latest.
            utilisation = min(utilisation, 0.9)
        elif utilisation >= 1:
            return 0.0
        bursts = _bursts_prolong(network, station) if station.queue_limit is None else 1.0
        relaxation = max(relaxation, busy * bursts / (1 - utilisation) ** 2)
        passing += busy + station.max_queue_delay_s
    cycles = max((BURST_CYCLES * _burst_cycle_s(stream) for stream in network.streams), default=0.0)
    return max(RELAXATIONS * relaxation, cycles) + passing


def _bursts_prolong(network: Network, station: Station) -> float:
    """By how much bursts make waits, and with them the time to settle, longer: of several classes the worst."""
    total, capacity = network.loads_rps()[station.name], _capacity_before_rps(station)
    most = 1.0
    for stream in network.streams:
        own = network.loads_of(stream.name)[station.name]
        if own <= 0 or _burst_cycle_s(stream) == 0:
            continue
        bursts, one = Bursts.of(stream.arrivals), np.ones(1)
        load = BurstLoad(
            one * (total + own * (bursts.high - 1)) / capacity, one * (total + own * (bursts.low - 1)) / capacity,
            one / (bursts.high_s * capacity), one / (bursts.low_s * capacity), one, one,
        )  # fmt: skip
        most = max(most, float(load.longer()[0]))
    return most


def _burst_cycle_s(stream: Stream) -> float:
    """Mean time from one burst to the next; 0 where there are none."""
    if stream.trace is not None or stream.arrivals.process != "mmpp":
        return 0.0
    bursts = Bursts.of(stream.arrivals)
    return bursts.high_s + bursts.low_s


def _capacity_before_rps(station: Station) -> float:
    """Capacity of the replicas that are up before the counted time."""
    return max(station.capacity_at_rps(-math.inf), 1e-12)


def _last_event_s(network: Network) -> float:
    """When the last failure, return or start happens; 0 where there is none."""
    times = [t for s in network.stations.values() for o in s.outages for t in (o.start_s, o.end_s)]
    return max([t for t in times if math.isfinite(t)], default=0.0)
