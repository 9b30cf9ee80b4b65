"""A stage on trial: bursts are batched as asked, and whatever keeps answers away is said."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from inferplan.profilers.runtimes.executor import ExecutorSpec
from inferplan.runner import eventloop
from inferplan.runner.cores import available_cores
from inferplan.runner.frames import dump
from inferplan.runner.trial import Batch, Burst, Trial
from inferplan.spec.errors import InputError
from inferplan.spec.plan import LoadedPlan

Deploy = Callable[..., LoadedPlan]


def bursts(deploy: Deploy, item: object, *asked: tuple[int, int], cores: tuple[int, ...] = ()) -> list[Burst]:
    """Bursts of so many calls in batches of at most so many, one after the other."""
    workload = deploy("scale").workload.workload
    stage = workload.pipeline.stages["double"]
    spec = ExecutorSpec.of(workload.root, "double", stage, next(iter(stage.choices().values())))

    async def main() -> list[Burst]:
        async with Trial(workload, spec, "cpu", 1, cores) as trial:
            return [await trial.send(dump(item), calls, 0.001, max_batch) for calls, max_batch in asked]

    return eventloop.run(main)


@pytest.mark.parametrize("cores", [(), available_cores()[-1:]], ids=["sleeping", "polling where there is a core to"])
def test_the_first_of_a_burst_goes_alone_and_the_others_share_batches(deploy: Deploy, cores: tuple[int, ...]) -> None:
    item = {"x": np.zeros(4, np.float32)}
    alone, by_one, by_four = bursts(deploy, item, (1, 1), (3, 1), (10, 4), cores=cores)
    assert [[batch.size for batch in burst.batches] for burst in (alone, by_one, by_four)] == [
        [1],
        [1] * 3,
        [1, 4, 4, 1],
    ]
    for burst in (alone, by_one, by_four):
        times = [time for batch in burst.batches for time in (batch.sent_s, batch.back_s)]
        assert times == sorted(times)
        assert all(0 < batch.service_s < batch.taken_s for batch in burst.batches)
        assert all(batch.handed_s == batch.taken_s - batch.service_s for batch in burst.batches)
        # From its due time, so with the way in and out.
        assert burst.latency_s > burst.batches[0].taken_s


def test_traffic_is_served_in_batches_of_the_inputs_in_turn(deploy: Deploy) -> None:
    workload = deploy("scale").workload.workload
    stage = workload.pipeline.stages["double"]
    spec = ExecutorSpec.of(workload.root, "double", stage, next(iter(stage.choices().values())))
    items = [dump({"x": np.full(4, value, np.float32)}) for value in range(3)]

    async def main() -> list[Batch]:
        async with Trial(workload, spec, "cpu", 1, ()) as trial:
            return await trial.traffic(items, 2000.0, 0.5, 4)

    batches = eventloop.run(main)
    sent = [place for batch in batches for place in batch.inputs]
    assert sent == [index % 3 for index in range(len(sent))]
    assert len(sent) == pytest.approx(1000, abs=200)
    assert all(batch.size == len(batch.inputs) <= 4 for batch in batches)
    # At work is what was sent when the one before came back, and nothing else.
    assert not batches[0].at_work
    gaps = [after.sent_s - before.back_s for before, after in itertools.pairwise(batches)]
    assert all(gap >= 0 for gap in gaps)
    resting = [gap for gap, after in zip(gaps, batches[1:], strict=True) if not after.at_work]
    working = [gap for gap, after in zip(gaps, batches[1:], strict=True) if after.at_work]
    assert np.median(working or [0.0]) < np.median(resting)


def test_traffic_that_fails_is_an_error(deploy: Deploy) -> None:
    workload = deploy("scale").workload.workload
    stage = workload.pipeline.stages["double"]
    spec = ExecutorSpec.of(workload.root, "double", stage, next(iter(stage.choices().values())))

    async def main() -> list[Batch]:
        async with Trial(workload, spec, "cpu", 1, ()) as trial:
            return await trial.traffic([dump({"y": 1})], 100.0, 0.1, 4)

    with pytest.raises(InputError, match="KeyError"):
        eventloop.run(main)


def test_a_call_that_fails_is_an_error(deploy: Deploy) -> None:
    with pytest.raises(InputError, match="KeyError"):
        bursts(deploy, {"y": 1}, (2, 1))


def test_a_replica_that_ends_is_an_error(deploy: Deploy) -> None:
    with pytest.raises(InputError, match="killed by SIGKILL"):
        bursts(deploy, {"x": np.full(4, -1, np.float32)}, (2, 1))
