"""The embedded workload: its models are interchangeable, as good as its README says, and small."""

from __future__ import annotations

import re
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from inferplan.spec.document import load_workload
from inferplan.spec.stagecode import Context, pipeline_adapter, stage_adapter

ROOT = Path(__file__).resolve().parents[2] / "sample_workloads" / "digits"
VARIANTS = sorted(path.stem for path in (ROOT / "models").glob("*.onnx"))
# A row of the README's table: variant, kB, accuracy, "low to high".
ROW = re.compile(r"^\| ([a-z0-9-]+) \| ([\d,]+) \| ([\d.]+) \| ([\d.]+) to ([\d.]+) \|", re.MULTILINE)
NEWEST_IR = 10

Logits = NDArray[np.float32]


@cache
def session(variant: str) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    path = ROOT / "models" / f"{variant}.onnx"
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def logits(variant: str, images: NDArray[np.uint8]) -> Logits:
    result: Logits = session(variant).run(["logits"], {"image": images})[0]
    return result


@cache
def digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    with np.load(ROOT / "data" / "test.npz", allow_pickle=False) as data:
        return data["images"], data["labels"]


@cache
def table() -> dict[str, tuple[float, float, float, float]]:
    """README: variant -> size in kB, accuracy, lower and upper end of its interval in percent."""
    rows = ROW.findall((ROOT / "README.md").read_text())
    return {
        name: (float(size.replace(",", "")), float(share), float(low), float(high))
        for name, size, share, low, high in rows
    }


def test_workload_is_valid_and_lists_every_model() -> None:
    workload = load_workload(ROOT / "workload.yaml").workload
    variants = workload.pipeline.stages["read"].variants
    assert sorted(variants) == VARIANTS == sorted(table())
    assert len(variants) >= 8
    for name, variant in variants.items():
        assert variant.model == f"models/{name}.onnx"
        assert variant.precision == ("int8" if name.endswith("-int8") else "fp32")


def test_the_one_with_asks_is_valid_too() -> None:
    workload = load_workload(ROOT / "workload-asks.yaml").workload
    assert list(workload.classes) == ["web", "app-1", "app-2", "app-3"]


def test_committed_files_take_at_most_four_megabytes() -> None:
    files = [path for path in ROOT.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in files if ".profile" not in str(path)) <= 4_000_000


def test_the_test_set_is_a_thousand_labelled_images_without_pickles() -> None:
    images, labels = digits()
    assert images.shape == (1000, 28, 28)
    assert images.dtype.name == "uint8"
    assert labels.shape == (1000,)
    assert labels.dtype.name == "int64"
    assert np.bincount(labels, minlength=10).min() >= 50
    assert len(np.unique(images.reshape(1000, -1), axis=0)) == 1000
    with zipfile.ZipFile(ROOT / "data" / "test.npz") as archive:
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_DEFLATED}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_model_has_the_one_interface(variant: str) -> None:
    model = onnx.load(ROOT / "models" / f"{variant}.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version <= NEWEST_IR
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 17)]
    assert interface(model.graph.input) == [("image", onnx.TensorProto.UINT8, ["batch", 28, 28])]
    assert interface(model.graph.output) == [("logits", onnx.TensorProto.FLOAT, ["batch", 10])]


def interface(values: Any) -> list[tuple[str, int, list[Any]]]:
    """Name, element type and dimensions (a name where free) of a graph's inputs or outputs."""
    return [
        (
            value.name,
            value.type.tensor_type.elem_type,
            [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim],
        )
        for value in values
    ]


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name.endswith("-int8")])
def test_int8_models_quantise_their_convolutions(variant: str) -> None:
    graph = onnx.load(ROOT / "models" / f"{variant}.onnx").graph
    made_by = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm"):
            assert [made_by[name].op_type for name in node.input[:2]] == ["DequantizeLinear"] * 2


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("batch", [1, 3, 8, 64])
def test_a_batch_gives_what_singles_give(variant: str, batch: int) -> None:
    images, _ = digits()
    singles = np.concatenate([logits(variant, images[i : i + 1]) for i in range(batch)])
    together = logits(variant, images[:batch])
    assert together.shape == (batch, 10)
    # A rounding at the edge of two int8 levels may fall to either side: allow a few levels.
    tolerance = 0.3 if variant.endswith("-int8") else 1e-3
    np.testing.assert_allclose(together, singles, rtol=0, atol=tolerance)


@pytest.mark.parametrize("variant", VARIANTS)
def test_accuracy_is_what_the_readme_says(variant: str) -> None:
    images, labels = digits()
    share = float((logits(variant, images).argmax(axis=1) == labels).mean())
    size, stated, low, high = table()[variant]
    assert 100 * share == pytest.approx(stated, abs=0.2)
    assert (low, high) == pytest.approx(wilson_percent(stated / 100, len(labels)), abs=0.051)
    assert (ROOT / "models" / f"{variant}.onnx").stat().st_size / 1e3 == pytest.approx(size, abs=0.51)


def wilson_percent(share: float, n: int) -> tuple[float, float]:
    """95 % interval of a proportion (Wilson 1927): the shares p with |share - p| <= z sqrt(p (1 - p) / n)."""
    z2 = 1.959964**2
    low, high = sorted(np.roots([1 + z2 / n, -(2 * share + z2 / n), share**2]).real)
    return 100 * float(low), 100 * float(high)


def test_variants_differ_enough_to_plan_with() -> None:
    shares = sorted(share for _, share, _, _ in table().values())
    assert shares[0] < 85
    assert shares[-1] > 98.5


def test_stage_code_takes_a_digit_from_pixels_to_score() -> None:
    stage = stage_adapter("stages:Read", Context(ROOT, stage="read", variant="cnn-s"))
    examples = stage.examples()[:200]
    inputs = [example.input for example in examples]
    tensors = stage.preprocess(inputs)
    assert {name: (array.dtype, array.shape) for name, array in tensors.items()} == {
        "image": (np.dtype("uint8"), (200, 28, 28))
    }
    predictions = stage.postprocess(inputs, {"logits": logits("cnn-s", tensors["image"])})
    assert all(type(label) is int for label in predictions)
    scores = stage.score(predictions, [example.truth for example in examples])["top1"]
    assert scores.is_proportion
    assert scores.value > 0.9


def test_scores_tell_right_from_wrong() -> None:
    for adapter in (
        stage_adapter("stages:Read", Context(ROOT)),
        pipeline_adapter("stages:Digits", Context(ROOT)),
    ):
        scores = adapter.score([3, 3, 7, 0], [3, 5, 7, 1])["top1"]
        assert scores.values.tolist() == [1.0, 0.0, 1.0, 0.0]


def test_pipeline_code_matches_the_declared_tensors() -> None:
    pipeline = load_workload(ROOT / "workload.yaml").workload.pipeline
    code = pipeline_adapter(pipeline.code, Context(ROOT))
    images, labels = digits()
    [declared_in], [declared_out] = pipeline.inputs, pipeline.outputs

    requests = code.decode({declared_in.name: images[:3]})
    assert [request.shape for request in requests] == [tuple(declared_in.shape)] * 3
    np.testing.assert_array_equal(np.stack(requests), images[:3])

    answers = code.encode([int(label) for label in labels[:3]])
    label = answers[declared_out.name]
    assert label.dtype == declared_out.dtype
    assert label.shape == (3, *declared_out.shape)
    assert label[:, 0].tolist() == labels[:3].tolist()
    assert [example.truth for example in code.examples()] == labels.tolist()


@pytest.mark.parametrize(
    "image",
    [np.zeros((2, 28, 28), np.float32), np.zeros((2, 784), np.uint8), np.zeros((28, 28), np.uint8)],
)
def test_a_request_of_another_shape_or_type_is_refused(image: NDArray[Any]) -> None:
    with pytest.raises(ValueError, match="image must be uint8"):
        pipeline_adapter("stages:Digits", Context(ROOT)).decode({"image": image})
