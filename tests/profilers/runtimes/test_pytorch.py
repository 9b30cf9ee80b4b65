"""Torch runs TorchScript, exported programs and modules of a factory, all to the same answers."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inferplan.profilers.runtimes import pytorch
from inferplan.profilers.runtimes.base import ModelError, ModelSource, Session
from inferplan.profilers.runtimes.executor import Executor
from inferplan.profilers.runtimes.registry import runtime
from inferplan.spec.errors import InputError, MissingExtraError
from inferplan.spec.stage import Choice, Stage, Variant

X = np.linspace(-2, 2, 12, dtype=np.float32).reshape(3, 4)
IDS = np.array([[1, 2, 3, 0], [4, 0, 0, 0]])
MASK = np.array([[1, 1, 1, 0], [1, 0, 0, 0]])

Save = Callable[[Path], ModelSource]


def load(source: ModelSource, threads: int = 1) -> Session:
    return runtime("torch").load(source, "cpu", threads)


def factory(root: Path, weights: Path | None = None, **options: Any) -> ModelSource:
    return ModelSource(weights, "nets:make_net", root, {"width": 3, "of_the_stage_code": 1}, options)


@pytest.fixture
def net(nets: Any) -> Any:
    return nets["make_net"]().eval()


@pytest.fixture
def exported(torch: Any, net: Any, tmp_path: Path) -> Path:
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(net, (torch.ones(2, 4),), dynamic_shapes={"x": {0: batch}})
    torch.export.save(program, tmp_path / "net.pt2")
    return tmp_path / "net.pt2"


@pytest.fixture
def traced(torch: Any, net: Any, tmp_path: Path) -> Path:
    torch.jit.save(torch.jit.trace(net, torch.ones(2, 4), strict=False), tmp_path / "net.pt")
    return tmp_path / "net.pt"


def expected(torch: Any, net: Any) -> dict[str, Any]:
    with torch.inference_mode():
        return {name: part.numpy() for name, part in net(torch.from_numpy(X)).items()}


def check(session: Session, torch: Any, net: Any, tolerance: float = 1e-6) -> None:
    outputs = session.run({"x": X})
    assert list(outputs) == ["y", "twice"]
    for name, array in expected(torch, net).items():
        np.testing.assert_allclose(outputs[name], array, rtol=tolerance, atol=tolerance)
        assert outputs[name].dtype == np.float32


def test_torchscript_runs(torch: Any, net: Any, traced: Path) -> None:
    session = load(ModelSource(traced))
    check(session, torch, net)
    assert [(t.name, t.dtype, t.shape) for t in session.info.inputs] == [("x", "", None)]
    assert session.provider == "cpu"
    assert session.version == torch.__version__


def test_an_exported_program_runs_and_says_its_shapes(torch: Any, net: Any, exported: Path) -> None:
    session = load(ModelSource(exported))
    check(session, torch, net)
    (x,) = session.info.inputs
    assert (x.name, x.dtype, x.shape) == ("x", "float32", (None, 4))
    assert x.names[0]
    assert [(t.name, t.shape) for t in session.info.outputs] == [("y", (None, 3)), ("twice", (None, 4))]
    with pytest.raises(ModelError, match="input x is float64; the model takes float32"):
        session.run({"x": X.astype(np.float64)})
    with pytest.raises(Exception, match="4"):
        session.run({"x": np.ones((3, 5), np.float32)})


def test_a_factory_with_safetensors_or_a_state_dict_runs(torch: Any, net: Any, tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    with torch.no_grad():
        net.inner.weight.add_(1.0)  # other weights than the factory makes
    safetensors.save_file(net.state_dict(), tmp_path / "net.safetensors")
    torch.save(net.state_dict(), tmp_path / "net.pth")
    torch.save({"state_dict": net.state_dict()}, tmp_path / "checkpoint.pt")
    for name in ("net.safetensors", "net.pth", "checkpoint.pt"):
        check(load(factory(tmp_path, tmp_path / name)), torch, net)


def test_a_factory_alone_runs_with_the_weights_it_makes(torch: Any, net: Any, tmp_path: Path) -> None:
    check(load(factory(tmp_path)), torch, net)


def test_outputs_are_named_by_place_where_they_have_no_names(torch: Any, nets: Any, tmp_path: Path) -> None:
    text = nets["Text"]().eval()
    torch.jit.save(torch.jit.script(text), tmp_path / "text.pt")
    length = torch.export.Dim("length", min=2, max=64)
    batch = torch.export.Dim("batch", min=1, max=64)
    shapes = {"ids": {0: batch, 1: length}, "mask": {0: batch, 1: length}}
    given = (torch.from_numpy(IDS), torch.from_numpy(MASK))
    torch.export.save(torch.export.export(text, given, dynamic_shapes=shapes), tmp_path / "text.pt2")
    made = ModelSource(None, "nets:make_text", tmp_path, {"words": 7})
    sessions = [
        load(source) for source in (ModelSource(tmp_path / "text.pt"), ModelSource(tmp_path / "text.pt2"), made)
    ]
    answers = [session.run({"mask": MASK, "ids": IDS}) for session in sessions]
    for answer in answers:
        assert list(answer) == ["output_0", "output_1"]
        np.testing.assert_allclose(answer["output_0"], answers[0]["output_0"], rtol=1e-6)
        np.testing.assert_array_equal(answer["output_1"], [[3.0], [1.0]])
    ids, mask = sessions[1].info.inputs
    assert ids.dtype == "int64"
    assert ids.shape == (None, None)
    assert ids.names == mask.names
    assert len(set(ids.names)) == 2
    for session in (sessions[0], sessions[2]):
        assert [(t.name, t.optional) for t in session.info.inputs] == [("ids", False), ("mask", False), ("scale", True)]
        scaled = session.run({"ids": IDS, "mask": MASK, "scale": np.array(2.0, np.float32)})
        np.testing.assert_allclose(scaled["output_0"], 2 * answers[0]["output_0"], rtol=1e-6)


def test_nested_outputs_are_named_by_their_path(torch: Any, tmp_path: Path) -> None:
    (tmp_path / "nested.py").write_text(
        "import torch\n"
        "class N(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        "        return {'a': (x, [x + 1, None]), 'b': x.to(torch.bfloat16)}\n"
    )
    outputs = load(ModelSource(None, "nested:N", tmp_path)).run({"x": X})
    assert list(outputs) == ["a_0", "a_1_0", "b"]
    assert outputs["b"].dtype == np.float32


def test_names_that_the_model_has_not_are_refused(traced: Path) -> None:
    session = load(ModelSource(traced))
    with pytest.raises(ModelError, match="needs x, has no input z; its inputs: x"):
        session.run({"z": X})
    with pytest.raises(ModelError, match="takes no arrays of object"):
        session.run({"x": np.array([["a"]], object)})


def test_arrays_that_torch_does_not_take_as_they_are_are_copied(torch: Any, net: Any, traced: Path) -> None:
    session = load(ModelSource(traced))
    frozen = X[::-1]
    frozen.flags.writeable = False
    np.testing.assert_allclose(session.run({"x": frozen})["twice"], 2 * X[::-1])


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_are_set(torch: Any, tmp_path: Path, threads: int) -> None:
    load(factory(tmp_path), threads)
    assert torch.get_num_threads() == threads


def test_waiting_threads_sleep(tmp_path: Path) -> None:
    """The variable is read when torch is loaded, so a fresh process has to show it."""
    pytest.importorskip("torch")
    code = (
        "import os; os.environ.pop('OMP_WAIT_POLICY', None)\n"
        "from inferplan.profilers.runtimes.registry import runtime; runtime('torch').version()\n"
        "print(os.environ['OMP_WAIT_POLICY'])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "PASSIVE\n"


@pytest.mark.parametrize(("autocast", "tolerance"), [("bf16", 0.1), ("fp16", 0.02)])
def test_autocast_is_less_precise_and_close(
    torch: Any, net: Any, tmp_path: Path, autocast: str, tolerance: float
) -> None:
    outputs = load(factory(tmp_path, autocast=autocast)).run({"x": X})
    exact = expected(torch, net)["y"]
    np.testing.assert_allclose(outputs["y"].astype(np.float32), exact, rtol=tolerance, atol=tolerance)
    assert not np.array_equal(outputs["y"], exact)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_programs_answer_the_same(torch: Any, net: Any, exported: Path, tmp_path: Path) -> None:
    for source in (factory(tmp_path, compile=True), ModelSource(exported, options={"compile": True})):
        check(load(source), torch, net, 1e-5)


def test_torchscript_is_not_compiled(traced: Path) -> None:
    if shutil.which("g++") is None:
        pytest.skip("another reason comes first")
    with pytest.raises(ModelError, match="takes no TorchScript"):
        load(ModelSource(traced, options={"compile": True}))


def test_compiling_without_a_compiler_is_refused(torch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ModelError, match="C\\+\\+ compiler: no-such-compiler"):
        load(factory(tmp_path, compile=True))


def test_weights_that_do_not_fit_are_refused(torch: Any, net: Any, tmp_path: Path) -> None:
    torch.save({"inner.weight": torch.ones(9, 9)}, tmp_path / "other.pth")
    with pytest.raises(ModelError, match=r"other.pth: its weights do not fit.*inner\.bias"):
        load(factory(tmp_path, tmp_path / "other.pth"))
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ModelError, match="no state dict"):
        load(factory(tmp_path, tmp_path / "list.pth"))
    with pytest.raises(ModelError, match="no such file"):
        load(factory(tmp_path, tmp_path / "absent.safetensors"))


def test_a_factory_that_makes_no_module_is_refused(torch: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="gives back a str"):
        load(ModelSource(None, "nets:make_nothing", tmp_path))
    with pytest.raises(ModelError, match="needs words"):
        load(ModelSource(None, "nets:make_text", tmp_path))
    with pytest.raises(InputError, match="no function make_more"):
        load(ModelSource(None, "nets:make_more", tmp_path))
    with pytest.raises(ModelError, match="a model file or a factory"):
        load(ModelSource())


def test_providers_are_those_that_work(torch: Any, traced: Path) -> None:
    assert runtime("torch").providers() == (("cpu", "cuda") if torch.cuda.is_available() else ("cpu",))
    with pytest.raises(ModelError, match="no provider 'openvino'"):
        runtime("torch").load(ModelSource(traced), "openvino", 1)
    if not torch.cuda.is_available():
        with pytest.raises(ModelError, match="no CUDA device"):
            runtime("torch").load(ModelSource(traced), "cuda", 1)


def test_a_missing_library_is_a_missing_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r"inferplan\[torch\]"):
        load(ModelSource(tmp_path / "net.pt"))


def test_a_library_with_the_hole_in_weights_only_is_refused(torch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.5.1")
    with pytest.raises(InputError, match=r"2\.6 or newer"):
        pytorch.TorchRuntime().version()


def test_a_closed_session_does_not_run(traced: Path) -> None:
    session = load(ModelSource(traced))
    session.close()
    with pytest.raises(RuntimeError, match="closed"):
        session.run({"x": X})


def test_it_serves_a_stage(torch: Any, traced: Path, tmp_path: Path) -> None:
    variant = Variant(runtime="torch", model=traced.name, input_shapes={"x": [4]}, input_dtypes={"x": "float32"})
    with Executor.open(tmp_path, "s", Stage(variants={"v": variant}), Choice("v")) as executor:
        inputs = executor.made_up_inputs(3)
        batch = executor.execute(inputs)
        np.testing.assert_allclose(batch.predictions[2]["twice"], 2 * inputs[2]["x"])
        assert batch.elements == 12
        assert executor.info.inputs[0].shape == (None, 4)
        assert executor.fixed_batch is None


def test_same_weights_answer_the_same_through_onnx(torch: Any, net: Any, traced: Path, tmp_path: Path) -> None:
    """The two runtimes agree on one net, written as ONNX by hand."""
    from onnx import TensorProto, helper, numpy_helper, save

    weights = {name: value.numpy() for name, value in net.state_dict().items()}
    float_, sizes = TensorProto.FLOAT, ["N", 4]
    graph = helper.make_graph(
        [
            helper.make_node("Add", ["x", "shift"], ["moved"]),
            helper.make_node("Gemm", ["moved", "inner.weight", "inner.bias"], ["sum"], transB=1),
            helper.make_node("Relu", ["sum"], ["y"]),
            helper.make_node("Add", ["x", "x"], ["twice"]),
        ],
        "net",
        [helper.make_tensor_value_info("x", float_, sizes)],
        [helper.make_tensor_value_info("y", float_, ["N", 3]), helper.make_tensor_value_info("twice", float_, sizes)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    save(model, str(tmp_path / "net.onnx"))
    check(runtime("onnxruntime").load(ModelSource(tmp_path / "net.onnx"), "cpu", 1), torch, net, 1e-5)


def test_types_are_declared_for_torch_alone() -> None:
    with pytest.raises(ValueError, match="'input_dtypes' belongs to runtime: torch"):
        Variant(model="a.onnx", input_dtypes={"x": "float32"})
