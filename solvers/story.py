"""Plans and verdicts in words."""

from __future__ import annotations

from collections.abc import Mapping

from inferplan.estimators.simulation import SimulationResult
from inferplan.solvers.milp import Solution
from inferplan.solvers.problem import Problem
from inferplan.solvers.program import column_names


def describe(problem: Problem, solution: Solution) -> str:
    """A plan in one line: options with replicas, and the cost."""
    names = column_names(solution.columns)
    order = {stage: index for index, stage in enumerate(problem.stages)}
    parts = [
        name if column.option.need is None else f"{column.replicas} x {name}"
        for name, column in sorted(names.items(), key=lambda item: (order[item[1].stage], item[0]))
    ]
    power = "" if solution.power_w is None else f", {solution.power_w:.6g} W"
    return f"{', '.join(parts)} at {solution.cost_usd_per_h:.6g} USD/h{power}"


def duration(seconds: float) -> str:
    """Seconds with a unit that suits them."""
    if seconds >= 1:
        return f"{seconds:.3g} s"
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} µs"


def verdict_text(result: SimulationResult, limits: Mapping[str, float]) -> str:
    """What the simulation said of every class with an SLO."""
    if result.unstable:
        return "unstable: " + "; ".join(result.unstable)
    parts = []
    for name, limit in sorted(limits.items()):
        stream = result.streams[name]
        latency = stream.latency_slo_s
        assert latency is not None
        parts.append(f"{name} {stream.verdict}, {duration(latency.value)} of {duration(limit)}")
    return "; ".join(parts) or "every queue is stable"


def slowest_text(slowdowns: Mapping[str, tuple[float, ...]]) -> str:
    """How much the neighbours slow down those they slow down most; empty where that is less than 1 %."""
    worst = max((factor for factors in slowdowns.values() for factor in factors), default=1.0)
    return f" (neighbours slow replicas down up to {worst:.3g} times)" if worst > 1.01 else ""


def variants_text(problem: Problem, solution: Solution) -> dict[str, str]:
    """Choice per stage; where classes differ, each class's."""
    chosen = solution.chosen()
    text: dict[str, str] = {}
    for stage in problem.stages:
        by_class = {need.name: chosen[k, stage].option.variant for k, need in enumerate(problem.classes)}
        if len(set(by_class.values())) == 1:
            text[stage] = next(iter(by_class.values()))
        else:
            text[stage] = ", ".join(f"{variant} ({name})" for name, variant in by_class.items())
    return text
