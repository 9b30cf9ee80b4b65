"""Planning on bounds: every measured mean at its upper, every accuracy at its lower bound.

A profile's intervals are two-sided at 95 %: their ends are one-sided bounds at 97.5 %. For another confidence c the
distance from the estimate is scaled by z(c) / z(0.975), as if estimates were normal. An interpolated point has the
bound that its prediction came with. What has no interval (imported and declared figures) stands as it is, and is
named. Each bound holds with this confidence by itself.
"""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import NormalDist

from inferplan.estimators.accuracy import AccuracyEstimate, AccuracyModel, Moved, Turn
from inferplan.estimators.points import Points
from inferplan.estimators.service import ServiceModel, ServicePoint

MEASURED_AT = 0.975
"""One-sided confidence of the ends of a profile's 95 % intervals."""


def widening(confidence: float) -> float:
    """By how much an interval's half is to be scaled for one-sided bounds at another confidence."""
    return NormalDist().inv_cdf(confidence) / NormalDist().inv_cdf(MEASURED_AT)


def slow_points(points: Points, confidence: float) -> Points:
    """The same points, each as slow as it may be."""
    models = {key: _slow(model, confidence) for key, model in points.models.items()}
    return replace(points, models=models)


def _slow(model: ServiceModel, confidence: float) -> ServiceModel:
    return replace(model, points=tuple(_slow_point(point, confidence) for point in model.points))


def _slow_point(point: ServicePoint, confidence: float) -> ServicePoint:
    row = point.row
    upper = row.service.mean_upper_s if row is not None else None
    if row is None or upper is None or row.service.mean_s is None or not math.isfinite(upper):
        return point
    scale = 1.0 if row.origin == "interpolated" else widening(confidence)
    slower = 1 + max(upper / row.service.mean_s - 1, 0.0) * scale
    # Samples are scaled to a mean where a point says whose distribution it takes.
    shape = point.shape or (row.key if row.origin == "measured" else None)
    return replace(point, mean_s=point.mean_s * slower, std_s=point.std_s * slower, shape=shape)


def low_accuracy(model: AccuracyModel, confidence: float) -> AccuracyModel:
    """The same model, each measured metric as bad as it may be."""
    return replace(
        model,
        values={key: _low(value, model.turn, confidence) for key, value in model.values.items()},
        measured={key: _low(value, model.turn, confidence) for key, value in model.measured.items()},
        rule=None if model.rule is None else Moved(model.rule, model.turn, better=False, share=widening(confidence)),
    )


def _low(value: AccuracyEstimate, turn: Turn, confidence: float) -> AccuracyEstimate:
    end = value.lower if turn.direction == "maximize" else value.upper
    if end is None:
        return value
    return AccuracyEstimate(value.value + (end - value.value) * widening(confidence), source=value.source)


def without_interval(model: ServiceModel, max_batch: int) -> list[int]:
    """Batches of a model up to this one whose mean has no upper bound."""
    return [
        point.batch
        for point in model.points
        if point.batch <= max_batch and (point.row is None or point.row.service.mean_upper_s is None)
    ]
