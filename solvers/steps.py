"""What one more unit of a promise is worth: the next value at which the best plan changes, and what that plan costs.

The program is integer, so costs move in steps, and a derivative would be zero almost everywhere. For every promise
there are two steps, each found by asking for a plan, not by moving the promise bit by bit:

- *looser*: of all plans that are better than this one, and keep every other promise, the one that breaks this promise
  least. What it reaches is the first value at which something is gained;
- *tighter*: how far the promise can go at the same objective (of all plans as good as this one, the one that keeps it
  best), and the best plan beyond that.

Latencies are simulated, at the upper end of their interval; which plans are compared is the program's view of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from inferplan.estimators.accuracy import AccuracyEstimate
from inferplan.solvers.assurance import Case
from inferplan.solvers.columns import MAX_UTILISATION
from inferplan.solvers.enquiry import Answer, Enquiry, promised_s
from inferplan.solvers.judge import believed
from inferplan.solvers.problem import ClassNeed
from inferplan.solvers.program import ACCURACY, COST, Goal

BARELY = 1e-3
"""How much tighter than what is reached a limit is asked for, to see what lies beyond it."""
FINER = (1e-5, 1e-4, 1e-3)
"""Likewise for accuracies, from the finest that the program can tell apart."""
ROUNDS = 12
PRECISION = 0.01
"""How exactly the load that a plan carries is found, relative."""
NEAREST = 4

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
    """The steps of every promise: latency limits, accuracy floors, machines, budget."""
    for need in enquiry.plan.problem.classes:
        if need.limit_s is not None:
            yield from _of_limit(enquiry, need)
        yield from _of_floor(enquiry, need)
    for device in enquiry.plan.problem.devices:
        yield from _of_count(enquiry, device)
    yield from _of_budget(enquiry)


def _of_limit(enquiry: Enquiry, need: ClassNeed) -> Iterator[Step]:
    plan, path = enquiry.plan, f"classes.{need.name}.slo.latency_s"
    least: Goal = ("latency", need.name)
    assert need.limit_s is not None
    ask = plan.ask
    free = replace(ask, scales={**ask.scales, need.name: None}, rejected=plan.unstable, goals=(least, *ask.goals[:1]))
    looser = enquiry.answer(f"{path}, looser", enquiry.better(free), free=need.name)
    if looser is not None and promised_s(looser.result, need.name) > need.limit_s:
        yield _step(enquiry, path, "looser", promised_s(looser.result, need.name), "s", looser)
    own = Answer(plan.solution, plan.judge.certain(plan.solution))
    alike = enquiry.answer(f"{path}, as it is", enquiry.no_worse(replace(ask, goals=(least, *ask.goals[:1]))))
    # The program ranks by its own latencies: the plan itself may be the faster one.
    best = min([one for one in (own, alike) if one is not None], key=lambda one: promised_s(one.result, need.name))
    reached = promised_s(best.result, need.name)
    if reached < need.limit_s:
        yield _step(enquiry, path, "as it is", reached, "s", best)
    says = believed(plan.problem, best.solution)[need.name]
    for _ in range(NEAREST):
        says *= 1 - BARELY
        beyond = enquiry.answer(f"{path}, tighter", replace(ask, scales={**ask.scales, need.name: says}))
        if beyond is None:
            return
        if promised_s(beyond.result, need.name) < reached:
            yield _step(enquiry, path, "tighter", promised_s(beyond.result, need.name), "s", beyond)
            return
        says = believed(plan.problem, beyond.solution)[need.name]


def _of_floor(enquiry: Enquiry, need: ClassNeed) -> Iterator[Step]:
    plan, ask = enquiry.plan, enquiry.plan.ask
    own = plan.accuracies(plan.solution)[need.name]
    if own is None or plan.problem.accuracy is None:
        return
    metric, turn = plan.problem.accuracy.metric, plan.problem.accuracy.turn
    path, most = f"classes.{need.name}.accuracy.floor", ("accuracy", need.name)
    goal: Goal = most  # type: ignore[assignment]
    if need.floor is not None:
        free = replace(ask, floors={**ask.floors, need.name: None}, goals=(goal, *ask.goals[:1]))
        looser = enquiry.answer(f"{path}, looser", enquiry.better(free))
        reached = None if looser is None else plan.accuracies(looser.solution)[need.name]
        if looser is not None and reached is not None:
            yield _step(enquiry, path, "looser", reached.value, metric, looser)
        if turn.keeps(own.value, need.floor) and own.value != need.floor:
            same = Answer(plan.solution, plan.judge.certain(plan.solution))
            yield _step(enquiry, path, "as it is", own.value, metric, same)
    if ask.objective == ACCURACY:
        return
    sign = 1.0 if turn.direction == "maximize" else -1.0
    for finer in FINER:
        floor = own.value + sign * finer * max(abs(own.value), 1e-6)
        beyond = enquiry.answer(f"{path}, tighter", replace(ask, floors={**ask.floors, need.name: floor}))
        if beyond is None:
            return
        reached = plan.accuracies(beyond.solution)[need.name]
        if reached is not None and not turn.keeps(own.value, reached.value):
            yield _step(enquiry, path, "tighter", reached.value, metric, beyond)
            return


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
        tighter = enquiry.answer(f"{path}, tighter", replace(ask, counts={**ask.counts, device: used - 1}))
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
            yield _step(enquiry, path, "looser", looser.solution.cost_usd_per_h, "USD/h", looser)
        below = plan.solution.cost_usd_per_h * (1 - BARELY)
        tighter = enquiry.answer(f"{path}, tighter", replace(ask, budget_usd_per_h=below))
        if tighter is not None:
            yield _step(enquiry, path, "tighter", tighter.solution.cost_usd_per_h, "USD/h", tighter)


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
    own, other = (_worst(enquiry, plan.accuracies(one)) for one in (plan.solution, solution))
    return Step(
        promise, way, value, unit, solution.cost_usd_per_h,
        solution.cost_usd_per_h - plan.solution.cost_usd_per_h,
        other, None if own is None or other is None else other - own,
        max(latencies, default=None),
    )  # fmt: skip


def _worst(enquiry: Enquiry, accuracies: Mapping[str, AccuracyEstimate | None]) -> float | None:
    values = [estimate.value for estimate in accuracies.values() if estimate is not None]
    accuracy = enquiry.plan.problem.accuracy
    if not values or accuracy is None:
        return None
    return min(values) if accuracy.turn.direction == "maximize" else max(values)
