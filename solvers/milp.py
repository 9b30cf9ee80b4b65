"""The exact program: which column serves which classes at every stage, on how many machines.

Sets
    k ∈ K classes, s ∈ N stages, c ∈ C columns (`columns`): stage s_c, classes S_c, option o_c on device d_c,
    n_c replicas, context; d ∈ D device types; p ∈ P paths from the entry stage to a last one.
Data
    λ_k rate, L_k latency limit, A_k accuracy floor; τ_ck, w_ck latency of column c for class k at the
    percentile of its SLO: one call, all calls of the request; r_c need of a replica, R_d room of a machine (cores,
    memory, GPUs), price_d, M_d machines there are; θ_k scale of the limit, set by certification (1 at first).
Variables
    y_c ∈ {0,1} column c is used;  m_d ∈ {0..M_d} machines bought;  t_k >= 0 latency of class k over L_k;
    ρ >= 0 the largest t_k / θ_k;  accuracy variables as in `combinations`.
    X_ksv = Σ_{c: s_c = s, k ∈ S_c, variant v} y_c.
Constraints
    (one)      Σ_{c: s_c = s, k ∈ S_c} y_c = 1                                        for all k, s
    (context)  Σ_{c: s_c = s, k ∈ S_c, context of k at a is g} y_c <= Σ_{v ∈ g} X_kav  for all k, s, a, g
    (latency)  Σ_{s ∈ p \\ s*} τ_ck y_c / L_k + Σ_{c at s*} w_ck y_c / L_k <= t_k      for all k, p, s* ∈ p
               t_k <= θ_k,   t_k <= θ_k ρ
    (accuracy) the accuracy of class k is no worse than A_k                            (`combinations`)
    (machines) Σ_{c on d} n_c r_c y_c <= R_d m_d                                       for every resource
               Σ_{c on d: at most j fit on a machine} n_c y_c <= j m_d                 for every resource and j
    (packing)  m_d >= u - Σ_{c ∈ C*} u_c (1 - y_c)                                     added when needed
    (budget)   Σ_d price_d m_d <= B                                                    where there is one
Objective
    min Σ_d price_d m_d, or max Σ_k λ_k accuracy_k / Σ_k λ_k; ties break one after the other by the goals that
    follow: by default higher accuracy, lower ρ, fewer cores, first names.

Capacity (load below 98 % of it) holds for every column by construction. (packing): after each solve the replicas
are packed exactly; if the columns C* need u machines of d and only m_d were bought, the cut is added and the
program solved again. It is valid: taking columns away from C* cannot save more machines than those columns need
by themselves (u_c), and adding others saves none. So the optimum is over plans that really fit.

HiGHS decides feasibility to 1e-6 of a row scaled to about 1; latencies are relative to their limit, costs to the
geometric mean of prices. What is returned is recomputed from the columns, not read from the program.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from inferplan.solvers.columns import Column
from inferplan.solvers.combinations import Encoding, encoding, require_listed
from inferplan.solvers.packing import Item, Packing, pack
from inferplan.solvers.problem import Problem

Goal = tuple[Literal["cost", "accuracy", "ratio", "cores", "names", "machines", "latency"], str]
"""What to make best of; the text names the class (accuracy, latency; empty for all) or device (machines)."""
COST: Goal = ("cost", "")
ACCURACY: Goal = ("accuracy", "")
RATIO: Goal = ("ratio", "")
CORES: Goal = ("cores", "")
NAMES: Goal = ("names", "")
COST_FIRST = (COST, ACCURACY, RATIO, CORES, NAMES)
ACCURACY_FIRST = (ACCURACY, COST, RATIO, CORES, NAMES)
TIE = 1e-7
ABSOLUTE_GAP = 1e-9
BETTER = 1e-5
"""What counts as better than another plan, relative."""
_UNSET = math.nan


@dataclass(frozen=True)
class Ask:
    """One question to the program. Promises that are None are dropped."""

    goals: tuple[Goal, ...]
    scales: Mapping[str, float | None]
    """θ by class; None drops the class's latency promise."""
    floors: Mapping[str, float | None]
    counts: Mapping[str, int | None]
    budget_usd_per_h: float | None
    forbidden: tuple[frozenset[tuple[int, str, str]], ...] = ()
    """Sets of (class, stage, variant) of which not all may be chosen together."""
    rejected: tuple[tuple[Column, ...], ...] = ()
    """Plans that may not be chosen again."""
    better_than: float | None = None
    """The workload's own objective must be less than this."""


@dataclass(frozen=True)
class Solution:
    """A choice of columns that fits on its machines. `objective` and `bound` are of the first goal."""

    columns: tuple[Column, ...]
    packings: Mapping[str, Packing]
    cost_usd_per_h: float
    objective: float
    bound: float
    proven: bool
    values: Mapping[Goal, float] = field(default_factory=dict)
    """Values of the goals as the program sees them: all are minimised, costs are scaled."""

    def worth(self, problem: Problem) -> float:
        """The workload's own objective, to be minimised: cost, or minus the accuracy (as it is encoded)."""
        return self.values[ACCURACY] if problem.maximizes_accuracy else self.cost_usd_per_h

    def chosen(self) -> dict[tuple[int, str], Column]:
        """The column that serves class k at stage s."""
        return {(k, column.stage): column for column in self.columns for k in column.classes}


def promises(problem: Problem) -> Ask:
    """The question the workload asks."""
    return Ask(
        ACCURACY_FIRST if problem.maximizes_accuracy else COST_FIRST,
        {need.name: 1.0 for need in problem.classes},
        {need.name: need.floor for need in problem.classes},
        {name: device.count for name, device in problem.devices.items()},
        problem.budget_usd_per_h,
    )


class Program:
    """The program of an instance, built once and asked many times."""

    def __init__(self, problem: Problem, columns: Sequence[Column]) -> None:
        import mip

        self.problem = problem
        self.columns = list(columns)
        self.solves = 0
        self.feasible = self._every_stage_has_columns()
        self._model = mip.Model(solver_name="HIGHS")
        self._model.verbose = 0
        self._price_scale = _geometric_mean([d.price_usd_per_h for d in problem.devices.values()])
        self._proven_packing = True
        if self.feasible:
            self._build()

    def _every_stage_has_columns(self) -> bool:
        have = {(k, column.stage) for column in self.columns for k in column.classes}
        return all((k, s) in have for k in range(len(self.problem.classes)) for s in self.problem.stages)

    def _build(self) -> None:
        import mip

        model = self._model
        self._y = [model.add_var(var_type=mip.BINARY) for _ in self.columns]
        self._at: dict[tuple[int, str], list[int]] = {}
        for index, column in enumerate(self.columns):
            for k in column.classes:
                self._at.setdefault((k, column.stage), []).append(index)
        for members in self._at.values():
            model += mip.xsum(self._y[i] for i in members) == 1
        self._choice = self._choices()
        self._add_contexts()
        self._add_machines()
        self._add_latencies()
        self._accuracy: Encoding | None = encoding(self.problem, model, self._choice)
        self._floors: dict[int, float | None] = {}

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
            self._model += mip.xsum(members) - allowed <= 0

    def _add_machines(self) -> None:
        import mip

        model = self._model
        self._machines: dict[str, Any] = {}
        for name, device in self.problem.devices.items():
            own = [(y, c) for y, c in zip(self._y, self.columns, strict=True) if c.option.device == name]
            most = sum(max((c.replicas for _, c in own if c.stage == s), default=0) for s in self.problem.stages)
            machines = model.add_var(var_type=mip.INTEGER, lb=0, ub=max(most * len(self.problem.classes), 1))
            self._machines[name] = machines
            for room, need_of in _dimensions(device.capacity.cores, device.capacity.memory_bytes, device.capacity.gpus):
                needs = [(y, c.replicas, need_of(c)) for y, c in own]
                if not any(need for *_, need in needs):
                    continue
                model += mip.xsum(n * need / room * y for y, n, need in needs) - machines <= 0
                fit = {room // need for *_, need in needs if need}
                for few in sorted(fit):
                    bulky = [n * y for y, n, need in needs if need and room // need <= few]
                    model += mip.xsum(bulky) - few * machines <= 0
        prices = {name: device.price_usd_per_h / self._price_scale for name, device in self.problem.devices.items()}
        self._cost = mip.xsum(prices[name] * machines for name, machines in self._machines.items())

    def _add_latencies(self) -> None:
        import mip

        model = self._model
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
                    terms = [
                        tail / need.limit_s * self._y[index]
                        for s in path
                        for index, tail in zip(self._at[k, s], whole[s] if s == slowest else single[s], strict=True)
                        if tail > 0
                    ]
                    model += mip.xsum(terms) - total <= 0
        self._ratio = model.add_var(lb=0)

    def _tails(self, k: int, stage: str, whole: bool) -> list[float]:
        tails = []
        for index in self._at[k, stage]:
            column = self.columns[index]
            tails.append((column.whole_s if whole else column.single_s)[column.classes.index(k)])
        return tails

    def ask(self, ask: Ask, time_limit_s: float, gap: float) -> Solution | None:
        """The best plan for a question; None where there is none, or none was found in time (`timed_out`)."""
        self.timed_out = False
        if not self.feasible:
            return None
        added = self._apply(ask)
        try:
            return self._lexicographic(ask, time.monotonic() + time_limit_s, gap, added)
        finally:
            self._model.remove(added)

    def _apply(self, ask: Ask) -> list[Any]:
        """Set bounds and add the rows of one question; returns the rows to remove afterwards."""
        import mip

        model, classes = self._model, self.problem.classes
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
            added.append(model.add_constr(self._cost <= ask.budget_usd_per_h / self._price_scale * (1 + 1e-9)))
        if ask.better_than is not None:
            goal = ACCURACY if self.problem.maximizes_accuracy else COST
            less = ask.better_than / (1.0 if goal == ACCURACY else self._price_scale)
            added.append(model.add_constr(self._expression(goal) <= less - max(BETTER * abs(less), 2e-6)))
        for chosen in ask.forbidden:
            together = mip.xsum(self._choice[key] for key in sorted(chosen))
            added.append(model.add_constr(together <= len(chosen) - 1))
        position = {column: index for index, column in enumerate(self.columns)} if ask.rejected else {}
        for plan in ask.rejected:
            same = mip.xsum(self._y[position[column]] for column in plan)
            added.append(model.add_constr(same <= len(plan) - 1))
        return added

    def _lexicographic(self, ask: Ask, deadline: float, gap: float, added: list[Any]) -> Solution | None:
        """Solve for one goal after the other, each keeping what the earlier ones reached."""
        best: Solution | None = None
        values: dict[Goal, float] = {}
        for index, goal in enumerate(ask.goals):
            expression = self._expression(goal)
            if expression is None:
                continue
            found = self._optimize(expression, deadline, gap)
            if found is None:
                return best
            columns, packings, value, bound, proven = found
            values[goal] = value
            first = best
            scale = self._price_scale if goal == COST else 1.0
            best = Solution(
                columns,
                packings,
                self._price(packings),
                first.objective if first else value * scale,
                first.bound if first else min(bound, value) * scale,
                (first.proven if first else proven) and self._proven_packing,
                dict(values),
            )
            if time.monotonic() >= deadline:
                break
            if index < len(ask.goals) - 1:
                added.append(self._model.add_constr(expression <= value + TIE * max(1.0, abs(value))))
        return best

    def _optimize(
        self, expression: Any, deadline: float, gap: float
    ) -> tuple[tuple[Column, ...], dict[str, Packing], float, float, bool] | None:
        """Minimise until the chosen replicas really fit on the machines bought."""
        import mip

        status = mip.OptimizationStatus
        model = self._model
        model.objective = mip.minimize(expression)
        model.max_mip_gap = gap
        model.max_mip_gap_abs = ABSOLUTE_GAP
        while True:
            # A first answer is always looked for: a time limit of nothing would say nothing.
            outcome = model.optimize(max_seconds=max(deadline - time.monotonic(), 0.05))
            self.solves += 1
            if outcome not in (status.OPTIMAL, status.FEASIBLE):
                self.timed_out = outcome == status.NO_SOLUTION_FOUND
                return None
            columns = tuple(c for y, c in zip(self._y, self.columns, strict=True) if y.x > 0.5)
            packings = pack_columns(self.problem, columns)
            if not self._cut(columns, packings):
                proven = outcome == status.OPTIMAL
                bound = model.objective_value if proven and gap == 0 else model.objective_bound
                return columns, packings, float(model.objective_value), float(bound), proven
            if time.monotonic() >= deadline:
                self.timed_out = True
                return None

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
            self._model += self._machines[name] + missing >= needed
        return cut

    def _expression(self, goal: Goal) -> Any:
        """A linear expression to minimise; None where a goal means nothing to this instance."""
        import mip

        kind, who = goal
        if kind == "cost":
            return self._cost
        if kind == "machines":
            return 1.0 * self._machines[who]
        if kind == "ratio":
            return 1.0 * self._ratio if self._latency else None
        if kind == "latency":
            return 1.0 * self._latency[self._index(who)]
        if kind == "cores":
            return mip.xsum(float(c.cores) * y for y, c in zip(self._y, self.columns, strict=True))
        if kind == "names":
            order = sorted(range(len(self.columns)), key=lambda i: self.columns[i].option.name)
            return mip.xsum(rank / len(order) * self._y[i] for rank, i in enumerate(order))
        if self._accuracy is None:
            return None
        if goal == ACCURACY and self.problem.maximizes_accuracy:
            require_listed(self._accuracy, self.problem)
        return -1.0 * self._accuracy.total({self._index(who): 1.0} if who else self._weights())

    def _weights(self) -> dict[int, float]:
        total = sum(need.rate_rps for need in self.problem.classes)
        return {k: need.rate_rps / total for k, need in enumerate(self.problem.classes)}

    def _index(self, name: str) -> int:
        return next(k for k, need in enumerate(self.problem.classes) if need.name == name)

    def _price(self, packings: Mapping[str, Packing]) -> float:
        return math.fsum(
            self.problem.devices[name].price_usd_per_h * len(packing.machines)
            for name, packing in sorted(packings.items())
        )


def pack_columns(problem: Problem, columns: Sequence[Column]) -> dict[str, Packing]:
    """Replicas of chosen columns on machines, for every device type in use. Items are named as `column_names` does."""
    items: dict[str, list[Item]] = {}
    for name, column in column_names(columns).items():
        if column.option.need is not None:
            items.setdefault(column.option.device, []).append(Item(name, column.option.need, column.replicas))
    return {device: pack(found, problem.devices[device].capacity) for device, found in sorted(items.items())}


def column_names(columns: Sequence[Column]) -> dict[str, Column]:
    """Chosen columns by name: the option's; where classes keep queues of their own of one option, with a number."""
    named: dict[str, Column] = {}
    for column in sorted(columns, key=lambda c: (c.option.name, c.classes)):
        name, number = column.option.name, 1
        while name in named:
            number += 1
            name = f"{column.option.name}-{number}"
        named[name] = column
    return named


def _dimensions(cores: int, memory: int | None, gpus: int) -> list[tuple[int, Callable[[Column], int]]]:
    """Room of a machine and need of a column's replica, per limited resource."""

    def need(column: Column, what: str) -> int:
        value = getattr(column.option.need, what) if column.option.need else 0
        return int(value or 0)

    found: list[tuple[int, Callable[[Column], int]]] = [(cores, lambda c: need(c, "cores"))]
    if memory is not None:
        found.append((memory, lambda c: need(c, "memory_bytes")))
    if gpus:
        found.append((gpus, lambda c: need(c, "gpus")))
    return found


def _geometric_mean(prices: Sequence[float]) -> float:
    positive = [price for price in prices if price > 0]
    return math.exp(sum(math.log(price) for price in positive) / len(positive)) if positive else 1.0
