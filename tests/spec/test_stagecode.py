"""User code plugs in as plain classes; what it returns is checked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from inferplan.spec.errors import InputError
from inferplan.spec.stagecode import Context, ModelInfo, TensorInfo, pipeline_adapter, stage_adapter
from inferplan.spec.usercode import load_class, load_function


def code(root: Path, text: str, name: str = "stages") -> None:
    (root / f"{name}.py").write_text(text)


def test_without_code_tensors_pass_through(tmp_path: Path) -> None:
    stage = stage_adapter(None, Context(tmp_path, stage="a"))
    items = [{"x": np.array([1.0, 2.0])}, {"x": np.array([3.0, 4.0])}]
    batch = stage.preprocess(items)
    assert batch["x"].shape == (2, 2)
    predictions = stage.postprocess(items, {"y": batch["x"] * 2})
    assert predictions[1]["y"].tolist() == [6.0, 8.0]
    assert stage.route(items[0], predictions[0]) == [predictions[0]]
    pipeline = pipeline_adapter(None, Context(tmp_path))
    requests = pipeline.decode({"x": batch["x"]})
    assert [request["x"].tolist() for request in requests] == [[1.0, 2.0], [3.0, 4.0]]
    assert pipeline.encode(predictions)["y"].shape == (2, 2)


def text_context(root: Path) -> Context:
    ids = TensorInfo("ids", "int64", (None, None, 2), ("batch", "length", ""))
    return Context(root, stage="a", model=ModelInfo((ids, TensorInfo("words", "object", (None, None))), ()))


def test_items_that_differ_in_a_free_dimension_are_filled_up(tmp_path: Path) -> None:
    stage = stage_adapter(None, text_context(tmp_path))
    items = [{"ids": np.full((length, 2), 7), "words": np.array(["a"] * length, dtype=object)} for length in (1, 3)]
    batch = stage.preprocess(items)
    assert batch["ids"].tolist() == [[[7, 7], [0, 0], [0, 0]], [[7, 7]] * 3]
    assert batch["ids"].dtype == np.int64
    assert batch["words"].tolist() == [["a", "", ""], ["a", "a", "a"]]


@pytest.mark.parametrize(
    ("shapes", "problem"),
    [
        (((2, 2), (2, 3)), r"differ in dimension 2 of ids, which the model has fixed at 2"),
        (((2, 2), (2,)), r"differ in the shape of ids"),
    ],
)
def test_items_that_differ_elsewhere_are_refused(
    tmp_path: Path, shapes: tuple[tuple[int, ...], ...], problem: str
) -> None:
    for context in (text_context(tmp_path), Context(tmp_path, stage="a")):
        expected = problem if context.model else r"differ in the shape of ids"
        with pytest.raises(InputError, match=r"stage a: the items of a batch " + expected):
            stage_adapter(None, context).preprocess([{"ids": np.zeros(shape)} for shape in shapes])


def test_scores_are_means_or_ratios_of_sums(tmp_path: Path) -> None:
    code(
        tmp_path,
        "class Read:\n"
        "    def __init__(self, context): pass\n"
        "    def score(self, predictions, truths):\n"
        "        hits = [float(p == t) for p, t in zip(predictions, truths)]\n"
        "        return {'top1': hits, 'weighted': (hits, [1.0, 3.0])}\n",
    )
    scores = stage_adapter("stages:Read", Context(tmp_path, stage="read")).score([1, 2], [1, 3])
    assert scores["top1"].value == 0.5
    assert scores["top1"].is_proportion
    assert scores["weighted"].value == 0.25
    assert not scores["weighted"].is_proportion


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("def score(self, p, t): return [1.0]", "must return a mapping"),
        ("def score(self, p, t): return {'m': [1.0]}", "one value per example"),
        ("def score(self, p, t): return {'m': [float('nan'), 1.0]}", "not finite"),
        ("def postprocess(self, i, o): return [1]", "1 predictions for 2 inputs"),
        ("def examples(self): return [3]", "pairs"),
    ],
)
def test_wrong_results_are_named(tmp_path: Path, body: str, expected: str) -> None:
    code(tmp_path, f"class Bad:\n    def __init__(self, context): pass\n    {body}\n")
    stage = stage_adapter("stages:Bad", Context(tmp_path, stage="s"))
    with pytest.raises(InputError, match=expected):
        if "score" in body:
            stage.score([1, 2], [1, 2])
        elif "postprocess" in body:
            stage.postprocess([1, 2], {})
        else:
            stage.examples()


@pytest.mark.parametrize("reference", ["../x:Y", "x", "x:", "/etc/x:Y", "x.y:Z", "stages:Gone"])
def test_references_stay_below_the_workload(tmp_path: Path, reference: str) -> None:
    code(tmp_path, "class Here: pass\n")
    with pytest.raises(InputError):
        load_class(reference, tmp_path)


def test_a_broken_module_says_why(tmp_path: Path) -> None:
    code(tmp_path, "import not_a_module_anywhere\n", "broken")
    with pytest.raises(InputError, match="not_a_module_anywhere"):
        load_class("broken:X", tmp_path)


def test_two_workloads_may_use_the_same_file_name(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        code(tmp_path / name, f"class Stage:\n    label = {name!r}\n")
    labels = [load_class("stages:Stage", tmp_path / name).__dict__["label"] for name in ("one", "two", "one")]
    assert labels == ["one", "two", "one"]


def test_code_may_import_its_neighbours(tmp_path: Path) -> None:
    code(tmp_path, "VALUE = 7\n", "neighbour_of_stage")
    code(tmp_path, "from neighbour_of_stage import VALUE\nclass Stage:\n    value = VALUE\n")
    assert load_class("stages:Stage", tmp_path).__dict__["value"] == 7


def test_functions_are_found_by_name(tmp_path: Path) -> None:
    code(tmp_path, "def double(x): return 2 * x\nnumber = 3\n", "functions")
    assert load_function("functions:double", tmp_path)(4) == 8
    for missing in ("number", "triple"):
        with pytest.raises(InputError, match=f"defines no function {missing}"):
            load_function(f"functions:{missing}", tmp_path)
