"""What is left of a campaign, as points are measured, glanced at, left out; and what is written as interpolated."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from inferplan.profilers.agenda import Agenda, Outlook
from inferplan.profilers.campaign import plan_campaign, run_campaign
from inferplan.profilers.glances import Glance, read_glances
from inferplan.profilers.jobs import Event, GlanceJob, Job, JobFinished, PointJob
from inferplan.profilers.points import PointTask
from inferplan.profilers.process import Limits
from inferplan.profilers.runtimes.executor import ExecutorSpec
from inferplan.profilers.stopping import StoppingRule
from inferplan.spec.document import LoadedWorkload, load_workload
from inferplan.spec.profile import Profile, read_profile
from inferplan.spec.rows import AccuracyRow, Measurement, PointKey, Quantiles

MakeWorkload = Callable[..., LoadedWorkload]
OUTLOOK = Outlook(0.15, math.inf, StoppingRule(64, 3, 1.0, 40.0), {("s", "top1"): 1.0})
ITEM_S = {"a": 0.001, "b": 0.0012, "c": 0.002, "d": 0.003}


def point(variant: str, batch: int, threads: int = 1, runtime: str = "onnxruntime") -> PointJob:
    key = PointKey(
        "s", variant, "", "m", "c", runtime, "1", "{}", "cpu", "edge/box", "f", batch, threads, f'{{"x": [{batch}]}}'
    )
    spec = ExecutorSpec("/", "s", variant, runtime, "m.onnx")
    level = (0, 0) if (batch, threads) == (1, 1) else (1 + threads, batch)
    return PointJob(PointTask(key, spec, None, Limits(1.0, 1)), level, 3.0, 0.01 * batch, 5.0)


def grid(batches: tuple[int, ...] = (1, 2, 8)) -> list[PointJob]:
    return sorted((point(v, b) for v in ITEM_S for b in batches), key=lambda job: job.level)


def seconds(job: PointJob) -> float:
    return ITEM_S[job.task.key.variant] * job.task.key.batch


def measured(job: PointJob, **fields: Any) -> Measurement:
    mean_s = seconds(job)
    times = Quantiles(mean_s=mean_s, std_s=0.1 * mean_s)
    return Measurement(job.task.key, "ok", n=64, processes=3, service=times, load_s=0.5, **fields)


def glances(job: GlanceJob) -> dict[str, Glance]:
    return {
        task.key.id(): Glance(1.05 * ITEM_S[task.key.variant] * task.key.batch, 8, 1000 * task.key.batch)
        for task in job.tasks
    }


def profile(*rows: Measurement, accuracy: tuple[AccuracyRow, ...] = ()) -> Profile:
    return Profile(Path("p"), rows, accuracy, (), "")


def work(agenda: Agenda, seen: dict[str, Glance] | None = None, by_the_way: bool = True) -> list[Job]:
    """Do everything: the jobs that were done, glances that were taken by the way after their points."""
    done: list[Job] = []
    while remaining := agenda.remaining():
        job = remaining[0]
        done.append(job)
        if isinstance(job, PointJob):
            beside = agenda.companion(job) if by_the_way else None
            agenda.finish(job, measured(job), None if beside is None else glances(beside))
            if beside is not None:
                done.append(beside)
                if seen is not None:
                    seen.update(glances(beside))
        elif isinstance(job, GlanceJob):
            found = glances(job)
            agenda.finish(job, seen=found)
            if seen is not None:
                seen.update(found)
    return done


def nothing_done(job: Job) -> bool:
    return False


def test_smallest_batches_then_glances_then_what_they_leave_open() -> None:
    agenda = Agenda(OUTLOOK, grid(), nothing_done, None, {})
    everything = agenda.remaining()
    assert len(everything) == 12
    assert [agenda.is_certain(job) for job in everything] == [True] * 4 + [False] * 8
    done = work(agenda, by_the_way=False)
    assert [job.name for job in done[:4]] == [f"s={v} batch 1" for v in "abcd"]
    assert [job.name for job in done[4:8]] == [f"s={v} a glance" for v in "abcd"]
    assert {job.name for job in done[8:]} == {f"s={v} batch 8" for v in "abcd"}
    assert agenda.interpolated_names() == {f"s={v} batch 2" for v in "abcd"}


def test_glances_are_taken_by_the_way_where_smallest_batches_are_measured() -> None:
    agenda = Agenda(OUTLOOK, grid(), nothing_done, None, {})
    fresh = Agenda(OUTLOOK, grid(), nothing_done, None, {})
    work_of_its_own = [job for job in work(fresh, by_the_way=False) if isinstance(job, GlanceJob)]
    done = work(agenda)
    taken = [job for job in done if isinstance(job, GlanceJob)]
    assert [job.name for job in done[:8]] == [f"s={v} {what}" for v in "abcd" for what in ("batch 1", "a glance")]
    assert {job.name for job in done[8:]} == {f"s={v} batch 8" for v in "abcd"}
    # No process has to be started for them.
    assert all(a.estimate_s < b.estimate_s for a, b in zip(taken, work_of_its_own, strict=True))
    assert agenda.interpolated_names() == fresh.interpolated_names()


def test_nothing_is_glanced_at_by_the_way_that_would_not_be_glanced_at_alone() -> None:
    def companions(outlook: Outlook, jobs: list[PointJob]) -> list[GlanceJob | None]:
        agenda = Agenda(outlook, jobs, nothing_done, None, {})
        return [agenda.companion(job) for job in jobs]

    assert not any(companions(dataclasses.replace(OUTLOOK, glances=False), grid()))
    assert not any(companions(dataclasses.replace(OUTLOOK, tolerance=0.0), grid()))
    assert not any(companions(OUTLOOK, grid((1,))))
    assert not any(companions(OUTLOOK, [job for job in grid() if job.task.key.variant in "ab"]))
    found = companions(OUTLOOK, grid())
    assert [one is not None for one in found] == [job.task.key.batch == 1 for job in grid()]


def test_without_glances_points_come_most_telling_first_and_what_was_seen_still_counts() -> None:
    plain = dataclasses.replace(OUTLOOK, glances=False)
    done = work(Agenda(plain, grid(), nothing_done, None, {}))
    assert [job.name for job in done] == [f"s={v} batch {b}" for b in (1, 8, 2) for v in "abcd"]
    seen: dict[str, Glance] = {}
    work(Agenda(OUTLOOK, grid(), nothing_done, None, {}), seen)
    agenda = Agenda(plain, grid(), nothing_done, None, seen)
    work(agenda)
    assert agenda.interpolated_names() == {f"s={v} batch 2" for v in "abcd"}


def test_rows_say_what_they_rest_on() -> None:
    agenda = Agenda(OUTLOOK, grid(), nothing_done, None, {})
    work(agenda)
    rows = {row.key.variant: row for row in agenda.interpolated()}
    ids = {point(v, b).task.key.id() for v in ITEM_S for b in (1, 8)}
    for variant, row in rows.items():
        assert (row.origin, row.status, row.n, row.processes) == ("interpolated", "ok", 0, 0)
        assert row.service.mean_s == pytest.approx(2 * ITEM_S[variant], rel=0.02)
        assert row.service.mean_lower_s is not None
        assert row.service.mean_upper_s is not None
        assert row.service.mean_lower_s <= row.service.mean_s <= row.service.mean_upper_s
        assert row.service.std_s == pytest.approx(0.1 * row.service.mean_s)
        assert (row.service.p50_s, row.service.p99_s, row.service.p99_upper_s) == (None, None, None)
        assert row.throughput_per_s == pytest.approx(2 / row.service.mean_s)
        assert (row.peak_rss_bytes, row.load_s) == (2000, 0.5)
        assert set(json.loads(row.source)) <= ids
        assert point(variant, 8).task.key.id() in json.loads(row.source)


def test_going_on_finds_everything_settled_and_rows_current() -> None:
    seen: dict[str, Glance] = {}
    first = Agenda(OUTLOOK, grid(), nothing_done, None, {})
    points = [job for job in work(first, seen) if isinstance(job, PointJob)]
    rows = [*(measured(job) for job in points), *first.interpolated()]
    ids = {job.task.key.id() for job in points}

    def done(job: Job) -> bool:
        return isinstance(job, PointJob) and job.task.key.id() in ids

    second = Agenda(OUTLOOK, grid(), done, profile(*rows), seen)
    assert second.remaining() == []
    assert second.interpolated() == []
    assert len(second.interpolated_names()) == 4
    # Another measured value below: the rows that rest on it are written anew.
    other = [
        dataclasses.replace(row, service=Quantiles(mean_s=0.0011)) if row.key == points[0].task.key else row
        for row in rows
    ]
    assert Agenda(OUTLOOK, grid(), done, profile(*other), seen).interpolated()
    # No tolerance: what was interpolated is measured.
    strict = Agenda(dataclasses.replace(OUTLOOK, tolerance=0.0), grid(), done, profile(*rows), seen)
    assert [job.name for job in strict.remaining()] == [f"s={v} batch 2" for v in "abcd"]
    assert strict.interpolated() == []


def test_a_point_with_too_poor_a_row_is_measured_again_and_not_predicted() -> None:
    poor = point("a", 2)
    rows = [measured(poor, stopped_by="budget")]
    agenda = Agenda(OUTLOOK, grid(), nothing_done, profile(*rows), {})
    assert poor in agenda.remaining()
    assert poor.name in {job.name for job in work(agenda)}
    assert poor.name not in agenda.interpolated_names()


def test_what_is_dropped_may_still_be_predicted_later() -> None:
    agenda = Agenda(OUTLOOK, grid(), nothing_done, None, {})
    dropped = next(job for job in agenda.remaining() if job.name == "s=d batch 2")
    agenda.drop(dropped)
    assert dropped not in agenda.remaining()
    work(agenda)
    assert dropped.name in agenda.interpolated_names()


def test_glances_that_fail_leave_everything_to_measuring() -> None:
    agenda = Agenda(OUTLOOK, grid((1, 8)), nothing_done, None, {})
    names = []
    while remaining := agenda.remaining():
        names.append(remaining[0].name)
        job = remaining[0]
        agenda.finish(job, measured(job) if isinstance(job, PointJob) else None)
    assert {f"s={v} batch {b}" for v in "abcd" for b in (1, 8)} <= set(names)
    assert len(names) == len(set(names))


def test_skip_variants_are_measured_once() -> None:
    jobs = [point("skip", batch, runtime="skip") for batch in (1, 2, 8)]
    agenda = Agenda(OUTLOOK, jobs, nothing_done, None, {})
    ITEM_S["skip"] = 1e-6
    try:
        assert [job.name for job in work(agenda)] == ["s=skip batch 1"]
    finally:
        del ITEM_S["skip"]
    (unused,) = agenda.unused()
    assert unused.name == "s=skip batch 2, 8"


def outlook_of(make_workload: MakeWorkload, device: str = "edge/box", **fields: Any) -> Outlook:
    return Outlook.of(make_workload(**fields).workload, device)


def test_outlook(make_workload: MakeWorkload) -> None:
    """The loosest promise counts, on the fastest device that stands for the measured one."""
    assert outlook_of(make_workload).limit_s == 1.0
    classes: dict[str, Mapping[str, Any]] = {
        "tight": {"rate_rps": 1.0, "slo": {"latency_s": 0.1}},
        "loose": {"rate_rps": 1.0, "slo": {"latency_s": 3.0}},
    }
    assert outlook_of(make_workload, classes=classes).limit_s == 3.0
    assert math.isinf(outlook_of(make_workload, classes={**classes, "any": {"rate_rps": 1.0}}).limit_s)
    boxes = {name: {"price_usd_per_h": 1.0, "cores": 2} for name in ("box", "fast")}
    boxes["fast"]["like"] = {"device": "edge/box", "slowdown": 0.5}
    assert outlook_of(make_workload, tiers={"edge": {"devices": boxes}}).limit_s == 2.0
    table = {"metric": {"name": "all_right"}, "composition": "table"}
    assert outlook_of(make_workload, accuracy={**table, "composition": "product"}).directions == {("s", "right"): 1.0}
    assert outlook_of(make_workload, accuracy=table).directions == {}


def test_a_campaign_interpolates_and_a_stricter_one_measures_the_rest(
    make_workload: MakeWorkload, tmp_path: Path
) -> None:
    """Variants that sleep: their service time is theirs whatever else the machine does."""
    variants = {
        n: {"model": "double.onnx", "params": {"slow_s": s}}
        for n, s in zip("abcd", (0.01, 0.012, 0.014, 0.016), strict=True)
    }
    loaded = make_workload(
        variants, profile={"batch_sizes": [1, 2, 4], "tolerance": 0.5, "min_time_s": 0.6, "neighbours": "none"}
    )
    path = tmp_path / "p"
    campaign = plan_campaign(loaded, path)
    assert campaign.certain_s < campaign.estimate_s
    assert campaign.outlook.glances
    assert not plan_campaign(loaded, path, time_budget_s=60.0).outlook.glances
    names: list[str] = []

    def tell(event: Event) -> None:
        if isinstance(event, JobFinished):
            names.append(event.name)

    summary = run_campaign(campaign, tell)
    assert summary.measured + summary.interpolated == 12
    assert summary.interpolated >= 2
    # Glances were taken in the processes of the smallest batches.
    assert not [name for name in names if "glance" in name]
    assert len(read_glances(path)) == 12
    assert summary.left_out == campaign.left_out
    rows = read_profile(path).measurements
    predicted = [row for row in rows if row.origin == "interpolated"]
    assert len(predicted) == summary.interpolated
    for row in predicted:
        assert row.service.mean_s == pytest.approx(variants[row.key.variant]["params"]["slow_s"], rel=0.5)
        assert set(json.loads(row.source)) <= {r.key.id() for r in rows if r.origin == "measured"}
    # Again: nothing to do, nothing written.
    again = run_campaign(plan_campaign(loaded, path))
    assert (again.measured, again.interpolated) == (0, summary.interpolated)
    assert read_profile(path).measurements == rows
    exact = load_workload(loaded.path, ["profile.tolerance=0"])
    rest = run_campaign(plan_campaign(exact, path))
    assert (rest.measured, rest.interpolated) == (summary.interpolated, 0)
    assert all(row.origin == "measured" for row in read_profile(path).measurements)
