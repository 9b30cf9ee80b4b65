"""What plans of classes that split, or have jobs, withstand: against enumeration, and case by case."""

from __future__ import annotations

import itertools
import math
from statistics import NormalDist
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inferplan.solvers.checker import check_plan
from inferplan.solvers.planner import solve
from inferplan.spec.errors import CheckFailedError, InfeasibleError
from inferplan.spec.plan import Plan

ONE_CORE = {"cpu": {"price_usd_per_h": 0.1, "cores": 1}}
TIMES = {"s": {1: 0.01, 2: 0.018, 4: 0.03}, "l": {1: 0.05, 2: 0.09, 4: 0.17}}
ACCURACY = {"s": 0.8, "l": 0.95}
WIDTH = 0.01
UPPER = 1.2
"""Upper ends of the 95 % intervals of times, relative."""


def web(rate: float, floor: float, latency: float | None = None) -> dict[str, Any]:
    slo = {} if latency is None else {"slo": {"latency_s": latency}}
    return {"web": {"rate_rps": rate, "accuracy": {"floor": floor}, **slo}}


def jobs(requests: int, rate: float, mean: float, deadline: float) -> dict[str, Any]:
    job = {"requests": requests, "deadline_s": deadline, "mean_accuracy": mean}
    return {"album": {"kind": "jobs", "rate_rps": rate, "job": job}}


def inputs(instances: Any, classes: dict[str, Any], robustness: dict[str, Any], **changes: Any) -> tuple[Any, Any]:
    splitting = not any("job" in traffic for traffic in classes.values())
    loaded = instances.workload(
        {"a": ["s", "l"]}, classes=classes, splitting=splitting, robustness=robustness,
        **{"devices": ONE_CORE, **changes},
    )  # fmt: skip
    rows = [
        instances.measurement("a", variant, batch, mean, mean_upper_s=UPPER * mean)
        for variant, points in TIMES.items()
        for batch, mean in points.items()
    ]
    return loaded, instances.profile({}, {("a", v): value for v, value in ACCURACY.items()}, rows=rows)


def plan_of(instances: Any, classes: dict[str, Any], robustness: dict[str, Any], **changes: Any) -> Plan:
    loaded, profile = inputs(instances, classes, robustness, **changes)
    plan = solve(loaded, profile, plan_dir=instances.folder)
    check_plan(plan, loaded.workload, profile)
    return plan


def scaled(confidence: float) -> float:
    """Of half a 95 % interval, what the one-sided bound at a confidence takes."""
    return NormalDist().inv_cdf(confidence) / NormalDist().inv_cdf(0.975)


def fewest(rate: float, floor: float, weights: list[float], robustness: dict[str, Any]) -> float:
    """Fewest replicas, one a machine, over shares and pairs of variants, without latency limits."""
    level = max([1.0, *robustness.get("load_levels", [])])
    headroom, spares = robustness.get("headroom", 0.0), robustness.get("spare_machines", 0)
    times, accuracy = TIMES, ACCURACY
    if "confidence" in robustness:
        k = scaled(robustness["confidence"])
        times = {v: {b: s * (1 + (UPPER - 1) * k) for b, s in points.items()} for v, points in TIMES.items()}
        accuracy = {v: value - WIDTH * k for v, value in ACCURACY.items()}
    best = math.inf
    for (one, other), w in itertools.product(itertools.product("sl", repeat=2), weights):
        if w * accuracy[one] + (1 - w) * accuracy[other] < floor - 1e-9:
            continue
        loads: dict[str, float] = {}
        for name, share in ((one, w), (other, 1 - w)):
            loads[name] = loads.get(name, 0.0) + share * rate
        needed = 0
        for name, load in loads.items():
            if load > 1e-9:
                most = max(batch / seconds for batch, seconds in times[name].items()) / level
                # What is left carries the load; the headroom is that of all replicas.
                left = math.ceil(load / (0.98 * most) - 1e-9)
                needed += max(left + spares, math.ceil(load / ((1 - headroom) * most) - 1e-9))
        best = min(best, needed)
    return best


ASKED = [
    {"load_levels": [1.5]},
    {"headroom": 0.3},
    {"spare_machines": 1},
    {"confidence": 0.95},
    {"load_levels": [1.3], "headroom": 0.1, "spare_machines": 1, "confidence": 0.9},
]


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    robustness=st.sampled_from(ASKED),
    rate=st.sampled_from([15.0, 40.0, 90.0]),
    floor=st.sampled_from([0.79, 0.83, 0.87, 0.92]),
    as_jobs=st.booleans(),
)
def test_without_latency_the_cost_is_that_of_enumeration(
    module_instances: Any, robustness: dict[str, Any], rate: float, floor: float, as_jobs: bool
) -> None:
    classes = jobs(8, rate, floor, 3600.0) if as_jobs else web(rate, floor)
    plan = plan_of(module_instances, classes, robustness)
    weights = [few / (8 if as_jobs else 640) for few in range(9 if as_jobs else 641)]
    best = fewest(rate, floor, weights, robustness)
    assert plan.cost_usd_per_h == pytest.approx(0.1 * best)
    assert plan.assurance is not None
    assert plan.assurance.plain_cost_usd_per_h == pytest.approx(0.1 * fewest(rate, floor, weights, {}))


@pytest.mark.parametrize("robustness", [{"load_levels": [1.4]}, {"spare_machines": 1}, {"headroom": 0.35}])
@pytest.mark.parametrize("classes", [web(60.0, 0.84, 0.5), jobs(6, 30.0, 0.87, 0.6)])
def test_every_case_is_certified_and_the_assurance_priced(
    instances: Any, classes: dict[str, Any], robustness: dict[str, Any]
) -> None:
    plan = plan_of(instances, classes, robustness)
    assert plan.certificate is not None
    assert plan.certificate.verdict == "met"
    assert plan.assurance is not None
    assert plan.assurance.extra_usd_per_h is not None
    assert plan.assurance.extra_usd_per_h >= -1e-9
    for case in plan.assurance.cases:
        assert case.verdict == "met"
        for claim in case.classes.values():
            assert claim.latency_s.upper is not None
            assert claim.latency_s.upper <= claim.limit_s
    if "headroom" not in robustness:
        assert plan.assurance.cases


def test_the_mean_keeps_its_floor_on_bounds(instances: Any) -> None:
    """At a confidence of 0.95 every accuracy counts 0.0084 less, so more requests go the accurate way."""
    plain, sure = (plan_of(instances, web(40.0, 0.87), asked) for asked in ({}, {"confidence": 0.95}))
    means = []
    for plan in (plain, sure):
        accuracy = plan.classes["web"].predicted.accuracy
        assert accuracy is not None
        means.append(accuracy.value)
    assert means[0] >= 0.87 - 1e-9
    assert means[1] >= 0.87 + WIDTH * scaled(0.95) - 1e-9


def test_more_asked_never_costs_less(instances: Any) -> None:
    for asked in (
        [{"load_levels": [level]} for level in (1.0, 1.5, 3.0)],
        [{"headroom": headroom} for headroom in (0.0, 0.3, 0.7)],
    ):
        costs = [plan_of(instances, web(50.0, 0.86, 0.5), robustness).cost_usd_per_h for robustness in asked]
        assert costs == sorted(costs)
        assert costs[0] < costs[-1]


def test_what_cannot_be_withstood_is_infeasible_with_what_would_help(instances: Any) -> None:
    devices = {"cpu": {"price_usd_per_h": 0.1, "cores": 1, "count": 3}}
    with pytest.raises(InfeasibleError) as error:
        plan_of(instances, web(60.0, 0.84, 0.6), {"spare_machines": 1}, devices=devices)
    assert any("count (3): at least" in line for line in error.value.details)


def test_the_checker_finds_a_floor_kept_by_values_alone(instances: Any) -> None:
    plan = plan_of(instances, web(40.0, 0.87), {})
    mean = plan.classes["web"].predicted.accuracy
    assert mean is not None
    loaded, profile = inputs(instances, web(40.0, mean.value - 1e-3), {"confidence": 0.99})
    with pytest.raises(CheckFailedError) as error:
        check_plan(plan, loaded.workload, profile)
    assert any("does not keep its floor" in line for line in error.value.details)
