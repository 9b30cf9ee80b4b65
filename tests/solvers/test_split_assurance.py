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
