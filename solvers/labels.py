"""Exact Pareto labels: every undominated way through a chain of choices.

A *label* is a partial choice, one item for each of the first stages, with a vector of criteria, all to be minimised.
Items of the next stage extend it: criteria add up, or keep their maximum. A label is dropped if another one is no
worse in every criterion: as sums and maxima are monotone, whatever completes the dropped one completes the other at
least as well. It is also dropped if even the best of what is to come leaves a limit exceeded. So the labels that are
left at the end contain, for every undominated vector within the limits, a choice that reaches it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

MAX_LABELS = 60_000
"""Labels kept after a stage; beyond it another method is faster."""
MAX_CANDIDATES = 12_000_000
MAX_COMPARISONS = 500_000_000
"""Pairs of rows compared where there are more than three criteria."""
_BLOCK = 2048
ROUNDING = 1e-9


class TooManyLabels(Exception):
    """The labels do not fit; nothing was decided."""


@dataclass(frozen=True)
class Step:
    """A stage's items and what they do to the criteria.

    `values` is (items, criteria). `merge[g]` lists the criteria so far whose maximum becomes criterion g before the
    values come on top: by sum, or where `maxima[g]` by maximum. `room[g]` is the most that criterion g may be after
    this step such that the limits at the end can still be kept; `start[g]` what it begins with at the first step.
    """

    values: Floats
    merge: tuple[tuple[int, ...], ...]
    maxima: NDArray[np.bool_]
    room: Floats
    start: Floats
    kind: str = ""


@dataclass(frozen=True)
class Labels:
    """Undominated labels at the end: `values` (labels, criteria) and `items` (labels, stages)."""

    values: Floats
    items: Indices


def search(steps: Sequence[Step]) -> Labels:
    """All undominated labels within the limits. Raises TooManyLabels."""
    values = steps[0].start[None, :]
    items = np.zeros((1, 0), dtype=np.int64)
    for index, step in enumerate(steps):
        if index:
            values = np.stack([values[:, list(sources)].max(axis=1) for sources in step.merge], axis=1)
        if len(values) * len(step.values) > MAX_CANDIDATES:
            raise TooManyLabels(f"{len(values)} labels x {len(step.values)} items")
        before, added = values[:, None, :], step.values[None, :, :]
        grown = np.where(step.maxima, np.maximum(before, added), before + added).reshape(-1, values.shape[1])
        allowed = np.flatnonzero((grown <= step.room).all(axis=1))
        kept = allowed[undominated(grown[allowed])]
        if len(kept) > MAX_LABELS:
            raise TooManyLabels(f"{len(kept)} labels")
        parent, item = np.divmod(kept, len(step.values))
        values = grown[kept]
        items = np.concatenate([items[parent], item[:, None]], axis=1)
    return Labels(values, items)


def undominated(points: Floats) -> Indices:
    """Rows that no other row is at least as good as, all columns minimised; of equal rows the first. Rising.

    Columns that are constant do not matter; two are a sweep, three a staircase that grows with the first column.
    """
    if len(points) == 0:
        return np.zeros(0, dtype=np.int64)
    varying = [column for column in range(points.shape[1]) if np.ptp(points[:, column]) > 0]
    if not varying:
        return np.zeros(1, dtype=np.int64)
    # Few distinct values first: groups of them share a staircase.
    varying.sort(key=lambda column: len(np.unique(points[:, column])))
    chosen = points[:, varying]
    order = np.lexsort((np.arange(len(chosen)), *chosen.T[::-1]))
    ordered = chosen[order]
    if ordered.shape[1] == 1:
        kept = np.zeros(1, dtype=np.int64)
    elif ordered.shape[1] == 2:
        kept = _sweep(ordered)
    elif ordered.shape[1] == 3:
        kept = _staircase(ordered)
    else:
        kept = _blocks(ordered)
    return np.sort(order[kept])


def _sweep(ordered: Floats) -> Indices:
    """Undominated rows of two columns in lexicographic order."""
    second = ordered[:, 1]
    best = np.minimum.accumulate(second)
    before = np.concatenate([[np.inf], best[:-1]])
    return np.flatnonzero(second < before)


def _staircase(ordered: Floats) -> Indices:
    """Undominated rows of three columns in lexicographic order: one value of the first column after the other, against
    the staircase of all earlier ones."""
    starts = np.flatnonzero(np.concatenate([[True], np.diff(ordered[:, 0]) > 0]))
    ends = np.concatenate([starts[1:], [len(ordered)]])
    stairs = np.zeros((0, 2))
    kept: list[Indices] = []
    for start, end in zip(starts, ends, strict=True):
        group = ordered[start:end, 1:]
        # The lowest third column among earlier rows whose second is no larger.
        place = np.searchsorted(stairs[:, 0], group[:, 0], side="right")
        lowest = np.concatenate([[np.inf], stairs[:, 1]])[place]
        candidates = np.flatnonzero(group[:, 1] < lowest)
        new = candidates[_sweep(group[candidates])] if len(candidates) else candidates
        kept.append(new + start)
        if len(new):
            both = np.concatenate([stairs, group[new]])
            both = both[np.lexsort((both[:, 1], both[:, 0]))]
            stairs = both[_sweep(both)]
    return np.concatenate(kept)


def _blocks(ordered: Floats) -> Indices:
    """Undominated rows of many columns in lexicographic order: a row can only be dominated by an earlier one."""
    kept = np.zeros(0, dtype=np.int64)
    compared = 0
    for start in range(0, len(ordered), _BLOCK):
        compared += _BLOCK * (len(kept) + _BLOCK)
        if compared > MAX_COMPARISONS:
            raise TooManyLabels(f"{len(ordered)} candidates")
        block = np.arange(start, min(start + _BLOCK, len(ordered)))
        for before in range(0, len(kept), _BLOCK):
            earlier = ordered[kept[before : before + _BLOCK]]
            block = block[~_dominated(ordered[block], earlier)]
            if not len(block):
                break
        own = ordered[block]
        if len(block):
            # Whatever an earlier row of the block dominates is dominated by one that stays.
            worse = np.ones((len(own), len(own)), dtype=bool)
            for column in own.T:
                worse &= column[None, :] >= column[:, None]
            kept = np.concatenate([kept, block[~np.triu(worse, 1).any(axis=0)]])
    return kept


def _dominated(rows: Floats, by: Floats) -> NDArray[np.bool_]:
    """Whether some row of `by` is at least as good in every column."""
    worse = np.ones((len(by), len(rows)), dtype=bool)
    for column, other in zip(rows.T, by.T, strict=True):
        worse &= column[None, :] >= other[:, None]
    return np.asarray(worse.any(axis=0))
