"""Which way a request goes that names accuracy and latency, and no class or variant.

What a level of a model-less class asks goes the way that the level is planned to go. Anything else goes the first way
of the plan's table that keeps it. Where calls wait, the next way that keeps it is taken instead: a way is passed over
while what waits at its options, worked off at their capacity, and what they take in the mean are together more than
the latency asked for, or an option has no replica left. If all are, the one that would be done first is taken.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from inferplan.runner.oip import ProtocolError
from inferplan.spec.plan import Choice, ClassPlan, Plan
from inferplan.spec.selection import Selection, same_ask
from inferplan.spec.workload import Workload

TRAFFIC_CLASS, ACCURACY, LATENCY = "traffic_class", "accuracy", "latency_s"
_OF_PROTOCOL = (
    "binary_data_output", "sequence_id", "sequence_start", "sequence_end", "priority", "timeout",
)  # fmt: skip
"""What clients of the protocol may send besides; none but the first changes an answer."""
UNKEEPABLE = 422


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks for; None: anything will do."""

    accuracy: float | None
    latency_s: float | None


@dataclass(frozen=True, slots=True)
class Way:
    """A way through the deployed options. `key` is what the router knows it by, `told` what the answer says of it."""

    key: str
    options: Mapping[str, str]
    told: Mapping[str, str | float]


def read_parameters(parameters: Mapping[str, Any]) -> tuple[str | None, Asked | None]:
    """The class that a request names, or what it asks for. Raises ProtocolError for anything else."""
    for name in parameters:
        known = (TRAFFIC_CLASS, ACCURACY, LATENCY, *_OF_PROTOCOL)
        if name not in known:
            near = difflib.get_close_matches(name, known[:3], n=1, cutoff=0.6)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known[:3])}"
            raise ProtocolError(400, f"unknown parameter {name[:80]!r}; {hint}")
    traffic = parameters.get(TRAFFIC_CLASS)
    if TRAFFIC_CLASS in parameters and not isinstance(traffic, str):
        raise ProtocolError(400, f"{TRAFFIC_CLASS} must be the name of a class, got {str(traffic)[:80]!r}")
    if ACCURACY not in parameters and LATENCY not in parameters:
        return traffic, None
    if traffic is not None:
        raise ProtocolError(400, f"give either {TRAFFIC_CLASS}, or {ACCURACY} and {LATENCY}")
    accuracy, latency_s = _number(parameters, ACCURACY), _number(parameters, LATENCY)
    if latency_s is not None and latency_s <= 0:
        raise ProtocolError(400, f"parameter {LATENCY} must be more than 0 seconds, got {latency_s:g}")
    return None, Asked(accuracy, latency_s)


def _number(parameters: Mapping[str, Any], name: str) -> float | None:
    if name not in parameters:
        return None
    given = parameters[name]
    try:
        value = math.nan if isinstance(given, bool | str) else float(given)
    except (TypeError, ValueError, OverflowError):
        value = math.nan
    if not math.isfinite(value):
        raise ProtocolError(400, f"parameter {name} must be a number, got {str(given)[:40]!r}")
    return value


def row_key(index: int) -> str:
    """What the router knows a row of the table by; no class can be called so."""
    return f"row:{index}"


def row_routes(selection: Selection | None) -> dict[str, dict[str, list[Choice]]]:
    """Routes of the table's rows, as those of classes."""
    return {
        row_key(index): {stage: [Choice(option=option, share=1.0)] for stage, option in row.options.items()}
        for index, row in enumerate(selection.rows if selection else ())
    }


class Selector:
    """Looks ways up. `waiting` says how many calls wait at an option; None: no replica of it is left."""

    def __init__(self, plan: Plan, workload: Workload, waiting: Callable[[str], int | None]) -> None:
        self._plan = plan
        self._paths = workload.pipeline.paths()
        self._waiting = waiting
        selection = plan.selection
        self._rows = [self._row(selection, index) for index in range(len(selection.rows))] if selection else []
        self._levels = [
            (Asked(traffic.accuracy_floor, traffic.slo_latency_s), self._level(name, traffic))
            for name, traffic in sorted(plan.classes.items())
            if traffic.asked_of is not None and not _missed(plan, name)
        ]

    def choose(self, asked: Asked) -> Way:
        """The way a request goes. Raises ProtocolError where no deployed one keeps what it asks."""
        selection = self._plan.selection
        if selection is None:
            raise ProtocolError(
                400,
                f"this plan has no table of choices: name a {TRAFFIC_CLASS}, or give a class of the workload `asks` and"
                " solve again",
            )
        rows = [self._rows[index] for index in selection.keeping(asked.accuracy, asked.latency_s)]
        ways = [*(way for level, way in self._levels if _same(level, asked)), *rows]
        if not ways:
            raise ProtocolError(UNKEEPABLE, selection.refusal(asked.accuracy, asked.latency_s))
        return self._first_in_time(ways, math.inf if asked.latency_s is None else asked.latency_s)

    def _first_in_time(self, ways: Sequence[Way], limit_s: float) -> Way:
        soonest, soonest_s = ways[0], math.inf
        for way in ways:
            expected_s = self._expected_s(way)
            if expected_s <= limit_s and math.isfinite(expected_s):
                return way
            if expected_s < soonest_s:
                soonest, soonest_s = way, expected_s
        return soonest

    def _expected_s(self, way: Way) -> float:
        """When a request that goes now would be answered: on its slowest path, what waits and what is usual."""
        return max(math.fsum(self._at_s(way.options[stage]) for stage in path) for path in self._paths)

    def _at_s(self, option: str) -> float:
        predicted = self._plan.options[option].predicted
        if predicted.capacity_rps is None:
            return 0.0
        waiting = self._waiting(option)
        if waiting is None:
            return math.inf
        return waiting / predicted.capacity_rps + (predicted.latency_mean_s or 0.0)

    def _row(self, selection: Selection, index: int) -> Way:
        row = selection.rows[index]
        told = self._told(row.options, row.accuracy, row.latency_s.upper)
        return Way(row_key(index), row.options, {**told, "cost_usd_per_request": row.cost_usd_per_request})

    def _level(self, name: str, traffic: ClassPlan) -> Way:
        options = {stage: choices[0].option for stage, choices in traffic.routes.items()}
        accuracy, tail = traffic.predicted.accuracy, traffic.predicted.latency_slo_s
        latency_s = None if tail is None else tail.value if tail.upper is None else tail.upper
        told = self._told(options, None if accuracy is None else accuracy.value, latency_s)
        return Way(name, options, {TRAFFIC_CLASS: name, **told})

    def _told(
        self, options: Mapping[str, str], accuracy: float | None, latency_s: float | None
    ) -> dict[str, str | float]:
        """What an answer says of who answered."""
        choices = {stage: self._plan.options[option].choice for stage, option in options.items()}
        told: dict[str, str | float] = {"variants": ",".join(f"{s}={choice}" for s, choice in sorted(choices.items()))}
        if accuracy is not None:
            told["predicted_accuracy"] = accuracy
        if latency_s is not None:
            told["predicted_latency_s"] = latency_s
        return told


def _missed(plan: Plan, name: str) -> bool:
    """Whether a class is predicted not to get what it asks: then it is answered by what does keep it, if anything."""
    claim = plan.certificate.classes.get(name) if plan.certificate else None
    return claim is not None and claim.verdict == "missed"


def _same(one: Asked, other: Asked) -> bool:
    return same_ask(one.accuracy, other.accuracy) and same_ask(one.latency_s, other.latency_s)
