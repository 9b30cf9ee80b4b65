"""Classes that are split: parts of a class, each of which goes its own way through the pipeline.

A class with `splitting: true` sends every request through one combination of options as a whole, a share w of them
through one and 1 - w through another. A job sends so many of its requests through one, the rest through another. The
parts of a class are classes of their own to the program: two of the same name, whose rates add up to the class's.

*Shares* are tabulated: `patterns` lists those that are looked at. Shares of requests are multiples of 1 / steps;
of a job's b requests whole numbers, all of them where b <= steps, else every ceil(b / steps)-th. More classes that
are split have fewer steps each (`STEPS`), as every pattern is a program of its own. A part's arrivals are those of the
class, each kept with probability w: the gaps' squared coefficient of variation is 1 + w (c² - 1), exactly so for
renewal processes. A job's part arrives as a group. Parts in one queue are the class, as it is, in that queue.

*Why two parts.* Were replicas and machines divisible, and a way c cost κ_c per request per second, the cheapest shares
of a class would be

    min Σ_c κ_c w_c   such that   Σ_c w_c = 1,   Σ_c a_c w_c >= A,   w >= 0

a linear program of two rows, which has an optimum with at most two shares above 0. So two ways are enough as far as
cost is linear in load and the mean accuracy is what ties ways together. They need not be where it is not: a third way
may use up what whole replicas or machines leave over; every limit that several ways share (a count of machines, a
budget, a link's bandwidth) is a row more, which may be worth a way more; and a latency limit is one of the whole
class, not linear in shares at all.

*What two parts may lose.* Where no such limit ties anything together, any number of ways costs at least that optimum,
as whole replicas are no fewer than divisible ones; and its two ways with replicas rounded up are a plan. So more ways
save less than one replica of every option that those two use, of which there are at most two at a stage.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING

from inferplan.estimators.accuracy import AccuracyEstimate, AccuracyModel
from inferplan.estimators.fanout import CallCounts, FanOutLaw
from inferplan.estimators.mixture import mixture
from inferplan.estimators.network import Way
from inferplan.spec.errors import InputError
from inferplan.spec.levels import promise_path

if TYPE_CHECKING:
    from inferplan.solvers.columns import Column
    from inferplan.solvers.problem import ClassNeed, Problem

STEPS = {1: 20, 2: 10, 3: 4}
"""Steps of shares, by the number of classes that are split."""

Pattern = tuple[tuple[float, ...], ...]
"""Weights of the parts of every class: shares, of a job whole numbers of requests."""


def splits(problem: Problem) -> list[str]:
    """Names of the classes that may be split. What a request of a class with `asks` names is promised to it alone,
    which no mean keeps: such classes go one way."""
    workload = problem.workload
    classes = {name: workload.classes[name] for name in dict.fromkeys(need.name for need in problem.classes)}
    alone = {name for name, traffic in classes.items() if traffic.level_of is not None}
    wanted = [name for name in classes if workload.splitting is True and name not in alone]
    return [name for name in classes if name in wanted or classes[name].kind == "jobs"]


def parted(problem: Problem) -> Problem:
    """The instance with the classes that may be split in parts, nothing split yet. Raises InputError where there are
    too many of them."""
    names = splits(problem)
    if not names:
        return problem
    if len(names) > max(STEPS):
        raise InputError(
            f"{len(names)} classes may be split ({', '.join(names)}): at most {max(STEPS)} are honoured;"
            " merge classes with the same promises"
        )
    for need in problem.classes:
        if need.floor is not None and problem.accuracy is None:
            raise InputError(
                f"classes.{need.name}.job.mean_accuracy: the workload has no 'accuracy' with a metric to hold this to"
            )
    return with_pattern(problem, patterns(problem)[0])


def patterns(problem: Problem) -> list[Pattern]:
    """How the classes of an instance may be split, nothing split first."""
    names = splits(problem)
    steps = STEPS[len(names)]
    choices: list[list[tuple[float, ...]]] = []
    for need in whole(problem):
        if need.name not in names:
            choices.append([(1.0,)])
        elif problem.workload.classes[need.name].kind == "jobs":
            step = -(-need.burst // steps)
            fewer = range(step, need.burst // 2 + 1, step)
            choices.append([(need.burst, 0.0), *((need.burst - few, few) for few in fewer)])
        else:
            choices.append([(1.0, 0.0), *((1 - few / steps, few / steps) for few in range(1, steps // 2 + 1))])
    return list(product(*choices))


def with_pattern(problem: Problem, pattern: Pattern) -> Problem:
    """The instance with its classes split so."""
    classes: list[ClassNeed] = []
    for need, weights in zip(whole(problem), pattern, strict=True):
        classes += [_part(need, weight / math.fsum(weights)) for weight in weights]
    return replace(problem, classes=tuple(classes))


def pattern_of(problem: Problem) -> Pattern:
    """How the classes of an instance are split."""
    found: dict[str, list[float]] = {}
    for need in problem.classes:
        weight = float(need.burst if need.share > 0 else 0) if need.burst_of > 1 else need.share
        found.setdefault(need.name, []).append(weight)
    return tuple(tuple(weights) for weights in found.values())


def _part(need: ClassNeed, share: float) -> ClassNeed:
    if share == 1.0:
        return need
    burst = round(need.burst * share)
    # What is left of a group is a group; single requests are thinned out.
    scv = need.uneven.scv if need.burst_of > 1 else 1 + share * (need.uneven.scv - 1)
    uneven = replace(need.uneven, scv=scv)
    return replace(need, rate_rps=need.rate_rps * share, burst=burst, share=share, uneven=uneven)


def whole(problem: Problem) -> list[ClassNeed]:
    """The classes, each with all of its parts."""
    found: dict[str, list[ClassNeed]] = {}
    for need in problem.classes:
        found.setdefault(need.name, []).append(need)
    return [_whole(parts) for parts in found.values()]


def _whole(parts: Sequence[ClassNeed]) -> ClassNeed:
    kept = [part for part in parts if part.share > 0]
    share = math.fsum(part.share for part in kept)
    if len(kept) == 1 or share == 0:
        return kept[0] if kept else parts[0]
    first = kept[0]
    burst = sum(part.burst for part in kept) if first.burst_of > 1 else 1
    scv = first.uneven.scv if first.burst_of > 1 else 1 + (first.uneven.scv - 1) * share / first.share
    uneven = replace(first.uneven, scv=scv)
    rate = math.fsum(part.rate_rps for part in kept)
    return replace(first, rate_rps=rate, burst=burst, share=share, uneven=uneven)


def promise(problem: Problem, name: str, what: str) -> str:
    """Where the workload states a class's promise: its latency or its accuracy."""
    if problem.workload.classes[name].kind == "jobs":
        return f"classes.{name}.job.{'deadline_s' if what == 'latency' else 'mean_accuracy'}"
    return promise_path(problem.workload, name, "slo.latency_s" if what == "latency" else "accuracy.floor")


def is_parted(problem: Problem) -> bool:
    """Whether some class is in parts."""
    return len({need.name for need in problem.classes}) < len(problem.classes)


def members(problem: Problem, name: str) -> list[int]:
    """Indices of the parts of a class."""
    return [k for k, need in enumerate(problem.classes) if need.name == name]


def admissible(problem: Problem, classes: Sequence[int]) -> bool:
    """Whether these classes may share a queue: a part without requests goes where the rest of its class does."""
    for k in range(len(problem.classes)):
        if problem.classes[k].share == 0:
            others = members(problem, problem.classes[k].name)
            if len({other in classes for other in others}) > 1:
                return False
    return True


def together(
    needs: Sequence[ClassNeed], calls: Sequence[CallCounts]
) -> tuple[list[ClassNeed], list[CallCounts], list[int]]:
    """What joins one queue: parts of one class that make the same calls are that class. Also, per part, which it is."""
    groups: dict[object, list[int]] = {}
    for index, (need, count) in enumerate(zip(needs, calls, strict=True)):
        # A part without requests makes the calls of the rest of its class, which it goes with.
        own = (one for other, one in zip(needs, calls, strict=True) if other.name == need.name and other.share > 0)
        groups.setdefault((need.name, count if need.share > 0 else next(own, count)), []).append(index)
    joined = [_whole([needs[i] for i in group]) for group in groups.values()]
    which = {i: number for number, group in enumerate(groups.values()) for i in group}
    counts = [in_groups(calls[group[0]], need) for need, group in zip(joined, groups.values(), strict=True)]
    return joined, counts, [which[index] for index in range(len(needs))]


def in_groups(calls: CallCounts, need: ClassNeed) -> CallCounts:
    """Calls of all requests that arrive together, given those of one."""
    n = max(need.burst, 1)
    if n == 1:
        return calls
    if calls.group.is_one:
        # Taken to reach every stage together.
        return CallCounts(n * calls.mean, math.sqrt(n) * calls.std, 1.0, FanOutLaw((n,), (1.0,)))
    return CallCounts(n * calls.mean, math.sqrt(n) * calls.std, n * calls.groups, calls.group)


def ways(problem: Problem, named: Mapping[str, Column]) -> dict[str, tuple[Way, ...]]:
    """By class, the ways that its requests go through the columns of a plan (by name of the station); parts that go the
    same way are one."""
    found: dict[str, dict[tuple[str, ...], Way]] = {}
    stations: dict[tuple[int, str], str] = {
        (k, column.stage): name for name, column in named.items() for k in column.classes
    }
    for k, need in enumerate(problem.classes):
        if need.share == 0:
            continue
        way = {stage: stations[k, stage] for stage in problem.stages}
        mine = found.setdefault(need.name, {})
        known = mine.get(tuple(way.values()))
        share = need.share + (known.share if known else 0.0)
        requests = need.burst + (known.requests or 0 if known else 0)
        mine[tuple(way.values())] = Way(share, way, requests if need.burst_of > 1 else None)
    return {name: tuple(mine[key] for key in sorted(mine)) for name, mine in found.items()}


def mean_accuracy(
    problem: Problem, name: str, chosen: Mapping[tuple[int, str], Column], model: AccuracyModel
) -> AccuracyEstimate | None:
    """Accuracy of a class: the mean over its parts; None where one is not known."""
    found: list[tuple[float, AccuracyEstimate]] = []
    for k in members(problem, name):
        estimate = model.of({stage: chosen[k, stage].option.variant for stage in problem.stages})
        if problem.classes[k].share > 0:
            if estimate is None:
                return None
            found.append((problem.classes[k].share, estimate))
    # One that is not in parts, or all of whose parts are served alike, has just that accuracy.
    return found[0][1] if all(one == found[0][1] for _, one in found) else mixture(found)


def routes_of(problem: Problem, named: Mapping[str, Column]) -> dict[str, dict[str, list[tuple[str, float]]]]:
    """Per class and stage, the stations and the shares of the class's calls that go to each."""
    routes: dict[str, dict[str, list[tuple[str, float]]]] = {}
    for name, found in ways(problem, named).items():
        routes[name] = {}
        for stage in problem.stages:
            calls: dict[str, float] = {}
            for way in found:
                variants = {s: named[station].option.variant for s, station in way.stations.items()}
                station = way.stations[stage]
                made = way.share * problem.laws.calls(stage, variants).mean
                calls[station] = calls.get(station, 0.0) + made
            total = math.fsum(calls.values())
            shares = {s: c / total if total > 0 else 1 / len(calls) for s, c in calls.items()}
            routes[name][stage] = [(s, 1.0 if len(shares) == 1 else share) for s, share in sorted(shares.items())]
    return routes
