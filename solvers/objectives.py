"""Objectives of more than one goal.

*Weighted.* minimize  w_cost cost / cost* + w_energy power / power* - w_accuracy accuracy / |accuracy*|, where the
units cost*, power*, accuracy* are the best that each goal reaches by itself under the same promises. So weights
compare shares of what can be reached, whatever the units: with equal weights, one percent of the least cost is worth
one percent of the best accuracy.

*Lexicographic.* The first goal is decided, certified and all; then the next one, among plans in which the earlier ones
are no worse than what was reached, by more than the objective's `tolerance`.
"""

from __future__ import annotations

import time
from dataclasses import replace

from inferplan.solvers.goals import goal_text
from inferplan.solvers.milp import Solver, ranked
from inferplan.solvers.problem import Problem
from inferplan.solvers.program import WEIGHTED, Ask, Goal
from inferplan.solvers.search import SAME, Search
from inferplan.solvers.shares import refine


def normalised(program: Solver, ask: Ask, deadline: float, gap: float) -> tuple[Ask, bool]:
    """A weighted question with its weights per unit, and whether the units were proven; any other as it is.

    Every unit has an equal share of the time until the `deadline`, as has the question itself. Raises OutOfTimeError
    where a unit is not known at all.
    """
    if ask.objective != WEIGHTED:
        return ask, True
    weights, proven = {}, True
    for number, (name, weight) in enumerate(sorted(ask.weights.items())):
        goal: Goal = (name, "")  # type: ignore[assignment]
        left_s = max(deadline - time.monotonic(), 0.05) / (len(ask.weights) - number + 1)
        best = program.known(replace(ask, goals=(goal,), objective=goal), left_s, gap)
        proven &= best is None or best.proven
        unit = abs(best.reached(goal, {})) if best is not None else 0.0
        weights[name] = weight / (unit or 1.0)
    return replace(ask, weights=weights), proven


def decide(search: Search, problem: Problem) -> bool:
    """Run a search for the workload's objective. Returns whether all goals but the last were proven; the last one's
    proof is the search's."""
    objective = problem.workload.objective
    goals: list[Goal] = [(name, "") for name in objective.lexicographic]
    search.run()
    if not goals:
        refine(search)
    proven = True
    for index, goal in enumerate(goals[1:], start=1):
        if search.incumbent is None:
            break
        before = goals[index - 1]
        best = search.incumbent.reached(before, {})
        proven &= search.closed and search.proof is not None and search.proof.proven
        search.story.append(f"goal {index} of {len(goals)}, {before[0]}: {goal_text(before, best)} reached")
        slack = max(objective.tolerance, SAME) * max(abs(best), 1e-12)
        limits = (*search.ask.limits, (before, best + slack))
        later = goals[index + 1 :]
        search.go_on(replace(search.ask, objective=goal, goals=ranked(goal, *later), limits=limits))
    return proven
