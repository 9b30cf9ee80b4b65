"""The cheapest certified plan of every load level, and how much each of these plans carries.

*Cost rises with load:* a plan that keeps its promises at a load keeps them at less, unless batches that wait to fill
make it slower. So where two levels cost the same, the plan of the higher one serves all levels between them at the
least cost, and only the levels where the cost changes need be solved: by bisection. That a plan carries a level is
not taken for granted: it is simulated at every level below its own. Where one misses, the level is solved by itself.

*How much more* a plan carries than the level it was made for is found by bisection with the simulator, up to the level
above, whose plan is another one because this one was not enough. Not so where robustness is asked: what the plan
withstands is certified at its own level.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from inferplan.estimators.network import network_of_plan
from inferplan.solvers.judge import certified
from inferplan.spec.document import LoadedWorkload, load_workload
from inferplan.spec.errors import InfeasibleError, InputError, UndecidedError
from inferplan.spec.levels import written_as
from inferplan.spec.plan import Plan
from inferplan.spec.profile import Profile
from inferplan.spec.workload import Workload

SAME = 1e-5
"""Costs that differ by less than this share are the same, as for the planner."""
MOST_LEVELS = 1000
HALVINGS = 5
"""Of the way from a plan's level to the next one: the load it carries is found to a 32nd of that."""
DIGITS = 6


@dataclass(frozen=True)
class Moving:
    """A workload whose load moves: the rates of `classes` together, in the proportions of the workload. A load is the
    sum of their rates; other classes stay as they are."""

    loaded: LoadedWorkload
    classes: tuple[str, ...]

    @classmethod
    def of(cls, loaded: LoadedWorkload, only: str | None) -> Moving:
        """One class's load, or that of all. Raises InputError where a plan book is not for such a workload."""
        workload = loaded.workload
        written = {name: written_as(workload, name) for name in sorted(workload.classes)}
        if only is not None and only not in written.values():
            raise InputError(
                f"--class {only}: there is no such class; there are: {', '.join(sorted(set(written.values())))}"
            )
        names = tuple(name for name, owner in written.items() if only in (None, owner))
        if workload.splitting == "devices":
            raise InputError("plan books do not honour classes that spread over devices: splitting: false, or true")
        if workload.objective.minimize != "cost":
            raise InputError("a plan book makes cost least: objective: {minimize: cost}")
        for name in names:
            traffic = workload.classes[name]
            if traffic.trace is not None:
                raise InputError(
                    f"class {name} has a trace, a plan book levels: give it a rate_rps, and the trace to --history"
                )
            if traffic.arrivals.process == "diurnal":
                raise InputError(
                    f"class {name} has days, which a plan book is to follow: --set"
                    f" 'classes.{name}.arrivals={{process: poisson}}', and the day to --arrivals"
                )
        if all(traffic.slo is None and traffic.job is None for traffic in workload.classes.values()):
            raise InputError("no class has an slo, or jobs: there is no latency promise that load could break")
        return cls(loaded, names)

    @property
    def workload(self) -> Workload:
        """As it was written."""
        return self.loaded.workload

    def shares(self) -> dict[str, float]:
        """Part of the load that is of each class."""
        rates = {name: self.workload.classes[name].rate_rps or 0.0 for name in self.classes}
        return {name: rate / math.fsum(rates.values()) for name, rate in rates.items()}

    def at(self, load_rps: float) -> LoadedWorkload:
        """The workload at a load: with overrides, so that plans remember them."""
        shares: dict[str, float] = {}
        for name, share in self.shares().items():
            owner = written_as(self.workload, name)
            shares[owner] = shares.get(owner, 0.0) + share
        rates = [f"classes.{name}.rate_rps={rounded(load_rps * share)!r}" for name, share in shares.items()]
        return load_workload(self.loaded.path, [*self.loaded.overrides, *rates])


@dataclass(frozen=True)
class LevelPlan:
    """A plan and the loads it carries: it was solved for `load_rps`, and is certified from the level `least_rps` to
    `carries_rps`."""

    plan: Plan
    loaded: LoadedWorkload
    load_rps: float
    least_rps: float
    carries_rps: float

    @property
    def cost_usd_per_h(self) -> float:
        """Of its machines and traffic at its level."""
        return self.plan.cost_usd_per_h


@dataclass(frozen=True)
class Levels:
    """Plans of load levels, rising in what they carry; `least_usd_per_h` by level."""

    loads_rps: tuple[float, ...]
    least_usd_per_h: tuple[float, ...]
    plans: tuple[LevelPlan, ...]
    solved: int
    proven: bool


Solve = Callable[[LoadedWorkload], Plan]


def plan_levels(moving: Moving, profile: Profile, loads_rps: Sequence[float], solve: Solve, *, seed: int = 0) -> Levels:
    """Plan the levels (rising). `solve` decides one.

    Raises InfeasibleError where no plan carries the highest level, and says which level is the highest possible;
    UndecidedError where a plan was not certified.
    """
    work = _Levelling(moving, profile, tuple(loads_rps), solve, seed)
    work.within_reach()
    work.between(0, len(loads_rps) - 1)
    return work.levels()


class _Levelling:
    """The work: what was solved and simulated so far."""

    def __init__(self, moving: Moving, profile: Profile, loads: tuple[float, ...], solve: Solve, seed: int) -> None:
        self.moving, self.profile, self.loads, self.solve, self.seed = moving, profile, loads, solve, seed
        self.found: dict[int, Plan] = {}
        self.serving: dict[int, int] = {}
        """By level, the level whose plan serves it at the least cost."""
        self._met: dict[tuple[int, float], bool] = {}

    def plan(self, level: int) -> Plan:
        """The plan of a level."""
        if level not in self.found:
            plan = self.solve(self.moving.at(self.loads[level]))
            if plan.certificate is None or plan.certificate.verdict != "met":
                raise UndecidedError(
                    f"the plan for {self.loads[level]:g} requests/s was not certified: give more time with --time-limit"
                )
            self.found[level] = plan
        return self.found[level]

    def met(self, level: int, load_rps: float) -> bool:
        """Whether the simulation certifies the plan of a level at another load."""
        key = (level, load_rps)
        if key not in self._met:
            network = network_of_plan(self.plan(level), self.moving.at(load_rps).workload, self.profile)
            self._met[key] = certified(network, self.seed).verdict == "met"
        return self._met[key]

    def within_reach(self) -> None:
        """Raise InfeasibleError where the highest level is out of reach, and say which one is not."""
        try:
            self.plan(len(self.loads) - 1)
            return
        except InfeasibleError as error:
            failed = error
        low, high = -1, len(self.loads) - 1
        while high - low > 1:
            middle = (low + high) // 2
            try:
                self.plan(middle)
                low = middle
            except InfeasibleError as error:
                high, failed = middle, error
        if low < 0:
            raise InfeasibleError(
                f"no plan keeps the promises even at the lowest level, {self.loads[0]:g} requests/s: {failed.message}",
                failed.details,
            )
        raise InfeasibleError(
            f"no plan carries the highest level, {self.loads[-1]:g} requests/s; of {len(self.loads)} levels the highest"
            f" feasible one is {self.loads[low]:g} requests/s (the next is {self.loads[high]:g})",
            [failed.message, *failed.details],
        )

    def between(self, low: int, high: int) -> None:
        """Find the plans of all levels from one to another."""
        for level in (low, high):
            self.plan(level)
            self.serving.setdefault(level, level)
        if high - low <= 1:
            return
        least, most = self.plan(low).cost_usd_per_h, self.plan(high).cost_usd_per_h
        if most <= least * (1 + SAME):
            for level in range(low, high):
                # The lower of two levels that cost the same keeps its own plan only where the higher one's misses.
                self.serving[level] = high if self.met(high, self.loads[level]) else level
                self.plan(self.serving[level])
            return
        middle = (low + high) // 2
        self.between(low, middle)
        self.between(middle, high)

    def levels(self) -> Levels:
        """What was found: one plan of each kind, the one made for the highest level of all that are the same."""
        for level in range(len(self.loads) - 1, 0, -1):
            # Neighbours of equal cost that bisection did not set beside one another.
            here, below = self.serving[level], self.serving[level - 1]
            same = self.found[here].cost_usd_per_h <= self.found[below].cost_usd_per_h * (1 + SAME)
            if here != below and same and self.met(here, self.loads[level - 1]):
                self.serving[level - 1] = here
        used = sorted(set(self.serving.values()))
        kinds: dict[object, int] = {}
        for level in used:
            kinds[_deployment(self.found[level])] = level
        plans = [self._carrier(level) for level in sorted(kinds.values())]
        return Levels(
            self.loads,
            tuple(self.found[self.serving[level]].cost_usd_per_h for level in range(len(self.loads))),
            tuple(_undominated(plans)),
            len(self.found),
            all(self.found[level].proof.status == "optimal" for level in used),
        )

    def _carrier(self, level: int) -> LevelPlan:
        least = level
        while least > 0 and self.met(level, self.loads[least - 1]):
            least -= 1
        carries = self.loads[level]
        if level + 1 < len(self.loads) and not self.moving.workload.robustness.asked:
            low, high = carries, self.loads[level + 1]
            for _ in range(HALVINGS):
                middle = rounded((low + high) / 2)
                low, high = (middle, high) if self.met(level, middle) else (low, middle)
            carries = low
        return LevelPlan(
            self.found[level], self.moving.at(self.loads[level]), self.loads[level], self.loads[least], carries
        )


def _undominated(plans: Sequence[LevelPlan]) -> list[LevelPlan]:
    """Plans rising in what they carry, without those that another one replaces at no greater cost."""
    kept: list[LevelPlan] = []
    for plan in sorted(plans, key=lambda p: (-p.carries_rps, p.cost_usd_per_h)):
        replaced = any(
            other.cost_usd_per_h <= plan.cost_usd_per_h * (1 + SAME) and other.least_rps <= plan.least_rps
            for other in kept
        )
        if not replaced:
            kept.append(plan)
    return kept[::-1]


def _deployment(plan: Plan) -> object:
    """What a plan deploys: the same for plans that differ in nothing but the load they were made for."""
    options = tuple(
        (name, option.model_copy(update={"predicted": None}).model_dump_json(exclude={"predicted"}))
        for name, option in sorted(plan.options.items())
    )
    machines = tuple((name, str(machines.packing)) for name, machines in sorted(plan.machines.items()))
    routes = tuple((name, str(sorted(traffic.routes.items()))) for name, traffic in sorted(plan.classes.items()))
    ways = tuple(
        (name, tuple((way.share, way.requests, str(sorted(way.routes.items()))) for way in traffic.mixtures))
        for name, traffic in sorted(plan.classes.items())
    )
    return options, machines, routes, ways


def rounded(load_rps: float) -> float:
    """A load as it is written in documents."""
    return float(f"{load_rps:.{DIGITS}g}")


def grid(low: float, high: float, levels: int) -> tuple[float, ...]:
    """Levels from one load to another, each the same factor above the one below: the share of capacity that goes to
    waste between two levels is the same everywhere. Raises InputError."""
    if not (math.isfinite(low) and math.isfinite(high) and low > 0):
        raise InputError(f"--rates: expected loads above 0 requests/s, got {low:g} and {high:g}")
    if high < low:
        raise InputError(f"--rates: the range is reversed; write {high:g}:{low:g}")
    if levels < 1 or (levels == 1) != (high == low):
        raise InputError(f"--rates: {levels} levels from {low:g} to {high:g}; two at least, or one load alone")
    if levels > MOST_LEVELS:
        raise InputError(f"--rates: {levels} levels are too many: at most {MOST_LEVELS}")
    inner = [rounded(low * (high / low) ** (i / (levels - 1))) for i in range(1, levels - 1)]
    found = tuple(dict.fromkeys([low, *inner, high]))
    if list(found) != sorted(found):
        raise InputError(f"--rates: {levels} levels are too many from {low:g} to {high:g}")
    return found
