"""Independent recomputation of what a plan costs and draws, from the plan, the workload and the profile's rows.

Part of `checker`; shares no code with the solver or the estimators. Energy per call rests on a mean batch that only
the planner knows: it must lie between the least and the most that any batch the option may take would need. Where a
plan is judged on capacity alone nobody knows which batches form, and that most is what it must state, or what its
replicas draw that are always at work, where that is less. All else is recomputed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from inferplan.solvers.assurance_check import planned_mean_s
from inferplan.solvers.interference_check import measured_beside
from inferplan.solvers.row_check import counted_rows, handoff_s
from inferplan.spec.plan import DeployedOption, Machines, Plan
from inferplan.spec.profile import Profile
from inferplan.spec.rows import Measurement
from inferplan.spec.workload import Device, Workload

RELATIVE = 1e-6


def check_bill(plan: Plan, workload: Workload, profile: Profile) -> Iterator[str]:
    """What is wrong with the plan's costs, energy and shares of machines and GPUs."""
    devices = workload.devices()
    machines = restarts = electricity = 0.0
    power: float | None = 0.0
    for name, bought in sorted(plan.machines.items()):
        device, tier = devices[name], workload.tiers[name.split("/")[0]]
        own = {key: option for key, option in plan.options.items() if option.device == name and option.replicas}
        count = float(bought.count)
        if device.billing == "share":
            count = _share(device, own)
            if bought.share is None or not _near(bought.share, count):
                yield f"{name}: its replicas use {count:.9g} machines, the plan says {bought.share}"
        elif bought.share is not None:
            yield f"{name}: paid whole, but the plan states a share"
        machines += count * device.price_usd_per_h
        hourly = device.price_usd_per_h * device.interruptions_per_h / 3600
        restarts += count * hourly * device.start_s
        restarts += math.fsum(o.replicas * hourly * (o.load_s or 0.0) * replica_share(device, o) for o in own.values())
        yield from _risk(name, device, bought, own)
        yield from _loads(own, device, profile)
        yield from _gpus(name, device, bought, plan, workload, profile)
        watts = _power(device, count, own)
        power = None if power is None or watts is None else power + watts
        electricity += (watts or 0.0) / 1000 * tier.energy_price_usd_per_kwh
    yield from _costs(plan, machines, restarts, electricity)
    yield from _energy(plan, workload, profile, power)
    budget = workload.objective.budget_usd_per_h
    if budget is not None and plan.cost_usd_per_h > budget * (1 + RELATIVE):
        yield f"the plan costs {plan.cost_usd_per_h:.9g} USD/h, the budget is {budget:.9g}"


def _near(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=RELATIVE, abs_tol=1e-12)


def _uses(device: Device, option: DeployedOption) -> list[float]:
    """Share of a machine that one replica takes: cores, memory, GPU, GPU memory."""
    uses = [option.threads / (device.cores - device.reserved_cores)]
    if device.memory_bytes is not None:
        uses.append((option.memory_bytes or 0) / device.memory_bytes)
    if device.kind == "gpu":
        on_gpu = option.provider in ("cuda", "tensorrt")
        uses.append(1.0 / (device.gpus or 1) if on_gpu and not option.shares_gpu else 0.0)
        if device.gpu_memory_bytes is not None:
            taken = (option.gpu_memory_bytes or 0) / device.gpu_memory_bytes if option.shares_gpu else 1.0
            uses.append(taken / (device.gpus or 1) if on_gpu else 0.0)
    return uses


def replica_share(device: Device, option: DeployedOption) -> float:
    """The share of a machine that a replica takes, in the resource it takes most of."""
    return max(_uses(device, option))


def _share(device: Device, options: Mapping[str, DeployedOption]) -> float:
    resources = zip(*([o.replicas * use for use in _uses(device, o)] for o in options.values()), strict=True)
    return max((math.fsum(resource) for resource in resources), default=0.0)


def _risk(name: str, device: Device, bought: Machines, own: Mapping[str, DeployedOption]) -> Iterator[str]:
    if device.interruptions_per_h == 0:
        return
    expected = device.interruptions_per_h * bought.count
    if bought.interruptions_per_h is None or not _near(bought.interruptions_per_h, expected):
        yield f"{name}: {expected:.9g} interruptions per hour, the plan says {bought.interruptions_per_h}"
    down_h = device.interruptions_per_h * (device.start_s + max((o.load_s or 0.0) for o in own.values())) / 3600
    if bought.lost_share is None or not _near(bought.lost_share, down_h / (1 + down_h)):
        yield f"{name}: {down_h / (1 + down_h):.9g} of its capacity is lost, the plan says {bought.lost_share}"


def _rows(option: DeployedOption, device: Device, name: str, profile: Profile) -> list[Measurement]:
    """Rows of an option with batches up to its own."""
    measured_on = device.like.device if device.like else name
    return [
        row
        for row in profile.measurements
        if row.status == "ok"
        and row.service.mean_s is not None
        and (row.key.stage, row.key.variant, row.key.modalities)
        == (option.stage, option.variant, "+".join(sorted(option.modalities)))
        and (row.key.device, row.key.provider, row.key.threads) == (measured_on, option.provider, option.threads)
        and row.key.model_sha256 == option.model_sha256
        and row.key.batch <= option.max_batch
    ]


def least_batch_s(option: DeployedOption, workload: Workload, profile: Profile) -> float:
    """Mean service time of the fastest batch that an option may take; 0 where it runs nothing."""
    if option.runtime == "skip":
        return 0.0
    device = workload.devices()[option.device]
    times = [planned_mean_s(row, workload) or 0.0 for row in _rows(option, device, option.device, profile)]
    return min(times, default=0.0) * (device.like.slowdown if device.like else 1.0)


def _loads(own: Mapping[str, DeployedOption], device: Device, profile: Profile) -> Iterator[str]:
    for key, option in own.items():
        known = [row.load_s for row in _rows(option, device, option.device, profile) if row.load_s is not None]
        if option.load_s is not None and not any(_near(option.load_s, load_s) for load_s in known):
            yield f"option {key}: loads in {option.load_s} s, which no row of it says"


def _gpus(
    name: str, device: Device, bought: Machines, plan: Plan, workload: Workload, profile: Profile
) -> Iterator[str]:
    """On a GPU stands one replica, or several whose peaks fit and that were measured beside one another; where a
    machine has several GPUs, one replica on each."""
    for index, placements in enumerate(bought.packing):
        there = [
            (plan.options[p.option], p.replicas)
            for p in placements
            if plan.options[p.option].provider in ("cuda", "tensorrt")
        ]
        if sum(count for _, count in there) < 2:
            continue
        where = f"{name}, machine {index}"
        if (device.gpus or 1) > 1:
            if any(option.shares_gpu for option, _ in there):
                yield f"{where}: replicas share a GPU, which is not done where a machine has several"
            continue
        if device.gpu_memory_bytes is None or any(o.gpu_memory_bytes is None or not o.shares_gpu for o, _ in there):
            yield f"{where}: replicas share a GPU without their peaks being known to fit"
            continue
        used = sum((option.gpu_memory_bytes or 0) * count for option, count in there)
        if used > device.gpu_memory_bytes:
            yield f"{where}: {used} bytes of GPU memory on {device.gpu_memory_bytes}"
        for i, (one, count) in enumerate(there):
            others = [other for other, _ in there[i + 1 :]] + ([one] if count > 1 else [])
            for other in others:
                pairs = ((one, other), (other, one))
                if not all(measured_beside(*pair, workload, profile) for pair in pairs):
                    yield f"{where}: {one.stage} and {other.stage} share its GPU, never measured beside one another"


def _busy_w(device: Device, option: DeployedOption, counter_w: float | None) -> float | None:
    """What a replica at work adds to idle power."""
    on_gpu = option.provider in ("cuda", "tensorrt")
    if counter_w is not None and device.idle_power_w is not None and device.like is None and not on_gpu:
        return max(0.0, counter_w - device.idle_power_w)
    if device.power_w is not None:
        rest = device.power_w - (device.power_w if device.idle_power_w is None else device.idle_power_w)
        if on_gpu:
            return rest / (device.gpus or 1)
        return rest * min(1.0, option.threads / (device.cores - device.reserved_cores))
    return None if device.idle_power_w is None or device.like is not None else counter_w


def _power(device: Device, count: float, own: Mapping[str, DeployedOption]) -> float | None:
    idle = device.power_w if device.idle_power_w is None else device.idle_power_w
    if idle is None or any(option.predicted.energy_j is None for option in own.values()):
        return None
    return count * idle + math.fsum(o.predicted.load_rps * (o.predicted.energy_j or 0.0) for o in own.values())


def _costs(plan: Plan, machines: float, restarts: float, electricity: float) -> Iterator[str]:
    said = plan.costs
    network = said.network_usd_per_h if said else 0.0
    for what, value, claim in (
        ("machines", machines, said.machines_usd_per_h if said else plan.cost_usd_per_h),
        ("restarts", restarts, said.restarts_usd_per_h if said else 0.0),
        ("energy", electricity, said.energy_usd_per_h if said else 0.0),
        ("plan", machines + restarts + electricity + network, plan.cost_usd_per_h),
    ):
        if not _near(value, claim):
            verb = "costs" if what in ("energy", "plan") else "cost"
            yield f"the {what} {verb} {value:.9g} USD/h, the plan says {claim:.9g}"


def _energy(plan: Plan, workload: Workload, profile: Profile, power: float | None) -> Iterator[str]:
    said = plan.energy
    devices = workload.devices()
    for key, option in plan.options.items():
        if option.replicas and option.predicted.energy_j is not None:
            on_capacity = plan.certificate is not None and plan.certificate.judged_on == "capacity"
            call = _most_of_call if on_capacity else _call
            yield from call(key, option, devices[option.device], workload, profile)
    if (said is None) != (power is None or not plan.machines):
        yield "the plan's energy is stated although it is not known, or the other way round"
    if said is None or power is None:
        return
    rate = math.fsum(traffic.rate_rps for traffic in plan.classes.values())
    tiers = math.fsum(tier.power_w for tier in said.tiers.values())
    for what, value, claim in (
        ("power", power, said.power_w),
        ("power of its tiers", power, tiers),
        ("energy per hour", power / 1000, said.energy_kwh_per_h),
        ("energy per request", power / rate, said.energy_j_per_request),
    ):
        if not _near(value, claim):
            yield f"the {what} is {value:.9g}, the plan says {claim:.9g}"
    carbon: float | None = 0.0
    for name in plan.machines:
        device, tier = devices[name], workload.tiers[name.split("/")[0]]
        own = {key: option for key, option in plan.options.items() if option.device == name and option.replicas}
        grams = tier.carbon_g_per_kwh if device.carbon_g_per_kwh is None else device.carbon_g_per_kwh
        count = _share(device, own) if device.billing == "share" else float(plan.machines[name].count)
        watts = _power(device, count, own)
        carbon = None if carbon is None or grams is None or watts is None else carbon + grams * watts / 1000
    if (carbon is None) != (said.carbon_g_per_h is None) or (carbon and not _near(carbon, said.carbon_g_per_h or 0.0)):
        yield f"the carbon is {carbon} g/h, the plan says {said.carbon_g_per_h}"


def _call(key: str, option: DeployedOption, device: Device, workload: Workload, profile: Profile) -> Iterator[str]:
    """Energy of a call: no less than in the most thrifty batch, no more than in the most wasteful one.

    Times run straight between measured batches, so time per call is least and most at measured ones, or at a batch
    of one, which takes as long as the smallest measured.
    """
    rows = _rows(option, device, option.device, profile)
    slower = device.like.slowdown if device.like else 1.0
    powers = [
        w
        for row in rows
        if row.key.batch == option.max_batch and (w := _busy_w(device, option, row.mean_power_w)) is not None
    ]
    times = [
        (row.key.batch, (planned_mean_s(row, workload) or 0.0) * slower, handoff_s(row, profile, row.key.batch))
        for row in rows
    ]
    claim = option.predicted.energy_j or 0.0
    if not powers or not times:
        yield f"option {key}: {claim:.9g} J per call, and its power is not known"
        return
    least = min(powers) * min(seconds / batch for batch, seconds, _ in times)
    most = max(powers) * max(max((seconds + handed) / batch for batch, seconds, handed in times), sum(min(times)[1:]))
    if not least * (1 - RELATIVE) <= claim <= most * (1 + RELATIVE):
        yield f"option {key}: {claim:.9g} J per call is not between {least:.9g} and {most:.9g}"


def _most_of_call(
    key: str, option: DeployedOption, device: Device, workload: Workload, profile: Profile
) -> Iterator[str]:
    """Energy of a call that may travel in any batch: that of the most wasteful one, or of replicas that are always at
    work, whichever is less."""
    rows = counted_rows(option, workload, profile)
    power = _busy_w(device, option, rows[option.max_batch].mean_power_w) if option.max_batch in rows else None
    claim, load = option.predicted.energy_j or 0.0, option.predicted.load_rps
    if power is None:
        yield f"option {key}: {claim:.9g} J per call, and its power is not known"
        return
    slower = device.like.slowdown if device.like else 1.0
    served = {batch: (planned_mean_s(row, workload) or 0.0) * slower for batch, row in rows.items()}
    alone = served[min(served)] + handoff_s(rows[min(served)], profile, 1)
    longest = max([alone, *((served[batch] + handoff_s(row, profile)) / batch for batch, row in rows.items())])
    most = power * min(longest, option.replicas / load) if load > 0 else 0.0
    if not _near(claim, most):
        yield f"option {key}: at most {most:.9g} J per call, the plan says {claim:.9g}"
