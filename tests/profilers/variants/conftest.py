"""Tiny nets, and a workload whose stage classifies vectors or pictures with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper

from inferplan.profilers.runtimes.executor import ExecutorSpec
from inferplan.profilers.variants.base import Order
from inferplan.spec.document import LoadedWorkload, load_workload
from inferplan.spec.stage import Choice

CODE = """
import os, signal, time
import numpy as np

class Stage:
    '''Random vectors or pictures, and the class of the largest element.'''
    def __init__(self, context):
        self.params = context.params
        self.modalities = context.modalities
    def examples(self):
        rng = np.random.default_rng(7)
        shape = (3, 8, 8) if self.params.get("pictures") else (16,)
        return [(rng.standard_normal(shape).astype(np.float32), 0) for _ in range(self.params.get("count", 40))]
    def preprocess(self, inputs):
        trick = self.params.get("trick")
        if trick == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if trick == "hang":
            time.sleep(600)
        if trick == "eat":
            hoard = []
            while True:
                hoard.append(np.ones(2**21))
                time.sleep(0.005)
        x = np.stack(inputs) * self.params.get("scale", 1)
        return {"x": x[:, : self.params.get("width", 16)].astype(np.float32)}
    def postprocess(self, inputs, outputs):
        return outputs["y"].reshape(len(inputs), -1).argmax(axis=1).tolist()
    def score(self, predictions, truths):
        return {"top1": [float(p == t) for p, t in zip(predictions, truths)]}

class Calibrated(Stage):
    def calibration(self):
        return [np.full(16, i, np.float32) for i in range(5)]
"""


def _save(path: Path, nodes: list[Any], weights: Mapping[str, Any], x: list[Any], y: list[Any], opset: int) -> Path:
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, y)],
        [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 9
    helper.set_model_props(model, {"labels": "a b c"})
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(path))
    return path


def save_mlp(path: Path, opset: int = 17, factor: float = 1.0, reused: bool = False) -> Path:
    """x (N, 16) -> y (N, 5), two layers. `reused`: an exporter's wrong note of an intermediate shape is left in."""
    rng = np.random.default_rng(3)
    weights = {
        "w1": factor * rng.standard_normal((16, 32)) / 4, "b1": np.zeros(32), "w2": rng.standard_normal((32, 5)) / 6,
    }  # fmt: skip
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "w2"], ["y"]),
    ]
    _save(path, nodes, weights, ["N", 16], ["N", 5], opset)
    if reused:
        model = onnx.load(str(path))
        model.graph.value_info.append(helper.make_tensor_value_info("h", TensorProto.FLOAT, ["N", 99]))
        onnx.save(model, str(path))
    return path


def save_conv(path: Path, tiny_variance: bool = False) -> Path:
    """x (N, 3, 8, 8) -> y (N, 4): convolution, normalisation, pooling. Weights are Constant nodes, as some exporters
    write them; `tiny_variance`: smaller than fp16 can say."""
    rng = np.random.default_rng(5)
    variance = np.full(4, 1e-9 if tiny_variance else 1.0)
    scale = 1e-4 if tiny_variance else 1.0
    weights = {
        "w": scale * rng.standard_normal((4, 3, 3, 3)) / 5, "gamma": np.ones(4), "beta": np.zeros(4),
        "mean": np.zeros(4), "variance": variance,
    }  # fmt: skip
    constants = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.asarray(value, np.float32), name))
        for name, value in weights.items()
    ]
    nodes = [
        *constants,
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", "gamma", "beta", "mean", "variance"], ["n"], epsilon=1e-12),
        helper.make_node("Relu", ["n"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["y"]),
    ]
    return _save(path, nodes, {}, ["N", 3, 8, 8], ["N", 4], 17)


@pytest.fixture
def mlp(tmp_path: Path) -> Callable[..., Path]:
    """Writes an MLP: `mlp("a.onnx", opset=13)`."""
    return lambda name="mlp.onnx", **options: save_mlp(tmp_path / name, **options)


@pytest.fixture
def conv(tmp_path: Path) -> Callable[..., Path]:
    """Writes a convolutional net."""
    return lambda name="conv.onnx", **options: save_conv(tmp_path / name, **options)


@pytest.fixture
def make_workload(tmp_path: Path) -> Callable[..., LoadedWorkload]:
    """Writes and loads a workload of one stage `s`: `make_workload({"mlp": {"model": "mlp.onnx"}})`, where `mlp.onnx`
    and `conv.onnx` exist. Further arguments replace fields of the stage."""

    def make(variants: Mapping[str, Any] | None = None, **stage: Any) -> LoadedWorkload:
        root = tmp_path / "workload"
        root.mkdir(exist_ok=True)
        (root / "code.py").write_text(CODE)
        for name, save in (("mlp.onnx", save_mlp), ("conv.onnx", save_conv)):
            if not (root / name).exists():
                save(root / name)
        document = {
            "apiVersion": "inferplan/v1",
            "name": "test",
            "pipeline": {
                "stages": {
                    "s": {
                        "code": "code:Stage",
                        "metric": {"name": "top1"},
                        "variants": variants or {"mlp": {"model": "mlp.onnx", "license": "MIT"}},
                        **stage,
                    }
                }
            },
            "tiers": {"edge": {"devices": {"box": {"price_usd_per_h": 1.0, "cores": 64}}}},
            "classes": {"web": {"rate_rps": 1.0, "slo": {"latency_s": 1.0}}},
            "profile": {"memory_limit_bytes": 2**30},
        }
        path = root / "workload.yaml"
        path.write_text(yaml.safe_dump(document, sort_keys=False))
        return load_workload(path)

    return make


@pytest.fixture
def order_for(tmp_path: Path) -> Callable[..., Order]:
    """What the process that makes a file is told, for a variant of a workload: `order_for(loaded, "mlp", settings)`."""

    def made(loaded: LoadedWorkload, name: str, settings: Mapping[str, Any], target: str = "out/made.onnx") -> Order:
        path = tmp_path / target
        path.parent.mkdir(parents=True, exist_ok=True)
        stage = loaded.workload.pipeline.stages["s"]
        spec = ExecutorSpec.of(loaded.workload.root, "s", stage, Choice(name))
        return Order((spec,), None, settings, path)

    return made
