"""A written plan simulates as it was certified."""

from __future__ import annotations

from typing import Any

import pytest

from inferplan.estimators.network import network_of_plan
from inferplan.estimators.simulation import simulate
from inferplan.solvers.planner import solve
from inferplan.spec.errors import InputError
from inferplan.spec.plan import load_plan, write_plan

TIMES = {("a", "v"): {1: 0.01, 4: 0.03}, ("b", "v"): {1: 0.02, 4: 0.05}}


def test_a_plan_read_back_gets_the_verdict_it_was_certified_with(instances: Any) -> None:
    loaded = instances.workload(
        {"a": ["v"], "b": ["v"]},
        edges=[{"from": "a", "to": "b", "fan_out": 2.0}],
        classes={"web": {"rate_rps": 30.0, "slo": {"latency_s": 0.5}}},
    )
    profile = instances.profile(TIMES)
    plan = solve(loaded, profile, plan_dir=instances.folder, seed=5)
    write_plan(plan, instances.folder / "plan.yaml")
    read = load_plan(instances.folder / "plan.yaml")
    result = simulate(network_of_plan(read.plan, read.workload.workload, profile), seed=5)
    assert plan.certificate is not None
    latency = result.streams["web"].latency_slo_s
    assert latency is not None
    assert latency.value == pytest.approx(plan.certificate.classes["web"].latency_s.value, rel=0.05)
    assert result.verdict == plan.certificate.verdict == "met"
    assert simulate(network_of_plan(read.plan, read.workload.workload, profile), seed=5) == result
    with pytest.raises(InputError, match="run `inferplan profile`"):
        network_of_plan(read.plan, read.workload.workload, instances.profile({}))
