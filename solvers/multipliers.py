"""Weights under which sums of criteria cut labels best: Lagrange multipliers of a chain.

One item per stage is chosen; criteria that are sums run through the stages along *lines* (where criteria merge by
their maximum, every way through the merging is a line of its own, never more than the maximum). For a goal c and
limits R x <= b, all of them linear in the lines, every μ >= 0 bounds the goal from below:

    D(μ) = Σ_stages min_items (c + μ R) x  -  μ b.

D is concave. It is maximised by the ellipsoid method (Shor 1977; deep cuts as in Bland, Goldfarb and Todd, 1981):
there are few limits, its steps need one subgradient each, and it says how far from the maximum it is. Any μ gives
a valid bound, so that where it stops decides how much is cut and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from inferplan.solvers.labels import Fence, Floats, Indices, Step

_RADIUS = 50.0
"""Where multipliers are looked for, with goal and limits scaled to the range that items give them."""
_STEPS = 400
_CLOSE = 1e-4
"""Of the goal's range: how far from the maximum the ellipsoid method stops."""
_MARGIN = 1e-9


@dataclass(frozen=True)
class Lines:
    """Items of all stages by the lines' values (items, lines), where each stage begins, and the lines' places.

    `places[i]` (lines,) are the criteria after step i that the lines run through.
    """

    values: Floats
    begins: Indices
    places: Indices

    def sums(self, weights: Floats) -> Floats:
        """Weighted sums of the lines, by item."""
        found: Floats = self.values @ weights
        return found


def lines_of(steps: Sequence[Step]) -> Lines:
    """All lines through the criteria that are sums."""
    last = steps[-1]
    traces: list[tuple[int, ...]] = [(int(place),) for place in np.flatnonzero(~last.maxima)]
    for step in reversed(steps[1:]):
        traces = [(source, *trace) for trace in traces for source in step.merge[trace[0]]]
    places = np.array(traces, dtype=np.int64).reshape(-1, len(steps)).T
    values = np.concatenate([step.values[:, own] for step, own in zip(steps, places, strict=True)])
    begins = np.concatenate([[0], np.cumsum([len(step.values) for step in steps])[:-1]])
    return Lines(values, begins, places)


def multipliers(lines: Lines, goal: Floats, limits: Floats, most: Floats) -> tuple[Floats, float]:
    """Multipliers of `limits` (limits, lines) @ line <= `most`, and how large a goal (lines,) they prove it to be."""
    costs, takes = lines.sums(goal), lines.values @ limits.T
    if len(most) == 0:
        return np.zeros(0), float(np.minimum.reduceat(costs, lines.begins).sum())
    unit = _range(costs[:, None], lines.begins)[0]
    units = _range(takes, lines.begins)
    found, bound = _ascended(costs / unit, takes / units, most / units, lines.begins)
    return found * unit / units, float(bound * unit)


def fence(steps: Sequence[Step], lines: Lines, weights: Floats, most: float) -> Fence:
    """The fence of a weighted sum of lines."""
    per_step = [
        np.bincount(places, weights, minlength=len(step.maxima)).astype(np.float64)
        for step, places in zip(steps, lines.places, strict=True)
    ]
    least = [float((step.values @ own).min(initial=math.inf)) for step, own in zip(steps, per_step, strict=True)]
    ahead = np.concatenate([np.cumsum(least[::-1])[::-1][1:], [0.0]])
    size = sum(abs(value) for value in least) + abs(most)
    return Fence(tuple(per_step), ahead, most + _MARGIN * size)


def _range(values: Floats, begins: Indices) -> Floats:
    """How far sums over the stages may differ, by column; 1 where they cannot."""
    spread = (np.maximum.reduceat(values, begins) - np.minimum.reduceat(values, begins)).sum(axis=0)
    result: Floats = np.where(spread > 0, spread, 1.0)
    return result


def _ascended(costs: Floats, takes: Floats, most: Floats, begins: Indices) -> tuple[Floats, float]:
    """The best multipliers found, and their bound. All is scaled to a range of 1."""
    # The ellipsoid needs two dimensions: one that decides nothing does no harm.
    count = len(most)
    size = max(count, 2)
    centre = np.zeros(size)
    centre[:count] = 1.0
    shape = np.eye(size) * _RADIUS**2
    best, found = -math.inf, np.zeros(count)
    ends = [*begins[1:].tolist(), len(costs)]
    stages = list(zip(begins.tolist(), ends, strict=True))
    for _ in range(_STEPS):
        depth = 0.0
        downhill = np.zeros(size)
        negative = int(np.argmin(centre[:count]))
        if centre[negative] < 0:
            downhill[negative], depth = -1.0, -centre[negative]
        else:
            reduced = costs + takes @ centre[:count]
            chosen = [begin + int(reduced[begin:end].argmin()) for begin, end in stages]
            value = float(reduced[chosen].sum() - most @ centre[:count])
            downhill[:count] = most - takes[chosen].sum(axis=0)
            if value > best:
                best, found = value, centre[:count].copy()
            depth = best - value
        reach = math.sqrt(max(float(downhill @ shape @ downhill), 0.0))
        if reach <= max(depth, 1e-300) or (centre[negative] >= 0 and reach <= _CLOSE):
            break
        alpha = depth / reach
        step = shape @ downhill / reach
        centre = centre - (1 + size * alpha) / (size + 1) * step
        shape = (
            (size**2 / (size**2 - 1.0))
            * (1 - alpha**2)
            * (shape - 2 * (1 + size * alpha) / ((size + 1) * (1 + alpha)) * np.outer(step, step))
        )
    return found, best
