"""What holds a plan of spread classes where it is, what else was considered, and why there may be none.

Promises are accuracy floors, numbers of machines, and the budget. The questions are those of `explain` and
`infeasible`, asked of the program of spread classes.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from inferplan.estimators.accuracy import AccuracyEstimate
from inferplan.solvers.concession import Concession, concessions, halved
from inferplan.solvers.goals import ACCURACY, COST, ENERGY, WEIGHTED, Goal
from inferplan.solvers.split_instance import Question, split_instance
from inferplan.solvers.split_program import Split, SplitProgram
from inferplan.solvers.split_search import Found, SplitSearch, decide, holding
from inferplan.solvers.story import floor_text, kept_figures
from inferplan.spec.errors import InfeasibleError
from inferplan.spec.plan import Alternative, Binding

NEXT_BEST = 2
BETTER = 1e-5
"""Costs that differ by less than this share of each other are the same."""
SMALLEST = 2e-6
"""In the program's units, it tells no values apart that differ by less."""
GAP = 1e-6
PER_SOLVE_S = 20.0
CONCEDED_S = 5.0
"""For one promise that is tried value by value; a fifth of it for one value."""


@dataclass(frozen=True, order=True)
class Promise:
    """One thing that could give way: kind (accuracy, count, budget) and whose."""

    kind: str
    who: str = ""


def promises(question: Question) -> list[Promise]:
    """Everything a question insists on."""
    found = [Promise("accuracy", name) for name, floor in sorted(question.floors.items()) if floor is not None]
    found += [Promise("count", name) for name, count in sorted(question.counts.items()) if count is not None]
    return found + ([Promise("budget")] if question.budget_usd_per_h is not None else [])


def without(question: Question, dropped: Sequence[Promise]) -> Question:
    """The question without some of its promises."""
    for promise in dropped:
        if promise.kind == "accuracy":
            question = replace(question, floors={**question.floors, promise.who: None})
        elif promise.kind == "count":
            question = replace(question, counts={**question.counts, promise.who: None})
        else:
            question = replace(question, budget_usd_per_h=None)
    return question


def accuracies(search: SplitSearch, split: Split, estimated: bool = False) -> dict[str, AccuracyEstimate | None]:
    """Accuracy of every class as it was planned on, or as it was `estimated`."""
    problem = search.program.instance.problem
    model = problem.estimated if estimated else problem.accuracy
    return {
        need.name: None if model is None else model.of({stage: split.choices[k, stage] for stage in problem.stages})
        for k, need in enumerate(problem.classes)
    }


@dataclass(frozen=True)
class Explained:
    """A plan with the question it answers, and its goals: the objective (the last one of several), and what breaks
    its ties."""

    search: SplitSearch
    question: Question
    goals: tuple[Goal, ...]
    found: Found
    deadline: float
    gap: float

    def worth(self, split: Split) -> float:
        """The objective, to be minimised."""
        return split.reached(self.goals[0], self.question.weights)

    @property
    def margin(self) -> float:
        """By how much less a plan is worth that is better."""
        return max(BETTER * abs(self.worth(self.found.split)), SMALLEST * self.search.program.unit(self.goals[0]))

    def best(self, question: Question, *goals: Goal) -> Split | None:
        """The best plan for another question; None where there is none, or no time is left."""
        if time.monotonic() >= self.deadline:
            return None
        found = decide(self.search, question, goals, self.deadline, self.gap)
        return None if found is None else found.split

    def better(self, question: Question) -> bool:
        """Whether a question has a better plan than this one, by the workload's objective."""
        if time.monotonic() >= self.deadline:
            return False
        # Plans as good are let in: that there are none better is proven sooner where there is one at all.
        asked = holding(self.search, question, self.goals[0], self.found, GAP)
        found = self.search.best(asked, self.goals[0], self.deadline, GAP)
        return found is not None and self.worth(found.split) < self.worth(self.found.split) - self.margin


def binding(plan: Explained) -> list[Binding]:
    """Promises without which a better plan would exist: value, limit and unit of each."""
    groups = itertools.groupby(promises(plan.question), key=lambda promise: (promise.kind, promise.who.split("/")[0]))
    return [standing(plan, promise) for _, group in groups for promise in _helpful(plan, list(group))]


def _helpful(plan: Explained, group: Sequence[Promise]) -> list[Promise]:
    """Those of some promises whose absence alone would help. Where all of them together do not, none does."""
    if not group or not plan.better(without(plan.question, group)):
        return []
    if len(group) == 1:
        return list(group)
    middle = len(group) // 2
    return _helpful(plan, group[:middle]) + _helpful(plan, group[middle:])


def standing(plan: Explained, promise: Promise) -> Binding:
    """What the plan needs of a promise."""
    problem = plan.search.program.instance.problem
    split, who = plan.found.split, promise.who
    if promise.kind == "accuracy":
        estimate, limit = accuracies(plan.search, split)[who], plan.question.floors[who]
        assert estimate is not None
        assert limit is not None
        assert problem.accuracy is not None
        return Binding(
            constraint=f"classes.{who}.accuracy.floor", value=estimate.value, limit=limit, unit=problem.accuracy.metric
        )
    if promise.kind == "count":
        return Binding(
            constraint=_count_path(who), value=machines(split, who), limit=float(plan.question.counts[who] or 0),
            unit="machines",
        )  # fmt: skip
    limit = plan.question.budget_usd_per_h or 0.0
    return Binding(constraint="objective.budget_usd_per_h", value=split.cost_usd_per_h, limit=limit, unit="USD/h")


def machines(split: Split, device: str) -> float:
    """Machines of a device that a plan buys."""
    return float(sum(len(packing.machines) for (name, _), packing in split.packings.items() if name == device))


def _count_path(device: str) -> str:
    tier, name = device.split("/", 1)
    return f"tiers.{tier}.devices.{name}.count"


def alternatives(plan: Explained) -> list[Alternative]:
    """Other sets of variants: the cheapest whatever its accuracy, the most accurate, the next best."""
    question = plan.question
    seen = [_variants(plan.found.split)]
    found: list[Alternative] = []

    def consider(asked: Question, goals: tuple[Goal, ...], label: str) -> None:
        split = plan.best(asked, *goals)
        if split is not None and _variants(split) not in seen:
            seen.append(_variants(split))
            found.append(_alternative(plan, split, label))

    if any(floor is not None for floor in question.floors.values()):
        floorless = replace(question, floors=dict.fromkeys(question.floors))
        consider(floorless, plan.goals[:1], "cheapest whatever its accuracy")
    if plan.search.program.knows_accuracy and plan.goals[0] != ACCURACY:
        consider(question, (ACCURACY, COST), "most accurate within the limits")
    for _ in range(NEXT_BEST):
        consider(replace(question, forbidden=tuple(seen)), plan.goals[:1], "next best choice of variants")
    return found


def _variants(split: Split) -> frozenset[tuple[int, str, str]]:
    return frozenset((k, stage, choice) for (k, stage), choice in split.choices.items())


def _alternative(plan: Explained, split: Split, label: str) -> Alternative:
    problem = plan.search.program.instance.problem
    known = accuracies(plan.search, split)
    values = [estimate.value for estimate in known.values() if estimate is not None]
    worst = min if problem.accuracy is None or problem.accuracy.turn.direction == "maximize" else max
    why = [*broken(plan, known), *dearer(plan, split)]
    return Alternative(
        variants=variants_text(plan.search, split),
        cost_usd_per_h=split.cost_usd_per_h,
        accuracy=worst(values) if values else None,
        reason=f"{label}: {'; '.join(why) or 'no better, and ties prefer the chosen plan'}",
    )


def broken(plan: Explained, known: dict[str, AccuracyEstimate | None]) -> Iterator[str]:
    """Floors that another plan would not keep, with its accuracies."""
    accuracy = plan.search.program.instance.problem.accuracy
    for name, floor in plan.question.floors.items():
        estimate = known[name]
        if floor is None or accuracy is None:
            continue
        if estimate is None:
            yield f"{accuracy.metric} of this combination was not measured, and class {name} has a floor"
        elif not accuracy.turn.keeps(estimate.value, floor):
            side = "below" if accuracy.turn.direction == "maximize" else "above"
            yield f"{accuracy.metric} {estimate.value:.4g} of class {name} is {side} {floor:g}"


def dearer(plan: Explained, split: Split) -> Iterator[str]:
    """Where another plan is worse in what the objective asks."""
    own, goal = plan.worth(plan.found.split), plan.goals[0]
    more = plan.worth(split) - own
    if goal == ACCURACY:
        if more > 1e-9:
            yield "less accurate"
    elif more > BETTER * abs(own):
        yield {
            COST: f"costs {more:.4g} USD/h more",
            ENERGY: f"draws {more:.4g} W more",
            WEIGHTED: f"weighs {more:.4g} more",
        }[goal]


def variants_text(search: SplitSearch, split: Split) -> dict[str, str]:
    """Choice per stage; where classes differ, each class's."""
    problem = search.program.instance.problem
    text: dict[str, str] = {}
    for stage in problem.stages:
        by_class = {need.name: split.choices[k, stage] for k, need in enumerate(problem.classes)}
        same = len(set(by_class.values())) == 1
        text[stage] = (
            next(iter(by_class.values())) if same else ", ".join(f"{v} ({name})" for name, v in by_class.items())
        )
    return text


def infeasible(search: SplitSearch, question: Question, excluded: Sequence[str], deadline: float) -> InfeasibleError:
    """The error that explains why no plan keeps every promise of the question. What takes long is tried until the
    `deadline`."""
    asked = promises(question)
    notes = [f"not considered: {line}" for line in excluded]
    conceded = list(_conceded(search, question, deadline))
    if not _possible(search, without(question, asked)):
        vague = "a link in the other direction, more bandwidth, or devices in the tier requests enter at"
        return InfeasibleError(
            "no plan: whatever accuracy, machines and money, the links between tiers do not carry the traffic",
            [*(f"would help: {line}" for line in conceded or [vague]), *notes],
        )
    needed = list(asked)
    for promise in asked:
        others = [other for other in needed if other != promise]
        if not _possible(search, without(question, [p for p in asked if p not in others])):
            needed = others
    helps = [*(line for promise in asked if (line := _relaxation(search, question, promise))), *conceded]
    message = "no plan keeps every promise: " + _joined([_name(search, question, promise) for promise in needed])
    return InfeasibleError(
        message,
        [*(f"would help: {line}" for line in helps or ["no single one of these is enough: relax several"]), *notes],
    )


def _conceded(search: SplitSearch, question: Question, until: float) -> Iterator[str]:
    """Less load, or more bandwidth, where that alone helps, with what it costs. A value counts as not enough where that
    cannot be told in time: near the least one that is, the bilinear program may take long."""
    for concession in concessions(search.program.instance.problem):
        deadline = min(time.monotonic() + CONCEDED_S, until)
        keeps = partial(_kept, search, question, concession, deadline)
        far = concession.neat(concession.far)
        if not keeps(far):
            continue
        value = halved(concession, keeps, concession.far, 1.0, deadline) or far
        best = _elsewhere(search, question, concession, time.monotonic() + CONCEDED_S, GAP, value)
        if best is not None:
            yield f"{concession.text(value)}, at {best.split.cost_usd_per_h:.6g} USD/h"


def _elsewhere(
    search: SplitSearch, question: Question, concession: Concession, deadline: float, gap: float, value: float
) -> Found | None:
    """The best plan with another value of a promise."""
    instance, slower = split_instance(concession.at(value)), search.program.instance.slower
    program = SplitProgram(instance.derated(slower) if slower else instance)
    return SplitSearch(program).best(question, COST, deadline, gap)


def _kept(search: SplitSearch, question: Question, concession: Concession, deadline: float, value: float) -> bool:
    until = min(deadline, time.monotonic() + CONCEDED_S / 5)
    return _elsewhere(search, question, concession, until, 1.0, value) is not None


def _possible(search: SplitSearch, question: Question) -> bool:
    return search.best(question, COST, time.monotonic() + PER_SOLVE_S, 1.0) is not None


def _relaxation(search: SplitSearch, question: Question, promise: Promise) -> str | None:
    """How far one promise must give way if the others stay; None where that alone does not help."""
    goals: dict[str, Goal] = {
        "accuracy": ("accuracy", promise.who),
        "count": ("machines", promise.who),
        "budget": COST,
    }
    relaxed = without(question, [promise])
    best = _ask(search, relaxed, goals[promise.kind])
    if best is None:
        return None
    name = _name(search, question, promise)
    if promise.kind == "budget":
        return f"{name}: at least {kept_figures(best.cost_usd_per_h, math.ceil)}"
    if promise.kind == "count":
        least = machines(best, promise.who)
        relaxed = replace(relaxed, counts={**relaxed.counts, promise.who: int(least)})
        says = f"at least {least:g}"
    else:
        says = _reached(search, best, promise.who)
        estimate = accuracies(search, best)[promise.who]
        relaxed = replace(relaxed, floors={**relaxed.floors, promise.who: estimate.value if estimate else None})
    cheapest = _ask(search, relaxed, COST) or best
    return f"{name}: {says}, at {cheapest.cost_usd_per_h:.6g} USD/h"


def _ask(search: SplitSearch, question: Question, goal: Goal) -> Split | None:
    found = search.best(question, goal, time.monotonic() + PER_SOLVE_S, GAP)
    return None if found is None else found.split


def _reached(search: SplitSearch, split: Split, name: str) -> str:
    accuracy = search.program.instance.problem.accuracy
    reached = accuracies(search, split)[name]
    if accuracy is None or reached is None:
        return "remove it (accuracy is not known)"
    return floor_text(accuracy.turn, reached.value)


def _name(search: SplitSearch, question: Question, promise: Promise) -> str:
    if promise.kind == "accuracy":
        return f"classes.{promise.who}.accuracy.floor ({question.floors[promise.who]:g})"
    if promise.kind == "count":
        return f"{_count_path(promise.who)} ({question.counts[promise.who]})"
    return f"objective.budget_usd_per_h ({question.budget_usd_per_h:g})"


def _joined(names: Sequence[str]) -> str:
    if not names:
        return "the load alone is too much"
    if len(names) == 1:
        return f"{names[0]} cannot be kept"
    return f"{', '.join(names[:-1])} and {names[-1]} conflict"
