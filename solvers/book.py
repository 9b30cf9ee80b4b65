"""A plan book: the plans of load levels, the few of them worth keeping, and when to go from one to another.

`levels` finds the cheapest certified plan of every level, `switching` what going from one to another takes,
`thresholds` chooses plans and thresholds; what is minimised stands there. A switch is priced here as

    machines that are given back, paid until the switch is done  +  requests at risk x the price of one

The machine time that loading takes on machines that are kept or new is part of the plan's cost, which counts from the
beginning of the switch: it is stated, and not counted twice.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inferplan.estimators.forecast import predictions
from inferplan.solvers.assembly import safe_name, workload_source
from inferplan.solvers.levels import LevelPlan, Levels, Moving, rounded
from inferplan.solvers.switching import HOUR_S, Switch, switching
from inferplan.solvers.thresholds import Book, Carrier, active, choose
from inferplan.spec.arrivals import day_curve
from inferplan.spec.book import BookDesign, BookLevel, BookPlan, BookSwitch, PlanBook, Predictor
from inferplan.spec.errors import InputError
from inferplan.spec.plan import Plan, dump_plan
from inferplan.spec.profile import Profile
from inferplan.spec.trace import Trace
from inferplan.spec.workload import Arrivals, Workload

Floats = NDArray[np.float64]
DAY_S = 86400.0
STEPS = 4
"""Thresholds that are tried between two levels: a quarter of the factor between them apart."""


@dataclass(frozen=True)
class Question:
    """What a book is chosen for. `request_usd` is what a request at risk counts, None: what serving one costs with the
    plan of the highest level. `window` is in intervals."""

    interval_s: float
    predictor: Predictor
    window: int
    request_usd: float | None = None
    most: int | None = None
    hysteresis: float | None = None
    margin: float = 0.0
    """Share of what a plan carries that is kept free, for loads that are told too low."""

    def ups_rps(self, plans: Sequence[LevelPlan]) -> list[float]:
        """Loads above which plans are left for the next one."""
        return [rounded(plan.carries_rps * (1 - self.margin)) for plan in plans]


@dataclass(frozen=True)
class Going:
    """A switch from one plan to another, priced."""

    switch: Switch
    held_usd: float
    at_risk: float
    """Requests."""

    def usd(self, request_usd: float) -> float:
        """Its price."""
        return self.held_usd + self.at_risk * request_usd


@dataclass(frozen=True)
class Chosen:
    """A book, with all plans it was chosen from and the switches between any two of those."""

    levels: Levels
    goings: Sequence[Sequence[Going]]
    book: Book
    document: PlanBook
    question: Question
    request_usd: float

    @property
    def plans(self) -> dict[str, Plan]:
        """The book's plans by file."""
        pairs = zip(self.document.plans, self.book.plans, strict=True)
        return {entry.file: self.levels.plans[at].plan for entry, at in pairs}


def expected_day(low_rps: float, high_rps: float, interval_s: float, seed: int) -> Floats:
    """Loads per interval over a day that rises from the lowest level to the highest and falls again, as a cosine; the
    requests of an interval are drawn as a Poisson process brings them."""
    count = max(round(DAY_S / interval_s), 2)
    rates = np.full(count, low_rps)
    if high_rps > low_rps:
        middle = (low_rps + high_rps) / 2
        curve = day_curve(Arrivals(process="diurnal", peak_factor=high_rps / middle, period_s=DAY_S))
        rates = middle * curve((np.arange(count) + 0.5) / count)
    rng = np.random.default_rng([seed, 0])
    return np.asarray(rng.poisson(rates * interval_s) / interval_s, dtype=np.float64)


def loads_of(times_s: Floats, span_s: float, interval_s: float) -> Floats:
    """Requests per second in each interval; the last may be shorter. Raises InputError where not one passes."""
    if span_s < interval_s:
        raise InputError(f"the trace lasts {span_s:.4g} s, less than one interval of {interval_s:.4g} s: --interval")
    edges = np.append(np.arange(0.0, span_s - 1e-9 * span_s, interval_s), span_s)
    counts, _ = np.histogram(times_s, edges)
    return np.asarray(counts / np.diff(edges), dtype=np.float64)


def make_book(
    moving: Moving,
    profile: Profile,
    levels: Levels,
    history: Floats,
    trace: Trace | None,
    question: Question,
    folder: Path,
) -> Chosen:
    """Choose plans and thresholds for loads seen (`history`, per interval; of `trace`, where it was one)."""
    workload, plans = moving.workload, levels.plans
    goings = [[going(a.plan, b.plan, workload) for b in plans] for a in plans]
    request_usd = question.request_usd
    if request_usd is None:
        request_usd = plans[-1].cost_usd_per_h / HOUR_S / plans[-1].carries_rps
    told = predictions(question.predictor, history, window=question.window, before=history)
    book = choose(
        [Carrier(p.cost_usd_per_h, up, p.least_rps) for p, up in zip(plans, question.ups_rps(plans), strict=True)],
        [[one.usd(request_usd) for one in row] for row in goings],
        told,
        _steps(levels, question),
        question.interval_s,
        most=question.most,
        hysteresis=question.hysteresis,
    )
    document = _document(moving, profile, levels, goings, book, history, told, trace, question, request_usd, folder)
    return Chosen(levels, goings, book, document, question, request_usd)


def going(before: Plan, after: Plan, workload: Workload) -> Going:
    """What it takes to go from a plan to another, at the load that the other was made for."""
    switch = switching(before, after, workload)
    devices = workload.devices()
    back = [devices[machine.device].price_usd_per_h for machine in switch.machines if machine.after is None]
    total = math.fsum(traffic.rate_rps for traffic in after.classes.values())
    loads: dict[str, float] = {}
    for option in after.options.values():
        loads[option.stage] = loads.get(option.stage, 0.0) + option.predicted.load_rps
    # A request is at risk if one of its calls is: as many calls of a stage are as many requests as make them.
    risk = [calls * total / loads[stage] for stage, calls in switch.calls_at_risk.items() if loads[stage] > 0]
    return Going(switch, math.fsum(back) * switch.seconds / HOUR_S, max(risk, default=0.0))


def _steps(levels: Levels, question: Question) -> Floats:
    """Loads that may be thresholds down: levels, some between them, and the thresholds up."""
    found = {*levels.loads_rps, *question.ups_rps(levels.plans)}
    for low, high in zip(levels.loads_rps, levels.loads_rps[1:], strict=False):
        found |= {rounded(low * (high / low) ** (step / STEPS)) for step in range(1, STEPS)}
    return np.array(sorted(found))


def cheapest(plans: Sequence[LevelPlan], loads: Floats) -> NDArray[np.int64]:
    """Of plans rising in what they carry, the cheapest one certified at each load; above all of them the last one.
    Loads below the lowest level count as that."""
    lowest = min(plan.least_rps for plan in plans)
    found = np.full(len(loads), len(plans) - 1, dtype=np.int64)
    for i in sorted(range(len(plans)), key=lambda i: -plans[i].cost_usd_per_h):
        found[(loads <= plans[i].carries_rps) & (np.maximum(loads, lowest) >= plans[i].least_rps)] = i
    return found


def _document(
    moving: Moving,
    profile: Profile,
    levels: Levels,
    goings: Sequence[Sequence[Going]],
    book: Book,
    history: Floats,
    told: Floats,
    trace: Trace | None,
    question: Question,
    request_usd: float,
    folder: Path,
) -> PlanBook:
    plans = [levels.plans[at] for at in book.plans]
    ups = question.ups_rps(plans)
    files = [f"plan-{number}.yaml" for number in range(1, len(plans) + 1)]
    hours = len(history) * question.interval_s / HOUR_S
    pairs = [pair for low in range(len(plans) - 1) for pair in ((low, low + 1), (low + 1, low))]
    least = [levels.plans[i].cost_usd_per_h for i in cheapest(levels.plans, history)]
    return PlanBook(
        apiVersion="inferplan/v1",
        name=safe_name(moving.workload.name),
        workload=workload_source(moving.loaded, folder),
        profile_sha256=profile.sha256,
        varies=list(moving.classes),
        proven=levels.proven,
        plans=[
            BookPlan(
                file=files[i],
                sha256=hashlib.sha256(dump_plan(plan.plan).encode()).hexdigest(),
                cost_usd_per_h=plan.cost_usd_per_h,
                planned_rps=plan.load_rps,
                carries_rps=plan.carries_rps,
                up_rps=ups[i] if i + 1 < len(plans) else None,
                down_rps=book.down_rps[i - 1] if i else None,
            )
            for i, plan in enumerate(plans)
        ],
        switches=[_switch(files, i, j, goings[book.plans[i]][book.plans[j]]) for i, j in pairs],
        design=BookDesign(
            loads="day" if trace is None else "trace",
            trace_sha256=None if trace is None else trace.sha256,
            interval_s=question.interval_s,
            predictor=question.predictor,
            window_s=question.window * question.interval_s if question.predictor == "max" else None,
            request_usd=request_usd,
            hysteresis=question.hysteresis,
            margin=question.margin,
            most_plans=question.most,
            expected_usd_per_h=book.usd / hours,
            expected_switches_per_h=int(np.count_nonzero(np.diff(active(told, ups[:-1], book.down_rps)))) / hours,
            least_usd_per_h=float(np.mean(least)),
        ),
        levels=[
            BookLevel(
                rate_rps=load,
                least_usd_per_h=cost,
                plan=files[next((i for i, up in enumerate(ups) if up >= load), len(plans) - 1)],
            )
            for load, cost in zip(levels.loads_rps, levels.least_usd_per_h, strict=True)
        ],
        story=[
            f"{len(levels.loads_rps)} load levels, {levels.solved} solved to find where the cost changes; kept"
            f" {len(plans)} of {len(levels.plans)} plans that differ in load and cost"
        ],
    )


def _switch(files: Sequence[str], i: int, j: int, going: Going) -> BookSwitch:
    switch = going.switch
    return BookSwitch.model_validate(
        {
            "from": files[i],
            "to": files[j],
            "load_s": switch.seconds,
            "machine_usd": switch.cost_usd,
            "held_usd": going.held_usd,
            "requests_at_risk": going.at_risk,
            "starts": switch.starts,
            "stops": switch.stops,
            "unmeasured": list(switch.unmeasured),
        }
    )
