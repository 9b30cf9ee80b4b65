"""Every choice is measured: modality subsets with their own files or shared ones, on every provider that works."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from inferplan.profilers.campaign import plan_campaign, run_campaign
from inferplan.profilers.jobs import PointJob
from inferplan.profilers.subjects import lineage
from inferplan.spec.document import LoadedWorkload
from inferplan.spec.errors import InputError
from inferplan.spec.profile import Profile, read_profile
from inferplan.spec.stage import Recipe, Variant

MakeWorkload = Callable[..., LoadedWorkload]

SENSES = """
import numpy as np

class Stage:
    '''The sum of what it is given of two numbers; without b it is right for half of the examples.'''
    def __init__(self, context):
        self.given = context.modalities
    def examples(self):
        return [({"a": float(i), "b": float(i % 2)}, 2.0 * (i + i % 2)) for i in range(20)]
    def preprocess(self, inputs):
        sums = [sum(item[name] for name in self.given) for item in inputs]
        return {"x": np.array([[s] * 4 for s in sums], np.float32)}
    def postprocess(self, inputs, outputs):
        return [float(row[0]) for row in outputs["y"]]
    def route(self, stage_input, prediction):
        return [prediction] * len(self.given)
    def score(self, predictions, truths):
        return {"right": [float(p == t) for p, t in zip(predictions, truths)]}

class Next:
    def __init__(self, context):
        pass
    def examples(self):
        return [(1.0, 1.0)]
    def passthrough(self, inputs):
        return list(inputs)

class Whole:
    def __init__(self, context):
        pass
    def examples(self):
        return [({"a": 3.0, "b": 1.0}, [8.0, 8.0]), ({"a": 2.0, "b": 0.0}, [4.0, 4.0])]
    def join(self, request, results):
        return list(results["t"])
    def score(self, answers, truths):
        return {"all_right": [float(a == t) for a, t in zip(answers, truths)]}
"""


def senses(make_workload: MakeWorkload, models: dict[str, str], **profile: Any) -> LoadedWorkload:
    variant = {"model": "double.onnx", "modalities": {"reads": ["a", "b"], "optional": ["b"], "models": models}}
    stage = {
        "code": "tricks:Stage", "modalities": ["a", "b"], "metric": {"name": "right"}, "variants": {"v": variant},
    }  # fmt: skip
    after = {"code": "tricks:Next", "variants": {"pass": {"runtime": "skip"}}}
    return make_workload(
        code=SENSES,
        profile=profile,
        pipeline={"stages": {"s": stage, "t": after}, "edges": [{"from": "s", "to": "t", "fan_out": "measured"}]},
        accuracy={"metric": {"name": "all_right"}, "composition": "table"},
    )


def profiled(loaded: LoadedWorkload, path: Path, **options: Any) -> Profile:
    summary = run_campaign(plan_campaign(loaded, path, **options))
    assert summary.failed == ()
    return read_profile(path)


def test_every_subset_has_latency_accuracy_flow_and_combinations(
    make_workload: MakeWorkload, make_model: Callable[..., Path], tmp_path: Path
) -> None:
    make_model("workload/only-a.onnx", factor=2.0, shape=["batch", 4])
    profile = profiled(senses(make_workload, {"a": "only-a.onnx"}), tmp_path / "p")
    points = {row.choice: row for row in profile.measurements if row.key.stage == "s"}
    assert set(points) == {"v@a", "v@a+b"}
    assert points["v@a"].key.model_sha256 != points["v@a+b"].key.model_sha256
    values = {row.choice: row.value for row in profile.accuracy if row.scope == "stage" and row.metric == "right"}
    assert values == {"v@a": 0.5, "v@a+b": 1.0}
    flows = {row.modalities: row.fan_out_mean for row in profile.flows}
    assert flows == {"a": 1.0, "a+b": 2.0}
    whole = {row.stages()["s"]: row.value for row in profile.accuracy if row.scope == "pipeline"}
    assert whole == {"v@a": 0.0, "v@a+b": 1.0}


def test_subsets_of_one_shared_file_are_told_apart(make_workload: MakeWorkload, tmp_path: Path) -> None:
    loaded = senses(make_workload, {})
    profile = profiled(loaded, tmp_path / "p")
    rows = [row for row in profile.measurements if row.key.stage == "s"]
    assert len({row.key.model_sha256 for row in rows}) == 1
    assert {row.key.modalities for row in rows} == {"a", "a+b"}
    values = {row.choice: row.value for row in profile.accuracy if row.metric == "right"}
    assert values == {"v@a": 0.5, "v@a+b": 1.0}
    again = plan_campaign(loaded, tmp_path / "p")
    assert (again.jobs, again.notes) == ((), ())


def test_a_subset_whose_file_changed_is_measured_again_and_the_others_are_not(
    make_workload: MakeWorkload, make_model: Callable[..., Path], tmp_path: Path
) -> None:
    make_model("workload/only-a.onnx", shape=["batch", 4])
    loaded = senses(make_workload, {"a": "only-a.onnx"})
    profiled(loaded, tmp_path / "p")
    make_model("workload/only-a.onnx", shape=["other", 4])
    plan = plan_campaign(loaded, tmp_path / "p")
    assert [job.name for job in plan.jobs if isinstance(job, PointJob)] == ["s=v@a batch 1"]
    assert plan.notes == ("s=v@a is measured again: the model changed",)


def test_options_make_another_point(make_workload: MakeWorkload, tmp_path: Path) -> None:
    plain = {"model": "double.onnx"}
    basic = {**plain, "options": {"graph_optimization": "basic"}}
    profiled(make_workload({"v": plain}), tmp_path / "p")
    plan = plan_campaign(make_workload({"v": basic}), tmp_path / "p")
    assert len(plan.jobs) == 2
    assert plan.notes == ("s=v is measured again: the runtime's options changed",)
    row = max(profiled(make_workload({"v": basic}), tmp_path / "p").measurements, key=lambda r: r.measured_at)
    assert json.loads(row.key.options) == {"graph_optimization": "basic"}


def test_a_variant_made_from_another_says_so(make_workload: MakeWorkload, tmp_path: Path) -> None:
    made = {
        "model": "double.onnx", "precision": "int8", "parent": "v", "recipe": {"name": "q", "settings": {"bits": 8}},
    }  # fmt: skip
    profile = profiled(make_workload({"v": {"model": "double.onnx"}, "w": made}), tmp_path / "p")
    lineages = {row.key.variant: row.lineage for row in profile.measurements}
    assert lineages["v"] == ""
    assert json.loads(lineages["w"]) == {
        "parent": "v", "precision": "int8", "recipe": {"name": "q", "settings": {"bits": 8}},
    }  # fmt: skip


def test_lineage_is_the_same_text_every_time() -> None:
    variant = Variant(model="m", parent="p", recipe=Recipe(name="r", settings={"b": 1, "a": 2}))
    assert lineage(variant) == lineage(variant.model_copy(update={"license": "MIT"}))
    assert list(json.loads(lineage(variant))) == ["parent", "precision", "recipe"]


def test_more_confidence_is_measured_again_and_less_is_not(make_workload: MakeWorkload, tmp_path: Path) -> None:
    def campaign(confidence: float) -> LoadedWorkload:
        return make_workload(profile={"confidence": confidence, "min_time_s": 0.01})

    (row,) = profiled(campaign(0.9), tmp_path / "p").measurements
    assert row.confidence == 0.9
    assert row.service.p50_upper_s is not None
    assert plan_campaign(campaign(0.8), tmp_path / "p").jobs == ()
    assert [job.name for job in plan_campaign(campaign(0.99), tmp_path / "p").jobs] == ["s=double batch 1"]
    (row,) = profiled(campaign(0.99), tmp_path / "p").measurements
    assert row.confidence == 0.99
    assert plan_campaign(campaign(0.9), tmp_path / "p").jobs == ()


def test_a_provider_that_is_not_there_is_left_out_with_a_note(make_workload: MakeWorkload, tmp_path: Path) -> None:
    loaded = make_workload(profile={"providers": ["cuda", "cpu"]})
    plan = plan_campaign(loaded, tmp_path / "p")
    assert plan.notes == ("provider cuda does not belong to edge/box, which is a CPU",)
    assert {job.task.key.provider for job in plan.jobs if isinstance(job, PointJob)} == {"cpu"}
    with pytest.raises(InputError, match="none of cuda runs on edge/box"):
        plan_campaign(make_workload(profile={"providers": ["cuda"]}), tmp_path / "p")
