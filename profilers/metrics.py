"""The metrics of one evaluation: what `score` returned and what the workload computes, each with its interval.

A computed metric is a built-in one (`spec.metrics`) or a function of (predictions, truths) next to the
workload. The function returns one number per example, a pair (values, weights), or one number for all. Such a
number, macro F1 and AUC have no scores per example: their interval comes from making them anew for resamples of
the examples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inferplan.profilers.statistics import INTERVAL_CONFIDENCE, interval, wilson
from inferplan.spec.errors import InputError
from inferplan.spec.evidence import code_sha256, combined_sha256
from inferplan.spec.metrics import Statistic, built_in, value_of
from inferplan.spec.resampling import percentile_interval, resample_counts
from inferplan.spec.rows import METRICS_MARK
from inferplan.spec.stage import BUILT_IN_METRICS, Metric
from inferplan.spec.stagecode import Scores, as_scores
from inferplan.spec.usercode import load_function

FEWEST_RESAMPLES = 200
LONGEST_S = 20.0
"""A slow function is drawn for no longer than this, once there are `FEWEST_RESAMPLES`."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Evaluated:
    """A metric with its 95 % interval. `scores` has it per example, where it is a mean of such values; without
    a value, `reason` says why."""

    value: float | None
    lower: float | None = None
    upper: float | None = None
    method: str = ""
    n: int = 0
    scores: Scores | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class FunctionOf:
    """One number that the user's function makes of all predictions and truths."""

    function: Callable[[list[Any], list[Any]], Any]
    predictions: Sequence[Any]
    truths: Sequence[Any]

    @property
    def n(self) -> int:
        return len(self.truths)

    @property
    def least(self) -> int:
        """Nobody knows what a perfect value would be."""
        return 0

    def values(self, counts: Floats) -> Floats:
        return np.array([self._value(row.astype(np.int64)) for row in counts])

    def _value(self, row: NDArray[np.int64]) -> float:
        picks = np.repeat(np.arange(self.n), row).tolist()
        try:
            return float(self.function([self.predictions[i] for i in picks], [self.truths[i] for i in picks]))
        except (ValueError, ZeroDivisionError, ArithmeticError):
            return math.nan  # a resample may lack what the metric needs, such as one of two classes


def computed_metrics(metric: Metric | None) -> tuple[Mapping[str, Any], ...]:
    """The metric as jobs carry it where it is to be computed; nothing where the code's `score` has it."""
    return () if metric is None or metric.compute is None else (metric.model_dump(mode="json"),)


def with_metrics(inference_sha256: str, metrics: Sequence[Mapping[str, Any]], root: Path) -> str:
    """The evidence of accuracies: that of the inference, and after a mark that of the metrics computed from it.

    Raises InputError where a function's file is missing.
    """
    if not metrics:
        return inference_sha256
    parts = []
    for metric in metrics:
        own = None if metric["compute"] in BUILT_IN_METRICS else code_sha256(metric["compute"], {}, root)
        parts.append([metric["name"], metric["compute"], metric["k"], own])
    return f"{inference_sha256}{METRICS_MARK}{combined_sha256(*parts)[:16]}"


def evaluate(
    scores: Mapping[str, Scores],
    metrics: Sequence[Mapping[str, Any]],
    predictions: Sequence[Any],
    truths: Sequence[Any],
    root: Path,
) -> Generator[None, None, dict[str, Evaluated]]:
    """Metric name -> what became of it; a computed metric comes before a score of its name.

    Yields now and then while it resamples, as a sign of life.
    """
    found = {name: of_scores(score) for name, score in scores.items()}
    for data in metrics:
        metric = Metric(**data)
        try:
            made = computed(metric, predictions, truths, root)
            found[metric.name] = of_scores(made) if isinstance(made, Scores) else (yield from of_statistic(made))
        except InputError as error:
            found[metric.name] = Evaluated(None, n=len(truths), reason=error.message)
    return found


def computed(metric: Metric, predictions: Sequence[Any], truths: Sequence[Any], root: Path) -> Scores | Statistic:
    """A metric of predictions and truths. Raises InputError where it cannot be had."""
    if metric.compute in BUILT_IN_METRICS:
        return built_in(metric, predictions, truths)
    function = load_function(str(metric.compute), root)
    try:
        made = function(list(predictions), list(truths))
    except Exception as error:
        raise InputError(f"{metric.compute} raised {type(error).__name__}: {error}") from error
    if np.ndim(made) != 0 or isinstance(made, Scores):
        return as_scores(made, len(truths), str(metric.compute))
    if not isinstance(made, int | float | np.number | np.ndarray | np.bool_) or not math.isfinite(made):
        raise InputError(f"{metric.compute}: expected numbers per example or one number, got {made!r}")
    return FunctionOf(function, predictions, truths)


def of_scores(scores: Scores) -> Evaluated:
    """A mean of per-example values."""
    if not math.isfinite(scores.value):
        return Evaluated(None, n=len(scores.values), reason="no example had a weight: the metric has no value")
    return Evaluated(scores.value, *interval(scores), n=len(scores.values), scores=scores)


def of_statistic(statistic: Statistic) -> Generator[None, None, Evaluated]:
    """A metric that is made anew for every resample. Yields while it does so."""
    value = value_of(statistic)
    draws = yield from _draws(statistic)
    known = draws[~np.isnan(draws)]
    if not math.isfinite(value) or not len(known):
        return Evaluated(None, n=statistic.n, reason="the metric has no value for these examples")
    # Resamples lack some of the examples, and so some classes: on average they are off by as much as this.
    bias = float(known.mean()) - value
    lower, upper = percentile_interval(known - bias, INTERVAL_CONFIDENCE)
    if statistic.least and value in (0.0, 1.0) and not np.ptp(known):
        # Resampling claims certainty where nothing is wrong, or nothing right.
        return Evaluated(value, *wilson(value * statistic.least, statistic.least), "wilson", statistic.n)
    if statistic.least:  # the built-in ones lie between 0 and 1
        lower, upper = max(0.0, lower), min(1.0, upper)
    return Evaluated(value, min(lower, value), max(upper, value), "bootstrap", statistic.n)


def _draws(statistic: Statistic) -> Generator[None, None, Floats]:
    at_once = 1 if isinstance(statistic, FunctionOf) else 50
    found: list[Floats] = []
    start = monotonic()
    for counts in resample_counts(statistic.n):
        for part in np.array_split(counts, math.ceil(len(counts) / at_once)):
            found.append(statistic.values(part))
            yield
            if len(found) * at_once >= FEWEST_RESAMPLES and monotonic() - start > LONGEST_S:
                return np.concatenate(found)
    return np.concatenate(found)
