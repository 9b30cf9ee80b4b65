"""What makes a variant unfit to stand in for its parent, and how distances are reckoned."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from inferplan.profilers.variants.comparison import DiffersError, Tally, check_finite, interface_differences
from inferplan.spec.stagecode import ModelInfo, TensorInfo


def info(
    dtype: str = "float32", shape: tuple[int | None, ...] | None = (None, 4), name: str = "x", labels: str = "a b"
) -> ModelInfo:
    out = TensorInfo("y", dtype, (None, 2))
    return ModelInfo((TensorInfo(name, "float32", shape),), (out,), {"labels": labels})


@pytest.mark.parametrize(
    ("made", "problem"),
    [
        (info(), ""),
        (info(shape=(None, None)), ""),
        (info(shape=(1, 4)), "shape 1x4, its parent's ?x4"),
        (info(shape=(None, 4, 1)), "shape ?x4x1"),
        (info(dtype="float16"), "output y is float16"),
        (info(name="z"), "input x is missing; input z is new"),
        (info(labels="a"), "metadata lacks labels"),
    ],
)
def test_interfaces(made: ModelInfo, problem: str) -> None:
    found = "; ".join(interface_differences(info(), made, True, False))
    assert problem in found
    assert bool(found) is bool(problem)


def test_what_a_parent_leaves_open_is_no_difference() -> None:
    parent = ModelInfo((TensorInfo("x", "", None),), ())
    assert interface_differences(parent, info(), True, False) == []


def test_reduced_precision_may_show_in_outputs() -> None:
    assert interface_differences(info(), info(dtype="float16"), True, True) == []


@given(arrays.arrays(np.float64, (5, 3), elements=st.floats(-100, 100)), st.integers(0, 2**32 - 1))
def test_distances_are_those_of_the_definition(a: np.ndarray, seed: int) -> None:
    b = a + np.random.default_rng(seed).normal(size=a.shape)
    tally = Tally()
    for rows in (slice(0, 2), slice(2, 5)):
        tally.add({"y": a[rows]}, {"y": b[rows]}, 1)
    found = tally.distance()
    assert found.n == 2
    assert found.max_abs == pytest.approx(np.abs(b - a).max())
    size = np.linalg.norm(a)
    assert found.relative_l2 == (pytest.approx(np.linalg.norm(b - a) / size) if size else math.inf)
    assert found.same_class == pytest.approx(np.mean(a.argmax(1) == b.argmax(1)))


def test_outputs_that_are_no_classes_have_no_agreement() -> None:
    tally = Tally()
    tally.add({"map": np.ones((2, 1, 4, 4))}, {"map": np.ones((2, 1, 4, 4))}, 2)
    assert tally.distance().same_class is None
    assert tally.distance().relative_l2 == 0


def test_outputs_of_other_shapes_have_no_distance() -> None:
    tally = Tally()
    tally.add({"y": np.ones((2, 4))}, {"y": np.ones((2, 5))}, 2, same_shapes=False)
    tally.answers([1, 2], [1, 3])
    assert (tally.distance().max_abs, tally.distance().same_answer) == (None, 0.5)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"z": np.ones((2, 4))}, "its outputs are z"),
        ({"y": np.ones((2, 5))}, "shape"),
        ({"y": np.ones((2, 4), np.float32)}, "float32"),
    ],
)
def test_outputs_have_to_be_the_parents(made: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(DiffersError, match=message):
        Tally().add({"y": np.ones((2, 4))}, made, 2)


def test_outputs_have_to_be_finite() -> None:
    check_finite({"y": np.ones(2), "n": np.array([1])})
    with pytest.raises(DiffersError, match="output y is not finite"):
        check_finite({"y": np.array([1.0, np.nan])})
