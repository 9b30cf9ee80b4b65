"""Fewer files: the rows of a profile that count, one file per table.

Samples, scores and predictions stay one file per name: they are looked up by name, one at a time, and joining
them would make that slower, not faster. They are kept whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from inferplan.profilers.store import ProfileStore
from inferplan.spec.profile import newest_rows
from inferplan.spec.rows import AccuracyRow, Measurement
from inferplan.spec.tables import ROWS, AnyRow, read_rows


@dataclass(frozen=True, slots=True)
class Compaction:
    """What compaction did."""

    path: Path
    files_before: int
    files_after: int
    rows: int
    superseded: int
    """Rows dropped because a newer one of the same thing counts."""
    dropped: dict[str, int]
    """Rows dropped on request, by reason."""
    damaged: tuple[str, ...]


def compact(path: Path, stale: Callable[[AnyRow], str] | None = None) -> Compaction:
    """Join the files of each row table into one, without the rows that a newer one supersedes.

    `stale` says why a row is to be dropped as well, or nothing. Killed at any moment, the profile reads as before
    or as after. Raises InputError where it is no profile, another process writes to it, or the disk is full.
    """
    with ProfileStore(path) as store:
        before = _count(store)
        superseded, rows = 0, 0
        dropped: Counter[str] = Counter()
        for table in ROWS:
            files = store.files(table)
            found = [row for file in files for row in read_rows(file, table)]
            newest = newest_rows(found)
            superseded += len(found) - len(newest)
            reasons = [stale(row) if stale is not None else "" for row in newest]
            kept = [row for row, reason in zip(newest, reasons, strict=True) if not reason]
            dropped.update(reason for reason in reasons if reason)
            if len(files) > 1 or len(kept) < len(found):
                store.put_rows(table, kept, files)
            rows += len(kept)
        if dropped:
            _drop_arrays(store)
        return Compaction(
            path, before, _count(store), rows, superseded, dict(sorted(dropped.items())), store.moved_aside
        )


def _count(store: ProfileStore) -> int:
    return sum(1 for _ in store.path.glob("*/*.parquet"))


def _drop_arrays(store: ProfileStore) -> None:
    """Delete samples, scores and predictions that no row refers to any more."""
    points = {row.key.id() for file in store.files("measurements") for row in _measurements(file)}
    evaluations = {row.evaluation() for file in store.files("accuracy") for row in _accuracies(file)}
    for table, names in (("samples", points), ("scores", evaluations), ("predictions", evaluations)):
        store.delete(file for file in store.files(table) if file.stem not in names)


def _measurements(file: Path) -> list[Measurement]:
    return [row for row in read_rows(file, "measurements") if isinstance(row, Measurement)]


def _accuracies(file: Path) -> list[AccuracyRow]:
    return [row for row in read_rows(file, "accuracy") if isinstance(row, AccuracyRow)]
