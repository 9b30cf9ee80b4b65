"""Bounds by multipliers: valid against exhaustive choice, and as good as the linear program's."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from inferplan.solvers.chains import plain
from inferplan.solvers.labels import Beam, Floats, Step, search, undominated
from inferplan.solvers.multipliers import fence, lines_of, multipliers

FIGURES = st.integers(0, 20)


@st.composite
def stages(draw: st.DrawFn) -> list[Floats]:
    """Two to four stages of items with a goal and two criteria."""
    items = st.lists(st.tuples(FIGURES, FIGURES, FIGURES), min_size=1, max_size=5)
    return [np.array(draw(items), dtype=np.float64) for _ in range(draw(st.integers(2, 4)))]


def every(stages: list[Floats]) -> Floats:
    return np.array([np.sum(chosen, axis=0) for chosen in itertools.product(*stages)])


def steps_of(stages: list[Floats], room: Floats) -> list[Step]:
    return [plain(values, room, "test") for values in stages]


@settings(deadline=None)
@given(stages=stages(), most=st.tuples(st.integers(5, 60), st.integers(5, 60)))
def test_bounds_are_valid_and_those_of_the_linear_program(stages: list[Floats], most: tuple[int, int]) -> None:
    limits, rooms = np.eye(3)[1:], np.array(most, dtype=np.float64)
    lines = lines_of(steps_of(stages, np.full(3, np.inf)))
    weights, bound = multipliers(lines, np.eye(3)[0], limits, rooms)
    assert (weights >= 0).all()
    plans = every(stages)
    kept = plans[(plans[:, 1:] <= rooms).all(axis=1)]
    if not len(kept):
        return
    assert bound <= kept[:, 0].min() + 1e-9
    values = np.concatenate(stages)
    one = np.array([[float(number == own) for number, s in enumerate(stages) for _ in s] for own in range(len(stages))])
    relaxed = linprog(values[:, 0], A_ub=values[:, 1:].T, b_ub=rooms, A_eq=one, b_eq=np.ones(len(stages)))
    spread = sum(np.ptp(s[:, 0]) for s in stages) or 1.0
    # Multipliers beyond the radius that is searched are rare, and only weaken the bound.
    if (np.abs(relaxed.ineqlin.marginals) < 1.0).all():
        assert bound == pytest.approx(relaxed.fun, abs=2e-3 * spread)


@settings(deadline=None)
@given(stages=stages(), most=st.integers(5, 60), target=st.integers(5, 60), weights=st.tuples(FIGURES, FIGURES))
def test_fences_keep_every_label_that_beats_the_target(
    stages: list[Floats], most: int, target: int, weights: tuple[int, int]
) -> None:
    rooms = np.array([target, most, np.inf])
    steps = steps_of(stages, rooms)
    own = np.array([*weights, 0.0])
    fenced = search(steps, [fence(steps, lines_of(steps), own, float(own[:2] @ rooms[:2]))])
    free = search(steps)
    assert sorted(fenced.values.tolist()) == sorted(free.values.tolist())
    plans = every(stages)
    plans = plans[(plans <= rooms).all(axis=1)]
    assert sorted(free.values.tolist()) == sorted(plans[undominated(plans)].tolist())


@settings(deadline=None)
@given(stages=stages(), width=st.integers(1, 6), items=st.integers(1, 5))
def test_what_a_limited_width_leaves_out_is_bounded(stages: list[Floats], width: int, items: int) -> None:
    steps = steps_of(stages, np.full(3, np.inf))
    main = fence(steps, lines_of(steps), np.eye(3)[0], np.inf)
    found = search(steps, [main], Beam(width, items))
    assert len(found.values) <= width
    best = every(stages)[:, 0].min()
    assert min(found.values[:, 0].min(), found.left_out) <= best + 1e-9
