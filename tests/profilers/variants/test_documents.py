"""The two workload files: the user's, written once, and ours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from inferplan.profilers.variants.documents import Documents, entry_of, made_variant
from inferplan.spec.document import LoadedWorkload, load_workload
from inferplan.spec.errors import InputError
from inferplan.spec.stage import Variant

MakeWorkload = Callable[..., LoadedWorkload]


def entry(loaded: LoadedWorkload) -> dict[str, object]:
    parent = loaded.workload.pipeline.stages["s"].variants["mlp"]
    return entry_of(made_variant("mlp", parent, {"precision": "fp16"}, "fp16", {}))


def test_the_workload_gains_the_variants(make_workload: MakeWorkload) -> None:
    loaded = make_workload()
    documents = Documents.of(loaded, None)
    assert documents.write({"s": {"mlp-fp16": entry(loaded)}}) == [
        "test-variants.generated.yaml", "test-variants.yaml",
    ]  # fmt: skip
    merged = load_workload(documents.own).workload.pipeline.stages["s"].variants
    assert list(merged) == ["mlp", "mlp-fp16"]
    made = merged["mlp-fp16"]
    assert (made.parent, made.recipe and made.recipe.name, made.license) == ("mlp", "fp16", "MIT")
    assert documents.write({"s": {"mlp-fp16": entry(loaded)}}) == []


def test_the_users_file_is_written_once(make_workload: MakeWorkload) -> None:
    loaded = make_workload()
    documents = Documents.of(loaded, None)
    documents.write({"s": {"mlp-fp16": entry(loaded)}})
    mine = documents.own.read_text() + (
        "# mine\npipeline: {stages: {s: {variants: {own: {model: conv.onnx, params: {pictures: true}}}}}}\n"
    )
    documents.own.write_text(mine)
    again = Documents.of(loaded, None)
    assert again.handwritten() == {"s": {"own"}}
    again.write({"s": {"mlp-x": entry(loaded)}})
    assert documents.own.read_text() == mine
    assert list(load_workload(documents.own).workload.pipeline.stages["s"].variants) == ["mlp", "mlp-x", "own"]


def test_a_declared_accuracy_is_not_inherited() -> None:
    parent = Variant(model="m.onnx", accuracy=0.9, parent="other", license="MIT")
    made = made_variant("p", parent, {"model": "n.onnx"}, "fp16", {"a": [1]})
    assert (made.accuracy, made.parent, made.model, made.license) == (None, "p", "n.onnx", "MIT")


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("elsewhere/x.yaml", "stands beside"),
        ("workload.yaml", "give the workload that it includes"),
        ("x.txt", "ends in .yaml"),
        ("x.generated.yaml", "for the file that it includes"),
        ("taken.yaml", "does not include taken.generated.yaml"),
    ],
)
def test_where_it_cannot_be_written(output: str, message: str, make_workload: MakeWorkload) -> None:
    loaded = make_workload()
    root = loaded.workload.root
    (root / "elsewhere").mkdir()
    (root / "taken.yaml").write_text("include: [workload.yaml]\n")
    with pytest.raises(InputError, match=message):
        Documents.of(loaded, Path(root / output))
    assert (root / "taken.yaml").read_text() == "include: [workload.yaml]\n"
