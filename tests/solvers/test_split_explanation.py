"""Plans of classes that spread, explained: steps and rivals are those of deciding again, and of enumeration."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inferplan.solvers.explanation import Explanation, explain
from inferplan.solvers.planner import solve
from inferplan.solvers.steps import Step
from inferplan.spec.document import load_workload
from inferplan.spec.errors import InfeasibleError
from inferplan.spec.plan import Plan

QUIET = settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
ACCURACY = {"s": 0.7, "m": 0.8, "l": 0.9}
FLOOR = "classes.web.accuracy.floor"
SPEEDS = {"s": 20.0, "m": 12.0, "l": 7.0}


@st.composite
def cases(draw: st.DrawFn) -> dict[str, Any]:
    """One stage of three variants on two devices; a replica has a machine to itself."""
    return {
        "rate": draw(st.sampled_from([6.0, 18.0, 41.0])),
        "floor": draw(st.sampled_from([0.65, 0.75, 0.85])),
        "devices": {
            name: {
                "price_usd_per_h": draw(st.sampled_from([0.1, 0.25, 0.4])),
                "count": draw(st.integers(1, 4)),
                "cores": 1,
                "power_w": draw(st.sampled_from([50.0, 90.0])),
            }
            for name in ("x", "y")
        },
        "faster": draw(st.sampled_from([1.0, 1.7])),
        "objective": draw(st.sampled_from([{"minimize": "cost"}, {"minimize": "energy"}])),
    }


def inputs(instances: Any, case: dict[str, Any], overrides: tuple[str, ...] = ()) -> tuple[Any, Any]:
    loaded = instances.workload(
        {"a": ["s", "m", "l"]},
        classes={"web": {"rate_rps": case["rate"], "accuracy": {"floor": case["floor"]}}},
        devices=case["devices"],
        objective=case["objective"],
        splitting="devices",
        max_utilisation=1.0,
    )
    rows = [
        instances.measurement("a", v, 1, 1 / (speed * faster), device=f"edge/{d}")
        for v, speed in SPEEDS.items()
        for d, faster in (("x", 1.0), ("y", case["faster"]))
    ]
    profile = instances.profile({}, {("a", v): value for v, value in ACCURACY.items()}, rows=rows)
    return (load_workload(loaded.path, list(overrides)) if overrides else loaded), profile


def solved(instances: Any, case: dict[str, Any], *overrides: str) -> Plan | None:
    loaded, profile = inputs(instances, case, overrides)
    try:
        return solve(loaded, profile, plan_dir=instances.folder)
    except InfeasibleError:
        return None


def explained(instances: Any, case: dict[str, Any], plan: Plan) -> Explanation:
    loaded, profile = inputs(instances, case)
    found = explain(plan, loaded, profile, time_limit_s=300.0)
    assert found.left_out == ()
    assert found.differs == ""
    return found


def step(found: Explanation, promise: str, way: str) -> Step | None:
    steps = [one for one in found.steps if one.promise == promise and one.way == way]
    assert len(steps) <= 1
    return steps[0] if steps else None


def worth(plan: Plan, case: dict[str, Any]) -> float:
    if case["objective"] == {"minimize": "cost"}:
        return plan.cost_usd_per_h
    assert plan.energy is not None
    return plan.energy.power_w


@QUIET
@given(case=cases())
def test_steps_are_what_deciding_again_gives(module_instances: Any, case: dict[str, Any]) -> None:
    plan = solved(module_instances, case)
    if plan is None:
        return
    found, own = explained(module_instances, case, plan), worth(plan, case)
    reached = plan.classes["web"].predicted.accuracy
    assert reached is not None
    looser, same, tighter = (step(found, FLOOR, way) for way in ("looser", "as it is", "tighter"))
    free = solved(module_instances, case, f"{FLOOR}=0")
    assert free is not None
    assert (looser is None) == (worth(free, case) > own * (1 - 1e-6))
    if looser is not None:
        at = solved(module_instances, case, f"{FLOOR}={looser.value}")
        above = solved(module_instances, case, f"{FLOOR}={looser.value + 1e-4}")
        assert at is not None
        assert above is not None
        assert at.cost_usd_per_h == pytest.approx(looser.cost_usd_per_h, rel=1e-5)
        assert worth(at, case) < own * (1 - 1e-6)
        assert worth(above, case) == pytest.approx(own, rel=1e-5)
    kept = case["floor"] if same is None else same.value
    assert kept >= reached.value - 1e-9
    beyond = solved(module_instances, case, f"{FLOOR}={kept + 1e-4}")
    assert (tighter is None) == (beyond is None)
    if tighter is not None and beyond is not None:
        assert beyond.cost_usd_per_h == pytest.approx(tighter.cost_usd_per_h, rel=1e-5)
    for device, bought in plan.machines.items():
        count = f"tiers.edge.devices.{device.split('/')[1]}.count"
        fewer = step(found, count, "tighter")
        without = solved(module_instances, case, f"{count}={bought.count - 1}") if bought.count > 1 else fewer
        assert (fewer is None) == (without is None)
        if fewer is not None and isinstance(without, Plan):
            assert without.cost_usd_per_h == pytest.approx(fewer.cost_usd_per_h, rel=1e-5)
    for name in case["devices"]:
        count = f"tiers.edge.devices.{name}.count"
        more = step(found, count, "looser")
        plenty = solved(module_instances, case, f"{count}=99")
        assert plenty is not None
        assert (more is None) == (worth(plenty, case) > own * (1 - 1e-6))
    carried, beyond_it = step(found, "classes.*.rate_rps", "as it is"), step(found, "classes.*.rate_rps", "tighter")
    assert carried is not None
    room = sum(o.predicted.capacity_rps or 0.0 for o in plan.options.values())
    assert case["objective"] == {"minimize": "energy"} or carried.value == pytest.approx(room / case["rate"], rel=2e-3)
    more_load = solved(module_instances, case, f"classes.web.rate_rps={case['rate'] * carried.value * 1.002}")
    assert (beyond_it is None) == (more_load is None)
    if beyond_it is not None and more_load is not None:
        assert more_load.cost_usd_per_h == pytest.approx(beyond_it.cost_usd_per_h, rel=1e-5)


def cheapest(case: dict[str, Any], variants: str, most: tuple[int, int]) -> float:
    """The least cost of replicas of one of the variants, so many on every device at most."""
    best = math.inf
    prices = [device["price_usd_per_h"] for device in case["devices"].values()]
    for variant, *counts in itertools.product(variants, *(range(n + 1) for n in most)):
        served = SPEEDS[variant] * (counts[0] + case["faster"] * counts[1])
        if served >= case["rate"] - 1e-9:
            best = min(best, sum(n * price for n, price in zip(counts, prices, strict=True)))
    return best


@QUIET
@given(case=cases())
def test_rivals_are_those_of_enumeration(module_instances: Any, case: dict[str, Any]) -> None:
    case = {**case, "objective": {"minimize": "cost"}}
    plan = solved(module_instances, case)
    if plan is None:
        return
    found = explained(module_instances, case, plan)
    (variant,) = {option.variant for option in plan.options.values()}
    counts = tuple(device["count"] for device in case["devices"].values())
    good = [v for v in ACCURACY if ACCURACY[v] >= case["floor"]]
    asked = {(rival.aspect, rival.other) for rival in found.rivals}
    assert {("variant", v) for v in ACCURACY if v != variant} <= asked
    used = {device.split("/")[1] for device in plan.machines}
    assert {("device", f"none on edge/{d}") for d in used} <= asked
    for rival in found.rivals:
        if rival.aspect == "variant":
            which, who = [True, True], rival.other
        elif rival.aspect == "device":
            which = [rival.other == f"all on edge/{d}" or rival.other == f"none on edge/{o}" for d, o in ("xy", "yx")]
            who = variant
        else:
            continue
        allowed = [(n if may else 0, 12 if may else 0) for n, may in zip(counts, which, strict=True)]
        least, unlimited = (cheapest(case, who, tuple(most)) for most in zip(*allowed, strict=True))
        if math.isfinite(least) and who in good:
            assert rival.keeps
            assert rival.cost_usd_per_h == pytest.approx(least, rel=1e-5)
            assert rival.extra_usd_per_h == pytest.approx(least - plan.cost_usd_per_h, abs=1e-6)
        else:
            assert not rival.keeps
            assert rival.cost_usd_per_h == pytest.approx(least if least < math.inf else unlimited, rel=1e-5)
            assert ("below" in rival.reason) == (who not in good)
            assert ("takes" in rival.reason) == math.isinf(least)


def test_what_a_plan_has_to_keep_and_another_plan(instances: Any) -> None:
    device = {"count": 4, "cores": 1, "power_w": 50.0}
    case = {
        "rate": 18.0,
        "floor": 0.75,
        "faster": 1.0,
        "objective": {"minimize": "cost"},
        "devices": {"x": {**device, "price_usd_per_h": 0.1}, "y": {**device, "price_usd_per_h": 0.25}},
    }
    plan = solved(instances, case)
    assert plan is not None
    found = explained(instances, case, plan)
    assert {slack.constraint: (slack.value, slack.binds) for slack in found.slacks} == {
        FLOOR: (pytest.approx(0.8), True),
        "tiers.edge.devices.x.count": (2.0, False),
        "tiers.edge.devices.y.count": (0.0, False),
    }
    loaded, profile = inputs(instances, case)
    other = solved(instances, {**case, "rate": 40.0})
    assert other is not None
    assert "deciding again gives 0.2 USD/h" in explain(other, loaded, profile).differs
    late = explain(plan, loaded, profile, time_limit_s=1e-3)
    assert any("out of time" in line for line in late.left_out)
