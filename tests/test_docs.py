"""The documentation names what there is: every field of the workload, every verb and option of the command."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from inferplan.spec.schemas import json_schema

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"


def fields(schema: dict[str, Any]) -> set[str]:
    names = set(schema.get("properties", {}))
    for definition in schema.get("$defs", {}).values():
        names |= set(definition.get("properties", {}))
    return names


def test_the_workload_reference_names_every_field() -> None:
    text = (DOCS / "workload.md").read_text()
    missing = {name for name in fields(json_schema("workload")) if not re.search(rf"`[^`]*\b{name}\b[^`]*`", text)}
    assert not missing


def test_examples_in_the_workload_reference_are_yaml() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (DOCS / "workload.md").read_text(), re.S)
    assert blocks
    assert all(isinstance(yaml.safe_load(block), dict) for block in blocks)


def test_the_command_reference_names_every_verb_and_option() -> None:
    import typer.main

    from inferplan.cli.main import app

    text = (DOCS / "cli.md").read_text()

    def walk(command: Any, name: str) -> None:
        assert f"`{name}" in text, name
        for parameter in command.params:
            for option in getattr(parameter, "opts", []):
                if option.startswith("--") and option != "--help":
                    assert option in text, f"{name} {option}"
        for key, child in getattr(command, "commands", {}).items():
            walk(child, f"{name} {key}")

    walk(typer.main.get_command(app), "inferplan")


@pytest.mark.parametrize("path", sorted([*DOCS.glob("*.md"), *ROOT.glob("*.md")]), ids=lambda p: p.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text()):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), target
