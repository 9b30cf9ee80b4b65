"""The plan document of a deployment, whoever decided it: the planner, or a strategy that it is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from inferplan.estimators.accuracy import AccuracyEstimate, AccuracyModel
from inferplan.solvers import assembly, prediction, statement
from inferplan.solvers.judge import Judge
from inferplan.solvers.milp import Solution, instance
from inferplan.solvers.neighbours import machines_of, tenants
from inferplan.solvers.parts import mean_accuracy, whole
from inferplan.solvers.problem import Problem
from inferplan.solvers.program import Ask
from inferplan.solvers.selection import table
from inferplan.spec.document import LoadedWorkload
from inferplan.spec.plan import Alternative, Binding, Plan, Proof, Verdict, Wanted
from inferplan.spec.profile import Profile


def accuracies(problem: Problem, solution: Solution, model: AccuracyModel | None) -> dict[str, AccuracyEstimate | None]:
    """Accuracy of every class by a model; None where it is not known."""
    chosen, own = solution.chosen(), instance(problem, solution)
    names = [need.name for need in whole(own)]
    return {name: None if model is None else mean_accuracy(own, name, chosen, model) for name in names}


def plan_document(
    problem: Problem,
    judge: Judge,
    ask: Ask,
    solution: Solution,
    verdict: Verdict,
    proof: Proof,
    *,
    loaded: LoadedWorkload,
    profile: Profile,
    plan_dir: Path,
    story: Sequence[str],
    plain_usd_per_h: float | None = None,
    binding: Sequence[Binding] = (),
    alternatives: Sequence[Alternative] = (),
    to_measure: Sequence[Wanted] = (),
) -> Plan:
    """A deployment as a document: `verdict` is that on all that it must withstand, `ask` the question it answers.

    Its queues must be stable: nothing can be said of latencies that grow without bound.
    """
    seen = judge.nominal(solution)
    choices = table(problem, solution, judge, seen)
    return Plan(
        apiVersion="inferplan/v1",
        name=assembly.safe_name(loaded.workload.name),
        workload=assembly.workload_source(loaded, plan_dir),
        profile=assembly.profile_source(
            profile,
            problem,
            [column.option for column in solution.columns],
            problem.interference.unmeasured(tenants(problem, solution.columns), machines_of(solution)),
        ),
        objective=assembly.objective_text(loaded.workload.objective),
        terms=statement.terms(problem, solution, ask),
        cost_usd_per_h=solution.cost_usd_per_h,
        costs=statement.costs(problem, solution),
        energy=statement.energy(problem, solution),
        prices=assembly.prices(loaded, solution.packings),
        proof=proof,
        certificate=prediction.certificate(problem, seen, verdict),
        assurance=statement.assurance(problem, solution, judge, plain_usd_per_h),
        classes=prediction.class_plans(
            instance(problem, solution), solution, seen, accuracies(problem, solution, problem.estimated)
        ),
        options=prediction.options(solution, seen, judge.slowdowns(solution)),
        machines=statement.machines(problem, solution),
        traffic=prediction.network(problem, solution),
        selection=choices.selection,
        binding=list(binding),
        alternatives=list(alternatives),
        to_measure=list(to_measure),
        story=[*story, *choices.notes, *assembly.left_out(problem, profile)],
    )
