"""torch variants become ONNX models with the same names, and free dimensions where inputs differ."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from inferplan.profilers.variants.base import Order, Survey
from inferplan.profilers.variants.torch_exports import OnnxExport, free_axes
from inferplan.spec.document import LoadedWorkload
from inferplan.spec.errors import InputError
from inferplan.spec.stage import RuntimeOptions, Variant

TORCH = Variant(model="m.pt", runtime="torch")
NETS = """
import torch

class Words(torch.nn.Module):
    '''Word numbers (N, length) -> scores by name.'''
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table = torch.nn.Embedding(9, 6)
        self.out = torch.nn.Linear(6, 3)
    def forward(self, ids):
        return {"y": self.out(self.table(ids).mean(dim=1)), "each": self.table(ids)}

def words():
    return Words()

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.out = torch.nn.Linear(16, 3)
    def forward(self, x):
        return torch.relu(self.out(x))
"""
WORDS = """
import numpy as np

class Stage:
    def __init__(self, context):
        pass
    def examples(self):
        return [(np.arange(2 + i % 4) % 9, 0) for i in range(8)]
    def preprocess(self, inputs):
        batch = np.zeros((len(inputs), max(map(len, inputs))), np.int64)
        for row, words in zip(batch, inputs):
            row[: len(words)] = words
        return {"ids": batch}
"""


def test_a_module_with_free_length_and_named_outputs(
    make_workload: Callable[..., LoadedWorkload], order_for: Callable[..., Order]
) -> None:
    torch: Any = pytest.importorskip("torch")
    import onnxruntime

    loaded = make_workload()
    root = loaded.workload.root
    (root / "nets.py").write_text(NETS)
    (root / "words.py").write_text(WORDS)
    loaded = make_workload({"words": {"runtime": "torch", "factory": "nets:words"}}, code="words:Stage")
    order = order_for(loaded, "words", OnnxExport().parse("")[0])
    OnnxExport().make(order)
    session = onnxruntime.InferenceSession(str(order.target), providers=["CPUExecutionProvider"])
    assert {item.name: [type(size) for size in item.shape] for item in session.get_outputs()} == {
        "y": [str, int],
        "each": [str, str, int],
    }
    ids = np.array([[1, 2, 3, 4, 5, 6, 7]])
    torch.manual_seed(0)
    namespace: dict[str, Any] = {}
    exec(compile(NETS, "nets", "exec"), namespace)
    expected = namespace["words"]()(torch.from_numpy(ids))["y"].detach().numpy()
    assert np.allclose(session.run(["y"], {"ids": ids})[0], expected, atol=1e-5)


def test_torchscript(make_workload: Callable[..., LoadedWorkload], order_for: Callable[..., Order]) -> None:
    torch: Any = pytest.importorskip("torch")
    import onnxruntime

    root = make_workload().workload.root
    namespace: dict[str, Any] = {}
    exec(compile(NETS, "nets", "exec"), namespace)
    module = torch.jit.trace(namespace["Net"]().eval(), torch.zeros(2, 16))
    torch.jit.save(module, str(root / "net.pt"))
    loaded = make_workload({"net": {"runtime": "torch", "model": "net.pt"}})
    order = order_for(loaded, "net", OnnxExport().parse("opset=15")[0])
    OnnxExport().make(order)
    x = np.random.default_rng(0).standard_normal((5, 16)).astype(np.float32)
    session = onnxruntime.InferenceSession(str(order.target), providers=["CPUExecutionProvider"])
    assert [item.name for item in session.get_outputs()] == ["output_0"]
    expected = module(torch.from_numpy(x)).detach().numpy()
    assert np.allclose(session.run(None, {"x": x})[0], expected, atol=1e-6)


def test_axes_that_differ_are_free_and_equal_ones_share_a_name() -> None:
    batches = [
        {name: np.zeros((count, length, 4)) for name in ("ids", "mask")} for count, length in ((2, 5), (3, 7), (2, 6))
    ]
    found = free_axes(batches)
    assert found["ids"] == found["mask"]
    assert found["ids"][0] == "batch"
    assert set(found["ids"]) == {0, 1}


def test_axes_cannot_come_and_go() -> None:
    with pytest.raises(InputError, match="different number of dimensions"):
        free_axes([{"x": np.zeros((1, 2))}, {"x": np.zeros((1, 2, 3))}])


@pytest.mark.parametrize(
    ("variant", "reason"),
    [
        (Variant(model="m.onnx"), "torch variants only"),
        (Variant(model="m.pt", runtime="torch", options=RuntimeOptions(compile=True)), "without options"),
        (TORCH, ""),
    ],
)
def test_refusals(variant: Variant, reason: str) -> None:
    said = OnnxExport().refusal(variant, Survey(), OnnxExport().parse("")[0])
    assert reason in said
    assert bool(said) is bool(reason)


def test_what_becomes_of_the_variant() -> None:
    assert OnnxExport().changes(TORCH, {}) == {
        "runtime": "onnxruntime", "factory": None, "options": {}, "input_dtypes": {},
    }  # fmt: skip
