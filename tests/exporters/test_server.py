"""Layer 3: a real tritonserver loads what we export, unchanged, and answers as the models themselves do."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inferplan.exporters.compose import export_compose
from inferplan.exporters.triton import export_triton

# The first test installs the server.
pytestmark = [pytest.mark.server, pytest.mark.timeout(600)]


def ask(server: Any, model: str, **tensors: Any) -> dict[str, Any]:
    """One infer request over HTTP with binary tensors, through Triton's own client."""
    from tritonclient import http
    from tritonclient.utils import np_to_triton_dtype

    client = http.InferenceServerClient(server.http, network_timeout=30)
    inputs = []
    for name, array in tensors.items():
        entry = http.InferInput(name, array.shape, np_to_triton_dtype(array.dtype))
        entry.set_data_from_numpy(array)
        inputs.append(entry)
    result = client.infer(model, inputs)
    answer = {output["name"]: result.as_numpy(output["name"]) for output in result.get_response()["outputs"]}
    client.close()
    return answer


def batches_run(server: Any, model: str) -> dict[int, int]:
    """Batch size -> how many such batches the server has run, those of the warm-up among them."""
    with urllib.request.urlopen(f"http://{server.http}/v2/models/{model}/stats", timeout=5) as answer:
        (stats,) = json.load(answer)["model_stats"]
    return {batch["batch_size"]: batch["compute_infer"]["count"] for batch in stats["batch_stats"]}


def test_digits_models_ensemble_and_pipeline_answer_as_onnxruntime_does(
    digits: Any, make_plan: Callable[..., Any], serve: Callable[..., Any], tmp_path: Path
) -> None:
    import onnxruntime

    options = {
        "read-cnn-s": {"stage": "read", "variant": "cnn-s", "max_batch": 8, "max_queue_delay_s": 0.002},
        "read-linear": {"stage": "read", "variant": "linear", "max_batch": 1},
    }
    routes = {"web": {"read": {"read-cnn-s": 1.0}}, "batch": {"read": {"read-linear": 1.0}}}
    options = {name: {**fields, "device": "edge/small-cpu"} for name, fields in options.items()}
    plan = make_plan(digits, options, {"edge/small-cpu": [{"read-cnn-s": 2, "read-linear": 1}]}, routes)
    export_triton(plan, digits, tmp_path / "out")
    with np.load(digits.root / "data/test.npz") as data:
        images = data["images"][:64]
    session = onnxruntime.InferenceSession(digits.model_path("read", "cnn-s"), providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"image": images})
    with serve(tmp_path / "out") as server:
        batches = [images[at : at + 8] for at in range(0, 64, 8)]
        with ThreadPoolExecutor(8) as threads:
            plain = list(threads.map(lambda batch: ask(server, "read-cnn-s", image=batch)["logits"], batches))
            straight = list(threads.map(lambda b: ask(server, "digits-web-ensemble", image=b)["logits"], batches))
            labels = list(threads.map(lambda b: ask(server, "digits-web", image=b)["label"], batches))
            singles = list(threads.map(lambda i: ask(server, "digits-web", image=i[None])["label"], images))
        linear = ask(server, "digits-batch", image=images[:1])["label"]
    np.testing.assert_allclose(np.concatenate(plain), logits, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(np.concatenate(straight), logits, rtol=1e-4, atol=1e-4)
    assert np.concatenate(labels)[:, 0].tolist() == logits.argmax(axis=1).tolist()
    assert np.concatenate(singles)[:, 0].tolist() == logits.argmax(axis=1).tolist()
    assert linear.shape == (1, 1)


def test_a_chain_of_tensors_is_served_as_an_ensemble(
    chain: Any, chain_plan: Any, serve: Callable[..., Any], tritonserver: Any, tmp_path: Path
) -> None:
    export_triton(chain_plan, chain, tmp_path / "out")
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    with serve(tmp_path / "out") as server:
        assert tritonserver.configuration(server, "shop")["platform"] == "ensemble"
        answer = ask(server, "shop", x=x)
    assert list(answer) == ["z"]
    np.testing.assert_array_equal(answer["z"], 2 * x + 1)


def test_a_fan_out_with_stage_code_is_served_as_a_pipeline(
    fan: Any,
    fan_options: Any,
    make_plan: Callable[..., Any],
    serve: Callable[..., Any],
    tmp_path: Path,
    fan_expected: Any,
) -> None:
    from tritonclient.utils import InferenceServerException

    plan = make_plan(fan, fan_options, {"edge/cpu": [{"split-only": 1, "read-only": 2}]})
    export_triton(plan, fan, tmp_path / "out")
    numbers = np.array([[1, -2, 3, 4, 5], [-1, -1, -1, -1, -1], [7, 0, 0, 0, -7]], np.float32)
    with serve(tmp_path / "out") as server:
        answer = ask(server, "fan", numbers=numbers)
        with pytest.raises(InferenceServerException, match="not a number"):
            ask(server, "fan", numbers=np.full((1, 5), np.nan, np.float32))
    assert answer["text"][:, 0].tolist() == [fan_expected(row) for row in numbers]
    assert answer["count"][:, 0].tolist() == [4, 0, 1]


def test_machines_of_a_compose_export_call_one_another(
    fan: Any,
    fan_options: Any,
    make_plan: Callable[..., Any],
    serve: Callable[..., Any],
    tmp_path: Path,
    fan_expected: Any,
) -> None:
    plan = make_plan(fan, fan_options, {"edge/cpu": [{"split-only": 1}, {"read-only": 1}]})
    export_compose(plan, fan, tmp_path / "out")
    first, second = (tmp_path / f"out/machines/edge-cpu-{index}" for index in (0, 1))
    numbers = np.array([[1, 2, 3, -4, 5]], np.float32)
    with serve(second, "--load-model=read-only", "--model-control-mode=explicit") as reader:
        # Compose resolves the name of the other machine; here it is an address of this host.
        sidecar = first / "fan/1/pipeline.json"
        text = sidecar.read_text()
        assert "edge-cpu-1:8000" in text
        sidecar.write_text(text.replace("edge-cpu-1:8000", reader.http))
        with serve(first) as server:
            answers = [ask(server, "fan", numbers=numbers) for _ in range(3)]
    assert [answer["text"][0, 0] for answer in answers] == [fan_expected(numbers[0])] * 3


def test_what_is_planned_for_gpus_loads_with_gpus_taken_out(
    chain: Any, make_plan: Callable[..., Any], serve: Callable[..., Any], tritonserver: Any, tmp_path: Path
) -> None:
    options = {
        name: {"stage": name, "variant": "only", "provider": provider, "device": "edge/gpu"}
        for name, provider in (("double", "cuda"), ("add", "tensorrt"))
    }
    plan = make_plan(chain, options, {"edge/gpu": [{"double": 1, "add": 2}]})
    export_triton(plan, chain, tmp_path / "out")
    assert "KIND_GPU" in (tmp_path / "out/double/config.pbtxt").read_text()
    with serve(tritonserver.on_cpu(tmp_path / "out", tmp_path / "cpu")) as server:
        x = np.ones((2, 4), np.float32)
        np.testing.assert_array_equal(ask(server, "shop", x=x)["z"], 2 * x + 1)


def test_tensors_without_dimensions_and_models_without_a_batch(
    tmp_path: Path,
    make_model: Callable[..., Path],
    make_workload: Callable[..., Any],
    make_plan: Callable[..., Any],
    serve: Callable[..., Any],
) -> None:
    """`fixed` takes one row at a time, `largest` gives a number per row; alone, as a chain, and with code."""
    folder = tmp_path / "workload"
    relu, largest = ("Relu", ["x"], ["y"], {}), ("ArgMax", ["y"], ["label"], {"axis": 1, "keepdims": 0})
    make_model(folder / "fixed.onnx", {"x": ("FLOAT", [1, 3])}, {"y": ("FLOAT", [1, 3])}, [relu])
    make_model(folder / "largest.onnx", {"y": ("FLOAT", ["n", "t"])}, {"label": ("INT64", ["n"])}, [largest])
    (folder / "code.py").write_text(
        "class Relu:\n    def __init__(self, context): pass\n"
        "    def route(self, item, prediction): return [prediction] * 3\n"
        "class Vote:\n    def __init__(self, context): pass\n"
        "    def join(self, request, results): return {'label': [sum(int(p['label']) for p in results['largest'])]}\n"
    )
    for code in (False, True):
        stages = {name: {"variants": {"v": {"model": f"{name}.onnx"}}} for name in ("fixed", "largest")}
        pipeline: dict[str, Any] = {"stages": stages, "edges": [{"from": "fixed", "to": "largest"}]}
        if code:
            stages["fixed"]["code"] = "code:Relu"
            pipeline |= {
                "code": "code:Vote",
                "inputs": [{"name": "x", "dtype": "float32", "shape": [3]}],
                "outputs": [{"name": "label", "dtype": "int64", "shape": [1]}],
            }
        workload = make_workload(folder, pipeline)
        options = {
            "fixed": {"stage": "fixed", "variant": "v", "max_batch": 1},
            "largest": {"stage": "largest", "variant": "v", "max_batch": 2},
        }
        plan = make_plan(workload, options, {"edge/cpu": [{"fixed": 1, "largest": 1}]})
        export_triton(plan, workload, tmp_path / "out")
        x = np.array([[-1, 3, 2]], np.float32)
        with serve(tmp_path / "out") as server:
            assert ask(server, "largest", y=np.repeat(x, 2, axis=0))["label"].tolist() == [[1], [1]]
            expected = 3 if code else 1
            assert ask(server, "shop", x=x)["label"].reshape(-1).tolist() == [expected]


def test_the_server_batches_as_planned(
    chain: Any, make_plan: Callable[..., Any], serve: Callable[..., Any], tmp_path: Path
) -> None:
    """With a long queue delay and one replica, eight requests at once make two full batches of four."""
    options = {
        "double": {"stage": "double", "variant": "only", "max_batch": 4, "max_queue_delay_s": 5.0},
        "add": {"stage": "add", "variant": "only"},
    }
    plan = make_plan(chain, options, {"edge/cpu": [{"double": 1, "add": 1}]})
    export_triton(plan, chain, tmp_path / "out")
    x = np.ones((1, 4), np.float32)
    with serve(tmp_path / "out") as server:
        before = batches_run(server, "double")
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda _: ask(server, "double", x=x), range(8)))
        after = batches_run(server, "double")
    assert {size: after[size] - before.get(size, 0) for size in after} == {1: 0, 2: 0, 3: 0, 4: 2}
