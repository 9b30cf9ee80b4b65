"""One program: variables and rows of `milp`, for a set of columns whose contexts may be chosen freely."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from inferplan.solvers.bill import bill, column_usd_per_h, column_w
from inferplan.solvers.clock import in_time
from inferplan.solvers.columns import Column
from inferplan.solvers.combinations import Encoding, encoding, require_listed
from inferplan.solvers.goals import ACCURACY as ACCURACY
from inferplan.solvers.goals import BETTER as BETTER
from inferplan.solvers.goals import CORES as CORES
from inferplan.solvers.goals import COST as COST
from inferplan.solvers.goals import ENERGY as ENERGY
from inferplan.solvers.goals import LATENCY_TIE as LATENCY_TIE
from inferplan.solvers.goals import NAMES as NAMES
from inferplan.solvers.goals import RATIO as RATIO
from inferplan.solvers.goals import TIE as TIE
from inferplan.solvers.goals import WEIGHTED as WEIGHTED
from inferplan.solvers.goals import Ask as Ask
from inferplan.solvers.goals import Goal as Goal
from inferplan.solvers.goals import geometric_mean, name_weights, price_scale
from inferplan.solvers.highs import new_model, optimize
from inferplan.solvers.packing import Item, Packing, pack
from inferplan.solvers.placing import column_names as column_names
from inferplan.solvers.placing import dimensions, most_together, strangers
from inferplan.solvers.problem import Problem
from inferplan.solvers.tier_flows import TierFlows, latency_ratios, path_legs

ABSOLUTE_GAP = 1e-9
TELLING = 2e-6
"""What a program can tell from nothing."""
_UNSET = math.nan


@dataclass(frozen=True)
class Found:
    """What one optimisation found. `value` and `bound` are of the minimised expression."""

    columns: tuple[Column, ...]
    packings: Mapping[str, Packing]
    value: float
    bound: float
    proven: bool


class Program:
    """Rows and variables, built once; a question sets bounds and adds rows of its own. Raises OutOfTimeError where it
    is not built by the `deadline`."""

    def __init__(self, problem: Problem, columns: Sequence[Column], deadline: float = math.inf) -> None:
        self.problem = problem
        self.columns = list(columns)
        self._deadline = deadline
        self.timed_out = False
        self._added: list[Any] = []
        self.feasible = self._every_stage_has_columns()
        self.model = new_model()
        self.price_scale = price_scale(problem)
        self.power_scale = geometric_mean([d.tariff.power_w or d.tariff.idle_w or 0 for d in problem.devices.values()])
        self._weights_asked: Mapping[str, float] = {}
        self._scales: Mapping[str, float | None] = {}
        self._enough: Mapping[int, float] = {}
        self._proven_packing = True
        if self.feasible:
            self._build()

    def _every_stage_has_columns(self) -> bool:
        have = {(k, column.stage) for column in self.columns for k in column.classes}
        return all((k, s) in have for k in range(len(self.problem.classes)) for s in self.problem.stages)

    def _build(self) -> None:
        import mip

        model = self.model
        self._y = [model.add_var(var_type=mip.BINARY) for _ in self.columns]
        self._at: dict[tuple[int, str], list[int]] = {}
        for index, column in enumerate(self.columns):
            for k in column.classes:
                self._at.setdefault((k, column.stage), []).append(index)
        for members in self._at.values():
            model += mip.xsum(self._y[i] for i in members) == 1
        self._in_time()
        self._choice = self._choices()
        self._add_contexts()
        self._in_time()
        self._tiers = TierFlows(self.problem, model, self.columns, self._y, self._at)
        self._add_machines()
        self._add_latencies()
        self._accuracy: Encoding | None = encoding(self.problem, model, self._choice)
        self._floors: dict[int, float | None] = {}

    def _in_time(self) -> None:
        in_time(self._deadline, "the exact program was built")

    def _choices(self) -> dict[tuple[int, str, str], Any]:
        import mip

        members: dict[tuple[int, str, str], list[Any]] = {}
        for (k, stage), indices in self._at.items():
            for variant in self.problem.variants(stage):
                members[k, stage, variant] = [self._y[i] for i in indices if self.columns[i].option.variant == variant]
        return {key: mip.xsum(chosen) for key, chosen in members.items()}

    def _add_contexts(self) -> None:
        import mip

        rows: dict[tuple[int, str, str, tuple[str, ...]], list[Any]] = {}
        for index, column in enumerate(self.columns):
            for k, source, group in column.context:
                rows.setdefault((k, column.stage, source, group), []).append(self._y[index])
        for (k, _, source, group), members in rows.items():
            allowed = mip.xsum(self._choice[k, source, variant] for variant in group)
            self.model += mip.xsum(members) - allowed <= 0

    def _add_machines(self) -> None:
        import mip

        model = self.model
        self._machines: dict[str, Any] = {}
        self._billed: dict[str, Any] = {}
        for name, device in self.problem.devices.items():
            own = [(y, c) for y, c in zip(self._y, self.columns, strict=True) if c.option.device == name]
            most = sum(max((c.replicas for _, c in own if c.stage == s), default=0) for s in self.problem.stages)
            machines = model.add_var(var_type=mip.INTEGER, lb=0, ub=max(most * len(self.problem.classes), 1))
            by_share = device.tariff.billing == "share"
            billed = model.add_var(lb=0) if by_share else machines
            self._machines[name], self._billed[name] = machines, billed
            for room, need_of in dimensions(device.capacity):
                needs = [(y, c.replicas, need_of(c)) for y, c in own]
                if not any(need for *_, need in needs):
                    continue
                used = mip.xsum(n * need / room * y for y, n, need in needs)
                model += used - machines <= 0
                if by_share:
                    model += used - billed <= 0
                fit = {room // need for *_, need in needs if need}
                for few in sorted(fit):
                    self._in_time()
                    bulky = [n * y for y, n, need in needs if need and room // need <= few]
                    model += mip.xsum(bulky) - few * machines <= 0
            self._spread(own, machines)
            if name in self.problem.exclusive:
                self._add_exclusive(name, own, machines)
        self._add_bill()

    def _add_exclusive(self, name: str, own: Sequence[tuple[Any, Column]], machines: Any) -> None:
        """Machines of a device that serve one stage each: as many as the stages need, each by itself."""
        import mip

        apart = []
        for stage in self.problem.stages:
            needs = [(y, c) for y, c in own if c.stage == stage]
            if not needs:
                continue
            few = self.model.add_var(var_type=mip.INTEGER, lb=0)
            apart.append(few)
            for room, need_of in dimensions(self.problem.devices[name].capacity):
                self.model += mip.xsum(c.replicas * need_of(c) / room * y for y, c in needs) - few <= 0
        self.model += mip.xsum(apart) - machines <= 0

    def _spread(self, own: Sequence[tuple[Any, Column]], machines: Any) -> None:
        """A column of which one machine holds so many at most needs that many machines; only one column of a class
        and stage is chosen."""
        import mip

        rows: dict[tuple[int, str], list[Any]] = {}
        for y, column in own:
            most = most_together(column.option, column.most)
            if most is not None:
                for k in column.classes:
                    rows.setdefault((k, column.stage), []).append(-(-column.replicas // most) * y)
        for members in rows.values():
            self.model += mip.xsum(members) - machines <= 0

    def _add_bill(self) -> None:
        import mip

        problem = self.problem
        tariffs = {name: device.tariff for name, device in problem.devices.items()}
        prices = [column_usd_per_h(problem, column) / self.price_scale for column in self.columns]
        self._cost = mip.xsum(
            [
                *(tariffs[name].hourly_usd / self.price_scale * billed for name, billed in self._billed.items()),
                *(price * y for price, y in zip(prices, self._y, strict=True) if price > 0),
                1 / self.price_scale * self._tiers.tolls,
            ]
        )
        # Powers are known of every device and column where the objective is about energy.
        self._power: Any = None
        if "energy" in problem.workload.objective.terms:
            idle = [(tariffs[name].idle_w or 0.0) / self.power_scale * m for name, m in self._billed.items()]
            work = [(column_w(c) or 0.0) / self.power_scale * y for c, y in zip(self.columns, self._y, strict=True)]
            self._power = mip.xsum([*idle, *work])

    def _add_latencies(self) -> None:
        import mip

        model = self.model
        self._latency: dict[int, Any] = {}
        for k, need in enumerate(self.problem.classes):
            if need.limit_s is None:
                continue
            total = model.add_var(lb=0)
            self._latency[k] = total
            single = {s: self._tails(k, s, whole=False) for s in self.problem.stages}
            whole = {s: self._tails(k, s, whole=True) for s in self.problem.stages}
            for path in self.problem.paths:
                convoys = [s for s in path if any(a != b for a, b in zip(single[s], whole[s], strict=True))]
                for slowest in convoys or [""]:
                    self._in_time()
                    terms = [
                        tail / need.limit_s * self._y[index]
                        for s in path
                        for index, tail in zip(self._at[k, s], whole[s] if s == slowest else single[s], strict=True)
                        if tail > 0
                    ]
                    terms += [
                        seconds / need.limit_s * flow
                        for leg in path_legs(self.problem, path)
                        for seconds, flow in self._tiers.delay_s(k, leg)
                    ]
                    model += mip.xsum(terms) - total <= 0
        self._ratio = model.add_var(lb=0)

    def _tails(self, k: int, stage: str, whole: bool) -> list[float]:
        tails = []
        for index in self._at[k, stage]:
            column = self.columns[index]
            tails.append((column.whole_s if whole else column.single_s)[column.classes.index(k)])
        return tails

    def begin(self, ask: Ask) -> None:
        """Set bounds and rows for a question; `end` takes them away."""
        self._added = self._apply(ask) if self.feasible else []

    def keep(self, goal: Goal, value: float) -> Any:
        """Ask that a goal stays within a tie of a value; the row can be dropped again."""
        tie = LATENCY_TIE if goal[0] in ("ratio", "latency") else TIE
        unit = self._stretch(goal)
        row = self.model.add_constr(unit * self.expression(goal) <= unit * value + tie * max(1.0, abs(unit * value)))
        self._added.append(row)
        return row

    def _stretch(self, goal: Goal) -> float:
        """By what a goal is multiplied to tell its values apart: a ratio to a limit that is stretched is told apart as
        the latency over the limit is, as the program knows differences of 1e-6."""
        stretches = [scale for scale in self._scales.values() if scale is not None]
        return max([1.0, *stretches]) if goal == RATIO else 1.0

    def drop(self, row: Any) -> None:
        """Take a row away again."""
        self.model.remove([row])
        self._added.remove(row)

    def end(self) -> None:
        """Forget the question."""
        if self._added:
            self.model.remove(self._added)
        self._added = []

    def means(self, goal: Goal) -> bool:
        """Whether a goal says anything about this instance."""
        return self.feasible and self.expression(goal) is not None

    def reads(self, goal: Goal) -> float:
        """The value of a goal in the solution found last."""
        return float(self.expression(goal).x)

    def optimize(self, goal: Goal, deadline: float, gap: float) -> Found | None:
        """Best for one goal, such that the chosen replicas really fit on the machines bought.

        None where there is no plan, or none was found in time (`timed_out`).
        """
        import mip

        status = mip.OptimizationStatus
        model = self.model
        self.timed_out = False
        if not self.feasible:
            return None
        unit = self._stretch(goal)
        model.objective = mip.minimize(unit * self.expression(goal))
        model.max_mip_gap = gap
        model.max_mip_gap_abs = ABSOLUTE_GAP
        while True:
            # A first answer is always looked for: a time limit of nothing would say nothing.
            outcome = optimize(model, max(deadline - time.monotonic(), 0.05))
            if outcome not in (status.OPTIMAL, status.FEASIBLE):
                self.timed_out = outcome == status.NO_SOLUTION_FOUND
                return None
            columns = tuple(c for y, c in zip(self._y, self.columns, strict=True) if y.x > 0.5)
            packings = pack_columns(self.problem, columns)
            if not self._cut(columns, packings):
                objective = float(model.objective_value) / unit
                value = self._reached(goal, columns, packings, objective)
                proven = outcome == status.OPTIMAL and self._proven_packing
                # A value that rounding made worse is no better bound.
                bound = min(float(model.objective_bound) / unit, objective, value)
                return Found(columns, packings, value, bound, proven)
            if time.monotonic() >= deadline:
                self.timed_out = True
                return None

    def _reached(self, goal: Goal, columns: Sequence[Column], packings: Mapping[str, Packing], value: float) -> float:
        """What the chosen columns reach of a goal that the program gives a value: its choices are whole to 1e-6 only,
        and what is hardly chosen may have long latencies or many cores."""
        kind, who = goal
        if kind == "cost":
            return max(value, bill(self.problem, columns, packings).total_usd_per_h / self.price_scale)
        if kind in ("cores", "names"):
            weights = name_weights(self.columns) if kind == "names" else [float(c.cores) for c in self.columns]
            chosen = set(columns)
            return math.fsum(w for w, column in zip(weights, self.columns, strict=True) if column in chosen)
        if kind not in ("ratio", "latency"):
            return value
        ratios = latency_ratios(self.problem, columns)
        if kind == "latency":
            return ratios[who]
        scaled = [ratios[name] / scale for name, scale in self._scales.items() if scale is not None and name in ratios]
        return max(scaled, default=value)

    def _apply(self, ask: Ask) -> list[Any]:
        """Set bounds and add the rows of one question; returns the rows to remove afterwards."""
        import mip

        model, classes = self.model, self.problem.classes
        self._weights_asked, self._scales = ask.weights, ask.scales
        self._enough = {k: most for k, need in enumerate(classes) if (most := ask.enough.get(need.name)) is not None}
        added: list[Any] = []
        for k, total in self._latency.items():
            scale = ask.scales[classes[k].name]
            total.ub = mip.INF if scale is None else scale
            if scale is not None:
                added.append(model.add_constr(total - scale * self._ratio <= 0))
        if self._accuracy is not None:
            for k, need in enumerate(classes):
                if self._floors.get(k, _UNSET) != ask.floors[need.name]:
                    self._accuracy.set_floor(k, ask.floors[need.name])
                    self._floors[k] = ask.floors[need.name]
        for name, machines in self._machines.items():
            count = ask.counts[name]
            machines.ub = float(count) if count is not None else 1e7
        if ask.budget_usd_per_h is not None:
            added.append(model.add_constr(self._cost <= ask.budget_usd_per_h / self.price_scale * (1 + 1e-9)))
        for goal, most in ask.limits:
            scaled = most / self.unit(goal)
            added.append(model.add_constr(self.expression(goal) <= scaled + 1e-9 * max(1.0, abs(scaled))))
        if ask.better_than is not None:
            less = ask.better_than / self.unit(ask.objective)
            added.append(model.add_constr(self.expression(ask.objective) <= less - max(BETTER * abs(less), TELLING)))
        for chosen in ask.forbidden:
            together = mip.xsum(self._choice[key] for key in sorted(chosen))
            added.append(model.add_constr(together <= len(chosen) - 1))
        position = {column: index for index, column in enumerate(self.columns)} if ask.rejected else {}
        for plan in ask.rejected:
            if all(column in position for column in plan):
                same = mip.xsum(self._y[position[column]] for column in plan)
                added.append(model.add_constr(same <= len(plan) - 1))
        return added

    def _cut(self, columns: Sequence[Column], packings: Mapping[str, Packing]) -> bool:
        """Add a cut for every device whose replicas need more machines than were bought."""
        import mip

        cut = False
        for name, packing in packings.items():
            needed = len(packing.machines)
            if needed <= round(self._machines[name].x):
                continue
            cut = True
            self._proven_packing &= packing.proven
            own = [c for c in columns if c.option.device == name]
            alone = [len(pack_columns(self.problem, [c])[name].machines) for c in own]
            chosen = {id(c): i for i, c in enumerate(self.columns)}
            missing = mip.xsum(u * (1 - self._y[chosen[id(c)]]) for u, c in zip(alone, own, strict=True))
            self.model += self._machines[name] + missing >= needed
        return cut

    def expression(self, goal: Goal) -> Any:
        """A linear expression to minimise; None where a goal means nothing to this instance."""
        import mip

        kind, who = goal
        if kind == "cost":
            return self._cost
        if kind == "energy":
            return self._power
        if kind == "weighted":
            return self._weighed()
        if kind == "machines":
            return 1.0 * self._machines[who]
        if kind == "ratio":
            return 1.0 * self._ratio if self._latency else None
        if kind == "latency":
            return 1.0 * self._latency[self._index(who)]
        if kind == "cores":
            return mip.xsum(column.cores * y for column, y in zip(self.columns, self._y, strict=True))
        if kind == "names":
            return mip.xsum(weight * y for weight, y in zip(name_weights(self.columns), self._y, strict=True))
        if self._accuracy is None:
            return None
        if goal == ACCURACY and self.problem.values_accuracy:
            require_listed(self._accuracy, self.problem)
        return -1.0 * self._accuracy.total({self._index(who): 1.0} if who else self._weights(), self._enough)

    def unit(self, goal: Goal) -> float:
        """What one of a goal's expression stands for: costs and powers are scaled."""
        return {"cost": self.price_scale, "energy": self.power_scale}.get(goal[0], 1.0)

    def _weighed(self) -> Any:
        """The weighted sum of cost, power and lost accuracy."""
        import mip

        weights = self._weights_asked
        terms = []
        for goal in (COST, ENERGY, ACCURACY):
            if weights.get(goal[0], 0.0) > 0:
                if goal == ACCURACY:
                    require_listed(self._accuracy, self.problem, exactly=True)
                terms.append(weights[goal[0]] * self.unit(goal) * self.expression(goal))
        return mip.xsum(terms)

    def _weights(self) -> dict[int, float]:
        total = sum(need.rate_rps for need in self.problem.classes)
        return {k: need.rate_rps / total for k, need in enumerate(self.problem.classes)}

    def _index(self, name: str) -> int:
        return next(k for k, need in enumerate(self.problem.classes) if need.name == name)


def pack_columns(problem: Problem, columns: Sequence[Column]) -> dict[str, Packing]:
    """Replicas of chosen columns on machines, for every device type in use. Items are named as `column_names` does."""
    items: dict[str, list[Item]] = {}
    named = column_names(columns)
    for name, column in named.items():
        if column.option.need is not None:
            item = Item(name, column.option.need, column.replicas, most_together(column.option, column.most))
            items.setdefault(column.option.device, []).append(item)
    apart = strangers({name: column.option for name, column in named.items()}, problem.exclusive)
    return {device: pack(found, problem.devices[device].capacity, apart) for device, found in sorted(items.items())}
