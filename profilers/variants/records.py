"""What is kept of every made variant beside its files, in `generated/<stage>/<variant>.json`: what it was made from
and by, what its files' hashes are, how far its outputs are from its parent's. No other file there is touched."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from inferplan.spec.derivation import Distance
from inferplan.spec.errors import InputError
from inferplan.spec.evidence import file_sha256

FOLDER = "generated"
_LOCK = ".lock"


@dataclass(frozen=True, slots=True)
class Record:
    """A made variant. `basis` is what it would be made from and by: when that differs, it is made again."""

    stage: str
    variant: str
    parent: str
    recipe: str
    settings: Mapping[str, Any]
    basis: Mapping[str, Any]
    further: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    parent_size_bytes: int | None = None
    size_bytes: int | None = None
    distance: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def measured(self) -> Distance:
        """How far it is from its parent."""
        return Distance(**self.distance)


class Shelf:
    """The folder of made variants of a workload. One process at a time has it; use it as a context manager."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.path = root / FOLDER
        self._lock: int | None = None

    def __enter__(self) -> Shelf:
        self._folder(self.path)
        try:
            self._lock = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            raise InputError(f"cannot write in {self.path}: {error.strerror or error}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            self._lock = None
            raise InputError(f"{self.path}: another `inferplan variants` is at work there: wait for it") from error
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def records(self, stage: str) -> dict[str, Record]:
        """Records of a stage, by variant. What is no record is passed over."""
        found: dict[str, Record] = {}
        folder = self.path / stage
        for file in sorted(folder.glob("*.json")) if folder.is_dir() and not folder.is_symlink() else []:
            with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
                record = _record(json.loads(file.read_text()))
                if (record.stage, record.variant) == (stage, file.stem):
                    found[record.variant] = record
        return found

    def intact(self, record: Record) -> bool:
        """Whether its files are what was made."""
        folder = self.path / record.stage
        with contextlib.suppress(InputError):
            return all(file_sha256(folder / name) == sha256 for name, sha256 in record.files.items())
        return False

    def foreign(self, stage: str, name: str, known: Record | None) -> str:
        """Why a file of this name must not be written; empty where it may. Only what was made here is replaced."""
        path = self.path / stage / name
        if not (path.exists() or path.is_symlink()):
            return ""
        sha256 = None if known is None else known.files.get(name)
        if sha256 is not None and not path.is_symlink() and path.is_file() and file_sha256(path) == sha256:
            return ""
        return f"{FOLDER}/{stage}/{name} is there and is not as it was made here: move it away to have it made"

    @contextlib.contextmanager
    def bench(self, stage: str) -> Iterator[Path]:
        """A folder for work, beside where the files will be; gone afterwards."""
        folder = self.path / stage
        self._folder(folder)
        for left in folder.glob(".making-*"):  # of a run that was killed: the lock says that none is at work
            shutil.rmtree(left, ignore_errors=True)
        work = Path(tempfile.mkdtemp(prefix=".making-", dir=folder))
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def put(self, record: Record, made: Mapping[str, Path]) -> None:
        """Put files (by their name to be) and their record in place."""
        folder = self.path / record.stage
        self._folder(folder)
        for name, file in made.items():
            file.chmod(0o644)
            os.replace(file, folder / name)
        text = json.dumps(asdict(record), indent=1, sort_keys=True) + "\n"
        write_atomically(folder / f"{record.variant}.json", text)

    def _folder(self, folder: Path) -> None:
        """Make a folder below the workload's; links that lead elsewhere are not followed."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot write in {folder}: {error.strerror or error}") from error
        if not folder.resolve().is_relative_to(self.root.resolve()):
            raise InputError(f"{folder} leads out of the workload's folder: made variants are put below it only")


def write_atomically(path: Path, text: str) -> None:
    """Write beside, then rename. Raises InputError."""
    try:
        handle, name = tempfile.mkstemp(prefix=".writing-", dir=path.parent)
        with os.fdopen(handle, "w") as file:
            file.write(text)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error


def _record(data: Any) -> Record:
    """Raises TypeError, ValueError for what is none."""
    if not isinstance(data, dict):
        raise TypeError("no record")
    known = {item.name for item in fields(Record)}
    record = Record(**{key: value for key, value in data.items() if key in known})
    record = replace(record, notes=tuple(record.notes))
    record.measured()
    names = [record.stage, record.variant, record.parent, record.recipe]
    if not all(isinstance(name, str) for name in names) or not isinstance(record.settings, dict):
        raise TypeError("no record")
    if any(os.sep in name or name in (".", "..") for name in record.files):
        raise ValueError("no names of files")
    return record
