"""How long a decision takes: `python benchmarks/solve_speed.py [--large]`.

Chains of stages with synthetic profiles: every stage has the same number of variants, each measured at the same
batch sizes on the given number of devices. Per size: the columns before and after pruning, the time to tabulate
them, to find the least cost with proof, by labels, to break the ties too, and to solve the whole thing (certification,
explanation and check included), in seconds of wall time, one run each after a warm-up. Beside them the exact program,
which decides where labels do not apply: the time to build it, to solve it for cost, and the time scipy's HiGHS takes
for the same rows, as a measure of what python-mip adds.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from inferplan.solvers.columns import build_columns
from inferplan.solvers.milp import Solver, promises
from inferplan.solvers.planner import solve
from inferplan.solvers.problem import read_problem
from inferplan.solvers.program import COST, Ask, Program
from inferplan.spec.document import LoadedWorkload, load_workload
from inferplan.spec.profile import Profile
from inferplan.spec.rows import AccuracyRow, Measurement, PointKey, Quantiles, Samples

SMALL = ((1, 5, 4, 1), (3, 8, 4, 1), (5, 5, 3, 1), (9, 9, 3, 1))
LARGE = ((10, 10, 7, 3),)
MODEL = b"model"


class SyntheticProfile(Profile):
    """A profile without samples."""

    def samples(self, key: PointKey) -> Samples | None:
        """None: draws follow the mean and standard deviation of the point."""
        return None


def instance(folder: Path, stages: int, variants: int, batches: int, devices: int) -> tuple[LoadedWorkload, Profile]:
    """A chain whose heavier variants are slower and better, at a moderate SLO and floor."""
    (folder / "model.onnx").write_bytes(MODEL)
    names = [f"s{index:02d}" for index in range(stages)]
    best, worst = 0.995, 0.97
    document = {
        "apiVersion": "inferplan/v1",
        "name": "chain",
        "pipeline": {
            "stages": {
                name: {
                    "metric": {"name": "acc"},
                    "variants": {f"v{v:02d}": {"model": "model.onnx"} for v in range(variants)},
                }
                for name in names
            },
            "edges": [{"from": a, "to": b} for a, b in itertools.pairwise(names)],
        },
        "tiers": {"t": {"devices": {f"d{d}": {"price_usd_per_h": 0.1 * (d + 1), "cores": 8} for d in range(devices)}}},
        "classes": {
            "web": {
                "rate_rps": 50.0,
                "slo": {"latency_s": 0.12 * stages},
                "accuracy": {"floor": ((best + worst) / 2) ** stages},
            }
        },
        "accuracy": {"metric": {"name": "acc"}, "composition": "product"},
    }
    path = folder / "workload.yaml"
    path.write_text(yaml.safe_dump(document))
    rows, scores = [], []
    for (index, name), v in itertools.product(enumerate(names), range(variants)):
        quality = worst + (best - worst) * v / max(variants - 1, 1)
        scores.append(AccuracyRow("stage", name, f"v{v:02d}", "{}", "", "acc", quality, None, None, 1000, "wilson", ""))
        for d, batch in itertools.product(range(devices), [2**b for b in range(batches)]):
            mean = 0.004 * (1 + v) * (1 + 0.1 * (index % 3)) * (0.4 + 0.6 * batch) / (1 + 0.7 * d)
            key = PointKey(
                name, f"v{v:02d}", "", hashlib.sha256(MODEL).hexdigest(), "", "onnxruntime", "1", "{}", "cpu",
                f"t/d{d}", "f", batch, 1, "{}",
            )  # fmt: skip
            rows.append(Measurement(key, "ok", n=1000, service=Quantiles(mean_s=mean, std_s=0.05 * mean)))
    return load_workload(path), SyntheticProfile(folder, tuple(rows), tuple(scores), (), "0" * 64)


def timed(action: Any) -> tuple[float, Any]:
    """Seconds of wall time, and the result."""
    start = time.perf_counter()
    result = action()
    return time.perf_counter() - start, result


def scipy_seconds(solver: Solver, ask: Ask) -> float:
    """Time of scipy.optimize.milp on the rows of the first goal, over all branches."""
    from scipy.optimize import Bounds, LinearConstraint, milp

    total = 0.0
    for branch in solver.branches:
        branch.begin(ask)
        cost, matrix, low, high, bounds, integral = _arrays(branch)
        seconds, _ = timed(
            lambda c=cost, m=matrix, lo=low, hi=high, b=bounds, i=integral: milp(
                c,
                constraints=LinearConstraint(m, lo, hi),
                bounds=Bounds(*b),
                integrality=i,
                options={"mip_rel_gap": 0.0},
            )
        )
        total += seconds
        branch.end()
    return total


def _arrays(branch: Program) -> tuple[Any, ...]:
    from scipy.sparse import csr_matrix

    model = branch.model
    rows, columns, values, low, high = [], [], [], [], []
    for index, row in enumerate(model.constrs):
        expression = row.expr
        for variable, coefficient in expression.expr.items():
            rows.append(index)
            columns.append(variable.idx)
            values.append(coefficient)
        low.append(-np.inf if expression.sense == "<" else -expression.const)
        high.append(np.inf if expression.sense == ">" else -expression.const)
    size = len(model.vars)
    cost = np.zeros(size)
    for variable, coefficient in branch.expression(COST).expr.items():
        cost[variable.idx] = coefficient
    bounds = ([v.lb for v in model.vars], [v.ub for v in model.vars])
    integral = np.array([0 if v.var_type == "C" else 1 for v in model.vars])
    matrix = csr_matrix((values, (rows, columns)), shape=(len(low), size))
    return cost, matrix, low, high, bounds, integral


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--large", action="store_true", help="also 10 stages x 10 variants x 7 batches x 3 devices")
    sizes = (*SMALL, *(LARGE if parser.parse_args().large else ()))
    with tempfile.TemporaryDirectory() as folder:
        solve(*instance(Path(folder), 1, 2, 1, 1), plan_dir=Path(folder))  # imports
        print(
            "stages variants batches devices   options  columns  pruned   table    cost  +ties    whole"
            "   build program   scipy"
        )
        for size in sizes:
            loaded, profile = instance(Path(folder), *size)
            problem = read_problem(loaded.workload, profile)
            every = len(build_columns(problem, prune=False))
            table_s, columns = timed(lambda p=problem: build_columns(p))
            solver, program = Solver(problem, columns), Solver(problem, columns, method="program")
            build_s, _ = timed(lambda s=program: s.branches)
            ask = promises(problem)
            cost_s, _ = timed(lambda s=solver, a=ask: s.ask(replace(a, goals=(COST,)), 600.0, 0.0))
            ties_s, _ = timed(lambda s=solver, a=ask: s.ask(a, 600.0, 0.0))
            whole_s, plan = timed(
                lambda loaded=loaded, profile=profile: solve(loaded, profile, plan_dir=Path(folder), time_limit_s=600.0)
            )
            program_s, _ = timed(lambda s=program, a=ask: s.ask(replace(a, goals=(COST,)), 600.0, 0.0))
            scipy_s = scipy_seconds(program, ask)
            options = sum(len(problem.options(stage)) for stage in problem.stages)
            print(
                f"{size[0]:6} {size[1]:8} {size[2]:7} {size[3]:7} {options:9} {every:8} {len(columns):7}"
                f" {table_s:7.3f} {cost_s:7.3f} {ties_s:6.3f} {whole_s:8.3f}"
                f" {build_s:7.3f} {program_s:7.3f} {scipy_s:7.3f}  {plan.proof.status}",
                flush=True,
            )


if __name__ == "__main__":
    main()
