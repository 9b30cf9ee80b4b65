"""Shares between the tabulated ones, where one class of requests is split.

The table has multiples of 1/20 (`parts`). Whether a share in between would be better is settled cell by cell: a cell is
a range [a, b] of the share w of the smaller part. Its *relaxation* lets both parts have the least load they have in it,
λ (1 - b) and λ a, and the mean accuracy of either end, which is as far as a mean that is linear in w can go:

    every plan with a share in the cell is one of the relaxation, at no lower objective,

as long as a queue is no slower at less load (where batches wait to fill that does not hold to the last bit). So a cell
whose relaxation is not better than the plan that was found has no better plan. Any other cell is cut in two, beginning
with all shares there are; a share in the middle that the table does not have joins it, and the search goes on with it
where that is better. This ends at cells of 1/640: a better plan that is missed keeps its promises over a range of
shares no wider than that.
"""

from __future__ import annotations

import time
from dataclasses import replace

from inferplan.solvers.mixtures import MixtureSolver
from inferplan.solvers.parts import STEPS, splits, whole, with_pattern
from inferplan.solvers.problem import ClassNeed, Problem
from inferplan.solvers.search import Search

FINEST = 640
"""Shares are looked at to so many parts of a class: a power of two times the tabulated steps."""
TABULATED = FINEST // STEPS[1]
TIME = 0.5
"""Of the time that is left: explaining the plan takes some, too."""
BARELY = 1e-9
"""Share of a part that is there at all."""
Cell = tuple[int, int]
"""Ends of a cell, in FINEST parts."""


def refine(search: Search) -> None:
    """Look for better plans with shares between the tabulated ones, until there are none, or time is short."""
    solver, problem = search.program, search.problem
    needs = whole(problem)
    if not isinstance(solver, MixtureSolver) or len(needs) > 1 or needs[0].burst_of > 1 or not splits(problem):
        return
    cells: list[Cell] = [(0, FINEST // 2)]
    until = time.monotonic() + TIME * (search.deadline - time.monotonic())
    looked = 0
    while cells and search.closed and time.monotonic() < until:
        cells = [cell for cell in cells if _open(search, solver, cell, until)]
        wide = [cell for cell in cells if cell[1] - cell[0] > 1]
        if not wide:
            break
        middles = [_middle(cell) for cell in wide]
        new = [w / FINEST for w in middles if w % TABULATED]
        if new:
            finer = solver.of([with_pattern(problem, ((1 - w, w),)) for w in new])
            looked += len(new)
            better = _asked(search, finer, until)
            solver.add(finer)
            if better:
                search.go_on(search.ask)
        halves = [half for (low, high), w in zip(wide, middles, strict=True) for half in ((low, w), (w, high))]
        cells = [*(cell for cell in cells if cell not in wide), *halves]
    search.story.append(_says(looked, cells, time.monotonic() >= until or not search.closed))


def _middle(cell: Cell) -> int:
    """Where to cut a cell: at a tabulated share, while there is one within."""
    low, high = cell
    middle = (low + high) // 2
    return middle - middle % TABULATED if high - low > TABULATED else middle


def _open(search: Search, solver: MixtureSolver, cell: Cell, until: float) -> bool:
    """Whether a share in a cell could be better, as far as is known; one for which there was no time could."""
    (need,) = whole(search.problem)
    low, high = (end / FINEST for end in cell)
    relaxed = [_relaxed(search.problem, need, low, high, end) for end in (low, high)]
    return time.monotonic() >= until or _asked(search, solver.of(relaxed), until)


def _asked(search: Search, solver: MixtureSolver, until: float) -> bool:
    """Whether these programs have a plan better than the one that was found, or did not tell in time."""
    question = replace(search.question(search.scales), goals=(search.ask.objective,))
    if search.incumbent is not None:
        question = replace(question, better_than=search.incumbent.worth(search.ask))
    found = solver.ask(question, max(until - time.monotonic(), 0.05), search.gap)
    return found is not None or solver.timed_out


def _relaxed(problem: Problem, need: ClassNeed, low: float, high: float, end: float) -> Problem:
    """The instance with both parts as small as they are in a cell, and the accuracies weighed as at one end of it."""
    weights = min(max(end, BARELY), 1 - BARELY)
    split = with_pattern(problem, ((1 - weights, weights),))
    least = ((1 - high, 1 - low), (max(low, BARELY), high))
    classes = tuple(
        replace(
            part,
            rate_rps=need.rate_rps * few,
            # 1 + w (c² - 1): least at the end where it is.
            uneven=replace(part.uneven, scv=min(1 + w * (need.uneven.scv - 1) for w in (few, many))),
        )
        for part, (few, many) in zip(split.classes, least, strict=True)
    )
    return replace(split, classes=classes)


def _says(looked: int, left: list[Cell], short: bool) -> str:
    """How it ended."""
    more = f"shares between the tabulated ones: {looked} more were looked at; " if looked else ""
    if not left:
        return f"{more or 'shares between the tabulated ones: '}none other is better"
    if short:
        return f"{more}time was short for the others"
    return f"{more}one that is better would have to be strictly within 1/{FINEST} between two of them"
