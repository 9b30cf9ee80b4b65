"""A plan of spread classes, asked about: what would be decided under other promises, in the time there is."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from inferplan.solvers.goals import Goal
from inferplan.solvers.problem import Problem
from inferplan.solvers.split_explain import BETTER, Explained, accuracies, machines, promises, without
from inferplan.solvers.split_instance import Question, SplitInstance, split_instance
from inferplan.solvers.split_plan import overloads
from inferplan.solvers.split_program import Split, SplitProgram
from inferplan.solvers.split_search import SplitSearch, decide, holding

ROUNDS = 8
LIKE = 1e-6
"""Objectives that differ by less than this share are the same."""


@dataclass(frozen=True)
class SplitEnquiry:
    """A plan and the question it answers. `left_out`: what there was no time for."""

    plan: Explained
    deadline: float
    left_out: list[str] = field(default_factory=list)

    @property
    def instance(self) -> SplitInstance:
        """What the plan was made of."""
        return self.plan.search.program.instance

    @property
    def problem(self) -> Problem:
        """The same, before it was sorted for the program."""
        return self.instance.problem

    @property
    def split(self) -> Split:
        """The plan."""
        return self.plan.found.split

    def worth(self, split: Split) -> float:
        """The plan's objective, to be minimised."""
        return self.plan.worth(split)

    def gains(self, split: Split) -> bool:
        """Whether another plan is better than the plan."""
        own = self.worth(self.split)
        return self.worth(split) < own - LIKE * max(abs(own), 1e-12)

    def decide(
        self, what: str, question: Question, goals: Sequence[Goal] = (), problem: Problem | None = None
    ) -> Split | None:
        """What would be decided for another question, by the plan's goals or others; None where there is no plan, or no
        time. `problem`: another instance. As in `split_planner`, options that turn out too slow count as slower."""
        search = self._search(problem)
        for _ in range(ROUNDS):
            if time.monotonic() >= self.deadline:
                break
            found = decide(search, question, tuple(goals) or self.plan.goals, self.deadline, self.plan.gap)
            if found is None and search.timed_out:
                break
            if found is None:
                return None
            slower = overloads(search.program.instance, found.split)
            if not slower:
                return found.split
            search = SplitSearch(SplitProgram(search.program.instance.derated(slower)))
        self.left_out.append(f"{what}: out of time")
        return None

    def _search(self, problem: Problem | None) -> SplitSearch:
        if problem is None and not self.instance.slower:
            return self.plan.search
        return SplitSearch(SplitProgram(split_instance(problem or self.problem)))

    def better(self, question: Question) -> Question:
        """The question for plans that are better than the plan."""
        goal, own = self.plan.goals[0], self.worth(self.split)
        return replace(question, limits=(*question.limits, (goal, own - self.plan.margin)))

    def no_worse(self, question: Question) -> Question:
        """The question for plans that are as good as the plan."""
        return holding(self.plan.search, question, self.plan.goals[0], self.plan.found, LIKE)

    def accuracy(self, split: Split, name: str) -> float | None:
        """What a plan reaches of a class's accuracy."""
        known = accuracies(self.plan.search, split)[name]
        return None if known is None else known.value

    def worst_accuracy(self, split: Split) -> float | None:
        """The worst accuracy over classes; None where one is not known."""
        known = [self.accuracy(split, need.name) for need in self.problem.classes]
        values = [value for value in known if value is not None]
        if self.problem.accuracy is None or len(values) < len(known):
            return None
        return (min if self.problem.accuracy.turn.direction == "maximize" else max)(values)

    def floorless(self, question: Question) -> Question:
        """The question for the cheapest plan whatever its accuracy."""
        return replace(question, floors=dict.fromkeys(question.floors), limits=())

    def unpromised(self, question: Question) -> Question:
        """The question without any promise, for the cheapest plan whatever it breaks."""
        return replace(without(question, promises(question)), limits=())

    def breaks(self, split: Split) -> list[str]:
        """Numbers of machines and the budget that a plan does not keep to."""
        question, found = self.plan.question, []
        for device, count in question.counts.items():
            if count is not None and machines(split, device) > count:
                found.append(f"takes {machines(split, device):g} of {count} {device}")
        budget = question.budget_usd_per_h
        if budget is not None and split.cost_usd_per_h > budget * (1 + BETTER):
            found.append(f"costs {split.cost_usd_per_h:.4g} of {budget:g} USD/h")
        return found
