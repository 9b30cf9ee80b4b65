"""The network between tiers: which ways there are, what crosses them, what that costs and how long it takes.

A *leg* is one hop of a request: from where it enters to the entry stage, along an edge of the pipeline, or from a last
stage back. A call crosses the link from the tier it is made in to the tier it is answered in; within a tier it is free
and takes no time. Where there is no link, calls cannot go: there are no ways over a third tier.

    traffic   B[t,t'] = Σ_{k, leg} λ_k c_ks y[k,leg,t,t'] b_leg           bytes per second
    cost      Σ_{t,t'} B[t,t'] price[t,t'] 3600 / 2^30                    per hour, prices per 2^30 bytes
    delay     rtt[t,t'] + b_leg / bandwidth[t,t']                         of one call

with c_ks the mean calls of stage s per request, b the size of a call, and y the share of a leg's calls that go from t
to t': the product of the shares of both tiers where routing is proportional (a load balancer that knows no tiers), a
rule of the plan's own where it is tier-aware.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from inferplan.estimators.cost import egress_usd_per_h
from inferplan.estimators.fanout import FanOuts
from inferplan.spec.arrivals import source_of
from inferplan.spec.errors import InputError
from inferplan.spec.plan import Flow, LinkLoad, Traffic
from inferplan.spec.profile import Profile
from inferplan.spec.rows import choice_name
from inferplan.spec.workload import Link, Workload


@dataclass(frozen=True, slots=True, order=True)
class Leg:
    """One hop of a request. `source` is empty where it enters, `target` where the answer goes back."""

    source: str
    target: str


@dataclass(frozen=True)
class Ways:
    """The links between tiers. `tiers` are sorted; `links` are by (from, to), `names` the workload's names of them."""

    tiers: tuple[str, ...]
    links: Mapping[tuple[str, str], Link]
    names: Mapping[tuple[str, str], str]

    def open(self, source: str, target: str) -> bool:
        """Whether calls can go from one tier to another."""
        return source == target or (source, target) in self.links

    def usd_per_h(self, source: str, target: str, bytes_per_s: float) -> float:
        """What traffic between two tiers costs."""
        price = 0.0 if source == target else self.links[source, target].price_usd_per_gb
        return egress_usd_per_h(bytes_per_s, 1.0, price)

    def bandwidth(self, source: str, target: str) -> float | None:
        """Bytes per second that a way carries; None where that is not limited."""
        return None if source == target else self.links[source, target].bandwidth_bytes_per_s

    def delay_s(self, source: str, target: str, size_bytes: float) -> float:
        """How long a call of this size is under way."""
        if source == target:
            return 0.0
        link = self.links[source, target]
        return link.rtt_s + (size_bytes / link.bandwidth_bytes_per_s if link.bandwidth_bytes_per_s else 0.0)


def ways_of(workload: Workload) -> Ways:
    """The network of a workload."""
    links = {(link.source, link.target): link for link in workload.links.values()}
    names = {(link.source, link.target): name for name, link in workload.links.items()}
    return Ways(tuple(sorted(workload.tiers)), links, names)


def tier_of(device: str) -> str:
    """The tier of a device (tier/device)."""
    return device.split("/", 1)[0]


def legs_of(workload: Workload) -> tuple[Leg, ...]:
    """Every leg that can cross tiers, sorted: the way in, the edges, and the way back where answers have a size."""
    pipeline = workload.pipeline
    legs = [Leg("", stage) for stage in pipeline.entry_stages()]
    legs += [Leg(edge.source, edge.target) for edge in pipeline.edges]
    if pipeline.response_bytes is not None:
        legs += [Leg(stage, "") for stage in pipeline.last_stages()]
    return tuple(sorted(legs))


@dataclass(frozen=True)
class Payloads:
    """Bytes per call of every leg, by the choice of the stage it leaves."""

    sizes: Mapping[Leg, float | Mapping[str, float]]

    def size_bytes(self, leg: Leg, choice: str) -> float:
        """Size of one call."""
        size = self.sizes[leg]
        return size[choice] if isinstance(size, Mapping) else size

    def differ(self, leg: Leg, choices: Sequence[str]) -> bool:
        """Whether the size depends on which of these choices runs."""
        return len({self.size_bytes(leg, choice) for choice in choices}) > 1


def payloads_of(workload: Workload, profile: Profile) -> Payloads:
    """Sizes as declared, else as the profile observed them.

    Raises InputError where there is neither, and the workload has several tiers.
    """
    sizes: dict[Leg, float | Mapping[str, float]] = {}
    for leg in legs_of(workload):
        if not leg.source:
            sizes[leg] = workload.pipeline.request_bytes
        elif not leg.target:
            sizes[leg] = workload.pipeline.response_bytes or 0.0
    for edge in workload.pipeline.edges:
        declared = edge.payload_bytes
        if declared is None:
            declared = _observed(workload, profile, edge.source, edge.target)
        sizes[Leg(edge.source, edge.target)] = declared
    return Payloads(sizes)


def _observed(workload: Workload, profile: Profile, source: str, target: str) -> dict[str, float] | float:
    choices = workload.pipeline.stages[source].choices()
    found = {
        choice_name(row.variant, row.modalities): row.payload_bytes_mean
        for row in profile.flows
        if (row.source, row.target) == (source, target) and row.payload_bytes_mean is not None
    }
    missing = [choice for choice in choices if choice not in found]
    if not missing:
        return {choice: float(size) for choice, size in found.items() if size is not None and choice in choices}
    if len(workload.tiers) > 1:
        raise InputError(
            f"how much goes from {source} to {target} is not known for {', '.join(missing)}: give payload_bytes of that"
            " edge, or run `inferplan profile` with labelled data"
        )
    return 0.0


@dataclass(frozen=True, slots=True)
class Spot:
    """A share of a class's calls of a stage: of which choice, in which tier."""

    choice: str
    tier: str
    share: float


Spots = Mapping[str, Mapping[str, Sequence[Spot]]]
"""By class and stage: where its calls are answered."""


@dataclass(frozen=True, slots=True)
class Crossing:
    """Calls of a class on a leg, from tier to tier, per second."""

    stream: str
    leg: Leg
    source_tier: str
    target_tier: str
    rate_rps: float
    bytes_per_s: float


def proportional(
    workload: Workload, laws: FanOuts, payloads: Payloads, spots: Spots, part: float = 1.0
) -> list[Crossing]:
    """What crosses where every sender's calls are spread over all receivers by their shares. `part`: of the classes'
    requests that go so. Flows of nothing are left out."""
    found: dict[tuple[str, Leg, str, str], tuple[float, float]] = {}
    for name, stages in sorted(spots.items()):
        home = workload.classes[name].enters_at or next(iter(workload.tiers))
        choices = {stage: placed[0].choice for stage, placed in stages.items()}
        outside = (Spot("", home, 1.0),)
        for leg in legs_of(workload):
            calls = part * leg_rate_rps(workload, laws, name, leg, choices)
            for sender in stages[leg.source] if leg.source else outside:
                size = payloads.size_bytes(leg, sender.choice)
                for tier, share in arrivals(workload, stages, leg, sender, home).items():
                    rate = calls * sender.share * share
                    if rate > 0:
                        key = (name, leg, sender.tier, tier)
                        known = found.get(key, (0.0, 0.0))
                        found[key] = (known[0] + rate, known[1] + rate * size)
    return [Crossing(*key, rate, size) for key, (rate, size) in sorted(found.items())]


def merged(crossings: Iterable[Crossing]) -> list[Crossing]:
    """Crossings of one class, leg and pair of tiers made one, sorted."""
    found: dict[tuple[str, Leg, str, str], tuple[float, float]] = {}
    for crossing in crossings:
        key = (crossing.stream, crossing.leg, crossing.source_tier, crossing.target_tier)
        known = found.get(key, (0.0, 0.0))
        found[key] = (known[0] + crossing.rate_rps, known[1] + crossing.bytes_per_s)
    return [Crossing(*key, rate, size) for key, (rate, size) in sorted(found.items())]


def arrivals(
    workload: Workload, stages: Mapping[str, Sequence[Spot]], leg: Leg, sender: Spot, home: str
) -> dict[str, float]:
    """Shares of a sender's calls by the tier they go to; a stage that is skipped is passed where its input is."""
    if not leg.target:
        return {home: 1.0}
    receivers = stages[leg.target]
    if leg.source and all(_skipped(workload, leg.target, spot.choice) for spot in receivers):
        return {sender.tier: 1.0}
    shares: dict[str, float] = {}
    for spot in receivers:
        shares[spot.tier] = shares.get(spot.tier, 0.0) + spot.share
    return shares


def _skipped(workload: Workload, stage: str, choice: str) -> bool:
    return workload.pipeline.stages[stage].variants[choice.partition("@")[0]].runtime == "skip"


def leg_rate_rps(workload: Workload, laws: FanOuts, name: str, leg: Leg, choices: Mapping[str, str]) -> float:
    """Calls per second of a class on a leg, with these choices per stage."""
    traffic = workload.classes[name]
    rate = traffic.rate_rps
    if rate is None:
        # The times of a trace are those of jobs where the class has jobs.
        rate = source_of(workload, name).rate_rps * (1 if traffic.job is None else traffic.job.requests)
    return rate * (laws.calls(leg.target or leg.source, choices).mean)


def traffic(ways: Ways, routing: str, crossings: Sequence[Crossing]) -> Traffic:
    """All crossings priced, by class and by link.

    Raises InputError where calls would go where there is no link.
    """
    flows: dict[str, list[Flow]] = {}
    loads: dict[tuple[str, str], float] = {}
    for crossing in crossings:
        pair = (crossing.source_tier, crossing.target_tier)
        if not ways.open(*pair):
            raise InputError(f"class {crossing.stream}: there is no link from {pair[0]} to {pair[1]}")
        if pair[0] != pair[1]:
            loads[pair] = loads.get(pair, 0.0) + crossing.bytes_per_s
        flows.setdefault(crossing.stream, []).append(
            Flow.model_validate(
                {
                    "from": crossing.leg.source or None,
                    "to": crossing.leg.target or None,
                    "from_tier": pair[0],
                    "to_tier": pair[1],
                    "rate_rps": crossing.rate_rps,
                    "bytes_per_s": crossing.bytes_per_s,
                    "cost_usd_per_h": ways.usd_per_h(*pair, crossing.bytes_per_s),
                }
            )
        )
    links = {
        ways.names[pair]: LinkLoad(
            bytes_per_s=load, bandwidth_bytes_per_s=ways.bandwidth(*pair), cost_usd_per_h=ways.usd_per_h(*pair, load)
        )
        for pair, load in loads.items()
    }
    cost = math.fsum(link.cost_usd_per_h for link in links.values())
    return Traffic(routing="tier_aware" if routing == "tier_aware" else "proportional", cost_usd_per_h=cost,
                   links=dict(sorted(links.items())), flows=flows)  # fmt: skip


@dataclass(frozen=True)
class Delays:
    """Delays between places, in seconds, as the simulator takes them (`estimators.network.Network`)."""

    entry_s: dict[tuple[str, str], float]
    transfer_s: dict[tuple[str, str], float]
    exit_s: dict[tuple[str, str], float]


def delays_of(
    workload: Workload, ways: Ways, payloads: Payloads, stations: Iterable[tuple[str, str, str, str, str]]
) -> Delays:
    """Delays between stations, given as (class, stage, station, choice, tier)."""
    entry: dict[tuple[str, str], float] = {}
    transfer: dict[tuple[str, str], float] = {}
    back: dict[tuple[str, str], float] = {}
    placed: dict[tuple[str, str], list[tuple[str, str, str]]] = {}
    for stream, stage, station, choice, tier in stations:
        placed.setdefault((stream, stage), []).append((station, choice, tier))
    for stream, traffic in workload.classes.items():
        home = traffic.enters_at or ways.tiers[0]
        for leg in legs_of(workload):
            for station, choice, tier in placed.get((stream, leg.source), [("", "", home)]):
                for other, _, target in placed.get((stream, leg.target), [("", "", home)]):
                    if not ways.open(tier, target):
                        continue
                    delay = ways.delay_s(tier, target, payloads.size_bytes(leg, choice))
                    if delay > 0 and not leg.source:
                        entry[stream, other] = delay
                    elif delay > 0 and not leg.target:
                        back[stream, station] = delay
                    elif delay > 0:
                        transfer[station, other] = delay
    return Delays(entry, transfer, back)
