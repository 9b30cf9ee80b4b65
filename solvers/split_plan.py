"""Writing the plan document of classes that are spread over devices and tiers.

Within a tier the calls of a choice go to its options as they have capacity, or, where power counts, as the program
decided. Replicas that share machines slow one
another down (`estimators.interference`): how much depends on how busy they are, which depends on how slow they are;
both are found together, from below.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from inferplan.estimators.accuracy import AccuracyEstimate
from inferplan.estimators.interference import Tenant, tenant_of
from inferplan.estimators.transport import Crossing, traffic
from inferplan.solvers.assembly import deployed_option, energy_of, without_bounds
from inferplan.solvers.assurance import at_most_gone, losses, lost_text
from inferplan.solvers.options import Option
from inferplan.solvers.packing import Packing
from inferplan.solvers.split_instance import SplitInstance, work_w
from inferplan.solvers.split_power import drawn_w
from inferplan.solvers.split_program import Split
from inferplan.spec.plan import (
    Assurance,
    AssuredCase,
    Choice,
    ClassPlan,
    ClassPrediction,
    DeployedOption,
    Energy,
    Estimate,
    Machines,
    OptionPrediction,
    Placement,
    Traffic,
)

PASSES = 20
SETTLED = 1e-9


@dataclass(frozen=True)
class Loads:
    """What every deployed option gets, by name. `slower`: factors of its replicas' times, where there are any."""

    shares: Mapping[tuple[int, str], float]
    """Of a class's calls of the option's stage, by (class, option)."""
    load_rps: Mapping[str, float]
    capacity_rps: Mapping[str, float]
    slower: Mapping[str, tuple[float, ...]]

    def utilisation(self, name: str) -> float:
        """Share of its capacity that an option's load takes."""
        return self.load_rps[name] / self.capacity_rps[name]

    def interference(self, name: str) -> float:
        """How much slower an option is for what runs beside it: the harmonic mean over its replicas."""
        factors = self.slower.get(name, ())
        return len(factors) / math.fsum(1 / factor for factor in factors) if factors else 1.0


def loads_of(instance: SplitInstance, split: Split, level: float = 1.0) -> Loads:
    """How a plan's calls spread over its options, at a multiple of the expected load."""
    loads = _spread(instance, split, {}, level)
    for _ in range(PASSES if instance.problem.interference.matters else 0):
        slower = _slower(instance, split, loads)
        again = _spread(instance, split, slower, level)
        settled = all(math.isclose(again.utilisation(n), loads.utilisation(n), rel_tol=SETTLED) for n in split.replicas)
        loads = again
        if settled:
            break
    return loads


def _spread(instance: SplitInstance, split: Split, slower: Mapping[str, tuple[float, ...]], level: float) -> Loads:
    deployed = [o for o in instance.options if o.name in split.replicas]
    capacity = {}
    for option in deployed:
        assert option.service is not None
        factors = slower.get(option.name, (1.0,) * split.replicas[option.name])
        capacity[option.name] = option.service.capacity_per_s(option.max_batch) * math.fsum(1 / f for f in factors)
    shares: dict[tuple[int, str], float] = {}
    loads = dict.fromkeys(capacity, 0.0)
    for (k, stage, tier), share in split.shares.items():
        pool = [o.name for o in instance.pool(stage, split.choices[k, stage], tier) if o.name in capacity]
        given = capacity if split.loads is None else split.loads
        total = math.fsum(given[name] for name in pool) or 1.0
        # Where all of a pool is lost what little was sent there (shares are told apart to 1e-7) goes nowhere.
        for name in pool:
            shares[k, name] = share * given[name] / total
            loads[name] += level * instance.calls_rps[k, stage] * shares[k, name]
    return Loads(shares, loads, capacity, slower)


def _slower(instance: SplitInstance, split: Split, loads: Loads) -> Mapping[str, tuple[float, ...]]:
    busy = {name: loads.utilisation(name) for name in split.replicas}
    return instance.problem.interference.slowdowns(tenants(instance, split), machines_of(split), busy)


def tenants(instance: SplitInstance, split: Split) -> dict[str, Tenant]:
    """Deployed options as neighbours see them, by name."""
    devices = instance.problem.workload.devices()
    return {o.name: tenant_of(devices, o) for o in instance.options if o.name in split.replicas}


def machines_of(split: Split) -> list[dict[str, int]]:
    """Every machine of a plan, whatever its device type."""
    return [machine for _, packing in sorted(split.packings.items()) for machine in packing.machines]


def overloaded(instance: SplitInstance, split: Split, loads: Loads) -> dict[str, float]:
    """Options that get more than they can serve for what runs beside them, with how much slower they are."""
    return {
        name: loads.interference(name)
        for name in split.replicas
        if loads.utilisation(name) > instance.max_utilisation * (1 + 1e-6)
    }


def overloads(instance: SplitInstance, split: Split) -> dict[str, float]:
    """Options that get more than they can serve at the highest level, with all machines or without some, and how much
    slower they are then."""
    slower: dict[str, float] = {}
    for left in (split, *(loss.left for loss in losses_of(instance, split))):
        loads = loads_of(instance, left, instance.level)
        for name, factor in overloaded(instance, left, loads).items():
            slower[name] = max(factor, slower.get(name, 1.0))
    return slower


def without(split: Split, device: str, gone: Sequence[Mapping[str, int]]) -> Split:
    """What is left of a plan without some machines of a device type."""
    packings: dict[tuple[str, str], Packing] = {}
    missing = [dict(machine) for machine in gone]
    for key, packing in split.packings.items():
        left = []
        for machine in packing.machines:
            if key[0] == device and machine in missing:
                missing.remove(machine)
            else:
                left.append(machine)
        packings[key] = replace(packing, machines=tuple(left))
    replicas: dict[str, int] = {}
    for packing in packings.values():
        for machine in packing.machines:
            for name, count in machine.items():
                replicas[name] = replicas.get(name, 0) + count
    # What is left takes over as it has capacity.
    return replace(split, packings=packings, replicas=replicas, loads=None)


@dataclass(frozen=True)
class Loss:
    """Machines of one device type that are lost, and what is left of the plan."""

    name: str
    device: str
    machines: int
    left: Split


def losses_of(instance: SplitInstance, split: Split) -> list[Loss]:
    """Every distinct loss of machines that the plan must withstand (at most `MAX_LOSSES` of a type)."""
    found = []
    for device, lost in sorted(instance.problem.assurance.spares.items()):
        machines = _machines_by_device(split).get(device, [])
        for gone in losses(machines, lost) if lost and machines else ():
            found.append(Loss(lost_text(device, lost, gone), device, lost, without(split, device, gone)))
    return found


def _machines_by_device(split: Split) -> dict[str, list[dict[str, int]]]:
    found: dict[str, list[dict[str, int]]] = {}
    for (device, _), packing in sorted(split.packings.items()):
        found.setdefault(device, []).extend(packing.machines)
    return found


def enough_spares(instance: SplitInstance, split: Split) -> dict[str, int]:
    """As `assurance.enough_spares`: one more spare where more machines than that are gone too often."""
    problem = instance.problem
    wanted, spares = problem.workload.robustness.availability, dict(problem.assurance.spares)
    for device, machines in _machines_by_device(split).items() if wanted is not None else ():
        own = [o.load_s or 0.0 for o in instance.options if o.device == device and o.name in split.replicas]
        gone = problem.devices[device].tariff.lost_share(max(own, default=0.0))
        if at_most_gone(len(machines), gone, spares.get(device, 0)) < (wanted or 0.0):
            spares[device] = spares.get(device, 0) + 1
    return spares


def option_plans(instance: SplitInstance, split: Split, loads: Loads) -> dict[str, DeployedOption]:
    """Deployed options by name; stages that are skipped among them."""
    problem = instance.problem
    deployed: dict[str, DeployedOption] = {}
    for option in (o for stage in problem.stages for o in problem.options(stage)):
        users = [k for k in range(len(problem.classes)) if split.choices[k, option.stage] == option.variant]
        if option.name in split.replicas:
            replicas = split.replicas[option.name]
            deployed[option.name] = deployed_option(option, replicas, _prediction(option, replicas, loads))
        elif option.service is None and users:
            load = math.fsum(instance.calls_rps[k, option.stage] for k in users)
            deployed[option.name] = deployed_option(option, 0, OptionPrediction(load_rps=load, utilisation=0.0))
    return deployed


def _prediction(option: Option, replicas: int, loads: Loads) -> OptionPrediction:
    name = option.name
    work, load = work_w(option, replicas, loads.load_rps[name]), loads.load_rps[name]
    return OptionPrediction(
        load_rps=loads.load_rps[name],
        capacity_rps=loads.capacity_rps[name],
        utilisation=loads.utilisation(name),
        interference=loads.interference(name),
        energy_j=None if work is None else work / load if load > 0 else 0.0,
    )


def class_plans(
    instance: SplitInstance, split: Split, loads: Loads, accuracies: Mapping[str, AccuracyEstimate | None]
) -> dict[str, ClassPlan]:
    """How every class is served and what it may expect."""
    problem = instance.problem
    plans: dict[str, ClassPlan] = {}
    for k, need in enumerate(problem.classes):
        routes: dict[str, list[Choice]] = {}
        for stage in problem.stages:
            for option in problem.options(stage):
                skipped = option.service is None and split.choices[k, stage] == option.variant
                share = 1.0 if skipped else loads.shares.get((k, option.name), 0.0)
                if share > 0:
                    routes.setdefault(stage, []).append(Choice(option=option.name, share=min(share, 1.0)))
        accuracy = accuracies[need.name]
        plans[need.name] = ClassPlan(
            rate_rps=need.rate_rps,
            accuracy_floor=need.floor,
            accuracy_goal=need.goal,
            routes=routes,
            predicted=ClassPrediction(
                throughput_rps=need.rate_rps,
                accuracy=None
                if accuracy is None
                else Estimate(value=accuracy.value, lower=accuracy.lower, upper=accuracy.upper),
                accuracy_source=None if accuracy is None else accuracy.source,
            ),
        )
    return plans


def machine_plans(instance: SplitInstance, split: Split) -> dict[str, Machines]:
    """Machines bought, each with what runs on it."""
    packed: dict[str, list[list[Placement]]] = {}
    for (device, _), packing in sorted(split.packings.items()):
        for machine in packing.machines:
            placements = [Placement(option=name, replicas=count) for name, count in sorted(machine.items())]
            packed.setdefault(device, []).append(placements)
    return {device: _machines(instance, split, device, packing) for device, packing in packed.items()}


def _machines(instance: SplitInstance, split: Split, device: str, packing: list[list[Placement]]) -> Machines:
    tariff = instance.problem.devices[device].tariff
    longest_s = max(o.load_s or 0.0 for o in instance.options if o.device == device and o.name in split.replicas)
    gone = tariff.interruptions_per_h > 0
    return Machines(
        count=len(packing),
        price_usd_per_h=tariff.price_usd_per_h,
        share=split.billed[device] if tariff.billing == "share" else None,
        interruptions_per_h=tariff.interruptions_per_h * len(packing) if gone else None,
        lost_share=tariff.lost_share(longest_s) if gone else None,
        packing=packing,
    )


def energy(instance: SplitInstance, split: Split, loads: Loads) -> Energy | None:
    """The most that the plan draws, by tier; None where the power of some machine or replica is not known."""
    powers = drawn_w(instance, split.replicas, loads.load_rps, split.billed)
    return energy_of(instance.problem, powers)


def assurance(instance: SplitInstance, split: Split, plain_usd_per_h: float | None) -> Assurance | None:
    """What the plan withstands; None where nothing was asked. Queues that keep up at the highest level do so at every
    one; with machines lost they were looked at before. `plain_usd_per_h`: the cost of the plan without it."""
    problem = instance.problem
    asked, levels = problem.workload.robustness, [level for level in problem.assurance.levels if level != 1.0]
    if not asked.asked:
        return None
    deployed = [o for o in instance.options if o.name in split.replicas]
    top = max(problem.assurance.levels)
    cases = [AssuredCase(name=f"load x {level:g}", rate_scale=level, verdict="met", classes={}) for level in levels]
    cases += [
        AssuredCase(name=loss.name, rate_scale=top, lost={loss.device: loss.machines}, verdict="met", classes={})
        for loss in losses_of(instance, split)
    ]
    bought = _machines_by_device(split)
    return Assurance(
        confidence=asked.confidence,
        load_levels=levels,
        spare_machines={d: lost for d, lost in sorted(problem.assurance.spares.items()) if lost and d in bought},
        availability=asked.availability,
        headroom=asked.headroom,
        plain_cost_usd_per_h=plain_usd_per_h,
        extra_usd_per_h=None if plain_usd_per_h is None else split.cost_usd_per_h - plain_usd_per_h,
        cases=cases,
        without_bounds=[] if asked.confidence is None else without_bounds(problem, deployed),
    )


def traffic_plan(instance: SplitInstance, split: Split) -> Traffic | None:
    """What goes over the network; None where there is one tier."""
    if not instance.legs:
        return None
    crossings = []
    for (k, leg, t, u), share in split.flows.items():
        rate = instance.leg_rps(k, leg) * share
        size = instance.payloads.size_bytes(leg, split.choices.get((k, leg.source), ""))
        crossings.append(Crossing(instance.problem.classes[k].name, leg, t, u, rate, rate * size))
    return traffic(instance.ways, instance.problem.workload.routing, crossings)


def describe(instance: SplitInstance, split: Split) -> str:
    """A plan in one line."""
    parts = []
    for stage in instance.problem.stages:
        mine = [o for o in instance.options if o.stage == stage and o.name in split.replicas]
        parts += [f"{split.replicas[o.name]} x {o.name}" for o in mine]
    power = "" if split.power_w is None else f", {split.power_w:.6g} W"
    electricity = f", electricity {split.energy_usd_per_h:.6g}" if split.energy_usd_per_h > 0 else ""
    return (
        f"{', '.join(parts)} at {split.cost_usd_per_h:.6g} USD/h"
        f" (machines {split.machines_usd_per_h + split.restarts_usd_per_h:.6g}{electricity},"
        f" traffic {split.traffic_usd_per_h:.6g}){power}"
    )
