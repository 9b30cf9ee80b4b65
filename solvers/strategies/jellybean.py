"""JellyBean (Wu et al., PVLDB 16(3), 2022): models by beam search, then workers for each of the models found.

Taken from the paper and its published optimiser: models are assigned from the sink backwards; the 10 partial
assignments of least proxy cost are kept as long as the accuracy asked can still be reached. For each complete one
workers are assigned operator by operator, from the source on, in every tier that its inputs can be sent to (if one
worker carries the rate the cheapest such, else by price per request until the rate is carried); the 10 partial
placements of least cost, workers and traffic between tiers together, are kept, and the cheapest of all is taken. There
is no latency limit, no queue and no batching: capacity is one over the latency at batch 1, and a worker serves one
operator. There are as many workers as there are.

Where the published code differs from the paper: the beam ranks by a proxy cost that is an input file, not by cost;
the exact program it is compared with forbids traffic to a lower tier, its brute force allows it free of charge; the
knapsack that may allocate a tier's workers reads one fixed price for all of them. The gap of the shipped
configuration to the exact optimum on its own instance is 7.7 % on average over a grid of rates.

Ours: a worker is a replica, its price the replica's share of its machine; the proxy cost of a variant is its fastest
time at batch 1 times the calls per request. What can still be reached is the accuracy with the best variants at the
stages not assigned yet, as the workload composes it. An operator's workers are all of one kind and in one tier, as
classes that do not spread have it. Traffic goes where the workload has links, not only to higher tiers; its way back
to where requests come from is not weighed. Deployments are priced as all are: on whole, shared machines.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from inferplan.estimators.cost import fitting
from inferplan.estimators.transport import Leg, tier_of
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
    options,
    replica_usd_per_h,
    replicas_for,
    seconds,
)
from inferplan.solvers.tier_flows import home

BEAM_WIDTH = 10
_Sent = list[tuple[str, float]]


def propose(problem: Problem, tools: Tools) -> Solution:
    """The cheapest of the beam's model assignments, each with greedily chosen workers."""
    beams = beam(problem)
    if not beams:
        raise none_found("jellybean", "no model assignment keeps the accuracy asked")
    loads = loads_rps(problem)
    found = [deploy(problem, picks) for models in beams for picks in placements(problem, models, loads)]
    if not found:
        raise none_found("jellybean", "there are too few workers, or no links to them, for every model assignment")
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


@dataclass(frozen=True)
class _Placed:
    """Operators with workers so far: in which tier each of them is, and what workers and traffic cost."""

    cost_usd_per_h: float = 0.0
    picks: Mapping[str, Pick] = field(default_factory=dict)
    tiers: Mapping[str, str] = field(default_factory=dict)


def placements(problem: Problem, models: Mapping[str, str], loads: Mapping[str, float]) -> list[Mapping[str, Pick]]:
    """Workers for every operator, of least cost first."""
    states = [_Placed()]
    for stage in problem.stages:
        grown = [
            _with(problem, state, stage, models, loads, tier, pick)
            for state in states
            for tier in _reached(problem, state, stage, models)
            if (pick := workers(problem, stage, models[stage], loads[stage], tier, state.picks)) is not None
        ]
        states = sorted(grown, key=lambda state: (state.cost_usd_per_h, sorted(state.tiers.items())))[:BEAM_WIDTH]
    return [state.picks for state in states]


def _sent(problem: Problem, state: _Placed, stage: str, models: Mapping[str, str], load_rps: float) -> _Sent:
    """Where a stage's inputs come from: (tier, bytes per second)."""
    feeding = [edge.source for edge in problem.workload.pipeline.edges if edge.target == stage]
    if feeding:
        sizes = {source: problem.payloads.size_bytes(Leg(source, stage), models[source]) for source in feeding}
        return [(state.tiers[source], load_rps * size) for source, size in sizes.items()]
    size = problem.payloads.size_bytes(Leg("", stage), "")
    return [(home(problem, k), need.rate_rps * size) for k, need in enumerate(problem.classes)]


def _reached(problem: Problem, state: _Placed, stage: str, models: Mapping[str, str]) -> list[str]:
    """Tiers that all inputs of a stage can be sent to; a stage that is skipped is passed where its input is."""
    sources = [tier for tier, _ in _sent(problem, state, stage, models, 0.0)]
    if all(option.need is None for option in options(problem, stage, models[stage])):
        return sources[:1]
    return [tier for tier in problem.ways.tiers if all(problem.ways.open(source, tier) for source in sources)]


def _with(
    problem: Problem,
    state: _Placed,
    stage: str,
    models: Mapping[str, str],
    loads: Mapping[str, float],
    tier: str,
    pick: Pick,
) -> _Placed:
    tolls = sum(
        problem.ways.usd_per_h(source, tier, amount)
        for source, amount in _sent(problem, state, stage, models, loads[stage])
    )
    cost = state.cost_usd_per_h + pick.replicas * replica_usd_per_h(problem, pick.option) + tolls
    return _Placed(cost, {**state.picks, stage: pick}, {**state.tiers, stage: tier})


def workers(
    problem: Problem, stage: str, variant: str, load_rps: float, tier: str, taken: Mapping[str, Pick] | None = None
) -> Pick | None:
    """Workers of one kind for an operator: the cheapest that carries the rate alone, else the least price per call.
    `taken`: workers of other operators. None where the tier has too few."""
    own = [o for o in options(problem, stage, variant) if o.need is None or tier_of(o.device) == tier]
    single = [option for option in own if option.max_batch == 1] or own
    enough = [o for o in single if _left(problem, o, taken or {}) >= replicas_for(o, load_rps)]
    if not enough:
        return None
    alone = [option for option in enough if replicas_for(option, load_rps) <= 1]
    if alone:
        chosen = min(alone, key=lambda option: (replica_usd_per_h(problem, option), option.name))
    else:
        chosen = min(enough, key=lambda option: (_usd_per_call(problem, option), option.name))
    return Pick(chosen, replicas_for(chosen, load_rps))


def _usd_per_call(problem: Problem, option: Option) -> float:
    return 0.0 if option.service is None else replica_usd_per_h(problem, option) * option.service.mean_s(1)


def _left(problem: Problem, option: Option, taken: Mapping[str, Pick]) -> float:
    """How many replicas of an option there is room for beside what is taken, by shares of machines."""
    count = problem.devices[option.device].count if option.need is not None else None
    if count is None:
        return math.inf
    capacity = problem.devices[option.device].capacity
    used = sum(
        pick.replicas / fitting(capacity, pick.option.need)
        for pick in taken.values()
        if pick.option.need is not None and pick.option.device == option.device
    )
    assert option.need is not None
    return (count - used) * fitting(capacity, option.need) + 1e-9
