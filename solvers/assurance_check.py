"""Independent check of what a plan says it withstands.

Part of `checker`; shares no code with the solver or the estimators. Bounds, load levels, headroom and spares are
recomputed from the workload and the profile's rows: whatever machines of one type are lost, what is left of every
option must carry its load at the highest level.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import NormalDist

from inferplan.spec.plan import DeployedOption, Plan
from inferplan.spec.rows import AccuracyRow, Measurement
from inferplan.spec.workload import TrafficClass, Workload

RELATIVE = 1e-6


def planned_mean_s(row: Measurement, workload: Workload) -> float | None:
    """Mean service time of a row as it was planned with: its estimate, or its upper bound at the confidence asked."""
    mean, upper, confidence = row.service.mean_s, row.service.mean_upper_s, workload.robustness.confidence
    if mean is None or upper is None or confidence is None:
        return mean
    if row.origin == "interpolated":
        return max(mean, upper)
    normal = NormalDist()
    return mean + max(upper - mean, 0.0) * normal.inv_cdf(confidence) / normal.inv_cdf(0.975)


def planned_accuracy(row: AccuracyRow, workload: Workload, direction: str) -> float | None:
    """Accuracy of a row as it was planned with: its value, or its worse bound at the confidence asked."""
    confidence = workload.robustness.confidence
    worse = row.lower if direction == "maximize" else row.upper
    if row.value is None or worse is None or confidence is None:
        return row.value
    normal = NormalDist()
    return row.value - (row.value - worse) * normal.inv_cdf(confidence) / normal.inv_cdf(0.975)


def check_assurance(plan: Plan, workload: Workload) -> Iterator[str]:
    """What is wrong with the plan's assurance."""
    asked, said = workload.robustness, plan.assurance
    if (said is None) != (not asked.asked):
        yield "robustness is asked for and the plan states none, or the other way round"
    if said is None:
        return
    levels = sorted({*asked.load_levels} - {1.0})
    if said.load_levels != levels or said.confidence != asked.confidence or said.headroom != asked.headroom:
        yield "the plan withstands something else than the workload asks"
    top = max([1.0, *levels])
    for name, option in plan.options.items():
        predicted = option.predicted
        if predicted.capacity_rps is None:
            continue
        load = predicted.load_rps * top
        if load > predicted.capacity_rps * (1 - asked.headroom) * (1 + RELATIVE):
            of = f"{load:.9g} calls/s of {predicted.capacity_rps:.9g}"
            yield f"option {name}: {of} leave no headroom of {asked.headroom:g}"
        if workload.splitting != "devices":
            yield from _left(name, option, plan, load)
    if workload.splitting == "devices":
        yield from _pools_left(plan, workload, top)
    yield from _spares(plan, workload)
    yield from _cases(plan, workload, levels, top)
    if said.plain_cost_usd_per_h is not None:
        extra = plan.cost_usd_per_h - said.plain_cost_usd_per_h
        if said.extra_usd_per_h is None or abs(extra - said.extra_usd_per_h) > RELATIVE * max(plan.cost_usd_per_h, 1.0):
            yield f"the assurance costs {extra:.9g} USD/h, the plan says {said.extra_usd_per_h}"


def _left(name: str, option: DeployedOption, plan: Plan, load_rps: float) -> Iterator[str]:
    """What is left of an option after the worst loss must carry its load; times as without neighbours at best."""
    assert plan.assurance is not None
    lost = plan.assurance.spare_machines.get(option.device, 0)
    held = sorted(
        (sum(p.replicas for p in machine if p.option == name) for machine in plan.machines[option.device].packing),
        reverse=True,
    )
    left = option.replicas - sum(held[:lost])
    if (
        lost
        and left * (option.predicted.capacity_rps or 0.0) * option.predicted.interference <= load_rps * option.replicas
    ):
        yield f"option {name}: {left} of {option.replicas} replicas are left without {lost} machines: too few"


def _pools_left(plan: Plan, workload: Workload, top: float) -> Iterator[str]:
    """Where classes spread, what is left of a choice's options in a tier takes over from one another: after the worst
    loss of every device type it must carry their load; times as without neighbours at best."""
    assert plan.assurance is not None
    pools: dict[tuple[str, str, tuple[str, ...], str], list[str]] = {}
    for name, option in plan.options.items():
        if option.replicas:
            key = (option.stage, option.variant, tuple(sorted(option.modalities)), option.device.split("/")[0])
            pools.setdefault(key, []).append(name)
    most = min(workload.max_utilisation, 1 - workload.robustness.headroom)
    stages: dict[str, float] = {}
    for option in plan.options.values():
        stages[option.stage] = stages.get(option.stage, 0.0) + option.predicted.load_rps
    for names in pools.values():
        load = top * math.fsum(plan.options[name].predicted.load_rps for name in names)
        each = {}
        for name in names:
            option = plan.options[name]
            each[name] = (option.predicted.capacity_rps or 0.0) * option.predicted.interference / option.replicas
        whole = math.fsum(each[name] * plan.options[name].replicas for name in names)
        for device, lost in plan.assurance.spare_machines.items():
            held = sorted(
                (
                    math.fsum(each[p.option] * p.replicas for p in machine if p.option in each)
                    for machine in plan.machines[device].packing
                ),
                reverse=True,
            )
            left = whole - math.fsum(held[:lost])
            # Shares are told apart to a millionth.
            if load > left * most * (1 + RELATIVE) + RELATIVE * top * stages[plan.options[names[0]].stage]:
                yield f"{', '.join(sorted(names))}: {left:.9g} calls/s of {load:.9g} are left without {lost} {device}"


def _spares(plan: Plan, workload: Workload) -> Iterator[str]:
    asked, said = workload.robustness, plan.assurance
    assert said is not None
    for device, bought in plan.machines.items():
        spares = said.spare_machines.get(device, 0)
        if spares < asked.spare_machines:
            yield f"{device}: {spares} spare machines, {asked.spare_machines} are asked for"
        if asked.availability is not None:
            gone = bought.lost_share or 0.0
            fine = math.fsum(
                math.comb(bought.count, k) * gone**k * (1 - gone) ** (bought.count - k)
                for k in range(min(spares, bought.count) + 1)
            )
            if fine < asked.availability - 1e-12:
                yield f"{device}: no more than {spares} machines are gone for {fine:.9g} of the time only"


def _cases(plan: Plan, workload: Workload, levels: list[float], top: float) -> Iterator[str]:
    """Every level, and at the highest the loss of machines of every type that may be lost, was judged."""
    said, certificate = plan.assurance, plan.certificate
    assert said is not None
    judged = {case.rate_scale for case in said.cases if not case.lost}
    yield from (f"load x {level:g} was not judged" for level in levels if level not in judged)
    for device, count in said.spare_machines.items():
        if not any(dict(case.lost) == {device: count} and case.rate_scale == top for case in said.cases):
            yield f"{device}: the loss of {count} machines was not judged"
    order = ("missed", "undecided", "met")
    worst = min((order.index(case.verdict) for case in said.cases), default=2)
    if certificate is not None and order.index(certificate.verdict) > worst:
        yield f"certified as {certificate.verdict}, though a case is {order[worst]}"
    for case in said.cases:
        for name, claim in case.classes.items():
            if (claim.limit_s, claim.percentile) != promised(workload.classes[name]):
                yield f"case {case.name}, class {name}: judged by another SLO than the workload's"
            if claim.verdict == "met" and (claim.latency_s.upper is None or claim.latency_s.upper > claim.limit_s):
                yield f"case {case.name}, class {name}: said to be met, but it may not be"


def promised(traffic: TrafficClass) -> tuple[float, float] | None:
    """Latency and percentile that a class was promised; a class of jobs its deadline, for 99 % unless it says other."""
    if traffic.job is not None:
        return traffic.job.deadline_s, traffic.slo.percentile if traffic.slo else 99.0
    return (traffic.slo.latency_s, traffic.slo.percentile) if traffic.slo else None
