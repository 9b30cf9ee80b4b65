"""The frontier by labels and by the program, against exhaustive search without pruning, and against each other."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inferplan.solvers import pareto
from inferplan.solvers.chains import Limits, plans, why_not
from inferplan.solvers.columns import build_columns
from inferplan.solvers.labels import MAX_LABELS, TooManyLabels, undominated
from inferplan.solvers.milp import solution_of
from inferplan.solvers.pareto import AXES, Axis, Frontier, frontier
from inferplan.solvers.problem import Problem, read_problem
from inferplan.spec.errors import InputError

QUIET = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
PAIRS = list(itertools.combinations(AXES, 2))
SHAPES = {
    "one": ({"a": []}, 1),
    "chain": ({"a": ["b"], "b": []}, 2),
    "fork": ({"a": ["b", "c"], "b": [], "c": []}, 3),
    "diamond": ({"a": ["b", "c"], "b": ["d"], "c": ["d"], "d": []}, 4),
}


@st.composite
def instances_of_one_class(draw: st.DrawFn) -> dict[str, Any]:
    """Chains, forks and diamonds of few variants on one or two device types; machines of one replica, or shared."""
    shape, _ = SHAPES[draw(st.sampled_from(["one", "chain", "chain", "fork", "diamond"]))]
    small = len(shape) > 2
    times, accuracy = {}, {}
    for stage in shape:
        for variant in ("s", "l"):
            base = draw(st.sampled_from([0.005, 0.02, 0.05])) * (2 if variant == "l" else 1)
            times[stage, variant] = {1: base} if small else {1: base, 4: base * draw(st.sampled_from([1.5, 4.0]))}
            accuracy[stage, variant] = draw(st.sampled_from([0.6, 0.8, 0.9, 1.0]))
    fan_out = draw(st.sampled_from([1.0, 1.0, 3.0])) if len(shape) == 2 else 1.0
    return {
        "stages": {stage: ["s", "l"] for stage in shape},
        "edges": [
            {"from": a, "to": b, "fan_out": fan_out} for a, targets in shape.items() for b in targets
        ],
        "times": times,
        "accuracy": accuracy,
        "cores": draw(st.sampled_from([1, 2, 4])),
        "count": 4 if small else draw(st.sampled_from([2, 3])),
        "old": draw(st.booleans()) and not small,
        "rate_rps": draw(st.sampled_from([1.0, 20.0])),
        "composition": draw(st.sampled_from(["product", "mean", "minimum"])),
        "latency_s": draw(st.sampled_from([0.1, 0.3, None])),
        "floor": draw(st.sampled_from([None, 0.6, 0.75])),
    }  # fmt: skip


def build(instances: Any, spec: dict[str, Any], **changes: Any) -> Problem:
    spec = {**spec, **changes}
    devices = {"cpu": {"price_usd_per_h": 0.3, "count": spec["count"], "cores": spec["cores"]}}
    if spec["old"]:
        like = {"device": "edge/cpu", "slowdown": 2.0}
        devices["old"] = {"price_usd_per_h": 0.1, "count": 1, "cores": 2, "like": like}
    traffic: dict[str, Any] = {"rate_rps": spec["rate_rps"]}
    if spec["latency_s"]:
        traffic["slo"] = {"latency_s": spec["latency_s"]}
    if spec["floor"]:
        traffic["accuracy"] = {"floor": spec["floor"]}
    loaded = instances.workload(
        spec["stages"],
        edges=spec["edges"],
        devices=devices,
        classes=spec.get("classes", {"web": traffic}),
        accuracy={"metric": {"name": "acc"}, "composition": spec["composition"]},
    )
    profile = instances.profile(spec["times"], spec["accuracy"], combinations=spec.get("combinations", ()))
    return read_problem(loaded.workload, profile)


def vectors(problem: Problem, found: Frontier) -> list[list[float]]:
    return [[pareto._worth(problem, point, axis) for axis in found.axes] for point in found.points]


def exhaustive(problem: Problem, axes: Sequence[Axis]) -> list[list[float]]:
    """Every choice of unpruned columns, packed, kept if it keeps the promises that are no axis."""
    columns = build_columns(problem, prune=False)
    need = problem.classes[0]
    values = []
    for chosen in itertools.product(*([c for c in columns if c.stage == s] for s in problem.stages)):
        point = pareto._point(problem, solution_of(problem, chosen))
        counts = {name: len(packing.machines) for name, packing in point.solution.packings.items()}
        if any(count > (problem.devices[name].count or count) for name, count in counts.items()):
            continue
        if "latency" not in axes and need.limit_s is not None and point.latency > need.limit_s:
            continue
        if "accuracy" not in axes and need.floor is not None and (point.accuracy or 0.0) < need.floor - 1e-9:
            continue
        values.append([pareto._worth(problem, point, axis) for axis in axes])
    if not values:
        return []
    array = np.round(np.array(values), 9)
    return array[undominated(array)].tolist()


def assert_same(one: list[list[float]], other: list[list[float]], tolerance: float = 1e-5) -> None:
    assert len(one) == len(other), (one, other)
    for a, b in zip(sorted(one), sorted(other), strict=True):
        assert a == pytest.approx(b, rel=tolerance, abs=1e-7)


@given(spec=instances_of_one_class(), axes=st.sampled_from(PAIRS))
@QUIET
def test_labels_and_program_agree_with_exhaustive_search(
    module_instances: Any, spec: dict[str, Any], axes: tuple[Axis, Axis]
) -> None:
    if len(spec["stages"]) > 2:
        spec = {**spec, "stages": {s: ["s", "l"] if s in "ab" else ["s"] for s in spec["stages"]}}
    problem = build(module_instances, spec)
    by_labels = frontier(problem, axes, method="labels")
    by_program = frontier(problem, axes, method="program")
    assert by_labels.complete
    assert by_program.complete
    assert_same(vectors(problem, by_labels), exhaustive(problem, axes))
    assert_same(vectors(problem, by_program), vectors(problem, by_labels))


def test_the_program_tells_latencies_apart_far_below_the_limit(instances: Any) -> None:
    """Two plans whose latencies differ by 0.05 %, with limits lifted a thousandfold."""
    spec = {
        "stages": {"a": ["s", "l"], "b": ["s", "l"], "c": ["s"]},
        "edges": [{"from": "a", "to": target, "fan_out": 1.0} for target in "bc"],
        "times": {(stage, size): {1: base * times} for stage, base in (("a", 0.005), ("b", 0.02), ("c", 0.02))
                  for size, times in (("s", 1), ("l", 2))},
        "accuracy": {(stage, size): 0.6 for stage in "abc" for size in "sl"},
        "cores": 1, "count": 4, "old": False, "rate_rps": 1.0, "composition": "product", "latency_s": 0.3,
        "floor": None,
    }  # fmt: skip
    problem = build(instances, spec)
    found = vectors(problem, frontier(problem, ("cost", "latency"), method="program"))
    assert len(found) == 2
    assert 1e-4 < found[0][1] / found[1][1] - 1 < 1e-3
    assert_same(found, exhaustive(problem, ("cost", "latency")))


@given(spec=instances_of_one_class())
@QUIET
def test_three_axes_hold_every_pair(module_instances: Any, spec: dict[str, Any]) -> None:
    problem = build(module_instances, spec, floor=None, latency_s=None)
    whole = vectors(problem, frontier(problem, AXES))
    for axes in PAIRS:
        pair = vectors(problem, frontier(problem, axes, method="labels"))
        shadow = np.round(np.array(whole).reshape(-1, 3), 9)[:, [AXES.index(axis) for axis in axes]]
        assert_same(shadow[undominated(shadow)].tolist(), pair)


@given(
    points=st.lists(st.lists(st.integers(0, 4), min_size=4, max_size=4), min_size=1, max_size=60),
    width=st.integers(1, 4),
)
def test_undominated_is_what_no_other_row_beats(points: list[list[int]], width: int) -> None:
    array = np.array(points, dtype=np.float64)[:, :width]
    expected = [
        i
        for i, row in enumerate(array)
        if not any((other <= row).all() and ((other < row).any() or j < i) for j, other in enumerate(array) if j != i)
    ]
    assert undominated(array).tolist() == expected


@pytest.mark.parametrize("width", [4, 6])
def test_undominated_rows_of_many_blocks(width: int) -> None:
    """More rows than are compared at once, most of them undominated, some of them twice."""
    rng = np.random.default_rng(width)
    rows = rng.dirichlet(np.ones(width), 1500)
    rows = np.concatenate([rows, rows[::7], rows[::5] + 0.01, np.round(rows[::3], 1)])
    kept = undominated(rows)
    assert len(kept) > 1024
    other = np.setdiff1d(np.arange(len(rows)), kept)
    assert all((rows[kept] <= row).all(axis=1).any() for row in rows[other])
    assert len(np.unique(rows[kept], axis=0)) == len(kept)
    for row in rows[kept]:
        assert ((rows <= row).all(axis=1) & (rows < row).any(axis=1)).sum() == 0


def test_shared_machines_of_unlike_replicas_are_left_to_the_program(instances: Any) -> None:
    loaded = instances.workload(
        {"a": ["s", "l"]}, devices={"cpu": {"price_usd_per_h": 0.1, "cores": 4, "memory_bytes": 250 * 2**20}}
    )
    profile = instances.profile({("a", "s"): {1: 0.01}, ("a", "l"): {1: 0.02}}, {("a", "s"): 0.6, ("a", "l"): 0.9})
    problem = read_problem(loaded.workload, profile)
    columns = build_columns(problem)
    assert why_not(problem, columns) == "replicas of different sizes share machines of edge/cpu"
    found = frontier(problem, ("cost", "accuracy"))
    assert (found.method, found.complete) == ("program", True)
    with pytest.raises(InputError, match="three axes"):
        frontier(problem, AXES)


def test_several_classes_are_left_to_the_program(instances: Any) -> None:
    spec = {
        "stages": {"a": ["s", "l"]}, "edges": [], "times": {("a", "s"): {1: 0.01}, ("a", "l"): {1: 0.15}},
        "accuracy": {("a", "s"): 0.6, ("a", "l"): 0.9}, "cores": 1, "count": 8, "old": False, "rate_rps": 1.0,
        "composition": "product", "latency_s": None, "floor": None,
        "classes": {name: {"rate_rps": 10.0, "slo": {"latency_s": 1.5}} for name in ("x", "y")},
    }  # fmt: skip
    problem = build(instances, spec)
    found = frontier(problem, ("cost", "accuracy"))
    assert found.why == "there are several classes"
    # Both small on one queue, then one class on the large variant, then both.
    assert [round(point.accuracy or 0.0, 9) for point in found.points] == [0.6, 0.75, 0.9]
    assert [point.cost_usd_per_h for point in found.points] == sorted(point.cost_usd_per_h for point in found.points)


def test_measured_combinations_decide_the_frontier(instances: Any) -> None:
    conftest = __import__("sys").modules[type(instances).__module__]
    spec = {
        "stages": {"a": ["s", "l"]}, "edges": [], "times": {("a", "s"): {1: 0.01}, ("a", "l"): {1: 0.06}},
        "accuracy": {("a", "s"): 0.6, ("a", "l"): 0.9}, "cores": 1, "count": 8, "old": False, "rate_rps": 20.0,
        "composition": "table", "latency_s": 0.3, "floor": None,
        "combinations": [conftest.end_to_end({"a": "s"}, 0.7)],
    }  # fmt: skip
    problem = build(instances, spec)
    found = frontier(problem, ("cost", "accuracy"))
    # The large variant was never measured end to end: it is not on an axis of accuracy.
    assert [point.accuracy for point in found.points] == [0.7]


def test_too_many_labels_say_so(instances: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_LABELS > 1
    spec = {
        "stages": {"a": ["s", "l"]}, "edges": [], "times": {("a", "s"): {1: 0.01}, ("a", "l"): {1: 0.06}},
        "accuracy": {("a", "s"): 0.6, ("a", "l"): 0.9}, "cores": 1, "count": 8, "old": False, "rate_rps": 20.0,
        "composition": "product", "latency_s": 0.3, "floor": None,
    }  # fmt: skip
    problem = build(instances, spec)
    monkeypatch.setattr("inferplan.solvers.labels.MAX_LABELS", 1)
    with pytest.raises(TooManyLabels):
        plans(problem, build_columns(problem), Limits(wants_accuracy=True))
    found = frontier(problem, ("cost", "accuracy"))
    assert found.method == "program"
    assert found.why.startswith("too many labels")
    assert len(found.points) == 2


@pytest.mark.parametrize("axes", [("cost",), ("cost", "cost"), ("cost", "accuracy", "cost")])
def test_axes_are_two_or_three_different_ones(instances: Any, axes: tuple[Axis, ...]) -> None:
    loaded = instances.workload({"a": ["s"]})
    problem = read_problem(loaded.workload, instances.profile({("a", "s"): {1: 0.01}}))
    with pytest.raises(InputError, match="different axes"):
        frontier(problem, axes)
