"""The checker's prediction of composition fitted: the same model as `estimators.fitted`, by other formulas.

The model's effects (common level, slope, per choice, per pair of choices) are solved for themselves, as mixed-model
equations (Henderson 1975): with the design matrix Z of what was measured, effects of prior deviations D and
residual deviation omega, A = I + D Z' Z D / omega²; effects = D A⁻¹ D Z' r / omega²; and the log likelihood is
-(n log omega² + log det A + (r'r - r' Z D A⁻¹ D Z' r / omega²) / omega²) / 2.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from inferplan.spec.workload import Workload

Floats = NDArray[np.float64]
EDGE = 0.005
GRID = tuple(
    (float(tau), psi, float(omega))
    for tau in np.geomspace(0.03, 1.2, 7)
    for psi in (0.0, 0.05, 0.1, 0.2, 0.4)
    for omega in np.geomspace(0.02, 0.5, 6)
)
FEWEST = 3


def predicted(
    variants: Mapping[str, str],
    workload: Workload,
    measured: Sequence[tuple[Mapping[str, str], float]],
    metric_of: Callable[[str, str], float | None],
) -> float | None:
    """The prediction of a combination that was not measured; None where too few were."""
    if len(measured) < FEWEST:
        return None
    assert workload.accuracy is not None
    rising = workload.accuracy.metric.direction == "maximize"
    values = np.array([value for _, value in measured])
    shares = bool(np.all((values >= 0) & (values <= 1)))
    combinations = [combination for combination, _ in measured]
    if shares:
        y = np.array([_log_odds(value if rising else 1 - value) for value in values])
        x = _products(workload, [*combinations, variants], metric_of)
        unit, centre = 1.0, 0.0
    else:
        turned = values if rising else -values
        spread = float(turned.std())
        unit, centre = spread if spread > 0 else max(abs(float(turned[0])), 1.0), float(turned.mean())
        y, x = (turned - centre) / unit, None
    guess = _mixture(workload, combinations, variants, y, x)
    if not shares:
        level = guess * unit + centre
        return level if rising else -level
    share = 1 / (1 + math.exp(-guess))
    return share if rising else 1 - share


def _log_odds(share: float) -> float:
    share = min(max(share, EDGE), 1 - EDGE)
    return math.log(share / (1 - share))


def _products(
    workload: Workload,
    combinations: Sequence[Mapping[str, str]],
    metric_of: Callable[[str, str], float | None],
) -> Floats | None:
    """Log odds of the product of stage metrics; None where no stage has one for every choice."""
    known: dict[str, dict[str, float]] = {}
    for name, stage in workload.pipeline.stages.items():
        own = {choice: metric_of(name, choice) for choice in stage.choices()}
        falls = stage.metric is not None and stage.metric.direction == "minimize"
        good = {choice: 1 - value if falls else value for choice, value in own.items() if value is not None}
        if len(good) == len(own) and all(0 <= share <= 1 for share in good.values()):
            known[name] = good
    if not known:
        return None
    return np.array([_log_odds(math.prod(max(known[s][c[s]], EDGE) for s in known)) for c in combinations])


def _mixture(
    workload: Workload,
    combinations: Sequence[Mapping[str, str]],
    variants: Mapping[str, str],
    y: Floats,
    x: Floats | None,
) -> float:
    """The prediction on the model's scale, over all points of the grid by their likelihood."""
    rows = [*combinations, variants]
    prior = x if x is not None else np.full(len(rows), float(y.mean()))
    residuals = y - prior[:-1]
    design, kinds = _design(workload, rows, x)
    guesses, likelihoods = [], []
    for tau, psi, omega in GRID:
        if psi and len(workload.pipeline.stages) == 1:
            continue
        deviations = np.array(
            [{"level": 2.0 if x is None else 1.0, "slope": 0.5, "choice": tau, "pair": psi}[k] for k in kinds]
        )
        z = design[:-1] * deviations
        matrix = np.eye(len(kinds)) + z.T @ z / omega**2
        pull = z.T @ residuals / omega**2
        effects = np.linalg.solve(matrix, pull)
        guesses.append(float(prior[-1] + (design[-1] * deviations) @ effects))
        fit = float(residuals @ residuals / omega**2 - pull @ effects)
        likelihoods.append(-0.5 * (len(y) * math.log(omega**2) + float(np.linalg.slogdet(matrix)[1]) + fit))
    weights = np.exp(np.array(likelihoods) - max(likelihoods))
    return float(weights @ np.array(guesses) / weights.sum())


def _design(workload: Workload, rows: Sequence[Mapping[str, str]], x: Floats | None) -> tuple[Floats, list[str]]:
    """A column per effect, and of what kind it is."""
    stages = workload.pipeline.stages
    columns: list[list[float]] = [[1.0] * len(rows)]
    kinds = ["level"]
    if x is not None:
        columns.append(list(x))
        kinds.append("slope")
    for name, stage in stages.items():
        for choice in stage.choices():
            columns.append([float(row[name] == choice) for row in rows])
            kinds.append("choice")
    for first, second in itertools.combinations(stages, 2):
        for pair in sorted({(row[first], row[second]) for row in rows}):
            columns.append([float((row[first], row[second]) == pair) for row in rows])
            kinds.append("pair")
    return np.array(columns).T, kinds
