"""Per-stage response: a stage's output accuracy as a function of the accuracies of what it is given.

Stages are walked in the order of the DAG. A stage that requests enter at puts out its own metric. Another stage s with
the choice c puts out

    a[s] = f[s,c](a[p] for every stage p that feeds s)

where f is the curve that the workload declares: its points exactly, straight lines between them, along every axis
where several stages feed s (multilinear on the grid of points: the joint effect of the inputs is what was tabulated,
not a product). The last stage's output is the end-to-end accuracy.

Without declared curves, a stage before the last multiplies its own metric into the product of its inputs'; the last
stage gets a curve per choice over the product of its inputs' accuracies, made of the combinations that were measured
end to end with that choice: the isotonic (monotone least squares) fit through (input, measured accuracy).

Nothing is extrapolated: an input outside a declared curve is an error that says so; outside a curve made of measured
combinations the accuracy is not known. Ends of intervals are clipped to the curve.

Intervals: the inputs' ends move the output, each on its own, adding in quadrature (`composition.spread`); the
distance to the measured points' own ends is added to that likewise.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inferplan.estimators.composition import AccuracyEstimate, Key, Turn, made_of, spread
from inferplan.spec.errors import InputError
from inferplan.spec.response import CurvePoint
from inferplan.spec.workload import Workload

Floats = NDArray[np.float64]
ROUNDING = 1e-9
"""Inputs this far outside of a curve are at its end: sums of floats are not exact."""


@dataclass(frozen=True)
class Grid:
    """A declared curve: outputs [n1, n2, ...] over rising values per feeding stage (sorted by name)."""

    where: str
    parents: tuple[str, ...]
    axes: tuple[Floats, ...]
    outputs: Floats

    def at(self, inputs: Sequence[float]) -> float:
        """The output, inputs clipped to the curve."""
        corners: list[tuple[tuple[int, float], ...]] = []
        for axis, value in zip(self.axes, inputs, strict=True):
            high = int(np.clip(np.searchsorted(axis, value), 1, len(axis) - 1))
            share = float(np.clip((value - axis[high - 1]) / (axis[high] - axis[high - 1]), 0.0, 1.0))
            corners.append(((high - 1, 1.0 - share), (high, share)))
        return math.fsum(
            math.prod(weight for _, weight in corner) * float(self.outputs[tuple(index for index, _ in corner)])
            for corner in itertools.product(*corners)
        )

    def check(self, inputs: Sequence[float]) -> None:
        """Raises InputError where an input lies outside of the curve."""
        for parent, axis, value in zip(self.parents, self.axes, inputs, strict=True):
            if not axis[0] - ROUNDING <= value <= axis[-1] + ROUNDING:
                raise InputError(
                    f"{self.where} covers accuracies of {parent} from {axis[0]:g} to {axis[-1]:g}; it is given"
                    f" {value:g}: add points to the curve, or take out the choices that lead there"
                )


@dataclass(frozen=True)
class Measured:
    """A curve made of measured combinations: rising inputs, outputs and the ends of their intervals."""

    inputs: Floats
    outputs: Floats
    lower: Floats | None
    upper: Floats | None

    def covers(self, value: float) -> bool:
        """Whether an input lies between measured ones."""
        return bool(self.inputs[0] - ROUNDING <= value <= self.inputs[-1] + ROUNDING)


@dataclass(frozen=True)
class Responses:
    """The composition of a workload."""

    order: tuple[str, ...]
    parents: Mapping[str, tuple[str, ...]]
    values: Mapping[tuple[str, str], AccuracyEstimate]
    grids: Mapping[tuple[str, str], Grid]
    curves: Mapping[str, Measured]
    """Of the last stage's choices, where it has no declared ones."""

    @property
    def last(self) -> str:
        """The stage whose output is the answer."""
        return self.order[-1]

    @property
    def _last_is_measured(self) -> bool:
        return bool(self.parents[self.last]) and not any(stage == self.last for stage, _ in self.grids)

    def of(self, variants: Mapping[str, str]) -> AccuracyEstimate | None:
        """The accuracy of a combination; None where something it takes is not known."""
        outputs: dict[str, AccuracyEstimate] = {}
        for stage in self.order:
            inputs = [outputs[parent] for parent in self.parents[stage]]
            found = self._output(stage, variants[stage], inputs)
            if found is None:
                return None
            outputs[stage] = found
        return outputs[self.last]

    def _output(self, stage: str, choice: str, inputs: list[AccuracyEstimate]) -> AccuracyEstimate | None:
        grid = self.grids.get((stage, choice))
        if grid is not None:
            grid.check([part.value for part in inputs])
            return _composed(inputs, grid.at)
        if stage == self.last and self._last_is_measured:
            curve = self.curves.get(choice)
            given = _composed(inputs, math.prod)
            return None if curve is None or not curve.covers(given.value) else _along(curve, given)
        own = self.values.get((stage, choice))
        if own is None or not inputs:
            return own
        return _composed([*inputs, own], math.prod)

    def given(self, variants: Mapping[str, str]) -> float | None:
        """Product of the accuracies that the last stage is given; None where one is not known."""
        outputs: dict[str, AccuracyEstimate] = {}
        for stage in self.order[:-1]:
            found = self._output(stage, variants[stage], [outputs[parent] for parent in self.parents[stage]])
            if found is None:
                return None
            outputs[stage] = found
        return math.prod(outputs[parent].value for parent in self.parents[self.last])

    def knows(self, stage: str, choice: str) -> bool:
        """Whether the choice has a curve or a metric, whichever it takes."""
        if stage == self.last and self._last_is_measured:
            return choice in self.curves
        return (stage, choice) in self.grids or (stage, choice) in self.values


def responses(
    workload: Workload,
    values: Mapping[tuple[str, str], AccuracyEstimate],
    measured: Mapping[Key, AccuracyEstimate],
    turn: Turn,
) -> Responses:
    """The response composition of a workload; `measured` by choices in the order of the stages' names."""
    assert workload.accuracy is not None
    order = tuple(workload.pipeline.order())
    last = workload.pipeline.last_stages()[0]
    order = (*(stage for stage in order if stage != last), last)
    parents = {s: tuple(sorted(e.source for e in workload.pipeline.edges if e.target == s)) for s in order}
    grids = {
        (stage, choice): _grid(f"the response curve of {stage}={choice}", parents[stage], points)
        for stage, response in workload.accuracy.responses.items()
        for choice, points in response.curves.items()
    }
    bare = Responses(order, parents, values, grids, {})
    return Responses(order, parents, values, grids, _curves(bare, measured, turn))


def _grid(where: str, parents: tuple[str, ...], points: Sequence[CurvePoint]) -> Grid:
    table = {tuple(point.given[parent] for parent in parents): point.output for point in points}
    axes = [sorted({at[index] for at in table}) for index in range(len(parents))]
    outputs = np.array([table[at] for at in itertools.product(*axes)]).reshape([len(axis) for axis in axes])
    return Grid(where, parents, tuple(np.array(axis) for axis in axes), outputs)


def _curves(bare: Responses, measured: Mapping[Key, AccuracyEstimate], turn: Turn) -> dict[str, Measured]:
    """A curve per choice of the last stage that was measured with at least two different inputs."""
    stages = sorted(bare.order)
    seen: dict[str, list[tuple[float, AccuracyEstimate]]] = {}
    for key, estimate in measured.items():
        variants = dict(zip(stages, key, strict=True))
        given = bare.given(variants) if bare.parents[bare.last] else None
        if given is not None:
            seen.setdefault(variants[bare.last], []).append((given, estimate))
    return {
        choice: _isotonic(points, turn)
        for choice, points in sorted(seen.items())
        if len({round(given, 9) for given, _ in points}) > 1
    }


def _isotonic(points: Sequence[tuple[float, AccuracyEstimate]], turn: Turn) -> Measured:
    ordered = sorted(points, key=lambda point: (point[0], turn.turned(point[1].value)))
    inputs = np.array([given for given, _ in ordered])
    ends = [
        None
        if any(getattr(e, end) is None for _, e in ordered)
        else _rising([getattr(e, end) for _, e in ordered], turn)
        for end in ("lower", "upper")
    ]
    at, first = np.unique(inputs, return_inverse=True)
    means = [
        None if values is None else np.bincount(first, values) / np.bincount(first)
        for values in (_rising([e.value for _, e in ordered], turn), *ends)
    ]
    assert means[0] is not None
    return Measured(at, means[0], means[1], means[2])


def _rising(values: Sequence[float], turn: Turn) -> Floats:
    """The nearest sequence (least squares) that never gets worse: pool adjacent violators."""
    pools: list[tuple[float, int]] = []
    for value in values:
        mean, count = turn.turned(value), 1
        while pools and pools[-1][0] > mean:
            before, weight = pools.pop()
            mean, count = (mean * count + before * weight) / (count + weight), count + weight
        pools.append((mean, count))
    return np.array([turn.turned(mean) for mean, count in pools for _ in range(count)])


def _composed(parts: Sequence[AccuracyEstimate], at: Callable[[Sequence[float]], float]) -> AccuracyEstimate:
    value = at([part.value for part in parts])
    lower, upper = spread(value, parts, at)
    return AccuracyEstimate(value, lower, upper, made_of(parts))


def _along(curve: Measured, given: AccuracyEstimate) -> AccuracyEstimate:
    value = float(np.interp(given.value, curve.inputs, curve.outputs))
    lower, upper = spread(value, [given], lambda at: float(np.interp(at[0], curve.inputs, curve.outputs)))
    if lower is None or upper is None or curve.lower is None or curve.upper is None:
        return AccuracyEstimate(value, source=made_of([given]))
    down = max(value - float(np.interp(given.value, curve.inputs, curve.lower)), 0.0)
    up = max(float(np.interp(given.value, curve.inputs, curve.upper)) - value, 0.0)
    return AccuracyEstimate(
        value, value - math.hypot(value - lower, down), value + math.hypot(upper - value, up), made_of([given])
    )
