"""The profile document: schemas of its Parquet tables, and reading them.

A profile is a directory of Parquet datasets, one small file per finished point:

| table | one row per |
|---|---|
| `measurements/` | measured point (variant, device, batch, threads, ...), with its statistics |
| `samples/` | timed call of a point (raw service and inference times) |
| `accuracy/` | metric of a variant, or of a combination of variants end to end |
| `flows/` | edge and upstream variant: how many calls went on, of what size |
| `scores/` | labelled example of an evaluation: its score per metric |
| `predictions/` | labelled example of an evaluation: what was predicted, as JSON, for metrics to come |
| `interference/` | choice and what ran beside it on the same machine: how much slower it was |

`inferplan.profilers.store` writes it; everybody else reads it through `read_profile`. The tables are plain
Parquet: pandas, DuckDB and Polars read them unaided. Each column's unit and meaning stand in the Arrow
schema's field metadata.
"""

from __future__ import annotations

import hashlib
import json
import typing
from dataclasses import dataclass
from pathlib import Path

from inferplan.spec.errors import InputError
from inferplan.spec.rows import (
    AccuracyRow,
    ExampleScores,
    FlowRow,
    InterferenceRow,
    Measurement,
    PointKey,
    Predictions,
    Samples,
)
from inferplan.spec.tables import (
    SCHEMA_VERSION,
    AnyRow,
    Row,
    from_record,
    read_predictions,
    read_samples,
    read_scores,
    to_record,
)


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
    interference: tuple[InterferenceRow, ...] = ()

    def samples(self, key: PointKey) -> Samples | None:
        """Raw times of a point, or None where the profile holds none."""
        return read_samples(self.path, key.id())

    def scores(self, row: AccuracyRow) -> ExampleScores | None:
        """Scores of every example behind an accuracy, or None where the profile holds none of that state."""
        found = read_scores(self.path, row.evaluation())
        return found if found is not None and found.evidence_sha256 == row.evidence_sha256 else None

    def predictions(self, row: AccuracyRow) -> Predictions | None:
        """Predictions behind an accuracy, or None where the profile holds none of that state."""
        found = read_predictions(self.path, row.evaluation())
        return found if found is not None and found.evidence_sha256 == row.evidence_sha256 else None


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
    flows = _newest(
        _rows(root, "flows", FlowRow, damaged), lambda f: json.dumps([f.source, f.target, f.variant, f.modalities])
    )
    interference = _newest(_rows(root, "interference", InterferenceRow, damaged), lambda i: i.id())
    rows: list[AnyRow] = [*measurements, *accuracy, *flows, *interference]
    content = json.dumps([to_record(row) for row in rows], sort_keys=True)
    digest = hashlib.sha256(content.encode()).hexdigest()
    return Profile(
        root, tuple(measurements), tuple(accuracy), tuple(flows), digest, tuple(damaged), tuple(interference)
    )


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
