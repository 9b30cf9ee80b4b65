"""End-to-end accuracy by a function of the user's: `module:function` of a dict, stage -> its metric.

It is called with the stages' values and, for the interval, with each of them at its ends (`composition.spread`), so
it must be deterministic and must not fail for values near those measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from inferplan.estimators.composition import AccuracyEstimate, made_of, spread
from inferplan.spec.errors import InputError
from inferplan.spec.usercode import load_function
from inferplan.spec.workload import Workload


@dataclass(frozen=True)
class UserFunction:
    """The function, and what it is called with."""

    reference: str
    function: Callable[[dict[str, float]], Any]
    stages: tuple[str, ...]
    """Stages that have a metric, sorted."""
    values: Mapping[tuple[str, str], AccuracyEstimate]

    def at(self, values: Sequence[float]) -> float:
        """What the function returns for values of `stages`. Raises InputError where that is no finite number."""
        given = dict(zip(self.stages, values, strict=True))
        shown = f"accuracy.function {self.reference}, given {', '.join(f'{s} {v:g}' for s, v in given.items())}"
        try:
            found = float(self.function(given))
        except Exception as error:
            raise InputError(f"{shown}: fails with {type(error).__name__}: {error}") from error
        if not math.isfinite(found):
            raise InputError(f"{shown}: returns {found}; expected a finite number")
        return found

    def of(self, variants: Mapping[str, str]) -> AccuracyEstimate | None:
        """The accuracy of a combination; None where a stage's metric is not known."""
        parts = [self.values.get((stage, variants[stage])) for stage in self.stages]
        known = [part for part in parts if part is not None]
        if len(known) < len(parts):
            return None
        value = self.at([part.value for part in known])
        lower, upper = spread(value, known, self.at)
        return AccuracyEstimate(value, lower, upper, made_of(known))

    def knows(self, stage: str, choice: str) -> bool:
        """Whether the stage's metric is known, or none is needed."""
        return stage not in self.stages or (stage, choice) in self.values


def user_function(workload: Workload, values: Mapping[tuple[str, str], AccuracyEstimate]) -> UserFunction:
    """The workload's function, loaded. Raises InputError where it is not there."""
    assert workload.accuracy is not None
    assert workload.accuracy.function is not None
    reference = workload.accuracy.function
    stages = sorted(name for name, stage in workload.pipeline.stages.items() if stage.metric is not None)
    return UserFunction(reference, load_function(reference, workload.root), tuple(stages), values)
