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
