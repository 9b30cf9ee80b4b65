"""The load generator on its own: what it sends when, and what it makes of the answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pytest

from inferplan.runner import eventloop
from inferplan.runner.arrivals import Schedule
from inferplan.runner.events import Event, RunProgress
from inferplan.runner.frames import Blob
from inferplan.runner.loadgen import Load, LoadGenerator, Windows
from inferplan.runner.pool import Failure
from inferplan.runner.router import Answers, Done


class System:
    """Answers after `delay_s`; request number `blocks_at` stops the whole event loop for `blocks_s` first."""

    def __init__(self, delay_s: float = 0.0, blocks_at: int = -1, blocks_s: float = 0.0) -> None:
        self.sent: list[tuple[str, bytes]] = []
        self.together: list[int] = []
        self._delay_s, self._blocks_at, self._blocks_s = delay_s, blocks_at, blocks_s

    def submit_all(self, traffic: str, items: Sequence[Blob], dones: Sequence[Done]) -> None:
        self.together.append(len(items))
        for item, done in zip(items, dones, strict=True):
            self._submit(traffic, item, done)

    def _submit(self, traffic: str, item: Blob, done: Done) -> None:
        self.sent.append((traffic, bytes(item)))
        if len(self.sent) - 1 == self._blocks_at:
            time.sleep(self._blocks_s)
        result: Answers | Failure = Failure("code", "bad item") if item == b"bad" else {"last": [item]}
        asyncio.get_running_loop().call_later(self._delay_s, done, result)


def drive(
    system: System, times: list[float], streams: list[int], windows: Windows, blobs: list[bytes], events: list[Event]
) -> list[Load]:
    schedule = Schedule(("a", "b"), np.array(times), np.array(streams, np.int32))

    def finish(index: int, answers: Answers) -> Any:
        if blobs[index] == b"unjoinable":
            raise KeyError("no box")
        if blobs[index] == b"knotted":
            time.sleep(0.2)
        return f"{index}:{bytes(answers['last'][0]).decode()}"

    edges: list[str] = []

    async def main() -> list[Load]:
        generator = LoadGenerator(schedule, windows, blobs, system.submit_all, finish, events.append)

        def on_window(edge: Literal["start", "end"]) -> None:
            edges.append(edge)

        await generator.run(on_window)
        return [generator.load(0), generator.load(1)]

    loads = eventloop.run(main)
    assert edges == ["start", "end"]
    return loads


def test_requests_cycle_through_the_examples_per_class_and_warm_up_is_not_counted() -> None:
    system = System()
    times = [0.01, 0.02, 0.03, 0.11, 0.12, 0.13, 0.14]
    a, b = drive(system, times, [0, 1, 0, 0, 1, 0, 0], Windows(0.1, 0.1, 1.0), [b"x", b"bad", b"z"], [])
    assert system.sent == [
        ("a", b"x"), ("b", b"x"), ("a", b"bad"), ("a", b"z"), ("b", b"bad"), ("a", b"x"), ("a", b"bad"),
    ]  # fmt: skip
    assert (len(a.latency_s), a.failed, a.unfinished) == (3, 1, 0)
    assert a.reasons == b.reasons == {"bad item": 1}
    assert a.answers == {2: "2:z", 0: "0:x"}
    np.testing.assert_allclose(a.scheduled_s, [0.01, 0.03, 0.04])
    assert np.isinf(a.latency_s).tolist() == [False, False, True]
    assert a.completed_in_window == 2


def test_requests_of_one_instant_and_class_are_sent_together() -> None:
    system = System()
    a, b = drive(system, [0.01, 0.01, 0.01, 0.02], [0, 0, 1, 0], Windows(0.0, 0.05, 1.0), [b"x"], [])
    assert system.together == [2, 1, 1]
    assert (len(a.latency_s), len(b.latency_s)) == (3, 1)


def test_latency_counts_from_the_scheduled_time() -> None:
    """The loop stops for 0.3 s at the first of ten requests: the nine behind it are sent late, and it shows."""
    times = [0.1 + 0.02 * i for i in range(10)]
    a, _ = drive(System(blocks_at=0, blocks_s=0.3), times, [0] * 10, Windows(0.0, 0.4, 1.0), [b"x"], [])
    waited = 0.3 - 0.02 * np.arange(1, 10)
    assert (a.latency_s[1:] >= waited - 0.01).all()
    assert (a.lateness_s[1:] >= waited - 0.01).all()


def test_an_answer_was_there_before_it_was_taken_apart() -> None:
    a, _ = drive(System(), [0.01, 0.05], [0, 0], Windows(0.0, 0.1, 1.0), [b"knotted", b"x"], [])
    assert a.latency_s[0] < 0.1
    assert a.latency_s[1] > 0.1  # it waited for that


def test_draining_waits_for_what_is_under_way_and_no_longer() -> None:
    patient, _ = drive(System(delay_s=0.2), [0.05], [0], Windows(0.0, 0.1, 5.0), [b"x"], [])
    assert (patient.unfinished, patient.completed_in_window) == (0, 0)
    events: list[Event] = []
    hasty, _ = drive(System(delay_s=60), [0.05], [0], Windows(0.0, 0.1, 0.1), [b"x"], events)
    assert (hasty.unfinished, hasty.failed) == (1, 0)
    assert np.isinf(hasty.latency_s[0])
    first = events[0]
    assert isinstance(first, RunProgress)
    assert first.phase == "measuring"
    assert first.left_s == pytest.approx(0.1, abs=0.05)


def test_an_answer_that_cannot_be_joined_is_a_failure() -> None:
    a, b = drive(System(), [0.01], [0], Windows(0.0, 0.05, 1.0), [b"unjoinable"], [])
    assert a.failed == 1
    assert a.reasons == {"joining the answer: KeyError: 'no box'": 1}
    assert len(b.latency_s) == 0
