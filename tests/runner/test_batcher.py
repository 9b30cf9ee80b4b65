"""The batcher against a slow reference that steps through time, and against the rule in words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from inferplan.estimators.network import Station
from inferplan.estimators.simulation.station import serve
from inferplan.runner.batcher import Batcher, DeadlineBatcher, warming_sizes


@dataclass(frozen=True)
class Started:
    """A batch that a replica took."""

    at: int
    items: tuple[int, ...]


def reference(arrivals: list[int], service: list[int], replicas: int, max_batch: int, delay: int) -> list[Started]:
    """Tick by tick: at every tick, while a replica is free and the rule lets a batch go, it goes."""
    waiting: list[int] = []
    busy: list[int] = []
    started: list[Started] = []
    tick = 0
    while waiting or tick <= max(arrivals):
        busy = [end for end in busy if end > tick]
        waiting += [item for item, at in enumerate(arrivals) if at == tick]
        while waiting and len(busy) < replicas and (len(waiting) >= max_batch or tick - arrivals[waiting[0]] >= delay):
            batch, waiting = waiting[:max_batch], waiting[max_batch:]
            busy.append(tick + service[len(started) % len(service)])
            started.append(Started(tick, tuple(batch)))
        tick += 1
    return started


def driven(
    arrivals: list[int],
    service: list[int],
    replicas: int,
    max_batch: int,
    delay: int,
    deadlines: list[float] | None = None,
) -> list[Started]:
    """The batcher under a fake clock that jumps from event to event."""
    batcher: Batcher[int] = Batcher(max_batch, delay)
    if deadlines is not None:
        batcher = DeadlineBatcher(max_batch, delay, deadlines.__getitem__)
    started: list[Started] = []
    busy: list[int] = []
    coming = sorted(range(len(arrivals)), key=lambda item: arrivals[item])
    while coming or len(batcher):
        due = batcher.due()
        free_at = 0 if len(busy) < replicas else min(busy)
        go = math.inf if due is None else max(due, free_at)
        arrival = arrivals[coming[0]] if coming else math.inf
        now = int(min(go, arrival))
        together = [item for item in coming if arrivals[item] == now]
        coming = coming[len(together) :]
        batcher.put(together, now)
        busy = [end for end in busy if end > now]
        while len(busy) < replicas and (batch := batcher.take(now)):
            busy.append(now + service[len(started) % len(service)])
            started.append(Started(now, tuple(item for _, item in batch)))
    return started


@given(
    arrivals=st.lists(st.integers(0, 30), min_size=1, max_size=25).map(sorted),
    service=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    replicas=st.integers(1, 3),
    max_batch=st.integers(1, 5),
    delay=st.integers(0, 6),
)
def test_takes_the_batches_of_the_reference(
    arrivals: list[int], service: list[int], replicas: int, max_batch: int, delay: int
) -> None:
    assert driven(arrivals, service, replicas, max_batch, delay) == reference(
        arrivals, service, replicas, max_batch, delay
    )


@given(
    arrivals=st.lists(st.integers(0, 60), min_size=1, max_size=40).map(sorted),
    replicas=st.integers(1, 3),
    max_batch=st.integers(1, 5),
    delay=st.integers(0, 6),
    limits=st.none() | st.lists(st.sampled_from([2.0, 9.0, 30.0, math.inf]), min_size=1, max_size=6),
)
def test_the_simulator_means_the_same_by_batching(
    arrivals: list[int], replicas: int, max_batch: int, delay: int, limits: list[float] | None
) -> None:
    """The station of `inferplan.estimators` and the batcher, on the same arrivals, with services of 7 ticks: first
    come, first served, and by deadlines."""

    class Constant:
        wakings = ()

        def pools_s(self, max_batch: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
            return np.full(max_batch, 7.0), np.array([0, *range(max_batch + 1)])

    station = SimpleNamespace(
        service=Constant(), replicas=replicas, max_batch=max_batch, max_queue_delay_s=float(delay), slowdowns=(),
        queue_limit=None, order="fifo" if limits is None else "edf", outages=(),
    )  # fmt: skip
    deadlines = None if limits is None else [at + limits[item % len(limits)] for item, at in enumerate(arrivals)]
    simulated = serve(
        np.array(arrivals, float), cast(Station, station), np.random.default_rng(0),
        deadlines_s=None if deadlines is None else np.array(deadlines),
    )  # fmt: skip
    ran = driven(arrivals, [7], replicas, max_batch, delay, deadlines)
    assert [(batch.at, len(batch.items)) for batch in ran] == list(
        zip(simulated.starts_s.tolist(), simulated.sizes.tolist(), strict=True)
    )
    done = {item: batch.at + 7.0 for batch in ran for item in batch.items}
    assert [done[item] for item in range(len(arrivals))] == simulated.done_s.tolist()


def test_a_full_batch_goes_at_once_and_a_part_of_one_when_its_oldest_has_waited() -> None:
    batcher: Batcher[str] = Batcher(3, 1.0)
    batcher.put(["a", "b"], 10.0)
    assert (batcher.due(), batcher.take(10.5)) == (11.0, [])
    batcher.put(["c", "d"], 10.6)
    assert batcher.due() == 10.0
    assert batcher.take(10.6) == [(10.0, "a"), (10.0, "b"), (10.6, "c")]
    assert (batcher.due(), batcher.take(11.5)) == (11.6, [])
    assert batcher.take(11.6) == [(10.6, "d")]
    assert batcher.due() is None


def test_the_earliest_deadlines_go_first_and_the_oldest_says_when() -> None:
    batcher = DeadlineBatcher[tuple[str, float]](2, 1.0, lambda item: item[1])
    batcher.put([("patient", math.inf)], 10.0)
    batcher.put([("late", 30.0), ("soon", 12.0), ("as soon", 12.0)], 10.5)
    assert [item for _, (item, _) in batcher.take(10.5)] == ["soon", "as soon"]
    assert batcher.take(10.5) == [(10.5, ("late", 30.0)), (10.0, ("patient", math.inf))]
    batcher.put([("patient", math.inf)], 11.0)
    batcher.put([("soon", 12.0)], 11.5)
    assert [item for item, _ in batcher.drain()] == ["soon", "patient"]
    assert (len(batcher), batcher.due()) == (0, None)
    batcher = DeadlineBatcher[tuple[str, float]](3, 1.0, lambda item: item[1])
    batcher.put([("patient", math.inf)], 11.0)
    batcher.put([("soon", 12.0)], 11.5)
    assert batcher.due() == 12.0


def test_without_delay_nothing_waits_for_others() -> None:
    batcher: Batcher[str] = Batcher(8, 0.0)
    batcher.put(["a"], 5.0)
    assert batcher.take(5.0) == [(5.0, "a")]


@pytest.mark.parametrize(("max_batch", "delay"), [(0, 0.0), (1, -0.1)])
def test_senseless_settings_are_refused(max_batch: int, delay: float) -> None:
    with pytest.raises(ValueError, match="max_batch"):
        Batcher(max_batch, delay)


@pytest.mark.parametrize(
    ("largest", "expected"), [(1, [1]), (4, [4, 2, 1, 3]), (6, [6, 3, 1, 5, 4, 2]), (8, [8, 4, 2, 1, 7, 6, 5, 3])]
)
def test_of_sizes_to_warm_up_the_largest_comes_first_and_none_is_left_out(largest: int, expected: list[int]) -> None:
    assert warming_sizes(largest) == expected
