"""One station's queue, served in one pass over its sorted arrivals.

Batching has one meaning: a free replica takes up to `max_batch` waiting calls at once; if fewer wait, it takes
them once the oldest has waited `max_queue_delay_s`. So the batch that begins with call i starts at

    max(time the next replica is free, min(arrival of call i + max_batch - 1, arrival of call i + delay))

and takes every call that has arrived by then, at most `max_batch`. Calls that arrive at one instant all join
the queue before a replica looks at it.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from heapq import heapreplace

import numpy as np
from numpy.typing import NDArray

from inferplan.estimators.network import Station

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Served:
    """What a station did: per call `done_s`; per batch, in order of start, the rest."""

    done_s: Floats
    starts_s: Floats
    sizes: NDArray[np.int64]
    services_s: Floats


def serve(arrivals_s: Floats, station: Station, rng: np.random.Generator) -> Served:
    """Serve sorted arrivals. The k-th batch takes the time that the k-th uniform number of `rng` picks from the
    measured times of its size, longer by the slow-down of the replica that serves it."""
    uniforms = rng.random(len(arrivals_s))
    if station.service is None:
        nothing = np.zeros(0)
        return Served(arrivals_s, nothing, nothing.astype(np.int64), nothing)
    if len(set(station.slowdowns)) > 1:
        return _unequal(arrivals_s, station, uniforms)
    if station.max_batch == 1:
        return _singles(arrivals_s, station, uniforms)
    return _batches(arrivals_s, station, uniforms)


def _singles(arrivals_s: Floats, station: Station, uniforms: Floats) -> Served:
    assert station.service is not None
    pool = _pool(station, 1)
    services = pool[(uniforms * len(pool)).astype(np.int64)]
    done: list[float] = []
    finish = done.append
    if station.replicas == 1:
        free = 0.0
        for arrival, service in zip(arrivals_s.tolist(), services.tolist(), strict=True):
            free = (arrival if arrival > free else free) + service
            finish(free)
    else:
        frees = [0.0] * station.replicas
        for arrival, service in zip(arrivals_s.tolist(), services.tolist(), strict=True):
            soonest = frees[0]
            end = (arrival if arrival > soonest else soonest) + service
            heapreplace(frees, end)
            finish(end)
    ends = np.array(done)
    return Served(ends, ends - services, np.ones(len(done), dtype=np.int64), services)


def _pool(station: Station, size: int) -> Floats:
    """Service times of a batch where all replicas are slowed down alike."""
    assert station.service is not None
    draws = station.service.draws_s(size)
    return draws * station.slowdowns[0] if station.slowdowns else draws


def _unequal(arrivals_s: Floats, station: Station, uniforms: Floats) -> Served:
    """As `_batches`, with replicas that differ in how much they are slowed down; of free ones, the one that was
    free first takes the batch."""
    assert station.service is not None
    limit, delay, count = station.max_batch, station.max_queue_delay_s, len(arrivals_s)
    pools = [[0.0], *(station.service.draws_s(size).tolist() for size in range(1, limit + 1))]
    lengths = [len(pool) for pool in pools]
    times, picks = arrivals_s.tolist(), uniforms.tolist()
    frees = [(0.0, factor) for factor in sorted(station.slowdowns)]
    starts: list[float] = []
    sizes: list[int] = []
    services: list[float] = []
    first = batch = 0
    while first < count:
        start = times[first] + delay
        last = first + limit - 1
        if last < count and times[last] < start:
            start = times[last]
        free, factor = frees[0]
        if free > start:
            start = free
        beyond = bisect_right(times, start, first, min(last + 1, count)) if limit > 1 else first + 1
        size = beyond - first
        service = pools[size][int(picks[batch] * lengths[size])] * factor
        heapreplace(frees, (start + service, factor))
        starts.append(start)
        sizes.append(size)
        services.append(service)
        first = beyond
        batch += 1
    begun, taken, spent = np.array(starts), np.array(sizes, dtype=np.int64), np.array(services)
    return Served(np.repeat(begun + spent, taken), begun, taken, spent)


def _batches(arrivals_s: Floats, station: Station, uniforms: Floats) -> Served:
    assert station.service is not None
    limit, delay, count = station.max_batch, station.max_queue_delay_s, len(arrivals_s)
    pools = [[0.0], *(_pool(station, size).tolist() for size in range(1, limit + 1))]
    lengths = [len(pool) for pool in pools]
    times = arrivals_s.tolist()
    picks = uniforms.tolist()
    frees = [0.0] * station.replicas
    starts: list[float] = []
    sizes: list[int] = []
    services: list[float] = []
    first = batch = 0
    while first < count:
        start = times[first] + delay
        last = first + limit - 1
        if last < count and times[last] < start:
            start = times[last]
        if frees[0] > start:
            start = frees[0]
        beyond = bisect_right(times, start, first, min(last + 1, count))
        size = beyond - first
        service = pools[size][int(picks[batch] * lengths[size])]
        heapreplace(frees, start + service)
        starts.append(start)
        sizes.append(size)
        services.append(service)
        first = beyond
        batch += 1
    begun, taken, spent = np.array(starts), np.array(sizes, dtype=np.int64), np.array(services)
    return Served(np.repeat(begun + spent, taken), begun, taken, spent)
