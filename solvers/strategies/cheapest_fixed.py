"""The lightest variant of every stage, whatever its accuracy, on the cheapest machines that keep the latency limits.

No published system: the bound below which no choice of variants helps. What is not the variant's (device, threads,
batch, replicas) is decided exactly, by our program with the variants fixed and without floors; it is not refined by
simulation.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace

from inferplan.solvers.columns import build_columns
from inferplan.solvers.milp import Solution, Solver, promises, ranked
from inferplan.solvers.problem import Problem
from inferplan.solvers.program import COST
from inferplan.solvers.strategies.tools import Tools, lightest, none_found


def propose(problem: Problem, tools: Tools) -> Solution:
    """The lightest variants."""
    return fixed(problem, tools, "cheapest-fixed", {stage: lightest(problem, stage) for stage in problem.stages})


def fixed(problem: Problem, tools: Tools, strategy: str, variants: Mapping[str, str]) -> Solution:
    """The cheapest deployment of given variants that keeps the latency limits."""
    deadline = tools.deadline()
    every = build_columns(problem, prune=False, deadline=deadline)
    columns = [column for column in every if column.option.variant == variants[column.stage]]
    ask = promises(problem)
    ask = replace(ask, goals=ranked(COST), objective=COST, floors=dict.fromkeys(ask.floors), budget_usd_per_h=None)
    solution = Solver(problem, columns).known(ask, max(deadline - time.monotonic(), 0.05), tools.gap)
    if solution is None:
        raise none_found(strategy, "no deployment of these variants keeps the latency limits")
    return solution
