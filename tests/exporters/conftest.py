"""Fixtures of the exporters' tests: small ONNX models, repositories, and a real tritonserver."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


def _neighbour(name: str) -> ModuleType:
    """Load a helper module next to this file (tests are not importable by name)."""
    full = f"inferplan_tests_exporters_{name}"
    if full not in sys.modules:
        spec = importlib.util.spec_from_file_location(full, Path(__file__).with_name(f"{name}.py"))
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[full] = module
        spec.loader.exec_module(module)
    return sys.modules[full]


@pytest.fixture(scope="session")
def tritonserver() -> ModuleType:
    """The helper module that starts servers."""
    return _neighbour("tritonserver")


@pytest.fixture(scope="session")
def triton_installation(tritonserver: ModuleType) -> Any:
    """The installed server; skips where its wheel cannot be installed."""
    try:
        return tritonserver.install()
    except tritonserver.Unavailable as reason:
        pytest.skip(f"no tritonserver: {reason}")


@pytest.fixture
def serve(tritonserver: ModuleType, triton_installation: Any, tmp_path: Path) -> Callable[..., Any]:
    """serve(repository, *server arguments): a context manager that yields a running server."""
    count = iter(range(100))

    def start(repository: Path, *arguments: str) -> Any:
        return tritonserver.serving(triton_installation, repository, tmp_path / f"server-{next(count)}.log", *arguments)

    return start


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Path]:
    """make_model(path, inputs, outputs, nodes, initializers): write an ONNX model, checked by onnx."""
    import onnx
    from onnx import TensorProto, helper

    def make(
        path: Path,
        inputs: dict[str, tuple[str, Sequence[int | str] | None]],
        outputs: dict[str, tuple[str, Sequence[int | str] | None]],
        nodes: Sequence[tuple[str, list[str], list[str], dict[str, Any]]],
        initializers: dict[str, Any] | None = None,
    ) -> Path:
        def value(name: str, spec: tuple[str, Sequence[int | str] | None]) -> Any:
            return helper.make_tensor_value_info(name, getattr(TensorProto, spec[0]), spec[1])

        graph = helper.make_graph(
            [helper.make_node(kind, ins, outs, **attributes) for kind, ins, outs, attributes in nodes],
            "test",
            [value(name, spec) for name, spec in inputs.items()],
            [value(name, spec) for name, spec in outputs.items()],
            [onnx.numpy_helper.from_array(array, name) for name, array in (initializers or {}).items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model)
        path.parent.mkdir(parents=True, exist_ok=True)
        onnx.save(model, str(path))
        return path

    return make


SHA = "0" * 64


@pytest.fixture(scope="session")
def make_workload() -> Callable[..., Any]:
    """make_workload(folder, pipeline, **top-level fields): write workload.yaml there and load it."""
    import yaml

    from inferplan.spec.document import load_workload

    def make(folder: Path, pipeline: dict[str, Any], **fields: Any) -> Any:
        data = {
            "apiVersion": "inferplan/v1",
            "kind": "Workload",
            "name": "shop",
            "pipeline": pipeline,
            "tiers": {
                "edge": {
                    "devices": {
                        "cpu": {"kind": "cpu", "price_usd_per_h": 0.1, "cores": 4, "memory_bytes": 2**31},
                        "gpu": {"kind": "gpu", "price_usd_per_h": 1.0, "cores": 8, "gpu_memory_bytes": 2**33},
                    }
                }
            },
            "classes": {"web": {"rate_rps": 10.0, "slo": {"percentile": 99.0, "latency_s": 0.1}}},
            "objective": {"minimize": "cost"},
        } | fields
        (folder / "workload.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
        return load_workload(folder / "workload.yaml").workload

    return make


@pytest.fixture(scope="session")
def make_plan() -> Callable[..., Any]:
    """make_plan(workload, options, machines, routes): a plan without predictions worth the name.

    `options` is {name: fields of DeployedOption}; `machines` {device: [{option: replicas}, ...]}; `routes`
    {class: {stage: {option: share}}}, by default every option with an equal share.
    """
    from inferplan.spec.modelfiles import model_sha256
    from inferplan.spec.plan import Plan

    latencies = ("latency_mean_s", "latency_p50_s", "latency_p90_s", "latency_p99_s")
    predicted = {name: {"value": 0.05} for name in latencies} | {"throughput_rps": 10.0}
    of_option = {"load_rps": 1.0, "utilisation": 0.1, "batch_mean": 1.0, "latency_mean_s": 0.01, "latency_tail_s": 0.01}

    def option(workload: Any, fields: dict[str, Any], replicas: int) -> dict[str, Any]:
        subset = "+".join(fields.get("modalities", []))
        choice = f"{fields['variant']}@{subset}" if subset else fields["variant"]
        path = workload.model_path(fields["stage"], choice)
        known = {
            "runtime": "onnxruntime" if path else "skip",
            "provider": "cpu" if path else "none",
            "device": "edge/cpu",
            "model_sha256": model_sha256(workload, fields["stage"], choice) if path else "",
            "threads": 1 if path else 0,
            "max_batch": 4,
            "max_queue_delay_s": 0.0,
            "replicas": replicas,
            "predicted": of_option,
        }
        return known | fields

    def make(
        workload: Any,
        options: dict[str, dict[str, Any]],
        machines: dict[str, list[dict[str, int]]],
        routes: dict[str, dict[str, dict[str, float]]] | None = None,
    ) -> Any:
        stages = workload.pipeline.stages
        of_stage = {stage: [name for name, o in options.items() if o["stage"] == stage] for stage in stages}
        routes = routes or {"web": {s: dict.fromkeys(names, 1.0 / len(names)) for s, names in of_stage.items()}}
        placed = [packing for group in machines.values() for packing in group]
        return Plan.model_validate(
            {
                "name": workload.name,
                "workload": {"path": "workload.yaml", "sha256": SHA},
                "profile": {"sha256": SHA, "fingerprints": ["f"]},
                "objective": "minimize cost",
                "cost_usd_per_h": 0.1,
                "proof": {"solver": "HiGHS", "status": "optimal", "objective": 0.1, "bound": 0.1, "gap": 0.0},
                "classes": {
                    name: {
                        "rate_rps": 10.0,
                        "routes": {
                            stage: [{"option": o, "share": share} for o, share in shares.items()]
                            for stage, shares in route.items()
                        },
                        "predicted": predicted,
                    }
                    for name, route in routes.items()
                },
                "options": {
                    name: option(workload, fields, sum(packing.get(name, 0) for packing in placed))
                    for name, fields in options.items()
                },
                "machines": {
                    device: {
                        "count": len(group),
                        "price_usd_per_h": 0.1,
                        "packing": [
                            [{"option": name, "replicas": count} for name, count in packing.items()]
                            for packing in group
                        ],
                    }
                    for device, group in machines.items()
                },
            }
        )

    return make


@pytest.fixture
def chain(tmp_path: Path, make_model: Callable[..., Path], make_workload: Callable[..., Any]) -> Any:
    """A workload of two stages that pass tensors straight on: z = (2 x) + 1, without any code."""
    import numpy as np

    folder = tmp_path / "chain"
    make_model(
        folder / "models/double.onnx",
        {"x": ("FLOAT", ["n", 4])},
        {"y": ("FLOAT", ["n", 4])},
        [("Mul", ["x", "two"], ["y"], {})],
        {"two": np.array(2, np.float32)},
    )
    make_model(
        folder / "models/add.onnx",
        {"y": ("FLOAT", ["n", 4])},
        {"z": ("FLOAT", ["n", 4])},
        [("Add", ["y", "one"], ["z"], {})],
        {"one": np.array(1, np.float32)},
    )
    stages = {
        "double": {"variants": {"only": {"model": "models/double.onnx"}}},
        "add": {"variants": {"only": {"model": "models/add.onnx"}}},
    }
    return make_workload(folder, {"stages": stages, "edges": [{"from": "double", "to": "add"}]})


@pytest.fixture
def chain_plan(chain: Any, make_plan: Callable[..., Any]) -> Any:
    """A plan for `chain` on one machine."""
    options = {
        "double-only": {"stage": "double", "variant": "only", "max_batch": 8},
        "add-only": {"stage": "add", "variant": "only", "max_queue_delay_s": 0.001},
    }
    return make_plan(chain, options, {"edge/cpu": [{"double-only": 1, "add-only": 2}]})


FAN_CODE = '''"""Stage code of a pipeline with a fan-out: double the sum, send positive numbers on, double, add."""

import numpy as np
from fan_helper import positive


class Split:
    def __init__(self, context):
        self.scale = context.params["scale"]
        assert context.model.inputs[0].name == "x"
        assert context.model.inputs[0].shape == (None, 1)

    def preprocess(self, inputs):
        return {"x": np.stack([np.sum(item, keepdims=True) for item in inputs]).astype(np.float32)}

    def postprocess(self, inputs, outputs):
        return [float(row[0]) for row in outputs["y"]]

    def route(self, item, doubled):
        return [{"value": value * self.scale, "doubled": doubled} for value in positive(item)]


class Turn:
    def passthrough(self, inputs):
        return [False] * len(inputs)

    def __init__(self, context):
        assert context.model is None

    def route(self, item, turned):
        return [item]


class Read:
    def __init__(self, context):
        self.offset = float((context.root / context.params["table"]).read_text())

    def preprocess(self, inputs):
        return {"x": np.array([[item["value"]] for item in inputs], np.float32)}

    def postprocess(self, inputs, outputs):
        return [float(y) + self.offset + 0 * item["doubled"] for item, y in zip(inputs, outputs["y"][:, 0])]


class Fan:
    def __init__(self, context):
        self.name = context.params["name"]

    def join(self, request, results):
        return (results["read"], len(request))

    def decode(self, tensors):
        if np.isnan(tensors["numbers"]).any():
            raise ValueError("not a number")
        return list(tensors["numbers"])

    def encode(self, answers):
        text = np.empty((len(answers), 1), object)
        text[:, 0] = [f"{self.name}: " + " ".join(f"{v:g}" for v in read) for read, _ in answers]
        return {"text": text, "count": np.array([[len(read)] for read, _ in answers], np.int32)}
'''
FAN_HELPER = """def positive(item):
    return [float(value) for value in item if value > 0]
"""


@pytest.fixture
def fan(tmp_path: Path, make_model: Callable[..., Path], make_workload: Callable[..., Any]) -> Any:
    """A workload with stage code: a stage that fans out, one that is skipped, one that reads a table."""
    import numpy as np

    folder = tmp_path / "fan"
    make_model(
        folder / "models/double.onnx",
        {"x": ("FLOAT", ["n", 1])},
        {"y": ("FLOAT", ["n", 1])},
        [("Mul", ["x", "two"], ["y"], {})],
        {"two": np.array(2, np.float32)},
    )
    (folder / "fan_code.py").write_text(FAN_CODE)
    (folder / "fan_helper.py").write_text(FAN_HELPER)
    (folder / "tables").mkdir()
    (folder / "tables/offset.txt").write_text("100")
    (folder / "unused.py").write_text("raise SystemExit\n")
    model = {"model": "models/double.onnx"}
    return make_workload(
        folder,
        {
            "code": "fan_code:Fan",
            "params": {"name": "sum"},
            "inputs": [{"name": "numbers", "dtype": "float32", "shape": [5]}],
            "outputs": [
                {"name": "text", "dtype": "string", "shape": [1]},
                {"name": "count", "dtype": "int32", "shape": [1]},
            ],
            "stages": {
                "split": {"code": "fan_code:Split", "variants": {"only": {**model, "params": {"scale": 3}}}},
                "turn": {"code": "fan_code:Turn", "variants": {"skip": {"runtime": "skip"}}},
                "read": {
                    "code": "fan_code:Read",
                    "variants": {"only": {**model, "params": {"table": "tables/offset.txt"}}},
                },
            },
            "edges": [{"from": "split", "to": "turn", "fan_out": 2.5}, {"from": "turn", "to": "read"}],
        },
        name="fan",
    )


@pytest.fixture
def fan_options() -> dict[str, dict[str, Any]]:
    """Options of `fan`: batches of two, so that a fan-out of three makes two batches."""
    return {
        "split-only": {"stage": "split", "variant": "only"},
        "turn-skip": {"stage": "turn", "variant": "skip"},
        "read-only": {"stage": "read", "variant": "only", "max_batch": 2},
    }


@pytest.fixture
def fan_expected() -> Callable[[Sequence[float]], bytes]:
    """What `fan` answers to a row of numbers."""
    return lambda numbers: ("sum: " + " ".join(f"{2 * 3 * v + 100:g}" for v in numbers if v > 0)).encode()


@pytest.fixture
def digits() -> Any:
    """The embedded sample workload."""
    from inferplan.spec.document import load_workload

    return load_workload(Path(__file__).parents[2] / "sample_workloads/digits/workload.yaml").workload


GOLDEN = Path(__file__).with_name("golden")


@pytest.fixture
def golden() -> Callable[[str, Path], None]:
    """golden(name, folder): hold a written folder against `golden/<name>/`.

    Text files must be the same; of models, code copied as it is, and the manifest only the names count. Run
    with INFERPLAN_WRITE_GOLDEN=1 to write the files anew, and read the diff.
    """
    import os

    names_only = (".onnx", "model.py", "fan_code.py", "fan_helper.py", "inferplan-export.json")

    def compare(name: str, folder: Path) -> None:
        listing = "".join(f"{p.relative_to(folder).as_posix()}\n" for p in sorted(folder.rglob("*")) if p.is_file())
        expected = {"FILES": listing} | {
            path.relative_to(folder).as_posix(): path.read_text()
            for path in sorted(folder.rglob("*"))
            if path.is_file() and not path.name.endswith(names_only)
        }
        root = GOLDEN / name
        if os.environ.get("INFERPLAN_WRITE_GOLDEN"):
            import shutil

            shutil.rmtree(root, ignore_errors=True)
            for file, text in expected.items():
                (root / file).parent.mkdir(parents=True, exist_ok=True)
                (root / file).write_text(text)
        known = {p.relative_to(root).as_posix(): p.read_text() for p in sorted(root.rglob("*")) if p.is_file()}
        assert sorted(expected) == sorted(known)
        for file, text in expected.items():
            assert text == known[file], file

    return compare
