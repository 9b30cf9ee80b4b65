"""MLPerf LoadGen: `mlperf_log_detail.txt`, or `mlperf_log_summary.txt`, or the folder with them.

| scenario | what is taken |
|---|---|
| SingleStream | one query at a time: its latency is a service time; percentiles, early-stopping bounds, n |
| MultiStream | the same for queries of several samples, which are one batch |
| Offline | throughput; with the batch size and the number of instances the user gives, the mean time per batch |
| Server | nothing: its latency includes queueing, and its throughput is the load that was offered |

Times are in nanoseconds. Bounds of early stopping are at 99 % confidence, as ours are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from inferplan.profilers.interchange.foreign import Foreign, ForeignPoint, Reading, needed_batch, read_text
from inferplan.profilers.statistics import least_count
from inferplan.spec.errors import InputError
from inferplan.spec.rows import Quantiles

TOOL = "mlperf_loadgen"
DETAIL, SUMMARY = "mlperf_log_detail.txt", "mlperf_log_summary.txt"
_MARK = ":::MLLOG "
_FIELDS = {"50.00": "p50", "90.00": "p90", "95.00": "p95", "99.00": "p99", "99.90": "p999"}
_EARLY = re.compile(r"Early stopping ([\d.]+)th percentile estimate: (\d+)")
_PROCESSED = re.compile(r"Processed at least \d+ queries \((\d+)\)")
_LINE = re.compile(r"^(?P<name>[^:]+?)\s*:\s*(?P<value>.+?)\s*$")


def read_loadgen(path: Path, reading: Reading) -> Foreign:
    """Read a log. Raises InputError where it is none, or a run that measured no performance."""
    file = path
    if path.is_dir():
        file = path / DETAIL if (path / DETAIL).is_file() else path / SUMMARY
    text = read_text(file)
    found = _from_detail(text, file) if _MARK in text else _from_summary(text, file)
    scenario, mode = found.get("scenario", ""), found.get("mode", "")
    if mode != "PerformanceOnly":
        raise InputError(f"{file}: mode {mode or 'unknown'}: only runs in mode PerformanceOnly measure time")
    name = f"{file}: scenario {scenario}"
    if scenario == "Server":
        reason = "latency includes queueing, throughput is the load that was offered: nothing in it is a service time"
        return Foreign(TOOL, (), left_out=(f"{name}: {reason}",))
    if scenario == "Offline":
        return Foreign(TOOL, (_offline(found, reading, file),))
    if scenario not in ("SingleStream", "MultiStream"):
        raise InputError(
            f"{file}: scenario {scenario or 'unknown'}: expected SingleStream, MultiStream, Offline, Server"
        )
    return Foreign(TOOL, (_stream(found, scenario, reading, file),))


def _stream(found: dict[str, str], scenario: str, reading: Reading, file: Path) -> ForeignPoint:
    batch = int(_number(found, "samples_per_query", file))
    if reading.batch not in (None, batch):
        raise InputError(f"{file}: its queries have {batch} samples: --batch {reading.batch} is something else")
    n = int(_number(found, "n", file)) if "n" in found else 0
    mean_s = _number(found, "mean", file) * 1e-9
    values: dict[str, float | None] = {"mean_s": mean_s}
    values["min_s"] = _number(found, "min", file) * 1e-9 if "min" in found else None
    for percent, field in _FIELDS.items():
        enough = n == 0 or n >= least_count(float(percent))
        if percent in found and enough:
            values[f"{field}_s"] = _number(found, percent, file) * 1e-9
        if f"early {float(percent):g}" in found and enough and n:
            values[f"{field}_upper_s"] = _number(found, f"early {float(percent):g}", file) * 1e-9
    return ForeignPoint(
        batch, Quantiles(**values), n=n, throughput_per_s=batch / mean_s, remark=_remark(found, scenario)
    )


def _offline(found: dict[str, str], reading: Reading, file: Path) -> ForeignPoint:
    batch = needed_batch(reading, file)
    rate = _number(found, "throughput", file) / reading.instances
    remark = _remark(found, "Offline") + ", mean from throughput"
    return ForeignPoint(batch, Quantiles(mean_s=batch / rate), throughput_per_s=rate, remark=remark)


def _remark(found: dict[str, str], scenario: str) -> str:
    valid = found.get("result", "")
    return scenario if valid == "VALID" else f"{scenario}, result {valid or 'unknown'}"


def _number(found: dict[str, str], name: str, file: Path) -> float:
    try:
        value = float(found[name])
    except KeyError as error:
        raise InputError(f"{file}: no {name} in it: was the run interrupted?") from error
    except ValueError as error:
        raise InputError(f"{file}: {name}: {found[name]} is no number") from error
    if not 0 < value < float("inf"):
        raise InputError(f"{file}: {name}: {found[name]} is no time or rate")
    return value


def _from_detail(text: str, file: Path) -> dict[str, str]:
    names = {
        "effective_scenario": "scenario",
        "effective_test_mode": "mode",
        "effective_samples_per_query": "samples_per_query",
        "result_query_count": "n",
        "result_validity": "result",
        "result_mean_latency_ns": "mean",
        "result_min_latency_ns": "min",
        "result_samples_per_second": "throughput",
    } | {f"result_{percent}_percentile_latency_ns": percent for percent in _FIELDS}
    found: dict[str, str] = {}
    for line in text.splitlines():
        if not line.startswith(_MARK):
            continue
        try:
            entry = json.loads(line[len(_MARK) :])
            key, value = entry["key"], entry["value"]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{file}: a line of the log is cut off or damaged: {line[:60]}") from error
        if key in names:
            found[names[key]] = str(value)
        elif key == "early_stopping_result":
            found |= dict(_early(str(value)))
    return found


def _from_summary(text: str, file: Path) -> dict[str, str]:
    names = {
        "Scenario": "scenario",
        "Mode": "mode",
        "samples_per_query": "samples_per_query",
        "Result is": "result",
        "Mean latency (ns)": "mean",
        "Min latency (ns)": "min",
        "Samples per second": "throughput",
    } | {f"{percent} percentile latency (ns)": percent for percent in _FIELDS}
    if "MLPerf Results Summary" not in text:
        raise InputError(f"{file} is no log of MLPerf LoadGen: expected {DETAIL} or {SUMMARY}")
    found: dict[str, str] = {}
    for line in text.splitlines():
        match = _LINE.match(line)
        if match and match["name"] in names:
            found[names[match["name"]]] = match["value"]
    return found | dict(_early(text))


def _early(text: str) -> Iterator[tuple[str, str]]:
    """Queries processed and the upper bounds of percentiles."""
    if match := _PROCESSED.search(text):
        yield "n", match[1]
    for percent, value in _EARLY.findall(text):
        yield f"early {float(percent):g}", value
