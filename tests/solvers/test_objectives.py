"""Every objective against exhaustive search, with costs and powers recomputed from the workload alone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inferplan.solvers.bill import bill
from inferplan.solvers.checker import check_plan
from inferplan.solvers.columns import Column, build_columns
from inferplan.solvers.milp import Solution, Solver, promises, ranked
from inferplan.solvers.objectives import normalised
from inferplan.solvers.planner import solve
from inferplan.solvers.problem import Problem, read_problem
from inferplan.solvers.program import ACCURACY, COST, ENERGY, Ask, pack_columns
from inferplan.spec.errors import CheckFailedError, InfeasibleError, InputError
from inferplan.spec.plan import Plan
from inferplan.spec.rows import HandoffRow

QUIET = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
LOAD_S = {"s": 2.0, "l": 30.0}
MIB = 2**20


@st.composite
def random_instances(draw: st.DrawFn) -> dict[str, Any]:
    """One or two stages of two variants on one or two devices, bought whole or by share, with all that costs."""
    stages = ["a", "b"][: draw(st.integers(1, 2))]
    times, accuracy = {}, {}
    for stage in stages:
        for variant, value in (("s", draw(st.sampled_from([0.7, 0.8]))), ("l", draw(st.sampled_from([0.85, 0.95])))):
            base = draw(st.sampled_from([0.01, 0.03, 0.08]))
            times[stage, variant] = {1: base, 4: base * draw(st.sampled_from([1.5, 3.5]))}
            accuracy[stage, variant] = value
    devices = {}
    for name in ("cpu", "old")[: draw(st.integers(1, 2))]:
        devices[name] = {
            "price_usd_per_h": draw(st.sampled_from([0.05, 0.4, 3.0])),
            "count": draw(st.sampled_from([2, 6])),
            "cores": draw(st.integers(1, 4)),
            "memory_bytes": draw(st.sampled_from([400, 1000])) * MIB,
            "billing": draw(st.sampled_from(["whole", "share"])),
            "interruptions_per_h": draw(st.sampled_from([0.0, 2.0])),
            "start_s": draw(st.sampled_from([0.0, 120.0])),
            "power_w": draw(st.sampled_from([50.0, 200.0])),
            "idle_power_w": draw(st.sampled_from([5.0, 40.0])),
        }
        if name == "old":
            devices[name]["like"] = {"device": "edge/cpu", "slowdown": 2.0}
    return {
        "stages": {stage: ["s", "l"] for stage in stages},
        "edges": [{"from": a, "to": b} for a, b in itertools.pairwise(stages)],
        "times": times,
        "accuracy": accuracy,
        "devices": devices,
        "energy_price": draw(st.sampled_from([0.0, 2.0])),
        "rate": draw(st.sampled_from([5.0, 30.0])),
        "budget": draw(st.sampled_from([None, 0.5, 5.0])),
        "floor": draw(st.sampled_from([None, 0.6])),
    }


def make(instances: Any, spec: dict[str, Any], objective: dict[str, Any]) -> Problem:
    helpers = __import__("sys").modules[type(instances).__module__]
    budget = {} if spec["budget"] is None else {"budget_usd_per_h": spec["budget"]}
    accuracy = {} if spec["floor"] is None else {"accuracy": {"floor": spec["floor"]}}
    loaded = instances.workload(
        spec["stages"],
        edges=spec["edges"],
        classes={"web": {"rate_rps": spec["rate"], "slo": {"latency_s": 0.5}, **accuracy}},
        tiers={"edge": {"devices": spec["devices"], "energy_price_usd_per_kwh": spec["energy_price"]}},
        objective={**objective, **budget},
    )
    rows = [
        helpers.measurement(stage, variant, batch, mean, load_s=LOAD_S[variant])
        for (stage, variant), points in spec["times"].items()
        for batch, mean in points.items()
    ]
    return read_problem(loaded.workload, instances.profile({}, spec["accuracy"], rows=rows))


@dataclass(frozen=True)
class Worth:
    """One choice of columns, weighed by hand."""

    cost: float
    power: float
    accuracy: float

    def of(self, goal: str) -> float:
        return {"cost": self.cost, "energy": self.power, "accuracy": -self.accuracy}[goal]


def every_plan(problem: Problem, columns: list[Column]) -> Iterator[Worth]:
    """All plans that keep every promise, the budget too."""
    by_stage = [[column for column in columns if column.stage == stage] for stage in problem.stages]
    need = problem.classes[0]
    for picked in itertools.product(*by_stage):
        if need.limit_s is not None and sum(c.single_s[0] for c in picked) > need.limit_s * (1 + 1e-9):
            continue
        assert problem.accuracy is not None
        value = problem.accuracy.of({c.stage: c.option.variant for c in picked})
        if value is None or (need.floor is not None and not problem.accuracy.turn.keeps(value.value, need.floor)):
            continue
        machines = {name: len(packing.machines) for name, packing in pack_columns(problem, picked).items()}
        if any(count > (problem.devices[name].count or count) for name, count in machines.items()):
            continue
        worth = Worth(*weighed(problem, picked, machines), value.value)
        if problem.budget_usd_per_h is None or worth.cost <= problem.budget_usd_per_h * (1 + 1e-9):
            yield worth


def weighed(problem: Problem, picked: tuple[Column, ...], machines: dict[str, int]) -> tuple[float, float]:
    """Cost and power from the fields of the workload."""
    cost = power = 0.0
    for name, count in machines.items():
        device = problem.workload.devices()[name]
        own = [c for c in picked if c.option.device == name]
        cores = [c.replicas * c.option.threads / device.cores for c in own]
        memory = [c.replicas * 100 * MIB / (device.memory_bytes or 1) for c in own]
        paid = float(count) if device.billing == "whole" else max(sum(cores), sum(memory))
        assert device.power_w is not None
        assert device.idle_power_w is not None
        watts = paid * device.idle_power_w
        cost += paid * device.price_usd_per_h * (1 + device.interruptions_per_h * device.start_s / 3600)
        for c, by_cores, by_memory in zip(own, cores, memory, strict=True):
            load_s = LOAD_S[c.option.variant]
            cost += device.price_usd_per_h * device.interruptions_per_h * load_s / 3600 * max(by_cores, by_memory)
            assert c.option.service is not None
            busy_s = c.load_rps * c.option.service.mean_s(c.batch_mean) / c.batch_mean
            watts += (device.power_w - device.idle_power_w) / device.cores * c.option.threads * busy_s
        cost += watts / 1000 * problem.workload.tiers["edge"].energy_price_usd_per_kwh
        power += watts
    return cost, power


def few(problem: Problem) -> list[Column]:
    """Columns few enough to enumerate: two numbers of replicas of each option."""
    every = build_columns(problem, prune=False)
    least: dict[object, int] = {}
    for column in every:
        least[column.option] = min(least.get(column.option, column.replicas), column.replicas)
    return [c for c in every if c.replicas <= least[c.option] + 1]


def answer(problem: Problem, columns: list[Column], **changes: Any) -> Solution | None:
    solver = Solver(problem, columns)
    ask, _ = normalised(solver, promises(problem), math.inf, 0.0)
    return solver.ask(replace(ask, **changes), 60.0, 0.0)


@QUIET
@given(spec=random_instances(), goal=st.sampled_from(["cost", "energy", "accuracy"]))
def test_a_single_goal_is_that_of_exhaustive_search(spec: dict[str, Any], goal: str, module_instances: Any) -> None:
    objective = {"maximize": "accuracy"} if goal == "accuracy" else {"minimize": goal}
    if goal == "accuracy" and spec["budget"] is None:
        spec = {**spec, "budget": 5.0}
    problem = make(module_instances, spec, objective)
    columns = few(problem)
    found, expected = answer(problem, columns), min((w.of(goal) for w in every_plan(problem, columns)), default=None)
    assert (found is None) == (expected is None)
    if found is not None and expected is not None:
        # The program tells differences of 1e-6 apart, of what it has scaled.
        assert found.reached((goal, ""), {}) == pytest.approx(expected, rel=3e-6)  # type: ignore[arg-type]
        assert found.bound == pytest.approx(expected, rel=3e-6)


@QUIET
@given(
    spec=random_instances(),
    weights=st.fixed_dictionaries({g: st.sampled_from([0.0, 0.5, 2.0]) for g in ("cost", "energy", "accuracy")}),
)
def test_a_weighted_goal_is_that_of_exhaustive_search(
    spec: dict[str, Any], weights: dict[str, float], module_instances: Any
) -> None:
    if not any(weights.values()):
        return
    problem = make(module_instances, spec, {"weights": weights})
    columns = few(problem)
    plans = list(every_plan(problem, columns))
    found = answer(problem, columns)
    assert (found is None) == (not plans)
    if found is not None:
        units = {goal: abs(min(plan.of(goal) for plan in plans)) or 1.0 for goal in weights}
        expected = min(sum(w * plan.of(goal) / units[goal] for goal, w in weights.items()) for plan in plans)
        assert found.objective == pytest.approx(expected, rel=1e-5, abs=1e-6)


@QUIET
@given(
    spec=random_instances(),
    goals=st.permutations(["cost", "energy", "accuracy"]),
    tolerance=st.sampled_from([0.0, 0.1]),
)
def test_lexicographic_goals_are_those_of_exhaustive_search(
    spec: dict[str, Any], goals: list[str], tolerance: float, module_instances: Any
) -> None:
    problem = make(module_instances, spec, {"lexicographic": goals, "tolerance": tolerance})
    columns = few(problem)
    plans = list(every_plan(problem, columns))
    solver, limits = Solver(problem, columns), ()
    for goal in goals:
        ask = replace(promises(problem), objective=(goal, ""), goals=ranked((goal, "")), limits=limits)  # type: ignore[arg-type]
        found = solver.ask(ask, 60.0, 0.0)
        assert (found is None) == (not plans)
        if found is None:
            return
        best = min(plan.of(goal) for plan in plans)
        assert found.reached((goal, ""), {}) == pytest.approx(best, rel=1e-5)  # type: ignore[arg-type]
        most = best + max(tolerance, 1e-6) * abs(best)
        limits = (*limits, ((goal, ""), most))  # type: ignore[assignment]
        plans = [plan for plan in plans if plan.of(goal) <= most + 1e-9]


@QUIET
@given(spec=random_instances(), goal=st.sampled_from([COST, ENERGY]))
def test_pruning_changes_no_optimum(spec: dict[str, Any], goal: Any, module_instances: Any) -> None:
    problem = make(module_instances, spec, {"minimize": goal[0]})
    found = [answer(problem, build_columns(problem, prune=prune), goals=(goal,)) for prune in (False, True)]
    assert (found[0] is None) == (found[1] is None)
    if found[0] is not None and found[1] is not None:
        assert found[0].worth(Ask(ranked(goal), {}, {}, {}, None, objective=goal)) == pytest.approx(
            found[1].worth(Ask(ranked(goal), {}, {}, {}, None, objective=goal)), rel=1e-6
        )


@QUIET
@given(spec=random_instances())
def test_the_bill_is_what_the_workload_says(spec: dict[str, Any], module_instances: Any) -> None:
    problem = make(module_instances, spec, {"minimize": "cost"})
    found = answer(problem, build_columns(problem))
    if found is None:
        return
    machines = {name: len(packing.machines) for name, packing in found.packings.items()}
    cost, power = weighed(problem, found.columns, machines)
    costs = bill(problem, found.columns, found.packings)
    assert costs.total_usd_per_h == pytest.approx(cost)
    assert costs.power_w == pytest.approx(power)
    assert found.cost_usd_per_h == pytest.approx(cost)


TIMES = {("a", "s"): {1: 0.01, 4: 0.02}, ("a", "l"): {1: 0.05, 4: 0.15}}
ACCURACIES = {("a", "s"): 0.8, ("a", "l"): 0.95}
FRUGAL = {"price_usd_per_h": 0.2, "cores": 2, "power_w": 30.0, "idle_power_w": 10.0}
GREEDY = {"price_usd_per_h": 0.1, "cores": 2, "power_w": 300.0, "idle_power_w": 200.0}


def plan_of(instances: Any, objective: dict[str, Any], **changes: Any) -> Plan:
    helpers = __import__("sys").modules[type(instances).__module__]
    devices = changes.pop("devices", {"cpu": FRUGAL, "hot": {**GREEDY, "like": {"device": "edge/cpu"}}})
    tier = changes.pop("tier", {})
    loaded = instances.workload(
        {"a": ["s", "l"]},
        classes=changes.pop("classes", {"web": {"rate_rps": 60.0, "slo": {"latency_s": 0.5}}}),
        tiers={"edge": {"devices": devices, **tier}},
        objective=objective,
        **changes,
    )
    rows = [
        helpers.measurement(stage, variant, batch, mean, load_s=LOAD_S[variant])
        for (stage, variant), points in TIMES.items()
        for batch, mean in points.items()
    ]
    profile = instances.profile({}, ACCURACIES, rows=rows)
    plan = solve(loaded, profile, plan_dir=instances.folder)
    check_plan(plan, loaded.workload, profile)
    return plan


def test_energy_and_cost_choose_different_machines(instances: Any) -> None:
    cheap, thrifty = plan_of(instances, {"minimize": "cost"}), plan_of(instances, {"minimize": "energy"})
    assert set(cheap.machines) == {"edge/hot"}
    assert set(thrifty.machines) == {"edge/cpu"}
    assert cheap.energy is not None
    assert thrifty.energy is not None
    assert thrifty.energy.power_w < cheap.energy.power_w
    assert thrifty.proof.objective == pytest.approx(thrifty.energy.power_w)
    assert thrifty.energy.energy_j_per_request == pytest.approx(thrifty.energy.power_w / 60.0)
    assert thrifty.proof.status == "optimal"


def test_carbon_follows_the_tier(instances: Any) -> None:
    plan = plan_of(instances, {"minimize": "energy"}, tier={"carbon_g_per_kwh": 500.0})
    assert plan.energy is not None
    assert plan.energy.carbon_g_per_h == pytest.approx(plan.energy.power_w / 1000 * 500)
    assert plan.energy.tiers["edge"].power_w == pytest.approx(plan.energy.power_w)


def test_priced_electricity_is_part_of_the_cost_and_changes_the_choice(instances: Any) -> None:
    plan = plan_of(instances, {"minimize": "cost"}, tier={"energy_price_usd_per_kwh": 1.0})
    assert set(plan.machines) == {"edge/cpu"}
    assert plan.costs is not None
    assert plan.energy is not None
    assert plan.costs.energy_usd_per_h == pytest.approx(plan.energy.power_w / 1000)
    assert plan.cost_usd_per_h == pytest.approx(plan.costs.machines_usd_per_h + plan.costs.energy_usd_per_h)


def test_lexicographic_order_decides(instances: Any) -> None:
    first = plan_of(instances, {"lexicographic": ["accuracy", "cost"]})
    accuracy = first.classes["web"].predicted.accuracy
    assert accuracy is not None
    assert accuracy.value == pytest.approx(0.95)
    second = plan_of(instances, {"lexicographic": ["cost", "accuracy", "energy"]})
    cheapest = plan_of(instances, {"minimize": "cost"})
    assert second.cost_usd_per_h == pytest.approx(cheapest.cost_usd_per_h)
    assert first.cost_usd_per_h > second.cost_usd_per_h
    assert any(line.startswith("goal 1 of 3, cost") for line in second.story)
    assert second.objective == "cost, then accuracy, then energy"
    assert second.proof.status == "optimal"


def test_a_tolerance_lets_an_earlier_goal_give_way(instances: Any) -> None:
    strict = plan_of(instances, {"lexicographic": ["cost", "accuracy"]})
    loose = plan_of(instances, {"lexicographic": ["cost", "accuracy"], "tolerance": 1.0})
    assert loose.cost_usd_per_h <= 2.0 * strict.cost_usd_per_h + 1e-9
    assert loose.proof.objective > strict.proof.objective


def test_weights_trade_and_state_their_terms(instances: Any) -> None:
    cheap = plan_of(instances, {"weights": {"cost": 1.0, "accuracy": 0.1}})
    exact = plan_of(instances, {"weights": {"cost": 0.1, "accuracy": 10.0}})
    assert cheap.cost_usd_per_h < exact.cost_usd_per_h
    cost, accuracy = exact.terms["cost"], exact.terms["accuracy"]
    assert cost.value == pytest.approx(exact.cost_usd_per_h)
    assert accuracy.value == pytest.approx(0.95)
    assert cost.unit == pytest.approx(0.1)
    total = cost.weight * cost.value / cost.unit - accuracy.weight * accuracy.value / accuracy.unit
    assert exact.proof.objective == pytest.approx(total)


def test_a_budget_goes_with_every_objective(instances: Any) -> None:
    for objective in ({"minimize": "energy"}, {"weights": {"energy": 1.0}}, {"lexicographic": ["energy", "accuracy"]}):
        free = plan_of(instances, objective)
        tight = plan_of(instances, {**objective, "budget_usd_per_h": 0.15})
        assert free.cost_usd_per_h > 0.15
        assert tight.cost_usd_per_h <= 0.15 + 1e-9
        assert any(entry.constraint == "objective.budget_usd_per_h" for entry in tight.binding)
    with pytest.raises(InfeasibleError, match="budget_usd_per_h"):
        plan_of(instances, {"minimize": "energy", "budget_usd_per_h": 0.01})


def test_energy_needs_to_know_power(instances: Any) -> None:
    devices = {"cpu": {"price_usd_per_h": 0.1, "cores": 2}}
    with pytest.raises(InputError, match="wrong") as caught:
        plan_of(instances, {"minimize": "energy"}, devices=devices)
    assert any("give power_w (watts)" in line for line in caught.value.details)


def test_shares_of_machines_are_paid_as_used(instances: Any) -> None:
    device = {"price_usd_per_h": 1.0, "cores": 8, "memory_bytes": 1000 * MIB}
    whole = plan_of(instances, {"minimize": "cost"}, devices={"cpu": device})
    shared = plan_of(instances, {"minimize": "cost"}, devices={"cpu": {**device, "billing": "share"}})
    assert whole.cost_usd_per_h == 1.0
    replicas = sum(option.replicas for option in shared.options.values())
    assert shared.machines["edge/cpu"].share == pytest.approx(replicas / 8)
    assert shared.cost_usd_per_h == pytest.approx(replicas / 8)


def test_spot_machines_carry_their_risk(instances: Any) -> None:
    spot = {
        "price_usd_per_h": 0.1,
        "cores": 2,
        "purchase": "spot",
        "interruptions_per_h": 1.0,
        "start_s": 178.0,
    }
    plan = plan_of(instances, {"minimize": "cost"}, devices={"cpu": spot})
    bought = plan.machines["edge/cpu"]
    assert bought.interruptions_per_h == pytest.approx(bought.count)
    assert bought.lost_share == pytest.approx(180 / 3780)
    assert plan.costs is not None
    assert plan.costs.machines_usd_per_h == pytest.approx(0.1 * bought.count)
    replicas = sum(option.replicas for option in plan.options.values())
    restarts = 0.1 * 178 / 3600 * bought.count + 0.1 * 2 / 3600 * replicas / 2
    assert plan.costs.restarts_usd_per_h == pytest.approx(restarts)
    assert plan.cost_usd_per_h == pytest.approx(0.1 * bought.count + restarts)


def test_objectives_in_words(instances: Any) -> None:
    assert plan_of(instances, {"minimize": "energy"}).objective == "minimize energy"
    weighed = plan_of(instances, {"weights": {"cost": 1.0, "accuracy": 0.5}, "budget_usd_per_h": 9.0})
    assert weighed.objective == "weigh 0.5 accuracy, 1 cost, budget 9 USD/h"


def test_accuracy_is_not_lost_on_the_way() -> None:
    """Ties go to accuracy first where it is the goal or part of it, to cost first elsewhere."""
    assert ranked(ACCURACY)[:2] == (ACCURACY, COST)
    assert ranked(ENERGY)[:3] == (ENERGY, COST, ACCURACY)
    assert math.prod(len(set(ranked(goal))) == len(ranked(goal)) for goal in (COST, ENERGY, ACCURACY))


FORGERIES = {
    "the plan costs": lambda data: data.update(cost_usd_per_h=data["cost_usd_per_h"] * 0.9),
    "the energy costs": lambda data: data["costs"].update(energy_usd_per_h=0.0),
    "the restarts cost": lambda data: data["costs"].update(restarts_usd_per_h=0.0),
    "the power is": lambda data: data["energy"].update(power_w=1.0),
    "the energy per request is": lambda data: data["energy"].update(energy_j_per_request=0.1),
    "the carbon is": lambda data: data["energy"].update(carbon_g_per_h=1.0),
    "its replicas use": lambda data: data["machines"]["edge/cpu"].update(share=0.01),
    "interruptions per hour": lambda data: data["machines"]["edge/cpu"].update(interruptions_per_h=0.0),
    "of its capacity is lost": lambda data: data["machines"]["edge/cpu"].update(lost_share=0.0),
    "J per call is not between": lambda data: [o["predicted"].update(energy_j=9.0) for o in data["options"].values()],
    "which no row of it says": lambda data: [o.update(load_s=1.0) for o in data["options"].values()],
}


@pytest.mark.parametrize("finding", FORGERIES)
def test_a_forged_bill_is_found_out(finding: str, instances: Any) -> None:
    helpers = __import__("sys").modules[type(instances).__module__]
    device = {**FRUGAL, "billing": "share", "purchase": "spot", "interruptions_per_h": 1.0, "start_s": 60.0}
    loaded = instances.workload(
        {"a": ["s"]},
        tiers={
            "edge": {"devices": {"cpu": device}, "energy_price_usd_per_kwh": 0.3, "carbon_g_per_kwh": 400.0},
        },
    )
    rows = [helpers.measurement("a", "s", 1, 0.01, load_s=5.0)]
    profile = instances.profile({}, {("a", "s"): 0.9}, rows=rows)
    data = solve(loaded, profile, plan_dir=instances.folder).model_dump(by_alias=True)
    FORGERIES[finding](data)
    with pytest.raises(CheckFailedError) as caught:
        check_plan(Plan.model_validate(data), loaded.workload, profile)
    assert any(finding in line for line in caught.value.details), caught.value.details


def test_energy_counts_the_handing_over_of_batches(instances: Any) -> None:
    """Times at work have it in them, so the checker's bounds do."""
    helpers = __import__("sys").modules[type(instances).__module__]
    loaded = instances.workload(
        {"a": ["s"]}, tiers={"edge": {"devices": {"cpu": FRUGAL}, "energy_price_usd_per_kwh": 0.3}}
    )
    profile = instances.profile({}, {("a", "s"): 0.9}, rows=[helpers.measurement("a", "s", 1, 0.01)])
    handed = HandoffRow(
        "a", "s", "", "edge/cpu", "f", 30, 2e-3, "[2e-3]", 1e-3, "[1e-3]", 1e-4, measured_at="2026-01-01"
    )
    plan = solve(loaded, replace(profile, handoffs=(handed,)), plan_dir=instances.folder)
    (option,) = plan.options.values()
    assert option.predicted.energy_j == pytest.approx(10.0 * 0.012)
