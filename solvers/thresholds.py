"""Which plans a book keeps, and at which loads they take turns: an exact choice by dynamic programming.

Data
    plans 1..n by the load u_i that they carry, rising; c_i cost per hour; l_i the least load that a plan is certified
    at; s_ij USD to go from plan i to plan j (`price`); loads x_t, t = 1..T, one per interval of length h, as the
    predictor tells them; a grid D of loads.
Book
    a subset i_1 < ... < i_m = n of plans and thresholds d_2 <= ... <= d_m in D. At x_t above u of the active plan the
    next plan takes over, at x_t <= d of the active plan the one before; both until neither holds.
        d_k <= u_{k-1}                 a plan takes over only what it carries
        d_k >= l_k,  l_{i_1} <= min D  no plan runs below the load that it is certified at
        d_k <= (1 - H) u_{k-1}         where a hysteresis H is asked; then d_k is the largest such load of D
Minimised
    h Σ_t c_(active at t) + Σ_switches s, where a switch that passes several boundaries pays for each in turn.

*Decomposition.* As both thresholds rise, each boundary k is a relay of its own: on above u_{k-1}, off at or below d_k.
The active plan is the number of relays that are on, so that the cost is

    h T c_(i_1) + Σ_k [ (c_(i_k) - c_(i_{k-1})) h (intervals on) + (times on) s_up + (times off) s_down ]

and a term depends on (i_{k-1}, i_k, d_k) alone. The best book is a shortest path over states (k, i_k, d_k); the one
constraint between terms, d_k >= d_{k-1}, is kept by running minima over D. Of equal costs fewer plans win.

The hysteresis is thereby derived: the lower d_k, the longer a dearer plan goes on running, and the fewer switches are
paid. The best d_k is where one more of the switches it saves no longer pays for that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
HOUR_S = 3600.0
SAME = 1e-9
"""Costs that differ by less than this share are the same."""


@dataclass(frozen=True, slots=True)
class Carrier:
    """What the choice knows of a plan: loads in requests per second."""

    cost_usd_per_h: float
    carries_rps: float
    least_rps: float = 0.0


@dataclass(frozen=True)
class Book:
    """A choice: plans by their numbers, `down_rps` of all but the first; what it costs over the loads in USD."""

    plans: tuple[int, ...]
    down_rps: tuple[float, ...]
    usd: float
    switch_usd: float


def choose(
    carriers: Sequence[Carrier],
    price: Sequence[Sequence[float]],
    loads: Floats,
    grid: Floats,
    interval_s: float,
    *,
    most: int | None = None,
    hysteresis: float | None = None,
) -> Book:
    """The best book. `carriers` rise in what they carry; `price` [n, n] is USD per switch; `grid` rises.

    Raises ValueError where no plan is certified down to the lowest load of the grid.
    """
    n, deep = len(carriers), len(grid)
    limit = n if most is None else min(most, n)
    hours = interval_s / HOUR_S
    firsts = [i for i in range(n) if carriers[i].least_rps <= grid[0]]
    if not firsts:
        raise ValueError("no plan is certified at the lowest load")
    # best[m][i, d]: m plans, the last of them i, its threshold the d-th of the grid (a first plan has none: 0).
    best = np.full((limit + 1, n, deep), np.inf)
    came = np.full((limit + 1, n, deep, 2), -1, dtype=np.int64)
    for i in firsts:
        best[1, i, 0] = carriers[i].cost_usd_per_h * hours * len(loads)
    relays = [_relays(loads, carrier.carries_rps, grid) for carrier in carriers]
    for m in range(2, limit + 1):
        for i in range(n):
            lowest, where = _running_minimum(best[m - 1, i])
            if not np.isfinite(lowest).any():
                continue
            for j in range(i + 1, n):
                if carriers[j].carries_rps <= carriers[i].carries_rps:
                    continue
                on, ups, downs = relays[i]
                dearer = carriers[j].cost_usd_per_h - carriers[i].cost_usd_per_h
                cost = lowest + dearer * hours * on + ups * price[i][j] + downs * price[j][i]
                cost[~_allowed(grid, carriers[i], carriers[j], hysteresis)] = np.inf
                better = cost < best[m, j]
                best[m, j][better] = cost[better]
                came[m, j, better, 0], came[m, j, better, 1] = i, where[better]
    return _traced(carriers, price, loads, grid, hours, best[:, n - 1], came)


def _relays(loads: Floats, up: float, grid: Floats) -> tuple[Floats, Floats, Floats]:
    """For every threshold down of the grid: intervals that a relay is on, how often it goes on, how often off."""
    found = np.zeros((3, len(grid)))
    for at, down in enumerate(grid[grid <= up]):
        on = relay(loads, up, float(down))
        change = np.diff(on.astype(np.int8))
        found[:, at] = on.sum(), np.count_nonzero(change > 0), np.count_nonzero(change < 0)
    return found[0], found[1], found[2]


def relay(loads: Floats, up: float, down: float) -> NDArray[np.bool_]:
    """[T] whether a relay is on: on above `up`, off at or below `down`, else as before; at first on above `up`."""
    told = np.where(loads > up, 1, np.where(loads <= down, -1, 0))
    if len(told):
        told[0] = 1 if loads[0] > up else -1
    last = np.maximum.accumulate(np.where(told != 0, np.arange(len(told)), 0))
    on: NDArray[np.bool_] = told[last] > 0
    return on


def _running_minimum(values: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """The least of the values up to each, and where it is."""
    lowest = np.minimum.accumulate(values)
    fresh = np.concatenate([[True], values[1:] < lowest[:-1]])
    return lowest, np.maximum.accumulate(np.where(fresh, np.arange(len(values)), 0))


def _allowed(grid: Floats, low: Carrier, high: Carrier, hysteresis: float | None) -> NDArray[np.bool_]:
    """Which loads of the grid may be the threshold at which `low` takes over from `high`."""
    most = low.carries_rps if hysteresis is None else low.carries_rps * (1 - hysteresis)
    allowed: NDArray[np.bool_] = (grid <= most) & (grid >= high.least_rps)
    if hysteresis is not None and allowed.any():
        allowed[: np.flatnonzero(allowed)[-1]] = False
    return allowed


def _traced(
    carriers: Sequence[Carrier],
    price: Sequence[Sequence[float]],
    loads: Floats,
    grid: Floats,
    hours: float,
    ends: Floats,
    came: NDArray[np.int64],
) -> Book:
    """The best path back from the plan that carries most."""
    least = float(ends.min())
    if not math.isfinite(least):
        raise ValueError("no allowed way leads from the lowest load to the highest")
    m = int(np.flatnonzero(ends.min(axis=1) <= least + SAME * abs(least))[0])
    i, d = len(carriers) - 1, int(np.argmin(ends[m]))
    plans, downs = [i], []
    for steps in range(m, 1, -1):
        downs.append(float(grid[d]))
        i, d = (int(value) for value in came[steps, i, d])
        plans.append(i)
    plans, downs = plans[::-1], downs[::-1]
    spent = switched = 0.0
    spent = carriers[plans[0]].cost_usd_per_h * hours * len(loads)
    for low, high, down in zip(plans, plans[1:], downs, strict=False):
        on = relay(loads, carriers[low].carries_rps, down)
        change = np.diff(on.astype(np.int8))
        spent += (carriers[high].cost_usd_per_h - carriers[low].cost_usd_per_h) * hours * int(on.sum())
        switched += np.count_nonzero(change > 0) * price[low][high] + np.count_nonzero(change < 0) * price[high][low]
    return Book(tuple(plans), tuple(downs), spent + switched, switched)


def active(loads: Floats, ups: Sequence[float], downs: Sequence[float]) -> NDArray[np.int64]:
    """[T] which plan of a book is active (0: the first) as it goes from load to load: `ups` of all but the last plan,
    `downs` of all but the first."""
    found = np.zeros(len(loads), dtype=np.int64)
    for up, down in zip(ups, downs, strict=True):
        found += relay(loads, up, down)
    return found
