"""Shares between the tabulated ones: against the continuous optimum."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inferplan.solvers.checker import check_plan
from inferplan.solvers.planner import solve
from inferplan.solvers.shares import FINEST
from inferplan.spec.plan import Plan


def plan_of(
    instances: Any, rate: float, floor: float, slow: dict[str, float], worth: dict[str, float], **changes: Any
) -> Plan:
    """One stage; machines of one core, batches of one."""
    slo = {"slo": {"latency_s": changes.pop("latency")}} if "latency" in changes else {}
    classes = {"web": {"rate_rps": rate, "accuracy": {"floor": floor}, **slo}}
    loaded = instances.workload(
        {"a": sorted(slow)}, classes=classes, splitting=True, devices={"cpu": {"price_usd_per_h": 0.1, "cores": 1}},
        **changes,
    )  # fmt: skip
    store = instances.profile(
        {("a", v): {1: seconds} for v, seconds in slow.items()}, {("a", v): value for v, value in worth.items()}
    )
    plan = solve(loaded, store, plan_dir=instances.folder)
    check_plan(plan, loaded.workload, store)
    return plan


def widths(rate: float, floor: float, slow: dict[str, float], worth: dict[str, float]) -> dict[int, float]:
    """By number of replicas, the widest range of shares over which some pair of variants keeps the floor."""
    found: dict[int, float] = {}
    most = math.ceil(rate * max(slow.values()) / 0.98) + 1
    for one, other in itertools.product(slow, repeat=2):
        for n, m in itertools.product(range(most + 1), repeat=2):
            # w goes to `other`: capacity of both, and the mean.
            low, high = max(0.0, 1 - n * 0.98 / slow[one] / rate), min(1.0, m * 0.98 / slow[other] / rate)
            gain = worth[other] - worth[one]
            if gain > 0:
                low = max(low, (floor - worth[one]) / gain)
            elif gain < 0:
                high = min(high, (floor - worth[one]) / gain)
            elif worth[one] < floor:
                continue
            if high >= low - 1e-9:
                found[n + m] = max(found.get(n + m, 0.0), high - low)
    return found


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    rate=st.floats(15.0, 120.0),
    seconds=st.lists(st.floats(0.008, 0.06), min_size=3, max_size=3),
    values=st.lists(st.floats(0.6, 0.98), min_size=3, max_size=3),
    part=st.floats(0.05, 0.95),
)
def test_only_what_needs_a_share_to_a_640th_is_missed(
    module_instances: Any, rate: float, seconds: list[float], values: list[float], part: float
) -> None:
    slow, worth = (dict(zip("xyz", given_, strict=True)) for given_ in (seconds, values))
    floor = min(values) + part * (max(values) - min(values))
    plan = plan_of(module_instances, rate, floor, slow, worth)
    replicas = round(plan.cost_usd_per_h / 0.1)
    found = widths(rate, floor, slow, worth)
    assert replicas >= min(found)
    assert all(width <= 1 / FINEST * (1 + 1e-6) for count, width in found.items() if count < replicas)


def test_a_share_between_two_tabulated_ones_is_found(instances: Any) -> None:
    """One replica of each is enough for shares of the accurate one from 0.313 to 0.327: the table has 0.3 and 0.35."""
    slow, worth = {"s": 0.0142, "l": 0.03}, {"s": 0.8, "l": 0.96}
    plan = plan_of(instances, 100.0, 0.85, slow, worth)
    found = plan.classes["web"].mixtures
    (share,) = (m.share for m in found if plan.options[m.routes["a"]].variant == "l")
    assert plan.cost_usd_per_h == pytest.approx(0.2)
    assert 0.3125 <= share <= 0.3267
    assert any(line.startswith("shares between the tabulated ones") for line in plan.story)
    assert plan.proof.status == "optimal"


def test_finer_shares_keep_the_latency_limit(instances: Any) -> None:
    slow, worth = {"s": 0.0142, "l": 0.03}, {"s": 0.8, "l": 0.96}
    plan = plan_of(instances, 60.0, 0.85, slow, worth, latency=0.4)
    assert plan.certificate is not None
    assert plan.certificate.verdict == "met"
    assert plan.classes["web"].predicted.accuracy is not None
    assert plan.classes["web"].predicted.accuracy.value >= 0.85 - 1e-9


# Jobs, and several classes


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    requests=st.sampled_from([33, 64, 90]),
    rate=st.floats(15.0, 120.0),
    seconds=st.lists(st.floats(0.008, 0.06), min_size=2, max_size=2),
    part=st.floats(0.05, 0.95),
)
def test_of_large_jobs_no_number_of_requests_is_missed(
    module_instances: Any, requests: int, rate: float, seconds: list[float], part: float
) -> None:
    """The table has every second to fifth number; without a deadline the cost is that of enumeration."""
    slow, worth = dict(zip("xy", seconds, strict=True)), {"x": 0.7, "y": 0.9}
    mean = 0.7 + part * 0.2
    job = {"requests": requests, "deadline_s": 36000.0, "mean_accuracy": mean}
    loaded = module_instances.workload(
        {"a": ["x", "y"]}, classes={"album": {"kind": "jobs", "rate_rps": rate, "job": job}},
        devices={"cpu": {"price_usd_per_h": 0.1, "cores": 1}},
    )  # fmt: skip
    store = module_instances.profile(
        {("a", v): {1: one} for v, one in slow.items()}, {("a", v): value for v, value in worth.items()}
    )
    plan = solve(loaded, store, plan_dir=module_instances.folder)
    check_plan(plan, loaded.workload, store)

    def least(utilisation: float) -> int:
        costs = []
        for few in range(requests + 1):
            if 0.7 + 0.2 * few / requests >= mean - 1e-9:
                loads = {"x": rate * (1 - few / requests), "y": rate * few / requests}
                busy = [load * slow[v] / utilisation for v, load in loads.items() if load > 1e-9]
                costs.append(sum(math.ceil(one - 1e-9) for one in busy))
        return min(costs)

    # Queues that are busy for nearly all of the time may stay undecided in the simulation.
    assert least(0.98) <= round(plan.cost_usd_per_h / 0.1) <= least(0.8)
    assert plan.proof.status == "optimal"


@pytest.mark.parametrize(("rates", "floors"), [((50.0, 70.0), (0.84, 0.88)), ((33.0, 90.0), (0.861, 0.823))])
def test_two_classes_miss_only_what_needs_shares_to_a_160th(
    instances: Any, rates: tuple[float, float], floors: tuple[float, float]
) -> None:
    slow, worth = {"s": 0.0142, "l": 0.03}, {"s": 0.8, "l": 0.96}
    names = ("app", "web")
    classes = {
        name: {"rate_rps": rate, "accuracy": {"floor": floor}}
        for name, rate, floor in zip(names, rates, floors, strict=True)
    }
    loaded = instances.workload(
        {"a": ["s", "l"]}, classes=classes, splitting=True, devices={"cpu": {"price_usd_per_h": 0.1, "cores": 1}}
    )
    store = instances.profile(
        {("a", v): {1: one} for v, one in slow.items()}, {("a", v): value for v, value in worth.items()}
    )
    plan = solve(loaded, store, plan_dir=instances.folder)
    check_plan(plan, loaded.workload, store)
    # Both classes share the queues. Shares of l of each, such that all shares up to two 160ths more would do as well.
    best, step = math.inf, 1 / 640
    least = [max(0.0, (floor - 0.8) / 0.16) for floor in floors]
    for few in itertools.product(range(641), repeat=2):
        low = [w * step for w in few]
        if any(w < at - 1e-9 for w, at in zip(low, least, strict=True)):
            continue
        high = [min(w + 2 / 160, 1.0) for w in low]
        accurate = sum(rate * w for rate, w in zip(rates, high, strict=True))
        cheap = sum(rate * (1 - w) for rate, w in zip(rates, low, strict=True))
        loads = ((accurate, "l"), (cheap, "s"))
        best = min(best, sum(math.ceil(load * slow[v] / 0.98 - 1e-9) for load, v in loads if load > 1e-9))
    assert round(plan.cost_usd_per_h / 0.1) <= best
    assert any(line.startswith("shares between the tabulated ones") for line in plan.story)
