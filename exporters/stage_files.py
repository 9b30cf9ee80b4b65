"""The files that a pipeline's code needs beside it in a server: the code, its neighbours, the data it names.

Found without running the code: modules that lie next to it and that it imports, and files that `params` name.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inferplan.spec.errors import InputError
from inferplan.spec.usercode import code_file

PROVIDED = frozenset({"numpy"})
"""What the container image of the server has besides the standard library."""


@dataclass(frozen=True, slots=True)
class StageFiles:
    """`files` are relative to the workload's folder; `packages` are the imports a server must have installed."""

    files: tuple[Path, ...]
    packages: tuple[str, ...]


def stage_files(references: Iterable[str | None], params: Iterable[Mapping[str, Any]], root: Path) -> StageFiles:
    """What the code of these references needs. Raises InputError for code that is not valid Python."""
    root = root.resolve()
    files: set[Path] = set()
    packages: set[str] = set()
    waiting = [code_file(reference, root) for reference in references if reference]
    while waiting:
        path = waiting.pop()
        relative = _inside(path, root)
        if relative in files:
            continue
        files.add(relative)
        for name in _imports(path):
            found = _neighbours(path.parent, name)
            if found:
                waiting.extend(found)
            elif name not in sys.stdlib_module_names and name not in PROVIDED:
                packages.add(name)
    for values in params:
        files.update(_named_files(values, root))
    return StageFiles(tuple(sorted(files)), tuple(sorted(packages)))


def _inside(path: Path, root: Path) -> Path:
    real = path.resolve()
    if not real.is_relative_to(root):
        raise InputError(f"{path} leads out of the workload's folder {root}: move the code into it")
    return path.relative_to(root) if path.is_relative_to(root) else real.relative_to(root)


def _imports(path: Path) -> Iterator[str]:
    """Top-level names of the modules a file imports, wherever in it."""
    try:
        tree = ast.parse(path.read_bytes(), str(path))
    except (SyntaxError, ValueError) as error:
        raise InputError(f"{path} is not valid Python: {error}") from error
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def _neighbours(folder: Path, name: str) -> list[Path]:
    """The files of a module or package that lies next to the importing file."""
    if (folder / f"{name}.py").is_file():
        return [folder / f"{name}.py"]
    if (folder / name / "__init__.py").is_file():
        return sorted((folder / name).rglob("*.py"))
    return []


def _named_files(values: Any, root: Path) -> Iterator[Path]:
    """Files below `root` that a string anywhere in `params` names."""
    if isinstance(values, Mapping):
        for value in values.values():
            yield from _named_files(value, root)
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _named_files(value, root)
    elif isinstance(values, str) and 0 < len(values) < 1024 and "\x00" not in values:
        path = root / values
        if path.is_file() and path.resolve().is_relative_to(root) and ".." not in Path(values).parts:
            yield path.relative_to(root)
