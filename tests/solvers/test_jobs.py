"""Jobs of a workload: configurations with their times, the table, the verdict on job classes, what is missing."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from inferplan.solvers.jobs import Jobs, judge, read_jobs, table
from inferplan.solvers.planner import solve
from inferplan.spec.errors import InputError

FUSED = {"modalities": {"reads": ["acc", "gyro"], "optional": ["acc", "gyro"]}}
CHOICES = ("m@acc+gyro", "m@acc", "m@gyro")
ACCURACY = {("s", choice): value for choice, value in zip(CHOICES, (0.9, 0.8, 0.7), strict=True)}
TIMES = {
    ("s", choice): {batch: t * (0.4 + 0.6 * batch) for batch in (1, 2, 4)}
    for choice, t in zip(CHOICES, (0.04, 0.02, 0.01), strict=True)
}


def jobs_of(instances: Any, most: int = 8, job: dict[str, Any] | None = None, **rest: Any) -> tuple[Jobs, Any]:
    classes = {"album": {"kind": "jobs", "rate_rps": 1.0, "job": job}} if job else None
    loaded = instances.workload({"s": ["m"]}, specs={"m": FUSED}, classes=classes)
    profile = instances.profile(rest.pop("times", TIMES), rest.pop("accuracy", ACCURACY))
    return read_jobs(loaded.workload, profile, most=most, **rest), loaded


def test_the_table_is_that_of_enumerating_every_split(instances: Any) -> None:
    jobs, _ = jobs_of(instances)
    targets = [0.7, 0.75, 0.8, 0.83, 0.9, 0.95]
    by_name = {c.name: c for c in jobs.configurations}
    assert set(by_name) == set(CHOICES)
    for cell in table(jobs, range(1, 9), targets):
        times = []
        for counts in itertools.product(range(cell.requests + 1), repeat=3):
            mean = sum(n * by_name[c].accuracy for n, c in zip(counts, CHOICES, strict=True)) / cell.requests
            if sum(counts) == cell.requests and mean >= cell.target - 1e-9:
                times.append(sum(by_name[c].times_s[n] for n, c in zip(counts, CHOICES, strict=True)))
        if cell.split is None:
            assert not times
            assert cell.reason == "the best configuration, m@acc+gyro, has acc 0.9"
        else:
            assert cell.split.time_s == pytest.approx(min(times))
            assert cell.split.requests == cell.requests
            assert cell.split.accuracy >= cell.target - 1e-9


def test_times_are_those_of_batches_of_the_profile(instances: Any) -> None:
    jobs, _ = jobs_of(instances)
    six = next(c for c in jobs.configurations if c.name == "m@acc").times_s[6]
    assert six == pytest.approx(TIMES["s", "m@acc"][4] + TIMES["s", "m@acc"][2])
    assert jobs.batches("m@acc", 6) == {"s": (4, 2)}


@pytest.mark.parametrize(
    ("deadline", "accuracy", "verdict", "reason"),
    [
        (1.0, 0.8, "met", ""),
        (0.001, 0.8, "missed", "no split is done within the deadline, even in the mean"),
        (0.05, 0.9, "missed", "within the deadline (in the mean) acc is at best 0.8"),
        (1.0, 0.95, "infeasible", "the best configuration, m@acc+gyro, has acc 0.9"),
        (1.0, None, "met", ""),
    ],
)
def test_a_job_class_gets_its_split_and_a_verdict(
    deadline: float, accuracy: float | None, verdict: str, reason: str, instances: Any
) -> None:
    job = {"requests": 3, "deadline_s": deadline, "mean_accuracy": accuracy}
    jobs, loaded = jobs_of(instances, job={k: v for k, v in job.items() if v is not None})
    (found,) = judge(jobs, loaded.workload)
    assert (found.verdict, found.reason) == (verdict, reason)
    if found.split is not None and found.tail_s is not None:
        assert found.split.requests == 3
        assert found.split.time_s < found.tail_s < 1.5 * found.split.time_s


def test_what_is_missing_is_named(instances: Any) -> None:
    times = {key: value for key, value in TIMES.items() if key[1] != "m@gyro"}
    accuracy = {key: value for key, value in ACCURACY.items() if key[1] != "m@acc"}
    jobs, _ = jobs_of(instances, times=times, accuracy=accuracy)
    assert [c.name for c in jobs.configurations] == ["m@acc+gyro"]
    assert jobs.left_out == (
        "s/m@gyro: no measurement of its service time there",
        "s/m@acc: its accuracy was neither measured nor declared",
    )
    with pytest.raises(InputError, match="nothing to split jobs over") as caught:
        jobs_of(instances, accuracy={})
    assert len(caught.value.details) == 3


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        ({"most": 1000}, "at most 128"),
        ({"stage": "t"}, "there is no stage 't'"),
        ({"threads": 7}, "no choice of s was measured on with 7 threads"),
        ({"device": "edge/other"}, "no choice of s was measured on edge/other"),
    ],
)
def test_wrong_questions_are_refused(rest: dict[str, Any], message: str, instances: Any) -> None:
    with pytest.raises(InputError, match=message.replace("on with", "(on )?with")):
        jobs_of(instances, **rest)


def test_combinations_of_a_pipeline_take_the_time_of_all_their_calls(instances: Any) -> None:
    loaded = instances.workload({"s": ["x", "y"], "t": ["z", "skip"]}, edges=[{"from": "s", "to": "t", "fan_out": 2.5}])
    times = {("s", "x"): {1: 0.01, 2: 0.015}, ("s", "y"): {1: 0.03}, ("t", "z"): {1: 0.002}}
    accuracy = {("s", "x"): 0.8, ("s", "y"): 0.9, ("t", "z"): 1.0, ("t", "skip"): 0.5}
    profile = instances.profile(times, accuracy)
    jobs = read_jobs(loaded.workload, profile, most=3)
    by_name = {c.name: c for c in jobs.configurations}
    assert set(by_name) == {"s=x,t=z", "s=x,t=skip", "s=y,t=z", "s=y,t=skip"}
    # 3 requests: batches of 2 and 1 of s, and 7.5 calls of t, rounded up.
    assert by_name["s=x,t=z"].times_s[3] == pytest.approx(0.025 + 8 * 0.002)
    assert by_name["s=x,t=skip"].times_s[3] == pytest.approx(0.025)
    assert by_name["s=y,t=skip"].accuracy == pytest.approx(0.45)
    alone = read_jobs(loaded.workload, profile, most=3, stage="s")
    assert {c.name: c.accuracy for c in alone.configurations} == {"x": 0.8, "y": 0.9}


def test_jobs_are_planned_over_subsets_of_modalities(instances: Any) -> None:
    _, loaded = jobs_of(instances, job={"requests": 3, "deadline_s": 1.0, "mean_accuracy": 0.86})
    plan = solve(loaded, instances.profile(TIMES, ACCURACY), plan_dir=instances.folder)
    found = plan.classes["album"]
    assert found.job_requests == 3
    assert found.predicted.accuracy is not None
    assert found.predicted.accuracy.value >= 0.86
    assert plan.certificate is not None
    assert plan.certificate.verdict == "met"


def test_a_mean_accuracy_needs_a_metric_to_hold_it_to(instances: Any) -> None:
    classes = {
        "album": {"kind": "jobs", "rate_rps": 1.0, "job": {"requests": 3, "deadline_s": 1.0, "mean_accuracy": 0.8}}
    }
    loaded = instances.workload({"s": ["m"]}, specs={"m": FUSED}, classes=classes, accuracy=None)
    with pytest.raises(InputError, match="mean_accuracy"):
        solve(loaded, instances.profile(TIMES, ACCURACY), plan_dir=instances.folder)
