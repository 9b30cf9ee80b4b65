"""The exact program where classes are split: one program per pattern of shares, the best of them all.

In a pattern the shares of every class's parts are known (`parts`), so the parts are classes of the program `milp`
states, with the loads of their shares: a part chooses one option per stage, shares a queue with other parts or not, and
keeps the class's latency limit. What differs is

    (accuracy)  Σ_{p of class k} w_p Σ_c a_c z_pc >= A_k        z_pc = 1 for the combination that part p uses
    (split)     Σ_{c used by all parts of k} y_c <= |N| - 1     where the pattern splits k: else it says nothing new
    (goal)     e_k <= Σ_{p of class k} w_p Σ_c a_c z_pc,  e_k <= G_k       e_k is what the class's accuracy counts as
    (unsplit)   parts without requests go where the rest of their class does

`milp` looks for the best over its branches; here these are the patterns. So a plan is optimal over the tabulated
shares. That every part keeps the limit by itself is only what the program asks of its own estimates: certification
judges the class as a whole, and moves the scale of its limit to where the whole class keeps it (`search`).

A mean accuracy is settled to 1e-9, which is less than the solver's tolerance: a plan whose mean is below the floor by
exact arithmetic is cut off and the program solved again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from inferplan.estimators.accuracy import AccuracyModel
from inferplan.solvers.assurance import assured_columns
from inferplan.solvers.columns import Column
from inferplan.solvers.combinations import TOO_MANY, Additive, Encoding
from inferplan.solvers.milp import TIE_GAPS, Solution, Solver, scenarios, within
from inferplan.solvers.packing import Packing
from inferplan.solvers.parts import is_parted, members, patterns, whole, with_pattern
from inferplan.solvers.problem import Problem
from inferplan.solvers.program import Ask, Goal, Program
from inferplan.spec.errors import InputError


def solver_of(problem: Problem, lifted: bool = False) -> Solver:
    """The exact program of an instance. `lifted`: as if there were as many machines of every device as wanted."""
    return MixtureSolver(problem, lifted) if is_parted(problem) else Solver(problem, assured_columns(problem, lifted))


class MixtureSolver(Solver):
    """The exact programs of an instance whose classes may be split, one for every pattern; or of the `instances` given,
    which are split already."""

    def __init__(
        self,
        problem: Problem,
        lifted: bool = False,
        tie_gaps: Mapping[Goal, float] = TIE_GAPS,
        instances: Sequence[Problem] | None = None,
    ) -> None:
        super().__init__(problem, (), tie_gaps, method="program")
        self._patterns: list[tuple[Problem, frozenset[Column]]] = []
        self._programs: list[Program] = []
        for split in instances or [with_pattern(problem, pattern) for pattern in patterns(problem)]:
            columns = assured_columns(split, lifted)
            self._patterns.append((split, frozenset(columns)))
            self._programs += [MixtureProgram(split, within(one, columns)) for one in scenarios(split, columns)]

    def add(self, other: MixtureSolver) -> None:
        """Answer over the patterns of another one, too."""
        self._patterns += other._patterns
        self._programs += other._programs

    @property
    def branches(self) -> list[Program]:
        """The programs of every pattern."""
        return self._programs

    def ask(
        self,
        ask: Ask,
        time_limit_s: float,
        gap: float,
        *,
        known: Sequence[Column] = (),
        settle: bool = True,
        hurry: bool = False,
    ) -> Solution | None:
        found = super().ask(ask, time_limit_s, gap, known=known, settle=settle, hurry=hurry)
        if found is None:
            return None
        # A plan whose parts all share their queues is the same in every pattern: the first has nothing split.
        split = next(split for split, columns in self._patterns if columns.issuperset(found.columns))
        return replace(found, classes=split.classes)


def mean_keeps(
    problem: Problem, accuracy: AccuracyModel, parts: Sequence[int], chosen: Mapping[tuple[int, str], str], floor: float
) -> bool:
    """Whether the mean accuracy over parts, which use these choices, keeps a floor."""
    total = 0.0
    for k in parts:
        value = accuracy.of({stage: chosen[k, stage] for stage in problem.stages})
        if value is None:
            return False
        total += problem.classes[k].share * value.value
    return accuracy.turn.keeps(total / math.fsum(problem.classes[k].share for k in parts), floor)


class MixtureProgram(Program):
    """The program of one pattern."""

    def _build(self) -> None:
        super()._build()
        import mip

        if isinstance(self._accuracy, Additive):
            raise InputError(TOO_MANY.format("splitting and jobs are"))
        self._slowest: dict[str, Any] = {}
        self._counted: dict[str, Any] = {}

        for name in dict.fromkeys(need.name for need in self.problem.classes):
            own = members(self.problem, name)
            if len(own) > 1 and all(self.problem.classes[k].share > 0 for k in own):
                shared = [y for y, c in zip(self._y, self.columns, strict=True) if set(own) <= set(c.classes)]
                self.model += mip.xsum(shared) <= len(self.problem.stages) - 1

    def expression(self, goal: Goal) -> Any:
        kind, who = goal
        own = [k for k in members(self.problem, who) if self.problem.classes[k].share > 0]
        if len(own) > 1 and kind == "accuracy" and self._accuracy is not None:
            return -1.0 * self._accuracy.total({k: self.problem.classes[k].share for k in own})
        if kind == "accuracy" and not who and self._enough and self._accuracy is not None:
            return -1.0 * self._up_to_goals(self._accuracy)
        if len(own) > 1 and kind == "latency":
            if who not in self._slowest:
                self._slowest[who] = self.model.add_var(lb=0)
                for k in own:
                    self.model += self._latency[k] - self._slowest[who] <= 0
            return 1.0 * self._slowest[who]
        return super().expression(goal)

    def _weights(self) -> dict[int, float]:
        """By shares of each class, whatever load its parts are planned with."""
        total = math.fsum(need.rate_rps for need in self.problem.classes)
        weights: dict[int, float] = {}
        for need in whole(self.problem):
            own = members(self.problem, need.name)
            shares = math.fsum(self.problem.classes[k].share for k in own)
            weights |= {k: need.rate_rps / total * self.problem.classes[k].share / shares for k in own}
        return weights

    def _up_to_goals(self, accuracy: Encoding) -> Any:
        """The mean over classes, weighted by rates, of each one's mean over its parts up to its goal."""
        import mip

        weights, terms = self._weights(), []
        for need in whole(self.problem):
            own = {k: weights[k] for k in members(self.problem, need.name) if weights[k] > 0}
            (first, *others), total = own, math.fsum(own.values())
            if first not in self._enough:
                terms.append(accuracy.total(own))
            elif not others:
                terms.append(accuracy.total(own, self._enough))
            else:
                if need.name not in self._counted:
                    counted = self._counted[need.name] = self.model.add_var(lb=-mip.INF)
                    self.model += counted - accuracy.total({k: weight / total for k, weight in own.items()}) <= 0
                assert self.problem.accuracy is not None
                self._counted[need.name].ub = self.problem.accuracy.turn.turned(self._enough[first])
                terms.append(total * self._counted[need.name])
        return mip.xsum(terms)

    def begin(self, ask: Ask) -> None:
        super().begin(ask)
        self._asked_floors = ask.floors

    def _cut(self, columns: Sequence[Column], packings: Mapping[str, Packing]) -> bool:
        packed = super()._cut(columns, packings)
        return self._cut_means(columns) or packed

    def _cut_means(self, columns: Sequence[Column]) -> bool:
        """Forbid combinations whose mean is below the floor by less than the solver can tell."""
        import mip

        accuracy = self.problem.accuracy
        if accuracy is None or self._accuracy is None:
            return False
        chosen = {(k, column.stage): column.option.variant for column in columns for k in column.classes}
        cut = False
        for name, floor in self._asked_floors.items():
            own = [k for k in members(self.problem, name) if self.problem.classes[k].share > 0]
            if floor is None or mean_keeps(self.problem, accuracy, own, chosen, floor):
                continue
            cut = True
            used = [self._choice[k, stage, chosen[k, stage]] for k in own for stage in self.problem.stages]
            # Only this question asks this floor.
            self._added.append(self.model.add_constr(mip.xsum(used) <= len(used) - 1))
        return cut
