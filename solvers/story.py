"""Plans and verdicts in words."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from inferplan.estimators.accuracy import Turn
from inferplan.estimators.simulation import SimulationResult
from inferplan.solvers.milp import Solution, instance
from inferplan.solvers.parts import ways
from inferplan.solvers.problem import Problem
from inferplan.solvers.program import column_names

KEPT_FIGURES = 6


def describe(problem: Problem, solution: Solution) -> str:
    """A plan in one line: options with replicas, and the cost."""
    names = column_names(solution.columns)
    order = {stage: index for index, stage in enumerate(problem.stages)}
    parts = [
        name if column.option.need is None else f"{column.replicas} x {name}"
        for name, column in sorted(names.items(), key=lambda item: (order[item[1].stage], item[0]))
    ]
    power = "" if solution.power_w is None else f", {solution.power_w:.6g} W"
    split = _ways_text(instance(problem, solution), solution)
    return f"{', '.join(parts)}{split} at {solution.cost_usd_per_h:.6g} USD/h{power}"


def duration(seconds: float) -> str:
    """Seconds with a unit that suits them."""
    if seconds >= 1:
        return f"{seconds:.3g} s"
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} µs"


def floor_text(turn: Turn, value: float) -> str:
    """What a floor may be for a plan to keep it that reaches an accuracy; a ceiling where lower is better."""
    if turn.direction == "maximize":
        return f"at most {kept_figures(value, math.floor)}"
    return f"at least {kept_figures(value, math.ceil)}"


def kept_figures(value: float, towards: Callable[[float], int]) -> str:
    """A value with few figures, rounded to where the plan that reaches it keeps it."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    power = 10.0 ** (KEPT_FIGURES - 1 - math.floor(math.log10(abs(value))))
    # What is exact but for the last bit stays what it is.
    near = round(value * power)
    whole = near if math.isclose(near, value * power, rel_tol=1e-12) else towards(value * power)
    return f"{whole / power:.{KEPT_FIGURES}g}"


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
    chosen, problem = solution.chosen(), instance(problem, solution)
    text: dict[str, str] = {}
    for stage in problem.stages:
        by_class: dict[str, dict[str, float]] = {}
        for k, need in enumerate(problem.classes):
            variants = by_class.setdefault(need.name, {})
            variant = chosen[k, stage].option.variant
            variants[variant] = variants.get(variant, 0.0) + need.share
        named = {name: _mixed(variants) for name, variants in by_class.items()}
        if len(set(named.values())) == 1:
            text[stage] = next(iter(named.values()))
        else:
            text[stage] = ", ".join(f"{variant} ({name})" for name, variant in named.items())
    return text


def _mixed(shares: Mapping[str, float]) -> str:
    """A variant, or several with their shares."""
    used = {variant: share for variant, share in shares.items() if share > 0}
    if len(used) == 1:
        return next(iter(used))
    return " + ".join(f"{100 * share:.3g} % {variant}" for variant, share in used.items())


def _ways_text(problem: Problem, solution: Solution) -> str:
    """How classes are split over what runs."""
    text = ""
    for name, found in ways(problem, column_names(solution.columns)).items():
        if len(found) > 1:
            shares = [
                f"{100 * way.share:.3g} %" if way.requests is None else f"{way.requests} of a job" for way in found
            ]
            parts = [f"{share} by {', '.join(way.stations.values())}" for share, way in zip(shares, found, strict=True)]
            text += f" ({name}: {'; '.join(parts)})"
    return text
