"""Why a plan has what it has: for every class and stage, what could stand there instead, and what that would mean.

For each other variant, and for another device, batch or fewer replicas of the same variant, the program is asked for
the best plan that has it and keeps every promise. Where there is none, for the cheapest plan that has it whatever it
promises: what the simulation says of that one is the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from inferplan.solvers.assurance import assured_columns
from inferplan.solvers.columns import Column, build_columns
from inferplan.solvers.enquiry import Enquiry
from inferplan.solvers.explain import TIED, verdict
from inferplan.solvers.milp import Solution, Solver
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
    """Whether that plan keeps every promise, by the program."""
    reason: str


def rivals(enquiry: Enquiry) -> Iterator[Rival]:
    """Everything that could stand elsewhere: variants first, then device, batch and replicas of the chosen one."""
    plan = enquiry.plan
    for (k, stage), column in sorted(plan.solution.chosen().items(), key=lambda item: _place(enquiry, *item[0])):
        for variant in plan.problem.variants(stage):
            if variant != column.option.variant:
                yield from _variant(enquiry, k, stage, column, variant)
        if column.option.need is not None:
            yield from _aspects(enquiry, k, stage, column)


def _place(enquiry: Enquiry, k: int, stage: str) -> tuple[int, int]:
    return enquiry.plan.problem.stages.index(stage), k


def _variant(enquiry: Enquiry, k: int, stage: str, column: Column, variant: str) -> Iterator[Rival]:
    plan = enquiry.plan
    others = [other for other in plan.problem.variants(stage) if other != variant]
    forced = tuple(frozenset({(k, stage, other)}) for other in others)
    ask = replace(plan.ask, forbidden=(*plan.ask.forbidden, *forced))
    kept = plan.best(ask)
    found = kept or plan.best(_whatever(ask))
    about = f"{stage}: {variant} instead of {column.option.variant}"
    if found is None and _cut_short(enquiry, plan.program, about):
        return
    reason = "no device carries the load with it"
    yield _rival(enquiry, k, stage, "variant", column.option.variant, variant, kept, found, reason)


def _aspects(enquiry: Enquiry, k: int, stage: str, column: Column) -> Iterator[Rival]:
    """The same variant on another device, at another batch, with fewer replicas."""
    option = column.option
    others = _columns(enquiry, stage, lambda c: k not in c.classes)
    same = _columns(enquiry, stage, lambda c: k in c.classes and c.option.variant == option.variant)
    questions: list[tuple[Aspect, str, Callable[[Column], bool], Callable[[Column], str], str]] = [
        ("device", option.device, lambda c: c.option.device != option.device, lambda c: c.option.device, ""),
        (
            "batch",
            _batch(option),
            lambda c: c.option.device == option.device and _batch(c.option) != _batch(option),
            lambda c: _batch(c.option),
            "",
        ),
        (
            "replicas",
            str(column.replicas),
            lambda c: c.option == option and c.replicas < column.replicas,
            lambda c: str(c.replicas),
            f"{column.replicas - 1} cannot carry {column.load_rps:.4g} calls/s",
        ),
    ]
    for aspect, own, wanted, said, impossible in questions:
        few = [c for c in same if wanted(c)]
        if not few:
            if impossible and column.replicas > 1:
                fewer = str(column.replicas - 1)
                yield _rival(enquiry, k, stage, aspect, own, fewer, None, None, impossible)
            continue
        program = Solver(enquiry.plan.problem, [*_rest(enquiry, stage), *others, *few])
        kept = _best(enquiry, program, enquiry.plan.ask)
        found = kept or _best(enquiry, program, _whatever(enquiry.plan.ask))
        if found is None:
            _cut_short(enquiry, program, f"{stage}: another {aspect} of {option.variant}")
            continue
        there = found.chosen()[k, stage]
        yield _rival(enquiry, k, stage, aspect, own, said(there), kept, found, "")


def _batch(option: Option) -> str:
    delay = f" within {option.max_queue_delay_s * 1e3:g} ms" if option.max_queue_delay_s else ""
    threads = f", {option.threads} threads" if option.threads > 1 else ""
    return f"{option.max_batch}{delay}{threads}"


def _columns(enquiry: Enquiry, stage: str, wanted: Callable[[Column], bool]) -> list[Column]:
    """Columns of one stage, also those that others dominate, as far as nothing must be withstood."""
    problem = enquiry.plan.problem
    if problem.assurance.shapes_columns:
        found: Sequence[Column] = assured_columns(problem)
    else:
        found = build_columns(problem, prune=False)
    return [column for column in found if column.stage == stage and wanted(column)]


def _rest(enquiry: Enquiry, stage: str) -> list[Column]:
    return [column for column in assured_columns(enquiry.plan.problem) if column.stage != stage]


def _best(enquiry: Enquiry, program: Solver, ask: Ask) -> Solution | None:
    return replace(enquiry.plan, program=program).best(ask)


def _whatever(ask: Ask) -> Ask:
    """The question without latency limits, floors and budget: the cheapest plan there is."""
    return replace(
        ask, goals=(COST,), scales=dict.fromkeys(ask.scales), floors=dict.fromkeys(ask.floors), budget_usd_per_h=None,
        limits=(), rejected=(),
    )  # fmt: skip


def _cut_short(enquiry: Enquiry, program: Solver, about: str) -> bool:
    """Whether there was no answer for want of time; that is noted."""
    short = enquiry.seconds_left <= 0 or program.timed_out
    if short:
        enquiry.left_out.append(f"{about}: out of time")
    return short


def _rival(
    enquiry: Enquiry, k: int, stage: str, aspect: Aspect, own: str, other: str,
    kept: Solution | None, found: Solution | None, reason: str,
) -> Rival:  # fmt: skip
    plan = enquiry.plan
    name = plan.problem.classes[k].name
    if found is None:
        return Rival(name, stage, aspect, own, other, None, None, None, None, False, reason)
    said = verdict(plan, found)
    why = "; ".join(said.reasons) or (TIED if kept is not None else "it keeps none of the promises by the program")
    return Rival(
        name, stage, aspect, own, other, found.cost_usd_per_h,
        found.cost_usd_per_h - plan.solution.cost_usd_per_h,
        said.accuracy, said.latency_s, kept is not None, why,
    )  # fmt: skip
