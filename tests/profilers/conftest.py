"""Tiny models and workloads, made on the spot."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper

from inferplan.spec.document import LoadedWorkload, load_workload
from inferplan.spec.rows import (
    AccuracyRow,
    FlowRow,
    HandoffRow,
    InterferenceRow,
    Measurement,
    PointKey,
    Quantiles,
    Samples,
)
from inferplan.spec.tables import AnyRow

Shape = Sequence[int | str | None]

STAGE_CODE = """
import os, signal, sys, time
import numpy as np

class Stage:
    '''x -> 2 x for numbers 0..19; params make it misbehave.'''
    def __init__(self, context):
        self.params = context.params
    def examples(self):
        return [(float(i), 2.0 * i) for i in range(20)]
    def preprocess(self, inputs):
        trick = self.params.get("trick")
        if trick == "crash":
            print("about to crash", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGSEGV)
        if trick == "hang":
            time.sleep(600)
        if trick == "eat":
            hoard = []
            while True:
                hoard.append(np.ones(2**21))
                time.sleep(0.005)
        if trick == "gulp":
            np.ones(2**36)
        if trick == "raise":
            raise ValueError("no good")
        if trick == "exit":
            os._exit(3)
        if trick == "print":
            print("x" * 10000)
            os.write(1, b"IPW1 noise")
            sys.stdin.read()
        if trick == "crash-on-4" and len(inputs) == 4:
            os.kill(os.getpid(), signal.SIGSEGV)
        time.sleep(self.params.get("slow_s", 0))
        if trick == "wide":
            return {"x": np.array([[i] * 9 for i in inputs], np.float32)}
        return {"x": np.array([[i] * 4 for i in inputs], np.float32)}
    def postprocess(self, inputs, outputs):
        return [float(row[0]) for row in outputs["y"]]
    def passthrough(self, inputs):
        return [0.0 for _ in inputs]
    def route(self, stage_input, prediction):
        return [prediction] * 2
    def score(self, predictions, truths):
        return {"right": [float(p == t) for p, t in zip(predictions, truths)]}

class Whole:
    def __init__(self, context):
        pass
    def examples(self):
        return [(float(i), 4.0 * i) for i in range(10)]
    def join(self, request, results):
        answers = [a for of_stage in results.values() for a in of_stage]
        return answers
    def score(self, answers, truths):
        return {"all_right": [float(all(a == t for a in answer)) for answer, t in zip(answers, truths)]}
"""


def save_model(path: Path, shape: Shape = ("N", 4), factor: float = 2.0, dtype: int = TensorProto.FLOAT) -> Path:
    """Write an ONNX model `x -> y = factor * x`."""
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "factor"], ["y"])],
        "times",
        [helper.make_tensor_value_info("x", dtype, list(shape))],
        [helper.make_tensor_value_info("y", dtype, list(shape))],
        [helper.make_tensor("factor", dtype, [], [factor])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    helper.set_model_props(model, {"made_by": "tests"})
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(path))
    return path


@pytest.fixture
def make_model(tmp_path: Path) -> Callable[..., Path]:
    """Writes a model below the test's folder: `make_model("a.onnx", shape=["N", 4])`."""

    def make(name: str = "model.onnx", **options: Any) -> Path:
        return save_model(tmp_path / name, **options)

    return make


QUICK: dict[str, Any] = {
    "batch_sizes": [1],
    "processes": 2,
    "percentile": 50,
    "min_time_s": 0.02,
    "max_time_s": 2.0,
    "load_timeout_s": 20.0,
    "memory_limit_bytes": 2**30,
    "tolerance": 0.0,
    "neighbours": "none",
}


@pytest.fixture
def make_workload(tmp_path: Path) -> Callable[..., LoadedWorkload]:
    """Writes and loads a workload of one stage `s` with the code above: `make_workload({"double": {...}})`.

    Further arguments replace fields of the document; `pipeline` is merged into it.
    """

    def make(
        variants: Mapping[str, Any] | None = None,
        *,
        profile: Mapping[str, Any] | None = None,
        code: str = STAGE_CODE,
        **fields: Any,
    ) -> LoadedWorkload:
        root = tmp_path / "workload"
        root.mkdir(exist_ok=True)
        (root / "tricks.py").write_text(code)
        if not (root / "double.onnx").exists():
            save_model(root / "double.onnx")
        stage = {"code": "tricks:Stage", "metric": {"name": "right"}, "variants": variants or {"double": DOUBLE}}
        document = {
            "apiVersion": "inferplan/v1",
            "name": "test",
            "pipeline": {"code": "tricks:Whole", "stages": {"s": stage}, **fields.pop("pipeline", {})},
            "tiers": {"edge": {"devices": {"box": {"price_usd_per_h": 1.0, "cores": 64}}}},
            "classes": {"web": {"rate_rps": 1.0, "slo": {"latency_s": 1.0}}},
            "profile": {**QUICK, **(profile or {})},
            **fields,
        }
        path = root / "workload.yaml"
        path.write_text(yaml.safe_dump(document, sort_keys=False))
        return load_workload(path)

    return make


DOUBLE = {"model": "double.onnx"}


@pytest.fixture(scope="session")
def nvml_stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a `libnvidia-ml.so.1` built from `nvml_stand_in/nvml.c`: first on LD_LIBRARY_PATH, it is the driver."""
    return build_nvml(tmp_path_factory.mktemp("nvml"))


@pytest.fixture(scope="session")
def old_nvml_stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same without functions that came later."""
    return build_nvml(tmp_path_factory.mktemp("old-nvml"), "-DOLD_DRIVER")


def build_nvml(folder: Path, *options: str) -> Path:
    """Compile the stand-in driver library."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler (cc, gcc, clang) to build the stand-in for the NVIDIA driver library with")
    pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")
    source = Path(__file__).parent / "nvml_stand_in" / "nvml.c"
    target = folder / "libnvidia-ml.so.1"
    command = [compiler, "-shared", "-fPIC", "-Wall", "-Werror", *options, "-o", str(target), str(source)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return folder


@pytest.fixture(scope="session")
def with_nvml(nvml_stand_in: Path) -> Callable[..., Any]:
    """Runs Python code in a process that finds the stand-in driver; returns what it prints as JSON.

    `with_nvml(code, NVML_FAIL="...")`: further arguments are environment variables (nvml_stand_in/nvml.c).
    """

    def run(code: str, library: Path | None = nvml_stand_in, **variables: str) -> Any:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("NVML_", "CUDA_"))}
        path = {} if library is None else {"LD_LIBRARY_PATH": str(library)}
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)],
            env={**kept, **path, **variables},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.fixture(scope="session")
def some_rows() -> Callable[[int], list[AnyRow]]:
    """Rows of every table, `count` things of each: points, accuracies, flows, slow-downs."""

    def made(count: int) -> list[AnyRow]:
        when = "2026-01-01"
        rows: list[AnyRow] = []
        for index in range(count):
            key = PointKey("s", "v", "", "00", "", "onnxruntime", "1", "{}", "cpu", "edge/box", "ff", 2**index, 1, "{}")
            rows += [
                Measurement(key, "ok", n=3, service=Quantiles(mean_s=0.002, p50_s=0.001), measured_at=when),
                AccuracyRow(
                    "stage", "s", f"v{index}", "{}", "", "top1", 0.5, 0.4, 0.6, 9, "wilson", "aa", measured_at=when
                ),
                FlowRow("s", f"t{index}", "v", "", 2.0, "[2]", 10.0, 1, "aa", when),
                InterferenceRow(key, '[["s", "v", 1, 1]]', "bb", 1.2, 1.1, 1.3, 1.4, 8, 100, measured_at=when),
                HandoffRow(f"s{index}", "v", "", "edge/box", "ff", 30, 1e-4, "[1e-4]", 1e-5, measured_at=when),
            ]
        return rows

    return made


@pytest.fixture(scope="session")
def samples_of() -> Callable[[Measurement], Samples]:
    """Three raw times of a point."""

    def made(row: Measurement) -> Samples:
        times = np.array([0.001, 0.002, 0.003])
        return Samples(row.key.id(), np.zeros(3, np.int32), times, times / 2, np.ones(3, np.int64))

    return made
