"""Tiers where classes are not spread: in which tier a choice of columns answers every stage, and what that costs in
money and time; and the rows that tell the program.

A class's calls of a stage (of a class that is split, those of each part) are all answered in one tier, that of its
column's device; a stage that is skipped is passed where its input is. So the share of a leg's calls that go from tier t
to t' is the product of two binary choices. It is linear as a transport: Σ_t' F_tt' is what is sent from t, Σ_t F_tt'
what is answered in t', and as both are 0 or 1, so is F.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from inferplan.estimators.transport import Crossing, Leg, Spot, legs_of, merged, proportional, tier_of
from inferplan.solvers.problem import Problem
from inferplan.spec.errors import InputError

if TYPE_CHECKING:
    from inferplan.solvers.columns import Column

Placed = Mapping[tuple[int, str], tuple[str, str]]
"""Choice and tier by (class, stage)."""


def placed(problem: Problem, columns: Sequence[Column]) -> dict[tuple[int, str], tuple[str, str]]:
    """Where a choice of columns answers the calls of every class."""
    chosen = {(k, column.stage): column for column in columns for k in column.classes}
    found: dict[tuple[int, str], tuple[str, str]] = {}
    edges = problem.workload.pipeline.edges
    for k in range(len(problem.classes)):
        for stage in problem.stages:
            option = chosen[k, stage].option
            feeding = sorted(edge.source for edge in edges if edge.target == stage)
            if option.need is not None:
                tier = tier_of(option.device)
            else:
                tier = found[k, feeding[0]][1] if feeding else home(problem, k)
            found[k, stage] = (option.variant, tier)
    return found


def home(problem: Problem, k: int) -> str:
    """The tier that a class's requests come from."""
    return problem.workload.classes[problem.classes[k].name].enters_at or problem.ways.tiers[0]


def crossings(problem: Problem, columns: Sequence[Column]) -> list[Crossing]:
    """What goes between tiers, and within them: of every part of a class that is split, then of the class."""
    where = placed(problem, columns)
    found: list[Crossing] = []
    for k, need in enumerate(problem.classes):
        if need.share > 0:
            spots = {need.name: {stage: [Spot(*where[k, stage], 1.0)] for stage in problem.stages}}
            found += proportional(problem.workload, problem.laws, problem.payloads, spots, need.share)
    return merged(found)


def broken_links(problem: Problem, columns: Sequence[Column]) -> list[str]:
    """Links that chosen columns need and are missing, or that would carry more than their bandwidth."""
    loads: dict[tuple[str, str], float] = {}
    for crossing in crossings(problem, columns) if len(problem.ways.tiers) > 1 else ():
        pair = crossing.source_tier, crossing.target_tier
        loads[pair] = loads.get(pair, 0.0) + crossing.bytes_per_s * max(problem.assurance.levels)
    broken = []
    for (source, target), load in sorted(loads.items()):
        if not problem.ways.open(source, target):
            broken.append(f"no link from {source} to {target}")
        elif (width := problem.ways.bandwidth(source, target)) is not None and load > width * (1 + 1e-6):
            broken.append(f"bandwidth from {source} to {target}")
    return broken


def tolls_usd_per_h(problem: Problem, columns: Sequence[Column]) -> float:
    """What the traffic of a choice of columns costs."""
    if len(problem.ways.tiers) == 1:
        return 0.0
    ways = problem.ways
    return sum(
        ways.usd_per_h(c.source_tier, c.target_tier, c.bytes_per_s)
        for c in crossings(problem, columns)
        if ways.open(c.source_tier, c.target_tier)
    )


def path_legs(problem: Problem, path: Sequence[str]) -> list[Leg]:
    """The legs of a path, in order."""
    legs = [Leg(source, target) for source, target in zip(["", *path[:-1]], path, strict=True)]
    back = problem.workload.pipeline.response_bytes is not None
    return [*legs, Leg(path[-1], "")] if back else legs


def path_delay_s(problem: Problem, where: Placed, k: int, path: Sequence[str]) -> float:
    """How long calls along a path are under way between tiers."""
    total = 0.0
    for leg in path_legs(problem, path):
        choice, source = where[k, leg.source] if leg.source else ("", home(problem, k))
        target = where[k, leg.target][1] if leg.target else home(problem, k)
        total += problem.ways.delay_s(source, target, problem.payloads.size_bytes(leg, choice))
    return total


class TierFlows:
    """Rows and variables of tiers. `tolls` is what traffic costs (USD/h), `delay_s` how long it takes."""

    def __init__(
        self,
        problem: Problem,
        model: Any,
        columns: Sequence[Column],
        used: Sequence[Any],
        at: Mapping[tuple[int, str], list[int]],
    ) -> None:
        import mip

        self.problem = problem
        self._model = model
        self._columns = columns
        self._used = used
        self._at = at
        self._flows: dict[tuple[int, Leg], dict[tuple[float, str, str], Any]] = {}
        if len(problem.ways.tiers) > 1:
            _refuse(problem)
            for k in range(len(problem.classes)):
                sites = {stage: self._sites(k, stage) for stage in problem.stages}
                for leg in legs_of(problem.workload):
                    self._flows[k, leg] = self._leg(k, leg, sites)
            self._limit_links()
        tolls = []
        for pair, load in self._loads().items():
            price = problem.ways.usd_per_h(*pair, 1.0)
            tolls += [price * size * flow for size, flow in load if price * size > 0]
        self.tolls: Any = mip.xsum(tolls)

    def delay_s(self, k: int, leg: Leg) -> list[tuple[float, Any]]:
        """Delay of a leg as (seconds, flow) terms."""
        ways = self.problem.ways
        terms = ((ways.delay_s(t, u, size), flow) for (size, t, u), flow in self._flows.get((k, leg), {}).items())
        return [(seconds, flow) for seconds, flow in terms if seconds > 0]

    def _sites(self, k: int, stage: str) -> dict[tuple[str, str], Any]:
        """By (choice, tier): an expression that is 1 where a class's calls of a stage are answered so."""
        import mip

        members: dict[tuple[str, str], list[Any]] = {}
        passing: dict[str, list[Any]] = {}
        for index in self._at[k, stage]:
            option = self._columns[index].option
            if option.need is None:
                passing.setdefault(option.variant, []).append(self._used[index])
            else:
                members.setdefault((option.variant, tier_of(option.device)), []).append(self._used[index])
        sites = {key: mip.xsum(terms) for key, terms in members.items()}
        entry = not any(edge.target == stage for edge in self.problem.workload.pipeline.edges)
        for choice, terms in passing.items():
            tiers = [home(self.problem, k)] if entry else self.problem.ways.tiers
            shares = {tier: self._model.add_var(lb=0, ub=1) for tier in tiers}
            self._model += mip.xsum(shares.values()) - mip.xsum(terms) == 0
            sites |= {(choice, tier): 1.0 * share for tier, share in shares.items()}
        return sites

    def _leg(
        self, k: int, leg: Leg, sites: Mapping[str, Mapping[tuple[str, str], Any]]
    ) -> dict[tuple[float, str, str], Any]:
        """The transport of one leg."""
        import mip

        problem, model = self.problem, self._model
        start = home(problem, k)
        senders: dict[tuple[float, str], list[Any]] = {}
        for (choice, tier), site in sites[leg.source].items() if leg.source else [(("", start), 1.0)]:
            senders.setdefault((problem.payloads.size_bytes(leg, choice), tier), []).append(site)
        receivers: dict[str, list[Any]] = {}
        for (_, tier), site in sites[leg.target].items() if leg.target else [(("", start), 1.0)]:
            receivers.setdefault(tier, []).append(site)
        flows = {
            (size, t, u): model.add_var(lb=0, ub=1) for size, t in senders for u in receivers if problem.ways.open(t, u)
        }
        for (size, t), made in senders.items():
            model += mip.xsum(f for (s, a, _), f in flows.items() if (s, a) == (size, t)) - mip.xsum(made) == 0
        for u, answered in receivers.items():
            model += mip.xsum(f for (*_, b), f in flows.items() if b == u) - mip.xsum(answered) == 0
        skipped = [self._used[i] for i in self._at.get((k, leg.target), []) if self._columns[i].option.need is None]
        if leg.source and skipped:
            away = mip.xsum(f for (_, t, u), f in flows.items() if t != u)
            model += away + mip.xsum(skipped) <= 1
        return flows

    def _loads(self) -> dict[tuple[str, str], list[tuple[float, Any]]]:
        """Bytes per second between two tiers as (bytes per second, flow) terms."""
        problem = self.problem
        loads: dict[tuple[str, str], list[tuple[float, Any]]] = {}
        for (k, leg), flows in self._flows.items():
            variants = {stage: problem.variants(stage)[0] for stage in problem.stages}
            calls = problem.classes[k].rate_rps * problem.laws.calls(leg.target or leg.source, variants).mean
            for (size, t, u), flow in flows.items():
                if t != u:
                    loads.setdefault((t, u), []).append((calls * size, flow))
        return loads

    def _limit_links(self) -> None:
        import mip

        for pair, load in self._loads().items():
            width = self.problem.ways.bandwidth(*pair)
            if width is not None:
                top = max(self.problem.assurance.levels) / width
                self._model += mip.xsum(top * size * flow for size, flow in load) <= 1


def _refuse(problem: Problem) -> None:
    """What is not honoured together with links that cost or are limited, by name."""
    links = problem.ways.links.values()
    differ = sorted({source for stage in problem.stages for source in problem.laws.deciding(stage)})
    if differ and any(link.price_usd_per_gb > 0 or link.bandwidth_bytes_per_s is not None for link in links):
        raise InputError(
            f"fan-outs that were measured to differ between variants ({', '.join(differ)}) are not honoured with links"
            " that have a price or a bandwidth; declare fan_out"
        )


def sizes_differ(problem: Problem, stage: str) -> bool:
    """Whether how much a stage sends depends on its choice, and matters."""
    if len(problem.ways.tiers) == 1:
        return False
    leaving = [leg for leg in legs_of(problem.workload) if leg.source == stage]
    return any(problem.payloads.differ(leg, problem.variants(stage)) for leg in leaving)


def stations(problem: Problem, columns: Mapping[str, Column]) -> Iterator[tuple[str, str, str, str, str]]:
    """Class, stage, station, choice and tier of everything that answers calls. `columns` by name of the station."""
    where = placed(problem, list(columns.values()))
    for name, column in columns.items():
        for k in column.classes:
            choice, tier = where[k, column.stage]
            yield problem.classes[k].name, column.stage, name, choice, tier


def latency_ratios(problem: Problem, columns: Sequence[Column]) -> dict[str, float]:
    """Tabulated latency over limit of each class with an SLO: the longest path, its slowest stage passed as a whole."""
    chosen = {(k, column.stage): column for column in columns for k in column.classes}
    where = placed(problem, columns)
    ratios: dict[str, float] = {}
    for k, need in enumerate(problem.classes):
        if need.limit_s is None:
            continue
        worst = 0.0
        for path in problem.paths:
            parts = [chosen[k, stage] for stage in path]
            single = [c.single_s[c.classes.index(k)] for c in parts]
            extra = [c.whole_s[c.classes.index(k)] - s for c, s in zip(parts, single, strict=True)]
            under_way = path_delay_s(problem, where, k, path)
            worst = max(worst, sum(single) + max([*extra, 0.0]) + under_way)
        # A class is as slow as the slowest of its parts.
        ratios[need.name] = max(worst / need.limit_s, ratios.get(need.name, 0.0))
    return ratios
