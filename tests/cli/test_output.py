"""Output is plain when piped, and JSON that any parser reads."""

from __future__ import annotations

import json

import pytest

from inferplan.cli.output import emit_json, heading, show
from inferplan.reports.tables import Table, left


def test_json_has_no_nan(capsys: pytest.CaptureFixture[str]) -> None:
    emit_json({"a": float("nan"), "b": [1.0, float("inf")], "c": {"d": "µs"}})
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [1.0, None], "c": {"d": "µs"}}


def test_no_colour_when_piped(capsys: pytest.CaptureFixture[str]) -> None:
    heading("Title")
    show(Table(left("a"), [["x"], ["y"]], frozenset({1})), indent=2)
    assert capsys.readouterr().out == "Title\n  a\n  x\n  y\n"


def test_a_terminal_gets_the_table_fitted_to_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inferplan.cli.output.coloured", lambda stream: True)
    monkeypatch.setenv("COLUMNS", "20")
    show(Table(left("name", "text"), [["x", "one two three four five"], ["[y]", "z"]]))
    out = capsys.readouterr().out
    assert max(len(line.rstrip()) for line in out.splitlines()) <= 20
    assert "[y]" in out, "cells are text, not markup"
    assert all(word in out for word in ("one", "five"))
