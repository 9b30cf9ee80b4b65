"""Labels as solver: against the program, question by question, and against exhaustive search."""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inferplan.solvers import chain_search
from inferplan.solvers.chain_criteria import Reach
from inferplan.solvers.chain_search import BEAMS, ChainSearch, Unsuited, sums_of
from inferplan.solvers.chains import why_not
from inferplan.solvers.columns import Column, build_columns
from inferplan.solvers.goals import ACCURACY, CORES, COST, NAMES, RATIO, Ask, Goal, price_scale
from inferplan.solvers.judge import believed
from inferplan.solvers.labels import ROUNDING, Beam, TooManyLabels
from inferplan.solvers.milp import LABELS, PROGRAM, Solution, Solver, promises, ranked, solution_of
from inferplan.solvers.planner import solve
from inferplan.solvers.problem import Problem, read_problem

QUIET = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
SHAPES = {
    "one": {"a": []},
    "two": {"a": ["b"], "b": []},
    "three": {"a": ["b"], "b": ["c"], "c": []},
    "fork": {"a": ["b", "c"], "b": [], "c": []},
    "diamond": {"a": ["b", "c"], "b": ["d"], "c": ["d"], "d": []},
}
GOALS: tuple[Goal, ...] = (COST, ACCURACY, RATIO, CORES, NAMES, ("latency", "web"), ("machines", "edge/cpu"))


@st.composite
def chains(draw: st.DrawFn) -> dict[str, Any]:
    """One class over few variants and batches, on one to three device types. Equal figures are likely: ties matter."""
    shape = SHAPES[draw(st.sampled_from(["one", "two", "three", "three", "fork", "diamond"]))]
    variants = ["s", "m", "l"][: 3 if len(shape) < 3 else 2]
    times, accuracy = {}, {}
    for stage in shape:
        for factor, variant in enumerate(variants, start=1):
            base = draw(st.sampled_from([0.005, 0.02, 0.05])) * factor
            times[stage, variant] = {1: base, 4: base * draw(st.sampled_from([1.5, 4.0]))}
            accuracy[stage, variant] = draw(st.sampled_from([0.6, 0.8, 0.9, 0.95, 1.0]))
    price = draw(st.sampled_from([1e-4, 0.1, 1e6]))
    like = {"device": "edge/cpu"}
    devices: dict[str, Any] = {"cpu": {"price_usd_per_h": price, "cores": draw(st.sampled_from([1, 2, 4]))}}
    if draw(st.booleans()):
        devices["old"] = {"price_usd_per_h": 0.4 * price, "cores": 2, "like": {**like, "slowdown": 2.0}}
    if draw(st.booleans()):
        devices["new"] = {"price_usd_per_h": 1.7 * price, "cores": 2, "like": {**like, "slowdown": 0.5}}
    for device in devices.values():
        count = draw(st.sampled_from([None, None, 1, 3]))
        if count is not None:
            device["count"] = count
    traffic: dict[str, Any] = {"rate_rps": draw(st.sampled_from([1.0, 20.0, 90.0]))}
    latency_s, floor = draw(st.sampled_from([0.1, 0.3, 1.0, None])), draw(st.sampled_from([None, 0.5, 0.75, 0.85]))
    if latency_s:
        traffic["slo"] = {"latency_s": latency_s}
    if floor:
        traffic["accuracy"] = {"floor": floor}
    fan_out = draw(st.sampled_from([1.0, 1.0, 3.0])) if len(shape) < 4 else 1.0
    return {
        "stages": dict.fromkeys(shape, variants),
        "edges": [{"from": a, "to": b, "fan_out": fan_out} for a, below in shape.items() for b in below],
        "times": times,
        "accuracy": accuracy,
        "devices": devices,
        "traffic": traffic,
        "composition": draw(st.sampled_from(["product", "mean", "minimum"])),
    }


def build(instances: Any, spec: dict[str, Any], **rest: Any) -> Problem:
    loaded = instances.workload(
        spec["stages"],
        edges=spec["edges"],
        devices=spec["devices"],
        classes={"web": spec["traffic"]},
        accuracy={"metric": {"name": "acc"}, "composition": spec["composition"]},
        **rest,
    )
    return read_problem(loaded.workload, instances.profile(spec["times"], spec["accuracy"]))


def both(problem: Problem, columns: list[Column]) -> tuple[Solver, Solver]:
    """Labels and program, ties broken exactly by both."""
    return Solver(problem, columns, method="labels"), Solver(problem, columns, tie_gaps={}, method="program")


def assert_same(one: Solution | None, other: Solution | None) -> None:
    assert (one is None) == (other is None)
    if one is not None and other is not None:
        assert (one.by, other.by) == (LABELS, PROGRAM)
        assert [(c.option.name, c.replicas) for c in one.columns] == [
            (c.option.name, c.replicas) for c in other.columns
        ]
        assert one.packings == other.packings
        assert one.cost_usd_per_h == other.cost_usd_per_h
        assert one.objective == pytest.approx(other.objective, rel=1e-5, abs=1e-9)
        assert one.bound == pytest.approx(other.bound, rel=1e-5, abs=1e-9)
        assert one.proven
        assert other.proven
        assert set(one.values) <= set(other.values)
        for goal, value in one.values.items():
            assert value == pytest.approx(other.values[goal], rel=1e-5, abs=1e-6)


@QUIET
@given(spec=chains(), beam=st.sampled_from([Beam(1, 2), BEAMS[0]]))
def test_labels_and_program_choose_the_same_plan(spec: dict[str, Any], beam: Beam, module_instances: Any) -> None:
    """Down to the last tie, even where the first search keeps one label and two items of a stage."""
    problem = build(module_instances, spec)
    columns = build_columns(problem)
    labels, program = both(problem, columns)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chain_search, "BEAMS", (beam, *chain_search.BEAMS[1:]))
        assert_same(labels.ask(promises(problem), 60.0, 0.0), program.ask(promises(problem), 60.0, 0.0))


@QUIET
@given(spec=chains(), which=st.integers(0, 10**6), hurry=st.booleans())
def test_a_known_plan_and_a_hurry_change_no_answer(
    spec: dict[str, Any], which: int, hurry: bool, module_instances: Any
) -> None:
    """Whatever plan is known, also one that breaks promises: small instances are settled all the same."""
    problem = build(module_instances, spec)
    columns = build_columns(problem)
    stages = [[column for column in columns if column.stage == stage] for stage in problem.stages]
    known = [own[which // 7**place % len(own)] for place, own in enumerate(stages) if own]
    solver, ask = Solver(problem, columns, method="labels"), promises(problem)
    plain, helped = solver.ask(ask, 60.0, 0.0), solver.ask(ask, 60.0, 0.0, known=known, hurry=hurry)
    assert (plain is None) == (helped is None)
    if plain is not None and helped is not None:
        assert helped.columns == plain.columns
        assert helped.tied
        again = solver.ask(ask, 60.0, 0.0, known=plain.columns)
        assert again is not None
        assert again.columns == plain.columns


@st.composite
def questions(draw: st.DrawFn) -> dict[str, Any]:
    """What the planner, its explanations and the answer to an infeasible workload ask."""
    return {
        "first": draw(st.sampled_from(GOALS)),
        "scale": draw(st.sampled_from([0.5, 1.0, 1.7, None])),
        "floor": draw(st.sampled_from([None, 0.5, 0.75])),
        "count": draw(st.sampled_from([None, 1, 2, 5])),
        "budget": draw(st.sampled_from([None, 1.0, 2.5, 4.0])),
        "better": draw(st.sampled_from([None, 1.5, 4.0])),
    }


@QUIET
@given(spec=chains(), asked=questions())
def test_labels_and_program_answer_every_question_alike(
    spec: dict[str, Any], asked: dict[str, Any], module_instances: Any
) -> None:
    problem = build(module_instances, spec)
    need, price = problem.classes[0], problem.devices["edge/cpu"].price_usd_per_h
    if asked["first"][0] in ("ratio", "latency") and (need.limit_s is None or asked["scale"] is None):
        return
    ask = replace(
        promises(problem),
        goals=ranked(asked["first"]),
        scales={"web": asked["scale"] if need.limit_s is not None else None},
        floors={"web": asked["floor"]},
        counts=dict.fromkeys(problem.devices, asked["count"]),
        budget_usd_per_h=None if asked["budget"] is None else asked["budget"] * price,
        better_than=None if asked["better"] is None else asked["better"] * price,
    )
    columns = build_columns(problem)
    if asked["first"] == NAMES:
        # Nothing else is decided after the names.
        ask = replace(ask, goals=(COST, NAMES))
    labels, program = both(problem, columns)
    assert_same(labels.ask(ask, 60.0, 0.0), program.ask(ask, 60.0, 0.0))


@settings(QUIET, max_examples=25)
@given(spec=chains(), forbid=st.booleans())
def test_the_next_best_plans_are_the_same(spec: dict[str, Any], forbid: bool, module_instances: Any) -> None:
    """Plan after plan rejected, or choice of variants after choice forbidden."""
    problem = build(module_instances, spec)
    columns = build_columns(problem)
    labels, program = both(problem, columns)
    ask = promises(problem)
    for _ in range(4):
        one, other = labels.ask(ask, 60.0, 0.0), program.ask(ask, 60.0, 0.0)
        assert_same(one, other)
        if one is None:
            break
        if forbid:
            variants = frozenset((k, stage, c.option.variant) for (k, stage), c in one.chosen().items())
            ask = replace(ask, forbidden=(*ask.forbidden, variants))
        else:
            ask = replace(ask, rejected=(*ask.rejected, one.columns))


def exhaustive(problem: Problem, columns: list[Column], ask: Ask) -> list[tuple[float, ...]]:
    """(cost, loss of accuracy, ratio, cores) of every plan that keeps the promises, best first."""
    need, accuracy = problem.classes[0], problem.accuracy
    assert accuracy is not None
    found = []
    for chosen in itertools.product(*([c for c in columns if c.stage == stage] for stage in problem.stages)):
        plan = solution_of(problem, chosen)
        value = accuracy.of({c.stage: c.option.variant for c in chosen})
        ratio = believed(problem, plan).get(need.name, 0.0)
        over = [n for name, p in plan.packings.items() if (n := ask.counts[name]) is not None and len(p.machines) > n]
        kept = need.floor is None or (value is not None and accuracy.turn.keeps(value.value, need.floor))
        if value is not None and kept and not over and ratio <= 1 + 1e-9:
            cores = float(sum(c.cores for c in chosen))
            found.append((plan.cost_usd_per_h, -accuracy.turn.turned(value.value), ratio, cores))
    return sorted(tuple(float(f"{value:.9g}") for value in row) for row in found)


@settings(QUIET, max_examples=25)
@given(spec=chains())
def test_labels_find_the_best_of_all_plans(spec: dict[str, Any], module_instances: Any) -> None:
    spec = {**spec, "stages": {s: v[:2] if s in "ab" else v[:1] for s, v in spec["stages"].items()}}
    problem = build(module_instances, spec)
    columns = build_columns(problem)
    every = math.prod(sum(1 for c in columns if c.stage == stage) for stage in problem.stages)
    if every > 3_000:
        return
    found = Solver(problem, columns, method="labels").ask(promises(problem), 60.0, 0.0)
    expected = exhaustive(problem, columns, promises(problem))
    assert (found is None) == (not expected)
    if found is not None:
        cores = float(sum(c.cores for c in found.columns))
        assert found.cost_usd_per_h == pytest.approx(expected[0][0], rel=1e-6)
        assert found.values[ACCURACY] == pytest.approx(expected[0][1], abs=1e-6)
        assert believed(problem, found).get("web", 0.0) == pytest.approx(expected[0][2], rel=1e-6)
        assert cores == expected[0][3]


def large(instances: Any, **changes: Any) -> Problem:
    """Six stages of six variants on two device types: more labels than a narrow search keeps."""
    stages, variants = [f"s{i}" for i in range(6)], [f"v{v}" for v in range(6)]
    times, accuracy = {}, {}
    for (i, stage), (v, variant) in itertools.product(enumerate(stages), enumerate(variants)):
        base = 0.004 * (1 + v) * (1 + 0.13 * i)
        times[stage, variant] = {1: base, 4: 2.1 * base}
        accuracy[stage, variant] = 0.9 + 0.016 * v + 0.001 * i
    like = {"device": "edge/cpu", "slowdown": 0.6}
    spec = {
        "stages": dict.fromkeys(stages, variants),
        "edges": [{"from": a, "to": b} for a, b in itertools.pairwise(stages)],
        "times": times,
        "accuracy": accuracy,
        "devices": {
            "cpu": {"price_usd_per_h": 0.1, "cores": 4},
            "new": {"price_usd_per_h": 0.17, "cores": 4, "like": like},
        },
        "traffic": {"rate_rps": 60.0, "slo": {"latency_s": 0.35}, "accuracy": {"floor": 0.75}},
        "composition": "product",
        **changes,
    }
    return build(instances, spec)


def test_larger_chains_agree_too(instances: Any) -> None:
    problem = large(instances)
    columns = build_columns(problem)
    labels, program = both(problem, columns)
    ask = replace(promises(problem), goals=(COST, ACCURACY))
    one, other = labels.ask(ask, 60.0, 0.0), program.ask(ask, 60.0, 0.0)
    assert one is not None
    assert other is not None
    assert one.cost_usd_per_h == pytest.approx(other.cost_usd_per_h)
    assert one.values[ACCURACY] == pytest.approx(other.values[ACCURACY], abs=2e-6)


def test_a_gap_is_kept_and_stated(instances: Any) -> None:
    problem = large(instances)
    columns = build_columns(problem)
    ask = replace(promises(problem), goals=(COST,))
    exact = Solver(problem, columns, method="labels").ask(ask, 60.0, 0.0)
    rough = Solver(problem, columns, method="labels").ask(ask, 60.0, 0.2)
    assert exact is not None
    assert rough is not None
    assert exact.bound == pytest.approx(exact.objective)
    assert rough.bound <= exact.objective * (1 + 1e-9)
    assert rough.objective * (1 - 0.2) <= rough.bound * (1 + 1e-9)


def test_what_narrow_searches_leave_open_the_program_decides(instances: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = large(instances)
    columns = build_columns(problem)
    ask = replace(promises(problem), goals=(COST,))
    settled = Solver(problem, columns).ask(ask, 60.0, 0.0)
    monkeypatch.setattr(chain_search, "BEAMS", (Beam(20, 20),))
    answer = ChainSearch(problem, columns).ask(ask, time.monotonic() + 60, 0.0)
    assert answer is not None
    assert not answer.proven
    found = Solver(problem, columns).ask(ask, 60.0, 0.0)
    assert found is not None
    assert settled is not None
    assert found.proven
    assert found.cost_usd_per_h == pytest.approx(settled.cost_usd_per_h)
    assert answer.bound * price_scale(problem) <= found.bound + 1e-9


@pytest.mark.parametrize("method", ["labels", "program"])
def test_what_an_objective_is_about_is_known_where_time_ran_out_before_it(
    instances: Any, monkeypatch: pytest.MonkeyPatch, method: Any
) -> None:
    """Asked for the fastest plan first, with accuracy to follow, and no time for that."""
    problem = large(instances)
    columns = build_columns(problem)
    ask = replace(promises(problem), goals=(RATIO, ACCURACY, COST), objective=ACCURACY)
    monkeypatch.setattr(chain_search, "BEAMS", (Beam(20, 20),))
    found = Solver(problem, columns, method=method).ask(ask, 0.0, 0.0)
    assert found is not None
    assert RATIO in found.values
    assert math.isfinite(found.worth(ask))
    assert found.worth(ask) >= -1.0


def test_where_no_label_gets_through_the_program_decides(instances: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain_search, "BEAMS", (Beam(0, 1),))
    problem = large(instances)
    columns = build_columns(problem)
    ask = replace(promises(problem), goals=(COST,))
    with pytest.raises(TooManyLabels):
        ChainSearch(problem, columns).ask(ask, time.monotonic() + 60, 0.0)
    assert Solver(problem, columns).ask(ask, 60.0, 0.0) == Solver(problem, columns, method="program").ask(
        ask, 60.0, 0.0
    )


def test_energy_is_left_to_the_program(instances: Any) -> None:
    problem = large(instances)
    columns = build_columns(problem)
    assert why_not(problem, columns) is None
    with pytest.raises(Unsuited):
        ChainSearch(problem, columns).ask(replace(promises(problem), goals=(("energy", ""),)), math.inf, 0.0)


@pytest.mark.parametrize("paid", [{"d": 0.5}, {"d": 0.5, "e": 0.7}])
def test_a_plan_on_machines_that_cost_nothing_is_not_beaten(instances: Any, paid: dict[str, float]) -> None:
    """Own machines have no price. Nothing costs less than nothing, whatever else could be bought."""
    devices = {"cpu": {"price_usd_per_h": 0.0, "cores": 2, "count": 2}}
    devices |= {name: {"price_usd_per_h": price, "cores": 2} for name, price in paid.items()}
    loaded = instances.workload({"a": ["s", "l"]}, devices=devices)
    rows = [instances.measurement("a", "s", 1, 0.01, device=f"edge/{device}", threads=2) for device in ("cpu", *paid)]
    plan = solve(loaded, instances.profile({}, {("a", "s"): 0.8}, rows=rows), plan_dir=instances.folder)
    assert plan.cost_usd_per_h == 0
    assert plan.proof.solver == LABELS
    assert plan.proof.status == "optimal"


def test_the_plan_says_what_proved_it(instances: Any) -> None:
    loaded = instances.workload({"a": ["s", "l"]})
    times = {("a", "s"): {1: 0.01}, ("a", "l"): {1: 0.02}}
    plan = solve(loaded, instances.profile(times, {("a", "s"): 0.8, ("a", "l"): 0.9}), plan_dir=instances.folder)
    assert plan.proof.solver == LABELS
    two = {name: {"rate_rps": 10.0, "slo": {"latency_s": 0.5}} for name in ("x", "y")}
    loaded = instances.workload({"a": ["s", "l"]}, classes=two)
    plan = solve(loaded, instances.profile(times, {("a", "s"): 0.8, ("a", "l"): 0.9}), plan_dir=instances.folder)
    assert plan.proof.solver == PROGRAM


@settings(deadline=None)
@given(prices=st.lists(st.sampled_from([0.1, 0.17, 0.3, 0.25, 2.0]), min_size=1, max_size=3), most=st.floats(0.05, 3.0))
def test_costs_are_sums_of_prices(prices: list[float], most: float) -> None:
    counts = [range(int(most / price) + 2) for price in prices]
    sums = {round(sum(n * p for n, p in zip(chosen, prices, strict=True)), 9) for chosen in itertools.product(*counts)}
    assert sums_of(prices, most) == pytest.approx(sorted(value for value in sums if value <= most * (1 + 1e-9)))


@given(spec=chains(), most=st.floats(0.5, 6.0))
@QUIET
def test_a_limit_of_cost_is_one_of_the_fleets_it_buys(module_instances: Any, spec: dict[str, Any], most: float) -> None:
    problem = build(module_instances, spec)
    columns = build_columns(problem)
    if why_not(problem, columns) is not None or not {c.stage for c in columns} >= set(problem.stages):
        return
    chain = ChainSearch(problem, columns)
    prices = chain._criteria.fleet.prices_usd_per_h
    counts = [problem.devices[name].count for name in chain._criteria.fleet.devices]
    reach = Reach(tuple(math.inf if count is None else float(count) for count in counts), most * float(prices.max()))
    found = chain._fleets(RATIO, reach)
    if found == [reach]:
        # Too many to tell apart.
        return
    assert all(math.isinf(one.cost) for one in found)
    fleets = [one.machines for one in found]
    for machines in itertools.product(range(16), repeat=len(prices)):
        bought = sum(n * price for n, price in zip(machines, prices, strict=True)) <= reach.cost * (1 + ROUNDING)
        there = all(n <= top for n, top in zip(machines, reach.machines, strict=True))
        within = any(all(n <= top for n, top in zip(machines, fleet, strict=True)) for fleet in fleets)
        assert within == (bought and there)
