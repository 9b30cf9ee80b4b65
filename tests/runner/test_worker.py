"""A replica's process warms its model up before it is ready."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import pytest

from inferplan.profilers.runtimes.executor import Executor, ExecutorSpec
from inferplan.runner import worker
from inferplan.runner.batcher import WARMING_ROUNDS
from inferplan.spec.errors import InputError
from inferplan.spec.plan import LoadedPlan

Deploy = Callable[..., LoadedPlan]


class Model:
    """An executor that notes what it runs; it takes one batch size only, or has no inputs that can be made up."""

    def __init__(self, fixed_batch: int | None = None, *, refuses: bool = False) -> None:
        self.fixed_batch, self.refuses = fixed_batch, refuses
        self.ran: list[int] = []

    def run_made_up(self, batch: int) -> None:
        if self.refuses:
            raise InputError("a free dimension without a value")
        self.ran.append(batch)


@pytest.mark.parametrize(("fixed", "sizes"), [(None, [3, 1, 2]), (5, [5])])
def test_every_batch_size_is_run_a_few_times(fixed: int | None, sizes: list[int]) -> None:
    model = Model(fixed)
    worker.warm_up(cast(Executor, model), 3)
    assert model.ran == [size for size in sizes for _ in range(WARMING_ROUNDS)]


def test_what_cannot_be_warmed_up_is_served_all_the_same() -> None:
    model = Model(refuses=True)
    worker.warm_up(cast(Executor, model), 3)
    assert model.ran == []


def test_it_ends_with_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "WARM_UP_S", -1.0)
    model = Model()
    worker.warm_up(cast(Executor, model), 3)
    assert model.ran == []


def test_a_real_model_runs_on_what_is_made_up(deploy: Deploy, monkeypatch: pytest.MonkeyPatch) -> None:
    workload = deploy("scale").workload.workload
    stage = workload.pipeline.stages["double"]
    spec = ExecutorSpec.of(workload.root, "double", stage, next(iter(stage.choices().values())))
    with Executor.from_spec(spec) as executor:
        fed: list[tuple[int, ...]] = []
        run = executor.session.run
        monkeypatch.setattr(executor.session, "run", lambda tensors: fed.append(tensors["x"].shape) or run(tensors))
        worker.warm_up(executor, 2)
    assert fed == [(size, 4) for size in (2, 1) for _ in range(WARMING_ROUNDS)]
