"""What comes out of a simulation: per class, per station, per class and stage; and how replications add up to it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from inferplan.estimators.intervals import Latencies
from inferplan.estimators.network import Network, Outage, Station, Stream
from inferplan.estimators.simulation.replication import Replication
from inferplan.estimators.simulation.spending import Spending, spending_of
from inferplan.estimators.simulation.station import LOST, SHED
from inferplan.spec.errors import InputError
from inferplan.spec.plan import Estimate, Verdict

Floats = NDArray[np.float64]
UNKNOWN = Estimate(value=math.inf)
"""Latency of a class of which no request was answered."""


@dataclass(frozen=True)
class PathTime:
    """Where the time of a request went on its way: means in seconds over the answered requests.

    Of all calls of a request those count that its answer waited for, one per stage at most; together with the way back
    they add up to the mean latency.
    """

    network_s: float
    queue_s: float
    """All replicas were busy."""
    fill_s: float
    """A replica was free, and the batch was waiting to fill."""
    service_s: float

    @property
    def total_s(self) -> float:
        """All of it."""
        return self.network_s + self.queue_s + self.fill_s + self.service_s


@dataclass(frozen=True)
class StageResult:
    """What the calls of a class did at a stage, from arrival at the station until done; means and percentiles of those
    that were served. `join_s` is how long what came first waited for the last of what the stage joins."""

    calls: int
    shed: int
    lost: int
    latency_mean_s: float
    latency_p50_s: float
    latency_p90_s: float
    latency_p99_s: float
    network_s: float
    join_s: float
    queue_s: float
    fill_s: float
    service_s: float
    path: PathTime


@dataclass(frozen=True)
class StreamResult:
    """What a class saw; a class of jobs: its jobs. Latencies are end to end.

    Means and percentiles are those of what was answered; `latency_slo_s`, at the percentile of the SLO, and the verdict
    count what was not as never done.
    """

    verdict: Verdict | None
    """None where the class has no SLO."""
    requests: int
    latency_mean_s: Estimate
    latency_p50_s: Estimate
    latency_p90_s: Estimate
    latency_p99_s: Estimate
    latency_slo_s: Estimate | None
    unanswered: int = 0
    late: Estimate | None = None
    """Share beyond the SLO's limit."""
    requests_to_decide: int | None = None
    """About how many more would decide an undecided verdict; None where it is decided, or no number would do."""
    stages: dict[str, StageResult] = field(default_factory=dict)
    """With detail only; so is the next."""
    way_back_s: float = 0.0


@dataclass(frozen=True)
class StationResult:
    """What a station did. `batch_histogram` is the share of batches by size; latency is wait and service.

    `utilisation` is of the time its replicas were up. `shed` and `lost` are calls in the counted time, of all
    replications.
    """

    load_rps: float
    utilisation: float
    batch_mean: float
    batch_histogram: dict[int, float]
    latency_mean_s: float
    latency_tail_s: float
    shed: int = 0
    lost: int = 0


@dataclass(frozen=True)
class SimulationResult:
    """The outcome. Where `unstable` names stations nothing was simulated: their queues grow without bound."""

    seed: int
    replications: int
    streams: dict[str, StreamResult]
    stations: dict[str, StationResult]
    unstable: tuple[str, ...] = ()
    counted_s: float = 0.0
    """Counted time of one replication."""
    warmup_s: float = 0.0
    notes: tuple[str, ...] = ()
    """What was done differently from what the plan says, in words."""

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of all classes; met where no class has an SLO and every queue is stable."""
        verdicts = {stream.verdict for stream in self.streams.values()}
        if self.unstable or "missed" in verdicts:
            return "missed"
        return "undecided" if "undecided" in verdicts else "met"


@dataclass(frozen=True, slots=True)
class StationDigest:
    """A station's part in one replication, over its counted time. `batches` counts batches by size."""

    batches: dict[int, int]
    busy_s: float
    up_s: float
    calls: int
    latency_sum_s: float
    latency_tail_s: float
    shed: int
    lost: int


@dataclass(frozen=True, slots=True)
class Digest:
    """What is kept of a replication; latencies are sorted."""

    latencies_s: dict[str, Floats]
    stations: dict[str, StationDigest]
    spending: dict[str, Spending]


def digest(network: Network, run: Replication, detail: bool) -> Digest:
    """What is kept of a replication; where time was spent only with `detail`."""
    stations = {name: _station_digest(network, network.stations[name], run) for name in run.served}
    spending = {stream.name: spending_of(network, run, stream) for stream in network.streams} if detail else {}
    return Digest({name: np.sort(seen) for name, seen in run.latencies_s.items()}, stations, spending)


def _station_digest(network: Network, station: Station, run: Replication) -> StationDigest:
    times, served = run.served[station.name]
    first = int(np.searchsorted(times, run.warmup_s))
    latency = served.done_s[first:] - times[first:]
    fates = served.fates[first:]
    if len(fates):
        latency = latency[np.isfinite(latency)]
    counted = (served.starts_s >= run.warmup_s) & (served.starts_s < run.end_s)
    sizes = np.bincount(served.sizes[counted])
    level = _strictest(network, station) / 100
    return StationDigest(
        {size: int(sizes[size]) for size in np.flatnonzero(sizes).tolist()},
        float(served.services_s[counted].sum()),
        _up_s(station, run.end_s - run.warmup_s),
        len(latency),
        float(latency.sum()),
        _quantile(latency, level) if len(latency) else 0.0,
        int(np.count_nonzero(fates == SHED)),
        int(np.count_nonzero(fates == LOST)),
    )


def _quantile(values: Floats, level: float) -> float:
    """As numpy's, of values that are no more than a few thousand several times as fast."""
    place = level * (len(values) - 1)
    low = int(place)
    high = min(low + 1, len(values) - 1)
    found = np.partition(values, (low, high))
    return float(found[low] + (place - low) * (found[high] - found[low]))


def _up_s(station: Station, counted_s: float) -> float:
    """Seconds of the counted time that replicas were up, all together."""

    def down(outage: Outage) -> float:
        return max(min(outage.end_s, counted_s) - max(outage.start_s, 0.0), 0.0)

    return station.replicas * counted_s - math.fsum(down(outage) for outage in station.outages)


def _strictest(network: Network, station: Station) -> float:
    """The highest percentile that a class served by the station was promised; 99 where none was."""
    served = [s for s in network.streams if any(name == station.name for name, _ in s.routes[station.stage])]
    return max([stream.percentile for stream in served if stream.percentile is not None], default=99.0)


def verdict_of(stream: Stream, runs: Sequence[Digest], confidence: float) -> Verdict | None:
    """Whether a class keeps its promise; None where it has none. Raises InputError where none of it was simulated."""
    latencies = _latencies(stream, runs, confidence)
    if stream.percentile is None or stream.limit_s is None:
        return None
    return latencies.verdict(stream.percentile, stream.limit_s)


def _latencies(stream: Stream, runs: Sequence[Digest], confidence: float) -> Latencies:
    seen = tuple(run.latencies_s[stream.name] for run in runs if len(run.latencies_s[stream.name]))
    latencies = Latencies(seen, confidence)
    if latencies.requests == 0:
        raise InputError(f"class {stream.name}: its rate is too low beside the others' to be simulated together")
    return latencies


def judge(stream: Stream, runs: Sequence[Digest], confidence: float) -> StreamResult:
    """What a class saw in all replications. Raises InputError where nothing of it was simulated."""
    latencies = _latencies(stream, runs, confidence)
    answered = latencies.answered()
    known = answered.requests > 0
    percentiles = {level: answered.percentile_s(level) if known else UNKNOWN for level in (50.0, 90.0, 99.0)}
    verdict: Verdict | None = None
    at_slo = late = decide = None
    if stream.percentile is not None and stream.limit_s is not None:
        shown = answered is latencies and stream.percentile in percentiles
        at_slo = percentiles[stream.percentile] if shown else latencies.percentile_s(stream.percentile)
        late = latencies.share_above(stream.limit_s)
        verdict = latencies.verdict(stream.percentile, stream.limit_s)
        if verdict == "undecided":
            decide = latencies.requests_to_decide(stream.percentile, stream.limit_s)
    return StreamResult(
        verdict,
        latencies.requests,
        answered.mean_s() if known else UNKNOWN,
        percentiles[50.0],
        percentiles[90.0],
        percentiles[99.0],
        at_slo,
        latencies.requests - answered.requests,
        late,
        decide,
        *_spent(stream, runs),
    )


def _spent(stream: Stream, runs: Sequence[Digest]) -> tuple[dict[str, StageResult], float]:
    """Where the time of a class's requests went, stage by stage, and its mean way back."""
    seen = [run.spending[stream.name] for run in runs if run.spending]
    if not seen:
        return {}, 0.0
    answered = sum(spending.answered for spending in seen)
    stages: dict[str, StageResult] = {}
    for stage in seen[0].stages:
        parts = [spending.stages[stage] for spending in seen]
        latency = np.concatenate([part.latencies_s for part in parts])
        p50, p90, p99 = np.quantile(latency, [0.5, 0.9, 0.99]).tolist() if len(latency) else (0.0, 0.0, 0.0)
        network_s, join_s, queue_s, fill_s, service_s = np.sum([part.sums_s for part in parts], axis=0) / max(
            len(latency), 1
        )
        path = np.sum([part.path_sums_s for part in parts], axis=0) / max(answered, 1)
        stages[stage] = StageResult(
            sum(part.calls for part in parts),
            sum(part.shed for part in parts),
            sum(part.lost for part in parts),
            float(latency.mean()) if len(latency) else 0.0,
            p50,
            p90,
            p99,
            float(network_s),
            float(join_s),
            float(queue_s),
            float(fill_s),
            float(service_s),
            PathTime(*path.tolist()),
        )
    return stages, sum(spending.way_back_sum_s for spending in seen) / max(answered, 1)


def summary(network: Network, station: Station, runs: Sequence[Digest]) -> StationResult:
    """A station's figures over the counted time of all replications; its tail is the replications' mean."""
    seen = [run.stations[station.name] for run in runs]
    batches: Counter[int] = Counter()
    for part in seen:
        batches.update(part.batches)
    total = sum(batches.values())
    calls = sum(part.calls for part in seen)
    time = sum(part.up_s for part in seen)
    return StationResult(
        network.loads_rps()[station.name],
        sum(part.busy_s for part in seen) / time if time else 0.0,
        sum(size * count for size, count in batches.items()) / total if total else 0.0,
        {size: batches[size] / total for size in sorted(batches)},
        sum(part.latency_sum_s for part in seen) / calls if calls else 0.0,
        sum(part.latency_tail_s * part.calls for part in seen) / calls if calls else 0.0,
        sum(part.shed for part in seen),
        sum(part.lost for part in seen),
    )
