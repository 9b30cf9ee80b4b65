"""Writing the plan document from a solution and its simulation."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from inferplan.estimators.accuracy import AccuracyEstimate
from inferplan.estimators.interference import measured_on
from inferplan.estimators.network import Way
from inferplan.estimators.points import where
from inferplan.estimators.simulation import SimulationResult, StationResult, StreamResult
from inferplan.estimators.transport import traffic
from inferplan.solvers.bill import call_j
from inferplan.solvers.columns import Column
from inferplan.solvers.judge import Slowdowns
from inferplan.solvers.milp import Solution
from inferplan.solvers.options import Option
from inferplan.solvers.parts import routes_of, ways, whole
from inferplan.solvers.problem import ClassNeed, Problem
from inferplan.solvers.program import column_names
from inferplan.solvers.tier_flows import crossings
from inferplan.spec.document import LoadedWorkload
from inferplan.spec.plan import (
    Certificate,
    Choice,
    ClassCertificate,
    ClassPlan,
    ClassPrediction,
    DeployedOption,
    Estimate,
    Mixture,
    OptionPrediction,
    ProfileSource,
    Traffic,
    Verdict,
    WorkloadSource,
)
from inferplan.spec.profile import Profile
from inferplan.spec.stage import Choice as StageChoice
from inferplan.spec.workload import Objective


def workload_source(loaded: LoadedWorkload, plan_dir: Path) -> WorkloadSource:
    """The workload, by its path from the folder of the plan."""
    path = os.path.relpath(loaded.path.resolve(), plan_dir.resolve())
    return WorkloadSource(path=Path(path).as_posix(), sha256=loaded.sha256, overrides=list(loaded.overrides))


def safe_name(name: str) -> str:
    """A name for a plan."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", name)


def left_out(problem: Problem, profile: Profile) -> list[str]:
    """What was not considered, and why."""
    points, table = problem.points, problem.table
    lines = [*points.stale, *problem.interference.stale, *points.superseded, *table.excluded, *profile.damaged]
    return [f"not considered: {line}" for line in lines]


def profile_source(
    profile: Profile, problem: Problem, deployed: Iterable[Option], alone: Sequence[str]
) -> ProfileSource:
    """The profile: the machines that the chosen options were measured on, and what is not as good as a fresh
    measurement of just this. `alone`: choices that share machines and were never measured beside others."""
    fingerprints: set[str] = set()
    stale: set[str] = set()
    found: dict[str, set[str]] = {"interpolated": set(), "imported": set()}
    devices = problem.workload.devices()
    for option in deployed:
        if option.service is None:
            continue
        place = (option.stage, option.variant, measured_on(devices, option.device), option.provider)
        stale |= {problem.points.aged[place]} if place in problem.points.aged else set()
        for point in option.service.points:
            row = point.row
            if row is not None and row.origin != "imported":
                fingerprints.add(row.key.device_fingerprint)
            if row is not None and row.origin in found and point.batch <= option.max_batch:
                source = f" from {row.source}" if row.origin == "imported" and row.source else ""
                found[row.origin].add(f"{where(row)}{source}")
    return ProfileSource(
        sha256=profile.sha256,
        fingerprints=sorted(fingerprints),
        stale=sorted(stale),
        interpolated=sorted(found["interpolated"]),
        imported=sorted(found["imported"]),
        alone=list(alone),
    )


def objective_text(objective: Objective) -> str:
    """The objective in words."""
    budget = "" if objective.budget_usd_per_h is None else f", budget {objective.budget_usd_per_h:g} USD/h"
    if objective.maximize is not None:
        return f"maximize {objective.maximize}{budget}"
    if objective.weights:
        weighed = [f"{weight:g} {name}" for name, weight in sorted(objective.weights.items()) if weight > 0]
        return f"weigh {', '.join(weighed)}{budget}"
    if objective.lexicographic:
        tolerance = f", each within {objective.tolerance:g}" if objective.tolerance else ""
        return f"{', then '.join(objective.lexicographic)}{tolerance}{budget}"
    return f"minimize {objective.minimize}{budget}"


def options(solution: Solution, result: SimulationResult, slowdowns: Slowdowns) -> dict[str, DeployedOption]:
    """Deployed options by name, with what the simulation saw them do. `slowdowns`: of their replicas, for what runs
    beside them."""
    deployed: dict[str, DeployedOption] = {}
    for name, column in column_names(solution.columns).items():
        option = column.option
        predicted = _option_prediction(column, result.stations[name], slowdowns.get(name, ()))
        deployed[name] = deployed_option(option, column.replicas, predicted)
    return deployed


def deployed_option(option: Option, replicas: int, predicted: OptionPrediction) -> DeployedOption:
    """An option as the plan states it."""
    chosen = StageChoice.parse(option.variant)
    return DeployedOption(
        stage=option.stage,
        variant=chosen.variant,
        modalities=list(chosen.modalities),
        runtime=option.runtime,
        provider=option.provider,
        device=option.device,
        model_sha256=option.model_sha256,
        threads=option.threads,
        max_batch=option.max_batch,
        max_queue_delay_s=option.max_queue_delay_s,
        order="edf" if option.order == "edf" else None,
        replicas=replicas,
        memory_bytes=option.memory_bytes,
        gpu_memory_bytes=option.gpu_memory_bytes,
        shares_gpu=bool(option.company),
        load_s=option.load_s,
        predicted=predicted,
    )


def _option_prediction(column: Column, seen: StationResult, factors: Sequence[float]) -> OptionPrediction:
    service = column.option.service
    slower = len(factors) / math.fsum(1 / factor for factor in factors) if factors else 1.0
    capacity = None
    if service is not None:
        capacity = column.replicas * service.capacity_per_s(column.option.max_batch) / slower
    return OptionPrediction(
        load_rps=seen.load_rps,
        capacity_rps=capacity,
        utilisation=0.0 if capacity is None else seen.utilisation,
        batch_mean=1.0 if capacity is None else seen.batch_mean,
        latency_mean_s=seen.latency_mean_s,
        latency_tail_s=seen.latency_tail_s,
        interference=slower,
        energy_j=call_j(column),
    )


def class_plans(
    problem: Problem, solution: Solution, result: SimulationResult, accuracies: Mapping[str, AccuracyEstimate | None]
) -> dict[str, ClassPlan]:
    """How every class is served and what it may expect."""
    names = column_names(solution.columns)
    plans: dict[str, ClassPlan] = {}
    split, routed = ways(problem, names), routes_of(problem, names)
    for need in whole(problem):
        routes = {
            stage: [Choice(option=name, share=share) for name, share in choices]
            for stage, choices in routed[need.name].items()
        }
        found = split[need.name]
        level = problem.workload.classes[need.name].level_of
        plans[need.name] = ClassPlan(
            rate_rps=need.rate_rps,
            trace_sha256=need.trace_sha256,
            slo_percentile=need.percentile if need.limit_s is not None else None,
            slo_latency_s=need.limit_s,
            accuracy_floor=need.floor,
            accuracy_goal=need.goal,
            asked_of=None if level is None else level[0],
            job_requests=need.burst if problem.workload.classes[need.name].kind == "jobs" else None,
            routes=routes,
            mixtures=[_mixture(problem, way, names) for way in found] if len(found) > 1 else [],
            predicted=_class_prediction(need, result.streams[need.name], accuracies[need.name]),
        )
    return plans


def _mixture(problem: Problem, way: Way, names: Mapping[str, Column]) -> Mixture:
    """One way of a class, with the accuracy of the requests that go it."""
    model = problem.estimated or problem.accuracy
    variants = {stage: names[station].option.variant for stage, station in way.stations.items()}
    return Mixture(
        share=way.share,
        requests=way.requests,
        routes=dict(way.stations),
        accuracy=_estimate(None if model is None else model.of(variants)),
    )


def _estimate(found: AccuracyEstimate | None) -> Estimate | None:
    return None if found is None else Estimate(value=found.value, lower=found.lower, upper=found.upper)


def _class_prediction(need: ClassNeed, seen: StreamResult, accuracy: AccuracyEstimate | None) -> ClassPrediction:
    return ClassPrediction(
        latency_mean_s=seen.latency_mean_s,
        latency_p50_s=seen.latency_p50_s,
        latency_p90_s=seen.latency_p90_s,
        latency_p99_s=seen.latency_p99_s,
        latency_slo_s=seen.latency_slo_s,
        # Every queue is stable, so what arrives is answered, or was shed.
        throughput_rps=need.rate_rps * (1 - seen.unanswered / seen.requests),
        accuracy=_estimate(accuracy),
        accuracy_source=None if accuracy is None else accuracy.source,
    )


def certificate(problem: Problem, result: SimulationResult, verdict: Verdict) -> Certificate:
    """The simulation's verdict on every class that was promised a latency; `verdict`: of all that was judged."""
    return Certificate(
        verdict=verdict, judged_on="simulation", seed=result.seed, classes=class_certificates(problem, result)
    )


def network(problem: Problem, solution: Solution) -> Traffic | None:
    """What goes over the network; None where there is one tier."""
    if len(problem.ways.tiers) == 1:
        return None
    return traffic(problem.ways, problem.workload.routing, crossings(problem, solution.columns))


def class_certificates(problem: Problem, result: SimulationResult) -> dict[str, ClassCertificate]:
    """The verdict on every class with a latency promise."""
    classes: dict[str, ClassCertificate] = {}
    for need in whole(problem):
        seen = result.streams[need.name]
        if need.limit_s is not None and seen.verdict is not None and seen.latency_slo_s is not None:
            classes[need.name] = ClassCertificate(
                verdict=seen.verdict,
                latency_s=seen.latency_slo_s,
                limit_s=need.limit_s,
                percentile=need.percentile,
                requests=seen.requests,
            )
    return classes
