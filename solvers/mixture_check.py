"""The checker's part on classes whose requests go different ways: it shares no code with the solver or the estimators.

That shares and whole requests add up, that the routes are what the ways add up to, and that the mean accuracy over the
ways is what the plan says and keeps its floor.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping

from inferplan.solvers.accuracy_check import end_to_end, planned_end_to_end
from inferplan.spec.plan import ClassPlan, Plan
from inferplan.spec.profile import Profile
from inferplan.spec.workload import FanOut, Workload

RELATIVE = 1e-6


def flows(traffic: ClassPlan) -> Iterator[tuple[float, Mapping[str, Mapping[str, float]]]]:
    """Requests per second that are routed alike, with shares by stage and option."""
    for mixture in traffic.mixtures:
        yield traffic.rate_rps * mixture.share, {stage: {option: 1.0} for stage, option in mixture.routes.items()}
    if not traffic.mixtures:
        yield (
            traffic.rate_rps,
            {stage: {c.option: c.share for c in choices} for stage, choices in traffic.routes.items()},
        )


def check_mixtures(plan: Plan, workload: Workload, profile: Profile) -> Iterator[str]:
    """What is wrong with how classes are split."""
    for name, traffic in plan.classes.items():
        job = workload.classes[name].job
        if traffic.job_requests != (None if job is None else job.requests):
            yield f"class {name}: jobs of {traffic.job_requests} requests are not the workload's"
        if not traffic.mixtures:
            continue
        asked = workload.classes[name].level_of is not None
        if (workload.splitting is not True and job is None) or asked:
            yield f"class {name}: its requests go different ways, which the workload does not allow"
        if abs(math.fsum(mixture.share for mixture in traffic.mixtures) - 1) > RELATIVE:
            yield f"class {name}: the shares of its ways do not add up to 1"
        if job is not None:
            if sum(mixture.requests or 0 for mixture in traffic.mixtures) != job.requests:
                yield f"class {name}: its ways do not serve all {job.requests} requests of a job"
            for mixture in traffic.mixtures:
                if not math.isclose(mixture.share, (mixture.requests or 0) / job.requests, rel_tol=RELATIVE):
                    yield f"class {name}: {mixture.requests} of {job.requests} requests are not {mixture.share:.6g}"
        yield from _routes(plan, name, traffic, workload, profile)
        yield from _accuracy(plan, name, traffic, workload, profile)


def _routes(plan: Plan, name: str, traffic: ClassPlan, workload: Workload, profile: Profile) -> Iterator[str]:
    for stage in workload.pipeline.stages:
        calls: dict[str, float] = {}
        for mixture in traffic.mixtures:
            option = mixture.routes[stage]
            made = mixture.share * _calls(plan, mixture.routes, stage, workload, profile)
            calls[option] = calls.get(option, 0.0) + made
        total = math.fsum(calls.values())
        said = {choice.option: choice.share for choice in traffic.routes[stage]}
        if set(said) != set(calls):
            yield f"class {name}, stage {stage}: its routes are not those of its ways"
        elif total > 0 and any(not math.isclose(said[o], calls[o] / total, rel_tol=1e-5) for o in calls):
            yield f"class {name}, stage {stage}: shares {said} are not what its ways add up to"


def _calls(plan: Plan, routes: Mapping[str, str], stage: str, workload: Workload, profile: Profile) -> float:
    """Calls of a stage per request that goes this way."""
    feeding = [edge for edge in workload.pipeline.edges if edge.target == stage]
    if not feeding:
        return 1.0
    edge = feeding[0]
    above = _calls(plan, routes, edge.source, workload, profile)
    if isinstance(edge.fan_out, FanOut):
        weights = math.fsum(edge.fan_out.weights)
        pairs = zip(edge.fan_out.values, edge.fan_out.weights, strict=True)
        return above * math.fsum(value * weight for value, weight in pairs) / weights
    if edge.fan_out != "measured":
        return above * float(edge.fan_out)
    choice = _choice(plan, routes[edge.source])
    for row in reversed(profile.flows):
        own = f"{row.variant}@{row.modalities}" if row.modalities else row.variant
        if (row.source, row.target, own) == (edge.source, edge.target, choice):
            counts = json.loads(row.fan_outs)
            return above * math.fsum(counts) / len(counts)
    return 0.0


def _choice(plan: Plan, option: str) -> str:
    deployed = plan.options[option]
    return f"{deployed.variant}@{'+'.join(sorted(deployed.modalities))}" if deployed.modalities else deployed.variant


def _accuracy(plan: Plan, name: str, traffic: ClassPlan, workload: Workload, profile: Profile) -> Iterator[str]:
    if workload.accuracy is None:
        return
    mean: float | None = 0.0
    planned: float | None = 0.0
    for mixture in traffic.mixtures:
        way = {stage: _choice(plan, option) for stage, option in mixture.routes.items()}
        value = end_to_end(way, workload, profile)
        stated = None if mixture.accuracy is None else mixture.accuracy.value
        if (value is None) != (stated is None) or (
            value is not None and stated is not None and not math.isclose(value, stated, rel_tol=RELATIVE)
        ):
            yield f"class {name}: a way has accuracy {value}, the plan says {stated}"
        mean = None if mean is None or value is None else mean + mixture.share * value
        bound = planned_end_to_end(way, workload, profile, mixture.accuracy)
        planned = None if planned is None or bound is None else planned + mixture.share * bound
    said = traffic.predicted.accuracy
    if (mean is None) != (said is None) or (
        mean is not None and said is not None and not math.isclose(mean, said.value, rel_tol=RELATIVE)
    ):
        yield f"class {name}: its mean accuracy is {mean}, the plan says {said.value if said else None}"
    job = workload.classes[name].job
    floor = workload.classes[name].accuracy.floor if job is None else job.mean_accuracy
    if floor is not None:
        sign = 1.0 if workload.accuracy.metric.direction == "maximize" else -1.0
        if planned is None or sign * planned < sign * floor - 1e-9:
            yield f"class {name}: mean accuracy {planned} does not keep its floor {floor}"
