"""Triton's Model Analyzer: its CSV of inference metrics (`metrics-model-inference.csv`).

A row per model configuration, batch size and load; times in milliseconds. What perf_analyzer's rows can say, these
can (Model Analyzer runs it), see `perf_analyzer`. By default the file has no server times: throughput and p99 of the
client only; then the mean at concurrency 1 is the batch over the throughput.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from inferplan.profilers.interchange.foreign import Foreign, ForeignPoint, Reading, number, read_csv
from inferplan.profilers.interchange.perf_analyzer import Level, join_levels
from inferplan.spec.errors import InputError
from inferplan.spec.rows import Quantiles

TOOL = "model_analyzer"
_COMPUTE = tuple(f"Server Compute {part} time (ms)" for part in ("Input", "Infer", "Output"))
_PERCENTILE = re.compile(r"p(50|90|95|99) Latency \(ms\)")
_INSTANCES = re.compile(r"(\d+):(CPU|GPU)")
_MIB = 1 << 20
Row = Mapping[str, str]


def read_model_analyzer(file: Path, reading: Reading) -> Foreign:
    """Read the inference metrics. Raises InputError, also where several configurations would make one point."""
    rows = read_csv(file, ["Model", "Batch", "Throughput (infer/sec)"])
    lines = [(f"{file}:{line}", row) for line, row in enumerate(rows, 2) if _chosen(row, reading)]
    groups: dict[tuple[str, str, int], list[tuple[str, Row]]] = {}
    for where, row in lines:
        batch = number(row, "Batch", where)
        if not batch or batch != int(batch):
            raise InputError(f"{where}: Batch: {row.get('Batch', '')!r} is no batch size")
        groups.setdefault((row["Model"], row.get("Model Config Path", ""), int(batch)), []).append((where, row))
    names = sorted({config or model for model, config, _ in groups})
    if len(names) > 1:
        raise InputError(f"{file} has several models or configurations: choose one with --model", names)
    if not names:
        raise InputError(f"{file} has no rows" + (f" of {reading.model}" if reading.model else ""))
    points: list[ForeignPoint] = []
    left_out: list[str] = []
    for (_, _, batch), found in groups.items():
        point, left = _point(batch, found, reading, str(file))
        points += [point] if point is not None else []
        left_out += left
    return Foreign(TOOL, tuple(points), left_out=tuple(left_out))


def _chosen(row: Row, reading: Reading) -> bool:
    return reading.model is None or reading.model in (row.get("Model"), row.get("Model Config Path"))


def _point(
    batch: int, rows: list[tuple[str, Row]], reading: Reading, file: str
) -> tuple[ForeignPoint | None, list[str]]:
    where, first = rows[0]
    match = _INSTANCES.search(first.get("Instance Group", ""))
    if match and int(match[1]) == 0:
        raise InputError(f"{where}: Instance Group: {first['Instance Group']} has no instances")
    shared = replace(reading, instances=int(match[1]) if match else reading.instances)
    levels = [_level(row, batch, reading, place) for place, row in rows]
    point, left_out = join_levels(levels, batch, shared, f"{file}: batch {batch}")
    if point is None:
        return None, left_out
    gpu = number(first, "Max GPU Memory Usage (MB)", where) or number(first, "GPU Memory Usage (MB)", where)
    ram = number(first, "RAM Usage (MB)", where)
    remark = f"{point.remark}, {match[0]} instances" if match else point.remark
    # Depending on its mode the tool means 10^6 or 2^20 bytes by MB: the larger one cannot promise too much.
    return replace(
        point,
        gpu_memory_bytes=int(gpu * _MIB) if gpu else None,
        memory_bytes=int(ram * _MIB) if ram else None,
        remark=remark,
    ), left_out


def _level(row: Row, batch: int, reading: Reading, where: str) -> Level:
    rate = number(row, "Throughput (infer/sec)", where)
    if rate is None:
        raise InputError(f"{where}: Throughput (infer/sec) is empty")
    concurrency, offered = number(row, "Concurrency", where), number(row, "Request Rate", where)
    if reading.client_latency:
        average = number(row, "Avg Latency (ms)", where)
        mean_s = average * 1e-3 if average else batch / rate if rate and concurrency == 1 else None
        found = {f"p{match[1]}_s": name for name in row if (match := _PERCENTILE.fullmatch(name))}
        values = {field: number(row, name, where) for field, name in found.items()}
        scaled = {field: value * 1e-3 for field, value in values.items() if value}
        service = Quantiles(mean_s=mean_s, **scaled) if mean_s else None
        return Level(concurrency, offered, rate, service, "the client's latency")
    total = sum(number(row, name, where) or 0.0 for name in _COMPUTE)
    service = Quantiles(mean_s=total * 1e-3) if total else None
    return Level(concurrency, offered, rate, service, "the server's compute time")
