"""The files that a model consists of are found without loading it, and all of them count."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from inferplan.spec.document import load_workload
from inferplan.spec.errors import InputError
from inferplan.spec.evidence import file_sha256
from inferplan.spec.modelfiles import external_names, model_files, model_sha256

Write = Callable[..., Path]


def weights(name: str, size: int = 64) -> TensorProto:
    return numpy_helper.from_array(np.arange(size, dtype=np.float32), name)


def outside(name: str, location: str) -> TensorProto:
    """A tensor whose data another file has."""
    tensor = weights(name)
    onnx.external_data_helper.set_external_data(tensor, location)
    tensor.ClearField("raw_data")
    return tensor


def save(path: Path, initializers: list[TensorProto], nodes: list[onnx.NodeProto] | None = None) -> Path:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes or [helper.make_node("Identity", ["x"], ["y"])],
        "graph",
        [value("x", TensorProto.FLOAT, ["N", 4])],
        [value("y", TensorProto.FLOAT, ["N", 4])],
        initializers,
    )
    path.write_bytes(helper.make_model(graph).SerializeToString())
    return path


def test_external_data_is_found_in_initialisers_constants_and_subgraphs(tmp_path: Path) -> None:
    branch = helper.make_graph([], "then", [], [], [outside("deep", "sub/deep.bin")])
    nodes = [
        helper.make_node("Constant", [], ["c"], value=outside("c", "constant.bin")),
        helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch),
    ]
    path = save(tmp_path / "m.onnx", [weights("inside"), outside("a", "w.bin"), outside("b", "w.bin")], nodes)
    assert external_names(path) == {"w.bin", "constant.bin", "sub/deep.bin"}
    (tmp_path / "sub").mkdir()
    for name in ("w.bin", "sub/deep.bin"):
        (tmp_path / name).write_bytes(b"data")
    assert model_files(path) == [path, tmp_path / "sub/deep.bin", tmp_path / "w.bin"]


def test_what_the_onnx_package_writes_is_read(tmp_path: Path) -> None:
    model = onnx.load(str(save(tmp_path / "one.onnx", [weights("w", 2048)])))
    onnx.save(model, str(tmp_path / "two.onnx"), save_as_external_data=True, location="two.data")
    assert model_files(tmp_path / "two.onnx") == [tmp_path / "two.onnx", tmp_path / "two.data"]


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "gone.bin", "nul\0", "x" * 5000, ""])
def test_names_that_lead_elsewhere_are_no_part_of_the_model(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "models").mkdir()
    path = save(tmp_path / "models" / "m.onnx", [outside("a", name)])
    assert model_files(path) == [path]


@given(content=st.binary(max_size=300))
def test_any_bytes_are_a_model_without_files_beside_it(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.mktemp("any") / "m.onnx"
    path.write_bytes(content)
    assert model_files(path) == [path]


@given(cut=st.integers(0, 500))
def test_a_truncated_model_is_no_error(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = save(tmp_path_factory.mktemp("cut") / "m.onnx", [outside("a", "w.bin"), weights("b")])
    path.write_bytes(path.read_bytes()[:-cut] if cut else path.read_bytes())
    assert external_names(path) <= {"w.bin"}


def test_a_deep_nest_is_given_up_on(tmp_path: Path) -> None:
    def field(number: int, content: bytes) -> bytes:
        size = bytes([len(content) & 0x7F | 0x80, len(content) >> 7 & 0x7F | 0x80, len(content) >> 14])
        return bytes([number << 3 | 2]) + size + content

    graph = helper.make_graph([], "g", [], [], [outside("a", "w.bin")]).SerializeToString()
    path = tmp_path / "m.onnx"
    for depth, names in ((30, {"w.bin"}), (500, set())):
        nested = graph
        for _ in range(depth):
            nested = field(1, field(5, field(6, nested)))
        path.write_bytes(field(7, nested))
        assert external_names(path) == names


def test_a_model_of_one_file_has_the_hash_of_that_file(write_workload: Write) -> None:
    workload = load_workload(write_workload()).workload
    small = workload.root / "small.onnx"
    assert model_sha256(workload, "find", "small") == hashlib.sha256(small.read_bytes()).hexdigest()
    assert model_sha256(workload, "read", "none") == ""


def test_external_data_counts(write_workload: Write, tmp_path: Path) -> None:
    workload = load_workload(write_workload()).workload
    save(tmp_path / "small.onnx", [outside("a", "w.bin")])
    without = model_sha256(workload, "find", "small")
    assert without == file_sha256(tmp_path / "small.onnx")
    hashes = {without}
    for content in (b"one", b"two"):
        (tmp_path / "w.bin").write_bytes(content)
        hashes.add(model_sha256(workload, "find", "small"))
    assert len(hashes) == 3


def test_a_factory_is_part_of_the_model(write_workload: Write, tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text("def make(width): ...\n")
    variant = "runtime: torch, factory: 'nets:make', params: {width: 3}"
    hashes = set()
    for edit in (f"{variant}", f"{variant}, model: small.onnx", f"{variant.replace('3', '4')}"):
        workload = load_workload(write_workload(("model: small.onnx", edit))).workload
        hashes.add(model_sha256(workload, "find", "small"))
    (tmp_path / "nets.py").write_text("def make(width): return None\n")
    hashes.add(model_sha256(workload, "find", "small"))
    assert len(hashes) == 4


def test_each_subset_has_the_hash_of_its_own_file(write_workload: Write) -> None:
    edits = [
        ("metric: {name: top1}", "modalities: [image, text]\n      metric: {name: top1}"),
        (
            "only: {model: only.onnx}",
            "only: {model: only.onnx, modalities: {reads: [image, text], optional: [text],"
            " models: {image: small.onnx}}}",
        ),
    ]
    workload = load_workload(write_workload(*edits)).workload
    assert model_sha256(workload, "read", "only@image") == file_sha256(workload.root / "small.onnx")
    assert model_sha256(workload, "read", "only@image+text") == file_sha256(workload.root / "only.onnx")


def test_a_model_that_is_gone_is_named(write_workload: Write) -> None:
    workload = load_workload(write_workload()).workload
    (workload.root / "small.onnx").unlink()
    with pytest.raises(InputError, match=r"cannot read .*small\.onnx"):
        model_sha256(workload, "find", "small")
