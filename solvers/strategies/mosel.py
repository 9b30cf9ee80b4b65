"""MOSEL (Hu et al., EMNLP 2024): modalities are spared where accuracy allows, to be done sooner.

Taken from the paper: every modality subset of a model is a configuration with its own latency and accuracy; jobs of b
requests are divided over configurations so that the mean accuracy is kept; while jobs wait, their configurations are
chosen anew so that deadlines are kept. From the published code: waiting jobs are sorted by deadline, whenever new ones
come; where the times of those ahead, summed, say that one will be late, it and those ahead of it get faster
configurations, never below their accuracy: by policy the fastest there is (`aggressive`), one after the other until it
fits (`random`), or those of most accuracy whose times sum to at most 0.91 of what is left (`maximize`). Hence a batch
may take 0.91 of the limit here; batches go up to 32.

Where the published code differs: the strategy table is solved for one model and hard-coded accuracies; accuracy
targets step by 0.002, so that a job may be given more accuracy than it asked for. The head of the queue is handed on
before what has just come is sorted in, and the worker's own queue is first come, first served. Deadlines count from
when the scheduler first sees a job, 5 ms later still; jobs that are late nevertheless are dropped, by the worker from
12 ms on. In its own load all jobs have the time of all modalities plus the same slack, so the order differs from that
of arrival only with the size of jobs.

Ours, for streams of requests: a request is a job of one, which cannot be divided, so of all combinations of choices
(variants and modality subsets) that keep the floor the fastest is taken, as `aggressive` does under load: least sum of
times along the longest path. Batches are the largest with which the path still takes at most 0.91 of the strictest
limit, and replicas as many as carry the load. Classes share the replicas. Where their limits differ, calls are taken
by the earliest deadline, counted from when their request arrived (a class without a limit comes last), in the
simulation and in the plan that is written; where all have one limit, in the order they come. No configuration is
changed at run time, and nothing is dropped.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from inferplan.solvers.milp import Solution
from inferplan.solvers.options import Option
from inferplan.solvers.problem import Problem
from inferplan.solvers.strategies.tools import (
    Pick,
    Tools,
    deploy,
    keeps_floor,
    limit_s,
    loads_rps,
    none_found,
    options,
    path_s,
    replicas_for,
    seconds,
    undelayed,
)

TIME_BUDGET = 0.91
MAX_BATCH = 32
MAX_COMBINATIONS = 200_000


def propose(problem: Problem, tools: Tools) -> Solution:
    """The fastest choices that keep the floor, with batches as large as the limit allows, in the order of deadlines."""
    variants = fastest(problem)
    if variants is None:
        raise none_found("mosel", "no combination of choices keeps the floor")
    loads = loads_rps(problem)
    picked = {stage: _first(problem, stage, variants[stage]) for stage in problem.stages}
    budget = TIME_BUDGET * limit_s(problem)
    for stage in problem.stages:
        for option in _larger(problem, picked[stage]):
            tried = {**picked, stage: option}
            if path_s(problem, {s: _seconds(o) for s, o in tried.items()}) <= budget:
                picked = tried
    order: Literal["fifo", "edf"] = "edf" if len({need.limit_s for need in problem.classes}) > 1 else "fifo"
    return deploy(
        problem,
        {
            stage: Pick(replace(option, order=order), replicas_for(option, loads[stage]))
            for stage, option in picked.items()
        },
    )


def fastest(problem: Problem) -> Mapping[str, str] | None:
    """Of the combinations that keep the floor the one of least time; stage by stage from the fastest up where there are
    too many to list."""
    ranked = {
        stage: sorted(problem.variants(stage), key=lambda v, s=stage: (seconds(problem, s, v), v))  # type: ignore[misc]
        for stage in problem.stages
    }
    if math.prod(len(own) for own in ranked.values()) > MAX_COMBINATIONS:
        return _upgraded(problem, ranked)
    best: tuple[float, dict[str, str]] | None = None
    for chosen in itertools.product(*ranked.values()):
        variants = dict(zip(ranked, chosen, strict=True))
        time = path_s(problem, {stage: seconds(problem, stage, v) for stage, v in variants.items()})
        if (best is None or time < best[0]) and keeps_floor(problem, variants):
            best = time, variants
    return None if best is None else best[1]


def _upgraded(problem: Problem, ranked: Mapping[str, list[str]]) -> Mapping[str, str] | None:
    """From the fastest choices the next slower one, where that costs least time, until the floor is kept."""
    place = dict.fromkeys(ranked, 0)
    while not keeps_floor(problem, {stage: ranked[stage][place[stage]] for stage in ranked}):
        slower = [
            (seconds(problem, s, ranked[s][place[s] + 1]) - seconds(problem, s, ranked[s][place[s]]), s)
            for s in ranked
            if place[s] + 1 < len(ranked[s])
        ]
        if not slower:
            return None
        place[min(slower)[1]] += 1
    return {stage: ranked[stage][place[stage]] for stage in ranked}


def _first(problem: Problem, stage: str, variant: str) -> Option:
    """The variant's fastest option at its smallest batch."""
    own = undelayed(options(problem, stage, variant))
    return min(own, key=lambda o: (o.max_batch, 0.0 if o.service is None else o.service.mean_s(1), o.name))


def _larger(problem: Problem, first: Option) -> list[Option]:
    """The same option with larger batches, rising."""
    same = [
        option
        for option in undelayed(options(problem, first.stage, first.variant))
        if (option.device, option.provider, option.threads) == (first.device, first.provider, first.threads)
        and first.max_batch < option.max_batch <= MAX_BATCH
    ]
    return sorted(same, key=lambda option: option.max_batch)


def _seconds(option: Option) -> float:
    return 0.0 if option.service is None else option.service.mean_s(option.max_batch)
