"""What happens to a plan: replicas fail and come back, others are added; there is more traffic, or other traffic.

*A replica that fails* takes no batch until it is back, and the batch it was working on is lost: its requests fail, as
they do in `inferplan serve` and in Triton, where nothing retries a request but the client. Its other replicas
go on; if none is left that ever comes back, what waits is lost as well.

*A replica that is added* begins to load at its time, and takes its first batch when it has loaded. It is slowed down
by neighbours as much as the slowest replica of its option.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace

from inferplan.estimators.network import Network, Outage, Station, Stream
from inferplan.spec.errors import InputError
from inferplan.spec.trace import Trace


@dataclass(frozen=True, slots=True)
class Failure:
    """Replica number `replica` (from 0) of an option fails at a time. It serves again `back_after_s` later: infinity:
    never; None: after the time that loading takes."""

    option: str
    replica: int
    at_s: float
    back_after_s: float | None = math.inf


@dataclass(frozen=True, slots=True)
class Start:
    """A replica of an option is added at a time, and loads."""

    option: str
    at_s: float


def happening(network: Network, failures: Iterable[Failure] = (), starts: Iterable[Start] = ()) -> Network:
    """The network with what happens to it. Replicas that are added count on after the plan's, in order of time.

    Raises InputError where an option or replica does not exist, or its time to load is not known.
    """
    stations = dict(network.stations)
    outages: dict[str, list[Outage]] = defaultdict(list)
    for start in sorted(starts, key=lambda s: (s.at_s, s.option)):
        station = _station(stations, start.option)
        outages[start.option].append(Outage(station.replicas, -math.inf, start.at_s + load_s(station)))
        slowdowns = (*station.slowdowns, max(station.slowdowns)) if station.slowdowns else ()
        stations[start.option] = replace(station, replicas=station.replicas + 1, slowdowns=slowdowns)
    for failure in failures:
        station = _station(stations, failure.option)
        if failure.replica >= station.replicas:
            raise InputError(
                f"option {failure.option} has {station.replicas} replicas, numbered from 0: there is no"
                f" #{failure.replica}"
            )
        lasting = load_s(station) if failure.back_after_s is None else failure.back_after_s
        outages[failure.option].append(Outage(failure.replica, failure.at_s, failure.at_s + lasting))
    for name, found in outages.items():
        stations[name] = replace(stations[name], outages=_apart([*stations[name].outages, *found]))
    return replace(network, stations=stations)


def load_s(station: Station) -> float:
    """Seconds that a replica takes to load, as it was measured. Raises InputError where it was not."""
    points = station.service.points if station.service is not None else ()
    known = [
        point.row.load_s
        for point in points
        if point.row is not None and point.row.load_s is not None and point.batch <= station.max_batch
    ]
    if not known:
        raise InputError(
            f"option {station.name}: the profile does not say how long a replica takes to load: profile it, or say"
            " after how long a failed one is back"
        )
    return max(known)


def scaled(network: Network, factor: float) -> Network:
    """Every class at `factor` times its rate; traces are replayed that much faster."""

    def faster(stream: Stream) -> Stream:
        trace = None if stream.trace is None else stream.trace.scaled(factor)
        return replace(stream, rate_rps=stream.rate_rps * factor, trace=trace)

    return replace(network, streams=tuple(faster(stream) for stream in network.streams))


def traced(network: Network, name: str, trace: Trace) -> Network:
    """One class's requests, or jobs, arrive as in a trace. Raises InputError where there is no such class."""
    names = [stream.name for stream in network.streams]
    if name not in names:
        raise InputError(f"there is no class {name!r}; there are: {', '.join(names)}")
    streams = tuple(
        replace(stream, rate_rps=trace.rate_rps * stream.job_size, trace=trace) if stream.name == name else stream
        for stream in network.streams
    )
    return replace(network, streams=streams)


def _station(stations: dict[str, Station], option: str) -> Station:
    station = stations.get(option)
    running = sorted(name for name, found in stations.items() if found.service is not None)
    if station is None or station.service is None:
        raise InputError(f"there is no option {option!r} with replicas; there are: {', '.join(running)}")
    return station


def _apart(outages: Iterable[Outage]) -> tuple[Outage, ...]:
    """Outages of each replica, those that touch made one."""
    joined: list[Outage] = []
    for outage in sorted(outages, key=lambda o: (o.replica, o.start_s)):
        last = joined[-1] if joined else None
        if last is not None and last.replica == outage.replica and outage.start_s <= last.end_s:
            joined[-1] = Outage(last.replica, last.start_s, max(last.end_s, outage.end_s))
        else:
            joined.append(outage)
    return tuple(joined)
