"""End-to-end accuracy of what is chosen for the stages: variants, with a modality subset where they have several.

A combination that was measured end to end counts as measured. Otherwise the workload's composition says:

- product, mean, minimum (the worst stage) of the stages' metrics (`composition`);
- table: measured combinations alone;
- response: a curve per stage (`response`);
- function: code of the user's (`function`);
- fitted: predicted from the combinations that were measured (`fitted`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product

from inferplan.estimators.composition import TOLERANCE as TOLERANCE
from inferplan.estimators.composition import AccuracyEstimate as AccuracyEstimate
from inferplan.estimators.composition import Composition as Composition
from inferplan.estimators.composition import Key, Rule
from inferplan.estimators.composition import Turn as Turn
from inferplan.estimators.composition import compose as compose
from inferplan.estimators.fitted import FEWEST, Fitted, fit
from inferplan.estimators.function import user_function
from inferplan.estimators.response import responses
from inferplan.spec.errors import InputError
from inferplan.spec.profile import Profile
from inferplan.spec.rows import AccuracyRow
from inferplan.spec.stage import Stage
from inferplan.spec.workload import Workload

PLAIN = ("product", "mean", "minimum")
"""Compositions of the stages' metrics that never fall where a stage's metric rises."""


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
    measured: Mapping[Key, AccuracyEstimate]
    """By choices in the order of `stages`: end to end."""
    rule: Rule | None = None
    """For response, function and fitted: what is not measured."""

    def key(self, variants: Mapping[str, str]) -> Key:
        """A combination in the order of `stages`."""
        return tuple(variants[stage] for stage in self.stages)

    def of(self, variants: Mapping[str, str]) -> AccuracyEstimate | None:
        """End-to-end accuracy of a combination (stage -> variant); None where it is not known."""
        measured = self.measured.get(self.key(variants))
        if measured is not None:
            return measured
        if self.composition not in PLAIN:
            return None if self.rule is None else self.rule.of(variants)
        parts = [self.values.get((stage, variants[stage])) for stage in self.stages]
        known = [part for part in parts if part is not None]
        return compose(self.composition, known, self.turn) if len(known) == len(parts) else None

    def knows(self, stage: str, variant: str) -> bool:
        """Whether some combination with this variant has a known accuracy."""
        index = self.stages.index(stage)
        if any(key[index] == variant for key in self.measured):
            return True
        if self.composition in PLAIN:
            return (stage, variant) in self.values
        return self.rule is not None and self.rule.knows(stage, variant)

    def combinations(self, allowed: Mapping[str, list[str]]) -> Iterator[Key]:
        """Every combination of allowed variants, in order."""
        return product(*(sorted(allowed[stage]) for stage in self.stages))

    @property
    def fitted(self) -> Fitted | None:
        """The model that predicts what was not measured, where there is one."""
        rule = self.rule.rule if isinstance(self.rule, Moved) else self.rule
        return rule if isinstance(rule, Fitted) else None

    def hopeful(self) -> AccuracyModel:
        """The same, with every prediction at the better end of its interval: what could turn out to be."""
        if self.fitted is None:
            return self
        return replace(self, rule=Moved(self.fitted, self.turn, better=True))


@dataclass(frozen=True)
class Moved:
    """What a rule says, moved towards the better or the worse end of its interval by a share of the way."""

    rule: Rule
    turn: Turn
    better: bool
    share: float = 1.0

    def of(self, variants: Mapping[str, str]) -> AccuracyEstimate | None:
        """The moved value, which has no interval; what had none stays as it is."""
        found = self.rule.of(variants)
        if found is None:
            return None
        end = found.upper if (self.turn.direction == "maximize") == self.better else found.lower
        if end is None:
            return found
        return AccuracyEstimate(found.value + (end - found.value) * self.share, source=found.source)

    def knows(self, stage: str, choice: str) -> bool:
        """As the rule does."""
        return self.rule.knows(stage, choice)


def accuracy_model(workload: Workload, profile: Profile) -> AccuracyModel | None:
    """The accuracy model of a workload; None where it declares no accuracy.

    Raises InputError where the stages' metrics cannot be composed as declared, or the profile contradicts itself.
    """
    declared = workload.accuracy
    if declared is None:
        return None
    _check_directions(workload)
    stages = tuple(sorted(workload.pipeline.stages))
    model = AccuracyModel(
        declared.metric.name,
        Turn(declared.metric.direction),
        declared.composition,
        stages,
        stage_values(workload, profile),
        _measured(workload, profile, stages),
    )
    rule = _rule(workload, model)
    return model if rule is None else replace(model, rule=rule)


def _rule(workload: Workload, model: AccuracyModel) -> Rule | None:
    """What predicts combinations that were not measured, where the composition needs more than `compose`."""
    assert workload.accuracy is not None
    if workload.accuracy.composition == "response":
        return responses(workload, model.values, model.measured, model.turn)
    if workload.accuracy.composition == "function":
        return user_function(workload, model.values)
    if workload.accuracy.composition == "fitted" and len(model.measured) >= FEWEST:
        choices = {stage: list(workload.pipeline.stages[stage].choices()) for stage in model.stages}
        goodness = {
            pair: (value.value if _stage_direction(workload, pair[0]) == "maximize" else 1 - value.value)
            for pair, value in model.values.items()
        }
        return fit(model.stages, choices, model.measured, goodness, model.turn)
    return None


def _stage_direction(workload: Workload, stage: str) -> str:
    metric = workload.pipeline.stages[stage].metric
    return "maximize" if metric is None else metric.direction


def _measured(workload: Workload, profile: Profile, stages: tuple[str, ...]) -> dict[Key, AccuracyEstimate]:
    """Combinations measured end to end. Raises InputError where one has two values."""
    assert workload.accuracy is not None
    found: dict[Key, AccuracyEstimate] = {}
    for row in profile.accuracy:
        if row.scope != "pipeline" or row.metric != workload.accuracy.metric.name or row.value is None:
            continue
        variants = row.stages()
        if not _is_combination(variants, workload):
            continue
        key = tuple(variants[stage] for stage in stages)
        if key in found and found[key].value != row.value:
            named = ", ".join(f"{stage}={choice}" for stage, choice in zip(stages, key, strict=True))
            raise InputError(
                f"the profile has two values of {row.metric} for {named}: {found[key].value:g} and {row.value:g};"
                f" remove one of them from {profile.path / 'accuracy'} (or profile this combination again)"
            )
        found[key] = _estimate(row)
    return found


def _is_combination(variants: Mapping[str, str], workload: Workload) -> bool:
    stages = workload.pipeline.stages
    return set(variants) == set(stages) and all(name in stages[stage].choices() for stage, name in variants.items())


def _estimate(row: AccuracyRow) -> AccuracyEstimate:
    assert row.value is not None
    return AccuracyEstimate(row.value, row.lower, row.upper, "measured")


def stage_values(workload: Workload, profile: Profile) -> dict[tuple[str, str], AccuracyEstimate]:
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


def combination_text(variants: Mapping[str, str]) -> str:
    """A combination as options and messages write it: `detect=a,read=b`."""
    return ",".join(f"{stage}={choice}" for stage, choice in sorted(variants.items()))


def _check_directions(workload: Workload) -> None:
    assert workload.accuracy is not None
    composition, direction = workload.accuracy.composition, workload.accuracy.metric.direction
    if composition not in PLAIN:
        return
    if composition == "product" and direction != "maximize":
        raise InputError("accuracy: a product is of metrics where higher is better; its metric must be maximized")
    for name, stage in workload.pipeline.stages.items():
        if stage.metric is not None and stage.metric.direction != direction:
            raise InputError(
                f"accuracy: composition {composition} needs stage metrics of the same direction as"
                f" {workload.accuracy.metric.name} ({direction}); stage {name} has {stage.metric.direction}"
            )
