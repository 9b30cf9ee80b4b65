"""Who is measured beside whom, and who has no room."""

from __future__ import annotations

from typing import Any

import pytest

from inferplan.profilers.jobs import PointJob
from inferplan.profilers.neighbours import Room, interference_jobs
from inferplan.profilers.points import PointTask
from inferplan.profilers.process import Limits
from inferplan.profilers.runtimes.executor import ExecutorSpec
from inferplan.spec.rows import PointKey
from inferplan.spec.workload import ProfileSettings


def point(variant: str, batch: int = 1, threads: int = 1, stage: str = "s", runtime: str = "onnxruntime") -> PointJob:
    key = PointKey(stage, variant, "", "", "", runtime, "", "{}", "cpu", "edge/box", "", batch, threads, "{}")
    task = PointTask(key, ExecutorSpec("", stage, variant, runtime), None, Limits(1.0, 1), tuple(range(8)))
    return PointJob(task, (0,), 3.0, 0.001 * batch, 1.0)


def names(points: list[PointJob], threads: int = 8, **settings: Any) -> list[str]:
    jobs, _ = interference_jobs(points, ProfileSettings(**settings), room(threads))
    assert [job.level for job in jobs] == sorted({job.level for job in jobs})
    return [job.name for job in jobs]


def room(threads: int) -> Room:
    return Room("edge/box", threads + 1, 1, 64)


GRID = [point(v, batch, threads) for v in "ab" for threads in (1, 2) for batch in (1, 4)]


def test_each_beside_itself_at_its_smallest_batch() -> None:
    assert names(GRID) == ["s=a batch 1 beside s=a", "s=b batch 1 beside s=b"]


def test_as_many_copies_as_are_asked_for_and_fit() -> None:
    wanted = ["s=a batch 1 beside s=a", "s=a batch 1 beside 2 x s=a"]
    assert names([point("a")], instances=3) == wanted
    assert names([point("a")], instances=3, threads=2) == wanted[:1]
    assert names([point("a")], instances=1) == []
    assert names([point("a", threads=2)], instances=8, threads=5) == ["s=a batch 1, 2 threads beside s=a"]


def test_pairs_of_all_stages_both_ways() -> None:
    points = [point("a"), point("a", 4), point("b"), point("t", stage="r"), point("n", stage="r", runtime="skip")]
    assert names(points, neighbours="pairs")[3:] == [
        "s=a batch 1 beside s=b",
        "s=a batch 1 beside r=t",
        "s=b batch 1 beside s=a",
        "s=b batch 1 beside r=t",
        "r=t batch 1 beside s=a",
        "r=t batch 1 beside s=b",
    ]


def test_every_point_where_nothing_may_be_interpolated() -> None:
    assert names(GRID[:4], tolerance=0.0, threads=3) == ["s=a batch 1 beside s=a", "s=a batch 4 beside s=a"]
    assert len(names(GRID[:4], tolerance=0.0, threads=4)) == 4


def test_none_is_none() -> None:
    assert names(GRID, neighbours="none") == []
    assert interference_jobs([], ProfileSettings(neighbours="pairs"), room(1)) == ([], [])


@pytest.mark.parametrize(("cores", "reserved", "usable"), [(2, 1, 8), (64, 0, 1)])
def test_what_has_no_room_is_left_out_in_one_line(cores: int, reserved: int, usable: int) -> None:
    jobs, left_out = interference_jobs(GRID, ProfileSettings(), Room("edge/box", cores, reserved, usable))
    assert jobs == []
    assert [str(item.name) for item in left_out] == ["replicas side by side"]
    assert left_out[0].reason == (
        f"edge/box has {cores} cores of which {reserved} are reserved, and there are {usable} to use here"
    )


def test_fewer_than_wanted_is_said() -> None:
    _, left_out = interference_jobs(GRID, ProfileSettings(instances=4), room(2))
    assert [item.name for item in left_out] == ["more than 2 replicas side by side"]


def test_times_are_expected_from_what_is_known() -> None:
    ((job,), _) = interference_jobs([point("a")], ProfileSettings(), room(2))
    # Two processes of one second each to start, 20 blocks of 0.1 s and a call more.
    assert job.estimate_s == pytest.approx(2.0 + 20 * 0.12 + 10 * 0.001)
