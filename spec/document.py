"""YAML documents whose every value knows its file, line and column.

`load_workload` reads a workload with its includes and overrides, and reports every problem at once.
"""

from __future__ import annotations

import difflib
import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from inferplan.spec import messages
from inferplan.spec.core_yaml import CoreLoader
from inferplan.spec.errors import DocumentError, InputError, Problem
from inferplan.spec.workload import Workload

if TYPE_CHECKING:
    from inferplan.spec.catalogue import Catalogue

MAX_DOCUMENT_BYTES = 64 * 2**20
PATH_FIELDS = frozenset({"model", "trace"})
_CODE_FIELDS = {"code", "factory", "compute"}
_OPAQUE_FIELDS = {"params", "settings"}
"""What is given to other code as it stands."""
Path_ = tuple[str | int, ...]
Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Position:
    """Where a value stands. `line` and `column` count from 1; 0 for values given on the command line."""

    file: str
    line: int = 0
    column: int = 0


@dataclass(slots=True)
class Document:
    """Plain data with the position of every node, and the bytes it came from."""

    data: Any
    positions: dict[Path_, Position]
    sources: dict[str, bytes] = field(default_factory=dict)

    def position(self, path: Sequence[str | int]) -> Position:
        """Position of the node at `path`, or of its nearest ancestor."""
        trail = tuple(path)
        while trail and trail not in self.positions:
            trail = trail[:-1]
        return self.positions.get(trail, Position("?"))

    def problem(self, path: Sequence[str | int], message: str) -> Problem:
        """A problem at `path`."""
        place = self.position(path)
        return Problem(place.file, place.line, place.column, dotted(path), message)


def dotted(path: Sequence[str | int]) -> str:
    """`("classes", "web", 0)` -> `classes.web[0]`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def parse_yaml(text: bytes, file: str) -> Document:
    """Parse one YAML document, keeping positions. Raises DocumentError on broken YAML or duplicate keys.

    Only plain data is built: no tags, no anchors that multiply.
    """
    if len(text) > MAX_DOCUMENT_BYTES:
        raise InputError(f"{file}: larger than {MAX_DOCUMENT_BYTES} bytes")
    try:
        root = yaml.compose(text.decode("utf-8-sig"), Loader=CoreLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        what = " ".join(part for part in (error.context, error.problem) if part)
        raise DocumentError(f"{file} is not valid YAML", [Problem(file, line, column, "", what)]) from error
    except RecursionError:
        raise InputError(f"{file}: nested too deeply or expanded too far") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DocumentError(f"{file} is not valid YAML", [Problem(file, 0, 0, "", str(error))]) from error
    document = Document(None, {}, {file: text})
    if root is not None:
        builder = _Builder(file, document.positions)
        document.data = builder.build(root, ())
        if builder.problems:
            raise DocumentError(f"{file} is wrong", builder.problems)
    document.positions.setdefault((), Position(file, 1, 1))
    return document


class _Builder:
    """Builds plain data from composed YAML nodes."""

    def __init__(self, file: str, positions: dict[Path_, Position]) -> None:
        self.file = file
        self.positions = positions
        self.problems: list[Problem] = []
        self._nodes = 0
        self._scalars = CoreLoader("")

    def build(self, node: yaml.Node, path: Path_) -> Any:
        self._nodes += 1
        if self._nodes > 1_000_000 or len(path) > 100:
            raise InputError(f"{self.file}: nested too deeply or expanded too far")
        self.positions[path] = self._position(node)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(child, (*path, index)) for index, child in enumerate(node.value)]
        return self._scalar(node, path)

    def _mapping(self, node: yaml.MappingNode, path: Path_) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if key is None or key in result:
                what = "a key must be plain text" if key is None else f"key {key!r} stands here twice"
                place = self._position(key_node)
                self.problems.append(Problem(self.file, place.line, place.column, dotted(path), what))
                continue
            result[key] = self.build(value_node, (*path, key))
        return result

    def _scalar(self, node: yaml.Node, path: Path_) -> Any:
        try:
            value = self._scalars.construct_object(node, deep=True)
        except (yaml.YAMLError, ValueError) as error:
            place = self._position(node)
            self.problems.append(Problem(self.file, place.line, place.column, dotted(path), str(error)))
            return None
        # Explicit tags can make dates and sets; documents hold text, numbers, booleans and null only.
        return value if isinstance(value, str | int | float | bool | None) else str(node.value)

    def _position(self, node: yaml.Node) -> Position:
        return Position(self.file, node.start_mark.line + 1, node.start_mark.column + 1)


def read_document(path: Path) -> Document:
    """Read and parse one YAML file. Raises InputError where it cannot be read."""
    try:
        return parse_yaml(path.read_bytes(), str(path))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error


def read_with_includes(path: Path, seen: tuple[Path, ...] = ()) -> Document:
    """Read a document and merge what it includes under it: mappings merge, anything else is replaced.

    Paths inside an included file are relative to that file; they are rewritten relative to the including one.
    Code references cannot lead upwards, so a file with stage code is included from its folder or above.
    """
    resolved = path.resolve()
    if resolved in seen:
        raise InputError(f"{path} includes itself: " + " -> ".join(p.name for p in (*seen, resolved)))
    document = read_document(path)
    if not isinstance(document.data, dict):
        raise DocumentError(f"{path} is wrong", [document.problem((), "expected a mapping")])
    includes = document.data.pop("include", [])
    if not isinstance(includes, list) or not all(isinstance(item, str) for item in includes):
        raise DocumentError(f"{path} is wrong", [document.problem(("include",), "expected a list of files")])
    merged = Document({}, {}, {})
    for name in includes:
        part = read_with_includes(path.parent / name, (*seen, resolved))
        _rebase(part.data, os.path.dirname(name))
        _merge(merged, part)
    _merge(merged, document)
    return merged


def _rebase(data: Any, folder: str) -> None:
    """Make the paths and code references in included `data` relative to the including file."""
    if not folder:
        return
    children: Iterable[tuple[Any, Any]] = data.items() if isinstance(data, dict) else enumerate(data)
    for key, value in list(children):
        if key in _OPAQUE_FIELDS:
            continue
        if key == "catalogues" and isinstance(value, list):
            data[key] = [_rebased_path(path, folder) for path in value]
        elif key == "models" and isinstance(value, dict):
            data[key] = {subset: _rebased_path(path, folder) for subset, path in value.items()}
        elif isinstance(value, dict | list):
            _rebase(value, folder)
        elif key in PATH_FIELDS:
            data[key] = _rebased_path(value, folder)
        elif isinstance(value, str) and key in _CODE_FIELDS and ":" in value:
            data[key] = f"{os.path.normpath(folder)}/{value}"


def _rebased_path(path: Any, folder: str) -> Any:
    """A path relative to `folder`, from where that is; anything else as it is."""
    if not isinstance(path, str) or os.path.isabs(path):
        return path
    return os.path.normpath(os.path.join(folder, path))


def _merge(base: Document, over: Document) -> None:
    base.data = _merged(base.data, over.data)
    base.positions.update(over.positions)
    base.sources.update(over.sources)


def _merged(base: Any, over: Any) -> Any:
    if isinstance(base, dict) and isinstance(over, dict):
        return {
            **base,
            **{key: _merged(base[key], value) if key in base else value for key, value in over.items()},
        }
    return over


def apply_override(document: Document, assignment: str) -> None:
    """Apply one `--set path=value`; the value is YAML, the path dotted (`classes.web.rate_rps=40`)."""
    path_text, equals, value_text = assignment.partition("=")
    if not equals or not path_text.strip():
        raise InputError(f"--set {assignment}: expected path=value, e.g. --set classes.web.rate_rps=40")
    source = f"--set {assignment}"
    value = parse_yaml(value_text.encode(), source)
    parts: list[str | int] = []
    node = document.data
    names = path_text.strip().replace("[", ".").replace("]", "").split(".")
    for index, name in enumerate(names):
        last = index == len(names) - 1
        if isinstance(node, list):
            if not name.isdigit() or int(name) >= len(node):
                raise InputError(f"{source}: {dotted(parts)} is a list of {len(node)}; expected an index, got {name!r}")
            key: str | int = int(name)
        elif isinstance(node, dict):
            key = name
            if not last:
                node.setdefault(key, {})
        else:
            raise InputError(f"{source}: {dotted(parts)} is a single value; it has no field {name!r}")
        parts.append(key)
        if last:
            node[key] = value.data
        else:
            node = node[key]
    trail = tuple(parts)
    for known in [known for known in document.positions if known[: len(trail)] == trail]:
        del document.positions[known]
    for below in value.positions:
        document.positions[(*trail, *below)] = Position(source)
    document.sources[source] = source.encode()


def validated(model: type[Model], document: Document, title: str) -> Model:
    """Validate a document's data. Raises DocumentError with every problem, each with its place."""
    try:
        return model.model_validate(document.data)
    except ValidationError as error:
        problems = [_problem(document, model, item) for item in error.errors()]
        unique = sorted(set(problems), key=lambda p: (p.file, p.line, p.column, p.field, p.message))
        raise DocumentError(f"{title} is wrong ({len(unique)} problem{'s' * (len(unique) != 1)})", unique) from None


def _problem(document: Document, model: type[BaseModel], item: Any) -> Problem:
    path = _in_document(document.data, item["loc"])
    if item["type"] == "extra_forbidden":
        known = messages.fields_at(model, path[:-1])
        return document.problem(path, messages.unknown_field(str(path[-1]), known))
    if item["type"] == "missing":
        return document.problem(path[:-1], f"missing field {path[-1]!r}{messages.hint(str(path[-1]))}")
    return document.problem(path, messages.expectation(item, str(path[-1]) if path else ""))


def _in_document(data: Any, loc: Sequence[str | int]) -> Path_:
    """Pydantic's location without the parts it adds for unions and keys."""
    path: list[str | int] = []
    node: Any = data
    for index, part in enumerate(loc):
        last = index == len(loc) - 1
        inside = part in node if isinstance(node, dict) else isinstance(node, list) and isinstance(part, int)
        if inside:
            path.append(part)
            node = node[part]
        elif last and isinstance(node, dict) and isinstance(part, str) and part != "[key]":
            path.append(part)
    return tuple(path)


@dataclass(frozen=True, slots=True)
class LoadedWorkload:
    """A workload with where it came from. `sha256` covers its files, catalogues and overrides, in order."""

    workload: Workload
    path: Path
    overrides: tuple[str, ...]
    sha256: str
    document: Document
    catalogues: tuple[Catalogue, ...] = ()
    """Price catalogues that its devices may take prices from."""


def load_workload(path: Path | str, overrides: Sequence[str] = ()) -> LoadedWorkload:
    """Read, include, override, fill from price catalogues, validate and cross-check a workload.

    Model-less classes come as the levels they consist of (`levels`).

    Raises DocumentError with every problem found, InputError where the file cannot be read.
    """
    from inferplan.spec.catalogue import fill_from_catalogues
    from inferplan.spec.checks import check_workload
    from inferplan.spec.levels import with_levels

    path = Path(path)
    if path.is_dir():
        path = path / "workload.yaml"
    document = read_with_includes(path)
    for assignment in overrides:
        apply_override(document, assignment)
    catalogues = fill_from_catalogues(document, path.parent)
    workload = validated(Workload, document, str(path)).at(path.resolve().parent)
    problems = check_workload(workload, document)
    if problems:
        raise DocumentError(f"{path} is wrong ({len(problems)} problem{'s' * (len(problems) != 1)})", problems)
    workload = with_levels(workload)
    return LoadedWorkload(workload, path, tuple(overrides), _digest(document, path), document, catalogues)


def _digest(document: Document, path: Path) -> str:
    digest = hashlib.sha256()
    for name, content in sorted(document.sources.items()):
        # File names are left out: a moved folder is the same workload.
        digest.update(hashlib.sha256(content).digest() if not name.startswith("--set") else content)
    return digest.hexdigest()


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like `name`, if any is like it."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)), None)
