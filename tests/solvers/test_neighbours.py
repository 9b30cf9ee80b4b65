"""Replicas that slow one another down: more machines where it pays, the factor said, the checker not fooled."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inferplan.estimators.network import network_of_plan
from inferplan.estimators.simulation import simulate
from inferplan.solvers.checker import check_plan
from inferplan.solvers.planner import solve
from inferplan.spec.errors import CheckFailedError, InfeasibleError
from inferplan.spec.plan import Plan, dump_plan, load_plan, write_plan
from inferplan.spec.rows import InterferenceRow

Slowed = Callable[..., InterferenceRow]
TIMES = {("a", "v"): {1: 0.01}, ("b", "v"): {1: 0.01}}
CPU = {"price_usd_per_h": 0.1, "cores": 2}
STAGES = {"a": ["v"], "b": ["v"]}


def plan_of(
    instances: Any,
    beside: Sequence[InterferenceRow] = (),
    *,
    rate: float = 60.0,
    limit: float = 0.06,
    device: Any = CPU,
    **changes: Any,
) -> Plan:
    changes.setdefault("edges", [{"from": "a", "to": "b"}])
    loaded = instances.workload(
        changes.pop("stages", STAGES),
        classes={"web": {"rate_rps": rate, "slo": {"latency_s": limit}}},
        devices={"cpu": device},
        **changes,
    )
    store = instances.profile(changes.pop("times", TIMES), beside=beside)
    plan = solve(loaded, store, plan_dir=instances.folder)
    check_plan(plan, loaded.workload, store)
    return plan


def machines(plan: Plan) -> list[dict[str, int]]:
    return [{p.option: p.replicas for p in machine} for machine in plan.machines["edge/cpu"].packing]


def strong(slowed: Slowed, factor: float = 2.0) -> list[InterferenceRow]:
    return [
        slowed(*subject, [other], factor) for subject in (("a", "v"), ("b", "v")) for other in (("a", "v"), ("b", "v"))
    ]


def test_strong_interference_is_paid_for_with_machines(instances: Any, slowed: Slowed) -> None:
    quiet, loud = (plan_of(instances, rows, rate=30.0, limit=0.066) for rows in ((), strong(slowed)))
    assert loud.cost_usd_per_h > quiet.cost_usd_per_h
    assert loud.certificate is not None
    assert loud.certificate.verdict == "met"
    assert any("neighbours slow replicas down" in line for line in loud.story)


def test_the_same_replicas_are_spread_over_more_machines(instances: Any, slowed: Slowed) -> None:
    loud = plan_of(instances, strong(slowed, 3.0), rate=30.0, limit=0.07)
    assert any("the same on more machines" in line for line in loud.story)
    assert len(machines(loud)) == 2
    assert loud.certificate is not None
    assert loud.certificate.verdict == "met"


def test_a_slow_down_that_is_borne_is_said(instances: Any, slowed: Slowed) -> None:
    plan = plan_of(instances, strong(slowed, 1.2), rate=30.0, limit=0.2)
    assert plan.cost_usd_per_h == pytest.approx(0.1)
    for option in plan.options.values():
        busy = next(other.predicted.utilisation for other in plan.options.values() if other.stage != option.stage)
        assert option.predicted.interference == pytest.approx(1 + 0.2 * busy, rel=0.02)
        capacity = option.predicted.capacity_rps
        assert capacity == pytest.approx(100 / option.predicted.interference)
    assert plan.profile.alone == []


def test_of_a_slow_down_what_noise_explains_is_not_planned_with(instances: Any, slowed: Slowed) -> None:
    """Interval of exp(+-1.96 e): what is over 1 counts by 1 - (e / ln s)^2, in plan and checker alike."""

    def told(error: float) -> list[InterferenceRow]:
        half = math.exp(1.96 * error)
        return [
            dataclasses.replace(row, slowdown_lower=1.2 / half, slowdown_upper=1.2 * half)
            for row in strong(slowed, 1.2)
        ]

    for error in (0.05, 0.3):
        plan = plan_of(instances, told(error), rate=30.0, limit=0.2)
        kept = 1.2 ** max(0.0, 1 - (error / math.log(1.2)) ** 2)
        for option in plan.options.values():
            busy = next(o.predicted.utilisation for o in plan.options.values() if o.stage != option.stage)
            assert option.predicted.interference == pytest.approx(1 + (kept - 1) * busy, rel=0.02)
            assert (option.predicted.interference == 1) == (error == 0.3)


def test_without_measurements_the_plan_says_so(instances: Any) -> None:
    plan = plan_of(instances, rate=30.0, limit=0.2)
    assert plan.profile.alone == ["a/v on edge/cpu", "b/v on edge/cpu"]
    assert all(option.predicted.interference == 1 for option in plan.options.values())


def test_slow_downs_of_one_change_nothing(instances: Any, slowed: Slowed) -> None:
    plain = plan_of(instances)
    ones = plan_of(instances, strong(slowed, 1.0))
    assert ones.profile.alone == []
    assert dump_plan(ones.model_copy(update={"profile": plain.profile})) == dump_plan(plain)


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    factors=st.lists(st.sampled_from([1.0, 1.1, 1.4, 2.0]), min_size=4, max_size=4),
    rate=st.sampled_from([40.0, 90.0]),
    cores=st.sampled_from([2, 4]),
)
def test_interference_never_makes_a_plan_cheaper(
    factors: list[float], rate: float, cores: int, module_instances: Any, slowed: Slowed
) -> None:
    pairs = [("a", "a"), ("a", "b"), ("b", "a"), ("b", "b")]
    rows = [slowed(stage, "v", [(other, "v")], factor) for (stage, other), factor in zip(pairs, factors, strict=True)]
    device = {**CPU, "cores": cores}
    quiet = plan_of(module_instances, rate=rate, device=device)
    loud = plan_of(module_instances, rows, rate=rate, device=device)
    assert loud.cost_usd_per_h >= quiet.cost_usd_per_h - 1e-9


def test_where_there_is_a_choice_the_quieter_neighbours_are_taken(instances: Any, slowed: Slowed) -> None:
    """Two machines are needed anyway; replicas of one kind disturb one another, others do not."""
    rows = [slowed(s, "v", [(o, "v")], 1.5 if s == o else 1.0) for s in ("a", "b") for o in ("a", "b")]
    plan = plan_of(instances, rows, rate=120.0, limit=0.2)
    assert len(machines(plan)) == 2
    assert all(set(machine.values()) == {1} and len(machine) == 2 for machine in machines(plan))
    assert all(option.predicted.interference == 1 for option in plan.options.values())


def test_the_checker_recomputes_the_slow_down(instances: Any, slowed: Slowed) -> None:
    rows = strong(slowed, 1.5)
    plan = plan_of(instances, rows, rate=30.0, limit=0.2)
    loaded, store = load(instances, plan), instances.profile(TIMES, beside=rows)
    check_plan(plan, loaded, store)
    data = plan.model_dump(by_alias=True)
    name = sorted(data["options"])[0]
    data["options"][name]["predicted"]["interference"] = 1.0
    with pytest.raises(CheckFailedError) as caught:
        check_plan(Plan.model_validate(data), loaded, store)
    assert any(f"option {name}: its neighbours slow it down" in line for line in caught.value.details)


def load(instances: Any, plan: Plan) -> Any:
    write_plan(plan, instances.folder / "plan.yaml")
    return load_plan(instances.folder / "plan.yaml").workload.workload


def test_a_plan_read_back_simulates_with_its_neighbours(instances: Any, slowed: Slowed) -> None:
    rows = strong(slowed, 1.5)
    plan = plan_of(instances, rows, rate=30.0, limit=0.2)
    network = network_of_plan(plan, load(instances, plan), instances.profile(TIMES, beside=rows))
    for name, station in network.stations.items():
        assert station.interference == pytest.approx(plan.options[name].predicted.interference, rel=0.01)
    latency = simulate(network).streams["web"].latency_slo_s
    assert plan.certificate is not None
    assert latency is not None
    assert latency.value == pytest.approx(plan.certificate.classes["web"].latency_s.value, rel=0.05)


def test_too_few_machines_to_keep_apart_is_infeasible(instances: Any, slowed: Slowed) -> None:
    device = {**CPU, "count": 1}
    with pytest.raises(InfeasibleError):
        plan_of(instances, strong(slowed, 3.0), rate=80.0, limit=0.2, device=device)
