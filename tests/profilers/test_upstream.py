"""A stage past the entry without examples is measured with what its upstream stages send it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from inferplan.profilers.campaign import plan_campaign, run_campaign
from inferplan.profilers.inputs import PipelineSpec
from inferplan.profilers.upstream import upstream_of
from inferplan.spec.document import LoadedWorkload
from inferplan.spec.errors import InputError
from inferplan.spec.profile import read_profile

MakeWorkload = Callable[..., LoadedWorkload]

CHAIN = """
import numpy as np

class Crop:
    '''What goes from stage to stage: pickled by the name of its class.'''
    def __init__(self, value):
        self.value = value

class First:
    def __init__(self, context):
        self.params = context.params
    def examples(self):
        return [(float(i), 2.0 * i) for i in range(20)]
    def preprocess(self, inputs):
        print("noise on standard output")
        return {"x": np.array([[i] * 4 for i in inputs], np.float32)}
    def postprocess(self, inputs, outputs):
        if self.params.get("trick") == "fail" and len(inputs) > 1:
            raise ValueError("no good")
        return [float(row[0]) for row in outputs["y"]]
    def route(self, stage_input, prediction):
        return [Crop(prediction)] * self.params.get("sends", 3)
    def score(self, predictions, truths):
        return {"right": [float(p == t) for p, t in zip(predictions, truths)]}

class Then:
    def __init__(self, context):
        pass
    def preprocess(self, inputs):
        return {"x": np.array([[item.value] * 4 for item in inputs], np.float32)}
    def postprocess(self, inputs, outputs):
        return [float(row[0]) for row in outputs["y"]]

class Whole:
    def __init__(self, context):
        pass
    def examples(self):
        return [(float(i), None) for i in range(100)]
"""


def chain(make_workload: MakeWorkload, params: dict[str, Any]) -> LoadedWorkload:
    variant = {"model": "double.onnx"}
    stages = {
        "first": {
            "code": "tricks:First",
            "metric": {"name": "right"},
            "variants": {"v": {**variant, "params": params}, "w": variant},
        },
        "then": {"code": "tricks:Then", "variants": {"v": variant}},
    }
    edges = [{"from": "first", "to": "then", "fan_out": "measured"}]
    return make_workload(code=CHAIN, pipeline={"stages": stages, "edges": edges})


def test_it_is_measured_with_what_arrives(make_workload: MakeWorkload, tmp_path: Path) -> None:
    loaded = chain(make_workload, {})
    summary = run_campaign(plan_campaign(loaded, tmp_path / "p"))
    assert summary.failed == ()
    (row,) = [row for row in read_profile(tmp_path / "p").measurements if row.key.stage == "then"]
    assert row.status == "ok"
    assert json.loads(row.key.input_shape) == {"x": [1, 4]}
    assert plan_campaign(loaded, tmp_path / "p").jobs == ()


def test_the_first_requests_go_through_the_first_choices(make_workload: MakeWorkload) -> None:
    workload = chain(make_workload, {}).workload
    upstream = upstream_of(workload, "then", "cpu")
    assert upstream["combination"] == {"first": "v", "then": "v"}
    spec = PipelineSpec(str(workload.root), workload.pipeline.code, workload.pipeline.params, upstream)
    arriving = [example.input.value for example in spec.arriving()]
    # 64 requests, each sent on three times, doubled by the model.
    assert arriving == [2.0 * i for i in range(64) for _ in range(3)]
    text = json.dumps(spec.to_json())
    assert json.dumps(PipelineSpec(**json.loads(text)).to_json()) == text


@pytest.mark.parametrize(
    ("params", "words"),
    [({"trick": "fail"}, "those before it fail: ValueError: no good"), ({"sends": 0}, "send it nothing")],
)
def test_what_cannot_be_had_is_said_before_anything_is_measured(
    make_workload: MakeWorkload, tmp_path: Path, params: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError) as caught:
        plan_campaign(chain(make_workload, params), tmp_path / "p")
    (detail,) = caught.value.details
    assert detail.startswith("stage then: it has no examples of its own, and those before it")
    assert words in detail
