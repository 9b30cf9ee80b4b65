"""The option table: everything the solver may choose for a stage, with what it needs and why the rest is out.

An option is (choice, device, provider, threads, max batch, max queue delay) with service times for every batch up to
its max batch; a choice is a variant, with one of its modality subsets where it has several. A queue delay can only
matter where a batch holds more than one call, so options of batch 1 have none. Names are safe identifiers, unique in
the table and the same whatever the order of input.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast

from inferplan.estimators.accuracy import AccuracyModel
from inferplan.estimators.cost import (
    Capacity,
    busy_w,
    fitting,
    machine_capacity,
    replica_need,
    shares,
)
from inferplan.estimators.fanout import FanOuts
from inferplan.estimators.points import ModelKey, Points
from inferplan.estimators.service import ServiceModel
from inferplan.spec.errors import InfeasibleError, InputError
from inferplan.spec.gpus import ON_GPU
from inferplan.spec.plan import Provider
from inferplan.spec.stage import Choice as StageChoice
from inferplan.spec.workload import Workload

MAX_NAME = 60
NO_DEVICE = "none"


@dataclass(frozen=True)
class Option:
    """One way to run a stage; `variant` names the choice. Skip variants run nothing: no service, no device, no need."""

    name: str
    stage: str
    variant: str
    runtime: Literal["onnxruntime", "torch", "skip", "external"]
    provider: Provider
    device: str
    threads: int
    max_batch: int
    max_queue_delay_s: float
    service: ServiceModel | None
    need: Capacity | None
    """What one replica takes of a machine."""
    memory_bytes: int | None
    model_sha256: str
    gpu_memory_bytes: int | None = None
    share: float = 0.0
    """Of a machine, in the resource that one replica takes most of."""
    load_s: float | None = None
    """Time to load its model; None where it was not measured."""
    busy_w: float | None = None
    """What a replica at work adds to its machine's idle power; None where it is not known."""
    company: frozenset[str] = frozenset()
    """On a GPU: the choices (stage/choice) it may share it with; empty: it has the GPU to itself."""
    order: Literal["fifo", "edf"] = "fifo"
    """Whose turn it is in its queue. The table has first come, first served alone; a strategy may decide otherwise."""

    @property
    def choice(self) -> str:
        """What was chosen, as plans name it."""
        return self.variant

    @property
    def on_gpu(self) -> bool:
        """Whether its replicas run on a GPU."""
        return self.provider in ON_GPU


@dataclass(frozen=True)
class OptionTable:
    """Options per stage, sorted by name, and what was left out, one reason a line."""

    stages: Mapping[str, tuple[Option, ...]]
    excluded: tuple[str, ...]


Company = Mapping[tuple[str, str], frozenset[str]]
"""By (device, stage/choice): the choices that were measured beside it, and it beside them."""

Measured = Mapping[tuple[str, str], Sequence[ModelKey]]
"""By (stage, choice): what service models are of, sorted."""


def option_table(
    workload: Workload,
    points: Points,
    laws: FanOuts,
    accuracy: AccuracyModel | None,
    needs_accuracy: bool,
    company: Company | None = None,
) -> OptionTable:
    """Build the table.

    `needs_accuracy`: some promise or the objective rests on accuracy, so variants without any are left out; likewise
    options whose power is not known where the objective or the cost rests on energy. `company`: what may share a GPU.
    Raises InputError where a stage has no usable measurement, InfeasibleError where none fits a machine.
    """
    excluded: list[str] = list(points.failed)
    measured: dict[tuple[str, str], list[ModelKey]] = {}
    for key in sorted(points.models):
        measured.setdefault((key.stage, key.variant), []).append(key)
    stages: dict[str, tuple[Option, ...]] = {}
    for name in sorted(workload.pipeline.stages):
        usable = _usable_variants(workload, name, measured, laws, accuracy if needs_accuracy else None, excluded)
        found = [
            option
            for variant in usable
            for option in _options(workload, name, variant, points, measured, company or {}, excluded)
        ]
        _require(workload, name, usable, found, points, excluded)
        stages[name] = tuple(found)
    return OptionTable(_named(workload, stages), tuple(excluded))


def _usable_variants(
    workload: Workload, stage: str, measured: Measured, laws: FanOuts, accuracy: AccuracyModel | None,
    excluded: list[str],
) -> list[str]:  # fmt: skip
    usable = []
    known = workload.pipeline.stages[stage]
    for variant, chosen in sorted(known.choices().items()):
        if known.variants[chosen.variant].runtime != "skip" and (stage, variant) not in measured:
            excluded.append(f"{stage}/{variant}: no measurement of its service time")
        elif not laws.knows(stage, variant):
            excluded.append(f"{stage}/{variant}: its fan-out was not measured")
        elif accuracy is not None and not accuracy.knows(stage, variant):
            excluded.append(f"{stage}/{variant}: its accuracy was neither measured nor declared")
        else:
            usable.append(variant)
    return usable


def _require(
    workload: Workload, stage: str, usable: list[str], found: list[Option], points: Points, excluded: list[str]
) -> None:
    if found:
        return
    details = [*excluded, *points.stale]
    if usable:
        raise InfeasibleError(f"no variant of stage {stage} fits on any machine of the workload", details)
    stale = any(line.startswith(f"{stage}/") for line in points.stale)
    why = (
        "was measured on other models or settings than the workload's"
        if stale
        else "has no variant that was fully measured"
    )
    raise InputError(f"stage {stage} {why}: run `inferplan profile` on workload {workload.name}", details)


def _options(
    workload: Workload, stage: str, variant: str, points: Points, measured: Measured, company: Company,
    excluded: list[str],
) -> list[Option]:  # fmt: skip
    spec = workload.pipeline.stages[stage].variants[StageChoice.parse(variant).variant]
    if spec.runtime == "skip":
        return [Option("", stage, variant, "skip", "none", NO_DEVICE, 0, 1, 0.0, None, None, None, "")]
    delays = sorted(set(workload.pipeline.stages[stage].max_queue_delays_s))
    devices = workload.devices()
    found: list[Option] = []
    for key in measured[stage, variant]:
        service = points.models[key]
        device, tier = devices[key.device], workload.tiers[key.device.split("/", 1)[0]]
        needs_power = "energy" in workload.objective.terms or tier.energy_price_usd_per_kwh > 0
        friends = (
            company.get((key.device, f"{stage}/{variant}"), frozenset()) if key.provider in ON_GPU else frozenset()
        )
        without: dict[str, list[int]] = {}
        for batch in service.batches:
            memory, gpu_memory = service.memory_bytes(batch), service.gpu_memory_bytes(batch)
            known = gpu_memory is not None and device.gpu_memory_bytes is not None
            shares_gpu = bool(friends) and known and device.gpu_count == 1
            need = replica_need(device, key.provider, key.threads, memory, gpu_memory, shares_gpu)
            if need is None:
                without.setdefault("the device limits memory, and memory was not measured", []).append(batch)
                continue
            if fitting(machine_capacity(device), need) < 1:
                without.setdefault("one replica does not fit on a machine", []).append(batch)
                continue
            # A counter says what the measured machine drew, not one that is only like it.
            counter = service.power_w(batch) if device.like is None else None
            power = busy_w(device, key.provider, key.threads, counter)
            if needs_power and power is None:
                without.setdefault("nothing is known of its power; give power_w of the device", []).append(batch)
                continue
            found += [
                Option(
                    "", stage, variant, spec.runtime, cast(Provider, key.provider), key.device, key.threads, batch,
                    delay, service, need, memory, points.model_sha256[stage, variant], gpu_memory,
                    max(shares(machine_capacity(device), need)), service.load_s(batch), power,
                    friends if shares_gpu else frozenset(),
                )
                for delay in (delays if batch > 1 else [0.0])
            ]  # fmt: skip
        where = f"{stage}/{variant} on {key.device}, {key.threads} thread{'s' if key.threads > 1 else ''}"
        for why, batches in without.items():
            sizes = f"batch{'es' if len(batches) > 1 else ''} {', '.join(map(str, batches))}"
            excluded.append(f"{where}, {sizes}: {why}")
    return found


def _named(workload: Workload, stages: Mapping[str, tuple[Option, ...]]) -> dict[str, tuple[Option, ...]]:
    """Give every option its name; those whose plain names collide carry a hash of what they are."""
    short = Counter(device.split("/", 1)[1] for device in workload.devices())
    every = [option for options in stages.values() for option in options]
    plain = Counter(_plain_name(option, short) for option in every)
    named: dict[str, tuple[Option, ...]] = {}
    for stage, options in stages.items():
        renamed = []
        for option in options:
            name = _plain_name(option, short)
            if plain[name] > 1 or len(name) > MAX_NAME:
                what = [option.stage, option.variant, option.device, option.provider, option.threads, option.max_batch]
                digest = hashlib.sha256(repr([*what, option.max_queue_delay_s]).encode()).hexdigest()[:8]
                name = f"{name[: MAX_NAME - 9]}-{digest}"
            renamed.append(replace(option, name=name))
        named[stage] = tuple(sorted(renamed, key=lambda option: option.name))
    return named


def _plain_name(option: Option, short: Mapping[str, int]) -> str:
    # `variant@acc+gyro` is no name: what is unclear without its signs is told apart by `_named`.
    parts = [option.stage, re.sub(r"[@+]", "-", option.variant)]
    if option.runtime != "skip":
        device = option.device.split("/", 1)[1]
        parts.append(device if short[device] == 1 else option.device.replace("/", "-"))
        if option.provider != "cpu":
            parts.append(option.provider)
        parts += [f"{option.threads}t", f"b{option.max_batch}"]
        if option.max_queue_delay_s > 0:
            parts.append(f"d{round(option.max_queue_delay_s * 1e6)}us")
    return "-".join(parts)
