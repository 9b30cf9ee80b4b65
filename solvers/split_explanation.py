"""A plan of classes that spread over devices, explained: it is decided again, and asked about."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

from inferplan.solvers.explanation import Explanation, Slack, shape, stated
from inferplan.solvers.problem import read_problem
from inferplan.solvers.split_enquiry import SplitEnquiry
from inferplan.solvers.split_explain import Explained, binding, promises, standing
from inferplan.solvers.split_plan import class_plans, loads_of, option_plans
from inferplan.solvers.split_planner import assured
from inferplan.solvers.split_rivals import split_rivals
from inferplan.solvers.split_steps import split_steps
from inferplan.spec.document import LoadedWorkload
from inferplan.spec.plan import ClassPlan, Plan
from inferplan.spec.profile import Profile

SAME = 1e-6
"""Shares that differ by no more than this are the same."""


def explain_split(
    plan: Plan, loaded: LoadedWorkload, profile: Profile, *, time_limit_s: float, gap: float
) -> Explanation:
    """As `explanation.explain`, for `splitting: devices`. Raises as `split_planner.solve_split`."""
    chosen, _ = assured(read_problem(loaded.workload, profile), time.monotonic() + time_limit_s, gap)
    deadline = time.monotonic() + time_limit_s
    chosen = Explained(chosen.search, chosen.question, chosen.goals, chosen.found, deadline, gap)
    slacks = tuple(_slacks(chosen))
    # As elsewhere half of the time is left for what could stand elsewhere.
    first = SplitEnquiry(chosen, deadline - time_limit_s / 2)
    steps = tuple(split_steps(first))
    then = SplitEnquiry(chosen, deadline, first.left_out)
    instead = tuple(split_rivals(then))
    return Explanation(
        cost_usd_per_h=chosen.found.split.cost_usd_per_h,
        objective=plan.objective,
        slacks=slacks,
        rivals=instead,
        steps=steps,
        left_out=tuple(dict.fromkeys(then.left_out)),
        differs=_difference(plan, chosen),
    )


def _slacks(plan: Explained) -> Iterator[Slack]:
    binds = {entry.constraint for entry in binding(plan)}
    for promise in promises(plan.question):
        one = standing(plan, promise)
        yield Slack(one.constraint, one.value, one.limit, one.unit, one.constraint in binds)


def _difference(plan: Plan, chosen: Explained) -> str:
    """What deciding again found that is not in the file; empty where it is the same."""
    instance, split = chosen.search.program.instance, chosen.found.split
    loads = loads_of(instance, split)
    options = option_plans(instance, split, loads)
    classes = class_plans(instance, split, loads, {need.name: None for need in instance.problem.classes})
    before, now = _routes(plan.classes), _routes(classes)
    alike = set(before) == set(now) and all(abs(share - now[key]) <= SAME for key, share in before.items())
    if alike and shape(map(stated, plan.options.values())) == shape(map(stated, options.values())):
        return ""
    return (
        f"the file's plan costs {plan.cost_usd_per_h:.6g} USD/h and deploys otherwise; deciding again gives"
        f" {split.cost_usd_per_h:.6g} USD/h, which is what is explained"
    )


def _routes(classes: Mapping[str, ClassPlan]) -> dict[tuple[str, str, str], float]:
    """Shares of calls by (class, stage, option)."""
    return {
        (name, stage, choice.option): choice.share
        for name, traffic in classes.items()
        for stage, choices in traffic.routes.items()
        for choice in choices
    }
