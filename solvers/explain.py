"""What holds a plan where it is, and what else was considered."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from inferplan.estimators.accuracy import AccuracyEstimate
from inferplan.estimators.simulation import SimulationResult
from inferplan.solvers.columns import Column
from inferplan.solvers.document import accuracies
from inferplan.solvers.judge import GLANCE, Judge, limits_s
from inferplan.solvers.milp import Solution, Solver
from inferplan.solvers.neighbours import arranged
from inferplan.solvers.parts import is_parted, promise, whole
from inferplan.solvers.problem import Problem
from inferplan.solvers.program import ACCURACY, BETTER, COST, ENERGY, WEIGHTED, Ask
from inferplan.solvers.story import duration, variants_text
from inferplan.spec.plan import Alternative, Binding

NEXT_BEST = 2
TIED = "no better, and ties prefer the chosen plan"


@dataclass(frozen=True)
class Chosen:
    """A certified plan with the question it answers (under the scales that certification ended with).

    `unstable`: plans that no latency limit would have to rule out. Where replicas slow one another down, the question
    leaves out the plans that were not certified: the program cannot know better.
    """

    problem: Problem
    program: Solver
    judge: Judge
    ask: Ask
    solution: Solution
    deadline: float
    gap: float
    unstable: tuple[tuple[Column, ...], ...] = ()

    def best(self, ask: Ask, settle: bool = True) -> Solution | None:
        """The best plan for another question; None where there is none, or no time is left. `settle` as in `Solver`."""
        left = self.deadline - time.monotonic()
        found = self.program.ask(ask, left, self.gap, settle=settle) if left > 0 else None
        return None if found is None else arranged(self.problem, found)

    def accuracies(self, solution: Solution) -> dict[str, AccuracyEstimate | None]:
        """Accuracy of every class, as it was planned on."""
        return accuracies(self.problem, solution, self.problem.accuracy)


def binding(plan: Chosen, tails_s: Mapping[str, float]) -> list[Binding]:
    """Promises without which a better plan would exist: value, limit and unit of each.

    `tails_s`: simulated latency of every class at the percentile of its SLO.
    """
    own, goal = plan.solution.worth(plan.ask), plan.ask.objective
    found: list[Binding] = []
    for relaxed, entry in _promises(plan, tails_s):
        if plan.best(replace(relaxed, goals=(goal,), better_than=own), settle=False) is not None:
            found.append(entry)
    return found


def _promises(plan: Chosen, tails_s: Mapping[str, float]) -> Iterator[tuple[Ask, Binding]]:
    ask, problem = plan.ask, plan.problem
    accuracies = plan.accuracies(plan.solution)
    for need in whole(problem):
        if need.limit_s is not None:
            path = promise(problem, need.name, "latency")
            entry = Binding(constraint=path, value=tails_s[need.name], limit=need.limit_s, unit="s")
            yield replace(ask, scales={**ask.scales, need.name: None}, rejected=plan.unstable), entry
        accuracy = accuracies[need.name]
        if need.floor is not None and accuracy is not None and problem.accuracy is not None:
            entry = Binding(
                constraint=promise(problem, need.name, "accuracy"),
                value=accuracy.value,
                limit=need.floor,
                unit=problem.accuracy.metric,
            )
            yield replace(ask, floors={**ask.floors, need.name: None}), entry
    for name, device in problem.devices.items():
        if device.count is not None:
            tier, short = name.split("/", 1)
            bought = plan.solution.packings.get(name)
            entry = Binding(
                constraint=f"tiers.{tier}.devices.{short}.count",
                value=float(len(bought.machines)) if bought else 0.0,
                limit=float(device.count),
                unit="machines",
            )
            yield replace(ask, counts={**ask.counts, name: None}), entry
    if problem.budget_usd_per_h is not None:
        entry = Binding(
            constraint="objective.budget_usd_per_h",
            value=plan.solution.cost_usd_per_h,
            limit=problem.budget_usd_per_h,
            unit="USD/h",
        )
        yield replace(ask, budget_usd_per_h=None), entry


def alternatives(plan: Chosen) -> list[Alternative]:
    """Other sets of variants: the next best, the cheapest whatever its accuracy, the most accurate."""
    problem = plan.problem
    # Whether some other pattern of shares has the same cost and more accuracy takes most of the time to prove.
    goals = 1 if is_parted(problem) else 2
    ask = replace(plan.ask, goals=plan.ask.goals[:goals])
    seen = [_variants(plan.solution)]
    found: list[Alternative] = []

    def consider(ask: Ask, reason: str) -> None:
        solution = plan.best(ask, settle=False)
        if solution is not None and _variants(solution) not in seen:
            seen.append(_variants(solution))
            found.append(_alternative(plan, solution, reason))

    if any(floor is not None for floor in plan.ask.floors.values()):
        floorless = replace(ask, floors=dict.fromkeys(ask.floors))
        consider(floorless, "cheapest whatever its accuracy")
    if problem.accuracy is not None and plan.ask.objective != ACCURACY:
        consider(replace(ask, goals=(ACCURACY, COST), enough={}), "most accurate within the limits")
    for _ in range(NEXT_BEST):
        consider(replace(ask, forbidden=tuple(seen)), "next best choice of variants")
    return found


def _variants(solution: Solution) -> frozenset[tuple[int, str, str]]:
    return frozenset((k, stage, column.option.variant) for (k, stage), column in solution.chosen().items())


@dataclass(frozen=True)
class Verdict:
    """What another plan would be like: worst accuracy over classes, largest simulated latency at their percentiles,
    and where it is worse than the plan or breaks a promise; no reason where ties alone decide."""

    accuracy: float | None
    latency_s: float | None
    reasons: tuple[str, ...]


def verdict(plan: Chosen, solution: Solution, result: SimulationResult | None = None) -> Verdict:
    """Why another plan is not the better one; it is simulated shortly where no `result` of it is there."""
    result = result or plan.judge.judge(solution, GLANCE)
    tails = {
        name: stream.latency_slo_s.value for name, stream in result.streams.items() if stream.latency_slo_s is not None
    }
    accuracies = plan.accuracies(solution)
    why = [*_broken(plan, accuracies, tails), *_dearer(plan, solution)]
    if result.unstable:
        why.insert(0, "its replicas slow one another down too much to keep up")
    return Verdict(worst_accuracy(plan.problem, accuracies), max(tails.values(), default=None), tuple(why))


def worst_accuracy(problem: Problem, accuracies: Mapping[str, AccuracyEstimate | None]) -> float | None:
    """That of the class that is worst off; None where none is known."""
    values = [estimate.value for estimate in accuracies.values() if estimate is not None]
    worst = min if problem.accuracy is None or problem.accuracy.turn.direction == "maximize" else max
    return worst(values) if values else None


def _alternative(plan: Chosen, solution: Solution, label: str) -> Alternative:
    found = verdict(plan, solution)
    return Alternative(
        variants=variants_text(plan.problem, solution),
        cost_usd_per_h=solution.cost_usd_per_h,
        accuracy=found.accuracy,
        latency_s=found.latency_s,
        reason=f"{label}: {'; '.join(found.reasons) or TIED}",
    )


def _broken(
    plan: Chosen, accuracies: Mapping[str, AccuracyEstimate | None], tails: Mapping[str, float]
) -> Iterator[str]:
    """Promises an alternative would break."""
    accuracy = plan.problem.accuracy
    limits = limits_s(plan.problem)
    for need in whole(plan.problem):
        estimate = accuracies[need.name]
        if need.floor is None or accuracy is None:
            pass
        elif estimate is None:
            yield f"{accuracy.metric} of this combination was not measured, and class {need.name} has a floor"
        elif not accuracy.turn.keeps(estimate.value, need.floor):
            side = "below" if accuracy.turn.direction == "maximize" else "above"
            yield f"{accuracy.metric} {estimate.value:.4g} of class {need.name} is {side} {need.floor:g}"
        if need.name in limits and tails.get(need.name, 0.0) > limits[need.name]:
            yield f"class {need.name} takes {duration(tails[need.name])} of {duration(limits[need.name])}"


def _dearer(plan: Chosen, solution: Solution) -> Iterator[str]:
    """Where an alternative is worse in what the objective asks."""
    own, other = plan.solution.cost_usd_per_h, solution.cost_usd_per_h
    goal = plan.ask.objective
    if goal == ACCURACY:
        if solution.values.get(ACCURACY, 0.0) > plan.solution.values.get(ACCURACY, 0.0) + 1e-9:
            yield "less accurate"
    elif goal == ENERGY and solution.power_w is not None and plan.solution.power_w is not None:
        if solution.power_w > plan.solution.power_w * (1 + BETTER):
            yield f"draws {solution.power_w - plan.solution.power_w:.4g} W more"
    elif goal == WEIGHTED:
        worse = solution.worth(plan.ask) - plan.solution.worth(plan.ask)
        if worse > BETTER * abs(plan.solution.worth(plan.ask)):
            yield f"weighs {worse:.4g} more"
    elif other > own * (1 + BETTER):
        yield f"costs {other - own:.4g} USD/h more"
