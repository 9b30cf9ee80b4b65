"""From an instance in which classes spread over devices and tiers to a plan: solve, explain, write.

No class has a latency promise here, so there is nothing to simulate: a plan is certified where no queue gets more than
it can serve. Where replicas that share machines turn out to slow one another down so much that a queue gets more, the
options in question count as that much slower and the program is solved again, for as often as that helps; the plan is
then not called optimal.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Literal

from inferplan.solvers import assembly, split_explain, split_plan
from inferplan.solvers.assurance import MAX_SPARES, too_many_spares
from inferplan.solvers.goals import ACCURACY
from inferplan.solvers.problem import Problem
from inferplan.solvers.split_explain import Explained
from inferplan.solvers.split_instance import SplitInstance, promised, split_instance
from inferplan.solvers.split_objectives import decided, normalised
from inferplan.solvers.split_program import Split, SplitProgram
from inferplan.solvers.split_search import SplitSearch
from inferplan.spec.document import LoadedWorkload
from inferplan.spec.errors import UndecidedError
from inferplan.spec.plan import Certificate, Costs, Plan, Proof, Term
from inferplan.spec.profile import Profile

MAX_ROUNDS = 8
SAME = 2e-6
"""Objectives that differ by less than this share of each other are the same."""
SOLVER = "HiGHS through python-mip, with spatial branch and bound"


def solve_split(
    problem: Problem,
    loaded: LoadedWorkload,
    profile: Profile,
    *,
    plan_dir: Path,
    deadline: float,
    gap: float,
    seed: int,
    plain: Problem | None = None,
) -> Plan:
    """Decide a deployment in which classes spread over devices. `plain`: the same instance that need not withstand
    anything, where something is asked; what it costs is stated beside the plan.

    Raises InfeasibleError where no plan keeps every promise, InputError where something asked for is not honoured with
    splitting, UndecidedError where no plan was found in time.
    """
    plain_usd_per_h = None
    if plain is not None:
        plain_usd_per_h = _decide(split_instance(plain), deadline, gap)[0].found.split.cost_usd_per_h
    plan, story = assured(problem, deadline, gap)
    return _plan(plan, story, loaded, profile, plan_dir, seed, plain_usd_per_h)


def assured(problem: Problem, deadline: float, gap: float) -> tuple[Explained, list[str]]:
    """The best plan with enough spares for the share of time asked: as long as it has more machines than they suffice
    for, it is made again with one spare more. And its story. Raises as `solve_split`."""
    for _ in range(MAX_SPARES):
        instance = split_instance(problem)
        found = _decide(instance, deadline, gap)
        spares = split_plan.enough_spares(instance, found[0].found.split)
        if spares == problem.assurance.spares:
            return found
        problem = replace(problem, assurance=replace(problem.assurance, spares=spares))
    raise too_many_spares(problem)


def _decide(instance: SplitInstance, deadline: float, gap: float) -> tuple[Explained, list[str]]:
    """The best plan whose queues get no more than they can serve whatever its neighbours do to it, and its story."""
    story: list[str] = []
    question = promised(instance.problem)
    for number in range(1, MAX_ROUNDS + 1):
        search = SplitSearch(SplitProgram(instance))
        asked = normalised(search, question, deadline, gap)
        answer = decided(search, asked, deadline, gap)
        if answer is None and search.timed_out:
            raise UndecidedError("the time limit left no plan: give more time with --time-limit")
        if answer is None:
            raise split_explain.infeasible(search, question, [*story, *instance.problem.table.excluded], deadline)
        slower = split_plan.overloads(instance, answer.found.split)
        says = split_plan.describe(instance, answer.found.split)
        if not slower:
            story.append(f"{number}. proposed: {says}: accepted: no queue gets more than it can serve")
            found = replace(answer.found, proven=answer.found.proven and number == 1)
            plan = Explained(search, answer.question, answer.goals, found, deadline, gap)
            return plan, [*story, *answer.story]
        worst = ", ".join(f"{name} x {factor:.3g}" for name, factor in sorted(slower.items()))
        story.append(f"{number}. proposed: {says}: rejected: neighbours slow replicas down: {worst}")
        instance = instance.derated(slower)
        if time.monotonic() >= deadline:
            break
    raise UndecidedError("neighbours slow replicas down too much, and no plan that allows for it was found", story)


def _plan(
    plan: Explained,
    story: list[str],
    loaded: LoadedWorkload,
    profile: Profile,
    plan_dir: Path,
    seed: int,
    plain_usd_per_h: float | None,
) -> Plan:
    instance, split = plan.search.program.instance, plan.found.split
    problem = instance.problem
    deployed, loads = [o for o in instance.options if o.name in split.replicas], split_plan.loads_of(instance, split)
    alone = problem.interference.unmeasured(split_plan.tenants(instance, split), split_plan.machines_of(split))
    return Plan(
        apiVersion="inferplan/v1",
        name=assembly.safe_name(loaded.workload.name),
        workload=assembly.workload_source(loaded, plan_dir),
        profile=assembly.profile_source(profile, problem, deployed, alone),
        objective=assembly.objective_text(loaded.workload.objective),
        terms=_terms(plan),
        cost_usd_per_h=split.cost_usd_per_h,
        costs=_costs(split),
        energy=split_plan.energy(instance, split, loads),
        prices=assembly.prices(loaded, {device for device, _ in split.packings}),
        proof=_proof(plan),
        certificate=Certificate(verdict="met", judged_on="capacity", seed=seed, classes={}),
        assurance=split_plan.assurance(instance, split, plain_usd_per_h),
        classes=split_plan.class_plans(
            instance, split, loads, split_explain.accuracies(plan.search, split, estimated=True)
        ),
        options=split_plan.option_plans(instance, split, loads),
        machines=split_plan.machine_plans(instance, split),
        traffic=split_plan.traffic_plan(instance, split),
        binding=split_explain.binding(plan),
        alternatives=split_explain.alternatives(plan),
        story=[*story, *assembly.left_out(problem, profile)],
    )


def _costs(split: Split) -> Costs | None:
    """What the cost is made of; None where that is machines alone."""
    if split.traffic_usd_per_h == 0 and split.restarts_usd_per_h == 0 and split.energy_usd_per_h == 0:
        return None
    return Costs(
        machines_usd_per_h=split.machines_usd_per_h,
        restarts_usd_per_h=split.restarts_usd_per_h,
        energy_usd_per_h=split.energy_usd_per_h,
        network_usd_per_h=split.traffic_usd_per_h,
    )


def _terms(plan: Explained) -> dict[Literal["cost", "accuracy", "energy"], Term]:
    """Parts of a weighted objective."""
    problem, found = plan.search.program.instance.problem, {}
    for name, weight in sorted(problem.workload.objective.weights.items()):
        if weight > 0:
            value = plan.found.split.reached((name, ""), plan.question.weights)
            if name == "accuracy" and problem.accuracy is not None:
                value = problem.accuracy.turn.turned(-value)
            found[name] = Term(weight=weight, value=value, unit=weight / plan.question.weights[name])
    return found


def _proof(plan: Explained) -> Proof:
    """How sure it is that no better plan exists."""
    found, goal = plan.found, plan.goals[0]
    sign = -1.0 if goal == ACCURACY else 1.0
    objective = sign * plan.worth(found.split)
    bound = sign * found.bound * plan.search.program.unit(goal)
    if found.proven and abs(objective - bound) <= SAME * abs(objective):
        bound = objective
    return assembly.proof(SOLVER, found.proven, objective, bound)
