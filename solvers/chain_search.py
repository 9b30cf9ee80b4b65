"""The program's questions answered by labels, where they are exact (`chains.why_not`).

Goals are met one after the other, as `milp` does: each by a search for the label that is best for it, within all
promises and what the earlier goals reached. A first search keeps few labels of each stage and finds some plan; what
is not better than that is then fenced off (`labels`, `multipliers`), until a search leaves nothing out, or the bound
on what it left out says that nothing better is there. So the plan is optimal, by other means than the program's.

*Rejected plans and forbidden sets of variants* are criteria too: of a set's members at least one must be left out.

*Costs* are sums of whole machines' prices: bounds are rounded up to the next such sum. Where other goals must keep
within a cost, every way to spend it on machines is a limit of its own (`_fleets`), and the best of all is the answer.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from inferplan.solvers.chain_criteria import Bar, Criteria, Frame, Reach
from inferplan.solvers.chains import most_loss
from inferplan.solvers.columns import Column
from inferplan.solvers.combinations import MAX_COMBINATIONS
from inferplan.solvers.goals import ACCURACY, BETTER, COST, Ask, Goal, price_scale
from inferplan.solvers.labels import ROUNDING, Beam, Fence, Floats, TooManyLabels, reached, search, undominated
from inferplan.solvers.multipliers import fence, multipliers
from inferplan.solvers.problem import Problem

BEAMS = (Beam(200, 50), Beam(800, 300), Beam(3_000, 400), Beam(60_000, 100_000))
"""What searches go on with, one after the other; the widest only for what is promised or worth something, not for ties
among latencies, cores and names. One width less where a question says that it is in a hurry."""
MAX_SUMS = 50_000
"""Sums of prices that are listed; beyond them costs are taken for any number."""
MAX_FLEETS = 24
"""Ways to spend money on machines that are looked at one after the other."""
NEAR = 1e-9
"""Relative: what rounding may add up to."""


class Unsuited(Exception):
    """A question that labels do not answer."""


@dataclass(frozen=True)
class Answer:
    """Chosen columns. `values` are the goals' as the program states them; `bound` is of the first goal. `proven`: there
    is none better for it, by more than the gap. `tied`: ties are broken exactly."""

    columns: tuple[Column, ...]
    values: dict[Goal, float]
    bound: float
    proven: bool
    tied: bool


@dataclass
class _Found:
    """The best label so far and its value of the goal; what no other is better than."""

    items: Sequence[int] | None
    value: float = math.inf
    bound: float = -math.inf
    settled: bool = False


@dataclass(frozen=True)
class _Part:
    """Limits, the criteria they rest on, multipliers of the limits, and how good the goal can be at most."""

    reach: Reach
    frame: Frame
    weights: Floats
    bound: float


class ChainSearch:
    """An instance that labels are exact for, asked like the program."""

    def __init__(self, problem: Problem, columns: Sequence[Column]) -> None:
        self.problem = problem
        self._criteria = Criteria(problem, columns)
        self._sums = np.zeros(0)
        self._places = {_name(column): index for own in self._criteria.stages for index, column in enumerate(own)}

    def ask(
        self, ask: Ask, deadline: float, gap: float, known: Sequence[Column] = (), hurry: bool = False
    ) -> Answer | None:
        """The best plan for a question; None where there is none.

        `known` is a plan to begin with, if it keeps what is asked. Ties are broken as far as the widest search goes;
        in a `hurry` one width less. Raises Unsuited where labels do not answer the question, TooManyLabels where they
        are too many to find any plan.
        """
        reach, devices = self._promised(ask), self._criteria.fleet.devices
        bars = self._bars(ask)
        items: Sequence[int] | None = None
        values: dict[Goal, float] = {}
        bound, proven, tied = -math.inf, True, True
        for goal in ask.goals:
            if not self._means(goal, ask) or not proven:
                continue
            items = items or self._keeping(known, goal, reach, bars)
            beams = BEAMS if not values or goal == ACCURACY else BEAMS[:-1]
            found = self._best(
                goal, reach, bars, items, deadline, 0.0 if values else gap, beams[:-1] if hurry and values else beams
            )
            if found.items is None:
                return None
            if not values:
                bound, proven = self._stated(goal, found.bound, ask), found.settled
            else:
                tied &= found.settled
            items, values[goal] = found.items, self._stated(goal, found.value, ask)
            reach = reach.within(goal, devices, found.value + ROUNDING * max(abs(found.value), ROUNDING))
        if items is None:
            raise Unsuited("no goal means anything")
        if ask.needs_accuracy and ACCURACY not in values and self._means(ACCURACY, ask):
            # The first goal was not settled in time: what is chosen has an accuracy anyhow.
            frame = self._criteria.frame(ACCURACY, reach, bars)
            loss = float(self._criteria.read(ACCURACY, reach, frame, reached(frame.steps, items)[None, :])[0])
            values[ACCURACY] = self._stated(ACCURACY, loss, ask)
        columns = tuple(own[item] for own, item in zip(self._criteria.stages, items, strict=True))
        return Answer(columns, values, bound, proven, tied)

    def _keeping(
        self, columns: Sequence[Column], goal: Goal, reach: Reach, bars: Sequence[Bar]
    ) -> Sequence[int] | None:
        """A plan as items, if it is one of these and keeps all limits."""
        places = self._where(columns)
        if len(places) < len(self._criteria.stages):
            return None
        items = [places[own[0].stage] for own in self._criteria.stages]
        frame = self._criteria.frame(goal, reach, bars)
        ends = reached(frame.steps, items)
        keeps = bool(np.all(ends <= frame.steps[-1].room))
        value = float(self._criteria.read(goal, reach, frame, ends[None, :])[0])
        return items if keeps and value <= reach.of(goal, self._criteria.fleet.devices) else None

    def _promised(self, ask: Ask) -> Reach:
        """The limits that a question sets."""
        problem, need = self.problem, self.problem.classes[0]
        about = {goal for goal, _ in ask.limits} | ({ask.objective} if ask.better_than is not None else set())
        if not about <= {COST, ACCURACY} or any(goal[0] in ("energy", "weighted") for goal in ask.goals):
            raise Unsuited("energy, or goals of several terms")
        if any(most is not None for most in ask.enough.values()):
            raise Unsuited("accuracies that count up to a goal")
        limits = [(goal, most * (1 + ROUNDING) if goal == COST else most) for goal, most in ask.limits]
        if ask.budget_usd_per_h is not None:
            limits.append((COST, ask.budget_usd_per_h * (1 + ROUNDING)))
        if ask.better_than is not None:
            unit = price_scale(problem) if ask.objective == COST else 1.0
            less = ask.better_than / unit
            limits.append((ask.objective, (less - max(BETTER * abs(less), 2e-6)) * unit))
        floor, theta = ask.floors[need.name], ask.scales[need.name]
        losses = [] if floor is None or problem.accuracy is None else [most_loss(problem, floor)]
        losses += [self._loss_of(most) for goal, most in limits if goal == ACCURACY]
        latency = math.inf if need.limit_s is None or theta is None else need.limit_s * theta * (1 + ROUNDING)
        counts = [ask.counts[name] for name in self._criteria.fleet.devices]
        return Reach(
            tuple(math.inf if count is None else float(count) for count in counts),
            min((most for goal, most in limits if goal == COST), default=math.inf),
            min(losses, default=math.inf),
            latency,
        )

    def _bars(self, ask: Ask) -> list[Bar]:
        """Rejected plans and forbidden sets."""
        stages = self._criteria.stages
        bars: list[Bar] = []
        for chosen in ask.forbidden:
            names = {(stage, variant) for _, stage, variant in chosen}
            bars.append(
                tuple(frozenset(i for i, c in enumerate(own) if (c.stage, c.option.variant) in names) for own in stages)
            )
        for plan in ask.rejected:
            places = self._where(plan)
            if len(places) == len(stages):
                bars.append(tuple(frozenset([places[own[0].stage]]) for own in stages))
        return bars

    def _where(self, columns: Sequence[Column]) -> dict[str, int]:
        """The items that columns of a plan are, by stage, as far as they are among these."""
        found = {}
        for column in columns:
            item = self._places.get(_name(column))
            own = self._criteria.stages[self.problem.stages.index(column.stage)]
            if item is not None and own[item] == column:
                found[column.stage] = item
        return found

    def _means(self, goal: Goal, ask: Ask) -> bool:
        need = self.problem.classes[0]
        if goal[0] == "accuracy":
            return self.problem.accuracy is not None
        if goal[0] == "ratio":
            return need.limit_s is not None and ask.scales[need.name] is not None
        return goal[0] != "machines" or goal[1] in self._criteria.fleet.devices

    def _best(
        self,
        goal: Goal,
        reach: Reach,
        bars: Sequence[Bar],
        known: Sequence[int] | None,
        deadline: float,
        gap: float,
        beams: Sequence[Beam],
    ) -> _Found:
        """The best label for a goal; `known`, if there is one, keeps all limits."""
        best = _Found(known)
        if known is not None:
            frame = self._criteria.frame(goal, reach, bars)
            best.value = float(self._criteria.read(goal, reach, frame, reached(frame.steps, known)[None, :])[0])
        parts = sorted((self._part(goal, one, bars) for one in self._fleets(goal, reach)), key=lambda part: part.bound)
        bound, settled = math.inf, True
        for part in parts:
            found = self._search(goal, part, bars, best, deadline, gap, beams)
            best.items, best.value = found.items, found.value
            bound, settled = min(bound, found.bound), settled and found.settled
        if best.items is None and not settled:
            raise TooManyLabels(f"more than {BEAMS[-1].labels} at some stage, for {goal[0]}")
        best.settled = settled or bound > self._target(goal, best.value, gap)
        best.bound = min(bound, best.value)
        return best

    def _fleets(self, goal: Goal, reach: Reach) -> list[Reach]:
        """Limits one of which every plan within the limits keeps: instead of what all machines may cost together, how
        many there may be of every device type. Where there are several types, limits of sums say much more than the
        limit of a sum of whole machines' prices. The limits as they are, where that would be too many."""
        fleet = self._criteria.fleet
        paid = np.flatnonzero(fleet.prices_usd_per_h > 0)
        if goal[0] in ("cost", "machines") or not math.isfinite(reach.cost) or not len(paid):
            return [reach]
        if reach.cost < 0:
            return []  # less than nothing, as where the best plan known costs nothing
        counts = np.zeros((1, 0))
        prices, most = fleet.prices_usd_per_h[paid], reach.cost * (1 + ROUNDING)
        for place, price in zip(paid, prices, strict=True):
            left = np.maximum(most - counts @ prices[: counts.shape[1]], 0.0)
            tops = np.minimum(np.floor(left / price * (1 + NEAR)), reach.machines[place])
            if tops.sum() + len(tops) > MAX_SUMS:
                return [reach]
            rows = [
                np.append(row, n) for row, top in zip(counts, tops.tolist(), strict=True) for n in range(int(top) + 1)
            ]
            counts = np.array(rows)
        counts = counts[undominated(-counts)]
        if len(counts) > MAX_FLEETS:
            return [reach]
        machines = np.tile(reach.machines, (len(counts), 1))
        machines[:, paid] = counts
        return [replace(reach, machines=tuple(own), cost=math.inf) for own in machines.tolist()]

    def _part(self, goal: Goal, reach: Reach, bars: Sequence[Bar]) -> _Part:
        frame = self._criteria.frame(goal, reach, bars)
        return _Part(reach, frame, *self._multipliers(frame))

    def _search(
        self,
        goal: Goal,
        part: _Part,
        bars: Sequence[Bar],
        known: _Found,
        deadline: float,
        gap: float,
        beams: Sequence[Beam],
    ) -> _Found:
        """What is better within a part than what is known, and how good anything there can be."""
        devices, reach, frame = self._criteria.fleet.devices, part.reach, part.frame
        weights, bound = part.weights, part.bound
        found = _Found(known.items, known.value)
        paid = float(weights @ frame.most)
        conflicts: list[Fence] = []
        for beam in beams:
            target = min(reach.of(goal, devices), self._target(goal, found.value, gap))
            found.bound = max(found.bound, self._no_less(goal, bound, found.value))
            if found.bound > target:
                found.settled = True
                break
            if beam is not BEAMS[0] and time.monotonic() >= deadline:
                break
            closer = reach.within(goal, devices, target)
            narrow = self._criteria.frame(goal, closer, bars)
            if found.items is None and beam is not BEAMS[0]:
                conflicts = conflicts or self._conflicts(frame)
            most = paid + (target if frame.goal.any() else 0.0)
            main = fence(narrow.steps, narrow.lines, narrow.goal + weights @ frame.limits, most)
            try:
                labels = search(narrow.steps, [main, *conflicts], beam, self._affordable(narrow, closer))
            except TooManyLabels:
                break
            if len(labels.values):
                values = self._criteria.read(goal, closer, narrow, labels.values)
                best = int(np.argmin(values))
                if math.isfinite(values[best]) and values[best] <= target:
                    found.items, found.value = labels.items[best].tolist(), float(values[best])
            if math.isinf(labels.left_out):
                found.bound = max(found.bound, self._no_less(goal, target, found.value))
                found.settled = True
                break
            bound = max(bound, min(labels.left_out - paid, target) if frame.goal.any() else -math.inf)
        found.bound = max(found.bound, self._no_less(goal, bound, found.value))
        found.settled |= found.items is not None and found.bound > self._target(goal, found.value, gap)
        return found

    def _affordable(self, frame: Frame, reach: Reach) -> Callable[[Floats], NDArray[np.bool_]] | None:
        """Which labels cost no more than they may, machines in use being paid whole: sums know shares of them only."""
        if not math.isfinite(reach.cost):
            return None
        own, most = frame.where["machines"], reach.cost * (1 + ROUNDING)
        return lambda values: self._criteria.fleet.costs_usd_per_h(values[:, own]) <= most

    def _multipliers(self, frame: Frame) -> tuple[Floats, float]:
        """Multipliers of a frame's limits, and the bound on its goal that they prove."""
        if frame.goal.any():
            return multipliers(frame.lines, frame.goal, frame.limits, frame.most)
        # Nothing is known of the goal but that its limits must be kept.
        return 1 / np.maximum(np.abs(frame.most), 1e-300), -math.inf

    def _conflicts(self, frame: Frame) -> list[Fence]:
        """Fences of every limit together with the others."""
        found = []
        for own in range(len(frame.most)):
            others = np.arange(len(frame.most)) != own
            weights, _ = multipliers(frame.lines, frame.limits[own], frame.limits[others], frame.most[others])
            most = float(frame.most[own] + weights @ frame.most[others])
            found.append(fence(frame.steps, frame.lines, frame.limits[own] + weights @ frame.limits[others], most))
        return found

    def _target(self, goal: Goal, value: float, gap: float) -> float:
        """What is better than a value, by more than the gap."""
        if math.isinf(value):
            return value
        least = ROUNDING * max(abs(value), ROUNDING)
        if goal[0] == "accuracy":
            composed = self.problem.accuracy is not None and self.problem.accuracy.composition == "product"
            return value - max(math.log1p(gap) if composed else gap * abs(value), least)
        step = 1.0 - NEAR if goal[0] in ("cores", "machines") else 0.0
        return value - max(gap * abs(value), step, least)

    def _no_less(self, goal: Goal, bound: float, value: float) -> float:
        """What a goal is at least, whose value is no less than a bound, as far as it matters below a known value."""
        if not math.isfinite(bound):
            return bound
        if goal[0] in ("cores", "machines"):
            return float(math.ceil(bound - NEAR * max(abs(bound), 1.0)))
        if goal[0] != "cost" or math.isinf(value):
            return bound
        if not len(self._sums) or self._sums[-1] < value * (1 - NEAR):
            self._sums = sums_of(self._criteria.fleet.prices_usd_per_h.tolist(), value)
        place = int(np.searchsorted(self._sums, bound * (1 - NEAR)))
        return float(self._sums[place]) if place < len(self._sums) else bound

    def _stated(self, goal: Goal, value: float, ask: Ask) -> float:
        """A goal's value as the program states it."""
        need = self.problem.classes[0]
        if goal[0] == "cost":
            return value / price_scale(self.problem)
        if goal[0] == "accuracy":
            return self._worth(value)
        if goal[0] == "ratio":
            return value / ((need.limit_s or 1.0) * (ask.scales[need.name] or 1.0))
        return value / (need.limit_s or 1.0) if goal[0] == "latency" else value

    def _worth(self, loss: float) -> float:
        """Minus the accuracy of a loss where the program lists combinations; else their sum, as the program has it."""
        composition = self._composition()
        if composition is None or composition == "minimum":
            return loss
        return -math.exp(-loss) if composition == "product" else loss / len(self.problem.stages)

    def _loss_of(self, worth: float) -> float:
        """The inverse."""
        composition = self._composition()
        if composition is None or composition == "minimum":
            return worth
        return -math.log(max(-worth, 1e-300)) if composition == "product" else worth * len(self.problem.stages)

    def _composition(self) -> str | None:
        """How accuracy is composed, where the program lists all combinations."""
        size = math.prod(len(self.problem.variants(stage)) for stage in self.problem.stages)
        accuracy = self.problem.accuracy
        return accuracy.composition if accuracy is not None and size <= MAX_COMBINATIONS else None


def _name(column: Column) -> tuple[str, str, int]:
    """What tells columns of a chain apart, nearly always: comparing all of their fields takes long."""
    return column.stage, column.option.name, column.replicas


def sums_of(prices: Sequence[float], most: float) -> Floats:
    """All sums of whole multiples of prices up to `most`, rising; nothing where they are too many."""
    sums = np.zeros(1)
    for price in sorted({price for price in prices if price > 0}, reverse=True):
        multiples = np.arange(math.floor(most / price * (1 + NEAR)) + 1) * price
        if len(sums) * len(multiples) > 100 * MAX_SUMS:
            return np.zeros(0)
        every = np.sort((sums[:, None] + multiples[None, :]).reshape(-1))
        every = every[every <= most * (1 + NEAR)]
        # Sums that differ by rounding only are one.
        sums = every[np.concatenate([[True], np.diff(every) > NEAR * most])]
        if len(sums) > MAX_SUMS:
            return np.zeros(0)
    return sums
