"""Deployments near one that the simulation rejected: some of them keep what it misses.

The program chooses by estimated latencies, and its columns were pruned by them. Where estimates rank wrongly (large
batches under bursts are the usual case) the plan that would do is not proposed, or is no column at all. Here single
queues of a plan are changed, and the simulation alone decides which change is for the better:

- the same variant with another largest batch, queue delay, number of threads or device of the same tier, with as many
  replicas as before, or as many as there is room for;
- as many replicas as there is room for on machines that are paid for anyway, or one less (neighbours disturb);
- queues of the same variant, of different classes, made one;
- where none of these gains, a replica of one queue given up for one of another.

Where a queue has many changes, `estimators.simulation.rehearsal` tells which of them to simulate: it serves that stage
anew and leaves the others as they were.

It is a descent, queue by queue, each time to the change after which the simulated latency is least over its limit, as
long as that gains anything; a plan that seems to keep its limits is certified like any other. Accuracy is what it
was: variants stay. Not for plans that must survive lost machines: how many replicas a machine holds is part of those.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from inferplan.estimators.simulation import SimulationResult
from inferplan.estimators.simulation.rehearsal import Rehearsal
from inferplan.estimators.transport import tier_of
from inferplan.solvers.columns import MAX_UTILISATION, Column, columns_of
from inferplan.solvers.judge import GLANCE, Judge, limits_s, measured, network_of
from inferplan.solvers.milp import Solution, solution_of
from inferplan.solvers.neighbours import arranged
from inferplan.solvers.options import Option
from inferplan.solvers.problem import Problem
from inferplan.solvers.program import column_names

MAX_GLANCES = 200
"""Short simulations that one search may spend here."""
MAX_ADDED = 16
"""Replicas added at most in one change."""
GAIN = 0.01
GLANCED = 3
"""Of more changes of one queue than this the most promising ones by rehearsal."""
FEW = 3
"""Stages from which on even few changes are rehearsed first: it takes a fraction of the time."""
REHEARSED = 4
"""Replications of a rehearsal."""
UNSURE = 1.1
"""Up to this ratio a rehearsal does not rule out a cheaper plan."""
SEEMS = 1.02
"""Up to this ratio of latency to limit a short simulation does not rule a plan out."""

ALIKE = 3
"""Plans certified at most because they seem as good as one that was not."""

Admissible = Callable[[Solution], bool]
"""Whether a plan may be bought, and is better than the best one known."""


@dataclass
class Vicinity:
    """The search near plans, until the `deadline`. `glances` counts the short simulations done."""

    problem: Problem
    judge: Judge
    deadline: float = math.inf
    glances: int = 0
    _kept: tuple[Solution, Rehearsal] | None = None
    """The plan whose changes were rehearsed last."""
    _columns: dict[tuple[str, tuple[int, ...], int, tuple[tuple[str, ...], ...]], Column] = field(default_factory=dict)
    """By option, classes, replicas and the classes' variants."""

    @property
    def _spent(self) -> bool:
        return self.glances >= MAX_GLANCES or time.monotonic() >= self.deadline

    def repaired(self, plan: Solution, admissible: Admissible) -> Solution | None:
        """A certified plan near one; None where none was found."""
        if any(self.problem.assurance.spares.values()):
            return None
        # A glance is short, so that full queues look shorter than they are: as soon as that is known, it counts.
        ratio, bias, alike = self._ratio(plan), 1.0, ALIKE
        gained = True
        while gained and not self._spent:
            gained, before = False, ratio
            for column in self._slowest_first(plan):
                if column not in plan.columns or self._spent:
                    continue
                tried = [(self._ratio(other), other) for other in self._promising(plan, column, admissible)]
                if not tried:
                    continue
                found, other = min(tried, key=lambda item: (max(bias * item[0], 1.0), item[1].cost_usd_per_h, item[0]))
                if found >= ratio * (1 - GAIN) and not (bias * found <= 1 and not admissible(plan)):
                    # Of two that seem to keep the limits alike, the one may be certified where the other was not.
                    if bias * found <= SEEMS and alike > 0:
                        alike -= 1
                        if self.judge.certain(other).verdict == "met":
                            return other
                    continue
                plan, ratio, gained = other, found, True
                if bias * ratio <= SEEMS:
                    result = self.judge.certain(plan)
                    if result.verdict == "met":
                        return plan
                    bias = max(bias, self._worst(result) / ratio) if ratio > 0 else bias
            # Once every queue has had its best change, going round again gains no more than the last time.
            if gained and bias * (ratio - (before - ratio)) <= SEEMS:
                continue
            seen = [(self._ratio(other), other) for other in self._traded(plan, admissible)]
            found, other = min(seen, key=lambda item: item[0], default=(math.inf, plan))
            if found >= ratio * (1 - GAIN):
                return None
            plan, ratio, gained = other, found, True
            if bias * ratio <= SEEMS and self.judge.certain(plan).verdict == "met":
                return plan
        return None

    def _traded(self, plan: Solution, admissible: Admissible) -> Iterator[Solution]:
        """One replica of a queue given up for one of another."""
        queues = [one for one in plan.columns if one.option.need is not None]
        for less in queues:
            for more in queues:
                if less is more or not _spares_one(less) or self._spent:
                    continue
                new = [self._resized(plan, less, -1), self._resized(plan, more, 1)]
                rest = [one for one in plan.columns if one is not less and one is not more]
                changed = replace(solution_of(self.problem, (*rest, *new)), values=plan.values)
                if admissible(changed):
                    yield arranged(self.problem, changed)

    def _resized(self, plan: Solution, column: Column, by: int) -> Column:
        """A queue with more replicas, or fewer."""
        self._estimate(plan, column.classes, [(column.option, (column.replicas + by,))])
        return self._column(plan, column.classes, column.option, column.replicas + by)

    def _worst(self, result: SimulationResult) -> float:
        """Latency over limit of the class that is worst off."""
        if result.unstable:
            return math.inf
        return max(measured(result, limits_s(self.problem)).values(), default=0.0)

    def _ratio(self, plan: Solution) -> float:
        """Simulated latency over limit, of the class that is worst off."""
        before = self.judge.seen()
        result = self.judge.judge(plan, GLANCE)
        self.glances += self.judge.seen() - before
        return self._worst(result)

    def _promising(self, plan: Solution, column: Column, admissible: Admissible) -> list[Solution]:
        """What one queue can be changed to and is worth a glance: where many are possible or each takes long, what does
        best in a rehearsal."""
        others = list(self._changes(plan, column, admissible))
        # Where neighbours slow one another down, other queues are served at other speeds as well.
        if not others or self.problem.interference.matters or self._ratio(plan) == math.inf:
            return others
        if len(others) <= GLANCED and len(self.problem.stages) <= FEW:
            return others
        rehearsal = self._rehearsed(plan)
        own = self._rehearsed_ratio(rehearsal, plan, column.stage)
        most = own if admissible(plan) else max(own, UNSURE)
        ranked = [(self._rehearsed_ratio(rehearsal, other, column.stage), other) for other in others]
        ranked.sort(key=lambda item: (max(item[0], 1.0), item[1].cost_usd_per_h, item[0]))
        return [other for ratio, other in ranked[:GLANCED] if ratio < most]

    def _rehearsed(self, plan: Solution) -> Rehearsal:
        if self._kept is None or self._kept[0] is not plan:
            network = network_of(self.problem, plan.columns)
            self._kept = plan, Rehearsal.of(network, self.judge.seed, GLANCE, REHEARSED)
        return self._kept[1]

    def _rehearsed_ratio(self, rehearsal: Rehearsal, plan: Solution, stage: str) -> float:
        """About the latency over limit of a plan that differs at one stage, of the class that is worst off."""
        network = network_of(self.problem, plan.columns)
        if network.unstable():
            return math.inf
        seen = rehearsal.latencies(network, stage)
        ratios = [
            seen[need.name].percentile_s(need.percentile).value / need.limit_s
            for need in self.problem.classes
            if need.limit_s is not None and seen[need.name].requests
        ]
        return max(ratios, default=0.0)

    def _slowest_first(self, plan: Solution) -> list[Column]:
        result = self.judge.judge(plan, GLANCE)
        tails = {name: station.latency_tail_s for name, station in result.stations.items()}
        named = column_names(plan.columns)
        return [named[name] for name in sorted(named, key=lambda name: (-tails.get(name, math.inf), name))]

    def _changes(self, plan: Solution, column: Column, admissible: Admissible) -> Iterator[Solution]:
        """What one queue can be changed to, as far as it may be bought."""
        if column.option.need is None:
            return
        others = [one for one in plan.columns if one is not column]
        for joined in self._joined(column, others):
            rest = [one for one in others if one not in joined]
            classes = tuple(sorted({k for one in (column, *joined) for k in one.classes}))
            options = self._options(column)
            numbers = self._tabulated(plan, classes, options, column.replicas)
            for option in options:
                possible = self._possible(plan, rest, classes, option, numbers[option.name], column, admissible)
                for replicas in _numbers(option is column.option and not joined, column.replicas, possible):
                    if self._spent:
                        return
                    yield arranged(self.problem, self._with(plan, rest, classes, option, replicas))

    def _joined(self, column: Column, others: Sequence[Column]) -> list[tuple[Column, ...]]:
        """Queues of the same variant that may become one with this one: none, or one of them."""
        same = [
            one
            for one in others
            if one.stage == column.stage and one.option.variant == column.option.variant and one.option.need is not None
        ]
        return [(), *((one,) for one in same)]

    def _options(self, column: Column) -> list[Option]:
        option = column.option
        return [
            other
            for other in self.problem.options(column.stage)
            if other.variant == option.variant and tier_of(other.device) == tier_of(option.device)
        ]

    def _tabulated(
        self, plan: Solution, classes: tuple[int, ...], options: Sequence[Option], now: int
    ) -> dict[str, range]:
        """By option, numbers of replicas that carry the load, about those there are now; all of them are estimated
        together, as one by one that would take longer than simulating."""
        self._estimate(plan, classes, [(options[0], (1,))])
        load = self._column(plan, classes, options[0], 1).load_rps
        numbers = {}
        for option in options:
            assert option.service is not None
            capacity = option.service.capacity_per_s(option.max_batch)
            least = max(1, math.ceil(load / (MAX_UTILISATION * capacity) - 1e-12))
            numbers[option.name] = range(max(least, now - 1), max(least, now) + MAX_ADDED + 1)
        self._estimate(plan, classes, [(option, tuple(numbers[option.name])) for option in options])
        return numbers

    def _possible(
        self,
        plan: Solution,
        rest: Sequence[Column],
        classes: tuple[int, ...],
        option: Option,
        numbers: range,
        column: Column,
        admissible: Admissible,
    ) -> list[int]:
        """Those numbers of replicas that may be bought."""
        found = []
        for replicas in numbers:
            if admissible(self._with(plan, rest, classes, option, replicas)):
                found.append(replicas)
            elif replicas > column.replicas:
                break
        return found

    def _with(
        self, plan: Solution, rest: Sequence[Column], classes: tuple[int, ...], option: Option, replicas: int
    ) -> Solution:
        columns = (*rest, self._column(plan, classes, option, replicas))
        return replace(solution_of(self.problem, columns), values=plan.values)

    def _column(self, plan: Solution, classes: tuple[int, ...], option: Option, replicas: int) -> Column:
        return self._columns[option.name, classes, replicas, _names(self._variants(plan, classes))]

    def _estimate(
        self, plan: Solution, classes: tuple[int, ...], options: Sequence[tuple[Option, tuple[int, ...]]]
    ) -> None:
        """Tabulate what was not yet."""
        variants = self._variants(plan, classes)
        names = _names(variants)
        wanted = [
            (option, new)
            for option, numbers in options
            if (new := tuple(n for n in numbers if (option.name, classes, n, names) not in self._columns))
        ]
        if wanted:
            for column in columns_of(self.problem, wanted, classes, variants):
                self._columns[column.option.name, classes, column.replicas, names] = column

    def _variants(self, plan: Solution, classes: tuple[int, ...]) -> list[dict[str, str]]:
        chosen = plan.chosen()
        return [{stage: chosen[k, stage].option.variant for stage in self.problem.stages} for k in classes]


def _spares_one(column: Column) -> bool:
    """Whether a queue's load can be carried by one replica less."""
    assert column.option.service is not None
    capacity_rps = column.option.service.capacity_per_s(column.option.max_batch)
    return column.replicas > 1 and column.load_rps <= MAX_UTILISATION * capacity_rps * (column.replicas - 1)


def _names(variants: Sequence[dict[str, str]]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(own.values()) for own in variants)


def _numbers(same: bool, now: int, possible: Sequence[int]) -> list[int]:
    """Which numbers of replicas to look at: as now, one less, the most."""
    wanted = {now - 1, possible[-1]} - {now} if same and possible else {now, possible[-1]} if possible else set()
    return sorted(wanted & set(possible))
