"""YAML's core schema, version 1.2, for reading and writing.

PyYAML follows YAML 1.1, where `1e-4` is text, `1:30` is 90 and `no` is false; people mean none of that. Reader
and writer share one set of rules, so that what is written reads back as what it was.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

_RULES = (
    ("tag:yaml.org,2002:null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("tag:yaml.org,2002:int", r"[-+]?[0-9]+", list("-+0123456789")),
    (
        "tag:yaml.org,2002:float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
)


class CoreLoader(yaml.SafeLoader):
    """Reads plain data by the core schema."""

    yaml_implicit_resolvers: dict[str, Any] = {}


class CoreDumper(yaml.SafeDumper):
    """Writes plain data so that `CoreLoader` reads it back."""

    yaml_implicit_resolvers: dict[str, Any] = {}


def _int(loader: CoreLoader, node: yaml.ScalarNode) -> int:
    # Decimal always: 010 is ten, not eight.
    return int(node.value)


for _tag, _pattern, _first in _RULES:
    for _target in (CoreLoader, CoreDumper):
        _target.add_implicit_resolver(_tag, re.compile(rf"^(?:{_pattern})$"), _first)
CoreLoader.add_constructor("tag:yaml.org,2002:int", _int)
