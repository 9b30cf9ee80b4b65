"""End-to-end accuracy of what is chosen for the stages: variants, with a modality subset where they have several.

A combination that was measured end to end counts as measured; otherwise the stages' metrics are composed as the
workload declares: product, mean, minimum (the worst stage). `table` knows measured combinations alone.
Internally every metric is turned so that higher is better (`Turn`); what is shown is the user's metric.

Intervals: a product's is that of its logarithm, whose variances add (delta method); a mean's likewise on the
metric itself; a minimum's is the minimum of the ends. Stages are taken as independent.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Literal

from inferplan.spec.errors import InputError
from inferplan.spec.profile import Profile
from inferplan.spec.rows import AccuracyRow
from inferplan.spec.stage import Direction, Stage
from inferplan.spec.workload import Workload

Source = Literal["measured", "composed", "declared"]
Composition = Literal["product", "mean", "minimum", "table"]
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


@dataclass(frozen=True)
class AccuracyModel:
    """What is known of a workload's accuracy."""

    metric: str
    turn: Turn
    composition: Composition
    stages: tuple[str, ...]
    """Sorted by name."""
    values: Mapping[tuple[str, str], AccuracyEstimate]
    """By (stage, choice): the stage's metric."""
    measured: Mapping[tuple[str, ...], AccuracyEstimate]
    """By choices in the order of `stages`: end to end."""

    def key(self, variants: Mapping[str, str]) -> tuple[str, ...]:
        """A combination in the order of `stages`."""
        return tuple(variants[stage] for stage in self.stages)

    def of(self, variants: Mapping[str, str]) -> AccuracyEstimate | None:
        """End-to-end accuracy of a combination (stage -> variant); None where it is not known."""
        measured = self.measured.get(self.key(variants))
        if measured is not None or self.composition == "table":
            return measured
        parts = [self.values.get((stage, variants[stage])) for stage in self.stages]
        known = [part for part in parts if part is not None]
        return compose(self.composition, known, self.turn) if len(known) == len(parts) else None

    def knows(self, stage: str, variant: str) -> bool:
        """Whether some combination with this variant has a known accuracy."""
        index = self.stages.index(stage)
        return (self.composition != "table" and (stage, variant) in self.values) or any(
            key[index] == variant for key in self.measured
        )

    def combinations(self, allowed: Mapping[str, list[str]]) -> Iterator[tuple[str, ...]]:
        """Every combination of allowed variants, in order."""
        return product(*(sorted(allowed[stage]) for stage in self.stages))


def compose(composition: Composition, parts: list[AccuracyEstimate], turn: Turn) -> AccuracyEstimate:
    """Combine stages' metrics, all of one direction. Declared if any of them is."""
    source: Source = "declared" if any(part.source == "declared" for part in parts) else "composed"
    if len(parts) == 1 and source == "composed":
        source = parts[0].source
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


def _shrunk(pairs: list[tuple[float, float]]) -> float:
    """exp(-sqrt(sum of squared logarithmic distances)) of (larger, smaller) pairs; 0 where one is 0."""
    if any(smaller <= 0 for _, smaller in pairs):
        return 0.0
    return math.exp(-math.sqrt(sum(math.log(larger / smaller) ** 2 for larger, smaller in pairs)))


def accuracy_model(workload: Workload, profile: Profile) -> AccuracyModel | None:
    """The accuracy model of a workload; None where it declares no accuracy.

    Raises InputError where the stages' metrics cannot be composed as declared.
    """
    declared = workload.accuracy
    if declared is None:
        return None
    if declared.composition == "response":
        raise InputError("response curves are not honoured yet; use product, mean, minimum or table")
    _check_directions(workload)
    stages = tuple(sorted(workload.pipeline.stages))
    measured: dict[tuple[str, ...], AccuracyEstimate] = {}
    for row in profile.accuracy:
        if row.scope == "pipeline" and row.metric == declared.metric.name and row.value is not None:
            variants = row.stages()
            if _is_combination(variants, workload):
                measured[tuple(variants[stage] for stage in stages)] = _estimate(row)
    return AccuracyModel(
        declared.metric.name,
        Turn(declared.metric.direction),
        declared.composition,
        stages,
        _stage_values(workload, profile),
        measured,
    )


def _is_combination(variants: Mapping[str, str], workload: Workload) -> bool:
    stages = workload.pipeline.stages
    return set(variants) == set(stages) and all(name in stages[stage].choices() for stage, name in variants.items())


def _estimate(row: AccuracyRow) -> AccuracyEstimate:
    assert row.value is not None
    return AccuracyEstimate(row.value, row.lower, row.upper, "measured")


def _stage_values(workload: Workload, profile: Profile) -> dict[tuple[str, str], AccuracyEstimate]:
    """Measured stage metrics; declared ones where none was measured."""
    found: dict[tuple[str, str], AccuracyEstimate] = {}
    for name, stage in workload.pipeline.stages.items():
        if stage.metric is None:
            continue
        choices = stage.choices()
        for choice, chosen in choices.items():
            declared = stage.variants[chosen.variant].accuracy
            # What a variant is declared to reach, it reaches with all of its modalities.
            if declared is not None and choice == _fullest(stage, chosen.variant):
                found[name, choice] = AccuracyEstimate(declared, source="declared")
        for row in profile.accuracy:
            wanted = row.scope == "stage" and row.stage == name and row.metric == stage.metric.name
            if wanted and row.choice in choices and row.status == "ok" and row.value is not None:
                found[name, row.choice] = _estimate(row)
    return found


def _fullest(stage: Stage, variant: str) -> str:
    """The choice of a variant that has the most modalities."""
    mine = [choice for choice in stage.choices().values() if choice.variant == variant]
    return max(mine, key=lambda choice: len(choice.modalities)).name


def _check_directions(workload: Workload) -> None:
    assert workload.accuracy is not None
    composition, direction = workload.accuracy.composition, workload.accuracy.metric.direction
    if composition == "table":
        return
    if composition == "product" and direction != "maximize":
        raise InputError("accuracy: a product is of metrics where higher is better; its metric must be maximized")
    for name, stage in workload.pipeline.stages.items():
        if stage.metric is not None and stage.metric.direction != direction:
            raise InputError(
                f"accuracy: composition {composition} needs stage metrics of the same direction as"
                f" {workload.accuracy.metric.name} ({direction}); stage {name} has {stage.metric.direction}"
            )
