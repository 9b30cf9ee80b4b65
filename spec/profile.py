"""The profile document: schemas of its Parquet tables, and reading them.

A profile is a directory of Parquet datasets, one small file per finished piece of work. Compaction joins the
files of row tables (all but `samples`, `scores`, `predictions`) into one per table; readers see no difference.

| table | one row per |
|---|---|
| `measurements/` | measured point (variant, device, batch, threads, ...), with its statistics |
| `samples/` | timed call of a point (raw service and inference times) |
| `accuracy/` | metric of a variant, or of a combination of variants end to end |
| `flows/` | edge and upstream variant: how many calls went on, of what size |
| `scores/` | labelled example of an evaluation: its score per metric |
| `predictions/` | labelled example of an evaluation: what was predicted, as JSON, for metrics to come |
| `interference/` | choice and what ran beside it on the same machine: how much slower it was |
| `handoffs/` | stage: what handing a batch to a replica and back costs beyond service times |

`inferplan.profilers.store` writes it; everybody else reads it through `read_profile`. The tables are plain
Parquet: pandas, DuckDB and Polars read them unaided. Each column's unit and meaning stand in the Arrow
schema's field metadata.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

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
    Samples,
)
from inferplan.spec.tables import (
    ROWS,
    SCHEMA_VERSION,
    AnyRow,
    DamagedFileError,
    read_predictions,
    read_rows,
    read_samples,
    read_scores,
    to_record,
)

MARKER = "profile.json"
"""Its presence makes a folder a profile; it holds the schema version and the workload's name."""


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
    handoffs: tuple[HandoffRow, ...] = ()

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
        return found if found is not None and found.evidence_sha256 == row.inference_sha256 else None


def read_profile(path: Path | str) -> Profile:
    """Read a profile. Damaged files are left out and named in `Profile.damaged`.

    Raises InputError where there is no profile, or one of a newer schema.
    """
    root = Path(path)
    check_version(root)
    damaged: list[str] = []
    found: dict[str, list[AnyRow]] = {}
    for table in ROWS:
        rows: list[AnyRow] = []
        for file in sorted((root / table).glob("*.parquet")):
            try:
                rows.extend(read_rows(file, table))
            except DamagedFileError as error:
                damaged.append(error.message)
        found[table] = newest_rows(rows)
    return _profile(root, found, damaged)


def _profile(root: Path, found: Mapping[str, list[AnyRow]], damaged: list[str]) -> Profile:
    content = json.dumps([to_record(row) for rows in found.values() for row in rows], sort_keys=True)
    return Profile(
        root,
        tuple(row for row in found["measurements"] if isinstance(row, Measurement)),
        tuple(row for row in found["accuracy"] if isinstance(row, AccuracyRow)),
        tuple(row for row in found["flows"] if isinstance(row, FlowRow)),
        hashlib.sha256(content.encode()).hexdigest(),
        tuple(damaged),
        tuple(row for row in found["interference"] if isinstance(row, InterferenceRow)),
        tuple(row for row in found["handoffs"] if isinstance(row, HandoffRow)),
    )


def check_version(root: Path) -> str:
    """Name of the workload that a profile is of. Raises InputError where there is none, or not of this version."""
    marker = root / MARKER
    if not marker.is_file():
        raise InputError(f"there is no profile at {root}: measure one with `inferplan profile WORKLOAD`")
    try:
        content = json.loads(marker.read_text())
        version = content["schema_version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{marker} is damaged: {error}; delete it and profile again to write it anew") from error
    if version != SCHEMA_VERSION:
        raise InputError(
            f"{root} has profile schema version {version}; this inferplan reads and writes version {SCHEMA_VERSION}"
            " (use the version it was measured with, or measure anew)"
        )
    return str(content.get("workload", ""))


def identity(row: AnyRow) -> str:
    """What makes two rows the same thing: of these, one counts."""
    if isinstance(row, Measurement):
        return row.key.id()
    if isinstance(row, AccuracyRow):
        return json.dumps([row.scope, row.stage, row.variant, row.combination, row.modalities, row.metric])
    if isinstance(row, FlowRow):
        return json.dumps([row.source, row.target, row.variant, row.modalities])
    return row.id()


def newest_rows(rows: Iterable[AnyRow]) -> list[AnyRow]:
    """The row of each identity that counts, sorted by identity; the same whatever order the rows come in.

    Measured rows come before imported ones, those before interpolated ones, then the newest counts. An
    evaluation replaces all earlier ones of the same thing, also where it has fewer metrics; imported accuracies
    count where nothing was evaluated.
    """
    best: dict[str, AnyRow] = {}
    latest: dict[str, tuple[int, str]] = {}
    for row in rows:
        name = identity(row)
        held = best.get(name)
        if held is None or _precedes(held, row):
            best[name] = row
        if isinstance(row, AccuracyRow):
            latest[row.evaluation()] = max(_standing(row), latest.get(row.evaluation(), (-1, "")))
    return [
        row
        for _, row in sorted(best.items())
        if not isinstance(row, AccuracyRow) or _is_current(row, latest[row.evaluation()])
    ]


def _is_current(row: AccuracyRow, latest: tuple[int, str]) -> bool:
    """Whether no later evaluation replaces the row; imported rows may come one by one."""
    evaluated, _ = latest
    return _standing(row) == latest or (bool(row.source) and not evaluated)


_ORIGINS = ("interpolated", "imported", "measured")


def _standing(row: AnyRow) -> tuple[int, str]:
    if isinstance(row, Measurement):
        return _ORIGINS.index(row.origin), row.measured_at
    if isinstance(row, AccuracyRow):
        return int(not row.source), row.measured_at
    return 0, row.measured_at


def _precedes(held: AnyRow, row: AnyRow) -> bool:
    """Whether `row` counts rather than `held`; of rows as new as each other, whichever text is greater."""
    if _standing(held) != _standing(row):
        return _standing(held) < _standing(row)
    return held != row and repr(held) < repr(row)
