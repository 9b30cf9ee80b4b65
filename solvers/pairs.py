"""What two ways of one class could reach at most, whatever columns serve them: a bound that needs no program.

For every pair of combinations of choices, one for each part of a class that is split in two, a plan costs no less than

    Σ_s min( f_sv0 + f_su1,  f_sv01 where both parts use the same choice )        f: the least that a column costs

with v and u the choices of the two parts at stage s, f of columns that serve the one part, the other, or both. A column
costs its cores' share of a machine, which is never more than what is paid for it, and what it adds. And no request of a
part takes less than the fastest columns of its choices. Pairs that cost too much or take too long are out; of the
others the best mean accuracy bounds that of every plan.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from inferplan.solvers.bill import column_usd_per_h
from inferplan.solvers.columns import Column
from inferplan.solvers.problem import Problem

MOST = 1000
"""Combinations, at most: there are as many pairs as their square."""
SLACK = 1e-9

Floats = NDArray[np.float64]


class Pairs:
    """Pairs of combinations of the two parts of the only class. `keys` (combinations, stages in the order of `stages`),
    `worth` their accuracies, higher is better, -inf where not known."""

    def __init__(
        self, problem: Problem, columns: Sequence[Column], stages: Sequence[str], keys: Sequence[tuple[str, ...]],
        worth: Sequence[float],
    ) -> None:  # fmt: skip
        shares = [need.share for need in problem.classes]
        values = np.array(worth)
        self._mean: Floats = shares[0] * values[:, None] + shares[1] * values[None, :]
        self._cost: Floats = np.zeros((len(keys), len(keys)))
        for at, stage in enumerate(stages):
            own = [column for column in columns if column.stage == stage]
            variants = problem.variants(stage)
            apart = [
                [_least(problem, own, variant, (part,)) for variant in variants] for part in range(2)
            ]  # fmt: skip
            both = [_least(problem, own, variant, (0, 1)) for variant in variants]
            table = np.add.outer(np.array(apart[0]), np.array(apart[1]))
            np.fill_diagonal(table, np.minimum(table.diagonal(), np.array(both)))
            index = np.array([variants.index(key[at]) for key in keys])
            self._cost += table[np.ix_(index, index)]
        self._late = [_latencies(problem, columns, k, stages, keys) for k in range(2)]

    def best(self, most_usd_per_h: float, scale: float | None) -> float:
        """The best mean accuracy of pairs that may cost no more, and be no slower than the limit times `scale` (None:
        no limit); -inf where there is none."""
        fine = self._cost <= most_usd_per_h + SLACK * abs(most_usd_per_h)
        if scale is not None:
            fast = [late <= scale * (1 + 1e-6) for late in self._late]
            fine &= fast[0][:, None] & fast[1][None, :]
        return float(self._mean[fine].max(initial=-math.inf))


def _least(problem: Problem, columns: Sequence[Column], variant: str, classes: tuple[int, ...]) -> float:
    """The least that a column of a choice costs that serves just these parts, USD/h."""
    costs = (
        _share(problem, column) + column_usd_per_h(problem, column)
        for column in columns
        if column.option.variant == variant and column.classes == classes
    )
    return min(costs, default=math.inf)


def _share(problem: Problem, column: Column) -> float:
    if column.option.need is None:
        return 0.0
    device = problem.devices[column.option.device]
    return column.cores / device.capacity.cores * device.tariff.hourly_usd


def _latencies(
    problem: Problem, columns: Sequence[Column], k: int, stages: Sequence[str], keys: Sequence[tuple[str, ...]]
) -> Floats:
    """The least latency of every combination over the class's limit; zeros where it has none."""
    limit_s = problem.classes[k].limit_s
    if limit_s is None:
        return np.zeros(len(keys))
    fastest: dict[tuple[str, str], float] = {}
    for column in columns:
        if k in column.classes:
            at = (column.stage, column.option.variant)
            fastest[at] = min(fastest.get(at, math.inf), column.single_s[column.classes.index(k)])
    return np.array(
        [
            max(
                math.fsum(fastest.get((stage, key[stages.index(stage)]), math.inf) for stage in path)
                for path in problem.paths
            )
            / limit_s
            for key in keys
        ]
    )
