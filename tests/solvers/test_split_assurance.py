"""Classes that spread over devices: load levels, headroom, bounds; machines paid by share, and interrupted ones."""

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

TIMES = {"edge/x": {1: 0.04, 4: 0.1}, "edge/y": {1: 0.02, 4: 0.06}}
PRICES = {"edge/x": 0.1, "edge/y": 0.25}
UPPER = 1.2
LOAD_S = 30.0
WEB = {"web": {"rate_rps": 100.0}}
ASKED: list[dict[str, Any]] = [
    {},
    {"load_levels": [1.5, 0.5]},
    {"headroom": 0.3},
    {"confidence": 0.95},
    {"load_levels": [1.3], "headroom": 0.2, "confidence": 0.9},
]


def inputs(instances: Any, robustness: dict[str, Any], rate: float = 100.0, **spec: Any) -> tuple[Any, Any]:
    """One stage on two devices of four cores each. `spec`: fields of both devices."""
    devices = {d.split("/")[1]: {"price_usd_per_h": p, "cores": 4, "count": 8, **spec} for d, p in PRICES.items()}
    loaded = instances.workload(
        {"a": ["s"]}, classes={"web": {"rate_rps": rate}}, devices=devices, splitting="devices", robustness=robustness
    )
    rows = [
        instances.measurement("a", "s", batch, mean, device=device, mean_upper_s=UPPER * mean, load_s=LOAD_S)
        for device, points in TIMES.items()
        for batch, mean in points.items()
    ]
    return loaded, instances.profile({}, {("a", "s"): 0.9}, rows=rows)


def plan_of(instances: Any, robustness: dict[str, Any], rate: float = 100.0, **spec: Any) -> Plan:
    loaded, profile = inputs(instances, robustness, rate, **spec)
    plan = solve(loaded, profile, plan_dir=instances.folder)
    check_plan(plan, loaded.workload, profile)
    return plan


def cheapest(rate: float, robustness: dict[str, Any], billing: str, gone: float, start: float) -> float:
    """Of all numbers of replicas on the two devices."""
    level = max([1.0, *robustness.get("load_levels", [])])
    used = min(0.98, 1 - robustness.get("headroom", 0.0)) / level
    # A bound at a confidence of a half is the estimate.
    k = NormalDist().inv_cdf(robustness.get("confidence", 0.5)) / NormalDist().inv_cdf(0.975)
    slower = 1 + (UPPER - 1) * k
    each = [max(batch / seconds for batch, seconds in points.items()) / slower * used for points in TIMES.values()]
    best = math.inf
    for counts in itertools.product(range(24), repeat=2):
        if sum(n * serves for n, serves in zip(counts, each, strict=True)) < rate - 1e-9:
            continue
        cost = 0.0
        for n, price in zip(counts, PRICES.values(), strict=True):
            machines = n / 4 if billing == "share" else -(-n // 4)
            cost += price * (machines * (1 + gone * start / 3600) + n / 4 * gone * LOAD_S / 3600)
        best = min(best, cost)
    return best


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    rate=st.sampled_from([20.0, 75.0, 180.0, 333.0]),
    robustness=st.sampled_from(ASKED),
    billing=st.sampled_from(["whole", "share"]),
    gone=st.sampled_from([0.0, 6.0]),
)
def test_the_cost_is_that_of_enumeration(
    module_instances: Any, rate: float, robustness: dict[str, Any], billing: str, gone: float
) -> None:
    plan = plan_of(module_instances, robustness, rate, billing=billing, interruptions_per_h=gone, start_s=60.0)
    assert plan.cost_usd_per_h == pytest.approx(cheapest(rate, robustness, billing, gone, 60.0), rel=1e-6)
    assert plan.proof.status == "optimal"
    assert (plan.assurance is None) == (not robustness)
    if plan.assurance is not None:
        plain = cheapest(rate, {}, billing, gone, 60.0)
        assert plan.assurance.plain_cost_usd_per_h == pytest.approx(plain, rel=1e-6)
    if gone:
        assert plan.costs is not None
        assert plan.costs.restarts_usd_per_h > 0


def test_every_level_is_stated_and_no_queue_gets_more(instances: Any) -> None:
    plan = plan_of(instances, {"load_levels": [1.5, 0.5], "headroom": 0.3})
    assert plan.assurance is not None
    assert [(case.rate_scale, case.verdict) for case in plan.assurance.cases] == [(0.5, "met"), (1.5, "met")]
    for option in plan.options.values():
        assert option.predicted.capacity_rps is not None
        assert 1.5 * option.predicted.load_rps <= 0.7 * option.predicted.capacity_rps * (1 + 1e-6)


def test_a_link_carries_the_highest_level(instances: Any) -> None:
    """100 requests/s of 1 MB; the cloud is cheap, the link takes 90 MB/s, which at 1.5 times the load is 60 of 100."""
    for splitting in ("devices", False):
        tiers = {
            "edge": {"devices": {"x": {"price_usd_per_h": 1.0, "cores": 1}}},
            "cloud": {"devices": {"y": {"price_usd_per_h": 0.1, "cores": 1}}},
        }
        link = {"from": "edge", "to": "cloud", "bandwidth_bytes_per_s": 9e7}
        loaded = instances.workload(
            {"a": ["s"]}, classes={"web": {"rate_rps": 100.0, "enters_at": "edge"}}, tiers=tiers, splitting=splitting,
            links={"up": link}, pipeline_extra={"request_bytes": 1e6}, robustness={"load_levels": [1.5]},
        )  # fmt: skip
        rows = [instances.measurement("a", "s", 1, 0.02, device=device) for device in ("edge/x", "cloud/y")]
        profile = instances.profile({}, {("a", "s"): 0.9}, rows=rows)
        plan = solve(loaded, profile, plan_dir=instances.folder)
        check_plan(plan, loaded.workload, profile)
        assert plan.traffic is not None
        carried = plan.traffic.links["up"].bytes_per_s if "up" in plan.traffic.links else 0.0
        assert carried <= 6e7 * (1 + 1e-6)
        used = {option.device for option in plan.options.values()}
        assert used == ({"edge/x", "cloud/y"} if splitting else {"edge/x"})


def test_what_cannot_be_withstood_is_infeasible_with_what_would_help(instances: Any) -> None:
    assert plan_of(instances, {}, 2000.0).certificate is not None
    with pytest.raises(InfeasibleError) as error:
        plan_of(instances, {"load_levels": [3.0]}, 2000.0)
    assert any("count (8): at least" in line for line in error.value.details)


def test_the_checker_finds_a_headroom_that_is_not_there(instances: Any) -> None:
    loaded, profile = inputs(instances, {"headroom": 0.3})
    plan = solve(loaded, profile, plan_dir=instances.folder)
    name, option = next(iter(plan.options.items()))
    more = option.predicted.model_copy(update={"load_rps": 0.9 * (option.predicted.capacity_rps or 0.0)})
    broken = plan.model_copy(update={"options": {**plan.options, name: option.model_copy(update={"predicted": more})}})
    with pytest.raises(CheckFailedError) as error:
        check_plan(broken, loaded.workload, profile)
    assert any("leave no headroom of 0.3" in line for line in error.value.details)


# Lost machines


def withstanding(rate: float, spares: int, level: float) -> float:
    """Of all numbers of replicas on the two devices and all limits of replicas on one machine: the least cost at which
    what is left carries the load, whatever machines of one type are lost."""
    each = [max(batch / seconds for batch, seconds in points.items()) * 0.98 / level for points in TIMES.values()]
    layouts: list[dict[int, tuple[int, int]]] = []
    for _ in PRICES:
        # By replicas that are left: (replicas, machines), the fewest machines for each.
        found: dict[int, tuple[int, int]] = {}
        for n, most in itertools.product(range(30), range(1, 5)):
            machines = -(-n // most)
            left = max(n - spares * most, 0)
            if left not in found or machines < found[left][1] or (machines == found[left][1] and n > found[left][0]):
                found[left] = (n, machines)
        layouts.append(found)
    best = math.inf
    every = [[(left, *rest) for left, rest in found.items()] for found in layouts]
    for (left_x, x, machines_x), (left_y, y, machines_y) in itertools.product(*every):
        carried = [left_x * each[0] + y * each[1], x * each[0] + left_y * each[1]]
        lost = [carried[i] for i, machines in enumerate((machines_x, machines_y)) if machines]
        if lost and min(lost) >= rate - 1e-9:
            cost = machines_x * PRICES["edge/x"] + machines_y * PRICES["edge/y"]
            best = min(best, cost)
    return best


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    rate=st.sampled_from([20.0, 75.0, 180.0, 333.0]),
    spares=st.sampled_from([1, 2]),
    level=st.sampled_from([1.0, 1.4]),
)
def test_with_machines_lost_the_cost_is_that_of_enumeration(
    module_instances: Any, rate: float, spares: int, level: float
) -> None:
    robustness = {"spare_machines": spares, "load_levels": [] if level == 1 else [level]}
    plan = plan_of(module_instances, robustness, rate, count=16)
    assert plan.proof.status == "optimal"
    assert plan.cost_usd_per_h == pytest.approx(withstanding(rate, spares, level), rel=1e-6)
    assert plan.assurance is not None
    assert set(plan.assurance.spare_machines) == set(plan.machines)
    assert {dict(case.lost).get(name) for case in plan.assurance.cases for name in case.lost} == {spares}


def test_what_is_left_carries_the_load_whatever_machines_are_lost(instances: Any) -> None:
    """Two stages share machines; every set of machines of a type is taken away by hand."""
    devices = {d.split("/")[1]: {"price_usd_per_h": p, "cores": 4, "count": 20} for d, p in PRICES.items()}
    loaded = instances.workload(
        {"a": ["s"], "b": ["s"]}, classes={"web": {"rate_rps": 90.0}}, devices=devices, splitting="devices",
        edges=[{"from": "a", "to": "b"}], robustness={"spare_machines": 2},
    )  # fmt: skip
    rows = [
        instances.measurement(stage, "s", batch, mean * slower, device=device)
        for stage, slower in (("a", 1.0), ("b", 0.4))
        for device, points in TIMES.items()
        for batch, mean in points.items()
    ]
    profile = instances.profile({}, {("a", "s"): 0.9, ("b", "s"): 0.9}, rows=rows)
    plan = solve(loaded, profile, plan_dir=instances.folder)
    check_plan(plan, loaded.workload, profile)
    each = {n: (o.predicted.capacity_rps or 0.0) / o.replicas for n, o in plan.options.items()}
    for device, bought in plan.machines.items():
        for gone in itertools.combinations(range(bought.count), min(2, bought.count)):
            left = {name: option.replicas for name, option in plan.options.items()}
            for placement in (p for i in gone for p in plan.machines[device].packing[i]):
                left[placement.option] -= placement.replicas
            for stage in ("a", "b"):
                carried = sum(n * each[name] for name, n in left.items() if plan.options[name].stage == stage)
                assert carried * 0.98 >= 90.0 * (1 - 1e-6)


def test_spares_for_a_share_of_time_rise_until_they_suffice(instances: Any) -> None:
    plan = plan_of(instances, {"availability": 0.999}, 333.0, count=20, interruptions_per_h=1.0, start_s=600.0)
    assert plan.assurance is not None
    for device, bought in plan.machines.items():
        gone, spares = bought.lost_share or 0.0, plan.assurance.spare_machines[device]
        fine = sum(math.comb(bought.count, k) * gone**k * (1 - gone) ** (bought.count - k) for k in range(spares + 1))
        assert fine >= 0.999
    assert plan.cost_usd_per_h > plan_of(instances, {}, 333.0, count=20).cost_usd_per_h


def test_the_checker_finds_too_little_left(instances: Any) -> None:
    loaded, profile = inputs(instances, {"spare_machines": 1}, 180.0, count=16)
    plan = solve(loaded, profile, plan_dir=instances.folder)
    assert plan.assurance is not None
    more = plan.assurance.model_copy(update={"spare_machines": dict.fromkeys(plan.machines, 3)})
    with pytest.raises(CheckFailedError) as error:
        check_plan(plan.model_copy(update={"assurance": more}), loaded.workload, profile)
    assert any("are left without 3" in line for line in error.value.details)
