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

Before a program is asked whether a pattern has something better, pairs of combinations are (`pairs`): where none could
be, HiGHS would take long to say so.

A mean accuracy is settled to 1e-9, which is less than the solver's tolerance: a plan whose mean is below the floor by
exact arithmetic is cut off and the program solved again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from inferplan.estimators.accuracy import AccuracyModel
from inferplan.solvers.assurance import assured_columns
from inferplan.solvers.clock import in_time
from inferplan.solvers.columns import Column
from inferplan.solvers.combinations import TOO_MANY, Additive, Encoding, Listed
from inferplan.solvers.goals import ACCURACY, COST, TIE, Pick
from inferplan.solvers.milp import TIE_GAPS, Solution, Solver, scenarios, within
from inferplan.solvers.packing import Packing
from inferplan.solvers.pairs import MOST, Pairs
from inferplan.solvers.parts import is_parted, members, pattern_of, patterns, whole, with_pattern
from inferplan.solvers.problem import ClassNeed, Problem
from inferplan.solvers.program import BETTER, CORES, NAMES, RATIO, TELLING, Ask, Goal, Program
from inferplan.spec.errors import InputError

FINEST = 1e-8
"""Accuracies that differ by less may be the same."""


def solver_of(problem: Problem, lifted: bool = False, deadline: float = math.inf) -> Solver:
    """The exact program of an instance. `lifted`: as if there were as many machines of every device as wanted.

    Raises OutOfTimeError where the options are not tabulated, and the programs of split classes not built, by the
    `deadline`.
    """
    return (
        MixtureSolver(problem, lifted, deadline=deadline)
        if is_parted(problem)
        else Solver(problem, assured_columns(problem, lifted, deadline))
    )


@dataclass(frozen=True, eq=False)
class Shape:
    """One pattern: the instance split so, its columns, and its programs (a branch per scenario)."""

    split: Problem
    columns: frozenset[Column]
    programs: tuple[MixtureProgram, ...]


Wider = Callable[[Problem], Sequence[Column]]


class Shapes:
    """Shapes of an instance, each made once: they depend on its loads. What is promised is asked of them, latencies in
    units of the limits they were made with. `wider`: columns besides those that are worthwhile."""

    def __init__(self, problem: Problem, lifted: bool = False, wider: Wider | None = None) -> None:
        self.lifted = lifted
        self.limits_s = {need.name: need.limit_s for need in problem.classes}
        self._wider = wider
        self._made: dict[object, Shape] = {}

    def of(self, split: Problem, deadline: float = math.inf) -> Shape:
        """The shape of an instance that is split. Raises OutOfTimeError where it is not made by the `deadline`."""
        key = tuple((need.name, need.rate_rps, need.share, need.burst, need.uneven.scv) for need in split.classes)
        if key not in self._made:
            classes = tuple(replace(need, limit_s=self.limits_s[need.name]) for need in split.classes)
            split = replace(split, classes=classes)
            columns = assured_columns(split, self.lifted, deadline)
            if self._wider is not None:
                columns = list(dict.fromkeys([*columns, *self._wider(split)]))
            programs = tuple(MixtureProgram(split, within(one, columns), deadline) for one in scenarios(split, columns))
            self._made[key] = Shape(split, frozenset(columns), programs)
        return self._made[key]


class MixtureSolver(Solver):
    """The exact programs of an instance whose classes may be split, one for every pattern; or of the `instances` given,
    which are split already. `shapes`: of this instance, or of one that promises something else. Raises OutOfTimeError
    where the programs are not built by the `deadline`, as do the methods that make others."""

    def __init__(
        self,
        problem: Problem,
        lifted: bool = False,
        tie_gaps: Mapping[Goal, float] = TIE_GAPS,
        instances: Sequence[Problem] | None = None,
        shapes: Shapes | None = None,
        deadline: float = math.inf,
    ) -> None:
        super().__init__(problem, (), tie_gaps, method="program")
        self.shapes = shapes or Shapes(problem, lifted)
        made: dict[Shape, None] = {}
        for split in instances or [with_pattern(problem, pattern) for pattern in patterns(problem)]:
            in_time(deadline, "every way to split the classes was tabulated")
            made[self.shapes.of(split, deadline)] = None
        self._own = list(made)

    def add(self, other: MixtureSolver) -> None:
        """Answer over the patterns of another one, too."""
        self._own += [shape for shape in other._own if shape not in self._own]

    def of(self, instances: Sequence[Problem], deadline: float = math.inf) -> MixtureSolver:
        """The same for other patterns."""
        return self._like(self.problem, instances, self.shapes, deadline)

    def promising(self, problem: Problem, deadline: float = math.inf) -> MixtureSolver:
        """The same patterns of an instance that promises something else, or has other loads."""
        instances = [with_pattern(problem, pattern_of(shape.split)) for shape in self._own]
        return self._like(problem, instances, self.shapes, deadline)

    def _like(self, problem: Problem, instances: Sequence[Problem], shapes: Shapes, deadline: float) -> MixtureSolver:
        return MixtureSolver(problem, tie_gaps=self.tie_gaps, instances=instances, shapes=shapes, deadline=deadline)

    def widened(self, wider: Wider, also: Sequence[ClassNeed] = (), deadline: float = math.inf) -> MixtureSolver:
        """The tabulated patterns, and that of some classes, with more columns, as many machines of every device as
        wanted."""
        tabulated = [with_pattern(self.problem, pattern) for pattern in patterns(self.problem)]
        more = [replace(self.problem, classes=tuple(also))] if also else []
        shapes = Shapes(self.problem, lifted=True, wider=wider)
        return self._like(self.problem, [*tabulated, *more], shapes, deadline)

    @property
    def branches(self) -> list[Program]:
        """The programs of every pattern."""
        return [program for shape in self._own for program in shape.programs]

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
        scales = {name: None if scale is None else scale * self._stretch(name) for name, scale in ask.scales.items()}
        asked = replace(ask, scales=scales)
        found = super().ask(asked, time_limit_s, gap, known=known, settle=settle, hurry=hurry)
        if found is None:
            return None
        # A plan whose parts all share their queues is the same in every pattern: the first has nothing split.
        split = next(shape.split for shape in self._own if shape.columns.issuperset(found.columns))
        limits = {need.name: need.limit_s for need in self.problem.classes}
        return replace(found, classes=tuple(replace(need, limit_s=limits[need.name]) for need in split.classes))

    def _by_program(self, ask: Ask, deadline: float, gap: float, until: float | None = None) -> Solution | None:
        """One pattern after the other: each has to be better than the best so far, in the first of the goals in which
        they differ. Latency, cores and names (unless asked for first) tell plans of one pattern apart; of patterns that
        are as good in all else the first counts, which has fewest ways."""
        leading = [goal for i, goal in enumerate(ask.goals) if i == 0 or goal not in (RATIO, CORES, NAMES)]
        best: Solution | None = None
        bound, complete, short = math.inf, True, False
        for index, shape in enumerate(self._own):
            if index and time.monotonic() >= deadline:
                bound, complete, short = -math.inf, False, True
                break
            try:
                for program in shape.programs:
                    program.begin(ask)
                found, late = self._better(shape, ask, leading, best, deadline, gap)
            finally:
                for program in shape.programs:
                    program.end()
            short |= late
            complete &= not late
            bound = -math.inf if late else bound
            if found is not None:
                best, bound, complete = found, min(bound, found.bound), complete and found.proven
        self.timed_out = short
        return None if best is None else replace(best, bound=min(bound, best.objective), proven=complete)

    def _better(
        self,
        shape: Shape,
        ask: Ask,
        leading: Sequence[Goal],
        best: Solution | None,
        deadline: float,
        gap: float,
    ) -> tuple[Solution | None, bool]:
        """The best plan of a pattern, if it is better than another one; and whether there was no time to tell."""
        programs = [program for program in shape.programs if program.feasible and program.may_keep(ask)]
        if best is None or not programs:
            self.timed_out = False
            found = self._lexicographic(ask, programs, deadline, gap) if programs else None
            return found, self.timed_out
        late = False
        for i, goal in enumerate(leading):
            if goal not in best.values:
                continue
            kept = best.values.get(COST, math.inf) if COST in leading[:i] else math.inf
            able = [program for program in programs if program.may_beat(goal, best.values[goal], kept)]
            rows = [(program, program.beat(goal, best.values[goal])) for program in able]
            self.timed_out = False
            then = replace(ask, goals=ask.goals[ask.goals.index(goal) :])
            found = self._lexicographic(then, able, deadline, gap) if able else None
            late |= self.timed_out
            if found is not None:
                before = {earlier: best.values[earlier] for earlier in leading[:i] if earlier in best.values}
                if before:
                    # As good in the first goal, whose objective and bound stand.
                    found = replace(found, objective=best.objective, bound=best.bound, proven=best.proven)
                return replace(found, values={**before, **found.values}), late
            for program, row in rows:
                program.drop(row)
            for program in programs:
                program.keep(goal, best.values[goal])
        return None, late

    def _stretch(self, name: str) -> float:
        """A class's limit over the one that the shapes were made with."""
        limit_s, made_s = (next(n.limit_s for n in self.problem.classes if n.name == name), self.shapes.limits_s[name])
        return 1.0 if limit_s is None or made_s is None else limit_s / made_s


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


def _telling(goal: Goal, value: float) -> float:
    """By how much a value has to be less to be better."""
    return max((BETTER if goal[0] == "cost" else TELLING) * abs(value), TELLING)


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
        import mip

        super().begin(ask)
        self._asked_floors = ask.floors
        for pick in ask.some if self.feasible else ():
            picked = self._picked(pick)
            # Nothing to choose from: no binary is 2.
            self._added.append(self.model.add_constr(mip.xsum(picked) >= 1 if picked else self._y[0] >= 2))
        for pick in ask.none if self.feasible else ():
            if picked := self._picked(pick):
                self._added.append(self.model.add_constr(mip.xsum(picked) <= 0))

    def _picked(self, pick: Pick) -> list[Any]:
        return [y for y, column in zip(self._y, self.columns, strict=True) if pick(self.problem, column)]

    def may_beat(self, goal: Goal, value: float, cost: float) -> bool:
        """Whether the combinations that the parts may use could be better in a goal than a value, at no more than a
        cost. Where they cannot, HiGHS, which tells accuracies apart by little more than its tolerance, and costs
        little, would go through every choice of columns to say so."""
        if goal == COST:
            return self._could(value - _telling(goal, value))
        if goal == ACCURACY and not self._could(cost + TIE * max(1.0, abs(cost)), -(value - _telling(goal, value))):
            return False
        if goal != ACCURACY or not isinstance(self._accuracy, Listed):
            return True
        assert self.problem.accuracy is not None
        weights, best = self._weights(), 0.0
        for need in whole(self.problem):
            own = [k for k in members(self.problem, need.name) if weights[k] > 0]
            most = math.fsum(weights[k] * self._accuracy.most(k) for k in own)
            if own and own[0] in self._enough:
                counted = self.problem.accuracy.turn.turned(self._enough[own[0]])
                most = min(most, counted * math.fsum(weights[k] for k in own))
            best += most
        return -best <= value - _telling(goal, value)

    def may_keep(self, ask: Ask) -> bool:
        """Whether the combinations that the parts may use could keep what limits a question's cost, and its floor."""
        limits = [math.inf if ask.budget_usd_per_h is None else ask.budget_usd_per_h / self.price_scale]
        if ask.better_than is not None and ask.objective == COST:
            less = ask.better_than / self.price_scale
            limits.append(less - _telling(COST, less))
        return self._could(min(limits))

    @cached_property
    def _pairs(self) -> Pairs | None:
        """What pairs of combinations could reach, where one class in two parts is all there is."""
        alone = len(self.problem.classes) == 2 and all(need.share > 0 for need in self.problem.classes)
        accuracy = self.problem.accuracy
        if not alone or not isinstance(self._accuracy, Listed) or accuracy is None:
            return None
        if len({need.name for need in self.problem.classes}) > 1 or len(self._accuracy.keys) > MOST:
            return None
        known = self._accuracy.known()
        return Pairs(self.problem, self.columns, accuracy.stages, self._accuracy.keys, known)

    def _could(self, cost: float, accuracy: float = -math.inf) -> bool:
        """Whether some pair of combinations could keep the question's limits at no more than a cost, as the program
        counts it, with no less than an accuracy."""
        name, known = self.problem.classes[0].name, self.problem.accuracy
        floor = self._asked_floors.get(name)
        # Combinations whose accuracy is not known are ruled out by a floor alone.
        if floor is None or known is None or self._pairs is None:
            return True
        wanted = max(accuracy, known.turn.turned(floor)) - FINEST
        return self._pairs.best(cost * self.price_scale, self._scales.get(name)) >= wanted

    def beat(self, goal: Goal, value: float) -> Any:
        """Ask that a goal is better than a value; the row can be dropped again."""
        unit = self._stretch(goal)
        least = _telling(goal, unit * value)
        row = self.model.add_constr(unit * self.expression(goal) <= unit * value - least)
        self._added.append(row)
        return row

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
