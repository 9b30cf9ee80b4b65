"""A plain CSV of measurements, one row per point: for tools without a reader here, and for what we export.

Columns are in `COLUMNS`; a row needs `batch` and `mean_s`, or `metric` and `accuracy`. Columns that are not known are
named and left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from inferplan.profilers.interchange.foreign import Foreign, ForeignAccuracy, ForeignPoint, Reading, number, read_csv
from inferplan.spec.errors import InputError
from inferplan.spec.rows import Quantiles
from inferplan.spec.tables import table_schema

TOOL = "csv"
COLUMNS = {
    "stage": "Stage of the workload; else --stage",
    "variant": "Variant of the stage; else --variant",
    "modalities": "Modality subset, names joined by '+'",
    "device": "tier/device of the workload; else --device",
    "provider": "Execution provider: cpu, openvino, cuda, tensorrt",
    "batch": "Stage calls per inference",
    "threads": "Threads of the runtime inside one operator; else --threads",
    "mean_s": "Mean service time of a batch, s",
    "std_s": "Its standard deviation, s",
    "p50_s": "Median, s",
    "p90_s": "90th percentile, s",
    "p95_s": "95th percentile, s",
    "p99_s": "99th percentile, s",
    "p999_s": "99.9th percentile, s",
    "n": "Batches timed (or, beside `accuracy`, labelled examples where `accuracy_n` is absent)",
    "throughput_per_s": "Stage calls per second of one busy replica",
    "censored": "true where the throughput is only a lower bound",
    "memory_bytes": "Most resident memory of the process, B",
    "gpu_memory_bytes": "Most GPU memory of the process, B",
    "load_s": "Time to load the model, s",
    "power_w": "Mean power, W",
    "energy_j": "Energy per stage call, J",
    "combination": "JSON object, stage to variant (or variant@subset): `accuracy` is end to end, of all of them",
    "metric": "Name of a metric",
    "accuracy": "Its value on labelled data",
    "accuracy_lower": "Lower end of its 95 % interval",
    "accuracy_upper": "Upper end of its 95 % interval",
    "accuracy_n": "Labelled examples",
    "source": "Where the row comes from, in words",
}
# Names in our own exports of measurements.
_ALIASES = {f"service_{name}": name for name in COLUMNS if name.endswith("_s") and name != "load_s"} | {
    "peak_rss_bytes": "memory_bytes",
    "peak_gpu_bytes": "gpu_memory_bytes",
    "mean_power_w": "power_w",
    "value": "accuracy",
    "lower": "accuracy_lower",
    "upper": "accuracy_upper",
}
_TRUE, _FALSE = {"true", "1", "yes"}, {"false", "0", "no", ""}


def read_tidy(file: Path, reading: Reading) -> Foreign:
    """Read every row; `reading.batch` stands in for an absent column. Raises InputError with all that is wrong."""
    rows = [_named(row) for row in read_csv(file, [])]
    points: list[ForeignPoint] = []
    accuracies: list[ForeignAccuracy] = []
    left_out: list[str] = []
    problems: list[str] = []
    ours = {*table_schema("measurements").names, *table_schema("accuracy").names}
    unknown = sorted({name for row in rows for name in row} - set(COLUMNS) - ours)
    if unknown:
        left_out.append(f"{file}: columns that mean nothing here: {', '.join(unknown)}")
    for line, row in enumerate(rows, 2):
        where = f"{file}:{line}"
        try:
            if reason := _no_measurement(row):
                left_out.append(f"{where}: {reason}")
                continue
            point, accuracy = _point(row, reading, where), _accuracy(row, where)
            if point is None and accuracy is None:
                raise InputError(f"{where}: neither mean_s nor metric with accuracy")
            points += [point] if point is not None else []
            accuracies += [accuracy] if accuracy is not None else []
        except InputError as error:
            problems.append(error.message)
    if problems:
        raise InputError(f"{file}: nothing was imported", problems)
    return Foreign(TOOL, tuple(points), tuple(accuracies), tuple(left_out))


def _named(row: Mapping[str, str]) -> dict[str, str]:
    """Cells by our names, without the apostrophe that guards text against spreadsheets."""
    named = {_ALIASES.get(name, name): cell for name, cell in row.items() if name not in COLUMNS}
    named |= {name: cell for name, cell in row.items() if name in COLUMNS}
    return {name: cell[1:] if cell[:1] == "'" and cell[1:2] in "=+-@" else cell for name, cell in named.items()}


def _no_measurement(row: Mapping[str, str]) -> str:
    """Why a row of one of our exports is none to take; empty where it is."""
    if row.get("status", "ok") not in ("ok", ""):
        return f"its status is {row['status']}"
    if row.get("origin") == "interpolated":
        return "it is interpolated, not measured"
    return ""


def _combination(row: Mapping[str, str], where: str) -> dict[str, str] | None:
    text = row.get("combination", "")
    if text in ("", "{}"):
        return None
    try:
        found = json.loads(text)
    except ValueError as error:
        raise InputError(f"{where}: combination: {text!r} is no JSON object") from error
    if not isinstance(found, dict) or not all(isinstance(choice, str) for choice in found.values()):
        raise InputError(f"{where}: combination: a JSON object of stage to variant is expected")
    return found


def _point(row: Mapping[str, str], reading: Reading, where: str) -> ForeignPoint | None:
    names = [name for name in COLUMNS if name in ("mean_s", "std_s") or (name[0] == "p" and name.endswith("_s"))]
    service = {name: number(row, name, where) for name in names}
    if not service["mean_s"]:
        given = [name for name in names if service[name] is not None]
        if given or number(row, "throughput_per_s", where) is not None:
            raise InputError(f"{where}: mean_s is missing or zero: the mean service time of a batch, in seconds")
        return None
    batch = _count(row, "batch", where) or reading.batch
    if batch is None:
        raise InputError(f"{where}: batch is missing: give the column, or --batch")
    return ForeignPoint(
        batch,
        Quantiles(**service),
        n=_count(row, "n", where) or 0,
        throughput_per_s=number(row, "throughput_per_s", where),
        censored=_flag(row, "censored", where),
        threads=_count(row, "threads", where),
        stage=row.get("stage") or None,
        variant=row.get("variant") or None,
        modalities=row.get("modalities") or None,
        device=row.get("device") or None,
        provider=row.get("provider") or None,
        memory_bytes=_count(row, "memory_bytes", where),
        gpu_memory_bytes=_count(row, "gpu_memory_bytes", where),
        load_s=number(row, "load_s", where),
        power_w=number(row, "power_w", where),
        energy_j=number(row, "energy_j", where),
        remark=row.get("source", ""),
    )


def _accuracy(row: Mapping[str, str], where: str) -> ForeignAccuracy | None:
    text = row.get("accuracy", "")
    if not text:
        return None
    if not row.get("metric"):
        raise InputError(f"{where}: accuracy without metric: which one is it?")
    value = number(row, "accuracy", where)
    assert value is not None
    return ForeignAccuracy(
        row["metric"],
        value,
        number(row, "accuracy_lower", where),
        number(row, "accuracy_upper", where),
        _count(row, "accuracy_n", where) or (0 if row.get("mean_s") else _count(row, "n", where) or 0),
        row.get("stage") or None,
        row.get("variant") or None,
        row.get("modalities") or None,
        row.get("source", ""),
        _combination(row, where),
    )


def _count(row: Mapping[str, str], name: str, where: str) -> int | None:
    value = number(row, name, where)
    if value is None:
        return None
    if value != int(value):
        raise InputError(f"{where}: {name}: {row[name]} is no whole number")
    return int(value)


def _flag(row: Mapping[str, str], name: str, where: str) -> bool:
    text = row.get(name, "").lower()
    if text not in _TRUE | _FALSE:
        raise InputError(f"{where}: {name}: {text!r} is neither true nor false")
    return text in _TRUE
