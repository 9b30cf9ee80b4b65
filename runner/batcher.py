"""The one meaning of batching.

A queue per option. When a replica is free it takes up to `max_batch` waiting calls; if fewer wait, it takes
them once the oldest has waited `max_queue_delay_s`. A delay of 0 never waits. A queue says when a batch may leave it
by who came first, and who is in it by who came first or by whose deadline is earliest.

Pure logic on times that the caller passes in (seconds of any one clock), so the same code runs under a fake
clock in tests and under the event loop's clock in `inferplan.runner.pool`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from heapq import heappop, heappush
from typing import Generic, TypeVar

Item = TypeVar("Item")


WARMING_ROUNDS = 3
"""Batches of a size after which the next ones take as long as ever."""


def warming_sizes(largest: int) -> list[int]:
    """Every batch size: the largest, a half of it, a quarter, ..., and then the others."""
    halves = [largest >> step for step in range(largest.bit_length())]
    return [*halves, *(size for size in range(largest, 0, -1) if size not in halves)]


class Batcher(Generic[Item]):
    """First-in, first-out queue that says when a batch may leave it.

    Times passed to one batcher must not run backwards.
    """

    __slots__ = ("_waiting", "max_batch", "max_queue_delay_s")

    def __init__(self, max_batch: int, max_queue_delay_s: float) -> None:
        if max_batch < 1 or max_queue_delay_s < 0:
            raise ValueError(f"max_batch {max_batch} must be >= 1 and max_queue_delay_s {max_queue_delay_s} >= 0")
        self.max_batch = max_batch
        self.max_queue_delay_s = max_queue_delay_s
        self._waiting: deque[tuple[float, Item]] = deque()

    def __len__(self) -> int:
        """Calls waiting."""
        return len(self._waiting)

    def put(self, items: Iterable[Item], now: float) -> None:
        """Queue items that arrive together at `now`."""
        self._waiting.extend((now, item) for item in items)

    def due(self) -> float | None:
        """When a free replica may take a batch: a time already passed means at once, None means nothing waits."""
        if not self._waiting:
            return None
        arrived = self._waiting[0][0]
        return arrived if len(self._waiting) >= self.max_batch else arrived + self.max_queue_delay_s

    def take(self, now: float) -> list[tuple[float, Item]]:
        """What a replica that is free at `now` takes, oldest first, as (arrival, item); empty if it must wait."""
        due = self.due()
        if due is None or now < due:
            return []
        waiting = self._waiting
        return [waiting.popleft() for _ in range(min(self.max_batch, len(waiting)))]

    def drain(self) -> list[Item]:
        """Remove and return everything that waits."""
        items = [item for _, item in self._waiting]
        self._waiting.clear()
        return items


class DeadlineBatcher(Batcher[Item]):
    """The same with the earliest deadlines first; of equal ones, the items that came first.

    `deadline_s` tells an item's, on any one clock.
    """

    __slots__ = ("_came", "_deadline_s", "_urgent")

    def __init__(self, max_batch: int, max_queue_delay_s: float, deadline_s: Callable[[Item], float]) -> None:
        super().__init__(max_batch, max_queue_delay_s)
        self._deadline_s = deadline_s
        self._came = 0
        self._urgent: list[tuple[float, int, float, Item]] = []
        """A heap of (deadline, how many came before, arrival, item)."""

    def __len__(self) -> int:
        """Calls waiting."""
        return len(self._urgent)

    def put(self, items: Iterable[Item], now: float) -> None:
        """Queue items that arrive together at `now`."""
        for item in items:
            heappush(self._urgent, (self._deadline_s(item), self._came, now, item))
            self._came += 1

    def due(self) -> float | None:
        """When a free replica may take a batch: a time already passed means at once, None means nothing waits."""
        if not self._urgent:
            return None
        if len(self._urgent) >= self.max_batch:
            return self._urgent[0][2]
        return min(arrived for _, _, arrived, _ in self._urgent) + self.max_queue_delay_s

    def take(self, now: float) -> list[tuple[float, Item]]:
        """What a replica that is free at `now` takes, most urgent first, as (arrival, item); empty if it must wait."""
        due = self.due()
        if due is None or now < due:
            return []
        taken = [heappop(self._urgent) for _ in range(min(self.max_batch, len(self._urgent)))]
        return [(arrived, item) for _, _, arrived, item in taken]

    def drain(self) -> list[Item]:
        """Remove and return everything that waits."""
        items = [item for _, _, _, item in sorted(self._urgent, key=lambda entry: entry[:2])]
        self._urgent.clear()
        return items
