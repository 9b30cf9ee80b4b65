"""A book under traffic: what it costs and what it keeps, beside the best fixed plan and an oracle.

At the beginning of every interval the predictor tells the load of the coming one from those before, and the book's
thresholds say which plan is active. The whole traffic is served in one simulation, with switches, queues and loading
replicas as they come (`estimators.simulation.replay`). All strategies see the same arrivals.

- *book*: one per predictor. Before the first interval the right plan is up.
- *best fixed*: of the plans of all levels the cheapest that keeps every promise over this very traffic, found by
  simulating them from the cheapest on; where none does, the one that carries most.
- *oracle*: knows the load of the coming interval and has the cheapest plan that carries it up and loaded when it
  begins, of all plans and not the book's alone; its switches are free. No strategy that runs in every interval a plan
  that carries its load pays less.

A plan is paid from the beginning of the switch to it; machines that are given back are paid until the switch is done.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from inferplan.estimators.forecast import predictions
from inferplan.estimators.network import Stream
from inferplan.estimators.simulation.compiled import loops
from inferplan.estimators.simulation.replay import Epoch, Fleet, fleet_of, replay
from inferplan.estimators.simulation.replication import Chance, Replication
from inferplan.solvers.book import Chosen, cheapest, loads_of
from inferplan.solvers.levels import Moving
from inferplan.solvers.switching import HOUR_S, Switch
from inferplan.solvers.thresholds import active
from inferplan.spec.arrivals import Source, source_of
from inferplan.spec.book import Predictor
from inferplan.spec.errors import InputError
from inferplan.spec.profile import Profile
from inferplan.spec.workload import Workload

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
MOST_REQUESTS = 10_000_000
"""Every one of them takes some hundred bytes at every stage."""
BOOK, FIXED, ORACLE = "book", "best fixed", "oracle"


@dataclass(frozen=True)
class Traffic:
    """Arrivals by class, and `loads` [n] per interval of those classes whose load moves."""

    arrivals_s: Mapping[str, Floats]
    span_s: float
    interval_s: float
    loads: Floats

    @property
    def hours(self) -> Floats:
        """[n] lengths of the intervals; the last one may be shorter."""
        begins = np.arange(len(self.loads)) * self.interval_s
        return np.asarray(np.minimum(begins + self.interval_s, self.span_s) - begins, dtype=np.float64) / HOUR_S


def check_length(source: Source, span_s: float) -> None:
    """Raise InputError where traffic has more requests than are replayed: said before anything takes long."""
    if (requests := source.rate_rps * span_s) > MOST_REQUESTS:
        raise InputError(
            f"{requests:.3g} requests are more than a book is replayed over at once, {MOST_REQUESTS:.3g}: give a"
            " shorter --duration or --trace"
        )


def traffic_of(moving: Moving, source: Source, span_s: float, interval_s: float, seed: int) -> Traffic:
    """Traffic of a length. The source's requests are those of all classes whose load moves, drawn by their shares: a
    class of jobs of b requests gets a job at every b-th of its. Other classes' arrive as the workload says. Raises
    InputError where nothing arrives, or no interval passes."""
    chance, sizes = Chance(seed, 1), job_sizes(moving.workload)
    times = source.times_s(span_s, chance.of("arrivals"))
    parts = {name: share / sizes[name] for name, share in moving.shares().items()}
    left = [1 - math.fsum(parts.values())] if any(sizes[name] > 1 for name in parts) else []
    drawn = chance.of("class").choice(len(parts) + len(left), size=len(times), p=[*parts.values(), *left])
    arrivals = {name: np.repeat(times[drawn == index], sizes[name]) for index, name in enumerate(parts)}
    moved = np.sort(np.concatenate(list(arrivals.values())))
    for name in moving.workload.classes:
        if name not in arrivals:
            own = source_of(moving.workload, name)
            rate = own.rate_rps / (1 if own.trace is not None else sizes[name])
            begun = replace(own, rate_rps=rate).times_s(span_s, chance.of("arrivals", name))
            arrivals[name] = np.repeat(begun, sizes[name])
    return Traffic(arrivals, span_s, interval_s, loads_of(moved, span_s, interval_s))


def job_sizes(workload: Workload) -> dict[str, int]:
    """By class: requests that arrive together; 1 where it is not of jobs."""
    return {name: 1 if one.job is None else one.job.requests for name, one in workload.classes.items()}


@dataclass(frozen=True)
class ClassTrial:
    """What a class saw. `late` counts requests beyond the limit, those that were not answered among them; `latency_s`
    is at the SLO's percentile, and both are None where the class has no SLO. Of a class of jobs all count jobs."""

    name: str
    requests: int
    unanswered: int
    late: int | None
    allowed: float | None
    """Share that may be late."""
    latency_s: float | None

    @property
    def late_share(self) -> float | None:
        """Share that is late."""
        return None if self.late is None else self.late / max(self.requests, 1)

    @property
    def kept(self) -> bool:
        """Whether the promise was kept over the traffic."""
        return self.allowed is None or (self.late_share or 0.0) <= self.allowed


@dataclass(frozen=True)
class Trial:
    """What came of a strategy. `path` [n] is the plan that is active in each interval, of the plans of all levels."""

    strategy: str
    predictor: str
    path: Counts
    usd: float
    switches: int
    at_risk: float
    """Requests that the switches put at risk by calculation."""
    classes: tuple[ClassTrial, ...]

    @property
    def kept(self) -> bool:
        """Whether every promise was."""
        return all(one.kept for one in self.classes)


def trials(
    moving: Moving,
    profile: Profile,
    chosen: Chosen,
    traffic: Traffic,
    predictors: Sequence[Predictor],
    before: Floats,
    seed: int,
) -> list[Trial]:
    """The book with each predictor, the best fixed plan, the oracle. `before`: loads to fit predictors on."""
    arena = _Arena(moving, profile, chosen, traffic, seed)
    members = np.array(chosen.book.plans)
    ups = chosen.question.ups_rps([chosen.levels.plans[i] for i in chosen.book.plans[:-1]])
    found = []
    for name in predictors:
        told = predictions(name, traffic.loads, window=chosen.question.window, before=before)
        found.append(arena.run(BOOK, name, members[active(told, ups, chosen.book.down_rps)]))
    return [*found, arena.best_fixed(), arena.oracle()]


class _Arena:
    """Where strategies are tried: the plans of all levels as one fleet, and the traffic."""

    def __init__(self, moving: Moving, profile: Profile, chosen: Chosen, traffic: Traffic, seed: int) -> None:
        self.chosen, self.traffic, self.seed = chosen, traffic, seed
        self.plans = chosen.levels.plans
        self.fleet: Fleet = fleet_of([plan.plan for plan in self.plans], moving.workload, profile)
        requests = sum(len(times) for times in traffic.arrivals_s.values())
        self.loops = loops(requests * len(self.fleet.network.order))

    def best_fixed(self) -> Trial:
        """The cheapest plan that keeps every promise, else the one that carries most."""
        count = len(self.traffic.loads)
        for index in sorted(range(len(self.plans)), key=lambda i: (self.plans[i].cost_usd_per_h, i)):
            trial = self.run(FIXED, "", np.full(count, index))
            if trial.kept:
                return trial
        return self.run(FIXED, "", np.full(count, len(self.plans) - 1))

    def oracle(self) -> Trial:
        """The cheapest plan for every interval, prepared."""
        return self.run(ORACLE, "", cheapest(self.plans, self.traffic.loads), prepared=True)

    def run(self, strategy: str, predictor: str, path: Counts, prepared: bool = False) -> Trial:
        """Simulate and price a path of plans. `prepared`: switches take and cost nothing."""
        at = [0, *(1 + np.flatnonzero(np.diff(path))).tolist()]
        goings = [self.chosen.goings[path[i - 1]][path[i]] for i in at[1:]]
        epochs = [Epoch(0.0, int(path[0]), {})]
        for i, going in zip(at[1:], goings, strict=True):
            loading = loading_s(going.switch)
            if prepared:
                loading = {option: (0.0,) * len(times) for option, times in loading.items()}
            epochs.append(Epoch(i * self.traffic.interval_s, int(path[i]), loading))
        run = replay(self.fleet, epochs, self.traffic.arrivals_s, Chance(self.seed, 2), self.loops)
        costs = np.array([plan.cost_usd_per_h for plan in self.plans])[path]
        held = 0.0 if prepared else math.fsum(going.held_usd for going in goings)
        return Trial(
            strategy,
            predictor,
            path,
            float(costs @ self.traffic.hours) + held,
            len(goings),
            0.0 if prepared else math.fsum(going.at_risk for going in goings),
            tuple(_seen(stream, run) for stream in self.fleet.network.streams),
        )


def loading_s(switch: Switch) -> dict[str, tuple[float, ...]]:
    """By option of the plan gone to, how long each replica that starts takes until it serves."""
    found: dict[str, tuple[float, ...]] = {}
    for machine in switch.machines:
        for option, count in machine.start.items():
            found[option] = (*found.get(option, ()), *(machine.seconds,) * count)
    return found


def _seen(stream: Stream, run: Replication) -> ClassTrial:
    latencies = run.latencies_s[stream.name]
    unanswered = int(np.count_nonzero(np.isinf(latencies)))
    if stream.limit_s is None or stream.percentile is None:
        return ClassTrial(stream.name, len(latencies), unanswered, None, None, None)
    late = int(np.count_nonzero(latencies > stream.limit_s))
    tail = float(np.quantile(latencies, stream.percentile / 100, method="higher")) if len(latencies) else 0.0
    return ClassTrial(stream.name, len(latencies), unanswered, late, 1 - stream.percentile / 100, tail)
