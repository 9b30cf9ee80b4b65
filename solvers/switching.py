"""What it takes to go from one plan to another: replicas to start and stop, seconds, money, calls at risk.

A replica stays where its stage, choice, device, provider, threads and model are the same; its batch and queue delay
are settings of the queue. Machines of the two plans are matched, type by type, such that as many replicas as can be
stay where they are: a transport problem between kinds of machines (those that hold the same), whose linear
relaxation is integral.

Models on one machine load side by side; a machine that is new starts first. A switch takes as long as its slowest
machine, and costs the price of every machine for the time that it is busy with it. Calls at risk are those that what
stays could not carry while the rest loads, as if what is stopped were stopped first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from inferplan.solvers.highs import new_model, optimize
from inferplan.spec.plan import DeployedOption, Plan
from inferplan.spec.workload import Workload

HOUR_S = 3600.0
STOPPED = 1e-5
"""What a replica that stops counts beside one that starts: it only tells equals apart."""
Identity = tuple[str, str, str, str, int, str]
Content = tuple[tuple[Identity, int], ...]
"""Replicas on a machine, sorted."""


@dataclass(frozen=True)
class MachineSwitch:
    """What changes on one machine. `before` and `after` are its numbers in the plans; None where it is new, or given
    back. Replicas are named as the plans name their options."""

    device: str
    before: int | None
    after: int | None
    start: Mapping[str, int]
    stop: Mapping[str, int]
    seconds: float


@dataclass(frozen=True)
class Switch:
    """A switch between plans; machines on which nothing changes are left out."""

    machines: tuple[MachineSwitch, ...]
    seconds: float
    cost_usd: float
    calls_at_risk: Mapping[str, float]
    """By stage."""
    unmeasured: tuple[str, ...]
    """Options whose load time is not known: taken as 0."""

    @property
    def starts(self) -> int:
        """Replicas to start."""
        return sum(sum(machine.start.values()) for machine in self.machines)

    @property
    def stops(self) -> int:
        """Replicas to stop."""
        return sum(sum(machine.stop.values()) for machine in self.machines)


def switching(before: Plan, after: Plan, workload: Workload) -> Switch:
    """What it takes to go from one plan of a workload to another."""
    machines: list[MachineSwitch] = []
    kept: dict[str, int] = {}
    for device in sorted({*before.machines, *after.machines}):
        old, new = _contents(before, device), _contents(after, device)
        for i, j in _matched(old, new):
            change = _change(device, i, j, before, after, workload)
            if change.start or change.stop or i is None or j is None:
                machines.append(change)
            for name, count in _named(after, device, j).items():
                kept[name] = kept.get(name, 0) + count - change.start.get(name, 0)
    seconds = max((machine.seconds for machine in machines), default=0.0)
    # A device that the workload has no longer costs what it did when it was planned.
    prices = {name: found.price_usd_per_h for plan in (before, after) for name, found in plan.machines.items()}
    prices |= {name: device.price_usd_per_h for name, device in workload.devices().items()}
    return Switch(
        tuple(machines),
        seconds,
        math.fsum(prices[machine.device] * machine.seconds / HOUR_S for machine in machines),
        _at_risk(after, kept, seconds),
        tuple(
            name
            for name, option in sorted(after.options.items())
            if option.load_s is None and option.replicas > kept.get(name, 0)
        ),
    )


def _identity(option: DeployedOption) -> Identity:
    return (option.stage, option.choice, option.device, option.provider, option.threads, option.model_sha256)


def _named(plan: Plan, device: str, index: int | None) -> dict[str, int]:
    """Replicas by option on one machine; nothing where there is none."""
    if index is None:
        return {}
    return {placement.option: placement.replicas for placement in plan.machines[device].packing[index]}


def _counts(plan: Plan, device: str, index: int | None) -> dict[Identity, int]:
    found: dict[Identity, int] = {}
    for name, count in _named(plan, device, index).items():
        who = _identity(plan.options[name])
        found[who] = found.get(who, 0) + count
    return found


def _contents(plan: Plan, device: str) -> list[Content]:
    count = plan.machines[device].count if device in plan.machines else 0
    return [tuple(sorted(_counts(plan, device, index).items())) for index in range(count)]


def _kept(one: Content, other: Content) -> int:
    wanted = dict(other)
    return sum(min(count, wanted.get(who, 0)) for who, count in one)


def _worth(one: Content, other: Content) -> float:
    """What a machine is worth that becomes another: replicas that stay; of equals, those that stop fewest."""
    kept = _kept(one, other)
    return kept - STOPPED * (sum(count for _, count in one) - kept)


def _matched(old: Sequence[Content], new: Sequence[Content]) -> list[tuple[int | None, int | None]]:
    """Pairs of machines, old and new, such that most replicas stay."""
    kinds_old, kinds_new = sorted(set(old)), sorted(set(new))
    pairs = _transport(
        [[_worth(one, other) for other in kinds_new] for one in kinds_old],
        [old.count(kind) for kind in kinds_old],
        [new.count(kind) for kind in kinds_new],
    )
    left_old = {kind: [i for i, content in enumerate(old) if content == kind] for kind in kinds_old}
    left_new = {kind: [i for i, content in enumerate(new) if content == kind] for kind in kinds_new}
    matched: list[tuple[int | None, int | None]] = []
    for (a, b), count in sorted(pairs.items()):
        matched += [(left_old[kinds_old[a]].pop(0), left_new[kinds_new[b]].pop(0)) for _ in range(count)]
    matched += [(index, None) for indices in left_old.values() for index in indices]
    matched += [(None, index) for indices in left_new.values() for index in indices]
    return sorted(matched, key=lambda pair: (pair[1] is None, pair[1] or 0, pair[0] or 0))


def _transport(
    worth: Sequence[Sequence[float]], supply: Sequence[int], demand: Sequence[int]
) -> dict[tuple[int, int], int]:
    """How many machines of each old kind become each new kind, as many as there are, of most worth."""
    if not supply or not demand:
        return {}
    import mip

    model = new_model()
    flow = [[model.add_var(lb=0) for _ in demand] for _ in supply]
    for a, count in enumerate(supply):
        model += mip.xsum(flow[a]) <= count
    for b, count in enumerate(demand):
        model += mip.xsum(row[b] for row in flow) <= count
    # A machine that keeps nothing is still better used again than given back.
    gained = mip.xsum((worth[a][b] + 1e-3) * x for a, row in enumerate(flow) for b, x in enumerate(row))
    model.objective = mip.maximize(gained)
    optimize(model)
    return {(a, b): count for a, row in enumerate(flow) for b, x in enumerate(row) if (count := round(float(x.x))) > 0}


def _change(device: str, i: int | None, j: int | None, before: Plan, after: Plan, workload: Workload) -> MachineSwitch:
    start = _beyond(after, device, j, _counts(before, device, i))
    stop = _beyond(before, device, i, _counts(after, device, j))
    loading_s = max((after.options[name].load_s or 0.0 for name in start), default=0.0)
    starting_s = workload.devices()[device].start_s if i is None else 0.0
    return MachineSwitch(device, i, j, start, stop, starting_s + loading_s)


def _beyond(plan: Plan, device: str, index: int | None, there: Mapping[Identity, int]) -> dict[str, int]:
    """Replicas of a machine, by option, beyond those that are on it in the other plan."""
    left = dict(there)
    found: dict[str, int] = {}
    for name, count in sorted(_named(plan, device, index).items()):
        who = _identity(plan.options[name])
        staying = min(count, left.get(who, 0))
        left[who] = left.get(who, 0) - staying
        if count > staying:
            found[name] = count - staying
    return found


def _at_risk(after: Plan, kept: Mapping[str, int], seconds: float) -> dict[str, float]:
    """Calls by stage that arrive while a plan's replicas load, beyond what the kept ones carry."""
    risk: dict[str, float] = {}
    for name, option in sorted(after.options.items()):
        if option.predicted.capacity_rps is not None and option.replicas:
            carried = option.predicted.capacity_rps * kept.get(name, 0) / option.replicas
            beyond = max(option.predicted.load_rps - carried, 0.0) * seconds
            risk[option.stage] = risk.get(option.stage, 0.0) + beyond
    return risk
