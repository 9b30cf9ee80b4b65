"""Every deployment of a small instance, in the order of cost: what certified plans are measured by.

Shares no code with the program: options and their service times are taken as tabulated, everything else (numbers of
replicas, which classes share a queue, machines, cost, capacity, floors) is enumerated and worked out here. Costs are
of machines that are paid whole.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from inferplan.solvers.columns import Column, column_of
from inferplan.solvers.milp import Solution
from inferplan.solvers.options import Option
from inferplan.solvers.packing import Packing
from inferplan.solvers.problem import Problem
from inferplan.solvers.program import column_names

SAME = 1e-6
"""Costs are the same if they differ by less, relative."""
Machine = dict[str, int]


@dataclass(frozen=True)
class Deployment:
    """Columns on machines, and what those cost."""

    columns: tuple[Column, ...]
    machines: Mapping[str, tuple[Machine, ...]]
    """By device."""
    cost_usd_per_h: float

    def solution(self) -> Solution:
        """As the judge knows it."""
        packings = {device: Packing(found, True) for device, found in self.machines.items()}
        return Solution(self.columns, packings, self.cost_usd_per_h, self.cost_usd_per_h, -math.inf, False)


def queues(problem: Problem, stage: str) -> Iterator[tuple[Column, ...]]:
    """Every way to serve a stage: one queue of all classes, or one for each, of any option and number of replicas that
    the machines there are could hold."""
    every = tuple(range(len(problem.classes)))
    for classes in [(every,)] if len(every) == 1 else [(every,), tuple((k,) for k in every)]:
        own = [
            [
                _column(stage, served, option, replicas)
                for option in problem.options(stage)
                for replicas in _numbers(problem, option)
            ]
            for served in classes
        ]
        yield from itertools.product(*own)


def _numbers(problem: Problem, option: Option) -> Sequence[int]:
    if option.need is None:
        return [0]
    device = problem.devices[option.device]
    assert device.count is not None
    fits = device.capacity.cores // option.need.cores
    if device.capacity.memory_bytes is not None and option.need.memory_bytes:
        fits = min(fits, device.capacity.memory_bytes // option.need.memory_bytes)
    return range(1, device.count * fits + 1)


def _column(stage: str, classes: tuple[int, ...], option: Option, replicas: int) -> Column:
    nothing = (0.0,) * len(classes)
    return Column(stage, classes, (), option, replicas, 0.0, 0.0, 1.0, 0.0, nothing, nothing)


def deployments(problem: Problem, below_usd_per_h: float) -> Iterator[Deployment]:
    """Every deployment that keeps floors and capacity, fits, and costs less, cheapest first."""
    ways = {stage: list(queues(problem, stage)) for stage in problem.stages}
    found = []
    for chosen in itertools.product(*ways.values()):
        columns = tuple(itertools.chain.from_iterable(chosen))
        if (
            _cheapest(problem, columns) < below_usd_per_h
            and _keeps_floors(problem, columns)
            and _carries(problem, columns)
        ):
            found += [
                deployment
                for deployment in placed(problem, _busy(problem, columns))
                if deployment.cost_usd_per_h < below_usd_per_h * (1 - SAME)
            ]
    return iter(sorted(found, key=lambda deployment: deployment.cost_usd_per_h))


def size(problem: Problem) -> int:
    """How many combinations of queues there are."""
    return math.prod(len(list(queues(problem, stage))) for stage in problem.stages)


def _cheapest(problem: Problem, columns: Sequence[Column]) -> float:
    """Price of as many machines as all cores need."""
    cores: dict[str, int] = {}
    for column in columns:
        if column.option.need is not None:
            cores[column.option.device] = (
                cores.get(column.option.device, 0) + column.replicas * column.option.need.cores
            )
    return math.fsum(
        math.ceil(total / problem.devices[d].capacity.cores) * problem.devices[d].price_usd_per_h
        for d, total in cores.items()
    )


def _keeps_floors(problem: Problem, columns: Sequence[Column]) -> bool:
    for k, need in enumerate(problem.classes):
        variants = {c.stage: c.option.variant for c in columns if k in c.classes}
        estimate = problem.accuracy.of(variants) if problem.accuracy is not None else None
        if need.floor is not None and (estimate is None or estimate.value < need.floor - 1e-9):
            return False
    return True


def _carries(problem: Problem, columns: Sequence[Column]) -> bool:
    """Whether every queue's load is at most `max_utilisation` of what it can serve."""
    chosen = {(k, c.stage): c.option.variant for c in columns for k in c.classes}
    for column in columns:
        if column.option.service is None:
            continue
        load = 0.0
        for k in column.classes:
            above = {stage: chosen[k, stage] for stage in problem.stages}
            load += problem.classes[k].rate_rps * problem.laws.calls(column.stage, above).mean
        capacity = column.replicas * column.option.service.capacity_per_s(column.option.max_batch)
        if load > problem.workload.max_utilisation * capacity:
            return False
    return True


def _busy(problem: Problem, columns: tuple[Column, ...]) -> tuple[Column, ...]:
    """The same as tabulated, where neighbours matter: how they slow one another down is found from there."""
    if not problem.interference.matters:
        return columns
    chosen = {(k, c.stage): c.option.variant for c in columns for k in c.classes}
    variants = [{stage: chosen[k, stage] for stage in problem.stages} for k in range(len(problem.classes))]
    return tuple(column_of(problem, c.option, c.replicas, c.classes, [variants[k] for k in c.classes]) for c in columns)


def placed(problem: Problem, columns: tuple[Column, ...]) -> Iterator[Deployment]:
    """Every way to stand the replicas on machines; where neighbours do not matter, one on the fewest machines."""
    named = column_names(columns)
    devices = sorted({c.option.device for c in columns if c.option.need is not None})
    ways = []
    for device in devices:
        own = {n: c for n, c in named.items() if c.option.device == device and c.option.need is not None}
        found = list(_packings(problem, device, own))
        if not problem.interference.matters:
            found = sorted(found, key=len)[:1]
        ways.append(found)
    for chosen in itertools.product(*ways):
        cost = math.fsum(len(m) * problem.devices[d].price_usd_per_h for d, m in zip(devices, chosen, strict=True))
        yield Deployment(columns, dict(zip(devices, chosen, strict=True)), cost)


def _packings(problem: Problem, device: str, own: Mapping[str, Column]) -> Iterator[tuple[Machine, ...]]:
    """Distinct ways to share replicas out over at most as many alike machines as there are."""
    capacity, most = problem.devices[device].capacity, problem.devices[device].count
    assert most is not None
    names = sorted(own)
    needs = {n: own[n].option.need for n in names}

    def fits(machine: Mapping[str, int]) -> bool:
        cores = sum(need.cores * machine.get(n, 0) for n, need in needs.items() if need is not None)
        memory = sum((need.memory_bytes or 0) * machine.get(n, 0) for n, need in needs.items() if need is not None)
        return cores <= capacity.cores and (capacity.memory_bytes is None or memory <= capacity.memory_bytes)

    def fillings(left: Mapping[str, int]) -> Iterator[Machine]:
        for counts in itertools.product(*(range(left[n] + 1) for n in names)):
            machine = {n: count for n, count in zip(names, counts, strict=True) if count}
            if machine and fits(machine):
                yield machine

    def rest(left: Mapping[str, int], machines: int, last: tuple[int, ...]) -> Iterator[tuple[Machine, ...]]:
        if not any(left.values()):
            yield ()
            return
        if machines == 0:
            return
        for machine in fillings(left):
            key = tuple(machine.get(n, 0) for n in names)
            if key <= last:
                for others in rest({n: left[n] - machine.get(n, 0) for n in names}, machines - 1, key):
                    yield (machine, *others)

    full = {n: own[n].replicas for n in names}
    yield from rest(full, most, tuple(full[n] for n in names))
