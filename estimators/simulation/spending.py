"""Where the time of requests went: call by call at every stage, and along the way that the answer waited for.

The last call of a request answers it. From there the way leads back over the calls that it waited for: at a join
the source that came last. The times on it (network, queue, filling of the batch, service) add up to the latency.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inferplan.estimators.network import Network, Stream
from inferplan.estimators.simulation.replication import Calls, Replication, transfers_s, way_back_s
from inferplan.estimators.simulation.station import LOST, SHED

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class StageSpending:
    """A class at a stage, over the counted time of one replication.

    `sums_s` are network, join, queue, filling, service over the calls served, whose times from arrival until done are
    `latencies_s`; `path_sums_s` network, queue, filling, service over the answered requests.
    """

    calls: int
    shed: int
    lost: int
    latencies_s: Floats
    sums_s: Floats
    path_sums_s: Floats


@dataclass(frozen=True, slots=True)
class Spending:
    """A class in one replication; a class of jobs counts its jobs."""

    answered: int
    stages: dict[str, StageSpending]
    way_back_sum_s: float


@dataclass(frozen=True, slots=True)
class _Times:
    """Per call of a class at a stage, in seconds; of calls that were not served they mean nothing."""

    network: Floats
    join: Floats
    queue: Floats
    fill: Floats
    service: Floats
    sender: Counts
    """Which of the stage's sources came last."""
    fates: Counts


def spending_of(network: Network, run: Replication, stream: Stream) -> Spending:
    """Where a class's time went in one replication."""
    times = {stage: _times(network, run, stream, stage) for stage in network.order}
    answered = _answered(run, stream)
    at, way_back = _last_calls(network, run, stream, answered)
    stages: dict[str, StageSpending] = {}
    for stage in reversed(network.order):
        calls, spent = run.calls[stream.name, stage], times[stage]
        on_path = np.flatnonzero(at[stage] >= 0)
        call = at[stage][on_path]
        path = [column[call].sum() for column in (spent.network, spent.queue, spent.fill, spent.service)]
        parent = call if calls.parent is None else calls.parent[call]
        for index, source in enumerate(network.feeds[stage]):
            last = spent.sender[call] == index
            at[source][on_path[last]] = parent[last]
        stages[stage] = _stage(run, stream, calls, spent, np.array(path))
    return Spending(len(answered), {stage: stages[stage] for stage in network.order}, way_back)


def _stage(run: Replication, stream: Stream, calls: Calls, spent: _Times, path: Floats) -> StageSpending:
    counted = run.entries_s[stream.name][calls.owner] >= run.warmup_s
    counted &= np.isfinite(calls.arrived_s)
    served = counted & np.isfinite(calls.done_s)
    columns = (spent.network, spent.join, spent.queue, spent.fill, spent.service)
    return StageSpending(
        int(counted.sum()),
        int(np.count_nonzero(counted & (spent.fates == SHED))),
        int(np.count_nonzero(counted & (spent.fates == LOST))),
        calls.done_s[served] - calls.arrived_s[served],
        np.array([column[served].sum() for column in columns]),
        path,
    )


def _times(network: Network, run: Replication, stream: Stream, stage: str) -> _Times:
    calls = run.calls[stream.name, stage]
    begun, ready = calls.arrived_s.copy(), calls.arrived_s.copy()
    fates = np.zeros(len(begun), dtype=np.int64)
    for index, (name, _) in enumerate(stream.routes[stage]):
        _, served = run.served[name]
        here = np.flatnonzero((calls.station == index) & np.isfinite(calls.arrived_s))
        places = run.origins[name].handed_back(np.arange(len(served.done_s)), -1)
        place = places.get(stream.name, here)[here]
        if len(served.fates):
            fates[here] = served.fates[place]
        if network.stations[name].service is not None and len(served.sizes):
            batch = served.batch_of()[place]
            taken = batch >= 0
            begun[here[taken]] = served.starts_s[batch[taken]]
            ready[here[taken]] = served.ready_s[batch[taken]]
    with np.errstate(invalid="ignore"):
        begun = np.maximum(begun, calls.arrived_s)
        fill = np.maximum(begun - np.maximum(calls.arrived_s, ready), 0.0)
        queue = begun - calls.arrived_s - fill
        service = calls.done_s - begun
        network_s, join, sender = _way(network, run, stream, stage)
    return _Times(network_s, join, queue, fill, service, sender, fates)


def _way(network: Network, run: Replication, stream: Stream, stage: str) -> tuple[Floats, Floats, Counts]:
    """Per call: seconds in the network on the way to it, how long its first source waited for its last, which source
    that was."""
    calls = run.calls[stream.name, stage]
    if not network.feeds[stage]:
        entry = run.entries_s[stream.name][calls.owner]
        nothing = np.zeros(len(entry))
        return calls.arrived_s - entry, nothing, nothing.astype(np.int64)
    ways, arrivals = [], []
    for source in network.feeds[stage]:
        above = run.calls[stream.name, source]
        parent = np.arange(len(calls.owner)) if calls.parent is None else calls.parent
        way = transfers_s(network, stream, source, stage)[above.station[parent], calls.station]
        ways.append(way)
        arrivals.append(above.done_s[parent] + way)
    sender = np.argmax(arrivals, axis=0)
    way = np.take_along_axis(np.array(ways), sender[None], axis=0)[0]
    return way, np.max(arrivals, axis=0) - np.min(arrivals, axis=0), sender


def _answered(run: Replication, stream: Stream) -> Counts:
    """Requests of the counted time that were answered; of a job, the one that was answered last."""
    entry, answered = run.entries_s[stream.name], run.answered_s[stream.name]
    size = stream.job_size
    last: Counts
    if size > 1:
        last = np.arange(0, len(entry), size) + np.argmax(answered.reshape(-1, size), axis=1)
    else:
        last = np.arange(len(entry))
    return last[(entry[last] >= run.warmup_s) & np.isfinite(answered[last])]


def _last_calls(
    network: Network, run: Replication, stream: Stream, answered: Counts
) -> tuple[dict[str, Counts], float]:
    """Per stage, the call that answered each of the requests (-1: it was at another one); seconds of all ways back."""
    item = np.full(len(run.entries_s[stream.name]), -1)
    item[answered] = np.arange(len(answered))
    at = {stage: np.full(len(answered), -1) for stage in network.order}
    open_ = np.ones(len(answered), dtype=bool)
    way_back = 0.0
    for stage in network.order:
        calls = run.calls[stream.name, stage]
        exits = way_back_s(network, run, stream, stage)
        back = calls.done_s if exits is None else calls.done_s + exits
        of = item[calls.owner]
        hits = np.flatnonzero((of >= 0) & (back == run.answered_s[stream.name][calls.owner]))
        # Of several calls that end at once the first counts.
        items, firsts = np.unique(of[hits], return_index=True)
        fresh = open_[items]
        at[stage][items[fresh]] = hits[firsts[fresh]]
        open_[items] = False
        way_back += 0.0 if exits is None else float(exits[hits[firsts[fresh]]].sum())
    return at, way_back
