"""What service times owe to the sizes of the inputs they met, so that few calls tell as much as many.

Where inputs differ in size (lines of text, crops of a page) most of what one call differs from the next is the size it
drew. A handful of calls then says little of the mean, though each of them says much: with e the elements that the model
was fed with in a call, times within one cell (batch size and threads) follow

    t = c e^g r        (r: the rest, of mean 1)

with one exponent g for all cells of a series. The mean over inputs as they come is then c E[e^g], with the
expectation over many batches whose sizes are known; and c comes from the few that were timed. (A control variate; as
g is estimated from the deviations within cells, means of cells do not enter into it.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
C = TypeVar("C")
"""A cell: any key of one."""
ENOUGH = 4
"""Calls whose middle half leaves out one that took much longer."""
LEAST_CALLS = 6
"""Fewest calls beyond one per cell that an exponent rests on."""
_DOUBT = 3.0
"""An exponent counts if it is more than three standard errors above zero."""


@dataclass(frozen=True, slots=True)
class Calls:
    """Calls of one cell in order: their times (s), the elements that the model was fed with in each, and the process
    that each was made in."""

    times_s: Floats
    elements: Floats
    process: NDArray[np.int64]

    @classmethod
    def of(cls, times_s: Iterable[float], elements: Iterable[float], process: Iterable[int] = ()) -> Calls:
        """From any numbers. Calls without elements (nothing runs a model) count as alike, those without processes as
        of one."""
        times = np.asarray(list(times_s), dtype=np.float64)
        sizes = np.asarray(list(elements), dtype=np.float64)
        made = np.asarray(list(process), dtype=np.int64)
        return cls(
            times,
            np.maximum(sizes, 1.0) if len(sizes) == len(times) else np.ones(len(times)),
            made if len(made) == len(times) else np.zeros(len(times), np.int64),
        )

    def counted(self) -> Calls:
        """The calls that say how long one takes: where memory is new the first takes up to three times as long. Four
        or more count all, as of them the middle half does; of two or three the first is left out."""
        few = 1 < len(self.times_s) < ENOUGH
        return Calls(self.times_s[1:], self.elements[1:], self.process[1:]) if few else self

    @property
    def vary(self) -> bool:
        """Whether the sizes differ."""
        return len(self.elements) > 1 and float(self.elements.min()) < float(self.elements.max())


@dataclass(frozen=True, slots=True)
class Cells(Generic[C]):
    """What is known of a series' cells: calls of `measured` ones and of `glanced` ones.

    `batch_of` says how large a cell's batches are: sizes that were seen at one thread count tell of all.
    """

    measured: Mapping[C, Calls]
    glanced: Mapping[C, Calls]
    sizes: Sequence[tuple[int, Sequence[int]]]
    """Batch sizes, with the elements of batches that were looked at and not run."""
    batch_of: Callable[[C], int]

    def means_s(self) -> tuple[dict[C, float], dict[C, float], dict[C, float]]:
        """Means of measured cells and of glanced ones, evened out, and the `doubt` about the measured ones. Of a glance
        the middle half counts: one slow call out of four does not move it much, and it uses more than the median."""
        power = exponent([*self.measured.values(), *self.glanced.values()])
        populations: dict[int, list[Floats]] = {}
        for batch, sizes in self.sizes:
            populations.setdefault(batch, []).append(np.maximum(np.asarray(sizes, dtype=np.float64), 1.0))
        for cell, calls in (*self.measured.items(), *self.glanced.items()):
            populations.setdefault(self.batch_of(cell), []).append(calls.elements)
        known = {batch: np.concatenate(parts) for batch, parts in populations.items()}

        def even(cell: C, calls: Calls) -> Floats:
            return evened(calls, power, known[self.batch_of(cell)])

        measured = {cell: even(cell, calls) for cell, calls in self.measured.items()}
        return (
            {cell: float(times_s.mean()) for cell, times_s in measured.items()},
            {cell: middle_mean(even(cell, calls)) for cell, calls in self.glanced.items()},
            {cell: doubt(times_s, self.measured[cell].process) for cell, times_s in measured.items()},
        )


def doubt(times_s: Floats, process: NDArray[np.int64]) -> float:
    """Relative standard error of a mean, by how the means of its processes differ; 0 where there is only one."""
    means = [float(times_s[process == one].mean()) for one in np.unique(process)]
    return float(np.std(means, ddof=1) / math.sqrt(len(means)) / np.mean(means)) if len(means) > 1 else 0.0


def middle_mean(times_s: Floats) -> float:
    """Mean of the middle half."""
    ordered = np.sort(times_s)
    cut = len(ordered) // 4
    return float(ordered[cut : len(ordered) - cut].mean())


def exponent(cells: Iterable[Calls]) -> float:
    """How service times grow with elements within cells: g >= 0; 0 where that is not beyond doubt."""
    squares = products = rest = 0.0
    freedom = -1
    for calls in cells:
        if not calls.vary:
            continue
        x, y = np.log(calls.elements), np.log(calls.times_s)
        x, y = x - x.mean(), y - y.mean()
        squares += float(x @ x)
        products += float(x @ y)
        rest += float(y @ y)
        freedom += len(x) - 1
    if freedom < LEAST_CALLS or squares <= 0:
        return 0.0
    slope = products / squares
    error = math.sqrt(max(rest - slope * products, 0.0) / freedom / squares)
    return slope if slope > _DOUBT * error else 0.0


def evened(calls: Calls, power: float, population: Floats) -> Floats:
    """Times as they would be, had every call met a typical size: their mean estimates that over the population.

    `population`: elements of many batches of this size, as they come.
    """
    if power == 0.0 or len(population) == 0:
        return calls.times_s
    typical = float(np.mean(np.asarray(population, dtype=np.float64) ** power))
    return np.asarray(calls.times_s * (typical / calls.elements**power), dtype=np.float64)
