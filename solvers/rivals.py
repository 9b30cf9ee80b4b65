"""Why a plan has what it has: for every class and stage, what could stand there instead, and what that would mean.

For each other variant, and for another device, batch or fewer replicas of the same variant, the program is asked for
the best plan that has it and keeps every promise. Where there is none, for the cheapest plan that has it whatever it
promises: what the simulation says of that one is the reason.

There may be hundreds of them. So the program is asked about all of them first, which is quick; then they are certified
one after the other, those first that might be as good as what there is, as long as there is time. Of the others there
is what the program says, believing its latencies as far as the plan's simulation showed. Another plan's may be better
or worse than that, so it is an estimate and no bound, and those rivals are named as not simulated.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from inferplan.solvers.assurance import assured_columns
from inferplan.solvers.clock import OutOfTimeError
from inferplan.solvers.columns import Column, build_columns
from inferplan.solvers.enquiry import Enquiry
from inferplan.solvers.explain import TIED, Chosen, verdict, worst_accuracy
from inferplan.solvers.milp import Solution, Solver
from inferplan.solvers.options import Option
from inferplan.solvers.program import BETTER, COST, Ask

Aspect = Literal["ways", "shares", "variant", "device", "batch", "replicas"]
"""Ways and shares: where classes are split (`mixture_rivals`)."""


@dataclass(frozen=True)
class Rival:
    """What could stand in a class's stage (empty: in all of them) instead of what does. Without cost: no plan has it,
    `reason` says why."""

    traffic: str
    stage: str
    aspect: Aspect
    own: str
    other: str
    cost_usd_per_h: float | None
    extra_usd_per_h: float | None
    accuracy: float | None
    latency_s: float | None
    """Simulated, largest over classes at their percentiles; None where it was not."""
    keeps: bool
    """Whether that plan is certified to keep every promise."""
    reason: str


def rivals(enquiry: Enquiry) -> Iterator[Rival]:
    """Everything that could stand elsewhere: variants first, then device, batch and replicas of the chosen one."""
    try:
        questions = list(_questions(enquiry))
    except OutOfTimeError:
        enquiry.left_out.append("what else could stand somewhere: out of time")
        return
    for question in questions:
        if enquiry.seconds_left <= 0:
            break
        question.look()
    answers: dict[int, Rival] = {}
    for index in sorted(range(len(questions)), key=lambda i: questions[i].worth):
        if enquiry.seconds_left <= 0:
            break
        found = questions[index].answer()
        if found is not None:
            answers[index] = found
    late: dict[str, list[bool]] = {}
    for index, question in enumerate(questions):
        answer = answers.get(index) or question.estimate()
        late.setdefault(question.stage, []).append(not question.answered)
        if answer is not None:
            yield answer
    for stage, missing in late.items():
        if any(missing):
            enquiry.left_out.append(
                f"{stage}: {sum(missing)} of {len(missing)} other choices were not simulated: out of time"
            )


def _questions(enquiry: Enquiry) -> Iterator[_Question]:
    plan = enquiry.plan
    worthwhile, every = assured_columns(plan.problem, deadline=plan.deadline), _every_column(enquiry)
    for (k, stage), column in sorted(plan.solution.chosen().items(), key=lambda item: _place(enquiry, *item[0])):
        fixed = [c for c in worthwhile if c.stage != stage]
        fixed += [c for c in every if c.stage == stage and k not in c.classes]
        free = [c for c in every if c.stage == stage and k in c.classes]
        spot = _Spot(enquiry, k, stage, column, fixed, free)
        for variant in plan.problem.variants(stage):
            if variant != column.option.variant:
                yield spot.variant(variant)
        if column.option.need is not None:
            yield from spot.aspects()


def _place(enquiry: Enquiry, k: int, stage: str) -> tuple[int, int]:
    return enquiry.plan.problem.stages.index(stage), k


@dataclass(frozen=True)
class _Spot:
    """A class's stage with what stands there; `fixed` are columns elsewhere, `free` those that could stand there."""

    enquiry: Enquiry
    k: int
    stage: str
    column: Column
    fixed: Sequence[Column]
    free: Sequence[Column]

    def variant(self, variant: str) -> _Question:
        """Another variant."""
        own = self.column.option.variant
        wanted = [c for c in self.free if c.option.variant == variant]
        return _Question(self, "variant", own, variant, wanted, "no device carries the load with it")

    def aspects(self) -> Iterator[_Question]:
        """The same variant on another device, at another batch, with fewer replicas."""
        option, replicas = self.column.option, self.column.replicas
        same = [c for c in self.free if c.option.variant == option.variant]
        for device in sorted({c.option.device for c in same} - {option.device}):
            yield _Question(self, "device", option.device, device, [c for c in same if c.option.device == device], "")
        here = [c for c in same if c.option.device == option.device]
        others = [c for c in here if batch_text(c.option) != batch_text(option)]
        if others:
            yield _Question(self, "batch", batch_text(option), None, others, "")
        if replicas > 1:
            fewer = [c for c in here if c.option == option and c.replicas < replicas]
            fewest = f"{replicas - 1} cannot carry {self.column.load_rps:.4g} calls/s"
            yield _Question(self, "replicas", str(replicas), None if fewer else str(replicas - 1), fewer, fewest)


class _Question:
    """What the best plan with one of some columns would be; without `other` that plan says what it has.

    `worth` is how good it is by estimate, as far as the program was asked; `answered` whether nothing is left open.
    """

    def __init__(
        self, spot: _Spot, aspect: Aspect, own: str, other: str | None, columns: Sequence[Column], impossible: str
    ) -> None:
        self.stage = spot.stage
        self.worth, self.answered = math.inf, False
        self._spot, self._aspect, self._own, self._other = spot, aspect, own, other
        self._columns, self._impossible = columns, impossible
        self._program: Solver | None = None
        self._first: Solution | None = None

    def look(self) -> None:
        """Ask the program for the best plan."""
        if self._columns:
            self._program = Solver(self._spot.enquiry.plan.problem, [*self._spot.fixed, *self._columns])
            self._first = self._spot.enquiry.first_of(self._program)
            self.worth = math.inf if self._first is None else self._first.worth(self._spot.enquiry.plan.ask)

    def answer(self) -> Rival | None:
        """What is certified; None where there is no plan that says what it has, or no time is left."""
        if not self._columns:
            self.answered = True
            return self._rival(self._other or "", None, self._impossible)
        if self._program is None:
            return None
        enquiry = self._spot.enquiry
        plan = enquiry.plan
        kept = enquiry.best_of(self._program)
        if kept is None and (enquiry.seconds_left <= 0 or self._program.timed_out):
            return None
        try:
            free = whatever(plan.ask)
            found = kept.solution if kept else self._program.known(free, max(enquiry.seconds_left, 0.05), plan.gap)
        except OutOfTimeError:
            return None
        self.answered = True
        if found is None:
            return self._rival(self._other, None, "not with the machines there are") if self._other else None
        said = verdict(plan, found, None if kept is None else kept.result)
        reason = "; ".join(said.reasons) or tied(plan, said.accuracy)
        return self._rival(self._said(found), found, reason, said.accuracy, said.latency_s, kept is not None)

    def estimate(self) -> Rival | None:
        """What the program says of a rival that was not certified; None where that is nothing."""
        plan, first = self._spot.enquiry.plan, self._first
        if self.answered or first is None or plan.ask.objective != COST:
            return None
        more = first.cost_usd_per_h - plan.solution.cost_usd_per_h
        dearer = more > BETTER * plan.solution.cost_usd_per_h
        says = f"costs {more:.4g} USD/h more" if dearer else "no cheaper"
        accuracy = worst_accuracy(plan.problem, plan.accuracies(first))
        return self._rival(self._said(first), first, f"{says} by estimate (not simulated)", accuracy)

    def _rival(
        self,
        other: str,
        found: Solution | None,
        reason: str,
        accuracy: float | None = None,
        latency_s: float | None = None,
        keeps: bool = False,
    ) -> Rival:
        plan = self._spot.enquiry.plan
        cost = None if found is None else found.cost_usd_per_h
        extra = None if cost is None else cost - plan.solution.cost_usd_per_h
        name = plan.problem.classes[self._spot.k].name
        return Rival(name, self.stage, self._aspect, self._own, other, cost, extra, accuracy, latency_s, keeps, reason)

    def _said(self, found: Solution) -> str:
        if self._other is not None:
            return self._other
        column = found.chosen()[self._spot.k, self.stage]
        return str(column.replicas) if self._aspect == "replicas" else batch_text(column.option)


def tied(plan: Chosen, accuracy: float | None) -> str:
    """Why a plan that is no worse was not chosen."""
    own = worst_accuracy(plan.problem, plan.accuracies(plan.solution))
    if accuracy is not None and own is not None and abs(accuracy - own) > 1e-9:
        return "no better, and less accurate"
    return TIED


def batch_text(option: Option) -> str:
    """Largest batch, delay and threads of an option, in words."""
    delay = f" within {option.max_queue_delay_s * 1e3:g} ms" if option.max_queue_delay_s else ""
    threads = f", {option.threads} threads" if option.threads > 1 else ""
    return f"{option.max_batch}{delay}{threads}"


def _every_column(enquiry: Enquiry) -> Sequence[Column]:
    """All columns, also those that others dominate, as far as nothing must be withstood."""
    problem, deadline = enquiry.plan.problem, enquiry.plan.deadline
    if problem.assurance.shapes_columns:
        return assured_columns(problem, deadline=deadline)
    return build_columns(problem, prune=False, deadline=deadline)


def whatever(ask: Ask) -> Ask:
    """The question without latency limits, floors and budget: the cheapest plan there is."""
    return replace(
        ask, goals=(COST,), scales=dict.fromkeys(ask.scales), floors=dict.fromkeys(ask.floors), budget_usd_per_h=None,
        limits=(), rejected=(),
    )  # fmt: skip
