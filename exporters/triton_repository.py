"""A Triton model repository as it lies on disk: its models, versions and parsed configurations.

The repository is untrusted: nothing outside of it is opened, only regular files are read, and no more of
them than a configuration can sensibly be long.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from inferplan.exporters.findings import RULES, Finding
from inferplan.exporters.pbtxt import TextNode, TextPath, scan
from inferplan.spec.errors import InputError, MissingExtraError

_CONFIG_LIMIT_BYTES = 4 * 2**20
# Folders of a model that are not versions, and that the server knows.
_KNOWN_FOLDERS = {"configs", "warmup", "initial_state", "output_labels", "lora"}

DEFAULT_FILENAMES = {
    "onnxruntime": "model.onnx",
    "tensorrt": "model.plan",
    "pytorch": "model.pt",
    "python": "model.py",
    "openvino": "model.xml",
}
"""Backend -> the model file it looks for where the configuration names none."""

PLATFORM_BACKENDS = {
    "onnxruntime_onnx": "onnxruntime",
    "tensorrt_plan": "tensorrt",
    "pytorch_libtorch": "pytorch",
    "libtorch": "pytorch",
    "tensorflow_graphdef": "tensorflow",
    "tensorflow_savedmodel": "tensorflow",
}
"""Platform -> the backend that serves it."""


def word(message: Any, field: str) -> str:
    """The name of an enumerated field's value; its number where it has none, as a configuration may hold any."""
    number = getattr(message, field)
    known = message.DESCRIPTOR.fields_by_name[field].enum_type.values_by_number.get(number)
    return str(number) if known is None else str(known.name)


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """A parsed configuration. `file` is relative to the repository; `config` is a ModelConfig message;
    `guessed_backend` is the one the server takes, by the name of the model file, where none is written."""

    file: str
    config: Any
    text: TextNode
    guessed_backend: str = ""

    def finding(self, rule: str, message: str, path: TextPath = ()) -> Finding:
        """A breach of `rule` at a field of this file."""
        node = self.text.find(path)
        return finding(rule, self.file, message, node.line, node.column)

    @property
    def backend(self) -> str:
        """The backend that serves this model; "ensemble" for ensembles, "" where none is named."""
        if self.config.platform == "ensemble":
            return "ensemble"
        return str(self.config.backend) or PLATFORM_BACKENDS.get(self.config.platform, self.guessed_backend)


@dataclass(frozen=True, slots=True)
class RepositoryModel:
    """One model folder. `main` is None where config.pbtxt is missing or broken; `alternatives` are the files
    of `configs/`, one of which a server may be told to use instead (`--model-config-name`)."""

    name: str
    folder: Path
    versions: tuple[int, ...]
    main: ConfigFile | None
    alternatives: tuple[ConfigFile, ...] = ()

    @property
    def configs(self) -> tuple[ConfigFile, ...]:
        return ((self.main,) if self.main else ()) + self.alternatives

    def served_versions(self, config: Any) -> tuple[int, ...]:
        """The versions that the policy of `config` serves (those named but missing are not among them)."""
        choice = config.version_policy.WhichOneof("policy_choice")
        if choice == "all":
            return self.versions
        if choice == "specific":
            return tuple(version for version in self.versions if version in config.version_policy.specific.versions)
        latest = config.version_policy.latest.num_versions if choice == "latest" else 1
        return self.versions[-max(1, latest) :]


@dataclass(slots=True)
class Repository:
    """All models, and what is wrong with the folders themselves."""

    root: Path
    models: dict[str, RepositoryModel] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


def finding(rule: str, file: str, message: str, line: int = 0, column: int = 0) -> Finding:
    """A breach of `rule`, with the severity and the remedy of the table."""
    known = RULES[rule]
    return Finding(printable(file), line, column, rule, known.severity, message, known.remedy)


def printable(name: str) -> str:
    """A file name as it can be shown, whatever bytes it has."""
    return name.encode("utf-8", "backslashreplace").decode().encode("unicode_escape").decode("ascii")


def read_repository(root: Path) -> Repository:
    """Read a repository. Raises InputError where `root` is no folder, or is one model rather than a repository."""
    if not root.is_dir():
        raise InputError(f"{root}: there is no such folder")
    if (root / "config.pbtxt").exists():
        raise InputError(f"{root}: this is one model; give the folder that holds it")
    repository = Repository(root)
    repository.findings.extend(_escapes(root))
    for folder in sorted(path for path in root.iterdir() if path.is_dir() and contained(path, root)):
        repository.models[folder.name] = _read_model(folder, repository)
    if not repository.models:
        repository.findings.append(finding("repository-empty", ".", "there is no model folder"))
    return repository


def contained(path: Path, root: Path) -> bool:
    """Whether a path exists and, links followed, lies within the repository."""
    try:
        return path.resolve(strict=True).is_relative_to(root.resolve())
    except (OSError, RuntimeError):
        return False


def regular_file(path: Path) -> bool:
    """Whether this is a file one can read without waiting (no pipe, no device)."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False


def _escapes(root: Path) -> Iterator[Finding]:
    for folder, folders, files in os.walk(root):
        for name in sorted(folders + files):
            path = Path(folder, name)
            if path.is_symlink() and not contained(path, root):
                shown = path.relative_to(root).as_posix()
                target = printable(os.readlink(path))
                yield finding("path-escape", shown, f"link to {target}, which is not a file of the repository")


def _read_model(folder: Path, repository: Repository) -> RepositoryModel:
    root = repository.root
    here = folder.relative_to(root).as_posix()
    versions = []
    for entry in sorted(folder.iterdir()):
        if not entry.is_dir() or not contained(entry, root):
            continue
        if entry.name.isascii() and entry.name.isdigit() and not entry.name.startswith("0") and len(entry.name) < 19:
            versions.append(int(entry.name))
        elif entry.name not in _KNOWN_FOLDERS:
            repository.findings.append(
                finding("version-ignored", f"{here}/{entry.name}", "the server ignores this folder: not a version")
            )
    if not versions:
        repository.findings.append(finding("version-missing", here, "there is no version folder"))
    main_path = folder / "config.pbtxt"
    guess = _guessed_backend(folder, versions)
    if not main_path.exists() and not main_path.is_symlink():
        rule = "config-absent" if guess == "onnxruntime" else "config-missing"
        repository.findings.append(finding(rule, here, "there is no config.pbtxt"))
    alternatives = sorted((folder / "configs").glob("*.pbtxt")) if contained(folder / "configs", root) else []
    return RepositoryModel(
        name=folder.name,
        folder=folder,
        versions=tuple(sorted(versions)),
        main=_read_config(main_path, repository, guess) if main_path.exists() else None,
        alternatives=tuple(file for path in alternatives if (file := _read_config(path, repository, guess))),
    )


def _guessed_backend(folder: Path, versions: list[int]) -> str:
    for backend, filename in DEFAULT_FILENAMES.items():
        if any((folder / str(version) / filename).exists() for version in versions):
            return backend
    return ""


def _read_config(path: Path, repository: Repository, guessed_backend: str) -> ConfigFile | None:
    file = path.relative_to(repository.root).as_posix()
    if not contained(path, repository.root):
        return None  # reported among the escapes
    if not regular_file(path) or path.stat().st_size > _CONFIG_LIMIT_BYTES:
        repository.findings.append(
            finding("file-unreadable", file, f"not a regular file of at most {_CONFIG_LIMIT_BYTES} bytes")
        )
        return None
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        repository.findings.append(finding("file-unreadable", file, f"cannot be read as text: {error}"))
        return None
    parsed = parse_config(text, file)
    if isinstance(parsed, Finding):
        repository.findings.append(parsed)
        return None
    return replace(parsed, guessed_backend=guessed_backend)


def parse_config(text: str, file: str) -> ConfigFile | Finding:
    """Parse a configuration into Triton's own ModelConfig message (layer 1 of the checks)."""
    try:
        from google.protobuf import text_format
        from tritonclient.grpc import model_config_pb2
    except ImportError as error:
        raise MissingExtraError("export", "checking Triton configurations") from error
    try:
        config = text_format.Parse(text, model_config_pb2.ModelConfig())
    except text_format.ParseError as error:
        message = str(error).splitlines()[0].partition(" : ")[2] or str(error)
        return finding("config-parse", file, message, error.GetLine() or 0, error.GetColumn() or 0)
    return ConfigFile(file, config, scan(text))
