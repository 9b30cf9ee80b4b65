"""FA2 (Razavi et al., RTAS 2022) with the most accurate variant of every stage; see `fa2_low`."""

from __future__ import annotations

from inferplan.solvers.milp import Solution
from inferplan.solvers.problem import Problem
from inferplan.solvers.strategies.ipa import Program
from inferplan.solvers.strategies.tools import Tools, heaviest


def propose(problem: Problem, tools: Tools) -> Solution:
    """Batches and replicas of the most accurate variants."""
    return Program("fa2-high", variants={stage: heaviest(problem, stage) for stage in problem.stages}).solve(
        problem, tools.deadline()
    )
