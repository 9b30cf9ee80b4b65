"""Triton's perf_analyzer: the CSV of `-f` and the JSON of `--profile-export-file`.

CSV: a row per load level, times in microseconds. The server's own times (compute input, infer, output) are what a
batch costs a replica, on average; the latencies are the client's, with network and queue. Which requests the server
put into one batch is not in the file. So a row counts where one request was under way at a time (concurrency 1), or
where the user says that the server put none together. The client's latencies are taken only where the user says
that client and network cost next to nothing.

JSON: `experiments[]` with `experiment.mode` and `value`, `requests[]` with `timestamp` and `response_timestamps` in
nanoseconds, `window_boundaries[]`. These are the client's latencies, one by one, so that percentiles come with
their bounds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from inferplan.profilers.interchange.foreign import (
    Foreign,
    ForeignPoint,
    Reading,
    needed_batch,
    number,
    read_csv,
    read_text,
)
from inferplan.profilers.statistics import quantiles
from inferplan.spec.errors import InputError
from inferplan.spec.rows import Quantiles

TOOL = "perf_analyzer"
QUEUED = (
    "its latencies include queueing, and how many requests the server put into a batch is not in the file"
    " (--unbatched where it put none together)"
)
CLIENT_ONLY = (
    "it has the client's latencies only, with network and queue: --client-latency takes them for the service time,"
    " where client and network cost next to nothing"
)
_COMPUTE = ("Server Compute Input", "Server Compute Infer", "Server Compute Output")
_PARTS = ("Client Send", "Network+Server Send/Recv", "Server Queue", *_COMPUTE, "Client Recv")
_PERCENTILE = re.compile(r"p(50|90|95|99) latency")
_CENSORED_WITHIN = 0.02


@dataclass(frozen=True, slots=True)
class Level:
    """One load level. `offered_rps` is None in a closed loop with `concurrency` requests under way."""

    concurrency: float | None
    offered_rps: float | None
    throughput_per_s: float
    service: Quantiles | None
    remark: str = ""

    @property
    def name(self) -> str:
        """For people."""
        return (
            f"concurrency {self.concurrency:g}" if self.concurrency is not None else f"{self.offered_rps:g} requests/s"
        )

    def censored(self, batch: int) -> bool:
        """Whether more load might have given more throughput."""
        if self.offered_rps is None:
            return True
        return self.throughput_per_s >= self.offered_rps * batch * (1 - _CENSORED_WITHIN)


def read_perf_analyzer(file: Path, reading: Reading) -> Foreign:
    """Read either format, told apart by content. Raises InputError."""
    if read_text(file).lstrip().startswith("{"):
        return _read_json(file, reading)
    return _read_csv(file, reading)


def _read_csv(file: Path, reading: Reading) -> Foreign:
    rows = read_csv(file, ["Inferences/Second"])
    if not rows or not {"Concurrency", "Request Rate"} & set(rows[0]):
        raise InputError(f"{file}: neither a column Concurrency nor a column Request Rate: is it of perf_analyzer?")
    batch = needed_batch(reading, file)
    levels = [_level(row, reading, f"{file}:{line}", batch) for line, row in enumerate(rows, 2)]
    point, left_out = join_levels(levels, batch, reading, str(file))
    return Foreign(TOOL, () if point is None else (point,), left_out=tuple(left_out))


def _level(row: Mapping[str, str], reading: Reading, where: str, batch: int) -> Level:
    rate = number(row, "Inferences/Second", where)
    if rate is None:
        raise InputError(f"{where}: Inferences/Second is empty")
    service, remark = _service_of(row, reading, where)
    return Level(number(row, "Concurrency", where), number(row, "Request Rate", where), rate, service, remark)


def _service_of(row: Mapping[str, str], reading: Reading, where: str) -> tuple[Quantiles | None, str]:
    """Service time of a row, and how it came about."""
    if reading.client_latency:
        mean = number(row, "Avg latency", where) or sum(number(row, name, where) or 0.0 for name in _PARTS)
        found = {f"p{match[1]}_s": name for name in row if (match := _PERCENTILE.fullmatch(name))}
        values = {field: number(row, name, where) for field, name in found.items()}
        scaled = {field: value * 1e-6 for field, value in values.items() if value}
        return (Quantiles(mean_s=mean * 1e-6, **scaled) if mean else None), "the client's latency"
    parts = [number(row, name, where) for name in _COMPUTE]
    mean = sum(part or 0.0 for part in parts)
    return (Quantiles(mean_s=mean * 1e-6) if mean else None), "the server's compute time"


def join_levels(
    levels: Sequence[Level], batch: int, reading: Reading, where: str
) -> tuple[ForeignPoint | None, list[str]]:
    """One point of the load levels of one batch size: service time at the least load, the highest throughput."""
    usable: list[Level] = []
    left_out: list[str] = []
    for level in levels:
        if level.concurrency != 1 and (not reading.unbatched or reading.client_latency):
            left_out.append(f"{where}: {level.name}: {QUEUED}")
        elif level.service is None:
            left_out.append(f"{where}: {level.name}: {CLIENT_ONLY}")
        else:
            usable.append(level)
    if not usable:
        return None, left_out
    first = min(usable, key=lambda level: (level.concurrency or 0.0, level.offered_rps or 0.0))
    best = max(usable, key=lambda level: level.throughput_per_s)
    censored = best.censored(batch) and (best.offered_rps is not None or best is _heaviest(usable))
    assert first.service is not None
    point = ForeignPoint(
        batch,
        first.service,
        throughput_per_s=best.throughput_per_s / reading.instances,
        censored=censored,
        remark=f"{first.remark} at {first.name}",
    )
    return point, left_out


def _heaviest(levels: Sequence[Level]) -> Level:
    return max(levels, key=lambda level: (level.concurrency or 0.0, level.offered_rps or 0.0))


def _read_json(file: Path, reading: Reading) -> Foreign:
    try:
        experiments = json.loads(read_text(file))["experiments"]
        parts = [(item["experiment"]["mode"], float(item["experiment"]["value"]), item) for item in experiments]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{file} is no profile export of perf_analyzer: {type(error).__name__}: {error}") from error
    batch = needed_batch(reading, file)
    points: list[ForeignPoint] = []
    left_out: list[str] = []
    for mode, value, item in parts:
        name = f"{file}: {mode} {value:g}"
        if (mode, value) != ("concurrency", 1.0):
            left_out.append(f"{name}: its latencies include queueing: only one request at a time gives a service time")
        elif not reading.client_latency:
            left_out.append(f"{name}: {CLIENT_ONLY}")
        else:
            points.append(_from_requests(item, batch, name))
    if len(points) > 1:
        raise InputError(f"{file}: {len(points)} experiments at concurrency 1; a point has one: split the file")
    return Foreign(TOOL, tuple(points), left_out=tuple(left_out))


def _from_requests(item: Mapping[str, Any], batch: int, name: str) -> ForeignPoint:
    """Statistics of the requests within the measurement windows."""
    try:
        windows = [int(edge) for edge in item.get("window_boundaries", [])]
        sent = [int(request["timestamp"]) for request in item["requests"] if request["response_timestamps"]]
        done = [
            int(request["response_timestamps"][-1]) for request in item["requests"] if request["response_timestamps"]
        ]
        starts, ends = np.array(sent, np.int64), np.array(done, np.int64)
    except (ValueError, KeyError, TypeError, IndexError, OverflowError) as error:
        raise InputError(f"{name}: requests are not as expected: {type(error).__name__}: {error}") from error
    if windows:
        within = (starts >= min(windows)) & (ends <= max(windows))
        starts, ends = starts[within], ends[within]
    if len(starts) == 0 or bool((ends <= starts).any()):
        raise InputError(f"{name}: no request with its answer within the measurement windows")
    order = np.argsort(starts)
    samples_s = np.asarray((ends - starts)[order] * 1e-9, dtype=np.float64)
    span_s = float(ends.max() - starts.min()) * 1e-9
    return ForeignPoint(
        batch,
        quantiles(samples_s),
        n=len(samples_s),
        throughput_per_s=batch * len(samples_s) / span_s,
        censored=True,
        samples_s=samples_s,
        remark="the client's latency at concurrency 1",
    )
