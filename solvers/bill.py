"""What a choice of columns costs and draws, on the machines it is packed on (formulas: `estimators.cost`).

Machines of a device that is paid by share are not counted but measured: the share of them that all replicas use, in the
resource they take most of. Replicas add what the machines' own price does not cover: reloads after interruptions,
electricity while they work.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from inferplan.estimators.cost import machines_used
from inferplan.solvers.packing import Packing
from inferplan.solvers.problem import Problem
from inferplan.solvers.tier_flows import tolls_usd_per_h

if TYPE_CHECKING:
    from inferplan.solvers.columns import Column


@dataclass(frozen=True, slots=True)
class Bill:
    """Money per hour, and power; power is None where it is not known of some machine or replica."""

    machines_usd_per_h: float
    restarts_usd_per_h: float
    energy_usd_per_h: float
    power_w: float | None
    network_usd_per_h: float = 0.0

    @property
    def total_usd_per_h(self) -> float:
        """All of it."""
        parts = (self.machines_usd_per_h, self.restarts_usd_per_h, self.energy_usd_per_h, self.network_usd_per_h)
        return math.fsum(parts)


def bill(problem: Problem, columns: Sequence[Column], packings: Mapping[str, Packing]) -> Bill:
    """The bill of a choice of columns."""
    total = _added([device_bill(problem, name, columns, packing) for name, packing in sorted(packings.items())])
    return replace(total, network_usd_per_h=tolls_usd_per_h(problem, columns))


def _added(bills: Iterable[Bill]) -> Bill:
    every = list(bills)
    powers = [one.power_w for one in every if one.power_w is not None]
    return Bill(
        math.fsum(one.machines_usd_per_h for one in every),
        math.fsum(one.restarts_usd_per_h for one in every),
        math.fsum(one.energy_usd_per_h for one in every),
        math.fsum(powers) if len(powers) == len(every) else None,
    )


def device_bill(problem: Problem, device: str, columns: Sequence[Column], packing: Packing) -> Bill:
    """What the machines of one device type cost and draw."""
    tariff = problem.devices[device].tariff
    own = [column for column in columns if column.option.device == device]
    count = billed(problem, device, own, len(packing.machines))
    adds = [column_w(column) for column in own]
    power = None
    if tariff.idle_w is not None and all(watts is not None for watts in adds):
        power = math.fsum([count * tariff.idle_w, *(watts for watts in adds if watts is not None)])
    reloads = math.fsum(reloads_usd_per_h(problem, column) for column in own)
    return Bill(
        count * tariff.price_usd_per_h,
        count * tariff.restarts_usd_per_h + reloads,
        tariff.electricity_usd_per_h(power or 0.0),
        power,
    )


def billed(problem: Problem, device: str, columns: Sequence[Column], machines: int) -> float:
    """Machines of a device that are paid for, given those that `columns` (of this device) stand on."""
    spec = problem.devices[device]
    if spec.tariff.billing == "whole":
        return float(machines)
    return machines_used(spec.capacity, [(c.option.need, c.replicas) for c in columns if c.option.need is not None])


def column_usd_per_h(problem: Problem, column: Column) -> float:
    """What a column costs besides its share of machines: reloads after interruptions, electricity of its work."""
    if column.option.need is None:
        return 0.0
    tariff = problem.devices[column.option.device].tariff
    # There may be a hundred thousand columns: nothing is worked out that costs nothing.
    priced = tariff.energy_price_usd_per_kwh > 0
    electricity = tariff.electricity_usd_per_h(column_w(column) or 0.0) if priced else 0.0
    return reloads_usd_per_h(problem, column) + electricity if tariff.interruptions_per_h > 0 else electricity


def reloads_usd_per_h(problem: Problem, column: Column) -> float:
    """Money lost while a column's replicas load their models after interruptions."""
    tariff = problem.devices[column.option.device].tariff
    return column.replicas * tariff.reloads_usd_per_h(column.option.share, column.option.load_s)


def call_j(column: Column) -> float | None:
    """Energy above idle per call, at the column's mean batch; None where it is not known."""
    option = column.option
    if option.service is None:
        return 0.0
    if option.busy_w is None:
        return None
    batch = min(max(column.batch_mean, 1.0), float(option.max_batch))
    return option.busy_w * option.service.mean_s(batch) / batch


def column_w(column: Column) -> float | None:
    """What the work of a column adds to its machines' idle power."""
    joules = call_j(column)
    return None if joules is None else column.load_rps * joules
