"""How far the load, or a link's bandwidth, would have to give way for a plan to keep every promise.

Both are no bounds of a program but part of its data: every value is an instance of its own. The value is bracketed by
halving (of its logarithm). What is named is a value that a plan was found for, rounded away from the promise; nearer
ones were tried to 1 %, unless time ran out.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from inferplan.solvers.assurance import at_level
from inferplan.solvers.clock import OutOfTimeError
from inferplan.solvers.judge import SEARCH, Judge
from inferplan.solvers.milp import Solution
from inferplan.solvers.mixtures import solver_of
from inferplan.solvers.problem import Problem
from inferplan.solvers.program import COST, Ask
from inferplan.solvers.search import Search
from inferplan.spec.levels import written_as
from inferplan.spec.workload import Link

LEAST = 0.01
"""Of the load: what is not possible at this share of it does not fail for the load."""
MOST = 100.0
"""Times the bandwidth: likewise."""
NEAR = 1.01
TIME_S = 15.0
"""For one promise, at most; it ends with the time of the question, too."""
LAST_S = 2.0
"""What the cost of the value that was found may take beyond that."""
GAP = 1e-6
FIGURES = 3


@dataclass(frozen=True)
class Concession:
    """One promise and the instances along it: from `far` times what is promised, where least is asked, to once."""

    path: str
    says: str
    """Which values do: `at most` or `at least`."""
    unit: str
    promised: float
    far: float
    at: Callable[[float], Problem]

    def neat(self, times: float) -> float:
        """The same rounded to few figures of what is promised, towards `far`."""
        value = times * self.promised
        power = 10.0 ** (FIGURES - 1 - math.floor(math.log10(value)))
        # What is exact but for the last bit stays what it is.
        whole = math.floor(value * power * (1 + 1e-9)) if self.far < 1 else math.ceil(value * power * (1 - 1e-9))
        return whole / power / self.promised

    def text(self, times: float) -> str:
        """The promise with another value."""
        return f"{self.path}: {self.says} {times * self.promised:.{FIGURES + 3}g} {self.unit}"


def concessions(problem: Problem) -> Iterator[Concession]:
    """Less load, of all classes in proportion, where all have rates (not traces, not jobs); a link's bandwidth."""
    classes = problem.workload.classes
    rates = [traffic.rate_rps for traffic in classes.values() if traffic.kind != "jobs"]
    if len(rates) == len(classes) and all(rates):
        written = {written_as(problem.workload, name) for name in classes}
        alone = len(written) == 1
        yield Concession(
            f"classes.{min(written) if alone else '*'}.rate_rps",
            "at most",
            "requests/s" if alone else "times",
            math.fsum(rate or 0.0 for rate in rates) if alone else 1.0,
            LEAST,
            lambda times: at_level(problem, times),
        )
    for name, link in sorted(problem.workload.links.items()):
        if link.bandwidth_bytes_per_s is not None:
            path = f"links.{name}.bandwidth_bytes_per_s"
            width = link.bandwidth_bytes_per_s
            yield Concession(path, "at least", "bytes/s", width, MOST, _widening(problem, name, width))


def certified(problem: Problem, promised: Ask, believed: Ask, seed: int, until: float) -> Iterator[str]:
    """What would help, with what it costs: first by the program alone, under the limits that the simulation showed it
    (`believed`), then, from there, by the whole search. `until` there is time (`time.monotonic`)."""
    for concession in concessions(problem):
        deadline = min(time.monotonic() + TIME_S, until)
        try:
            found = _Certified(concession, promised, believed, seed, deadline).nearest()
        except OutOfTimeError:
            continue  # not known
        if found is not None:
            yield f"{concession.text(found[0])}, at {found[1].cost_usd_per_h:.6g} USD/h"


@dataclass(frozen=True)
class _Certified:
    """The search for the value of one concession that is nearest to what is promised."""

    concession: Concession
    promised: Ask
    believed: Ask
    seed: int
    deadline: float

    def nearest(self) -> tuple[float, Solution] | None:
        """The value that a plan was certified for, with the cheapest such plan. Raises OutOfTimeError where it is not
        known whether there is one."""
        of = self.concession
        if not self.possible(of.neat(of.far)):
            return None
        value, step = halved(of, self.possible, of.far, 1.0, self.deadline) or of.far, NEAR
        kept: float | None = None
        missed: float | None = None
        # The program may say too much or too little, seldom by far: away from there in growing steps.
        while (kept is None or missed is None) and time.monotonic() < self.deadline:
            keeps = self.keeps(of.neat(value))
            kept, missed = (value, missed) if keeps else (kept, value)
            last = 1.0 if keeps else of.far
            if max(value / last, last / value) <= NEAR:
                break
            value = min(value * step, last) if value < last else max(value / step, last)
            step **= 2
        if kept is None:
            return None
        value = halved(of, self.keeps, kept, missed or 1.0, self.deadline) or of.neat(kept)
        plan = self.searched(value, any_will_do=False)
        return None if plan is None else (value, plan)

    def possible(self, value: float) -> bool:
        """Whether the program has a plan."""
        question = replace(self.believed, goals=(COST,), rejected=())
        program = solver_of(self.concession.at(value), deadline=self.deadline)
        return program.known(question, max(self.deadline - time.monotonic(), 0.05), 1.0) is not None

    def keeps(self, value: float) -> bool:
        """Whether a plan is certified."""
        return self.searched(value, any_will_do=True) is not None

    def searched(self, value: float, any_will_do: bool) -> Solution | None:
        """A plan that is certified, the cheapest one or any."""
        instance = self.concession.at(value)
        judge, question = Judge(instance, self.seed, final=SEARCH), replace(self.promised, rejected=())
        deadline = self.deadline if any_will_do else max(self.deadline, time.monotonic() + LAST_S)
        program = solver_of(instance, deadline=deadline)
        search = Search(instance, program, judge, question, GAP, deadline, any_will_do=any_will_do)
        search.run()
        return search.incumbent


def halved(
    concession: Concession, keeps: Callable[[float], bool], kept: float, missed: float, deadline: float
) -> float | None:
    """The neat value between one that is kept and one that is not, nearest to the latter; None where none was kept."""
    best: float | None = None
    while max(kept / missed, missed / kept) > NEAR and time.monotonic() < deadline:
        middle = math.sqrt(kept * missed)
        try:
            nearer = keeps(concession.neat(middle))
        except OutOfTimeError:
            break
        if nearer:
            kept, best = middle, concession.neat(middle)
        else:
            missed = middle
    return best


def _widening(problem: Problem, name: str, width_bytes_per_s: float) -> Callable[[float], Problem]:
    """The same instance with so many times the bandwidth of a link."""
    workload, ways = problem.workload, problem.ways
    pair = next(pair for pair, of in ways.names.items() if of == name)

    def at(times: float) -> Problem:
        link: Link = workload.links[name].model_copy(update={"bandwidth_bytes_per_s": times * width_bytes_per_s})
        return replace(
            problem,
            workload=workload.model_copy(update={"links": {**workload.links, name: link}}).at(workload.root),
            ways=replace(ways, links={**ways.links, pair: link}),
        )

    return at
