"""Accuracies of combinations that were not measured, predicted from those that were.

Scale. Where accuracies are shares (0..1; an error rate e counts as 1 - e) everything happens on their log odds y, where
what a choice is worth depends least on the others; shares beyond `EDGE` are taken as that. Other metrics are taken as
they are, centred and divided by the standard deviation of what was measured.

Model. For a combination c with the choices c[s],

    y(c) = x(c) + a + b x(c) + Σ_s u[s,c[s]] + Σ_{s<t} v[s,t,c[s],c[t]] + w(c)

x(c) is the log odds of the product of the stages' own metrics (of stages whose every choice has one that is a share;
0 where there is no such stage). All else is normal around 0: a (standard deviation 1; 2 without x, around the mean of
what was measured), b (1/2), u (tau), v (psi), w (omega). So without measurements this is the product composition; what
was measured corrects it as a whole (a, b), per choice (u), per pair (v), and what no sum explains stays as error (w).

Fit. tau, psi, omega run over a grid; each point weighs as much as it makes what was measured likely (Gaussian process
regression with the marginal likelihood, Rasmussen and Williams 2006, ch. 2 and 5). Prediction and variance are those
of the mixture. As few measurements tell little of tau, psi, omega, intervals are Student's with n - 1 degrees of
freedom, and wider by the root mean square of the leave-one-out errors in units of their predicted deviation, where
that exceeds 1.

Two intervals: what would be *seen* if the combination were measured on the same labelled examples, and the accuracy
*itself*, to which the sampling error that measured combinations have is added.

Which one to measure next: the one that lowers most the summed variance of all predictions (greedy A-optimal design), on
the metric's own scale.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from inferplan.estimators.composition import AccuracyEstimate, Key, Turn
from inferplan.estimators.intervals import t_quantile

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

FEWEST = 3
"""Measured combinations without which nothing is predicted: fewer say nothing of the error."""
MOST = 20_000
"""Most combinations that are predicted at once."""
EDGE = 0.005
LEVEL = 0.95
_NORMAL = NormalDist().inv_cdf(0.5 + LEVEL / 2)
TAUS = tuple(np.geomspace(0.03, 1.2, 7))
PSIS = (0.0, 0.05, 0.1, 0.2, 0.4)
OMEGAS = tuple(np.geomspace(0.02, 0.5, 6))
NEGLIGIBLE = 1e-6
"""Grid points less likely than this share of the likeliest one are left out."""


@dataclass(frozen=True, slots=True)
class Scale:
    """From a metric to the scale of the model, and back. `odds`: log odds of a share, else linear."""

    turn: Turn
    odds: bool
    centre: float = 0.0
    unit: float = 1.0

    def forward(self, value: float) -> float:
        """The metric on the model's scale; better is higher."""
        if not self.odds:
            return (self.turn.turned(value) - self.centre) / self.unit
        share = min(max(value if self.turn.direction == "maximize" else 1.0 - value, EDGE), 1.0 - EDGE)
        return math.log(share / (1.0 - share))

    def back(self, y: float) -> float:
        """The metric of a point of the model's scale."""
        if not self.odds:
            return self.turn.turned(y * self.unit + self.centre)
        share = 1.0 / (1.0 + math.exp(-y))
        return share if self.turn.direction == "maximize" else 1.0 - share

    def slope(self, y: float) -> float:
        """How much the metric moves per unit of the scale, without sign."""
        if not self.odds:
            return self.unit
        share = 1.0 / (1.0 + math.exp(-y))
        return share * (1.0 - share)


@dataclass(frozen=True, slots=True)
class LeaveOneOut:
    """How well each measured combination is predicted from the others."""

    rms: float
    """Root mean square of the errors, in the metric."""
    largest: float
    within: float
    """Share of measured values inside the predicted interval of what would be seen."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """A predicted metric. `seen`: 95 % interval of what measuring on the same examples would give."""

    value: float
    seen: tuple[float, float]
    itself: tuple[float, float]


@dataclass(frozen=True)
class _Point:
    """A point of the grid: deviations, its weight, and the solved system of what was measured."""

    tau: float
    psi: float
    omega: float
    weight: float
    factor: Floats
    """Lower Cholesky factor of the covariance of what was measured."""
    solved: Floats
    """Inverse covariance times residuals."""


@dataclass(frozen=True)
class Fitted:
    """A fitted model. Combinations are keys in the order of `stages`; choices are coded by their place in `choices`."""

    stages: tuple[str, ...]
    choices: Mapping[str, Sequence[str]]
    scale: Scale
    keys: tuple[Key, ...]
    """What was measured."""
    y: Floats
    worth: Mapping[tuple[str, str], float]
    """Log of the share that a stage's choice reaches, for stages that count in x."""
    sampling: float
    """Sampling variance: of a share a with log odds y it is sampling / (a (1 - a)); on a linear scale, as it is."""
    points: tuple[_Point, ...]

    def of(self, variants: Mapping[str, str]) -> AccuracyEstimate | None:
        """The predicted accuracy itself; None for choices that the model does not know."""
        found = self.predict(tuple(variants[stage] for stage in self.stages))
        return None if found is None else AccuracyEstimate(found.value, *found.itself, "predicted")

    def knows(self, stage: str, choice: str) -> bool:
        """Whether the choice is one of the stage's."""
        return choice in self.choices[stage]

    def predict(self, key: Key) -> Prediction | None:
        """A combination's prediction."""
        if self._size <= MOST:
            at = self._places.get(key)
            return None if at is None else self._prediction(float(self._all[0][at]), float(self._all[1][at]))
        if any(choice not in self.choices[stage] for stage, choice in zip(self.stages, key, strict=True)):
            return None
        mean, variance = self._moments([key])
        return self._prediction(float(mean[0]), float(variance[0]))

    def _prediction(self, y: float, variance: float) -> Prediction:
        half = self._width * math.sqrt(variance)
        sampling = self.sampling / self.scale.slope(y) if self.scale.odds else self.sampling
        wide = math.hypot(half, _NORMAL * math.sqrt(sampling))
        seen, itself = (sorted((self.scale.back(y - reach), self.scale.back(y + reach))) for reach in (half, wide))
        return Prediction(self.scale.back(y), (seen[0], seen[1]), (itself[0], itself[1]))

    @property
    def _size(self) -> int:
        return math.prod(len(self.choices[stage]) for stage in self.stages)

    @cached_property
    def _every(self) -> list[Key]:
        return list(product(*(self.choices[stage] for stage in self.stages)))

    @cached_property
    def _places(self) -> dict[Key, int]:
        return {key: index for index, key in enumerate(self._every)}

    @cached_property
    def _all(self) -> tuple[Floats, Floats]:
        return self._moments(self._every)

    @cached_property
    def _width(self) -> float:
        """Half of an interval in predicted standard deviations."""
        deviations = self._left_out[1]
        return t_quantile(len(self.keys) - 1, LEVEL) * max(1.0, float(np.sqrt(np.mean(deviations**2))))

    @cached_property
    def leave_one_out(self) -> LeaveOneOut:
        """Errors of predicting each measured combination from the others."""
        predicted, deviations = self._left_out
        errors = [self.scale.back(p) - self.scale.back(y) for p, y in zip(predicted, self.y, strict=True)]
        return LeaveOneOut(
            math.sqrt(math.fsum(e * e for e in errors) / len(errors)),
            max(abs(e) for e in errors),
            float(np.mean(np.abs(deviations) <= self._width)),
        )

    @cached_property
    def _left_out(self) -> tuple[Floats, Floats]:
        """Per measured combination: prediction without it (model scale), error over predicted deviation.

        Deviations of the grid stay as they are; the rest is exact (Rasmussen and Williams 2006, eq. 5.12).
        """
        means, variances = [], []
        for point in self.points:
            inverse = _inverse(point.factor)
            diagonal = np.diag(inverse)
            means.append(self.y - point.solved / diagonal)
            variances.append(1.0 / diagonal)
        mean, variance = self._mixed(means, variances)
        return mean, (self.y - mean) / np.sqrt(variance)

    def _moments(self, keys: Sequence[Key]) -> tuple[Floats, Floats]:
        """Mean and variance of y of combinations that were not measured."""
        x, own = self._x(keys), self._codes(keys)
        x0, mine = self._x(self.keys), self._codes(self.keys)
        prior, base = self._prior_mean(x), self._common(x, x0)
        same = _same(own, mine)
        every = self._common_diagonal(x)
        pairs = math.comb(len(self.stages), 2)
        means, variances = [], []
        for point in self.points:
            across = base + point.tau**2 * same[0] + point.psi**2 * same[1]
            explained = _forward(point.factor, across.T)
            means.append(prior + across @ point.solved)
            total = every + point.tau**2 * len(self.stages) + point.psi**2 * pairs + point.omega**2
            variances.append(np.maximum(total - np.sum(explained**2, axis=0), 1e-12))
        return self._mixed(means, variances)

    def _mixed(self, means: Sequence[Floats], variances: Sequence[Floats]) -> tuple[Floats, Floats]:
        weights = np.array([point.weight for point in self.points])
        mean = weights @ np.array(means)
        return mean, np.maximum(weights @ (np.array(variances) + (np.array(means) - mean) ** 2), 1e-12)

    def next_best(self, candidates: Sequence[Key], targets: Sequence[Key]) -> Key | None:
        """The candidate whose measurement lowers the summed variance over `targets` most; None without candidates."""
        if not candidates:
            return None
        point = max(self.points, key=lambda one: one.weight)
        keys = [*candidates, *targets]
        x, codes = self._x(keys), self._codes(keys)
        across = self._covariance(point, x, codes, self._x(self.keys), self._codes(self.keys))
        explained = _forward(point.factor, across.T)
        count = len(candidates)
        both = self._covariance(point, x[:count], codes[:count], x[count:], codes[count:])
        left = both - explained[:, :count].T @ explained[:, count:]
        equal = np.array([[candidate == target for target in targets] for candidate in candidates])
        left += point.omega**2 * equal
        own = self._common_diagonal(x[:count]) + point.tau**2 * len(self.stages)
        own = own + point.psi**2 * math.comb(len(self.stages), 2) + point.omega**2
        own = np.maximum(own - np.sum(explained[:, :count] ** 2, axis=0), 1e-12)
        slopes = np.array([self.scale.slope(y) for y in self._moments(targets)[0]])
        return candidates[int(np.argmax(((left * slopes) ** 2).sum(axis=1) / own))]

    def _covariance(self, point: _Point, x: Floats, codes: Ints, x0: Floats, codes0: Ints) -> Floats:
        same = _same(codes, codes0)
        return self._common(x, x0) + point.tau**2 * same[0] + point.psi**2 * same[1]

    def _codes(self, keys: Sequence[Key]) -> Ints:
        places = [{choice: code for code, choice in enumerate(self.choices[stage])} for stage in self.stages]
        return np.array([[place[c] for place, c in zip(places, key, strict=True)] for key in keys], np.int64)

    def _x(self, keys: Sequence[Key]) -> Floats:
        """Log odds of the product of stage metrics; 0 without any."""
        if not self.worth:
            return np.zeros(len(keys))
        counted = [index for index, stage in enumerate(self.stages) if (stage, self.choices[stage][0]) in self.worth]
        logs = np.array([math.fsum(self.worth[self.stages[i], key[i]] for i in counted) for key in keys])
        shares = np.clip(np.exp(logs), EDGE, 1.0 - EDGE)
        return np.asarray(np.log(shares / (1.0 - shares)), np.float64)

    def _prior_mean(self, x: Floats) -> Floats:
        return x if self.worth else np.full(len(x), float(self.y.mean()))

    def _common(self, x: Floats, x0: Floats) -> Floats:
        """Covariance that a and b give."""
        return np.asarray(self._intercept + 0.25 * np.outer(x, x0), np.float64)

    def _common_diagonal(self, x: Floats) -> Floats:
        return self._intercept + 0.25 * x**2

    @property
    def _intercept(self) -> float:
        return 1.0 if self.worth else 4.0


def fit(
    stages: tuple[str, ...],
    choices: Mapping[str, Sequence[str]],
    measured: Mapping[Key, AccuracyEstimate],
    goodness: Mapping[tuple[str, str], float],
    turn: Turn,
) -> Fitted:
    """Fit the model to measured combinations (at least `FEWEST`; keys in the order of `stages`).

    `goodness`: the stages' own metrics by (stage, choice), as shares of what is right; values outside 0..1 are ignored
    together with their stage.
    """
    keys = tuple(sorted(measured))
    estimates = [measured[key] for key in keys]
    scale = _scale([estimate.value for estimate in estimates], turn)
    y = np.array([scale.forward(estimate.value) for estimate in estimates])
    worth = _worth(stages, choices, goodness) if scale.odds else {}
    bare = Fitted(stages, choices, scale, keys, y, worth, _sampling(estimates, scale), ())
    return Fitted(stages, choices, scale, keys, y, worth, bare.sampling, _grid(bare))


def _scale(values: Sequence[float], turn: Turn) -> Scale:
    if all(0.0 <= value <= 1.0 for value in values):
        return Scale(turn, odds=True)
    turned = np.array([turn.turned(value) for value in values])
    deviation = float(turned.std())
    return Scale(turn, False, float(turned.mean()), deviation if deviation > 0 else max(abs(float(turned[0])), 1.0))


def _worth(
    stages: tuple[str, ...], choices: Mapping[str, Sequence[str]], goodness: Mapping[tuple[str, str], float]
) -> dict[tuple[str, str], float]:
    found: dict[tuple[str, str], float] = {}
    for stage in stages:
        own = {choice: goodness.get((stage, choice), math.nan) for choice in choices[stage]}
        if all(0.0 <= share <= 1.0 for share in own.values()):
            found |= {(stage, choice): math.log(max(share, EDGE)) for choice, share in own.items()}
    return found


def _sampling(estimates: Sequence[AccuracyEstimate], scale: Scale) -> float:
    """Median over what was measured of the sampling variance, freed of the share it belongs to."""
    found = []
    for estimate in estimates:
        if estimate.lower is None or estimate.upper is None:
            continue
        variance = ((estimate.upper - estimate.lower) / (2 * _NORMAL)) ** 2
        slope = scale.slope(scale.forward(estimate.value))
        found.append(variance / slope if scale.odds else variance / scale.unit**2)
    return float(np.median(found)) if found else 0.0


def _grid(model: Fitted) -> tuple[_Point, ...]:
    x, codes = model._x(model.keys), model._codes(model.keys)
    residuals = model.y - model._prior_mean(x)
    common, same = model._common(x, x), _same(codes, codes)
    found: list[tuple[float, tuple[float, float, float], Floats, Floats]] = []
    pairs = PSIS if len(model.stages) > 1 else (0.0,)
    for tau, psi, omega in product(TAUS, pairs, OMEGAS):
        covariance = common + tau**2 * same[0] + psi**2 * same[1] + omega**2 * np.eye(len(x))
        factor = np.linalg.cholesky(covariance)
        half = _forward(factor, residuals)
        likelihood = -0.5 * float(half @ half) - float(np.log(np.diag(factor)).sum())
        found.append((likelihood, (float(tau), float(psi), float(omega)), factor, _backward(factor, half)))
    best = max(item[0] for item in found)
    kept = [item for item in found if item[0] > best + math.log(NEGLIGIBLE)]
    total = math.fsum(math.exp(item[0] - best) for item in kept)
    return tuple(
        _Point(*deviations, math.exp(likelihood - best) / total, factor, solved)
        for likelihood, deviations, factor, solved in kept
    )


def _same(codes: Ints, codes0: Ints) -> tuple[Floats, Floats]:
    """How many stages, and how many pairs of stages, two combinations have in common: [n, m] each."""
    equal = (codes[:, None, :] == codes0[None, :, :]).sum(axis=2).astype(np.float64)
    return equal, equal * (equal - 1.0) / 2.0


def _forward(factor: Floats, right: Floats) -> Floats:
    return np.asarray(np.linalg.solve(factor, right), np.float64)


def _backward(factor: Floats, right: Floats) -> Floats:
    return np.asarray(np.linalg.solve(factor.T, right), np.float64)


def _inverse(factor: Floats) -> Floats:
    half = _forward(factor, np.eye(len(factor)))
    return np.asarray(half.T @ half, np.float64)
