"""JellyBean (Wu et al., PVLDB 16(3), 2022): models by beam search, then workers for each of the models found.

Taken from the paper and its published optimiser: models are assigned from the sink backwards; the 10 partial
assignments of least proxy cost are kept as long as the accuracy asked can still be reached; for each complete one
workers are assigned operator by operator (if one worker carries the rate the cheapest such, else by price per
request until the rate is carried); the cheapest of them is taken. There is no latency limit, no queue and no
batching: capacity is one over the latency at batch 1, and a worker serves one operator.

Where the published code differs from the paper: the beam ranks by a proxy cost that is an input file, not by cost;
the exact program it is compared with forbids traffic to a lower tier, its brute force allows it free of charge; the
knapsack that may allocate a tier's workers reads one fixed price for all of them. The gap of the shipped
configuration to the exact optimum on its own instance is 7.7 % on average over a grid of rates.

Ours: a worker is a replica, its price the replica's share of its machine; the proxy cost of a variant is its fastest
time at batch 1 times the calls per request. What can still be reached is the accuracy with the best variants at the
stages not assigned yet, as the workload composes it. Deployments are priced as all are: on whole, shared machines.
"""

from __future__ import annotations

from collections.abc import Mapping

from inferplan.solvers.milp import Solution
from inferplan.solvers.options import Option
from inferplan.solvers.problem import Problem
from inferplan.solvers.strategies.tools import (
    Pick,
    Tools,
    deploy,
    heaviest,
    keeps_floor,
    loads_rps,
    none_found,
    replica_usd_per_h,
    replicas_for,
    seconds,
)

BEAM_WIDTH = 10


def propose(problem: Problem, tools: Tools) -> Solution:
    """The cheapest of the beam's model assignments, each with greedily chosen workers."""
    beams = beam(problem)
    if not beams:
        raise none_found("jellybean", "no model assignment keeps the accuracy asked")
    loads = loads_rps(problem)
    found = [deploy(problem, {s: workers(problem, s, models[s], loads[s]) for s in problem.stages}) for models in beams]
    return min(found, key=lambda solution: solution.cost_usd_per_h)


def beam(problem: Problem) -> list[dict[str, str]]:
    """Complete assignments of variants, of least proxy cost first."""
    loads = loads_rps(problem)
    best = {stage: heaviest(problem, stage) for stage in problem.stages}
    partial: list[tuple[float, dict[str, str]]] = [(0.0, {})]
    for stage in reversed(problem.stages):
        grown = []
        for cost, models in partial:
            for variant in problem.variants(stage):
                extended = {**models, stage: variant}
                if keeps_floor(problem, {**best, **extended}):
                    grown.append((cost + loads[stage] * seconds(problem, stage, variant), extended))
        partial = sorted(grown, key=lambda item: (item[0], sorted(item[1].items())))[:BEAM_WIDTH]
    return [models for _, models in partial]


def workers(problem: Problem, stage: str, variant: str, load_rps: float) -> Pick:
    """Workers of one kind for an operator: the cheapest that carries the rate alone, else the least price per call."""
    own = [option for option in problem.options(stage) if option.variant == variant and option.max_batch == 1]
    own = own or [option for option in problem.options(stage) if option.variant == variant]
    alone = [option for option in own if replicas_for(option, load_rps) <= 1]
    prices: Mapping[Option, float] = {}
    if alone:
        prices = {option: replica_usd_per_h(problem, option) for option in alone}
    else:
        prices = {
            option: replica_usd_per_h(problem, option) * option.service.mean_s(1)
            for option in own
            if option.service is not None
        }
    chosen = min(prices, key=lambda option: (prices[option], option.name))
    return Pick(chosen, replicas_for(chosen, load_rps))
