"""All replicas of a plan on this machine, with the router in front of them."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from inferplan.profilers.runtimes.executor import ExecutorSpec
from inferplan.runner import eventloop
from inferplan.runner.cores import Placing, Slot, kept_to
from inferplan.runner.events import OnEvent, ReplicaEnded, ReplicaReady
from inferplan.runner.frames import Reply
from inferplan.runner.pipeline import Topology
from inferplan.runner.pool import OptionPool
from inferplan.runner.replica import Replica, ReplicaName
from inferplan.runner.router import Router, Routes
from inferplan.runner.selection import row_key, row_routes
from inferplan.runner.ways import Ways
from inferplan.runner.worker import Assignment
from inferplan.spec.errors import InferplanError
from inferplan.spec.plan import DeployedOption, LoadedPlan, Plan
from inferplan.spec.stagecode import Context, StageAdapter, stage_adapter

MOST_RESTARTS = 5
"""Times a replica is started again; one that ends more often is broken, and starting it again only burns time."""


class Fleet:
    """Async context manager: entering starts every replica (side by side) and keeps this thread, the router's, to the
    cores that they leave free, leaving ends them all.

    Whatever happens in between (an error, a cancellation) no process is left behind.
    """

    def __init__(
        self, loaded: LoadedPlan, placing: Placing, *, seed: int, restart: bool, start_limit_s: float, on_event: OnEvent
    ) -> None:
        self._plan = loaded.plan
        self._workload = loaded.workload.workload
        self._placing = placing
        self._restart = restart
        self._start_limit_s = start_limit_s
        self._on_event = on_event
        self._topology = Topology.of(self._workload.pipeline)
        self._replicas: dict[ReplicaName, Replica] = {}
        self._slots: dict[ReplicaName, Slot] = {}
        self._restarts: Counter[ReplicaName] = Counter()
        self._restarting: set[asyncio.Task[None]] = set()
        self._kept = ExitStack()
        skips = {name: self._skip_code(option) for name, option in self._plan.options.items() if _skips(option)}
        classes = {name: traffic.routes for name, traffic in self._plan.classes.items()}
        routes = Routes({**classes, **row_routes(self._plan.selection)}, seed)
        self.router = Router(self._topology, routes, skips, Ways(self._plan.classes, seed), limits_s(self._plan))

    @property
    def ready(self) -> bool:
        """Whether every option has a replica that runs."""
        return all(pool.alive for pool in self.router.pools.values())

    def waiting(self, option: str) -> int | None:
        """Calls that wait at an option; None where no replica of it is left."""
        pool = self.router.pools[option]
        return len(pool) if pool.alive else None

    @property
    def pids(self) -> dict[str, int]:
        """Process ids by replica."""
        return {str(name): replica.pid for name, replica in self._replicas.items() if replica.pid is not None}

    async def __aenter__(self) -> Self:
        counts: Counter[str] = Counter()
        for slot in self._placing.slots:
            self._slots[ReplicaName(slot.option, counts[slot.option])] = slot
            counts[slot.option] += 1
        urgent = self._plan.by_deadline()
        for name, option in self._plan.options.items():
            if not _skips(option):
                limit = self._workload.pipeline.stages[option.stage].queue_limit
                self.router.pools[name] = OptionPool(
                    name, option.max_batch, option.max_queue_delay_s, self.router.deliver, limit,
                    (lambda journey: journey.deadline_s) if name in urgent else None,
                )  # fmt: skip
        try:
            async with asyncio.TaskGroup() as group:
                for replica_name in self._slots:
                    self.router.pools[replica_name.option].expect()
                    group.create_task(self._start(replica_name))
        except BaseExceptionGroup as errors:
            await self._stop()
            raise errors.exceptions[0] from None
        except BaseException:
            await self._stop()
            raise
        self._kept.enter_context(kept_to(self._placing.free))
        self._kept.enter_context(eventloop.busy_polling(self._placing.apart))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop()

    async def _start(self, name: ReplicaName) -> None:
        slot = self._slots[name]
        replica = Replica(name, self._assignment(slot), self._replied, self._ended)
        self._replicas[name] = replica
        try:
            await replica.start(self._start_limit_s)
        except BaseException:
            replica.kill()
            raise
        self.router.pools[name.option].add(replica)
        started = sum(one.load_s > 0 for one in self._replicas.values())
        self._on_event(ReplicaReady(str(name), replica.load_s, slot.cores, started, len(self._slots)))

    async def _start_again(self, name: ReplicaName) -> None:
        pool = self.router.pools[name.option]
        try:
            await asyncio.sleep(0.1 * 2 ** self._restarts[name])
            await self._start(name)
        except InferplanError as error:
            pool.crashes.append(error.message)
            pool.give_up()

    async def _stop(self) -> None:
        self._kept.close()
        for task in self._restarting:
            task.cancel()
        for pool in self.router.pools.values():
            pool.close()
        replicas = list(self._replicas.values())
        try:
            await asyncio.gather(*(replica.stop() for replica in replicas))
        finally:
            for replica in replicas:
                replica.kill()

    def _replied(self, replica: Replica, reply: Reply) -> None:
        self.router.pools[replica.name.option].replied(replica, reply)

    def _ended(self, replica: Replica, reason: str) -> None:
        name = replica.name
        pool = self.router.pools[name.option]
        again = self._restart and self._restarts[name] < MOST_RESTARTS
        if again:
            self._restarts[name] += 1
            pool.expect()
            task = asyncio.get_running_loop().create_task(self._start_again(name))
            self._restarting.add(task)
            task.add_done_callback(self._restarting.discard)
        self._on_event(ReplicaEnded(str(name), reason, again))
        pool.ended(replica, str(name), reason)

    def _assignment(self, slot: Slot) -> Assignment:
        option = self._plan.options[slot.option]
        stage = self._workload.pipeline.stages[option.stage]
        return Assignment(
            ExecutorSpec.of(self._workload.root, option.stage, stage, option.chosen),
            option.provider,
            max(1, option.threads),
            slot.cores,
            self._topology.joins(option.stage),
            bool(self._topology.following[option.stage]),
            os.getpid(),
            slot.gpu,
            option.max_batch,
            self._placing.apart,
        )

    def _skip_code(self, option: DeployedOption) -> StageAdapter:
        stage = self._workload.pipeline.stages[option.stage]
        params = stage.variants[option.variant].params
        chosen = option.chosen
        context = Context(self._workload.root, params, option.stage, chosen.variant, modalities=chosen.modalities)
        return stage_adapter(stage.code, context)


def limits_s(plan: Plan) -> dict[str, float]:
    """Within what time requests are promised their answer: by class, and by row of the table of choices, whose
    requests ask for no less than what the row keeps."""
    limits = {name: t.slo_latency_s for name, t in plan.classes.items() if t.slo_latency_s is not None}
    rows = plan.selection.rows if plan.selection else ()
    return limits | {row_key(index): row.latency_s.upper for index, row in enumerate(rows)}


def _skips(option: DeployedOption) -> bool:
    return option.runtime == "skip"
