"""Service time of an option: what a replica spends on one batch, as a function of the batch it really got.

Measured points stand exactly where they were measured. Between two of them mean and standard deviation run
straight from one to the other, so the curve is monotone wherever the measurements are and leaves their range
nowhere. Nothing is extrapolated: there is no time for a batch beyond the largest measured one, and a batch
smaller than the smallest measured one takes as long as that (it can be padded up to it).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from inferplan.spec.rows import Measurement, PointKey, Quantiles, Samples

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
SampleSource = Callable[[PointKey], Samples | None]
"""Where the raw times of a point come from: `Profile.samples`, or a stand-in."""

SYNTHETIC_DRAWS = 4096

_EDGES = np.concatenate([np.linspace(0, 0.9, 19), np.linspace(0.9, 0.99, 10)[1:], np.linspace(0.99, 1, 6)[1:]])
GRID_WEIGHTS: Floats = np.diff(_EDGES)
"""Weights of the representative service times of `ServiceModel.grid_s`: finer towards the tail."""
_GRID_LEVELS = (_EDGES[:-1] + _EDGES[1:]) / 2


_LEVELS = (("p50_s", 0.5), ("p90_s", 0.9), ("p95_s", 0.95), ("p99_s", 0.99), ("p999_s", 0.999))


@dataclass(frozen=True, slots=True)
class ServicePoint:
    """A batch size whose times are known. `std_s` is 0 where the profile has none; `memory_bytes` is the peak of one
    replica; `row` is the row it comes from; `shape` is the measured point whose distribution an interpolated one
    takes."""

    batch: int
    mean_s: float
    std_s: float = 0.0
    memory_bytes: int | None = None
    row: Measurement | None = None
    shape: PointKey | None = None


@dataclass(frozen=True, slots=True)
class ServiceTables:
    """By batch size, from 1: mean and standard deviation, and (sizes, grid) representative times, in seconds."""

    mean_s: Floats
    std_s: Floats
    grids_s: Floats


@dataclass(frozen=True)
class ServiceModel:
    """Service times of one (choice, device, provider, threads), by batch size.

    `points` are sorted by batch; `slowdown` multiplies every time (a device that is `like` a measured one);
    `source` gives raw samples of a point. Without samples draws follow the percentiles of an imported row, or else
    a gamma law of the point's mean and standard deviation.

    `handoff` has times, as likely each as the others, that a replica is taken by a batch of one beyond its service:
    handing it over and back; every further call of a batch takes `handoff_call_s` more. Every mean, deviation and draw
    has it in it; nothing slows it down. `entry` has times a request
    takes beyond that on its way in and out: they occupy nothing, and no figure here has them in it.

    `wakings`: a replica that was free for longer than the first of a pair takes the second of it more for its next
    batch, seconds both, rising in the first. `entry_wakings`: the same of a request's way in and out, by the time since
    the one before it came. The simulation adds them; no figure here has them in it. So it does with
    `stalls` of a router and `replica_stalls` of one replica, seconds, all that were seen in `watched_s`.
    """

    points: tuple[ServicePoint, ...]
    slowdown: float = 1.0
    source: SampleSource | None = None
    handoff: tuple[float, ...] = ()
    handoff_call_s: float = 0.0
    entry: tuple[float, ...] = ()
    wakings: tuple[tuple[float, float], ...] = ()
    entry_wakings: tuple[tuple[float, float], ...] = ()
    stalls: tuple[float, ...] = ()
    replica_stalls: tuple[float, ...] = ()
    watched_s: float = 0.0

    def __post_init__(self) -> None:
        batches = [point.batch for point in self.points]
        if not batches or batches != sorted(set(batches)) or batches[0] < 1:
            raise ValueError("service points need distinct, rising batch sizes of at least 1")
        if any(not (point.mean_s > 0 and math.isfinite(point.mean_s)) for point in self.points):
            raise ValueError("service times are positive and finite")

    @property
    def batches(self) -> tuple[int, ...]:
        """Measured batch sizes, rising."""
        return tuple(point.batch for point in self.points)

    @property
    def max_batch(self) -> int:
        """The largest measured batch: there is no model beyond it."""
        return self.points[-1].batch

    def mean_s(self, batch: float) -> float:
        """Mean service time of a batch, in seconds; `batch` may be a mean and so need not be whole."""
        return self._served_s(batch) + self.handed_s(batch)

    def _served_s(self, batch: float) -> float:
        """The same without the handing over."""
        return self._between(batch, [point.mean_s for point in self.points]) * self.slowdown

    def handed_s(self, batch: float) -> float:
        """Mean time that handing over takes of it."""
        return self._handoff_mean_s + (batch - 1) * self.handoff_call_s if self.handoff else 0.0

    @cached_property
    def _handoff_mean_s(self) -> float:
        return math.fsum(self.handoff) / len(self.handoff)

    def std_s(self, batch: float) -> float:
        """Standard deviation of the service time of a batch, in seconds."""
        served_s = self._between(batch, [point.std_s for point in self.points]) * self.slowdown
        return math.hypot(served_s, float(np.std(self.handoff))) if self.handoff else served_s

    def capacity_per_s(self, max_batch: int) -> float:
        """Stage calls per second of one replica that always finds a full batch."""
        return max_batch / self.mean_s(max_batch)

    def memory_bytes(self, max_batch: int) -> int | None:
        """Peak memory of one replica that is given batches up to `max_batch`; None where it was not measured."""
        used = [point.memory_bytes for point in self.points if point.batch <= max_batch]
        known = [memory for memory in used if memory is not None]
        return max(known) if len(known) == len(used) and known else None

    def gpu_memory_bytes(self, max_batch: int) -> int | None:
        """The same of the GPU's memory."""
        rows = [point.row for point in self.points if point.batch <= max_batch]
        known = [row.peak_gpu_bytes for row in rows if row is not None and row.peak_gpu_bytes is not None]
        return max(known) if len(known) == len(rows) and known else None

    def load_s(self, max_batch: int) -> float | None:
        """Time to load the model, the longest measured with batches up to this; None where it was not measured."""
        rows = [point.row for point in self.points if point.batch <= max_batch]
        return max((row.load_s for row in rows if row is not None and row.load_s is not None), default=None)

    def power_w(self, max_batch: int) -> float | None:
        """What a power counter showed at this batch; None where there was none."""
        return next((point.row.mean_power_w for point in self.points if point.batch == max_batch and point.row), None)

    def draws_s(self, batch: int) -> Floats:
        """The empirical service times of a batch of this size, in seconds.

        Those of the nearest larger measured batch, scaled to the mean of this one.
        """
        above = self._above(batch)
        served_s = self._raw(above) * (self._served_s(batch) / self.points[above].mean_s)
        if not self.handoff:
            return served_s
        # Each with one of the other, in an order that has nothing to do with when they were measured.
        order = np.random.default_rng(len(served_s)).permutation(len(served_s))
        handed: Floats = served_s + np.resize(self.handoff, len(served_s))[order]
        return handed + (self.handed_s(batch) - float(handed.mean() - served_s.mean()))

    def pools_s(self, max_batch: int) -> tuple[Floats, Counts]:
        """The draws of batches of 1 to `max_batch` end to end; those of size b begin at the b-th of the indices."""
        if max_batch not in self._pools:
            draws = [self.draws_s(size) for size in range(1, max_batch + 1)]
            self._pools[max_batch] = np.concatenate(draws), np.cumsum([0, 0, *(len(times) for times in draws)])
        return self._pools[max_batch]

    def grid_s(self, batch: float) -> Floats:
        """Representative service times of a batch (its size may be a mean), with the weights `GRID_WEIGHTS`."""
        above = self._above(batch)
        return self._grid(above) * (self._served_s(batch) / self.points[above].mean_s) + self.handed_s(batch)

    @cached_property
    def tables(self) -> ServiceTables:
        """Service times of every batch size up to the largest measured one, at once."""
        sizes = np.arange(1, self.max_batch + 1)
        measured = np.array([point.mean_s for point in self.points])
        mean = np.interp(sizes, self.batches, measured) * self.slowdown
        std = np.interp(sizes, self.batches, [point.std_s for point in self.points]) * self.slowdown
        above = np.searchsorted(self.batches, sizes)
        grids = np.array([self._grid(index) for index in range(len(self.points))])
        grids = grids[above] * (mean / measured[above])[:, None]
        if not self.handoff:
            return ServiceTables(mean, std, grids)
        handed = np.array([self.handed_s(float(size)) for size in sizes])
        return ServiceTables(mean + handed, np.hypot(std, np.std(self.handoff)), grids + handed[:, None])

    def _above(self, batch: float) -> int:
        self._in_range(batch)
        return next(index for index, point in enumerate(self.points) if point.batch >= batch - 1e-9)

    def _in_range(self, batch: float) -> None:
        if not 0 < batch <= self.max_batch + 1e-9:
            raise ValueError(f"no service time for a batch of {batch}: measured up to {self.max_batch}")

    def _between(self, batch: float, values: Sequence[float]) -> float:
        self._in_range(batch)
        return float(np.interp(batch, self.batches, values))

    def _raw(self, index: int) -> Floats:
        """Times of a point on the device that was measured."""
        if index not in self._read:
            point = self.points[index]
            times = self._samples(point)
            self._read[index] = times if times is not None and len(times) else synthetic_s(point)
        return self._read[index]

    def _samples(self, point: ServicePoint) -> Floats | None:
        """Raw times of a point; of an interpolated one, those of its shape, scaled to its mean."""
        key = point.shape or (point.row.key if point.row is not None else None)
        samples = self.source(key) if self.source is not None and key is not None else None
        if samples is None:
            return None
        times = np.asarray(samples.service_s, dtype=np.float64)
        return times * (point.mean_s / times.mean()) if point.shape is not None and len(times) else times

    @cached_property
    def _pools(self) -> dict[int, tuple[Floats, Counts]]:
        return {}

    @cached_property
    def _read(self) -> dict[int, Floats]:
        return {}

    def _grid(self, index: int) -> Floats:
        if index not in self._grids:
            point = self.points[index]
            times = self._read.get(index)
            times = self._samples(point) if times is None else times
            if times is not None and len(times):
                self._read[index] = times
                self._grids[index] = np.asarray(np.quantile(times, _GRID_LEVELS), dtype=np.float64)
            else:
                self._grids[index] = _synthetic_grid_s(point)
        return self._grids[index]

    @cached_property
    def _grids(self) -> dict[int, Floats]:
        return {}


def synthetic_s(point: ServicePoint) -> Floats:
    """Draws where there are no samples, the same every time: of an imported row by its percentiles, else of a gamma
    law with the point's mean and standard deviation."""
    if point.row is not None and point.row.origin == "imported" and point.row.service.p50_s is not None:
        return percentile_draws_s(point.row.service, point.mean_s)
    if point.std_s <= 1e-6 * point.mean_s:
        return np.array([point.mean_s])
    scaled: Floats = _gamma_draws(_shape(point)) * point.mean_s
    return scaled


def _synthetic_grid_s(point: ServicePoint) -> Floats:
    """Representative times of `synthetic_s`."""
    imported = point.row is not None and point.row.origin == "imported" and point.row.service.p50_s is not None
    if imported or point.std_s <= 1e-6 * point.mean_s:
        return np.asarray(np.quantile(synthetic_s(point), _GRID_LEVELS), dtype=np.float64)
    scaled: Floats = _gamma_grid(_shape(point)) * point.mean_s
    return scaled


def _shape(point: ServicePoint) -> float:
    """Shape of a point's gamma law, rounded so that equal variations share their draws."""
    return float(f"{(point.mean_s / point.std_s) ** 2:.9g}")


@lru_cache(maxsize=64)
def _gamma_draws(shape: float) -> Floats:
    """Draws of a gamma law of mean 1."""
    draws = np.random.default_rng(0).gamma(shape, 1 / shape, SYNTHETIC_DRAWS)
    scaled: Floats = draws / draws.mean()
    scaled.flags.writeable = False
    return scaled


@lru_cache(maxsize=4096)
def _gamma_grid(shape: float) -> Floats:
    return np.asarray(np.quantile(_gamma_draws(shape), _GRID_LEVELS), dtype=np.float64)


def percentile_draws_s(service: Quantiles, mean_s: float) -> Floats:
    """Draws of a law that runs straight between known percentiles (the median is one of them).

    Beyond the highest known one it stays at that; below the median it starts where the mean comes out right, but
    not below 0. Scaled to the mean.
    """
    known = [(level, value) for name, level in _LEVELS if (value := getattr(service, name)) is not None]
    levels = np.array([0.0, *(level for level, _ in known), 1.0])
    values = np.maximum.accumulate(np.array([0.0, *(value for _, value in known), known[-1][1]]))
    # The mean is the area under the quantile function; the start weighs half of the first segment.
    rest = float(np.sum(np.diff(levels) * (values[1:] + values[:-1]) / 2))
    values[0] = min(max((mean_s - rest) / (levels[1] / 2), 0.0), values[1])
    draws = np.interp((np.arange(SYNTHETIC_DRAWS) + 0.5) / SYNTHETIC_DRAWS, levels, values)
    scaled: Floats = draws * (mean_s / draws.mean())
    return scaled
