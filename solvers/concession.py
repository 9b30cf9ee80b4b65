"""How far the load, or a link's bandwidth, would have to give way for a plan to keep every promise.

Both are no bounds of the program but part of its data: every value is an instance of its own. The value is bracketed
by halving (of its logarithm), first with the program alone, under the scales that the search ended with, then, from
there, with the whole search. What is named is a value that a certified plan was found for, rounded away from the
promise; nearer ones were tried to 1 %, unless time ran out.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from inferplan.solvers.assurance import at_level
from inferplan.solvers.judge import SEARCH, Judge
from inferplan.solvers.milp import Solution
from inferplan.solvers.mixtures import solver_of
from inferplan.solvers.problem import Problem
from inferplan.solvers.program import COST, Ask
from inferplan.solvers.search import Search
from inferplan.spec.levels import written_as
from inferplan.spec.workload import Link

LEAST = 1e-3
"""Of the load: what is not possible at this share of it does not fail for the load."""
MOST = 1e3
"""Times the bandwidth: likewise."""
NEAR = 1.01
TIME_S = 15.0
"""For one promise."""
GAP = 1e-6
FIGURES = 3


@dataclass(frozen=True)
class Concession:
    """A value of one promise, in `unit`, that a certified plan was found for."""

    path: str
    value: float
    unit: str
    cost_usd_per_h: float


@dataclass(frozen=True)
class _Scale:
    """Instances along one promise: from `far`, where it asks for least, to 1, where it is as it was written."""

    far: float
    at: Callable[[float], Problem]
    neat: Callable[[float], float]
    """The value rounded towards `far`."""


def of_load(problem: Problem, ask: Ask, believed: Ask, seed: int) -> Concession | None:
    """The most load, of all classes in proportion, with which every promise can be kept; None where less load alone
    does not help, or where classes have no rate to reduce (traces, jobs).

    `ask` has the promises, `believed` their limits as the simulation showed them to the program.
    """
    classes = problem.workload.classes
    if any(traffic.rate_rps is None or traffic.kind == "jobs" for traffic in classes.values()):
        return None
    written = {written_as(problem.workload, name) for name in classes}
    rate_rps = math.fsum(traffic.rate_rps or 0.0 for traffic in classes.values()) if len(written) == 1 else 1.0
    scale = _Scale(
        LEAST, lambda share: at_level(problem, share), lambda share: _figures(share * rate_rps, math.floor) / rate_rps
    )
    found = _nearest(scale, ask, believed, seed)
    if found is None:
        return None
    share, plan = found
    if len(written) == 1:
        path = f"classes.{min(written)}.rate_rps"
        return Concession(path, _figures(share * rate_rps, round), "requests/s", plan.cost_usd_per_h)
    return Concession("classes.*.rate_rps", _figures(share, round), "times", plan.cost_usd_per_h)


def of_bandwidth(problem: Problem, ask: Ask, believed: Ask, seed: int, name: str) -> Concession | None:
    """The least bandwidth of a link with which every promise can be kept; None where that alone does not help."""
    width = problem.workload.links[name].bandwidth_bytes_per_s
    if width is None:
        return None
    scale = _Scale(
        MOST,
        lambda times: _widened(problem, name, times * width),
        lambda times: _figures(times * width, math.ceil) / width,
    )
    found = _nearest(scale, ask, believed, seed)
    if found is None:
        return None
    times, plan = found
    path = f"links.{name}.bandwidth_bytes_per_s"
    return Concession(path, _figures(times * width, round), "bytes/s", plan.cost_usd_per_h)


def _nearest(scale: _Scale, ask: Ask, believed: Ask, seed: int) -> tuple[float, Solution] | None:
    """The value nearest to what is promised that a plan was certified for, with the plan."""
    deadline = time.monotonic() + TIME_S

    def possible(value: float) -> Solution | None:
        question = replace(believed, goals=(COST,), rejected=())
        return solver_of(scale.at(value)).ask(question, max(deadline - time.monotonic(), 0.05), GAP)

    def searched(value: float, any_will_do: bool) -> Solution | None:
        instance = scale.at(value)
        judge, question = Judge(instance, seed, final=SEARCH), replace(ask, rejected=())
        search = Search(instance, solver_of(instance), judge, question, GAP, deadline, any_will_do=any_will_do)
        search.run()
        return search.incumbent

    def certified(value: float) -> Solution | None:
        return searched(value, any_will_do=True)

    if possible(scale.neat(scale.far)) is None:
        return None
    start, _ = _halved(scale, possible, scale.far, 1.0, deadline) or (scale.far, None)
    kept: tuple[float, Solution] | None = None
    missed: float | None = None
    value, step = start, NEAR
    # The program may say too much or too little, seldom by far: away from there in growing steps.
    while (kept is None or missed is None) and time.monotonic() < deadline:
        found = certified(scale.neat(value))
        if found is not None:
            kept = value, found
        else:
            missed = value
        last = 1.0 if found is not None else scale.far
        if max(value / last, last / value) <= NEAR:
            break
        value = _towards(value, last, step)
        step **= 2
    if kept is None:
        return None
    value, found = _halved(scale, certified, kept[0], missed or 1.0, deadline) or (scale.neat(kept[0]), kept[1])
    return value, searched(value, any_will_do=False) or found


def _towards(value: float, last: float, step: float) -> float:
    """So many times nearer to the last value, at most that."""
    return min(value * step, last) if value < last else max(value / step, last)


def _halved(
    scale: _Scale, keeps: Callable[[float], Solution | None], kept: float, missed: float, deadline: float
) -> tuple[float, Solution] | None:
    """The value between one that is kept and one that is not, nearest to the latter; None where none was kept."""
    best: tuple[float, Solution] | None = None
    while max(kept / missed, missed / kept) > NEAR and time.monotonic() < deadline:
        middle = math.sqrt(kept * missed)
        value = scale.neat(middle)
        found = keeps(value)
        if found is None:
            missed = middle
        else:
            kept, best = middle, (value, found)
    return best


def _widened(problem: Problem, name: str, bandwidth_bytes_per_s: float) -> Problem:
    """The same instance with another bandwidth of a link."""
    workload = problem.workload

    def wider(link: Link) -> Link:
        return link.model_copy(update={"bandwidth_bytes_per_s": bandwidth_bytes_per_s})

    links = {**workload.links, name: wider(workload.links[name])}
    ways = problem.ways
    pair = next(pair for pair, of in ways.names.items() if of == name)
    return replace(
        problem,
        workload=workload.model_copy(update={"links": links}).at(workload.root),
        ways=replace(ways, links={**ways.links, pair: wider(ways.links[pair])}),
    )


def _figures(value: float, rounding: Callable[[float], int]) -> float:
    """A positive value to so many figures."""
    digits = FIGURES - 1 - math.floor(math.log10(value))
    # What is exact but for the last bit stays what it is.
    nudge = 1 + 1e-9 if rounding is math.floor else 1 - 1e-9 if rounding is math.ceil else 1.0
    return float(f"{rounding(value * 10.0**digits * nudge) / 10.0**digits:.12g}")
