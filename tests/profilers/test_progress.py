"""What fits into a time budget: less time for every point first, fewer jobs last."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferplan.profilers.inputs import PipelineSpec
from inferplan.profilers.jobs import CombinationsJob, PointJob
from inferplan.profilers.points import PointTask
from inferplan.profilers.process import Limits
from inferplan.profilers.progress import Pace, combination_name, duration_s, fit, least_time_s
from inferplan.profilers.runtimes.executor import ExecutorSpec
from inferplan.spec.rows import PointKey

LIMITS = Limits(1.0, 1)


def point(batch: int = 1, overhead_s: float = 1.0, service_s: float = 0.001, full_s: float = 10.0) -> PointJob:
    key = PointKey("s", "v", "", "", "", "skip", "", "{}", "cpu", "edge/box", "", batch, 1, "{}")
    task = PointTask(key, ExecutorSpec("", "s", "v", "skip"), None, LIMITS)
    return PointJob(task, (0,), overhead_s, service_s, full_s)


def combinations(estimate_s: float) -> CombinationsJob:
    pipeline = PipelineSpec(str(Path()), None, {})
    return CombinationsJob(pipeline, (), {}, {}, LIMITS, "cpu", 1, 1, "m", {}, (1,), estimate_s)


def test_without_a_budget_everything_takes_its_time() -> None:
    fitted = fit([point(), point(2)], None, 60.0)
    assert sum(map(fitted.duration_s, fitted.kept)) == 22.0


def test_points_give_up_time_before_any_is_left_out() -> None:
    jobs = [point(batch) for batch in range(1, 5)]
    fitted = fit(jobs, 8.0, 60.0)
    assert fitted.kept == tuple(jobs)
    assert fitted.limit_s == pytest.approx(1.0, abs=0.1)


def test_the_last_are_left_out_once_every_point_is_at_its_least() -> None:
    jobs = [point(batch) for batch in range(1, 5)]
    fitted = fit(jobs, 2.5, 60.0)
    assert fitted.kept == tuple(jobs[:2])


@given(
    budget_s=st.floats(0, 200),
    jobs=st.lists(
        st.builds(point, overhead_s=st.floats(0, 5), service_s=st.floats(1e-6, 5), full_s=st.floats(0.1, 60)),
        max_size=12,
    ),
)
def test_what_is_kept_fits(budget_s: float, jobs: list[PointJob]) -> None:
    fitted = fit(jobs, budget_s, 60.0)
    assert sum(map(fitted.duration_s, fitted.kept)) <= budget_s * (1 + 1e-9)
    dropped = [job for job in jobs if not any(job is kept for kept in fitted.kept)]
    left_s = budget_s - sum(duration_s(job, 0.0) for job in fitted.kept)
    assert all(duration_s(job, 0.0) > left_s - 1e-9 for job in dropped)


def test_the_least_time_gives_a_median_of_slow_models_and_a_p90_of_fast_ones() -> None:
    assert least_time_s(point(service_s=1.0, full_s=60.0)) == 11.0
    assert least_time_s(point(service_s=0.01)) == pytest.approx(0.64)
    assert least_time_s(point(service_s=1.0, full_s=3.0)) == 3.0
    assert least_time_s(point(service_s=1e-6, overhead_s=2.0)) == pytest.approx(0.2)


def test_combinations_are_begun_where_a_part_is_within_reach() -> None:
    jobs = [point(), combinations(100.0)]
    part = fit(jobs, 40.0, 60.0)
    assert part.kept == tuple(jobs)
    assert sum(map(part.duration_s, part.kept)) <= 40.0
    assert fit(jobs, 5.0, 60.0).kept == (jobs[0],)


def test_the_pace_follows_what_was_measured() -> None:
    pace = Pace()
    assert pace.factor == 1.0
    for _ in range(50):
        pace.note(1.0, 2.0)
    assert pace.factor == pytest.approx(2.0, rel=0.05)


def test_combinations_have_names_for_people() -> None:
    assert combination_name('{"detect": "a", "read": "b"}') == "detect=a, read=b"
