"""Warming up: every batch size, on every replica, a few times, within the time there is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest

from inferplan.runner.batcher import WARMING_ROUNDS
from inferplan.runner.frames import Blob
from inferplan.runner.pool import Failure
from inferplan.runner.router import Done
from inferplan.runner.warmup import warm_up
from inferplan.spec.plan import LoadedPlan

Deploy = Callable[..., LoadedPlan]


class System:
    """Answers every request after a while; each as a failure where `fails`; or never."""

    def __init__(self, delay_s: float | None = 0.0, *, fails: bool = False) -> None:
        self.batches: list[tuple[str, list[bytes]]] = []
        self._delay_s, self._fails = delay_s, fails

    def submit_all(self, traffic: str, items: Sequence[Blob], dones: Sequence[Done]) -> None:
        self.batches.append((traffic, [bytes(item) for item in items]))
        for done in dones if self._delay_s is not None else ():
            answer = Failure("code", "no") if self._fails else {}
            asyncio.get_running_loop().call_later(self._delay_s, done, answer)


@pytest.mark.parametrize("fails", [False, True])
def test_every_size_is_served_a_few_times_by_every_replica(deploy: Deploy, fails: bool) -> None:
    plan = deploy("scale").plan
    option = plan.options["double-only"].model_copy(update={"max_batch": 3, "replicas": 2})
    plan = plan.model_copy(update={"options": {"double-only": option}})
    system = System(fails=fails)
    asyncio.run(warm_up(system, plan, [b"x", b"y"], 5.0))
    (name,) = plan.classes
    assert system.batches == [
        (name, items)
        for items in ([b"x", b"y", b"x"], [b"x"], [b"x", b"y"])
        for _ in range(WARMING_ROUNDS)
        for _ in range(option.replicas)
    ]


def test_it_ends_with_the_time_it_was_given(deploy: Deploy) -> None:
    plan = deploy("scale").plan
    none, slow = System(), System(None)
    asyncio.run(warm_up(none, plan, [b"x"], 0.0))
    asyncio.run(asyncio.wait_for(warm_up(slow, plan, [b"x"], 0.05), 5.0))
    assert none.batches == []
    assert len(slow.batches) == plan.options["double-only"].replicas
