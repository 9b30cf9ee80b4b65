"""Ours: the exact program, certified and refined by simulation (`solvers.search`), under the workload's own
objective.

Nothing is taken from elsewhere. Where a published system fixes something (variants, replicas, devices) nothing is
fixed.
"""

from __future__ import annotations

import time

from inferplan.solvers.columns import build_columns
from inferplan.solvers.milp import Solution, Solver, promises
from inferplan.solvers.problem import Problem
from inferplan.solvers.search import Search
from inferplan.solvers.strategies.tools import Tools, none_found


def propose(problem: Problem, tools: Tools) -> Solution:
    """The plan of `inferplan solve`: certified, else the one that came nearest."""
    deadline = time.monotonic() + tools.time_limit_s
    program = Solver(problem, build_columns(problem))
    search = Search(problem, program, tools.judge, promises(problem), tools.gap, deadline)
    search.run()
    if search.incumbent is not None:
        return search.incumbent
    if search.fallback is None:
        raise none_found("optimal", "no plan keeps every promise" if not program.timed_out else "time ran out")
    return search.fallback[0]
