"""Ours: the exact program, certified and refined by simulation (`solvers.search`), under the workload's own
objective.

Nothing is taken from elsewhere. Where a published system fixes something (variants, replicas, devices) nothing is
fixed.
"""

from __future__ import annotations

import time

from inferplan.solvers.assurance import assured_columns
from inferplan.solvers.milp import Solution, Solver, promises
from inferplan.solvers.objectives import decide, normalised
from inferplan.solvers.problem import Problem
from inferplan.solvers.search import Search
from inferplan.solvers.strategies.tools import Tools, none_found


def propose(problem: Problem, tools: Tools) -> Solution:
    """The plan of `inferplan solve`: certified, else the one that came nearest."""
    deadline = time.monotonic() + tools.time_limit_s
    program = Solver(problem, assured_columns(problem))
    ask = normalised(program, promises(problem), tools.time_limit_s, tools.gap)
    search = Search(problem, program, tools.judge, ask, tools.gap, deadline)
    decide(search, problem)
    if search.incumbent is not None:
        return search.incumbent
    if search.fallback is None:
        raise none_found("optimal", "no plan keeps every promise" if not program.timed_out else "time ran out")
    return search.fallback[0]
