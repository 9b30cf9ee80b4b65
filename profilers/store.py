"""Writing a profile: one atomic file per finished piece of work, one writer at a time.

`inferplan.spec.profile` defines the tables and reads them. Files are written under another name, forced to
disk and renamed, so that a kill at any moment loses at most what was under way; a point's samples are written
before its measurement, so that a measurement that is there has them.
"""

from __future__ import annotations

import errno
import fcntl
import io
import json
import os
import socket
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from inferplan.profilers.evidence import combined_sha256
from inferplan.spec.errors import InputError
from inferplan.spec.profile import Profile, read_profile
from inferplan.spec.rows import AccuracyRow, FlowRow, Measurement, Samples
from inferplan.spec.tables import SCHEMA_VERSION, TABLES, from_record, table_schema, to_record

if TYPE_CHECKING:
    import pyarrow as pa

MARKER = "profile.json"
_LOCK = ".lock"
_PARTIAL = ".partial"
_DAMAGED = ".damaged"
_READERS: dict[str, Callable[[dict[str, Any]], object]] = {
    "measurements": partial(from_record, Measurement),
    "accuracy": partial(from_record, AccuracyRow),
    "flows": partial(from_record, FlowRow),
}
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
            read_profile_version(self.path)
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
            self._write(self.path / "samples" / f"{point}.parquet", _samples_file(samples))
        self._write(self.path / "measurements" / f"{point}.parquet", _rows_file("measurements", [row]))

    def add_evaluation(self, rows: Sequence[AccuracyRow], flows: Sequence[FlowRow]) -> None:
        """Write what one evaluation found, in one file per table. Raises InputError where the disk is full."""
        if flows:
            self._write(
                self._named("flows", [(f.source, f.target, f.variant) for f in flows]), _rows_file("flows", flows)
            )
        if rows:
            names = [(a.scope, a.stage, a.variant, a.combination, a.modalities) for a in rows]
            self._write(self._named("accuracy", names), _rows_file("accuracy", rows))

    def has_samples(self, point: str) -> bool:
        """Whether the raw times of a point are there."""
        return (self.path / "samples" / f"{point}.parquet").is_file()

    def _named(self, table: str, names: Sequence[Any]) -> Path:
        """One file per thing that was evaluated: evaluating it again replaces the file."""
        return self.path / table / f"{combined_sha256(table, sorted(set(names)))[:24]}.parquet"

    def _refuse_others_folders(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path} is a file; a profile is a folder")
        if self.path.is_dir() and not (self.path / MARKER).exists():
            known = {*TABLES, _LOCK, MARKER + _PARTIAL}
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
        import pyarrow as pa
        import pyarrow.parquet as pq

        moved: list[str] = []
        for table in TABLES:
            for file in sorted((self.path / table).glob("*.parquet")):
                try:
                    content = pq.read_table(file)
                    for record in content.to_pylist() if table != "samples" else []:
                        _READERS[table](record)
                except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
                    file.rename(file.with_name(file.name + _DAMAGED))
                    text = str(error).splitlines()[0] if str(error) else ""
                    moved.append(f"{file}: {type(error).__name__}: {text}")
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


def read_profile_version(path: Path) -> int:
    """Schema version of a profile. Raises InputError where its marker is damaged or of another version."""
    marker = path / MARKER
    try:
        version = json.loads(marker.read_text())["schema_version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{marker} is damaged: {error}; delete it and profile again to write it anew") from error
    if version != SCHEMA_VERSION:
        raise InputError(f"{path} has profile schema version {version}; this inferplan writes version {SCHEMA_VERSION}")
    return int(version)


def _rows_file(table: str, rows: Sequence[Measurement | AccuracyRow | FlowRow]) -> bytes:
    import pyarrow as pa

    return _parquet(pa.Table.from_pylist([to_record(row) for row in rows], table_schema(table)))


def _samples_file(samples: Samples) -> bytes:
    import pyarrow as pa

    columns = {
        "point": pa.array([samples.point] * len(samples.process), pa.string()),
        "process": samples.process,
        "service_s": samples.service_s,
        "infer_s": samples.infer_s,
    }
    return _parquet(pa.table(columns, schema=table_schema("samples")))


def _parquet(table: pa.Table) -> bytes:
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()
