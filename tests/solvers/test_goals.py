"""A class's goal: accuracy up to it counts, more counts as if it were the goal. Against exhaustive search."""

from __future__ import annotations

import itertools
import math
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inferplan.solvers.checker import check_plan
from inferplan.solvers.columns import Column, build_columns
from inferplan.solvers.milp import Solver, promises
from inferplan.solvers.objectives import normalised
from inferplan.solvers.pareto import frontier
from inferplan.solvers.planner import solve
from inferplan.solvers.problem import Problem, read_problem
from inferplan.solvers.program import pack_columns
from inferplan.spec.document import load_workload
from inferplan.spec.errors import CheckFailedError, InputError
from inferplan.spec.plan import Plan

QUIET = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
ACCURACY = {"s": 0.6, "m": 0.8, "l": 0.95}
TIMES = {"s": {1: 0.01}, "m": {1: 0.02}, "l": {1: 0.06}}
CLASS = {"rate_rps": 30.0, "slo": {"latency_s": 0.6}}


def inputs(instances: Any, goals: list[float | None], stages: int = 1, **rest: Any) -> tuple[Any, Any]:
    names = ["a", "b"][:stages]
    classes = {
        f"k{index}": {**CLASS, "rate_rps": 30.0 * (index + 1), **({} if g is None else {"accuracy": {"goal": g}})}
        for index, g in enumerate(goals)
    }
    loaded = instances.workload(
        {stage: list(ACCURACY) for stage in names},
        edges=[{"from": a, "to": b} for a, b in itertools.pairwise(names)],
        classes=classes,
        devices={"cpu": {"price_usd_per_h": 0.1, "count": 12, "cores": 4}},
        **rest,
    )
    times = {(stage, variant): points for stage in names for variant, points in TIMES.items()}
    return loaded, instances.profile(times, {(stage, v): value for stage in names for v, value in ACCURACY.items()})


def every_plan(problem: Problem, columns: list[Column]) -> list[tuple[float, float]]:
    """(cost, mean accuracy up to the goals) of every plan of one class that keeps its limit."""
    (need,) = problem.classes
    found = []
    for picked in itertools.product(*([c for c in columns if c.stage == stage] for stage in problem.stages)):
        if need.limit_s is None or sum(c.single_s[0] for c in picked) > need.limit_s:
            continue
        machines = {name: len(packing.machines) for name, packing in pack_columns(problem, picked).items()}
        if any(count > (problem.devices[name].count or count) for name, count in machines.items()):
            continue
        accuracy = 1.0
        for column in picked:
            accuracy *= ACCURACY[column.option.variant]
        cost = sum(0.1 * count for count in machines.values())
        if problem.budget_usd_per_h is None or cost <= problem.budget_usd_per_h + 1e-9:
            found.append((cost, accuracy if need.goal is None else min(accuracy, need.goal)))
    return found


@QUIET
@given(
    goal=st.sampled_from([None, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]),
    stages=st.integers(1, 2),
    objective=st.sampled_from(["cost", "accuracy", "weighted", "lexicographic"]),
    weight=st.sampled_from([0.2, 1.0, 5.0]),
    budget=st.sampled_from([0.3, 0.6]),
)
def test_the_program_finds_what_exhaustive_search_finds(
    goal: float | None, stages: int, objective: str, weight: float, budget: float, module_instances: Any
) -> None:
    asked: dict[str, Any] = {
        "cost": {"minimize": "cost"},
        "accuracy": {"maximize": "accuracy", "budget_usd_per_h": budget},
        "weighted": {"weights": {"cost": 1.0, "accuracy": weight}},
        "lexicographic": {"lexicographic": ["accuracy", "cost"]},
    }[objective]
    loaded, profile = inputs(module_instances, [goal], stages, objective=asked)
    problem = read_problem(loaded.workload, profile)
    columns = build_columns(problem)
    program = Solver(problem, columns)
    plans = every_plan(problem, build_columns(problem, prune=False))
    found = program.ask(normalised(program, promises(problem), math.inf, 0.0)[0], 60.0, 0.0)
    assert (found is None) == (not plans)
    if found is None:
        return
    best_cost, best_accuracy = min(cost for cost, _ in plans), max(accuracy for _, accuracy in plans)
    keys = {
        # Of the cheapest the nearest to the goal; of the nearest to the goal the cheapest.
        "cost": lambda plan: (round(plan[0], 9), -plan[1]),
        "accuracy": lambda plan: (-plan[1], round(plan[0], 9)),
        "lexicographic": lambda plan: (-plan[1], round(plan[0], 9)),
        "weighted": lambda plan: plan[0] / best_cost - weight * plan[1] / best_accuracy,
    }
    expected = min(plans, key=keys[objective])
    reached = (found.cost_usd_per_h, -found.values[("accuracy", "")])
    assert keys[objective](reached) == pytest.approx(keys[objective](expected), rel=1e-6, abs=1e-6)


@QUIET
@given(
    goals=st.lists(st.sampled_from([None, 0.6, 0.7, 0.85, 0.95]), min_size=2, max_size=2),
    maximize=st.booleans(),
    budget=st.sampled_from([0.1, 0.2, 0.3]),
)
def test_two_classes_that_may_share_queues(
    goals: list[float | None], maximize: bool, budget: float, module_instances: Any
) -> None:
    """Every way to serve both: one queue for both, or one each."""
    objective: dict[str, Any] = {"maximize": "accuracy"} if maximize else {"minimize": "cost"}
    loaded, profile = inputs(module_instances, goals, objective={**objective, "budget_usd_per_h": budget})
    problem = read_problem(loaded.workload, profile)
    columns = build_columns(problem)
    everything = build_columns(problem, prune=False)
    alone = [[c for c in everything if c.classes == (k,)] for k in (0, 1)]
    ways = [(c,) for c in everything if c.classes == (0, 1)] + list(itertools.product(*alone))
    found = Solver(problem, columns).ask(promises(problem), 60.0, 0.0)
    plans = []
    for way in ways:
        if any(tail > 0.6 for column in way for tail in column.single_s):
            continue
        cost = 0.1 * sum(len(packing.machines) for packing in pack_columns(problem, way).values())
        if cost > budget + 1e-9:
            continue
        reached = {k: ACCURACY[column.option.variant] for column in way for k in column.classes}
        counted = [min(reached[k], 1.0 if goals[k] is None else goals[k]) for k in (0, 1)]
        # The second class has twice the rate of the first.
        plans.append((cost, (counted[0] + 2 * counted[1]) / 3))
    assert (found is None) == (not plans)
    if found is not None:
        cost, accuracy = found.cost_usd_per_h, -found.values["accuracy", ""]
        best = min(plans, key=lambda plan: (-plan[1], round(plan[0], 9)) if maximize else (round(plan[0], 9), -plan[1]))
        assert (cost, accuracy) == (pytest.approx(best[0]), pytest.approx(best[1], abs=1e-6))


def answer(instances: Any, goals: list[float | None], **rest: Any) -> tuple[Plan, Any, Any]:
    loaded, profile = inputs(instances, goals, **rest)
    plan = solve(loaded, profile, plan_dir=instances.folder)
    check_plan(plan, loaded.workload, profile)
    return plan, loaded, profile


def variants(plan: Plan) -> dict[str, str]:
    return {name: plan.options[t.routes["a"][0].option].variant for name, t in plan.classes.items()}


def test_more_than_the_goal_is_not_paid_for(instances: Any) -> None:
    objective = {"maximize": "accuracy", "budget_usd_per_h": 5.0}
    assert variants(answer(instances, [None], objective=objective)[0]) == {"k0": "l"}
    plan, _, _ = answer(instances, [0.75], objective=objective)
    assert variants(plan) == {"k0": "m"}
    assert plan.classes["k0"].accuracy_goal == 0.75
    assert plan.proof.objective == pytest.approx(0.75)


def test_every_class_has_its_own(instances: Any) -> None:
    plan, _, _ = answer(instances, [0.5, 0.9], objective={"lexicographic": ["accuracy", "cost"]})
    assert variants(plan) == {"k0": "s", "k1": "l"}


def test_among_the_cheapest_the_nearest_to_the_goal(instances: Any) -> None:
    """One machine of four cores serves s and m alike; l would need another one."""
    plan, _, _ = answer(instances, [0.99])
    assert (plan.cost_usd_per_h, variants(plan)) == (pytest.approx(0.1), {"k0": "l"})
    # Enough is enough: then the fastest of the cheapest is taken.
    plan, _, _ = answer(instances, [0.6])
    assert (plan.cost_usd_per_h, variants(plan)) == (pytest.approx(0.1), {"k0": "s"})


def test_a_metric_where_less_is_better_has_a_goal_below(instances: Any) -> None:
    errors = {"s": 0.4, "m": 0.2, "l": 0.05}
    loaded, _ = inputs(instances, [0.3], objective={"maximize": "accuracy", "budget_usd_per_h": 5.0})
    text = loaded.path.read_text().replace("composition: product", "composition: mean")
    loaded.path.write_text(re.sub(r"( *)name: acc", r"\1name: acc\n\1direction: minimize", text))
    loaded = load_workload(loaded.path)
    profile = instances.profile({("a", v): p for v, p in TIMES.items()}, {("a", v): e for v, e in errors.items()})
    plan = solve(loaded, profile, plan_dir=instances.folder)
    check_plan(plan, loaded.workload, profile)
    assert variants(plan) == {"k0": "m"}
    assert plan.proof.objective == pytest.approx(-0.3)


def test_the_checker_recomputes_what_goals_are_worth(instances: Any) -> None:
    plan, loaded, profile = answer(instances, [0.75], objective={"maximize": "accuracy", "budget_usd_per_h": 5.0})
    for change, finding in (
        ({"proof": plan.proof.model_copy(update={"objective": 0.8})}, "accuracies up to their goals are worth 0.75"),
        (
            {"classes": {"k0": plan.classes["k0"].model_copy(update={"accuracy_goal": 0.8})}},
            "class k0: its goal is 0.75, not 0.8",
        ),
    ):
        with pytest.raises(CheckFailedError) as caught:
            check_plan(plan.model_copy(update=change), loaded.workload, profile)
        assert any(finding in line for line in caught.value.details), caught.value.details


def test_weights_count_accuracy_up_to_the_goal(instances: Any) -> None:
    plan, loaded, profile = answer(instances, [0.7], objective={"weights": {"cost": 1.0, "accuracy": 3.0}})
    assert plan.terms["accuracy"].value == pytest.approx(0.7)
    terms = {**plan.terms, "accuracy": plan.terms["accuracy"].model_copy(update={"value": 0.8})}
    with pytest.raises(CheckFailedError):
        check_plan(plan.model_copy(update={"terms": terms}), loaded.workload, profile)


def test_goals_change_no_frontier(instances: Any) -> None:
    found = []
    for goal in (None, 0.7):
        loaded, profile = inputs(instances, [goal])
        problem = read_problem(loaded.workload, profile)
        points = [frontier(problem, ("cost", "accuracy"), method=method).points for method in ("labels", "program")]
        found += [[(point.cost_usd_per_h, point.accuracy) for point in one] for one in points]
    assert all(one == found[0] for one in found)


def test_goals_need_combinations_to_be_listed(instances: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inferplan.solvers.combinations.MAX_COMBINATIONS", 2)
    loaded, profile = inputs(instances, [0.7])
    with pytest.raises(InputError, match=r"accuracy\.goal is not honoured with more than"):
        solve(loaded, profile, plan_dir=instances.folder)
