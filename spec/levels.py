"""Classes of model-less requests as the levels they consist of: one class for everything that is asked.

A class whose requests come independently of one another and ask independently (poisson, diurnal) is the sum of
independent classes, one for each thing asked, with its share of the rate. So nothing is lost by planning, simulating
and running the levels: `NAME-1`, `NAME-2`, ... in the order of the mix.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from inferplan.spec.asks import Asked
from inferplan.spec.workload import AccuracyGoal, Slo, TrafficClass, Workload

MAX_NAME = 64
Finding = tuple[tuple[str | int, ...], str]


def with_levels(workload: Workload) -> Workload:
    """The workload with every model-less class replaced by its levels."""
    if not any(traffic.asks for traffic in workload.classes.values()):
        return workload
    classes: dict[str, TrafficClass] = {}
    for name, traffic in workload.classes.items():
        classes |= levels(name, traffic) if traffic.asks is not None else {name: traffic}
    return workload.model_copy(update={"classes": classes})


def levels(name: str, traffic: TrafficClass) -> dict[str, TrafficClass]:
    """The classes that a model-less class consists of, by name."""
    asks = traffic.asks
    assert asks is not None
    total = math.fsum(asked.weight for asked in asks.mix)
    found: dict[str, TrafficClass] = {}
    for index, asked in enumerate(asks.mix):
        # Copied, not validated again: it has the class's arrivals or trace, whichever it is.
        level = traffic.model_copy(
            update={
                "rate_rps": None if traffic.rate_rps is None else traffic.rate_rps * asked.weight / total,
                "slo": None if asked.latency_s is None else Slo(percentile=asks.percentile, latency_s=asked.latency_s),
                "accuracy": AccuracyGoal(floor=asked.accuracy),
                "asks": None,
            }
        )
        found[level_name(name, index)] = level.as_level(name, index)
    return found


def level_name(name: str, index: int) -> str:
    """Name of a class's level."""
    return f"{name}-{index + 1}"


def written_as(workload: Workload, name: str) -> str:
    """The class that the workload's author wrote: of a level the one it is of."""
    level = workload.classes[name].level_of
    return name if level is None else level[0]


def promise_path(workload: Workload, name: str, what: str) -> str:
    """Where a class's promise stands in the workload; `what`: slo, slo.latency_s or accuracy.floor."""
    level = workload.classes[name].level_of
    if level is None:
        return f"classes.{name}.{what}"
    owner, index = level
    return f"classes.{owner}.asks.mix[{index}].{'latency_s' if what.startswith('slo') else 'accuracy'}"


def ask_findings(workload: Workload) -> Iterator[Finding]:
    """What is wrong with model-less classes that no single field can be wrong about."""
    asking = {name: traffic for name, traffic in workload.classes.items() if traffic.asks is not None}
    first = next(iter(asking), None)
    for name, traffic in asking.items():
        assert traffic.asks is not None
        at = ("classes", name, "asks")
        seen: dict[tuple[float | None, float | None], int] = {}
        for index, asked in enumerate(traffic.asks.mix):
            yield from _one(workload, (*at, "mix", index), asked)
            other = seen.setdefault((asked.accuracy, asked.latency_s), index)
            if other != index:
                yield (*at, "mix", index), f"asks for the same as mix[{other}]: add up their weights"
            level = level_name(name, index)
            if level in workload.classes:
                yield (*at, "mix", index), f"this is planned as class {level}, which is there already: rename that one"
            if len(level) > MAX_NAME:
                yield ("classes", name), f"{name} is too long a name for a class with asks: {level} must fit in 64"
        assert first is not None
        leader = asking[first]
        assert leader.asks is not None
        if traffic.asks.percentile != leader.asks.percentile:
            yield (
                (*at, "percentile"),
                f"class {first} asks at percentile {leader.asks.percentile:g}: a plan has one table for all that ask,"
                " so use one percentile",
            )
        if traffic.enters_at != leader.enters_at:
            yield (
                ("classes", name, "enters_at"),
                f"class {first} enters at {leader.enters_at}: a plan has one table for all that ask, so they enter at"
                " one tier",
            )


def _one(workload: Workload, at: tuple[str | int, ...], asked: Asked) -> Iterator[Finding]:
    if asked.accuracy is not None and workload.accuracy is None:
        yield (*at, "accuracy"), "the workload has no 'accuracy' with a metric to hold this to"
