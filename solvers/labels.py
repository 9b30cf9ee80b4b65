"""Exact Pareto labels: every undominated way through a chain of choices.

A *label* is a partial choice, one item for each of the first stages, with a vector of criteria, all to be minimised.
Items of the next stage extend it: criteria add up, or keep their maximum. A label is dropped if another one is no
worse in every criterion: as sums and maxima are monotone, whatever completes the dropped one completes the other at
least as well. It is also dropped if even the best of what is to come leaves a limit exceeded. So the labels that are
left at the end contain, for every undominated vector within the limits, a choice that reaches it.

*Fences.* Limits imply more: any weighted sum of criteria stays below the same sum of their limits. A label is dropped
if such a sum, with the least that every later stage adds to it, is too large already. Which weights cut most,
`multipliers` finds out. Where one of the criteria has to beat a value that is known, that value is one of the limits.

*Slack.* What is so small that no later stage can bring it to its limit any more counts as equal.

*Beam.* A search may be told to go on with only so many items and labels, those with the least first fence; it then says
what that fence is at least for all that it left out, which bounds what it may have missed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inferplan.solvers.clock import in_time

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Bits = NDArray[np.uint64]

MAX_LABELS = 60_000
"""Labels kept after a stage; beyond it another method is faster."""
MAX_CANDIDATES = 12_000_000
MAX_COMPARISONS = 500_000_000
"""Pairs of rows compared where there are more than three criteria."""
_BLOCK = 1024
MADE = "all labels were made"
_PAIRS = 4_000_000
"""Pairs of label and item looked at together."""
_SPREAD = 4
"""Labels compared with one another for each one kept."""
ROUNDING = 1e-9


class TooManyLabels(Exception):
    """The labels do not fit; nothing was decided."""


@dataclass(frozen=True)
class Step:
    """A stage's items and what they do to the criteria.

    `values` is (items, criteria). `merge[g]` lists the criteria so far whose maximum becomes criterion g before the
    values come on top: by sum, or where `maxima[g]` by maximum. `room[g]` is the most that criterion g may be after
    this step such that the limits at the end can still be kept; `start[g]` what it begins with at the first step.
    `slack[g]`: what is below it can no longer reach its limit.
    """

    values: Floats
    merge: tuple[tuple[int, ...], ...]
    maxima: NDArray[np.bool_]
    room: Floats
    start: Floats
    kind: str = ""
    slack: Floats | None = None


@dataclass(frozen=True)
class Fence:
    """A weighted sum of criteria that may be `most` at the end.

    `weights[i]` are those of the criteria after step i, 0 for maxima; `ahead[i]` is the least that later steps add.
    """

    weights: tuple[Floats, ...]
    ahead: Floats
    most: float


@dataclass(frozen=True)
class Labels:
    """Undominated labels at the end: `values` (labels, criteria) and `items` (labels, stages). `left_out` is the least
    first fence of what a limited width left out; infinite where nothing was."""

    values: Floats
    items: Indices
    left_out: float = math.inf


@dataclass(frozen=True)
class Beam:
    """How much a search goes on with: items of a stage, and labels after it, those of the least first fence."""

    labels: int
    items: int


def search(
    steps: Sequence[Step],
    fences: Sequence[Fence] = (),
    beam: Beam | None = None,
    keeps: Callable[[Floats], NDArray[np.bool_]] | None = None,
    deadline: float = math.inf,
) -> Labels:
    """All undominated labels within the limits and fences; of those only the most promising ones, if so asked.

    `keeps`: which labels (labels, criteria) still keep a limit that is no sum; where one does, so does every label that
    dominates it. Raises TooManyLabels, and OutOfTimeError where the `deadline` has passed before the last step.
    """
    values = steps[0].start[None, :]
    items = np.zeros((1, 0), dtype=np.int64)
    allowed, left_out = inside(steps, fences), math.inf
    if beam is not None:
        allowed, left_out = _core(steps, fences[0], allowed, beam.items)
    for index, (step, own) in enumerate(zip(steps, allowed, strict=True)):
        in_time(deadline, MADE)
        if index:
            values = np.stack([values[:, list(sources)].max(axis=1) for sources in step.merge], axis=1)
        pairs = _Pairs(values, step.values[own], step, index, fences)
        most = None if beam is None else _SPREAD * beam.labels
        parent, item, least = pairs.within(most)
        left_out = min(left_out, least)
        grown = pairs.grown(parent, item)
        if keeps is not None:
            may = keeps(grown)
            parent, item, grown = parent[may], item[may], grown[may]
        kept = undominated(grown if step.slack is None else np.maximum(grown, step.slack), deadline=deadline)
        if beam is not None:
            kept, least = _promising(kept, grown, fences[0], index, beam.labels)
            left_out = min(left_out, least)
        elif len(kept) > MAX_LABELS:
            raise TooManyLabels(f"{len(kept)} labels")
        values = grown[kept]
        items = np.concatenate([items[parent[kept]], own[item[kept]][:, None]], axis=1)
    return Labels(values, items, left_out)


def inside(steps: Sequence[Step], fences: Sequence[Fence]) -> list[Indices]:
    """Per step the items with which every fence can be kept, if all others add as little as they can."""
    allowed = [np.ones(len(step.values), dtype=bool) for step in steps]
    for fence in fences:
        sums, rest = _with_rest(steps, fence)
        for may, own, others in zip(allowed, sums, rest, strict=True):
            may &= own + others <= fence.most
    return [np.flatnonzero(may) for may in allowed]


def _with_rest(steps: Sequence[Step], fence: Fence) -> tuple[list[Floats], list[float]]:
    """What every item adds to a fence, and the least that all other stages add."""
    sums = [step.values @ weights for step, weights in zip(steps, fence.weights, strict=True)]
    least = [float(own.min(initial=math.inf)) for own in sums]
    return sums, [math.fsum([*least[:place], *least[place + 1 :]]) for place in range(len(least))]


def _core(steps: Sequence[Step], fence: Fence, allowed: Sequence[Indices], most: int) -> tuple[list[Indices], float]:
    """Of every step the items that add least to a fence, and the least that it is with any other."""
    core, left_out = [], math.inf
    sums, rest = _with_rest(steps, fence)
    for items, own, others in zip(allowed, sums, rest, strict=True):
        if len(items) > most:
            order = np.argsort(own[items], kind="stable")
            left_out = min(left_out, float(own[items[order[most]]]) + others)
            items = items[np.sort(order[:most])]
        core.append(items)
    return core, left_out


class _Pairs:
    """Labels and the items of a step that could extend them."""

    def __init__(self, values: Floats, added: Floats, step: Step, index: int, fences: Sequence[Fence]) -> None:
        self._values, self._added, self._maxima = values, added, step.maxima
        self._fences = [
            (values @ fence.weights[index], added @ fence.weights[index], fence.most - float(fence.ahead[index]))
            for fence in fences
        ]
        limited = np.flatnonzero(np.isfinite(step.room))
        self._sums = [(values[:, g], added[:, g], float(step.room[g])) for g in limited if not step.maxima[g]]
        self._largest = [(values[:, g], added[:, g], float(step.room[g])) for g in limited if step.maxima[g]]
        self._ahead = float(fences[0].ahead[index]) if fences else 0.0

    def within(self, most: int | None) -> tuple[Indices, Indices, float]:
        """Pairs within the room of the step and the fences, in the order of the labels: all, or the `most` of least
        first fence; and the least fence of the others. Raises TooManyLabels."""
        width = max(len(self._added), 1)
        rows = max(1, _PAIRS // width)
        found: list[Indices] = []
        left_out, total = math.inf, 0
        for begin in range(0, len(self._values), rows):
            chosen = np.flatnonzero(self._allowed(slice(begin, begin + rows))) + begin * width
            if most is not None:
                chosen, least = self._least(chosen, width, most)
                left_out = min(left_out, least)
            found.append(chosen)
            total += len(chosen)
            if total > MAX_CANDIDATES:
                raise TooManyLabels(f"{total} candidates")
        every = np.concatenate(found) if found else np.zeros(0, dtype=np.int64)
        if most is not None:
            every, least = self._least(every, width, most)
            left_out = min(left_out, least)
        parent, item = np.divmod(every, width)
        return parent, item, left_out

    def _allowed(self, part: slice) -> NDArray[np.bool_]:
        may = np.ones((len(self._values[part]), len(self._added)), dtype=bool)
        for before, own, most in (*self._fences, *self._sums):
            if math.isfinite(most):
                may &= before[part][:, None] <= (most - own)[None, :]
        for before, own, most in self._largest:
            may &= (before[part] <= most)[:, None] & (own <= most)[None, :]
        return may

    def _least(self, pairs: Indices, width: int, most: int) -> tuple[Indices, float]:
        if len(pairs) <= most:
            return pairs, math.inf
        before, own, _ = self._fences[0]
        reached = before[pairs // width] + own[pairs % width]
        order = np.argpartition(reached, most)
        return pairs[np.sort(order[:most])], float(reached[order[most]]) + self._ahead

    def grown(self, parent: Indices, item: Indices) -> Floats:
        """Criteria of pairs."""
        before, own = self._values[parent], self._added[item]
        if not self._maxima.any():
            return before + own
        return np.where(self._maxima, np.maximum(before, own), before + own)


def _promising(rows: Indices, values: Floats, fence: Fence, index: int, width: int) -> tuple[Indices, float]:
    """The rows of least fence, at most `width`, in their order; and the least fence of the others."""
    if len(rows) <= width:
        return rows, math.inf
    reached = values[rows] @ fence.weights[index] + fence.ahead[index]
    order = np.argsort(reached, kind="stable")
    return rows[np.sort(order[:width])], float(reached[order[width]])


def undominated(points: Floats, most_compared: float = MAX_COMPARISONS, deadline: float = math.inf) -> Indices:
    """Rows that no other row is at least as good as, all columns minimised; of equal rows the first. Rising.

    Columns that are constant, or equal to another, do not matter; two are a sweep, three a staircase that grows with
    the first column. Raises TooManyLabels where more pairs of rows would have to be compared than `most_compared`,
    OutOfTimeError where the `deadline` passes.
    """
    if len(points) == 0:
        return np.zeros(0, dtype=np.int64)
    varying: list[int] = []
    for column in range(points.shape[1]):
        own = points[:, column]
        if np.ptp(own) > 0 and not any(np.array_equal(own, points[:, other]) for other in varying):
            varying.append(column)
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
        kept = _staircase(ordered, deadline)
    else:
        kept = _blocks(ordered, most_compared, deadline)
    return np.sort(order[kept])


def _sweep(ordered: Floats) -> Indices:
    """Undominated rows of two columns in lexicographic order."""
    second = ordered[:, 1]
    best = np.minimum.accumulate(second)
    before = np.concatenate([[np.inf], best[:-1]])
    return np.flatnonzero(second < before)


def _staircase(ordered: Floats, deadline: float) -> Indices:
    """Undominated rows of three columns in lexicographic order: one value of the first column after the other, against
    the staircase of all earlier ones."""
    starts = np.flatnonzero(np.concatenate([[True], np.diff(ordered[:, 0]) > 0]))
    ends = np.concatenate([starts[1:], [len(ordered)]])
    stairs = np.zeros((0, 2))
    kept: list[Indices] = []
    for start, end in zip(starts, ends, strict=True):
        in_time(deadline, MADE)
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


def _blocks(ordered: Floats, most_compared: float, deadline: float) -> Indices:
    """Undominated rows of many columns in lexicographic order: a row can only be dominated by an earlier one, whose
    first column then is no larger."""
    rest = ordered[:, 1:]
    kept = np.zeros(0, dtype=np.int64)
    shields: list[_Shield] = []
    compared = 0
    for start in range(0, len(rest), _BLOCK):
        in_time(deadline, MADE)
        compared += _BLOCK * (len(kept) + _BLOCK)
        if compared > most_compared:
            raise TooManyLabels(f"{len(ordered)} candidates")
        block = np.arange(start, min(start + _BLOCK, len(rest)))
        for shield in shields:
            block = block[~shield.dominates(rest[block])]
            if not len(block):
                break
        if len(block):
            # Whatever an earlier row of the block dominates is dominated by one that stays.
            block = block[~_dominated_earlier(rest[block])]
            # Few rows left of one block share a shield with those of the next.
            full = len(kept) // _BLOCK
            kept = np.concatenate([kept, block])
            begins = range(full * _BLOCK, len(kept), _BLOCK)
            shields[full:] = [_Shield.of(rest[kept[at : at + _BLOCK]]) for at in begins]
    return kept


@dataclass(frozen=True)
class _Shield:
    """Rows that others are compared with, 64 at a time: per column `levels` are their values, rising, and `below` the
    sets of rows, a bit each, that have the first 0, 1, 2, ... of these."""

    levels: tuple[Floats, ...]
    below: tuple[Bits, ...]

    @staticmethod
    def of(rows: Floats) -> _Shield:
        """The shield of rows."""
        orders = [np.argsort(column, kind="stable") for column in rows.T]
        levels = tuple(column[order] for column, order in zip(rows.T, orders, strict=True))
        return _Shield(levels, tuple(_prefixes(order) for order in orders))

    def dominates(self, rows: Floats) -> NDArray[np.bool_]:
        """Whether some row of the shield is at least as good as a row in every column."""
        return np.asarray(self.better(rows).any(axis=1))

    def better(self, rows: Floats) -> Bits:
        """The sets of the shield's rows that are at least as good as each row in every column."""
        sets = [
            below[np.searchsorted(level, column, side="right")]
            for column, level, below in zip(rows.T, self.levels, self.below, strict=True)
        ]
        found: Bits = np.bitwise_and.reduce(sets)
        return found


def _dominated_earlier(rows: Floats) -> NDArray[np.bool_]:
    """Whether some earlier row is at least as good in every column."""
    earlier = _prefixes(np.arange(len(rows)))[:-1]
    return np.asarray((_Shield.of(rows).better(rows) & earlier).any(axis=1))


def _prefixes(order: Indices) -> Bits:
    """The sets of the first 0, 1, 2, ... of some rows, a bit each."""
    bits = np.zeros((len(order) + 1, (len(order) + 63) // 64), dtype=np.uint64)
    bits[np.arange(1, len(order) + 1), order // 64] = np.uint64(1) << (order % 64).astype(np.uint64)
    np.bitwise_or.accumulate(bits, axis=0, out=bits)
    return bits


def reached(steps: Sequence[Step], items: Sequence[int]) -> Floats:
    """Criteria after the last step of one choice of items."""
    values = steps[0].start
    for index, (step, item) in enumerate(zip(steps, items, strict=True)):
        if index:
            values = np.array([values[list(sources)].max() for sources in step.merge])
        own = step.values[item]
        values = np.where(step.maxima, np.maximum(values, own), values + own)
    return values
