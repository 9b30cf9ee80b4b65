"""The loops of the simulator: one station, one pass over its sorted arrivals.

Written in what Python and numba understand alike, so that one source runs interpreted over lists (and views of arrays)
and compiled over arrays (`compiled`), with the same operations on floats in the same order and so the same bytes.
Results go into `out` arguments of sufficient length. `pools` has the service times of batches of 1, 2, ... end to end,
those of size b from `at[b]` to `at[b + 1]`; `picks` are uniform numbers, one per batch in order of start. A replica
that was free for longer than `rests[i]` (rising), and no longer than the next of them, takes `wakings[i]` more for its
batch.

Which replica is free first is kept in a heap, changed by `heapreplace` alone: Python has it written in C; compiled
loops have `sifted` in its place. Entries that are equal cannot be told apart, so all heaps give the same.
"""

from __future__ import annotations

from collections.abc import MutableSequence, Sequence
from heapq import heapify, heappop, heappush, heapreplace
from typing import Any

Numbers = Sequence[float]
Wholes = Sequence[int]
OutNumbers = MutableSequence[float]
OutWholes = MutableSequence[int]

WAITING, SERVED, SHED, LOST = -1, 0, 1, 2
"""Fates of a call. Shed: it found the queue full. Lost: the replica that held it failed, or none was left."""


def sifted(heap: list[Any], item: Any) -> None:
    """Takes the first out and puts another in, as `heapreplace` does, for compiled loops: it looks at no more than it
    has to, which in a heap of few is 2 to 3 times as fast as going down to the end and up again."""
    count, place, child = len(heap), 0, 1
    while child < count:
        if child + 1 < count and heap[child + 1] < heap[child]:
            child += 1
        if not heap[child] < item:
            break
        heap[place] = heap[child]
        place, child = child, 2 * child + 1
    heap[place] = item


def longer(rest: float, rests: Numbers, wakings: Numbers) -> float:
    """How much longer a batch takes after a rest of the replica that is longer than the first of `rests`."""
    step, steps = 0, len(rests)
    while step + 1 < steps and rest > rests[step + 1]:
        step += 1
    return wakings[step]


def singles(
    times: Numbers, services: OutNumbers, replicas: int, rests: Numbers, wakings: Numbers, done: OutNumbers
) -> None:
    """First come, first served, one at a time by equal replicas; `services` get longer by what waking up takes."""
    count, steps = len(times), len(rests)
    if replicas == 1:
        free = 0.0
        for call in range(count):
            arrival = times[call]
            if arrival > free:
                if steps > 0 and arrival - free > rests[0]:
                    services[call] += longer(arrival - free, rests, wakings)
                free = arrival
            free += services[call]
            done[call] = free
        return
    frees = [0.0] * replicas
    for call in range(count):
        arrival = times[call]
        soonest = frees[0]
        if steps > 0 and arrival - soonest > rests[0]:
            services[call] += longer(arrival - soonest, rests, wakings)
        end = (arrival if arrival > soonest else soonest) + services[call]
        heapreplace(frees, end)
        done[call] = end


def batches(
    times: Numbers,
    picks: Numbers,
    pools: Numbers,
    at: Wholes,
    limit: int,
    delay: float,
    factors: Numbers,
    rests: Numbers,
    wakings: Numbers,
    done: OutNumbers,
    starts: OutNumbers,
    sizes: OutWholes,
    services: OutNumbers,
    ready: OutNumbers,
) -> int:
    """First come, first served in batches, nothing shed, nothing failing; returns the number of batches.

    The batch that begins with call i starts at max(time the next replica is free, min(arrival of call i + limit - 1,
    arrival of call i + delay)) and takes every call that has arrived by then. `factors` multiply the times of each
    replica; of free replicas the one that was free first takes the batch. `ready` is since when it was free.
    """
    count, steps = len(times), len(rests)
    frees = [(0.0, factors[replica]) for replica in range(len(factors))]
    heapify(frees)
    first = batch = 0
    while first < count:
        start = times[first] + delay
        last = first + limit - 1
        if last < count and times[last] < start:
            start = times[last]
        free, factor = frees[0]
        if free > start:
            start = free
        beyond = first + 1
        most = last + 1 if last < count else count
        if times[most - 1] <= start:
            beyond = most
        while beyond < most and times[beyond] <= start:
            beyond += 1
        size = beyond - first
        service = pools[at[size] + int(picks[batch] * (at[size + 1] - at[size]))] * factor
        if steps > 0 and start - free > rests[0]:
            service += longer(start - free, rests, wakings)
        end = start + service
        heapreplace(frees, (end, factor))
        for call in range(first, beyond):
            done[call] = end
        starts[batch] = start
        sizes[batch] = size
        services[batch] = service
        ready[batch] = free
        first = beyond
        batch += 1
    return batch


def disturbed(
    times: Numbers,
    deadlines: Numbers,
    picks: Numbers,
    pools: Numbers,
    at: Wholes,
    limit: int,
    delay: float,
    by_deadline: bool,
    room: int,
    factors: Numbers,
    rests: Numbers,
    wakings: Numbers,
    down: Numbers,
    up: Numbers,
    outage_at: Wholes,
    fates: OutWholes,
    batch_of: OutWholes,
    done: OutNumbers,
    starts: OutNumbers,
    sizes: OutWholes,
    services: OutNumbers,
    ready: OutNumbers,
) -> int:
    """Everything that the other loops leave out; returns the number of batches.

    `by_deadline`: a batch takes the calls of the earliest deadlines, not those that came first (of equals, those that
    came first). It still is due when the oldest has waited. `room`: most calls that may wait, 0 for any number; calls
    that arrive at one instant join the queue, or find it full, before a replica looks at it. Replica r is down from
    `down[j]` until `up[j]` for j in outage_at[r] : outage_at[r + 1], rising and apart: it takes nothing then, and a
    batch that is not done by `down[j]` is lost. `fates` [calls] comes as WAITING; `batch_of` and `done` [calls] as -1
    and infinity, which stay for calls that were shed.
    """
    count, steps = len(times), len(rests)
    replicas = [(0.0, factors[replica], replica) for replica in range(len(factors))]
    heapify(replicas)
    outage = [outage_at[replica] for replica in range(len(factors))]
    urgent = [(0.0, 0) for _ in range(0)]
    queue = [0] * count
    head = tail = arrived = oldest = waiting = batch = 0
    now = 0.0
    while arrived < count or waiting > 0:
        if waiting == 0:
            now = times[arrived]
        due = now
        if waiting < limit:
            while waiting > 0 and fates[oldest] != WAITING:
                oldest += 1
            due = max(now, times[oldest] + delay) if waiting > 0 else now
        begin = due
        if arrived == count or times[arrived] > due:
            # The batch is due: whatever arrives while no replica is free changes that no more.
            while True:
                free, factor, replica = replicas[0]
                begin = max(due, free)
                next_outage = outage[replica]
                if next_outage == outage_at[replica + 1] or down[next_outage] > begin:
                    break
                outage[replica] = next_outage + 1
                heapreplace(replicas, (max(free, up[next_outage]), factor, replica))
        if arrived < count and times[arrived] <= begin:
            now = times[arrived]
            while arrived < count and times[arrived] == now:
                if room > 0 and waiting >= room:
                    fates[arrived] = SHED
                else:
                    waiting += 1
                    if by_deadline:
                        heappush(urgent, (deadlines[arrived], arrived))
                    else:
                        queue[tail] = arrived
                        tail += 1
                arrived += 1
            continue
        if begin == INFINITY:
            break
        now = begin
        size = min(limit, waiting)
        free, factor, replica = replicas[0]
        service = pools[at[size] + int(picks[batch] * (at[size + 1] - at[size]))] * factor
        if steps > 0 and begin - free > rests[0]:
            service += longer(begin - free, rests, wakings)
        end = begin + service
        fate = SERVED
        next_outage = outage[replica]
        if next_outage < outage_at[replica + 1] and down[next_outage] < end:
            fate = LOST
            service = down[next_outage] - begin
            end = up[next_outage]
            outage[replica] = next_outage + 1
        for _ in range(size):
            if by_deadline:
                call = heappop(urgent)[1]
            else:
                call = queue[head]
                head += 1
            fates[call] = fate
            batch_of[call] = batch
            if fate == SERVED:
                done[call] = end
        heapreplace(replicas, (end, factor, replica))
        starts[batch] = begin
        sizes[batch] = size
        services[batch] = service
        ready[batch] = free
        waiting -= size
        batch += 1
    for call in range(count):
        if fates[call] == WAITING:
            fates[call] = LOST
    return batch


INFINITY = float("inf")
