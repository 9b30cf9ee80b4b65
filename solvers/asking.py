"""What the planner still wants to know: combinations whose predicted accuracy decides the plan.

A plan may rest on a prediction, and a prediction may wrongly have kept a better plan away. Both are asked for: what was
chosen, and what would be chosen if predictions came out at the better end of their intervals. Once nothing is asked,
the plan is the one that measuring everything would lead to, as far as the intervals hold.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

from inferplan.estimators.accuracy import AccuracyEstimate
from inferplan.solvers.clock import OutOfTimeError
from inferplan.solvers.columns import Column
from inferplan.solvers.explain import Chosen
from inferplan.solvers.milp import Solution, Solver
from inferplan.solvers.mixtures import solver_of
from inferplan.solvers.problem import Problem
from inferplan.solvers.program import Ask
from inferplan.spec.plan import Wanted

MOST = 3
"""Better plans that are looked for: what is measured of the first changes which come next."""


def wanted(plan: Chosen, promises: Ask, rejected: tuple[tuple[Column, ...], ...]) -> list[Wanted]:
    """Combinations to measure, the most telling first.

    `promises` is what the workload asks, without the limits that certification tightened: those are guesses about plans
    of other combinations. Plans that certification `rejected` are no better ones.
    """
    problem = plan.problem
    if problem.accuracy is None or problem.accuracy.fitted is None:
        return []
    own = _predicted(problem, plan.solution, "the plan rests on it for class {}: predicted {}")
    ask = replace(promises, rejected=rejected, better_than=plan.solution.worth(plan.ask))
    return _unique([*own, *hopes(problem, ask, plan.deadline)])


def hopes(problem: Problem, ask: Ask, deadline: float) -> list[Wanted]:
    """Combinations that the best answers to a question would use, if predictions came out at their better ends."""
    if problem.accuracy is None or problem.accuracy.fitted is None:
        return []
    hopeful = replace(problem, accuracy=problem.accuracy.hopeful())
    program: Solver | None = None
    found: list[Wanted] = []
    for _ in range(MOST):
        if time.monotonic() >= deadline:
            break
        try:
            program = program or solver_of(hopeful, deadline=deadline)
        except OutOfTimeError:
            break
        left = deadline - time.monotonic()
        solution = program.ask(replace(ask, goals=(ask.objective,)), left, 1e-6)
        if solution is None:
            break
        what = f"a better plan ({solution.cost_usd_per_h:.6g} USD/h) for class {{}} would rest on it: predicted {{}}"
        found += _predicted(problem, solution, what)
        chosen = frozenset((k, stage, column.option.variant) for (k, stage), column in solution.chosen().items())
        ask = replace(ask, forbidden=(*ask.forbidden, chosen))
    return found


def _predicted(problem: Problem, solution: Solution, reason: str) -> Iterator[Wanted]:
    """The combinations of a solution whose accuracy is predicted; `reason` has a place for class and value."""
    assert problem.accuracy is not None
    chosen = solution.chosen()
    for k, need in enumerate(problem.classes):
        combination = {stage: chosen[k, stage].option.variant for stage in problem.stages}
        estimate = (problem.estimated or problem.accuracy).of(combination)
        # Without a floor the prediction decides nothing, unless the objective has accuracy in it.
        counts = need.floor is not None or problem.values_accuracy
        if estimate is not None and estimate.source == "predicted" and counts:
            yield Wanted(
                combination=dict(sorted(combination.items())), reason=reason.format(need.name, _shown(estimate))
            )


def _shown(estimate: AccuracyEstimate) -> str:
    return f"{estimate.value:.4g} [{estimate.lower:.4g}, {estimate.upper:.4g}]"


def _unique(items: list[Wanted]) -> list[Wanted]:
    found: dict[tuple[tuple[str, str], ...], Wanted] = {}
    for item in items:
        found.setdefault(tuple(sorted(item.combination.items())), item)
    return list(found.values())


def fitted_line(problem: Problem) -> list[str]:
    """How far predictions can be trusted, for the story."""
    model = problem.accuracy.fitted if problem.accuracy is not None else None
    if problem.accuracy is None or model is None:
        return []
    error = model.leave_one_out
    return [
        f"{problem.accuracy.metric} of combinations that were not measured is predicted from {len(model.keys)} measured"
        f" ones: leave-one-out error {error.rms:.3g} (root mean square; largest {error.largest:.3g}),"
        f" {100 * error.within:.0f} % within their 95 % intervals"
    ]
