"""The event loop of the runner: asyncio with timers that are exact to tens of microseconds.

asyncio rounds every wait up to a whole millisecond, because `epoll_wait` takes milliseconds. Queue delays and
send times of a millisecond or two would be late by as much again, so the wait is done by `select` on the
epoll descriptor, which takes microseconds, at the price of one more system call per timed wait.
"""

from __future__ import annotations

import asyncio
import selectors
import sys
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")

if sys.platform == "linux":
    import select

    LARGEST_SELECTABLE = 1024
    """select() watches descriptors below this number only."""

    class PreciseSelector(selectors.EpollSelector):
        """An epoll selector whose time-outs are not rounded up to milliseconds."""

        def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            """Ready descriptors; waits at most `timeout` seconds (None: without limit)."""
            if timeout is not None and timeout > 0:
                select.select([self.fileno()], [], [], timeout)
                timeout = 0
            return super().select(timeout)

    def new_event_loop() -> asyncio.AbstractEventLoop:
        """A fresh event loop with precise timers."""
        selector = PreciseSelector()
        if selector.fileno() < LARGEST_SELECTABLE:
            return asyncio.SelectorEventLoop(selector)
        selector.close()
        return asyncio.SelectorEventLoop()

else:

    def new_event_loop() -> asyncio.AbstractEventLoop:
        """A fresh event loop."""
        return asyncio.new_event_loop()


def run(main: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
    """Run a coroutine to its end in a precise loop; Ctrl-C cancels it and raises KeyboardInterrupt."""
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(main())
