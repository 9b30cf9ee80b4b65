"""A workload with two modalities, the whole way: plan with a subset, run it, export it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import yaml

from inferplan.exporters.triton import export_triton
from inferplan.runner.verify import run_plan
from inferplan.solvers.planner import solve
from inferplan.spec.document import LoadedWorkload, load_workload
from inferplan.spec.errors import InputError
from inferplan.spec.modelfiles import model_sha256
from inferplan.spec.plan import Plan, load_plan, write_plan
from inferplan.spec.profile import Profile
from inferplan.spec.rows import AccuracyRow, Measurement, PointKey, Quantiles, Samples

CODE = '''
import numpy as np


class Watch:
    """Adds up what its modalities say; the answer names them, so that it shows which were read."""

    def __init__(self, context):
        self.modalities = context.modalities

    def preprocess(self, inputs):
        return {name: np.stack([item[name] for item in inputs]) for name in self.modalities}

    def postprocess(self, inputs, outputs):
        return [("+".join(self.modalities), float(row[0])) for row in outputs["y"]]


class Whole:
    def __init__(self, context):
        pass

    def examples(self):
        rows = [{"acc": np.full(3, i, np.float32), "gyro": np.full(3, 100 + i, np.float32)} for i in range(8)]
        return [(row, ("acc", 2.0 * i)) for i, row in enumerate(rows)]

    def score(self, answers, truths):
        return {"right": [float(answer == truth) for answer, truth in zip(answers, truths)]}

    def encode(self, answers):
        return {"y": np.array([[value] for _, value in answers], np.float32)}
'''
SUBSETS = {"acc+gyro": (0.02, 0.95), "acc": (0.002, 0.9), "gyro": (0.001, 0.6)}


class Unsampled(Profile):
    """A profile without raw samples."""

    def samples(self, key: PointKey) -> Samples | None:
        return None


def write_model(path: Path, inputs: list[str]) -> None:
    """y = 2 x (sum of the inputs), on float32 [n, 3]."""
    import onnx
    from onnx import TensorProto, helper

    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3]) for name in inputs]
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])
    two = helper.make_tensor("two", TensorProto.FLOAT, [1], [2.0])
    nodes = [helper.make_node("Sum", inputs, ["sum"]), helper.make_node("Mul", ["sum", "two"], ["y"])]
    graph = helper.make_graph(nodes, "tiny", values, [result], [two])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))


@pytest.fixture
def watch(tmp_path: Path) -> LoadedWorkload:
    for subset in SUBSETS:
        write_model(tmp_path / f"{subset}.onnx", subset.split("+"))
    (tmp_path / "watch_code.py").write_text(CODE)
    modalities = {
        "reads": ["acc", "gyro"],
        "optional": ["acc", "gyro"],
        "models": {subset: f"{subset}.onnx" for subset in SUBSETS if "+" not in subset},
    }
    tensors = [{"name": name, "dtype": "float32", "shape": [3]} for name in ("acc", "gyro")]
    document = {
        "apiVersion": "inferplan/v1",
        "name": "watch",
        "pipeline": {
            "code": "watch_code:Whole",
            "inputs": tensors,
            "outputs": [{"name": "y", "dtype": "float32", "shape": [1]}],
            "stages": {
                "tell": {
                    "code": "watch_code:Watch",
                    "metric": {"name": "right"},
                    "modalities": ["acc", "gyro"],
                    "variants": {"net": {"model": "acc+gyro.onnx", "modalities": modalities}},
                }
            },
        },
        "tiers": {"edge": {"devices": {"cpu": {"price_usd_per_h": 0.1, "cores": 1, "count": 8}}}},
        "classes": {"web": {"rate_rps": 60.0, "slo": {"latency_s": 2.0}, "accuracy": {"floor": 0.8}}},
        "accuracy": {"metric": {"name": "right"}, "composition": "product"},
    }
    path = tmp_path / "workload.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return load_workload(path)


def profile_of(loaded: LoadedWorkload) -> Unsampled:
    measured, scored = [], []
    for subset, (mean_s, right) in SUBSETS.items():
        sha256 = model_sha256(loaded.workload, "tell", f"net@{subset}")
        key = PointKey("tell", "net", subset, sha256, "", "onnxruntime", "1", "{}", "cpu", "edge/cpu", "f", 1, 1, "{}")
        measured.append(Measurement(key, "ok", n=1000, service=Quantiles(mean_s=mean_s, std_s=0.1 * mean_s)))
        scored.append(AccuracyRow("stage", "tell", "net", "{}", subset, "right", right, None, None, 8, "wilson", ""))
    return Unsampled(loaded.path.parent, tuple(measured), tuple(scored), (), hashlib.sha256(b"p").hexdigest())


def test_a_subset_is_planned_run_and_exported(watch: LoadedWorkload, tmp_path: Path) -> None:
    plan = solve(watch, profile_of(watch), plan_dir=tmp_path)
    ((name, option),) = plan.options.items()
    assert (option.variant, option.modalities) == ("net", ["acc"])

    write_plan(plan, tmp_path / "plan.yaml")
    loaded = load_plan(tmp_path / "plan.yaml")
    report = run_plan(loaded, 2.0, seed=0, warmup_s=0.5, oversubscribe=True)
    accuracy = report.classes["web"].accuracy
    assert accuracy is not None
    assert accuracy.compared.measured.value == 1.0, "the replica was given the accelerometer alone"
    assert report.options[name].variant == "net@acc"

    export_triton(loaded.plan, loaded.workload.workload, tmp_path / "out")
    assert (tmp_path / "out" / name / "1/model.onnx").read_bytes() == (tmp_path / "acc.onnx").read_bytes()
    spec = json.loads((tmp_path / "out/watch/1/pipeline.json").read_text())
    assert spec["stages"][0]["choices"][0]["modalities"] == ["acc"]


def test_the_model_of_the_subset_is_the_one_that_counts(watch: LoadedWorkload, tmp_path: Path) -> None:
    plan: Plan = solve(watch, profile_of(watch), plan_dir=tmp_path)
    write_plan(plan, tmp_path / "plan.yaml")
    other = tmp_path / "acc+gyro.onnx"
    other.write_bytes(other.read_bytes() + b"\x00\x00")
    assert load_plan(tmp_path / "plan.yaml").plan.options.keys() == plan.options.keys()
    changed = tmp_path / "acc.onnx"
    changed.write_bytes(changed.read_bytes() + b"\x00\x00")
    with pytest.raises(InputError, match=r"acc\.onnx of option .* has changed since planning"):
        load_plan(tmp_path / "plan.yaml")
