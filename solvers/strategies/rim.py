"""RIM (Hu et al., IoTDI 2021) as IPA's repository compares with it: it switches variants and never scales.

IPA's program with the replicas of every stage fixed (baseline mode "switch"). In the published runs they are set by
hand, high (3 and 3 for video, 20 and 5 for audio-qa): enough for every variant. Here that rule is written down: as
many as the most accurate variant needs at batch 1 for the load. RIM itself offloads to a fixed pool at the edge and
maximises what is served well; costs are no concern of it. Here they only count as IPA's objective weighs them.
"""

from __future__ import annotations

from inferplan.solvers.milp import Solution
from inferplan.solvers.problem import Problem
from inferplan.solvers.strategies.ipa import Program, base_options
from inferplan.solvers.strategies.tools import Tools, heaviest, loads_rps, none_found, replicas_for


def propose(problem: Problem, tools: Tools) -> Solution:
    """Variants and batches on a fixed, ample number of replicas."""
    deadline = tools.deadline()
    loads = loads_rps(problem)
    replicas = {}
    for stage in problem.stages:
        best = heaviest(problem, stage)
        own = [o for o in base_options(problem, stage, loads[stage]) if o.variant == best]
        if not own:
            raise none_found("rim", f"the most accurate variant of stage {stage} does not run on its type of machine")
        first = min(own, key=lambda option: option.max_batch)
        replicas[stage] = max(replicas_for(first, loads[stage]), 1)
    return Program("rim", replicas=replicas).solve(problem, deadline)
