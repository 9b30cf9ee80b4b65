"""Hashes of what a measured value rests on. A value whose hash differs from today's is stale."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inferplan.spec.errors import InputError
from inferplan.spec.usercode import code_file

_CHUNK_BYTES = 1 << 20


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content. Raises InputError where it cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    return digest.hexdigest()


def code_sha256(reference: str | None, params: Mapping[str, Any], root: Path) -> str:
    """Hash of user code and its params: the class's file, the files next to it that it imports, and those
    below the workload's folder that a param names.

    Empty where there is no code. Raises InputError where the file is missing.
    """
    if reference is None:
        return ""
    path = code_file(reference, root)
    hashes = {file.name: file_sha256(file) for file in imported_files(path)}
    for value in params.values():
        if isinstance(value, str) and value and "\0" not in value and (root / value).is_file():
            hashes[value] = file_sha256(root / value)
    return combined_sha256(reference, params, hashes)


def imported_files(path: Path) -> list[Path]:
    """A Python file and those in its folder that it imports, directly or through one another.

    Where one imports by name at run time, every Python file of the folder counts.
    """
    found: list[Path] = []
    waiting = [path]
    while waiting:
        file = waiting.pop()
        if file in found:
            continue
        found.append(file)
        modules = _imported_modules(file)
        if modules is None:
            return sorted({*found, *path.parent.glob("*.py")})
        for name in modules:
            candidates = (path.parent / f"{name}.py", path.parent / name / "__init__.py")
            waiting.extend(candidate for candidate in candidates if candidate.is_file())
    return sorted(found)


def _imported_modules(file: Path) -> set[str] | None:
    """First parts of the names of imported modules; None where they cannot be told from the source."""
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return None
    modules: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules.add((node.module or "").partition(".")[0])
            modules |= {alias.name for alias in node.names} if node.level else set()
        elif isinstance(node, ast.Name) and node.id == "__import__":
            return None
    return None if modules & {"importlib", "runpy"} else modules


def combined_sha256(*parts: object) -> str:
    """Hash of plain data."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
