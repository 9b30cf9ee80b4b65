"""An instance in which classes spread over devices and tiers: its options, loads, legs and sizes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from inferplan.estimators.cost import fitting
from inferplan.estimators.transport import Leg, Payloads, Ways, legs_of, tier_of
from inferplan.solvers.goals import Goal
from inferplan.solvers.options import Option
from inferplan.solvers.problem import Problem
from inferplan.spec.errors import InputError

Forbidden = frozenset[tuple[int, str, str]]


@dataclass(frozen=True)
class Question:
    """What is asked: an objective, and the promises and limits that hold. Absent limits are None."""

    floors: Mapping[str, float | None]
    counts: Mapping[str, int | None]
    budget_usd_per_h: float | None = None
    forbidden: tuple[Forbidden, ...] = ()
    """Sets of (class, stage, choice) of which not all may be chosen together."""
    chosen: Mapping[tuple[int, str], str] | None = None
    """Choices by (class, stage), where they are settled."""
    limits: tuple[tuple[Goal, float], ...] = ()
    """Goals that must stay at or below a value: USD/h, watts, the weighted sum, or minus the accuracy as the program
    encodes it."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Of the weighted goal: per USD/h of cost, per watt of energy, per unit of accuracy (which counts against it)."""
    most: Mapping[str, int] = field(default_factory=dict)
    """Replicas of some options, by name, at most."""


def promised(problem: Problem) -> Question:
    """The question of the workload's promises and limits."""
    return Question(
        {need.name: need.floor for need in problem.classes},
        {name: device.count for name, device in problem.devices.items()},
        problem.budget_usd_per_h,
    )


@dataclass(frozen=True)
class SplitInstance:
    """What the program is built from. Classes are indices into `problem.classes`; everything is sorted by name."""

    problem: Problem
    ways: Ways
    payloads: Payloads
    options: tuple[Option, ...]
    """Those that run something and are not beaten by another one of the same choice on the same device."""
    most: Mapping[str, int]
    """Replicas of an option that can be of use, by name, whatever the number of machines."""
    homes: tuple[str, ...]
    """Tier that each class's requests come from."""
    calls_rps: Mapping[tuple[int, str], float]
    """Calls per second of a class at a stage."""
    legs: tuple[Leg, ...]
    exclusive: frozenset[str]
    """Devices whose machines serve one stage each."""
    proportional: bool
    max_utilisation: float
    """At the highest load level."""
    level: float = 1.0
    """The highest load level, in times the expected load."""
    slower: Mapping[str, float] = field(default_factory=dict)
    """Options that count as slower than they were measured, for what runs beside them."""

    @cached_property
    def entries(self) -> frozenset[str]:
        """Stages that requests enter at."""
        return frozenset(self.problem.workload.pipeline.entry_stages())

    @property
    def counts_power(self) -> bool:
        """Whether it matters what replicas at work draw."""
        return counts_power(self.problem)

    @property
    def tiers(self) -> tuple[str, ...]:
        """Names of the tiers."""
        return self.ways.tiers

    def choices(self, stage: str) -> list[str]:
        """Choices of a stage that some option runs."""
        return self.problem.variants(stage)

    def skips(self, stage: str, choice: str) -> bool:
        """Whether a choice runs nothing."""
        return all(o.service is None for o in self.problem.options(stage) if o.variant == choice)

    def passed(self, stage: str) -> bool:
        """Whether a stage runs nothing whatever is chosen: calls pass it where they are."""
        return all(self.skips(stage, choice) for choice in self.choices(stage))

    def places(self, k: int, stage: str, choice: str) -> tuple[str, ...]:
        """Tiers in which a choice can answer a class's calls; one that runs nothing does where its input is."""
        if not self.skips(stage, choice):
            return tuple(sorted({tier_of(o.device) for o in self.options if (o.stage, o.variant) == (stage, choice)}))
        return (self.homes[k],) if stage in self.entries else self.tiers

    def leg_rps(self, k: int, leg: Leg) -> float:
        """Calls per second of a class on a leg."""
        return self.calls_rps[k, leg.target or leg.source]

    def useful_rps(self, option: Option) -> float:
        """Calls per second that a replica may be given, as expected: at the highest level it gets more."""
        assert option.service is not None
        slower = self.slower.get(option.name, 1.0)
        return self.max_utilisation * option.service.capacity_per_s(option.max_batch) / (slower * self.level)

    def derated(self, slower: Mapping[str, float]) -> SplitInstance:
        """The same with options slower by these factors than they were measured, at least."""
        worse = {**self.slower, **{name: max(f, self.slower.get(name, 1.0) * 1.02) for name, f in slower.items()}}
        fresh = replace(self, slower=worse)
        return replace(fresh, most=_most(fresh.options, fresh))

    def pool(self, stage: str, choice: str, tier: str) -> list[Option]:
        """Options of a choice in a tier."""
        return [o for o in self.options if (o.stage, o.variant, tier_of(o.device)) == (stage, choice, tier)]


def split_instance(problem: Problem) -> SplitInstance:
    """Gather it. Raises InputError where the workload asks for what is not honoured with splitting."""
    workload = problem.workload
    _refuse(problem)
    calls = {
        (k, stage): need.rate_rps * problem.laws.calls(stage, {s: problem.variants(s)[0] for s in problem.stages}).mean
        for k, need in enumerate(problem.classes)
        for stage in problem.stages
    }
    options = tuple(o for stage in problem.stages for o in _worth_having(problem, problem.options(stage)))
    first = next(iter(workload.tiers))
    instance = SplitInstance(
        problem,
        problem.ways,
        problem.payloads,
        options,
        {},
        tuple(workload.classes[need.name].enters_at or first for need in problem.classes),
        calls,
        legs_of(workload) if len(workload.tiers) > 1 else (),
        problem.exclusive,
        workload.routing == "proportional",
        min(workload.max_utilisation, 1 - problem.assurance.headroom),
        max(problem.assurance.levels),
    )
    return replace(instance, most=_most(options, instance))


def _most(options: Sequence[Option], instance: SplitInstance) -> dict[str, int]:
    """Replicas that could carry all of a stage's calls by themselves, whatever machines are lost."""
    classes = range(len(instance.problem.classes))
    loads = {o.stage: sum(instance.calls_rps[k, o.stage] for k in classes) for o in options}
    spares = instance.problem.assurance.spares
    lost = {o.name: spares.get(o.device, 0) * _fitting(instance, o) for o in options}
    return {o.name: max(1, math.ceil(loads[o.stage] / instance.useful_rps(o) - 1e-9)) + lost[o.name] for o in options}


def _fitting(instance: SplitInstance, option: Option) -> int:
    assert option.need is not None
    return fitting(instance.problem.devices[option.device].capacity, option.need)


def _refuse(problem: Problem) -> None:
    """What is not honoured together with splitting, by name."""
    workload = problem.workload
    promised = [need.name for need in problem.classes if need.limit_s is not None]
    if promised:
        raise InputError(
            f"splitting: devices is honoured for classes without an slo only: {', '.join(promised)} has one;"
            " set splitting: false, or leave out the slo"
        )
    differ = sorted({source for stage in problem.stages for source in problem.laws.deciding(stage)})
    if differ:
        raise InputError(
            f"splitting: devices with fan-outs that were measured to differ between variants ({', '.join(differ)}) is"
            " not honoured; declare fan_out"
        )
    if len(workload.tiers) == 1:
        return
    incoming = {stage: [e for e in workload.pipeline.edges if e.target == stage] for stage in problem.stages}
    for stage in problem.stages:
        skips = [o for o in problem.options(stage) if o.service is None]
        if not skips:
            continue
        if len(incoming[stage]) > 1:
            raise InputError(f"stage {stage} joins edges and may be skipped: not honoured with several tiers")
        if len(skips) < len(problem.options(stage)):
            raise InputError(
                f"stage {stage} may be skipped or run: with splitting over several tiers that is not honoured"
            )


def _worth_having(problem: Problem, options: Sequence[Option]) -> list[Option]:
    """Options without those that another of the same choice on the same device serves as much as, in as little room,
    as cheaply after interruptions, and with as little power where that counts."""
    kept: list[Option] = []
    drawn = counts_power(problem)
    for option in sorted(options, key=lambda o: (-_capacity(o), _size(o), o.max_queue_delay_s, o.name)):
        if option.service is None or option.need is None:
            continue
        beaten = any(
            (other.variant, other.device) == (option.variant, option.device)
            and all(a <= b for a, b in zip(_size(other), _size(option), strict=True))
            and reload_usd_per_h(problem, other) <= reload_usd_per_h(problem, option)
            and (not drawn or all(a <= b for a, b in zip(_draws(other), _draws(option), strict=True)))
            for other in kept
        )
        if not beaten:
            kept.append(option)
    return sorted(kept, key=lambda o: o.name)


def _capacity(option: Option) -> float:
    return option.service.capacity_per_s(option.max_batch) if option.service else 0.0


def _size(option: Option) -> tuple[int, ...]:
    need = option.need
    return (need.cores, need.memory_bytes or 0, need.gpus, need.gpu_memory_bytes or 0) if need else ()


def _draws(option: Option) -> tuple[float, float]:
    return call_j(option) or 0.0, option.busy_w or 0.0


def counts_power(problem: Problem) -> bool:
    """Whether the objective or the cost rests on what replicas at work draw."""
    priced = any(device.tariff.energy_price_usd_per_kwh > 0 for device in problem.devices.values())
    return priced or "energy" in problem.workload.objective.terms


def call_j(option: Option) -> float | None:
    """The most that a call draws over idle, whatever batch of up to the largest it is served in; None where the power
    is not known. Times run straight between measured batches: time per call is most at one of them, or at one call."""
    if option.service is None:
        return 0.0
    if option.busy_w is None:
        return None
    batches = [1, *(batch for batch in option.service.batches if batch <= option.max_batch)]
    return option.busy_w * max(option.service.mean_s(batch) / batch for batch in batches)


def work_w(option: Option, replicas: int, load_rps: float) -> float | None:
    """The most that replicas at work add to their machines' idle power, whatever batches form: every call in the most
    wasteful one, no replica at work more than all the time."""
    joules = call_j(option)
    if joules is None or option.busy_w is None:
        return joules
    return min(load_rps * joules, replicas * option.busy_w)


def reload_usd_per_h(problem: Problem, option: Option) -> float:
    """Money lost while a replica loads its model after interruptions."""
    return problem.devices[option.device].tariff.reloads_usd_per_h(option.share, option.load_s)


def replicas_that_fit(instance: SplitInstance, option: Option, count: int | None) -> int:
    """Most replicas of an option that are of use and fit on so many machines of its device."""
    most = instance.most[option.name]
    return most if count is None else min(most, count * _fitting(instance, option))
