"""FA2 (Razavi et al., RTAS 2022) with the lightest variant of every stage: it scales and batches, and never switches.

As IPA's repository compares with it (baseline mode "scale"): IPA's program with every stage's variant fixed, so that
it looks for the fewest cores within the SLA. FA2 itself transforms the graph and solves it by dynamic programming
over vertical and horizontal allocations; with one allocation per variant the optimum is the same. In the published
runs the fixed variants are chosen by hand and are not always the extremes; here they are the least accurate ones.
"""

from __future__ import annotations

from inferplan.solvers.milp import Solution
from inferplan.solvers.problem import Problem
from inferplan.solvers.strategies.ipa import Program
from inferplan.solvers.strategies.tools import Tools, lightest


def propose(problem: Problem, tools: Tools) -> Solution:
    """Batches and replicas of the least accurate variants."""
    return Program("fa2-low", variants={stage: lightest(problem, stage) for stage in problem.stages}).solve(
        problem, tools.deadline()
    )
