"""The exact program against exhaustive search over options, replicas, classes and packing."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inferplan.solvers.columns import Column, build_columns
from inferplan.solvers.milp import Solution, Solver, promises, scenarios
from inferplan.solvers.problem import Problem, read_problem
from inferplan.solvers.program import ACCURACY, COST, Ask, pack_columns
from inferplan.spec.errors import InputError

QUIET = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
Times = dict[tuple[str, str], dict[int, float]]


@st.composite
def random_instances(draw: st.DrawFn) -> dict[str, Any]:
    """Two or three stages of two variants, one or two classes, one or two devices, any composition."""
    stages = ["a", "b", "c"][: draw(st.integers(1, 3))]
    measured = len(stages) > 1 and draw(st.booleans())
    variants = {stage: ["s", "l"] for stage in stages}
    if len(stages) > 1 and draw(st.booleans()):
        variants[stages[-1]] = ["s", "skip"]
    times: Times = {}
    accuracy = {}
    for stage, names in variants.items():
        for name in names:
            accuracy[stage, name] = draw(st.sampled_from([0.6, 0.7, 0.8, 0.9, 0.95, 1.0]))
            if name != "skip":
                base = draw(st.sampled_from([0.005, 0.02, 0.05]))
                times[stage, name] = {1: base, 4: base * draw(st.sampled_from([1.5, 4.0]))}
    edges = [
        {"from": a, "to": b, "fan_out": "measured" if measured and i == 0 else draw(st.sampled_from([1.0, 2.0]))}
        for i, (a, b) in enumerate(itertools.pairwise(stages))
    ]
    count = draw(st.sampled_from([1, 2, 6, None]))
    price = draw(st.sampled_from([1e-4, 1.0, 1e6]))
    memory = draw(st.sampled_from([None, 250 * 2**20]))
    devices = {
        "cpu": {"price_usd_per_h": price, "count": count, "cores": draw(st.integers(1, 4)), "memory_bytes": memory}
    }
    if draw(st.booleans()):
        like = {"device": "edge/cpu", "slowdown": 2.0}
        devices["old"] = {"price_usd_per_h": price * 0.4, "count": 2, "cores": 2, "like": like}
    for device in devices.values():
        for key in [key for key, value in device.items() if value is None]:
            del device[key]
    classes = {}
    for name in ("x", "y")[: draw(st.integers(1, 2 if len(stages) < 3 else 1))]:
        percentile, latency_s = draw(st.sampled_from([90.0, 99.0])), draw(st.sampled_from([0.1, 0.3, 1.0]))
        classes[name] = {
            "rate_rps": draw(st.sampled_from([1.0, 10.0, 40.0])),
            "slo": {"percentile": percentile, "latency_s": latency_s},
            "accuracy": {"floor": draw(st.sampled_from([0.3, 0.6, 0.8]))},
        }
    return {
        "stages": variants,
        "edges": edges,
        "devices": devices,
        "classes": classes,
        "composition": draw(st.sampled_from(["product", "mean", "minimum"])),
        "times": times,
        "accuracy": accuracy,
        "measured": measured,
        "combination": draw(st.sampled_from([None, 0.1, 0.99])),
    }


def make(instances: Any, spec: dict[str, Any], **changes: Any) -> Problem:
    """Build an instance with the factory of conftest."""
    cells = type(instances).__module__
    flows = combinations = ()
    helpers = __import__("sys").modules[cells]
    if spec["measured"]:
        first, second = list(spec["stages"])[:2]
        flows = [helpers.flow(first, second, "s", [1, 2]), helpers.flow(first, second, "l", [2, 4])]
    if spec["combination"] is not None:
        chosen = {stage: names[0] for stage, names in spec["stages"].items()}
        combinations = [helpers.end_to_end(chosen, spec["combination"])]
    loaded = instances.workload(
        spec["stages"],
        edges=spec["edges"],
        classes=spec["classes"],
        devices=spec["devices"],
        accuracy={"metric": {"name": "acc"}, "composition": spec["composition"]},
        **changes,
    )
    profile = instances.profile(spec["times"], spec["accuracy"], flows=flows, combinations=combinations)
    return read_problem(loaded.workload, profile)


def exhaustive(problem: Problem, columns: list[Column], ask: Ask) -> float | None:
    """The cheapest cost over every choice of columns, by enumeration."""
    classes = range(len(problem.classes))
    best: float | None = None
    by_stage: dict[str, list[list[Column]]] = {stage: [] for stage in problem.stages}
    for column in columns:
        if len(column.classes) == len(problem.classes):
            by_stage[column.stage].append([column])
        elif column.classes[0] == 0:
            by_stage[column.stage] += [
                [column, other] for other in columns if other.stage == column.stage and other.classes == (1,)
            ]
    for choice in itertools.product(*by_stage.values()):
        picked = [column for group in choice for column in group]
        chosen = {(k, column.stage): column for column in picked for k in column.classes}
        consistent = all(
            chosen[k, source].option.variant in group for column in picked for k, source, group in column.context
        )
        if not consistent or not all(keeps(problem, ask, chosen, k) for k in classes):
            continue
        packings = pack_columns(problem, picked)
        counts = {name: len(packing.machines) for name, packing in packings.items()}
        if any(ask.counts[name] is not None and n > ask.counts[name] for name, n in counts.items()):  # type: ignore[operator]
            continue
        cost = math.fsum(problem.devices[name].price_usd_per_h * n for name, n in counts.items())
        best = cost if best is None else min(best, cost)
    return best


def keeps(problem: Problem, ask: Ask, chosen: dict[tuple[int, str], Column], k: int) -> bool:
    need = problem.classes[k]
    for path in problem.paths:
        parts = [(c, c.classes.index(k)) for c in (chosen[k, stage] for stage in path)]
        for slowest in range(len(parts)):
            total = sum(c.whole_s[i] if index == slowest else c.single_s[i] for index, (c, i) in enumerate(parts))
            if need.limit_s is not None and total > need.limit_s * (ask.scales[need.name] or 1.0) * (1 + 1e-9):
                return False
    assert problem.accuracy is not None
    estimate = problem.accuracy.of({stage: chosen[k, stage].option.variant for stage in problem.stages})
    return need.floor is None or (estimate is not None and problem.accuracy.turn.keeps(estimate.value, need.floor))


def thinned(columns: list[Column]) -> list[Column]:
    """Few enough columns to enumerate: at most two numbers of replicas of each option."""
    least: dict[object, int] = {}
    for column in columns:
        key = (column.option, column.classes, column.context)
        least[key] = min(least.get(key, column.replicas), column.replicas)
    return [c for c in columns if c.replicas <= least[c.option, c.classes, c.context] + 1]


def by_program(problem: Problem, columns: list[Column]) -> Solver:
    return Solver(problem, columns, method="program")


def ask_of(solver: Solver, ask: Ask) -> Solution | None:
    return solver.ask(ask, 60.0, 0.0)


@QUIET
@given(spec=random_instances())
def test_the_cheapest_plan_is_that_of_exhaustive_search(spec: dict[str, Any], module_instances: Any) -> None:
    problem = make(module_instances, spec)
    every = build_columns(problem, prune=False)
    few = thinned([c for c in every if c.option.max_batch == 1 or c.option.device == "edge/cpu"])
    if len(few) > 60 * len(problem.stages):
        few = [c for c in few if c.option.device != "edge/old"]
    ask = promises(problem)
    found = ask_of(by_program(problem, few), ask)
    expected = exhaustive(problem, few, ask)
    assert (found is None) == (expected is None)
    if found is not None and expected is not None:
        assert found.cost_usd_per_h == pytest.approx(expected, rel=1e-6)
        assert found.proven
        assert found.bound == pytest.approx(expected, rel=1e-6)


@QUIET
@given(spec=random_instances())
def test_pruning_and_branching_change_no_optimum(spec: dict[str, Any], module_instances: Any) -> None:
    problem = make(module_instances, spec)
    every, pruned = build_columns(problem, prune=False), build_columns(problem)
    assert len(pruned) <= len(every)
    ask = promises(problem)
    found = [ask_of(by_program(problem, columns), ask) for columns in (every, pruned)]
    assert (found[0] is None) == (found[1] is None)
    if found[0] is not None and found[1] is not None:
        assert found[0].cost_usd_per_h == pytest.approx(found[1].cost_usd_per_h, rel=1e-6)
        assert found[0].values[ACCURACY] == pytest.approx(found[1].values[ACCURACY], abs=1e-5)


@QUIET
@given(spec=random_instances())
def test_promises_given_up_never_cost_more(spec: dict[str, Any], module_instances: Any) -> None:
    """Looser SLO, lower floor, more machines."""
    problem = make(module_instances, spec)
    columns = build_columns(problem, lifted=True)
    solver, ask = by_program(problem, columns), replace(promises(problem), goals=(COST,))
    looser = [
        replace(ask, scales=dict.fromkeys(ask.scales, 1.7)),
        replace(ask, floors={name: 0.5 * (floor or 0.0) for name, floor in ask.floors.items()}),
        replace(ask, counts={name: None if n is None else n + 1 for name, n in ask.counts.items()}),
    ]
    tight = ask_of(solver, ask)
    for question in looser:
        loose = ask_of(solver, question)
        if tight is not None:
            assert loose is not None
            assert loose.cost_usd_per_h <= tight.cost_usd_per_h * (1 + 1e-6)
    again = ask_of(solver, ask)
    assert (again is None) == (tight is None)
    if again is not None and tight is not None:
        assert again.columns == tight.columns


@QUIET
@given(spec=random_instances(), factor=st.sampled_from([1e-4, 1e6]))
def test_the_scale_of_prices_changes_no_choice(spec: dict[str, Any], factor: float, module_instances: Any) -> None:
    problem = make(module_instances, spec)
    scaled = {
        name: {**device, "price_usd_per_h": device["price_usd_per_h"] * factor}
        for name, device in spec["devices"].items()
    }
    other = make(module_instances, {**spec, "devices": scaled})
    one, two = (ask_of(by_program(p, build_columns(p)), promises(p)) for p in (problem, other))
    assert (one is None) == (two is None)
    if one is not None and two is not None:
        assert two.cost_usd_per_h == pytest.approx(one.cost_usd_per_h * factor, rel=1e-6)


@QUIET
@given(spec=random_instances())
def test_the_order_of_the_document_changes_nothing(spec: dict[str, Any], module_instances: Any) -> None:
    problem = make(module_instances, spec)
    turned = {
        **spec,
        "stages": {stage: names[::-1] for stage, names in reversed(spec["stages"].items())},
        "devices": dict(reversed(spec["devices"].items())),
        "classes": dict(reversed(spec["classes"].items())),
        "times": dict(reversed(spec["times"].items())),
    }
    # Measured fan-outs and combinations are told by position: keep them out of this one.
    if spec["measured"] or spec["combination"] is not None:
        return
    one, two = (ask_of(by_program(p, build_columns(p)), promises(p)) for p in (problem, make(module_instances, turned)))
    assert (one is None) == (two is None)
    if one is not None and two is not None:
        assert [(c.option.name, c.replicas, c.classes) for c in one.columns] == [
            (c.option.name, c.replicas, c.classes) for c in two.columns
        ]
        assert one.packings == two.packings


def two_stages(instances: Any, **changes: Any) -> Problem:
    times = {("a", "s"): {1: 0.01}, ("a", "l"): {1: 0.03}, ("b", "s"): {1: 0.01}, ("b", "l"): {1: 0.02}}
    accuracy = {("a", "s"): 0.8, ("a", "l"): 0.95, ("b", "s"): 0.9, ("b", "l"): 0.99}
    rows = changes.pop("combinations", ())
    loaded = instances.workload({"a": ["s", "l"], "b": ["s", "l"]}, edges=[{"from": "a", "to": "b"}], **changes)
    return read_problem(loaded.workload, instances.profile(times, accuracy, combinations=rows))


def test_most_accurate_within_the_budget(instances: Any) -> None:
    def best(budget: float) -> Solution | None:
        problem = two_stages(
            instances,
            objective={"maximize": "accuracy", "budget_usd_per_h": budget},
            devices={"cpu": {"price_usd_per_h": 1.0, "cores": 1}},
            classes={"web": {"rate_rps": 10.0, "slo": {"latency_s": 1.0}}},
        )
        return ask_of(by_program(problem, build_columns(problem)), promises(problem))

    assert best(1.0) is None
    rich = best(10.0)
    assert rich is not None
    assert rich.objective == pytest.approx(-0.95 * 0.99)
    assert rich.cost_usd_per_h == pytest.approx(2.0)


def test_a_measured_combination_overrides_the_product(instances: Any) -> None:
    helpers = __import__("sys").modules[type(instances).__module__]
    classes = {"web": {"rate_rps": 10.0, "slo": {"latency_s": 1.0}, "accuracy": {"floor": 0.8}}}
    plain = two_stages(instances, classes=classes)
    # The product of the two small ones is 0.72; measured they are better than that.
    lifted = two_stages(instances, classes=classes, combinations=[helpers.end_to_end({"a": "s", "b": "s"}, 0.85)])
    chosen = [ask_of(by_program(p, build_columns(p)), promises(p)) for p in (plain, lifted)]
    names = [{c.option.variant for c in s.columns} if s else set() for s in chosen]
    assert names[0] != {"s"}
    assert chosen[1] is not None


@pytest.mark.parametrize("composition", ["product", "mean", "minimum"])
@pytest.mark.parametrize("floor", [0.7, 0.75, 0.8, 0.85, 0.9, 0.94, 0.97])
def test_both_encodings_of_accuracy_agree(
    composition: str, floor: float, instances: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    helpers = __import__("sys").modules[type(instances).__module__]
    rows = [helpers.end_to_end({"a": "s", "b": "l"}, 0.93), helpers.end_to_end({"a": "l", "b": "s"}, 0.5)]
    problem = two_stages(
        instances,
        combinations=rows,
        accuracy={"metric": {"name": "acc"}, "composition": composition},
        classes={"web": {"rate_rps": 30.0, "slo": {"latency_s": 1.0}, "accuracy": {"floor": floor}}},
        devices={"cpu": {"price_usd_per_h": 1.0, "cores": 1}},
    )
    columns = build_columns(problem)
    ask = replace(promises(problem), goals=(COST,))
    listed = ask_of(by_program(problem, columns), ask)
    monkeypatch.setattr("inferplan.solvers.combinations.MAX_COMBINATIONS", 0)
    added = ask_of(by_program(problem, columns), ask)
    assert (listed is None) == (added is None)
    if listed is not None and added is not None:
        assert listed.cost_usd_per_h == pytest.approx(added.cost_usd_per_h)


def test_machines_really_hold_what_the_program_buys(instances: Any) -> None:
    """Three-thread replicas on four-core machines: aggregate cores would be content with fewer machines."""
    helpers = __import__("sys").modules[type(instances).__module__]
    loaded = instances.workload({"a": ["v"]}, classes={"web": {"rate_rps": 250.0, "slo": {"latency_s": 1.0}}})
    rows = [helpers.measurement("a", "v", 1, 0.01, threads=3)]
    profile = instances.profile({}, {("a", "v"): 0.9}, rows=rows)
    problem = read_problem(loaded.workload, profile)
    found = ask_of(by_program(problem, build_columns(problem)), replace(promises(problem), goals=(COST,)))
    assert found is not None
    assert found.columns[0].replicas >= 3
    assert len(found.packings["edge/cpu"].machines) == found.columns[0].replicas


def test_scenarios_are_the_joint_fan_outs(instances: Any) -> None:
    helpers = __import__("sys").modules[type(instances).__module__]
    loaded = instances.workload(
        {"a": ["s", "l", "t"], "b": ["v"]}, edges=[{"from": "a", "to": "b", "fan_out": "measured"}]
    )
    times = {("a", v): {1: 0.01} for v in ("s", "l", "t")} | {("b", "v"): {1: 0.01}}
    flows = [helpers.flow("a", "b", v, counts) for v, counts in (("s", [1, 2]), ("l", [3]), ("t", [2, 1]))]
    problem = read_problem(loaded.workload, instances.profile(times, flows=flows))
    found = scenarios(problem, build_columns(problem))
    assert sorted(sorted(s[0, "a"]) for s in found) == [["l"], ["s", "t"]]


def test_numbers_that_the_program_cannot_take_are_refused_in_words(instances: Any) -> None:
    loaded = instances.workload(
        {"a": ["s"]},
        devices={
            "cpu": {"price_usd_per_h": 0.1, "cores": 2},
            "odd": {"price_usd_per_h": 1e35, "cores": 2, "like": {"device": "edge/cpu"}},
        },
        # Two classes, so that the program decides.
        classes={name: {"rate_rps": 20.0, "slo": {"latency_s": 0.5}} for name in ("x", "y")},
    )
    problem = read_problem(loaded.workload, instances.profile({("a", "s"): {1: 0.01}}))
    solver = Solver(problem, build_columns(problem), method="program")
    with pytest.raises(InputError, match="too many orders of magnitude away"):
        solver.ask(promises(problem), 20.0, 0.0)
