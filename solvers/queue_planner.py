"""Where classes do not spread: from workload and profile to a plan: propose, certify, explain."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

from inferplan.estimators.accuracy import combination_text
from inferplan.estimators.service import SampleSource
from inferplan.estimators.simulation import SimulationResult
from inferplan.solvers.asking import fitted_line, hopes, wanted
from inferplan.solvers.assembly import proof
from inferplan.solvers.assurance import MAX_SPARES, enough_spares, too_many_spares
from inferplan.solvers.clock import FIRST_S
from inferplan.solvers.document import plan_document
from inferplan.solvers.explain import Chosen, alternatives, binding
from inferplan.solvers.infeasible import disturbed, infeasible
from inferplan.solvers.judge import Judge, believed, limits_s, measured
from inferplan.solvers.milp import Solution, promises
from inferplan.solvers.mixtures import solver_of
from inferplan.solvers.objectives import decide, normalised
from inferplan.solvers.parts import parted
from inferplan.solvers.problem import Problem, read_problem
from inferplan.solvers.program import ACCURACY, Ask
from inferplan.solvers.search import MARGIN, SAME, Search
from inferplan.spec.document import LoadedWorkload
from inferplan.spec.errors import InfeasibleError, UndecidedError
from inferplan.spec.plan import Plan, Proof
from inferplan.spec.profile import Profile
from inferplan.spec.workload import Robustness, Workload

PLAIN = 0.5
"""Of the time that is left: explaining the plan takes some, too."""


@dataclass(frozen=True)
class Limits:
    """How long and how exactly to look."""

    time_s: float
    gap: float
    seed: int
    samples: SampleSource | None


@dataclass(frozen=True)
class Decided:
    """How a search ended: the best plan it certified, else the best it found, and what the simulation says of it.

    `proven`: all goals but the last were.
    """

    search: Search
    solution: Solution
    result: SimulationResult
    proven: bool

    @property
    def chosen(self) -> Chosen:
        """The plan with the question it answers."""
        search = self.search
        question = search.question(search.scales)
        return Chosen(
            search.problem,
            search.program,
            search.judge,
            question if search.problem.interference.matters else replace(question, rejected=()),
            self.solution,
            search.deadline,
            search.gap,
            tuple(search.unstable),
        )

    @property
    def tails_s(self) -> dict[str, float]:
        """Simulated latency of every class with a promise, at its percentile."""
        limits = limits_s(self.search.problem)
        return {name: ratio * limits[name] for name, ratio in measured(self.result, limits).items()}


def decided(
    loaded: LoadedWorkload,
    profile: Profile,
    *,
    time_limit_s: float = 60.0,
    gap: float = 0.0,
    seed: int = 0,
    samples: SampleSource | None = None,
) -> Decided:
    """What `planner.solve` decides, with the search that led there. Raises as it does."""
    return _searched_enough(loaded.workload, profile, Limits(time_limit_s, gap, seed, samples))


def solve_queues(loaded: LoadedWorkload, profile: Profile, plan_dir: Path, limits: Limits) -> Plan:
    """The plan that withstands what is asked; beside it, the cost of one that need not. Raises as `planner.solve`."""
    # First what is asked: where there is no such plan, what would help is about it.
    found = _searched_enough(loaded.workload, profile, limits)
    plain = None
    if loaded.workload.robustness.asked:
        plain = _plain_cost(loaded.workload, profile, limits, found.search.deadline)
    return _plan(found, loaded, profile, plan_dir, plain)


def _searched_enough(workload: Workload, profile: Profile, limits: Limits) -> Decided:
    """The search for a plan that withstands what is asked.

    Spares for a share of availability depend on how many machines there are: as long as the plan has more machines
    than its spares suffice for, it is made again with one spare more.
    """
    deadline = time.monotonic() + limits.time_s
    problem = parted(read_problem(workload, profile, limits.samples))
    for _ in range(MAX_SPARES):
        search, proven = _searched(problem, limits, deadline)
        try:
            solution, result = _outcome(search)
        except InfeasibleError as error:
            more = [
                f"measure {combination_text(w.combination)}: {w.reason}" for w in hopes(problem, search.ask, deadline)
            ]
            raise InfeasibleError(error.message, [*error.details, *more]) from error
        spares = enough_spares(problem, solution)
        if spares == problem.assurance.spares:
            return Decided(search, solution, result, proven)
        problem = replace(problem, assurance=replace(problem.assurance, spares=spares))
    raise too_many_spares(problem)


def _searched(problem: Problem, limits: Limits, deadline: float) -> tuple[Search, bool]:
    """The search for the best plan of an instance, run, and whether all goals but the last were proven."""
    program = solver_of(problem, deadline=max(deadline, time.monotonic() + FIRST_S))
    ask, exact = normalised(program, promises(problem), deadline, limits.gap)
    search = Search(problem, program, Judge(problem, limits.seed), ask, limits.gap, deadline)
    return search, decide(search, problem) and exact


def _plain_cost(workload: Workload, profile: Profile, limits: Limits, deadline: float) -> float | None:
    """Cost of the certified plan that need not withstand anything; None where none was found in its share of the time
    that is left."""
    plain = workload.model_copy(update={"robustness": Robustness()}).at(workload.root)
    problem = parted(read_problem(plain, profile, limits.samples))
    try:
        search, _ = _searched(problem, limits, time.monotonic() + PLAIN * max(deadline - time.monotonic(), 0.0))
    except UndecidedError:
        return None
    return None if search.incumbent is None else search.incumbent.cost_usd_per_h


def _outcome(search: Search) -> tuple[Solution, SimulationResult]:
    """The certified plan, or the best that was not certified; infeasible where not even the fastest plan does."""
    if search.incumbent is not None:
        return search.incumbent, search.judge.certain(search.incumbent)
    late = not search.closed and time.monotonic() >= search.deadline
    if search.fallback is None and (late or search.program.timed_out):
        raise UndecidedError("the time limit left no plan: give more time with --time-limit")
    if search.fallback is None and search.unstable:
        raise disturbed(search.problem, search.story)
    if search.fallback is None:
        raise infeasible(search.problem, search.judge, search.ask, search.ask, search.deadline)
    solution, result = search.fallback
    if search.closed and result.verdict == "missed":
        as_seen = _believed_limits(search, solution, result)
        raise infeasible(search.problem, search.judge, search.ask, as_seen, search.deadline)
    return solution, result


def _believed_limits(search: Search, solution: Solution, result: SimulationResult) -> Ask:
    """The promises, their limits scaled so that the program too sees what the simulation saw."""
    says = believed(search.problem, solution)
    seen = measured(result, limits_s(search.problem))
    scales: dict[str, float | None] = dict(search.ask.scales)
    for name, ratio in seen.items():
        scales[name] = says[name] / ratio * MARGIN if ratio > 1 else max(says[name] / ratio, says[name])
    return replace(search.ask, scales=scales)


def _plan(
    found: Decided, loaded: LoadedWorkload, profile: Profile, plan_dir: Path, plain_usd_per_h: float | None
) -> Plan:
    search, solution = found.search, found.solution
    problem, chosen = search.problem, found.chosen
    binds, others = binding(chosen, found.tails_s), alternatives(chosen)
    late = ["time ran out before all that binds the plan, and all alternatives, were looked for"]
    late = late if time.monotonic() >= search.deadline else []
    return plan_document(
        problem,
        search.judge,
        search.ask,
        solution,
        found.result.verdict,
        _proof(search, solution, found.proven),
        loaded=loaded,
        profile=profile,
        plan_dir=plan_dir,
        story=[*fitted_line(problem), *search.story, *_closing(search, solution), *late],
        plain_usd_per_h=plain_usd_per_h,
        binding=binds,
        alternatives=others,
        to_measure=wanted(chosen, search.ask, tuple(search.rejected)),
    )


def _proof(search: Search, solution: Solution, earlier: bool) -> Proof:
    """What the last question to the program says of the plan's objective: of the last goal of a lexicographic one,
    whose `earlier` goals were proven or not."""
    sign = -1.0 if search.ask.objective == ACCURACY else 1.0
    objective = solution.worth(search.ask)
    last = search.proof
    bound: float | None = None
    proven = False
    if last is not None and search.incumbent is not None:
        bound = min(last.bound, objective)
        proven = last.proven and not objective > last.objective + SAME * max(abs(objective), 1e-12)
        if proven and abs(objective - bound) <= SAME * max(abs(objective), 1e-12):
            bound = objective
    elif search.incumbent is not None and search.closed and not search.program.timed_out:
        # Under the limits that the search ended with the program has no plan at all.
        proven, bound = True, objective
    elif search.incumbent is None:
        # Of a certified plan that bound is under limits which certification has raised since.
        bound = min(solution.bound, objective)
    return proof((last or solution).by, proven and earlier, objective, bound, sign)


def _closing(search: Search, solution: Solution) -> list[str]:
    """How the search ended."""
    if search.incumbent is None:
        return ["no plan was certified: this one came nearest"]
    if not search.closed:
        return ["the search stopped at its limit of rounds or time: a cheaper certified plan may exist"]
    return []
