"""What strategies have in common: what they are told of an instance, and how their picks become a deployment.

The published systems know one stream of requests with one latency limit and one accuracy. Where a workload has
several classes they are told the sum of the rates, the strictest limit and the strictest floor. Where the fan-out of
a stage depends on its variant they count on that of the most accurate one; what is deployed meets the real load.

They know no robustness either. Of what the workload asks they are told what they can make use of: the load of the
highest level, with the headroom on top, and times and accuracies at their bounds. Machines that may be lost they do
not plan for.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from inferplan.estimators.accuracy import Turn
from inferplan.estimators.cost import fitting
from inferplan.solvers.columns import column_for
from inferplan.solvers.judge import Judge
from inferplan.solvers.milp import Solution, solution_of
from inferplan.solvers.options import Option
from inferplan.solvers.problem import Problem
from inferplan.spec.errors import InfeasibleError


@dataclass(frozen=True)
class Tools:
    """The simulator, and how long a strategy may take."""

    judge: Judge
    time_limit_s: float = 60.0
    gap: float = 1e-6

    def deadline(self) -> float:
        """When the time of a strategy that begins now is over."""
        return time.monotonic() + self.time_limit_s


@dataclass(frozen=True)
class Pick:
    """What runs a stage."""

    option: Option
    replicas: int


Proposer = Callable[[Problem, Tools], Solution]


def deploy(problem: Problem, picks: Mapping[str, Pick]) -> Solution:
    """The deployment that picks make, for all classes together."""
    variants = {stage: pick.option.variant for stage, pick in picks.items()}
    columns = tuple(
        column_for(problem, stage, picks[stage].option, picks[stage].replicas, variants) for stage in problem.stages
    )
    return solution_of(problem, columns)


def loads_rps(problem: Problem) -> dict[str, float]:
    """Calls per second of every stage, below the most accurate variants, that capacity is planned for."""
    assured = problem.assurance
    total = sum(need.rate_rps for need in problem.classes) * max(assured.levels) / (1 - assured.headroom)
    best = {stage: heaviest(problem, stage) for stage in problem.stages}
    return {stage: total * problem.laws.calls(stage, best).mean for stage in problem.stages}


def limit_s(problem: Problem) -> float:
    """The strictest latency limit; infinite where there is none."""
    return min((need.limit_s for need in problem.classes if need.limit_s is not None), default=math.inf)


def floor(problem: Problem) -> float | None:
    """The strictest accuracy floor, in the user's direction."""
    floors = [need.floor for need in problem.classes if need.floor is not None]
    if not floors or problem.accuracy is None:
        return None
    return max(floors, key=problem.accuracy.turn.turned)


def keeps_floor(problem: Problem, variants: Mapping[str, str]) -> bool:
    """Whether a combination keeps the strictest floor."""
    asked = floor(problem)
    if asked is None or problem.accuracy is None:
        return True
    value = problem.accuracy.of(variants)
    return value is not None and problem.accuracy.turn.keeps(value.value, asked)


def metric(problem: Problem, stage: str, variant: str) -> float:
    """The stage metric of a variant, turned so that higher is better: by its own direction, which need not be that of
    the end-to-end metric. What is not known is worse than anything."""
    value = problem.accuracy.values.get((stage, variant)) if problem.accuracy is not None else None
    own = problem.workload.pipeline.stages[stage].metric
    return -math.inf if value is None or own is None else Turn(own.direction).turned(value.value)


def seconds(problem: Problem, stage: str, variant: str) -> float:
    """Service time of one call on the variant's fastest option; 0 for skip variants."""
    times = [option.service.mean_s(1) for option in options(problem, stage, variant) if option.service is not None]
    return min(times, default=0.0)


def options(problem: Problem, stage: str, variant: str) -> list[Option]:
    """Options of a variant."""
    return [option for option in problem.options(stage) if option.variant == variant]


def lightest(problem: Problem, stage: str) -> str:
    """The variant of lowest metric; of those, and where none is known, the fastest."""
    return min(problem.variants(stage), key=lambda v: (metric(problem, stage, v), seconds(problem, stage, v), v))


def heaviest(problem: Problem, stage: str) -> str:
    """The variant of highest metric; where none is known, the slowest."""
    return max(problem.variants(stage), key=lambda v: (metric(problem, stage, v), seconds(problem, stage, v), v))


def replica_usd_per_h(problem: Problem, option: Option) -> float:
    """A replica's share of its machine's price; 0 for skip variants."""
    if option.need is None:
        return 0.0
    device = problem.devices[option.device]
    return device.tariff.hourly_usd / fitting(device.capacity, option.need)


def replicas_for(option: Option, load_rps: float, share: float = 1.0) -> int:
    """Fewest replicas whose capacity, or a share of it, carries a load."""
    if option.service is None:
        return 0
    return max(1, math.ceil(load_rps / (share * option.service.capacity_per_s(option.max_batch)) - 1e-9))


def path_s(problem: Problem, stage_s: Mapping[str, float]) -> float:
    """The longest path's sum."""
    return max(sum(stage_s[stage] for stage in path) for path in problem.paths)


def none_found(strategy: str, why: str) -> InfeasibleError:
    """The strategy has no answer."""
    return InfeasibleError(f"{strategy} finds no deployment: {why}")


def undelayed(candidates: Iterable[Option]) -> list[Option]:
    """Options without a queue delay, where they have one without."""
    listed = list(candidates)
    least = min((option.max_queue_delay_s for option in listed if option.max_batch > 1), default=0.0)
    return [option for option in listed if option.max_batch == 1 or option.max_queue_delay_s == least]
