"""What other stations at one stage would change, about, without simulating the whole network again.

Replications of a network are kept (`Rehearsal`). Where only the stations of one stage become others, what reaches that
stage stays the same, call by call: it is served anew, exactly. What follows is not queued again: every call of a later
stage takes as long from its arrival as it took in the replication that was kept, and joins and answers follow from
that. Left out is what queues further down make of other gaps between their arrivals; so this tells which changes are
worth simulating, and no more.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from inferplan.estimators.intervals import Latencies
from inferplan.estimators.network import Network
from inferplan.estimators.simulation.compiled import loops
from inferplan.estimators.simulation.experiment import Effort, recorded
from inferplan.estimators.simulation.replication import (
    Arriving,
    Calls,
    Chance,
    Replication,
    answer,
    arriving_at,
    drawn,
    serve_stage,
)


@dataclass(frozen=True)
class Rehearsal:
    """Replications of a network that were kept."""

    runs: tuple[tuple[Chance, Replication], ...]

    @classmethod
    def of(cls, network: Network, seed: int, effort: Effort, replications: int) -> Rehearsal:
        """The first replications of what `simulate` would run, at most so many; queues must be stable."""
        return cls(recorded(network, seed, effort, replications))

    def latencies(self, network: Network, stage: str) -> dict[str, Latencies]:
        """About what each class would see if the stations of a stage were those of another network, which has the same
        classes, and the same choices at every stage."""
        below = _below(network, stage)
        fast = loops(0)
        seen: dict[str, list[np.ndarray]] = {stream.name: [] for stream in network.streams}
        for chance, base in self.runs:
            run = Replication(base.warmup_s, base.end_s, base.entries_s, ways=base.ways, stalls=base.stalls)
            for name in network.order:
                if name != stage and name not in below:
                    run.calls |= {key: calls for key, calls in base.calls.items() if key[1] == name}
                    continue
                choose = partial(drawn, run)
                arriving = {s.name: arriving_at(network, s, name, run, chance, choose) for s in network.streams}
                if name == stage:
                    serve_stage(network, name, arriving, run, chance, fast)
                else:
                    run.calls |= {(s, name): _as_before(calls, base.calls[s, name]) for s, calls in arriving.items()}
            answer(network, run)
            for stream in network.streams:
                seen[stream.name].append(run.latencies_s[stream.name])
        return {name: Latencies.of(found) for name, found in seen.items()}


def _below(network: Network, stage: str) -> set[str]:
    """The stages that a stage's calls lead to."""
    found: set[str] = set()
    for name in network.order:
        if any(source == stage or source in found for source in network.feeds[name]):
            found.add(name)
    return found


def _as_before(calls: Arriving, before: Calls) -> Calls:
    """Calls that take as long as they took before."""
    made = np.isfinite(before.arrived_s)
    took = np.where(made, before.done_s, 0.0) - np.where(made, before.arrived_s, 0.0)
    return Calls(calls.owner, calls.parent, calls.times_s, calls.station, calls.times_s + took, calls.one_each)
