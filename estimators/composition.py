"""Accuracies with intervals, their direction, and the plain compositions of stages' metrics.

Internally every metric is turned so that higher is better (`Turn`); what is shown is the user's metric.

Intervals: a product's is that of its logarithm, whose variances add (delta method); a mean's likewise on the
metric itself; a minimum's is the minimum of the ends. Stages are taken as independent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from inferplan.spec.stage import Direction

Source = Literal["measured", "composed", "declared", "predicted"]
Composition = Literal["product", "mean", "minimum", "table", "response", "function", "fitted"]
Key = tuple[str, ...]
"""A combination of choices, in the order of the stages' names."""
TOLERANCE = 1e-9
"""Accuracies this near to a floor keep it: floors are written in decimals, products are not."""


@dataclass(frozen=True, slots=True)
class AccuracyEstimate:
    """A metric's value with its interval, where there is one, in the user's direction."""

    value: float
    lower: float | None = None
    upper: float | None = None
    source: Source = "composed"


@dataclass(frozen=True, slots=True)
class Turn:
    """Turns a metric so that higher is better, and back."""

    direction: Direction

    def turned(self, value: float) -> float:
        """The value with higher being better (its own inverse)."""
        return value if self.direction == "maximize" else -value

    def keeps(self, value: float, floor: float) -> bool:
        """Whether a value is no worse than a floor (a ceiling where lower is better)."""
        return self.turned(value) >= self.turned(floor) - TOLERANCE


class Rule(Protocol):
    """How the accuracy of a combination that was not measured follows."""

    def of(self, variants: Mapping[str, str]) -> AccuracyEstimate | None:
        """End-to-end accuracy of a combination (stage -> choice); None where the rule does not reach it."""

    def knows(self, stage: str, choice: str) -> bool:
        """Whether the rule reaches some combination with this choice."""


def compose(composition: Composition, parts: list[AccuracyEstimate], turn: Turn) -> AccuracyEstimate:
    """Combine stages' metrics, all of one direction. Declared if any of them is."""
    source = parts[0].source if len(parts) == 1 else made_of(parts)
    bounded = [(p.value, p.lower, p.upper) for p in parts if p.lower is not None and p.upper is not None]
    has_interval = len(bounded) == len(parts)
    lows = [(value, low) for value, low, _ in bounded if low is not None]
    highs = [(value, high) for value, _, high in bounded if high is not None]
    lower = upper = None
    if composition == "product":
        value = math.prod(part.value for part in parts)
        if has_interval:
            lower = value * _shrunk(lows)
            upper = min(value / _shrunk([(high, value_) for value_, high in highs]), 1.0) if value > 0 else None
    elif composition == "mean":
        value = sum(part.value for part in parts) / len(parts)
        if has_interval:
            lower = value - math.sqrt(sum((v - low) ** 2 for v, low in lows)) / len(parts)
            upper = value + math.sqrt(sum((high - v) ** 2 for v, high in highs)) / len(parts)
    else:
        worst = min if turn.direction == "maximize" else max
        value = worst(part.value for part in parts)
        if has_interval:
            lower, upper = worst(low for _, low in lows), worst(high for _, high in highs)
    return AccuracyEstimate(value, lower, upper, source)


def made_of(parts: Sequence[AccuracyEstimate]) -> Source:
    """What something made of parts is: declared if any of them is."""
    return "declared" if any(part.source == "declared" for part in parts) else "composed"


def _shrunk(pairs: list[tuple[float, float]]) -> float:
    """exp(-sqrt(sum of squared logarithmic distances)) of (larger, smaller) pairs; 0 where one is 0."""
    if any(smaller <= 0 for _, smaller in pairs):
        return 0.0
    return math.exp(-math.sqrt(sum(math.log(larger / smaller) ** 2 for larger, smaller in pairs)))


def spread(
    value: float, parts: Sequence[AccuracyEstimate], at: Callable[[Sequence[float]], float]
) -> tuple[float | None, float | None]:
    """Ends of the interval of `value`, a function `at` of independent parts; None where a part has no interval.

    Each part in turn goes to its ends; what that moves the value down and up adds in quadrature (delta method,
    with the ends instead of derivatives, so that it holds for curves with corners too).
    """
    centre = [part.value for part in parts]
    down = up = 0.0
    for index, part in enumerate(parts):
        if part.lower is None or part.upper is None:
            return None, None
        ends = [at([*centre[:index], end, *centre[index + 1 :]]) - value for end in (part.lower, part.upper)]
        down += min(*ends, 0.0) ** 2
        up += max(*ends, 0.0) ** 2
    return value - math.sqrt(down), value + math.sqrt(up)
