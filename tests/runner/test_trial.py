"""A stage on trial: bursts are batched as asked, and whatever keeps answers away is said."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from inferplan.profilers.runtimes.executor import ExecutorSpec
from inferplan.runner import eventloop
from inferplan.runner.cores import available_cores
from inferplan.runner.frames import dump
from inferplan.runner.trial import Burst, Trial
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


def test_a_call_that_fails_is_an_error(deploy: Deploy) -> None:
    with pytest.raises(InputError, match="KeyError"):
        bursts(deploy, {"y": 1}, (2, 1))


def test_a_replica_that_ends_is_an_error(deploy: Deploy) -> None:
    with pytest.raises(InputError, match="killed by SIGKILL"):
        bursts(deploy, {"x": np.full(4, -1, np.float32)}, (2, 1))
