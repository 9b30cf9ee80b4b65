"""Open-loop load generator: sends every request at its scheduled time, whatever became of the earlier ones.

Latency counts from the *scheduled* send time, so a stall of the system, or of the generator itself, shows in
the latencies of every request it held up (no coordinated omission). How late the generator was is recorded
beside it.
"""

from __future__ import annotations

import asyncio
from array import array
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from inferplan.runner.arrivals import Schedule
from inferplan.runner.events import OnEvent, RunProgress
from inferplan.runner.frames import Blob
from inferplan.runner.pool import Failure
from inferplan.runner.router import Answers, Done

LEAD_S = 0.05
PROGRESS_S = 0.5
BURST = 64
"""Most requests sent without letting replies in between, when the generator is behind."""

Submit = Callable[[str, Sequence[Blob], Sequence[Done]], None]
"""(class, requests that arrive together, what to call when each is done)"""
Finish = Callable[[int, Answers], Any]
"""(index of the example, predictions of the last stages) -> the answer. May raise: the request has failed."""


@dataclass(frozen=True, slots=True)
class Windows:
    """Parts of a run, in seconds: requests scheduled during warm-up are sent and not counted."""

    warmup_s: float
    duration_s: float
    drain_s: float


@dataclass(frozen=True, slots=True)
class Load:
    """What became of the measured requests of one class, in order of their scheduled times.

    `scheduled_s` counts from the start of measuring. `latency_s` is inf for requests that failed or were
    unfinished when draining ended; `lateness_s` how long after its time a request was really sent.
    `answers[i]` is the first answer to example i.
    """

    scheduled_s: NDArray[np.float64]
    latency_s: NDArray[np.float64]
    lateness_s: NDArray[np.float64]
    completed_in_window: int
    failed: int
    unfinished: int
    reasons: Mapping[str, int]
    answers: Mapping[int, Any]


class LoadGenerator:
    """Drives one schedule. `blobs` are the examples, cycled through per class in the order given."""

    def __init__(
        self,
        schedule: Schedule,
        windows: Windows,
        blobs: list[bytes],
        submit: Submit,
        finish: Finish,
        on_event: OnEvent,
    ) -> None:
        count = len(schedule.times_s)
        self._names = schedule.names
        self._times: list[float] = schedule.times_s.tolist()
        self._streams: list[int] = schedule.streams.tolist()
        self._windows = windows
        self._blobs = blobs
        self._submit = submit
        self._finish = finish
        self._on_event = on_event
        self._latency_s = array("d", [np.inf]) * count
        self._lateness_s = array("d", [0.0]) * count
        self._failed = bytearray(count)
        self._example = self._cycled(count)
        self._answers: list[dict[int, Any]] = [{} for _ in self._names]
        self._reasons: list[Counter[str]] = [Counter() for _ in self._names]
        self._next = 0
        self._completed = 0
        self._start = 0.0
        self._over = False

    async def run(self, on_window: Callable[[Literal["start", "end"]], None]) -> None:
        """Send everything, then wait for what is under way, at most `drain_s`. `on_window` is called when
        measuring starts and when it ends."""
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._finished: asyncio.Future[None] = loop.create_future()
        self._start = loop.time() + LEAD_S
        windows = self._windows
        end = self._start + windows.warmup_s + windows.duration_s
        timers = [
            loop.call_at(self._start + windows.warmup_s, on_window, "start"),
            loop.call_at(self._start, self._report),
        ]
        loop.call_soon(self._tick)
        try:
            await asyncio.sleep(end - loop.time())
            on_window("end")
            if self._next < len(self._times) or self._pending():
                await asyncio.wait([self._finished], timeout=windows.drain_s)
        finally:
            self._over = True
            for timer in timers:
                timer.cancel()

    def load(self, stream: int) -> Load:
        """The measured requests of the class `names[stream]`."""
        times = np.asarray(self._times)
        chosen = (np.asarray(self._streams) == stream) & (times >= self._windows.warmup_s)
        latency = np.asarray(self._latency_s)[chosen]
        failed = np.frombuffer(self._failed, np.uint8)[chosen] == 1
        scheduled = times[chosen] - self._windows.warmup_s
        everything = np.asarray(self._streams) == stream
        done_at = times[everything] + np.asarray(self._latency_s)[everything] - self._windows.warmup_s
        return Load(
            scheduled,
            latency,
            np.asarray(self._lateness_s)[chosen],
            int(np.count_nonzero((done_at >= 0) & (done_at < self._windows.duration_s))),
            int(failed.sum()),
            int(np.count_nonzero(np.isinf(latency) & ~failed)),
            dict(self._reasons[stream]),
            self._answers[stream],
        )

    def _cycled(self, count: int) -> list[int]:
        seen = [0] * len(self._names)
        example = [0] * count
        for index, stream in enumerate(self._streams):
            example[index] = seen[stream] % len(self._blobs)
            seen[stream] += 1
        return example

    def _tick(self) -> None:
        loop, times = self._loop, self._times
        if self._over:
            return
        for _ in range(BURST):
            if self._next == len(times):
                return
            due = self._start + times[self._next]
            now = loop.time()
            if due > now:
                loop.call_at(due, self._tick)
                return
            first, stream = self._next, self._streams[self._next]
            while self._next < len(times) and times[self._next] == times[first] and self._streams[self._next] == stream:
                self._lateness_s[self._next] = now - due
                self._next += 1
            together = range(first, self._next)
            blobs = [self._blobs[self._example[index]] for index in together]
            self._submit(self._names[stream], blobs, [partial(self._done, index) for index in together])
        loop.call_soon(self._tick)

    def _done(self, index: int, result: Answers | Failure) -> None:
        if self._over:
            return
        stream, now = self._streams[index], self._loop.time()
        measured = self._times[index] >= self._windows.warmup_s
        if not isinstance(result, Failure):
            try:
                answer = self._finish(self._example[index], result)
            except Exception as error:
                result = Failure("code", f"joining the answer: {type(error).__name__}: {error}")
            else:
                # It was there before it was taken apart.
                self._latency_s[index] = now - self._start - self._times[index]
                if measured:
                    self._answers[stream].setdefault(self._example[index], answer)
        if isinstance(result, Failure):
            self._failed[index] = 1
            if measured:
                self._reasons[stream][result.reason] += 1
        self._completed += 1
        if self._next == len(self._times) and not self._pending() and not self._finished.done():
            self._finished.set_result(None)

    def _pending(self) -> int:
        return self._next - self._completed

    def _report(self) -> None:
        if self._over:
            return
        windows = self._windows
        at = self._loop.time() - self._start
        end = windows.warmup_s + windows.duration_s
        failed = sum(sum(reasons.values()) for reasons in self._reasons)
        phase: Literal["warm-up", "measuring", "draining"]
        phase = "warm-up" if at < windows.warmup_s else "measuring" if at < end else "draining"
        left_s = end - at if at < end else max(0.0, end + windows.drain_s - at)
        self._on_event(RunProgress(phase, left_s, self._next, self._completed - failed, failed))
        self._loop.call_later(PROGRESS_S, self._report)
