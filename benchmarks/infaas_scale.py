"""Deciding for many models at once: `python benchmarks/infaas_scale.py [--architectures 50 100]`.

INFaaS (Romero et al., USENIX ATC 2021) reports that an integer program for its autoscaler took Gurobi 23 s for 50
model architectures and 50 s for 100, and uses a greedy heuristic instead (figures second-hand, from public notes on
the paper; their machine is not this one, and their program chose scaling actions, not a deployment from nothing).

Here every architecture is a stage by itself with a dozen variants (three sizes on CPUs at one and two threads or on
a GPU, at batches 1 and 8), all on shared machines of two types; each is asked for the same latency and a share of the
accuracy between its variants' extremes. Seconds of wall time of one run each: *decide* is the whole call from the
profile in memory to the cheapest plan with its proof, at the gap given.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import yaml
from solve_speed import MODEL, SyntheticProfile, instance

from inferplan.solvers.columns import build_columns
from inferplan.solvers.milp import Solver, promises
from inferplan.solvers.planner import solve
from inferplan.solvers.problem import read_problem
from inferplan.solvers.program import COST
from inferplan.spec.document import LoadedWorkload, load_workload
from inferplan.spec.profile import Profile
from inferplan.spec.rows import AccuracyRow, Measurement, PointKey, Quantiles

PUBLISHED_S = {50: 23.0, 100: 50.0}
SIZES = {"small": (0.006, 0.70), "medium": (0.015, 0.76), "large": (0.040, 0.80)}
"""Seconds of a batch of one on one CPU thread, and accuracy."""
FLOOR = 0.75


def fleet(folder: Path, architectures: int) -> tuple[LoadedWorkload, Profile]:
    """One request calls every architecture once: the stages fan out from a gate that runs nothing."""
    (folder / "model.onnx").write_bytes(MODEL)
    names = [f"m{index:03d}" for index in range(architectures)]
    variants = {f"{size}{kind}": {"model": "model.onnx"} for size, kind in itertools.product(SIZES, ("", "q"))}
    stages = {name: {"metric": {"name": "acc"}, "variants": variants} for name in names}
    document = {
        "apiVersion": "inferplan/v1",
        "name": "fleet",
        "pipeline": {
            "stages": {
                "gate": {"metric": {"name": "acc"}, "variants": {"none": {"runtime": "skip"}}},
                **stages,
            },
            "edges": [{"from": "gate", "to": name} for name in names],
        },
        "tiers": {
            "t": {
                "devices": {
                    "box": {"price_usd_per_h": 0.384, "cores": 8},
                    "gpu": {"price_usd_per_h": 3.06, "cores": 8, "kind": "gpu"},
                }
            }
        },
        "classes": {
            "web": {"rate_rps": 40.0, "slo": {"latency_s": 0.15}, "accuracy": {"floor": FLOOR}},
        },
        "accuracy": {"metric": {"name": "acc"}, "composition": "minimum"},
    }
    path = folder / "workload.yaml"
    path.write_text(yaml.safe_dump(document))
    rows, scores = [], [AccuracyRow("stage", "gate", "none", "{}", "", "acc", 1.0, None, None, 1, "wilson", "")]
    digest = hashlib.sha256(MODEL).hexdigest()
    for (index, name), size, kind in itertools.product(enumerate(names), SIZES, ("", "q")):
        base, quality = SIZES[size]
        base, quality = base * (0.6 if kind else 1.0) * (0.6 + 0.08 * (index % 11)), quality - (0.012 if kind else 0.0)
        variant = f"{size}{kind}"
        scores.append(AccuracyRow("stage", name, variant, "{}", "", "acc", quality, None, None, 1000, "wilson", ""))
        for (device, provider, threads, speed), batch in itertools.product(
            (("t/box", "cpu", 1, 1.0), ("t/box", "cpu", 2, 1.8), ("t/gpu", "cuda", 1, 12.0)), (1, 8)
        ):
            if provider == "cuda" and kind:
                continue
            mean = base / speed * (0.5 + 0.5 * batch if provider == "cpu" else 0.9 + 0.1 * batch)
            key = PointKey(
                name, variant, "", digest, "", "onnxruntime", "1", "{}", provider, device, "f", batch, threads, "{}"
            )
            rows.append(Measurement(key, "ok", n=1000, service=Quantiles(mean_s=mean, std_s=0.05 * mean)))
    return load_workload(path), SyntheticProfile(folder, tuple(rows), tuple(scores), (), "0" * 64)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--architectures", type=int, nargs="+", default=[50, 100])
    parser.add_argument("--gap", type=float, default=0.0, help="relative gap that counts as optimal")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        solve(*instance(Path(folder), 1, 2, 1, 1), plan_dir=Path(folder))  # imports
        print("architectures  options  columns  published   read  tabulate   solve  decide  status        USD/h")
        for count in arguments.architectures:
            loaded, profile = fleet(Path(folder), count)
            marks = [time.perf_counter()]
            problem = read_problem(loaded.workload, profile)
            marks.append(time.perf_counter())
            columns = build_columns(problem)
            marks.append(time.perf_counter())
            found = Solver(problem, columns).ask(replace(promises(problem), goals=(COST,)), 120.0, arguments.gap)
            marks.append(time.perf_counter())
            parts = " ".join(f"{after - before:7.3f}" for before, after in itertools.pairwise(marks))
            options = sum(len(problem.options(stage)) for stage in problem.stages)
            published = f"{PUBLISHED_S[count]:8.0f} s" if count in PUBLISHED_S else "         -"
            status = (
                "none"
                if found is None
                else "optimal"
                if found.proven
                else f"gap {1 - found.bound / found.objective:.2%}"
            )
            cost = "-" if found is None else f"{found.cost_usd_per_h:.3f}"
            print(
                f"{count:13} {options:8} {len(columns):8} {published} {parts} {marks[-1] - marks[0]:7.3f}  {status:10}"
                f" {cost:>8}",
                flush=True,
            )


if __name__ == "__main__":
    main()
