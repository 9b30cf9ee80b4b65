"""Objectives of classes that spread over devices: weighted sums, and goals one after the other.

They mean what they mean elsewhere (`objectives`); there is nothing to simulate in between.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from inferplan.solvers.goals import ACCURACY, COST, WEIGHTED, Goal, goal_text
from inferplan.solvers.split_instance import Question
from inferplan.solvers.split_search import Found, SplitSearch, decide, holding

SAME = 1e-6
"""How much worse, relative, an earlier goal may get for a later one, at least."""


@dataclass(frozen=True)
class Answer:
    """The best plan, the question that its last goal was asked with, and how it came to that. `goals`: the last goal,
    and what breaks its ties."""

    found: Found
    question: Question
    goals: tuple[Goal, ...]
    story: tuple[str, ...] = ()


def ties(goal: Goal) -> tuple[Goal, ...]:
    """A goal, and those that break its ties."""
    others = (ACCURACY, COST) if goal in (ACCURACY, WEIGHTED) else (COST, ACCURACY)
    return tuple(dict.fromkeys((goal, *others)))


def normalised(search: SplitSearch, question: Question, deadline: float, gap: float) -> Question:
    """A question with the objective's weights per unit: the best that each goal reaches by itself."""
    weights: dict[str, float] = {}
    for name, weight in sorted(search.program.instance.problem.workload.objective.weights.items()):
        if weight > 0:
            found = search.best(question, (name, ""), deadline, gap)
            unit = 0.0 if found is None else abs(found.split.reached((name, ""), {}))
            weights[name] = weight / (unit or 1.0)
    return replace(question, weights=weights)


def decided(search: SplitSearch, question: Question, deadline: float, gap: float) -> Answer | None:
    """The best plan by the workload's objective; None where there is none, or none was found in time."""
    objective = search.program.instance.problem.workload.objective
    kind = objective.minimize or objective.maximize or WEIGHTED[0]
    # As exact as the program is: with less a plan that is as good may not be found again.
    slack = max(objective.tolerance, SAME)
    goals: list[Goal] = [(name, "") for name in objective.lexicographic] or [(kind, "")]
    story: list[str] = []
    proven = True
    for index, goal in enumerate(goals[:-1], start=1):
        found = search.best(question, goal, deadline, gap)
        if found is None:
            return None
        proven &= found.proven
        story.append(
            f"goal {index} of {len(goals)}, {goal[0]}: {goal_text(goal, found.split.reached(goal, {}))} reached"
        )
        question = holding(search, question, goal, found, slack)
    found = decide(search, question, ties(goals[-1]), deadline, gap)
    if found is None:
        return None
    return Answer(replace(found, proven=found.proven and proven), question, ties(goals[-1]), tuple(story))
