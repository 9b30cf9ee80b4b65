"""Inputs to measure with: in an order that a seed fixes, every one as often as the others."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferplan.profilers.inputs import StageInputs, examples_sha256
from inferplan.profilers.points import PointTask, pinned
from inferplan.profilers.process import Limits
from inferplan.profilers.runtimes.executor import Executor, ExecutorSpec
from inferplan.profilers.scoring import payload_bytes
from inferplan.spec.rows import PointKey
from inferplan.spec.stage import Choice, Sizes, Stage, Variant
from inferplan.spec.stagecode import Example


def numbered(count: int) -> StageInputs:
    return StageInputs(tuple(Example(str(index), index, index) for index in range(count)), True)


@given(count=st.integers(1, 30), size=st.integers(1, 40), seed=st.integers(0, 5))
def test_batches_go_round_evenly(count: int, size: int, seed: int) -> None:
    inputs = numbered(count)
    batches = list(itertools.islice(inputs.batches(size, [seed]), count))
    assert all(len(batch) == size for batch in batches)
    assert Counter(itertools.chain(*batches)) == dict.fromkeys(range(count), size)
    assert batches == list(itertools.islice(inputs.batches(size, [seed]), count))


def test_other_seeds_give_other_orders() -> None:
    first = next(numbered(100).batches(100, [1]))
    second = next(numbered(100).batches(100, [2]))
    assert first != second


def test_the_shape_of_made_up_inputs_has_the_distribution(tmp_path: Path, make_model: Callable[..., Path]) -> None:
    make_model(shape=["N", "W"])
    sizes = Sizes(values=[2, 5], weights=[1, 3])
    stage = Stage(variants={"v": Variant(model="model.onnx", input_dims={"W": sizes}), "s": Variant(runtime="skip")})
    with Executor.open(tmp_path, "s", stage, Choice("v")) as executor:
        inputs = StageInputs.of(executor, None)
        assert inputs.made_up
        assert inputs.shape(executor, 4) == {"x": [4, {"name": "W", "values": [2, 5], "weights": [1.0, 3.0]}]}
        data = StageInputs((Example("0", {"x": np.zeros(3, np.float32)}),), True)
        assert data.shape(executor, 2) == {"x": [2, 3]}
    with Executor.open(tmp_path, "s", stage, Choice("s")) as executor:
        assert numbered(3).shape(executor, 2) == {}


def test_the_hash_of_data_follows_inputs_and_truths() -> None:
    base = examples_sha256([Example("0", np.zeros(3), 1)])
    assert base == examples_sha256([Example("0", np.zeros(3), 1)])
    assert base != examples_sha256([Example("0", np.zeros(3), 2)])
    assert base != examples_sha256([Example("0", np.ones(3), 1)])
    assert examples_sha256([Example("0", lambda: None)]) != examples_sha256([])


@pytest.mark.parametrize(
    ("item", "size"),
    [
        (np.zeros((2, 3), np.float32), 24),
        (b"abc", 3),
        ("é", 2),
        ({"image": np.zeros(5, np.uint8), "box": [np.zeros(2)]}, 5 + 3 + 5 + 16),
        ((), 0),
    ],
)
def test_payloads_are_counted_by_their_arrays(item: object, size: int) -> None:
    assert payload_bytes(item) == size


def test_other_things_are_counted_as_pickled() -> None:
    assert payload_bytes(3.5) > 8


@pytest.mark.parametrize(
    ("threads", "process", "cores"),
    [(1, 0, (3,)), (1, 1, (2,)), (1, 4, (3,)), (2, 0, (2, 3)), (2, 1, (0, 1)), (3, 5, (1, 2, 3)), (4, 1, (0, 1, 2, 3))],
)
def test_every_process_gets_as_many_cores_as_threads(threads: int, process: int, cores: tuple[int, ...]) -> None:
    key = PointKey("s", "v", "", "", "", "skip", "", "{}", "cpu", "edge/box", "", 1, threads, "{}")
    task = PointTask(key, ExecutorSpec("", "s", "v", "skip"), None, Limits(1.0, 1), (0, 1, 2, 3))
    assert pinned(task, process) == cores
