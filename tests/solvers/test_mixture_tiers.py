"""Classes that split over several tiers: the program against enumeration; delays, tolls and bandwidths by way."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inferplan.estimators.network import network_of_plan
from inferplan.solvers.checker import check_plan
from inferplan.solvers.planner import solve
from inferplan.spec.document import LoadedWorkload
from inferplan.spec.errors import CheckFailedError, InfeasibleError
from inferplan.spec.plan import Plan
from inferplan.spec.profile import Profile

HOUR_GB = 3600 / 2**30
RATE = 20.0
TIMES = {("a", "s"): 0.02, ("a", "l"): 0.05, ("b", "s"): 0.03}
ACCURACY = {("a", "s"): 0.8, ("a", "l"): 0.95, ("b", "s"): 0.9}
BYTES = {"s": 1e6, "l": 3e6}
EDGE, CLOUD = "edge/x", "cloud/y"
ONE_CORE = {EDGE: {"price_usd_per_h": 1.0, "cores": 1}, CLOUD: {"price_usd_per_h": 0.3, "cores": 1}}
NEAR = {
    "devices": {EDGE: {"price_usd_per_h": 0.1, "cores": 1}, CLOUD: {"price_usd_per_h": 1.0, "cores": 1}},
    "elsewhere": {("a", "l"): CLOUD, ("a", "s"): EDGE, ("b", "s"): EDGE},
}
"""The accurate variant runs in the dear cloud alone."""
FREE = {"edge-cloud": {}, "cloud-edge": {}}


def inputs(
    instances: Any, links: dict[str, dict[str, Any]], floor: float, **changes: Any
) -> tuple[LoadedWorkload, Profile]:
    """Stages a -> b over two tiers; requests enter at the edge. `elsewhere`: (stage, variant) on one device only."""
    devices, elsewhere = changes.pop("devices", ONE_CORE), changes.pop("elsewhere", {})
    tiers: dict[str, Any] = {}
    for name, spec in devices.items():
        tier, short = name.split("/")
        tiers.setdefault(tier, {"devices": {}})["devices"][short] = spec
    extra = {"request_bytes": changes.pop("request", 0.0), "response_bytes": changes.pop("response", None)}
    web = {"rate_rps": RATE, "enters_at": "edge", "accuracy": {"floor": floor}, **changes.pop("web", {})}
    work = instances.workload(
        changes.pop("stages", {"a": ["s", "l"], "b": ["s"]}),
        edges=[{"from": "a", "to": "b", "payload_bytes": BYTES}],
        classes=changes.pop("classes", {"web": web}),
        tiers=tiers,
        links={name: dict(zip(("from", "to"), name.split("-"), strict=True)) | spec for name, spec in links.items()},
        pipeline_extra=extra,
        **{"splitting": True, **changes},
    )
    rows = [
        instances.measurement(stage, variant, 1, seconds, device=device)
        for (stage, variant), seconds in TIMES.items()
        for device in devices
        if elsewhere.get((stage, variant), device) == device
    ]
    return work, instances.profile({}, ACCURACY, rows=rows)


def plan_of(instances: Any, links: dict[str, dict[str, Any]], floor: float, **changes: Any) -> Plan:
    work, profile = inputs(instances, links, floor, **changes)
    plan = solve(work, profile, plan_dir=instances.folder)
    check_plan(plan, work.workload, profile)
    return plan


def cheapest(price: dict[str, float], toll: dict[tuple[str, str], float | None], floor: float, **sizes: Any) -> float:
    """Of all 640ths and pairs of ways (variant of a, device of a, device of b) on machines of one core."""
    every = list(itertools.product("sl", price, price))
    best = math.inf
    for one, other, few in itertools.product(every, every, range(321)):
        w = few / 640
        if (1 - w) * ACCURACY["a", one[0]] * 0.9 + w * ACCURACY["a", other[0]] * 0.9 < floor - 1e-9:
            continue
        loads: dict[tuple[str, str, str], float] = {}
        cost = 0.0
        for share, (variant, at_a, at_b) in ((1 - w, one), (w, other)):
            if share == 0:
                continue
            for key in (("a", variant, at_a), ("b", "s", at_b)):
                loads[key] = loads.get(key, 0.0) + share * RATE
            legs = [(EDGE, at_a, sizes["request"]), (at_a, at_b, BYTES[variant])]
            legs += [(at_b, EDGE, sizes["response"])] if sizes["response"] is not None else []
            for pair, sent in ((tuple(d.split("/")[0] for d in leg[:2]), leg[2]) for leg in legs):
                if pair[0] != pair[1]:
                    value = toll[pair]  # type: ignore[index]
                    cost += math.inf if value is None else share * RATE * sent * HOUR_GB * value
        for (stage, variant, device), load in loads.items():
            cost += price[device] * math.ceil(load * TIMES[stage, variant] / 0.98 - 1e-9)
        best = min(best, cost)
    return best


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_the_cost_is_that_of_exhaustive_search(module_instances: Any, data: Any) -> None:
    price = {device: data.draw(st.sampled_from([0.1, 0.3, 0.5])) for device in ONE_CORE}
    toll = {("edge", "cloud"): data.draw(st.sampled_from([None, 0.0, 1.0])), ("cloud", "edge"): data.draw(
        st.sampled_from([None, 2.0]))}  # fmt: skip
    sizes = {"request": data.draw(st.sampled_from([0.0, 1e6])), "response": data.draw(st.sampled_from([None, 1e5]))}
    floor = data.draw(st.sampled_from([0.7, 0.75, 0.8, 0.855]))
    routing = data.draw(st.sampled_from(["proportional", "tier_aware"]))
    plan = plan_of(
        module_instances,
        {f"{a}-{b}": {"price_usd_per_gb": value} for (a, b), value in toll.items() if value is not None},
        floor,
        devices={d: {"price_usd_per_h": price[d], "cores": 1} for d in price},
        routing=routing,
        **sizes,
    )
    assert plan.cost_usd_per_h == pytest.approx(cheapest(price, toll, floor, **sizes), rel=1e-5)
    assert plan.proof.status == "optimal"


def test_the_delay_of_every_way_is_simulated(instances: Any) -> None:
    """Those requests that go far take 0.1 s longer each way."""
    links = {"edge-cloud": {"rtt_s": 0.1}, "cloud-edge": {"rtt_s": 0.1}}
    plan = plan_of(
        instances, links, 0.75, **NEAR,
        web={"slo": {"latency_s": 1.5}}, response=0.0,
    )  # fmt: skip
    found = plan.classes["web"]
    tier = {m.routes["a"]: plan.options[m.routes["a"]].device for m in found.mixtures}
    assert sorted(tier.values()) == [CLOUD, EDGE]
    assert plan.certificate is not None
    assert plan.certificate.verdict == "met"
    far = next(m.share for m in found.mixtures if tier[m.routes["a"]] == CLOUD)
    mean = found.predicted.latency_mean_s
    assert mean is not None
    # Two links for those that go far, and nothing more than waiting and service besides.
    services = 0.03 + far * 0.05 + (1 - far) * 0.02
    assert mean.value >= services + far * 0.2
    with pytest.raises(InfeasibleError):
        plan_of(
            instances, links, 0.75, **NEAR,
            web={"slo": {"latency_s": 0.2}}, response=0.0,
        )  # fmt: skip


def test_a_plan_read_again_is_the_network_it_was_decided_with(instances: Any) -> None:
    links = {"edge-cloud": {"rtt_s": 0.1}, "cloud-edge": {"rtt_s": 0.2}}
    work, profile = inputs(instances, links, 0.75, **NEAR, web={"slo": {"latency_s": 2.0}})
    plan = solve(work, profile, plan_dir=instances.folder)
    network = network_of_plan(plan, work.workload, profile)
    (b,) = (name for name, option in plan.options.items() if option.stage == "b")
    for mixture in plan.classes["web"].mixtures:
        a = mixture.routes["a"]
        far = plan.options[a].device == CLOUD
        assert network.entry_delay_s.get(("web", a), 0.0) == (0.1 if far else 0.0)
        assert network.transfer_s.get((a, b), 0.0) == (0.2 if far else 0.0)


def test_no_more_requests_go_over_a_link_than_it_carries(instances: Any) -> None:
    """Without the limit all 60 requests/s go to the cheap cloud; with it as many as 30 MB/s are, at 1 MB each."""
    devices = {EDGE: {"price_usd_per_h": 1.0, "cores": 1}, CLOUD: {"price_usd_per_h": 0.01, "cores": 1}}
    asked = {"devices": devices, "request": 1e6, "web": {"rate_rps": 60.0}}
    free = plan_of(instances, FREE, 0.7, **asked)
    narrow = {"edge-cloud": {"bandwidth_bytes_per_s": 3e7}, "cloud-edge": {}}
    plan = plan_of(instances, narrow, 0.7, **asked)
    assert {option.device for option in free.options.values()} == {CLOUD}
    assert plan.traffic is not None
    assert plan.traffic.links["edge-cloud"].bytes_per_s == pytest.approx(3e7)
    shares = [m.share for m in plan.classes["web"].mixtures if plan.options[m.routes["a"]].device == CLOUD]
    assert shares == [pytest.approx(0.5)]


def test_what_is_skipped_stays_where_its_way_is(instances: Any) -> None:
    pinned = {"devices": NEAR["devices"], "elsewhere": {("a", "l"): CLOUD, ("a", "s"): EDGE}}
    links = {"edge-cloud": {"rtt_s": 0.1, "price_usd_per_gb": 0.01}, "cloud-edge": {"rtt_s": 0.1}}
    work, profile = inputs(
        instances, links, 0.85, **pinned, stages={"a": ["s", "l"], "b": ["skip"]}, request=1e6, response=1e3,
        accuracy={"metric": {"name": "acc"}, "composition": "table"}, web={"slo": {"latency_s": 2.0}},
    )  # fmt: skip
    rows = [
        __import__("sys").modules[type(instances).__module__].end_to_end({"a": v, "b": "skip"}, ACCURACY["a", v])
        for v in "sl"
    ]
    profile = instances.profile({}, {}, rows=profile.measurements, combinations=rows)
    plan = solve(work, profile, plan_dir=instances.folder)
    check_plan(plan, work.workload, profile)
    assert len(plan.classes["web"].mixtures) == 2
    assert plan.traffic is not None
    passed = [f for f in plan.traffic.flows["web"] if f.target == "b"]
    assert {(f.from_tier, f.to_tier) for f in passed} == {("edge", "edge"), ("cloud", "cloud")}
    network = network_of_plan(plan, work.workload, profile)
    back = {option: delay for (_, option), delay in network.exit_delay_s.items()}
    assert list(back.values()) == [0.1]


def test_jobs_go_over_links_too(instances: Any) -> None:
    album = {"album": {"kind": "jobs", "rate_rps": 16.0, "enters_at": "edge",
                       "job": {"requests": 8, "deadline_s": 5.0, "mean_accuracy": 0.78}}}  # fmt: skip
    links = {"edge-cloud": {"rtt_s": 0.1, "price_usd_per_gb": 0.1}, "cloud-edge": {"rtt_s": 0.1}}
    plan = plan_of(instances, links, 0.0, classes=album, **NEAR, splitting=False, request=1e6, response=0.0)
    counts = {plan.options[m.routes["a"]].variant: m.requests for m in plan.classes["album"].mixtures}
    # 0.72 + 0.135 n / 8 >= 0.78: four of eight.
    assert counts["l"] is not None
    assert counts["l"] >= 4
    assert plan.traffic is not None
    assert plan.traffic.links["edge-cloud"].bytes_per_s == pytest.approx(16.0 * counts["l"] / 8 * 1e6)


def test_the_checker_finds_traffic_that_does_not_go_its_way(instances: Any) -> None:
    work, profile = inputs(instances, FREE, 0.75, **NEAR, request=1e6)
    plan = solve(work, profile, plan_dir=instances.folder)
    assert plan.traffic is not None
    flows = [
        flow.model_copy(update={"to_tier": "edge"}) if (flow.source, flow.to_tier) == (None, "cloud") else flow
        for flow in plan.traffic.flows["web"]
    ]
    moved = plan.traffic.model_copy(update={"flows": {"web": flows}})
    with pytest.raises(CheckFailedError) as error:
        check_plan(plan.model_copy(update={"traffic": moved}), work.workload, profile)
    assert any("from outside in edge to a in" in line for line in error.value.details)


def test_a_floor_out_of_reach_names_the_best_mean(instances: Any) -> None:
    """The accurate variant is in the cloud, and the link carries 5 of 20 requests/s: 0.72 + 0.135 / 4."""
    links = {"edge-cloud": {"bandwidth_bytes_per_s": 5e6}, "cloud-edge": {}}
    with pytest.raises(InfeasibleError) as error:
        plan_of(instances, links, 0.8, **NEAR, request=1e6)
    text = "\n".join(error.value.details)
    assert "classes.web.accuracy.floor (0.8): at most 0.75375" in text
    assert "links.edge-cloud.bandwidth_bytes_per_s" in text
