"""Glances: what they see, and keeping it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from inferplan.profilers.campaign import plan_campaign
from inferplan.profilers.glances import (
    Glance,
    glance_s,
    most_glance_s,
    read_glances,
    take_glances,
    write_glances,
)
from inferplan.profilers.jobs import PointJob
from inferplan.profilers.points import PointTask
from inferplan.profilers.sizes import Calls
from inferplan.spec.document import LoadedWorkload

MakeWorkload = Callable[..., LoadedWorkload]


def tasks(loaded: LoadedWorkload, path: Path) -> list[PointTask]:
    return [job.task for job in plan_campaign(loaded, path).jobs if isinstance(job, PointJob)]


def test_every_batch_is_seen(make_workload: MakeWorkload, tmp_path: Path) -> None:
    slow = {"model": "double.onnx", "params": {"slow_s": 0.02}}
    shares: list[float] = []
    wanted = tasks(make_workload({"v": slow}, profile={"batch_sizes": [1, 2, 4]}), tmp_path / "p")
    seen = take_glances(wanted[::-1], [2.0] * 3, shares.append)
    assert set(seen) == {task.key.id() for task in wanted}
    for glance in seen.values():
        assert glance.mean_s == pytest.approx(0.02, rel=0.5)
        assert glance.n >= 4
        assert glance.peak_rss_bytes is not None
    assert shares[-1] == 1.0


def test_a_batch_that_crashes_ends_it(make_workload: MakeWorkload, tmp_path: Path) -> None:
    tricky = {"model": "double.onnx", "params": {"trick": "crash-on-4"}}
    campaign = plan_campaign(make_workload({"v": tricky}, profile={"batch_sizes": [1, 2, 4, 8]}), tmp_path / "p")
    wanted = [job.task for job, _ in campaign.listed.unrunnable if isinstance(job, PointJob)]
    seen = take_glances(wanted, [2.0] * 4, lambda share: None)
    assert {task.key.batch for task in wanted if task.key.id() in seen} == {1, 2}


def test_they_are_kept_and_damage_costs_no_more_than_another_look(tmp_path: Path) -> None:
    assert read_glances(tmp_path) == {}
    write_glances(tmp_path, {})
    assert list(tmp_path.iterdir()) == []
    one, two = {"p": Glance(0.1, 8, 5, (0.1,), (3,), (3, 4))}, {"q": Glance(0.2, 9)}
    write_glances(tmp_path, one)
    write_glances(tmp_path, two)
    assert read_glances(tmp_path) == {**one, **two}
    write_glances(tmp_path, {"p": Glance(0.3, 8)})
    assert read_glances(tmp_path)["p"] == Glance(0.3, 8)
    for file in (tmp_path / "glances").iterdir():
        file.write_text('{"p": {"mean')
    assert read_glances(tmp_path) == {}


def test_the_first_of_few_calls_does_not_count() -> None:
    glance = Glance.of(Calls.of([3.0, 1.0, 1.2], [5, 5, 7]), [5, 7, 7], 9)
    assert glance == Glance(1.1, 2, 9, (1.0, 1.2), (5, 7), (5, 7, 7))
    assert glance.calls.elements.tolist() == [5, 7]
    assert Glance.of(Calls.of([3.0, 1.0, 1.2, 1.4], [5] * 4), [], 9).mean_s == pytest.approx(1.3)
    assert Glance(0.2, 8).calls.times_s.tolist() == [0.2]


def test_slow_batches_are_called_twice_all_the_same(make_workload: MakeWorkload, tmp_path: Path) -> None:
    slow = {"model": "double.onnx", "params": {"slow_s": 0.1}}
    (wanted,) = tasks(make_workload({"v": slow}, profile={"batch_sizes": [4]}), tmp_path / "p")
    (seen,) = take_glances([wanted], [0.01], lambda share: None).values()
    assert seen.n == len(seen.times_s) == 1
    assert len(set(seen.sizes)) == 1, "made-up inputs of one size"


def test_expected_time() -> None:
    """Start, and per batch a first call and four more, at least 0.2 s, no more than they may take, at least two."""
    assert glance_s(1.0, [0.001], [2.0]) == pytest.approx(1.201)
    assert glance_s(1.0, [0.1, 0.1], [2.0, 0.3]) == pytest.approx(1.9)
    assert glance_s(1.0, [5.0], [2.0]) == pytest.approx(16.0)
    assert [most_glance_s(s) for s in (0.5, 5.0, 60.0)] == pytest.approx([0.2, 1.5, 18.0])
