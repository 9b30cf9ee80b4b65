"""Classes that spread over devices: every objective against exhaustive search, with powers worked out by hand."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inferplan.solvers.checker import check_plan
from inferplan.solvers.planner import solve
from inferplan.spec.errors import CheckFailedError, InfeasibleError
from inferplan.spec.plan import Plan

QUIET = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
ACCURACY = {"s": 0.8, "l": 0.95}
OBJECTIVES: list[dict[str, Any]] = [
    {"minimize": "cost"},
    {"minimize": "energy"},
    {"maximize": "accuracy"},
    {"weights": {"cost": 1.0, "energy": 0.5}},
    {"weights": {"cost": 0.3, "energy": 0.2, "accuracy": 4.0}},
    {"lexicographic": ["energy", "cost"]},
    {"lexicographic": ["accuracy", "energy"]},
    {"lexicographic": ["cost", "accuracy", "energy"], "tolerance": 0.2},
]


@st.composite
def cases(draw: st.DrawFn) -> dict[str, Any]:
    """One or two stages of two variants, in two tiers with a device each."""
    stages = ["a", "b"][: draw(st.integers(1, 2))]
    devices = {
        name: {
            "price_usd_per_h": draw(st.sampled_from([0.05, 0.2, 0.7])),
            "count": draw(st.integers(1, 2)),
            "cores": draw(st.integers(1, 2)),
            "billing": draw(st.sampled_from(["whole", "share"])),
            "power_w": draw(st.sampled_from([60.0, 200.0])),
            "idle_power_w": draw(st.sampled_from([5.0, 50.0])),
        }
        for name in ("edge/x", "cloud/z")
    }
    return {
        "stages": stages,
        "devices": devices,
        "times": {
            (s, v, d): {1: (one := draw(st.sampled_from([0.03, 0.08]))), 4: one * draw(st.sampled_from([1.5, 3.0]))}
            for s in stages
            for v in "sl"
            for d in devices
        },
        "electricity": {"edge": draw(st.sampled_from([0.0, 2.0])), "cloud": draw(st.sampled_from([0.0, 0.5]))},
        "rate": draw(st.sampled_from([10.0, 40.0, 90.0])),
        "floor": draw(st.sampled_from([None, 0.7])),
        "budget": draw(st.sampled_from([1.0, 100.0])),
    }


def inputs(instances: Any, case: dict[str, Any], objective: dict[str, Any]) -> tuple[Any, Any]:
    tiers: dict[str, Any] = {
        tier: {"devices": {}, "energy_price_usd_per_kwh": price, "carbon_g_per_kwh": 100.0}
        for tier, price in case["electricity"].items()
        if any(device.startswith(tier) for device in case["devices"])
    }
    links = {"up": {"from": "edge", "to": "cloud"}, "down": {"from": "cloud", "to": "edge"}} if len(tiers) > 1 else {}
    for device, spec in case["devices"].items():
        tier, name = device.split("/")
        tiers[tier]["devices"][name] = spec
    floor = {"accuracy": {"floor": case["floor"]}} if case["floor"] else {}
    budget = {"budget_usd_per_h": case["budget"]}
    loaded = instances.workload(
        {stage: ["s", "l"] for stage in case["stages"]},
        edges=[{"from": a, "to": b, "payload_bytes": 1e3} for a, b in itertools.pairwise(case["stages"])],
        classes={"web": {"rate_rps": case["rate"], "enters_at": "edge", **floor}},
        tiers=tiers,
        links=links,
        pipeline_extra={"request_bytes": 0.0},
        objective={**objective, **budget},
        splitting="devices",
        max_utilisation=1.0,
        **({"robustness": case["robustness"]} if "robustness" in case else {}),
    )
    rows = [
        instances.measurement(stage, variant, batch, mean, device=device)
        for (stage, variant, device), points in case["times"].items()
        for batch, mean in points.items()
    ]
    scored = {(stage, v): value for stage in case["stages"] for v, value in ACCURACY.items()}
    return loaded, instances.profile({}, scored, rows=rows)


def plan_of(instances: Any, case: dict[str, Any], objective: dict[str, Any]) -> Plan:
    loaded, profile = inputs(instances, case, objective)
    plan = solve(loaded, profile, plan_dir=instances.folder, gap=1e-7)
    check_plan(plan, loaded.workload, profile)
    return plan


@dataclass(frozen=True)
class Worth:
    """A plan, weighed by hand."""

    cost: float
    energy: float
    accuracy: float

    def of(self, goal: str) -> float:
        """What is minimised."""
        return {"cost": self.cost, "energy": self.energy, "accuracy": -self.accuracy}[goal]


def every_plan(case: dict[str, Any]) -> Iterator[Worth]:
    """All variants, all numbers of replicas, and all loads that can be optimal.

    What replicas draw is concave in their loads, and so is every objective: of each stage's replicas all but one kind
    get nothing or as much as they can serve.
    """
    devices, stages = case["devices"], case["stages"]
    most = [range(spec["count"] * spec["cores"] + 1) for spec in devices.values()]
    for chosen in itertools.product("sl", repeat=len(stages)):
        accuracy = math.prod(ACCURACY[v] for v in chosen)
        if case["floor"] and accuracy < case["floor"] - 1e-9:
            continue
        for counts in itertools.product(itertools.product(*most), repeat=len(stages)):
            used = [sum(column) for column in zip(*counts, strict=True)]
            machines = [math.ceil(n / spec["cores"]) for n, spec in zip(used, devices.values(), strict=True)]
            if any(m > spec["count"] for m, spec in zip(machines, devices.values(), strict=True)):
                continue
            every = [list(works(case, s, v, own)) for s, v, own in zip(stages, chosen, counts, strict=True)]
            for parts in itertools.product(*every):
                cost = power = 0.0
                for i, (name, spec) in enumerate(devices.items()):
                    paid = machines[i] if spec["billing"] == "whole" else used[i] / spec["cores"]
                    watts = paid * spec["idle_power_w"] + sum(part[i] for part in parts)
                    cost += paid * spec["price_usd_per_h"] + watts / 1000 * case["electricity"][name.split("/")[0]]
                    power += watts
                if cost <= case["budget"] * (1 + 1e-9):
                    yield Worth(cost, power, accuracy)


def works(case: dict[str, Any], stage: str, variant: str, counts: tuple[int, ...]) -> Iterator[tuple[float, ...]]:
    """What a stage's replicas add on every device, for all loads at corners."""
    specs = list(case["devices"].values())
    points = [case["times"][stage, variant, device] for device in case["devices"]]
    serve = [n * max(b / t for b, t in own.items()) for n, own in zip(counts, points, strict=True)]
    for rest, others in itertools.product(range(len(specs)), itertools.product((0.0, 1.0), repeat=len(specs))):
        loads = [serve[i] * others[i] for i in range(len(specs))]
        loads[rest] = case["rate"] - sum(loads) + loads[rest]
        if not -1e-9 <= loads[rest] <= serve[rest] * (1 + 1e-9):
            continue
        yield tuple(
            (spec["power_w"] - spec["idle_power_w"])
            / spec["cores"]
            * min(load * max(t / b for b, t in own.items()), n if load > 1e-9 else 0.0)
            for spec, load, own, n in zip(specs, loads, points, counts, strict=True)
        )


def best(plans: list[Worth], objective: Mapping[str, Any]) -> tuple[list[str], list[float], dict[str, float]]:
    """Goals in their order, what is reached of each (minimised), and the units of weights."""
    if "weights" in objective:
        units = {goal: min(plan.of(goal) for plan in plans) for goal in objective["weights"]}
        total = min(weighed(plan, objective["weights"], units) for plan in plans)
        return ["weighted"], [total], units
    goals = objective.get("lexicographic") or [objective.get("minimize") or objective["maximize"]]
    reached = []
    for goal in goals:
        reached.append(min(plan.of(goal) for plan in plans))
        slack = max(objective.get("tolerance", 0.0), 1e-7) * abs(reached[-1])
        plans = [plan for plan in plans if plan.of(goal) <= reached[-1] + slack]
    return goals, reached, {}


def weighed(plan: Worth, weights: Mapping[str, float], units: Mapping[str, float]) -> float:
    return sum(weight * plan.of(goal) / abs(units[goal]) for goal, weight in weights.items())


@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
@QUIET
@given(case=cases())
def test_the_objective_is_that_of_exhaustive_search(
    module_instances: Any, objective: dict[str, Any], case: dict[str, Any]
) -> None:
    plans = list(every_plan(case))
    if not plans:
        with pytest.raises(InfeasibleError):
            plan_of(module_instances, case, objective)
        return
    goals, reached, units = best(plans, objective)
    # Where a limit cuts into the loads there may be better ones than those at corners.
    free = case["budget"] == 100.0 and not objective.get("tolerance")
    plan = plan_of(module_instances, case, objective)
    assert plan.energy is not None
    accuracy = plan.classes["web"].predicted.accuracy
    assert accuracy is not None
    own = Worth(plan.cost_usd_per_h, plan.energy.power_w, accuracy.value)
    assert plan.proof.status == "optimal"
    if goals == ["weighted"]:
        total = weighed(own, objective["weights"], units)
        assert total <= reached[0] + 2e-6 * max(abs(reached[0]), 1.0)
        assert total == pytest.approx(reached[0], rel=2e-6, abs=2e-6) or not free
        assert not free or {name: term.unit for name, term in plan.terms.items()} == pytest.approx(
            {name: abs(unit) for name, unit in units.items()}, rel=1e-5
        )
        return
    assert own.of(goals[-1]) <= reached[-1] + 1e-5 * abs(reached[-1])
    assert own.of(goals[-1]) == pytest.approx(reached[-1], rel=1e-5) or not free
    for goal, value in zip(goals[:-1], reached, strict=False):
        assert own.of(goal) <= value + (max(objective.get("tolerance", 0.0), 0.0) + 1e-5) * abs(value)


CASE: dict[str, Any] = {
    "stages": ["a"],
    "devices": {
        "edge/x": {"price_usd_per_h": 0.1, "cores": 1, "count": 4, "power_w": 300.0, "idle_power_w": 200.0},
        "cloud/z": {"price_usd_per_h": 0.2, "cores": 1, "count": 4, "power_w": 30.0, "idle_power_w": 10.0},
    },
    "times": {("a", v, d): {1: 0.05, 4: 0.1} for v in "sl" for d in ("edge/x", "cloud/z")},
    "electricity": {"edge": 0.0, "cloud": 0.0},
    "rate": 60.0,
    "floor": None,
    "budget": 100.0,
}


def test_energy_and_cost_choose_different_machines(instances: Any) -> None:
    cheap, thrifty = (plan_of(instances, CASE, {"minimize": goal}) for goal in ("cost", "energy"))
    assert (set(cheap.machines), set(thrifty.machines)) == ({"edge/x"}, {"cloud/z"})
    assert cheap.energy is not None
    assert thrifty.energy is not None
    assert thrifty.proof.objective == pytest.approx(thrifty.energy.power_w)
    # Two machines: each is at work all the time at most, as four calls in a batch of four take as long as two alone.
    assert thrifty.energy.power_w == pytest.approx(2 * 30.0)
    assert thrifty.energy.carbon_g_per_h == pytest.approx(6.0)
    priced = plan_of(instances, {**CASE, "electricity": {"edge": 1.0, "cloud": 1.0}}, {"minimize": "cost"})
    assert set(priced.machines) == {"cloud/z"}
    assert priced.costs is not None
    assert priced.costs.energy_usd_per_h == pytest.approx(0.06)


def test_what_draws_least_is_given_as_much_as_it_serves(instances: Any) -> None:
    """Both devices are needed and stand in one tier: calls go to the thrifty one first, not as there is capacity."""
    devices = {name.replace("cloud", "edge"): {**spec, "count": 1} for name, spec in CASE["devices"].items()}
    times = {("a", v, d): {1: 0.05} for v in "sl" for d in devices}
    case = {**CASE, "devices": devices, "times": times, "rate": 25.0}
    plan = plan_of(instances, case, {"minimize": "energy"})
    loads = {option.device: option.predicted.load_rps for option in plan.options.values()}
    assert loads == pytest.approx({"edge/z": 20.0, "edge/x": 5.0})


def test_energy_counts_where_machines_may_be_lost(instances: Any) -> None:
    """One machine more than the load needs, on which replicas may stand idle: the thrifty ones, and all it draws."""
    plan = plan_of(instances, {**CASE, "robustness": {"spare_machines": 1}}, {"minimize": "energy"})
    assert plan.machines["cloud/z"].count == 3
    assert plan.energy is not None
    # 60 calls/s of 20 ms at work each, whatever batches form, or as long as there are replicas.
    busy = sum(min(o.predicted.load_rps * 0.05, o.replicas) for o in plan.options.values())
    assert plan.energy.power_w == pytest.approx(3 * 10.0 + busy * 20.0)


FORGERIES = {
    "at most": lambda data: [o["predicted"].update(energy_j=1.0) for o in data["options"].values()],
    "the power is": lambda data: data["energy"].update(power_w=1.0),
    "the energy costs": lambda data: data["costs"].update(energy_usd_per_h=0.001),
    "the carbon is": lambda data: data["energy"].update(carbon_g_per_h=1.0),
}


@pytest.mark.parametrize("finding", FORGERIES)
def test_a_forged_bill_is_found_out(finding: str, instances: Any) -> None:
    loaded, profile = inputs(instances, {**CASE, "electricity": {"edge": 1.0, "cloud": 1.0}}, {"minimize": "cost"})
    data = solve(loaded, profile, plan_dir=instances.folder).model_dump(by_alias=True)
    FORGERIES[finding](data)
    with pytest.raises(CheckFailedError) as caught:
        check_plan(Plan.model_validate(data), loaded.workload, profile)
    assert any(finding in line for line in caught.value.details), caught.value.details


def test_binding_and_alternatives_speak_of_the_objective(instances: Any) -> None:
    case = {**CASE, "floor": 0.9, "devices": {**CASE["devices"], "cloud/z": {**CASE["devices"]["cloud/z"], "count": 1}}}
    case["times"] = {(s, v, d): {1: 0.05 if v == "s" else 0.1} for s, v, d in CASE["times"]}
    plan = plan_of(instances, {**case, "rate": 25.0}, {"minimize": "energy"})
    assert {entry.constraint for entry in plan.binding} == {
        "classes.web.accuracy.floor",
        "tiers.cloud.devices.z.count",
    }
    assert any("acc 0.8 of class web is below 0.9" in entry.reason for entry in plan.alternatives)
