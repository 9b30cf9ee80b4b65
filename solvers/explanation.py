"""A plan explained: why each choice, what holds it where it is, and what one more unit of every promise is worth."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from inferplan.estimators.service import SampleSource
from inferplan.solvers.assurance import assured_columns
from inferplan.solvers.clock import OutOfTimeError
from inferplan.solvers.columns import Column
from inferplan.solvers.enquiry import Enquiry
from inferplan.solvers.explain import Chosen, binding
from inferplan.solvers.milp import Solver, instance
from inferplan.solvers.mixture_rivals import rivals as mixture_rivals
from inferplan.solvers.mixtures import MixtureSolver
from inferplan.solvers.parts import is_parted, pattern_of, patterns, promise, whole, with_pattern
from inferplan.solvers.parts import ways as ways_of
from inferplan.solvers.program import column_names
from inferplan.solvers.queue_planner import Decided, decided
from inferplan.solvers.rivals import Rival, rivals
from inferplan.solvers.steps import Step, steps
from inferplan.spec.document import LoadedWorkload
from inferplan.spec.plan import DeployedOption, Plan
from inferplan.spec.profile import Profile


@dataclass(frozen=True)
class Slack:
    """A promise or limit with what the plan needs of it. It binds if a better plan would exist without it."""

    constraint: str
    value: float
    limit: float
    unit: str
    binds: bool


@dataclass(frozen=True)
class Explanation:
    """What there is to say about a plan. Costs in USD/h."""

    cost_usd_per_h: float
    objective: str
    slacks: tuple[Slack, ...]
    rivals: tuple[Rival, ...]
    steps: tuple[Step, ...]
    left_out: tuple[str, ...]
    differs: str = ""
    """How the plan that was explained differs from the one in the file, if it does."""


def explain(
    plan: Plan,
    loaded: LoadedWorkload,
    profile: Profile,
    *,
    time_limit_s: float = 60.0,
    gap: float = 1e-6,
    seed: int = 0,
    samples: SampleSource | None = None,
) -> Explanation:
    """Explain a plan that `solve` made: it is decided again, and asked about.

    `time_limit_s` is for deciding and, once more, for the questions (half of it for what promises are worth); what
    there was no time for is named. Where
    deciding again ends at another plan (the profile has grown, the plan was changed or made by something else), that
    one is explained, and `differs` says so.

    Raises as `solve` does.
    """
    if loaded.workload.splitting == "devices":
        # It loads what no other plan needs.
        from inferplan.solvers.split_explanation import explain_split

        return explain_split(plan, loaded, profile, time_limit_s=time_limit_s, gap=gap)
    found = decided(loaded, profile, time_limit_s=time_limit_s, gap=gap, seed=seed, samples=samples)
    deadline = time.monotonic() + time_limit_s
    chosen = replace(found.chosen, deadline=deadline)
    held = binding(chosen, found.tails_s)
    late = ["which promises bind: out of time"] if time.monotonic() >= deadline else []
    values, instead, left_out = _answers(chosen, deadline, time_limit_s)
    return Explanation(
        cost_usd_per_h=chosen.solution.cost_usd_per_h,
        objective=plan.objective,
        slacks=tuple(_slacks(found, {entry.constraint for entry in held})),
        rivals=instead,
        steps=values,
        left_out=(*late, *left_out),
        differs=_difference(plan, chosen),
    )


def _answers(
    chosen: Chosen, deadline: float, time_limit_s: float
) -> tuple[tuple[Step, ...], tuple[Rival, ...], tuple[str, ...]]:
    """What promises are worth, what else could stand somewhere, and what there was no time for."""
    try:
        free = replace(chosen, program=_free(chosen))
    except OutOfTimeError:
        return (), (), ("what promises are worth, and what else could stand somewhere: out of time",)
    # What promises are worth takes many questions each: half of the time is left for what could stand elsewhere.
    enquiry = Enquiry(replace(free, deadline=deadline - time_limit_s / 2))
    values = tuple(steps(enquiry))
    enquiry = Enquiry(free, enquiry.left_out)
    instead = tuple(mixture_rivals(enquiry) if is_parted(chosen.problem) else rivals(enquiry))
    return values, instead, tuple(enquiry.left_out)


def _free(plan: Chosen) -> Solver:
    """The program with as many machines of every device as wanted: questions say how many there are. Of classes that
    are split: over the tabulated shares, and the plan's."""
    if is_parted(plan.problem):
        tabulated = [with_pattern(plan.problem, pattern) for pattern in patterns(plan.problem)]
        own = with_pattern(plan.problem, pattern_of(instance(plan.problem, plan.solution)))
        return MixtureSolver(plan.problem, lifted=True, instances=[*tabulated, own], deadline=plan.deadline)
    if all(device.count is None for device in plan.problem.devices.values()):
        return plan.program
    return Solver(plan.problem, assured_columns(plan.problem, lifted=True, deadline=plan.deadline))


def _slacks(found: Decided, binds: set[str]) -> Iterator[Slack]:
    plan, problem = found.chosen, found.search.problem
    accuracies = plan.accuracies(plan.solution)
    for need in whole(problem):
        if need.limit_s is not None:
            path = promise(problem, need.name, "latency")
            yield Slack(path, found.tails_s[need.name], need.limit_s, "s", path in binds)
        accuracy = accuracies[need.name]
        if need.floor is not None and accuracy is not None and problem.accuracy is not None:
            path = promise(problem, need.name, "accuracy")
            yield Slack(path, accuracy.value, need.floor, problem.accuracy.metric, path in binds)
    for name, device in problem.devices.items():
        if device.count is not None:
            tier, short = name.split("/", 1)
            path, packing = f"tiers.{tier}.devices.{short}.count", plan.solution.packings.get(name)
            used = len(packing.machines) if packing is not None else 0
            yield Slack(path, float(used), float(device.count), "machines", path in binds)
    if problem.budget_usd_per_h is not None:
        path = "objective.budget_usd_per_h"
        yield Slack(path, plan.solution.cost_usd_per_h, problem.budget_usd_per_h, "USD/h", path in binds)


def _difference(plan: Plan, chosen: Chosen) -> str:
    """What deciding again found that is not in the file; empty where it is the same."""
    own = {name: stated(option) for name, option in plan.options.items()}
    named = column_names(chosen.solution.columns)
    now = {name: _deployed(column) for name, column in named.items()}
    split = instance(chosen.problem, chosen.solution)
    ways = {
        (name, way.share, stage): own[option]
        for name, traffic in plan.classes.items()
        for way in traffic.mixtures
        for stage, option in way.routes.items()
    }
    going = {
        (name, way.share, stage): now[station]
        for name, found in ways_of(split, named).items()
        for way in found
        for stage, station in way.stations.items()
        if len(found) > 1
    }
    if shape(own.values()) == shape(now.values()) and _routes(ways) == _routes(going):
        return ""
    return (
        f"the file's plan costs {plan.cost_usd_per_h:.6g} USD/h and deploys otherwise; deciding again gives"
        f" {chosen.solution.cost_usd_per_h:.6g} USD/h, which is what is explained"
    )


Deployed = tuple[str, str, str, int, int, float, str, int]
"""Stage, choice, device, threads, batch, delay, order, replicas."""


def stated(o: DeployedOption) -> Deployed:
    """An option as a plan states it."""
    return o.stage, o.choice, o.device, o.threads, o.max_batch, o.max_queue_delay_s, o.order or "", o.replicas


def _deployed(column: Column) -> Deployed:
    option = column.option
    return (
        option.stage, option.variant, option.device, option.threads, option.max_batch, option.max_queue_delay_s,
        "edf" if option.order == "edf" else "", column.replicas if option.need is not None else 0,
    )  # fmt: skip


def shape(options: Iterable[Deployed]) -> list[Deployed]:
    """Options with their replicas; what takes no machine stands anywhere."""
    found: list[Deployed] = []
    for stage, choice, device, threads, batch, delay_s, order, replicas in options:
        if replicas:
            found.append((stage, choice, device, threads, batch, round(delay_s, 9), order, replicas))
        else:
            found.append((stage, choice, "", 0, 0, 0.0, "", 0))
    return sorted(found)


def _routes(ways: Mapping[tuple[str, float, str], Deployed]) -> list[tuple[str, float, Deployed]]:
    """Which way so many requests of a class go."""
    return sorted(
        (name, round(share, 9), deployed) for (name, share, _), one in ways.items() for deployed in shape([one])
    )
