"""From one plan to another: fewest moves, and what they take."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inferplan.solvers.planner import solve
from inferplan.solvers.switching import switching
from inferplan.spec.plan import Plan

QUIET = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
Machines = list[dict[str, int]]


@pytest.fixture(scope="module")
def base(module_instances: Any) -> tuple[Plan, Any]:
    """A plan of two stages to move replicas in, and its workload."""
    helpers = __import__("sys").modules[type(module_instances).__module__]
    loaded = module_instances.workload(
        {"a": ["v"], "b": ["v"]},
        edges=[{"from": "a", "to": "b"}],
        devices={"cpu": {"price_usd_per_h": 3.6, "cores": 4, "start_s": 100.0}},
    )
    rows = [
        helpers.measurement("a", "v", 1, 0.01, load_s=10.0),
        helpers.measurement("b", "v", 1, 0.01, load_s=25.0),
    ]
    profile = module_instances.profile({}, {("a", "v"): 0.9, ("b", "v"): 0.9}, rows=rows)
    return solve(loaded, profile, plan_dir=module_instances.folder), loaded.workload


def with_machines(plan: Plan, machines: Machines) -> Plan:
    """The plan with its options placed otherwise; {stage: replicas} per machine."""
    data = plan.model_dump(by_alias=True)
    names = {option["stage"]: name for name, option in data["options"].items()}
    for stage, name in names.items():
        count = sum(machine.get(stage, 0) for machine in machines)
        data["options"][name]["replicas"] = count
        data["options"][name]["predicted"].update(capacity_rps=100.0 * max(count, 1), load_rps=150.0)
    data["machines"] = {
        "edge/cpu": {
            "count": len(machines),
            "price_usd_per_h": 3.6,
            "packing": [[{"option": names[s], "replicas": n} for s, n in sorted(m.items()) if n] for m in machines],
        }
    }
    return Plan.model_validate(data)


def fewest_starts(before: Machines, after: Machines) -> int:
    """By trying every matching of machines."""
    size = max(len(before), len(after))
    old = before + [{}] * (size - len(before))
    new = after + [{}] * (size - len(after))
    return min(
        sum(max(n.get(s, 0) - o.get(s, 0), 0) for o, n in zip(order, new, strict=True) for s in ("a", "b"))
        for order in itertools.permutations(old)
    )


some_machines = st.lists(
    st.fixed_dictionaries({"a": st.integers(0, 2), "b": st.integers(0, 2)}), min_size=1, max_size=4
)


@QUIET
@given(before=some_machines, after=some_machines)
def test_as_few_replicas_are_started_as_can_be(base: Any, before: Machines, after: Machines) -> None:
    plan, workload = base
    found = switching(with_machines(plan, before), with_machines(plan, after), workload)
    assert found.starts == fewest_starts(before, after)
    change = sum(sum(m.values()) for m in after) - sum(sum(m.values()) for m in before)
    assert found.starts - found.stops == change
    for machine in found.machines:
        assert not set(machine.start) & set(machine.stop)


def test_an_answer_that_highs_refuses_is_asked_for_again(base: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As every program's is; it does not end in a traceback."""
    import mip

    plan, workload = base
    before, after = with_machines(plan, [{"a": 1}, {"b": 1}]), with_machines(plan, [{"b": 1}])
    solved, refused = mip.Model.optimize, []

    def optimize(model: Any, **limits: Any) -> Any:
        if not refused:
            refused.append(model)
            raise mip.InterfacingError("claims optimality")
        return solved(model, **limits)

    monkeypatch.setattr(mip.Model, "optimize", optimize)
    found = switching(before, after, workload)
    assert (found.starts, found.stops, len(refused)) == (0, 1, 1)


def test_no_change_takes_nothing(base: Any) -> None:
    plan, workload = base
    found = switching(plan, plan, workload)
    assert (found.machines, found.seconds, found.cost_usd) == ((), 0.0, 0.0)
    assert set(found.calls_at_risk.values()) == {0.0}


def test_machines_of_a_device_that_is_no_more_are_given_back(base: Any) -> None:
    plan, workload = base
    data = with_machines(plan, [{"a": 1, "b": 1}]).model_dump(by_alias=True)
    data["machines"]["gone/cpu"] = data["machines"].pop("edge/cpu")
    for option in data["options"].values():
        option["device"] = "gone/cpu"
    found = switching(Plan.model_validate(data), with_machines(plan, [{"a": 1, "b": 1}]), workload)
    assert {(machine.device, machine.after is None) for machine in found.machines} == {
        ("edge/cpu", False),
        ("gone/cpu", True),
    }
    assert found.cost_usd == pytest.approx((workload.devices()["edge/cpu"].start_s + 25.0) * 3.6 / 3600)


def test_seconds_money_and_calls(base: Any) -> None:
    plan, workload = base
    one, two = with_machines(plan, [{"a": 2, "b": 2}]), with_machines(plan, [{"a": 2, "b": 2}, {"a": 1}])
    found = switching(one, two, workload)
    (machine,) = found.machines
    assert (machine.before, machine.after, sum(machine.start.values())) == (None, 1, 1)
    assert found.seconds == pytest.approx(110.0), "a new machine starts, then loads"
    assert found.cost_usd == pytest.approx(3.6 * 110 / 3600)
    # Two of three replicas of `a` stay and carry all of the load.
    assert found.calls_at_risk == {"a": 0.0, "b": 0.0}
    back = switching(two, one, workload)
    assert (back.starts, back.stops, back.seconds) == (0, 1, 0.0)
    swap = switching(with_machines(plan, [{"a": 3, "b": 1}]), with_machines(plan, [{"a": 1, "b": 3}]), workload)
    assert swap.seconds == pytest.approx(25.0)
    # One of three replicas of `b` stays: 50 of 150 calls/s are beyond it.
    assert swap.calls_at_risk["b"] == pytest.approx(50 * 25.0)
    assert swap.unmeasured == ()
