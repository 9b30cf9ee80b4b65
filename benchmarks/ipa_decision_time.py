"""How long IPA's decision takes, theirs and ours: `benchmarks/ipa_decision_time.py [--large] [--ties] [--certify]`.

IPA (Ghafouri et al., JSys 4(1), 2024) published decision times of its Gurobi program on a pipeline whose stages have
1 to 9 variants, made by cloning the heaviest one, at batches 1, 2 and 8, with 1 to 9 stages: means of 19 decisions
per point, the whole call with building the model (repository reconfigurable-ml-pipeline/ipa, notebook paper-fig13 at
commit 597dc47, cells 3 and 5). Their machine is not this one, and their program is not ours: theirs weighs accuracy,
cores and batch sizes and counts no waiting but that of a batch to fill; ours finds the cheapest plan that keeps a
latency limit and an accuracy floor, with queues.

Per size, in seconds of wall time, the median of five calls: *decide* is what their figure is, the whole call from
the profile in memory to the cheapest plan with proof of its cost (reading, tabulating, pruning, building, solving);
*ties* (--ties) adds the choice among equally cheap plans by accuracy, latency, cores and names; *certified* (--certify)
is one run of all of `inferplan solve`, with simulation and explanation, and what it ended with: the verdict of the
simulation, the proof and its gap. --large goes on to 20 x 50 with 7 batches on 3 device types, at a gap of 1 %.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from solve_speed import instance

from inferplan.solvers.columns import build_columns
from inferplan.solvers.milp import Solution, Solver, promises
from inferplan.solvers.planner import solve
from inferplan.solvers.problem import read_problem
from inferplan.solvers.program import COST
from inferplan.spec.document import LoadedWorkload, load_workload
from inferplan.spec.profile import Profile

PUBLISHED_S = {
    (1, 1): 0.0085, (3, 3): 0.0682, (5, 5): 0.3022, (7, 7): 0.8942, (9, 9): 2.2224,
    (1, 9): 0.0803, (9, 1): 0.2522,
}  # fmt: skip
"""Means by (variants, stages)."""
IPA = [(stages, variants, 3, 1) for variants, stages in PUBLISHED_S]
BEYOND = [(10, 10, 3, 1), (10, 10, 7, 3)]
LARGE = [(20, 20, 3, 1), (20, 20, 7, 3), (20, 50, 7, 3)]
REPEATS = 5
LIMIT_S = 120.0


def decide(loaded: LoadedWorkload, profile: Profile, gap: float, ties: bool) -> tuple[float, Solution | None]:
    """One decision: seconds, and the plan."""
    start = time.perf_counter()
    problem = read_problem(loaded.workload, profile)
    solver = Solver(problem, build_columns(problem))
    ask = promises(problem)
    found = solver.ask(ask if ties else replace(ask, goals=(COST,)), LIMIT_S, gap)
    return time.perf_counter() - start, found


def median_decision(loaded: LoadedWorkload, profile: Profile, gap: float, ties: bool) -> tuple[float, Solution | None]:
    """The median of several decisions; one where it takes long."""
    times = []
    for _ in range(REPEATS):
        seconds, found = decide(loaded, profile, gap, ties)
        times.append(seconds)
        if seconds > 10:
            break
    return statistics.median(times), found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--large", action="store_true", help="also 20 stages, up to 50 variants x 7 batches x 3 devices"
    )
    parser.add_argument("--ties", action="store_true", help="also how long breaking ties takes")
    parser.add_argument("--certify", action="store_true", help="also how long the whole solve takes, and how it ends")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        solve(*instance(Path(folder), 1, 2, 1, 1), plan_dir=Path(folder))  # imports
        more = ("    ties" if arguments.ties else "") + ("  certified  ends with" if arguments.certify else "")
        print(f"stages variants batches devices  published  decide  ratio  status  {more}")
        for size in (*IPA, *BEYOND, *(LARGE if arguments.large else ())):
            loaded, profile = instance(Path(folder), *size)
            if size[1] == 1:
                # A single variant is the worst of the recipe's range: no floor above it.
                loaded = load_workload(loaded.path, ["classes.web.accuracy.floor=0"])
            gap = 0.01 if size[0] * size[1] >= 1000 else 0.0
            seconds, found = median_decision(loaded, profile, gap, ties=False)
            published = PUBLISHED_S.get((size[1], size[0])) if size[2:] == (3, 1) else None
            theirs = f"{published:9.3f}" if published else "        -"
            ratio = f"{published / seconds:6.1f}" if published else "     -"
            status = "none" if found is None else "optimal" if found.proven else "feasible"
            line = f"{size[0]:6} {size[1]:8} {size[2]:7} {size[3]:7}  {theirs} {seconds:7.3f} {ratio}  {status:8}"
            if arguments.ties:
                ties_s, _ = median_decision(loaded, profile, gap, ties=True)
                line += f" {ties_s:7.3f}"
            if arguments.certify:
                start = time.perf_counter()
                plan = solve(loaded, profile, plan_dir=Path(folder), time_limit_s=LIMIT_S, gap=gap)
                seconds = time.perf_counter() - start
                verdict = "no promise" if plan.certificate is None else plan.certificate.verdict
                gap_text = "unknown" if plan.proof.gap is None else f"{plan.proof.gap:.1%}"
                line += f" {seconds:10.3f}  {verdict}, {plan.proof.status}, gap {gap_text}"
            print(line, flush=True)


if __name__ == "__main__":
    main()
