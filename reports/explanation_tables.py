"""A plan explained, as tables: what holds it, what other promises would be worth, what could stand elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from inferplan.reports.quantities import DASH, money, seconds, share
from inferplan.reports.tables import Table, left, right


class SlackLike(Protocol):
    """A promise or limit with what the plan needs of it."""

    @property
    def constraint(self) -> str: ...
    @property
    def value(self) -> float: ...
    @property
    def limit(self) -> float: ...
    @property
    def unit(self) -> str: ...
    @property
    def binds(self) -> bool: ...


class StepLike(Protocol):
    """A value of a promise, and the best plan if that were promised."""

    @property
    def promise(self) -> str: ...
    @property
    def way(self) -> str: ...
    @property
    def value(self) -> float: ...
    @property
    def unit(self) -> str: ...
    @property
    def cost_usd_per_h(self) -> float: ...
    @property
    def extra_usd_per_h(self) -> float: ...
    @property
    def accuracy(self) -> float | None: ...
    @property
    def latency_s(self) -> float | None: ...


class RivalLike(Protocol):
    """What could stand in a class's stage instead of what does."""

    @property
    def traffic(self) -> str: ...
    @property
    def stage(self) -> str: ...
    @property
    def aspect(self) -> str: ...
    @property
    def own(self) -> str: ...
    @property
    def other(self) -> str: ...
    @property
    def cost_usd_per_h(self) -> float | None: ...
    @property
    def extra_usd_per_h(self) -> float | None: ...
    @property
    def accuracy(self) -> float | None: ...
    @property
    def latency_s(self) -> float | None: ...
    @property
    def keeps(self) -> bool: ...
    @property
    def reason(self) -> str: ...


_CHANGES = {
    ("as it is", ""): "for nothing",
    ("looser", "machines"): "more",
    ("tighter", "machines"): "fewer",
    ("looser", "USD/h"): "more",
    ("tighter", "USD/h"): "less",
    ("tighter", "times"): "more",
}
"""What a step means for a promise of a unit."""


def slack_table(slacks: Sequence[SlackLike]) -> Table:
    """One row per promise or limit."""
    columns = [*left("promise"), *right("needed", "limit"), *left("without it")]
    said = {True: "a better plan", False: "the same plan"}
    rows = [[s.constraint, quantity(s.value, s.unit), quantity(s.limit, s.unit), said[s.binds]] for s in slacks]
    return Table(columns, rows)


def steps_table(steps: Sequence[StepLike]) -> Table:
    """One row per step; where nothing changes up to a value, the row is dim."""
    columns = [*left("promise", "change"), *right("value", "cost", "difference", "accuracy", "latency")]
    rows = [
        [
            step.promise,
            _CHANGES.get((step.way, step.unit), _CHANGES.get((step.way, ""), step.way)),
            quantity(step.value, step.unit),
            money(step.cost_usd_per_h),
            difference(step.extra_usd_per_h),
            share(step.accuracy),
            seconds(step.latency_s),
        ]
        for step in steps
    ]
    return Table(columns, rows, frozenset(i for i, step in enumerate(steps) if step.way == "as it is"))


def rivals_table(rivals: Sequence[RivalLike]) -> Table:
    """One row per thing that could stand elsewhere in a stage; those that break a promise are dim."""
    several = len({rival.traffic for rival in rivals}) > 1
    columns = [
        *(left("class") if several else []),
        *left("what", "is", "could be"),
        *right("cost", "difference", "accuracy", "latency"),
        *left("why not"),
    ]
    rows = [
        [
            *([rival.traffic] if several else []),
            rival.aspect,
            rival.own,
            rival.other,
            money(rival.cost_usd_per_h),
            difference(rival.extra_usd_per_h),
            share(rival.accuracy),
            seconds(rival.latency_s),
            rival.reason,
        ]
        for rival in rivals
    ]
    return Table(columns, rows, frozenset(i for i, rival in enumerate(rivals) if not rival.keeps))


def quantity(value: float, unit: str) -> str:
    """A value with its unit; shares and metrics as they are written in workloads."""
    if unit == "s":
        return seconds(value)
    if unit == "USD/h":
        return money(value)
    if unit == "times":
        return f"x {value:.3g}"
    return f"{value:g}" if unit == "machines" else share(value)


def difference(value: float | None) -> str:
    """What costs more or less: `+0.085 USD/h`, `same`."""
    if value is None:
        return DASH
    return "same" if abs(value) < 1e-9 else f"{value:+.4g} USD/h"
