"""Accuracy in the program: two exact encodings of the same model.

*Combinations* (all compositions; response, function and fitted only here): a variable z[k,c] in [0, 1] per class and
combination c of variants, linked to the choice of variants X[k,s,v] by Σ_{c: c_s = v} z[k,c] = X[k,s,v]. As X is
binary, z is 1 for the chosen combination and 0 for the others. A floor fixes the combinations below it to 0.

*Additive* (product, mean, minimum; where there are too many combinations to list): a product keeps its floor
where the sum of logarithms does, a mean where the sum does, a minimum where every stage does. A combination c
that was measured end to end overrides the composition: if it keeps the floor, g[k,c] <= X[k,s,c_s] for all s
lifts the floor's rows; if it does not, Σ_s X[k,s,c_s] <= |S| - 1 forbids it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Protocol

from inferplan.estimators.accuracy import PLAIN, TOLERANCE, AccuracyModel
from inferplan.solvers.parts import is_parted, members
from inferplan.solvers.problem import Problem
from inferplan.spec.errors import InputError

MAX_COMBINATIONS = 20_000
TOO_MANY = (
    f"{{}} planned by listing combinations of choices, at most {MAX_COMBINATIONS:,} for all classes and their parts:"
    " take out variants"
)
NOTHING: Mapping[int, float] = {}
Choice = Mapping[tuple[int, str, str], Any]
"""X[k, stage, variant] as linear expressions."""


class Encoding(Protocol):
    """Accuracy rows of a program. Values are turned so that higher is better."""

    def set_floor(self, k: int, floor: float | None) -> None:
        """Ask a floor of class k (in the user's direction), or none."""

    def total(self, weights: Mapping[int, float], enough: Mapping[int, float] = NOTHING) -> Any:
        """A linear expression that orders plans by the weighted accuracy of these classes. `enough`: what better
        accuracies of a class count as (in the user's direction)."""


def encoding(problem: Problem, model: Any, choice: Choice) -> Encoding | None:
    """The encoding to use; None where no accuracy is known."""
    listed = MeanListed if is_parted(problem) else Listed
    accuracy = problem.accuracy
    if accuracy is None or not any(accuracy.knows(s, v) for s in problem.stages for v in problem.variants(s)):
        return None
    size = math.prod(len(problem.variants(stage)) for stage in problem.stages) * len(problem.classes)
    if size <= MAX_COMBINATIONS:
        return listed(problem, accuracy, model, choice)
    if accuracy.composition == "table":
        return listed(problem, accuracy, model, choice, only_measured=True)
    if accuracy.composition not in PLAIN:
        raise InputError(
            f"composition {accuracy.composition} is planned by listing combinations: {size:,} for all classes are more"
            f" than {MAX_COMBINATIONS:,}; take out variants, or use product, mean, minimum or table"
        )
    return Additive(problem, accuracy, model, choice)


class Listed:
    """One variable per class and combination."""

    def __init__(
        self, problem: Problem, accuracy: AccuracyModel, model: Any, choice: Choice, only_measured: bool = False
    ) -> None:
        import mip

        self._accuracy = accuracy
        allowed = {stage: problem.variants(stage) for stage in problem.stages}
        if only_measured:
            keys = [key for key in sorted(accuracy.measured) if _possible(accuracy, key, allowed)]
        else:
            keys = list(accuracy.combinations(allowed))
        self.keys = tuple(keys)
        self._values = [accuracy.of(dict(zip(accuracy.stages, key, strict=True))) for key in keys]
        known = [accuracy.turn.turned(value.value) for value in self._values if value is not None]
        self._worst = min(known, default=0.0)
        self._z = [[model.add_var(lb=0, ub=1) for _ in keys] for _ in problem.classes]
        for k in range(len(problem.classes)):
            members: dict[tuple[str, str], list[Any]] = {}
            for key, z in zip(keys, self._z[k], strict=True):
                for stage, variant in zip(accuracy.stages, key, strict=True):
                    members.setdefault((stage, variant), []).append(z)
            for stage in problem.stages:
                for variant in allowed[stage]:
                    model += mip.xsum(members.get((stage, variant), [])) - choice[k, stage, variant] == 0

    def set_floor(self, k: int, floor: float | None) -> None:
        for value, z in zip(self._values, self._z[k], strict=True):
            keeps = floor is None or (value is not None and self._accuracy.turn.keeps(value.value, floor))
            z.ub = 1.0 if keeps else 0.0

    def most(self, k: int) -> float:
        """The best accuracy of the combinations that class k may use under its floor, higher is better."""
        worth = (one for one, z in zip(self._worth, self._z[k], strict=True) if z.ub > 0)
        return max(worth, default=self._worst)

    def known(self) -> list[float]:
        """Accuracies of `keys`, higher is better; -inf where not known."""
        turn = self._accuracy.turn
        return [-math.inf if value is None else turn.turned(value.value) for value in self._values]

    @cached_property
    def _worth(self) -> list[float]:
        turn = self._accuracy.turn
        return [turn.turned(value.value) if value is not None else self._worst for value in self._values]

    def total(self, weights: Mapping[int, float], enough: Mapping[int, float] = NOTHING) -> Any:
        import mip

        turn, worth = self._accuracy.turn, self._worth
        most = {k: turn.turned(enough[k]) if k in enough else math.inf for k in weights}
        return mip.xsum(
            weight * min(value, most[k]) * z
            for k, weight in weights.items()
            for value, z in zip(worth, self._z[k], strict=True)
        )


class MeanListed(Listed):
    """Combinations of every part; a floor holds for the mean over the parts of a class."""

    def __init__(
        self, problem: Problem, accuracy: AccuracyModel, model: Any, choice: Choice, only_measured: bool = False
    ) -> None:
        super().__init__(problem, accuracy, model, choice, only_measured)
        self._problem = problem
        self._model = model
        self._rows: dict[int, Any] = {}

    def set_floor(self, k: int, floor: float | None) -> None:

        own = members(self._problem, self._problem.classes[k].name)
        real = [p for p in own if self._problem.classes[p].share > 0]
        if len(real) == 1:
            super().set_floor(k, floor)
            return
        for value, z in zip(self._values, self._z[k], strict=True):
            z.ub = 1.0 if floor is None or value is not None else 0.0
        if k != real[0]:
            return
        if k in self._rows:
            self._model.remove([self._rows.pop(k)])
        if floor is not None:
            total = self.total({p: self._problem.classes[p].share for p in real})
            self._rows[k] = self._model.add_constr(total >= self._accuracy.turn.turned(floor))


class Additive:
    """Sums over stages; see the module's docstring."""

    def __init__(self, problem: Problem, accuracy: AccuracyModel, model: Any, choice: Choice) -> None:
        self._problem = problem
        self._accuracy = accuracy
        self._model = model
        self._choice = choice
        self._rows: dict[int, list[Any]] = {}
        self._allowed = {stage: problem.variants(stage) for stage in problem.stages}

    def set_floor(self, k: int, floor: float | None) -> None:
        import mip

        if self._rows.get(k):
            self._model.remove(self._rows[k])
        self._rows[k] = []
        if floor is None:
            return
        turn, accuracy = self._accuracy.turn, self._accuracy
        good: list[Any] = []
        for key, value in sorted(accuracy.measured.items()):
            if not _possible(accuracy, key, self._allowed):
                continue
            chosen = [self._choice[k, stage, variant] for stage, variant in zip(accuracy.stages, key, strict=True)]
            if turn.keeps(value.value, floor):
                granted = self._model.add_var(lb=0, ub=1)
                good.append(granted)
                self._rows[k] += [self._model.add_constr(granted - part <= 0) for part in chosen]
            else:
                self._rows[k].append(self._model.add_constr(mip.xsum(chosen) <= len(chosen) - 1))
        self._rows[k] += self._composed(k, turn.turned(floor) - TOLERANCE, mip.xsum(good))

    def _composed(self, k: int, floor: float, lifted: Any) -> list[Any]:
        import mip

        if self._accuracy.composition == "minimum":
            rows = []
            for stage in self._problem.stages:
                below = [
                    self._choice[k, stage, variant]
                    for variant in self._allowed[stage]
                    if self._turned(stage, variant) < floor
                ]
                if below:
                    rows.append(self._model.add_constr(mip.xsum(below) - lifted <= 0))
            return rows
        least = sum(min(self._worth(s, v) for v in self._allowed[s]) for s in self._problem.stages)
        wanted = self._scaled(floor)
        slack = max(wanted - least, 0.0)
        return [self._model.add_constr(self.total({k: 1.0}) + slack * lifted >= wanted - 1e-12)]

    def total(self, weights: Mapping[int, float], enough: Mapping[int, float] = NOTHING) -> Any:
        import mip

        if enough:
            raise InputError(
                f"accuracy.goal is not honoured with more than {MAX_COMBINATIONS:,} combinations of variants: take out"
                " variants, or the goal"
            )
        return mip.xsum(
            weight * self._worth(stage, variant) * self._choice[k, stage, variant]
            for k, weight in weights.items()
            for stage in self._problem.stages
            for variant in self._allowed[stage]
        )

    def _scaled(self, floor: float) -> float:
        if self._accuracy.composition == "product":
            return math.log(max(floor, 1e-300))
        return floor * len(self._problem.stages)

    def _turned(self, stage: str, variant: str) -> float:
        value = self._accuracy.values.get((stage, variant))
        return -math.inf if value is None else self._accuracy.turn.turned(value.value)

    def _worth(self, stage: str, variant: str) -> float:
        value = self._turned(stage, variant)
        if self._accuracy.composition == "product":
            return math.log(value) if value > 1e-12 else -30.0
        return value if math.isfinite(value) else -1e6


def _possible(accuracy: AccuracyModel, key: tuple[str, ...], allowed: Mapping[str, list[str]]) -> bool:
    return all(variant in allowed[stage] for stage, variant in zip(accuracy.stages, key, strict=True))


def require_listed(rows: Encoding | None, problem: Problem, exactly: bool = False) -> None:
    """Maximising accuracy needs the combinations listed, except for one class's product or mean; weighing it against
    other things (`exactly`) always does.

    Raises InputError where the objective cannot be encoded exactly.
    """
    if isinstance(rows, Additive):
        accuracy = problem.accuracy
        assert accuracy is not None
        if exactly or len(problem.classes) > 1 or accuracy.composition == "minimum" or accuracy.measured:
            raise InputError(
                f"objectives with accuracy and more than {MAX_COMBINATIONS} combinations of variants are honoured for"
                " maximize: accuracy and lexicographic ones, one class, and stage metrics composed by product or mean"
            )
