"""What a plan must withstand besides what is expected: columns that do, and the cases that certify it.

*Load levels.* A column's latencies are the largest over the levels; where a level needs fewer replicas than are there,
those of the most that were tabulated stand for it (more replicas are never slower).

*Lost machines.* With k spares of a device type a column has a limit j of replicas on one machine, and n = s + k j of
them: s are left whatever k machines are lost, and the column's latencies are those of s. Every option is taken to
lose the most it can, all at the same time, which is never less than what really happens.

*Headroom.* Columns busier than 1 - headroom at the highest level are left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

from inferplan.estimators.cost import fitting
from inferplan.solvers.clock import in_time
from inferplan.solvers.columns import TABULATED, Column, build_columns, pruned
from inferplan.solvers.milp import Solution
from inferplan.solvers.problem import Problem
from inferplan.solvers.program import column_names
from inferplan.spec.errors import InfeasibleError

MAX_SPARES = 20
"""Spares, all device types together, beyond which machines fail too often to be planned with."""
MAX_LOSSES = 64
"""Sets of lost machines that are simulated of one device type; those that hold most first."""
OFTEN = 10_000
"""Columns after which the clock is looked at: a few hundredths of a second."""


def assured_columns(problem: Problem, lifted: bool = False, deadline: float = math.inf) -> list[Column]:
    """All columns of an instance that withstand what is asked. Raises OutOfTimeError where they are not tabulated by
    the `deadline`."""
    assurance = problem.assurance
    if not assurance.shapes_columns:
        return build_columns(problem, lifted, deadline=deadline)
    levels = {
        level: _by_key(build_columns(at_level(problem, level), lifted, prune=False, deadline=deadline), deadline)
        for level in assurance.levels
    }
    top = levels[max(levels)]
    found = [
        column
        for key, replicas in top.items()
        for left in sorted(replicas)
        for column in _columns(problem, levels, key, left, lifted, deadline)
    ]
    return [column for stage in problem.stages for column in _pruned(problem, stage, found, deadline)]


def _pruned(problem: Problem, stage: str, columns: Sequence[Column], deadline: float) -> list[Column]:
    in_time(deadline, TABULATED)
    return pruned(problem, stage, [column for column in columns if column.stage == stage])


_Key = tuple[object, ...]
_Tabulated = Mapping[_Key, Mapping[int, Column]]


def _by_key(columns: Sequence[Column], deadline: float) -> dict[_Key, dict[int, Column]]:
    found: dict[_Key, dict[int, Column]] = {}
    for index, column in enumerate(columns):
        if index % OFTEN == 0:
            in_time(deadline, TABULATED)
        key = (column.stage, column.classes, column.context, column.option)
        found.setdefault(key, {})[column.replicas] = column
    return found


def _columns(
    problem: Problem, levels: Mapping[float, _Tabulated], key: _Key, left: int, lifted: bool, deadline: float
) -> Iterator[Column]:
    """Columns of which `left` replicas stay whatever is lost."""
    in_time(deadline, TABULATED)
    slow = [_with(levels[level][key], left) for level in levels]
    single = tuple(map(max, zip(*(column.single_s for column in slow), strict=True)))
    whole = tuple(map(max, zip(*(column.whole_s for column in slow), strict=True)))
    top = max(levels)
    for replicas, most in _layouts(problem, slow[0], left, lifted):
        plain = _with(levels[1.0][key], replicas)
        busy = plain.utilisation * plain.replicas / max(replicas, 1)
        if busy * top > 1 - problem.assurance.headroom + 1e-9:
            continue
        yield replace(plain, replicas=replicas, utilisation=busy, single_s=single, whole_s=whole, most=most)


def _with(tabulated: Mapping[int, Column], replicas: int) -> Column:
    """The tabulated column with so many replicas, or the nearest that is no faster."""
    return tabulated[max((n for n in tabulated if n <= replicas), default=min(tabulated))]


def _layouts(problem: Problem, column: Column, left: int, lifted: bool) -> Iterator[tuple[int, int | None]]:
    """Replicas in all, and on one machine at most, such that `left` stay."""
    option = column.option
    lost = 0 if option.need is None else problem.assurance.spares.get(option.device, 0)
    if option.need is None or not lost:
        yield left, None
        return
    device = problem.devices[option.device]
    fit = fitting(device.capacity, option.need)
    for most in range(1, min(fit, left) + 1):
        replicas = left + lost * most
        if lifted or device.count is None or -(-replicas // most) <= device.count:
            yield replicas, most


def at_level(problem: Problem, level: float) -> Problem:
    """The same instance with every class's rate multiplied."""
    if level == 1.0:
        return problem
    workload = problem.workload
    classes = {
        name: traffic.model_copy(update={"rate_rps": traffic.rate_rps * level}) if traffic.rate_rps else traffic
        for name, traffic in workload.classes.items()
    }
    return replace(
        problem,
        workload=workload.model_copy(update={"classes": classes}).at(workload.root),
        classes=tuple(replace(need, rate_rps=need.rate_rps * level) for need in problem.classes),
    )


@dataclass(frozen=True)
class Case:
    """A situation that a plan is judged in: all rates times `level`, without some machines of one device type."""

    name: str
    level: float
    lost: Mapping[str, int] = field(default_factory=dict)
    """Machines lost, by device."""
    solution: Solution | None = None
    """What is left of the plan; None: all of it."""


def cases(problem: Problem, solution: Solution) -> list[Case]:
    """The situations besides the expected one: every load level, and at the highest every loss of machines."""
    assurance = problem.assurance
    found = [Case(f"load x {level:g}", level) for level in assurance.levels if level != 1.0]
    top = max(assurance.levels)
    for device, lost in sorted(assurance.spares.items()):
        if lost and device in solution.packings:
            found += [
                Case(lost_text(device, lost, gone), top, {device: lost}, _without(solution, device, gone))
                for gone in losses(solution.packings[device].machines, lost)
            ]
    return found


def losses(machines: Sequence[dict[str, int]], lost: int) -> list[tuple[dict[str, int], ...]]:
    """Distinct sets of so many machines of one device type, those that hold most first."""
    seen: dict[tuple[tuple[tuple[str, int], ...], ...], tuple[dict[str, int], ...]] = {}
    for gone in combinations(machines, min(lost, len(machines))):
        seen.setdefault(tuple(sorted(tuple(sorted(machine.items())) for machine in gone)), gone)
        if len(seen) > 16 * MAX_LOSSES:
            break
    ordered = sorted(seen.items(), key=lambda item: (-sum(sum(m.values()) for m in item[1]), item[0]))
    return [gone for _, gone in ordered[:MAX_LOSSES]]


def _without(solution: Solution, device: str, gone: Sequence[Mapping[str, int]]) -> Solution:
    """A plan without some machines."""
    packing = solution.packings[device]
    left = list(packing.machines)
    for machine in gone:
        left.remove(dict(machine))
    taken: dict[str, int] = {}
    for machine in gone:
        for name, count in machine.items():
            taken[name] = taken.get(name, 0) + count
    columns = tuple(
        replace(column, replicas=column.replicas - taken.get(name, 0))
        for name, column in column_names(solution.columns).items()
    )
    packings = {**solution.packings, device: replace(packing, machines=tuple(left))}
    return replace(solution, columns=columns, packings=packings)


def lost_text(device: str, lost: int, gone: Sequence[Mapping[str, int]]) -> str:
    """What is lost, in words."""
    held = "; ".join(", ".join(f"{count} x {name}" for name, count in sorted(m.items())) for m in gone)
    return f"{device}: {lost} lost ({held})"


def enough_spares(problem: Problem, solution: Solution) -> Mapping[str, int]:
    """Spares by device such that, for the share of time asked, no more machines are gone than the plan withstands.

    Machines fail independently, each gone for its device's lost share: the number gone is binomial. One more spare
    at a time, as every spare adds machines that may be gone too.
    """
    wanted = problem.workload.robustness.availability
    spares = dict(problem.assurance.spares)
    for device, packing in solution.packings.items() if wanted is not None else ():
        tariff = problem.devices[device].tariff
        own = [column.option.load_s or 0.0 for column in solution.columns if column.option.device == device]
        gone = tariff.lost_share(max(own, default=0.0))
        if at_most_gone(len(packing.machines), gone, spares.get(device, 0)) < (wanted or 0.0):
            spares[device] = spares.get(device, 0) + 1
    return spares


def too_many_spares(problem: Problem) -> InfeasibleError:
    """The error where no number of spares that is planned with suffices."""
    return InfeasibleError(
        f"robustness.availability ({problem.workload.robustness.availability:g}) needs more than {MAX_SPARES} spares",
        ["would help: machines that are interrupted less, or start faster"],
    )


def at_most_gone(machines: int, gone: float, most: int) -> float:
    """Probability that at most so many of some machines are gone, each with probability `gone`."""
    chances = (math.comb(machines, k) * gone**k * (1 - gone) ** (machines - k) for k in range(min(most, machines) + 1))
    return math.fsum(chances)
