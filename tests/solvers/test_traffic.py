"""Plans for traffic that comes in bursts, by day, or as a trace recorded it: certified, and with its own bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from inferplan.solvers.planner import solve
from inferplan.spec.plan import dump_plan

TIMES = {("a", "v"): {1: 0.01, 4: 0.03}, ("b", "v"): {1: 0.02, 4: 0.05}}
EDGES = [{"from": "a", "to": "b"}]
SLO = {"slo": {"latency_s": 0.3}}


def planned(instances: Any, traffic: dict[str, Any]) -> Any:
    loaded = instances.workload(
        {"a": ["v"], "b": ["v"]},
        edges=EDGES,
        classes={"web": {**traffic, **SLO}},
        devices={"cpu": {"price_usd_per_h": 0.1, "count": 12, "cores": 2, "reserved_cores": 1}},
    )
    profile = instances.profile(TIMES)
    plan = solve(loaded, profile, plan_dir=instances.folder)
    assert dump_plan(solve(loaded, profile, plan_dir=instances.folder)) == dump_plan(plan)
    return plan


def replicas(plan: Any) -> int:
    return sum(option.replicas for option in plan.options.values())


@pytest.mark.parametrize(
    "arrivals",
    [
        {"process": "mmpp", "burst_factor": 3.0, "burst_s": 2.0},
        {"process": "diurnal", "period_s": 3600.0, "peak_factor": 1.9},
    ],
    ids=["bursts", "days"],
)
def test_uneven_traffic_takes_more_and_is_certified(instances: Any, arrivals: dict[str, Any]) -> None:
    even = planned(instances, {"rate_rps": 40.0})
    uneven = planned(instances, {"rate_rps": 40.0, "arrivals": arrivals})
    for plan in (even, uneven):
        assert plan.certificate.verdict == "met"
    assert replicas(uneven) > replicas(even)


def test_a_trace_is_planned_for_and_named_by_its_hash(instances: Any) -> None:
    times = np.cumsum(np.random.default_rng(0).exponential(1 / 40, 4000))
    (instances.folder / "trace.csv").write_text("time_s\n" + "\n".join(f"{t:.6f}" for t in times))
    plan = planned(instances, {"trace": "trace.csv"})
    assert plan.certificate.verdict == "met"
    assert plan.classes["web"].rate_rps == pytest.approx(40, rel=0.05)
    assert plan.classes["web"].trace_sha256 is not None
    even = planned(instances, {"rate_rps": 40.0})
    assert replicas(plan) == replicas(even)
