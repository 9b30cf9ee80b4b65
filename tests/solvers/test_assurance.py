"""What a plan withstands: bounds, load levels, lost machines, headroom, availability; and what that costs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferplan.solvers.assurance import assured_columns, at_level, at_most_gone, cases
from inferplan.solvers.checker import check_plan
from inferplan.solvers.columns import build_columns
from inferplan.solvers.milp import Solver, promises
from inferplan.solvers.planner import solve
from inferplan.solvers.problem import read_problem
from inferplan.solvers.program import COST
from inferplan.spec.errors import CheckFailedError, InfeasibleError
from inferplan.spec.plan import Plan

TIMES = {("a", "s"): {1: 0.02, 4: 0.05}, ("a", "l"): {1: 0.05, 4: 0.15}}
ACCURACIES = {("a", "s"): 0.9, ("a", "l"): 0.95}
DEVICES = {"cpu": {"price_usd_per_h": 0.1, "cores": 2}}
WEB = {"web": {"rate_rps": 90.0, "slo": {"latency_s": 0.5}, "accuracy": {"floor": 0.85}}}


def inputs(instances: Any, robustness: dict[str, Any], **changes: Any) -> tuple[Any, Any]:
    helpers = __import__("sys").modules[type(instances).__module__]
    loaded = instances.workload(
        {"a": ["s", "l"]},
        classes=changes.pop("classes", WEB),
        devices=changes.pop("devices", DEVICES),
        robustness=robustness,
        **changes,
    )
    rows = [
        helpers.measurement(stage, variant, batch, mean, mean_upper_s=1.2 * mean, load_s=9.0)
        for (stage, variant), points in TIMES.items()
        for batch, mean in points.items()
    ]
    return loaded, instances.profile({}, ACCURACIES, rows=rows)


def plan_of(instances: Any, robustness: dict[str, Any], **changes: Any) -> Plan:
    loaded, profile = inputs(instances, robustness, **changes)
    plan = solve(loaded, profile, plan_dir=instances.folder)
    check_plan(plan, loaded.workload, profile)
    return plan


def replicas(plan: Plan) -> int:
    return sum(option.replicas for option in plan.options.values())


def test_a_plain_plan_states_no_assurance(instances: Any) -> None:
    assert plan_of(instances, {}).assurance is None


def test_load_levels_are_kept_by_one_plan(instances: Any) -> None:
    plain, plan = plan_of(instances, {}), plan_of(instances, {"load_levels": [0.5, 2.0]})
    assured = plan.assurance
    assert assured is not None
    assert assured.load_levels == [0.5, 2.0]
    assert [case.rate_scale for case in assured.cases] == [0.5, 2.0]
    assert {case.verdict for case in assured.cases} == {"met"}
    assert assured.plain_cost_usd_per_h == pytest.approx(plain.cost_usd_per_h)
    assert assured.extra_usd_per_h == pytest.approx(plan.cost_usd_per_h - plain.cost_usd_per_h)
    assert assured.extra_usd_per_h > 0
    assert plan.classes["web"].rate_rps == 90.0
    option = next(iter(plan.options.values()))
    assert option.predicted.load_rps == pytest.approx(90.0)
    assert option.predicted.capacity_rps is not None
    assert option.predicted.capacity_rps > 180.0


def test_it_costs_what_a_plan_for_the_highest_level_costs(instances: Any) -> None:
    double = {"web": {**WEB["web"], "rate_rps": 180.0}}
    plan = plan_of(instances, {"load_levels": [2.0]})
    assert plan.cost_usd_per_h == pytest.approx(plan_of(instances, {}, classes=double).cost_usd_per_h)


def test_any_machine_may_be_lost(instances: Any) -> None:
    plan = plan_of(instances, {"spare_machines": 1})
    assured = plan.assurance
    assert assured is not None
    assert assured.spare_machines == {"edge/cpu": 1}
    assert assured.cases
    assert all(case.lost == {"edge/cpu": 1} and case.verdict == "met" for case in assured.cases)
    bought = plan.machines["edge/cpu"]
    assert bought.count >= 2
    for name, option in plan.options.items():
        held = [sum(p.replicas for p in machine if p.option == name) for machine in bought.packing]
        assert option.predicted.capacity_rps is not None
        left = option.predicted.capacity_rps * (option.replicas - max(held)) / option.replicas
        assert left > option.predicted.load_rps


def test_more_spares_never_cost_less(instances: Any) -> None:
    costs = [plan_of(instances, {"spare_machines": spares}).cost_usd_per_h for spares in (0, 1, 2)]
    assert costs == sorted(costs)
    assert costs[0] < costs[2]


def test_spreading_is_cheaper_than_doubling(instances: Any) -> None:
    """Machines of two, three replicas needed: a fourth machine's worth is too much, one more replica each is not."""
    classes = {"web": {"rate_rps": 220.0, "slo": {"latency_s": 1.0}, "accuracy": {"floor": 0.85}}}
    plain = plan_of(instances, {}, classes=classes)
    plan = plan_of(instances, {"spare_machines": 1}, classes=classes)
    assert plan.machines["edge/cpu"].count == plain.machines["edge/cpu"].count + 1


def test_headroom_leaves_capacity(instances: Any) -> None:
    plan = plan_of(instances, {"headroom": 0.6})
    assert plan.assurance is not None
    for option in plan.options.values():
        assert option.predicted.capacity_rps is not None
        assert option.predicted.load_rps <= 0.4 * option.predicted.capacity_rps * (1 + 1e-6)
    assert replicas(plan) > replicas(plan_of(instances, {}))


def test_confidence_plans_on_bounds(instances: Any) -> None:
    """Means may be 20 % larger at 97.5 %; accuracies 0.01 worse."""
    plan = plan_of(instances, {"confidence": 0.975})
    option = next(iter(plan.options.values()))
    assert (option.variant, option.max_batch) in {("s", 1), ("s", 4)}
    mean = TIMES["a", "s"][option.max_batch]
    assert option.predicted.capacity_rps == pytest.approx(option.replicas * option.max_batch / (1.2 * mean), rel=1e-5)
    predicted = plan.classes["web"].predicted.accuracy
    assert predicted is not None
    assert predicted.value == pytest.approx(0.9)
    tight = {"web": {**WEB["web"], "accuracy": {"floor": 0.895}}}
    assert {o.variant for o in plan_of(instances, {}, classes=tight).options.values()} == {"s"}
    bound = plan_of(instances, {"confidence": 0.975}, classes=tight)
    assert {o.variant for o in bound.options.values()} == {"l"}
    assert {o.variant for o in plan_of(instances, {"confidence": 0.6}, classes=tight).options.values()} == {"s"}


def test_what_has_no_interval_is_named(instances: Any) -> None:
    loaded, profile = inputs(instances, {"confidence": 0.9})
    rows = tuple(
        replace(row, service=replace(row.service, mean_upper_s=None)) if row.key.batch == 4 else row
        for row in profile.measurements
    )
    plan = solve(loaded, replace(profile, measurements=rows), plan_dir=instances.folder)
    assert plan.assurance is not None
    batches = {option.max_batch for option in plan.options.values()}
    assert bool(plan.assurance.without_bounds) == (4 in batches)


def test_availability_buys_the_spares_that_interruptions_need(instances: Any) -> None:
    spot = {"cpu": {**DEVICES["cpu"], "purchase": "spot", "interruptions_per_h": 0.5, "start_s": 171.0}}
    plan = plan_of(instances, {"availability": 0.999}, devices=spot)
    bought = plan.machines["edge/cpu"]
    assert bought.lost_share == pytest.approx(90 / 3690)
    assert plan.assurance is not None
    spares = plan.assurance.spare_machines["edge/cpu"]
    assert spares >= 1
    assert at_most_gone(bought.count, 90 / 3690, spares) >= 0.999
    assert at_most_gone(bought.count, 90 / 3690, spares - 1) < 0.999


def test_all_together_with_two_classes(instances: Any) -> None:
    classes = {**WEB, "bulk": {"rate_rps": 20.0, "slo": {"percentile": 90.0, "latency_s": 2.0}}}
    asked = {"confidence": 0.9, "load_levels": [1.5], "spare_machines": 1, "headroom": 0.1}
    plan = plan_of(instances, asked, classes=classes)
    assert plan.certificate is not None
    assert plan.certificate.verdict == "met"
    assert plan.assurance is not None
    assert len(plan.assurance.cases) >= 2


def test_too_few_machines_for_spares_is_infeasible(instances: Any) -> None:
    devices = {"cpu": {**DEVICES["cpu"], "count": 1}}
    plan_of(instances, {}, devices=devices)
    with pytest.raises(InfeasibleError):
        plan_of(instances, {"spare_machines": 1}, devices=devices)


FORGERIES = {
    "withstands something else": lambda data: data["assurance"].update(headroom=0.5),
    "was not judged": lambda data: data["assurance"].update(cases=[]),
    "the assurance costs": lambda data: data["assurance"].update(extra_usd_per_h=0.0),
    "spare machines, 1 are asked for": lambda data: data["assurance"].update(spare_machines={}),
    "or the other way round": lambda data: data.update(assurance=None),
    "though a case is missed": lambda data: data["assurance"]["cases"][0].update(verdict="missed"),
}


@pytest.mark.parametrize("finding", FORGERIES)
def test_forged_assurance_is_found_out(finding: str, instances: Any) -> None:
    loaded, profile = inputs(instances, {"spare_machines": 1, "load_levels": [1.2]})
    data = solve(loaded, profile, plan_dir=instances.folder).model_dump(by_alias=True)
    FORGERIES[finding](data)
    with pytest.raises(CheckFailedError) as caught:
        check_plan(Plan.model_validate(data), loaded.workload, profile)
    assert any(finding in line for line in caught.value.details), caught.value.details


def test_a_crowded_machine_is_found_out(instances: Any) -> None:
    """All replicas on one machine: its loss would leave nothing."""
    loaded, profile = inputs(instances, {"spare_machines": 1})
    data = solve(loaded, profile, plan_dir=instances.folder).model_dump(by_alias=True)
    bought = data["machines"]["edge/cpu"]
    (name,) = data["options"]
    bought["packing"] = [
        [{"option": name, "replicas": data["options"][name]["replicas"]}],
        *[[]] * (bought["count"] - 1),
    ]
    with pytest.raises(CheckFailedError) as caught:
        check_plan(Plan.model_validate(data), loaded.workload, profile)
    assert any("too few" in line for line in caught.value.details), caught.value.details


@given(st.integers(1, 6), st.floats(0.0, 0.5), st.integers(0, 6))
def test_the_chance_that_few_are_gone(machines: int, gone: float, most: int) -> None:
    every = [at_most_gone(machines, gone, k) for k in range(machines + 1)]
    assert every == sorted(every)
    assert every[-1] == pytest.approx(1.0)
    assert at_most_gone(machines, gone, 0) == pytest.approx((1 - gone) ** machines)
    assert at_most_gone(machines, gone, most) == every[min(most, machines)]


def test_levels_that_say_nothing_change_no_column(instances: Any) -> None:
    """Fewer than all machines, less than full load: the columns of the plain problem with the same latencies."""
    loaded, profile = inputs(instances, {})
    plain = read_problem(loaded.workload, profile)
    assured = replace(plain, assurance=replace(plain.assurance, levels=(0.99, 1.0)))
    wide = {(c.option.name, c.replicas): c.single_s for c in assured_columns(assured)}
    for column in build_columns(plain):
        assert wide[column.option.name, column.replicas] == pytest.approx(column.single_s)


def test_scaled_problems_scale_rates_alone(instances: Any) -> None:
    loaded, profile = inputs(instances, {})
    problem = read_problem(loaded.workload, profile)
    double = at_level(problem, 2.0)
    assert double.classes[0].rate_rps == 180.0
    assert double.workload.classes["web"].rate_rps == 180.0
    assert double.workload.root == problem.workload.root
    assert problem.classes[0].rate_rps == 90.0
    assert at_level(problem, 1.0) is problem


def test_cases_are_every_level_and_every_kind_of_loss(instances: Any) -> None:
    loaded, profile = inputs(instances, {"spare_machines": 1, "load_levels": [1.5, 0.5]})
    problem = read_problem(loaded.workload, profile)
    solver = Solver(problem, assured_columns(problem))
    found = solver.ask(replace(promises(problem), goals=(COST,)), 60.0, 0.0)
    assert found is not None
    listed = cases(problem, found)
    assert [case.level for case in listed if not case.lost] == [0.5, 1.5]
    contents = {tuple(sorted(machine.items())) for machine in found.packings["edge/cpu"].machines}
    lost = [case for case in listed if case.lost]
    assert len(lost) == len(contents)
    for case in lost:
        assert case.level == 1.5
        assert case.solution is not None
        before = sum(column.replicas for column in found.columns)
        after = sum(column.replicas for column in case.solution.columns)
        assert 0 < after < before
