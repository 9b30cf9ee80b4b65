"""A simulation as tables: what classes get, where time goes, what options do."""

from __future__ import annotations

import dataclasses
from typing import Any

from inferplan.estimators.network import Network, Stream
from inferplan.estimators.simulation import SimulationResult, StationResult
from inferplan.reports.plan_tables import interval
from inferplan.reports.quantities import DASH, percent, rate, seconds
from inferplan.reports.tables import Table, left, right
from inferplan.spec.plan import Estimate

SHOWN_BATCHES = 4
"""Batch sizes listed at most; the most frequent ones."""


def classes_table(network: Network, result: SimulationResult) -> Table:
    """One row per class: what was promised, what it saw. A class of jobs counts its jobs."""
    columns = [
        *left("class"),
        *right("rate", "judged", "p50", "p90", "p99", "promise", "simulated", "late", "unanswered"),
        *left("verdict"),
    ]
    rows = []
    for stream in network.streams:
        seen = result.streams[stream.name]
        rows.append(
            [
                stream.name,
                rate(stream.rate_rps),
                f"{seen.requests:,}",
                seconds(seen.latency_p50_s.value),
                seconds(seen.latency_p90_s.value),
                seconds(seen.latency_p99_s.value),
                _promise(stream),
                interval(seen.latency_slo_s),
                DASH if seen.late is None else _share(seen.late),
                f"{seen.unanswered:,}" if seen.unanswered else DASH,
                seen.verdict or DASH,
            ]
        )
    return Table(columns, rows)


def _promise(stream: Stream) -> str:
    if stream.percentile is None or stream.limit_s is None:
        return DASH
    return f"p{stream.percentile:g} <= {seconds(stream.limit_s)}"


def _share(estimate: Estimate) -> str:
    """A share with its interval, in percent: `0.52 % [0.31 %, 0.80 %]`."""
    ends = [DASH if end is None else f"{100 * end:.2g} %" for end in (estimate.lower, estimate.upper)]
    return f"{100 * estimate.value:.2g} % [{ends[0]}, {ends[1]}]"


def undecided_lines(result: SimulationResult) -> list[str]:
    """What would decide the classes that are not."""
    lines = []
    for name, seen in sorted(result.streams.items()):
        if seen.verdict != "undecided":
            continue
        more = seen.requests_to_decide
        if more is None:
            lines.append(f"{name}: what is late is so near what is allowed that no number of requests decides")
        else:
            lines.append(f"{name}: about {more:,} more requests would decide, if the share that is late stays as it is")
    return lines


def ways_table(result: SimulationResult) -> Table:
    """Per class, stage by stage, where the time of a request goes; the sums are the mean latency."""
    columns = [*left("class", "stage"), *right("network", "queue", "filling", "service", "together", "share")]
    rows = []
    for name, seen in sorted(result.streams.items()):
        whole = seen.way_back_s + sum(stage.path.total_s for stage in seen.stages.values())
        for stage, spent in seen.stages.items():
            path = spent.path
            parts = (path.network_s, path.queue_s, path.fill_s, path.service_s, path.total_s)
            rows.append([name, stage, *map(_quiet, parts), percent(path.total_s / whole if whole else 0.0)])
        if seen.way_back_s:
            back = seen.way_back_s
            rows.append([name, "(way back)", _quiet(back), DASH, DASH, DASH, _quiet(back), percent(back / whole)])
    return Table(columns, rows)


def _quiet(value_s: float) -> str:
    """A mean time; a dash for none at all, which rounding may leave a trace of."""
    return DASH if value_s < 1e-9 else seconds(value_s)


def stages_table(result: SimulationResult) -> Table:
    """Per class and stage, what its calls see from arriving at an option until done."""
    columns = [
        *left("class", "stage"),
        *right("calls", "mean", "p50", "p90", "p99", "queue", "filling", "service", "join", "shed", "lost"),
    ]
    rows = []
    for name, seen in sorted(result.streams.items()):
        for stage, spent in seen.stages.items():
            times = (spent.latency_mean_s, spent.latency_p50_s, spent.latency_p90_s, spent.latency_p99_s)
            parts = (spent.queue_s, spent.fill_s, spent.service_s, spent.join_s)
            ends = [f"{count:,}" if count else DASH for count in (spent.shed, spent.lost)]
            rows.append([name, stage, f"{spent.calls:,}", *map(seconds, times), *map(_quiet, parts), *ends])
    return Table(columns, rows)


def options_table(network: Network, result: SimulationResult) -> Table:
    """One row per option that runs something."""
    columns = [
        *left("option"),
        *right("replicas", "load", "capacity", "busy", "batch"),
        *left("batches"),
        *right("latency", "tail", "shed", "lost"),
    ]
    rows = []
    for name, seen in sorted(result.stations.items()):
        station = network.stations[name]
        if station.service is None:
            continue
        ends = [f"{count:,}" if count else DASH for count in (seen.shed, seen.lost)]
        rows.append(
            [
                name,
                str(station.replicas),
                rate(seen.load_rps),
                rate(station.capacity_rps),
                percent(seen.utilisation),
                f"{seen.batch_mean:.2f}",
                histogram(seen),
                seconds(seen.latency_mean_s),
                seconds(seen.latency_tail_s),
                *ends,
            ]
        )
    return Table(columns, rows)


def histogram(seen: StationResult) -> str:
    """Batch sizes with their shares: `1: 62 %, 2: 25 %, 4: 13 %`; the most frequent ones, by size."""
    often = sorted(seen.batch_histogram, key=lambda size: -seen.batch_histogram[size])[:SHOWN_BATCHES]
    more = ", ..." if len(seen.batch_histogram) > len(often) else ""
    return ", ".join(f"{size}: {100 * seen.batch_histogram[size]:.0f} %" for size in sorted(often)) + more


def result_data(network: Network, result: SimulationResult) -> dict[str, Any]:
    """The result for programs (docs/cli.md has the keys)."""
    data: dict[str, Any] = _plain(result)
    classes, options = data.pop("streams"), data.pop("stations")
    for stream in network.streams:
        if stream.name in classes:
            limits = {"rate_rps": stream.rate_rps, "percentile": stream.percentile, "limit_s": stream.limit_s}
            classes[stream.name] = {**limits, **classes[stream.name]}
    verdict = "unstable" if result.unstable else result.verdict
    return {"verdict": verdict, **data, "classes": classes, "options": options}


def _plain(value: Any) -> Any:
    """Dataclasses and records as mappings."""
    if isinstance(value, Estimate):
        return value.model_dump()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value
