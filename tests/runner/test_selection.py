"""Requests that name accuracy and latency alone: which way they go, over real HTTP and by the rules."""

from __future__ import annotations

import json
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from inferplan.runner.oip import ProtocolError
from inferplan.runner.selection import Asked, Selector, read_parameters, row_routes
from inferplan.runner.verify import run_plan
from inferplan.spec.document import load_workload
from inferplan.spec.evidence import file_sha256
from inferplan.spec.plan import Certificate, ClassCertificate, Estimate, LoadedPlan, Plan, load_plan, write_plan

StartServer = Callable[[LoadedPlan], tuple[subprocess.Popen[str], str]]

WORKLOAD = """\
apiVersion: inferplan/v1
name: double
pipeline:
  code: stages:Whole
  inputs: [{name: x, dtype: float32, shape: [1]}]
  outputs: [{name: y, dtype: float32, shape: [1]}]
  stages:
    double:
      metric: {name: right}
      variants:
        rough: {model: rough.onnx}
        exact: {model: exact.onnx}
tiers: {edge: {devices: {cpu: {price_usd_per_h: 1, cores: 2, count: 4}}}}
classes:
  app:
    rate_rps: 60
    asks:
      percentile: 90
      mix:
        - {accuracy: 0.5, latency_s: 0.25, weight: 2}
        - {accuracy: 0.9, latency_s: 0.5}
accuracy: {metric: {name: right}, composition: product}
"""
CODE = """\
import numpy as np

class Whole:
    def __init__(self, context): pass
    def examples(self): return [({"x": np.full(1, i, np.float32)}, 2.0 * i) for i in range(20)]
    def score(self, answers, truths): return {"right": [float(a["y"][0] == t) for a, t in zip(answers, truths)]}
"""
LARGEST = {"rough": 20.0, "exact": 1e9}
RIGHT = {"rough": 0.55, "exact": 1.0}
"""rough doubles up to 20: it is right on 11 of the 20 examples."""


def write_model(path: Path, largest: float) -> None:
    """y = min(2 x, largest) on float32 [n, 1]."""
    shape = ["n", 1]
    nodes = [helper.make_node("Mul", ["x", "two"], ["z"]), helper.make_node("Min", ["z", "most"], ["y"])]
    fixed = [helper.make_tensor(n, TensorProto.FLOAT, [1], [v]) for n, v in (("two", 2.0), ("most", largest))]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "tiny", ends[:1], ends[1:], fixed)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> LoadedPlan:
    folder = tmp_path_factory.mktemp("asked")
    for variant, largest in LARGEST.items():
        write_model(folder / f"{variant}.onnx", largest)
    (folder / "stages.py").write_text(CODE)
    (folder / "workload.yaml").write_text(WORKLOAD)
    loaded = load_workload(folder)
    options = {
        f"double-{variant}": {
            "stage": "double", "variant": variant, "runtime": "onnxruntime", "provider": "cpu", "device": "edge/cpu",
            "model_sha256": file_sha256(folder / f"{variant}.onnx"), "threads": 1, "max_batch": 4,
            "max_queue_delay_s": 0.0, "replicas": 1,
            "predicted": {"load_rps": 30.0, "capacity_rps": 1000.0, "utilisation": 0.03, "batch_mean": 1.0,
                          "latency_mean_s": 0.01, "latency_tail_s": 0.02},
        }
        for variant in LARGEST
    }  # fmt: skip
    levels = {"app-1": ("rough", 0.05), "app-2": ("exact", 0.08)}
    plan = {
        "apiVersion": "inferplan/v1", "name": "double", "objective": "minimize cost", "cost_usd_per_h": 1.0,
        "workload": {"path": "workload.yaml", "sha256": loaded.sha256},
        "profile": {"sha256": "0" * 64, "fingerprints": []},
        "proof": {"solver": "hand", "status": "optimal", "objective": 1.0, "bound": 1.0, "gap": 0.0},
        "classes": {
            name: {
                "rate_rps": loaded.workload.classes[name].rate_rps,
                "slo_percentile": 90.0, "slo_latency_s": loaded.workload.classes[name].slo.latency_s,
                "accuracy_floor": loaded.workload.classes[name].accuracy.floor, "asked_of": "app",
                "routes": {"double": [{"option": f"double-{variant}", "share": 1.0}]},
                "predicted": {"latency_slo_s": {"value": tail / 2, "upper": tail}, "throughput_rps": 1.0,
                              "accuracy": {"value": RIGHT[variant]}},
            }
            for name, (variant, tail) in levels.items()
        },
        "options": options,
        "machines": {"edge/cpu": {"count": 1, "price_usd_per_h": 1.0, "packing": [
            [{"option": name, "replicas": 1} for name in options],
        ]}},
        "selection": {
            "percentile": 90.0, "metric": "right", "direction": "maximize",
            "rows": [
                {"options": {"double": f"double-{variant}"}, "accuracy": RIGHT[variant],
                 "latency_s": {"value": tail / 2, "upper": tail}, "cost_usd_per_request": cost, "classes": [name]}
                for (name, (variant, tail)), cost in zip(levels.items(), (1e-6, 3e-6), strict=True)
            ],
        },
    }  # fmt: skip
    write_plan(Plan.model_validate(plan), folder / "plan.yaml")
    return load_plan(folder / "plan.yaml")


@pytest.fixture(scope="module")
def url(planned: LoadedPlan, start_server: StartServer) -> Iterator[str]:
    process, url = start_server(planned)
    yield url
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0


def infer(url: str, parameters: dict[str, Any], value: float = 15.0) -> tuple[int, Any]:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [value]}
    body = json.dumps({"inputs": [tensor], "parameters": parameters}).encode()
    try:
        with urllib.request.urlopen(f"{url}/v2/models/double/infer", body, timeout=20) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


@pytest.mark.parametrize(
    ("parameters", "variant"),
    [
        ({"accuracy": 0.4}, "rough"),
        ({"accuracy": 0.56}, "exact"),
        ({"latency_s": 0.06}, "rough"),
        ({"accuracy": 0.3, "latency_s": 0.2}, "rough"),
        ({"accuracy": 1, "latency_s": 0.1}, "exact"),
        ({"traffic_class": "app-2"}, "exact"),
        ({}, "rough"),
    ],
)
def test_what_is_asked_decides_who_answers(url: str, parameters: dict[str, Any], variant: str) -> None:
    status, answer = infer(url, parameters)
    assert (status, answer["outputs"][0]["data"]) == (200, [min(30.0, LARGEST[variant])])
    told = answer.get("parameters")
    if not {"accuracy", "latency_s"} & set(parameters):
        assert told is None
        return
    assert told["variants"] == f"double={variant}"
    assert told["predicted_accuracy"] == RIGHT[variant]
    assert told["cost_usd_per_request"] == {"rough": 1e-6, "exact": 3e-6}[variant]
    assert told["predicted_latency_s"] <= parameters.get("latency_s", 1.0)


def test_what_a_level_asks_goes_as_the_level_was_planned(url: str) -> None:
    status, answer = infer(url, {"accuracy": 0.9, "latency_s": 0.5})
    assert status == 200
    assert answer["parameters"] == {
        "traffic_class": "app-2", "variants": "double=exact", "predicted_accuracy": 1.0, "predicted_latency_s": 0.08,
    }  # fmt: skip


def test_what_nothing_keeps_is_refused_with_what_could_be_had(url: str) -> None:
    status, answer = infer(url, {"accuracy": 0.9, "latency_s": 0.06})
    assert (status, answer["error"]) == (
        422,
        "no deployed route has right >= 0.9 and latency within 0.06 s at percentile 90; within that latency right is"
        " 0.55 at best; with that accuracy the fastest takes 0.08 s",
    )


@pytest.mark.parametrize(
    ("parameters", "complaint"),
    [
        ({"accuracy": "0.9"}, "parameter accuracy must be a number, got '0.9'"),
        ({"accuracy": None}, "parameter accuracy must be a number, got 'None'"),
        ({"accuracy": True}, "must be a number"),
        ({"accuracy": 10**400}, "must be a number"),
        ({"latency_s": [1]}, "parameter latency_s must be a number"),
        ({"latency_s": -0.1}, "parameter latency_s must be more than 0 seconds, got -0.1"),
        ({"latency_s": 0}, "must be more than 0 seconds"),
        ({"acuracy": 0.9}, "unknown parameter 'acuracy'; did you mean 'accuracy'?"),
        ({"latency_ms": 50}, "unknown parameter 'latency_ms'; did you mean 'latency_s'?"),
        ({"speed": 1}, "unknown parameter 'speed'; there are traffic_class, accuracy, latency_s"),
        ({"traffic_class": "app-1", "accuracy": 0.9}, "give either traffic_class, or accuracy and latency_s"),
        ({"traffic_class": "app"}, "unknown traffic_class 'app'; there are ['app-1', 'app-2']"),
        ({"traffic_class": 7}, "traffic_class must be the name of a class"),
    ],
)
def test_wrong_parameters_are_refused_with_the_reason(url: str, parameters: dict[str, Any], complaint: str) -> None:
    status, answer = infer(url, parameters)
    assert status == 400
    assert complaint in answer["error"]


def test_parameters_of_the_protocol_pass() -> None:
    assert read_parameters({"sequence_id": 1, "timeout": 5, "binary_data_output": True}) == (None, None)


def test_the_triton_client_asks_too(url: str) -> None:
    triton = pytest.importorskip("tritonclient.http")
    with triton.InferenceServerClient(url.removeprefix("http://")) as client:
        tensor = triton.InferInput("x", [1, 1], "FP32")
        tensor.set_data_from_numpy(np.full((1, 1), 15, np.float32))
        answer = client.infer("double", [tensor], parameters={"accuracy": 0.95})
    assert answer.as_numpy("y").tolist() == [[30.0]]
    assert answer.get_response()["parameters"]["variants"] == "double=exact"


def test_a_run_sends_the_mix_and_reports_every_level(planned: LoadedPlan) -> None:
    report = run_plan(planned, 4.0, oversubscribe=True)
    assert set(report.classes) == {"app-1", "app-2"}
    for name, variant in (("app-1", "rough"), ("app-2", "exact")):
        accuracy = report.classes[name].accuracy
        assert accuracy is not None
        assert accuracy.n == accuracy.of
        assert (accuracy.compared.predicted, accuracy.compared.measured.value) == (RIGHT[variant], RIGHT[variant])
        assert accuracy.verdict == "met"
    rates = [report.classes[name].offered_rps for name in ("app-1", "app-2")]
    assert rates[0] > rates[1]


def selector(planned: LoadedPlan, waiting: dict[str, int | None]) -> Selector:
    return Selector(planned.plan, planned.workload.workload, lambda option: waiting.get(option.split("-")[1], 0))


@pytest.mark.parametrize(
    ("waiting", "latency_s", "variant"),
    [
        # A call takes 10 ms in the mean, and 1 ms more for every one that waits before it.
        ({}, 0.09, "rough"),
        ({"rough": 80}, 0.09, "rough"),
        ({"rough": 81}, 0.09, "exact"),
        ({"rough": 90, "exact": 85}, 0.09, "exact"),
        ({"rough": 85, "exact": 90}, 0.09, "rough"),
        ({"rough": 10_000}, None, "rough"),
        ({"rough": None}, None, "exact"),
        ({"rough": None}, 0.09, "exact"),
        ({"rough": None, "exact": None}, 0.09, "rough"),
        # Only one of them keeps 60 ms.
        ({"rough": 500}, 0.06, "rough"),
    ],
)
def test_the_next_way_is_taken_where_calls_wait_too_long(
    planned: LoadedPlan, waiting: dict[str, int | None], latency_s: float | None, variant: str
) -> None:
    way = selector(planned, waiting).choose(Asked(None, latency_s))
    assert way.options == {"double": f"double-{variant}"}
    assert way.key in row_routes(planned.plan.selection)


def test_a_level_whose_way_is_full_goes_another_that_keeps_it(planned: LoadedPlan) -> None:
    asked = Asked(0.5, 0.25)
    assert selector(planned, {}).choose(asked).key == "app-1"
    assert selector(planned, {"rough": 1000}).choose(asked).told["variants"] == "double=exact"


def test_a_level_that_will_miss_is_answered_by_what_keeps_it(planned: LoadedPlan) -> None:
    claim = ClassCertificate(
        verdict="missed", latency_s=Estimate(value=0.3), limit_s=0.25, percentile=90.0, requests=1000
    )
    certificate = Certificate(verdict="missed", judged_on="simulation", seed=0, classes={"app-1": claim})
    late = LoadedPlan(planned.plan.model_copy(update={"certificate": certificate}), planned.path, planned.workload)
    assert selector(late, {}).choose(Asked(0.5, 0.25)).key == "row:0"


def test_a_plan_without_a_table_says_so(planned: LoadedPlan) -> None:
    plain = LoadedPlan(planned.plan.model_copy(update={"selection": None}), planned.path, planned.workload)
    with pytest.raises(ProtocolError, match="this plan has no table of choices") as caught:
        selector(plain, {}).choose(Asked(0.5, None))
    assert caught.value.status == 400
