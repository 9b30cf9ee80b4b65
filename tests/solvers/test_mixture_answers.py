"""Where classes split or have jobs: accuracy goals, frontiers, and strategies side by side."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inferplan.solvers.checker import check_plan
from inferplan.solvers.contest import Entry, compare, plan_of
from inferplan.solvers.infeasible import infeasible
from inferplan.solvers.judge import Judge
from inferplan.solvers.milp import promises
from inferplan.solvers.pareto import frontier
from inferplan.solvers.parts import parted
from inferplan.solvers.planner import solve
from inferplan.solvers.problem import Problem, read_problem
from inferplan.spec.errors import CheckFailedError, InputError, UndecidedError
from inferplan.spec.plan import Plan

ONE_CORE = {"cpu": {"price_usd_per_h": 0.1, "cores": 1}}
TIMES = {("a", "s"): {1: 0.01, 2: 0.018, 4: 0.03}, ("a", "l"): {1: 0.05, 2: 0.09, 4: 0.17}}
ACCURACY = {("a", "s"): 0.8, ("a", "l"): 0.95}


def web(rate: float, latency: float | None = None, **accuracy: float) -> dict[str, Any]:
    slo = {} if latency is None else {"slo": {"latency_s": latency}}
    return {"web": {"rate_rps": rate, "accuracy": accuracy, **slo}}


def jobs(requests: int, rate: float, mean: float, deadline: float, **accuracy: float) -> dict[str, Any]:
    job = {"requests": requests, "deadline_s": deadline, "mean_accuracy": mean}
    return {"album": {"kind": "jobs", "rate_rps": rate, "job": job, "accuracy": accuracy}}


def inputs(instances: Any, classes: dict[str, Any], **changes: Any) -> tuple[Any, Any]:
    splitting = not any("job" in traffic for traffic in classes.values())
    loaded = instances.workload(
        {"a": ["s", "l"]}, classes=classes, **{"devices": ONE_CORE, "splitting": splitting, **changes}
    )
    return loaded, instances.profile(TIMES, ACCURACY)


def solved(instances: Any, classes: dict[str, Any], **changes: Any) -> Plan:
    loaded, profile = inputs(instances, classes, **changes)
    plan = solve(loaded, profile, plan_dir=instances.folder)
    check_plan(plan, loaded.workload, profile)
    return plan


def every(rate: float, steps: int = 640) -> list[tuple[float, float]]:
    """(cost, mean accuracy) of every pair of variants and share without latency limits, on machines of one core."""
    most = {v: max(0.98 * batch / seconds for batch, seconds in TIMES["a", v].items()) for v in "sl"}
    found = []
    for (one, other), few in itertools.product(itertools.product("sl", repeat=2), range(steps + 1)):
        w = few / steps
        loads: dict[str, float] = {}
        for name, share in ((one, w), (other, 1 - w)):
            loads[name] = loads.get(name, 0.0) + share * rate
        cost = sum(math.ceil(load / most[name] - 1e-9) for name, load in loads.items() if load > 1e-9)
        found.append((0.1 * cost, w * ACCURACY["a", one] + (1 - w) * ACCURACY["a", other]))
    return found


# Goals


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    rate=st.sampled_from([15.0, 40.0, 60.0]),
    goal=st.sampled_from([0.7, 0.83, 0.871, 0.93, 0.99]),
    budget=st.sampled_from([0.1, 0.2, 0.3, 0.5]),
)
def test_no_more_is_paid_than_the_goal_needs(module_instances: Any, rate: float, goal: float, budget: float) -> None:
    plan = solved(
        module_instances, web(rate, goal=goal), objective={"maximize": "accuracy", "budget_usd_per_h": budget}
    )
    within = [(min(mean, goal), cost) for cost, mean in every(rate) if cost <= budget + 1e-9]
    best = max(worth for worth, _ in within)
    accuracy = plan.classes["web"].predicted.accuracy
    assert accuracy is not None
    assert min(accuracy.value, goal) == pytest.approx(best, abs=1e-6)
    assert plan.proof.objective == pytest.approx(best, abs=1e-6)
    assert plan.cost_usd_per_h == pytest.approx(min(cost for worth, cost in within if worth >= best - 1e-9))
    assert plan.classes["web"].accuracy_goal == goal


def test_jobs_have_goals_too(instances: Any) -> None:
    """Three of eight requests reach a goal of 0.855; without it the budget would buy more."""
    objective = {"maximize": "accuracy", "budget_usd_per_h": 0.4}
    plain, asked = (
        solved(instances, jobs(8, 60.0, 0.8, 3600.0, **goal), objective=objective) for goal in ({}, {"goal": 0.855})
    )
    reached = [plan.classes["album"].predicted.accuracy for plan in (plain, asked)]
    assert all(accuracy is not None for accuracy in reached)
    assert reached[0].value > reached[1].value >= 0.855  # type: ignore[union-attr]
    assert asked.cost_usd_per_h < plain.cost_usd_per_h
    assert asked.proof.objective == pytest.approx(0.855)


def test_classes_count_up_to_their_own_goals(instances: Any) -> None:
    """What one class has beyond its goal does not make up for what another one lacks."""
    classes = {**web(20.0, goal=0.85), "bulk": {"rate_rps": 20.0, "accuracy": {"goal": 0.9}}}
    objective = {"maximize": "accuracy", "budget_usd_per_h": 0.2}
    plan = solved(instances, classes, objective=objective)
    values = {name: traffic.predicted.accuracy for name, traffic in plan.classes.items()}
    assert all(value is not None for value in values.values())
    counted = [min(values[name].value, goal) for name, goal in (("web", 0.85), ("bulk", 0.9))]  # type: ignore[union-attr]
    assert plan.proof.objective == pytest.approx(sum(counted) / 2, abs=1e-6)
    # 23 of 40 requests/s fit on one replica of the accurate variant: enough for both goals.
    assert counted == pytest.approx([0.85, 0.9], abs=1e-6)


def test_the_checker_counts_goals_by_the_mean_of_ways(instances: Any) -> None:
    objective = {"maximize": "accuracy", "budget_usd_per_h": 0.2}
    loaded, profile = inputs(instances, web(60.0, goal=0.84), objective=objective)
    plan = solve(loaded, profile, plan_dir=instances.folder)
    assert plan.classes["web"].mixtures
    wrong = plan.model_copy(update={"proof": plan.proof.model_copy(update={"objective": 0.86})})
    with pytest.raises(CheckFailedError) as error:
        check_plan(wrong, loaded.workload, profile)
    assert any("accuracies up to their goals are worth 0.84" in line for line in error.value.details)


# Frontiers


@pytest.mark.parametrize("rate", [15.0, 60.0])
def test_the_frontier_is_that_of_enumeration(instances: Any, rate: float) -> None:
    loaded, profile = inputs(instances, web(rate, floor=0.9))
    found = frontier(read_problem(loaded.workload, profile), ("cost", "accuracy"))
    best = {}
    for cost, mean in every(rate, 20):
        best[round(cost, 9)] = max(mean, best.get(round(cost, 9), 0.0))
    front = [(c, a) for c, a in sorted(best.items()) if all(a > other for cost, other in best.items() if cost < c)]
    assert found.complete
    assert found.why == "classes may be split"
    assert [(p.cost_usd_per_h, p.accuracy) for p in found.points] == [
        (pytest.approx(cost), pytest.approx(mean)) for cost, mean in front
    ]


def test_a_frontier_of_latency_has_the_slowest_way(instances: Any) -> None:
    loaded, profile = inputs(instances, web(60.0, 0.5, floor=0.84))
    problem = read_problem(loaded.workload, profile)
    found = frontier(problem, ("cost", "latency"))
    assert found.complete
    assert len(found.points) > 1
    costs, latencies = zip(*((p.cost_usd_per_h, p.latency) for p in found.points), strict=True)
    assert list(costs) == sorted(costs)
    assert list(latencies) == sorted(latencies, reverse=True)
    assert all(p.accuracy is not None and p.accuracy >= 0.84 - 1e-9 for p in found.points)


def test_jobs_have_a_frontier(instances: Any) -> None:
    loaded, profile = inputs(instances, jobs(4, 20.0, 0.8, 1.0))
    found = frontier(read_problem(loaded.workload, profile), ("cost", "accuracy"))
    assert found.complete
    assert [p.accuracy for p in found.points if p.accuracy is not None] == sorted({p.accuracy for p in found.points})  # type: ignore[type-var]


# Strategies


def entries(instances: Any, classes: dict[str, Any], names: list[str]) -> tuple[Problem, list[Entry], Any, Any]:
    loaded, profile = inputs(instances, classes)
    problem = read_problem(loaded.workload, profile)
    return problem, compare(problem, names), loaded, profile


@pytest.mark.parametrize("classes", [web(60.0, 0.5, floor=0.84), jobs(4, 40.0, 0.83, 0.6)])
def test_strategies_that_cannot_split_say_so_and_are_compared(instances: Any, classes: dict[str, Any]) -> None:
    names = ["optimal", "rim", "infaas", "mosel", "cheapest-fixed", "most-accurate-fixed"]
    problem, found, loaded, profile = entries(instances, classes, names)
    ours = next(entry for entry in found if entry.strategy == "optimal")
    assert ours.solution is not None
    assert not ours.broken
    assert not ours.note
    best = solve(loaded, profile, plan_dir=instances.folder)
    assert ours.solution.cost_usd_per_h == pytest.approx(best.cost_usd_per_h)
    for entry in found:
        if entry is ours or entry.solution is None:
            continue
        assert (
            entry.note == f"{entry.strategy} does not split classes: all requests of {next(iter(classes))} go one way"
        )
        if not entry.broken:
            assert entry.solution.cost_usd_per_h >= ours.solution.cost_usd_per_h - 1e-9
        plan = plan_of(problem, entry, loaded, profile, plan_dir=instances.folder)
        if plan is not None:
            assert not any(traffic.mixtures for traffic in plan.classes.values())
    assert sum(entry.solution is not None for entry in found) >= 4


def test_a_queue_of_jobs_is_loaded_with_all_their_requests(instances: Any) -> None:
    """A strategy's deployment gets requests, not jobs: 40 requests/s are more than one accurate replica serves."""
    _, (entry,), *_ = entries(instances, jobs(4, 40.0, 0.9, 3600.0), ["most-accurate-fixed"])
    assert entry.solution is not None
    (column,) = entry.solution.columns
    assert column.load_rps == pytest.approx(40.0)
    assert column.replicas == 2


def test_what_spreads_over_devices_is_not_compared(instances: Any) -> None:
    loaded, profile = inputs(instances, web(60.0, floor=0.84), splitting="devices")
    problem = read_problem(loaded.workload, profile)
    for ask in (lambda: frontier(problem, ("cost", "accuracy")), lambda: compare(problem, ["optimal"])):
        with pytest.raises(InputError, match="splitting: devices"):
            ask()


def test_programs_that_are_not_built_in_time_are_no_answer(instances: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With two split classes there are many ways to split: tabulating them is within the time limit, too."""
    traffic = {"rate_rps": 20.0, "slo": {"latency_s": 0.5}, "accuracy": {"floor": 0.9}}
    loaded = instances.workload({"a": ["s", "l"]}, classes={"k0": traffic, "k1": traffic}, splitting=True)
    times = {("a", "s"): {1: 0.01}, ("a", "l"): {1: 0.02}}
    store = instances.profile(times, {("a", "s"): 0.8, ("a", "l"): 0.95})
    monkeypatch.setattr("inferplan.solvers.queue_planner.FIRST_S", 0.0)
    with pytest.raises(UndecidedError, match="every way to split the classes was tabulated: give more time"):
        solve(loaded, store, plan_dir=instances.folder, time_limit_s=0.0)
    problem = parted(read_problem(loaded.workload, store))
    judge, ask = Judge(problem, 0), promises(problem)
    late = infeasible(problem, judge, ask, ask, 0.0)
    assert late.details[0].startswith("more time, with --time-limit")
