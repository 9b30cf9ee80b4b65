"""Strategies side by side: each decides, then all are priced, simulated and checked the same way."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

from inferplan.estimators.accuracy import AccuracyEstimate
from inferplan.estimators.simulation import SimulationResult
from inferplan.solvers.judge import Judge
from inferplan.solvers.milp import Solution
from inferplan.solvers.neighbours import arranged
from inferplan.solvers.parts import refuse
from inferplan.solvers.problem import Problem
from inferplan.solvers.strategies.tools import Proposer, Tools
from inferplan.spec.document import closest
from inferplan.spec.errors import InferplanError, InputError

STRATEGIES = (
    "optimal",
    "ipa",
    "fa2-low",
    "fa2-high",
    "rim",
    "infaas",
    "jellybean",
    "mosel",
    "inferline",
    "cheapest-fixed",
    "most-accurate-fixed",
)


@dataclass(frozen=True)
class Entry:
    """What a strategy decided and what came of it. `broken` names the promises that are not kept; where there is no
    solution `note` says why."""

    strategy: str
    decision_s: float
    solution: Solution | None = None
    result: SimulationResult | None = None
    accuracy: float | None = None
    """In the user's direction; of several classes the mean weighted by rates."""
    broken: tuple[str, ...] = ()
    note: str = ""


def strategies(named: str) -> list[str]:
    """The strategies of a list like `ipa,rim`; `all` are all. Raises InputError."""
    if named.strip() == "all":
        return list(STRATEGIES)
    found = [name.strip() for name in named.split(",") if name.strip()]
    for name in found:
        if name not in STRATEGIES:
            near = closest(name, STRATEGIES)
            hint = f"; did you mean {near}?" if near else ""
            raise InputError(f"--strategies: no strategy {name}{hint} There are: {', '.join(STRATEGIES)}")
    if not found:
        raise InputError(f"--strategies: name some of {', '.join(STRATEGIES)}, or all")
    return list(dict.fromkeys(found))


def compare(
    problem: Problem, names: Sequence[str], *, seed: int = 0, time_limit_s: float = 60.0, gap: float = 1e-6
) -> list[Entry]:
    """Let every strategy decide. Decision times are of single runs, each with a simulator that has seen nothing.

    Raises InputError where classes may be split: the strategies do not.
    """
    refuse(problem, "compare")
    entries = []
    for name in names:
        judge = Judge(problem, seed)
        start = time.perf_counter()
        try:
            solution = load(name)(problem, Tools(judge, time_limit_s, gap))
        except InferplanError as error:
            entries.append(Entry(name, time.perf_counter() - start, note=error.message))
            continue
        seconds = time.perf_counter() - start
        entries.append(_judged(problem, name, seconds, arranged(problem, solution), judge))
    return entries


def load(name: str) -> Proposer:
    """The strategy of a name."""
    module = import_module(f"inferplan.solvers.strategies.{name.replace('-', '_')}")
    proposer: Proposer = module.propose
    return proposer


def _judged(problem: Problem, name: str, seconds: float, solution: Solution, judge: Judge) -> Entry:
    result = judge.certain(solution)
    chosen = solution.chosen()
    accuracies: list[AccuracyEstimate | None] = []
    for k in range(len(problem.classes)):
        variants = {stage: chosen[k, stage].option.variant for stage in problem.stages}
        accuracies.append(problem.accuracy.of(variants) if problem.accuracy is not None else None)
    return Entry(
        name,
        seconds,
        solution,
        result,
        _mean(problem, accuracies),
        tuple(_broken(problem, solution, result, accuracies)),
    )


def _mean(problem: Problem, accuracies: Sequence[AccuracyEstimate | None]) -> float | None:
    total = sum(need.rate_rps for need in problem.classes)
    known = [(need.rate_rps, a.value) for need, a in zip(problem.classes, accuracies, strict=True) if a is not None]
    return sum(rate * value for rate, value in known) / total if len(known) == len(problem.classes) else None


def _broken(
    problem: Problem, solution: Solution, result: SimulationResult, accuracies: Sequence[AccuracyEstimate | None]
) -> list[str]:
    """Promises that a deployment does not keep; undecided ones are not broken, but not kept either."""
    broken = []
    if result.unstable:
        broken.append("capacity")
    elif result.verdict != "met":
        broken.append("slo" if result.verdict == "missed" else "slo (undecided)")
    for need, accuracy in zip(problem.classes, accuracies, strict=True):
        if need.floor is None or problem.accuracy is None:
            continue
        if accuracy is None or not problem.accuracy.turn.keeps(accuracy.value, need.floor):
            broken.append("accuracy" if len(problem.classes) == 1 else f"accuracy of {need.name}")
    for device, packing in sorted(solution.packings.items()):
        count = problem.devices[device].count
        if count is not None and len(packing.machines) > count:
            broken.append(f"machines of {device}")
    budget = problem.budget_usd_per_h
    if budget is not None and solution.cost_usd_per_h > budget * (1 + 1e-9):
        broken.append("budget")
    return broken
