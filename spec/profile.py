"""The profile document: schemas of its Parquet tables, and reading them.

A profile is a directory of Parquet datasets, one small file per finished point:

| table | one row per |
|---|---|
| `measurements/` | measured point (variant, device, batch, threads, ...), with its statistics |
| `samples/` | timed call of a point (raw service and inference times) |
| `accuracy/` | metric of a variant, or of a combination of variants end to end |
| `flows/` | edge and upstream variant: how many calls went on, of what size |

`inferplan.profilers.store` writes it; everybody else reads it through `read_profile`. The tables are plain
Parquet: pandas, DuckDB and Polars read them unaided. Each column's unit and meaning stand in the Arrow
schema's field metadata.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from inferplan.spec.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA_VERSION = 1
TABLES = ("measurements", "samples", "accuracy", "flows")
Status = Literal["ok", "failed", "timeout", "out_of_memory"]


def column(description: str, unit: str = "", **options: Any) -> Any:
    """A dataclass field with the description and unit that its Parquet column carries."""
    return field(metadata={"description": description, "unit": unit}, **options)


@dataclass(frozen=True, slots=True)
class PointKey:
    """What makes a measured point the same point: measured again only if one of these differs."""

    stage: str = column("Stage of the pipeline")
    variant: str = column("Variant of the stage")
    modalities: str = column("Modality subset, names sorted and joined by '+'; empty where there are none")
    model_sha256: str = column("SHA-256 of the model file; empty for skip variants")
    code_sha256: str = column("SHA-256 of the stage code and its params; empty where there is none")
    runtime: str = column("Runtime: onnxruntime, torch, skip")
    runtime_version: str = column("Version of the runtime")
    provider: str = column("Execution provider that really ran: cpu, cuda, tensorrt")
    device: str = column("Device of the workload (tier/device) this machine stood for")
    device_fingerprint: str = column("Hash of the machine's processor, memory, GPU, driver")
    batch: int = column("Stage calls per inference")
    threads: int = column("Threads of the runtime inside one operator")
    instances: int = column("Instances of the variant running side by side")
    input_shape: str = column("JSON object: shape per model input, as fed; empty object for skip variants")

    def id(self) -> str:
        """A short stable name of the point: the start of the hash of its fields."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:24]


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Percentiles of a duration. `*_s` are estimates, `*_upper_s` one-sided upper bounds at 99 %
    confidence (see docs/measurement.md); None where there are too few samples to say."""

    mean_s: float | None = column("Mean", "s", default=None)
    std_s: float | None = column("Standard deviation", "s", default=None)
    min_s: float | None = column("Least", "s", default=None)
    p50_s: float | None = column("Median", "s", default=None)
    p50_upper_s: float | None = column("Upper bound of the median, 99 % confidence", "s", default=None)
    p90_s: float | None = column("90th percentile", "s", default=None)
    p90_upper_s: float | None = column("Upper bound of the 90th percentile, 99 % confidence", "s", default=None)
    p95_s: float | None = column("95th percentile", "s", default=None)
    p95_upper_s: float | None = column("Upper bound of the 95th percentile, 99 % confidence", "s", default=None)
    p99_s: float | None = column("99th percentile", "s", default=None)
    p99_upper_s: float | None = column("Upper bound of the 99th percentile, 99 % confidence", "s", default=None)
    p999_s: float | None = column("99.9th percentile", "s", default=None)
    p999_upper_s: float | None = column("Upper bound of the 99.9th percentile, 99 % confidence", "s", default=None)


@dataclass(frozen=True, slots=True)
class Measurement:
    """One measured point. Service time is what a replica spends on one batch: pre-processing, inference,
    post-processing. Inference time is the runtime's call alone."""

    key: PointKey
    status: Status = column("ok, or how measuring failed")
    reason: str = column("Why it failed; empty when ok", default="")
    n: int = column("Timed batches, all processes together", default=0)
    processes: int = column("Fresh processes the samples come from", default=0)
    service: Quantiles = field(default_factory=Quantiles)
    infer: Quantiles = field(default_factory=Quantiles)
    pre_mean_s: float | None = column("Mean time of pre-processing a batch", "s", default=None)
    post_mean_s: float | None = column("Mean time of post-processing a batch", "s", default=None)
    throughput_per_s: float | None = column(
        "Stage calls per second of one busy replica, closed loop", "1/s", default=None
    )
    load_s: float | None = column("Time to load the model, median over processes", "s", default=None)
    first_inference_s: float | None = column("Time of the first batch after loading, median", "s", default=None)
    warmup_n: int | None = column("Batches judged to be warm-up and left out, most over processes", default=None)
    peak_rss_bytes: int | None = column("Most resident memory of a measuring process", "B", default=None)
    cpu_utilisation: float | None = column("CPU time over wall time while measuring (1 = one core busy)", default=None)
    foreign_cpu: float | None = column("Cores kept busy by other processes while measuring", default=None)
    drift: float | None = column("Median of the last third over that of the first third of samples", default=None)
    process_spread: float | None = column("Largest over smallest per-process median service time", default=None)
    clock_min_hz: float | None = column("Lowest CPU clock seen", "Hz", default=None)
    clock_max_hz: float | None = column("Highest CPU clock seen", "Hz", default=None)
    temperature_c: float | None = column("Highest temperature seen", "Cel", default=None)
    mean_power_w: float | None = column("Mean power while measuring, where there is a counter", "W", default=None)
    energy_j: float | None = column("Energy per stage call, where there is a counter", "J", default=None)
    stopped_by: str = column(
        "percentile: its bound was met; time: the point's time limit came first; budget: the whole run's did",
        default="",
    )
    measured_at: str = column("When measuring ended, UTC, ISO 8601", default="")

    def __post_init__(self) -> None:
        if self.status == "ok" and (self.service.mean_s is None or self.n < 1):
            raise ValueError("a measurement that is ok has samples")


@dataclass(frozen=True, slots=True)
class AccuracyRow:
    """A metric of one variant on its stage's labelled data, or of one combination end to end."""

    scope: Literal["stage", "pipeline"] = column("stage: one variant; pipeline: a combination, end to end")
    stage: str = column("Stage; empty end to end")
    variant: str = column("Variant; empty end to end")
    combination: str = column("JSON object stage: variant, sorted; '{}' for one stage")
    modalities: str = column("Modality subset, as in measurements")
    metric: str = column("Name of the metric; empty where an evaluation without one failed")
    value: float | None = column("The metric; null where it could not be evaluated")
    lower: float | None = column("Lower end of the 95 % interval")
    upper: float | None = column("Upper end of the 95 % interval")
    n: int = column("Labelled examples")
    method: str = column("How the interval was made: wilson, bootstrap")
    evidence_sha256: str = column("Hash of models, code, params and data the value rests on")
    status: Status = column("ok, or how the evaluation failed", default="ok")
    reason: str = column("Why it failed; empty when ok", default="")
    measured_at: str = column("When it was evaluated, UTC, ISO 8601", default="")

    def stages(self) -> dict[str, str]:
        """The combination as a mapping from stage to variant."""
        return dict(json.loads(self.combination))


@dataclass(frozen=True, slots=True)
class FlowRow:
    """What one variant of a stage sent along an edge, per call, on the labelled data."""

    source: str = column("Stage the calls come from")
    target: str = column("Stage the calls go to")
    variant: str = column("Variant of the upstream stage")
    fan_out_mean: float = column("Mean downstream calls per upstream call")
    fan_outs: str = column("JSON list: downstream calls of every upstream call observed")
    payload_bytes_mean: float | None = column("Mean size of a downstream call's input", "B")
    n: int = column("Upstream calls observed")
    evidence_sha256: str = column("Hash of model, code, params and data the value rests on")
    measured_at: str = column("When it was observed, UTC, ISO 8601", default="")


@dataclass(frozen=True, slots=True)
class Samples:
    """Raw times of one point, in order of measurement."""

    point: str
    process: NDArray[np.int32]
    service_s: NDArray[np.float64]
    infer_s: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Profile:
    """A profile in memory: the newest row of every point, in a stable order."""

    path: Path
    measurements: tuple[Measurement, ...]
    accuracy: tuple[AccuracyRow, ...]
    flows: tuple[FlowRow, ...]
    sha256: str
    damaged: tuple[str, ...] = ()
    """Files that could not be read and were left out, each with the reason."""

    def samples(self, key: PointKey) -> Samples | None:
        """Raw times of a point, or None where the profile holds none."""
        return read_samples(self.path, key.id())


_ARROW = {str: "string", int: "int64", float: "float64", bool: "bool"}


@cache
def table_schema(table: str) -> pa.Schema:
    """Arrow schema of a table; units and descriptions are in the field metadata."""
    import pyarrow as pa

    if table == "samples":
        fields = [
            pa.field("point", pa.string(), False, {"description": "id of the point", "unit": ""}),
            pa.field("process", pa.int32(), False, {"description": "Which fresh process, from 0", "unit": ""}),
            pa.field("service_s", pa.float64(), False, {"description": "Time of one batch", "unit": "s"}),
            pa.field("infer_s", pa.float64(), False, {"description": "Of that, inference", "unit": "s"}),
        ]
    else:
        row = {"measurements": Measurement, "accuracy": AccuracyRow, "flows": FlowRow}[table]
        fields = list(_fields(row))
        if table == "measurements":
            fields.insert(0, pa.field("point", pa.string(), False, {"description": "id of the point", "unit": ""}))
    return pa.schema(fields, {"inferplan.schema_version": str(SCHEMA_VERSION), "inferplan.table": table})


def _fields(row: type, prefix: str = "", described: str = "") -> typing.Iterator[pa.Field]:
    import pyarrow as pa

    hints = typing.get_type_hints(row)
    for item in dataclasses.fields(row):
        kind = hints[item.name]
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            nested = "" if item.name == "key" else f"{item.name}_"
            yield from _fields(
                kind, nested, {"service_": "service time: ", "infer_": "inference time: "}.get(nested, "")
            )
            continue
        options = typing.get_args(kind) if typing.get_origin(kind) is not Literal else (str,)
        nullable = type(None) in options
        plain = next((option for option in options if option is not type(None)), kind)
        metadata = {"description": described + item.metadata["description"], "unit": item.metadata["unit"]}
        yield pa.field(prefix + item.name, getattr(pa, _ARROW[plain])(), nullable, metadata)


def to_record(row: Measurement | AccuracyRow | FlowRow) -> dict[str, Any]:
    """A row as flat columns, in schema order."""
    flat: dict[str, Any] = {}
    if isinstance(row, Measurement):
        flat["point"] = row.key.id()
    for item in dataclasses.fields(row):
        value = getattr(row, item.name)
        if isinstance(value, PointKey | Quantiles):
            prefix = "" if item.name == "key" else f"{item.name}_"
            flat.update({prefix + name: part for name, part in dataclasses.asdict(value).items()})
        else:
            flat[item.name] = value
    return flat


Row = TypeVar("Row", Measurement, AccuracyRow, FlowRow)


def from_record(row: type[Row], record: Mapping[str, Any]) -> Row:
    """The inverse of `to_record`; unknown columns are ignored, absent ones take their defaults."""
    values: dict[str, Any] = {}
    for item in dataclasses.fields(row):
        if item.name == "key":
            values["key"] = PointKey(**{part.name: record[part.name] for part in dataclasses.fields(PointKey)})
        elif row is Measurement and item.name in ("service", "infer"):
            values[item.name] = Quantiles(
                **{part.name: record.get(f"{item.name}_{part.name}") for part in dataclasses.fields(Quantiles)}
            )
        elif item.name in record:
            values[item.name] = record[item.name]
    return row(**values)


def read_profile(path: Path | str) -> Profile:
    """Read a profile. Damaged files are left out and named in `Profile.damaged`.

    Raises InputError where there is no profile, or one of a newer schema.
    """
    root = Path(path)
    _check_version(root)
    damaged: list[str] = []
    measurements = _newest(_rows(root, "measurements", Measurement, damaged), lambda m: m.key.id())
    accuracy = _newest(
        _rows(root, "accuracy", AccuracyRow, damaged),
        lambda a: json.dumps([a.scope, a.stage, a.variant, a.combination, a.modalities, a.metric]),
    )
    flows = _newest(_rows(root, "flows", FlowRow, damaged), lambda f: json.dumps([f.source, f.target, f.variant]))
    rows: list[Measurement | AccuracyRow | FlowRow] = [*measurements, *accuracy, *flows]
    content = json.dumps([to_record(row) for row in rows], sort_keys=True)
    digest = hashlib.sha256(content.encode()).hexdigest()
    return Profile(root, tuple(measurements), tuple(accuracy), tuple(flows), digest, tuple(damaged))


def _check_version(root: Path) -> None:
    marker = root / "profile.json"
    if not marker.is_file():
        raise InputError(f"there is no profile at {root}: measure one with `inferplan profile WORKLOAD`")
    try:
        version = json.loads(marker.read_text())["schema_version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{marker} is damaged: {error}; delete it and profile again to write it anew") from error
    if version != SCHEMA_VERSION:
        raise InputError(
            f"{root} has profile schema version {version}; this inferplan reads version {SCHEMA_VERSION}"
            " (use the version it was measured with, or measure anew)"
        )


def _rows(root: Path, table: str, row: type[Row], damaged: list[str]) -> list[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows: list[Row] = []
    for file in sorted((root / table).glob("*.parquet")):
        try:
            records = pq.read_table(file).to_pylist()
            rows.extend(from_record(row, record) for record in records)
        except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
            damaged.append(f"{file}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
    return rows


def _newest(rows: list[Row], identity: typing.Callable[[Row], str]) -> list[Row]:
    """The last measured row of each identity, sorted by identity."""
    newest: dict[str, Row] = {}
    for row in sorted(rows, key=lambda r: r.measured_at):
        newest[identity(row)] = row
    return [newest[name] for name in sorted(newest)]


def read_samples(root: Path, point: str) -> Samples | None:
    """Raw times of a point, or None."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = root / "samples" / f"{point}.parquet"
    if not file.is_file():
        return None
    try:
        table = pq.read_table(file)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{file} is damaged ({type(error).__name__}): delete it and profile again") from error
    return Samples(
        point,
        table["process"].to_numpy(),
        table["service_s"].to_numpy(),
        table["infer_s"].to_numpy(),
    )
