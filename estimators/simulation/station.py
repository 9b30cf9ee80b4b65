"""One station's queue, served in one pass over its sorted arrivals.

Batching has one meaning: a free replica takes up to `max_batch` waiting calls at once; if fewer wait, it takes
them once the oldest has waited `max_queue_delay_s`. Calls that arrive at one instant all join the queue before a
replica looks at it. Of several free replicas, the one that has been free for longest takes the batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inferplan.estimators.network import Outage, Station
from inferplan.estimators.simulation.compiled import INTERPRETED, Loops
from inferplan.estimators.simulation.kernels import LOST, SERVED, SHED, WAITING
from inferplan.estimators.simulation.standstills import Standstills

__all__ = ["LOST", "SERVED", "SHED", "Served", "serve"]

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
_NO_FATES = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True)
class Served:
    """What a station did.

    Per call `done_s`, infinite where it was not served; `fates` say why, and are empty where every call was served;
    `batches` is the index of each call's batch (-1: none), and empty where batches took the calls in order. Per batch,
    in order of start, the rest; `ready_s` is since when the replica that took it was free.
    """

    done_s: Floats
    fates: Counts
    batches: Counts
    starts_s: Floats
    sizes: Counts
    services_s: Floats
    ready_s: Floats

    def batch_of(self) -> Counts:
        """Index of each call's batch; -1 where it was in none."""
        return self.batches if len(self.batches) else np.repeat(np.arange(len(self.sizes)), self.sizes)

    def count(self, fate: int) -> int:
        """Calls of a fate."""
        if len(self.fates) == 0:
            return len(self.done_s) if fate == SERVED else 0
        return int(np.count_nonzero(self.fates == fate))


def serve(
    arrivals_s: Floats,
    station: Station,
    rng: np.random.Generator,
    *,
    deadlines_s: Floats | None = None,
    begin_s: float = 0.0,
    pauses: Standstills | None = None,
    loops: Loops = INTERPRETED,
) -> Served:
    """Serve sorted arrivals. The k-th batch takes the time that the k-th uniform number of `rng` picks from the
    measured times of its size, longer by the slow-down of the replica that serves it, and by what it takes a replica to
    wake up that was free for long.

    `deadlines_s` of the calls matter where the station's order is `edf`. `begin_s` is when the counted time begins,
    which the station's outages count from. `pauses`: when all replicas stand still, which batches then take longer by.
    """
    if station.service is None:
        nothing = np.zeros(0)
        return Served(arrivals_s, _NO_FATES, _NO_FATES, nothing, nothing.astype(np.int64), nothing, nothing)
    uniforms = rng.random(len(arrivals_s))
    if pauses is None:
        return _served(arrivals_s, station, uniforms, deadlines_s, _outages(station, begin_s), loops)
    # On the clock of the replicas, which stands still with them, they never do.
    down, up, at = _outages(station, begin_s)
    outages = pauses.running_s(down), pauses.running_s(up), at
    served = _served(pauses.running_s(arrivals_s), station, uniforms, deadlines_s, outages, loops)
    starts = pauses.passed_s(served.starts_s, over=True)
    return replace(
        served,
        done_s=pauses.passed_s(served.done_s, over=False),
        starts_s=starts,
        services_s=pauses.passed_s(served.starts_s + served.services_s, over=False) - starts,
        ready_s=pauses.passed_s(served.ready_s, over=False),
    )


def _served(
    arrivals_s: Floats,
    station: Station,
    uniforms: Floats,
    deadlines_s: Floats | None,
    outages: tuple[Floats, Floats, Counts],
    loops: Loops,
) -> Served:
    if station.queue_limit is not None or station.order == "edf" or station.outages:
        deadlines = arrivals_s if deadlines_s is None else deadlines_s
        return _disturbed(arrivals_s, deadlines, station, uniforms, outages, loops)
    if station.max_batch == 1 and len(set(station.slowdowns)) <= 1:
        return _singles(arrivals_s, station, uniforms, loops)
    return _batches(arrivals_s, station, uniforms, loops)


def _singles(arrivals_s: Floats, station: Station, uniforms: Floats, loops: Loops) -> Served:
    assert station.service is not None
    pool, _ = station.service.pools_s(1)
    services = pool[(uniforms * len(pool)).astype(np.int64)]
    if station.slowdowns:
        services = services * station.slowdowns[0]
    done, taken = _floats(len(services), loops), _given(services, loops)
    loops.singles(_given(arrivals_s, loops), taken, station.replicas, *_wakings(station, loops), done)
    ends, services = np.asarray(done, dtype=np.float64), np.asarray(taken, dtype=np.float64)
    starts = ends - services
    return Served(ends, _NO_FATES, _NO_FATES, starts, np.ones(len(ends), dtype=np.int64), services, starts)


def _batches(arrivals_s: Floats, station: Station, uniforms: Floats, loops: Loops) -> Served:
    count = len(arrivals_s)
    assert station.service is not None
    pools, at = station.service.pools_s(station.max_batch)
    done, results = _floats(count, loops), _per_batch(count, loops)
    factors = np.array(station.slowdowns or (1.0,) * station.replicas)
    batches = loops.batches(
        _given(arrivals_s, loops), _glanced(uniforms, loops), _glanced(pools, loops), _given(at, loops),
        station.max_batch, station.max_queue_delay_s, _given(factors, loops), *_wakings(station, loops), done, *results,
    )  # fmt: skip
    starts, sizes, services, ready = _cut(results, batches)
    return Served(np.asarray(done, dtype=np.float64), _NO_FATES, _NO_FATES, starts, sizes, services, ready)


def _disturbed(
    arrivals_s: Floats,
    deadlines_s: Floats,
    station: Station,
    uniforms: Floats,
    outages: tuple[Floats, Floats, Counts],
    loops: Loops,
) -> Served:
    count = len(arrivals_s)
    assert station.service is not None
    pools, at = station.service.pools_s(station.max_batch)
    fates, batch_of = np.full(count, WAITING), np.full(count, -1)
    done = np.full(count, math.inf)
    per_call = [_given(column, loops) for column in (fates, batch_of, done)]
    per_batch = _per_batch(count, loops)
    factors = np.array(station.slowdowns or (1.0,) * station.replicas)
    batches = loops.disturbed(
        _given(arrivals_s, loops), _given(deadlines_s, loops),
        _glanced(uniforms, loops), _glanced(pools, loops), _given(at, loops),
        station.max_batch, station.max_queue_delay_s, station.order == "edf", station.queue_limit or 0,
        _given(factors, loops), *_wakings(station, loops),
        *(_given(column, loops) for column in outages), *per_call, *per_batch,
    )  # fmt: skip
    starts, sizes, services, ready = _cut(per_batch, batches)
    ends = np.asarray(per_call[2], dtype=np.float64)
    fates, batch_of = (np.asarray(column, dtype=np.int64) for column in per_call[:2])
    return Served(ends, fates, batch_of, starts, sizes, services, ready)


def _wakings(station: Station, loops: Loops) -> tuple[Any, Any]:
    """For how long a replica has to have been free, rising, and how much longer its batch takes then."""
    assert station.service is not None
    rests, longer = (np.array([one[i] for one in station.service.wakings], dtype=np.float64) for i in (0, 1))
    return _given(rests, loops), _given(longer, loops)


def _outages(station: Station, begin_s: float) -> tuple[Floats, Floats, Counts]:
    """Outages replica by replica: from, until, and where those of each replica begin."""
    if not station.outages:
        return np.zeros(0), np.zeros(0), np.zeros(station.replicas + 1, dtype=np.int64)
    by_replica: list[list[Outage]] = [[] for _ in range(station.replicas)]
    for outage in sorted(station.outages, key=lambda o: o.start_s):
        by_replica[outage.replica].append(outage)
    down = np.array([outage.start_s + begin_s for outages in by_replica for outage in outages])
    up = np.array([outage.end_s + begin_s for outages in by_replica for outage in outages])
    return down, up, np.cumsum([0, *(len(outages) for outages in by_replica)])


def _given(values: NDArray[Any], loops: Loops) -> Any:
    return values if loops.compiled else values.tolist()


def _glanced(values: Floats, loops: Loops) -> Any:
    """The same of what is looked up once per batch, of which a list would hold many times as much as is asked for: a
    view gives the same floats."""
    return values if loops.compiled else values.data


def _floats(count: int, loops: Loops) -> Any:
    return np.empty(count) if loops.compiled else [0.0] * count


def _per_batch(count: int, loops: Loops) -> list[Any]:
    sizes: Any = np.empty(count, dtype=np.int64) if loops.compiled else [0] * count
    return [_floats(count, loops), sizes, _floats(count, loops), _floats(count, loops)]


def _cut(results: list[Any], batches: int) -> tuple[Floats, Counts, Floats, Floats]:
    """What a loop wrote of each batch, as arrays."""
    starts, services, ready = (np.asarray(results[i][:batches], dtype=np.float64) for i in (0, 2, 3))
    return starts, np.asarray(results[1][:batches], dtype=np.int64), services, ready
