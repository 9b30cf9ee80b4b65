"""Evaluations through a campaign: computed metrics, kept predictions, modality subsets. Inferences are counted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inferplan.profilers.accuracy import evaluate_stage, kept_predictions
from inferplan.profilers.campaign import plan_campaign, run_campaign
from inferplan.profilers.jobs import AccuracyJob, CampaignSummary
from inferplan.spec.document import LoadedWorkload
from inferplan.spec.predictions import from_text
from inferplan.spec.profile import Profile, read_profile
from inferplan.spec.rows import AccuracyRow
from inferplan.spec.tables import read_predictions

MakeWorkload = Callable[..., LoadedWorkload]

CODE = """
import numpy as np

class Guess:
    '''Numbers 0..9 -> class scores of three classes; the right one is n % 3, `poor` takes 2 for 1.'''
    def __init__(self, context): self.context = context
    def examples(self): return [(n, n % 3) for n in range(10)]
    def passthrough(self, inputs):
        with open(self.context.root / "calls.txt", "a") as file:
            file.writelines(f"{self.context.variant} {n}\\n" for n in inputs)
        picks = [n % 3 for n in inputs]
        if self.context.params.get("poor"): picks = [2 if pick == 1 else pick for pick in picks]
        return [np.eye(3, dtype=np.float32)[pick] for pick in picks]
    def route(self, number, scores): return [int(np.argmax(scores))]

class Odd(Guess):
    '''Whether a class is odd.'''
    def examples(self): return [(c, c % 2) for c in range(3)]
    def passthrough(self, inputs):
        with open(self.context.root / "calls.txt", "a") as file:
            file.writelines(f"{self.context.variant} {c}\\n" for c in inputs)
        return [c % 2 for c in inputs]

class Scored(Guess):
    def score(self, predictions, truths):
        return {"own": [float(np.argmax(p) == t) for p, t in zip(predictions, truths)]}

class Opaque(Guess):
    def passthrough(self, inputs): return [object() for n in inputs]
    def score(self, predictions, truths): return {"own": [1.0 for p in predictions]}

class Remembers(Scored):
    '''Scores only after it has run.'''
    def passthrough(self, inputs):
        self.ran = True
        return super().passthrough(inputs)
    def score(self, predictions, truths):
        assert self.ran
        return super().score(predictions, truths)

class Whole:
    def __init__(self, context): pass
    def examples(self): return [(n, (n % 3) % 2) for n in range(10)]

class Sum:
    '''Adds what it is given of two numbers.'''
    def __init__(self, context): self.context = context
    def examples(self): return [({"acc": n, "gyro": 1}, n + 1) for n in range(8)]
    def passthrough(self, inputs):
        return [sum(item[name] for name in self.context.modalities) for item in inputs]

class Sums:
    def __init__(self, context): pass
    def examples(self): return [({"acc": n, "gyro": 1}, n + 1) for n in range(8)]
"""
SKIP = {"runtime": "skip"}
POOR = {"runtime": "skip", "params": {"poor": True}}
TOP1 = {"name": "top1", "compute": "top1"}


@pytest.fixture
def one_stage(make_workload: MakeWorkload) -> Callable[..., LoadedWorkload]:
    def make(metric: dict[str, Any], code: str = "Guess", **variants: Any) -> LoadedWorkload:
        stage = {"code": f"tricks:{code}", "metric": metric, "variants": variants or {"good": SKIP, "poor": POOR}}
        return make_workload(code=CODE, pipeline={"stages": {"s": stage}}, profile=QUICK)

    return make


@pytest.fixture
def two_stages(make_workload: MakeWorkload) -> Callable[..., LoadedWorkload]:
    def make(metric: dict[str, Any], stage_metric: dict[str, Any] = TOP1) -> LoadedWorkload:
        stages = {
            "guess": {"code": "tricks:Guess", "metric": stage_metric, "variants": {"good": SKIP, "poor": POOR}},
            "odd": {"code": "tricks:Odd", "metric": stage_metric, "variants": {"only": SKIP}},
        }
        return make_workload(
            code=CODE,
            pipeline={"code": "tricks:Whole", "stages": stages, "edges": [{"from": "guess", "to": "odd"}]},
            accuracy={"metric": metric, "composition": "table"},
            profile=QUICK,
        )

    return make


QUICK = {"min_time_s": 0.001, "neighbours": "none", "processes": 1}


@pytest.fixture
def profiled(tmp_path: Path) -> Callable[..., tuple[CampaignSummary, Profile, list[str]]]:
    """Profiles a workload: the summary, the profile, and the calls that were made after the planning."""

    def profile(loaded: LoadedWorkload) -> tuple[CampaignSummary, Profile, list[str]]:
        calls = tmp_path / "workload" / "calls.txt"
        campaign = plan_campaign(loaded, tmp_path / "p")
        calls.unlink(missing_ok=True)
        summary = run_campaign(campaign)
        made = calls.read_text().splitlines() if calls.exists() else []
        return summary, read_profile(tmp_path / "p"), made

    return profile


def rows_of(profile: Profile, scope: str = "stage") -> dict[tuple[str, str], AccuracyRow]:
    return {(row.choice or row.combination, row.metric): row for row in profile.accuracy if row.scope == scope}


def test_a_built_in_metric_needs_no_score_and_predictions_are_kept(
    one_stage: Callable[..., LoadedWorkload], profiled: Callable[..., tuple[CampaignSummary, Profile, list[str]]]
) -> None:
    summary, profile, _ = profiled(one_stage(TOP1))
    assert not summary.failed
    rows = rows_of(profile)
    assert rows["good", "top1"].value == 1.0
    poor = rows["poor", "top1"]
    assert (poor.value, poor.n, poor.method) == (0.7, 10, "wilson")
    scores = profile.scores(poor)
    assert scores is not None
    assert scores.values["top1"].tolist() == [1, 0, 1, 1, 0, 1, 1, 0, 1, 1]
    assert scores.ids == tuple(map(str, range(10)))
    kept = profile.predictions(poor)
    assert kept is not None
    second = from_text(kept.predictions[1])
    assert second.dtype == np.float32
    assert second.tolist() == [0, 0, 1]
    assert kept.truths[:4] == ("0", "1", "2", "0")


def test_a_new_metric_needs_no_inference(
    one_stage: Callable[..., LoadedWorkload], profiled: Callable[..., tuple[CampaignSummary, Profile, list[str]]]
) -> None:
    profiled(one_stage({"name": "own"}, "Scored"))
    summary, profile, calls = profiled(one_stage({"name": "f1", "compute": "f1"}, "Scored"))
    assert calls == []
    assert summary.evaluated == 2
    rows = rows_of(profile)
    # Classes 0 and 2 of `poor`: 4 of 4, then 3 right, 3 taken for it, none missed; class 1 is never said.
    assert rows["poor", "f1"].value == pytest.approx((1 + 6 / 9 + 0) / 3)
    # What `score` returns is there as before, of the same state.
    assert rows["poor", "own"].value == 0.7
    assert len({row.evidence_sha256 for row in rows.values() if row.choice == "poor"}) == 1
    summary, _, calls = profiled(one_stage({"name": "f1", "compute": "f1"}, "Scored"))
    assert (summary.evaluated, calls) == (0, [])


def test_a_changed_function_is_applied_to_what_is_kept(
    one_stage: Callable[..., LoadedWorkload],
    profiled: Callable[..., tuple[CampaignSummary, Profile, list[str]]],
    tmp_path: Path,
) -> None:
    file = tmp_path / "workload" / "lenient.py"
    file.parent.mkdir()
    file.write_text("def near(predictions, truths): return [1.0] * len(truths)\n")
    metric = {"name": "near", "compute": "lenient:near"}
    _, profile, calls = profiled(one_stage(metric))
    assert rows_of(profile)["poor", "near"].value == 1.0
    assert calls
    file.write_text("def near(predictions, truths): return [float(t > 0) for t in truths]\n")
    _, profile, calls = profiled(one_stage(metric))
    assert rows_of(profile)["poor", "near"].value == 0.6
    assert calls == []


def test_changed_stage_code_is_run_again(
    one_stage: Callable[..., LoadedWorkload],
    profiled: Callable[..., tuple[CampaignSummary, Profile, list[str]]],
    tmp_path: Path,
) -> None:
    profiled(one_stage(TOP1, good=SKIP))
    _, _, calls = profiled(one_stage(TOP1, good={"runtime": "skip", "params": {"poor": True}}))
    assert len(calls) >= 10


def test_code_that_cannot_score_what_is_kept_runs_again(
    one_stage: Callable[..., LoadedWorkload], profiled: Callable[..., tuple[CampaignSummary, Profile, list[str]]]
) -> None:
    profiled(one_stage({"name": "own"}, "Remembers", good=SKIP))
    summary, profile, calls = profiled(one_stage(TOP1, "Remembers", good=SKIP))
    assert not summary.failed
    assert rows_of(profile)["good", "top1"].value == 1.0
    assert len(calls) == 10


def test_what_has_no_json_form_is_not_kept_and_said_so(
    one_stage: Callable[..., LoadedWorkload],
    profiled: Callable[..., tuple[CampaignSummary, Profile, list[str]]],
) -> None:
    summary, profile, _ = profiled(one_stage({"name": "own"}, "Opaque", good=SKIP))
    row = rows_of(profile)["good", "own"]
    assert row.value == 1.0
    assert profile.predictions(row) is None
    assert profile.scores(row) is not None
    (note,) = [note for note in summary.notes if "not kept" in note]
    assert "s=good accuracy: predictions are not kept: the prediction of example 0: a object cannot" in note


def test_a_metric_that_cannot_be_computed_is_a_row(
    one_stage: Callable[..., LoadedWorkload], profiled: Callable[..., tuple[CampaignSummary, Profile, list[str]]]
) -> None:
    summary, profile, _ = profiled(one_stage({"name": "auc", "compute": "auc"}, good=SKIP))
    row = rows_of(profile)["good", "auc"]
    assert (row.status, row.value, row.n) == ("failed", None, 0)
    assert "auc: prediction of example 0: expected a score, or the scores of two classes, got an array" in row.reason
    assert [failed.name for failed in summary.failed] == ["s=good accuracy"]


def test_end_to_end_metrics_are_computed_and_recomputed(
    two_stages: Callable[..., LoadedWorkload], profiled: Callable[..., tuple[CampaignSummary, Profile, list[str]]]
) -> None:
    summary, profile, _ = profiled(two_stages(TOP1))
    assert not summary.failed
    rows = {row.stages()["guess"]: row for row in rows_of(profile, "pipeline").values()}
    assert {name: row.value for name, row in rows.items()} == {"good": 1.0, "poor": 0.7}
    flow = {row.variant: row for row in profile.flows}["poor"]
    assert (flow.fan_out_mean, flow.n) == (1.0, 10)

    summary, profile, calls = profiled(two_stages({"name": "f1", "compute": "f1"}, {"name": "f1", "compute": "f1"}))
    assert (summary.evaluated, calls) == (5, [])
    rows = {row.stages()["guess"]: row for row in rows_of(profile, "pipeline").values()}
    # No answer of `poor` is odd: 7 of 10 truths are even, none of 3 odd ones is found.
    assert rows["poor"].value == pytest.approx((14 / 17 + 0) / 2)
    assert {row.variant: row for row in profile.flows}["poor"] == flow
    answers = read_predictions(profile.path, rows["poor"].evaluation())
    assert answers is not None
    assert [json.loads(text) for text in answers.predictions] == [0] * 10


def test_without_its_flows_a_choice_runs_again(
    two_stages: Callable[..., LoadedWorkload],
    profiled: Callable[..., tuple[CampaignSummary, Profile, list[str]]],
    tmp_path: Path,
) -> None:
    _, profile, _ = profiled(two_stages(TOP1))
    changed = two_stages(TOP1, {"name": "f1", "compute": "f1"})
    jobs = [job for job in plan_campaign(changed, tmp_path / "p").jobs if isinstance(job, AccuracyJob)]
    (job,) = [job for job in jobs if job.spec.variant == "good"]
    assert kept_predictions(profile, job) is not None
    for file in (tmp_path / "p" / "flows").glob("*.parquet"):
        file.unlink()
    bare = read_profile(tmp_path / "p")
    assert kept_predictions(bare, job) is None
    found = evaluate_stage(job, lambda share: None, None)
    assert [flow.target for flow in found.flows] == ["odd"]


def test_every_modality_subset_has_an_accuracy_of_its_own(
    make_workload: MakeWorkload, profiled: Callable[..., tuple[CampaignSummary, Profile, list[str]]]
) -> None:
    fused = {"runtime": "skip", "modalities": {"reads": ["acc", "gyro"], "optional": ["gyro"]}}
    stages = {
        "sum": {
            "code": "tricks:Sum",
            "modalities": ["acc", "gyro"],
            "metric": {"name": "mae", "compute": "mae", "direction": "minimize"},
            "variants": {"fused": fused},
        }
    }
    loaded = make_workload(
        code=CODE,
        pipeline={"code": "tricks:Sums", "stages": stages},
        accuracy={"metric": {"name": "same", "compute": "exact_match"}, "composition": "table"},
        profile=QUICK,
    )
    summary, profile, _ = profiled(loaded)
    assert not summary.failed
    rows = rows_of(profile)
    assert rows["fused@acc+gyro", "mae"].value == 0.0
    assert rows["fused@acc", "mae"].value == 1.0
    assert rows["fused@acc", "mae"].modalities == "acc"
    ends = {row.stages()["sum"]: row.value for row in rows_of(profile, "pipeline").values()}
    assert ends == {"fused@acc+gyro": 1.0, "fused@acc": 0.0}
