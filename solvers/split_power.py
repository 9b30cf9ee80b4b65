"""What options are given and draw, where classes spread over devices.

No latency is promised, so which batches form is not known: it depends on how requests arrive. Power is therefore the
most that it can be. A call draws no more than in the most wasteful batch, e_o joules (`split_instance.call_j`), and n
replicas at work no more than n p_o watts:

    w_o = min(e_o L_o, p_o n_o)        L_o calls per second that the option is given

With L_o, w_o >= 0 and δ_o ∈ {0,1} (1: its replicas count as always at work), and u_o the calls per second that a
replica may be given:

    (spread)  Σ_{o: s,v,t} L_o = Σ_k Λ_ks X_ksvt,   L_o <= u_o n_o
    (power)   w_o >= e_o L_o - (e_o - p_o / u_o) L_o^max δ_o,   w_o >= p_o n_o - p_o N_o (1 - δ_o),
              w_o >= p_o / u_o L_o        the chord: it follows from L_o <= u_o n_o
              where e_o u_o <= p_o, as with a batch of one, w_o = e_o L_o and there is no δ_o

w_o only ever counts where less is better, so it is as small as these let it be, which is the minimum above.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from inferplan.solvers.goals import geometric_mean
from inferplan.solvers.options import Option
from inferplan.solvers.packing import Packing
from inferplan.solvers.split_flows import NOTHING
from inferplan.solvers.split_instance import SplitInstance, call_j, work_w


class SplitPower:
    """Rows and variables of loads and powers; none where power does not count. `works`: what options at work add to
    their machines' idle power, by name, in units of `unit` watts. `x`: shares by (class, stage, choice, tier)."""

    def __init__(
        self,
        instance: SplitInstance,
        model: Any,
        x: Mapping[tuple[int, str, str, str], Any],
        replicas: Mapping[str, Any],
    ) -> None:
        self.instance = instance
        self.works: dict[str, Any] = {}
        self._model = model
        self._loads: dict[str, Any] = {}
        """Shares of all calls of the option's stage."""
        idle = [device.tariff.idle_w or 0.0 for device in instance.problem.devices.values()]
        self.unit = geometric_mean([*idle, *(option.busy_w or 0.0 for option in instance.options)])
        if not instance.counts_power:
            return
        for option in instance.options:
            self._add(option, replicas[option.name])
        self._spread(x)

    def _total_rps(self, stage: str) -> float:
        return sum(self.instance.calls_rps[k, stage] for k in range(len(self.instance.problem.classes))) or 1.0

    def _add(self, option: Option, replicas: Any) -> None:
        import mip

        model, instance, total = self._model, self.instance, self._total_rps(option.stage)
        useful = instance.useful_rps(option)
        load = self._loads[option.name] = model.add_var(lb=0, ub=1)
        model += load - useful / total * replicas <= 0
        joules, busy_w = call_j(option), option.busy_w
        if joules is None or busy_w is None:
            return  # its electricity has no price, and the objective is not about energy
        most_w, full_w = joules * total / self.unit, busy_w / useful * total / self.unit
        if most_w <= full_w * (1 + 1e-9):
            self.works[option.name] = most_w * load
            return
        work = self.works[option.name] = model.add_var(lb=0)
        always = model.add_var(var_type=mip.BINARY)
        each_w, most = busy_w / self.unit, instance.most[option.name]
        model += work - most_w * load + (most_w - full_w) * always >= 0
        model += work - each_w * replicas - each_w * most * always >= -each_w * most
        model += work - full_w * load >= 0

    def _spread(self, x: Mapping[tuple[int, str, str, str], Any]) -> None:
        import mip

        instance = self.instance
        for stage in instance.problem.stages:
            total = self._total_rps(stage)
            for choice in instance.choices(stage):
                if instance.skips(stage, choice):
                    continue
                for tier in instance.places(0, stage, choice):
                    given = mip.xsum(self._loads[option.name] for option in instance.pool(stage, choice, tier))
                    calls = [
                        instance.calls_rps[k, stage] / total * x[k, stage, choice, tier]
                        for k in range(len(instance.problem.classes))
                    ]
                    self._model += given - mip.xsum(calls) == 0

    def loads(
        self,
        choices: Mapping[tuple[int, str], str],
        shares: Mapping[tuple[int, str, str], float],
        replicas: Mapping[str, int],
    ) -> dict[str, float] | None:
        """Calls per second of every option with replicas, of a solved program; None where power does not count."""
        if not self.instance.counts_power:
            return None
        found = dict.fromkeys(replicas, 0.0)
        for (k, stage, tier), share in shares.items():
            pool = [o.name for o in self.instance.pool(stage, choices[k, stage], tier) if o.name in replicas]
            parts = [max(float(self._loads[name].x), 0.0) for name in pool]
            if max(parts, default=0.0) > NOTHING:
                parts = [part if part > NOTHING else 0.0 for part in parts]
            whole = math.fsum(parts) or 1.0
            for name, part in zip(pool, parts, strict=True):
                found[name] += self.instance.calls_rps[k, stage] * share * part / whole
        return found


def at_work(
    instance: SplitInstance,
    replicas: Mapping[str, int],
    packings: Mapping[tuple[str, str], Packing],
    loads: Mapping[str, float],
) -> tuple[dict[str, int], dict[tuple[str, str], Packing]]:
    """Replicas and packings without options that are given nothing and need not take over when machines are lost."""
    spares = instance.problem.assurance.spares
    idle = {o.name for o in instance.options if loads.get(o.name) == 0.0 and not spares.get(o.device, 0)}
    if not idle:
        return dict(replicas), dict(packings)
    kept = {}
    for key, packing in packings.items():
        machines = [{name: n for name, n in machine.items() if name not in idle} for machine in packing.machines]
        machines = [machine for machine in machines if machine]
        if machines:
            kept[key] = replace(packing, machines=tuple(machines))
    return {name: count for name, count in replicas.items() if name not in idle}, kept


def drawn_w(
    instance: SplitInstance, replicas: Mapping[str, int], loads: Mapping[str, float], billed: Mapping[str, float]
) -> dict[str, float | None]:
    """The most that the machines of every device type draw; None where power is not known of some."""
    found: dict[str, float | None] = {}
    for name, count in billed.items():
        idle_w = instance.problem.devices[name].tariff.idle_w
        works = [
            work_w(option, replicas[option.name], loads[option.name])
            for option in instance.options
            if option.device == name and option.name in replicas
        ]
        known = [watts for watts in works if watts is not None]
        found[name] = None if idle_w is None or len(known) < len(works) else math.fsum([count * idle_w, *known])
    return found
