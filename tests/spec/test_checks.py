"""Names that refer to nothing and files that are not there are found before anything is run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from inferplan.spec.document import load_workload
from inferplan.spec.errors import DocumentError

Write = Callable[..., Path]

READS = "metric: {name: top1}"
WITH_MODALITIES = (READS, "modalities: [image, text]\n      metric: {name: top1}")


def two(*more: tuple[str, str], models: str = "{}") -> tuple[tuple[str, str], ...]:
    """A variant `only` of two modalities, of which text can be spared."""
    variant = f"only: {{model: only.onnx, modalities: {{reads: [image, text], optional: [text], models: {models}}}}}"
    return (WITH_MODALITIES, ("only: {model: only.onnx}", variant), *more)


def problems(path: Path) -> list[str]:
    with pytest.raises(DocumentError) as caught:
        load_workload(path)
    return [f"{problem.field}: {problem.message}" for problem in caught.value.problems]


def test_a_variant_with_modalities_is_as_many_choices_as_it_has_subsets(write_workload: Write) -> None:
    stage = load_workload(write_workload(*two())).workload.pipeline.stages["read"]
    assert list(stage.choices()) == ["only@image+text", "only@image", "none"]


def test_files_of_subsets_must_be_there(write_workload: Write) -> None:
    assert load_workload(write_workload(*two(models="{image: small.onnx}")))
    (found,) = problems(write_workload(*two(models="{image: gone.onnx}")))
    assert found.startswith("pipeline.stages.read.variants.only.modalities.models.image: there is no file")


@pytest.mark.parametrize(
    ("edits", "expected"),
    [
        (
            [*two()[1:]],
            "pipeline.stages.read.variants.only.modalities: the stage names no 'modalities' that this could read",
        ),
        (
            [(READS, "modalities: [image, sound]\n      metric: {name: top1}"), *two()[1:]],
            "pipeline.stages.read.variants.only.modalities.reads[1]: there is no modality 'text'",
        ),
        (
            two(("composition: product", "composition: product\nprofile:\n  upstream: {find: smal}")),
            "profile.upstream.find: there is no variant 'smal'; did you mean 'small'?",
        ),
        (
            two(("composition: product", "composition: product\n  combinations: [{find: small, read: only}]")),
            "accuracy.combinations[0].read: there is no variant 'only'",
        ),
        (
            [("model: small.onnx", "runtime: torch, factory: 'nets:make'")],
            "pipeline.stages.find.variants.small.factory: code 'nets:make': there is no file",
        ),
        (
            [("metric: {name: recall}", "metric: {name: recall, compute: 'metrics:recall'}")],
            "pipeline.stages.find.metric.compute: code 'metrics:recall': there is no file",
        ),
        (
            [("  metric: {name: top1}\n  composition", "  metric: {name: top1, compute: 'metrics:a'}\n  composition")],
            "accuracy.metric.compute: code 'metrics:a': there is no file",
        ),
        (
            [("model: small.onnx", "model: small.onnx, parent: larg")],
            "pipeline.stages.find.variants.small.parent: there is no variant 'larg'; did you mean 'large'?",
        ),
        (
            [("model: small.onnx", "model: small.onnx, parent: small")],
            "pipeline.stages.find.variants.small.parent: a variant is not made from itself",
        ),
        (
            [("model: small.onnx", "model: small.onnx, recipe: {name: int8}")],
            "pipeline.stages.find.variants.small.recipe: a recipe says how a variant was made",
        ),
        (
            [("model: small.onnx", "model: small.onnx, input_shapes: {x: [3, height]}")],
            "pipeline.stages.find.variants.small.input_shapes.x: height has no size in 'input_dims'",
        ),
    ],
)
def test_what_refers_to_nothing_is_named(write_workload: Write, edits: list[tuple[str, str]], expected: str) -> None:
    found = problems(write_workload(*edits))
    assert any(problem.startswith(expected) for problem in found), found


def test_combinations_name_choices(write_workload: Write) -> None:
    combination = ("composition: product", "composition: product\n  combinations: [{find: small, read: only@image}]")
    workload = load_workload(write_workload(*two(combination))).workload
    assert workload.accuracy is not None
    assert workload.accuracy.combinations == [{"find": "small", "read": "only@image"}]


def test_a_built_in_metric_needs_no_file_and_torch_is_a_runtime(write_workload: Write) -> None:
    edits = [
        ("metric: {name: recall}", "metric: {name: recall, compute: top1}"),
        ("model: small.onnx", "runtime: torch, model: small.onnx"),
    ]
    assert load_workload(write_workload(*edits)).workload.pipeline.stages["find"].variants["small"].runtime == "torch"
