"""Infeasible as an answer: which promises conflict, and for each the single relaxation that helps.

Promises are latency limits and accuracy floors of classes, numbers of machines, and the budget. A smallest set in
conflict is found by leaving promises out one by one: what is not needed for the conflict stays out. For every
single promise whose absence makes the rest possible, the program is asked for the best it can do about it, and the
answer is certified (`relaxation`). What helps besides is less load, or more bandwidth of a link (`concession`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from inferplan.solvers import parts
from inferplan.solvers.clock import OutOfTimeError, in_time
from inferplan.solvers.concession import certified
from inferplan.solvers.enquiry import kept_limit_s
from inferplan.solvers.judge import Judge
from inferplan.solvers.milp import Solution, Solver
from inferplan.solvers.mixtures import solver_of
from inferplan.solvers.neighbours import arranged
from inferplan.solvers.problem import Problem
from inferplan.solvers.program import COST, Ask, Goal
from inferplan.solvers.relaxation import TIME_S, Relaxation
from inferplan.solvers.story import duration, floor_text, kept_figures
from inferplan.spec.errors import InfeasibleError

PER_SOLVE_S, SHARE = 20.0, 1 / 3
"""What one question may take of the time that is left, at most: so many seconds, or that share of it."""
GAP = 1e-6


@dataclass(frozen=True, order=True)
class Promise:
    """One thing that could give way: kind and whose."""

    kind: str
    who: str = ""


def infeasible(problem: Problem, judge: Judge, promised: Ask, ask: Ask, deadline: float) -> InfeasibleError:
    """The error that explains why no plan keeps every promise of the question, as it was `promised`, and with limits
    as the simulation showed them to the program. What takes long is tried until the `deadline`."""
    excluded = [f"not considered: {line}" for line in problem.table.excluded]
    try:
        program = solver_of(problem, lifted=True, deadline=deadline)
        promises = list(_promises(ask))
        asked = _Asked(problem, program, judge, promised, ask, deadline)
        conflict = _conflict(asked, promises)
    except OutOfTimeError:
        more = "more time, with --time-limit, to say which promises conflict and what would help"
        return InfeasibleError("no plan keeps every promise", [more, *excluded])
    helps: list[str] = []
    late = False
    for promise in promises:
        try:
            helps += _relaxation(asked, promise)
        except OutOfTimeError:
            late = True
    helps += certified(problem, promised, ask, judge.seed, deadline)
    late = late or time.monotonic() >= deadline
    if not helps and not conflict and len(problem.ways.tiers) > 1:
        helps = ["a link in the other direction, more bandwidth, or devices in the tier requests enter at"]
    message = "no plan keeps every promise: " + _joined([_name(problem, promise) for promise in conflict])
    lines = [f"would help: {line}" for line in helps]
    if late:
        lines.append("more time, with --time-limit, to say what else would help")
    elif not lines:
        lines = ["would help: no single one of these is enough: relax several"]
    return InfeasibleError(message, [*lines, *excluded])


def disturbed(problem: Problem, story: Sequence[str]) -> InfeasibleError:
    """The error where every plan's queues grow without bound for what its replicas do to one another."""
    return InfeasibleError(
        "no plan keeps every promise: replicas on one machine slow one another down too much",
        [
            "would help: more machines, or devices with fewer cores",
            *story,
            *(f"not considered: {line}" for line in problem.table.excluded),
        ],
    )


def _promises(ask: Ask) -> Iterable[Promise]:
    for name, scale in sorted(ask.scales.items()):
        if scale is not None:
            yield Promise("latency", name)
    for name, floor in sorted(ask.floors.items()):
        if floor is not None:
            yield Promise("accuracy", name)
    for name, count in sorted(ask.counts.items()):
        if count is not None:
            yield Promise("count", name)
    if ask.budget_usd_per_h is not None:
        yield Promise("budget")


def _without(ask: Ask, dropped: Iterable[Promise]) -> Ask:
    for promise in dropped:
        if promise.kind == "latency":
            ask = replace(ask, scales={**ask.scales, promise.who: None})
        elif promise.kind == "accuracy":
            ask = replace(ask, floors={**ask.floors, promise.who: None})
        elif promise.kind == "count":
            ask = replace(ask, counts={**ask.counts, promise.who: None})
        else:
            ask = replace(ask, budget_usd_per_h=None)
    return ask


def _conflict(asked: _Asked, promises: list[Promise]) -> list[Promise]:
    """A smallest set of promises that cannot be kept together (deletion filter). Raises OutOfTimeError where that is
    not known."""
    needed = list(promises)
    for promise in promises:
        others = [other for other in needed if other != promise]
        dropped = [other for other in promises if other not in others]
        if asked.best(_without(asked.believed, dropped)) is None:
            needed = others
    return needed


def _name(problem: Problem, promise: Promise) -> str:
    classes = {need.name: need for need in problem.classes}
    if promise.kind == "latency":
        need = classes[promise.who]
        path = parts.promise(problem, need.name, "latency").replace(".slo.latency_s", ".slo")
        return f"{path} ({need.percentile:g} % within {duration(need.limit_s or 0.0)})"
    if promise.kind == "accuracy":
        path = parts.promise(problem, promise.who, "accuracy")
        return f"{path} ({classes[promise.who].floor:g})"
    if promise.kind == "count":
        return f"{_device_path(promise.who)}.count ({problem.devices[promise.who].count})"
    return f"objective.budget_usd_per_h ({problem.budget_usd_per_h:g})"


@dataclass(frozen=True)
class _Asked:
    """A question that no plan answers: as it was promised, and with limits as the simulation showed them."""

    problem: Problem
    program: Solver
    judge: Judge
    promised: Ask
    believed: Ask
    deadline: float

    def best(self, ask: Ask, goals: tuple[Goal, ...] = (COST,)) -> Solution | None:
        """The program's best plan; None where there is none. Raises OutOfTimeError where that is not known."""
        in_time(self.deadline, "it was known which promises conflict")
        left_s = self.deadline - time.monotonic()
        found = self.program.known(replace(ask, goals=goals), min(max(PER_SOLVE_S, left_s * SHARE), left_s), GAP)
        return None if found is None else arranged(self.problem, found)


def _relaxation(asked: _Asked, promise: Promise) -> list[str]:
    """How far one promise must give way if the others stay, in a line; none where that alone does not help. Raises
    OutOfTimeError where that is not known."""
    problem = asked.problem
    goals: dict[str, Goal] = {
        "latency": ("latency", promise.who),
        "accuracy": ("accuracy", promise.who),
        "count": ("machines", promise.who),
        "budget": COST,
    }
    best = asked.best(_without(asked.believed, [promise]), (goals[promise.kind], COST))
    if best is None:
        return []
    name, deadline = _name(problem, promise), min(time.monotonic() + TIME_S, asked.deadline)
    if promise.kind == "latency":
        limit_s = kept_limit_s(asked.judge, best, promise.who, deadline)
        cost = f"at {best.cost_usd_per_h:.6g} USD/h"
        return [] if limit_s is None else [f"{name}: at least {duration(limit_s)}, {cost}"]
    relaxation = Relaxation(problem, asked.program, asked.judge, asked.promised, promise.kind, promise.who, deadline)
    found = relaxation.nearest(relaxation.reached(best), best)
    if found is None:
        return []
    value, plan = found
    cost = f"at {plan.cost_usd_per_h:.6g} USD/h"
    if promise.kind == "accuracy":
        return [f"{name}: {_accuracy(problem, value)}, {cost}"]
    if promise.kind == "count":
        return [f"{name}: at least {value:g}, {cost}"]
    return [f"{name}: at least {kept_figures(value, math.ceil)}"]


def _accuracy(problem: Problem, reached: float) -> str:
    assert problem.accuracy is not None
    if math.isnan(reached):
        return "remove it (accuracy is not known)"
    return floor_text(problem.accuracy.turn, reached)


def _device_path(name: str) -> str:
    tier, device = name.split("/", 1)
    return f"tiers.{tier}.devices.{device}"


def _joined(names: list[str]) -> str:
    if not names:
        return "the load alone is too much"
    if len(names) == 1:
        return f"{names[0]} cannot be kept"
    return f"{', '.join(names[:-1])} and {names[-1]} conflict"
