"""The checker catches plans that claim what is not so."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from inferplan.solvers.checker import check_plan
from inferplan.solvers.planner import solve
from inferplan.spec.errors import CheckFailedError
from inferplan.spec.plan import Plan
from inferplan.spec.rows import HandoffRow

TIMES = {("a", "v"): {1: 0.01, 4: 0.03}, ("b", "v"): {1: 0.02, 4: 0.05}}


@pytest.fixture
def solved(instances: Any) -> tuple[Plan, Any, Any]:
    loaded = instances.workload(
        {"a": ["v"], "b": ["v"]},
        edges=[{"from": "a", "to": "b", "fan_out": 2.0}],
        classes={"web": {"rate_rps": 30.0, "slo": {"latency_s": 0.5}, "accuracy": {"floor": 0.7}}},
    )
    profile = instances.profile(TIMES, {("a", "v"): 0.9, ("b", "v"): 0.9})
    return solve(loaded, profile, plan_dir=instances.folder), loaded.workload, profile


def forged(plan: Plan, change: Any) -> Plan:
    data = plan.model_dump(by_alias=True)
    change(data)
    return Plan.model_validate(data)


def option(data: dict[str, Any], stage: str) -> dict[str, Any]:
    return next(o for o in data["options"].values() if o["stage"] == stage)


def lower_replicas(data: dict[str, Any]) -> None:
    name = next(name for name, o in data["options"].items() if o["stage"] == "b")
    data["options"][name]["replicas"] = 1
    left = 1
    for machine in data["machines"]["edge/cpu"]["packing"]:
        for placement in list(machine):
            if placement["option"] == name:
                if left:
                    placement["replicas"], left = 1, 0
                else:
                    machine.remove(placement)


def overfill(data: dict[str, Any]) -> None:
    for entry in data["options"].values():
        entry["threads"] *= 4


FORGERIES = {
    "beyond its capacity": lower_replicas,
    "cores on": overfill,
    "the plan says": lambda data: data.update(cost_usd_per_h=data["cost_usd_per_h"] / 2),
    "calls/s reach it": lambda data: option(data, "b")["predicted"].update(load_rps=30.0),
    "its accuracy is": lambda data: data["classes"]["web"]["predicted"]["accuracy"].update(value=0.95),
    "has an SLO and no certificate": lambda data: data["certificate"].update(classes={}),
    "said to be met": lambda data: data["certificate"]["classes"]["web"]["latency_s"].update(upper=0.6),
    "certified for another SLO": lambda data: data["certificate"]["classes"]["web"].update(limit_s=1.0),
    "no row of it": lambda data: option(data, "a").update(model_sha256="0" * 64),
}


def test_an_honest_plan_passes(solved: tuple[Plan, Any, Any]) -> None:
    check_plan(*solved)


def test_solver_and_checker_hand_batches_over_alike(instances: Any) -> None:
    """Batches of 4 take 50 ms, and 4 ms and thrice 1 ms to hand over: what was known of the stage's machine."""
    loaded = instances.workload(
        {"b": ["v"]}, classes={"web": {"rate_rps": 60.0, "slo": {"latency_s": 0.5}, "accuracy": {"floor": 0.7}}}
    )
    profile = instances.profile({("b", "v"): {4: 0.05}}, {("b", "v"): 0.9})
    row = HandoffRow("b", "v", "", "edge/cpu", "f", 3, 4e-3, "[3e-3, 5e-3]", handoff_call_s=1e-3)
    handed = dataclasses.replace(profile, handoffs=(row,))
    plan = solve(loaded, handed, plan_dir=instances.folder)
    check_plan(plan, loaded.workload, handed)
    (deployed,) = plan.options.values()
    assert deployed.predicted.capacity_rps == pytest.approx(deployed.replicas * 4 / 0.057)
    with pytest.raises(CheckFailedError) as caught:
        check_plan(plan, loaded.workload, profile)
    assert any("its capacity is" in line for line in caught.value.details)


@pytest.mark.parametrize("finding", FORGERIES)
def test_a_forged_plan_fails_loudly(finding: str, solved: tuple[Plan, Any, Any]) -> None:
    plan, workload, profile = solved
    with pytest.raises(CheckFailedError) as caught:
        check_plan(forged(plan, FORGERIES[finding]), workload, profile)
    assert any(finding in line for line in caught.value.details)


def test_a_floor_that_is_not_kept_is_found(solved: tuple[Plan, Any, Any], instances: Any) -> None:
    plan, workload, _ = solved
    worse = instances.profile(TIMES, {("a", "v"): 0.9, ("b", "v"): 0.7})
    with pytest.raises(CheckFailedError) as caught:
        check_plan(plan, workload, worse)
    assert any("does not keep its floor" in line for line in caught.value.details)


def test_the_checker_shares_no_code_with_the_solver() -> None:
    """The checker and its parts, `..._check`, import nothing else of solvers and estimators."""
    import inspect
    import re

    from inferplan.solvers import assurance_check, bill_check, checker, interference_check, traffic_check

    for module in (assurance_check, bill_check, checker, interference_check, traffic_check):
        own = re.findall(r"(?:from|import) (inferplan\.(?:solvers|estimators)[\w.]*)", inspect.getsource(module))
        assert all(name.endswith("_check") for name in own)


def test_rows_of_an_older_version_do_not_count_beside_interpolated_ones_of_today(instances: Any) -> None:
    """After an upgrade a batch that was measured before is interpolated: the planner goes by today's rows alone."""
    loaded = instances.workload(
        {"b": ["v"]},
        classes={"web": {"rate_rps": 110.0, "slo": {"latency_s": 0.5}}},
        devices={"cpu": {"price_usd_per_h": 0.1, "cores": 1}},
    )
    before = [
        instances.measurement("b", "v", batch, mean_s, measured_at="2026-01-01T00:00:00Z")
        for batch, mean_s in ((1, 0.02), (4, 0.06))
    ]
    now = [
        instances.measurement("b", "v", 1, 0.01, runtime_version="2.0", measured_at="2026-02-01T00:00:00Z"),
        instances.measurement(
            "b", "v", 4, 0.03, runtime_version="2.0", measured_at="2026-02-01T00:00:00Z", origin="interpolated"
        ),
    ]
    profile = instances.profile({}, rows=[*before, *now])
    plan = solve(loaded, profile, plan_dir=instances.folder)
    (deployed,) = plan.options.values()
    assert (deployed.max_batch, deployed.replicas) == (4, 1)
    assert deployed.predicted.capacity_rps == pytest.approx(4 / 0.03)


def test_slow_downs_that_were_measured_anew_count_alone(instances: Any) -> None:
    loaded = instances.workload(
        {"b": ["v"]},
        classes={"web": {"rate_rps": 130.0, "slo": {"latency_s": 0.5}}},
        devices={"cpu": {"price_usd_per_h": 0.1, "cores": 2}},
    )
    rows = [
        dataclasses.replace(
            instances.interference("b", "v", [("b", "v")], slowdown, runtime_version=version), measured_at=when
        )
        for version, slowdown, when in (("1.0", 1.05, "2026-01-01T00:00:00Z"), ("2.0", 1.4, "2026-02-01T00:00:00Z"))
    ]
    profile = instances.profile({("b", "v"): {1: 0.01}}, beside=rows)
    plan = solve(loaded, profile, plan_dir=instances.folder)
    (deployed,) = plan.options.values()
    assert deployed.predicted.interference > 1.2


def test_a_steady_class_may_wait_far_less_than_a_bursty_one_that_it_shares_a_queue_with(instances: Any) -> None:
    bursts = {"process": "mmpp", "burst_factor": 20.0, "burst_s": 0.5}
    loaded = instances.workload(
        {"b": ["v"]},
        classes={
            "bursty": {"rate_rps": 100.0, "slo": {"percentile": 50, "latency_s": 5.0}, "arrivals": bursts},
            "steady": {"rate_rps": 1.0, "slo": {"percentile": 50, "latency_s": 1.0}},
        },
        devices={"cpu": {"price_usd_per_h": 0.1, "cores": 1, "count": 1}},
    )
    plan = solve(loaded, instances.profile({("b", "v"): {1: 0.002}}), plan_dir=instances.folder)
    means = {name: traffic.predicted.latency_mean_s.value for name, traffic in plan.classes.items()}
    assert means["steady"] < 0.4 * means["bursty"]
