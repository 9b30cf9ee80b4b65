"""The exact Pareto set of plans over two or three of cost, accuracy and latency, under the planner's models.

A plan is on the frontier if no other one that keeps the promises is at least as good on every axis and better on one.
What is an axis is no promise: a frontier over accuracy ignores the classes' floors, one over latency their
limits, one over cost the budget. Goals are wishes, and change no point.

*Labels* (`chains`) find all points in one pass where they are exact. *The program* (`milp`) finds them one by one
everywhere else, for two axes: the best plan on one axis (of those, the best on the other), then the best that is
strictly better on the other axis, until there is none. As costs, latencies and accuracies of plans are finitely
many this ends, and every point is optimal for its limit, so none is missed. Points closer together than the
program's tolerance (1e-5 of cost or latency) count as one.

Latency is what the program tabulates, at the percentile of the SLO. With several classes it is the largest latency
over its class's limit, and accuracy is the mean weighted by rates.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from inferplan.solvers.assurance import assured_columns
from inferplan.solvers.chains import Limits, plans, why_not
from inferplan.solvers.columns import Column
from inferplan.solvers.combinations import MAX_COMBINATIONS
from inferplan.solvers.document import accuracies
from inferplan.solvers.judge import believed
from inferplan.solvers.labels import Floats, TooManyLabels, undominated
from inferplan.solvers.milp import Solution, Solver, instance, promises, solution_of
from inferplan.solvers.mixtures import MixtureSolver
from inferplan.solvers.parts import is_parted, parted, whole
from inferplan.solvers.problem import Problem
from inferplan.solvers.program import ACCURACY, COST, RATIO, Ask
from inferplan.spec.errors import InputError

Axis = Literal["cost", "accuracy", "latency"]
AXES: tuple[Axis, ...] = ("cost", "accuracy", "latency")
WIDE = 100.0
"""Latencies up to this many times the limit are looked at where latency is an axis."""
NO_FLOOR = 1e9
CLOSER = 1e-5
"""Relative step from a point to the next limit: the program keeps its limits to 1e-6."""
SAME = 1e-9
MAX_POINTS = 10_000


@dataclass(frozen=True)
class Point:
    """A plan of the frontier. Accuracy is in the user's direction; None where it is not known."""

    solution: Solution
    cost_usd_per_h: float
    accuracy: float | None
    latency: float
    """Seconds at the SLO's percentile; with several classes the largest latency over its limit."""


@dataclass(frozen=True)
class Frontier:
    """Points in the order of the first axis, best first. `complete`: none is missing."""

    axes: tuple[Axis, ...]
    points: tuple[Point, ...]
    method: Literal["labels", "program"]
    complete: bool
    why: str
    """Why it is the program; empty where labels did it."""


def frontier(
    problem: Problem,
    axes: Sequence[Axis],
    *,
    time_limit_s: float = 300.0,
    method: Literal["labels", "program"] | None = None,
) -> Frontier:
    """The Pareto set over two or three axes; `method` forces one of the ways to find it.

    Where classes may be split, points are over all tabulated shares (`parts`).

    Raises InputError where an axis means nothing for the workload, three axes are asked of the program, or classes
    spread over devices; OutOfTimeError where options, and ways to split classes, are not tabulated, or not
    all labels made, in time.
    """
    if problem.workload.splitting == "devices":
        raise InputError("splitting: devices: a frontier does not spread classes over devices; set splitting: false")
    deadline = time.monotonic() + time_limit_s
    problem = parted(problem)
    columns = _known(problem, assured_columns(problem, deadline=deadline), "accuracy" in axes)
    _check(problem, axes)
    why = "classes may be split" if is_parted(problem) else why_not(problem, columns) or ""
    if not why and method != "program":
        try:
            return Frontier(tuple(axes), _by_labels(problem, columns, axes, deadline), "labels", True, "")
        except TooManyLabels as error:
            why = f"too many labels ({error})"
    if len(axes) > 2:
        raise InputError(f"a frontier over three axes needs Pareto labels, which do not apply here: {why}")
    if method == "labels":
        raise InputError(f"Pareto labels do not apply here: {why}")
    points, complete = _by_program(problem, columns, axes, deadline)
    return Frontier(tuple(axes), points, "program", complete, why)


def _check(problem: Problem, axes: Sequence[Axis]) -> None:
    if len(set(axes)) != len(axes) or not 2 <= len(axes) <= 3:
        raise InputError(f"a frontier has two or three different axes of {', '.join(AXES)}")
    if "accuracy" in axes and problem.accuracy is None:
        raise InputError("accuracy cannot be an axis: the workload declares no accuracy")
    if "latency" in axes and len(whole(problem)) > 1 and any(need.limit_s is None for need in problem.classes):
        raise InputError("latency as an axis of several classes is relative to their SLOs: give every class one")


def _known(problem: Problem, columns: Sequence[Column], needs_accuracy: bool) -> list[Column]:
    """Columns whose accuracy is known, where that is an axis."""
    accuracy = problem.accuracy
    if accuracy is None or not needs_accuracy:
        return list(columns)
    return [column for column in columns if accuracy.knows(column.stage, column.option.variant)]


def _by_labels(problem: Problem, columns: Sequence[Column], axes: Sequence[Axis], deadline: float) -> tuple[Point, ...]:
    need = problem.classes[0]
    limits = Limits(
        None if "latency" in axes else need.limit_s,
        None if "accuracy" in axes else need.floor,
        None if "cost" in axes else problem.budget_usd_per_h,
        "latency" in axes,
        "accuracy" in axes,
    )
    found = plans(problem, columns, limits, deadline)
    columns_of = {"cost": found.costs_usd_per_h, "accuracy": found.losses, "latency": found.latencies_s}
    values = np.stack([_rounded(columns_of[axis]) for axis in axes], axis=1)
    # Of plans that are equal on the axes the fastest comes first, then the cheapest, then the most accurate.
    order = np.lexsort((found.losses, found.costs_usd_per_h, found.latencies_s))
    best = order[undominated(values[order])]
    return _sorted(problem, [_point(problem, solution_of(problem, found.chosen(label))) for label in best], axes)


def _rounded(values: Floats) -> Floats:
    """Values that differ by rounding only made equal."""
    scale = 10.0 ** np.floor(np.log10(np.maximum(np.abs(values), 1e-300)))
    result: Floats = np.where(values == 0, 0.0, np.round(values / scale, 10) * scale)
    return result


def _point(problem: Problem, solution: Solution) -> Point:
    return Point(solution, solution.cost_usd_per_h, _accuracy(problem, solution), _latency(problem, solution))


def _accuracy(problem: Problem, solution: Solution) -> float | None:
    """Accuracy of a plan; of several classes the mean weighted by rates."""
    if problem.accuracy is None:
        return None
    found = accuracies(problem, solution, problem.accuracy)
    total = sum(need.rate_rps for need in problem.classes)
    value = 0.0
    for need in whole(problem):
        estimate = found[need.name]
        if estimate is None:
            return None
        value += estimate.value * need.rate_rps / total
    return value


def _latency(problem: Problem, solution: Solution) -> float:
    """Tabulated latency, in seconds; of several classes the largest ratio to its limit."""
    own = instance(problem, solution)
    if len(whole(own)) > 1:
        return max(believed(own, solution).values(), default=0.0)
    alone = replace(own, classes=tuple(replace(need, limit_s=1.0) for need in own.classes))
    return believed(alone, solution)[own.classes[0].name]


def _sorted(problem: Problem, points: Sequence[Point], axes: Sequence[Axis]) -> tuple[Point, ...]:
    """Points in order, without those that others are as good as but for rounding."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda point: [_worth(problem, point, axis) for axis in axes]):
        if not any(_no_better(problem, point, other, axes) for other in kept):
            kept.append(point)
    return tuple(kept)


def _worth(problem: Problem, point: Point, axis: Axis) -> float:
    """What is minimised."""
    if axis == "cost":
        return point.cost_usd_per_h
    if axis == "latency":
        return point.latency
    turn = problem.accuracy.turn if problem.accuracy is not None else None
    return math.inf if turn is None or point.accuracy is None else -turn.turned(point.accuracy)


def _no_better(problem: Problem, point: Point, other: Point, axes: Sequence[Axis]) -> bool:
    for axis in axes:
        own, its = _worth(problem, point, axis), _worth(problem, other, axis)
        if own < its - SAME * max(abs(its), SAME):
            return False
    return True


def _by_program(
    problem: Problem, columns: Sequence[Column], axes: Sequence[Axis], deadline: float
) -> tuple[tuple[Point, ...], bool]:
    """Points one by one: the best on one axis under an ever stricter limit on the other."""
    limited: Axis = "cost" if "cost" in axes else "latency"
    best: Axis = next(axis for axis in axes if axis != limited)
    goals = {"cost": COST, "accuracy": ACCURACY, "latency": RATIO}
    scaled, wide = _scaled(problem, columns) if "latency" in axes else (problem, None)
    if "accuracy" in axes:
        _require_exact(problem)
    ask = replace(_lifted(scaled, promises(scaled), axes), goals=(goals[best], goals[limited]), enough={})
    if wide is not None:
        ask = replace(ask, scales=dict.fromkeys(ask.scales, wide))
    solver = (
        MixtureSolver(scaled, tie_gaps={}, deadline=deadline)
        if is_parted(scaled)
        else Solver(scaled, columns, {}, "program")
    )
    points: list[Point] = []
    limit = math.inf
    while len(points) < MAX_POINTS and time.monotonic() < deadline:
        found = solver.ask(ask, deadline - time.monotonic(), 0.0)
        if found is None or not found.proven:
            return _sorted(problem, points, axes), found is None and not solver.timed_out
        points.append(_point(problem, found))
        ratios = believed(instance(scaled, found), found)
        reached = found.cost_usd_per_h if limited == "cost" else max(ratios.values())
        # A plan that is found again, as its limit is kept but for rounding, tightens the limit further.
        limit = min(limit, reached) * (1 - CLOSER)
        if limit <= 0:
            return _sorted(problem, points, axes), True
        if limited == "cost":
            ask = replace(ask, budget_usd_per_h=limit)
        else:
            ask = replace(ask, scales=dict.fromkeys(ask.scales, limit))
    return _sorted(problem, points, axes), False


def _scaled(problem: Problem, columns: Sequence[Column]) -> tuple[Problem, float]:
    """The instance with limits near the least latency there is, as the program tells latencies apart by fractions of
    their limit; and how many times those limits `WIDE` is."""
    classes = [replace(need, limit_s=need.limit_s or 1.0) for need in problem.classes]
    factor = 0.0
    for k, need in enumerate(classes):
        least = dict.fromkeys(problem.stages, math.inf)
        for column in columns:
            if k in column.classes:
                least[column.stage] = min(least[column.stage], column.single_s[column.classes.index(k)])
        longest_s = max(math.fsum(least[stage] for stage in path) for path in problem.paths)
        factor = max(factor, longest_s / (need.limit_s or 1.0))
    if not 0.0 < factor < math.inf:
        factor = 1.0
    classes = [replace(need, limit_s=(need.limit_s or 1.0) * factor) for need in classes]
    return replace(problem, classes=tuple(classes)), WIDE / factor


def _lifted(problem: Problem, ask: Ask, axes: Sequence[Axis]) -> Ask:
    """A question without the promises about the axes. Plans of unknown accuracy are not on an axis of accuracy."""
    if "accuracy" in axes and problem.accuracy is not None:
        lowest = problem.accuracy.turn.turned(-NO_FLOOR)
        # A split class may go ways of which one is not known, whatever columns are left out.
        partly = bool(problem.accuracy.measured) or problem.accuracy.composition == "table" or is_parted(problem)
        ask = replace(ask, floors=dict.fromkeys(ask.floors, lowest if partly else None))
    return replace(ask, budget_usd_per_h=None) if "cost" in axes else ask


def _require_exact(problem: Problem) -> None:
    """The program orders plans by accuracy exactly where it lists all combinations, or one class's sum decides."""
    accuracy = problem.accuracy
    assert accuracy is not None
    size = math.prod(len(problem.variants(stage)) for stage in problem.stages) * len(problem.classes)
    additive = len(problem.classes) == 1 and not accuracy.measured and accuracy.composition in ("product", "mean")
    if size > MAX_COMBINATIONS and not additive and accuracy.composition != "table":
        raise InputError(
            f"a frontier over accuracy with more than {MAX_COMBINATIONS} combinations of variants is honoured for one"
            " class and stage metrics composed by product or mean only"
        )
