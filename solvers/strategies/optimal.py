"""Ours: the exact program, certified and refined by simulation (`solvers.search`), under the workload's own
objective.

Nothing is taken from elsewhere. Where a published system fixes something (variants, replicas, devices) nothing is
fixed.
"""

from __future__ import annotations

from inferplan.solvers.milp import Solution, promises
from inferplan.solvers.mixtures import solver_of
from inferplan.solvers.objectives import decide, normalised
from inferplan.solvers.parts import parted
from inferplan.solvers.problem import Problem
from inferplan.solvers.search import Search
from inferplan.solvers.strategies.tools import Tools, none_found


def propose(problem: Problem, tools: Tools) -> Solution:
    """The plan of `inferplan solve`: certified, else the one that came nearest."""
    deadline = tools.deadline()
    own = parted(problem)
    program = solver_of(own, deadline=deadline)
    ask, _ = normalised(program, promises(own), deadline, tools.gap)
    search = Search(own, program, tools.judge, ask, tools.gap, deadline)
    decide(search, own)
    if search.incumbent is not None:
        return search.incumbent
    if search.fallback is None:
        raise none_found("optimal", "no plan keeps every promise" if search.closed else "time ran out")
    return search.fallback[0]
