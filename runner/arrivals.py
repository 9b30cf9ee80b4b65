"""Arrival times of traffic classes: seeded, per class, merged into one schedule for the load generator."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inferplan.spec.errors import InputError
from inferplan.spec.workload import Arrivals


@dataclass(frozen=True, slots=True)
class Stream:
    """A traffic class as the load generator sees it."""

    arrivals: Arrivals
    rate_rps: float


@dataclass(frozen=True, slots=True)
class Schedule:
    """Requests in order of their scheduled send time.

    `times_s` counts from the start of the run; `streams[i]` is the index in `names` of the class of request i.
    """

    names: tuple[str, ...]
    times_s: NDArray[np.float64]
    streams: NDArray[np.int32]


def arrival_times(
    arrivals: Arrivals, rate_rps: float, duration_s: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Arrival times in [0, duration_s), ascending, float64 [n].

    Renewal processes of mean gap 1 / rate: poisson has exponential gaps (cv 1), gamma has gaps of shape
    1 / cv^2, deterministic equal gaps with a random phase (so that classes do not all start together).
    Raises InputError for a process that the load generator does not drive.
    """
    if arrivals.process == "deterministic":
        phase_s = rng.random() / rate_rps
        return phase_s + np.arange(max(0, math.ceil((duration_s - phase_s) * rate_rps))) / rate_rps
    if arrivals.process == "poisson":
        shape = 1.0
    elif arrivals.process == "gamma" and arrivals.cv is not None:
        shape = 1.0 / arrivals.cv**2
    else:
        raise InputError(f"{arrivals.process} arrivals cannot be driven yet; use poisson, deterministic or gamma")
    scale_s = 1.0 / (rate_rps * shape)
    block = int(rate_rps * duration_s * 1.1) + 100
    times = np.empty(0)
    while not len(times) or times[-1] < duration_s:
        start_s = times[-1] if len(times) else 0.0
        times = np.concatenate([times, start_s + np.cumsum(rng.gamma(shape, scale_s, block))])
    return times[times < duration_s]


def make_schedule(streams: Mapping[str, Stream], duration_s: float, seed: int) -> Schedule:
    """Draw every class's arrivals and merge them. A class's times depend on the seed and its own name only."""
    names = tuple(sorted(streams))
    drawn = [
        arrival_times(streams[name].arrivals, streams[name].rate_rps, duration_s, _generator(seed, name))
        for name in names
    ]
    times = np.concatenate(drawn)
    owners = np.repeat(np.arange(len(names), dtype=np.int32), [len(part) for part in drawn])
    order = np.argsort(times, kind="stable")
    return Schedule(names, times[order], owners[order])


def _generator(seed: int, name: str) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(name.encode())])
