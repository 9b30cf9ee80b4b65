"""InferLine (Crankshaw et al., SoCC 2020): greedy descent from a fast deployment, judged by simulation.

Taken from the paper's planner: it begins with batch 1, the fastest hardware and as many replicas as carry the load,
adding one at the stage of least capacity until the simulated latency keeps the limit; if batch 1 on the fastest
hardware cannot, there is no plan. Then, again and again, of three actions at every stage (double the batch, remove a
replica, move to cheaper hardware with as many replicas as the load needs there) it takes the one that saves most
among those whose simulation keeps the limit, until none saves anything. An action that saves nothing by itself (a
larger batch) counts with the replica that it spares.

Where the published code differs from the paper: the planner is not in the public repository that we know of; this
follows the paper.

InferLine does not choose models. It is given those that keep the floor in the least time (as `mosel` finds them), and
costs are those of whole machines, as for every strategy.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

from inferplan.estimators.simulation import Effort
from inferplan.solvers.milp import Solution
from inferplan.solvers.options import Option
from inferplan.solvers.problem import Problem
from inferplan.solvers.strategies.mosel import fastest
from inferplan.solvers.strategies.tools import (
    Pick,
    Tools,
    deploy,
    loads_rps,
    none_found,
    options,
    replica_usd_per_h,
    replicas_for,
    undelayed,
)

GLANCE = Effort(calls=100_000)
"""Simulation of a candidate: the paper's estimator replays a short trace."""
MAX_ADDED = 40


def propose(problem: Problem, tools: Tools) -> Solution:
    """A deployment from which no single action saves anything."""
    deadline = tools.deadline()
    variants = fastest(problem)
    if variants is None:
        raise none_found("inferline", "no combination of variants keeps the floor")
    loads = loads_rps(problem)
    picks = _begin(problem, tools, variants, loads)
    cost = _worth(problem, picks)
    while time.monotonic() < deadline:
        tried = [
            (_worth(problem, other), number, other) for number, other in enumerate(_actions(problem, picks, loads))
        ]
        better = sorted(item for item in tried if item[0] < cost)
        kept = next((item for item in better if _keeps(problem, tools, item[2])), None)
        if kept is None:
            break
        cost, _, picks = kept
    return deploy(problem, picks)


def _worth(problem: Problem, picks: Mapping[str, Pick]) -> tuple[float, float]:
    """What is saved: machines first, then the share of machines that replicas take."""
    shares = sum(pick.replicas * replica_usd_per_h(problem, pick.option) for pick in picks.values())
    return round(deploy(problem, picks).cost_usd_per_h, 9), round(shares, 9)


def _keeps(problem: Problem, tools: Tools, picks: Mapping[str, Pick]) -> bool:
    return tools.judge.judge(deploy(problem, picks), GLANCE).verdict != "missed"


def _begin(problem: Problem, tools: Tools, variants: Mapping[str, str], loads: Mapping[str, float]) -> dict[str, Pick]:
    """Batch 1 on the fastest hardware, with replicas until the limit is kept."""
    picks = {}
    for stage in problem.stages:
        own = undelayed(options(problem, stage, variants[stage]))
        first = min(own, key=lambda o: (o.max_batch, 0.0 if o.service is None else o.service.mean_s(1), o.name))
        picks[stage] = Pick(first, replicas_for(first, loads[stage]))
    for _ in range(MAX_ADDED):
        if _keeps(problem, tools, picks):
            return picks
        busiest = max(picks, key=lambda stage: (_busy(picks[stage], loads[stage]), stage))
        picks[busiest] = Pick(picks[busiest].option, picks[busiest].replicas + 1)
    raise none_found("inferline", "batch 1 on the fastest hardware misses the limit")


def _busy(pick: Pick, load_rps: float) -> float:
    service = pick.option.service
    return 0.0 if service is None else load_rps / (pick.replicas * service.capacity_per_s(pick.option.max_batch))


def _actions(problem: Problem, picks: Mapping[str, Pick], loads: Mapping[str, float]) -> Iterator[dict[str, Pick]]:
    """Every deployment that one action leads to."""
    for stage, pick in picks.items():
        own = undelayed(options(problem, stage, pick.option.variant))
        if pick.replicas > 1:
            yield {**picks, stage: Pick(pick.option, pick.replicas - 1)}
        larger = [option for option in own if _place(option) == _place(pick.option)]
        larger = sorted((o for o in larger if o.max_batch > pick.option.max_batch), key=lambda o: o.max_batch)
        for option in larger[:1]:
            for replicas in range(min(pick.replicas, replicas_for(option, loads[stage])), pick.replicas + 1):
                yield {**picks, stage: Pick(option, replicas)}
        for option in own:
            if _place(option) != _place(pick.option) and option.max_batch == pick.option.max_batch:
                yield {**picks, stage: Pick(option, replicas_for(option, loads[stage]))}


def _place(option: Option) -> tuple[str, str, int]:
    return option.device, option.provider, option.threads
