"""A plan explained: why each choice, what holds it where it is, and what one more unit of every promise is worth."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from inferplan.estimators.service import SampleSource
from inferplan.solvers.assurance import assured_columns
from inferplan.solvers.enquiry import Enquiry
from inferplan.solvers.explain import Chosen, binding
from inferplan.solvers.milp import Solver
from inferplan.solvers.program import column_names
from inferplan.solvers.queue_planner import Decided, decided
from inferplan.solvers.rivals import Rival, rivals
from inferplan.solvers.steps import Step, steps
from inferplan.spec.document import LoadedWorkload
from inferplan.spec.errors import InputError
from inferplan.spec.levels import promise_path
from inferplan.spec.plan import Plan
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

    Raises InputError for plans of classes that spread, else as `solve` does.
    """
    if loaded.workload.splitting or any(traffic.kind == "jobs" for traffic in loaded.workload.classes.values()):
        raise InputError(
            "plans of classes that split, spread over devices, or have jobs are not explained step by step:"
            " what holds them and what else was considered stands in the plan (binding, alternatives)"
        )
    found = decided(loaded, profile, time_limit_s=time_limit_s, gap=gap, seed=seed, samples=samples)
    deadline = time.monotonic() + time_limit_s
    chosen = replace(found.chosen, deadline=deadline)
    held = binding(chosen, found.tails_s)
    free = replace(chosen, program=_free(chosen))
    # What promises are worth takes many questions each: half of the time is left for what could stand elsewhere.
    enquiry = Enquiry(replace(free, deadline=deadline - time_limit_s / 2))
    values = tuple(steps(enquiry))
    enquiry = Enquiry(free, enquiry.left_out)
    instead = tuple(rivals(enquiry))
    return Explanation(
        cost_usd_per_h=chosen.solution.cost_usd_per_h,
        objective=plan.objective,
        slacks=tuple(_slacks(found, {entry.constraint for entry in held})),
        rivals=instead,
        steps=values,
        left_out=tuple(enquiry.left_out),
        differs=_difference(plan, chosen),
    )


def _free(plan: Chosen) -> Solver:
    """The program with as many machines of every device as wanted: questions say how many there are."""
    if all(device.count is None for device in plan.problem.devices.values()):
        return plan.program
    return Solver(plan.problem, assured_columns(plan.problem, lifted=True))


def _slacks(found: Decided, binds: set[str]) -> Iterator[Slack]:
    plan, problem = found.chosen, found.search.problem
    accuracies = plan.accuracies(plan.solution)
    for need in problem.classes:
        if need.limit_s is not None:
            path = promise_path(problem.workload, need.name, "slo.latency_s")
            yield Slack(path, found.tails_s[need.name], need.limit_s, "s", path in binds)
        accuracy = accuracies[need.name]
        if need.floor is not None and accuracy is not None and problem.accuracy is not None:
            path = promise_path(problem.workload, need.name, "accuracy.floor")
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
    own = {
        (o.stage, o.choice, o.device, o.threads, o.max_batch, o.max_queue_delay_s): o.replicas
        for o in plan.options.values()
    }
    now: Mapping[tuple[str, str, str, int, int, float], int] = {
        (
            c.stage,
            c.option.variant,
            c.option.device,
            c.option.threads,
            c.option.max_batch,
            c.option.max_queue_delay_s,
        ): (c.replicas if c.option.need is not None else 0)
        for c in column_names(chosen.solution.columns).values()
    }
    if _shape(own) == _shape(now) and all(option.order is None for option in plan.options.values()):
        return ""
    return (
        f"the file's plan costs {plan.cost_usd_per_h:.6g} USD/h and deploys otherwise; deciding again gives"
        f" {chosen.solution.cost_usd_per_h:.6g} USD/h, which is what is explained"
    )


def _shape(
    options: Mapping[tuple[str, str, str, int, int, float], int],
) -> set[tuple[str, str, str, int, int, float, int]]:
    """Options with their replicas; what takes no machine stands anywhere."""
    found = set()
    for (stage, choice, device, threads, batch, delay_s), replicas in options.items():
        if replicas:
            found.add((stage, choice, device, threads, batch, round(delay_s, 9), replicas))
        else:
            found.add((stage, choice, "", 0, 0, 0.0, 0))
    return found
