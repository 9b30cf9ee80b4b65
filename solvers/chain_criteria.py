"""Criteria of a chain of choices, laid out for one goal: steps, lines, and what is a limit (`chain_search`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from inferplan.solvers.chains import Fleet, longest, loss_steps, plain, side_by_side, way_steps
from inferplan.solvers.columns import Column
from inferplan.solvers.goals import Goal, name_weights
from inferplan.solvers.labels import ROUNDING, Floats, Step
from inferplan.solvers.multipliers import Lines, lines_of
from inferplan.solvers.problem import Problem

MAX_PATHS = 6
"""Paths whose latency limits have multipliers: those that are longest at least."""
Bar = tuple[frozenset[int], ...]
"""Per stage the items of which at least one stage has to choose another."""


@dataclass(frozen=True)
class Reach:
    """What criteria may be at most: promises, and what earlier goals reached. Cost in USD/h, latency in seconds."""

    machines: tuple[float, ...]
    cost: float = math.inf
    loss: float = math.inf
    latency: float = math.inf
    cores: float = math.inf

    def of(self, goal: Goal, devices: Sequence[str]) -> float:
        """What a goal may be at most."""
        limits = {"cost": self.cost, "accuracy": self.loss, "ratio": self.latency, "latency": self.latency}
        if goal[0] == "machines":
            return self.machines[devices.index(goal[1])]
        return self.cores if goal[0] == "cores" else limits.get(goal[0], math.inf)

    def within(self, goal: Goal, devices: Sequence[str], value: float) -> Reach:
        """The same, with a goal that may be no more than a value."""
        if goal[0] == "machines":
            counts = [value if name == goal[1] else most for name, most in zip(devices, self.machines, strict=True)]
            return replace(self, machines=tuple(counts))
        names = {"cost": "cost", "accuracy": "loss", "ratio": "latency", "latency": "latency", "cores": "cores"}
        name = names.get(goal[0])
        return self if name is None else replace(self, **{name: min(getattr(self, name), value)})


@dataclass(frozen=True)
class Frame:
    """Criteria laid out for one goal.

    `where` are the criteria of each kind after the last step. `goal` (lines,) bounds the goal's value from below;
    `limits` (limits, lines) @ line <= `most`.
    """

    steps: tuple[Step, ...]
    where: dict[str, slice]
    lines: Lines
    goal: Floats
    limits: Floats
    most: Floats


@dataclass(frozen=True)
class _Block:
    """Criteria of one kind: their steps for a limit of 0, and the most that later stages may add to each."""

    steps: tuple[Step, ...]
    ahead: tuple[Floats, ...]

    @staticmethod
    def of(steps: Sequence[Step]) -> _Block:
        # Where maxima come on top of sums, what a sum may be does not say whether a limit is kept.
        ahead = [np.full(len(steps[-1].maxima), np.inf if steps[-1].maxima.any() else 0.0)]
        for earlier, step in reversed(list(pairwise(steps))):
            most = ahead[0] + step.values.max(axis=0)
            before = np.zeros(len(earlier.maxima))
            for own, sources in zip(most, step.merge, strict=True):
                before[list(sources)] = np.maximum(before[list(sources)], own)
            ahead.insert(0, before)
        return _Block(tuple(steps), tuple(ahead))

    def within(self, limit: float, counts: bool) -> list[Step]:
        """The steps for a limit. `counts`: less is better even where the limit is kept anyway."""
        if counts or math.isinf(limit):
            return [replace(step, room=step.room + limit) for step in self.steps]
        return [
            replace(step, room=step.room + limit, slack=limit - ahead)
            for step, ahead in zip(self.steps, self.ahead, strict=True)
        ]


class Criteria:
    """All criteria of an instance that labels are exact for."""

    def __init__(self, problem: Problem, columns: Sequence[Column]) -> None:
        self.stages = [[column for column in columns if column.stage == stage] for stage in problem.stages]
        self.fleet = Fleet.of(problem, columns)
        self._problem = problem
        self._taken = self.fleet.taken(self.stages)
        self._latency = _Block.of(way_steps(problem, self.stages, 0.0))
        self._loss = None if problem.accuracy is None else _Block.of(loss_steps(problem, self.stages, 0.0))
        self._cores = [np.array([[float(column.cores)] for column in own]) for own in self.stages]
        weights = iter(name_weights([column for own in self.stages for column in own]))
        self._names = [np.array([[next(weights)] for _ in own]) for own in self.stages]

    def frame(self, goal: Goal, reach: Reach, bars: Sequence[Bar]) -> Frame:
        """The criteria that a goal and its limits rest on."""
        kind = goal[0]
        room = self.fleet.room(reach.machines, reach.cost)
        parts = {"machines": [plain(values, room, "machines") for values in self._taken]}
        if self._loss is not None and (kind == "accuracy" or math.isfinite(reach.loss)):
            parts["loss"] = self._loss.within(reach.loss, kind == "accuracy")
        timed = kind in ("ratio", "latency")
        if timed or math.isfinite(reach.latency):
            parts["latency"] = self._latency.within(reach.latency, timed)
        if kind == "cores" or math.isfinite(reach.cores):
            parts["cores"] = [plain(values, np.array([reach.cores]), "cores") for values in self._cores]
        if kind == "names":
            parts["names"] = [plain(values, np.array([np.inf]), "names") for values in self._names]
        for number, bar in enumerate(bars):
            parts[f"bar{number}"] = self._barred(bar)
        steps, begins = side_by_side(list(parts.values()))
        where = {
            name: slice(begin, begin + len(part[-1].maxima))
            for (name, part), begin in zip(parts.items(), begins, strict=True)
        }
        lines = lines_of(steps)
        limits, most = self._limits(goal, reach, where, lines, steps[-1])
        return Frame(tuple(steps), where, lines, self._goal(goal, where, lines), limits, most)

    def _barred(self, bar: Bar) -> list[Step]:
        own = [np.zeros((len(stage), 1)) for stage in self.stages]
        for values, items in zip(own, bar, strict=True):
            values[sorted(items)] = 1.0
        members = sum(1 for items in bar if items)
        return _Block.of([plain(values, np.zeros(1), "bar") for values in own]).within(members - 1.0, False)

    def _goal(self, goal: Goal, where: dict[str, slice], lines: Lines) -> Floats:
        """Weights of lines whose sum is never more than the goal."""
        kind = goal[0]
        weights = np.zeros(lines.values.shape[1])
        ends = lines.places[-1]
        if kind in ("cost", "machines"):
            own = where["machines"]
            prices = self.fleet.prices_usd_per_h if kind == "cost" else np.array(self.fleet.devices) == goal[1]
            per_criterion = np.zeros(own.stop)
            per_criterion[own] = prices / self.fleet.rooms
            weights[ends < own.stop] = per_criterion[ends[ends < own.stop]]
            return weights
        name = {"accuracy": "loss", "ratio": "latency"}.get(kind, kind)
        own_lines = _within(where[name], ends)
        if len(own_lines):
            # Of several paths the one that is longest at least.
            weights[own_lines[int(np.argmax(_least(lines, own_lines)))]] = 1.0
        return weights

    def _limits(
        self, goal: Goal, reach: Reach, where: dict[str, slice], lines: Lines, last: Step
    ) -> tuple[Floats, Floats]:
        """Limits of lines besides what the goal is about."""
        kind = goal[0]
        rows, most = [], []
        ends = lines.places[-1]
        unit = np.eye(lines.values.shape[1])
        if kind not in ("cost", "machines") and math.isfinite(reach.cost):
            rows.append(self._goal(("cost", ""), where, lines))
            most.append(reach.cost)
        for own, count, room in zip(range(len(self.fleet.devices)), reach.machines, self.fleet.rooms, strict=True):
            if math.isfinite(count):
                rows.append(unit[_within(slice(own, own + 1), ends)[0]])
                most.append(count * float(room))
        for name in ("loss", "latency", "cores"):
            if name not in where or name == {"accuracy": "loss", "ratio": "latency"}.get(kind, kind):
                continue
            own_lines = _within(where[name], ends)
            for line in own_lines[np.argsort(-_least(lines, own_lines), kind="stable")][:MAX_PATHS]:
                if math.isfinite(last.room[ends[line]]):
                    rows.append(unit[line])
                    most.append(float(last.room[ends[line]]))
        return np.array(rows).reshape(len(rows), len(unit)), np.array(most)

    def read(self, goal: Goal, reach: Reach, frame: Frame, ends: Floats) -> Floats:
        """The goal's value for criteria after the last step (labels, criteria); infinite where a limit is not kept."""
        values = {name: ends[:, own] for name, own in frame.where.items()}
        costs = self.fleet.costs_usd_per_h(values["machines"])
        keeps = costs <= reach.cost * (1 + ROUNDING) if math.isfinite(reach.cost) else np.ones(len(ends), dtype=bool)
        latency = np.zeros(len(ends))
        if "latency" in values:
            latency = longest(values["latency"], self._latency.steps[-1].maxima.tolist())
            keeps &= latency <= reach.latency
        kind = goal[0]
        if kind == "machines":
            found = self.fleet.machines(values["machines"])[:, self.fleet.devices.index(goal[1])]
        elif kind in ("cost", "ratio", "latency"):
            found = costs if kind == "cost" else latency
        else:
            found = values[{"accuracy": "loss"}.get(kind, kind)][:, 0]
        result: Floats = np.where(keeps, found, np.inf)
        return result


def _within(own: slice, ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """The lines that end at some criteria."""
    return np.flatnonzero((ends >= own.start) & (ends < own.stop))


def _least(lines: Lines, chosen: NDArray[np.int64]) -> Floats:
    """The least that lines can sum up to."""
    found: Floats = np.minimum.reduceat(lines.values[:, chosen], lines.begins).sum(axis=0)
    return found
