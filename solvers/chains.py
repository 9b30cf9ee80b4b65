"""When Pareto labels are exact, and an instance written as such a chain of choices (`labels`).

Labels need criteria that grow stage by stage, so they apply where

- there is one class, and no stage's load depends on what another stage runs (no measured fan-out per variant);
- accuracy is composed of stage metrics by product, mean or minimum, and no combination was measured end to end;
- *cost is additive before rounding*: the machines of every device type follow from the sum of what its replicas take,
  machines = ⌈Σ taken / room⌉. That holds where a machine has room for one replica only, whichever it is; where all
  replicas take the same number of cores (or the GPU); and where core counts divide one another and the machine
  (1, 2, 4 of 8): sorted by size they fill machines without gaps. Memory must never be what limits.

The rounded-up cost is monotone in every device's sum, so labels carry the sums, not the cost: one criterion per
device type, next to accuracy and latency.

*Latency* is the longest path's. Labels carry one sum per distinct rest of a path: paths with the same stages ahead are
merged by their maximum, unless one of their stages serves a request's calls in several rounds. The latency of such
a path is the sum of its single calls plus the largest (whole - single) of its stages; it carries both by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np

from inferplan.estimators.accuracy import PLAIN, TOLERANCE
from inferplan.estimators.cost import Capacity
from inferplan.solvers.columns import Column, adds_cost
from inferplan.solvers.labels import ROUNDING, Floats, Labels, Step, search
from inferplan.solvers.packing import Item, pack
from inferplan.solvers.problem import DeviceType, Problem

_HOPELESS = 1e6
"""Criterion of a stage metric that leaves no accuracy at all."""


@dataclass(frozen=True)
class Limits:
    """What plans must keep; None where nothing is asked. What is neither limited nor wanted is no criterion."""

    latency_s: float | None = None
    floor: float | None = None
    budget_usd_per_h: float | None = None
    wants_latency: bool = False
    wants_accuracy: bool = False


@dataclass(frozen=True)
class Way:
    """Paths with the same stages ahead, or one path whose stages serve a request's calls in several rounds."""

    ahead: tuple[str, ...]
    path: int | None = None


@dataclass(frozen=True)
class Plans:
    """Undominated plans of a chain, as labels see them."""

    columns: tuple[tuple[Column, ...], ...]
    """Per stage."""
    items: Labels
    costs_usd_per_h: Floats
    losses: Floats
    """The accuracy criterion: less is better; 0 where it is none."""
    latencies_s: Floats

    def chosen(self, label: int) -> tuple[Column, ...]:
        """The columns of a label."""
        return tuple(own[item] for own, item in zip(self.columns, self.items.items[label], strict=True))


def why_not(problem: Problem, columns: Sequence[Column]) -> str | None:
    """Why labels are not exact for an instance; None where they are."""
    if len(problem.classes) > 1:
        return "there are several classes"
    if any(column.context for column in columns):
        return "fan-outs depend on variants"
    if problem.assurance.shapes_columns:
        return "plans must withstand more than their load"
    if any(adds_cost(problem, stage) for stage in problem.stages):
        return "replicas cost or draw something besides their machines"
    if len(problem.ways.tiers) > 1:
        return "calls go between tiers"
    if problem.exclusive:
        return "machines are exclusive to stages"
    if any(column.option.company for column in columns):
        return "replicas share GPUs"
    accuracy = problem.accuracy
    if accuracy is not None and (accuracy.measured or accuracy.composition not in PLAIN):
        return "accuracy was measured for combinations"
    for name, needs in _needs(columns).items():
        if problem.devices[name].tariff.billing != "whole":
            return f"machines of {name} are paid by share"
        if _units(problem.devices[name], needs) is None:
            return f"replicas of different sizes share machines of {name}"
    return None


def plans(problem: Problem, columns: Sequence[Column], limits: Limits, deadline: float = math.inf) -> Plans:
    """Every undominated plan of an instance that `why_not` has nothing against.

    Raises TooManyLabels; OutOfTimeError where the `deadline` has passed.
    """
    stages = tuple(tuple(c for c in columns if c.stage == stage) for stage in problem.stages)
    if not all(stages):
        return Plans(stages, Labels(np.zeros((0, 1)), np.zeros((0, len(stages)), dtype=np.int64)), *_nothing())
    parts = [_machines(problem, stages, limits)]
    if problem.accuracy is not None and (limits.floor is not None or limits.wants_accuracy):
        parts.append(accuracy_steps(problem, stages, limits))
    if limits.latency_s is not None or limits.wants_latency:
        parts.append(latency_steps(problem, stages, limits))
    steps, offset = side_by_side(parts)
    found = search(steps, deadline=deadline)
    return _read(problem, stages, limits, parts, offset, found)


def side_by_side(parts: Sequence[Sequence[Step]]) -> tuple[list[Step], list[int]]:
    """Steps with the criteria of several lists of steps, and where each list's criteria begin at the last one."""
    steps: list[Step] = []
    offset = [0] * len(parts)
    for index in range(len(parts[0])):
        pieces = [part[index] for part in parts]
        merge: list[tuple[int, ...]] = []
        for number, piece in enumerate(pieces):
            begins = len(merge)
            merge += [tuple(source + offset[number] for source in sources) for sources in piece.merge]
            offset[number] = begins
        steps.append(
            Step(
                np.concatenate([piece.values for piece in pieces], axis=1),
                tuple(merge),
                np.concatenate([piece.maxima for piece in pieces]),
                np.concatenate([piece.room for piece in pieces]),
                np.concatenate([piece.start for piece in pieces]),
                slack=_slack(pieces),
            )
        )
    return steps, offset


def _slack(pieces: Sequence[Step]) -> Floats | None:
    """Slacks of all criteria; None where there is none."""
    if all(piece.slack is None for piece in pieces):
        return None
    none = [np.full(len(piece.maxima), -np.inf) for piece in pieces]
    return np.concatenate([own if p.slack is None else p.slack for p, own in zip(pieces, none, strict=True)])


def _nothing() -> tuple[Floats, Floats, Floats]:
    return np.zeros(0), np.zeros(0), np.zeros(0)


def _read(
    problem: Problem,
    stages: tuple[tuple[Column, ...], ...],
    limits: Limits,
    parts: Sequence[Sequence[Step]],
    offset: Sequence[int],
    found: Labels,
) -> Plans:
    """Costs, losses and latencies of labels; those beyond the limits are dropped."""
    loss, latency = (np.zeros(len(found.values)) for _ in range(2))
    fleet = Fleet.of(problem, [c for own in stages for c in own])
    cost = fleet.costs_usd_per_h(found.values[:, : len(fleet.rooms)])
    for part, start in zip(parts, offset, strict=True):
        if part[-1].kind == "accuracy":
            loss = found.values[:, start]
        elif part[-1].kind == "latency":
            latency = longest(found.values[:, start : start + len(part[-1].maxima)], part[-1].maxima.tolist())
    keeps = np.ones(len(cost), dtype=bool)
    if limits.latency_s is not None:
        keeps &= latency <= limits.latency_s * (1 + ROUNDING)
    if limits.budget_usd_per_h is not None:
        keeps &= cost <= limits.budget_usd_per_h * (1 + ROUNDING)
    return Plans(stages, Labels(found.values[keeps], found.items[keeps]), cost[keeps], loss[keeps], latency[keeps])


def longest(ways: Floats, extras: Sequence[bool]) -> Floats:
    """Latency of the longest way; an extra belongs to the sum before it."""
    totals = [ways[:, place] for place, extra in enumerate(extras) if not extra]
    where = [place for place, extra in enumerate(extras) if not extra]
    for number, place in enumerate(where):
        if place + 1 < len(extras) and extras[place + 1]:
            totals[number] = totals[number] + ways[:, place + 1]
    return np.asarray(np.max(np.stack(totals), axis=0))


def _needs(columns: Sequence[Column]) -> dict[str, set[Capacity]]:
    """What replicas take, by device type."""
    needs: dict[str, set[Capacity]] = {}
    for column in columns:
        if column.option.need is not None:
            needs.setdefault(column.option.device, set()).add(column.option.need)
    return dict(sorted(needs.items()))


def _units(device: DeviceType, needs: set[Capacity]) -> tuple[Callable[[Capacity], int], int] | None:
    """What a replica takes of the room of a machine, such that machines = ⌈sum / room⌉; None where that is not so."""
    machine = device.capacity
    ordered = sorted(needs, key=lambda need: (need.cores, need.gpus, need.memory_bytes or 0))
    pairs = combinations_with_replacement(ordered, 2)
    if all(len(pack([Item("a", a, 1), Item("b", b, 1)], machine).machines) == 2 for a, b in pairs):
        return (lambda need: 1), 1
    if any(need.gpus for need in ordered):
        return None
    sizes = sorted({need.cores for need in ordered})
    room = machine.cores // sizes[0] * sizes[0] if len(sizes) == 1 else machine.cores
    if any(large % small for small, large in zip(sizes, [*sizes[1:], room], strict=True)):
        return None
    if machine.memory_bytes is not None:
        densest = max((need.memory_bytes or 0) / need.cores for need in ordered)
        if densest * room > machine.memory_bytes:
            return None
    return (lambda need: need.cores), room


def plain(values: Floats, room: Floats, kind: str, maximum: bool = False, start: float = 0.0) -> Step:
    """A step whose criteria stay what they are."""
    count = values.shape[1]
    merge = tuple((place,) for place in range(count))
    return Step(values, merge, np.full(count, maximum), room, np.full(count, start), kind)


def _machines(problem: Problem, stages: Sequence[Sequence[Column]], limits: Limits) -> list[Step]:
    """One criterion per device type: what its replicas take, in units of its machines' room."""
    fleet = Fleet.of(problem, [c for own in stages for c in own])
    counts = [problem.devices[name].count for name in fleet.devices]
    budget = math.inf if limits.budget_usd_per_h is None else limits.budget_usd_per_h
    room = fleet.room([math.inf if count is None else float(count) for count in counts], budget)
    return [plain(values, room, "machines") for values in fleet.taken(stages)]


@dataclass(frozen=True)
class Fleet:
    """Device types in use, and what replicas take of their machines' room. Where none is in use arrays still have one
    entry, of a device that costs nothing."""

    devices: tuple[str, ...]
    rooms: Floats
    prices_usd_per_h: Floats
    units: tuple[Mapping[Capacity, int], ...]
    """What a replica takes, by its need."""

    @staticmethod
    def of(problem: Problem, columns: Sequence[Column]) -> Fleet:
        """The device types of an instance that labels are exact for."""
        names, rooms, prices, takes = [], [1.0], [0.0], []
        for name, needs in _needs(columns).items():
            units = _units(problem.devices[name], needs)
            assert units is not None
            names.append(name)
            rooms.append(float(units[1]))
            prices.append(problem.devices[name].tariff.hourly_usd)
            takes.append({need: units[0](need) for need in needs})
        first = 1 if names else 0
        return Fleet(tuple(names), np.array(rooms[first:]), np.array(prices[first:]), tuple(takes))

    def room(self, counts: Sequence[float], budget_usd_per_h: float) -> Floats:
        """The most that all replicas may take, by device, for so many machines and as much money."""
        most = np.array(counts) if self.devices else np.full(1, np.inf)
        with np.errstate(divide="ignore", invalid="ignore"):
            paid = np.where(self.prices_usd_per_h > 0, budget_usd_per_h / self.prices_usd_per_h, np.inf)
        most = np.minimum(most, paid)
        found: Floats = np.where(np.isinf(most), np.inf, np.floor(most + ROUNDING)) * self.rooms
        return found

    def taken(self, stages: Sequence[Sequence[Column]]) -> list[Floats]:
        """Per stage (columns, devices): what all replicas of a column take."""
        places = {name: place for place, name in enumerate(self.devices)}
        found = [np.zeros((len(own), len(self.rooms))) for own in stages]
        for values, own in zip(found, stages, strict=True):
            for row, column in enumerate(own):
                if column.option.need is not None:
                    place = places[column.option.device]
                    values[row, place] = column.replicas * self.units[place][column.option.need]
        return found

    def machines(self, taken: Floats) -> Floats:
        """Machines by device, of what all replicas take (..., devices)."""
        found: Floats = np.ceil(taken / self.rooms - ROUNDING)
        return found

    def costs_usd_per_h(self, taken: Floats) -> Floats:
        """What these machines cost."""
        found: Floats = self.machines(taken) @ self.prices_usd_per_h
        return found


def accuracy_steps(problem: Problem, stages: Sequence[Sequence[Column]], limits: Limits) -> list[Step]:
    """Accuracy as a loss: Σ -log(metric), Σ -metric, or the largest -metric, of the turned metrics."""
    return loss_steps(problem, stages, math.inf if limits.floor is None else most_loss(problem, limits.floor))


def most_loss(problem: Problem, floor: float) -> float:
    """The accuracy criterion that a floor (in the user's direction) allows."""
    assert problem.accuracy is not None
    turned = problem.accuracy.turn.turned(floor) - TOLERANCE
    composed = {"product": -math.log(max(turned, 1e-300)), "mean": -turned * len(problem.stages)}
    return composed.get(problem.accuracy.composition, -turned) + ROUNDING * TOLERANCE


def loss_steps(problem: Problem, stages: Sequence[Sequence[Column]], limit: float) -> list[Step]:
    """The same, for a limit of the criterion."""
    accuracy = problem.accuracy
    assert accuracy is not None
    kinds = {(c.stage, c.option.variant) for own in stages for c in own}
    known = {kind: _loss(problem, *kind) for kind in kinds}
    losses = [np.array([known[c.stage, c.option.variant] for c in own])[:, None] for own in stages]
    if accuracy.composition == "minimum":
        return [plain(values, np.array([limit]), "accuracy", True, -_HOPELESS) for values in losses]
    ahead = np.concatenate([np.cumsum([float(values.min()) for values in losses][::-1])[::-1][1:], [0.0]])
    return [
        plain(values, np.array([limit - rest + 1e-12]), "accuracy") for values, rest in zip(losses, ahead, strict=True)
    ]


def _loss(problem: Problem, stage: str, variant: str) -> float:
    accuracy = problem.accuracy
    assert accuracy is not None
    known = accuracy.values.get((stage, variant))
    if known is None:
        return _HOPELESS
    value = accuracy.turn.turned(known.value)
    if accuracy.composition == "product":
        return -math.log(value) if value > 1e-300 else _HOPELESS
    return -value


def latency_steps(problem: Problem, stages: Sequence[Sequence[Column]], limits: Limits) -> list[Step]:
    """One sum per way, and for a path with several rounds the largest extra beside it."""
    return way_steps(problem, stages, math.inf if limits.latency_s is None else limits.latency_s * (1 + ROUNDING))


def way_steps(problem: Problem, stages: Sequence[Sequence[Column]], limit: float) -> list[Step]:
    """The same, for a limit in seconds."""
    rounds = {s for s, own in zip(problem.stages, stages, strict=True) if any(c.whole_s != c.single_s for c in own)}
    least = {s: min(c.single_s[0] for c in own) for s, own in zip(problem.stages, stages, strict=True)}
    before: list[tuple[Way, bool]] = []
    steps = []
    for index, (stage, own) in enumerate(zip(problem.stages, stages, strict=True)):
        ways = sorted(
            {_way(problem, number, index, rounds) for number in range(len(problem.paths))},
            key=lambda way: (way.ahead, way.path is not None, way.path or 0),
        )
        entries = [(way, extra) for way in ways for extra in ((False, True) if way.path is not None else (False,))]
        single, whole = np.array([(c.single_s[0], c.whole_s[0]) for c in own]).T
        merge, values, room = [], [], []
        for way, extra in entries:
            merge.append(
                tuple(
                    place
                    for place, (old, was_extra) in enumerate(before)
                    if was_extra == extra and _after(old, problem.stages[index - 1]) == way
                )
            )
            here = bool(way.ahead) and way.ahead[0] == stage
            values.append((whole - single if extra else single) * here)
            rest = sum(least[s] for s in way.ahead[1 if here else 0 :])
            room.append(limit - (0.0 if extra else rest))
        steps.append(
            Step(
                np.stack(values, axis=1), tuple(merge), np.array([extra for _, extra in entries]), np.array(room),
                np.zeros(len(entries)), "latency",
            )
        )  # fmt: skip
        before = entries
    return steps


def _way(problem: Problem, number: int, index: int, rounds: set[str]) -> Way:
    """What lies ahead of a path from a stage on."""
    path = problem.paths[number]
    order = {stage: place for place, stage in enumerate(problem.stages)}
    ahead = tuple(stage for stage in path if order[stage] >= index)
    return Way(ahead, number if rounds & set(path) else None)


def _after(way: Way, stage: str) -> Way:
    return Way(way.ahead[1:], way.path) if way.ahead[:1] == (stage,) else way
