"""The JellyBean VQA workload at every point of its reference: `python benchmarks/jellybean_vqa.py [--commands]`.

Per rate and accuracy floor, with forward links only and with backward ones at their listed price: the cost of the exact
optimum (exhaustive search over every assignment of workers, computed once and kept in the sample's `reference.csv`),
of JellyBean's own optimiser as its repository ships it (same file: its functions, unchanged, on the repaired input),
ours, whether ours agrees, and how long the decision took: solved, proven, explained and checked, in seconds of wall
time. `tier-aware` is the optimum where senders know in which tier a receiver stands, and `saves` what that is worth.
With `--commands` the time of the whole command `inferplan solve`, a process of its own, is measured too. With `--grid`
tier-aware and proportional routing are compared over more rates, as the workload is, and as it would be if features of
images were as large as the images.

At the end the plan that JellyBean's README publishes (40 requests/s, floor 56.0), priced by our evaluator, and the
worst and mean excess of their optimiser over ours. Source of all figures: https://github.com/libertyeagle/JellyBean,
commit 65a1d67 (MIT).
"""

from __future__ import annotations

import argparse
import csv
import itertools
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from inferplan.estimators.pricing import Worker, price
from inferplan.reports.tables import Table, left, plain, right
from inferplan.solvers.goals import COST
from inferplan.solvers.planner import solve
from inferplan.solvers.problem import read_problem
from inferplan.solvers.split_instance import Question, split_instance
from inferplan.solvers.split_program import SplitProgram
from inferplan.solvers.split_search import SplitSearch
from inferplan.spec.document import load_workload
from inferplan.spec.errors import InfeasibleError
from inferplan.spec.profile import Profile, read_profile

SAMPLE = Path(__file__).parent.parent / "sample_workloads" / "jellybean_vqa"
WORKLOADS = {"forward": SAMPLE / "workload.yaml", "backward": SAMPLE / "workload-backward.yaml"}
PROFILE = SAMPLE / "jellybean-vqa.profile"
AGREES = 1e-6
ROUTINGS = ("proportional", "tier_aware")
PUBLISHED = [
    *(Worker("image", "resnet18", f"edge/{name}") for name in ("cpu-1", "cpu-2", "cpu-5")),
    Worker("speech", "wav2vec2-large-960h-lv60-self", "cloud/gpu-1"),
    Worker("speech", "wav2vec2-large-960h-lv60-self", "edge/cpu-3"),
    Worker("answer", "vqa", "cloud/cpu-6"),
]
PUBLISHED_USD_PER_H = (6.242, 1.2667783071018048)


@dataclass(frozen=True)
class Decision:
    """Cost of a plan, None where there is none; whether it is proven; how long it took."""

    cost_usd_per_h: float | None
    proven: bool
    seconds: float


def overrides(rate: str, floor: str, routing: str = "proportional") -> list[str]:
    """Settings of one point."""
    return [f"classes.vqa.rate_rps={rate}", f"classes.vqa.accuracy.floor={floor}", f"routing={routing}"]


def decide(profile: Profile, links: str, settings: list[str]) -> Decision:
    """Solve one point."""
    loaded = load_workload(WORKLOADS[links], settings)
    start = time.perf_counter()
    try:
        plan = solve(loaded, profile, plan_dir=SAMPLE, gap=1e-6)
    except InfeasibleError:
        return Decision(None, True, time.perf_counter() - start)
    return Decision(plan.cost_usd_per_h, plan.proof.status == "optimal", time.perf_counter() - start)


def command_s(links: str, settings: list[str]) -> float:
    """Wall time of the whole command."""
    sets = [part for setting in settings for part in ("--set", setting)]
    call = "from inferplan.cli.main import main; main()"
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", call, "solve", str(WORKLOADS[links]), *sets, "--json"], capture_output=True, check=False
    )
    return time.perf_counter() - start


def same(cost: float | None, reference: str) -> bool:
    """Whether a cost, or its absence, is the reference's."""
    return cost is None if not reference else cost is not None and abs(cost - float(reference)) <= AGREES


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--commands", action="store_true", help="time whole commands too")
    parser.add_argument("--grid", action="store_true", help="compare the two routings over more rates")
    arguments = parser.parse_args()
    commands = arguments.commands
    profile = read_profile(PROFILE)
    with (SAMPLE / "reference.csv").open() as file:
        points = list(csv.DictReader(file))
    decide(profile, "forward", overrides("20.0", "54.0"))  # the first one imports the solver
    rows: list[list[str]] = []
    excess: list[float] = []
    agreed, times, whole = 0, [], []
    for links in WORKLOADS:
        for point in points:
            settings = overrides(point["rate_rps"], point["floor_percent"])
            ours = decide(profile, links, settings)
            aware = decide(profile, links, overrides(point["rate_rps"], point["floor_percent"], "tier_aware"))
            exact, theirs = point[f"exact_{links}_usd_per_h"], point["jellybean_usd_per_h"]
            agrees = same(ours.cost_usd_per_h, exact) and ours.proven
            agreed += agrees
            times += [ours.seconds, aware.seconds]
            whole.append(command_s(links, settings) if commands else 0.0)
            if links == "forward" and ours.cost_usd_per_h and theirs:
                excess.append(float(theirs) / ours.cost_usd_per_h - 1)
            saves = round((ours.cost_usd_per_h or 0.0) - (aware.cost_usd_per_h or 0.0), 6) + 0.0
            rows.append(
                [
                    links, point["rate_rps"], point["floor_percent"], exact, theirs if links == "forward" else "-",
                    shown(ours), "yes" if agrees else "NO", f"{ours.seconds:.2f}",
                    f"{whole[-1]:.2f}" if commands else "-", shown(aware), f"{saves:.4f}",
                ]
            )  # fmt: skip
    columns = [*left("links"), *right("rate", "floor", "exact", "JellyBean", "ours")]
    columns += [*left("agrees"), *right("s", "command s", "tier-aware", "saves")]
    print(plain(Table(columns, rows)))
    print(f"\n{agreed} of {len(rows)} points agree with the exact optimum, all proven")
    print(
        f"decision: at most {max(times):.2f} s" + (f"; whole command: at most {max(whole):.2f} s" if commands else "")
    )
    mean, worst = 100 * sum(excess) / len(excess), 100 * max(excess)
    print(f"JellyBean's optimiser over ours: mean {mean:.1f} %, worst {worst:.1f} %")
    published(profile)
    if arguments.grid:
        grid(profile)


def grid(profile: Profile) -> None:
    """What tier-aware routing saves over a grid of rates and floors."""
    heavy = "pipeline.edges[2].payload_bytes=813091.0"
    for what, more in (("as it is", []), ("features as large as images", [heavy])):
        for links in WORKLOADS:
            saved: dict[str, float] = {}
            plans = 0
            for rate, floor in itertools.product(range(5, 101, 5), (54, 56, 57, 58, 58.3)):
                costs = [optimum(profile, links, [*overrides(str(rate), str(floor), r), *more]) for r in ROUTINGS]
                if costs[0] is not None and costs[1] is not None:
                    plans += 1
                    saved[f"{rate}/s, {floor}"] = 1 - costs[1] / costs[0]
            where = [name for name, share in saved.items() if share > 1e-6]
            best = max(saved, key=lambda name: saved[name])
            print(
                f"tier-aware, {what}, {links} links: cheaper at {len(where)} of {plans} points,"
                f" at most {100 * saved[best]:.2f} % ({best})"
            )


def optimum(profile: Profile, links: str, settings: list[str]) -> float | None:
    """The least cost of a point, without explanations."""
    problem = read_problem(load_workload(WORKLOADS[links], settings).workload, profile)
    question = Question(
        {need.name: need.floor for need in problem.classes}, {n: d.count for n, d in problem.devices.items()}
    )
    search = SplitSearch(SplitProgram(split_instance(problem)))
    found = search.best(question, COST, time.monotonic() + 60, 1e-6)
    return None if found is None else found.split.cost_usd_per_h


def shown(decision: Decision) -> str:
    """A cost, or that there is none."""
    return "none" if decision.cost_usd_per_h is None else f"{decision.cost_usd_per_h:.6f}"


def published(profile: Profile) -> None:
    """Price the published plan."""
    workload = load_workload(WORKLOADS["forward"]).workload
    machines_used = {worker.device: worker.replicas for worker in PUBLISHED}
    # Their optimiser fills workers in the order it lists them.
    found = price(workload, profile, PUBLISHED, machines_used, "in_order")
    machines, network = PUBLISHED_USD_PER_H
    print(f"published plan: {found.machines_usd_per_h:.6g} + {found.traffic.cost_usd_per_h:.13g} USD/h")
    print(f"its README says {machines:.6g} + {network:.13g}")


if __name__ == "__main__":
    main()
