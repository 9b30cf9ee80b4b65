"""The pipeline model without a server: order, batches, joins, errors, the wire between servers."""

from __future__ import annotations

import ast
import asyncio
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferplan.exporters import pipeline_model as glue


def model(name: str, **targets: int) -> dict[str, Any]:
    tensor = {"dtype": "float32", "shape": [None, 1]}
    return {
        "name": name,
        "inputs": [{"name": "x", **tensor}],
        "outputs": [{"name": "y", **tensor}],
        "metadata": {},
        "targets": [{"endpoint": k, "weight": v} for k, v in targets.items()] or [{"endpoint": None, "weight": 1}],
    }


def stage(name: str, parents: list[str], children: list[str], *choices: dict[str, Any], code: str | None = None) -> Any:
    defaults = {"share": 1.0, "variant": "v", "modalities": [], "params": {}, "max_batch": 4, "model": None}
    return {
        "name": name,
        "code": code,
        "parents": parents,
        "children": children,
        "choices": [defaults | choice for choice in choices],
    }


class Calls:
    """Stands in for the models: y = x + 1, remembering every call."""

    def __init__(self) -> None:
        self.made: list[tuple[str | None, str, int]] = []

    def caller(self, endpoint: str | None) -> glue.Call:
        async def call(name: str, inputs: dict[str, Any], outputs: Sequence[str]) -> dict[str, Any]:
            self.made.append((endpoint, name, len(inputs["x"])))
            await asyncio.sleep(0)
            return {"y": inputs["x"] + 1}

        return call


def answer(spec: dict[str, Any], root: Path, **tensors: Any) -> tuple[dict[str, Any], Calls]:
    calls = Calls()
    pipeline = glue.Pipeline({"code": None, "params": {}} | spec, root, calls.caller)
    return asyncio.run(pipeline.answer(tensors)), calls


@pytest.fixture
def code(tmp_path: Path) -> Callable[[str], str]:
    """code(class bodies): a module next to the pipeline, by a name of its own."""

    def write(text: str) -> str:
        name = f"glue_code_{abs(hash((text, str(tmp_path))))}"
        (tmp_path / f"{name}.py").write_text("import numpy as np\n" + text)
        return name

    return write


OUT = [{"name": "y", "dtype": "float32", "shape": [1]}]


def test_it_imports_nothing_a_server_lacks() -> None:
    tree = ast.parse(Path(glue.__file__).read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in names} <= {*sys.stdlib_module_names, "numpy"}


def test_smaller_items_of_a_batch_are_filled_up() -> None:
    items = [{"ids": np.array([1, 2, 3]), "text": np.array(["a"], object)}, {"ids": np.array([4])}]
    items[1]["text"] = np.array(["b", "c"], object)
    batch = glue._stacked(items)
    assert batch["ids"].tolist() == [[1, 2, 3], [4, 0, 0]]
    assert batch["text"].tolist() == [["a", ""], ["b", "c"]]
    with pytest.raises(glue.PipelineError, match="number of dimensions of ids"):
        glue._stacked([{"ids": np.zeros(2)}, {"ids": np.zeros((2, 2))}])


def test_without_code_tensors_pass_from_stage_to_stage(tmp_path: Path) -> None:
    spec = {
        "outputs": OUT,
        "stages": [
            stage("a", [], ["b"], {"model": model("m")}, code=None),
            stage("b", ["a"], [], {"model": None}, code=None),
        ],
    }
    x = np.arange(3, dtype=np.float32).reshape(3, 1)
    result, calls = answer(spec, tmp_path, x=x)
    np.testing.assert_array_equal(result["y"], x + 1)
    assert calls.made == [(None, "m", 1)] * 3, "requests go out on their own; the models' queues batch them"


def test_a_fan_out_is_called_in_batches_of_the_planned_size(tmp_path: Path, code: Callable[[str], str]) -> None:
    name = code(
        "class Split:\n"
        "    def __init__(self, context): pass\n"
        "    def passthrough(self, inputs): return [int(i['n'][0]) for i in inputs]\n"
        "    def route(self, item, n): return [{'x': np.array([i], np.float32)} for i in range(n)]\n"
        "class Pipe:\n"
        "    def __init__(self, context): pass\n"
        "    def join(self, request, results): return {'y': np.array([sum(p['y'][0] for p in results['b'])])}\n"
    )
    spec = {
        "code": f"{name}:Pipe",
        "outputs": OUT,
        "stages": [
            stage("a", [], ["b"], {}, code=f"{name}:Split"),
            stage("b", ["a"], [], {"model": model("m")}),
        ],
    }
    result, calls = answer(spec, tmp_path, n=np.array([[9], [0]]))
    assert result["y"].tolist() == [[sum(range(9)) + 9], [0]]
    assert sorted(count for _, _, count in calls.made) == [1, 4, 4]


def test_a_join_gets_what_each_parent_sent(tmp_path: Path, code: Callable[[str], str]) -> None:
    name = code(
        "class Both:\n"
        "    def __init__(self, context): assert context.stage == 'c' and context.model is None\n"
        "    def passthrough(self, inputs): return [{'y': 10 * i['a']['y'] + i['b']['y']} for i in inputs]\n"
    )
    both = {"model": model("m")}
    spec = {
        "outputs": OUT,
        "stages": [
            stage("e", [], ["a", "b"], {}),
            stage("a", ["e"], ["c"], both),
            stage("b", ["e"], ["c"], both),
            stage("c", ["a", "b"], [], {}, code=f"{name}:Both"),
        ],
    }
    result, _ = answer(spec, tmp_path, x=np.array([[1.0], [2.0]], np.float32))
    assert result["y"].tolist() == [[22.0], [33.0]]


def test_parents_that_sent_different_numbers_of_items_cannot_be_joined(
    tmp_path: Path, code: Callable[[str], str]
) -> None:
    name = code(
        "class Twice:\n"
        "    def __init__(self, context): pass\n"
        "    def route(self, item, prediction): return [item, item]\n"
    )
    spec = {
        "outputs": OUT,
        "stages": [
            stage("e", [], ["a", "b"], {}),
            stage("a", ["e"], ["c"], {}, code=f"{name}:Twice"),
            stage("b", ["e"], ["c"], {}),
            stage("c", ["a", "b"], [], {}),
        ],
    }
    with pytest.raises(glue.PipelineError, match="different numbers of items"):
        answer(spec, tmp_path, x=np.zeros((1, 1), np.float32))


def test_shares_and_replicas_are_dealt_out_in_proportion(tmp_path: Path) -> None:
    here, there = model("m", first=1, second=2), model("n")
    spec = {
        "outputs": OUT,
        "stages": [stage("a", [], [], {"share": 0.75, "model": here}, {"share": 0.25, "model": there})],
    }
    _, calls = answer(spec, tmp_path, x=np.zeros((120, 1), np.float32))
    assert Counter((endpoint, name) for endpoint, name, _ in calls.made) == {
        ("first", "m"): 30,
        ("second", "m"): 60,
        (None, "n"): 30,
    }


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_turns_are_exact_over_a_round(weights: list[int]) -> None:
    turns = glue.Turns([float(weight) for weight in weights])
    dealt = Counter(turns.next() for _ in range(2 * sum(weights)))
    assert [dealt[index] for index in range(len(weights))] == [2 * weight for weight in weights]


@pytest.mark.parametrize(
    ("encoded", "spec", "expected"),
    [
        ({}, {"dtype": "int64", "shape": [1]}, "encode gave no tensor 'y'"),
        (
            {"y": np.zeros((2, 3))},
            {"dtype": "float32", "shape": [1]},
            r"shape \[2, 3\]; the workload declares \[2, 1\]",
        ),
        ({"y": np.zeros((1, 1))}, {"dtype": "float32", "shape": [1]}, "declares"),
        ({"y": np.zeros((2, 1))}, {"dtype": "int64", "shape": [1]}, "'y' is float64; the workload declares int64"),
    ],
)
def test_responses_are_held_to_what_is_declared(encoded: Any, spec: Any, expected: str) -> None:
    with pytest.raises(glue.PipelineError, match=expected):
        glue.checked_output(encoded, {"name": "y", **spec}, 2)


def test_responses_take_the_declared_type() -> None:
    output = glue.checked_output({"y": np.zeros((2, 3))}, {"name": "y", "dtype": "float32", "shape": [-1]}, 2)
    assert output.dtype == np.float32
    text = glue.checked_output({"y": [["a"], [b"\xff"]]}, {"name": "y", "dtype": "string", "shape": [1]}, 2)
    assert text.tolist() == [[b"a"], [b"\xff"]]


@given(
    st.sampled_from(sorted(glue.WIRE_TYPES)),
    st.lists(st.integers(0, 1), min_size=1, max_size=20),
    st.lists(st.binary(max_size=9), min_size=1, max_size=5),
)
def test_tensors_survive_the_wire(dtype: str, numbers: list[int], strings: list[bytes]) -> None:
    array = np.array(numbers).astype(dtype).reshape(1, -1)
    texts = np.empty(len(strings), object)
    texts[:] = strings
    head, body = glue.encode_request({"a": array, "s": texts}, ["a", "s"])
    # An infer response looks as the request does, with "outputs" for "inputs".
    response = head.replace(b'"outputs"', b'"wanted"').replace(b'"inputs"', b'"outputs"')
    again = glue.decode_response(response + body, str(len(response)))
    assert again["a"].dtype == np.dtype(dtype)
    np.testing.assert_array_equal(again["a"], array)
    assert again["s"].tolist() == strings


def test_another_server_that_is_gone_is_named() -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as threads:
        remote = glue.Remote("127.0.0.1:9", threads)
        with pytest.raises(glue.PipelineError, match=r"127\.0\.0\.1:9: .*refused"):
            asyncio.run(remote("m", {"x": np.zeros(1)}, ["y"]))
