"""The checker's part on the table of choices: it shares no code with the solver or the estimators.

Of every row it recomputes the accuracy, the cost and whether calls can go that way; latencies, which only a simulation
knows, must be no less than what batches on the way take in the mean. No row may be as good as another, the cheapest
come first, and every way that a level of a model-less class was certified on must be in the table, or one as good.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from inferplan.solvers.accuracy_check import PLAIN, end_to_end, planned_end_to_end
from inferplan.solvers.bill_check import least_batch_s, replica_share
from inferplan.solvers.traffic_check import BYTES_PER_GB, calls_rps, products, size_bytes, words
from inferplan.spec.plan import Choice, Plan
from inferplan.spec.profile import Profile
from inferplan.spec.selection import Selection, ServingRoute
from inferplan.spec.workload import Workload

RELATIVE = 1e-6
HIGH_PERCENTILE = 90.0
"""From here on a percentile below half of the mean is not believed."""


def check_selection(plan: Plan, workload: Workload, profile: Profile) -> Iterator[str]:
    """What is wrong with the plan's table of choices, and with what it says of model-less classes."""
    levels = {name: traffic.level_of for name, traffic in workload.classes.items() if traffic.level_of is not None}
    for name, traffic in plan.classes.items():
        owner = levels[name][0] if name in levels else None
        if traffic.asked_of != owner:
            yield f"class {name}: said to be asked of {traffic.asked_of}, and is of {owner}"
    if not levels:
        if plan.selection is not None:
            yield "the plan has a table of choices, and no class asks for one"
        return
    if plan.selection is None:
        return
    yield from _head(plan.selection, levels, workload)
    for index, row in enumerate(plan.selection.rows):
        way = _alone(plan, next(iter(levels)), row, workload)
        if way is None:
            yield f"choices, row {index}: it does not go through every stage"
            continue
        for finding in (*_links(way, workload, profile), *_worth(plan, way, row, workload, profile)):
            yield f"choices, row {index}: {finding}"
    yield from _order(plan.selection)
    yield from _coverage(plan, levels, workload)


def _head(selection: Selection, levels: Mapping[str, object], workload: Workload) -> Iterator[str]:
    asked = {slo.percentile for name in levels if (slo := workload.classes[name].slo) is not None}
    if asked - {selection.percentile}:
        yield f"choices: latencies at percentile {selection.percentile}, asked for at {sorted(asked)}"
    metric = None if workload.accuracy is None else workload.accuracy.metric
    if metric is not None and (selection.metric, selection.direction) != (metric.name, metric.direction):
        yield f"choices: metric {selection.metric}, {selection.direction}d, is not the workload's"


def _alone(plan: Plan, level: str, row: ServingRoute, workload: Workload) -> Plan | None:
    """The plan with one class that sends one request per second this way; None where it misses a stage."""
    if set(row.options) != set(workload.pipeline.stages):
        return None
    routes = {stage: [Choice(option=name, share=1.0)] for stage, name in row.options.items()}
    lone = plan.classes[level].model_copy(update={"rate_rps": 1.0, "routes": routes})
    return plan.model_copy(update={"classes": {level: lone}})


def _links(way: Plan, workload: Workload, profile: Profile) -> Iterator[str]:
    links = {(link.source, link.target) for link in workload.links.values()}
    for key in products(way, next(iter(way.classes)), workload, profile):
        if key[2] != key[3] and key[2:] not in links:
            yield f"calls go {words(key)}, and there is no link"


def _worth(plan: Plan, way: Plan, row: ServingRoute, workload: Workload, profile: Profile) -> Iterator[str]:
    cost = _cost_usd(way, workload, profile)
    if not math.isclose(cost, row.cost_usd_per_request, rel_tol=RELATIVE, abs_tol=1e-15):
        yield f"a request costs {cost:.9g} USD, the plan says {row.cost_usd_per_request:.9g}"
    yield from _accuracy(way, row, workload, profile)
    slowest = max(
        math.fsum(
            least_batch_s(plan.options[row.options[stage]], workload, profile) * _once(stage, workload)
            for stage in path
        )
        for path in workload.pipeline.paths()
    )
    latency = row.latency_s
    assert plan.selection is not None
    if latency.upper < latency.value or (
        plan.selection.percentile >= HIGH_PERCENTILE and latency.upper < slowest * 0.5
    ):
        yield f"latency of {latency.value} to {latency.upper} s is far below the {slowest} s of its stages"


def _accuracy(way: Plan, row: ServingRoute, workload: Workload, profile: Profile) -> Iterator[str]:
    if workload.accuracy is None:
        return
    routes = next(iter(way.classes.values())).routes
    variants = {stage: way.options[choices[0].option].choice for stage, choices in routes.items()}
    value = planned_end_to_end(variants, workload, profile, None)
    bounded = workload.robustness.confidence is not None and workload.accuracy.composition not in PLAIN
    if bounded and value is not None and row.accuracy is not None and value == end_to_end(variants, workload, profile):
        # The bound of a prediction rests on its interval, which the table does not say: it is no better than the value.
        sign = 1.0 if workload.accuracy.metric.direction == "maximize" else -1.0
        if sign * row.accuracy > sign * value + RELATIVE * abs(value):
            yield f"accuracy {row.accuracy} is better than the {value} that is known"
        return
    if (value is None) != (row.accuracy is None) or (
        value is not None and row.accuracy is not None and not math.isclose(value, row.accuracy, rel_tol=RELATIVE)
    ):
        yield f"accuracy is {value}, the plan says {row.accuracy}"


def _cost_usd(way: Plan, workload: Workload, profile: Profile) -> float:
    """Price of the capacity and the traffic of one request."""
    devices = workload.devices()
    ((name, traffic),) = way.classes.items()
    total = 0.0
    for stage, choices in traffic.routes.items():
        option = way.options[choices[0].option]
        if option.runtime == "skip" or option.predicted.capacity_rps is None:
            continue
        device = devices[option.device]
        price = device.price_usd_per_h * replica_share(device, option) * option.replicas
        alone = option.predicted.capacity_rps * option.predicted.interference
        total += calls_rps(way, name, stage, workload, profile) * price / 3600 / alone
    links = {(link.source, link.target): link for link in workload.links.values()}
    for key, calls in products(way, name, workload, profile).items():
        link = links.get(key[2:])
        if link is not None:
            size = size_bytes(key, traffic, way, workload, profile)
            total += calls * size / BYTES_PER_GB * link.price_usd_per_gb
    return total


def _once(stage: str, workload: Workload) -> int:
    """1 for a stage that every request calls exactly once."""
    feeding = [edge for edge in workload.pipeline.edges if edge.target == stage]
    return int(all(edge.fan_out == 1.0 and _once(edge.source, workload) for edge in feeding))


def _no_worse(one: ServingRoute, other: ServingRoute, sign: float) -> bool:
    """Whether a row is as good as another in all three."""
    accuracies = [-math.inf if row.accuracy is None else sign * row.accuracy for row in (one, other)]
    return (
        accuracies[0] >= accuracies[1]
        and one.latency_s.upper <= other.latency_s.upper
        and one.cost_usd_per_request <= other.cost_usd_per_request
    )


def _order(selection: Selection) -> Iterator[str]:
    sign = 1.0 if selection.direction == "maximize" else -1.0
    costs = [row.cost_usd_per_request for row in selection.rows]
    if costs != sorted(costs):
        yield "choices: the cheapest do not come first"
    for i, one in enumerate(selection.rows):
        for j, other in enumerate(selection.rows):
            if i != j and _no_worse(one, other, sign):
                yield f"choices: row {j} is no better than row {i} in anything"


def _coverage(plan: Plan, levels: Mapping[str, object], workload: Workload) -> Iterator[str]:
    """Whoever asks for just what a certified class was promised must find a row."""
    assert plan.selection is not None
    for name in sorted(levels):
        claim = plan.certificate.classes.get(name) if plan.certificate else None
        floor = workload.classes[name].accuracy.floor
        if claim is not None and claim.verdict == "met" and not plan.selection.keeping(floor, claim.limit_s):
            yield f"choices: no row keeps what class {name} was promised"
