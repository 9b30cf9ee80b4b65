"""What another promise would be worth to classes that spread: as in `steps`, without latencies.

Accuracies and numbers of machines take few values, so the program finds the next one itself: of all plans that are
better than this one the one that breaks a promise least, of all that are as good the one that keeps it best.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from inferplan.estimators.accuracy import Turn
from inferplan.solvers.assurance import at_level
from inferplan.solvers.goals import ACCURACY, COST, Goal
from inferplan.solvers.problem import ClassNeed
from inferplan.solvers.split_enquiry import SplitEnquiry
from inferplan.solvers.split_explain import machines
from inferplan.solvers.split_instance import promised, work_w
from inferplan.solvers.split_plan import loads_of, overloads
from inferplan.solvers.split_program import Split
from inferplan.solvers.steps import BARELY, RATES, TIMES, Step, Way

FINER = 1e-6
"""A floor this much better than an accuracy, relative, is beyond it: plans are told apart by combinations."""
PRECISION = 1e-3
"""To which the load that a plan carries is found, relative."""
WIDEST = 1e6
"""Times the load, at most."""


def split_steps(enquiry: SplitEnquiry) -> Iterator[Step]:
    """The steps of every promise: accuracy floors, machines, budget, rates."""
    for need in enquiry.problem.classes:
        yield from _of_floor(enquiry, need)
    for device in enquiry.problem.devices:
        yield from _of_count(enquiry, device)
    yield from _of_budget(enquiry)
    yield from _of_rates(enquiry)


def _of_floor(enquiry: SplitEnquiry, need: ClassNeed) -> Iterator[Step]:
    own, accuracy = enquiry.accuracy(enquiry.split, need.name), enquiry.problem.accuracy
    if own is None or accuracy is None:
        return
    path, question = f"classes.{need.name}.accuracy.floor", enquiry.plan.question
    goal: Goal = ("accuracy", need.name)
    turn, metric = accuracy.turn, accuracy.metric
    if need.floor is not None:
        free = replace(question, floors={**question.floors, need.name: None})
        nearest = enquiry.decide(f"{path}, looser", enquiry.better(free), (goal,))
        reached = None if nearest is None else enquiry.accuracy(nearest, need.name)
        if nearest is not None and reached is not None:
            lower = replace(question, floors={**question.floors, need.name: reached})
            best = enquiry.decide(f"{path}, looser", lower) or nearest
            yield _step(enquiry, path, "looser", reached, metric, best)
    alike = enquiry.decide(f"{path}, as it is", enquiry.no_worse(question), (goal, *enquiry.plan.goals))
    kept = None if alike is None else enquiry.accuracy(alike, need.name)
    if alike is None or kept is None or turn.keeps(own, kept):
        alike, kept = enquiry.split, own
    kept, full = _up_to_goal(turn, need, kept), need.goal is not None and turn.keeps(kept, need.goal)
    if need.floor is not None and turn.keeps(kept, need.floor) and kept != need.floor:
        yield _step(enquiry, path, "as it is", kept, metric, alike)
    if enquiry.plan.goals[0] == ACCURACY or full:
        return
    sign = 1.0 if turn.direction == "maximize" else -1.0
    above = kept + sign * FINER * max(abs(kept), FINER)
    tighter = enquiry.decide(f"{path}, tighter", replace(question, floors={**question.floors, need.name: above}))
    reached = None if tighter is None else enquiry.accuracy(tighter, need.name)
    if tighter is not None and reached is not None:
        yield _step(enquiry, path, "tighter", _up_to_goal(turn, need, reached), metric, tighter)


def _up_to_goal(turn: Turn, need: ClassNeed, value: float) -> float:
    """An accuracy, or the class's goal where that is not as far: no floor lies beyond it."""
    return value if need.goal is None or not turn.keeps(value, need.goal) else need.goal


def _of_count(enquiry: SplitEnquiry, device: str) -> Iterator[Step]:
    tier, short = device.split("/", 1)
    path, question = f"tiers.{tier}.devices.{short}.count", enquiry.plan.question
    used = machines(enquiry.split, device)
    if question.counts[device] is not None:
        free = enquiry.better(replace(question, counts={**question.counts, device: None}))
        fewest = enquiry.decide(f"{path}, looser", free, (("machines", device),))
        if fewest is not None:
            most = int(machines(fewest, device))
            more = replace(question, counts={**question.counts, device: most})
            best = enquiry.decide(f"{path}, looser", more) or fewest
            yield _step(enquiry, path, "looser", float(most), "machines", best)
    if used:
        fewer = replace(question, counts={**question.counts, device: int(used) - 1})
        tighter = enquiry.decide(f"{path}, tighter", fewer)
        if tighter is not None:
            yield _step(enquiry, path, "tighter", machines(tighter, device), "machines", tighter)


def _of_budget(enquiry: SplitEnquiry) -> Iterator[Step]:
    question, path = enquiry.plan.question, "objective.budget_usd_per_h"
    if question.budget_usd_per_h is None or enquiry.plan.goals[0] == COST:
        return
    free = enquiry.better(replace(question, budget_usd_per_h=None))
    cheapest = enquiry.decide(f"{path}, looser", free, (COST,))
    if cheapest is not None:
        enough = cheapest.cost_usd_per_h
        more = enquiry.decide(f"{path}, looser", replace(question, budget_usd_per_h=enough * (1 + FINER))) or cheapest
        yield _step(enquiry, path, "looser", enough, "USD/h", more)
    less = replace(question, budget_usd_per_h=enquiry.split.cost_usd_per_h * (1 - BARELY))
    tighter = enquiry.decide(f"{path}, tighter", less)
    if tighter is not None:
        yield _step(enquiry, path, "tighter", tighter.cost_usd_per_h, "USD/h", tighter)


def _of_rates(enquiry: SplitEnquiry) -> Iterator[Step]:
    """How much more traffic, of all classes alike, the plan carries, what it costs then, and the best plan for a little
    more than that."""
    if any(need.trace_sha256 is not None for need in enquiry.problem.classes):
        return
    level = carried(enquiry)
    own = _step(enquiry, RATES, "as it is", level, TIMES, enquiry.split)
    cost = _cost_at(enquiry, level)
    yield replace(own, cost_usd_per_h=cost, extra_usd_per_h=cost - enquiry.split.cost_usd_per_h)
    more = level * (1 + 2 * PRECISION)
    problem = at_level(enquiry.problem, more)
    question = replace(promised(problem), weights=enquiry.plan.question.weights)
    beyond = enquiry.decide(f"{RATES}, tighter", question, problem=problem)
    if beyond is not None:
        yield _step(enquiry, RATES, "tighter", more, TIMES, beyond)


def carried(enquiry: SplitEnquiry) -> float:
    """How many times its load the plan carries, at least: until a queue gets more than it can serve, or a link more
    than its bandwidth, whatever machines are lost."""
    instance, split = enquiry.instance, enquiry.split
    flows = enquiry.plan.search.program.flows
    widest = min(
        (
            width / (load * instance.level)
            for (t, u), load in flows.carried(split.choices, split.flows).items()
            if t != u and load > 0 and (width := instance.ways.bandwidth(t, u)) is not None
        ),
        default=WIDEST,
    )

    def keeps(level: float) -> bool:
        return not overloads(replace(instance, level=instance.level * level), split)

    low, high = 1.0, max(widest, 1.0)
    if keeps(high):
        return high
    loads = loads_of(instance, split, instance.level)
    # Nothing slows down less under more load, so no queue carries more than its room seems to be.
    room = min(instance.max_utilisation / loads.utilisation(name) for name in split.replicas if loads.load_rps[name])
    high = min(high, max(room, 1.0) * (1 + PRECISION))
    while high > low * (1 + PRECISION):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if keeps(middle) else (low, middle)
    return low


def _cost_at(enquiry: SplitEnquiry, level: float) -> float:
    """What the plan costs with so many times its load: traffic and electricity grow."""
    instance, split = enquiry.instance, enquiry.split
    loads, devices, more = loads_of(instance, split), enquiry.problem.devices, 0.0
    for option in instance.options:
        if option.name in split.replicas:
            works = [
                work_w(option, split.replicas[option.name], times * loads.load_rps[option.name])
                for times in (level, 1.0)
            ]
            added = (works[0] or 0.0) - (works[1] or 0.0)
            more += devices[option.device].tariff.electricity_usd_per_h(added)
    return split.cost_usd_per_h + more + (level - 1) * split.traffic_usd_per_h


def _step(enquiry: SplitEnquiry, promise: str, way: Way, value: float, unit: str, split: Split) -> Step:
    own, other = enquiry.worst_accuracy(enquiry.split), enquiry.worst_accuracy(split)
    extra = None if own is None or other is None else other - own
    cost = split.cost_usd_per_h
    return Step(promise, way, value, unit, cost, cost - enquiry.split.cost_usd_per_h, other, extra, None)
