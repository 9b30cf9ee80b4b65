"""The table of choices for requests that name accuracy and latency alone: what every way through the deployed options
is worth (`spec.selection` says how it is read).

A *route* r is one deployed option o per stage s; calls can go that way where there are links.

    accuracy   as the planner knows it: on bounds, where the workload asks for confidence
    cost       Σ_s c_rs price_d share_o n_o / (3600 μ_o) + tolls      USD per request: c_rs calls per request, d the
               machine of o, n_o replicas that each take `share_o` of a machine, μ_o their capacity in calls per second
    latency    the tail at the percentile of the asks, with its interval, at the planned load

Latencies of routes that classes with asks are planned on come from the simulation that judged the plan. Any other route
is simulated with a trickle of requests of its own beside the planned traffic: together they take no more than
`TRICKLE` of the room that any queue has left, and of its load, so that they hardly disturb what they measure.

*Pruning.* A row goes if another one is no less accurate, no slower (upper ends of intervals) and no dearer: whatever is
asked, the other one keeps it too, and comes first. Of equals the first by name stays.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

from inferplan.estimators.cost import BYTES_PER_GB, HOUR_S
from inferplan.estimators.network import Network, build_network, delayed
from inferplan.estimators.simulation import SimulationResult, StreamResult, simulate
from inferplan.estimators.transport import legs_of, tier_of
from inferplan.solvers.columns import Column
from inferplan.solvers.judge import SEARCH, Judge, network_of
from inferplan.solvers.milp import Solution, instance
from inferplan.solvers.problem import Problem
from inferplan.solvers.program import column_names
from inferplan.solvers.tier_flows import home
from inferplan.solvers.tier_flows import stations as stations_of
from inferplan.spec.plan import Estimate
from inferplan.spec.selection import Selection, ServingRoute, Tail
from inferplan.spec.workload import Slo, TrafficClass

MAX_ROUTES = 64
"""Beyond so many ways through the deployed options only those that classes are planned on are looked at."""
TRICKLE = 0.05
LEAST_SHARE = 1e-4
"""Of all requests: a route that leaves room for fewer of its own is not simulated."""
NO_LIMIT_S = 1e6
Way = Mapping[str, str]
"""Stage -> name of the deployed option."""


@dataclass(frozen=True)
class Table:
    """The table, and what is not in it, in words."""

    selection: Selection | None
    notes: tuple[str, ...] = ()


def table(problem: Problem, solution: Solution, judge: Judge, seen: SimulationResult) -> Table:
    """The table of a plan that was simulated (`seen`); none where no class has asks."""
    problem = instance(problem, solution)
    levels = [k for k, need in enumerate(problem.classes) if _level(problem, need.name)]
    if not levels:
        return Table(None)
    ways = _Ways(problem, column_names(solution.columns), levels)
    found, notes = ways.every()
    tails = _planned(ways, seen)
    missing = [way for way in found if _key(way) not in tails]
    tails |= _trickled(ways, missing, judge, solution, seen) if missing else {}
    unknown = sum(_key(way) not in tails for way in found)
    if unknown:
        notes.append(f"choices per request: {unknown} of {len(found)} routes get too little to say how fast they are")
    rows = undominated([ways.row(way, tails[_key(way)]) for way in found if _key(way) in tails], ways.direction)
    if not rows:
        return Table(None, tuple(notes))
    metric = None if problem.accuracy is None else problem.accuracy.metric
    selection = Selection(percentile=ways.percentile, metric=metric, direction=ways.direction, rows=rows)
    return Table(selection, tuple(notes))


def undominated(rows: Sequence[ServingRoute], direction: str) -> list[ServingRoute]:
    """Rows that no other one is as good as, the cheapest first."""
    sign = 1.0 if direction == "maximize" else -1.0

    def worth(row: ServingRoute) -> tuple[float, float, float]:
        loss = math.inf if row.accuracy is None else -sign * row.accuracy
        return row.cost_usd_per_request, row.latency_s.upper, loss

    kept: list[ServingRoute] = []
    for row in sorted(rows, key=lambda row: (*worth(row), sorted(row.options.items()))):
        # Whatever beats this row in all three comes before it.
        if not any(all(a <= b for a, b in zip(worth(other), worth(row), strict=True)) for other in kept):
            kept.append(row)
    return kept


def _level(problem: Problem, name: str) -> bool:
    return problem.workload.classes[name].level_of is not None


def _key(way: Way) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(way.items()))


@dataclass(frozen=True)
class _Ways:
    """Ways through deployed options. `levels`: indices of the classes that are levels of a model-less one."""

    problem: Problem
    deployed: Mapping[str, Column]
    levels: Sequence[int]

    @property
    def percentile(self) -> float:
        """At which latencies are asked."""
        return self.problem.classes[self.levels[0]].percentile

    @property
    def direction(self) -> Literal["maximize", "minimize"]:
        """Whether higher accuracy is better."""
        return "maximize" if self.problem.accuracy is None else self.problem.accuracy.turn.direction

    def of_class(self, k: int) -> dict[str, str]:
        """The way that a class is planned to go."""
        return {column.stage: name for name, column in self.deployed.items() if k in column.classes}

    def every(self) -> tuple[list[Way], list[str]]:
        """Every way that calls can go, and a note where only those of classes are looked at."""
        problem = self.problem
        at = {stage: [n for n, c in self.deployed.items() if c.stage == stage] for stage in problem.stages}
        count = math.prod(len(names) for names in at.values())
        if count > MAX_ROUTES:
            planned = {_key(self.of_class(k)): self.of_class(k) for k in range(len(problem.classes))}
            note = f"choices per request: of {count} ways through the deployed options, more than {MAX_ROUTES}, only"
            return [w for w in planned.values() if self.open(w)], [f"{note} those of classes are in the table"]
        every = (dict(zip(at, names, strict=True)) for names in product(*at.values()))
        return [way for way in every if self.open(way)], []

    def tiers(self, way: Way) -> dict[str, str]:
        """Tier by stage; one that runs nothing is passed where its input is. "" is where requests come from."""
        edges = self.problem.workload.pipeline.edges
        found = {"": home(self.problem, self.levels[0])}
        for stage in self.problem.stages:
            option = self.deployed[way[stage]].option
            feeding = sorted(edge.source for edge in edges if edge.target == stage)
            found[stage] = found[feeding[0] if feeding else ""] if option.need is None else tier_of(option.device)
        return found

    def open(self, way: Way) -> bool:
        """Whether there is a link wherever calls change tiers, and what runs nothing is passed where it is planned."""
        problem, tiers = self.problem, self.tiers(way)
        if len(problem.ways.tiers) == 1:
            return True
        planned = {(name, tier) for _, _, name, _, tier in stations_of(problem, self.deployed)}
        return all((way[stage], tiers[stage]) in planned for stage in problem.stages) and all(
            problem.ways.open(tiers[leg.source], tiers[leg.target]) for leg in legs_of(problem.workload)
        )

    def choices(self, way: Way) -> dict[str, str]:
        """The choice that runs at every stage."""
        return {stage: self.deployed[name].option.variant for stage, name in way.items()}

    def calls(self, way: Way, stage: str) -> float:
        """Calls of a stage per request."""
        return self.problem.laws.calls(stage, self.choices(way)).mean

    def row(self, way: Way, tail: Tail) -> ServingRoute:
        """What a way is worth."""
        problem = self.problem
        known = None if problem.accuracy is None else problem.accuracy.of(self.choices(way))
        return ServingRoute(
            options=dict(sorted(way.items())),
            accuracy=None if known is None else known.value,
            latency_s=tail,
            cost_usd_per_request=self.cost_usd(way),
            classes=[name for name, ways in self._planned().items() if ways == [way]],
        )

    def _planned(self) -> dict[str, list[Way]]:
        """By class, the different ways that its requests go."""
        found: dict[str, list[Way]] = {}
        for k, need in enumerate(self.problem.classes):
            known, way = found.setdefault(need.name, []), self.of_class(k)
            if need.share > 0 and way not in known:
                known.append(way)
        return found

    def cost_usd(self, way: Way) -> float:
        """Price of the capacity that a request takes up, and of its traffic; replicas that neighbours slow down cost
        what they would alone."""
        problem, costs = self.problem, []
        for stage, name in way.items():
            option, replicas = self.deployed[name].option, self.deployed[name].replicas
            if option.service is not None:
                price = problem.devices[option.device].price_usd_per_h * option.share * replicas
                capacity = replicas * option.service.capacity_per_s(option.max_batch)
                costs.append(self.calls(way, stage) * price / HOUR_S / capacity)
        return math.fsum([*costs, self._tolls_usd(way)])

    def _tolls_usd(self, way: Way) -> float:
        problem, tiers = self.problem, self.tiers(way)
        if len(problem.ways.tiers) == 1:
            return 0.0
        total = 0.0
        for leg in legs_of(problem.workload):
            source, target = tiers[leg.source], tiers[leg.target]
            if source != target:
                size = problem.payloads.size_bytes(leg, self.choices(way)[leg.source] if leg.source else "")
                price = problem.ways.links[source, target].price_usd_per_gb
                total += self.calls(way, leg.target or leg.source) * size / BYTES_PER_GB * price
        return total


def _planned(ways: _Ways, seen: SimulationResult) -> dict[tuple[tuple[str, str], ...], Tail]:
    """Tails of the ways that levels are planned to go. Of several levels on one way the interval that ends first
    counts, so that whoever asks for no more than a certified level is answered."""
    found: dict[tuple[tuple[str, str], ...], Tail] = {}
    for k in ways.levels:
        need, way = ways.problem.classes[k], ways.of_class(k)
        tail = _tail(_estimate(seen.streams[need.name], ways.percentile))
        if tail is not None and (_key(way) not in found or tail.upper < found[_key(way)].upper):
            found[_key(way)] = tail
    return found


def _estimate(stream: StreamResult, percentile: float) -> Estimate | None:
    if stream.latency_slo_s is not None:
        return stream.latency_slo_s
    return stream.latency_p99_s if percentile == 99.0 and stream.unanswered == 0 else None


def _tail(estimate: Estimate | None) -> Tail | None:
    if estimate is None or estimate.upper is None or not math.isfinite(estimate.value):
        return None
    return Tail(value=estimate.value, upper=estimate.upper)


def _trickled(
    ways: _Ways, missing: Sequence[Way], judge: Judge, solution: Solution, seen: SimulationResult
) -> dict[tuple[tuple[str, str], ...], Tail]:
    """Tails of ways that no level goes, each simulated with a trickle of requests."""
    network = network_of(ways.problem, solution.columns, judge.slowdowns(solution))
    rates = _rates_rps(ways, missing, network, seen)
    total = math.fsum(stream.rate_rps for stream in network.streams)
    # No class can be called so.
    probes = {f"route:{index}": way for index, way in enumerate(missing) if rates[index] >= LEAST_SHARE * total}
    if not probes:
        return {}
    result = simulate(_probing(ways, network, probes, rates), judge.seed, SEARCH)
    tails = {} if result.unstable else {n: _tail(result.streams[n].latency_slo_s) for n in probes}
    return {_key(probes[name]): tail for name, tail in tails.items() if tail is not None}


def _rates_rps(ways: _Ways, missing: Sequence[Way], network: Network, seen: SimulationResult) -> list[float]:
    """Requests per second that every way may get."""
    sharing = {name: sum(name in way.values() for way in missing) for name in ways.deployed}
    rates = []
    for way in missing:
        allowed = []
        for stage, name in way.items():
            load, capacity = seen.stations[name].load_rps, network.stations[name].capacity_rps
            calls = ways.calls(way, stage)
            if ways.deployed[name].option.service is not None and calls > 0:
                allowed.append(TRICKLE * min(max(capacity - load, 0.0), load) / sharing[name] / calls)
        rates.append(min(allowed, default=TRICKLE * math.fsum(stream.rate_rps for stream in network.streams)))
    return rates


def _probing(ways: _Ways, network: Network, probes: Mapping[str, Way], rates: Sequence[float]) -> Network:
    """The network of the plan with a class more for every way."""
    problem = ways.problem
    workload = problem.workload
    enters_at = workload.classes[problem.classes[ways.levels[0]].name].enters_at
    slo = Slo(percentile=ways.percentile, latency_s=NO_LIMIT_S)
    classes = {
        name: TrafficClass(rate_rps=rates[int(name.rpartition(":")[2])], enters_at=enters_at, slo=slo)
        for name in probes
    }
    grown = workload.model_copy(update={"classes": {**workload.classes, **classes}}).at(workload.root)
    routes: dict[str, Mapping[str, Sequence[tuple[str, float]]]] = {s.name: s.routes for s in network.streams}
    routes |= {name: {stage: [(option, 1.0)] for stage, option in way.items()} for name, way in probes.items()}
    split = {stream.name: stream.ways for stream in network.streams}
    stations = list(network.stations.values())
    standing = [*stations_of(problem, ways.deployed), *_standing(ways, probes)]
    return delayed(build_network(grown, problem.laws, stations, routes, split), grown, problem.payloads, standing)


def _standing(ways: _Ways, probes: Mapping[str, Way]) -> Iterator[tuple[str, str, str, str, str]]:
    for name, way in probes.items():
        tiers = ways.tiers(way)
        for stage, option in way.items():
            yield name, stage, option, ways.deployed[option].option.variant, tiers[stage]
