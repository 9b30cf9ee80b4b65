"""What serving costs beyond service times: handing a batch to a replica and back, a request's way in and out, and
what it takes a replica to wake up.

A replica of a stage's fastest choice is put behind a router as in a run. First it is given bursts of calls at one
instant, all with one input, in batches of one: of the first two the router gets the replies late, as it is busy with
sending off the others, and the rest find both at work. Then come single calls, again and again after a rest of one
length: a machine that is left alone for long takes longer to come back also where one rest is short. Then bursts that
are served in larger batches, and then traffic: the load generator of a run sends all inputs at random times.

- *handing over*: of batches of the traffic that were sent the moment the replica was free, the time that it was taken
  beyond its service time in a profile. It is taken up by sockets, copies, pickling and the router, who may be busy with
  other requests, and in the replica by what comes between two calls and leaves its mark in caches, and by batches of
  one size coming after others: its own service time is longer than in a loop. Larger batches take longer by every
  further call;
- *way in and out*: latency from the due time of a single call, less the time the replica was taken;
- *waking up*: how much longer the replica was taken by a single call than by those of the burst with the same input,
  and how much longer the way in and out was, by the length of the rests.

Last, for some seconds, the cores of router and replica are watched for *stalls* (`runner/stalls.py`), that hold up all
requests and replies at once, or a replica's batch. What of the times above is that much longer than the rest is left to
them, so that nothing counts twice.

Simulations add all of it; without that calls that take less than a few milliseconds look faster than any server is,
and their tails are several times too short.
"""

from __future__ import annotations

import itertools
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inferplan.profilers.runtimes.executor import Executor, ExecutorSpec
from inferplan.runner import eventloop
from inferplan.runner.cores import BUSY_POLL_S, available_cores
from inferplan.runner.frames import dump
from inferplan.runner.stalls import STALL_S, WATCHED_S, watch_cores
from inferplan.runner.trial import Batch, Burst, Trial
from inferplan.spec.choice import Choice
from inferplan.spec.errors import InferplanError
from inferplan.spec.profile import Profile
from inferplan.spec.rows import HandoffRow, Measurement, PointKey
from inferplan.spec.workload import Workload

BURST = 8
WORKING = 2
"""Calls of a burst from which on router and replica are at work."""
BURSTS = 240
PAUSE_S = 0.001
MOST_BATCH = 8
BATCHES, BATCHED = 40, 3
"""Bursts that tell what further calls of a batch add, and larger batches in each."""
RESTS_S = {0.00005: 0.0001, 0.0003: 0.001, BUSY_POLL_S: 0.004, 0.006: 0.01, 0.015: 0.02}
"""From which rest on waking up takes what it took after rests of the second length."""
SHORT_S = BUSY_POLL_S
"""Ways in and out are those after rests of at most this length: what is longer in them after longer ones is waking
up."""
SINGLES = 60
WARMUP = 3
"""Bursts and single calls that are not counted."""
LEAST = 8
MOST_S = 1.0
"""Longest time for bursts, for larger batches, for calls after rests of one length, unless fewer than `LEAST` fit."""
LOAD = 0.6
"""Share of what the replica can serve that traffic asks of it: between the loads that servers are planned for."""
CALLS, MOST_TRAFFIC_S = 100, 3.0
"""Traffic lasts for `MOST_S`, or until so many calls are expected, but no longer."""
QUANTILES = 200
STEADY = 0.9
"""Share of the ways in and out, and at least of handing over, that are taken as they are; what the others take longer
is put down to stalls."""
ESTIMATE_S = 11.0
"""What measuring one stage takes, with starting the replica: less than that where calls take a few milliseconds, up to
twice where they take 50."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Served:
    """Bursts by input; single calls by length of the rests before them, then by input; larger batches; batches of
    traffic."""

    bursts: list[Burst]
    singles: dict[float, list[Burst]]
    larger: list[Batch]
    traffic: list[Batch]

    @property
    def at_work(self) -> list[list[Batch]]:
        """Of every burst the batches that found the replica at work."""
        return [burst.batches[WORKING:] for burst in self.bursts]

    @property
    def working(self) -> list[Batch]:
        """Batches of the traffic that were sent the moment that the replica was free."""
        return [one for one in self.traffic if one.at_work]

    @property
    def handing(self) -> list[Batch]:
        """Batches that tell what handing over takes: those of the traffic where there are enough, else of bursts."""
        return self.working if len(self.working) >= LEAST else [one for batches in self.at_work for one in batches]

    @property
    def further_s(self) -> float | None:
        """What every further call of a batch adds to handing over: the slope through the medians of the traffic's
        sizes, where there are enough of two; else what bursts say. None where there were no larger batches."""
        if not self.larger:
            return None
        counts = Counter(one.size for one in self.working)
        sizes = [size for size, count in counts.items() if count >= LEAST]
        if len(sizes) > 1:
            medians = [np.median([one.handed_s for one in self.working if one.size == size]) for size in sizes]
            slope, _ = np.polyfit(sizes, medians, 1, w=np.sqrt([counts[size] for size in sizes]))
            return max(float(slope), 0.0)
        one = float(np.median([batch.handed_s for batches in self.at_work for batch in batches]))
        return max(float(np.median([(batch.handed_s - one) / (batch.size - 1) for batch in self.larger])), 0.0)


def stages_to_measure(workload: Workload, profile: Profile, device: str) -> dict[str, Measurement]:
    """Per stage the fastest point measured with the smallest batch on a device's newest machine; stages whose
    handing over was measured on that machine already are left out."""
    rows = [row for row in profile.measurements if row.origin == "measured" and row.status == "ok"]
    rows = [row for row in rows if row.key.device == device and row.key.runtime != "skip" and row.service.mean_s]
    # Earlier versions measured without traffic, and knew nothing of longer ways in and out.
    there = [row for row in profile.handoffs if row.device == device]
    whole = [row for row in there if row.entry_wakings_s or row.status != "ok"]
    known = {(row.stage, row.device_fingerprint) for row in whole}
    found: dict[str, Measurement] = {}
    for name, stage in workload.pipeline.stages.items():
        mine = [row for row in rows if row.key.stage == name and row.choice in stage.choices()]
        if not mine:
            continue
        machine = max(mine, key=lambda row: row.measured_at).key.device_fingerprint
        here = [row for row in mine if row.key.device_fingerprint == machine]
        if (name, machine) not in known:
            found[name] = min(here, key=lambda r: (r.key.batch, r.key.threads, r.service.mean_s or 0.0, r.key.id()))
    return found


def measure_handoff(
    workload: Workload, profile: Profile, point: Measurement, inputs_of: Callable[[ExecutorSpec, str], Sequence[Any]]
) -> HandoffRow:
    """Serve a stage for a few seconds, in batches as large as those of `point` in the profile at most, with the inputs
    that `inputs_of` has for its choice on its provider. A failure is a row, too: its status and reason say so."""
    key = point.key
    row = HandoffRow(key.stage, key.variant, key.modalities, key.device, key.device_fingerprint)
    try:
        inputs = inputs_of(_spec(workload, point), key.provider)
        batch = min(_largest_batch(profile, point), MOST_BATCH)
        served = eventloop.run(lambda: _serve(workload, point, inputs, batch))
        alone = _alone(workload, point, inputs, served.working)
    except (InferplanError, OSError) as error:
        return _with(row, status="failed", reason=str(error).replace("\n", "; "))
    further_s = served.further_s
    handed = np.array([one.handed_s - (further_s or 0.0) * (one.size - 1) for one in served.handing])
    handoffs = _without_stalls(handed) + max(_longer(served.working, alone), 0.0)
    router_s, replica_s = watch_cores(_cores(point))
    short = [one for rest, singles in served.singles.items() if rest <= SHORT_S for one in singles]
    entries = np.array([one.latency_s - one.batches[0].taken_s for one in short])
    return _with(
        row,
        n=len(handed),
        handoff_mean_s=float(handoffs.mean()),
        handoffs_s=_quantiles(handoffs),
        entry_s=max(float(np.median(entries)), 0.0),
        entries_s=_quantiles(np.minimum(entries, np.quantile(entries, STEADY))),
        handoff_call_s=further_s,
        wakings_s=json.dumps(_wakings(served)),
        entry_wakings_s=json.dumps(_entry_wakings(served, float(np.median(entries)))),
        stalls_s=_rounded(router_s),
        replica_stalls_s=_rounded(replica_s),
        watched_s=WATCHED_S,
    )


def _longer(working: Sequence[Batch], alone_s: Floats) -> float:
    """How much longer batches took to serve than the same ones alone."""
    if len(alone_s) < LEAST:
        return 0.0
    return _more_than_chance(np.array([one.service_s for one in working]) - alone_s)


def _wakings(served: _Served) -> list[tuple[float, float]]:
    """Longer rests do not make waking up shorter: what says so is chance."""
    at_work = np.array([float(np.median([one.taken_s for one in batches])) for batches in served.at_work])
    found, most = [], 0.0
    for least, rest in RESTS_S.items():
        taken = np.array([one.batches[0].taken_s for one in served.singles[rest]])
        most = max(most, _more_than_chance(taken - at_work[: len(taken)]))
        found.append((least, round(most, 9)))
    return found


def _entry_wakings(served: _Served, usual_s: float) -> list[tuple[float, float]]:
    """Of the way in and out, that takes `usual_s` after short rests."""
    found, most = [], 0.0
    for least, rest in RESTS_S.items():
        if rest > SHORT_S:
            entries = np.array([one.latency_s - one.batches[0].taken_s for one in served.singles[rest]])
            most = max(most, _more_than_chance(entries - usual_s))
            found.append((least, round(most, 9)))
    return found


def _without_stalls(times_s: Floats) -> Floats:
    """Times as long as the steady ones, or as longer than their median as is no stall yet."""
    longest = max(float(np.quantile(times_s, STEADY)), float(np.median(times_s)) + STALL_S)
    return np.minimum(times_s, longest)


def _more_than_chance(differences_s: Floats) -> float:
    """The median of differences between times of the same inputs, where it is more than twice its standard error away
    from 0; else 0. Stalls do not move it."""
    middle = float(np.median(differences_s))
    spread = 1.4826 * float(np.median(np.abs(differences_s - middle)))
    return middle if abs(middle) > 2 * 1.2533 * spread / math.sqrt(len(differences_s)) else 0.0


def _alone(workload: Workload, point: Measurement, inputs: Sequence[Any], batches: Sequence[Batch]) -> Floats:
    """Service times (s) of the same batches as in a profile: size by size, nothing between them, on the replica's
    cores."""
    times = np.empty(len(batches))
    if not batches:
        return times
    with Executor.from_spec(_spec(workload, point), point.key.provider, max(1, point.key.threads)) as executor:
        before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
        try:
            if before is not None:
                os.sched_setaffinity(0, _cores(point))
            size = 0
            for index in sorted(range(len(batches)), key=lambda index: batches[index].size):
                items = [inputs[place] for place in batches[index].inputs]
                for _ in range(WARMUP if len(items) > size else 0):
                    executor.execute(items)
                size = len(items)
                times[index] = executor.execute(items).service_s
        finally:
            if before is not None:
                os.sched_setaffinity(0, before)
    return times


def _largest_batch(profile: Profile, point: Measurement) -> int:
    """The largest batch that the point's choice was measured with, as it was."""
    same = [
        row.key.batch
        for row in profile.measurements
        if row.status == "ok" and row.origin == "measured" and _but_batch(row.key) == _but_batch(point.key)
    ]
    return max([point.key.batch, *same])


def _but_batch(key: PointKey) -> PointKey:
    return replace(key, batch=1, input_shape="")


def _cores(point: Measurement) -> tuple[int, ...]:
    """Where the replica runs."""
    return available_cores()[-max(1, point.key.threads) :]


def _quantiles(times_s: Floats) -> str:
    """Evenly spaced quantiles as JSON; what came out below 0 is noise of the clock."""
    count = min(QUANTILES, len(times_s))
    levels = (np.arange(count) + 0.5) / count
    return json.dumps([round(float(time), 9) for time in np.quantile(np.maximum(times_s, 0.0), levels)])


def _rounded(times_s: Sequence[float]) -> str:
    return json.dumps([round(time, 9) for time in times_s])


def _with(row: HandoffRow, **fields: Any) -> HandoffRow:
    return replace(row, **fields, measured_at=datetime.now(UTC).isoformat(timespec="microseconds"))


def _spec(workload: Workload, point: Measurement) -> ExecutorSpec:
    stage = workload.pipeline.stages[point.key.stage]
    return ExecutorSpec.of(workload.root, point.key.stage, stage, Choice.parse(point.choice))


async def _serve(workload: Workload, point: Measurement, inputs: Sequence[Any], batch: int) -> _Served:
    key = point.key
    blobs = [dump(item) for item in inputs]
    trial = Trial(workload, _spec(workload, point), key.provider, max(1, key.threads), _cores(point))
    async with trial:

        async def some(most: int, calls: int, rest_s: float, max_batch: int = 1) -> list[Burst]:
            found: list[Burst] = []
            end = perf_counter() + MOST_S
            for blob in itertools.islice(itertools.cycle(blobs), WARMUP + most):
                found.append(await trial.send(blob, calls, rest_s, max_batch))
                if perf_counter() > end and len(found) >= LEAST:
                    break
            return found[WARMUP:]

        bursts = await some(BURSTS, BURST, PAUSE_S)
        singles = {rest_s: (await some(SINGLES, 1, rest_s))[: len(bursts)] for rest_s in RESTS_S.values()}
        # The first finds the replica free and goes alone; the others are there when it is free again.
        larger = await some(BATCHES, 1 + BATCHED * batch, PAUSE_S, batch) if batch > 1 else []
        served = _Served(bursts, singles, _of_size(larger, batch), [])
        rate_rps, duration_s = _traffic(served)
        return replace(served, traffic=await trial.traffic(blobs, rate_rps, duration_s, batch))


def _of_size(bursts: Sequence[Burst], size: int) -> list[Batch]:
    return [one for burst in bursts for one in burst.batches[WORKING:] if one.size == size]


def _traffic(served: _Served) -> tuple[float, float]:
    """Calls per second that load the replica by `LOAD`, and for how long (s)."""
    taken = [one.taken_s for batches in served.at_work for one in batches]
    capacity_rps = 1 / float(np.mean(taken))
    if served.larger:
        capacity_rps = max(capacity_rps, served.larger[0].size / float(np.mean([one.taken_s for one in served.larger])))
    return LOAD * capacity_rps, float(np.clip(CALLS / (LOAD * capacity_rps), MOST_S, MOST_TRAFFIC_S))
