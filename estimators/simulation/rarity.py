"""Classes of few requests beside classes of many: simulated at a higher rate, where that adds next to no load.

Of a class that sends one request in 20 s beside another's 500 a second, a replication that sees enough would take hours
of simulated time, and millions of requests of the other class. But requests that come at random (Poisson) and that
seldom meet one another see every queue as it is in the long run (PASTA, Wolff 1982), however often it is looked at:
the share of them that is late depends on their rate only by the load that they are themselves. So such classes are
simulated at higher rates, by which the load of no station grows by more than `NEGLIGIBLE` of its capacity, nor by more
than `OF_REST` of what is left of that.

That little is more load than there is, never less, so what is *met* with it is met. What is *missed* with it is
simulated once more with the other classes slowed down until no station that they share has more load than there is
(`lighter`); a station that only such classes use is busier by at most `own` of the time, so that at most as large a
share more of the requests can have waited there. What is missed by more than that then is missed; else it is undecided.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from inferplan.estimators.network import Network

NEGLIGIBLE = 0.005
"""Share of a station's capacity."""
OF_REST = 0.02
"""Share of what a station's load leaves of its capacity."""
WORTH = 2.0
"""Factors below are not worth it."""


@dataclass(frozen=True)
class Denser:
    """A network with some classes' rates raised, and the same with all others slowed down to make up for it."""

    network: Network
    lighter: Network
    factors: Mapping[str, float]
    """By class."""
    own: float
    """What stations that no other class uses are busier by, all together: of the time of their replicas."""

    @property
    def note(self) -> str:
        """What was done, in words."""
        named = ", ".join(f"{name} ({factor:.3g} times)" for name, factor in sorted(self.factors.items()))
        return (
            f"few requests, simulated at a higher rate, by at most {NEGLIGIBLE:.1%} of any option's capacity: {named}"
        )


def denser(network: Network, wanted: Mapping[str, float]) -> Denser | None:
    """A network in which some classes send more requests, by the factors wanted or as far as that is negligible; None
    where it is not worth it for any of them. Only Poisson classes, which come at random at all times."""
    capacity = {name: station.capacity_rps for name, station in network.stations.items() if station.service is not None}
    total = network.loads_rps()
    # Waits grow as what is left of the capacity falls: of that, too, next to nothing may be taken.
    room = {s: min(NEGLIGIBLE * most, OF_REST * (most - total[s])) for s, most in capacity.items()}
    sought = [
        s.name
        for s in network.streams
        if wanted.get(s.name, 1.0) > 1 and s.trace is None and s.arrivals.process == "poisson"
    ]
    loads = {name: network.loads_of(name) for name in sought}
    factors: dict[str, float] = {}
    for name in sought:
        most = min((room[s] / load for s, load in loads[name].items() if load > 0 and s in room), default=0.0)
        factor = min(wanted[name], 1 + most / len(sought))
        if factor >= WORTH:
            factors[name] = factor
    if not factors:
        return None
    added = {s: sum(loads[name][s] * (factor - 1) for name, factor in factors.items()) for s in capacity}
    others = {s: total[s] - sum(loads[name][s] for name in factors) for s in capacity}
    shared = [s for s in capacity if others[s] > NEGLIGIBLE * total[s]]
    less = max((added[s] / others[s] for s in shared), default=0.0)
    raised = tuple(replace(s, rate_rps=s.rate_rps * factors.get(s.name, 1.0)) for s in network.streams)
    slowed = tuple(s if s.name in factors else replace(s, rate_rps=s.rate_rps * max(1 - less, 0.0)) for s in raised)
    own = sum(added[s] / capacity[s] for s in capacity if s not in shared)
    return Denser(replace(network, streams=raised), replace(network, streams=slowed), factors, own)
