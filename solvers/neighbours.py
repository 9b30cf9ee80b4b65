"""Who stands beside whom: packings in which replicas disturb one another less.

The program buys as few machines as hold the replicas, and does not see that neighbours slow one another down
(`estimators.interference`). Here the replicas of a solution change places, on as many machines or on more, so that
the time lost on a machine, the sum over its replicas of (share of time at work) x (factor - 1), falls. It is a local
search: single replicas move, or two change places, as long as that gains anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from inferplan.estimators.cost import Capacity
from inferplan.estimators.interference import Tenant, tenant_of
from inferplan.solvers.bill import bill
from inferplan.solvers.columns import Column
from inferplan.solvers.milp import Solution
from inferplan.solvers.packing import Packing
from inferplan.solvers.placing import most_together, strangers
from inferplan.solvers.problem import Problem
from inferplan.solvers.program import column_names

MAX_MOVES = 400
MAX_EXTRA = 64
"""Machines added at most to keep replicas apart."""
GAIN = 1e-9

Machine = dict[str, int]


def tenants(problem: Problem, columns: Sequence[Column]) -> dict[str, Tenant]:
    """Chosen options as neighbours see them, by name."""
    devices = problem.workload.devices()
    return {
        name: tenant_of(devices, column.option)
        for name, column in column_names(columns).items()
        if column.option.need is not None
    }


def machines_of(solution: Solution) -> list[Machine]:
    """Every machine of a solution, whatever its device type."""
    return [machine for _, packing in sorted(solution.packings.items()) for machine in packing.machines]


def arranged(problem: Problem, solution: Solution) -> Solution:
    """The same on as many machines, the replicas placed where they disturb one another least."""
    if not problem.interference.matters:
        return solution
    room = _Room.of(problem, solution.columns)
    packings = {
        device: replace(packing, machines=room.quieter(device, packing.machines))
        for device, packing in solution.packings.items()
    }
    return replace(solution, packings=packings)


def spreads(
    problem: Problem, solution: Solution, counts: Mapping[str, int | None], most_usd_per_h: float
) -> Iterator[Solution]:
    """The same replicas on ever more machines, each time where that gains most for its price, while there are
    machines, the cost stays within `most_usd_per_h`, and it gains anything."""
    room = _Room.of(problem, solution.columns)
    for _ in range(MAX_EXTRA):
        best: tuple[float, str, Solution] | None = None
        for device, packing in sorted(solution.packings.items()):
            count, tariff = counts[device], problem.devices[device].tariff
            price = tariff.hourly_usd if tariff.billing == "whole" else 0.0
            dearer = solution.cost_usd_per_h + price
            if (count is not None and len(packing.machines) >= count) or dearer > most_usd_per_h:
                continue
            apart = room.quieter(device, (*packing.machines, {}))
            gain = room.lost(packing.machines) - room.lost(apart)
            if gain <= GAIN or not all(apart):
                continue
            worth = gain / max(price, 1e-12)
            if best is None or worth > best[0] * (1 + GAIN):
                packings = {**solution.packings, device: Packing(apart, packing.proven)}
                power = bill(problem, solution.columns, packings).power_w
                wider = replace(solution, packings=packings, cost_usd_per_h=dearer, power_w=power)
                best = worth, device, wider
        if best is None:
            return
        solution = best[2]
        yield solution


@dataclass
class _Room:
    """Machines and what is lost on them. `_known` remembers the loss of a machine by what stands on it."""

    problem: Problem
    tenants: Mapping[str, Tenant]
    needs: Mapping[str, Capacity]
    busy: Mapping[str, float]
    most: Mapping[str, int]
    """Where one machine may hold only so many of an option."""
    apart: frozenset[frozenset[str]]
    _known: dict[tuple[tuple[str, int], ...], float]

    @classmethod
    def of(cls, problem: Problem, columns: Sequence[Column]) -> _Room:
        named = column_names(columns)
        needs = {name: column.option.need for name, column in named.items() if column.option.need is not None}
        busy = {name: column.utilisation for name, column in named.items()}
        most = {
            name: limit
            for name, column in named.items()
            if (limit := most_together(column.option, column.most)) is not None
        }
        return cls(
            problem,
            tenants(problem, columns),
            needs,
            busy,
            most,
            strangers({name: column.option for name, column in named.items()}, problem.exclusive),
            {},
        )

    def lost(self, machines: Sequence[Machine]) -> float:
        """Replicas' worth of work that is lost on machines."""
        return sum(self._lost(machine) for machine in machines)

    def _lost(self, machine: Machine) -> float:
        key = tuple(sorted(machine.items()))
        if key not in self._known:
            factors = self.problem.interference.on_machine(machine, self.tenants, self.busy)
            self._known[key] = sum(machine[name] * self.busy[name] * (f - 1) for name, f in factors.items())
        return self._known[key]

    def quieter(self, device: str, machines: Sequence[Machine]) -> tuple[Machine, ...]:
        """Machines with the same replicas and less lost, by moves and swaps of single replicas."""
        current = [dict(machine) for machine in machines]
        capacity = self.problem.devices[device].capacity
        for _ in range(MAX_MOVES):
            best: tuple[float, int, int, Machine, Machine] | None = None
            for i, j in _pairs(current):
                before = self._lost(current[i]) + self._lost(current[j])
                for one, other in _changes(current[i], current[j]):
                    gain = before - self._lost(one) - self._lost(other)
                    if gain > GAIN and (best is None or gain > best[0] + GAIN) and self._fit(capacity, one, other):
                        best = gain, i, j, one, other
            if best is None:
                break
            _, i, j, current[i], current[j] = best
        return tuple(sorted(current, key=lambda machine: sorted(machine.items())))

    def _fit(self, capacity: Capacity, *machines: Machine) -> bool:
        for machine in machines:
            needs = [(self.needs[name], count) for name, count in machine.items()]
            if sum(need.cores * count for need, count in needs) > capacity.cores:
                return False
            if sum(need.gpus * count for need, count in needs) > capacity.gpus:
                return False
            memory = sum((need.memory_bytes or 0) * count for need, count in needs)
            if capacity.memory_bytes is not None and memory > capacity.memory_bytes:
                return False
            gpu_memory = sum((need.gpu_memory_bytes or 0) * count for need, count in needs)
            if capacity.gpu_memory_bytes is not None and gpu_memory > capacity.gpu_memory_bytes:
                return False
            if any(count > self.most.get(name, count) for name, count in machine.items()):
                return False
            if any(pair <= machine.keys() for pair in self.apart):
                return False
        return True


def _pairs(machines: Sequence[Machine]) -> Iterator[tuple[int, int]]:
    """Pairs of machines to try, in both orders; of machines that hold the same, one or two stand for all."""
    groups: dict[tuple[tuple[str, int], ...], list[int]] = {}
    for index, machine in enumerate(machines):
        groups.setdefault(tuple(sorted(machine.items())), []).append(index)
    chosen = [index for group in groups.values() for index in group[:2]]
    return ((i, j) for i in chosen for j in chosen if i != j)


def _changes(one: Machine, other: Machine) -> Iterator[tuple[Machine, Machine]]:
    """What two machines can hold after a replica of the first moves to the second, alone or against another one."""
    for name in sorted(one):
        yield _moved(one, other, name)
        for back in sorted(other):
            if back > name:
                first, second = _moved(one, other, name)
                second, first = _moved(second, first, back)
                yield first, second


def _moved(source: Machine, target: Machine, name: str) -> tuple[Machine, Machine]:
    left = {key: count - (key == name) for key, count in source.items() if count > (key == name)}
    return left, {**target, name: target.get(name, 0) + 1}
