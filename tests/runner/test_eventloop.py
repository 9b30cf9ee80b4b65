"""The precise event loop keeps time, and lets an interrupt end what runs in it."""

from __future__ import annotations

import asyncio
import ctypes
import itertools
import os
import select
import signal
import sys

import pytest

from inferplan.runner import eventloop
from inferplan.runner.cores import BUSY_POLL_S


def test_timers_are_never_early_and_fire_in_order() -> None:
    async def main() -> list[tuple[float, float]]:
        loop = asyncio.get_running_loop()
        fired: list[tuple[float, float]] = []

        def note(due: float) -> None:
            fired.append((due, loop.time()))

        start = loop.time()
        for delay in (0.0031, 0.0004, 0.0, 0.0017):
            due = start + delay
            loop.call_at(due, note, due)
        await asyncio.sleep(0.02)
        return fired

    fired = eventloop.run(main)
    assert [due for due, _ in fired] == sorted(due for due, _ in fired)
    assert len(fired) == 4
    assert all(at >= due - 1e-6 for due, at in fired)


@pytest.mark.skipif(sys.platform != "linux", reason="precise waiting is built on epoll")
def test_waits_are_not_rounded_up_to_milliseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The selector asks the system for the time it was given; plain epoll would ask for a whole millisecond."""
    asked: list[float] = []
    original = select.select

    def spy(reading: list[int], writing: list[int], failing: list[int], timeout: float) -> object:
        asked.append(timeout)
        return original(reading, writing, failing, timeout)

    monkeypatch.setattr(select, "select", spy)
    with eventloop.PreciseSelector() as selector:
        selector.select(0.0002)
        selector.select(0.0041)
    assert asked == [0.0002]  # the longer wait is epoll's, and ends early: the loop asks again for the rest


@pytest.mark.skipif(sys.platform != "linux", reason="precise waiting is built on epoll")
def test_a_loop_that_polls_sleeps_in_the_middle_of_long_waits_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short waits never ask the system for time; long ones ask for what is left between polling first and last."""
    asked: list[float | None] = []
    original = eventloop.selectors.EpollSelector.select

    def spy(selector: eventloop.selectors.EpollSelector, timeout: float | None = None) -> object:
        asked.append(timeout)
        return original(selector, timeout)

    monkeypatch.setattr(eventloop.selectors.EpollSelector, "select", spy)
    reading, writing = os.pipe()
    with eventloop.PreciseSelector() as selector:
        selector.polls = True
        selector.select(0.003)
        assert set(asked) == {0}
        assert selector.watched.watched_s >= 0.003
        selector.select(0.03)
        assert [round(time, 6) for time in asked if time] == [0.03 - 2 * BUSY_POLL_S - eventloop.COARSE_S]
        # What is ready ends it, whether it polls or sleeps.
        selector.register(reading, eventloop.selectors.EVENT_READ)
        os.write(writing, b"x")
        for timeout in (0, 0.003, 5.0, None):
            assert [key.fd for key, _ in selector.select(timeout)] == [reading]
    os.close(reading)
    os.close(writing)


@pytest.mark.skipif(sys.platform != "linux", reason="precise waiting is built on epoll")
def test_a_loop_that_polls_sees_when_it_is_left_standing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that leaps ahead twice while it polls: those are the stalls, and nothing else is."""
    clock = itertools.accumulate(itertools.chain([0.0, 1e-5, 1e-5, 4e-4, 1e-5, 9e-4], itertools.repeat(1e-5)))
    monkeypatch.setattr(eventloop, "perf_counter", lambda: next(clock))
    with eventloop.PreciseSelector() as selector:
        selector.polls = True
        selector.select(0.002)
        watched = selector.watched
    assert (watched.count, list(watched.lengths_s)) == (2, pytest.approx([4e-4, 9e-4]))
    assert watched.stood_s == pytest.approx(1.3e-3)
    assert watched.watched_s == pytest.approx(0.002, abs=1e-5)
    assert selector.polled_s == pytest.approx(0.002 - 1.3e-3, abs=1e-5)


@pytest.mark.skipif(sys.platform != "linux", reason="precise waiting is built on epoll")
def test_polling_lasts_for_as_long_as_asked_and_keeps_time() -> None:
    async def main() -> tuple[float, float, float]:
        loop = asyncio.get_running_loop()
        with eventloop.busy_polling(True):
            start = loop.time()
            await asyncio.sleep(0.003)
            took, polled = loop.time() - start, eventloop.polled_s()
        await asyncio.sleep(0.003)
        return took, polled, eventloop.polled_s()

    took, polled, afterwards = eventloop.run(main)
    assert took >= 0.003 - 1e-6
    assert 0 < polled <= took
    assert afterwards == polled


@pytest.mark.skipif(sys.platform != "linux", reason="timer slack is Linux's")
def test_timers_are_not_late_on_purpose() -> None:
    async def slack_ns() -> int:
        get_timer_slack = 30
        return int(ctypes.CDLL(None).prctl(get_timer_slack, 0, 0, 0, 0))

    assert eventloop.run(slack_ns) == 1


def test_ctrl_c_cancels_and_cleans_up() -> None:
    cleaned: list[bool] = []

    async def main() -> None:
        asyncio.get_running_loop().call_later(0.05, os.kill, os.getpid(), signal.SIGINT)
        try:
            await asyncio.sleep(20)
        finally:
            await asyncio.sleep(0)
            cleaned.append(True)

    with pytest.raises(KeyboardInterrupt):
        eventloop.run(main)
    assert cleaned == [True]
