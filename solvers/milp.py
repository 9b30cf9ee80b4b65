"""The exact program: which column serves which classes at every stage, on how many machines.

Sets
    k ∈ K classes, s ∈ N stages, c ∈ C columns (`columns`): stage s_c, classes S_c, option o_c on device d_c,
    n_c replicas, context; d ∈ D device types; p ∈ P paths from the entry stage to a last one.
Data
    λ_k rate, L_k latency limit, A_k accuracy floor; τ_ck, w_ck latency of column c for class k at the
    percentile of its SLO: one call, all calls of the request; r_c need of a replica, R_d room of a machine (cores,
    memory, GPUs), price_d, M_d machines there are; θ_k scale of the limit, set by certification (1 at first).
Variables
    y_c ∈ {0,1} column c is used;  m_d ∈ {0..M_d} machines bought;  t_k >= 0 latency of class k over L_k;
    ρ >= 0 the largest t_k / θ_k;  accuracy variables as in `combinations`.
    X_ksv = Σ_{c: s_c = s, k ∈ S_c, variant v} y_c.
Constraints
    (one)      Σ_{c: s_c = s, k ∈ S_c} y_c = 1                                        for all k, s
    (context)  Σ_{c: s_c = s, k ∈ S_c, context of k at a is g} y_c <= Σ_{v ∈ g} X_kav  for all k, s, a, g
    (latency)  Σ_{s ∈ p \\ s*} τ_ck y_c / L_k + Σ_{c at s*} w_ck y_c / L_k <= t_k      for all k, p, s* ∈ p
               t_k <= θ_k,   t_k <= θ_k ρ
    (accuracy) the accuracy of class k is no worse than A_k                            (`combinations`)
    (machines) Σ_{c on d} n_c r_c y_c <= R_d m_d                                       for every resource
               Σ_{c on d: at most j fit on a machine} n_c y_c <= j m_d                 for every resource and j
    (packing)  m_d >= u - Σ_{c ∈ C*} u_c (1 - y_c)                                     added when needed
    (share)    Σ_{c on d} n_c r_c y_c <= R_d b_d, b_d >= 0     every resource, where d is paid by share;  else b_d = m_d
    (spread)   Σ_{c at s, k ∈ S_c, at most j_c on a machine} ⌈n_c / j_c⌉ y_c <= m_d     for all d, k, s
    (budget)   cost <= B                                                               where there is one
    (limits)   goal <= value                               of earlier goals of a lexicographic objective
Objective: one of
    cost      Σ_d price_d b_d + Σ_c e_c y_c     price_d with restarts and idle electricity; e_c reloads, electricity
    accuracy  Σ_k λ_k accuracy_k / Σ_k λ_k, maximised; of a class with a goal G_k the worse of accuracy_k and G_k
    energy    Σ_d idle_d b_d + Σ_c w_c y_c      watts; w_c = load x energy of a call over idle
    weighted  α cost + β energy - γ accuracy    weights per USD/h, W and unit of accuracy
    Ties break one after the other by the goals that follow: by default higher accuracy, lower ρ, fewer cores,
    first names (the least sum of ranks, `program.name_weights`).

Capacity (load below 98 % of it) holds for every column by construction. (packing): after each solve the replicas
are packed exactly; if the columns C* need u machines of d and only m_d were bought, the cut is added and the
program solved again. It is valid: taking columns away from C* cannot save more machines than those columns need
by themselves (u_c), and adding others saves none. So the optimum is over plans that really fit.

*Scenarios.* Rows (context) relax badly: a fraction of every context would do. So the program is split into one
branch per joint choice of contexts (at most 32, else the rows stay), solved in turn; a branch has to reach the
best found so far. The best over all branches is the optimum, the least of their bounds is a bound.

*Labels.* Where the instance is a chain of choices that labels are exact for, they answer the same questions, ties and
all, without a program (`chain_search`): `Solver` asks them first.

HiGHS decides feasibility to 1e-6 of a row scaled to about 1; latencies are relative to their limit, costs to the
geometric mean of prices. What is returned is recomputed from the columns, not read from the program.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from typing import Literal

from inferplan.solvers.bill import bill
from inferplan.solvers.chain_search import ChainSearch, Unsuited
from inferplan.solvers.chains import why_not
from inferplan.solvers.clock import FIRST_S, OutOfTimeError, in_time, too_late
from inferplan.solvers.columns import Column
from inferplan.solvers.goals import price_scale
from inferplan.solvers.highs import accepting
from inferplan.solvers.labels import TooManyLabels
from inferplan.solvers.packing import Packing
from inferplan.solvers.problem import ClassNeed, Problem
from inferplan.solvers.program import (
    ACCURACY,
    CORES,
    COST,
    ENERGY,
    NAMES,
    RATIO,
    TIE,
    WEIGHTED,
    Ask,
    Found,
    Goal,
    Program,
    pack_columns,
)

MAX_BRANCHES = 32
TIE_GAPS = {ACCURACY: 1e-6, RATIO: 1e-6, CORES: 1e-6, NAMES: 0.0}
"""Relative gaps of goals that only break ties: those that the program can tell apart."""
PROGRAM = "HiGHS through python-mip"
LABELS = "Pareto labels"
Scenario = Mapping[tuple[int, str], frozenset[str]]
"""By (class, stage): the variants it may choose."""


@dataclass(frozen=True)
class Solution:
    """A choice of columns that fits on its machines. `objective` and `bound` are of the first goal."""

    columns: tuple[Column, ...]
    packings: Mapping[str, Packing]
    cost_usd_per_h: float
    objective: float
    bound: float
    proven: bool
    values: Mapping[Goal, float] = field(default_factory=dict)
    """Values of the goals as the program sees them: all are minimised, costs and powers are scaled."""
    power_w: float | None = None
    classes: tuple[ClassNeed, ...] = ()
    """The classes as they are split; empty: those of the problem."""
    by: str = PROGRAM
    """What found it."""
    tied: bool = True
    """Whether ties are broken as well as they can be, or in a hurry."""

    def worth(self, ask: Ask) -> float:
        """A question's objective, to be minimised: cost, power, minus the accuracy (as it is encoded), or a weighted
        sum of them."""
        return self.reached(ask.objective, ask.weights)

    def reached(self, goal: Goal, weights: Mapping[str, float]) -> float:
        """The value of cost, power, accuracy or their weighted sum, to be minimised."""
        if goal == WEIGHTED:
            terms = (one for one in (COST, ENERGY, ACCURACY) if weights.get(one[0], 0.0) > 0)
            return math.fsum(weights[one[0]] * self.reached(one, weights) for one in terms)
        if goal == ENERGY:
            assert self.power_w is not None
            return self.power_w
        return self.values[ACCURACY] if goal == ACCURACY else self.cost_usd_per_h

    def chosen(self) -> dict[tuple[int, str], Column]:
        """The column that serves class k at stage s."""
        return {(k, column.stage): column for column in self.columns for k in column.classes}


def promises(problem: Problem) -> Ask:
    """The question the workload asks; of a lexicographic objective, its first goal."""
    objective = problem.workload.objective
    kind = (
        objective.minimize or objective.maximize or (WEIGHTED[0] if objective.weights else objective.lexicographic[0])
    )
    goal: Goal = (kind, "")
    return Ask(
        ranked(goal),
        {need.name: None if need.limit_s is None else 1.0 for need in problem.classes},
        {need.name: need.floor for need in problem.classes},
        {name: device.count for name, device in problem.devices.items()},
        problem.budget_usd_per_h,
        objective=goal,
        weights={name: weight for name, weight in objective.weights.items() if weight > 0},
        enough={need.name: need.goal for need in problem.classes if need.goal is not None},
    )


def ranked(first: Goal, *then: Goal) -> tuple[Goal, ...]:
    """Goals one after the other: the first, those that follow, and what breaks ties."""
    ties = (ACCURACY, COST) if first in (ACCURACY, WEIGHTED) else (COST, ACCURACY)
    return tuple(dict.fromkeys((first, *then, *ties, RATIO, CORES, NAMES)))


class Solver:
    """An instance, asked many times: by labels where they are exact and answer the question (`chain_search`), else by
    the exact program, built once, one branch per scenario. `method` forces one of them."""

    def __init__(
        self,
        problem: Problem,
        columns: Sequence[Column],
        tie_gaps: Mapping[Goal, float] = TIE_GAPS,
        method: Literal["labels", "program"] | None = None,
    ) -> None:
        self.problem = problem
        self.columns = tuple(columns)
        self.timed_out = False
        self.tie_gaps = tie_gaps
        self.method = method
        self._branches: list[Program] | None = None
        self._not_enough_s = 0.0
        self._building_s = 0.0

    @property
    def branches(self) -> list[Program]:
        """The program's branches."""
        return self._built(math.inf)

    def _built(self, deadline: float) -> list[Program]:
        """The program's branches, built when they are asked for first. Raises OutOfTimeError where they are not by the
        `deadline`; where as much time was not enough before, at once."""
        if self._branches is None:
            start = time.monotonic()
            if deadline - start <= self._not_enough_s:
                raise too_late("the exact program was built")
            try:
                self._branches = [
                    Program(self.problem, within(scenario, self.columns), deadline)
                    for scenario in scenarios(self.problem, self.columns)
                ]
            except OutOfTimeError:
                self._not_enough_s = max(deadline - start, self._not_enough_s)
                raise
            self._building_s = time.monotonic() - start
        return self._branches

    @cached_property
    def _chain(self) -> ChainSearch | None:
        """The search by labels; None where they are not exact."""
        every = {column.stage for column in self.columns} >= set(self.problem.stages)
        exact = self.method != "program" and every and why_not(self.problem, self.columns) is None
        return ChainSearch(self.problem, self.columns) if exact else None

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
        """The best plan for a question; None where there is none, or none was found in time (`timed_out`).

        `known` is a plan to begin with, if it keeps what is asked. `settle`: whether the plan should be the best one,
        and proven; else what labels find is good enough. Where they find one, the program has half of the time to find
        a better one. `hurry`: ties need not be broken to the last; and what need not be settled is not asked of the
        program where labels are too many (`timed_out`).
        """
        deadline = time.monotonic() + time_limit_s
        self.timed_out = False
        if self._chain is None:
            return self._at_first(ask, deadline, gap)
        try:
            found = self._by_labels(self._chain, ask, deadline, gap, known, hurry)
        except (Unsuited, TooManyLabels) as error:
            if self.method == "labels":
                raise
            if isinstance(error, TooManyLabels) and hurry and not settle:
                self.timed_out = True
                return None
            return self._at_first(ask, deadline, gap)
        if found is None or found.proven or self.method == "labels" or not settle:
            return found
        now = time.monotonic()
        if now >= deadline:
            return found
        with accepting():
            other = self._by_program_too(ask, now + (deadline - now) / 2, gap)
        if other is None or other.objective >= found.objective:
            self.timed_out = False
            return found if other is None else replace(found, bound=max(found.bound, other.bound))
        return replace(other, bound=max(found.bound, other.bound))

    def known(self, ask: Ask, time_limit_s: float, gap: float) -> Solution | None:
        """The same, but None only where there is no plan: raises OutOfTimeError where none was found in time."""
        found = self.ask(ask, time_limit_s, gap)
        if found is None and self.timed_out:
            raise too_late("a plan was found")
        return found

    def _by_labels(
        self, chain: ChainSearch, ask: Ask, deadline: float, gap: float, known: Sequence[Column], hurry: bool
    ) -> Solution | None:
        answer = chain.ask(ask, deadline, gap, known, hurry)
        if answer is None:
            return None
        plan, goal = solution_of(self.problem, answer.columns), next(iter(answer.values))
        scale = price_scale(self.problem) if goal == COST else 1.0
        objective = answer.values[goal] * scale
        return replace(
            plan, objective=objective, bound=min(answer.bound * scale, objective), proven=answer.proven,
            values=answer.values, by=LABELS, tied=answer.tied,
        )  # fmt: skip

    def _at_first(self, ask: Ask, deadline: float, gap: float) -> Solution | None:
        """The program's answer where there is no other: what is soon built is asked whatever the deadline."""
        with accepting():
            return self._by_program(ask, deadline, gap, until=max(deadline, time.monotonic() + FIRST_S))

    def _by_program_too(self, ask: Ask, deadline: float, gap: float) -> Solution | None:
        """The program's answer, where there is another one already, and time. HiGHS looks at its limit seldom while it
        begins: what takes longer to build than there is left is not begun."""
        with suppress(OutOfTimeError):
            self._built(deadline)
            in_time(deadline - self._building_s, "the exact program was begun")
            return self._by_program(ask, deadline, gap)
        self.timed_out = True
        return None

    def _by_program(self, ask: Ask, deadline: float, gap: float, until: float | None = None) -> Solution | None:
        """The program's answer; it has to be built by the deadline, or `until` another time."""
        try:
            alive = list(self._built(deadline if until is None else until))
        except OutOfTimeError:
            self.timed_out = True
            return None
        try:
            for branch in alive:
                branch.begin(ask)
            return self._lexicographic(ask, alive, deadline, gap)
        finally:
            for branch in self._branches or ():
                branch.end()

    def _lexicographic(self, ask: Ask, alive: Sequence[Program], deadline: float, gap: float) -> Solution | None:
        """One goal after the other, each keeping what the earlier ones reached, in the branches that reached it."""
        best: Solution | None = None
        values: dict[Goal, float] = {}
        for goal in ask.goals:
            alive = [branch for branch in alive if branch.means(goal)] if best is None else alive
            if not alive or not alive[0].means(goal):
                continue
            exact = self.tie_gaps.get(goal, gap) if best else gap
            found, bound, complete = self._best_branch(goal, alive, deadline, exact)
            if not found:
                return best
            first, top = min(found, key=lambda item: item[1].value)
            values[goal] = top.value
            # Time may run out before the goals that the objective is about: what is chosen has a value of them anyhow.
            known = {ACCURACY: first.reads(ACCURACY)} if ask.needs_accuracy and ACCURACY not in values else {}
            alive = [branch for branch, one in found if one.value <= top.value + TIE * max(1.0, abs(top.value))]
            for branch in alive:
                branch.keep(goal, top.value)
            scale = alive[0].unit(goal)
            costs = bill(first.problem, top.columns, top.packings)
            best = Solution(
                top.columns,
                top.packings,
                costs.total_usd_per_h,
                best.objective if best else top.value * scale,
                best.bound if best else min(bound, top.value) * scale,
                best.proven if best else complete,
                {**known, **values},
                costs.power_w,
            )
            if time.monotonic() >= deadline:
                break
        return best

    def _best_branch(
        self, goal: Goal, alive: Sequence[Program], deadline: float, gap: float
    ) -> tuple[list[tuple[Program, Found]], float, bool]:
        """Optimise every branch, each only as far as it may still tie with the best so far.

        Returns the branches with what they found, a bound on all of them, and whether all were finished.
        """
        found: list[tuple[Program, Found]] = []
        bound, best, complete = math.inf, math.inf, True
        for index, branch in enumerate(alive):
            if index and time.monotonic() >= deadline:
                self.timed_out = True
                return found, -math.inf, False
            row = branch.keep(goal, best) if math.isfinite(best) else None
            one = branch.optimize(goal, deadline, gap)
            if row is not None:
                branch.drop(row)
            if one is None:
                complete &= not branch.timed_out
                self.timed_out |= branch.timed_out
                bound = -math.inf if branch.timed_out else bound
                continue
            found.append((branch, one))
            best, bound = min(best, one.value), min(bound, one.bound)
            complete &= one.proven
        return found, bound, complete


def instance(problem: Problem, solution: Solution) -> Problem:
    """The problem with its classes split as a solution does."""
    return replace(problem, classes=solution.classes) if solution.classes else problem


def solution_of(problem: Problem, columns: tuple[Column, ...]) -> Solution:
    """Given columns on as few machines as hold them, with nothing said about how good they are."""
    packings = pack_columns(problem, columns)
    costs = bill(problem, columns, packings)
    cost = costs.total_usd_per_h
    return Solution(columns, packings, cost, cost, -math.inf, False, power_w=costs.power_w)


def scenarios(problem: Problem, columns: Sequence[Column]) -> list[Scenario]:
    """Joint choices of what the contexts depend on, each of which fixes every context; a single free one where there
    would be more than `MAX_BRANCHES` (the rows (context) then do the work)."""
    groups: dict[tuple[int, str], set[tuple[str, ...]]] = {}
    for column in columns:
        for k, stage, group in column.context:
            groups.setdefault((k, stage), set()).add(group)
    choices: list[list[frozenset[str]]] = []
    for (_, stage), found in sorted(groups.items()):
        atoms: dict[tuple[bool, ...], set[str]] = {}
        for variant in problem.variants(stage):
            atoms.setdefault(tuple(variant in group for group in sorted(found)), set()).add(variant)
        choices.append([frozenset(atom) for atom in atoms.values()])
    if math.prod(len(choice) for choice in choices) > MAX_BRANCHES:
        return [{}]
    return [dict(zip(sorted(groups), choice, strict=True)) for choice in product(*choices)]


def within(scenario: Scenario, columns: Sequence[Column]) -> list[Column]:
    """Columns that a scenario leaves possible."""
    return [column for column in columns if all(_agrees(column, who, atom) for who, atom in scenario.items())]


def _agrees(column: Column, who: tuple[int, str], atom: frozenset[str]) -> bool:
    k, stage = who
    if column.stage == stage and k in column.classes and column.option.variant not in atom:
        return False
    return all(atom <= set(group) for owner, source, group in column.context if (owner, source) == who)
