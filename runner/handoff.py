"""What serving costs beyond service times: handing a batch to a replica and back, a request's way in and out, and
what it takes a replica to wake up.

A replica of a stage's fastest choice is put behind the router as in a run. Requests come in bursts of a few at one
instant, one burst of one input, after rests of 0.1 to 30 ms; batches are of one, so that the first call of a burst
finds the replica at rest, and the others find it at work:

- *handing over*, of the others: the time that the replica was taken, less pre-processing, inference and
  post-processing. It is taken up by sockets, copies, pickling and the router;
- *way in and out*, of the first: latency from the scheduled time, less the time the replica was taken: the load
  generator and the router;
- *waking up*: how much longer the replica was taken by the first than by the others of its burst, by how long it had
  rested: processes have to be scheduled, caches filled.

Simulations add all three; without them calls that take less than a few milliseconds look faster than any server is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
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
from inferplan.spec.rows import HandoffRow, Measurement
from inferplan.spec.stagecode import Context, pipeline_adapter, stage_adapter
from inferplan.spec.workload import Pipeline, Workload

BURST = 4
"""Calls that come at once. They are alike, so that the first can be compared with the others."""
BURSTS = 320
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
ESTIMATE_S = 6.0
"""What measuring one stage takes at most, with starting the replica, unless loading its model takes long."""
_OPTION = "handoff"

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Called:
    """A call: when it joined the queue, was sent, came back (the event loop's clock); the replica's own work."""

    arrived_s: float
    sent_s: float
    back_s: float
    service_s: float


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


def measure_handoff(workload: Workload, point: Measurement) -> HandoffRow:
    """Serve a stage for a few seconds. A failure is a row, too: its status and reason say so."""
    key = point.key
    row = HandoffRow(key.stage, key.variant, key.modalities, key.device, key.device_fingerprint)
    service_s = point.service.mean_s or 0.0
    try:
        inputs = _inputs(workload, point)
        calls, latencies_s = eventloop.run(lambda: _serve(workload, point, inputs, service_s))
    except (InferplanError, OSError) as error:
        return _with(row, status="failed", reason=str(error).replace("\n", "; "))
    if len(calls) != len(latencies_s):
        return _with(row, status="failed", reason=f"{len(calls)} calls of {len(latencies_s)} requests came back")
    sent, back, service = (np.array([getattr(c, name) for c in calls]) for name in ("sent_s", "back_s", "service_s"))
    taken = (back - sent).reshape(-1, BURST)
    handoffs = (back - sent - service).reshape(-1, BURST)[:, 1:].ravel()
    waits = np.array([call.sent_s - call.arrived_s for call in calls])
    entries = (latencies_s - waits - (back - sent))[::BURST]
    rests = sent[BURST::BURST] - back[BURST - 1 : -1 : BURST]
    longer = taken[1:, 0] - np.median(taken[1:, 1:], axis=1)
    return _with(
        row,
        n=len(calls),
        handoff_mean_s=float(handoffs.mean()),
        handoffs_s=_quantiles(handoffs),
        entry_s=max(float(np.median(entries)), 0.0),
        entries_s=_quantiles(entries),
        wakings_s=json.dumps(wakings(rests, longer)),
    )


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


def _quantiles(times_s: Floats) -> str:
    """Evenly spaced quantiles as JSON; what came out below 0 is noise of the clock."""
    count = min(QUANTILES, len(times_s))
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
    """A pool of one replica that remembers its calls."""

    def __init__(self, router: Router) -> None:
        super().__init__(_OPTION, 1, 0.0, router.deliver)
        self.calls: list[_Called] = []

    def replied(self, replica: Backend, reply: Reply) -> None:
        """A call is back."""
        sent_s, batch = self._working[replica]
        service_s = reply.pre_s + reply.infer_s + reply.post_s
        self.calls.append(_Called(batch[0][0], sent_s, self._loop.time(), service_s))
        super().replied(replica, reply)


class _OnlyOption(Routes):
    """Routes where there is one option."""

    def __init__(self) -> None:
        super().__init__({}, 0)

    def choose(self, traffic: str, stage: str) -> str:
        """The option."""
        return _OPTION


async def _serve(
    workload: Workload, point: Measurement, inputs: Sequence[Any], service_s: float
) -> tuple[list[_Called], Floats]:
    """Calls and latencies (s) of requests that come now and then, in order."""
    key = point.key
    alone = Topology.of(Pipeline(stages={key.stage: workload.pipeline.stages[key.stage]}))
    router = Router(alone, _OnlyOption(), {})
    pool = router.pools[_OPTION] = _Pool(router)
    cores = available_cores()[-max(1, key.threads) :]
    assignment = Assignment(_spec(workload, point), key.provider, max(1, key.threads), cores, (), False, os.getpid())

    def on_reply(replica: Replica, reply: Reply) -> None:
        pool.replied(replica, reply)

    def on_end(replica: Replica, reason: str) -> None:
        pool.ended(replica, str(replica.name), reason)

    replica = Replica(ReplicaName(_OPTION, 0), assignment, on_reply, on_end)
    try:
        pool.expect()
        await replica.start(workload.profile.load_timeout_s)
        pool.add(replica)
        times_s = _bursts_s(service_s)
        schedule = Schedule((_OPTION,), times_s, np.zeros(len(times_s), dtype=np.int32))
        windows = Windows(0.0, float(times_s[-1]) + LONGEST_REST_S, 10.0 + 10 * BURST * service_s)
        blobs = [blob for item in inputs for blob in [dump(item)] * BURST]
        generator = LoadGenerator(schedule, windows, blobs, router.submit, _nothing, ignore)
        await generator.run(_nothing)
    finally:
        pool.close()
        await replica.stop()
    latencies_s = generator.load(0).latency_s
    return pool.calls[WARMUP * BURST :], latencies_s[WARMUP * BURST :]


def _bursts_s(service_s: float) -> Floats:
    """When requests come: rests between bursts have lengths as often of one power as of another."""
    busy_s = BURST * (service_s + SPARE_S)
    mean_rest_s = (LONGEST_REST_S - SHORTEST_REST_S) / np.log(LONGEST_REST_S / SHORTEST_REST_S)
    count = WARMUP + max(min(BURSTS, int(MOST_S / (busy_s + mean_rest_s))), LEAST_BURSTS)
    rests = np.geomspace(SHORTEST_REST_S, LONGEST_REST_S, count)
    starts = np.cumsum(busy_s + np.random.default_rng(0).permutation(rests))
    return np.repeat(starts, BURST)


def _nothing(*_: Any) -> None:
    """Answers and windows are of no interest."""
