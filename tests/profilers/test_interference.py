"""What neighbours cost is found, whatever else changes meanwhile."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferplan.profilers.campaign import plan_campaign, run_campaign
from inferplan.profilers.interference import (
    LEAST_CALLS,
    LEAST_PAIRS,
    PAIRS,
    Blocks,
    Floats,
    Neighbourhood,
    Pairs,
    alternated,
    measure_interference,
    side_by_side,
    summary,
)
from inferplan.profilers.jobs import InterferenceJob
from inferplan.profilers.points import PointTask
from inferplan.profilers.process import Limits
from inferplan.profilers.runtimes.executor import ExecutorSpec
from inferplan.spec.document import LoadedWorkload
from inferplan.spec.profile import read_profile
from inferplan.spec.rows import PointKey

MakeWorkload = Callable[..., LoadedWorkload]
DOUBLE: dict[str, Any] = {"model": "double.onnx"}


def task(variant: str = "v", threads: int = 1, provider: str = "cpu", batch: int = 1) -> PointTask:
    key = PointKey("s", variant, "", "", "", "skip", "", "{}", provider, "edge/box", "", batch, threads, "{}")
    return PointTask(key, ExecutorSpec("", "s", variant, "skip"), None, Limits(1.0, 1), (0, 1, 2, 3))


class Machine:
    """A party without processes: calls take 1 ms, `slower` times that beside busy neighbours, and all the while
    the machine grows slower by `drift` per block."""

    def __init__(self, slower: float, drift: float, noise: float = 0.0) -> None:
        self.slower, self.drift = slower, drift
        self.busy = False
        self.blocks = 0
        self.order: list[bool] = []
        self.generator = np.random.default_rng(5)
        self.noise = noise

    def timed(self, blocks: Blocks) -> Floats:
        self.order.append(self.busy)
        self.blocks += 1
        times = 1e-3 * (1 + self.drift) ** self.blocks * (self.slower if self.busy else 1.0)
        return times * np.exp(self.noise * self.generator.standard_normal(blocks.calls * 10))

    def work(self) -> None:
        assert not self.busy
        self.busy = True

    def rest(self) -> None:
        assert self.busy
        self.busy = False


@given(slower=st.floats(0.8, 5.0), drift=st.floats(-0.02, 0.02), seed=st.integers(0, 99))
def test_the_slow_down_is_found_and_drift_is_not_taken_for_it(slower: float, drift: float, seed: int) -> None:
    machine = Machine(slower, drift)
    row = summary(Neighbourhood(task(), (task(),)), alternated(machine, Blocks(10, 5, 0.1), seed, lambda share: None))
    assert row.slowdown is not None
    assert row.slowdown_lower is not None
    assert row.slowdown_upper is not None
    # The order within pairs varies: what drifts between the blocks of a pair goes both ways.
    assert row.slowdown == pytest.approx(slower, rel=abs(drift) * 1.02 + 1e-9)
    assert row.slowdown_lower <= row.slowdown <= row.slowdown_upper
    assert (row.blocks, row.n) == (10, 500)
    assert not machine.busy


def test_blocks_come_in_pairs_in_an_order_that_is_drawn() -> None:
    orders = set()
    for seed in range(20):
        machine = Machine(2.0, 0.0)
        shares: list[float] = []
        alternated(machine, Blocks(10, 5, 0.1), seed, shares.append)
        pairs = [tuple(machine.order[i : i + 2]) for i in range(0, 20, 2)]
        assert set(pairs) <= {(True, False), (False, True)}
        assert shares == pytest.approx([(i + 1) / 10 for i in range(10)])
        orders.add(tuple(pairs))
    assert len(orders) > 10


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    inside = 0
    for seed in range(300):
        generator = np.random.default_rng(seed)
        found = Pairs()
        for _ in range(10):
            # Blocks differ by 5 % for reasons of their own, calls within them by 20 %.
            for times, factor in ((found.beside, 1.3), (found.alone, 1.0)):
                block = 1e-3 * factor * math.exp(0.05 * generator.standard_normal())
                times.append(block * np.exp(0.2 * generator.standard_normal(50)))
        row = summary(Neighbourhood(task(), (task(),)), found)
        assert row.slowdown_lower is not None
        assert row.slowdown_upper is not None
        inside += row.slowdown_lower <= 1.3 <= row.slowdown_upper
    assert 0.91 <= inside / 300 <= 0.985


def test_a_p90_needs_enough_calls() -> None:
    where = Neighbourhood(task(), (task(),))
    few = Pairs([np.full(4, 2e-3)] * 10, [np.full(4, 1e-3)] * 10)
    many = Pairs([np.full(5, 2e-3)] * 10, [np.full(5, 1e-3)] * 10)
    assert summary(where, few).slowdown_p90 is None
    assert summary(where, many).slowdown_p90 == pytest.approx(2.0)


@given(service_s=st.floats(0, 30), max_time_s=st.floats(0.1, 100))
def test_blocks_keep_within_the_time_as_far_as_is_honest(service_s: float, max_time_s: float) -> None:
    blocks = Blocks.of(service_s, max_time_s)
    assert LEAST_PAIRS <= blocks.pairs <= PAIRS
    assert blocks.calls >= LEAST_CALLS
    assert blocks.block_s >= blocks.calls * service_s
    least = blocks.pairs == LEAST_PAIRS
    assert least or 2 * blocks.pairs * blocks.block_s <= max_time_s * (1 + 1e-9)


def test_cores_are_not_shared_and_a_gpu_is() -> None:
    tasks = [task(threads=2), task(provider="cuda"), task(threads=1, provider="openvino")]
    assert side_by_side((3, 5, 6, 9), tasks) == [(6, 9), (), (5,)]
    with pytest.raises(ValueError, match="too few"):
        side_by_side((3, 5), [task(threads=2), task()])


def test_rows_name_neighbours_and_are_one_per_set_of_them() -> None:
    one = Neighbourhood(task("a"), (task("b"), task("a", batch=4)))
    other = Neighbourhood(task("a"), (task("a", batch=4), task("b")))
    third = Neighbourhood(task("a"), (task("b"),))
    assert json.loads(one.neighbours_text) == [["s", "a", 4, 1], ["s", "b", 1, 1]]
    assert one.row().id() == other.row().id() != third.row().id()


BESIDE = """
import os, time
import numpy as np

class Stage:
    '''Says with a file that it is at work; calls are slow while another replica is.'''
    def __init__(self, context):
        self.params = context.params
        self.folder = context.root / "at-work"
        self.folder.mkdir(exist_ok=True)
        self.own = self.folder / str(os.getpid())
    def accompanied(self):
        others = [file.name for file in self.folder.iterdir() if file != self.own]
        return any(os.path.exists("/proc/" + pid) for pid in others)
    def examples(self):
        return [(float(i), 2.0 * i) for i in range(20)]
    def preprocess(self, inputs):
        self.own.touch()
        if self.params.get("trick") == "fail" and self.accompanied():
            raise ValueError("cannot stand company")
        time.sleep(0.004)
        if self.accompanied():
            time.sleep(0.008)
        return {"x": np.array([[i] * 4 for i in inputs], np.float32)}
    def postprocess(self, inputs, outputs):
        self.own.unlink()
        return [float(row[0]) for row in outputs["y"]]
    def score(self, predictions, truths):
        return {"right": [float(p == t) for p, t in zip(predictions, truths)]}
"""


def beside_itself(make_workload: MakeWorkload, params: dict[str, Any] | None = None) -> LoadedWorkload:
    return make_workload(
        {"v": {**DOUBLE, "params": params or {}}}, code=BESIDE, profile={"neighbours": "same"}, pipeline={"code": None}
    )


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inferplan.profilers.planning.usable_cores", lambda: (0, 1))


@pytest.mark.usefixtures("two_cores")
def test_a_neighbour_at_work_is_felt_from_end_to_end(make_workload: MakeWorkload, tmp_path: Path) -> None:
    loaded = beside_itself(make_workload)
    summary_ = run_campaign(plan_campaign(loaded, tmp_path / "p"))
    assert (summary_.beside, summary_.failed) == (1, ())
    (row,) = read_profile(tmp_path / "p").interference
    assert json.loads(row.neighbours) == [["s", "v", 1, 1]]
    assert (row.status, row.blocks) == ("ok", 10)
    assert row.n >= 50
    # 4 ms alone, 12 ms while the neighbour is at work, which is nearly always.
    assert row.slowdown is not None
    assert row.slowdown_lower is not None
    assert row.slowdown > 1.5
    assert row.slowdown_lower > 1.2
    again = run_campaign(plan_campaign(loaded, tmp_path / "p"))
    assert (again.beside, again.measured, again.resumed) == (0, 0, 3)


@pytest.mark.usefixtures("two_cores")
def test_a_neighbour_that_fails_is_a_row_and_is_tried_again_only_when_asked(
    make_workload: MakeWorkload, tmp_path: Path
) -> None:
    loaded = beside_itself(make_workload, {"trick": "fail"})
    first = run_campaign(plan_campaign(loaded, tmp_path / "p"))
    assert [failed.name for failed in first.failed] == ["s=v batch 1 beside s=v"]
    (row,) = read_profile(tmp_path / "p").interference
    assert (row.status, row.slowdown) == ("failed", None)
    assert "cannot stand company" in row.reason
    plan = plan_campaign(loaded, tmp_path / "p")
    assert plan.jobs == ()
    assert [failed.name for failed in plan.failed_before] == ["s=v batch 1 beside s=v"]
    (job,) = plan_campaign(loaded, tmp_path / "p", retry_failed=True).jobs
    assert isinstance(job, InterferenceJob)


@pytest.mark.usefixtures("two_cores")
def test_a_neighbour_that_does_not_load_is_blamed(make_workload: MakeWorkload, tmp_path: Path) -> None:
    (job,) = [
        job
        for job in plan_campaign(beside_itself(make_workload), tmp_path / "p").jobs
        if isinstance(job, InterferenceJob)
    ]
    (tmp_path / "workload" / "other.onnx").write_bytes(b"no model")
    (neighbour,) = job.where.neighbours
    broken = PointTask(
        neighbour.key,
        ExecutorSpec(
            **{**neighbour.spec.to_json(), "variant": "w", "model": str(tmp_path / "workload" / "other.onnx")}
        ),
        None,
        neighbour.limits,
        neighbour.cores,
    )
    row = measure_interference(Neighbourhood(job.where.subject, (broken,)), job.blocks, lambda share: None)
    assert row.status == "failed"
    assert row.reason.startswith("its neighbour s=w: ")
