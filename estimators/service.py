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
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from inferplan.spec.rows import PointKey, Samples

Floats = NDArray[np.float64]
SampleSource = Callable[[PointKey], Samples | None]
"""Where the raw times of a point come from: `Profile.samples`, or a stand-in."""

SYNTHETIC_DRAWS = 4096

_EDGES = np.concatenate([np.linspace(0, 0.9, 19), np.linspace(0.9, 0.99, 10)[1:], np.linspace(0.99, 1, 6)[1:]])
GRID_WEIGHTS: Floats = np.diff(_EDGES)
"""Weights of the representative service times of `ServiceModel.grid_s`: finer towards the tail."""
_GRID_LEVELS = (_EDGES[:-1] + _EDGES[1:]) / 2


@dataclass(frozen=True, slots=True)
class ServicePoint:
    """A measured batch size. `std_s` is 0 where the profile has none; `memory_bytes` is the peak of one replica."""

    batch: int
    mean_s: float
    std_s: float = 0.0
    memory_bytes: int | None = None
    key: PointKey | None = None


@dataclass(frozen=True)
class ServiceModel:
    """Service times of one (variant, device, provider, threads), by batch size.

    `points` are sorted by batch; `slowdown` multiplies every time (a device that is `like` a measured one);
    `source` gives raw samples of a point, without which draws follow a gamma law of the point's mean and
    standard deviation.
    """

    points: tuple[ServicePoint, ...]
    slowdown: float = 1.0
    source: SampleSource | None = None

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
        return self._between(batch, [point.mean_s for point in self.points]) * self.slowdown

    def std_s(self, batch: float) -> float:
        """Standard deviation of the service time of a batch, in seconds."""
        return self._between(batch, [point.std_s for point in self.points]) * self.slowdown

    def capacity_per_s(self, max_batch: int) -> float:
        """Stage calls per second of one replica that always finds a full batch."""
        return max_batch / self.mean_s(max_batch)

    def memory_bytes(self, max_batch: int) -> int | None:
        """Peak memory of one replica that is given batches up to `max_batch`; None where it was not measured."""
        used = [point.memory_bytes for point in self.points if point.batch <= max_batch]
        known = [memory for memory in used if memory is not None]
        return max(known) if len(known) == len(used) and known else None

    def draws_s(self, batch: int) -> Floats:
        """The empirical service times of a batch of this size, in seconds.

        Those of the nearest larger measured batch, scaled to the mean of this one.
        """
        above = self._above(batch)
        return self._raw(above) * (self.mean_s(batch) / self.points[above].mean_s)

    def grid_s(self, batch: float) -> Floats:
        """Representative service times of a batch (its size may be a mean), with the weights `GRID_WEIGHTS`."""
        above = self._above(batch)
        return self._grid(above) * (self.mean_s(batch) / self.points[above].mean_s)

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
            samples = self.source(point.key) if self.source is not None and point.key is not None else None
            times = synthetic_s(point) if samples is None else np.asarray(samples.service_s, dtype=np.float64)
            self._read[index] = times if len(times) else synthetic_s(point)
        return self._read[index]

    @cached_property
    def _read(self) -> dict[int, Floats]:
        return {}

    def _grid(self, index: int) -> Floats:
        if index not in self._grids:
            self._grids[index] = np.asarray(np.quantile(self._raw(index), _GRID_LEVELS), dtype=np.float64)
        return self._grids[index]

    @cached_property
    def _grids(self) -> dict[int, Floats]:
        return {}


def synthetic_s(point: ServicePoint) -> Floats:
    """Draws of a gamma law with the point's mean and standard deviation: the same every time."""
    if point.std_s <= 1e-6 * point.mean_s:
        return np.array([point.mean_s])
    shape = (point.mean_s / point.std_s) ** 2
    draws = np.random.default_rng(0).gamma(shape, point.mean_s / shape, SYNTHETIC_DRAWS)
    scaled: Floats = draws * (point.mean_s / draws.mean())
    return scaled
