"""Is the certified plan the cheapest one that certifies? `python benchmarks/certified_optimality.py [--instances 300]`.

Per random small instance (`small_instances`) the plan of `inferplan solve` is set beside exhaustive search: every
deployment there is (option, replicas and their machines for every stage, classes on queues they share or of their
own), in the order of cost, each judged by the same simulator with the same seed and effort, until the first one that
is certified. Only those cheaper than the plan are simulated, as the others cannot change the answer. Counted are:

  same       the plan costs what the cheapest certified deployment costs (or neither finds any)
  within     it costs more, by at most 2 %
  beyond     it costs more than that, or `solve` finds none where there is one
  wrong      the plan says certified, and its network, built anew from the plan document, does not pass; or the plan
             costs less than what its machines cost; or keeps no floor
  by chance  of the certified plans those that another seed, with 4 times the effort, finds to miss: intervals are
             of 99 %, so a few in 300 are to be expected

--first N begins at seed N, so that a long run can be done in parts: `--instances 50 --first 100`. --budget-s stops
before that many seconds have gone by, and says where to go on.
"""

from __future__ import annotations

import argparse
import itertools
import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from exhaustive import SAME, deployments, size
from small_instances import random_instance

from inferplan.estimators.network import network_of_plan
from inferplan.estimators.simulation import Effort, simulate
from inferplan.solvers.judge import FINAL, SEARCH, Judge
from inferplan.solvers.planner import solve
from inferplan.solvers.problem import Problem, read_problem
from inferplan.spec.document import LoadedWorkload
from inferplan.spec.errors import InfeasibleError
from inferplan.spec.plan import Plan
from inferplan.spec.profile import Profile

MOST_DEPLOYMENTS = 60_000
"""Instances with more are replaced by the next of their seed."""
NEAR = 0.02
SUBSEEDS = 1000


@dataclass(frozen=True)
class Outcome:
    """What became of an instance. Costs are None where nothing was certified."""

    seed: int
    cost_usd_per_h: float | None
    best_usd_per_h: float | None
    wrong: str
    chance: bool
    simulated: int
    solve_s: float
    search_s: float

    @property
    def ratio(self) -> float:
        """Cost over the least certified one."""
        if self.best_usd_per_h is None or self.cost_usd_per_h is None:
            return 1.0 if self.best_usd_per_h == self.cost_usd_per_h else math.inf
        return self.cost_usd_per_h / self.best_usd_per_h

    @property
    def kind(self) -> str:
        """same, within or beyond."""
        return "same" if self.ratio <= 1 + SAME else "within" if self.ratio <= 1 + NEAR else "beyond"


def instance_of(seed: int, folder: Path, most: int = MOST_DEPLOYMENTS) -> tuple[LoadedWorkload, Profile, Problem]:
    """The instance of a seed that is small enough."""
    for sub in itertools.count():
        instance = random_instance(seed * SUBSEEDS + sub)
        loaded, profile = instance.made(folder)
        try:
            problem = read_problem(loaded.workload, profile)
        except InfeasibleError:
            continue
        if size(problem) <= most:
            return loaded, profile, problem
    raise AssertionError


def judged(seed: int, folder: Path, most: int = MOST_DEPLOYMENTS) -> Outcome:
    """Solve an instance, and search it exhaustively."""
    loaded, profile, problem = instance_of(seed, folder, most)
    start = time.perf_counter()
    plan: Plan | None = None
    try:
        plan = solve(loaded, profile, plan_dir=folder)
    except InfeasibleError:
        plan = None
    solve_s = time.perf_counter() - start
    if plan is not None and (plan.certificate is None or plan.certificate.verdict != "met"):
        plan = None
    start = time.perf_counter()
    cost = None if plan is None else plan.cost_usd_per_h
    best, simulated = cost, 0
    judge = Judge(problem, 0)
    for deployment in deployments(problem, math.inf if cost is None else cost):
        simulated += 1
        if judge.certain(deployment.solution()).verdict == "met":
            best = deployment.cost_usd_per_h
            break
    search_s = time.perf_counter() - start
    wrong, chance = ("", False) if plan is None else examined(plan, loaded, profile, problem)
    return Outcome(seed, cost, best, wrong, chance, simulated, solve_s, search_s)


def examined(plan: Plan, loaded: LoadedWorkload, profile: Profile, problem: Problem) -> tuple[str, bool]:
    """What is wrong with a plan that says it is certified; and whether another seed finds it to miss."""
    network = network_of_plan(plan, loaded.workload, profile)
    result = simulate(network, 0, SEARCH)
    result = simulate(network, 0, FINAL) if result.verdict == "undecided" else result
    wrong = "" if result.verdict == "met" else f"its network is {result.verdict}"
    for name, traffic in plan.classes.items():
        floor = loaded.workload.classes[name].accuracy.floor
        if floor is not None and (
            traffic.predicted.accuracy is None or traffic.predicted.accuracy.value < floor - 1e-9
        ):
            wrong = f"floor of {name}"
    paid = math.fsum(m.count * problem.devices[name].price_usd_per_h for name, m in plan.machines.items())
    if not math.isclose(paid, plan.cost_usd_per_h, rel_tol=1e-6):
        wrong = f"it costs {paid:g}, not {plan.cost_usd_per_h:g}"
    return wrong, simulate(network, 1, Effort(calls=4 * FINAL.calls)).verdict == "missed"


def main() -> None:
    """Print the shares, and what is not the same."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--instances", type=int, default=300)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--budget-s", type=float, default=math.inf, help="stop before so many seconds have gone by")
    parser.add_argument("--verbose", action="store_true", help="a line for every instance")
    arguments = parser.parse_args()
    start = time.perf_counter()
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(arguments.first, arguments.first + arguments.instances):
            if time.perf_counter() - start > arguments.budget_s:
                print(f"time is up: go on with --first {seed}")
                break
            outcome = judged(seed, Path(folder))
            outcomes.append(outcome)
            if arguments.verbose or outcome.kind != "same" or outcome.wrong or outcome.chance:
                print(_line(outcome), flush=True)
    _summary(outcomes)


def _line(outcome: Outcome) -> str:
    costs = [f"{cost:.6g}" if cost is not None else "none" for cost in (outcome.cost_usd_per_h, outcome.best_usd_per_h)]
    notes = [outcome.wrong, "another seed: missed" if outcome.chance else ""]
    return (
        f"seed {outcome.seed:4}  {outcome.kind:6}  {costs[0]:>11} of {costs[1]:>11}  ratio {outcome.ratio:.4f}"
        f"  {outcome.simulated:5} simulated  solve {outcome.solve_s:5.2f} s  search {outcome.search_s:6.2f} s"
        f"  {'; '.join(note for note in notes if note)}"
    )


def _summary(outcomes: Sequence[Outcome]) -> None:
    count = len(outcomes)
    if not count:
        return
    kinds = {kind: sum(outcome.kind == kind for outcome in outcomes) for kind in ("same", "within", "beyond")}
    certified = sum(outcome.cost_usd_per_h is not None for outcome in outcomes)
    print(
        f"{count} instances, {certified} with a certified plan: "
        + ", ".join(f"{kind} {number} ({100 * number / count:.1f} %)" for kind, number in kinds.items())
    )
    print(f"worst ratio {max(o.ratio for o in outcomes):.4f}")
    print(f"wrong {sum(bool(o.wrong) for o in outcomes)}, by chance {sum(o.chance for o in outcomes)}")
    print(
        f"{sum(o.simulated for o in outcomes)} deployments simulated; solve {sum(o.solve_s for o in outcomes):.0f} s,"
        f" search {sum(o.search_s for o in outcomes):.0f} s"
    )


if __name__ == "__main__":
    main()
