"""The queue of one option and the replicas that serve it."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, Protocol, TypeVar

from inferplan.runner.batcher import Batcher, DeadlineBatcher
from inferplan.runner.frames import Blob, Reply
from inferplan.runner.pipeline import Call
from inferplan.runner.stalls import Watched

Request = TypeVar("Request")


class Backend(Protocol):
    """What a pool needs of a replica."""

    def send(self, items: Sequence[Sequence[Blob]]) -> None:
        """Give it a batch."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a request got no answer. `code`: its stage code or model failed on it; `replica`: the replica that
    held it ended; `unavailable`: no replica is left to serve it; `shed`: it found a queue full."""

    kind: str
    reason: str


class Waiting(NamedTuple, Generic[Request]):
    """A call in a queue, and the request it belongs to."""

    request: Request
    call: Call[Blob]


Outcome = tuple[Waiting[Request], Sequence[Blob] | Failure]
"""What a call sent on, or why it failed."""

Deliver = Callable[[Sequence[Outcome[Request]]], None]
"""Called with the calls that are over, those of one batch together."""


@dataclass(slots=True)
class PoolStats:
    """Sums over the batches of one option. Times in seconds.

    `occupied_s` is the time replicas were taken, from sending a batch to having its reply; `busy_s` what the
    replicas themselves needed; `service_s` of that, pre-processing, inference and post-processing. `watched` is what
    they saw of stalls while they polled.
    """

    batch_sizes: Counter[int] = field(default_factory=Counter)
    calls: int = 0
    waited_s: float = 0.0
    occupied_s: float = 0.0
    busy_s: float = 0.0
    service_s: float = 0.0
    failures: int = 0
    watched: Watched = field(default_factory=Watched)


class OptionPool(Generic[Request]):
    """Batches calls to the replicas of one option by the rule of `Batcher`, on the event loop's clock.

    `queue_limit` is the most calls that may wait; None: any number. `deadline_s` tells until when a request was
    promised its answer, where the earliest deadlines go first; None: first come, first served.
    """

    def __init__(
        self,
        name: str,
        max_batch: int,
        max_queue_delay_s: float,
        deliver: Deliver[Request],
        queue_limit: int | None = None,
        deadline_s: Callable[[Request], float] | None = None,
    ) -> None:
        self.name = name
        self._queue_limit = queue_limit
        self.stats = PoolStats()
        self.crashes: list[str] = []
        self._loop = asyncio.get_running_loop()
        self._batcher: Batcher[Waiting[Request]] = (
            Batcher(max_batch, max_queue_delay_s)
            if deadline_s is None
            else DeadlineBatcher(max_batch, max_queue_delay_s, lambda waiting: deadline_s(waiting.request))
        )
        self._deliver = deliver
        self._free: deque[Backend] = deque()
        self._working: dict[Backend, tuple[float, list[tuple[float, Waiting[Request]]]]] = {}
        self._expected = 0
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """Calls waiting."""
        return len(self._batcher)

    @property
    def alive(self) -> bool:
        """Whether a replica is there, free or working."""
        return bool(self._free or self._working)

    def expect(self) -> None:
        """A replica is starting: calls may wait for it."""
        self._expected += 1

    def give_up(self) -> None:
        """A replica that was expected will not come."""
        self._expected -= 1
        self._fail_if_abandoned()

    def add(self, replica: Backend) -> None:
        """An expected replica is ready."""
        self._expected -= 1
        self._free.append(replica)
        self._dispatch()

    def put(self, calls: list[Waiting[Request]]) -> None:
        """Queue calls that became ready together."""
        if not (self._free or self._working or self._expected):
            self._fail(calls, Failure("unavailable", f"no replica of {self.name} is left"))
            return
        shed: list[Waiting[Request]] = []
        if self._queue_limit is not None:
            room = max(self._queue_limit - len(self._batcher), 0)
            calls, shed = calls[:room], calls[room:]
        self._batcher.put(calls, self._loop.time())
        if self._free:
            self._dispatch()
        if shed:
            self._fail(shed, Failure("shed", f"the queue of {self.name} is full ({self._queue_limit} calls)"))

    def replied(self, replica: Backend, reply: Reply) -> None:
        """A replica has answered its batch and is free."""
        now = self._loop.time()
        sent, batch = self._working.pop(replica)
        self._free.append(replica)
        stats = self.stats
        stats.batch_sizes[len(batch)] += 1
        stats.calls += len(batch)
        stats.waited_s += sum(sent - arrived for arrived, _ in batch)
        stats.occupied_s += now - sent
        stats.busy_s += reply.busy_s
        stats.service_s += reply.pre_s + reply.infer_s + reply.post_s
        self._dispatch()  # first: the replica works while the outputs are handed on
        stats.watched.add(reply.watched_s, reply.stalls_s)
        outcomes: list[Outcome[Request]] = []
        for (_, waiting), output in zip(batch, reply.outputs, strict=True):
            if isinstance(output, str):
                stats.failures += 1
                outcomes.append((waiting, Failure("code", f"{self.name}: {output}")))
            else:
                outcomes.append((waiting, output))
        self._deliver(outcomes)

    def ended(self, replica: Backend, who: str, reason: str) -> None:
        """A replica is gone, and what it was working on with it."""
        self.crashes.append(f"{who} {reason}")
        if replica in self._free:
            self._free.remove(replica)
        _, batch = self._working.pop(replica, (0.0, []))
        self._fail([waiting for _, waiting in batch], Failure("replica", f"replica {who} {reason} with it in hand"))
        self._fail_if_abandoned()

    def close(self) -> None:
        """Forget what waits; no timer fires afterwards."""
        self._batcher.drain()
        if self._timer is not None:
            self._timer.cancel()

    def _dispatch(self) -> None:
        now = self._loop.time()
        while self._free:
            batch = self._batcher.take(now)
            if not batch:
                due = self._batcher.due()
                if due is not None and self._timer is None:
                    self._timer = self._loop.call_at(due, self._wake)
                return
            replica = self._free.popleft()
            self._working[replica] = (now, batch)
            replica.send([waiting.call.parts for _, waiting in batch])

    def _wake(self) -> None:
        self._timer = None
        self._dispatch()

    def _fail(self, calls: Sequence[Waiting[Request]], failure: Failure) -> None:
        self.stats.failures += len(calls)
        self._deliver([(waiting, failure) for waiting in calls])

    def _fail_if_abandoned(self) -> None:
        if not (self._free or self._working or self._expected):
            self._fail(self._batcher.drain(), Failure("unavailable", f"no replica of {self.name} is left"))
