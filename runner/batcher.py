"""The one meaning of batching.

A queue per option. When a replica is free it takes up to `max_batch` waiting calls; if fewer wait, it takes
them once the oldest has waited `max_queue_delay_s`. A delay of 0 never waits.

Pure logic on times that the caller passes in (seconds of any one clock), so the same code runs under a fake
clock in tests and under the event loop's clock in `inferplan.runner.pool`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Generic, TypeVar

Item = TypeVar("Item")


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
