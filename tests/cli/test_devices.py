"""`inferplan devices` on the machine this runs on, whatever that has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from inferplan.cli import main as cli

DIGITS = Path(__file__).resolve().parents[2] / "sample_workloads" / "digits"


def test_it_lists_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run_command(["devices", str(DIGITS), "--no-ask-runtimes"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert [line.split("  ")[0] for line in out.splitlines() if line[:3].isupper()][:2] == ["PROCESSOR", "MEMORY"]
    assert "edge/small-cpu" in out
    assert all(line == line.rstrip() for line in out.splitlines())


def test_json_is_one_object_with_the_documented_keys(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run_command(["devices", str(DIGITS), "--no-ask-runtimes", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert set(data) == {
        "status",
        "fingerprint",
        "processor",
        "memory",
        "graphics",
        "libraries",
        "standings",
        "warnings",
    }
    (standing,) = data["standings"]["devices"]
    assert (standing["device"], standing["possible"]) == ("edge/small-cpu", True)


def test_json_without_a_workload_has_no_standings(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run_command(["devices", "--no-ask-runtimes", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["standings"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no-such-folder"], "no-such-folder"),
        (["--set", "name=x"], "--set needs a WORKLOAD"),
    ],
)
def test_wrong_usage(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run_command(["devices", *arguments]) == 2
    assert message in capsys.readouterr().err
