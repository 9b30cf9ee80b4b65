"""Questions about a plan that was decided: what the best plan would be if something were different.

Two kinds of questions. *What would be decided* if promises were others: the whole search answers, as it did for the
plan. *How far a promise can go* in some set of plans: the program answers, then the simulation; a plan that does not
keep what else is promised is left out, and the next one is tried, a few times.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace

from inferplan.estimators.simulation import SimulationResult
from inferplan.solvers.assurance import assured_columns
from inferplan.solvers.clock import OutOfTimeError
from inferplan.solvers.columns import Column
from inferplan.solvers.explain import Chosen
from inferplan.solvers.judge import SEARCH, Judge
from inferplan.solvers.milp import Solution, Solver
from inferplan.solvers.mixtures import MixtureSolver
from inferplan.solvers.problem import ClassNeed, Problem
from inferplan.solvers.program import RATIO, Ask
from inferplan.solvers.search import Search
from inferplan.solvers.shares import refine

GOALS = 2
"""Goals that deciding again looks at: what it is about, and what breaks most ties."""
TRIES = 6
"""Plans that are tried for one question, before it counts as not answered."""
FIGURES = 3
PRECISION = 0.01
"""How exactly loads and limits that a plan keeps are found, relative."""


@dataclass(frozen=True)
class Answer:
    """A plan that the simulation certified for all classes, or for all but the one whose limit is in question."""

    solution: Solution
    result: SimulationResult


@dataclass
class Enquiry:
    """Asks about one plan, as long as there is time. `left_out` says what there was no answer for."""

    plan: Chosen
    left_out: list[str] = field(default_factory=list)
    _tabulated: dict[object, list[Column]] = field(default_factory=dict)

    @property
    def worth(self) -> float:
        """The plan's objective, to be minimised."""
        return self.plan.solution.worth(self.plan.ask)

    @property
    def seconds_left(self) -> float:
        """Time that is left for questions."""
        return self.plan.deadline - time.monotonic()

    def answer(self, about: str, ask: Ask, free: str | None = None) -> Answer | None:
        """The best plan for a question. The latency of the class `free` may be whatever it is.

        None where there is none; also where time ran out, or no plan of `TRIES` was certified: `about` is then added
        to `left_out`.
        """
        rejected: list[tuple[Column, ...]] = []
        for _ in range(TRIES):
            found = self.plan.best(replace(ask, rejected=(*ask.rejected, *rejected)))
            if found is None:
                break
            result = self.plan.judge.certain(found)
            if not result.unstable and all(
                stream.verdict in ("met", None) for name, stream in result.streams.items() if name != free
            ):
                return Answer(found, result)
            rejected.append(found.columns)
        if self.seconds_left <= 0 or self.plan.program.timed_out:
            self.left_out.append(f"{about}: out of time")
        elif len(rejected) == TRIES:
            self.left_out.append(f"{about}: the simulation certified none of the {TRIES} best plans")
        return None

    def decide(
        self,
        about: str,
        ask: Ask,
        problem: Problem | None = None,
        program: Solver | None = None,
        finer: bool = True,
    ) -> Answer | None:
        """What would be decided under the promises of a question, for another `problem`, or by another `program`: by
        the search, from the beginning, but without its look near rejected plans, and with ties broken by the second
        goal alone. `finer`: where classes are split, with shares between the tabulated ones. None where there is no
        plan, or time ran out (noted)."""
        plan = self.plan
        if self.seconds_left <= 0:
            self.left_out.append(f"{about}: out of time")
            return None
        # Limits are looked for where they just are kept, or just not: what stays undecided there is no plan.
        judge = plan.judge if problem is None else Judge(problem, plan.judge.seed, final=SEARCH)
        asked = _promising(problem or plan.problem, ask)
        try:
            program = program or self._program(asked)
        except OutOfTimeError:
            self.left_out.append(f"{about}: out of time")
            return None
        question = replace(ask, goals=ask.goals[:GOALS], rejected=())
        # Many questions are asked: a look near every rejected plan, by simulation alone, would take too long.
        search = Search(asked, program, judge, question, plan.gap, plan.deadline, repairs=False)
        search.run()
        if finer:
            refine(search)
        if search.incumbent is not None:
            return Answer(search.incumbent, judge.certain(search.incumbent))
        if self.seconds_left <= 0 or program.timed_out:
            self.left_out.append(f"{about}: out of time")
        return None

    def first_of(self, program: Solver) -> Solution | None:
        """The plan that the program thinks best, of those it knows. None where there is none, or none was found soon
        (`timed_out`)."""
        question = replace(self.plan.ask, goals=self.plan.ask.goals[:1], rejected=())
        return program.ask(question, max(self.seconds_left, 0.05), self.plan.gap, settle=False, hurry=True)

    def best_of(self, program: Solver) -> Answer | None:
        """The best certified plan of those that a program knows, by a quick search that begins with what the plan's own
        taught of latencies. Of equals the fastest is tried. None where none was certified."""
        plan = self.plan
        goals = (plan.ask.objective, *([RATIO] if plan.ask.scales else []))
        question = replace(plan.ask, goals=goals, rejected=())
        scales = {name: scale for name, scale in plan.ask.scales.items() if scale is not None}
        search = Search(plan.problem, program, plan.judge, question, plan.gap, plan.deadline, quick=True, scales=scales)
        search.run()
        return None if search.incumbent is None else Answer(search.incumbent, plan.judge.certain(search.incumbent))

    def _program(self, asked: Problem) -> Solver:
        if isinstance(self.plan.program, MixtureSolver):
            return self.plan.program.promising(asked, self.plan.deadline)
        return Solver(asked, self._columns(asked))

    def _columns(self, asked: Problem) -> list[Column]:
        """Columns of an instance; what they are does not depend on limits and floors."""
        classes = tuple(replace(need, limit_s=None, floor=None) for need in asked.classes)
        key = classes, tuple(sorted((name, device.count) for name, device in asked.devices.items()))
        if key not in self._tabulated:
            self._tabulated[key] = assured_columns(asked, deadline=self.plan.deadline)
        return self._tabulated[key]

    def better(self, ask: Ask) -> Ask:
        """A question for plans that are better than this one only."""
        return replace(ask, better_than=self.worth)

    def no_worse(self, ask: Ask) -> Ask:
        """A question for plans that are as good as this one."""
        slack = 1e-6 * max(abs(self.worth), 1e-12)
        return replace(ask, limits=(*ask.limits, (ask.objective, self.worth + slack)))


def _promising(problem: Problem, ask: Ask) -> Problem:
    """An instance with the floors, machines and budget of a question."""
    return replace(
        problem,
        classes=tuple(replace(need, floor=ask.floors[need.name]) for need in problem.classes),
        devices={name: replace(device, count=ask.counts[name]) for name, device in problem.devices.items()},
        budget_usd_per_h=ask.budget_usd_per_h,
    )


def promised_s(result: SimulationResult, name: str) -> float:
    """The limit that a plan could promise to a class: the upper end of its simulated latency, rounded up."""
    latency = result.streams[name].latency_slo_s
    assert latency is not None
    reached = latency.upper if latency.upper is not None else latency.value
    digits = 10.0 ** (math.floor(math.log10(reached)) - FIGURES + 1)
    return math.ceil(reached / digits - 1e-9) * digits


def limited(problem: Problem, need: ClassNeed, limit_s: float) -> Problem:
    """The same instance with another latency limit of a class; of jobs, another deadline."""
    workload = problem.workload
    traffic = workload.classes[need.name]
    if traffic.job is not None:
        changed: dict[str, object] = {"job": traffic.job.model_copy(update={"deadline_s": limit_s})}
    else:
        assert traffic.slo is not None
        changed = {"slo": traffic.slo.model_copy(update={"latency_s": limit_s})}
    promised = traffic.model_copy(update=changed)
    return replace(
        problem,
        workload=workload.model_copy(update={"classes": {**workload.classes, need.name: promised}}).at(workload.root),
        classes=tuple(replace(one, limit_s=limit_s) if one.name == need.name else one for one in problem.classes),
    )


def kept_limit_s(judge: Judge, solution: Solution, name: str, deadline: float) -> float | None:
    """The least limit of a class, rounded up, that a plan is certified with; None where there is none, or none was
    found in `TRIES`, and where the plan misses another promise.

    A simulation ends as soon as it is sure that a limit is missed, and then knows little of the tail: the plan is
    judged again under every limit that it seems to keep, until it does. After the `deadline` what it seems to keep
    counts.
    """
    need, limit_s = next(one for one in judge.problem.classes if one.name == name), 0.0
    for _ in range(TRIES):
        result = judge.certain(solution)
        if result.unstable or any(one.verdict == "missed" for who, one in result.streams.items() if who != name):
            return None
        if limit_s and result.streams[name].verdict == "met":
            return limit_s
        limit_s = promised_s(result, name) if not limit_s else max(promised_s(result, name), limit_s * (1 + PRECISION))
        if math.isinf(limit_s) or time.monotonic() >= deadline:
            return limit_s if math.isfinite(limit_s) else None
        judge = Judge(limited(judge.problem, need, limit_s), judge.seed, judge.final)
        need = replace(need, limit_s=limit_s)
    return None
