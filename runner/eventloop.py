"""The event loop of the runner: asyncio with timers that are exact to tens of microseconds.

asyncio rounds every wait up to a whole millisecond, because `epoll_wait` takes milliseconds. Queue delays and
send times of a millisecond or two would be late by as much again, so the end of a wait is done by `select` on the
epoll descriptor, which takes microseconds, at the price of one more system call. Linux lets timers be late by another
50 microseconds, so that some of them coincide; that is turned off for the thread that runs the loop.

A thread that has a core of its own may also wait without letting it halt (`busy_polling`).
"""

from __future__ import annotations

import asyncio
import selectors
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any, TypeVar

from inferplan.runner.cores import BUSY_POLL_S
from inferplan.runner.stalls import STALL_S, Watched

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
        """An epoll selector whose time-outs are not rounded up to milliseconds. A long wait may end early.

        While `polls`, it sleeps only in the middle of waits of more than twice `BUSY_POLL_S`. `polled_s` is the time
        (s) that its core has spent asking in vain; `watched` adds up that and the stalls meanwhile.
        """

        def __init__(self) -> None:
            super().__init__()
            self.polls = False
            self.polled_s = 0.0
            self.watched = Watched()

        def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            """Ready descriptors; waits at most `timeout` seconds (None: without limit)."""
            if timeout is not None and timeout <= 0:
                return super().select(timeout)
            if not self.polls:
                return self._asleep(timeout)
            long = timeout is None or timeout > 2 * BUSY_POLL_S
            ready = self._polled(BUSY_POLL_S if long or timeout is None else timeout)
            if ready or not long:
                return ready
            return self._asleep(timeout if timeout is None else timeout - 2 * BUSY_POLL_S)

        def _asleep(self, timeout: float | None) -> list[tuple[selectors.SelectorKey, int]]:
            if timeout is None:
                return super().select()
            if timeout > COARSE_S:
                return super().select(timeout - COARSE_S)  # the event loop waits again for what is left
            select.select([self.fileno()], [], [], timeout)
            return super().select(0)

        def _polled(self, most_s: float) -> list[tuple[selectors.SelectorKey, int]]:
            begun = now = perf_counter()
            stalls: list[float] = []
            ready = super().select(0)
            while not ready and now < begun + most_s:
                before = now
                ready = super().select(0)
                now = perf_counter()
                if now - before > STALL_S:
                    stalls.append(now - before)
            self.polled_s += now - begun - sum(stalls)
            self.watched.add(now - begun, stalls)
            return ready

    class PreciseLoop(asyncio.SelectorEventLoop):
        """An event loop upon a precise selector."""

        def __init__(self, selector: PreciseSelector) -> None:
            super().__init__(selector)
            self.selector = selector

    def new_event_loop() -> asyncio.AbstractEventLoop:
        """A fresh event loop with precise timers, for this thread."""
        ctypes.CDLL(None).prctl(SET_TIMER_SLACK, 1, 0, 0, 0)  # a nanosecond: the least there is
        selector = PreciseSelector()
        if selector.fileno() < LARGEST_SELECTABLE:
            return PreciseLoop(selector)
        selector.close()
        return asyncio.SelectorEventLoop()

    @contextmanager
    def busy_polling(polls: bool) -> Iterator[None]:
        """Where `polls`, this thread's loop waits without letting its core halt meanwhile."""
        loop = asyncio.get_running_loop()
        if not isinstance(loop, PreciseLoop):
            yield
            return
        before, loop.selector.polls = loop.selector.polls, polls
        try:
            yield
        finally:
            loop.selector.polls = before

    def polled_s() -> float:
        """For how long (s) this thread's loop has polled in vain so far."""
        loop = asyncio.get_running_loop()
        return loop.selector.polled_s if isinstance(loop, PreciseLoop) else 0.0

    def watch() -> Watched:
        """What this thread's loop sees of stalls from now on, while it polls, until the next call."""
        loop = asyncio.get_running_loop()
        found = Watched()
        if isinstance(loop, PreciseLoop):
            loop.selector.watched = found
        return found

else:

    def new_event_loop() -> asyncio.AbstractEventLoop:
        """A fresh event loop."""
        return asyncio.new_event_loop()

    @contextmanager
    def busy_polling(polls: bool) -> Iterator[None]:
        """This loop never polls."""
        yield

    def polled_s() -> float:
        """Never."""
        return 0.0

    def watch() -> Watched:
        """It sees nothing."""
        return Watched()


def run(main: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
    """Run a coroutine to its end in a precise loop; Ctrl-C cancels it and raises KeyboardInterrupt."""
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(main())
