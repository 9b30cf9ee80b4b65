"""Judging a choice of columns by simulation, and what the program believes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from inferplan.estimators.network import Network, Station, build_network
from inferplan.estimators.simulation import Effort, SimulationResult, simulate
from inferplan.solvers.columns import Column
from inferplan.solvers.milp import Solution
from inferplan.solvers.problem import Problem
from inferplan.solvers.program import column_names

SEARCH = Effort(calls=1_000_000)
FINAL = Effort(calls=6_000_000)
GLANCE = Effort(calls=150_000)


def network_of(problem: Problem, columns: tuple[Column, ...]) -> Network:
    """The network of queues that chosen columns make."""
    routes: dict[str, dict[str, list[tuple[str, float]]]] = {need.name: {} for need in problem.classes}
    stations = []
    for name, column in column_names(columns).items():
        option = column.option
        stations.append(
            Station(
                name, option.stage, option.variant, column.replicas, option.max_batch, option.max_queue_delay_s,
                option.service,
            )
        )  # fmt: skip
        for k in column.classes:
            routes[problem.classes[k].name][option.stage] = [(name, 1.0)]
    return build_network(problem.workload, problem.laws, stations, routes)


def believed(problem: Problem, solution: Solution) -> dict[str, float]:
    """Latency over limit that the program tabulates for each class with an SLO: the longest path, its slowest stage
    passed as a whole."""
    chosen = solution.chosen()
    ratios: dict[str, float] = {}
    for k, need in enumerate(problem.classes):
        if need.limit_s is None:
            continue
        worst = 0.0
        for path in problem.paths:
            parts = [chosen[k, stage] for stage in path]
            single = [c.single_s[c.classes.index(k)] for c in parts]
            extra = [c.whole_s[c.classes.index(k)] - s for c, s in zip(parts, single, strict=True)]
            worst = max(worst, sum(single) + max([*extra, 0.0]))
        ratios[need.name] = worst / need.limit_s
    return ratios


@dataclass
class Judge:
    """Simulates plans with one seed; a plan is simulated once per effort."""

    problem: Problem
    seed: int
    _seen: dict[tuple[frozenset[Column], Effort], SimulationResult] = field(default_factory=dict)

    def judge(self, solution: Solution, effort: Effort = SEARCH) -> SimulationResult:
        """What the simulation says of a plan."""
        key = (frozenset(solution.columns), effort)
        if key not in self._seen:
            self._seen[key] = simulate(network_of(self.problem, solution.columns), self.seed, effort)
        return self._seen[key]

    def certain(self, solution: Solution) -> SimulationResult:
        """The same, with more effort where the search's was not enough to decide."""
        result = self.judge(solution)
        return self.judge(solution, FINAL) if result.verdict == "undecided" else result

    def seen(self) -> int:
        """How many simulations were run."""
        return len(self._seen)


def measured(result: SimulationResult, limits: Mapping[str, float]) -> dict[str, float]:
    """Simulated latency over limit of each class with an SLO, at the SLO's percentile."""
    ratios: dict[str, float] = {}
    for name, limit in limits.items():
        latency = result.streams[name].latency_slo_s
        assert latency is not None
        ratios[name] = latency.value / limit
    return ratios


def limits_s(problem: Problem) -> dict[str, float]:
    """Latency limits of the classes that have one."""
    return {need.name: need.limit_s for need in problem.classes if need.limit_s is not None}
