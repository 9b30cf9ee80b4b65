"""The plan's table of choices: which deployed options answer a request that names accuracy and latency alone.

A *route* is one deployed option per stage. The table has the routes that no other one is as good as in accuracy,
latency and cost, the cheapest first. A request that asks for accuracy a and latency l is answered by the first route
that keeps both (`Selection.keeping`): accuracy no worse than a, and the upper end of the predicted latency within l.
"""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from inferplan.spec.types import Name, NonNegative, Record, Seconds

SAME = 1e-9
"""Relative difference up to which what is asked counts as kept."""


class Tail(Record):
    """Predicted latency at the table's percentile; `upper` is the end of its interval that promises rest on."""

    value: Seconds
    upper: Seconds


class ServingRoute(Record):
    """One way for a request through the deployed options."""

    options: dict[Name, Name] = Field(description="Per stage, the option.")
    accuracy: float | None = Field(None, description="End to end, in the workload's metric; absent: not known.")
    latency_s: Tail = Field(description="End to end, at the planned load.")
    cost_usd_per_request: NonNegative = Field(
        description="Price of the share of capacity that a request takes up, and of its traffic between tiers."
    )
    classes: list[Name] = Field(default=[], description="Classes whose requests are planned to go this way.")


class Selection(Record):
    """The table."""

    percentile: float = Field(gt=0, lt=100, description="Of all latencies in it.")
    metric: Name | None = None
    direction: Literal["maximize", "minimize"] = "maximize"
    rows: list[ServingRoute] = Field(min_length=1, description="No worse than any other, the cheapest first.")

    def keeping(self, accuracy: float | None, latency_s: float | None) -> list[int]:
        """Indices of the rows that keep what is asked, the cheapest first. None: anything will do."""
        return [
            index
            for index, row in enumerate(self.rows)
            if self.accurate(row.accuracy, accuracy) and quick(row.latency_s, latency_s)
        ]

    def accurate(self, reached: float | None, asked: float | None) -> bool:
        """Whether an accuracy is no worse than asked."""
        if asked is None:
            return True
        if reached is None:
            return False
        sign = 1.0 if self.direction == "maximize" else -1.0
        return sign * reached >= sign * asked - SAME * max(1.0, abs(asked))

    def refusal(self, accuracy: float | None, latency_s: float | None) -> str:
        """Why no row keeps what is asked, with what could be had instead."""
        metric = self.metric or "accuracy"
        sign = ">=" if self.direction == "maximize" else "<="
        wanted = [] if accuracy is None else [f"{metric} {sign} {accuracy:g}"]
        wanted += [] if latency_s is None else [f"latency within {latency_s:g} s at percentile {self.percentile:g}"]
        text = f"no deployed route has {' and '.join(wanted)}"
        accurate = [self.rows[index] for index in self.keeping(accuracy, None)]
        fast = [self.rows[index] for index in self.keeping(None, latency_s)]
        reached = [row.accuracy for row in (fast or self.rows) if row.accuracy is not None]
        if accuracy is not None and reached:
            best = max(reached) if self.direction == "maximize" else min(reached)
            text += f"; {'within that latency' if fast and latency_s is not None else 'at any latency'} {metric} is"
            text += f" {best:.6g} at best"
        if latency_s is not None:
            quickest = min(row.latency_s.upper for row in (accurate or self.rows))
            text += f"; {'with that accuracy' if accurate and accuracy is not None else 'of any accuracy'} the fastest"
            text += f" takes {quickest:.6g} s"
        return text


def quick(reached: Tail, asked: float | None) -> bool:
    """Whether a latency is within what is asked."""
    return asked is None or reached.upper <= asked * (1 + SAME)


def same_ask(one: float | None, other: float | None) -> bool:
    """Whether two requests ask for the same in one respect."""
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-9)
