"""The most accurate variant of every stage, on the cheapest machines that keep the latency limits; see
`cheapest_fixed`.
"""

from __future__ import annotations

from inferplan.solvers.milp import Solution
from inferplan.solvers.problem import Problem
from inferplan.solvers.strategies.cheapest_fixed import fixed
from inferplan.solvers.strategies.tools import Tools, heaviest


def propose(problem: Problem, tools: Tools) -> Solution:
    """The most accurate variants."""
    return fixed(problem, tools, "most-accurate-fixed", {stage: heaviest(problem, stage) for stage in problem.stages})
