"""Writing a profile: one atomic file per finished piece of work, one writer at a time.

`inferplan.spec.profile` defines the tables and reads them. Files are written under another name, forced to
disk and renamed, so that a kill at any moment loses at most what was under way; a point's samples are written
before its measurement, an evaluation's scores and predictions before its accuracy, so that a row that is there
has them.
"""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import io
import json
import os
import socket
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from inferplan.spec.errors import InputError
from inferplan.spec.evidence import combined_sha256
from inferplan.spec.profile import MARKER, Profile, check_version, read_profile
from inferplan.spec.rows import (
    AccuracyRow,
    ExampleScores,
    FlowRow,
    HandoffRow,
    InterferenceRow,
    Measurement,
    Predictions,
    Samples,
)
from inferplan.spec.tables import (
    SCHEMA_VERSION,
    TABLES,
    AnyRow,
    DamagedFileError,
    check_file,
    table_schema,
    to_record,
)

if TYPE_CHECKING:
    import pyarrow as pa

GLANCES = "glances"
"""Folder beside the tables in which `profilers.glances` keeps what it saw."""
_LOCK = ".lock"
_PARTIAL = ".partial"
_DAMAGED = ".damaged"
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class ProfileStore:
    """A profile opened for writing. Use it as a context manager; the lock lives as long as it is open."""

    def __init__(self, path: Path, workload: str = "") -> None:
        self.path = path
        self._workload = workload
        self._lock: int | None = None
        self.moved_aside: tuple[str, ...] = ()
        """Damaged files found when it was opened, each with the reason; they are now called `*.damaged`."""

    def __enter__(self) -> ProfileStore:
        """Make the folder, or check it; take the lock; move damaged files aside.

        Raises InputError where another process writes to it, where it is no profile, or where it is one of
        another schema version.
        """
        try:
            self._refuse_others_folders()
            for table in TABLES:
                (self.path / table).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._failure(error) from error
        self._take_lock()
        try:
            if not (self.path / MARKER).is_file():
                marker = {"schema_version": SCHEMA_VERSION, "workload": self._workload}
                self._write(self.path / MARKER, (json.dumps(marker, indent=2) + "\n").encode())
            check_version(self.path)
            self._remove_partial()
            self.moved_aside = self._move_damaged()
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._release()

    @classmethod
    def refuse_if_busy(cls, path: Path) -> None:
        """Raises InputError where another process is writing to the profile right now."""
        if (path / _LOCK).is_file():
            store = cls(path)
            store._take_lock()
            store._release()

    def profile(self) -> Profile:
        """What is in it now."""
        return read_profile(self.path)

    def add_measurement(self, row: Measurement, samples: Samples | None) -> None:
        """Write a finished point: its samples, then its row. Raises InputError where the disk is full."""
        point = row.key.id()
        if samples is not None:
            self._write(self._file("samples", point), _samples_file(samples))
        self._write(self._file("measurements", point), _rows_file("measurements", [row]))

    def add_interference(self, row: InterferenceRow) -> None:
        """Write what a choice was measured beside. Raises InputError where the disk is full."""
        self._write(self._file("interference", row.id()), _rows_file("interference", [row]))

    def add_handoff(self, row: HandoffRow) -> None:
        """Write what serving a stage costs beyond service times. Raises InputError where the disk is full."""
        self._write(self._file("handoffs", row.id()), _rows_file("handoffs", [row]))

    def add_evaluation(
        self,
        rows: Sequence[AccuracyRow],
        flows: Sequence[FlowRow],
        scores: ExampleScores | None = None,
        predictions: Predictions | None = None,
    ) -> None:
        """Write everything that one evaluation found: it replaces all that an earlier one of the same thing did.

        All its rows get the time of the latest. Raises InputError where the disk is full.
        """
        if predictions is not None:
            self._write(self._file("predictions", predictions.evaluation), _predictions_file(predictions))
        if scores is not None:
            self._write(self._file("scores", scores.evaluation), _scores_file(scores))
        if flows:
            names = [(f.source, f.target, f.variant, f.modalities) for f in flows]
            self._write(self._named("flows", names), _rows_file("flows", flows))
        if rows:
            when = max(row.measured_at for row in rows)
            whole = [dataclasses.replace(row, measured_at=when) for row in rows]
            # Imported accuracies lie beside evaluated ones, whose files they must not replace.
            marks = [(row.evaluation(), row.metric if row.source else "") for row in rows]
            self._write(self._named("accuracy", marks), _rows_file("accuracy", whole))

    def has_samples(self, point: str) -> bool:
        """Whether the raw times of a point are there."""
        return self._file("samples", point).is_file()

    def files(self, table: str) -> list[Path]:
        """The files of a table, sorted."""
        return sorted((self.path / table).glob("*.parquet"))

    def put_rows(self, table: str, rows: Sequence[AnyRow], replaced: Iterable[Path]) -> None:
        """Put `rows` into one file of a row table, then delete the files they were `replaced` from.

        Killed in between, rows are there twice, which readers do not mind: of equal rows one counts.
        """
        kept: Path | None = None
        if rows:
            content = _rows_file(table, rows)
            kept = self._file(table, combined_sha256(table, [to_record(row) for row in rows])[:24])
            if not kept.is_file() or kept.read_bytes() != content:
                self._write(kept, content)
        self.delete(file for file in replaced if file != kept)

    def copy_file(self, table: str, source: Path) -> None:
        """Take over a file of an array table from another profile, if it can be read."""
        check_file(source, table)
        self._write(self._file(table, source.stem), source.read_bytes())

    def delete(self, files: Iterable[Path]) -> None:
        """Delete files. Raises InputError where that is not allowed."""
        folders: set[Path] = set()
        try:
            for file in files:
                file.unlink(missing_ok=True)
                folders.add(file.parent)
            for folder in sorted(folders):
                self._sync_folder(folder)
        except OSError as error:
            raise self._failure(error) from error

    def _file(self, table: str, name: str) -> Path:
        return self.path / table / f"{name}.parquet"

    def _named(self, table: str, names: Sequence[Any]) -> Path:
        """One file per thing that was evaluated: evaluating it again replaces the file."""
        return self._file(table, combined_sha256(table, sorted(set(names)))[:24])

    def _refuse_others_folders(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path} is a file; a profile is a folder")
        if self.path.is_dir() and not (self.path / MARKER).exists():
            known = {*TABLES, GLANCES, _LOCK, MARKER + _PARTIAL}
            others = sorted(entry.name for entry in self.path.iterdir() if entry.name not in known)
            if others:
                raise InputError(f"{self.path} is a folder with other things in it ({others[0]}), not a profile")

    def _take_lock(self) -> None:
        try:
            lock = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise self._failure(error) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(lock, 200, 0).decode(errors="replace").strip()
            os.close(lock)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise self._failure(error) from error
            raise InputError(
                f"{self.path} is being written by {holder or 'another process'}: wait for it, or use another profile"
            ) from error
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        self._lock = lock

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _remove_partial(self) -> None:
        for table in TABLES:
            for file in (self.path / table).glob(f"*{_PARTIAL}"):
                file.unlink(missing_ok=True)

    def _move_damaged(self) -> tuple[str, ...]:
        moved: list[str] = []
        for table in TABLES:
            for file in self.files(table):
                try:
                    check_file(file, table)
                except DamagedFileError as error:
                    file.rename(file.with_name(file.name + _DAMAGED))
                    moved.append(error.message)
        return tuple(moved)

    def _write(self, path: Path, content: bytes) -> None:
        unfinished = path.with_name(path.name + _PARTIAL)
        try:
            descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
            try:
                view = memoryview(content)
                while view:
                    view = view[os.write(descriptor, view) :]
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            unfinished.rename(path)
            self._sync_folder(path.parent)
        except OSError as error:
            unfinished.unlink(missing_ok=True)
            raise self._failure(error) from error

    def _sync_folder(self, folder: Path) -> None:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _failure(self, error: OSError) -> InputError:
        if error.errno in _NO_ROOM:
            return InputError(
                f"no room left to write to {self.path} ({error.strerror}): free some and run the same command again;"
                " everything measured so far is kept"
            )
        return InputError(f"cannot write to {self.path}: {error.strerror or error}")


def _rows_file(table: str, rows: Sequence[AnyRow]) -> bytes:
    import pyarrow as pa

    records = [to_record(row) for row in rows]
    schema = table_schema(table)
    return _parquet(pa.table({name: [record[name] for record in records] for name in schema.names}, schema=schema))


def _samples_file(samples: Samples) -> bytes:
    return _array_file(
        "samples",
        point=[samples.point] * len(samples.process),
        process=samples.process,
        service_s=samples.service_s,
        infer_s=samples.infer_s,
        elements=samples.elements,
    )


def _scores_file(scores: ExampleScores) -> bytes:
    """One block of rows per metric, examples in the same order in each."""
    metrics = sorted(scores.values)
    count = len(scores.ids) * len(metrics)
    return _array_file(
        "scores",
        evaluation=[scores.evaluation] * count,
        evidence_sha256=[scores.evidence_sha256] * count,
        metric=[metric for metric in metrics for _ in scores.ids],
        example=list(scores.ids) * len(metrics),
        value=[float(value) for metric in metrics for value in scores.values[metric]],
        weight=[float(weight) for metric in metrics for weight in scores.weights[metric]],
    )


def _predictions_file(found: Predictions) -> bytes:
    count = len(found.ids)
    return _array_file(
        "predictions",
        evaluation=[found.evaluation] * count,
        evidence_sha256=[found.evidence_sha256] * count,
        example=list(found.ids),
        prediction=list(found.predictions),
        truth=list(found.truths),
    )


def _array_file(table: str, **columns: Any) -> bytes:
    import pyarrow as pa

    return _parquet(pa.table(columns, schema=table_schema(table)))


def _parquet(table: pa.Table) -> bytes:
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()
