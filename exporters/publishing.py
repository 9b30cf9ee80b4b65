"""Putting a finished folder in place: written beside its target, checked there, then moved in one step.

A manifest in the folder lists what we wrote with checksums. A folder is replaced only where the manifest shows
that all of it is ours and unchanged, or where the caller forces it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from inferplan.spec.errors import InputError
from inferplan.spec.evidence import file_sha256

MANIFEST = "inferplan-export.json"


@contextlib.contextmanager
def published(target: Path, about: dict[str, str], *, force: bool, sources: Path) -> Iterator[Path]:
    """A fresh folder to write into; when the block ends well, it becomes `target`, else nothing is left.

    `about` goes into the manifest. Raises InputError where `target` holds anything that is not ours (unless
    `force`), and always where replacing it would remove `sources`, the home or the working directory.
    """
    target = Path(os.path.abspath(target))
    if target.is_symlink():
        target = target.resolve()
    _check_target(target, force=force, sources=sources)
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        fresh = work / "new"
        fresh.mkdir()
        yield fresh
        _write_manifest(fresh, about)
        _readable(fresh)
        _replace(fresh, target, work / "old")
    finally:
        shutil.rmtree(work, ignore_errors=True)


def written_files(folder: Path) -> list[Path]:
    """Every file below a folder, relative to it, sorted."""
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir())


def copy_checked(source: Path, target: Path, sha256: str | None = None) -> None:
    """Copy a file's content. Raises InputError where the copy is not the file of this checksum."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    if sha256 is not None and file_sha256(target) != sha256:
        raise InputError(f"{source} changed while it was exported: profile and solve again")


def _check_target(target: Path, *, force: bool, sources: Path) -> None:
    if target.exists() and not target.is_dir():
        raise InputError(f"{target} is a file; give a folder to write")
    if not target.exists() or not any(target.iterdir()):
        return
    for name, kept in (("the workload", sources), ("the home folder", Path.home()), ("the working folder", Path.cwd())):
        if kept.resolve().is_relative_to(target.resolve()):
            raise InputError(f"{target} holds {name}; give another folder to write")
    problem = _foreign(target)
    if problem and not force:
        raise InputError(f"{target}: {problem}; give another folder, or --force to replace it")


def _foreign(target: Path) -> str:
    """What in a folder is not as we wrote it; empty where all of it is."""
    manifest = target / MANIFEST
    if not manifest.is_file():
        return "not empty, and not written by inferplan"
    try:
        files = json.loads(manifest.read_text("utf-8"))["files"]
        known = {str(name): str(checksum) for name, checksum in files.items()}
    except (ValueError, KeyError, AttributeError, OSError):
        return f"{MANIFEST} cannot be read"
    there = {path.as_posix() for path in written_files(target)} - {MANIFEST}
    strange = sorted(there - set(known))
    if strange:
        return f"{strange[0]} was not written by inferplan"
    changed = [
        name for name in sorted(there) if (target / name).is_symlink() or file_sha256(target / name) != known[name]
    ]
    return f"{changed[0]} was changed since it was exported" if changed else ""


def _write_manifest(folder: Path, about: dict[str, str]) -> None:
    files = {path.as_posix(): file_sha256(folder / path) for path in written_files(folder)}
    text = json.dumps({**about, "files": files}, indent=1, sort_keys=True)
    (folder / MANIFEST).write_text(text + "\n", "utf-8")


def _readable(folder: Path) -> None:
    """The server may run as another user."""
    folder.chmod(0o755)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _replace(fresh: Path, target: Path, old: Path) -> None:
    if not target.exists():
        fresh.rename(target)
        return
    target.rename(old)
    try:
        fresh.rename(target)
    except BaseException:
        old.rename(target)
        raise
