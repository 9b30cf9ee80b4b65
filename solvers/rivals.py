"""Why a plan has what it has: for every class and stage, what could stand there instead, and what that would mean.

For each other variant, and for another device, batch or fewer replicas of the same variant, the program is asked for
the best plan that has it and keeps every promise. Where there is none, for the cheapest plan that has it whatever it
promises: what the simulation says of that one is the reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from inferplan.solvers.assurance import assured_columns
from inferplan.solvers.columns import Column, build_columns
from inferplan.solvers.enquiry import Enquiry
from inferplan.solvers.explain import TIED, verdict
from inferplan.solvers.milp import Solver
from inferplan.solvers.options import Option
from inferplan.solvers.program import COST, Ask

Aspect = Literal["variant", "device", "batch", "replicas"]


@dataclass(frozen=True)
class Rival:
    """What could stand in a class's stage instead of what does. Without cost: no plan has it, `reason` says why."""

    traffic: str
    stage: str
    aspect: Aspect
    own: str
    other: str
    cost_usd_per_h: float | None
    extra_usd_per_h: float | None
    accuracy: float | None
    latency_s: float | None
    """Simulated, largest over classes at their percentiles."""
    keeps: bool
    """Whether that plan is certified to keep every promise."""
    reason: str


def rivals(enquiry: Enquiry) -> Iterator[Rival]:
    """Everything that could stand elsewhere: variants first, then device, batch and replicas of the chosen one."""
    plan = enquiry.plan
    worthwhile, every = assured_columns(plan.problem), _every_column(enquiry)
    late: list[str] = []
    for (k, stage), column in sorted(plan.solution.chosen().items(), key=lambda item: _place(enquiry, *item[0])):
        if enquiry.seconds_left <= 0:
            late.append(stage)
            continue
        fixed = [c for c in worthwhile if c.stage != stage] + [
            c for c in every if c.stage == stage and k not in c.classes
        ]
        free = [c for c in every if c.stage == stage and k in c.classes]
        spot = _Spot(enquiry, k, stage, column, fixed, free)
        others = [variant for variant in plan.problem.variants(stage) if variant != column.option.variant]
        for index, variant in enumerate(others):
            if enquiry.seconds_left <= 0:
                enquiry.left_out.append(f"{stage}: {len(others) - index} of {len(others)} other variants: out of time")
                break
            yield from spot.variant(variant)
        if column.option.need is not None and enquiry.seconds_left > 0:
            yield from spot.aspects()
        elif column.option.need is not None:
            enquiry.left_out.append(f"{stage}: another device, batch or number of replicas: out of time")
    stages = list(dict.fromkeys(late))
    if stages:
        enquiry.left_out.append(f"what else could stand at {', '.join(stages)}: out of time")


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

    def variant(self, variant: str) -> Iterator[Rival]:
        """Another variant."""
        own = self.column.option.variant
        wanted = [c for c in self.free if c.option.variant == variant]
        yield from self._rival("variant", own, variant, wanted, "no device carries the load with it")

    def aspects(self) -> Iterator[Rival]:
        """The same variant on another device, at another batch, with fewer replicas."""
        option, replicas = self.column.option, self.column.replicas
        same = [c for c in self.free if c.option.variant == option.variant]
        for device in sorted({c.option.device for c in same} - {option.device}):
            yield from self._rival("device", option.device, device, [c for c in same if c.option.device == device], "")
        here = [c for c in same if c.option.device == option.device]
        others = [c for c in here if batch_text(c.option) != batch_text(option)]
        if others:
            yield from self._rival("batch", batch_text(option), None, others, "")
        if replicas > 1:
            fewer = [c for c in here if c.option == option and c.replicas < replicas]
            fewest = f"{replicas - 1} cannot carry {self.column.load_rps:.4g} calls/s"
            yield from self._rival("replicas", str(replicas), None if fewer else str(replicas - 1), fewer, fewest)

    def _rival(
        self, aspect: Aspect, own: str, other: str | None, columns: Sequence[Column], impossible: str
    ) -> Iterator[Rival]:
        """The best plan with one of these columns; without `other` the plan says what it has."""
        plan, name = self.enquiry.plan, self.enquiry.plan.problem.classes[self.k].name
        if not columns:
            yield Rival(name, self.stage, aspect, own, other or "", None, None, None, None, False, impossible)
            return
        about, both = f"{self.stage}: another {aspect} than {own}", [*self.fixed, *columns]
        kept = self.enquiry.decide(about, plan.ask, columns=both)
        if kept is None and self.enquiry.seconds_left <= 0:
            return
        found = kept.solution if kept else replace(plan, program=Solver(plan.problem, both)).best(_whatever(plan.ask))
        if found is None:
            if other is not None:
                why = "not with the machines there are"
                yield Rival(name, self.stage, aspect, own, other, None, None, None, None, False, why)
            return
        said, there = verdict(plan, found), found.chosen()[self.k, self.stage]
        yield Rival(
            name, self.stage, aspect, own, other or _said(aspect, there), found.cost_usd_per_h,
            found.cost_usd_per_h - plan.solution.cost_usd_per_h,
            said.accuracy, said.latency_s, kept is not None, "; ".join(said.reasons) or self._tied(said.accuracy),
        )  # fmt: skip

    def _tied(self, accuracy: float | None) -> str:
        own = verdict(self.enquiry.plan, self.enquiry.plan.solution).accuracy
        if accuracy is not None and own is not None and abs(accuracy - own) > 1e-9:
            return "no better, and less accurate"
        return TIED


def _said(aspect: Aspect, column: Column) -> str:
    return str(column.replicas) if aspect == "replicas" else batch_text(column.option)


def batch_text(option: Option) -> str:
    """Largest batch, delay and threads of an option, in words."""
    delay = f" within {option.max_queue_delay_s * 1e3:g} ms" if option.max_queue_delay_s else ""
    threads = f", {option.threads} threads" if option.threads > 1 else ""
    return f"{option.max_batch}{delay}{threads}"


def _every_column(enquiry: Enquiry) -> Sequence[Column]:
    """All columns, also those that others dominate, as far as nothing must be withstood."""
    problem = enquiry.plan.problem
    return assured_columns(problem) if problem.assurance.shapes_columns else build_columns(problem, prune=False)


def _whatever(ask: Ask) -> Ask:
    """The question without latency limits, floors and budget: the cheapest plan there is."""
    return replace(
        ask, goals=(COST,), scales=dict.fromkeys(ask.scales), floors=dict.fromkeys(ask.floors), budget_usd_per_h=None,
        limits=(), rejected=(),
    )  # fmt: skip
