"""Traffic between tiers: what crosses, what it costs, how long it takes; prices of deployments decided by others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from inferplan.estimators.fanout import fan_outs
from inferplan.estimators.pricing import Worker, price
from inferplan.estimators.transport import Leg, Spot, delays_of, legs_of, payloads_of, proportional, traffic, ways_of
from inferplan.spec.errors import InputError
from inferplan.spec.profile import Profile
from inferplan.spec.rows import FlowRow, Measurement, PointKey, Quantiles
from inferplan.spec.workload import Workload

HOUR_GB = 3600 / 2**30


def workload(**changes: Any) -> Workload:
    variants = {"s": {"runtime": "external"}, "l": {"runtime": "external"}}
    worker = {"price_usd_per_h": 0.5, "cores": 1, "count": 9}
    pipeline = {
        "stages": {"ask": {"variants": {"pass": {"runtime": "skip"}}}, "a": {"variants": variants},
                   "b": {"variants": variants}},
        "edges": [
            {"from": "ask", "to": "a", "payload_bytes": 1000.0},
            {"from": "a", "to": "b", "fan_out": 2.0, "payload_bytes": {"s": 100.0, "l": 300.0}},
        ],
        "response_bytes": 50.0,
    }  # fmt: skip
    return Workload.model_validate(
        {
            "apiVersion": "inferplan/v1",
            "name": "w",
            "pipeline": {**pipeline, **changes.pop("pipeline", {})},
            "tiers": {"edge": {"devices": {"x": worker}}, "cloud": {"devices": {"y": worker}}},
            "links": {
                "up": {
                    "from": "edge",
                    "to": "cloud",
                    "rtt_s": 0.01,
                    "bandwidth_bytes_per_s": 1e4,
                    "price_usd_per_gb": 3.0,
                },
                "down": {"from": "cloud", "to": "edge", "rtt_s": 0.02},
            },
            "classes": {"web": {"rate_rps": 10.0, "enters_at": "edge"}},
            **changes,
        }
    )


def profile(*flows: FlowRow) -> Profile:
    rows = []
    for stage, variant, device, seconds in (
        ("a", "s", "edge/x", 0.1), ("a", "s", "cloud/y", 0.05), ("b", "s", "cloud/y", 0.025), ("b", "s", "edge/x", 0.05)
    ):  # fmt: skip
        key = PointKey(stage, variant, "", "", "", "external", "", "{}", "cpu", device, "imported:csv", 1, 1, "{}")
        rows.append(Measurement(key, origin="imported", service=Quantiles(mean_s=seconds), status="ok"))
    return Profile(Path(), tuple(rows), (), flows, "0" * 64)


SPOTS = {
    "web": {
        "ask": [Spot("pass", "edge", 1.0)],
        "a": [Spot("s", "edge", 0.25), Spot("s", "cloud", 0.75)],
        "b": [Spot("l", "cloud", 1.0)],
    }
}


def test_flows_are_products_of_shares() -> None:
    spec, known = workload(), profile()
    found = proportional(spec, fan_outs(spec, known), payloads_of(spec, known), SPOTS)
    rates = {(c.leg, c.source_tier, c.target_tier): (c.rate_rps, c.bytes_per_s) for c in found}
    assert rates[Leg("", "ask"), "edge", "edge"] == (10.0, 0.0)
    assert rates[Leg("ask", "a"), "edge", "cloud"] == pytest.approx((7.5, 7500.0))
    assert rates[Leg("a", "b"), "edge", "cloud"] == pytest.approx((5.0, 500.0))
    assert rates[Leg("a", "b"), "cloud", "cloud"] == pytest.approx((15.0, 1500.0))
    assert rates[Leg("b", ""), "cloud", "edge"] == pytest.approx((20.0, 1000.0))
    bill = traffic(ways_of(spec), "proportional", found)
    assert bill.cost_usd_per_h == pytest.approx(8000 * HOUR_GB * 3.0)
    assert bill.links["up"].bytes_per_s == pytest.approx(8000.0)
    assert bill.links["down"].cost_usd_per_h == 0.0


def test_without_a_link_there_is_no_price() -> None:
    spec, known = workload(links={}), profile()
    found = proportional(spec, fan_outs(spec, known), payloads_of(spec, known), SPOTS)
    with pytest.raises(InputError, match="no link from edge to cloud"):
        traffic(ways_of(spec), "proportional", found)


def test_a_call_takes_the_round_trip_and_its_bytes() -> None:
    spec, known = workload(), profile()
    standing = [("web", "ask", "q", "pass", "edge"), ("web", "a", "e", "s", "edge"), ("web", "a", "c", "l", "cloud"),
                ("web", "b", "d", "s", "cloud")]  # fmt: skip
    delays = delays_of(spec, ways_of(spec), payloads_of(spec, known), standing)
    assert delays.entry_s == {}
    assert delays.transfer_s == pytest.approx({("q", "c"): 0.01 + 0.1, ("e", "d"): 0.01 + 0.01})
    assert delays.exit_s == pytest.approx({("web", "d"): 0.02})


def test_sizes_that_are_not_declared_are_those_observed() -> None:
    edges = [{"from": "ask", "to": "a", "payload_bytes": 1.0}, {"from": "a", "to": "b"}]
    spec = workload(pipeline={"edges": edges})
    seen = [FlowRow("a", "b", variant, "", 1.0, "[1]", size, 1, "") for variant, size in (("s", 7.0), ("l", 9.0))]
    sizes = payloads_of(spec, profile(*seen))
    assert [sizes.size_bytes(Leg("a", "b"), variant) for variant in "sl"] == [7.0, 9.0]
    assert sizes.differ(Leg("a", "b"), ["s", "l"])
    with pytest.raises(InputError, match="how much goes from a to b is not known for l"):
        payloads_of(spec, profile(seen[0]))


def test_legs_are_the_hops_of_a_request() -> None:
    assert legs_of(workload()) == (Leg("", "ask"), Leg("a", "b"), Leg("ask", "a"), Leg("b", ""))
    assert Leg("b", "") not in legs_of(workload(pipeline={"response_bytes": None}))


def test_a_deployment_is_priced_by_capacity_or_in_order() -> None:
    spec, known = workload(), profile()
    workers = [Worker("a", "s", "cloud/y"), Worker("a", "s", "edge/x"), Worker("b", "s", "cloud/y")]
    machines = {"cloud/y": 2, "edge/x": 1}
    fair = price(spec, known, workers, machines)
    assert fair.machines_usd_per_h == pytest.approx(1.5)
    # 10 calls/s: the cloud can take 20 of 30, so two thirds of 1000 bytes, and of 200 what comes from the edge.
    assert fair.traffic.links["up"].bytes_per_s == pytest.approx(10 * (1000 * 2 / 3 + 200 / 3))
    assert fair.spare == pytest.approx(2.0)
    filled = price(spec, known, workers, machines, "in_order")
    assert filled.traffic.links["up"].bytes_per_s == pytest.approx(10 * 1000)
    with pytest.raises(InputError, match="nothing answers stage b"):
        price(spec, known, workers[:2], machines)
