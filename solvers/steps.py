"""What one more unit of a promise is worth: the next value at which the best plan changes, and what that plan costs.

The program is integer, so costs move in steps, and a derivative would be zero almost everywhere. For every promise
there are two steps, each found by asking for a plan, not by moving the promise bit by bit:

- *looser*: of all plans that are better than this one, and keep every other promise, the one that breaks this promise
  least. What it reaches is the first value at which something is gained;
- *as it is*, for nothing: how far the promise can go at the same objective, of all plans as good as this one the one
  that keeps it best;
- *tighter*: what would be decided beyond that.

Latencies are simulated, at the upper end of their interval; which plans are compared is the program's view of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from inferplan.estimators.accuracy import Turn
from inferplan.solvers.assurance import Case, at_level
from inferplan.solvers.columns import MAX_UTILISATION
from inferplan.solvers.enquiry import PRECISION, Answer, Enquiry, limited, promised_s
from inferplan.solvers.explain import worst_accuracy
from inferplan.solvers.parts import is_parted, promise, whole
from inferplan.solvers.problem import ClassNeed
from inferplan.solvers.program import ACCURACY, COST, Goal

BARELY = 1e-3
"""How much less than what a plan costs a budget is, to see what lies below it."""
FINER = (1e-5, 1e-4, 1e-3)
"""Likewise for accuracies, from the finest that the program can tell apart."""
ROUNDS = 12
NEAREST = 6
UNLIMITED = 1000.0
"""A limit that many times as high is none."""
RATES, TIMES = "classes.*.rate_rps", "times"

Way = Literal["as it is", "looser", "tighter"]


@dataclass(frozen=True)
class Step:
    """A value of a promise, and the best plan if that were promised. Differences are to the plan in question.

    `as it is`: the value that the plan, or one as good, would keep as well: nothing changes up to there.
    """

    promise: str
    way: Way
    value: float
    unit: str
    cost_usd_per_h: float
    extra_usd_per_h: float
    accuracy: float | None
    extra_accuracy: float | None
    latency_s: float | None
    """Simulated, largest over classes at their percentiles."""


def steps(enquiry: Enquiry) -> Iterator[Step]:
    """The steps of every promise: latency limits, accuracy floors, machines, budget, rates."""
    for need in whole(enquiry.plan.problem):
        if need.limit_s is not None:
            yield from _of_limit(enquiry, need)
        yield from _of_floor(enquiry, need)
    for device in enquiry.plan.problem.devices:
        yield from _of_count(enquiry, device)
    yield from _of_budget(enquiry)
    yield from _of_rates(enquiry)


def _of_limit(enquiry: Enquiry, need: ClassNeed) -> Iterator[Step]:
    plan, path = enquiry.plan, promise(enquiry.plan.problem, need.name, "latency")
    least: Goal = ("latency", need.name)
    assert need.limit_s is not None
    ask = plan.ask
    free = replace(ask, scales={**ask.scales, need.name: None}, rejected=plan.unstable, goals=(least, *ask.goals[:1]))
    looser = enquiry.answer(f"{path}, looser", enquiry.better(free), free=need.name)
    yield from _higher_limit(enquiry, need, looser)
    own = Answer(plan.solution, plan.judge.certain(plan.solution))
    alike = enquiry.answer(f"{path}, as it is", enquiry.no_worse(replace(ask, goals=(least, *ask.goals[:1]))))
    # The program ranks by its own latencies: the plan itself may be the faster one.
    fastest = min([one for one in (own, alike) if one is not None], key=lambda one: promised_s(one.result, need.name))
    reached, limit_s = promised_s(fastest.result, need.name), math.inf
    beyond: Answer | None = None
    for _ in range(NEAREST):
        # Whether a promise is met is decided by the share of late requests, a little before the interval says so.
        limit_s = min(reached, limit_s) * (1 - PRECISION)
        beyond = enquiry.decide(f"{path}, tighter", ask, limited(plan.problem, need, limit_s))
        if beyond is None or _loses(enquiry, beyond):
            break
        fastest, reached = beyond, min(promised_s(beyond.result, need.name), limit_s)
    if reached < need.limit_s:
        yield _step(enquiry, path, "as it is", reached, "s", fastest)
    if beyond is not None and _loses(enquiry, beyond):
        yield _step(enquiry, path, "tighter", min(promised_s(beyond.result, need.name), limit_s), "s", beyond)


def _higher_limit(enquiry: Enquiry, need: ClassNeed, found: Answer | None) -> Iterator[Step]:
    """What a higher limit would gain: what the plan that was `found` takes, or any; then lower ones, while they do."""
    plan, path = enquiry.plan, promise(enquiry.plan.problem, need.name, "latency")
    assert need.limit_s is not None
    limit_s = math.inf if found is None else promised_s(found.result, need.name)
    if limit_s <= need.limit_s or math.isinf(limit_s):
        limit_s = need.limit_s * UNLIMITED
    best: Answer | None = None
    reached = limit_s
    for _ in range(NEAREST):
        then = enquiry.decide(f"{path}, looser", plan.ask, limited(plan.problem, need, limit_s))
        if then is None or not _gains(enquiry, then):
            break
        best, reached = then, min(promised_s(then.result, need.name), limit_s)
        limit_s = reached * (1 - PRECISION)
        if limit_s <= need.limit_s:
            break
    if best is not None and reached > need.limit_s:
        yield _step(enquiry, path, "looser", reached, "s", best)


def _of_floor(enquiry: Enquiry, need: ClassNeed) -> Iterator[Step]:
    plan, ask = enquiry.plan, enquiry.plan.ask
    own = plan.accuracies(plan.solution)[need.name]
    if own is None or plan.problem.accuracy is None:
        return
    metric, turn = plan.problem.accuracy.metric, plan.problem.accuracy.turn
    path = promise(plan.problem, need.name, "accuracy")
    if need.floor is not None:
        yield from _lower_floor(enquiry, need, own.value)
    kept = _up_to_goal(turn, need, own.value)
    if ask.objective == ACCURACY or (need.goal is not None and turn.keeps(own.value, need.goal)):
        if need.floor is not None and turn.keeps(kept, need.floor) and kept != need.floor:
            yield _kept(enquiry, path, kept, metric)
        return
    beyond = _above(enquiry, need, own.value)
    best: tuple[Answer, float] | None = None
    # Where classes are split, a share in between may reach more for nothing.
    for _ in range(ROUNDS if is_parted(plan.problem) else 0):
        if beyond is None or _loses(enquiry, beyond[0]) or _gains(enquiry, beyond[0]):
            break
        best, beyond = beyond, _above(enquiry, need, beyond[1])
    if best is not None and need.floor is not None:
        yield _step(enquiry, path, "as it is", _up_to_goal(turn, need, best[1]), metric, best[0])
    elif need.floor is not None and turn.keeps(own.value, need.floor) and own.value != need.floor:
        yield _kept(enquiry, path, own.value, metric)
    if beyond is not None:
        yield _step(enquiry, path, "tighter", _up_to_goal(turn, need, beyond[1]), metric, beyond[0])


def _up_to_goal(turn: Turn, need: ClassNeed, value: float) -> float:
    """An accuracy, or the class's goal where that is not as far: no floor lies beyond it."""
    return value if need.goal is None or not turn.keeps(value, need.goal) else need.goal


def _kept(enquiry: Enquiry, path: str, value: float, metric: str) -> Step:
    """What the plan itself reaches."""
    plan = enquiry.plan
    return _step(enquiry, path, "as it is", value, metric, Answer(plan.solution, plan.judge.certain(plan.solution)))


def _lower_floor(enquiry: Enquiry, need: ClassNeed, own: float) -> Iterator[Step]:
    """The most accurate of the plans that a lower floor would make better.

    Found by the program; then it is decided what would be with a floor just above it, until nothing is gained."""
    plan, ask = enquiry.plan, enquiry.plan.ask
    assert plan.problem.accuracy is not None
    path = promise(plan.problem, need.name, "accuracy")
    goal: Goal = ("accuracy", need.name)
    free = replace(ask, floors={**ask.floors, need.name: None}, goals=(goal, *ask.goals[:1]))
    found = enquiry.answer(f"{path}, looser", enquiry.better(free))
    if found is None:
        found = enquiry.decide(f"{path}, looser", replace(ask, floors={**ask.floors, need.name: None}))
        if found is None or not _gains(enquiry, found):
            return
    reached = plan.accuracies(found.solution)[need.name]
    for _ in range(ROUNDS):
        above = None if reached is None else _above(enquiry, need, reached.value)
        if above is None or not _gains(enquiry, above[0]):
            break
        found, reached = above[0], plan.accuracies(above[0].solution)[need.name]
    if reached is not None:
        # The program was asked for the most accurate plan; with a floor there a cheaper one may do.
        lower = replace(ask, floors={**ask.floors, need.name: reached.value})
        best = enquiry.decide(f"{path}, looser", lower) or found
        best = best if _gains(enquiry, best) else found
        yield _step(enquiry, path, "looser", reached.value, plan.problem.accuracy.metric, best)


def _gains(enquiry: Enquiry, found: Answer) -> bool:
    worth = found.solution.worth(enquiry.plan.ask)
    return worth < enquiry.worth - 1e-6 * max(abs(enquiry.worth), 1e-12)


def _loses(enquiry: Enquiry, found: Answer) -> bool:
    worth = found.solution.worth(enquiry.plan.ask)
    return worth > enquiry.worth + 1e-6 * max(abs(enquiry.worth), 1e-12)


def _above(enquiry: Enquiry, need: ClassNeed, value: float) -> tuple[Answer, float] | None:
    """What would be decided with a floor just above an accuracy (below, where lower is better), and what it reaches."""
    plan, ask = enquiry.plan, enquiry.plan.ask
    assert plan.problem.accuracy is not None
    turn, path = plan.problem.accuracy.turn, promise(plan.problem, need.name, "accuracy")
    sign = 1.0 if turn.direction == "maximize" else -1.0
    for finer in FINER:
        floor = value + sign * finer * max(abs(value), 1e-6)
        found = enquiry.decide(f"{path}, tighter", replace(ask, floors={**ask.floors, need.name: floor}))
        if found is None:
            return None
        reached = plan.accuracies(found.solution)[need.name]
        if reached is not None and not turn.keeps(value, reached.value):
            return found, reached.value
    return None


def _of_count(enquiry: Enquiry, device: str) -> Iterator[Step]:
    plan, ask = enquiry.plan, enquiry.plan.ask
    tier, short = device.split("/", 1)
    path = f"tiers.{tier}.devices.{short}.count"
    packing = plan.solution.packings.get(device)
    used = len(packing.machines) if packing is not None else 0
    fewest: Goal = ("machines", device)
    if ask.counts[device] is not None:
        free = replace(ask, counts={**ask.counts, device: None}, goals=(fewest, *ask.goals[:1]))
        looser = enquiry.answer(f"{path}, looser", enquiry.better(free))
        if looser is not None:
            machines = len(looser.solution.packings[device].machines) if device in looser.solution.packings else 0
            yield _step(enquiry, path, "looser", float(machines), "machines", looser)
    if used:
        tighter = enquiry.decide(f"{path}, tighter", replace(ask, counts={**ask.counts, device: used - 1}))
        if tighter is not None:
            left = tighter.solution.packings.get(device)
            yield _step(enquiry, path, "tighter", float(len(left.machines) if left else 0), "machines", tighter)


def _of_budget(enquiry: Enquiry) -> Iterator[Step]:
    plan, ask = enquiry.plan, enquiry.plan.ask
    if ask.budget_usd_per_h is None:
        return
    path = "objective.budget_usd_per_h"
    if ask.objective != COST:
        free = replace(ask, budget_usd_per_h=None, goals=(COST, *ask.goals[:1]))
        looser = enquiry.answer(f"{path}, looser", enquiry.better(free))
        if looser is not None and looser.solution.cost_usd_per_h > ask.budget_usd_per_h:
            enough = looser.solution.cost_usd_per_h
            best = enquiry.decide(f"{path}, looser", replace(ask, budget_usd_per_h=enough)) or looser
            yield _step(enquiry, path, "looser", enough, "USD/h", best)
        below = plan.solution.cost_usd_per_h * (1 - BARELY)
        tighter = enquiry.decide(f"{path}, tighter", replace(ask, budget_usd_per_h=below))
        if tighter is not None:
            yield _step(enquiry, path, "tighter", tighter.solution.cost_usd_per_h, "USD/h", tighter)


def _of_rates(enquiry: Enquiry) -> Iterator[Step]:
    """How much more traffic, of all classes alike, the plan carries; and the best plan for a little more than that."""
    plan = enquiry.plan
    level = carried(enquiry)
    if level is None:
        return
    own = Answer(plan.solution, plan.judge.certain(plan.solution))
    yield _step(enquiry, RATES, "as it is", level, TIMES, own)
    more = level * (1 + 2 * PRECISION)
    beyond = enquiry.decide(f"{RATES}, tighter", plan.ask, at_level(plan.problem, more))
    if beyond is not None:
        yield _step(enquiry, RATES, "tighter", more, TIMES, beyond)


def carried(enquiry: Enquiry) -> float | None:
    """How many times its load the plan carries with every promise kept, by simulation, at least; None where a class
    has a trace, which has no rate to multiply."""
    plan = enquiry.plan
    if any(need.trace_sha256 is not None for need in plan.problem.classes):
        return None
    busiest = max((column.utilisation for column in plan.solution.columns), default=0.0)
    if busiest <= 0:
        return None

    def keeps(level: float) -> bool:
        result = plan.judge.in_case(Case(f"load x {level:g}", level), plan.solution)
        return not result.unstable and all(stream.verdict in ("met", None) for stream in result.streams.values())

    low, high = 1.0, MAX_UTILISATION / busiest
    if high <= 1 or not keeps(1.0):
        return None
    if keeps(high):
        return high
    for _ in range(ROUNDS):
        if high <= low * (1 + PRECISION) or enquiry.seconds_left <= 0:
            break
        middle = (low * high) ** 0.5
        low, high = (middle, high) if keeps(middle) else (low, middle)
    return low


def _step(enquiry: Enquiry, promise: str, way: Way, value: float, unit: str, answer: Answer) -> Step:
    plan, solution = enquiry.plan, answer.solution
    latencies = [s.latency_slo_s.value for s in answer.result.streams.values() if s.latency_slo_s is not None]
    own, other = (worst_accuracy(plan.problem, plan.accuracies(one)) for one in (plan.solution, solution))
    return Step(
        promise, way, value, unit, solution.cost_usd_per_h,
        solution.cost_usd_per_h - plan.solution.cost_usd_per_h,
        other, None if own is None or other is None else other - own,
        max(latencies, default=None),
    )  # fmt: skip
