"""Questions to a solver: goals, one after the other, and promises."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from inferplan.solvers.columns import Column
from inferplan.solvers.problem import Problem

Goal = tuple[Literal["cost", "accuracy", "energy", "weighted", "ratio", "cores", "names", "machines", "latency"], str]
"""What to make best of (names: first by name). The text names the class (accuracy, latency; empty for
all) or the device (machines)."""
COST: Goal = ("cost", "")
ACCURACY: Goal = ("accuracy", "")
ENERGY: Goal = ("energy", "")
WEIGHTED: Goal = ("weighted", "")
RATIO: Goal = ("ratio", "")
CORES: Goal = ("cores", "")
NAMES: Goal = ("names", "")
TIE = 1e-7
LATENCY_TIE = 1e-6
"""What counts as a tie: shares of choices are whole to 1e-6, and a latency is a sum of many."""
BETTER = 1e-5
"""What counts as better than another plan, relative."""
UNITS = {"cost": "USD/h", "energy": "W"}
GOLDEN = (math.sqrt(5) - 1) / 2


Pick = Callable[[Problem, Column], bool]
"""Whether a column of an instance is meant."""


@dataclass(frozen=True)
class Ask:
    """One question to the program. Promises that are None are dropped."""

    goals: tuple[Goal, ...]
    scales: Mapping[str, float | None]
    """θ by class; None drops the class's latency promise."""
    floors: Mapping[str, float | None]
    counts: Mapping[str, int | None]
    budget_usd_per_h: float | None
    forbidden: tuple[frozenset[tuple[int, str, str]], ...] = ()
    """Sets of (class, stage, variant) of which not all may be chosen together."""
    rejected: tuple[tuple[Column, ...], ...] = ()
    """Plans that may not be chosen again."""
    better_than: float | None = None
    """The objective must be less than this."""
    objective: Goal = COST
    """What makes a plan better than another, whatever else a question asks for."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Of the weighted goal: per USD/h of cost, per watt of energy, per unit of accuracy (which counts against it)."""
    enough: Mapping[str, float | None] = field(default_factory=dict)
    """By class: accuracy that better ones count as (in the user's direction)."""
    limits: tuple[tuple[Goal, float], ...] = ()
    """Goals that must stay at or below a value: what earlier goals of a lexicographic objective reached."""
    some: tuple[Pick, ...] = ()
    """Where classes are split: of each of these, some column must be chosen."""
    none: tuple[Pick, ...] = ()
    """Likewise: of these, none may be."""

    @property
    def needs_accuracy(self) -> bool:
        """Whether what makes a plan better, or what it must keep, rests on the accuracy goal."""
        weighed = self.objective == WEIGHTED and self.weights.get(ACCURACY[0], 0.0) > 0
        return weighed or self.objective == ACCURACY or any(goal == ACCURACY for goal, _ in self.limits)


def goal_text(goal: Goal, value: float) -> str:
    """What was reached of a goal, in words."""
    return f"{abs(value):.6g} {UNITS[goal[0]]}" if goal[0] in UNITS else "the best"


def name_weights(columns: Sequence[Column]) -> list[float]:
    """What tells plans apart that are equal in everything that counts: the lower the sum, the more of the first names.

    Ranks by name; where their sums are equal fractions decide, spread evenly (squares times the golden ratio) and less
    than a rank all together.
    """
    order = sorted(
        range(len(columns)),
        key=lambda i: (columns[i].option.name, columns[i].classes, columns[i].replicas, columns[i].most or 0),
    )
    stages = len({column.stage for column in columns}) * max((len(c.classes) for c in columns), default=1)
    weights = [0.0] * len(columns)
    for rank, index in enumerate(order):
        weights[index] = rank + (rank * rank * GOLDEN % 1.0) / (2 * stages)
    return weights


def price_scale(problem: Problem) -> float:
    """What the program counts costs in, USD/h."""
    return geometric_mean([device.tariff.hourly_usd for device in problem.devices.values()])


def geometric_mean(prices: Sequence[float]) -> float:
    """The geometric mean of what is positive; 1 where nothing is."""
    positive = [price for price in prices if price > 0]
    return math.exp(sum(math.log(price) for price in positive) / len(positive)) if positive else 1.0
