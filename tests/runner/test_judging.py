"""Verdicts from loads made by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from inferplan.runner.intervals import Interval
from inferplan.runner.judging import floor_verdict, judge
from inferplan.runner.loadgen import Load
from inferplan.runner.requests import Requests
from inferplan.runner.stalls import Watched
from inferplan.runner.verify import RunSettings
from inferplan.spec.plan import LoadedPlan, Verdict
from inferplan.spec.report import RunReport

Deploy = Callable[..., LoadedPlan]


@pytest.fixture
def report(deploy: Deploy) -> Callable[..., RunReport]:
    """Judges 2000 requests of class web (90 % within 0.2 s) with latencies of 0.1 s, changed as asked."""
    loaded = deploy("scale", slo_s=0.2)

    def make(
        latency_s: Any = 0.1,
        *,
        count: int = 2000,
        lateness_s: float = 0.0,
        failed: int = 0,
        wrong: int = 0,
        answered: int = 20,
        notes: list[str] | None = None,
        crashes: list[str] | None = None,
        router_cores: float = 0.1,
        watched: Watched | None = None,
    ) -> RunReport:
        latency = np.broadcast_to(np.asarray(latency_s, float), count).copy()
        latency[:failed] = np.inf
        answers = {i: {"y": np.full(4, -1.0 if i < wrong else np.nan)} for i in range(answered)}
        requests = Requests(loaded, 0)
        for i in range(wrong, answered):
            answers[i] = {"y": 2 * requests._examples[i].input["x"]}
        load = Load(
            np.linspace(0, 10, count), latency, np.full(count, lateness_s), count - failed, failed, 0,
            {"broken": failed} if failed else {}, answers,
        )  # fmt: skip
        settings = RunSettings(10.0, 0, 1.0, 1.0, 1.0, False, 60.0)
        return judge(
            loaded, settings, notes or [], requests, {"web": load}, {}, {"double-only": crashes or []}, router_cores,
            watched or Watched(),
        )  # fmt: skip

    return make


Make = Callable[..., RunReport]


def verdict(report: RunReport) -> Verdict:
    assert report.verdict == report.classes["web"].verdict
    return report.verdict


def test_promises_kept(report: Make) -> None:
    result = report()
    web = result.classes["web"]
    assert verdict(result) == "met"
    assert web.reasons == [
        "p90 latency 100 ms [100 ms, 100 ms], promised 200 ms",
        "right 1 on all 20 labelled requests, promised 0.9",
    ]
    assert (web.offered_rps, web.throughput_rps.measured.value, web.within_slo) == (200.0, 200.0, 1.0)
    assert web.latency_p50_s.ratio == pytest.approx(10)


def test_a_router_without_a_core_to_spare_is_named(report: Make) -> None:
    assert report(router_cores=0.65).notes == []
    busy = report(router_cores=0.83)
    assert busy.router_cores == 0.83
    assert busy.notes == ["router and load generator kept 0.83 of a core busy: they are part of these latencies"]


def test_stalls_that_were_seen_are_reported(report: Make) -> None:
    assert report().router_stalls is None
    watched = Watched()
    watched.add(0.5, ())
    for index in range(500):
        watched.add(0.0, [1e-3 * (1 + index % 2)])
    found = report(watched=watched).router_stalls
    assert found is not None
    assert (found.watched_s, found.per_s, found.share) == pytest.approx((0.5, 1000.0, 1.5))
    assert found.lengths_s == [0.001] * 100 + [0.002] * 100
    few = Watched()
    few.add(2.0, (3e-4,))
    seen = report(watched=few).router_stalls
    assert seen is not None
    assert (seen.per_s, seen.share, *seen.lengths_s) == pytest.approx((0.5, 1.5e-4, 3e-4))


def test_latency_promises_broken_or_not_to_be_told(report: Make) -> None:
    rng = np.random.default_rng(0)
    assert verdict(report(np.where(rng.random(2000) < 0.2, 0.3, 0.1))) == "missed"
    near = report(np.where(rng.random(2000) < 0.1, 0.3, 0.1))
    assert verdict(near) == "undecided"
    assert "2000 requests cannot tell, run for longer" in near.classes["web"].reasons[0]
    assert verdict(report(np.where(rng.random(2000) < 0.05, 0.3, 0.1))) == "met"
    assert verdict(report(count=20)) == "undecided"
    nothing = report(count=0)
    assert verdict(nothing) == "undecided"
    assert "no request was scheduled" in nothing.classes["web"].reasons[0]


def test_requests_without_answer_count_as_slow(report: Make) -> None:
    lost = report(failed=400)
    assert verdict(lost) == "missed"
    assert "400 of 2000 requests got no answer" in lost.classes["web"].reasons[0]
    assert lost.classes["web"].latency_p90_s.measured.value is None
    assert lost.classes["web"].latency_mean_s.measured.value is None
    assert lost.classes["web"].errors == {"broken": 400}


def test_a_late_generator_may_be_why_a_promise_was_missed_and_never_why_it_was_kept(report: Make) -> None:
    slow = report(0.5, lateness_s=0.021)
    assert verdict(slow) == "undecided"
    assert "load generator itself was 21 ms late at p90" in slow.classes["web"].reasons[0]
    assert verdict(report(0.5, lateness_s=0.019)) == "missed"
    kept = report(0.1, lateness_s=0.021)
    assert verdict(kept) == "met"
    assert "which is part of these latencies" in kept.classes["web"].reasons[0]


def test_what_was_not_the_plan_is_not_met_or_missed_by_the_plan(report: Make) -> None:
    crashed = report(crashes=["double-only[0] was killed by SIGSEGV"])
    assert verdict(crashed) == "undecided"
    assert crashed.notes == ["replica double-only[0] was killed by SIGSEGV"]
    shared = ["oversubscribed: the plan's replicas need 9 cores"]
    assert verdict(report(0.5, notes=shared)) == "undecided"
    assert verdict(report(0.1, notes=shared)) == "met"


def test_accuracy_promises(report: Make) -> None:
    result = report(wrong=3)
    web = result.classes["web"]
    assert verdict(result) == "missed"
    assert web.reasons[1] == "right 0.85 on all 20 labelled requests, promised 0.9"
    assert web.accuracy is not None
    assert web.accuracy.compared.measured.lower is not None
    assert web.accuracy.compared.measured.lower < 0.7
    assert verdict(report(wrong=1)) == "met"
    assert verdict(report(wrong=1, answered=10)) == "undecided"
    assert verdict(report(answered=0)) == "undecided"


@pytest.mark.parametrize(
    ("interval", "floor", "answered", "lower_is_better", "expected"),
    [
        (Interval(0.95, 0.90, 0.98), 0.95, 100, False, "met"),
        (Interval(0.949, 0.90, 0.98), 0.95, 100, False, "missed"),
        (Interval(0.95, 0.90, 0.98), 0.94, 50, False, "undecided"),
        (Interval(0.95, 0.94, 0.96), 0.94, 50, False, "met"),
        (Interval(0.95, 0.94, 0.96), 0.97, 50, False, "missed"),
        (Interval(0.05, 0.04, 0.06), 0.05, 100, True, "met"),
        (Interval(0.05, 0.04, 0.06), 0.03, 50, True, "missed"),
        (Interval(0.05, 0.04, 0.06), 0.07, 50, True, "met"),
        (Interval(0.05, 0.04, 0.06), 0.051, 50, True, "undecided"),
        (Interval(None), 0.5, 0, False, "undecided"),
    ],
)
def test_floors_on_some_or_all_of_a_hundred_labelled_requests(
    interval: Interval, floor: float, answered: int, lower_is_better: bool, expected: Verdict
) -> None:
    assert floor_verdict(interval, floor, answered, 100, lower_is_better) == expected


def test_a_stage_scores_for_a_pipeline_of_one_stage_without_code(deploy: Deploy) -> None:
    code = "class Whole:\n def __init__(self, c): pass\nclass Double(Whole):\n"
    code += " def examples(self): return [(1, 1), (2, 2), (3, 3)]\n"
    code += " def score(self, p, t): return {'right': [float(a == b) for a, b in zip(p, t)]}\n"
    loaded = deploy("scale", code=code)
    requests = Requests(loaded, 0)
    assert (len(requests), requests.metric) == (3, "right")
    truths = [example.truth for example in requests._examples]
    scores = requests.score({0: truths[0], 2: -1})
    assert scores is not None
    assert scores.values.tolist() == [1.0, 0.0]
