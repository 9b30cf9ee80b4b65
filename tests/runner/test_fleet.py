"""Requests through real replicas give what a direct evaluation gives."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest

from inferplan.runner import eventloop
from inferplan.runner.cores import place_replicas
from inferplan.runner.events import ignore
from inferplan.runner.fleet import Fleet
from inferplan.runner.frames import dump
from inferplan.runner.pool import Failure
from inferplan.runner.requests import joined, pipeline_code
from inferplan.runner.router import Answers
from inferplan.spec.document import load_workload
from inferplan.spec.plan import Choice, LoadedPlan

Deploy = Callable[..., LoadedPlan]


def answers_of(loaded: LoadedPlan, requests: Sequence[Any], *, together: bool) -> list[Any]:
    """What a fleet answers, as joined by the pipeline's code; failures as they are."""
    adapter = pipeline_code(loaded.workload.workload)

    async def ask() -> list[Any]:
        placing = place_replicas(loaded, [0, 1], oversubscribe=True)
        async with Fleet(loaded, placing, seed=0, restart=False, start_limit_s=60, on_event=ignore) as fleet:
            loop = asyncio.get_running_loop()
            futures: list[asyncio.Future[Answers | Failure]] = [loop.create_future() for _ in requests]
            dones = [future.set_result for future in futures]
            if together:
                fleet.router.submit_all("web", [dump(request) for request in requests], dones)
            else:
                for request, done in zip(requests, dones, strict=True):
                    fleet.router.submit("web", dump(request), done)
                    await asyncio.sleep(0.002)
            async with asyncio.timeout(30):
                results = await asyncio.gather(*futures)
            assert fleet.router.under_way == 0
            return [
                result if isinstance(result, Failure) else joined(adapter, request, result)
                for request, result in zip(requests, results, strict=True)
            ]

    return eventloop.run(ask)


@pytest.mark.skipif(len(getattr(os, "sched_getaffinity", lambda _: ())(0)) < 2, reason="needs two cores")
def test_the_router_keeps_off_the_cores_of_replicas(deploy: Deploy) -> None:
    before = os.sched_getaffinity(0)
    loaded = deploy("scale")
    placing = place_replicas(loaded, sorted(before))

    async def look() -> set[int]:
        async with Fleet(loaded, placing, seed=0, restart=False, start_limit_s=60, on_event=ignore):
            return os.sched_getaffinity(0)

    during = eventloop.run(look)
    assert during == before - {core for slot in placing.slots for core in slot.cores}
    assert os.sched_getaffinity(0) == before


def directly(value: int, *, skip_tail: bool) -> list[float]:
    """The graph workload in one line: split doubles and cuts in value mod 4 items; twice + minus is the item
    again; tail doubles."""
    items = [2.0 * value + 100 * n for n in range(value % 4)]
    return [item if skip_tail else 2 * item for item in items]


@pytest.mark.parametrize("skip_tail", [False, True])
@pytest.mark.parametrize("together", [False, True])
def test_a_graph_with_fan_out_and_join(deploy: Deploy, skip_tail: bool, together: bool) -> None:
    loaded = deploy(
        "graph",
        variants={"tail": "none" if skip_tail else "only"},
        options={
            "twice": {"replicas": 2, "max_batch": 3},
            "minus": {"max_batch": 1},
            "add": {"max_queue_delay_s": 0.01},
        },
    )
    values = [int(value) for value in np.random.default_rng(5).integers(0, 50, 60)]
    answers = answers_of(loaded, [np.full(4, value, np.float32) for value in values], together=together)
    assert answers == [directly(value, skip_tail=skip_tail) for value in values]


@pytest.mark.parametrize("order", [None, "edf"])
def test_whose_turn_it_is(deploy: Deploy, order: str | None) -> None:
    """Requests of a class without a limit wait; those of one with a limit pass them where the plan says so."""
    loaded = deploy("scale", classes=("web", "slow"), options={"double": {"max_batch": 1, "order": order}})
    ended: list[str] = []

    async def ask() -> None:
        placing = place_replicas(loaded, [0, 1], oversubscribe=True)
        async with Fleet(loaded, placing, seed=0, restart=False, start_limit_s=60, on_event=ignore) as fleet:
            over = asyncio.get_running_loop().create_future()

            def done(name: str, _: Answers | Failure) -> None:
                ended.append(name)
                if len(ended) == 8:
                    over.set_result(None)

            for name, count in (("slow", 5), ("web", 3)):
                fleet.router.submit_all(name, [dump(1)] * count, [partial(done, name)] * count)
            async with asyncio.timeout(30):
                await over

    eventloop.run(ask)
    # The replica has the first one in hand when the others come.
    turns = ["slow", *["web"] * 3, *["slow"] * 4] if order else [*["slow"] * 5, *["web"] * 3]
    assert ended == turns


def test_shares_send_calls_to_several_options(deploy: Deploy) -> None:
    loaded = deploy("scale")
    half = loaded.plan.options["double-only"].model_copy(update={"max_batch": 1})
    routes = {"double": [Choice(option="double-only", share=0.25), Choice(option="other", share=0.75)]}
    [machines] = loaded.plan.machines.values()
    placement = machines.packing[0][0]
    plan = loaded.plan.model_copy(
        update={
            "options": {**loaded.plan.options, "other": half},
            "classes": {"web": loaded.plan.classes["web"].model_copy(update={"routes": routes})},
            "machines": {
                "edge/cpu": machines.model_copy(
                    update={"packing": [[placement, placement.model_copy(update={"option": "other"})]]}
                )
            },
        }
    )
    loaded = LoadedPlan(plan, loaded.path, loaded.workload)
    counts: dict[str, int] = {}

    async def ask() -> None:
        placing = place_replicas(loaded, [0, 1], oversubscribe=True)
        async with Fleet(loaded, placing, seed=1, restart=False, start_limit_s=60, on_event=ignore) as fleet:
            done = asyncio.Event()
            left = 400

            def finished(result: Answers | Failure) -> None:
                nonlocal left
                left -= 1
                if not left:
                    done.set()

            item = dump({"x": np.zeros(4, np.float32)})
            fleet.router.submit_all("web", [item] * left, [finished] * left)
            async with asyncio.timeout(30):
                await done.wait()
            counts.update({name: pool.stats.calls for name, pool in fleet.router.pools.items()})

    eventloop.run(ask)
    assert counts["double-only"] + counts["other"] == 400
    assert counts["other"] == pytest.approx(300, abs=45)


def test_failures_of_stage_code_name_the_option_and_the_reason(deploy: Deploy) -> None:
    requests = [{"x": np.full(4, value, np.float32)} for value in (1, -2, 3)]
    answers = answers_of(deploy("scale"), requests, together=True)
    assert answers[1] == Failure("code", "double-only: ValueError: poisoned")
    assert [float(answers[i]["y"][0]) for i in (0, 2)] == [2.0, 6.0]


def test_failures_of_a_skipped_stage_and_of_a_join(deploy: Deploy) -> None:
    plain = deploy("graph")
    code = (plain.path.parent / "stages.py").read_text()
    broken_skip = code.replace("return [float(item[0]) for item in inputs]", "raise KeyError('box')")
    loaded = deploy("graph", variants={"tail": "none"}, code=broken_skip)
    request = np.full(4, 5, np.float32)
    assert answers_of(loaded, [request], together=True) == [Failure("code", "tail-none: KeyError: 'box'")]
    uneven = code + "\nclass Uneven(Plain):\n    def route(self, item, prediction): return []\n"
    text = plain.workload.path.read_text()
    loaded = deploy("graph", code=uneven)
    loaded.workload.path.write_text(text.replace("minus: {code: stages:Plain", "minus: {code: stages:Uneven"))
    loaded = LoadedPlan(loaded.plan, loaded.path, load_workload(loaded.workload.path))
    [failure] = answers_of(loaded, [request], together=True)
    assert failure == Failure("code", "stage add joins items that do not match in number: 1 from twice, 0 from minus")
