"""The checker's part on traffic: it shares no code with the solver or the estimators.

From the plan's routes, the workload's links and the sizes of calls it computes anew what goes between tiers: that there
is a link wherever calls go, that it carries them, and what they cost. Where routing is tier-aware the plan's own flows
are taken, and held against the shares of the stages they join.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping

from inferplan.spec.plan import Choice, ClassPlan, Plan
from inferplan.spec.profile import Profile
from inferplan.spec.workload import Edge, FanOut, Link, Workload

RELATIVE = 1e-6
ABSOLUTE = 1e-7
BYTES_PER_GB = 2**30
SECONDS_PER_HOUR = 3600

Flows = dict[tuple[str, str, str, str], float]
"""Calls per second by (from stage, to stage, from tier, to tier); no stage is the world outside."""


def check_traffic(plan: Plan, workload: Workload, profile: Profile) -> Iterator[str]:
    """What is wrong with what a plan says of its traffic."""
    if len(workload.tiers) == 1:
        return
    if plan.traffic is None:
        yield "the plan says nothing of its traffic"
        return
    links = {(link.source, link.target): link for link in workload.links.values()}
    carried: dict[tuple[str, str], float] = {}
    for name, traffic in plan.classes.items():
        said = _said(plan, name)
        flows: Flows = {}
        for way in _ways(plan, name):
            ruled = workload.routing == "tier_aware" and not traffic.mixtures
            own = said if ruled else products(way, name, workload, profile)
            yield from _transports(way, name, own, workload, profile)
            for key, rate in own.items():
                flows[key] = flows.get(key, 0.0) + rate
                if key[2] != key[3]:
                    size = size_bytes(key, way.classes[name], way, workload, profile)
                    carried[key[2:]] = carried.get(key[2:], 0.0) + rate * size
        for key in sorted({*flows, *said}):
            if not math.isclose(flows.get(key, 0.0), said.get(key, 0.0), rel_tol=RELATIVE, abs_tol=ABSOLUTE):
                yield f"class {name}: {flows.get(key, 0.0):.9g} calls/s go {words(key)}, the plan says {said.get(key)}"
        for key, rate in flows.items():
            if key[2] != key[3] and key[2:] not in links and rate > ABSOLUTE:
                yield f"class {name}: {rate:.9g} calls/s go {words(key)}, and there is no link"
    yield from _links(plan, workload, carried)


def _ways(plan: Plan, name: str) -> Iterator[Plan]:
    """The plan as the requests of each of a class's ways meet it: all of the class, which is so much smaller, go it."""
    traffic = plan.classes[name]
    for mixture in traffic.mixtures:
        routes = {stage: [Choice(option=option, share=1.0)] for stage, option in mixture.routes.items()}
        alone = {"rate_rps": traffic.rate_rps * mixture.share, "routes": routes, "mixtures": []}
        yield plan.model_copy(update={"classes": {**plan.classes, name: traffic.model_copy(update=alone)}})
    if not traffic.mixtures:
        yield plan


def _links(plan: Plan, workload: Workload, carried: Mapping[tuple[str, str], float]) -> Iterator[str]:
    assert plan.traffic is not None
    cost = 0.0
    for name, link in sorted(workload.links.items()):
        load = carried.get((link.source, link.target), 0.0)
        cost += _usd_per_h(link, load)
        said = plan.traffic.links.get(name)
        if not math.isclose(load, said.bytes_per_s if said else 0.0, rel_tol=RELATIVE, abs_tol=1e-3):
            yield f"link {name}: {load:.9g} bytes/s cross it, the plan says {said.bytes_per_s if said else 0.0:.9g}"
        width = link.bandwidth_bytes_per_s
        most = load * max([1.0, *workload.robustness.load_levels])
        if width is not None and most > width * (1 + RELATIVE):
            yield f"link {name}: {most:.9g} bytes/s on {width:.9g}"
    billed = plan.costs.network_usd_per_h if plan.costs is not None else 0.0
    for claim in (plan.traffic.cost_usd_per_h, billed):
        if not math.isclose(cost, claim, rel_tol=RELATIVE, abs_tol=1e-9):
            yield f"traffic costs {cost:.9g} USD/h, the plan says {claim:.9g}"


def _usd_per_h(link: Link, bytes_per_s: float) -> float:
    return bytes_per_s * SECONDS_PER_HOUR / BYTES_PER_GB * link.price_usd_per_gb


def _said(plan: Plan, name: str) -> Flows:
    assert plan.traffic is not None
    flows: Flows = {}
    for flow in plan.traffic.flows.get(name, []):
        key = (flow.source or "", flow.target or "", flow.from_tier, flow.to_tier)
        flows[key] = flows.get(key, 0.0) + flow.rate_rps
    return flows


def products(plan: Plan, name: str, workload: Workload, profile: Profile) -> Flows:
    """Flows where senders know no tiers: the product of both ends' shares."""
    flows: Flows = {}
    for source, target in _legs(workload):
        calls = calls_rps(plan, name, target or source, workload, profile)
        senders, receivers = _spread(plan, name, source, workload), _spread(plan, name, target, workload)
        passed = source and target and _skipped(plan, name, target)
        for tier, share in senders.items():
            for other, part in ({tier: 1.0} if passed else receivers).items():
                if share * part > 0:
                    flows[source, target, tier, other] = calls * share * part
    return flows


def _transports(plan: Plan, name: str, flows: Flows, workload: Workload, profile: Profile) -> Iterator[str]:
    """Whether flows add up to the shares of the stages that they join."""
    for source, target in _legs(workload):
        calls = calls_rps(plan, name, target or source, workload, profile)
        for end, stage in ((2, source), (3, target)):
            sums: dict[str, float] = {}
            for key, rate in flows.items():
                if key[:2] == (source, target):
                    sums[key[end]] = sums.get(key[end], 0.0) + rate
            shares = _spread(plan, name, stage, workload)
            for tier in sorted({*shares, *sums}):
                expected, seen = shares.get(tier, 0.0) * calls, sums.get(tier, 0.0)
                if not math.isclose(seen, expected, rel_tol=1e-5, abs_tol=calls * 1e-6):
                    leg = f"from {source or 'outside'} to {target or 'outside'}"
                    yield f"class {name}: {seen:.9g} of the calls {leg} are in {tier}, by their shares {expected:.9g}"


def _legs(workload: Workload) -> list[tuple[str, str]]:
    pipeline = workload.pipeline
    legs = [("", stage) for stage in pipeline.entry_stages()]
    legs += [(edge.source, edge.target) for edge in pipeline.edges]
    return legs + ([(stage, "") for stage in pipeline.last_stages()] if pipeline.response_bytes is not None else [])


def _spread(plan: Plan, name: str, stage: str, workload: Workload) -> dict[str, float]:
    """Shares of a class's calls of a stage by tier; a stage that is skipped is where its input is."""
    if not stage:
        home = workload.classes[name].enters_at
        return {home or next(iter(workload.tiers)): 1.0}
    shares: dict[str, float] = {}
    for choice in plan.classes[name].routes[stage]:
        option = plan.options[choice.option]
        if option.runtime == "skip":
            feeding = [edge.source for edge in workload.pipeline.edges if edge.target == stage]
            return _spread(plan, name, feeding[0] if feeding else "", workload)
        tier = option.device.split("/")[0]
        shares[tier] = shares.get(tier, 0.0) + choice.share
    return shares


def _skipped(plan: Plan, name: str, stage: str) -> bool:
    return all(plan.options[choice.option].runtime == "skip" for choice in plan.classes[name].routes[stage])


def _choice(plan: Plan, traffic: ClassPlan, stage: str) -> str:
    option = plan.options[traffic.routes[stage][0].option]
    return f"{option.variant}@{'+'.join(sorted(option.modalities))}" if option.modalities else option.variant


def size_bytes(
    key: tuple[str, str, str, str], traffic: ClassPlan, plan: Plan, workload: Workload, profile: Profile
) -> float:
    """Bytes of a call."""
    source, target = key[:2]
    if not source:
        return workload.pipeline.request_bytes
    if not target:
        return workload.pipeline.response_bytes or 0.0
    edge = _edge(workload, source, target)
    chosen = _choice(plan, traffic, source)
    if edge.payload_bytes is None:
        for row in profile.flows:
            name = f"{row.variant}@{row.modalities}" if row.modalities else row.variant
            if (row.source, row.target, name) == (source, target, chosen):
                return row.payload_bytes_mean or 0.0
        return 0.0
    return edge.payload_bytes[chosen] if isinstance(edge.payload_bytes, dict) else edge.payload_bytes


def _edge(workload: Workload, source: str, target: str) -> Edge:
    return next(e for e in workload.pipeline.edges if (e.source, e.target) == (source, target))


def calls_rps(plan: Plan, name: str, stage: str, workload: Workload, profile: Profile) -> float:
    """Calls per second of a class at a stage, along the first of the edges that feed it."""
    feeding = [edge for edge in workload.pipeline.edges if edge.target == stage]
    if not feeding:
        return plan.classes[name].rate_rps
    edge = feeding[0]
    calls = calls_rps(plan, name, edge.source, workload, profile)
    if isinstance(edge.fan_out, FanOut):
        return calls * edge.fan_out.mean
    if edge.fan_out != "measured":
        return calls * edge.fan_out
    chosen = _choice(plan, plan.classes[name], edge.source)
    for row in profile.flows:
        own = f"{row.variant}@{row.modalities}" if row.modalities else row.variant
        if (row.source, row.target, own) == (edge.source, edge.target, chosen):
            counts = json.loads(row.fan_outs)
            return calls * math.fsum(counts) / len(counts)
    return calls


def words(key: tuple[str, str, str, str]) -> str:
    return f"from {key[0] or 'outside'} in {key[2]} to {key[1] or 'outside'} in {key[3]}"
