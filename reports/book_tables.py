"""A plan book as people read it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from inferplan.reports.quantities import DASH, clock, money, percent, rate, seconds
from inferplan.reports.tables import Table, left, right
from inferplan.spec.book import PlanBook
from inferplan.spec.plan import Plan

Floats = NDArray[np.float64]


def usd(value: float) -> str:
    """US dollars, three significant digits."""
    return "0 USD" if value == 0 else f"{value:.3g} USD"


def range_text(book: PlanBook) -> str:
    """Loads that it is for: `1 to 200 requests/s in 16 levels, 4 plans`."""
    low, high, count = book.levels[0].rate_rps, book.levels[-1].rate_rps, len(book.levels)
    levels = "one level" if count == 1 else f"{count} levels"
    plans = "one plan" if len(book.plans) == 1 else f"{len(book.plans)} plans"
    return f"{low:g} to {high:g} requests/s in {levels}, {plans}"


def design_lines(book: PlanBook) -> list[str]:
    """What it was chosen for, and what that comes to."""
    design = book.design
    loads = "a day from the lowest level to the highest and back" if design.loads == "day" else "the trace given"
    told = {
        "last": "the last interval",
        "max": f"the most of the last {clock(design.window_s or 0)}",
        "holt": "a smoothing with trend",
    }[design.predictor]
    over = design.expected_usd_per_h / design.least_usd_per_h - 1 if design.least_usd_per_h else 0.0
    lines = [
        f"Chosen for {loads}, every {seconds(design.interval_s)} by {told}:",
        f"  {money(design.expected_usd_per_h)} with switches, {percent(over)} over the cheapest plan at every moment;"
        f" {design.expected_switches_per_h:.3g} switches/h",
        f"  a request at risk counts {design.request_usd:.3g} USD; hysteresis"
        f" {'derived' if design.hysteresis is None else f'{design.hysteresis:g}, as asked'}",
    ]
    if len(book.varies) > 1:
        lines.append(f"Loads are of {', '.join(book.varies)} together, in the proportions of the workload")
    if not book.proven:
        lines.append("Not every level's plan is proven optimal: time ran out")
    return [*lines, *book.story]


def plans_table(book: PlanBook, plans: Mapping[str, Plan]) -> Table:
    """A row per plan: the loads between which it runs, what it costs, what runs."""
    rows = []
    for entry in book.plans:
        plan = plans[entry.file]
        what = ", ".join(
            name if option.replicas == 0 else f"{option.replicas} x {name}"
            for name, option in sorted(plan.options.items())
        )
        rows.append(
            [
                entry.file,
                DASH if entry.up_rps is None else f"> {rate(entry.up_rps)}",
                DASH if entry.down_rps is None else f"<= {rate(entry.down_rps)}",
                rate(entry.carries_rps),
                money(entry.cost_usd_per_h),
                what,
            ]
        )
    return Table([*left("plan"), *right("next at", "back at", "carries", "cost"), *left("what runs")], rows)


def switches_table(book: PlanBook) -> Table:
    """A row per switch between neighbours."""
    rows = [
        [
            f"{switch.source.removesuffix('.yaml')} to {switch.target.removesuffix('.yaml')}",
            f"{switch.starts}",
            f"{switch.stops}",
            seconds(switch.load_s) + ("?" if switch.unmeasured else ""),
            usd(switch.machine_usd),
            f"{switch.requests_at_risk:.3g} requests",
        ]
        for switch in book.switches
    ]
    return Table([*left("switch"), *right("starts", "stops", "takes", "machine time", "at risk")], rows)


def traffic_text(span_s: float, interval_s: float, loads: Floats) -> str:
    """What it was replayed over."""
    return (
        f"Replayed over {clock(span_s)} in {len(loads)} intervals of {seconds(interval_s)}:"
        f" {rate(float(loads.min()))} to {rate(float(loads.max()))}, {rate(float(loads.mean()))} in the mean"
    )


def replay_lines(book: PlanBook, loads: Floats, interval_s: float) -> list[str]:
    """What should be known of a replay."""
    lines = [
        "over: cost over that of the oracle, which knows the coming interval",
        "late: share of requests beyond the limit, of what the promise allows",
    ]
    beyond = int(np.count_nonzero(loads > book.plans[-1].carries_rps))
    if beyond:
        top, plural = rate(book.plans[-1].carries_rps), "s" * (beyond != 1)
        lines.append(f"Note: in {beyond} interval{plural} the load is above {top}, which no plan here carries")
    return lines
