"""A stage served on trial: a replica of it behind a router of its own, given bursts of calls, or traffic."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from inferplan.profilers.runtimes.executor import ExecutorSpec
from inferplan.runner import eventloop
from inferplan.runner.arrivals import make_schedule
from inferplan.runner.cores import available_cores, kept_to
from inferplan.runner.events import ignore
from inferplan.runner.frames import Blob, Reply, load
from inferplan.runner.loadgen import LoadGenerator, Windows
from inferplan.runner.pipeline import Topology
from inferplan.runner.pool import Backend, Failure, OptionPool
from inferplan.runner.replica import Replica, ReplicaName
from inferplan.runner.router import Answers, Journey, Router, Routes
from inferplan.runner.worker import Assignment
from inferplan.spec.arrivals import Source
from inferplan.spec.errors import InputError
from inferplan.spec.processes import Arrivals
from inferplan.spec.workload import Pipeline, Workload

_OPTION = "trial"


@dataclass(frozen=True, slots=True)
class Batch:
    """When a batch was sent to the replica and came back (the event loop's clock), what the replica worked on it, its
    calls, and whether it was sent the moment that the batch before came back. Of traffic, which inputs are in it."""

    sent_s: float
    back_s: float
    service_s: float
    size: int
    at_work: bool = False
    inputs: tuple[int, ...] = ()

    @property
    def taken_s(self) -> float:
        """How long the replica was taken."""
        return self.back_s - self.sent_s

    @property
    def handed_s(self) -> float:
        """How much of that was not its work."""
        return self.taken_s - self.service_s


@dataclass(slots=True)
class Burst:
    """Calls that came at one instant: their batches, and when the answer to the first was there, from its due time."""

    batches: list[Batch] = field(default_factory=list)
    latency_s: float = 0.0


class _Pool(OptionPool[Journey]):
    """A pool of one replica that remembers its batches; of inputs that it is told, where they were."""

    def __init__(self, router: Router, max_batch: int, inputs: Sequence[Blob] = ()) -> None:
        super().__init__(_OPTION, max_batch, 0.0, router.deliver)
        self.burst = Burst()
        self._place = {id(blob): place for place, blob in enumerate(inputs)}
        self._at_work = False

    def replied(self, replica: Backend, reply: Reply) -> None:
        """A batch is back."""
        sent_s, batch = self._working[replica]
        service_s = reply.pre_s + reply.infer_s + reply.post_s
        places = tuple(self._place.get(id(waiting.call.parts[0]), 0) for _, waiting in batch)
        self.burst.batches.append(Batch(sent_s, self._loop.time(), service_s, len(batch), self._at_work, places))
        super().replied(replica, reply)
        self._at_work = replica in self._working


class _OnlyOption(Routes):
    """Routes where there is one option."""

    def __init__(self) -> None:
        super().__init__({}, 0)

    def choose(self, traffic: str, stage: str) -> str:
        """The option."""
        return _OPTION


class Trial:
    """Async context manager: entering starts the replica and keeps this thread to the other cores, as a run does;
    leaving ends it.

    Raises InputError where it cannot start or does not answer.
    """

    def __init__(
        self, workload: Workload, spec: ExecutorSpec, provider: str, threads: int, cores: tuple[int, ...]
    ) -> None:
        alone = Topology.of(Pipeline(stages={spec.stage: workload.pipeline.stages[spec.stage]}))
        self._free = tuple(core for core in available_cores() if core not in cores)
        self._kept = ExitStack()
        self._limit_s = workload.profile.load_timeout_s
        self._loop = asyncio.get_running_loop()
        self._router = Router(alone, _OnlyOption(), {})
        assignment = Assignment(spec, provider, threads, cores, (), False, os.getpid(), polls=bool(self._free))
        self._replica = Replica(ReplicaName(_OPTION, 0), assignment, self._replied, self._ended)

    async def __aenter__(self) -> Self:
        try:
            await self._replica.start(self._limit_s)
        except BaseException:
            await self._replica.stop()
            raise
        self._kept.enter_context(kept_to(self._free))
        self._kept.enter_context(eventloop.busy_polling(bool(self._free)))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._kept.close()
        await self._replica.stop()

    async def send(self, item: Blob, calls: int, rest_s: float, max_batch: int = 1) -> Burst:
        """After a rest, the same call so many times at one instant; until all are answered."""
        pool = self._router.pools[_OPTION] = _Pool(self._router, max_batch)
        pool.expect()
        pool.add(self._replica)
        due = self._loop.time() + rest_s
        over: asyncio.Future[None] = self._loop.create_future()
        left = calls

        def done(result: Answers | Failure) -> None:
            nonlocal left
            if isinstance(result, Failure):
                if not over.done():
                    over.set_exception(InputError(result.reason))
                return
            if left == calls:
                pool.burst.latency_s = self._loop.time() - due
            left -= 1
            if not left and not over.done():
                over.set_result(None)

        def begin() -> None:
            for _ in range(calls):
                self._router.submit(_OPTION, item, done)

        self._loop.call_at(due, begin)
        try:
            async with asyncio.timeout(self._limit_s):
                await over
        except TimeoutError:
            raise InputError(f"no answer within {self._limit_s:g} s") from None
        finally:
            pool.close()
        return pool.burst

    async def traffic(self, items: list[bytes], rate_rps: float, duration_s: float, max_batch: int) -> list[Batch]:
        """Calls with these inputs in turn, as a Poisson process, sent as in a run; the batches that they came in."""
        pool = self._router.pools[_OPTION] = _Pool(self._router, max_batch, items)
        pool.expect()
        pool.add(self._replica)
        schedule = make_schedule({_OPTION: Source(Arrivals(process="poisson"), rate_rps)}, duration_s, 0)
        windows = Windows(0.0, duration_s, self._limit_s)
        generator = LoadGenerator(
            schedule, windows, items, self._router.submit_all,
            lambda index, answers: {stage: [load(blob) for blob in blobs] for stage, blobs in answers.items()}, ignore,
        )  # fmt: skip
        try:
            await generator.run(lambda edge: None)
        finally:
            pool.close()
        for reason in generator.load(0).reasons:
            raise InputError(reason)
        return pool.burst.batches

    def _replied(self, replica: Replica, reply: Reply) -> None:
        self._router.pools[_OPTION].replied(replica, reply)

    def _ended(self, replica: Replica, reason: str) -> None:
        if _OPTION in self._router.pools:
            self._router.pools[_OPTION].ended(replica, str(replica.name), reason)
