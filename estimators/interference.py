"""Interference: how much slower a replica is for what else is at work on its machine.

A replica's times are multiplied by the product, over its neighbours on the machine, of

    1 + (s - 1) u

where u is the share of time that the neighbour is at work and s the measured slow-down beside one that always is.
Of several measured rows the one nearest in batches, threads and number of neighbours counts; what k equal
neighbours do together is shared out evenly (s = S^(1/k)), so that k busy ones do again what was measured. Where a
pair was not measured, the choice's slow-down beside copies of itself stands in, else the largest one that was
measured of it, else none. A slow-down below 1 is noise and counts as none. Nothing is known of replicas on different
GPUs of one machine, as what was measured on one GPU is no measure of them: they count as not slowing one another down.

Above 1 much of it may be noise, too: with x the logarithm of what was measured and e its standard error (from its 95 %
interval), what counts is x max(0, 1 - (e / x)^2), the positive-part James-Stein estimate (Efron and Morris 1973): none
where it is no more than its error, nearly all where it is many times that. Rows without an interval count whole.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from inferplan.estimators.cost import has_own_gpu
from inferplan.estimators.points import changed_since
from inferplan.spec.profile import Profile
from inferplan.spec.rows import InterferenceRow
from inferplan.spec.workload import Device, Workload

_NORMAL_95 = 1.96
"""Standard errors from the middle of a 95 % interval to its end."""

Machine = Mapping[str, int]
"""Replicas on one machine, by name of the option."""


@dataclass(frozen=True, slots=True, order=True)
class Tenant:
    """An option as a neighbour sees it. `device` is the measured one, which the option's device may be `like`."""

    stage: str
    choice: str
    device: str
    threads: int
    batch: int
    own_gpu: bool = False
    """Whether it has a GPU of its own on a machine with several."""

    def same_choice(self, other: Tenant) -> bool:
        """Whether both run the same choice of the same stage."""
        return (self.stage, self.choice) == (other.stage, other.choice)

    def far_from(self, other: Tenant) -> float:
        """Distance in batch and threads, in factors of two."""
        return abs(math.log2(self.batch / other.batch)) + abs(math.log2(max(self.threads, 1) / max(other.threads, 1)))


class Deployable(Protocol):
    """An option of the solver's or a plan's, as far as its neighbours are concerned."""

    @property
    def stage(self) -> str: ...
    @property
    def choice(self) -> str: ...
    @property
    def device(self) -> str: ...
    @property
    def provider(self) -> str: ...
    @property
    def threads(self) -> int: ...
    @property
    def max_batch(self) -> int: ...


def tenant_of(devices: Mapping[str, Device], option: Deployable) -> Tenant:
    """An option as its neighbours see it, on one of a workload's devices."""
    return Tenant(
        option.stage,
        option.choice,
        measured_on(devices, option.device),
        option.threads,
        option.max_batch,
        has_own_gpu(devices[option.device], option.provider),
    )


@dataclass(frozen=True, slots=True)
class Disturbance:
    """One measurement: the slow-down of a tenant beside some number of equal, busy neighbours."""

    subject: Tenant
    neighbour: Tenant
    copies: int
    slowdown: float
    error: float = 0.0
    """Standard error of its logarithm."""

    @property
    def each(self) -> float:
        """The slow-down that one of the neighbours accounts for, as far as it is more than noise; at least 1."""
        log = math.log(self.slowdown)
        return math.exp((log - self.error**2 / log) / self.copies) if log > self.error else 1.0


@dataclass(frozen=True)
class Interference:
    """What is known of interference. `measured` is sorted; `stale` names rows that were left out."""

    measured: tuple[Disturbance, ...] = ()
    stale: tuple[str, ...] = ()
    _found: dict[tuple[Tenant, Tenant, int], float] = field(default_factory=dict, compare=False, repr=False)
    """Slow-downs that were asked for before: packings ask for the same ones over and over."""

    @property
    def matters(self) -> bool:
        """Whether anything was measured to slow anything down."""
        return any(row.each > 1.0 for row in self.measured)

    def known(self, subject: Tenant) -> bool:
        """Whether this choice was measured beside anything on this device."""
        return any(row.subject.same_choice(subject) and row.subject.device == subject.device for row in self.measured)

    def company(self, device: str) -> dict[str, frozenset[str]]:
        """By choice (stage/choice): the choices beside which it was measured on a device, as they were beside it."""
        pairs = {
            (f"{row.subject.stage}/{row.subject.choice}", f"{row.neighbour.stage}/{row.neighbour.choice}")
            for row in self.measured
            if row.subject.device == device
        }
        found: dict[str, set[str]] = {}
        for one, other in pairs:
            if (other, one) in pairs:
                found.setdefault(one, set()).add(other)
        return {choice: frozenset(others) for choice, others in found.items()}

    def slowdown(self, subject: Tenant, neighbour: Tenant, copies: int = 1) -> float:
        """Slow-down of `subject` by one busy replica of `neighbour`, of which `copies` are there; at least 1."""
        if subject.own_gpu and neighbour.own_gpu:
            return 1.0
        asked = (subject, neighbour, copies)
        if asked not in self._found:
            self._found[asked] = self._slowdown(*asked)
        return self._found[asked]

    def _slowdown(self, subject: Tenant, neighbour: Tenant, copies: int) -> float:
        mine = [
            row for row in self.measured if row.subject.same_choice(subject) and row.subject.device == subject.device
        ]
        for wanted in (neighbour, subject):
            found = [row for row in mine if row.neighbour.same_choice(wanted)]
            if found:
                return min(found, key=lambda row: _distance(row, subject, wanted, copies)).each
        return max([1.0, *(row.each for row in mine)])

    def on_machine(
        self, machine: Machine, tenants: Mapping[str, Tenant], busy: Mapping[str, float]
    ) -> dict[str, float]:
        """Factor of the times of a replica of each option on a machine."""
        return {name: self._factor(name, machine, tenants, busy) for name in sorted(machine)}

    def _factor(self, name: str, machine: Machine, tenants: Mapping[str, Tenant], busy: Mapping[str, float]) -> float:
        factor = 1.0
        for other in sorted(machine):
            copies = machine[other] - (other == name)
            if copies > 0:
                extra = self.slowdown(tenants[name], tenants[other], copies) - 1
                factor *= (1 + extra * min(busy[other], 1.0)) ** copies
        return factor

    def slowdowns(
        self, tenants: Mapping[str, Tenant], machines: Sequence[Machine], busy: Mapping[str, float]
    ) -> dict[str, tuple[float, ...]]:
        """Factor of every replica, by option; options that nothing slows down are left out."""
        if not self.matters:
            return {}
        factors: dict[str, list[float]] = {}
        for machine in machines:
            for name, factor in self.on_machine(machine, tenants, busy).items():
                factors.setdefault(name, []).extend([factor] * machine[name])
        return {name: tuple(sorted(found)) for name, found in sorted(factors.items()) if max(found) > 1.0}

    def unmeasured(self, tenants: Mapping[str, Tenant], machines: Sequence[Machine]) -> list[str]:
        """Choices that share a machine with others and were never measured beside any."""
        found = {
            f"{tenants[name].stage}/{tenants[name].choice} on {tenants[name].device}"
            for machine in machines
            if sum(machine.values()) > 1
            for name in machine
            if not self.known(tenants[name])
        }
        return sorted(found)


def _distance(row: Disturbance, subject: Tenant, neighbour: Tenant, copies: int) -> tuple[float, Tenant, Tenant, int]:
    apart = row.subject.far_from(subject) + row.neighbour.far_from(neighbour) + abs(math.log2(row.copies / copies))
    return apart, row.subject, row.neighbour, row.copies


def measured_on(devices: Mapping[str, Device], device: str) -> str:
    """The device that was measured for a device."""
    like = devices[device].like
    return like.device if like else device


def read_interference(workload: Workload, profile: Profile, hashes: Mapping[tuple[str, str], str]) -> Interference:
    """What the profile says of interference between choices that the workload still has as they were measured.

    `hashes`: hash of every (stage, choice)'s model. Rows with neighbours of several choices say nothing of any one
    of them and are not used.
    """
    found: dict[tuple[Tenant, Tenant, int], tuple[str, float, float]] = {}
    stale: Counter[str] = Counter()
    for row in profile.interference:
        key = row.key
        if row.status != "ok" or row.slowdown is None or (key.stage, row.choice) not in hashes:
            continue
        variant = workload.pipeline.stages[key.stage].variants[key.variant]
        changed = changed_since(key, variant, hashes[key.stage, row.choice])
        if changed is not None:
            stale[f"{key.stage}/{row.choice}: {{}} rows of interference of another {changed}"] += 1
            continue
        neighbours = _neighbours(row, hashes)
        if neighbours is None:
            continue
        subject = Tenant(key.stage, row.choice, key.device, key.threads, key.batch)
        identity = (subject, neighbours[0], len(neighbours))
        found[identity] = max(found.get(identity, ("", 0.0, 0.0)), (row.measured_at, row.slowdown, _error(row)))
    rows = [Disturbance(*identity, slow, error) for identity, (_, slow, error) in sorted(found.items()) if slow > 0]
    return Interference(tuple(rows), tuple(text.format(count) for text, count in sorted(stale.items())))


def _error(row: InterferenceRow) -> float:
    """Standard error of a slow-down's logarithm, from its 95 % interval; 0 where it has none."""
    lower, upper = row.slowdown_lower, row.slowdown_upper
    if lower is None or upper is None or not 0 < lower <= upper:
        return 0.0
    return math.log(upper / lower) / (2 * _NORMAL_95)


def _neighbours(row: InterferenceRow, hashes: Mapping[tuple[str, str], str]) -> list[Tenant] | None:
    """The neighbours of a row; None where they are not all alike, or one the workload no longer has."""
    listed = [
        Tenant(stage, choice, row.key.device, threads, batch)
        for stage, choice, batch, threads in json.loads(row.neighbours)
    ]
    alike = len(set(listed)) == 1 and (listed[0].stage, listed[0].choice) in hashes
    return listed if alike else None
