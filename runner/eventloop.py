"""The event loop of the runner: asyncio with timers that are exact to tens of microseconds.

asyncio rounds every wait up to a whole millisecond, because `epoll_wait` takes milliseconds. Queue delays and
send times of a millisecond or two would be late by as much again, so the end of a wait is done by `select` on the
epoll descriptor, which takes microseconds, at the price of one more system call. Linux lets timers be late by another
50 microseconds, so that some of them coincide; that is turned off for the thread that runs the loop.
"""

from __future__ import annotations

import asyncio
import selectors
import sys
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")

if sys.platform == "linux":
    import ctypes
    import select

    SET_TIMER_SLACK = 29
    """PR_SET_TIMERSLACK of <linux/prctl.h>."""

    COARSE_S = 0.002
    """The end of a longer wait that is waited for precisely; the rest costs no second system call."""
    LARGEST_SELECTABLE = 1024
    """select() watches descriptors below this number only."""

    class PreciseSelector(selectors.EpollSelector):
        """An epoll selector whose time-outs are not rounded up to milliseconds. A long wait may end early."""

        def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            """Ready descriptors; waits at most `timeout` seconds (None: without limit)."""
            if timeout is None or timeout <= 0:
                return super().select(timeout)
            if timeout > COARSE_S:
                return super().select(timeout - COARSE_S)  # the event loop waits again for what is left
            select.select([self.fileno()], [], [], timeout)
            return super().select(0)

    def new_event_loop() -> asyncio.AbstractEventLoop:
        """A fresh event loop with precise timers, for this thread."""
        ctypes.CDLL(None).prctl(SET_TIMER_SLACK, 1, 0, 0, 0)  # a nanosecond: the least there is
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
