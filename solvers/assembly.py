"""What the plan document says however its plan was found: where it comes from, what runs, what was left out."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from inferplan.estimators.bounds import without_interval
from inferplan.estimators.interference import measured_on
from inferplan.estimators.points import where
from inferplan.solvers.options import Option
from inferplan.solvers.problem import Problem
from inferplan.spec.document import LoadedWorkload
from inferplan.spec.plan import (
    DeployedOption,
    Energy,
    OptionPrediction,
    ProfileSource,
    Proof,
    TierEnergy,
    WorkloadSource,
)
from inferplan.spec.profile import Profile
from inferplan.spec.stage import Choice as StageChoice
from inferplan.spec.workload import Objective


def workload_source(loaded: LoadedWorkload, plan_dir: Path) -> WorkloadSource:
    """The workload, by its path from the folder of the plan."""
    path = os.path.relpath(loaded.path.resolve(), plan_dir.resolve())
    return WorkloadSource(path=Path(path).as_posix(), sha256=loaded.sha256, overrides=list(loaded.overrides))


def safe_name(name: str) -> str:
    """A name for a plan."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", name)


def proof(solver: str, proven: bool, objective: float, bound: float | None, sign: float = 1.0) -> Proof:
    """How sure it is that no better plan exists. Objective and bound are minimised, and `sign` times what is shown. A
    bound that is not finite is none."""
    if bound is None or not math.isfinite(bound):
        return Proof(solver=solver, status="feasible", objective=sign * objective)
    return Proof(
        solver=solver,
        status="optimal" if proven else "feasible",
        objective=sign * objective,
        bound=sign * bound,
        gap=abs(objective - bound) / abs(objective) if objective else 0.0,
    )


def left_out(problem: Problem, profile: Profile) -> list[str]:
    """What was not considered, and why."""
    points, table = problem.points, problem.table
    lines = [*points.stale, *problem.interference.stale, *points.superseded, *table.excluded, *profile.damaged]
    return [f"not considered: {line}" for line in lines]


def profile_source(
    profile: Profile, problem: Problem, deployed: Iterable[Option], alone: Sequence[str]
) -> ProfileSource:
    """The profile: the machines that the chosen options were measured on, and what is not as good as a fresh
    measurement of just this. `alone`: choices that share machines and were never measured beside others."""
    fingerprints: set[str] = set()
    stale: set[str] = set()
    found: dict[str, set[str]] = {"interpolated": set(), "imported": set()}
    devices = problem.workload.devices()
    for option in deployed:
        if option.service is None:
            continue
        place = (option.stage, option.variant, measured_on(devices, option.device), option.provider)
        stale |= {problem.points.aged[place]} if place in problem.points.aged else set()
        for point in option.service.points:
            row = point.row
            if row is not None and row.origin != "imported":
                fingerprints.add(row.key.device_fingerprint)
            if row is not None and row.origin in found and point.batch <= option.max_batch:
                source = f" from {row.source}" if row.origin == "imported" and row.source else ""
                found[row.origin].add(f"{where(row)}{source}")
    return ProfileSource(
        sha256=profile.sha256,
        fingerprints=sorted(fingerprints),
        stale=sorted(stale),
        interpolated=sorted(found["interpolated"]),
        imported=sorted(found["imported"]),
        alone=list(alone),
    )


def without_bounds(problem: Problem, deployed: Iterable[Option]) -> list[str]:
    """Points and accuracies in use that no interval is known of."""
    lines, accuracy = set(), problem.estimated
    for option in deployed:
        for batch in without_interval(option.service, option.max_batch) if option.service else ():
            lines.add(f"{option.stage}/{option.variant} on {option.device}, {option.threads} threads, batch {batch}")
        value = accuracy.values.get((option.stage, option.variant)) if accuracy is not None else None
        if value is not None and value.lower is None:
            lines.add(f"{option.stage}/{option.variant}: accuracy")
    return sorted(lines)


def prices(loaded: LoadedWorkload, devices: Iterable[str]) -> list[str]:
    """Catalogue entries that the plan's machines take their prices from."""
    catalogues = {catalogue.name: catalogue for catalogue in loaded.catalogues}
    lines = []
    for device in sorted(devices):
        spec = loaded.workload.devices()[device]
        if spec.instance is not None:
            name, _, kind = spec.instance.partition("/")
            entry, date = catalogues[name].instances[kind], catalogues[name].dated(kind)
            lines.append(f"{device}: {spec.instance}, {spec.purchase}, {entry.region}, {date}, {entry.source}")
    return lines


def energy_of(problem: Problem, powers: Mapping[str, float | None]) -> Energy | None:
    """Energy of a plan whose machines of every device type draw `powers` watts; None where some is not known."""
    tiers: dict[str, float] = {}
    grams: dict[str, float | None] = {}
    for name, power in powers.items():
        if power is None:
            return None
        tier, emitted = name.split("/", 1)[0], problem.devices[name].tariff.carbon_g_per_kwh
        tiers[tier] = tiers.get(tier, 0.0) + power
        known = grams.get(tier, 0.0)
        grams[tier] = None if emitted is None or known is None else known + emitted * power / 1000
    if not tiers:
        return None
    total, carbon = math.fsum(tiers.values()), [amount for amount in grams.values() if amount is not None]
    return Energy(
        power_w=total,
        energy_kwh_per_h=total / 1000,
        energy_j_per_request=total / math.fsum(need.rate_rps for need in problem.classes),
        carbon_g_per_h=math.fsum(carbon) if len(carbon) == len(grams) else None,
        tiers={tier: TierEnergy(power_w=power, carbon_g_per_h=grams[tier]) for tier, power in sorted(tiers.items())},
    )


def objective_text(objective: Objective) -> str:
    """The objective in words."""
    budget = "" if objective.budget_usd_per_h is None else f", budget {objective.budget_usd_per_h:g} USD/h"
    if objective.maximize is not None:
        return f"maximize {objective.maximize}{budget}"
    if objective.weights:
        weighed = [f"{weight:g} {name}" for name, weight in sorted(objective.weights.items()) if weight > 0]
        return f"weigh {', '.join(weighed)}{budget}"
    if objective.lexicographic:
        tolerance = f", each within {objective.tolerance:g}" if objective.tolerance else ""
        return f"{', then '.join(objective.lexicographic)}{tolerance}{budget}"
    return f"minimize {objective.minimize}{budget}"


def deployed_option(option: Option, replicas: int, predicted: OptionPrediction) -> DeployedOption:
    """An option as the plan states it."""
    chosen = StageChoice.parse(option.variant)
    return DeployedOption(
        stage=option.stage,
        variant=chosen.variant,
        modalities=list(chosen.modalities),
        runtime=option.runtime,
        provider=option.provider,
        device=option.device,
        model_sha256=option.model_sha256,
        threads=option.threads,
        max_batch=option.max_batch,
        max_queue_delay_s=option.max_queue_delay_s,
        order="edf" if option.order == "edf" else None,
        replicas=replicas,
        memory_bytes=option.memory_bytes,
        gpu_memory_bytes=option.gpu_memory_bytes,
        shares_gpu=bool(option.company),
        load_s=option.load_s,
        predicted=predicted,
    )
