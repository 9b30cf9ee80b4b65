"""INFaaS (Romero et al., USENIX ATC 2021): requests name a task, an accuracy and a latency; the system picks
variants.

Taken from the paper: the query without a model, selection of the least costly variant that keeps accuracy and
latency, and scaling by replicating it or upgrading to another one, whichever is cheaper. Taken from the published
code, as its constants stand there: of the variants that are accurate enough the 10 fastest are looked at; a limit of
50 ms or less skips CPUs, one above 100 ms skips GPU variants faster than 100 ms; CPU scales beyond 95 % of capacity;
another variant is taken where replicating costs more than 1.5 times as much.

Where the published code differs: the query carries a largest cost that no selection code reads, and among variants
that will do it takes the one of least loading plus inference latency, not of least cost. Its upgrade weighs loading
latency times count; here, where plans are for a load that stays, the hourly price stands in its place. The integer
program of the paper's autoscaler was replaced by these greedy rules (it took 23 s for 50 architectures, 50 s for
100).

INFaaS serves single models. For a pipeline every stage is a query of its own: the latency limit is divided in
proportion to the fastest variants' times along the longest path, and a floor asks of every stage the same (its n-th
root for a product). Latency means one batch in service: INFaaS batches adaptively, so the largest batch within the
limit is taken.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from inferplan.solvers.milp import Solution
from inferplan.solvers.options import Option
from inferplan.solvers.problem import Problem
from inferplan.solvers.strategies.tools import (
    Pick,
    Tools,
    deploy,
    floor,
    limit_s,
    loads_rps,
    metric,
    none_found,
    path_s,
    replica_usd_per_h,
    replicas_for,
    seconds,
    undelayed,
)

WINDOW = 10
CPU_SKIP_S = 0.050
LOOSE_S = 0.100
HEADROOM = 0.05
UPGRADE_MARGIN = 1.5
BATCH_CAP = 32
TOLERANCE = 1e-9


@dataclass(frozen=True)
class Query:
    """What a stage is asked: at least this (turned) metric, within this time."""

    metric: float
    limit_s: float


def propose(problem: Problem, tools: Tools) -> Solution:
    """One query per stage, each variant scaled to its load."""
    loads = loads_rps(problem)
    queries = _queries(problem)
    picks = {}
    for stage in problem.stages:
        found = select(problem, stage, queries[stage])
        if not found:
            raise none_found("infaas", f"no variant of stage {stage} keeps its share of accuracy and latency")
        picks[stage] = scale(problem, found, loads[stage])
    return deploy(problem, picks)


def _queries(problem: Problem) -> dict[str, Query]:
    fastest = {s: min(seconds(problem, s, v) for v in problem.variants(s)) for s in problem.stages}
    whole = path_s(problem, fastest)
    limit = limit_s(problem)
    asked = _metric_asked(problem)
    return {
        stage: Query(asked, limit * fastest[stage] / whole if whole > 0 else limit) for stage in problem.stages
    }  # fmt: skip


def _metric_asked(problem: Problem) -> float:
    """The stage metric (turned) that keeps the floor if every stage reaches it."""
    asked = floor(problem)
    if asked is None or problem.accuracy is None:
        return -math.inf
    turned = problem.accuracy.turn.turned(asked)
    if problem.accuracy.composition == "product":
        return float(max(turned, 0.0) ** (1 / len(problem.stages)))
    return turned


def select(problem: Problem, stage: str, query: Query) -> list[Option]:
    """Options that answer a query: of the fastest variants that are accurate enough those within the limit, each at its
    largest batch that stays within; the one whose replica costs least first."""
    accurate = [
        option
        for option in undelayed(problem.options(stage))
        if option.max_batch <= BATCH_CAP and metric(problem, stage, option.variant) >= query.metric - TOLERANCE
    ]
    places: dict[tuple[str, str, str, int], list[Option]] = {}
    for option in accurate:
        places.setdefault((option.variant, option.device, option.provider, option.threads), []).append(option)
    fastest = sorted(places.values(), key=lambda own: (_seconds(own[0], 1), own[0].name))[:WINDOW]
    found = []
    for own in fastest:
        within = [option for option in own if _seconds(option, option.max_batch) <= query.limit_s * (1 + TOLERANCE)]
        if within:
            found.append(max(within, key=lambda option: option.max_batch))
    suited = [option for option in found if _suits(option, query)] or found
    return sorted(suited, key=lambda o: (replica_usd_per_h(problem, o), _seconds(o, 1), o.name))


def _suits(option: Option, query: Query) -> bool:
    """Hardware by limit: no CPU for tight ones, no GPU where it would be far faster than asked."""
    if option.need is None:
        return True
    if query.limit_s <= CPU_SKIP_S:
        return option.need.gpus > 0
    return not (query.limit_s > LOOSE_S and option.need.gpus > 0 and _seconds(option, 1) < LOOSE_S)


def _seconds(option: Option, batch: int) -> float:
    return 0.0 if option.service is None else option.service.mean_s(batch)


def scale(problem: Problem, found: list[Option], load_rps: float) -> Pick:
    """Replicate the variant selected, or upgrade to the one that carries the load cheapest if that saves enough."""

    def pick(option: Option) -> Pick:
        return Pick(option, replicas_for(option, load_rps, 1 - HEADROOM))

    def price(own: Pick) -> float:
        return own.replicas * replica_usd_per_h(problem, own.option)

    selected = pick(found[0])
    upgraded = min((pick(option) for option in found), key=lambda own: (price(own), own.option.name))
    return upgraded if price(selected) > UPGRADE_MARGIN * price(upgraded) else selected
