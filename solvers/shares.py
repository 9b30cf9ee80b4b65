"""Shares between the tabulated ones.

The table has few multiples of shares, and of large jobs not every number of requests (`parts`). Whether something in
between would be better is settled box by box: a box is a range [a, b] of the share w of the smaller part for every
class that may be split (of a job: of its requests). Its *relaxations* let both parts have the least load they have in
it, λ (1 - b) and λ a, with the mean accuracy of either end (for several classes every combination of ends), which is as
far as means that are linear in w can go:

    every plan with shares in the box is one of a relaxation, at no lower objective,

as long as a queue is no slower at less load (where batches wait to fill that does not hold to the last bit). So a box
whose relaxations are not better than the plan that was found has no better plan. Any other box is cut in two across its
widest range, beginning with all shares there are; what is in its middle joins the table where it is not there, and the
search goes on with it where that is better. This ends at ranges of 1/640 (of two classes 1/160, of three 1/32; of a
job one request), whose corners are in the table: a better plan of two ways each that is missed keeps its promises over
ranges of shares no wider than that. Of jobs, whose requests are whole, none is missed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

from inferplan.solvers.clock import OutOfTimeError
from inferplan.solvers.mixtures import MixtureSolver
from inferplan.solvers.parts import STEPS, Pattern, splits, whole, with_pattern
from inferplan.solvers.problem import ClassNeed, Problem
from inferplan.solvers.search import Search

FINEST = 640
PARTS = {1: FINEST, 2: 160, 3: 32}
"""Shares of requests are looked at to so many parts of a class, by the number of classes that are split: powers of two
times the tabulated steps. There are as many boxes as all classes together allow."""
TIME = 0.5
"""Of the time that is left: explaining the plan takes some, too."""
BARELY = 1e-9
"""Share of a part that is there at all."""
Box = tuple[tuple[int, int], ...]
"""Ends of the range of every class that may be split, in units of its grid."""


@dataclass(frozen=True)
class Grid:
    """Shares of the smaller part of a class: `finest` units are all of its requests, multiples of `tabulated` units are
    in the table."""

    need: ClassNeed
    finest: int
    tabulated: int

    @classmethod
    def of(cls, need: ClassNeed, classes: int) -> Grid:
        """The grid of one of so many classes that may be split."""
        if need.burst_of > 1:
            return cls(need, need.burst, -(-need.burst // STEPS[classes]))
        return cls(need, PARTS[classes], PARTS[classes] // STEPS[classes])

    def middle(self, low: int, high: int) -> int:
        """Where to cut a range: at a tabulated share, while there is one within."""
        middle = (low + high) // 2
        inner = middle - middle % self.tabulated
        return inner if inner > low and high - low > self.tabulated else middle


def refine(search: Search) -> None:
    """Look for better plans with shares between the tabulated ones, until there are none, or time is short."""
    solver, problem = search.program, search.problem
    if not isinstance(solver, MixtureSolver) or not splits(problem):
        return
    work = _Refining(search, solver, problem)
    if all(grid.tabulated == 1 for grid in work.grids):
        return
    work.run()
    search.story.append(work.says())


class _Refining:
    """The work: boxes that may still hold something better."""

    def __init__(self, search: Search, solver: MixtureSolver, problem: Problem) -> None:
        names = splits(problem)
        self.search, self.solver, self.problem = search, solver, problem
        self.until = time.monotonic() + TIME * (search.deadline - time.monotonic())
        self.grids = [Grid.of(need, len(names)) for need in whole(problem) if need.name in names]
        self.boxes: list[Box] = [tuple((0, grid.finest // 2) for grid in self.grids)]
        self.known = set(product(*(range(0, grid.finest // 2 + 1, grid.tabulated) for grid in self.grids)))
        self.looked = 0

    @property
    def short(self) -> bool:
        """Whether time is."""
        return time.monotonic() >= self.until

    def run(self) -> None:
        """Cut boxes until none is left that could hold something better, or only the narrowest."""
        while self.boxes and self.search.closed and not self.short:
            self.boxes = [box for box in self.boxes if self._open(box)]
            wide = [box for box in self.boxes if self._width(box) > 1]
            if not wide:
                break
            halves = [half for box in wide for half in self._halves(box)]
            self._look_at([self._middle(box) for box in wide])
            self._look_at([at for box in halves if self._width(box) <= 1 for at in product(*box)])
            self.boxes = [*(box for box in self.boxes if box not in wide), *halves]

    def says(self) -> str:
        """How it ended."""
        more = f"shares between the tabulated ones: {self.looked} more were looked at; " if self.looked else ""
        whole_numbers = all(grid.need.burst_of > 1 for grid in self.grids)
        if not self.boxes or (whole_numbers and all(self._width(box) <= 1 for box in self.boxes)):
            return f"{more or 'shares between the tabulated ones: '}none other is better"
        if self.short or not self.search.closed:
            return f"{more}time was short for the others"
        finest = max(grid.finest for grid in self.grids if grid.need.burst_of == 1)
        return f"{more}one that is better would have to be strictly within 1/{finest} between two of them"

    def _width(self, box: Box) -> int:
        return max(high - low for low, high in box)

    def _middle(self, box: Box) -> tuple[int, ...]:
        return tuple(grid.middle(*ends) for grid, ends in zip(self.grids, box, strict=True))

    def _halves(self, box: Box) -> Iterator[Box]:
        """A box cut across its widest range, as a share of the class."""
        at = max(range(len(box)), key=lambda i: ((box[i][1] - box[i][0]) / self.grids[i].finest, -i))
        if box[at][1] - box[at][0] <= 1:
            at = max(range(len(box)), key=lambda i: (box[i][1] - box[i][0], -i))
        (low, high), middle = box[at], self.grids[at].middle(*box[at])
        for half in ((low, middle), (middle, high)):
            yield (*box[:at], half, *box[at + 1 :])

    def _look_at(self, points: Sequence[tuple[int, ...]]) -> None:
        """Have shares join the table, and go on with the search where that is better."""
        new = [point for point in dict.fromkeys(points) if point not in self.known]
        if not new or self.short or not self.search.closed:
            return
        self.known.update(new)
        try:
            finer = self.solver.of([with_pattern(self.problem, self._pattern(point)) for point in new], self.until)
        except OutOfTimeError:
            return
        self.looked += len(new)
        better = self._asked(finer)
        self.solver.add(finer)
        if better:
            self.search.go_on(self.search.ask)

    def _pattern(self, units: Sequence[float], barely: float = 0.0) -> Pattern:
        """Weights of all classes, split as given; `barely`: what a part has at least."""
        found: dict[str, tuple[float, ...]] = {}
        for grid, own in zip(self.grids, units, strict=True):
            kept = min(max(own, barely * grid.finest), (1 - barely) * grid.finest)
            found[grid.need.name] = (grid.finest - kept, kept)
        return tuple(found.get(need.name, (1.0,)) for need in whole(self.problem))

    def _open(self, box: Box) -> bool:
        """Whether shares in a box could be better, as far as is known; those for which there was no time could."""
        relaxed = [self._relaxed(box, ends) for ends in dict.fromkeys(product(*box))]
        try:
            return self.short or self._asked(self.solver.of(relaxed, self.until))
        except OutOfTimeError:
            return True

    def _asked(self, solver: MixtureSolver) -> bool:
        """Whether these programs have a plan better than the one that was found, or did not tell in time."""
        search = self.search
        question = replace(search.question(search.scales), goals=(search.ask.objective,))
        if search.incumbent is not None:
            question = replace(question, better_than=search.incumbent.worth(search.ask))
        found = solver.ask(question, max(self.until - time.monotonic(), 0.05), search.gap)
        return found is not None or solver.timed_out

    def _relaxed(self, box: Box, ends: Sequence[int]) -> Problem:
        """The instance with all parts as small as they are in a box, and the accuracies weighed as at these ends."""
        split = with_pattern(self.problem, self._pattern(ends, BARELY))
        ranges = {grid.need.name: (grid, *box[i]) for i, grid in enumerate(self.grids)}
        classes: list[ClassNeed] = []
        seen: set[str] = set()
        for part in split.classes:
            if part.name in ranges:
                part = _least(part, *ranges[part.name], second=part.name in seen)
                seen.add(part.name)
            classes.append(part)
        return replace(split, classes=tuple(classes))


def _least(part: ClassNeed, grid: Grid, low: int, high: int, second: bool) -> ClassNeed:
    """A part of a class with the least load that it has over a range of the second part's share."""
    need, finest = grid.need, grid.finest
    few, many = (max(low / finest, BARELY), high / finest) if second else (1 - high / finest, 1 - low / finest)
    scv, burst = need.uneven.scv, part.burst
    if need.burst_of > 1:
        burst = max(low, 1) if second else finest - high
    else:
        # 1 + w (c² - 1): least at the end where it is.
        scv = min(1 + w * (scv - 1) for w in (few, many))
    return replace(part, rate_rps=need.rate_rps * few, burst=burst, uneven=replace(part.uneven, scv=scv))
