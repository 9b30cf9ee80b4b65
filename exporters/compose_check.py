"""Checks of a compose file: the compose-spec schema, and what the schema cannot see."""

from __future__ import annotations

import importlib
import importlib.resources
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from inferplan.spec.errors import CheckFailedError, MissingExtraError

_WITH_DEFAULT = re.compile(r"\$\{[A-Z][A-Z0-9_]*:-[^${}]*\}")


def check_compose(file: Path) -> None:
    """Raise CheckFailedError with everything wrong in a compose file.

    Besides the schema: services that `depends_on` names exist; host ports, and the CPUs of services that run
    together, are not given out twice; mounted folders exist below the file's own; nothing is interpolated
    that has no default.
    """
    document = yaml.safe_load(file.read_text("utf-8"))
    problems = [*_schema(document)]
    if not problems:
        problems = [
            *_references(document),
            *_mounts(document, file.parent),
            *_conflicts(document),
            *_interpolations(document),
        ]
    if problems:
        raise CheckFailedError(f"{file.name} is not a sound compose file", problems)


def _schema(document: Any) -> Iterator[str]:
    try:
        vendored = importlib.resources.files("check_jsonschema") / "builtin_schemas/vendor/compose-spec.json"
        validators = importlib.import_module("jsonschema.validators")
    except ImportError as error:
        raise MissingExtraError("export", "checking compose files") from error
    schema = json.loads(vendored.read_text("utf-8"))
    validator = validators.validator_for(schema)(schema)
    for breach in sorted(validator.iter_errors(document), key=lambda breach: list(map(str, breach.absolute_path))):
        yield f"{'.'.join(map(str, breach.absolute_path)) or 'document'}: {breach.message}"


def _interpolations(node: Any) -> Iterator[str]:
    """What compose would replace by the caller's environment: allowed only with a default."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from (*_interpolations(key), *_interpolations(value))
    elif isinstance(node, list):
        for item in node:
            yield from _interpolations(item)
    elif isinstance(node, str):
        rest = _WITH_DEFAULT.sub("", node).replace("$$", "")
        if "$" in rest:
            yield f"{node!r} is filled in from the environment, without a default"


def _references(document: dict[str, Any]) -> Iterator[str]:
    services = document.get("services", {})
    for name, service in services.items():
        wanted = service.get("depends_on", [])
        for other in wanted:
            if other not in services:
                yield f"services.{name}.depends_on: there is no service {other!r}"
        for network in service.get("networks", []):
            if network not in document.get("networks", {}):
                yield f"services.{name}.networks: there is no network {network!r}"


def _mounts(document: dict[str, Any], folder: Path) -> Iterator[str]:
    for name, service in document.get("services", {}).items():
        for mount in service.get("volumes", []):
            if not isinstance(mount, dict) or mount.get("type") != "bind":
                yield f"services.{name}.volumes: {mount!r} is not a bind mount written out"
                continue
            source = folder / str(mount["source"])
            if not source.is_dir() or not source.resolve().is_relative_to(folder.resolve()):
                yield f"services.{name}.volumes: there is no folder {mount['source']!r} beside the file"
            if mount.get("read_only") is not True:
                yield f"services.{name}.volumes: {mount['source']!r} is not mounted read-only"


def _conflicts(document: dict[str, Any]) -> Iterator[str]:
    ports = Counter(
        str(port["published"])
        for service in document.get("services", {}).values()
        for port in service.get("ports", [])
        if isinstance(port, dict) and "published" in port
    )
    yield from (f"host port {port} is published {count} times" for port, count in ports.items() if count > 1)
    cpus: Counter[int] = Counter()
    for service in document.get("services", {}).values():
        cpus.update(cpus_of(str(service.get("cpuset", ""))))
    shared = sorted(cpu for cpu, count in cpus.items() if count > 1)
    if shared:
        yield f"CPU {shared[0]} belongs to several services"


def cpus_of(cpuset: str) -> set[int]:
    """The CPUs of a cpuset such as `0-3,6`; of `${NAME:-0-3}`, those of its default."""
    if cpuset.startswith("${") and cpuset.endswith("}"):
        cpuset = cpuset[2:-1].partition(":-")[2]
    found: set[int] = set()
    for part in filter(None, cpuset.split(",")):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found
