"""The exact program where classes spread over devices and tiers.

Sets
    k ∈ K classes, s ∈ N stages, v ∈ V_s choices of a stage, t ∈ T tiers, o ∈ O options (choice v_o of stage s_o on
    device d_o of tier t_o), e ∈ E legs: entry, edges, and the way back (`estimators.transport`).
Data
    Λ_ks calls per second; μ_o capacity of a replica, ρ the share of it that may be used; r_o need of a replica, R_d
    room of a machine, price_d, M_d; b_ev bytes per call, price and bandwidth of the link from t to t'.
Variables
    z_ksv ∈ {0,1} class k uses choice v at stage s;  n_o ∈ Z+ replicas;  m_ds ∈ Z+ machines of d (per stage where d is
    exclusive);  X_ksvt ∈ [0,1] share of the calls that v answers in tier t;  F_kevtt' >= 0 share of leg e's calls that
    go from t, out of choice v, to t'.
Constraints
    (one)       Σ_v z_ksv = 1,   Σ_t X_ksvt = z_ksv
    (capacity)  Σ_k Λ_ks X_ksvt <= ρ Σ_{o: s,v,t} μ_o n_o,   X_ksvt <= Σ_{o: s,v,t} min(1, ρ μ_o / Λ_ks) n_o
    (left)      the same for what is left of n_o when machines of d are lost, for every d with spares (`split_layouts`)
    (machines)  Σ_{o on d} r_o n_o <= R_d m_d per resource, Σ_s m_ds <= M_d; and replicas that really fit (below)
    (flows)     Σ_t' F_kevtt' = X_ksvt at the sender,  Σ_{v,t} F_kevtt' = Σ_v X_ks'vt' at the receiver,
                no F where there is no link;  h Σ Λ b F <= bandwidth of every link
    (power)     where power counts, what each option is given and draws at most     (`split_power`)
    (balanced)  proportional routing: F_kevtt' = X_ksvt Σ_v' X_ks'v't'      (`split_search`)
    (accuracy)  as in `combinations`
Objective
    cost      Σ price_d b_d + Σ reload_o n_o + Σ price_tt' Λ b F + Σ electricity_d w_o
              price_d with restarts after interruptions and idle electricity; b_d = Σ_s m_ds, or, where d is paid by
              share, b_d >= 0 with Σ_{o on d} r_o n_o <= R_d b_d per resource
    energy    Σ idle_d b_d + Σ w_o
    accuracy  maximised; of a class with a goal up to it
    weighted  α cost + β energy - γ accuracy    weights per USD/h, W and unit of accuracy
    machines  the fewest of a device

Within a tier a choice's calls are spread over its options as they have capacity, so every queue of it is loaded alike:
that is feasible wherever (capacity) is. Where power counts, the program decides how they are spread.

Which replicas stand on which machine, and what is left of them when machines are lost: `split_layouts`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from inferplan.estimators.cost import machines_used, shares
from inferplan.estimators.transport import Leg
from inferplan.solvers.combinations import Encoding, encoding, require_listed
from inferplan.solvers.goals import ACCURACY, COST, ENERGY, WEIGHTED, Goal, price_scale
from inferplan.solvers.highs import branch_alone, new_model, optimize
from inferplan.solvers.packing import Packing
from inferplan.solvers.split_flows import NOTHING, Box, SplitFlows, present
from inferplan.solvers.split_instance import Question, SplitInstance, reload_usd_per_h, replicas_that_fit
from inferplan.solvers.split_layouts import Laid
from inferplan.solvers.split_power import SplitPower, at_work, drawn_w

SMALL = 1000
"""Variables up to which a program is solved sooner by branching alone."""


@dataclass(frozen=True)
class Split:
    """A choice of machines, replicas and shares. `flows` are shares of a leg's calls, by (class, leg, tiers)."""

    choices: Mapping[tuple[int, str], str]
    replicas: Mapping[str, int]
    packings: Mapping[tuple[str, str], Packing]
    """By (device, stage); the stage is empty where machines are shared."""
    shares: Mapping[tuple[int, str, str], float]
    """By (class, stage, tier)."""
    flows: Mapping[tuple[int, Leg, str, str], float]
    machines_usd_per_h: float
    traffic_usd_per_h: float
    restarts_usd_per_h: float
    billed: Mapping[str, float]
    """Machines that are paid for, by device."""
    loads: Mapping[str, float] | None = None
    """Calls per second that every option is given; None: as they have capacity."""
    energy_usd_per_h: float = 0.0
    power_w: float | None = None
    """Where it counts."""
    worth: float | None = None
    """Accuracy of all classes, each up to its goal, higher is better, as the program encodes it; None: not known."""

    @property
    def cost_usd_per_h(self) -> float:
        """Machines, traffic, electricity, and what interruptions cost."""
        parts = (self.machines_usd_per_h, self.traffic_usd_per_h, self.restarts_usd_per_h, self.energy_usd_per_h)
        return math.fsum(parts)

    def reached(self, goal: Goal, weights: Mapping[str, float]) -> float:
        """The value of cost, power, accuracy or their weighted sum, to be minimised."""
        if goal == WEIGHTED:
            terms = (one for one in (COST, ENERGY, ACCURACY) if weights.get(one[0], 0.0) > 0)
            return math.fsum(weights[one[0]] * self.reached(one, weights) for one in terms)
        if goal == COST:
            return self.cost_usd_per_h
        value = self.power_w if goal == ENERGY else self.worth
        assert value is not None
        return value if goal == ENERGY else -value


@dataclass(frozen=True)
class Node:
    """What the program says within a box: a bound, its own idea of the flows, and the plan behind it."""

    value: float
    bound: float
    relaxed: Mapping[tuple[int, Leg, str, str], float]
    split: Split
    optimal: bool


class SplitProgram:
    """Rows and variables, built once; questions and boxes set bounds and add rows of their own."""

    def __init__(self, instance: SplitInstance) -> None:
        self.instance = instance
        self.model = new_model()
        self.timed_out = False
        self._asked: list[Any] = []
        self._boxed: list[Any] = []
        self._floors: dict[int, float | None] = {}
        self.scale = price_scale(instance.problem)
        self._weights: Mapping[str, float] = {}
        self._add_choices()
        self._add_machines()
        self._add_capacity()
        self.power = SplitPower(instance, self.model, self._x, self._n)
        self._add_costs()
        self.flows = SplitFlows(instance, self.model, self._x, self.scale)
        self._accuracy: Encoding | None = encoding(instance.problem, self.model, self._z)
        if self.model.num_cols <= SMALL:
            branch_alone(self.model)

    # Rows

    def _add_choices(self) -> None:
        import mip

        instance, model = self.instance, self.model
        self._z: dict[tuple[int, str, str], Any] = {}
        self._x: dict[tuple[int, str, str, str], Any] = {}
        for k in range(len(instance.problem.classes)):
            for stage in instance.problem.stages:
                choices = instance.choices(stage)
                for choice in choices:
                    z = model.add_var(var_type=mip.BINARY, lb=float(len(choices) == 1))
                    self._z[k, stage, choice] = z
                    shares = {tier: model.add_var(lb=0, ub=1) for tier in instance.places(k, stage, choice)}
                    self._x |= {(k, stage, choice, tier): x for tier, x in shares.items()}
                    model += mip.xsum(shares.values()) - z == 0
                model += mip.xsum(self._z[k, stage, choice] for choice in choices) == 1

    def _add_machines(self) -> None:
        import mip

        instance, model = self.instance, self.model
        self._laid = Laid(instance, model)
        self._n = self._laid.replicas
        self._m: dict[tuple[str, str], Any] = {}
        for name, device in instance.problem.devices.items():
            for stage in instance.problem.stages if name in instance.exclusive else ("",):
                own = [o for o in instance.options if o.device == name and stage in ("", o.stage)]
                if not own:
                    continue
                machines = model.add_var(var_type=mip.INTEGER, lb=0, ub=sum(instance.most[o.name] for o in own))
                self._m[name, stage] = machines
                for what in ("cores", "memory_bytes", "gpus", "gpu_memory_bytes"):
                    room = getattr(device.capacity, what) or 0
                    needs = [(self._n[o.name], getattr(o.need, what) or 0) for o in own] if room else []
                    needs = [(n, need) for n, need in needs if need]
                    if needs:
                        model += mip.xsum(need / room * n for n, need in needs) - machines <= 0
                        for few in sorted({room // need for _, need in needs}):
                            model += mip.xsum(n for n, need in needs if room // need <= few) - few * machines <= 0
                self._laid.spread(own, machines)
        self._bought = {
            name: mip.xsum(m for (device, _), m in self._m.items() if device == name)
            for name in instance.problem.devices
        }

    def _add_costs(self) -> None:
        import mip

        instance, devices = self.instance, self.instance.problem.devices
        billed = {name: self._billed(name) for name in devices}
        paid = [device.tariff.hourly_usd / self.scale * billed[name] for name, device in devices.items()]
        loaded = [reload_usd_per_h(instance.problem, o) / self.scale * self._n[o.name] for o in instance.options]
        electricity = [
            devices[o.device].tariff.electricity_usd_per_h(self.power.unit) / self.scale * self.power.works[o.name]
            for o in instance.options
            if o.name in self.power.works
        ]
        self._rent = mip.xsum([*paid, *loaded, *electricity])
        idle = [(device.tariff.idle_w or 0.0) / self.power.unit * billed[name] for name, device in devices.items()]
        self._drawn = mip.xsum([*idle, *self.power.works.values()])

    def _billed(self, name: str) -> Any:
        """Machines of a device that are paid for: those bought, or the share of them that is used."""
        import mip

        device = self.instance.problem.devices[name]
        if device.tariff.billing == "whole":
            return self._bought[name]
        billed = self.model.add_var(lb=0)
        own = [
            (self._n[o.name], shares(device.capacity, o.need))
            for o in self.instance.options
            if o.device == name and o.need
        ]
        for resource in range(4):
            self.model += mip.xsum(share[resource] * n for n, share in own) - billed <= 0
        return billed

    def _add_capacity(self) -> None:
        import mip

        instance, model = self.instance, self.model
        classes = range(len(instance.problem.classes))
        for stage in instance.problem.stages:
            total = sum(instance.calls_rps[k, stage] for k in classes) or 1.0
            if not any(instance.skips(stage, choice) for choice in instance.choices(stage)):
                # Follows from the rows below; said in one row it is a knapsack, which the solver knows cuts for.
                own = [o for o in instance.options if o.stage == stage]
                useful = [min(1.0, instance.useful_rps(o) / total) * self._n[o.name] for o in own]
                model += mip.xsum(useful) >= 1
            for choice in instance.choices(stage):
                if instance.skips(stage, choice):
                    continue
                for tier in instance.places(0, stage, choice):
                    load = [instance.calls_rps[k, stage] / total * self._x[k, stage, choice, tier] for k in classes]
                    pool = instance.pool(stage, choice, tier)
                    room = [instance.useful_rps(o) / total * self._n[o.name] for o in pool]
                    model += mip.xsum(load) - mip.xsum(room) <= 0
                    for device in dict.fromkeys(o.device for o in pool):
                        if instance.problem.assurance.spares.get(device, 0):
                            own = [o for o in pool if o.device == device]
                            gone = [instance.useful_rps(o) / total * self._laid.gone[o.name] for o in own]
                            model += mip.xsum(load) - mip.xsum(room) + mip.xsum(gone) <= 0
                    for k in classes:
                        # A replica that could carry more than a class's calls is worth no more than all of them.
                        most = instance.calls_rps[k, stage] or 1.0
                        worth = [min(1.0, instance.useful_rps(o) / most) * self._n[o.name] for o in pool]
                        model += self._x[k, stage, choice, tier] - mip.xsum(worth) <= 0

    # Questions

    def begin(self, question: Question) -> None:
        """Set bounds and add rows for a question."""
        import mip

        instance, model = self.instance, self.model
        model.remove(self._asked) if self._asked else None
        self._asked = []
        for option in instance.options:
            fitting = replicas_that_fit(instance, option, question.counts[option.device])
            self._laid.limit(option, min(fitting, question.most.get(option.name, fitting)))
        for name, count in question.counts.items():
            if count is not None:
                self._asked.append(model.add_constr(self._bought[name] <= count))
        if self._accuracy is not None:
            for k, need in enumerate(instance.problem.classes):
                if self._floors.get(k, math.nan) != question.floors[need.name]:
                    self._accuracy.set_floor(k, question.floors[need.name])
                    self._floors[k] = question.floors[need.name]
        self._weights = question.weights
        budget = [] if question.budget_usd_per_h is None else [(COST, question.budget_usd_per_h)]
        for goal, most in (*budget, *question.limits):
            self._asked.append(model.add_constr(self._expression(goal) <= most / self.unit(goal)))
        for (k, stage), choice in (question.chosen or {}).items():
            self._asked.append(model.add_constr(self._z[k, stage, choice] >= 1))
        for together in question.forbidden:
            chosen = mip.xsum(self._z[key] for key in sorted(together))
            self._asked.append(model.add_constr(chosen <= len(together) - 1))

    def _worth(self, who: str) -> Any:
        """Accuracy of a class; or the mean of all weighted by rates, of each up to its goal."""
        classes = [(k, need) for k, need in enumerate(self.instance.problem.classes) if who in ("", need.name)]
        total = sum(need.rate_rps for _, need in classes)
        assert self._accuracy is not None
        enough = {} if who else {k: need.goal for k, need in classes if need.goal is not None}
        return self._accuracy.total({k: need.rate_rps / total for k, need in classes}, enough)

    def unit(self, goal: Goal) -> float:
        """What the program counts a goal in: USD/h, watts."""
        return {COST: self.scale, ENERGY: self.power.unit}.get(goal, 1.0)

    def _expression(self, goal: Goal) -> Any:
        """A goal in its unit, to be minimised."""
        import mip

        kind, who = goal
        if goal == COST:
            return self._rent + self.flows.tolls
        if goal == ENERGY:
            return self._drawn
        if goal == WEIGHTED:
            terms = [one for one in (COST, ENERGY, ACCURACY) if self._weights.get(one[0], 0.0) > 0]
            if ACCURACY in terms:
                require_listed(self._accuracy, self.instance.problem, exactly=True)
            return mip.xsum(self._weights[one[0]] * self.unit(one) * self._expression(one) for one in terms)
        return 1.0 * self._bought[who] if kind == "machines" else -1.0 * self._worth(who)

    def set_objective(self, goal: Goal) -> None:
        """What to minimise."""
        import mip

        if goal[0] == "accuracy" and self.instance.problem.values_accuracy:
            require_listed(self._accuracy, self.instance.problem)
        self.model.objective = mip.minimize(self._expression(goal))

    @property
    def knows_accuracy(self) -> bool:
        """Whether accuracy can be told."""
        return self._accuracy is not None

    # Solving

    def solve(self, box: Box, deadline: float, gap: float) -> Node | None:
        """The relaxation within a box, its replicas packed; None where there is nothing in it, or none was found in
        time (`timed_out`)."""
        import mip

        status = mip.OptimizationStatus
        model = self.model
        self.timed_out = False
        model.remove(self._boxed) if self._boxed else None
        self._boxed = [model.add_constr(row) for row in self.flows.box_rows(box)]
        model.max_mip_gap, model.max_mip_gap_abs = gap, 1e-10
        while True:
            outcome = optimize(model, max(deadline - time.monotonic(), 0.05))
            if outcome not in (status.OPTIMAL, status.FEASIBLE):
                self.timed_out = outcome == status.NO_SOLUTION_FOUND
                return None
            packings = self._laid.packings()
            if not self._laid.cut(packings, self._m):
                best = outcome == status.OPTIMAL
                bound = min(float(model.objective_bound), float(model.objective_value))
                return Node(float(model.objective_value), bound, self.flows.relaxed(), self._split(packings), best)
            if time.monotonic() >= deadline:
                self.timed_out = True
                return None

    def _split(self, packings: Mapping[tuple[str, str], Packing]) -> Split:
        """The plan behind a solution, its flows recomputed from its shares where routing is proportional."""
        instance = self.instance
        choices = {(k, stage): choice for (k, stage, choice), z in self._z.items() if z.x > 0.5}
        shares = _normalised(
            {
                (k, stage, tier): float(x.x)
                for (k, stage, choice, tier), x in self._x.items()
                if choices[k, stage] == choice and x.x > NOTHING
            }
        )
        replicas = {name: count for name, _, count in self._laid.used()}
        loads = self.power.loads(choices, shares, replicas)
        if loads is not None:
            replicas, packings = at_work(instance, replicas, packings, loads)
        shares = _normalised({key: share for key, share in shares.items() if self._served(*key, choices, replicas)})
        flows = self.flows.products(shares) if instance.proportional else self._present(choices, shares)
        devices = instance.problem.devices
        billed = {device: self._paid(device, replicas, packings) for device, _ in packings}
        reloads = (
            reload_usd_per_h(instance.problem, o) * replicas[o.name] for o in instance.options if o.name in replicas
        )
        powers = {} if loads is None else drawn_w(instance, replicas, loads, billed)
        known = [watts for watts in powers.values() if watts is not None]
        return Split(
            choices,
            replicas,
            packings,
            shares,
            flows,
            math.fsum(devices[device].price_usd_per_h * count for device, count in billed.items()),
            self.flows.tolls_usd_per_h(choices, flows),
            math.fsum([*(devices[device].tariff.restarts_usd_per_h * c for device, c in billed.items()), *reloads]),
            billed,
            None if loads is None else {name: loads[name] for name in replicas},
            math.fsum(devices[name].tariff.electricity_usd_per_h(watts or 0.0) for name, watts in powers.items()),
            None if loads is None or len(known) < len(powers) else math.fsum(known),
            None if self._accuracy is None else float(self._worth("").x),
        )

    def _served(
        self, k: int, stage: str, tier: str, choices: Mapping[tuple[int, str], str], replicas: Mapping[str, int]
    ) -> bool:
        """Whether anything answers a class's calls of a stage in a tier: a share that rounding leaves has nothing."""
        choice = choices[k, stage]
        return self.instance.skips(stage, choice) or any(
            option.name in replicas for option in self.instance.pool(stage, choice, tier)
        )

    def _present(
        self, choices: Mapping[tuple[int, str], str], shares: Mapping[tuple[int, str, str], float]
    ) -> dict[tuple[int, Leg, str, str], float]:
        """The program's flows between tiers in which calls are answered."""

        def there(k: int, stage: str, tier: str) -> bool:
            return not stage or (k, stage, tier) in shares

        flows = present(self.flows.relaxed())
        return {
            (k, leg, t, u): share
            for (k, leg, t, u), share in flows.items()
            if there(k, leg.source, t) and there(k, leg.target, u)
        }

    def _paid(self, name: str, replicas: Mapping[str, int], packings: Mapping[tuple[str, str], Packing]) -> float:
        """Machines of a device that a plan pays for."""
        device = self.instance.problem.devices[name]
        if device.tariff.billing == "whole":
            return float(sum(len(packing.machines) for (owner, _), packing in packings.items() if owner == name))
        own = [o for o in self.instance.options if o.device == name and o.name in replicas]
        return machines_used(device.capacity, [(o.need, replicas[o.name]) for o in own if o.need is not None])


def _normalised(shares: dict[tuple[int, str, str], float]) -> dict[tuple[int, str, str], float]:
    totals: dict[tuple[int, str], float] = {}
    for (k, stage, _), share in shares.items():
        totals[k, stage] = totals.get((k, stage), 0.0) + share
    return {(k, stage, tier): share / totals[k, stage] for (k, stage, tier), share in sorted(shares.items())}
