"""Accuracy of a class that splits its requests: the mean over what serves them.

- *Per request* (`mixture`): every request is sent through one combination of choices as a whole, a share w of them
  through each: accuracy = Σ w a. This holds for jobs too, with whole counts instead of shares.
- *Proportional* (`routed`): every stage's balancer spreads calls by the stage's own shares, whatever they went through
  before, so a combination is met with the product of its stages' shares. With fan-out a request's calls go different
  ways; its accuracy is then that of the mean call, which is exact for metrics that are means over calls.

Intervals: the combinations were judged on the same labelled examples, so their errors go together. Ends are therefore
mixed as values are (as if errors moved as one): never too narrow, and exact where one combination has all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product

from inferplan.estimators.accuracy import AccuracyModel
from inferplan.estimators.composition import AccuracyEstimate, Source

_TRUST: tuple[Source, ...] = ("measured", "composed", "declared", "predicted")
"""From best to worst: a mixture is worth what its worst part is."""


def mixture(parts: Sequence[tuple[float, AccuracyEstimate]]) -> AccuracyEstimate:
    """Mean of estimates with weights (shares or counts). Raises ValueError where they are not weights."""
    total = math.fsum(weight for weight, _ in parts)
    if total <= 0 or any(weight < 0 for weight, _ in parts):
        raise ValueError("weights of a mixture are not negative, and some are positive")
    used = [(weight / total, part) for weight, part in parts if weight > 0]
    lower = upper = None
    if all(part.lower is not None and part.upper is not None for _, part in used):
        lower = math.fsum(weight * part.lower for weight, part in used if part.lower is not None)
        upper = math.fsum(weight * part.upper for weight, part in used if part.upper is not None)
    source = max((part.source for _, part in used), key=_TRUST.index)
    return AccuracyEstimate(math.fsum(weight * part.value for weight, part in used), lower, upper, source)


def routed(model: AccuracyModel, routes: Mapping[str, Mapping[str, float]]) -> AccuracyEstimate | None:
    """Accuracy under proportional routing: `routes` has the shares of choices per stage.

    None where a combination that is met is not known. Raises ValueError where a stage's shares do not add up to 1.
    """
    for stage in model.stages:
        if not math.isclose(math.fsum(routes[stage].values()), 1.0, abs_tol=1e-6):
            raise ValueError(f"shares of stage {stage} do not add up to 1")
    used = [[(choice, share) for choice, share in sorted(routes[stage].items()) if share > 0] for stage in model.stages]
    parts: list[tuple[float, AccuracyEstimate]] = []
    for chosen in product(*used):
        estimate = model.of({stage: choice for stage, (choice, _) in zip(model.stages, chosen, strict=True)})
        if estimate is None:
            return None
        parts.append((math.prod(share for _, share in chosen), estimate))
    return mixture(parts)
