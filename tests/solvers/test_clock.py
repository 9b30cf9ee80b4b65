"""What takes long looks at the deadline: nothing that was cut off is called an answer.

Deadlines here have passed, or a clock is counted: no test depends on how long anything takes.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest

from inferplan.solvers import clock, milp
from inferplan.solvers.asking import hopes
from inferplan.solvers.assembly import proof
from inferplan.solvers.assurance import assured_columns
from inferplan.solvers.chains import Limits, plans
from inferplan.solvers.clock import OutOfTimeError, in_time
from inferplan.solvers.columns import build_columns
from inferplan.solvers.concession import certified
from inferplan.solvers.explanation import explain
from inferplan.solvers.infeasible import infeasible
from inferplan.solvers.judge import Judge
from inferplan.solvers.milp import Solver, promises
from inferplan.solvers.mixtures import MixtureSolver, solver_of
from inferplan.solvers.objectives import normalised
from inferplan.solvers.pareto import frontier
from inferplan.solvers.parts import parted
from inferplan.solvers.planner import solve
from inferplan.solvers.problem import Problem, read_problem
from inferplan.solvers.program import Program
from inferplan.solvers.search import Search
from inferplan.solvers.strategies import cheapest_fixed, fa2_high, fa2_low, ipa, optimal, rim
from inferplan.solvers.strategies.tools import Tools
from inferplan.spec.errors import InfeasibleError, UndecidedError
from inferplan.spec.plan import Proof

TIMES = {(stage, variant): {1: s, 4: 3 * s} for stage in "abc" for variant, s in (("s", 0.01), ("l", 0.03))}
ACCURACY = {(stage, variant): value for stage in "abc" for variant, value in (("s", 0.9), ("l", 0.97))}
STAGES = {"a": ["s", "l"], "b": ["s", "l"], "c": ["s", "l"]}
EDGES = [{"from": "a", "to": "b"}, {"from": "b", "to": "c"}]
WEB = {"rate_rps": 40.0, "slo": {"latency_s": 0.4}, "accuracy": {"floor": 0.75}}
PASSED = -1.0


def inputs(instances: Any, **changes: Any) -> tuple[Any, Any]:
    loaded = instances.workload(STAGES, edges=EDGES, **{"classes": {"web": WEB}, **changes})
    return loaded, instances.profile(TIMES, ACCURACY)


def problem_of(instances: Any, **changes: Any) -> Problem:
    loaded, store = inputs(instances, **changes)
    return parted(read_problem(loaded.workload, store))


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A clock that goes on by 1 whenever it is looked at."""
    ticks = itertools.count()
    monkeypatch.setattr(clock.time, "monotonic", lambda: float(next(ticks)))
    return ticks


def test_only_a_deadline_that_has_passed_is_late() -> None:
    in_time(math.inf, "it was done")
    with pytest.raises(OutOfTimeError, match="the time limit was over before it was done: give more time with --time"):
        in_time(PASSED, "it was done")


def test_tabulating_looks_at_the_clock_stage_by_stage(instances: Any, ticking: Any) -> None:
    problem = problem_of(instances)
    build_columns(problem, deadline=1e9)
    looks = next(ticking)
    assert looks >= 3
    with pytest.raises(OutOfTimeError, match="every option was tabulated"):
        build_columns(problem, deadline=looks + 1.5)
    assert next(ticking) == looks + 3, "the second look was the last"


@pytest.mark.parametrize("robustness", [{"spare_machines": 1}, {"load_levels": [0.5, 1.0, 1.5]}])
def test_tabulating_what_withstands_more_looks_at_it_too(instances: Any, robustness: dict[str, Any]) -> None:
    problem = problem_of(instances, robustness=robustness)
    assert assured_columns(problem)
    with pytest.raises(OutOfTimeError):
        assured_columns(problem, deadline=PASSED)


def test_a_program_looks_at_the_clock_while_it_is_built(instances: Any, ticking: Any) -> None:
    problem = problem_of(instances)
    columns = build_columns(problem)
    with pytest.raises(OutOfTimeError, match="the exact program was built"):
        Program(problem, columns, deadline=next(ticking) + 3.5)


def test_a_program_that_was_not_built_in_time_is_no_answer(instances: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where as much time was not enough it is not tried again; with more it is."""
    problem = problem_of(instances)
    solver = Solver(problem, build_columns(problem), method="program")
    built: list[float] = []

    def counted(problem: Problem, columns: Any, deadline: float = math.inf) -> Program:
        built.append(deadline)
        return Program(problem, columns, deadline)

    monkeypatch.setattr(milp, "Program", counted)
    monkeypatch.setattr(milp, "FIRST_S", PASSED)
    ask = promises(problem)
    assert solver.ask(ask, PASSED, 0.0) is None
    assert solver.timed_out
    with pytest.raises(OutOfTimeError):
        solver.known(ask, PASSED, 0.0)
    assert len(built) <= 1
    found = solver.ask(ask, 60.0, 0.0)
    assert found is not None
    assert found.proven
    assert not solver.timed_out


def test_patterns_that_were_not_asked_leave_the_answer_unproven(
    instances: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = problem_of(instances, splitting=True)
    solver = MixtureSolver(problem)
    ask = promises(problem)
    assert len(solver.branches) > 1
    found = solver.ask(ask, 60.0, 0.0)
    assert found is not None
    assert found.proven
    hurried = solver.ask(ask, PASSED, 0.0)
    assert solver.timed_out
    assert hurried is None or (not hurried.proven and hurried.bound == -math.inf)
    for make in (
        lambda: solver.of([problem], PASSED),
        lambda: solver.promising(problem, PASSED),
        lambda: solver.widened(lambda _: (), deadline=PASSED),
        lambda: solver_of(problem, deadline=PASSED),
    ):
        with pytest.raises(OutOfTimeError):
            make()


class Late(Solver):
    """Knows some plans, and then is out of time."""

    known_plans = 0

    def ask(self, *arguments: Any, **options: Any) -> Any:
        self.known_plans -= 1
        if self.known_plans >= 0:
            return super().ask(*arguments, **options)
        self.timed_out = True
        return None


def late_after(plans: int) -> Any:
    """Makes solvers that answer so many questions."""

    def making(problem: Problem, lifted: bool = False, deadline: float = math.inf) -> Solver:
        late = Late(problem, build_columns(problem, lifted))
        late.known_plans = plans
        return late

    return making


@pytest.mark.parametrize("known", [0, 1])
def test_a_search_that_was_cut_off_is_not_closed(instances: Any, known: int) -> None:
    """The first plan is rejected: the limit is far less than any can keep."""
    problem = problem_of(instances, classes={"web": {**WEB, "slo": {"latency_s": 0.06}}})
    program = Late(problem, build_columns(problem))
    program.known_plans = known
    ask = replace(promises(problem), scales={"web": 5.0})
    search = Search(problem, program, Judge(problem, 0), ask, 0.0, math.inf, repairs=False, scales={"web": 5.0})
    search.run()
    assert search.incumbent is None
    assert (search.fallback is not None) == bool(known)
    assert not search.closed
    whole = Search(problem, Solver(problem, program.columns), Judge(problem, 0), ask, 0.0, math.inf, repairs=False)
    whole.run()
    assert whole.closed


def test_what_time_cut_off_is_not_called_infeasible(instances: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, store = inputs(instances)
    monkeypatch.setattr("inferplan.solvers.queue_planner.solver_of", late_after(0))
    with pytest.raises(UndecidedError, match="the time limit left no plan"):
        solve(loaded, store, plan_dir=instances.folder)


def test_conflicts_that_there_was_no_time_to_find_are_not_named(
    instances: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = problem_of(instances, classes={"web": {**WEB, "accuracy": {"floor": 0.999}}})
    judge, ask = Judge(problem, 0), promises(problem)
    whole = infeasible(problem, judge, ask, ask, math.inf)
    assert "accuracy.floor (0.999) cannot be kept" in whole.message
    assert not any("more time" in line for line in whole.details)
    monkeypatch.setattr("inferplan.solvers.concession.solver_of", late_after(0))
    for answers in range(4):
        monkeypatch.setattr("inferplan.solvers.infeasible.solver_of", late_after(answers))
        late = infeasible(problem, judge, ask, ask, math.inf)
        assert isinstance(late, InfeasibleError)
        assert "the load alone" not in late.message
        assert any("more time, with --time-limit" in line for line in late.details)
        assert not any("no single one of these" in line for line in late.details)
    assert infeasible(problem, judge, ask, ask, PASSED).message == "no plan keeps every promise"


def test_nothing_is_built_for_questions_that_have_no_time(instances: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = problem_of(instances)
    ask, columns = promises(problem), build_columns(problem)

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("a program was built")

    monkeypatch.setattr(milp, "Program", never)
    assert list(certified(problem, ask, ask, 0, PASSED)) == []
    assert hopes(problem, ask, PASSED) == []
    for strategy in (optimal, cheapest_fixed, ipa, rim, fa2_low, fa2_high):
        with pytest.raises(OutOfTimeError):
            strategy.propose(problem, Tools(Judge(problem, 0), PASSED))
    with pytest.raises(OutOfTimeError, match="all labels were made"):
        plans(problem, columns, Limits(), PASSED)
    with pytest.raises(OutOfTimeError):
        frontier(problem, ("cost", "accuracy"), time_limit_s=PASSED)


def test_an_explanation_without_time_says_what_is_missing(instances: Any) -> None:
    loaded, store = inputs(instances, devices={"cpu": {"price_usd_per_h": 0.1, "cores": 4, "count": 9}})
    plan = solve(loaded, store, plan_dir=instances.folder)
    found = explain(plan, loaded, store, time_limit_s=1e-6)
    assert (found.rivals, found.steps) == ((), ())
    assert any("what promises are worth, and what else could stand somewhere: out of time" in x for x in found.left_out)
    assert "which promises bind: out of time" in found.left_out


def test_weights_whose_units_are_not_proven_prove_nothing(instances: Any) -> None:
    problem = problem_of(instances, objective={"weights": {"cost": 1, "accuracy": 2}})
    program = Solver(problem, build_columns(problem), method="program")
    _, proven = normalised(program, promises(problem), math.inf, 0.0)
    assert proven
    _, proven = normalised(Half(problem, program.columns, method="program"), promises(problem), math.inf, 0.0)
    assert not proven


class Half(Solver):
    """Finds the best plan, and has no time to prove it."""

    def ask(self, *arguments: Any, **options: Any) -> Any:
        found = super().ask(*arguments, **options)
        return None if found is None else replace(found, proven=False)


@pytest.mark.parametrize("bound", [None, -math.inf])
def test_a_bound_that_is_not_known_is_none(bound: float | None) -> None:
    found = proof("HiGHS", True, 3.0, bound)
    assert found == Proof(solver="HiGHS", status="feasible", objective=3.0)
    assert (found.bound, found.gap) == (None, None)
    known = proof("HiGHS", True, -0.9, -0.9, -1.0)
    assert (known.status, known.objective, known.bound, known.gap) == ("optimal", 0.9, 0.9, 0.0)
    assert proof("HiGHS", False, 4.0, 3.0).gap == 0.25
