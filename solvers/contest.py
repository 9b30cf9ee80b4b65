"""Strategies side by side: each decides, then all are priced, simulated and checked the same way."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from inferplan.estimators.accuracy import AccuracyEstimate
from inferplan.estimators.simulation import SimulationResult
from inferplan.solvers.checker import check_plan
from inferplan.solvers.document import accuracies, plan_document
from inferplan.solvers.judge import Judge
from inferplan.solvers.milp import Solution, instance, promises
from inferplan.solvers.neighbours import arranged
from inferplan.solvers.parts import splits
from inferplan.solvers.problem import Problem
from inferplan.solvers.strategies.tools import Proposer, Tools
from inferplan.solvers.tier_flows import broken_links
from inferplan.spec.document import LoadedWorkload, closest
from inferplan.spec.errors import InferplanError, InputError
from inferplan.spec.plan import Assurance, Plan, Proof
from inferplan.spec.profile import Profile
from inferplan.spec.workload import Robustness, TrafficClass, Workload

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
    solution `note` says why; else it says what of the workload the strategy cannot use."""

    strategy: str
    decision_s: float
    solution: Solution | None = None
    result: SimulationResult | None = None
    judge: Judge | None = None
    """The simulator that it was judged by."""
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

    Where classes may be split, or have jobs, those that cannot split send all requests of a class one way, which is
    allowed as well; their notes say so.

    Raises InputError where the workload asks for what no strategy but `solve` itself can answer: classes that spread
    over devices, a share of availability.
    """
    if problem.workload.splitting == "devices":
        raise InputError("splitting: devices: no strategy spreads classes over devices; set splitting: false")
    if problem.workload.robustness.availability is not None:
        raise InputError(
            "robustness.availability: how many spares it takes depends on the plan, so strategies cannot be compared"
            " by it; give robustness.spare_machines"
        )
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
    found = accuracies(problem, solution, problem.accuracy)
    broken = tuple(_broken(problem, solution, result, found))
    whole = "" if solution.classes else _unsplit(problem, name)
    return Entry(name, seconds, solution, result, judge, _mean(problem, found), broken, whole)


def _unsplit(problem: Problem, name: str) -> str:
    """What to say of a strategy that cannot split the classes that may be. What `optimal` sends one way is best so."""
    names = splits(problem) if name != "optimal" else []
    return f"{name} does not split classes: all requests of {', '.join(names)} go one way" if names else ""


def _mean(problem: Problem, found: Mapping[str, AccuracyEstimate | None]) -> float | None:
    total = sum(need.rate_rps for need in problem.classes)
    estimates = [(need.rate_rps, found[need.name]) for need in problem.classes]
    known = [(rate, estimate.value) for rate, estimate in estimates if estimate is not None]
    return sum(rate * value for rate, value in known) / total if len(known) == len(problem.classes) else None


def _broken(
    problem: Problem, solution: Solution, result: SimulationResult, found: Mapping[str, AccuracyEstimate | None]
) -> list[str]:
    """Promises that a deployment does not keep; undecided ones are not broken, but not kept either."""
    broken = []
    if result.unstable:
        broken.append("capacity")
    elif result.verdict != "met":
        broken.append("slo" if result.verdict == "missed" else "slo (undecided)")
    for need in problem.classes:
        if need.floor is None or problem.accuracy is None:
            continue
        accuracy = found[need.name]
        if accuracy is None or not problem.accuracy.turn.keeps(accuracy.value, need.floor):
            broken.append("accuracy" if len(problem.classes) == 1 else f"accuracy of {need.name}")
    for device, packing in sorted(solution.packings.items()):
        count = problem.devices[device].count
        if count is not None and len(packing.machines) > count:
            broken.append(f"machines of {device}")
    broken += broken_links(instance(problem, solution), solution.columns)
    budget = problem.budget_usd_per_h
    if budget is not None and solution.cost_usd_per_h > budget * (1 + 1e-9):
        broken.append("budget")
    return broken


def plan_of(problem: Problem, entry: Entry, loaded: LoadedWorkload, profile: Profile, *, plan_dir: Path) -> Plan | None:
    """What a strategy decided as a plan document, to be run and exported like any other; None where it decided
    nothing, its queues grow without bound, or calls would go where there is no link.

    It is priced and counted anew by the checker; promises that it does not keep are left out of that, `entry.broken`
    names them. Raises CheckFailedError where anything else does not add up.
    """
    solution, result, judge = entry.solution, entry.result, entry.judge
    if solution is None or result is None or judge is None or result.unstable:
        return None
    if any(line.startswith("no link") for line in entry.broken):
        return None
    cost = solution.cost_usd_per_h
    plan = plan_document(
        problem,
        judge,
        promises(problem),
        solution,
        result.verdict,
        # A rule of thumb bounds nothing: any plan may cost as little as nothing.
        Proof(
            solver=f"strategy {entry.strategy}", status="feasible", objective=cost, bound=0.0, gap=1.0 if cost else 0.0
        ),
        loaded=loaded,
        profile=profile,
        plan_dir=plan_dir,
        story=[f"decided by strategy {entry.strategy}", *(f"not kept: {promise}" for promise in entry.broken)],
    )
    if entry.broken:
        check_plan(_unassured(plan), without_promises(loaded.workload), profile)
    else:
        check_plan(plan, loaded.workload, profile)
    return plan


def _unassured(plan: Plan) -> Plan:
    """A plan that is not said to withstand anything, though planned with the same bounds."""
    confidence = None if plan.assurance is None else plan.assurance.confidence
    return plan.model_copy(update={"assurance": None if confidence is None else Assurance(confidence=confidence)})


def _unpromised(traffic: TrafficClass) -> TrafficClass:
    """A class that promises no accuracy."""
    job = None if traffic.job is None else traffic.job.model_copy(update={"mean_accuracy": None})
    return traffic.model_copy(update={"accuracy": traffic.accuracy.model_copy(update={"floor": None}), "job": job})


def without_promises(workload: Workload) -> Workload:
    """A workload that promises no accuracy and asks for no robustness, with any budget, bandwidth and number of
    machines."""
    tiers = {
        name: tier.model_copy(
            update={"devices": {d: one.model_copy(update={"count": None}) for d, one in tier.devices.items()}}
        )
        for name, tier in workload.tiers.items()
    }
    classes = {name: _unpromised(traffic) for name, traffic in workload.classes.items()}
    links = {name: link.model_copy(update={"bandwidth_bytes_per_s": None}) for name, link in workload.links.items()}
    objective = workload.objective.model_copy(update={"budget_usd_per_h": None})
    changes = {
        "tiers": tiers,
        "classes": classes,
        "links": links,
        "objective": objective,
        "robustness": Robustness(confidence=workload.robustness.confidence),
    }
    return workload.model_copy(update=changes).at(workload.root)
