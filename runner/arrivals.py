"""Arrival times of traffic classes: seeded, per class, merged into one schedule for the load generator."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inferplan.spec.arrivals import Source


@dataclass(frozen=True, slots=True)
class Schedule:
    """Requests in order of their scheduled send time.

    `times_s` counts from the start of the run; `streams[i]` is the index in `names` of the class of request i.
    """

    names: tuple[str, ...]
    times_s: NDArray[np.float64]
    streams: NDArray[np.int32]


def make_schedule(
    sources: Mapping[str, Source],
    duration_s: float,
    seed: int,
    clock_s: float = 0.0,
    sizes: Mapping[str, int] | None = None,
) -> Schedule:
    """Draw every class's arrivals and merge them. A class's times depend on the seed and its own name only.

    `clock_s` is what the clock of traces and days shows at the start of the run. `sizes`: requests that a class of jobs
    sends at every arrival.
    """
    sizes = sizes or {}
    names = tuple(sorted(sources))
    arrived = [sources[name].times_s(duration_s, generator_of(seed, name), clock_s) for name in names]
    drawn = [np.repeat(times, sizes.get(name, 1)) for name, times in zip(names, arrived, strict=True)]
    times = np.concatenate(drawn)
    owners = np.repeat(np.arange(len(names), dtype=np.int32), [len(part) for part in drawn])
    order = np.argsort(times, kind="stable")
    return Schedule(names, times[order], owners[order])


def generator_of(seed: int, name: str) -> np.random.Generator:
    """What draws a class's arrivals in a run with this seed."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])
