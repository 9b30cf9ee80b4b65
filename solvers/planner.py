"""From workload and profile to a plan: decide, explain, check."""

from __future__ import annotations

import time
from pathlib import Path

from inferplan.estimators.service import SampleSource
from inferplan.solvers.checker import check_plan
from inferplan.solvers.problem import read_problem
from inferplan.spec.document import LoadedWorkload
from inferplan.spec.plan import Plan
from inferplan.spec.profile import Profile
from inferplan.spec.workload import Robustness


def solve(
    loaded: LoadedWorkload,
    profile: Profile,
    *,
    plan_dir: Path,
    time_limit_s: float = 60.0,
    gap: float = 0.0,
    seed: int = 0,
    samples: SampleSource | None = None,
) -> Plan:
    """Decide the deployment.

    `plan_dir` is the folder the plan will stand in (the workload's path is given relative to it); `gap` is the
    relative gap that counts as optimal; `seed` that of the simulation. The plan's certificate may say "missed" or
    "undecided", and its proof "feasible" where time ran out: the caller decides what to do about that.

    Raises InfeasibleError where no plan keeps every promise, InputError where the profile lacks what is needed,
    UndecidedError where the time limit left no plan at all.
    """
    # Either way of deciding loads much that the other does not need.
    if loaded.workload.splitting == "devices":
        from inferplan.solvers.split_planner import solve_split

        problem = read_problem(loaded.workload, profile, samples)
        deadline = time.monotonic() + time_limit_s
        plain = None
        if loaded.workload.robustness.asked:
            unasked = loaded.workload.model_copy(update={"robustness": Robustness()}).at(loaded.workload.root)
            plain = read_problem(unasked, profile, samples)
        plan = solve_split(
            problem, loaded, profile, plan_dir=plan_dir, deadline=deadline, gap=gap, seed=seed, plain=plain
        )
    else:
        from inferplan.solvers.queue_planner import Limits, solve_queues

        plan = solve_queues(loaded, profile, plan_dir, Limits(time_limit_s, gap, seed, samples))
    check_plan(plan, loaded.workload, profile)
    return plan
