"""The checker's part on interference: it shares no code with the solver or the estimators.

From the plan's packing and shares of time at work, and the profile's rows, it computes anew how much slower every
replica is, and holds the factor that the plan states of every option (the harmonic mean over its replicas) against it.
The plan's factor was found together with those shares, in shorter simulations, so it is given a tenth of what
neighbours that are always at work would add.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator

from inferplan.spec.plan import DeployedOption, Placement, Plan
from inferplan.spec.profile import Profile
from inferplan.spec.rows import InterferenceRow
from inferplan.spec.workload import Workload

ALLOWED = 0.1
EXACT = 1e-6


def check_interference(plan: Plan, workload: Workload, profile: Profile) -> Iterator[str]:
    """What is wrong with the factors that a plan states."""
    now: dict[str, list[float]] = {}
    most: dict[str, list[float]] = {}
    for bought in plan.machines.values():
        for machine in bought.packing:
            for placement in machine:
                factor, largest = _factors(placement.option, machine, plan, workload, profile)
                now.setdefault(placement.option, []).extend([factor] * placement.replicas)
                most.setdefault(placement.option, []).extend([largest] * placement.replicas)
    for name, option in plan.options.items():
        wanted, largest = _harmonic(now.get(name, [1.0])), _harmonic(most.get(name, [1.0]))
        said = option.predicted.interference
        if abs(said - wanted) > ALLOWED * (largest - 1) + EXACT:
            yield f"option {name}: its neighbours slow it down {wanted:.6g} times, the plan says {said:.6g}"


def measured_beside(option: DeployedOption, other: DeployedOption, workload: Workload, profile: Profile) -> bool:
    """Whether an option's choice was measured beside another one's, on its device and as both are now."""
    like = workload.devices()[option.device].like
    device = like.device if like else option.device
    return any(
        _counts(row, option, device, workload) and tuple(json.loads(row.neighbours)[0][:2]) == _who(other)[:2]
        for row in profile.interference
    )


def _harmonic(factors: list[float]) -> float:
    return len(factors) / math.fsum(1 / factor for factor in factors)


def _factors(
    name: str, machine: list[Placement], plan: Plan, workload: Workload, profile: Profile
) -> tuple[float, float]:
    """How much slower a replica is on a machine: with its neighbours as busy as planned, and always busy."""
    factor = largest = 1.0
    for placement in machine:
        beside = placement.replicas - (1 if placement.option == name else 0)
        if beside:
            option, other = plan.options[name], plan.options[placement.option]
            extra = 0.0
            if not _on_other_gpu(option, other, workload):
                extra = _extra(option, other, beside, workload, profile)
            factor *= (1 + extra * min(other.predicted.utilisation, 1.0)) ** beside
            largest *= (1 + extra) ** beside
    return factor, largest


def _on_other_gpu(option: DeployedOption, other: DeployedOption, workload: Workload) -> bool:
    """Whether two replicas stand on different GPUs of a machine: where it has several, none is shared."""
    several = (workload.devices()[option.device].gpus or 1) > 1
    return several and {option.provider, other.provider} <= {"cuda", "tensorrt"}


def _extra(option: DeployedOption, other: DeployedOption, beside: int, workload: Workload, profile: Profile) -> float:
    """What one busy replica of `other`, of `beside` there are, adds to each second of `option`."""
    like = workload.devices()[option.device].like
    device = like.device if like else option.device
    rows = _newest(row for row in profile.interference if _counts(row, option, device, workload))
    for stage, choice, threads, batch in (_who(other), _who(option)):
        found = []
        for row in rows:
            first = json.loads(row.neighbours)[0]
            if (first[0], first[1]) == (stage, choice):
                copies = len(json.loads(row.neighbours))
                apart = (
                    _ratio(row.key.batch, option.max_batch)
                    + _ratio(row.key.threads, option.threads)
                    + _ratio(first[2], batch)
                    + _ratio(first[3], threads)
                    + _ratio(copies, beside)
                )
                order = (row.key.threads, row.key.batch, first[3], first[2], copies)
                found.append((apart, order, _each(row)))
        if found:
            return min(found)[2] - 1
    return max([_each(row) - 1 for row in rows] + [0.0])


def _newest(rows: Iterable[InterferenceRow]) -> list[InterferenceRow]:
    """Of what was measured twice of the same batches, threads and neighbours, the newest."""
    found: dict[tuple[int, int, str], InterferenceRow] = {}
    for row in sorted(rows, key=lambda row: (row.measured_at, row.slowdown or 0.0)):
        found[row.key.batch, row.key.threads, json.dumps(json.loads(row.neighbours))] = row
    return list(found.values())


def _who(option: DeployedOption) -> tuple[str, str, int, int]:
    subset = "+".join(sorted(option.modalities))
    choice = f"{option.variant}@{subset}" if subset else option.variant
    return option.stage, choice, option.threads, option.max_batch


def _counts(row: InterferenceRow, option: DeployedOption, device: str, workload: Workload) -> bool:
    """Whether a row is of this option's choice, as it is now, beside neighbours that are all alike."""
    stages = workload.pipeline.stages
    settings = stages[option.stage].variants[option.variant].options.changed()
    neighbours = json.loads(row.neighbours)
    return (
        row.status == "ok"
        and row.slowdown is not None
        and row.slowdown > 0
        and (row.key.stage, row.key.variant) == (option.stage, option.variant)
        and row.key.modalities == "+".join(sorted(option.modalities))
        and (row.key.device, row.key.runtime) == (device, option.runtime)
        and (row.key.model_sha256, json.loads(row.key.options or "{}")) == (option.model_sha256, settings)
        and bool(neighbours)
        and all(neighbour == neighbours[0] for neighbour in neighbours)
        and neighbours[0][0] in stages
        and neighbours[0][1].split("@")[0] in stages[neighbours[0][0]].variants
    )


def _each(row: InterferenceRow) -> float:
    """The share of a row's slow-down that one of its neighbours accounts for, without what noise explains."""
    log, squared = math.log(row.slowdown or 1.0), 0.0
    if row.slowdown_lower is not None and row.slowdown_upper is not None and row.slowdown_lower > 0:
        squared = (math.log(row.slowdown_upper / row.slowdown_lower) / 3.92) ** 2
    kept = max(0.0, 1 - squared / log**2) if log > 0 else 0.0
    return math.exp(kept * log / len(json.loads(row.neighbours)))


def _ratio(one: int, other: int) -> float:
    return abs(math.log2(max(one, 1) / max(other, 1)))
