"""Which point to measure next, which to interpolate, and which no plan can use.

The smallest batch of every series is measured first, then every series is glanced at. After that a point is
measured only where its prediction (`profilers.interpolation`) is not known to be good enough: nine times in ten
within the tolerance. Of those the next is the one that settles most per second: points of its own series, and
those of other series whose error is unknown until such a prediction has been checked often enough.

Everything here is a pure function of what was measured: the same points give the same answer, so that a run that
goes on later finds the same points interpolated.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from inferplan.profilers.interpolation import (
    LEAST_CASES,
    LEAST_SERIES,
    Cell,
    Interpolator,
    Prediction,
    Series,
    tells_of,
)

DOMINATED_FACTOR = 2.0
"""How much more tolerance there is for a choice that no plan has a reason to take."""
MEASURED_MARGIN = 0.05
"""How far a measured mean may be off, when two are compared."""
WORTH_A_GLANCE = 2.0
"""How many times a glance's cost there must be left to measure in a row for the glance to be taken."""


@dataclass(frozen=True)
class Candidate:
    """A series with what is left to see of it.

    `open` has the expected time (s) to measure each cell; cells that failed are neither open nor measured.
    `unseen` has the expected time (s) of a glance at each thread count that was not glanced at. `accuracy` is the
    interval of the choice's accuracy, higher being better; None where choices cannot be compared by it. A
    `timeless` series takes no time in any plan.
    """

    series: Series
    open: Mapping[Cell, float]
    unseen: Mapping[int, float] = field(default_factory=dict)
    accuracy: tuple[float, float] | None = None
    timeless: bool = False

    @property
    def is_begun(self) -> bool:
        """Whether the smallest batch that can be measured was, at the first thread count that can be."""
        first = min(self.open, key=_threads_first, default=None)
        return first is None or any(_threads_first(cell) < _threads_first(first) for cell in self.series.measured)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A cell to measure, and why; without a batch a glance at all open cells of that thread count. `glance` asks
    for one by the way, in a process that measures the cell."""

    series: str
    threads: int
    batch: int | None
    reason: str
    glance: bool = False

    @property
    def cell(self) -> Cell | None:
        """The cell; None for a glance."""
        return None if self.batch is None else Cell(self.batch, self.threads)


@dataclass(frozen=True, slots=True)
class Unused:
    """A cell that is not measured because no plan could use it."""

    series: str
    cell: Cell
    reason: str


@dataclass(frozen=True, slots=True)
class Decision:
    """What is left to do. `wanted` in order: only the first is certain, since measuring it may settle others.

    Once nothing is wanted, `interpolated` (by series) is what to write down as predicted.
    """

    wanted: tuple[Wanted, ...] = ()
    interpolated: tuple[tuple[str, Prediction], ...] = ()
    unused: tuple[Unused, ...] = ()

    @property
    def next(self) -> Wanted | None:
        """What to do now; None where all that matters is known."""
        return self.wanted[0] if self.wanted else None


def decide(
    candidates: Sequence[Candidate], tolerance: float, limit_s: float = math.inf, glances: bool = True
) -> Decision:
    """Sort the open cells into those to measure, those to interpolate and those of no use.

    `tolerance` is the relative error that predictions must stay within nine times in ten; 0 measures all.
    `limit_s` is the longest service time that some promise allows. Without `glances` no further ones are taken.
    """
    if tolerance <= 0:
        return Decision(tuple(_everything(candidates)))
    return _Deciding(candidates, tolerance, limit_s, glances).decision()


def _everything(candidates: Sequence[Candidate]) -> list[Wanted]:
    """Every open cell."""
    found = []
    for index, candidate in enumerate(candidates):
        for cell in candidate.open:
            wanted = Wanted(candidate.series.name, cell.threads, cell.batch, "every point is measured")
            found.append((_plain_order(candidate, cell, index), wanted))
    return [wanted for _, wanted in sorted(found, key=lambda pair: pair[0])]


def _plain_order(candidate: Candidate, cell: Cell, index: int) -> tuple[int, ...]:
    """Smallest batches, largest ones, those between; more threads later."""
    batches = [other.batch for other in (*candidate.open, *candidate.series.measured)]
    size_rank = 0 if cell.batch == min(batches) else 1 if cell.batch == max(batches) else 2
    return cell.threads, size_rank, cell.batch, index


@dataclass(frozen=True, slots=True)
class _Need:
    """An open cell whose prediction is not good enough; without one where it was not glanced at."""

    candidate: Candidate
    cell: Cell
    prediction: Prediction | None

    @property
    def unknown(self) -> bool:
        return self.prediction is None or math.isinf(self.prediction.error_90)

    def wanted(self, reason: str) -> Wanted:
        return Wanted(self.candidate.series.name, self.cell.threads, self.cell.batch, reason)


@dataclass
class _Deciding:
    """One decision in the making."""

    candidates: Sequence[Candidate]
    tolerance: float
    limit_s: float
    glances: bool
    rows: dict[str, dict[Cell, Prediction]] = field(default_factory=dict)
    unused: list[Unused] = field(default_factory=list)

    def decision(self) -> Decision:
        begun = [candidate for candidate in self.candidates if candidate.is_begun]
        interpolator = Interpolator([candidate.series for candidate in begun])
        self.rows = {c.series.name: interpolator.row(c.series, c.open) for c in begun}
        misled = {c.series.pool for c in begun if interpolator.misleads(c.series.pool, self.tolerance)}
        learning = self._learning(misled)
        smallest: list[Wanted] = []
        later: list[tuple[tuple[int, ...], Wanted]] = []
        for index, candidate in enumerate(self.candidates):
            if not candidate.is_begun:
                first, *rest = sorted(candidate.open, key=_threads_first)
                glance = self._is_worth_a_glance(candidate, first.threads, rest, learning)
                smallest.append(Wanted(candidate.series.name, first.threads, first.batch, "smallest batch", glance))
                for cell in rest:
                    wanted = Wanted(
                        candidate.series.name, cell.threads, cell.batch, "nothing is known of its series yet"
                    )
                    later.append((_plain_order(candidate, cell, index), wanted))
        last = [wanted for _, wanted in sorted(later, key=lambda pair: pair[0])]
        needs: list[_Need] = []
        settled: list[_Need] = []
        interpolated: list[tuple[str, Prediction]] = []
        for candidate in begun:
            for cell in self._used(candidate):
                prediction = self.rows[candidate.series.name].get(cell)
                if prediction is not None and prediction.error_90 <= self._allowed(candidate, prediction):
                    interpolated.append((candidate.series.name, prediction))
                    settled.append(_Need(candidate, cell, prediction))
                else:
                    needs.append(_Need(candidate, cell, prediction))
        wanted_all = (*smallest, *self._glances(needs, learning), *self._ordered(needs, settled), *last)
        return Decision(wanted_all, tuple(interpolated), tuple(self.unused))

    def _used(self, candidate: Candidate) -> list[Cell]:
        """Open cells that a plan could use; the others are noted in `unused`."""
        used = []
        for cell in sorted(candidate.open):
            reason = self._useless(candidate, cell)
            if reason:
                self.unused.append(Unused(candidate.series.name, cell, reason))
            else:
                used.append(cell)
        return used

    def _useless(self, candidate: Candidate, cell: Cell) -> str:
        if not candidate.is_begun:
            return ""
        if candidate.timeless:
            return "it takes no time in any plan"
        series = candidate.series
        smaller = [mean for other, mean in series.measured.items() if other.threads == cell.threads and other < cell]
        prediction = self.rows[series.name].get(cell)
        least_s = max([*smaller, 0.0 if prediction is None else prediction.lower_s])
        if least_s > self.limit_s:
            return f"one batch alone takes longer than any promise allows ({self.limit_s:g} s)"
        return ""

    def _allowed(self, candidate: Candidate, prediction: Prediction) -> float:
        if self.tolerance < prediction.error_90 <= self.tolerance * DOMINATED_FACTOR and self._is_dominated(candidate):
            return self.tolerance * DOMINATED_FACTOR
        return self.tolerance

    def _is_dominated(self, candidate: Candidate) -> bool:
        return any(self._dominates(other, candidate) for other in self.candidates)

    def _dominates(self, better: Candidate, worse: Candidate) -> bool:
        """Whether one choice is more accurate and faster at every batch, both beyond doubt."""
        if better.series.stage != worse.series.stage or better.series.pool != worse.series.pool:
            return False
        if better.accuracy is None or worse.accuracy is None or better.accuracy[0] <= worse.accuracy[1]:
            return False
        cells = {*worse.open, *worse.series.measured}
        return all(self._bounds(better, cell)[1] < self._bounds(worse, cell)[0] for cell in cells)

    def _bounds(self, candidate: Candidate, cell: Cell) -> tuple[float, float]:
        """Least and most (s) that a cell may take."""
        mean_s = candidate.series.measured.get(cell)
        if mean_s is not None:
            return mean_s / (1 + MEASURED_MARGIN), mean_s * (1 + MEASURED_MARGIN)
        prediction = self.rows.get(candidate.series.name, {}).get(cell)
        return (0.0, math.inf) if prediction is None else (prediction.lower_s, prediction.upper_s)

    def _learning(self, misled: Collection[str]) -> set[str]:
        """Pools with enough series to learn from, in which glances have not proved to mislead."""
        pools: dict[str, set[str]] = {}
        for candidate in self.candidates:
            if not candidate.timeless:
                pools.setdefault(candidate.series.pool, set()).add(candidate.series.name)
        return {pool for pool, names in pools.items() if len(names) >= LEAST_SERIES and pool not in misled}

    def _glances(self, needs: Sequence[_Need], learning: Collection[str]) -> list[Wanted]:
        """Rows to glance at."""
        found = []
        for candidate in self.candidates:
            cells = [need.cell for need in needs if need.candidate is candidate]
            for threads in sorted(candidate.unseen):
                if self._is_worth_a_glance(candidate, threads, cells, learning):
                    found.append(Wanted(candidate.series.name, threads, None, "a glance at every batch"))
        return sorted(found, key=lambda wanted: wanted.threads)

    def _is_worth_a_glance(
        self, candidate: Candidate, threads: int, cells: Iterable[Cell], learning: Collection[str]
    ) -> bool:
        """Whether to glance at a row of which these cells would have to be measured: enough is left of it, and there
        are others to learn from."""
        cost_s = candidate.unseen.get(threads)
        if not self.glances or cost_s is None or candidate.timeless or candidate.series.pool not in learning:
            return False
        left_s = sum(candidate.open[cell] for cell in cells if cell.threads == threads)
        return left_s >= WORTH_A_GLANCE * cost_s

    def _ordered(self, needs: Sequence[_Need], settled: Sequence[_Need]) -> list[Wanted]:
        """Those that settle most per second first; then what they may settle. A cell that is settled itself is
        measured where that tells more per second of how wrong others may be."""
        rows: dict[tuple[str, int], list[_Need]] = {}
        for need in needs:
            rows.setdefault((need.candidate.series.name, need.cell.threads), []).append(need)
        order = {candidate.series.name: index for index, candidate in enumerate(self.candidates)}
        open_ones = {id(need) for need in needs}

        def merit(need: _Need) -> tuple[float, int, Cell]:
            name = need.candidate.series.name
            own = len(rows[name, need.cell.threads]) if id(need) in open_ones else 0
            gain = own + sum(_teaches(need, other) for other in needs) / LEAST_CASES
            return -gain / max(need.candidate.open[need.cell], 1e-9), order[name], need.cell

        first = sorted((_most_telling(row) for row in rows.values() if row[0].prediction is not None), key=merit)
        teachers = [need for need in settled if any(_teaches(need, other) for other in needs)]
        best = min(teachers, key=merit, default=None)
        if best is not None and first and first[0].unknown and merit(best) < merit(first[0]):
            first.insert(0, best)
        chosen = {(need.candidate.series.name, need.cell) for need in first}
        rest = [need for need in needs if (need.candidate.series.name, need.cell) not in chosen]
        rest.sort(key=lambda need: _plain_order(need.candidate, need.cell, order[need.candidate.series.name]))
        return [need.wanted(self._reason(need)) for need in (*first, *rest)]

    def _reason(self, need: _Need) -> str:
        if need.prediction is not None and need.prediction.error_90 <= self._allowed(need.candidate, need.prediction):
            return "it tells how well glances predict such batches of others"
        if need.prediction is None:
            return "it was not glanced at"
        if need.unknown:
            return "how well glances predict such batches is not known yet"
        allowed = self._allowed(need.candidate, need.prediction)
        return f"its prediction may be {100 * need.prediction.error_90:.0f} % off, {100 * allowed:.0f} % is allowed"


def _threads_first(cell: Cell) -> tuple[int, int]:
    return cell.threads, cell.batch


def _most_telling(row: Sequence[_Need]) -> _Need:
    """Of the cells of one series and thread count, the one farthest from those measured; without any the largest."""

    def distance(need: _Need) -> tuple[float, Cell]:
        measured = [cell.batch for cell in need.candidate.series.measured if cell.threads == need.cell.threads]
        return min((abs(math.log(need.cell.batch / b)) for b in measured), default=math.inf), need.cell

    return max(row, key=distance)


def _teaches(need: _Need, other: _Need) -> bool:
    """Whether measuring one cell would say something about the error at another series' cell."""
    ours, theirs = need.candidate.series, other.candidate.series
    if ours.name == theirs.name or ours.pool != theirs.pool or not other.unknown:
        return False
    if need.prediction is None or other.prediction is None:
        return False
    near = tells_of(math.log(need.prediction.mean_s), math.log(other.prediction.mean_s))
    return near and need.prediction.hardness.covers(other.prediction.hardness)
