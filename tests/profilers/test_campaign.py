"""A profiling campaign goes on whatever its variants do, whenever it is stopped, and measures nothing twice."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from inferplan.profilers.campaign import plan_campaign, run_campaign
from inferplan.profilers.jobs import CampaignSummary, Event, Inspecting, JobFinished, JobProgress, JobStarted, PointJob
from inferplan.profilers.points import measure_point
from inferplan.profilers.progress import duration_s
from inferplan.profilers.stopping import StoppingRule
from inferplan.profilers.store import ProfileStore
from inferplan.spec.document import LoadedWorkload, load_workload
from inferplan.spec.errors import InputError
from inferplan.spec.profile import Profile, read_profile
from inferplan.spec.rows import Measurement

MakeWorkload = Callable[..., LoadedWorkload]
DOUBLE: dict[str, Any] = {"model": "double.onnx"}


def trick(name: str) -> dict[str, Any]:
    return {"model": "double.onnx", "params": {"trick": name}}


def profiled(loaded: LoadedWorkload, path: Path, **options: Any) -> tuple[CampaignSummary, Profile]:
    summary = run_campaign(plan_campaign(loaded, path, **options))
    return summary, read_profile(path)


def only(profile: Profile, variant: str) -> Measurement:
    (row,) = [row for row in profile.measurements if row.key.variant == variant]
    return row


def test_a_whole_profile(make_workload: MakeWorkload, tmp_path: Path) -> None:
    loaded = make_workload(profile={"batch_sizes": [1, 4], "processes": 3})
    summary, profile = profiled(loaded, tmp_path / "p")
    assert (summary.measured, summary.evaluated, summary.resumed, summary.failed) == (2, 1, 0, ())
    assert [row.key.batch for row in sorted(profile.measurements, key=lambda m: m.key.batch)] == [1, 4]
    for row in profile.measurements:
        assert row.status == "ok"
        assert row.processes == 3
        assert row.stopped_by == "percentile"
        assert row.n >= 11
        assert row.service.p50_s is not None
        assert row.infer.mean_s is not None
        assert row.service.mean_s is not None
        assert 0 < row.infer.mean_s < row.service.mean_s
        assert row.service.p999_s is None
        assert row.throughput_per_s == pytest.approx(row.key.batch / row.service.mean_s)
        assert row.peak_rss_bytes is not None
        assert 2**20 < row.peak_rss_bytes < 2**30
        assert json.loads(row.key.input_shape) == {"x": [row.key.batch, 4]}
        samples = profile.samples(row.key)
        assert samples is not None
        assert len(samples.service_s) == row.n
        assert set(samples.process) == {0, 1, 2}
        assert samples.service_s.mean() == pytest.approx(row.service.mean_s)
    (accuracy,) = profile.accuracy
    assert (accuracy.value, accuracy.n, accuracy.method, accuracy.upper) == (1.0, 20, "wilson", 1.0)


@pytest.mark.parametrize(
    ("name", "status", "words"),
    [
        ("crash", "failed", "SIGSEGV"),
        ("raise", "failed", r"ValueError: no good \(tricks.py:\d+\)"),
        ("exit", "failed", "code 3"),
        ("wide", "failed", "x"),
        ("hang", "timeout", "no answer within 5 s"),
        ("eat", "out_of_memory", "more than the limit of 300 MiB"),
        ("gulp", "out_of_memory", "Unable to allocate"),
    ],
)
def test_a_variant_that_misbehaves_is_a_row_and_the_run_goes_on(
    make_workload: MakeWorkload, tmp_path: Path, name: str, status: str, words: str
) -> None:
    settings = {"load_timeout_s": 5.0, "memory_limit_bytes": 300 * 2**20}
    loaded = make_workload({"bad": trick(name), "good": DOUBLE}, profile=settings)
    summary, profile = profiled(loaded, tmp_path / "p")
    bad = only(profile, "bad")
    assert bad.status == status
    assert only(profile, "good").status == "ok"
    assert re.search(words, bad.reason), bad.reason
    assert {failed.name for failed in summary.failed} == {"s=bad accuracy", "s=bad batch 1"}
    values = {row.variant: (row.status, row.value) for row in profile.accuracy}
    assert values == {"bad": (status, None), "good": ("ok", 1.0)}


@pytest.mark.parametrize("content", [b"", b"this is no model", None], ids=["empty", "text", "truncated"])
def test_a_file_that_is_no_model_is_a_row(make_workload: MakeWorkload, tmp_path: Path, content: bytes | None) -> None:
    loaded = make_workload()
    root = tmp_path / "workload"
    whole = (root / "double.onnx").read_bytes()
    (root / "bad.onnx").write_bytes(whole[: len(whole) // 2] if content is None else content)
    loaded = make_workload({"bad": {"model": "bad.onnx"}, "good": DOUBLE})
    _, profile = profiled(loaded, tmp_path / "p")
    assert only(profile, "bad").status == "failed"
    assert "bad.onnx: onnxruntime cannot load it" in only(profile, "bad").reason
    assert only(profile, "good").status == "ok"


def test_a_crash_at_one_batch_size_spares_the_others(make_workload: MakeWorkload, tmp_path: Path) -> None:
    loaded = make_workload({"v": trick("crash-on-4")}, profile={"batch_sizes": [1, 2]})
    _, profile = profiled(loaded, tmp_path / "p")
    assert [row.status for row in profile.measurements] == ["ok", "ok"]


def test_printing_and_reading_stage_code_disturbs_nothing(make_workload: MakeWorkload, tmp_path: Path) -> None:
    _, profile = profiled(make_workload({"v": trick("print")}), tmp_path / "p")
    assert only(profile, "v").status == "ok"


def test_failed_points_are_tried_again_only_when_asked(make_workload: MakeWorkload, tmp_path: Path) -> None:
    loaded = make_workload({"bad": trick("raise")})
    first, _ = profiled(loaded, tmp_path / "p")
    second, _ = profiled(loaded, tmp_path / "p")
    third, _ = profiled(loaded, tmp_path / "p", retry_failed=True)
    assert [len(s.failed) for s in (first, second, third)] == [2, 0, 2]
    assert {failed.name for failed in second.failed_before} == {"s=bad accuracy", "s=bad batch 1"}
    assert second.resumed == 2


def test_what_is_there_is_not_measured_again(make_workload: MakeWorkload, tmp_path: Path) -> None:
    loaded = make_workload()
    _, before = profiled(loaded, tmp_path / "p")
    summary, after = profiled(loaded, tmp_path / "p")
    assert (summary.measured, summary.evaluated, summary.resumed) == (0, 0, 2)
    assert before.sha256 == after.sha256


def test_a_changed_model_is_measured_again_and_named(make_workload: MakeWorkload, tmp_path: Path) -> None:
    loaded = make_workload()
    profiled(loaded, tmp_path / "p")
    model = tmp_path / "workload" / "double.onnx"
    changed = onnx.load(str(model))
    changed.producer_name = "someone else"
    onnx.save(changed, str(model))
    campaign = plan_campaign(loaded, tmp_path / "p")
    assert len(campaign.jobs) == 2
    assert campaign.notes == ("s=double is measured again: the model changed",)
    run_campaign(campaign)
    assert len(read_profile(tmp_path / "p").measurements) == 2
    assert len({row.evidence_sha256 for row in read_profile(tmp_path / "p").accuracy}) == 1


def test_changed_stage_code_is_measured_again(make_workload: MakeWorkload, tmp_path: Path) -> None:
    profiled(make_workload(), tmp_path / "p")
    code = tmp_path / "workload" / "tricks.py"
    changed = make_workload(code=code.read_text() + "\n# another comment\n")
    assert plan_campaign(changed, tmp_path / "p").notes == ("s=double is measured again: the stage code changed",)


def test_keys_are_the_same_every_time(make_workload: MakeWorkload, tmp_path: Path) -> None:
    loaded = make_workload(profile={"batch_sizes": [1, 2]})
    _, one = profiled(loaded, tmp_path / "one")
    _, two = profiled(loaded, tmp_path / "two")
    assert [row.key for row in one.measurements] == [row.key for row in two.measurements]
    assert [row.key.id() for row in one.measurements] == [row.key.id() for row in two.measurements]
    assert [row.evidence_sha256 for row in one.accuracy] == [row.evidence_sha256 for row in two.accuracy]


def test_too_few_samples_give_no_percentile(make_workload: MakeWorkload, tmp_path: Path) -> None:
    slow = {"model": "double.onnx", "params": {"slow_s": 0.05}}
    loaded = make_workload({"slow": slow}, profile={"max_time_s": 0.4, "percentile": 99})
    _, profile = profiled(loaded, tmp_path / "p")
    row = only(profile, "slow")
    assert row.stopped_by == "time"
    assert row.n < 11
    assert (row.service.p50_s, row.service.p99_s, row.service.p99_upper_s) == (None, None, None)
    assert row.service.mean_s == pytest.approx(0.05, rel=0.5)


def test_a_fixed_batch_size_is_the_only_one_measured(
    make_workload: MakeWorkload, make_model: Callable[..., Path], tmp_path: Path
) -> None:
    make_model("workload/fixed.onnx", shape=[2, 4])
    loaded = make_workload({"v": {"model": "fixed.onnx"}}, profile={"batch_sizes": [1, 2, 4]})
    summary, profile = profiled(loaded, tmp_path / "p")
    assert only(profile, "v").key.batch == 2
    assert summary.notes == ("s=v takes batches of 2 only",)
    assert profile.accuracy[0].value == 1.0


def test_a_stage_without_code_is_measured_with_made_up_inputs(
    make_workload: MakeWorkload, make_model: Callable[..., Path], tmp_path: Path
) -> None:
    make_model("workload/free.onnx", shape=["N", 3, "W"])
    variant = {"model": "free.onnx", "input_shapes": {"x": [3, 5]}}
    loaded = make_workload(pipeline={"code": None, "stages": {"s": {"variants": {"v": variant}}}})
    _, profile = profiled(loaded, tmp_path / "p")
    assert json.loads(only(profile, "v").key.input_shape) == {"x": [1, 3, 5]}
    assert only(profile, "v").key.code_sha256 == ""


def test_a_free_dimension_is_asked_for_before_anything_is_measured(
    make_workload: MakeWorkload, make_model: Callable[..., Path], tmp_path: Path
) -> None:
    make_model("workload/free.onnx", shape=["N", 3, "W"])
    variants = {"v": {"model": "free.onnx"}, "w": {"model": "free.onnx"}}
    loaded = make_workload(pipeline={"code": None, "stages": {"s": {"variants": variants}}})
    with pytest.raises(InputError) as caught:
        plan_campaign(loaded, tmp_path / "p")
    assert len(caught.value.details) == 2
    assert "`input_dims: {W: 128}`" in caught.value.details[0]
    assert caught.value.details[0].count("variant v") == 1
    assert not (tmp_path / "p").exists()


def test_data_that_cannot_be_loaded_is_said_before_anything_is_measured(
    make_workload: MakeWorkload, tmp_path: Path
) -> None:
    code = """
class Stage:
    def __init__(self, context): pass
    def examples(self): raise FileNotFoundError('run prepare')
"""
    loaded = make_workload(code=code, pipeline={"code": None})
    with pytest.raises(InputError, match="FileNotFoundError: run prepare"):
        plan_campaign(loaded, tmp_path / "p")


def test_threads_beyond_the_cores_are_left_out(make_workload: MakeWorkload, tmp_path: Path) -> None:
    loaded = make_workload(profile={"threads": [1, 4096]})
    campaign = plan_campaign(loaded, tmp_path / "p")
    assert [left.name for left in campaign.left_out] == ["4096 threads"]
    with pytest.raises(InputError, match="cores"):
        plan_campaign(make_workload(profile={"threads": [4096]}), tmp_path / "p")


def test_a_metric_that_score_does_not_return_is_a_row(make_workload: MakeWorkload, tmp_path: Path) -> None:
    stage = {"code": "tricks:Stage", "metric": {"name": "f1"}, "variants": {"v": DOUBLE}}
    _, profile = profiled(make_workload(pipeline={"stages": {"s": stage}}), tmp_path / "p")
    rows = {row.metric: row for row in profile.accuracy}
    assert rows["right"].value == 1.0
    assert rows["f1"].status == "failed"
    assert "score returns right, but not the metric f1" in rows["f1"].reason


def test_events_tell_what_happens(make_workload: MakeWorkload, tmp_path: Path) -> None:
    events: list[Event] = []
    campaign = plan_campaign(make_workload({"a": DOUBLE, "b": DOUBLE}), tmp_path / "p", on_event=events.append)
    run_campaign(campaign, events.append)
    assert [event.name for event in events if isinstance(event, Inspecting)] == ["s=a", "s=b"]
    started = [event.name for event in events if isinstance(event, JobStarted)]
    assert started == ["s=a accuracy", "s=a batch 1", "s=b accuracy", "s=b batch 1"]
    finished = [event for event in events if isinstance(event, JobFinished)]
    assert [event.done for event in finished] == [1, 2, 3, 4]
    assert {event.total for event in finished} == {4}
    assert finished[-1].left_s == 0.0
    assert all(0 <= event.share <= 1 and event.left_s >= 0 for event in events if isinstance(event, JobProgress))


def test_a_time_budget_measures_the_most_telling_first(make_workload: MakeWorkload, tmp_path: Path) -> None:
    loaded = make_workload(
        {"a": DOUBLE, "b": DOUBLE}, profile={"batch_sizes": [1, 2, 4], "percentile": 99, "min_time_s": 2.0}
    )
    everything = plan_campaign(loaded, tmp_path / "p")
    names = [job.name for job in everything.planned]
    assert names[:4] == ["s=a accuracy", "s=a batch 1", "s=b accuracy", "s=b batch 1"]
    assert names[4:] == ["s=a batch 4", "s=b batch 4", "s=a batch 2", "s=b batch 2"]
    # Enough for six of the eight on this machine as it is now, if they take no more time than is honest.
    budget_s = sum(duration_s(job, 0.0) for job in everything.jobs[:6]) * 1.02
    tight = plan_campaign(loaded, tmp_path / "p", time_budget_s=budget_s)
    assert tight.estimate_s <= budget_s
    assert list(tight.over_budget) == names[len(tight.planned) :]
    assert tight.over_budget
    summary = run_campaign(tight)
    # A machine that is faster than expected reaches further; what is left out is always the least telling.
    left_out = [left.name for left in summary.left_out]
    assert left_out == names[len(names) - len(left_out) :]
    # One that is faster still need not cut anything short; the next test has no choice.
    cut_short = [row for row in read_profile(tmp_path / "p").measurements if row.stopped_by == "budget"]
    # Without a budget, what was cut short is measured again; with one it counts as done.
    again = {job.name for job in plan_campaign(loaded, tmp_path / "p").jobs}
    assert {f"s={row.key.variant} batch {row.key.batch}" for row in cut_short} <= again
    assert "s=a batch 1" not in {job.name for job in plan_campaign(loaded, tmp_path / "p", time_budget_s=budget_s).jobs}


def test_a_budget_that_leaves_no_time_still_measures_a_median(make_workload: MakeWorkload, tmp_path: Path) -> None:
    loaded = make_workload(profile={"percentile": 99, "min_time_s": 2.0})
    (point,) = [job for job in plan_campaign(loaded, tmp_path / "p").jobs if isinstance(job, PointJob)]
    rule = StoppingRule.of(loaded.workload.profile, 0.0)
    row, _ = measure_point(point.task, rule, "budget", lambda share: None)
    assert (row.status, row.stopped_by) == ("ok", "budget")
    assert 11 <= row.n < 662
    assert row.service.p50_s is not None


def test_the_device_is_asked_for_where_several_fit(make_workload: MakeWorkload, tmp_path: Path) -> None:
    boxes = {name: {"price_usd_per_h": 1.0, "cores": 2} for name in ("small", "large")}
    boxes["other"] = {"price_usd_per_h": 1.0, "cores": 2, "like": {"device": "edge/small"}}
    loaded = make_workload(tiers={"edge": {"devices": boxes}})
    with pytest.raises(InputError, match=r"--device edge/small \| edge/large"):
        plan_campaign(loaded, tmp_path / "p")
    assert plan_campaign(loaded, tmp_path / "p", device="edge/large").device == "edge/large"
    with pytest.raises(InputError, match="like edge/small"):
        plan_campaign(loaded, tmp_path / "p", device="edge/other")
    with pytest.raises(InputError, match="there is no device"):
        plan_campaign(loaded, tmp_path / "p", device="edge/none")


def test_a_missing_part_is_measured_again(make_workload: MakeWorkload, tmp_path: Path) -> None:
    loaded = make_workload(profile={"batch_sizes": [1, 2]})
    _, before = profiled(loaded, tmp_path / "p")
    damaged, lost = (row.key.id() for row in before.measurements)
    part = tmp_path / "p" / "measurements" / f"{damaged}.parquet"
    part.write_bytes(part.read_bytes()[:100])
    (tmp_path / "p" / "samples" / f"{lost}.parquet").write_bytes(b"PAR1 no more")
    summary, after = profiled(loaded, tmp_path / "p")
    assert summary.measured == 2
    assert [text.split(": ")[0] for text in summary.damaged] == [
        str(part),
        str(tmp_path / "p" / "samples" / f"{lost}.parquet"),
    ]
    assert part.with_name(part.name + ".damaged").exists()
    assert [row.key for row in after.measurements] == [row.key for row in before.measurements]


RUN = """
import sys
from pathlib import Path
from inferplan.profilers.campaign import plan_campaign, run_campaign
from inferplan.profilers.jobs import JobFinished
from inferplan.spec.document import load_workload
def tell(event):
    if isinstance(event, JobFinished):
        print("finished", event.name, flush=True)
run_campaign(plan_campaign(load_workload(Path(sys.argv[1])), Path(sys.argv[2])), tell)
print("done", flush=True)
"""


def started(loaded: LoadedWorkload, path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", RUN, str(loaded.path), str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finished_names(process: subprocess.Popen[str], count: int) -> list[str]:
    assert process.stdout is not None
    names = []
    for line in process.stdout:
        if line.startswith("finished "):
            names.append(line.removeprefix("finished ").strip())
        if len(names) == count:
            break
    return names


def worker_pids(marker: str) -> list[int]:
    """Measuring processes on the machine that were started with the environment variable `marker`."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            is_worker = b"inferplan.profilers.worker" in (folder / "cmdline").read_bytes()
            if is_worker and marker.encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def wait_until_gone(marker: str) -> bool:
    deadline = time.monotonic() + 10
    while worker_pids(marker):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.fixture
def slow_workload(make_workload: MakeWorkload) -> LoadedWorkload:
    variants = {name: {"model": "double.onnx", "params": {"slow_s": 0.02}} for name in "abc"}
    return make_workload(variants, profile={"min_time_s": 0.6})


def test_killed_at_any_moment_it_goes_on_where_it_was(
    slow_workload: LoadedWorkload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kill -9 twice in the middle: nothing is measured twice, nothing is lost, no process is left over."""
    monkeypatch.setenv("INFERPLAN_TEST", str(tmp_path))
    path = tmp_path / "p"
    names: list[str] = []
    for _ in range(2):
        process = started(slow_workload, path)
        names += finished_names(process, 2)
        time.sleep(0.3)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert wait_until_gone(str(tmp_path))
        assert read_profile(path).damaged == ()
    process = started(slow_workload, path)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    names += [line.removeprefix("finished ") for line in out.splitlines() if line.startswith("finished ")]
    wanted = [f"s={v} {what}" for v in "abc" for what in ("accuracy", "batch 1")]
    assert Counter(names) == Counter(wanted)
    profile = read_profile(path)
    assert sorted(row.key.variant for row in profile.measurements) == ["a", "b", "c"]
    assert sorted(row.variant for row in profile.accuracy) == ["a", "b", "c"]
    assert not list(path.rglob("*.partial"))


def test_ctrl_c_ends_the_measuring_process_and_keeps_what_is_there(
    slow_workload: LoadedWorkload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INFERPLAN_TEST", str(tmp_path))
    process = started(slow_workload, tmp_path / "p")
    finished_names(process, 2)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert "KeyboardInterrupt" in err
    assert worker_pids(str(tmp_path)) == []
    assert len(read_profile(tmp_path / "p").measurements) == 1
    with ProfileStore(tmp_path / "p"):
        pass


def test_a_second_profile_of_the_same_store_is_refused(slow_workload: LoadedWorkload, tmp_path: Path) -> None:
    process = started(slow_workload, tmp_path / "p")
    try:
        finished_names(process, 1)
        with pytest.raises(InputError, match=f"being written by process {process.pid}"):
            plan_campaign(slow_workload, tmp_path / "p")
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


FULL_DISK = """
import resource, sys
from pathlib import Path
from inferplan.profilers.campaign import plan_campaign, run_campaign
from inferplan.spec.document import load_workload
from inferplan.spec.errors import InputError
campaign = plan_campaign(load_workload(Path(sys.argv[1])), Path(sys.argv[2]))
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
try:
    run_campaign(campaign)
except InputError as error:
    print(error)
"""


def test_a_full_disk_is_said_and_nothing_is_lost(make_workload: MakeWorkload, tmp_path: Path) -> None:
    """Files above 14 kB cannot be written: rows fit, the samples of a point with many do not."""
    loaded = make_workload({"a": DOUBLE, "b": DOUBLE}, profile={"min_time_s": 1.0})
    path = tmp_path / "p"
    command = [sys.executable, "-c", FULL_DISK, str(loaded.path), str(path), "14000"]
    out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert "no room left to write" in out.stdout
    assert "everything measured so far is kept" in out.stdout
    profile = read_profile(path)
    assert [row.variant for row in profile.accuracy] == ["a"]
    assert (profile.measurements, profile.damaged) == ((), ())
    assert not list(path.rglob("*.partial"))
    summary, _ = profiled(load_workload(loaded.path), path)
    assert (summary.measured, summary.evaluated) == (2, 1)
