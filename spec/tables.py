"""The Parquet tables of a profile: Arrow schemas, rows as flat records and back, files of arrays."""

from __future__ import annotations

import dataclasses
import json
import math
import typing
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from inferplan.spec.errors import InputError
from inferplan.spec.rows import (
    AccuracyRow,
    ExampleScores,
    FlowRow,
    HandoffRow,
    InterferenceRow,
    Measurement,
    PointKey,
    Predictions,
    Quantiles,
    Samples,
)

if TYPE_CHECKING:
    import pyarrow as pa

AnyRow = Measurement | AccuracyRow | FlowRow | InterferenceRow | HandoffRow

SCHEMA_VERSION = 2
TABLES = ("measurements", "samples", "accuracy", "flows", "scores", "predictions", "interference", "handoffs")

_ARROW = {str: "string", int: "int64", float: "float64", bool: "bool_"}
ROWS: Mapping[str, type[AnyRow]] = {
    "measurements": Measurement,
    "accuracy": AccuracyRow,
    "flows": FlowRow,
    "interference": InterferenceRow,
    "handoffs": HandoffRow,
}
"""Tables of rows that are read as a whole. The others hold arrays: one file per name, looked up by it."""
_LEAST = {
    "batch": 1, "threads": 1,
    **dict.fromkeys(("fan_out_mean", "payload_bytes_mean", "slowdown", "throughput_per_s", "load_s", "n"), 0),
}  # fmt: skip
"""The least that may stand in columns that predictions rest on, besides durations."""
_COLUMNS = {
    "samples": [
        ("point", "string", "id of the point", ""),
        ("process", "int32", "Which fresh process, from 0", ""),
        ("service_s", "float64", "Time of one batch", "s"),
        ("infer_s", "float64", "Of that, inference", "s"),
        ("elements", "int64", "Elements of all tensors the model was fed", ""),
    ],
    "scores": [
        ("evaluation", "string", "id of the evaluation", ""),
        ("evidence_sha256", "string", "Hash of what the evaluation rests on, as in accuracy", ""),
        ("metric", "string", "Name of the metric", ""),
        ("example", "string", "id of the labelled example", ""),
        ("value", "float64", "Its score", ""),
        ("weight", "float64", "Its weight: the metric is the weighted mean", ""),
    ],
    "predictions": [
        ("evaluation", "string", "id of the evaluation", ""),
        ("evidence_sha256", "string", "Hash of what was inferred from: models, code, params, data", ""),
        ("example", "string", "id of the labelled example", ""),
        ("prediction", "string", "What was predicted, as JSON", ""),
        ("truth", "string", "Its label, as JSON", ""),
    ],
}


@cache
def table_schema(table: str) -> pa.Schema:
    """Arrow schema of a table; units and descriptions are in the field metadata."""
    import pyarrow as pa

    if table in _COLUMNS:
        fields = [
            pa.field(name, getattr(pa, kind)(), False, {"description": description, "unit": unit})
            for name, kind, description, unit in _COLUMNS[table]
        ]
    else:
        fields = list(_fields(ROWS[table]))
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


def to_record(row: AnyRow) -> dict[str, Any]:
    """A row as flat columns, in schema order."""
    flat: dict[str, Any] = {}
    if isinstance(row, Measurement):
        flat["point"] = row.key.id()
    for item in dataclasses.fields(row):
        value = getattr(row, item.name)
        if isinstance(value, PointKey | Quantiles):
            prefix = "" if item.name == "key" else f"{item.name}_"
            # `dataclasses.asdict` copies deeply, which costs more than reading the file.
            flat.update({prefix + part.name: getattr(value, part.name) for part in dataclasses.fields(value)})
        else:
            flat[item.name] = value
    return flat


Row = TypeVar("Row", bound=AnyRow)


def from_record(row: type[Row], record: Mapping[str, Any]) -> Row:
    """The inverse of `to_record`; unknown columns are ignored, absent ones take their defaults."""
    values: dict[str, Any] = {}
    for item in dataclasses.fields(row):
        if item.name == "key":
            known = [part.name for part in dataclasses.fields(PointKey) if part.name != "inputs" or part.name in record]
            values["key"] = PointKey(**{name: record[name] for name in known})
        elif row is Measurement and item.name in ("service", "infer"):
            values[item.name] = Quantiles(
                **{part.name: record.get(f"{item.name}_{part.name}") for part in dataclasses.fields(Quantiles)}
            )
        elif item.name in record:
            values[item.name] = record[item.name]
    return row(**values)


class DamagedFileError(InputError):
    """A file of a profile cannot be read."""

    def __init__(self, file: Path, error: Exception) -> None:
        text = str(error).splitlines()[0] if str(error) else ""
        super().__init__(f"{file}: {type(error).__name__}: {text}")


def read_rows(file: Path, table: str) -> list[AnyRow]:
    """The rows of one file of a row table. Raises DamagedFileError."""
    kind = ROWS[table]
    content = _read(file)
    columns = [column.to_pylist() for column in content.columns]
    names = content.column_names
    try:
        _check(kind, names, columns)
        return [from_record(kind, dict(zip(names, values, strict=True))) for values in zip(*columns, strict=True)]
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedFileError(file, error) from error


@dataclasses.dataclass(frozen=True)
class _Rule:
    """What a column may hold. `json`: the text is empty, or JSON of this kind."""

    kind: type[Any]
    nullable: bool
    words: tuple[str, ...]
    json: type[Any] | None
    least: int | None

    def broken(self, value: Any) -> str:
        """What is wrong with a value; empty where nothing is."""
        if value is None:
            return "" if self.nullable else "is missing"
        if not isinstance(value, self.kind) or isinstance(value, bool) is not (self.kind is bool):
            return f"is no {self.kind.__name__}"
        if self.words and value not in self.words:
            return f"is none of {', '.join(self.words)}"
        if self.least is not None and not self.least <= value < math.inf:
            return f"is not a number of at least {self.least}"
        if self.json is not None and value and not isinstance(json.loads(value), self.json):
            return f"is no JSON {self.json.__name__}"
        return ""


@cache
def _rules(row: type) -> Mapping[str, _Rule]:
    """By column of a table of rows."""
    hints = typing.get_type_hints(row)
    found: dict[str, _Rule] = {}
    for item in dataclasses.fields(row):
        hint = hints[item.name]
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            prefix = "" if item.name == "key" else f"{item.name}_"
            found |= {prefix + name: rule for name, rule in _rules(hint).items()}
            continue
        words = typing.get_args(hint) if typing.get_origin(hint) is Literal else ()
        options = (str,) if words else typing.get_args(hint) or (hint,)
        kind = next(option for option in options if option is not type(None))
        says = item.metadata["description"]
        holds = dict if says.startswith("JSON object") else list if says.startswith("JSON list") else None
        # The lower end of an interval may be below 0.
        least = 0 if row is Quantiles and "lower" not in item.name else _LEAST.get(item.name)
        found[item.name] = _Rule(kind, type(None) in options, words, holds, least)
    return found


def _check(row: type, names: Sequence[str], columns: Sequence[Sequence[Any]]) -> None:
    """Raise ValueError where a column holds what it cannot."""
    rules = _rules(row)
    for name, values in zip(names, columns, strict=True):
        if (rule := rules.get(name)) is None:
            continue
        for value in values:
            if wrong := rule.broken(value):
                raise ValueError(f"{name}: {value!r} {wrong}")


def check_file(file: Path, table: str) -> None:
    """Read a file of any table from end to end. Raises DamagedFileError."""
    if table in ROWS:
        read_rows(file, table)
        return
    missing = sorted(set(table_schema(table).names) - set(_read(file).column_names))
    if missing:
        raise DamagedFileError(file, KeyError(f"no column {', '.join(missing)}"))


def _read(file: Path) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # Small files with many columns: one thread reading from memory is twice as fast as any other way.
        with pq.ParquetFile(pa.BufferReader(file.read_bytes())) as content:
            return content.read(use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise DamagedFileError(file, error) from error


def read_samples(root: Path, point: str) -> Samples | None:
    """Raw times of a point, or None."""
    table = _one_file(root, "samples", point)
    if table is None:
        return None
    return Samples(
        point,
        _numbers(table["process"]),
        _numbers(table["service_s"]),
        _numbers(table["infer_s"]),
        _numbers(table["elements"]),
    )


def _numbers(column: pa.ChunkedArray) -> NDArray[Any]:
    """A column of numbers, none of which is missing. (The column's own `to_numpy` imports pandas where it is there.)"""
    found: NDArray[Any] = np.from_dlpack(column.combine_chunks())
    return found


def read_scores(root: Path, evaluation: str) -> ExampleScores | None:
    """Scores of every example of an evaluation, or None."""
    table = _one_file(root, "scores", evaluation)
    if table is None or not table.num_rows:
        return None
    import pyarrow.compute as pc

    values: dict[str, NDArray[np.float64]] = {}
    weights: dict[str, NDArray[np.float64]] = {}
    ids: list[str] = []
    for metric in sorted(set(table["metric"].to_pylist())):
        part = table.filter(pc.equal(table["metric"], metric))
        ids = part["example"].to_pylist()
        values[metric] = _numbers(part["value"])
        weights[metric] = _numbers(part["weight"])
    return ExampleScores(evaluation, table["evidence_sha256"][0].as_py(), tuple(ids), values, weights)


def read_predictions(root: Path, evaluation: str) -> Predictions | None:
    """Predictions of every example of an evaluation, or None."""
    table = _one_file(root, "predictions", evaluation)
    if table is None or not table.num_rows:
        return None
    return Predictions(
        evaluation,
        table["evidence_sha256"][0].as_py(),
        tuple(table["example"].to_pylist()),
        tuple(table["prediction"].to_pylist()),
        tuple(table["truth"].to_pylist()),
    )


def _one_file(root: Path, table: str, name: str) -> pa.Table | None:
    """A table's file of this name, or None. Raises InputError where it is damaged."""
    file = root / table / f"{name}.parquet"
    if not file.is_file():
        return None
    try:
        return _read(file)
    except DamagedFileError as error:
        raise InputError(f"{error.message}; delete it and profile again") from error
