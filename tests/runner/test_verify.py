"""Plans really run: replicas as processes, traffic, answers, verdicts, and what can go wrong on the way."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import psutil
import pytest

from inferplan.runner.events import Event, ReplicaEnded, ReplicaReady, RunProgress
from inferplan.runner.verify import run_plan
from inferplan.spec.errors import InputError
from inferplan.spec.plan import LoadedPlan, write_plan
from inferplan.spec.report import RunReport

Deploy = Callable[..., LoadedPlan]
TWENTY = "range(20)"


def replicas_left() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "inferplan.runner.worker" in child.cmdline()]


def test_a_run_measures_scores_and_judges(deploy: Deploy) -> None:
    events: list[Event] = []
    loaded = deploy("scale", rate_rps=100, slo_s=5, classes=("web", "slow"))
    report = run_plan(loaded, 2.0, seed=3, warmup_s=0.5, oversubscribe=True, on_event=events.append)
    web, slow = report.classes["web"], report.classes["slow"]
    assert web.latency_slo_s is not None
    # On a busy machine requests resemble their neighbours so much that two seconds of them cannot tell; never a miss.
    told = web.latency_slo_s.measured.upper is not None
    assert report.verdict == web.verdict == ("met" if told else "undecided"), web.reasons
    assert slow.verdict == "met"
    assert web.requests == web.completed == pytest.approx(200, abs=70)
    assert slow.requests == slow.completed == 20
    assert slow.reasons == ["no latency was promised"]
    assert web.accuracy is not None
    assert (web.accuracy.compared.measured.value, web.accuracy.n, web.accuracy.of) == (1.0, 20, 20)
    p50, p90, slo = (one.measured.value for one in (web.latency_p50_s, web.latency_p90_s, web.latency_slo_s))
    assert p50 is not None
    assert p90 == slo
    assert 0 < p50 <= (p90 or 0)
    assert web.latency_p50_s.ratio == pytest.approx(p50 / 0.01)
    assert 0 < report.router_cores < 2
    option = report.options["double-only"]
    assert option.calls == sum(size * count for size, count in option.batch_sizes.items())
    assert option.calls == pytest.approx(web.requests + slow.requests, abs=10)
    assert max(option.batch_sizes) <= 4
    assert option.crashes == []
    assert RunReport.model_validate(json.loads(report.model_dump_json()), strict=False) == report
    assert isinstance(events[0], ReplicaReady)
    assert (events[0].replica, events[0].ready, events[0].total) == ("double-only[0]", 1, 1)
    phases = [event.phase for event in events if isinstance(event, RunProgress)]
    assert phases[0] == "warm-up"
    assert "measuring" in phases
    assert replicas_left() == []


def test_a_stall_shows_in_the_latency_of_everything_it_held_up(deploy: Deploy) -> None:
    """One second's stall in a run of three: a third of the requests are late, though one call alone was slow."""
    loaded = deploy("scale", rate_rps=100, slo_s=0.2, classes=("web",))
    code = (loaded.path.parent / "stages.py").read_text()
    loaded = deploy("scale", rate_rps=100, slo_s=0.2, code=code.replace(TWENTY, "[*range(1, 200), -4]"))
    report = run_plan(loaded, 3.0, warmup_s=0.0)
    web = report.classes["web"]
    assert web.latency_p90_s.measured.value is not None
    assert web.latency_p90_s.measured.value > 0.4
    assert web.lateness.p99_s < 0.3  # the generator went on sending
    assert web.within_slo is not None
    assert web.within_slo < 0.9
    assert web.verdict in ("missed", "undecided")


def test_a_replica_that_dies_fails_what_it_held_and_the_run_says_so(deploy: Deploy) -> None:
    code = (deploy("scale").path.parent / "stages.py").read_text().replace(TWENTY, "[*range(169), -1]")
    loaded = deploy("scale", rate_rps=100, slo_s=5, code=code, options={"double": {"replicas": 2}})
    events: list[Event] = []
    report = run_plan(loaded, 2.0, warmup_s=0.0, oversubscribe=True, on_event=events.append)
    [crash] = report.options["double-only"].crashes
    assert "was killed by SIGKILL" in crash
    web = report.classes["web"]
    assert 1 <= web.failed <= 4
    assert web.completed == web.requests - web.failed
    assert any("with it in hand" in reason for reason in web.errors)
    assert web.verdict == report.verdict == "undecided"
    assert [event.restarting for event in events if isinstance(event, ReplicaEnded)] == [False]


def test_without_replicas_left_requests_fail_at_once(deploy: Deploy) -> None:
    code = (deploy("scale").path.parent / "stages.py").read_text().replace(TWENTY, "[-1, -1]")
    started = time.monotonic()
    report = run_plan(deploy("scale", rate_rps=50, slo_s=5, code=code), 1.0, warmup_s=0.0, drain_s=60)
    assert time.monotonic() - started < 30
    web = report.classes["web"]
    assert (web.completed, web.failed, web.unfinished, web.verdict) == (0, web.requests, 0, "missed")
    assert "no replica of double-only is left" in web.errors
    assert web.latency_p50_s.measured.value is None


def test_a_replica_can_be_started_again(deploy: Deploy) -> None:
    code = (deploy("scale").path.parent / "stages.py").read_text().replace(TWENTY, "[*range(99), -1]")
    events: list[Event] = []
    loaded = deploy("scale", rate_rps=50, slo_s=5, code=code)
    report = run_plan(loaded, 2.0, warmup_s=0.0, restart=True, drain_s=30, on_event=events.append)
    assert [event.restarting for event in events if isinstance(event, ReplicaEnded)][:1] == [True]
    web = report.classes["web"]
    assert web.completed > web.failed
    assert "no replica of double-only is left" not in web.errors


def test_unfinished_requests_are_counted_as_slower_than_any(deploy: Deploy) -> None:
    code = (deploy("scale").path.parent / "stages.py").read_text().replace(TWENTY, "[-4]")
    report = run_plan(deploy("scale", rate_rps=50, slo_s=0.5, code=code), 1.0, warmup_s=0.0, drain_s=0.2)
    web = report.classes["web"]
    assert web.unfinished == web.requests - web.completed > 10
    assert web.latency_p90_s.measured.value is None
    assert web.verdict == "missed"
    assert replicas_left() == []


def test_replicas_that_cannot_start_are_explained(deploy: Deploy) -> None:
    loaded = deploy("scale", options={"double": {"replicas": 2}})
    (loaded.path.parent / "double.onnx").write_bytes(b"no model")
    with pytest.raises(InputError, match=r"replica double-only\[[01]\] cannot start: .*onnxruntime cannot load"):
        run_plan(loaded, 1.0, oversubscribe=True)
    sleepy = "import time\nclass Whole:\n def examples(self): return [(1, 1)]\n def __init__(self, c): pass\n"
    sleepy += "class Double:\n def __init__(self, c): time.sleep(60)\n"
    with pytest.raises(InputError, match=r"was not ready within 1 s"):
        run_plan(deploy("scale", code=sleepy), 1.0, start_limit_s=1.0)
    dying = sleepy.replace("time.sleep(60)", "__import__('os').abort()")
    with pytest.raises(InputError, match=r"was killed by SIGABRT while starting"):
        run_plan(deploy("scale", code=dying), 1.0)
    assert replicas_left() == []


def test_what_cannot_be_run_is_refused(deploy: Deploy) -> None:
    with pytest.raises(InputError, match="need 1000 cores"):
        run_plan(deploy("scale", options={"double": {"replicas": 1000}}), 1.0)
    for duration in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="duration_s must be a positive number"):
            run_plan(deploy("scale"), duration)
    empty = "class Whole:\n def __init__(self, c): pass\nclass Double(Whole):\n def preprocess(self, i): pass\n"
    with pytest.raises(InputError, match="scale has no requests to send"):
        run_plan(deploy("scale", code=empty), 1.0)


def test_without_labelled_requests_random_ones_are_sent(deploy: Deploy) -> None:
    bare = "class Whole:\n def __init__(self, c): pass\nclass Double(Whole): pass\n"
    report = run_plan(deploy("scale", slo_s=5, code=bare), 1.0, warmup_s=0.0)
    web = report.classes["web"]
    assert web.completed == web.requests > 10
    assert web.accuracy is None
    assert "random ones were sent" in report.notes[-1]
    assert web.reasons[1] == "an accuracy of 0.9 was promised, but nothing scored the answers"


RUN = """\
import sys
from pathlib import Path
from inferplan.runner.verify import run_plan
from inferplan.spec.document import load_workload
from inferplan.spec.plan import LoadedPlan, read_plan

def told(event):
    print(type(event).__name__, flush=True)

folder = Path(sys.argv[1])
loaded = LoadedPlan(read_plan(folder / "plan.yaml"), folder / "plan.yaml", load_workload(folder))
print("starting", flush=True)
try:
    run_plan(loaded, 60.0, oversubscribe=True, on_event=told)
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize("moment", ["starting", "RunProgress"])
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL])
def test_no_process_is_left_after_a_run_is_ended(deploy: Deploy, moment: str, ending: signal.Signals) -> None:
    loaded = deploy("scale", options={"double": {"replicas": 2}})
    write_plan(loaded.plan, loaded.path)
    process = subprocess.Popen([sys.executable, "-c", RUN, str(loaded.path.parent)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == moment:
            break
    parent = psutil.Process(process.pid)
    while len(children := parent.children()) < 2:
        time.sleep(0.01)
    process.send_signal(ending)
    rest = process.communicate(timeout=20)[0]
    assert not psutil.wait_procs(children, timeout=10)[1]
    if ending == signal.SIGINT:
        assert process.returncode == 0
        assert "interrupted" in rest
