"""One promise that gives way, the others kept: the value nearest to what was promised that a certified plan keeps.

The program says how far an accuracy floor, a number of machines or the budget has to give way under its own latencies.
The plan it has in mind may miss in the simulation, so the question with that value is decided like any other. Where no
plan is certified, values further away are tried: floors and numbers of machines by halving, the budget by the least
cost there is.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace

from inferplan.solvers import parts
from inferplan.solvers.judge import Judge
from inferplan.solvers.milp import Solution, Solver, instance, ranked
from inferplan.solvers.problem import Problem
from inferplan.solvers.program import COST, Ask
from inferplan.solvers.search import Search

GAP = 1e-6
TIME_S = 15.0
"""For one promise, at most."""
HALVINGS = 5
FARTHEST = 64
"""Machines more than the program asks for, at most."""


@dataclass(frozen=True)
class Relaxation:
    """A promise of `kind` accuracy, count or budget, of the class or device `who`. `program` has columns for any number
    of machines."""

    problem: Problem
    program: Solver
    judge: Judge
    promised: Ask
    kind: str
    who: str
    deadline: float

    def nearest(self, value: float, believed: Solution) -> tuple[float, Solution] | None:
        """The value nearest to the promise, from what the program believes on, that a certified plan keeps, and that
        plan; None where there is none. What the program believes where there is no time to tell."""
        if math.isnan(value):
            return value, believed
        plan, told = self._certified(value)
        if plan is not None or not told:
            return value, plan or believed
        if self.kind == "count":
            return self._counted(value)
        farthest, told = self._certified(None)
        if farthest is None:
            return None if told else (value, believed)
        return self._halved(value, farthest) if self.kind == "accuracy" else (self.reached(farthest), farthest)

    def reached(self, plan: Solution) -> float:
        """What a plan needs of the promise."""
        if self.kind == "budget":
            return plan.cost_usd_per_h
        if self.kind == "count":
            return float(len(plan.packings[self.who].machines)) if self.who in plan.packings else 0.0
        assert self.problem.accuracy is not None
        mean = parts.mean_accuracy(instance(self.problem, plan), self.who, plan.chosen(), self.problem.accuracy)
        return math.nan if mean is None else mean.value

    def _counted(self, missed: float) -> tuple[float, Solution] | None:
        """More machines: further and further, then back by halving."""
        step = 1
        while (plan := self._certified(missed + step)[0]) is None:
            if step >= FARTHEST or time.monotonic() >= self.deadline:
                return None
            missed, step = missed + step, 2 * step
        kept = missed + step
        while kept - missed > 1 and time.monotonic() < self.deadline:
            middle = math.floor((kept + missed) / 2)
            found, _ = self._certified(middle)
            kept, plan, missed = (kept, plan, middle) if found is None else (middle, found, missed)
        return kept, plan

    def _halved(self, missed: float, plan: Solution) -> tuple[float, Solution]:
        """Between a floor that no plan is certified for and the plan without one."""
        kept = self.reached(plan)
        for _ in range(HALVINGS):
            if time.monotonic() >= self.deadline:
                break
            middle = (kept + missed) / 2
            found, _ = self._certified(middle)
            if found is None:
                missed = middle
            else:
                kept, plan = self.reached(found), found
        return kept, plan

    def _certified(self, value: float | None) -> tuple[Solution | None, bool]:
        """The plan that is decided with another value (None: without the promise), and whether there was time."""
        search = Search(self.problem, self.program, self.judge, self._question(value), GAP, self.deadline)
        search.run()
        return search.incumbent, search.closed or search.incumbent is not None

    def _question(self, value: float | None) -> Ask:
        asked = replace(self.promised, rejected=())
        if self.kind == "accuracy":
            return replace(asked, floors={**asked.floors, self.who: value})
        if self.kind == "count":
            return replace(asked, counts={**asked.counts, self.who: None if value is None else int(value)})
        return replace(asked, budget_usd_per_h=value, goals=ranked(COST), objective=COST)
