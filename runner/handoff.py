"""What serving costs beyond service times: handing a batch to a replica and back, and a request's way in and out.

A replica of a stage's fastest choice is put behind the router as in a run, and gets requests now and then, so that
it mostly finds itself asleep when one comes. Per request, in batches of one:

- *handing over*: the time that the replica was taken, less pre-processing, inference and post-processing. It is
  taken up by sockets, copies, pickling, and by processes that have to wake up;
- *way in and out*: latency from the scheduled time, less the wait in the queue and the time the replica was taken:
  the load generator and the router.

Simulations add both; without them calls that take less than a few milliseconds look faster than any server is.
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
from inferplan.runner.arrivals import make_schedule
from inferplan.runner.cores import available_cores
from inferplan.runner.events import ignore
from inferplan.runner.frames import Reply, dump
from inferplan.runner.loadgen import LoadGenerator, Windows
from inferplan.runner.pipeline import Topology
from inferplan.runner.pool import Backend, OptionPool
from inferplan.runner.replica import Replica, ReplicaName
from inferplan.runner.router import Journey, Router, Routes
from inferplan.runner.worker import Assignment
from inferplan.spec.arrivals import Source
from inferplan.spec.choice import Choice
from inferplan.spec.errors import InferplanError
from inferplan.spec.profile import Profile
from inferplan.spec.rows import HandoffRow, Measurement
from inferplan.spec.stagecode import Context, pipeline_adapter, stage_adapter
from inferplan.spec.workload import Arrivals, Pipeline, Workload

CALLS = 300
MOST_S = 3.0
"""Longest time to send requests."""
LEAST_CALLS = 20
UTILISATION = 0.1
"""Of the replica: so little that calls hardly ever wait."""
LEAST_GAP_S = 0.002
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
    if len(calls) < LEAST_CALLS or len(calls) != len(latencies_s):
        return _with(row, status="failed", reason=f"{len(calls)} calls of {len(latencies_s)} requests came back")
    handoffs = np.array([call.back_s - call.sent_s - call.service_s for call in calls])
    waits = np.array([call.sent_s - call.arrived_s for call in calls])
    entries = latencies_s - waits - np.array([call.back_s - call.sent_s for call in calls])
    return _with(
        row,
        n=len(calls),
        handoff_mean_s=float(handoffs.mean()),
        handoffs_s=_quantiles(handoffs),
        entry_s=max(float(np.median(entries)), 0.0),
        entries_s=_quantiles(entries),
    )


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
        gap_s = max(LEAST_GAP_S, service_s / UTILISATION)
        duration_s = max(min(CALLS * gap_s, MOST_S), 1.5 * LEAST_CALLS * gap_s)
        warmup_s = duration_s / 10
        schedule = make_schedule({_OPTION: Source(Arrivals(), 1 / gap_s)}, warmup_s + duration_s, 0)
        windows = Windows(warmup_s, duration_s, 10.0 + 10 * service_s)
        blobs = [dump(item) for item in inputs]
        generator = LoadGenerator(schedule, windows, blobs, router.submit_all, _nothing, ignore)
        await generator.run(_nothing)
    finally:
        pool.close()
        await replica.stop()
    latencies_s = generator.load(0).latency_s
    return pool.calls[len(pool.calls) - len(latencies_s) :], latencies_s


def _nothing(*_: Any) -> None:
    """Answers and windows are of no interest."""
