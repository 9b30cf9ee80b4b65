"""Judging a choice of columns by simulation, and what the program believes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from inferplan.estimators.network import Network, Station, build_network, delayed
from inferplan.estimators.simulation import Effort, SimulationResult, StreamResult, simulate
from inferplan.solvers.assurance import Case, at_level, cases
from inferplan.solvers.columns import Column
from inferplan.solvers.milp import Solution, instance
from inferplan.solvers.neighbours import machines_of, tenants
from inferplan.solvers.parts import routes_of, ways
from inferplan.solvers.problem import Problem
from inferplan.solvers.program import column_names
from inferplan.solvers.tier_flows import latency_ratios
from inferplan.solvers.tier_flows import stations as stations_of

FINAL_CALLS, SEARCHED = 6_000_000, 1 / 8
SEARCH = Effort(calls=int(SEARCHED * FINAL_CALLS), part=(0.0, SEARCHED))
FINAL = Effort(calls=FINAL_CALLS, part=(SEARCHED, 1.0))
"""Of what the search's effort leaves undecided. Verdicts of both together are as sure as those of one look."""
GLANCE = Effort(calls=150_000)


SETTLING = Effort(calls=60_000)
PASSES = 4
SETTLED = 5e-3
HOPELESS = 100.0

Slowdowns = Mapping[str, tuple[float, ...]]
"""Factor of every replica's times by option; options that nothing slows down are left out."""


def network_of(problem: Problem, columns: tuple[Column, ...], slowdowns: Slowdowns | None = None) -> Network:
    """The network of queues that chosen columns make."""
    named = column_names(columns)
    stations = []
    for name, column in named.items():
        option = column.option
        stations.append(
            Station(
                name, option.stage, option.variant, column.replicas, option.max_batch, option.max_queue_delay_s,
                option.service, (slowdowns or {}).get(name, ()), order=option.order,
            )
        )  # fmt: skip
    network = build_network(problem.workload, problem.laws, stations, routes_of(problem, named), ways(problem, named))
    return delayed(network, problem.workload, problem.payloads, stations_of(problem, named))


def certified(network: Network, seed: int) -> SimulationResult:
    """What the simulation says of a network: with the search's effort, and with more where that does not decide."""
    result = simulate(network, seed, SEARCH)
    return simulate(network, seed, FINAL) if result.verdict == "undecided" else result


def believed(problem: Problem, solution: Solution) -> dict[str, float]:
    """Latency over limit that the program tabulates for each class with an SLO."""
    return latency_ratios(problem, solution.columns)


_Place = tuple[frozenset[Column], tuple[tuple[tuple[str, int], ...], ...]]


@dataclass
class Judge:
    """Simulates plans with one seed; a plan is simulated once per effort and packing."""

    problem: Problem
    seed: int
    final: Effort = FINAL
    """What is spent on a plan that the search's effort cannot decide; then it counts as not certified."""
    _levels: dict[float, Judge] = field(default_factory=dict)
    """Judges of the same at other load levels."""
    _seen: dict[tuple[_Place, Effort], SimulationResult] = field(default_factory=dict)
    _slow: dict[_Place, Slowdowns] = field(default_factory=dict)

    def judge(self, solution: Solution, effort: Effort = SEARCH) -> SimulationResult:
        """What the simulation says of a plan, at its load and with all of its machines."""
        key = (_place(solution), effort)
        if key not in self._seen:
            network = network_of(instance(self.problem, solution), solution.columns, self.slowdowns(solution))
            self._seen[key] = simulate(network, self.seed, effort)
        return self._seen[key]

    def nominal(self, solution: Solution) -> SimulationResult:
        """The same, with more effort where the search's was not enough to decide."""
        result = self.judge(solution)
        return self.judge(solution, self.final) if result.verdict == "undecided" else result

    def certain(self, solution: Solution) -> SimulationResult:
        """The worst of all that the plan must withstand: what is expected, other load levels, lost machines."""
        results = [self.nominal(solution)]
        if results[0].verdict != "missed":
            for case in cases(self.problem, solution):
                results.append(self.in_case(case, solution))
                if results[-1].verdict == "missed":
                    break
        return _worst(results, self._crowded(solution))

    def in_case(self, case: Case, solution: Solution) -> SimulationResult:
        """What the simulation says of a plan in another situation."""
        return self._at(case.level).nominal(case.solution or solution)

    def _at(self, level: float) -> Judge:
        if level == 1.0:
            return self
        if level not in self._levels:
            self._levels[level] = Judge(at_level(self.problem, level), self.seed, self.final)
        return self._levels[level]

    def _crowded(self, solution: Solution) -> tuple[str, ...]:
        """Options that are left less headroom than asked, for what runs beside them; the program sees the rest."""
        headroom, top = self.problem.assurance.headroom, max(self.problem.assurance.levels)
        if headroom == 0:
            return ()
        network = network_of(instance(self.problem, solution), solution.columns, self.slowdowns(solution))
        loads = network.loads_rps()
        return tuple(
            f"{name}: {top * loads[name] / station.capacity_rps:.6g} of its capacity is used, {1 - headroom:g} allowed"
            for name, station in sorted(network.stations.items())
            if top * loads[name] > (1 - headroom) * station.capacity_rps * (1 + 1e-9)
        )

    def slowdowns(self, solution: Solution) -> Slowdowns:
        """How much slower every replica is for what runs beside it on its machine.

        That depends on how busy the neighbours are, which depends on how much slower they are themselves: found
        together, from below, by short simulations.
        """
        key = _place(solution)
        if key not in self._slow:
            self._slow[key] = self._settled(solution) if self.problem.interference.matters else {}
        return self._slow[key]

    def _settled(self, solution: Solution) -> Slowdowns:
        interference = self.problem.interference
        beside, machines = tenants(self.problem, solution.columns), machines_of(solution)
        busy = {name: column.utilisation for name, column in column_names(solution.columns).items()}
        slow: Slowdowns = interference.slowdowns(beside, machines, busy)
        for _ in range(PASSES):
            network = network_of(instance(self.problem, solution), solution.columns, slow)
            if not slow or network.unstable():
                break
            seen = simulate(network, self.seed, SETTLING).stations
            busy = {name: station.utilisation for name, station in seen.items()}
            again = interference.slowdowns(beside, machines, busy)
            settled = _apart(slow, again) <= SETTLED
            slow = again
            if settled:
                break
        return slow

    def seen(self) -> int:
        """How many simulations were run."""
        return len(self._seen)


_ORDER = ("missed", "undecided", "met", None)


def _worst(results: Sequence[SimulationResult], crowded: tuple[str, ...]) -> SimulationResult:
    """One result of several: of every class the worst one."""
    unstable = tuple(dict.fromkeys([*crowded, *(line for result in results for line in result.unstable)]))
    if unstable or len(results) == 1:
        return replace(results[0], unstable=unstable) if unstable else results[0]

    def rank(stream: StreamResult) -> tuple[int, float]:
        latency = stream.latency_slo_s
        return _ORDER.index(stream.verdict), -(latency.value if latency is not None else 0.0)

    streams = {name: min((r.streams[name] for r in results), key=rank) for name in results[0].streams}
    return replace(results[0], streams=streams)


def _place(solution: Solution) -> _Place:
    machines = tuple(tuple(sorted(machine.items())) for machine in machines_of(solution))
    return frozenset(solution.columns), machines


def _apart(one: Slowdowns, other: Slowdowns) -> float:
    """The largest relative difference of two replicas' factors."""
    largest = 0.0
    for name in {*one, *other}:
        count = len(one.get(name, other.get(name, ())))
        none = (1.0,) * count
        pairs = zip(one.get(name, none), other.get(name, none), strict=True)
        largest = max(largest, *(abs(a / b - 1) for a, b in pairs))
    return largest


def measured(result: SimulationResult, limits: Mapping[str, float]) -> dict[str, float]:
    """Simulated latency over limit of each class with an SLO, at the SLO's percentile; `HOPELESS` at most, which stands
    for requests that were shed and have no latency."""
    ratios: dict[str, float] = {}
    for name, limit in limits.items():
        latency = result.streams[name].latency_slo_s
        assert latency is not None
        ratios[name] = min(latency.value / limit, HOPELESS)
    return ratios


def limits_s(problem: Problem) -> dict[str, float]:
    """Latency limits of the classes that have one."""
    return {need.name: need.limit_s for need in problem.classes if need.limit_s is not None}
