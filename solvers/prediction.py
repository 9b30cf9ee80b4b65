"""What a solution's simulation predicts, as the plan document states it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from inferplan.estimators.accuracy import AccuracyEstimate
from inferplan.estimators.network import Way
from inferplan.estimators.simulation import SimulationResult, StationResult, StreamResult
from inferplan.estimators.transport import traffic
from inferplan.solvers.assembly import deployed_option
from inferplan.solvers.bill import call_j
from inferplan.solvers.columns import Column
from inferplan.solvers.judge import Slowdowns
from inferplan.solvers.milp import Solution, instance
from inferplan.solvers.parts import routes_of, ways, whole
from inferplan.solvers.problem import ClassNeed, Problem
from inferplan.solvers.program import column_names
from inferplan.solvers.tier_flows import crossings
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
    Traffic,
    Verdict,
)


def options(solution: Solution, result: SimulationResult, slowdowns: Slowdowns) -> dict[str, DeployedOption]:
    """Deployed options by name, with what the simulation saw them do. `slowdowns`: of their replicas, for what runs
    beside them."""
    deployed: dict[str, DeployedOption] = {}
    for name, column in column_names(solution.columns).items():
        option = column.option
        predicted = _option_prediction(column, result.stations[name], slowdowns.get(name, ()))
        deployed[name] = deployed_option(option, column.replicas, predicted)
    return deployed


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
    own = instance(problem, solution)
    return traffic(problem.ways, problem.workload.routing, crossings(own, solution.columns))


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
