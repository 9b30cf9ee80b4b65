"""Several tiers where classes are not spread: the program against exhaustive search; delays, limits, links."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inferplan.estimators.network import network_of_plan
from inferplan.solvers.checker import check_plan
from inferplan.solvers.columns import build_columns
from inferplan.solvers.judge import Judge
from inferplan.solvers.milp import Solver, promises, solution_of
from inferplan.solvers.planner import solve
from inferplan.solvers.problem import read_problem
from inferplan.solvers.search import Search
from inferplan.spec.document import load_workload
from inferplan.spec.errors import CheckFailedError, InfeasibleError, InputError
from inferplan.spec.plan import Plan

HOUR_GB = 3600 / 2**30
TIMES = {("a", "s"): 0.02, ("a", "l"): 0.05, ("b", "s"): 0.03}
ACCURACY = {("a", "s"): 0.8, ("a", "l"): 0.95, ("b", "s"): 0.9}


def instance(
    instances: Any, links: dict[str, dict[str, Any]], devices: dict[str, dict[str, Any]], **changes: Any
) -> tuple[Any, Any]:
    """Stages a -> b over two tiers. `devices`: tier/device -> fields."""
    slower, unmeasured = changes.pop("slower", {}), changes.pop("unmeasured", [])
    tiers: dict[str, Any] = {}
    for name, spec in devices.items():
        tier, short = name.split("/")
        tiers.setdefault(tier, {"devices": {}})["devices"][short] = spec
    extra = {"request_bytes": changes.pop("request", 0.0), "response_bytes": changes.pop("response", None)}
    web = {"rate_rps": 20.0, "enters_at": "edge", **changes.pop("web", {})}
    work = instances.workload(
        changes.pop("stages", {"a": ["s", "l"], "b": ["s"]}),
        edges=[{"from": "a", "to": "b", "payload_bytes": changes.pop("bytes", {"s": 1e6, "l": 3e6})}],
        classes=changes.pop("classes", {"web": web}),
        tiers=tiers,
        links={name: {"from": name.split("-")[0], "to": name.split("-")[1], **spec} for name, spec in links.items()},
        pipeline_extra=extra,
        **changes,
    )
    rows = [
        instances.measurement(stage, variant, 1, seconds * slower.get(device, 1.0), device=device)
        for (stage, variant), seconds in TIMES.items()
        for device in devices
        if device not in unmeasured
    ]
    return work, instances.profile({}, ACCURACY, rows=rows)


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_the_cost_is_that_of_exhaustive_search(module_instances: Any, data: Any) -> None:
    """No latency promise: a stage needs as many machines of one core as carry its load."""
    price = {device: data.draw(st.sampled_from([0.1, 0.3, 0.5])) for device in ("edge/x", "cloud/y")}
    count = {device: data.draw(st.integers(1, 3)) for device in price}
    slower = {"cloud/y": data.draw(st.sampled_from([0.5, 1.0]))}
    toll = {("edge", "cloud"): data.draw(st.sampled_from([None, 0.0, 1.0])), ("cloud", "edge"): data.draw(
        st.sampled_from([None, 2.0]))}  # fmt: skip
    request, response = data.draw(st.sampled_from([0.0, 1e6])), data.draw(st.sampled_from([None, 1e5]))
    floor = data.draw(st.sampled_from([0.5, 0.8]))
    exclusive = data.draw(st.booleans())
    work, profile = instance(
        module_instances,
        {f"{a}-{b}": {"price_usd_per_gb": value} for (a, b), value in toll.items() if value is not None},
        {d: {"price_usd_per_h": price[d], "cores": 2, "count": count[d], "exclusive": exclusive} for d in price},
        slower=slower, request=request, response=response, web={"accuracy": {"floor": floor}},
    )  # fmt: skip
    best = math.inf
    for variant, at_a, at_b in itertools.product("sl", price, price):
        if ACCURACY["a", variant] * 0.9 < floor - 1e-9:
            continue
        need = {
            "a": math.ceil(20 * TIMES["a", variant] * slower.get(at_a, 1.0) / 0.98 - 1e-9),
            "b": math.ceil(20 * TIMES["b", "s"] * slower.get(at_b, 1.0) / 0.98 - 1e-9),
        }
        machines = dict.fromkeys(price, 0)
        for device in price:
            own = [need[stage] for stage, where in (("a", at_a), ("b", at_b)) if where == device]
            machines[device] = sum(-(-n // 2) for n in own) if exclusive else -(-sum(own) // 2)
        if any(machines[device] > count[device] for device in price):
            continue
        cost = sum(price[device] * machines[device] for device in price)
        size = {"s": 1e6, "l": 3e6}[variant]
        legs = [("edge", at_a, request), (at_a, at_b, size)]
        legs += [(at_b, "edge", response)] if response is not None else []
        for start, end, sent in legs:
            pair = (start.split("/")[0], end.split("/")[0])
            if pair[0] != pair[1]:
                value = toll[pair]
                cost += math.inf if value is None else 20 * sent * HOUR_GB * value
        best = min(best, cost)
    problem = read_problem(work.workload, profile)
    found = Solver(problem, build_columns(problem)).ask(promises(problem), 20.0, 1e-7)
    if math.isinf(best):
        assert found is None
    else:
        assert found is not None
        assert found.cost_usd_per_h == pytest.approx(best, rel=1e-5)


EDGE = {"price_usd_per_h": 1.0, "cores": 4, "count": 4}
CLOUD = {"price_usd_per_h": 0.1, "cores": 4, "count": 4}
BOTH = {"edge/x": EDGE, "cloud/y": CLOUD}


def planned(instances: Any, links: dict[str, dict[str, Any]], **changes: Any) -> tuple[Plan, Any, Any]:
    work, profile = instance(instances, links, changes.pop("devices", BOTH), **changes)
    plan = solve(work, profile, plan_dir=instances.folder)
    check_plan(plan, work.workload, profile)
    return plan, work, profile


def tiers(plan: Plan) -> set[str]:
    return {option.device.split("/")[0] for option in plan.options.values() if option.replicas}


def test_delays_count_against_the_promise_and_in_the_simulation(instances: Any) -> None:
    """The cheap tier is 80 ms away, there and back: within 400 ms it is used, within 150 ms it is not."""
    links = {"edge-cloud": {"rtt_s": 0.08, "bandwidth_bytes_per_s": 1e8}, "cloud-edge": {"rtt_s": 0.08}}

    def within(limit: float) -> Plan:
        return planned(instances, links, web={"slo": {"latency_s": limit}}, request=1e6, response=1e3)[0]

    far, near = within(0.4), within(0.15)
    assert (tiers(far), tiers(near)) == ({"cloud"}, {"edge"})
    way = 0.08 + 1e6 / 1e8 + 0.08
    fastest = far.classes["web"].predicted.latency_p50_s
    assert fastest is not None
    assert fastest.value > way + 0.045
    assert far.certificate is not None
    assert far.certificate.verdict == "met"


def test_a_plan_is_simulated_with_its_delays(instances: Any) -> None:
    links = {"edge-cloud": {"rtt_s": 0.08}, "cloud-edge": {"rtt_s": 0.03}}
    plan, work, profile = planned(instances, links, web={"slo": {"latency_s": 0.5}}, response=0.0)
    network = network_of_plan(plan, work.workload, profile)
    assert set(network.entry_delay_s.values()) == {0.08}
    assert set(network.exit_delay_s.values()) == {0.03}
    assert network.transfer_s == {}


def test_a_narrow_link_is_not_overrun(instances: Any) -> None:
    """20 requests/s of 1 MB need 20 MB/s."""
    wide = planned(instances, {"edge-cloud": {"bandwidth_bytes_per_s": 2.1e7}}, request=1e6)[0]
    narrow = planned(instances, {"edge-cloud": {"bandwidth_bytes_per_s": 1.9e7}}, request=1e6)[0]
    assert (tiers(wide), tiers(narrow)) == ({"cloud"}, {"edge"})


def test_the_bandwidth_that_is_named_is_enough_and_hardly_less_is(instances: Any) -> None:
    """20 requests/s of 1 MB need 20 MB/s, and nothing runs at the edge."""
    devices = {"edge/x": {**EDGE, "count": 0}, "cloud/y": CLOUD}
    for times in (1.0, 0.25):
        with pytest.raises(InfeasibleError) as caught:
            planned(instances, {"edge-cloud": {"bandwidth_bytes_per_s": 1.6e7 * times}}, request=1e6, devices=devices)
        line = next(line for line in caught.value.details if "bandwidth" in line)
        assert "links.edge-cloud.bandwidth_bytes_per_s: at least" in line
        named = float(line.split("at least ")[1].split()[0])
        assert 2e7 <= named <= 2.03e7
        wide = planned(instances, {"edge-cloud": {"bandwidth_bytes_per_s": named}}, request=1e6, devices=devices)[0]
        assert tiers(wide) == {"cloud"}


def test_without_a_way_back_nothing_goes_back(instances: Any) -> None:
    links = {"edge-cloud": {}}
    assert tiers(planned(instances, links)[0]) == {"cloud"}
    assert tiers(planned(instances, links, response=0.0)[0]) == {"edge"}
    with pytest.raises(InfeasibleError, match=r"tiers.edge.devices.x.count \(0\) cannot be kept"):
        planned(instances, links, response=0.0, devices={"edge/x": {**EDGE, "count": 0}, "cloud/y": CLOUD})
    with pytest.raises(InfeasibleError) as caught:
        planned(instances, {}, unmeasured=["edge/x"])
    assert any("a link in the other direction" in line for line in caught.value.details)


def test_a_skipped_stage_is_where_its_input_is(instances: Any) -> None:
    """Skipping costs nothing, but what follows is charged for the way from where the input is."""
    stages = {"a": ["skip"], "b": ["s"]}
    plan, _, _ = planned(instances, {"edge-cloud": {"price_usd_per_gb": 0.001}}, stages=stages, bytes=1e6)
    assert plan.traffic is not None
    crossing = [flow for flow in plan.traffic.flows["web"] if flow.from_tier != flow.to_tier]
    assert [(flow.source, flow.target) for flow in crossing] == [("a", "b")]
    assert plan.traffic.cost_usd_per_h == pytest.approx(20 * 1e6 * HOUR_GB * 0.001)


def test_a_wrong_bill_for_traffic_is_found(instances: Any) -> None:
    plan, work, profile = planned(instances, {"edge-cloud": {"price_usd_per_gb": 0.001}}, request=1e6)
    assert plan.costs is not None
    data = plan.model_dump(by_alias=True)
    paid = data["costs"]["network_usd_per_h"]
    data["costs"]["network_usd_per_h"] = data["traffic"]["cost_usd_per_h"] = 0.0
    data["cost_usd_per_h"] -= paid
    with pytest.raises(CheckFailedError) as caught:
        check_plan(Plan.model_validate(data), work.workload, profile)
    assert any("traffic costs" in line for line in caught.value.details)


def test_links_and_tiers_are_checked(instances: Any) -> None:
    work, _ = instance(instances, {"edge-cloud": {}}, BOTH)
    for change, says in (
        ("links.edge-cloud.to=edge", "a link joins two tiers"),
        ("links.other={from: edge, to: cloud}", "a second link from edge to cloud"),
        ("links.edge-cloud.to=clod", "there is no tier 'clod'"),
        ("classes.web.enters_at=null", "'enters_at' is missing"),
        ("pipeline.edges[0].payload_bytes={s: 1.0}", "missing: l"),
        ("pipeline.edges[0].payload_bytes={s: 1.0, l: 1.0, m: 1.0}", "there is no variant 'm'"),
    ):
        with pytest.raises(InputError, match=says):
            load_workload(work.path, [change])


def test_sizes_must_be_known_between_tiers(instances: Any) -> None:
    work, profile = instance(instances, {"edge-cloud": {}}, BOTH)
    unknown = load_workload(work.path, ["pipeline.edges[0].payload_bytes=null"])
    with pytest.raises(InputError, match="how much goes from a to b is not known"):
        solve(unknown, profile, plan_dir=instances.folder)


def test_a_trace_pays_for_its_traffic_too(instances: Any) -> None:
    (instances.folder / "trace.csv").write_text("time_s\n" + "\n".join(f"{i * 0.05:.2f}" for i in range(1, 400)))
    web = {"trace": "trace.csv", "rate_rps": None, "slo": {"latency_s": 2.0}}
    devices = {
        "edge/cpu": {"price_usd_per_h": 9.0, "count": 8, "cores": 1},
        "cloud/cpu": {"price_usd_per_h": 0.1, "count": 8, "cores": 1},
    }
    links = {"edge-cloud": {"price_usd_per_gb": 0.01}, "cloud-edge": {}}
    loaded, profile = instance(instances, links, devices, web=web, request=1e5)
    plan = solve(loaded, profile, plan_dir=instances.folder)
    assert plan.traffic is not None
    rate = plan.classes["web"].rate_rps
    assert plan.traffic.cost_usd_per_h == pytest.approx(rate * 1e5 * HOUR_GB * 0.01, rel=1e-6)


@pytest.mark.parametrize(
    ("links", "joined"),
    [
        ({}, False),
        ({"edge-cloud": {}, "cloud-edge": {}}, True),
        ({"edge-cloud": {"bandwidth_bytes_per_s": 1e5}, "cloud-edge": {}}, False),
    ],
)
def test_queues_of_two_tiers_become_one_only_over_links_that_carry_them(
    instances: Any, links: dict[str, dict[str, Any]], joined: bool
) -> None:
    """Near a plan queues of one variant may become one, also those of two tiers."""
    machine = {"price_usd_per_h": 0.1, "cores": 4, "count": 4}
    classes = {
        name: {"rate_rps": 10.0, "enters_at": tier, "slo": {"latency_s": 0.4}}
        for name, tier in (("x", "edge"), ("y", "cloud"))
    }
    devices = {"edge/cpu": machine, "cloud/cpu": machine}
    stages = {"a": ["s"], "b": ["s"]}
    loaded, store = instance(
        instances, links, devices, classes=classes, stages=stages, bytes=1e6, request=1e6, response=0.0
    )
    problem = read_problem(loaded.workload, store)
    columns = build_columns(problem)
    at_home = [
        next(c for c in columns if (c.stage, c.classes, c.option.device) == (stage, (k,), device))
        for stage in stages
        for k, device in ((0, "edge/cpu"), (1, "cloud/cpu"))
    ]
    plan = solution_of(problem, tuple(at_home))
    together = [c for c in columns if c.classes == (0, 1) and c.option.device == "cloud/cpu"]
    moved = solution_of(problem, tuple(next(c for c in together if c.stage == stage) for stage in stages))
    search = Search(problem, Solver(problem, columns), Judge(problem, 0), promises(problem), 0.0, math.inf)
    assert search._admissible(plan)
    assert search._admissible(moved) == joined
