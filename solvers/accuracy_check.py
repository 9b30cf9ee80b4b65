"""The checker's part on accuracy: it shares no code with the solver or the estimators.

A combination's accuracy, straight from the profile's rows and the workload: measured end to end, else composed as
declared. Curves of composition response are read, and combinations of composition fitted predicted, by other
formulas than the estimators'; a function of the user's is called again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import NormalDist

from inferplan.solvers.assurance_check import planned_accuracy
from inferplan.solvers.fitted_check import predicted
from inferplan.spec.plan import ClassPlan, Estimate, Plan
from inferplan.spec.profile import Profile
from inferplan.spec.response import CurvePoint
from inferplan.spec.rows import AccuracyRow
from inferplan.spec.usercode import load_function
from inferplan.spec.workload import Workload

PLAIN = ("product", "mean", "minimum")
Worth = Callable[[AccuracyRow], float | None]
"""What a row's accuracy counts as."""


def end_to_end(variants: Mapping[str, str], workload: Workload, profile: Profile) -> float | None:
    """Accuracy of a combination (stage -> choice); None where it is not known."""
    return _end_to_end(variants, workload, profile, lambda row: row.value)


def planned_end_to_end(
    variants: Mapping[str, str], workload: Workload, profile: Profile, said: Estimate | None
) -> float | None:
    """The same as it was planned with: on bounds, where the workload asks for confidence.

    What is neither measured nor a product, mean or minimum takes its bound from the interval that the plan says.
    """
    declared, confidence = workload.accuracy, workload.robustness.confidence
    assert declared is not None
    direction = declared.metric.direction
    known = any(combination == variants for combination, _ in _measured(workload, profile, lambda row: row.value))
    if confidence is None or known or declared.composition in PLAIN:
        return _end_to_end(variants, workload, profile, lambda row: planned_accuracy(row, workload, direction))
    value = end_to_end(variants, workload, profile)
    worse = None if said is None else said.lower if direction == "maximize" else said.upper
    if value is None or worse is None:
        return value
    normal = NormalDist()
    return value - (value - worse) * normal.inv_cdf(confidence) / normal.inv_cdf(0.975)


def check_goals(plan: Plan, workload: Workload, profile: Profile) -> Iterator[str]:
    """What is wrong with the goals a plan states, and with an objective that counts accuracies up to them."""
    for name, traffic in plan.classes.items():
        if traffic.accuracy_goal != workload.classes[name].accuracy.goal:
            yield f"class {name}: its goal is {workload.classes[name].accuracy.goal}, not {traffic.accuracy_goal}"
    said = _said_accuracy(plan, workload)
    if said is None or not any(traffic.accuracy_goal is not None for traffic in plan.classes.values()):
        return
    assert workload.accuracy is not None
    sign = 1.0 if workload.accuracy.metric.direction == "maximize" else -1.0
    total, rate = 0.0, math.fsum(traffic.rate_rps for traffic in plan.classes.values())
    for traffic in plan.classes.values():
        value = _planned(plan, traffic, workload, profile)
        if value is None:
            return
        enough = math.inf if traffic.accuracy_goal is None else sign * traffic.accuracy_goal
        total += traffic.rate_rps / rate * min(sign * value, enough)
    if not math.isclose(total, said, rel_tol=1e-6, abs_tol=1e-6):
        yield f"accuracies up to their goals are worth {total:.9g}, the plan says {said:.9g}"


def _planned(plan: Plan, traffic: ClassPlan, workload: Workload, profile: Profile) -> float | None:
    """Accuracy of a class as it was planned with: of one that is split the mean over its ways."""
    ways = [(mixture.share, mixture.routes, mixture.accuracy) for mixture in traffic.mixtures]
    alone = {stage: choices[0].option for stage, choices in traffic.routes.items()}
    mean = 0.0
    for share, routes, said in ways or [(1.0, alone, traffic.predicted.accuracy)]:
        variants = {stage: plan.options[option].choice for stage, option in routes.items()}
        value = planned_end_to_end(variants, workload, profile, said)
        if value is None:
            return None
        mean += share * value
    return mean


def _said_accuracy(plan: Plan, workload: Workload) -> float | None:
    """What the plan says its classes' accuracies are worth together, higher is better; None where it does not."""
    objective = workload.objective
    if plan.proof.solver.startswith("strategy"):
        return None  # decided by rules of its own: its proof is about cost
    if "accuracy" in plan.terms and workload.accuracy is not None:
        value = plan.terms["accuracy"].value
        return value if workload.accuracy.metric.direction == "maximize" else -value
    last = objective.lexicographic[-1] if objective.lexicographic else objective.maximize
    return plan.proof.objective if last == "accuracy" else None


def _end_to_end(variants: Mapping[str, str], workload: Workload, profile: Profile, worth: Worth) -> float | None:
    declared = workload.accuracy
    assert declared is not None
    measured = _measured(workload, profile, worth)
    for combination, value in measured:
        if combination == variants:
            return value
    if declared.composition == "table":
        return None
    if declared.composition == "response":
        return _response(variants, workload, profile, measured)
    if declared.composition == "fitted":
        return predicted(variants, workload, measured, lambda s, c: stage_value(workload, profile, s, c, worth))
    stages = workload.pipeline.stages
    asked = [s for s in sorted(variants) if declared.composition != "function" or stages[s].metric is not None]
    values = [stage_value(workload, profile, stage, variants[stage], worth) for stage in asked]
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None
    if declared.composition == "function":
        assert declared.function is not None
        return float(load_function(declared.function, workload.root)(dict(zip(asked, known, strict=True))))
    if declared.composition == "product":
        return math.prod(known)
    if declared.composition == "mean":
        return math.fsum(known) / len(known)
    return min(known) if declared.metric.direction == "maximize" else max(known)


def _measured(workload: Workload, profile: Profile, worth: Worth) -> list[tuple[dict[str, str], float]]:
    assert workload.accuracy is not None
    stages = workload.pipeline.stages
    found = []
    for row in profile.accuracy:
        value = worth(row)
        if row.scope == "pipeline" and row.metric == workload.accuracy.metric.name and value is not None:
            combination: dict[str, str] = json.loads(row.combination)
            if set(combination) == set(stages) and all(c in stages[s].choices() for s, c in combination.items()):
                found.append((combination, value))
    return found


def stage_value(workload: Workload, profile: Profile, stage: str, choice: str, worth: Worth) -> float | None:
    """The stage's metric of a choice: measured, else declared."""
    metric = workload.pipeline.stages[stage].metric
    found = [
        worth(row)
        for row in profile.accuracy
        if (row.scope, row.stage) == ("stage", stage)
        and _of_choice(row, choice)
        and metric is not None
        and row.metric == metric.name
        and row.status == "ok"
    ]
    return found[-1] if found else _declared(workload, stage, choice)


def _of_choice(row: AccuracyRow, choice: str) -> bool:
    return (f"{row.variant}@{row.modalities}" if row.modalities else row.variant) == choice


def _declared(workload: Workload, stage: str, choice: str) -> float | None:
    """The accuracy that the workload declares of a variant, which is with all of its modalities."""
    name, _, subset = choice.partition("@")
    variant = workload.pipeline.stages[stage].variants[name]
    every = set(variant.modalities.reads) if variant.modalities else set()
    return variant.accuracy if set(subset.split("+")) - {""} == every else None


def _response(
    variants: Mapping[str, str],
    workload: Workload,
    profile: Profile,
    measured: Sequence[tuple[dict[str, str], float]],
) -> float | None:
    """Recursion from the last stage to the entry."""
    assert workload.accuracy is not None
    responses = workload.accuracy.responses
    edges = workload.pipeline.edges
    (last,) = (s for s in workload.pipeline.stages if all(edge.source != s for edge in edges))

    def output(stage: str, chosen: Mapping[str, str]) -> float | None:
        feeding = {edge.source: output(edge.source, chosen) for edge in edges if edge.target == stage}
        given = {source: value for source, value in feeding.items() if value is not None}
        if len(given) < len(feeding):
            return None
        if stage in responses:
            return _read(responses[stage].curves[chosen[stage]], given)
        if stage == last and feeding:
            points = [
                (math.prod(inputs_of(stage, combination)), value)
                for combination, value in measured
                if combination[stage] == chosen[stage]
            ]
            assert workload.accuracy is not None
            return _isotonic(points, math.prod(given.values()), workload.accuracy.metric.direction == "maximize")
        own = stage_value(workload, profile, stage, chosen[stage], lambda row: row.value)
        return None if own is None else own * math.prod(given.values())

    def inputs_of(stage: str, chosen: Mapping[str, str]) -> list[float]:
        values = [output(edge.source, chosen) for edge in edges if edge.target == stage]
        return [math.nan if value is None else value for value in values]

    return output(last, variants)


def _read(points: Sequence[CurvePoint], given: Mapping[str, float]) -> float:
    """Straight along one axis after the other."""
    if not given:
        return points[0].output
    name, value = sorted(given.items())[0]
    rest = {other: at for other, at in given.items() if other != name}
    axis = sorted({point.given[name] for point in points})
    value = min(max(value, axis[0]), axis[-1])
    below = max(at for at in axis if at <= value)
    above = min(at for at in axis if at >= value)
    low, high = (_read([p for p in points if p.given[name] == at], rest) for at in (below, above))
    return low if below == above else low + (high - low) * (value - below) / (above - below)


def _isotonic(points: Sequence[tuple[float, float]], at: float, rising: bool) -> float | None:
    """The monotone least-squares fit by its max-min formula, read at an input."""
    points = sorted((x, y if rising else -y) for x, y in points if not math.isnan(x))
    inputs = sorted({x for x, _ in points})
    if len({round(x, 9) for x in inputs}) < 2 or not inputs[0] - 1e-9 <= at <= inputs[-1] + 1e-9:
        return None
    values = [y for _, y in points]
    fitted = [
        max(min(math.fsum(values[a : b + 1]) / (b + 1 - a) for b in range(i, len(values))) for a in range(i + 1))
        for i in range(len(values))
    ]
    levels = []
    for x in inputs:
        own = [level for level, (given, _) in zip(fitted, points, strict=True) if given == x]
        levels.append(math.fsum(own) / len(own))
    at = min(max(at, inputs[0]), inputs[-1])
    below = max(i for i, x in enumerate(inputs) if x <= at)
    above = min(i for i, x in enumerate(inputs) if x >= at)
    share = 0.0 if above == below else (at - inputs[below]) / (inputs[above] - inputs[below])
    level = levels[below] + (levels[above] - levels[below]) * share
    return level if rising else -level
