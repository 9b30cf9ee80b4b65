"""Small deployed plans: two workloads written to disk with ONNX models of one operator, and plans made by hand.

`scale`: one stage that doubles a vector; requests are integers with known answers.
`graph`: split -> (twice, minus) -> add -> tail, with a fan-out of 0 to 3 and a join; `tail` may be skipped.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from inferplan.spec.document import load_workload
from inferplan.spec.plan import LoadedPlan, Plan, write_plan

SCALE = """\
apiVersion: inferplan/v1
name: scale
pipeline:
  code: stages:Whole
  inputs: [{name: x, dtype: float32, shape: [4]}]
  outputs: [{name: y, dtype: float32, shape: [4]}]
  stages:
    double:
      code: stages:Double
      metric: {name: right}
      variants:
        only: {model: double.onnx}
tiers: {edge: {devices: {cpu: {price_usd_per_h: 1, cores: 2, count: 4}}}}
classes:
  web:
    rate_rps: RATE
    slo: {percentile: 90, latency_s: SLO}
    accuracy: {floor: 0.9}
  slow:
    rate_rps: 10
    arrivals: {process: deterministic}
accuracy: {metric: {name: right}, composition: product}
"""

GRAPH = """\
apiVersion: inferplan/v1
name: graph
pipeline:
  code: stages:Graph
  stages:
    split: {code: stages:Split, variants: {only: {model: double.onnx}}}
    twice: {code: stages:Plain, variants: {only: {model: double.onnx}}}
    minus: {code: stages:Plain, variants: {only: {model: negate.onnx}}}
    add: {code: stages:Add, variants: {only: {model: add.onnx}}}
    tail: {code: stages:Tail, variants: {only: {model: double.onnx}, none: {runtime: skip}}}
  edges:
    - {from: split, to: twice, fan_out: measured}
    - {from: split, to: minus, fan_out: measured}
    - {from: twice, to: add}
    - {from: minus, to: add}
    - {from: add, to: tail}
tiers: {edge: {devices: {cpu: {price_usd_per_h: 1, cores: 8, count: 4}}}}
classes: {web: {rate_rps: RATE}}
"""

STAGES = '''\
import os, signal, time
import numpy as np

class Whole:
    def __init__(self, context): pass
    def examples(self): return [({"x": np.full(4, i, np.float32)}, 2.0 * i) for i in range(20)]
    def score(self, answers, truths): return {"right": [float(a["y"][0] == t) for a, t in zip(answers, truths)]}
    def decode(self, tensors):
        if (tensors["x"] == -3).any(): raise ValueError("x must not be -3")
        return [{"x": row} for row in tensors["x"]]

class Double:
    """Special values make trouble: -1 ends the process, -2 raises, -4 takes a second."""
    def __init__(self, context): print("user code that prints")
    def preprocess(self, inputs):
        values = [float(item["x"][0]) for item in inputs]
        if -1 in values: os.kill(os.getpid(), signal.SIGKILL)
        if -2 in values: raise ValueError("poisoned")
        if -4 in values: time.sleep(1)
        return {"x": np.stack([item["x"] for item in inputs])}

class Graph:
    def __init__(self, context): pass
    def examples(self): return [(np.full(4, i, np.float32), None) for i in range(12)]
    def join(self, request, results): return [float(value) for value in results["tail"]]

class Plain:
    def __init__(self, context): pass
    def preprocess(self, inputs): return {"x": np.stack(inputs)}
    def postprocess(self, inputs, outputs): return list(outputs["y"])

class Split(Plain):
    """Request i is cut into i mod 4 items."""
    def route(self, item, prediction): return [prediction + 100 * n for n in range(int(item[0]) % 4)]

class Add(Plain):
    def preprocess(self, inputs):
        return {"a": np.stack([i["twice"] for i in inputs]), "b": np.stack([i["minus"] for i in inputs])}

class Tail(Plain):
    def postprocess(self, inputs, outputs): return [float(row[0]) for row in outputs["y"]]
    def passthrough(self, inputs): return [float(item[0]) for item in inputs]
'''

DIGEST = "0" * 64
ESTIMATE = {"value": 0.01}
PREDICTED_CLASS = {f"latency_{part}_s": ESTIMATE for part in ("mean", "p50", "p90", "p99")}


def write_model(path: Path, operator: str, constant: float | None) -> None:
    """A model of one operator on float32 [n, 4]: `x` and a constant, or `a` and `b`; output `y`."""
    names = ["a", "b"] if constant is None else ["x"]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in names]
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])
    fixed = [] if constant is None else [helper.make_tensor("c", TensorProto.FLOAT, [1], [constant])]
    node = helper.make_node(operator, [*names, *(["c"] if fixed else [])], ["y"])
    graph = helper.make_graph([node], "tiny", values, [result], fixed)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))


Deploy = Callable[..., LoadedPlan]


@pytest.fixture
def deploy(deploy_in: Deploy, tmp_path: Path) -> Deploy:
    """Writes a workload and makes a plan: `deploy("scale", rate_rps=50, options={"double": {"replicas": 2}})`."""
    return partial(deploy_in, tmp_path)


@pytest.fixture(scope="session")
def deploy_in() -> Deploy:
    """As `deploy`, in a folder of choice."""

    def make(
        folder: Path,
        kind: str,
        *,
        rate_rps: float = 50,
        slo_s: float = 0.25,
        variants: Mapping[str, str] | None = None,
        options: Mapping[str, Mapping[str, Any]] | None = None,
        code: str = STAGES,
        classes: tuple[str, ...] = ("web",),
    ) -> LoadedPlan:
        (folder / "stages.py").write_text(code)
        write_model(folder / "double.onnx", "Mul", 2.0)
        write_model(folder / "negate.onnx", "Mul", -1.0)
        write_model(folder / "add.onnx", "Add", None)
        path = folder / "workload.yaml"
        text = {"scale": SCALE, "graph": GRAPH}[kind]
        path.write_text(text.replace("RATE", str(rate_rps)).replace("SLO", str(slo_s)))
        loaded = load_workload(path)
        workload = loaded.workload
        deployed: dict[str, Any] = {}
        for stage, spec in workload.pipeline.stages.items():
            variant = (variants or {}).get(stage, "only")
            skips = spec.variants[variant].runtime == "skip"
            deployed[f"{stage}-{variant}"] = {
                "stage": stage, "variant": variant, "runtime": "skip" if skips else "onnxruntime",
                "provider": "none" if skips else "cpu", "device": "edge/cpu", "model_sha256": "" if skips else DIGEST,
                "threads": 0 if skips else 1, "max_batch": 4, "max_queue_delay_s": 0.0, "replicas": 0 if skips else 1,
                "predicted": {"load_rps": float(rate_rps), "utilisation": 0.1, "batch_mean": 1.0,
                              "latency_mean_s": 0.01, "latency_tail_s": 0.02},
                **(options or {}).get(stage, {}),
            }  # fmt: skip
        plan = {
            "apiVersion": "inferplan/v1", "name": workload.name, "objective": "minimize cost", "cost_usd_per_h": 1.0,
            "workload": {"path": "workload.yaml", "sha256": loaded.sha256},
            "profile": {"sha256": DIGEST, "fingerprints": []},
            "proof": {"solver": "hand", "status": "optimal", "objective": 1.0, "bound": 1.0, "gap": 0.0},
            "classes": {
                name: {
                    "rate_rps": float(workload.classes[name].rate_rps or 0),
                    "slo_percentile": slo.percentile if (slo := workload.classes[name].slo) else None,
                    "slo_latency_s": slo.latency_s if slo else None,
                    "accuracy_floor": workload.classes[name].accuracy.floor,
                    "routes": {one["stage"]: [{"option": key, "share": 1.0}] for key, one in deployed.items()},
                    "predicted": {**PREDICTED_CLASS, "throughput_rps": float(rate_rps)},
                }
                for name in classes
            },
            "options": deployed,
            "machines": {"edge/cpu": {"count": 1, "price_usd_per_h": 1.0, "packing": [[
                {"option": key, "replicas": one["replicas"]} for key, one in deployed.items() if one["replicas"]
            ]]}},
        }  # fmt: skip
        return LoadedPlan(Plan.model_validate(plan), folder / "plan.yaml", loaded)

    return make


SERVE = """\
import sys
from pathlib import Path
from inferplan.runner.events import Listening, ReplicaReady
from inferplan.runner.server import Limits, serve_plan
from inferplan.spec.document import load_workload
from inferplan.spec.plan import LoadedPlan, read_plan

def told(event):
    if isinstance(event, Listening):
        print(event.url, flush=True)

folder = Path(sys.argv[1])
loaded = LoadedPlan(read_plan(folder / "plan.yaml"), folder / "plan.yaml", load_workload(folder))
limits = Limits(body_bytes=200_000, in_flight=64, request_s=20)
serve_plan(loaded, port=0, oversubscribe=True, limits=limits, on_event=told)
"""


@pytest.fixture(scope="session")
def start_server() -> Callable[[LoadedPlan], tuple[subprocess.Popen[str], str]]:
    """Serves a plan in a process of its own: (process, URL). The caller ends it."""

    def start(loaded: LoadedPlan) -> tuple[subprocess.Popen[str], str]:
        write_plan(loaded.plan, loaded.path)
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(loaded.path.parent)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:"), url
        return process, url

    return start
