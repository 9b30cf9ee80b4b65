"""Which of two choices is the more accurate one, judged on the examples that both were given.

| scores | test | 95 % interval of the difference |
|---|---|---|
| 0 or 1, equal weights | McNemar's, mid-p (Fagerland, Lydersen, Laake 2013) | Tango's score interval (1998) |
| other per-example values, weights | paired bootstrap of the difference of weighted means | its percentiles |
| none, but predictions are kept (macro F1, AUC) | paired bootstrap, the metric made anew | its percentiles |
| not for the same examples, or none at all | normal, as if the two were independent | from the two intervals |

Two evaluations on the same data rise and fall together, so the last one errs on the side of "no difference
shown". A difference is called one where the test says p < 0.05 and the interval leaves zero out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from inferplan.spec.errors import InputError
from inferplan.spec.metrics import Statistic, built_in
from inferplan.spec.predictions import from_text
from inferplan.spec.profile import Profile
from inferplan.spec.resampling import percentile_interval, resample_counts, weighted_means
from inferplan.spec.rows import AccuracyRow, Predictions
from inferplan.spec.stage import Choice, Metric
from inferplan.spec.stagecode import Scores
from inferplan.spec.workload import Workload

Verdict = Literal["better", "worse", "no difference shown"]
Method = Literal["mcnemar", "paired bootstrap", "independent intervals"]
LEVEL = 0.05
"""Largest p-value of a difference that is called one; intervals are at one minus it."""
_Z = NormalDist().inv_cdf(1 - LEVEL / 2)
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Difference:
    """A difference between two metrics, first less second, with its 95 % interval and two-sided p-value."""

    value: float
    lower: float
    upper: float
    p_value: float
    n: int
    method: Method


@dataclass(frozen=True, slots=True)
class Comparison:
    """How the first choice (or combination) does beside the second one.

    `difference` is first less second in the metric's own terms, so that below zero is better where less is.
    `stage` is empty for combinations; `first` and `second` are names of choices, or combinations as JSON.
    `n` counts examples.
    """

    stage: str
    first: str
    second: str
    metric: Metric
    difference: float
    lower: float
    upper: float
    p_value: float
    n: int
    method: Method

    @property
    def verdict(self) -> Verdict:
        """Whether the first is better or worse than the second, as far as the examples can tell."""
        if self.p_value >= LEVEL or self.lower <= 0 <= self.upper:
            return "no difference shown"
        return "better" if (self.difference > 0) == (self.metric.direction == "maximize") else "worse"

    @property
    def worst(self) -> float:
        """The interval's worse end, turned so that below zero is worse: the most that may have been lost."""
        return self.lower if self.metric.direction == "maximize" else -self.upper

    def as_accurate_within(self, margin: float) -> bool:
        """Whether the first is shown to be no worse than the second by `margin` or more (non-inferior).

        A one-sided test at 2.5 %, since the interval is two-sided at 95 %.
        """
        return self.worst > -margin


def compare(profile: Profile, stage: str, first: str, second: str, metric: Metric) -> Comparison:
    """Compare two choices (`variant`, or `variant@modality+modality`) of a stage in its metric.

    Raises InputError where one of them has no measured value.
    """
    rows = [_row(profile, metric, stage=stage, choice=choice) for choice in (first, second)]
    return _compared(profile, stage, (first, second), metric, rows[0], rows[1])


def compare_combinations(
    profile: Profile, first: Mapping[str, str], second: Mapping[str, str], metric: Metric
) -> Comparison:
    """Compare two combinations (stage: choice) end to end. Raises InputError as `compare`."""
    texts = json.dumps(dict(first), sort_keys=True), json.dumps(dict(second), sort_keys=True)
    rows = [_row(profile, metric, combination=text) for text in texts]
    return _compared(profile, "", texts, metric, rows[0], rows[1])


def lineage_comparisons(workload: Workload, profile: Profile) -> list[Comparison]:
    """Every choice of a variant that was made from another against its parent's, given the same modalities.

    In the order of the workload. Pairs of which one has no measured value are left out.
    """
    found: list[Comparison] = []
    for name, stage in workload.pipeline.stages.items():
        if stage.metric is None:
            continue
        choices = stage.choices()
        for choice in choices.values():
            parent = stage.variants[choice.variant].parent
            other = "" if parent is None else Choice(parent, choice.modalities).name
            rows = [_found(profile, stage.metric, stage=name, choice=which) for which in (choice.name, other)]
            if other in choices and rows[0] is not None and rows[1] is not None:
                found.append(_compared(profile, name, (choice.name, other), stage.metric, rows[0], rows[1]))
    return found


def difference_of_scores(first: Scores, second: Scores) -> Difference:
    """Difference of two metrics whose scores belong to the same examples, in the same order."""
    if first.is_proportion and second.is_proportion:
        only_first = int(np.sum(first.values > second.values))
        return mcnemar(only_first, int(np.sum(first.values < second.values)), len(first.values))
    draws = [
        weighted_means(counts, first.values, first.weights) - weighted_means(counts, second.values, second.weights)
        for counts in resample_counts(len(first.values))
    ]
    scale = max(float(np.max(first.values)), float(np.max(second.values))) or 1.0
    return _bootstrapped(first.value - second.value, np.concatenate(draws), len(first.values), scale)


def difference_of_statistics(first: Statistic, second: Statistic) -> Difference:
    """Difference of two metrics made anew for every resample, of the same examples in the same order."""
    once = np.ones((1, first.n))
    value = float(first.values(once)[0] - second.values(once)[0])
    draws = np.concatenate([first.values(counts) - second.values(counts) for counts in resample_counts(first.n)])
    return _bootstrapped(value, draws, first.n, 1.0)


def mcnemar(only_first: int, only_second: int, n: int) -> Difference:
    """Difference of two proportions of n pairs, of which `only_first` are right in the first alone.

    McNemar's mid-p: twice the smaller tail of Bin(discordant, 1/2), the point observed counted half.
    """
    discordant, fewer = only_first + only_second, min(only_first, only_second)
    logs = [_log_choose(discordant, k) - discordant * math.log(2) for k in range(fewer + 1)]
    tail = sum(math.exp(log) for log in logs)
    p_value = 1.0 if only_first == only_second else 2 * tail - math.exp(logs[-1])
    lower, upper = tango(only_first, only_second, n)
    return Difference((only_first - only_second) / n, lower, upper, min(1.0, p_value), n, "mcnemar")


def tango(only_first: int, only_second: int, n: int) -> tuple[float, float]:
    """Tango's score interval of the difference of two paired proportions (Statistics in Medicine 17, 1998).

    The differences d for which |b - c - n d| <= z sqrt(n (2 q + d (1 - d))), where q is the likeliest share
    of pairs right in the second alone, given d.
    """
    b, c = only_first, only_second

    def score(d: float) -> float:
        w = (2 * n - b + c) * d - b - c
        q = (math.sqrt(max(0.0, w * w + 8 * n * c * d * (1 - d))) - w) / (4 * n)
        spread = math.sqrt(max(0.0, n * (2 * q + d * (1 - d))))
        distance = b - c - n * d
        return distance / spread if spread > 0 else math.copysign(math.inf, distance) if distance else 0.0

    estimate = (b - c) / n
    return _boundary(score, _Z, -1.0, estimate), _boundary(score, -_Z, estimate, 1.0)


def _boundary(score: Callable[[float], float], wanted: float, low: float, high: float) -> float:
    """Where a falling function reaches `wanted` between low and high."""
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if score(middle) > wanted else (low, middle)
    return (low + high) / 2


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _bootstrapped(value: float, draws: Floats, n: int, scale: float) -> Difference:
    """`scale` is the largest score there is."""
    drawn = draws[~np.isnan(draws)]
    if not len(drawn):
        return Difference(value, -math.inf, math.inf, 1.0, n, "paired bootstrap")
    lower, upper = percentile_interval(drawn, 1 - LEVEL)
    if lower == upper == 0:
        # Resampling claims certainty where the two never differ. Examples in which they differ as much as scores
        # can may still be as frequent as none seen among n allows: the interval of pairs of which none differ.
        upper = tango(0, 0, n)[1] * scale
        lower = -upper
    beyond = min(int(np.sum(drawn <= 0)), int(np.sum(drawn >= 0)))
    p_value = min(1.0, 2 * (beyond + 1) / (len(drawn) + 1))
    return Difference(value, lower, upper, p_value, n, "paired bootstrap")


def _found(
    profile: Profile, metric: Metric, *, stage: str = "", choice: str = "", combination: str = "{}"
) -> AccuracyRow | None:
    for row in profile.accuracy:
        named = (row.stage, row.choice, row.combination, row.metric) == (stage, choice, combination, metric.name)
        if named and row.value is not None:
            return row
    return None


def _row(
    profile: Profile, metric: Metric, *, stage: str = "", choice: str = "", combination: str = "{}"
) -> AccuracyRow:
    row = _found(profile, metric, stage=stage, choice=choice, combination=combination)
    if row is None:
        what = f"{stage}={choice}" if stage else f"the combination {combination}"
        raise InputError(f"{what} has no measured {metric.name} in {profile.path}: profile it first")
    return row


def _compared(
    profile: Profile, stage: str, names: tuple[str, str], metric: Metric, first: AccuracyRow, second: AccuracyRow
) -> Comparison:
    found = _paired(profile, metric, first, second) or _independent(first, second)
    return Comparison(
        stage, *names, metric, found.value, found.lower, found.upper, found.p_value, found.n, found.method
    )


def _paired(profile: Profile, metric: Metric, first: AccuracyRow, second: AccuracyRow) -> Difference | None:
    """The paired difference, or None where the profile does not hold what it takes."""
    scored = profile.scores(first), profile.scores(second)
    name = metric.name
    if all(found is not None and name in found.values for found in scored):
        if len({found.ids for found in scored if found}) == 1:
            a, b = (Scores(found.values[name], found.weights[name]) for found in scored if found)
            return difference_of_scores(a, b)
        return None
    if metric.compute not in ("auc", "f1"):
        return None
    kept = profile.predictions(first), profile.predictions(second)
    if kept[0] is None or kept[1] is None or (kept[0].ids, kept[0].truths) != (kept[1].ids, kept[1].truths):
        return None
    c, d = (_recomputed(metric, predictions) for predictions in kept if predictions)
    if isinstance(c, Scores) or isinstance(d, Scores):
        return difference_of_scores(c, d) if isinstance(c, Scores) and isinstance(d, Scores) else None
    return difference_of_statistics(c, d)


def _recomputed(metric: Metric, kept: Predictions) -> Scores | Statistic:
    return built_in(metric, [*map(from_text, kept.predictions)], [*map(from_text, kept.truths)])


def _independent(first: AccuracyRow, second: AccuracyRow) -> Difference:
    """From the two intervals alone: their distances to the values, squared and added (Newcombe's method 10)."""
    (a, low_a, high_a), (b, low_b, high_b) = _ends(first), _ends(second)
    value = a - b
    lower, upper = value - math.hypot(a - low_a, high_b - b), value + math.hypot(high_a - a, b - low_b)
    towards_zero = value - lower if value > 0 else upper - value
    p_value = 2 * NormalDist().cdf(-abs(value) / towards_zero * _Z) if towards_zero > 0 else float(value == 0)
    return Difference(value, lower, upper, p_value, min(first.n, second.n), "independent intervals")


def _ends(row: AccuracyRow) -> tuple[float, float, float]:
    """Value and interval of a row; without an interval, the value may be anything."""
    assert row.value is not None
    lower = -math.inf if row.lower is None else row.lower
    return row.value, lower, math.inf if row.upper is None else row.upper
