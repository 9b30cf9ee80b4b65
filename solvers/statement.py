"""The parts of the plan document about what is bought: machines, costs, energy, prices, and what assurance costs."""

from __future__ import annotations

from typing import Literal

from inferplan.solvers.assembly import energy_of, without_bounds
from inferplan.solvers.assurance import cases
from inferplan.solvers.bill import bill, billed, device_bill
from inferplan.solvers.judge import Judge
from inferplan.solvers.milp import Solution, instance
from inferplan.solvers.packing import Packing
from inferplan.solvers.prediction import class_certificates
from inferplan.solvers.problem import Problem
from inferplan.solvers.program import WEIGHTED, Ask
from inferplan.spec.plan import (
    Assurance,
    AssuredCase,
    Costs,
    Energy,
    Machines,
    Placement,
    Term,
)


def machines(problem: Problem, solution: Solution) -> dict[str, Machines]:
    """Machines bought, each with what runs on it."""
    return {name: _machines(problem, solution, name, packing) for name, packing in solution.packings.items()}


def _machines(problem: Problem, solution: Solution, name: str, packing: Packing) -> Machines:
    tariff = problem.devices[name].tariff
    own = [column for column in solution.columns if column.option.device == name]
    by_share, gone = tariff.billing == "share", tariff.interruptions_per_h > 0
    longest_s = max((column.option.load_s or 0.0 for column in own), default=0.0)
    return Machines(
        count=len(packing.machines),
        price_usd_per_h=tariff.price_usd_per_h,
        share=billed(problem, name, own, len(packing.machines)) if by_share else None,
        interruptions_per_h=tariff.interruptions_per_h * len(packing.machines) if gone else None,
        lost_share=tariff.lost_share(longest_s) if gone else None,
        packing=[
            [Placement(option=option, replicas=count) for option, count in sorted(machine.items())]
            for machine in packing.machines
        ],
    )


def costs(problem: Problem, solution: Solution) -> Costs | None:
    """What the cost is made of; None where that is machines alone."""
    found = bill(instance(problem, solution), solution.columns, solution.packings)
    if found.restarts_usd_per_h == 0 and found.energy_usd_per_h == 0 and found.network_usd_per_h == 0:
        return None
    return Costs(
        machines_usd_per_h=found.machines_usd_per_h,
        restarts_usd_per_h=found.restarts_usd_per_h,
        energy_usd_per_h=found.energy_usd_per_h,
        network_usd_per_h=found.network_usd_per_h,
    )


def energy(problem: Problem, solution: Solution) -> Energy | None:
    """What the plan draws, by tier; None where the power of some machine or replica is not known."""
    powers = {
        name: device_bill(problem, name, solution.columns, packing).power_w
        for name, packing in solution.packings.items()
    }
    return energy_of(problem, powers)


def terms(problem: Problem, solution: Solution, ask: Ask) -> dict[Literal["cost", "accuracy", "energy"], Term]:
    """Parts of a weighted objective."""
    found: dict[Literal["cost", "accuracy", "energy"], Term] = {}
    for name, weight in sorted(problem.workload.objective.weights.items()):
        if weight > 0 and ask.objective == WEIGHTED:
            value = solution.reached((name, ""), ask.weights)
            if name == "accuracy" and problem.accuracy is not None:
                value = problem.accuracy.turn.turned(-value)
            found[name] = Term(weight=weight, value=value, unit=weight / ask.weights[name])
    return found


def assurance(problem: Problem, solution: Solution, judge: Judge, plain_usd_per_h: float | None) -> Assurance | None:
    """What the plan withstands, with the verdict on every case; None where nothing was asked. `plain_usd_per_h`: the
    cost of the plan without it."""
    asked, found = problem.workload.robustness, problem.assurance
    if not asked.asked:
        return None
    judged = []
    for case in cases(problem, solution):
        result = judge.in_case(case, solution)
        judged.append(
            AssuredCase(
                name=case.name,
                rate_scale=case.level,
                lost=dict(case.lost),
                verdict=result.verdict,
                classes={} if result.unstable else class_certificates(problem, result),
            )
        )
    used = {name: spares for name, spares in sorted(found.spares.items()) if spares and name in solution.packings}
    return Assurance(
        confidence=asked.confidence,
        load_levels=[level for level in found.levels if level != 1.0],
        spare_machines=used,
        availability=asked.availability,
        headroom=asked.headroom,
        plain_cost_usd_per_h=plain_usd_per_h,
        extra_usd_per_h=None if plain_usd_per_h is None else solution.cost_usd_per_h - plain_usd_per_h,
        cases=judged,
        without_bounds=[]
        if asked.confidence is None
        else without_bounds(problem, [column.option for column in solution.columns]),
    )
