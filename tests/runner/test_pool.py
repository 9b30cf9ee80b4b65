"""A bounded queue sheds what finds it full, and what is shed fails at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from inferplan.runner.frames import Blob
from inferplan.runner.pipeline import Call
from inferplan.runner.pool import Failure, OptionPool, Outcome, Waiting


class Busy:
    """A replica that never answers."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def send(self, items: Sequence[Sequence[Blob]]) -> None:
        self.batches.append(len(items))


def calls(count: int) -> list[Waiting[int]]:
    return [Waiting(index, Call("s", (index,), (b"x",))) for index in range(count)]


def test_calls_beyond_the_limit_are_shed() -> None:
    async def run() -> tuple[list[int], list[Outcome[int]], int]:
        over: list[Outcome[int]] = []
        pool: OptionPool[int] = OptionPool("s-v", 2, 0.0, over.extend, 3)
        replica = Busy()
        pool.expect()
        pool.add(replica)
        # Three of five join the queue before the replica looks; it takes two, one waits; then there is room for two.
        pool.put(calls(5))
        pool.put(calls(3))
        waiting = len(pool)
        pool.close()
        return replica.batches, over, waiting

    batches, over, waiting = asyncio.run(run())
    assert (batches, waiting) == ([2], 3)
    shed: list[Any] = [waiting.request for waiting, _ in over]
    assert shed == [3, 4, 2]
    assert all(failure == Failure("shed", "the queue of s-v is full (3 calls)") for _, failure in over)
