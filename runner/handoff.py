"""What serving costs beyond service times: handing a batch to a replica and back, a request's way in and out, and
what it takes a replica to wake up.

A replica of a stage's fastest choice is put behind the router as in a run. Requests come in bursts of a few at one
instant, one burst of one input, after rests of 0.1 to 30 ms; batches are of one, so that the first call of a burst
finds the replica at rest, and the others find it at work:

- *handing over*, of the others: the time that the replica was taken, less pre-processing, inference and
  post-processing. It is taken up by sockets, copies, pickling and the router. Larger batches take longer: then come
  bursts of which all calls but the first share a batch;
- *way in and out*, of the first: latency from the scheduled time, less the time the replica was taken: the load
  generator and the router;
- *waking up*: how much longer the replica was taken by the first than by the others of its burst, by how long it had
  rested: processes have to be scheduled, caches filled.

Last, for a moment, this process does nothing but read the clock. Where it jumps the machine was doing something else
(other processes, the kernel, a hypervisor's other guests): *stalls*, that hold up all requests at once.

Simulations add all of it; without that calls that take less than a few milliseconds look faster than any server is,
and their tails are several times too short.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inferplan.profilers.runtimes.executor import Executor, ExecutorSpec
from inferplan.runner import eventloop
from inferplan.runner.arrivals import Schedule
from inferplan.runner.cores import available_cores
from inferplan.runner.events import ignore
from inferplan.runner.frames import Reply, dump
from inferplan.runner.loadgen import LoadGenerator, Windows
from inferplan.runner.pipeline import Topology
from inferplan.runner.pool import Backend, OptionPool
from inferplan.runner.replica import Replica, ReplicaName
from inferplan.runner.router import Journey, Router, Routes
from inferplan.runner.worker import Assignment
from inferplan.spec.choice import Choice
from inferplan.spec.errors import InferplanError
from inferplan.spec.profile import Profile
from inferplan.spec.rows import HandoffRow, Measurement, PointKey
from inferplan.spec.stagecode import Context, pipeline_adapter, stage_adapter
from inferplan.spec.workload import Pipeline, Workload

BURST = 8
"""Calls that come at once. They are alike, so that the first can be compared with the others."""
BURSTS = 320
MOST_BATCH = 8
BATCHES = 40
"""Larger batches that tell what further calls add."""
MOST_S = 3.0
"""Longest time to send requests, unless fewer than `LEAST_BURSTS` would fit."""
LEAST_BURSTS = 12
WARMUP = 3
"""Bursts that are not counted."""
SHORTEST_REST_S, LONGEST_REST_S = 0.0001, 0.03
RESTS_S = (0.0003, 0.001, 0.003, 0.01)
"""What waking up takes is told apart by rests longer than these."""
LEAST_WAKINGS = 8
"""Fewer of a length say nothing."""
SPARE_S = 0.0003
"""About what a call takes beyond its service: rests are the longer, or shorter, by what it is off."""
QUANTILES = 200
FINE_QUANTILES = 1000
"""Of handing over, whose rare long times are the tail of short calls."""
STEADY = 0.9
"""Share of the ways in and out that are taken as they are; what the others take longer is put down to stalls."""
WATCHED_S = 1.5
STALL_S = 5e-5
"""Shorter jumps of the clock are not told from the loop that reads it."""
ESTIMATE_S = 6.0
"""What measuring one stage takes at most, with starting the replica, unless loading its model takes long."""
_OPTION = "handoff"

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Called:
    """A batch: when its first call joined the queue, when it was sent, came back (the event loop's clock); the
    replica's own work; its calls."""

    arrived_s: float
    sent_s: float
    back_s: float
    service_s: float
    size: int

    @property
    def handed_s(self) -> float:
        """What the replica was taken beyond its service."""
        return self.back_s - self.sent_s - self.service_s


def stages_to_measure(workload: Workload, profile: Profile, device: str) -> dict[str, Measurement]:
    """Per stage the fastest point measured with the smallest batch on a device's newest machine; stages whose
    handing over was measured on that machine already are left out."""
    rows = [row for row in profile.measurements if row.origin == "measured" and row.status == "ok"]
    rows = [row for row in rows if row.key.device == device and row.key.runtime != "skip" and row.service.mean_s]
    known = {(row.stage, row.device_fingerprint) for row in profile.handoffs if row.device == device}
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


def measure_handoff(workload: Workload, profile: Profile, point: Measurement) -> HandoffRow:
    """Serve a stage for a few seconds, in batches as large as those of `point` in the profile at most. A failure is a
    row, too: its status and reason say so."""
    key = point.key
    row = HandoffRow(key.stage, key.variant, key.modalities, key.device, key.device_fingerprint)
    service_s = point.service.mean_s or 0.0
    try:
        inputs = _inputs(workload, point)
        batch = min(_largest_batch(profile, point), MOST_BATCH)
        calls, latencies_s, larger = eventloop.run(lambda: _serve(workload, point, inputs, service_s, batch))
    except (InferplanError, OSError) as error:
        return _with(row, status="failed", reason=str(error).replace("\n", "; "))
    if len(calls) != len(latencies_s):
        return _with(row, status="failed", reason=f"{len(calls)} calls of {len(latencies_s)} requests came back")
    sent, back, service = (np.array([getattr(c, name) for c in calls]) for name in ("sent_s", "back_s", "service_s"))
    taken = (back - sent).reshape(-1, BURST)
    handoffs = (back - sent - service).reshape(-1, BURST)[:, 1:].ravel()
    further = [(one.handed_s - float(np.median(handoffs))) / (one.size - 1) for one in larger if one.size == batch > 1]
    waits = np.array([call.sent_s - call.arrived_s for call in calls])
    entries = (latencies_s - waits - (back - sent))[::BURST]
    rests = sent[BURST::BURST] - back[BURST - 1 : -1 : BURST]
    longer = taken[1:, 0] - np.median(taken[1:, 1:], axis=1)
    return _with(
        row,
        n=len(calls),
        handoff_mean_s=float(handoffs.mean()),
        handoffs_s=_quantiles(handoffs, FINE_QUANTILES),
        handoff_call_s=max(float(np.median(further)), 0.0) if further else None,
        entry_s=max(float(np.median(entries)), 0.0),
        entries_s=_quantiles(np.minimum(entries, np.quantile(entries, STEADY)), QUANTILES),
        wakings_s=json.dumps(wakings(rests, longer)),
        stalls_s=json.dumps([round(stall, 9) for stall in _stalls()]),
        watched_s=WATCHED_S,
    )


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


def wakings(rests_s: Floats, longer_s: Floats) -> list[tuple[float, float]]:
    """By the least time that a replica had rested, how much longer its next call took: the median of those that had
    rested so long and not as long as for the next. Longer rests take no less; what cannot be told is left out."""
    found: list[tuple[float, float]] = []
    for least, most in zip(RESTS_S, (*RESTS_S[1:], np.inf), strict=True):
        mine = longer_s[(rests_s > least) & (rests_s <= most)]
        if len(mine) >= LEAST_WAKINGS:
            before = found[-1][1] if found else 0.0
            found.append((least, round(max(float(np.median(mine)), before), 9)))
    return found


def _stalls() -> list[float]:
    """Jumps of the clock (s) seen by a process that does nothing else."""
    found: list[float] = []
    last = start = perf_counter()
    while last - start < WATCHED_S:
        now = perf_counter()
        if now - last > STALL_S:
            found.append(now - last)
        last = now
    return found


def _quantiles(times_s: Floats, most: int) -> str:
    """Evenly spaced quantiles as JSON; what came out below 0 is noise of the clock."""
    count = min(most, len(times_s))
    levels = (np.arange(count) + 0.5) / count
    return json.dumps([round(float(time), 9) for time in np.quantile(np.maximum(times_s, 0.0), levels)])


def _with(row: HandoffRow, **fields: Any) -> HandoffRow:
    return replace(row, **fields, measured_at=datetime.now(UTC).isoformat(timespec="microseconds"))


def _inputs(workload: Workload, point: Measurement) -> list[Any]:
    """What the stage is served with: its labelled inputs, at the entry the pipeline's, else made-up ones."""
    key, stage = point.key, workload.pipeline.stages[point.key.stage]
    choice = Choice.parse(point.choice)
    params = stage.variants[key.variant].params
    context = Context(workload.root, params, key.stage, key.variant, modalities=choice.modalities)
    examples = stage_adapter(stage.code, context).examples()
    if not examples and key.stage in workload.pipeline.entry_stages():
        pipeline = workload.pipeline
        examples = pipeline_adapter(pipeline.code, Context(workload.root, pipeline.params)).examples()
    if examples:
        return [example.input for example in examples]
    with Executor.from_spec(_spec(workload, point), key.provider) as executor:
        return executor.made_up_inputs(64)


def _spec(workload: Workload, point: Measurement) -> ExecutorSpec:
    stage = workload.pipeline.stages[point.key.stage]
    return ExecutorSpec.of(workload.root, point.key.stage, stage, Choice.parse(point.choice))


class _Pool(OptionPool[Journey]):
    """A pool of one replica that remembers its batches."""

    def __init__(self, router: Router, max_batch: int) -> None:
        super().__init__(_OPTION, max_batch, 0.0, router.deliver)
        self.calls: list[_Called] = []

    def replied(self, replica: Backend, reply: Reply) -> None:
        """A call is back."""
        sent_s, batch = self._working[replica]
        service_s = reply.pre_s + reply.infer_s + reply.post_s
        self.calls.append(_Called(batch[0][0], sent_s, self._loop.time(), service_s, len(batch)))
        super().replied(replica, reply)


class _OnlyOption(Routes):
    """Routes where there is one option."""

    def __init__(self) -> None:
        super().__init__({}, 0)

    def choose(self, traffic: str, stage: str) -> str:
        """The option."""
        return _OPTION


async def _serve(
    workload: Workload, point: Measurement, inputs: Sequence[Any], service_s: float, batch: int
) -> tuple[list[_Called], Floats, list[_Called]]:
    """Calls and latencies (s) of bursts served one by one, in order; then batches of bursts served together."""
    key = point.key
    alone = Topology.of(Pipeline(stages={key.stage: workload.pipeline.stages[key.stage]}))
    router = Router(alone, _OnlyOption(), {})
    cores = available_cores()[-max(1, key.threads) :]
    assignment = Assignment(_spec(workload, point), key.provider, max(1, key.threads), cores, (), False, os.getpid())

    def on_reply(replica: Replica, reply: Reply) -> None:
        router.pools[_OPTION].replied(replica, reply)

    def on_end(replica: Replica, reason: str) -> None:
        router.pools[_OPTION].ended(replica, str(replica.name), reason)

    async def burst(times_s: Floats, size: int, max_batch: int) -> tuple[list[_Called], Floats]:
        pool = router.pools[_OPTION] = _Pool(router, max_batch)
        pool.expect()
        pool.add(replica)
        schedule = Schedule((_OPTION,), np.repeat(times_s, size), np.zeros(len(times_s) * size, dtype=np.int32))
        windows = Windows(0.0, float(times_s[-1]) + LONGEST_REST_S, 10.0 + 10 * size * service_s)
        blobs = [blob for item in inputs for blob in [dump(item)] * size]
        generator = LoadGenerator(schedule, windows, blobs, router.submit, _nothing, ignore)
        try:
            await generator.run(_nothing)
        finally:
            pool.close()
        return pool.calls, generator.load(0).latency_s

    replica = Replica(ReplicaName(_OPTION, 0), assignment, on_reply, on_end)
    try:
        await replica.start(workload.profile.load_timeout_s)
        calls, latencies_s = await burst(_bursts_s(BURST * (service_s + SPARE_S)), BURST, 1)
        larger: list[_Called] = []
        if batch > 1:
            # The first finds the replica free and goes alone; the others are there when it is free again.
            busy_s = (batch + 1) * (service_s + SPARE_S)
            times_s = np.arange(1, max(min(BATCHES, int(MOST_S / busy_s)), LEAST_WAKINGS) + 1) * busy_s
            larger, _ = await burst(times_s, batch + 1, batch)
    finally:
        await replica.stop()
    return calls[WARMUP * BURST :], latencies_s[WARMUP * BURST :], larger


def _bursts_s(busy_s: float) -> Floats:
    """When bursts come that take so long: rests between them have lengths as often of one power as of another."""
    mean_rest_s = (LONGEST_REST_S - SHORTEST_REST_S) / np.log(LONGEST_REST_S / SHORTEST_REST_S)
    count = WARMUP + max(min(BURSTS, int(MOST_S / (busy_s + mean_rest_s))), LEAST_BURSTS)
    rests = np.geomspace(SHORTEST_REST_S, LONGEST_REST_S, count)
    starts: Floats = np.cumsum(busy_s + np.random.default_rng(0).permutation(rests))
    return starts


def _nothing(*_: Any) -> None:
    """Answers and windows are of no interest."""
