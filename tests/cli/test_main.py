"""Exit codes, plain messages, and nothing but the result on stdout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from inferplan import __version__
from inferplan.cli import main as cli
from inferplan.cli.options import duration_s
from inferplan.spec.errors import (
    CheckFailedError,
    ExitCode,
    InfeasibleError,
    InferplanError,
    InputError,
    MissingExtraError,
    UndecidedError,
)

DIGITS = Path(__file__).resolve().parents[2] / "sample_workloads" / "digits"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("x"), 2),
        (MissingExtraError("cpu", "profiling"), 2),
        (InfeasibleError("x"), 3),
        (UndecidedError("x"), 4),
        (CheckFailedError("x"), 5),
    ],
)
def test_typed_errors_become_their_exit_codes(
    error: InferplanError, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)
    assert cli.run_command(["solve", "w"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert error.message in err
    assert "Traceback" not in err


def test_a_bug_is_ours_and_shows_a_traceback_only_when_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: object) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr(cli, "app", fail)
    assert cli.run_command([]) == ExitCode.BUG
    assert "Traceback" not in capsys.readouterr().err
    monkeypatch.setenv("INFERPLAN_DEBUG", "1")
    assert cli.run_command([]) == ExitCode.BUG
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["validate"], ["validate", "w", "--colour"], ["solve", "w", "--gap", "x"]]
)
def test_wrong_usage_is_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run_command(arguments) == ExitCode.INPUT
    assert "Usage" in capsys.readouterr().err


def test_what_a_plan_must_withstand_becomes_overrides(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[str] = []

    def load(_: object, overrides: list[str]) -> None:
        seen.extend(overrides)
        raise InputError("stop here")

    monkeypatch.setattr("inferplan.spec.document.load_workload", load)
    options = ["--confidence", "0.95", "--rates", "1, 1.5,2", "--spare-machines", "1", "--headroom", "0.2"]
    assert cli.run_command(["solve", str(DIGITS), "--set", "name=x", *options]) == ExitCode.INPUT
    assert seen == [
        "name=x",
        "robustness.confidence=0.95",
        "robustness.load_levels=[1.0, 1.5, 2.0]",
        "robustness.spare_machines=1",
        "robustness.headroom=0.2",
    ]
    assert cli.run_command(["solve", str(DIGITS), "--rates", "1,two"]) == ExitCode.INPUT
    assert "expected numbers, e.g. 1,1.5,2; got 'two'" in capsys.readouterr().err


def test_a_price_catalogue_is_validated_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example = DIGITS.parent / "catalogues" / "example.yaml"
    assert cli.run_command(["validate", str(example)]) == 0
    assert "14 types of machines, prices of 2025-01-01" in capsys.readouterr().out
    wrong = tmp_path / "prices.yaml"
    wrong.write_text(example.read_text().replace("cores: 2", "cores: two"))
    assert cli.run_command(["validate", str(wrong)]) == ExitCode.INPUT
    assert "instances.c6i.large.cores: expected a whole number" in capsys.readouterr().err


def test_old_prices_are_noted_on_stderr_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "workload.yaml"
    catalogue = DIGITS.parent / "catalogues" / "example.yaml"
    path.write_text(
        f"apiVersion: inferplan/v1\nname: w\ncatalogues: [{catalogue}]\n"
        "pipeline: {stages: {s: {variants: {v: {runtime: skip}}}}}\n"
        "tiers: {cloud: {devices: {cpu: {instance: example/c6i.large}}}}\n"
        "classes: {c: {rate_rps: 1}}\n"
    )
    assert cli.run_command(["validate", str(path)]) == 0
    out, err = capsys.readouterr()
    assert "2025" not in out
    assert "note: prices of example/c6i.large are of 2025-01-01" in err


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run_command(["--version"]) == 0
    assert capsys.readouterr().out == f"inferplan {__version__}\n"
    assert cli.run_command(["--help"]) == 0
    assert "Exit codes: 0 done" in capsys.readouterr().out


def test_validate_says_right_or_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run_command(["validate", str(DIGITS), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["status"] == "ok"
    assert data["stages"]["read"] >= 5
    assert cli.run_command(["validate", str(DIGITS), "--set", "classes.web.rate_rps=fast"]) == ExitCode.INPUT
    assert "classes.web.rate_rps: expected a number of requests per second" in capsys.readouterr().err
    assert cli.run_command(["validate", str(tmp_path / "none.yaml"), "--json"]) == ExitCode.INPUT
    data = json.loads(capsys.readouterr().out)
    assert (data["status"], data["exit_code"], data["error"]["kind"]) == ("error", 2, "Input")


@pytest.mark.parametrize("document", ["workload", "plan"])
def test_schemas_are_json(document: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run_command(["schema", document]) == 0
    assert json.loads(capsys.readouterr().out)["type"] == "object"


def test_durations_have_units() -> None:
    values = {"30s": 30.0, "5m": 300.0, "5min": 300.0, "1.5h": 5400.0, "200ms": 0.2}
    assert {text: duration_s(text, "--x") for text in values} == pytest.approx(values)
    for wrong in ("30", "s", "-3s", "0s", "1 day", "1e3s", "inf"):
        with pytest.raises(InputError, match="with its unit"):
            duration_s(wrong, "--x")


def test_what_the_system_refuses_is_no_bug_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: object) -> None:
        (tmp_path / "file").write_text("")
        (tmp_path / "file" / "plan.yaml").write_text("")

    monkeypatch.setattr(cli, "app", fail)
    assert cli.run_command(["solve", "w", "--json"]) == ExitCode.INPUT
    out, err = capsys.readouterr()
    assert "plan.yaml: Not a directory" in err
    assert "bug" not in err
    assert json.loads(out)["error"]["kind"] == "Input"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["solve", str(DIGITS), "-o", "."], "this is a folder"),
        (["compare", str(DIGITS), "--parquet", "nowhere/x.parquet"], "there is no folder"),
        (["frontier", str(DIGITS), "--picture", "nowhere/x.svg"], "there is no folder"),
        (["frontier", str(DIGITS), "--parquet", "."], "this is a folder"),
        (["book", str(DIGITS), "--rates", "1:2", "--trace", "t.csv", "--parquet", "."], "this is a folder"),
    ],
)
def test_where_nothing_can_be_written_is_said_before_anything_is_read(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.run_command(arguments) == ExitCode.INPUT
    assert says in capsys.readouterr().err


def test_wrong_usage_is_json_where_json_was_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run_command(["solve", "w", "--json", "--seed", "x"]) == ExitCode.INPUT
    error = json.loads(capsys.readouterr().out)
    assert error["exit_code"] == ExitCode.INPUT
    assert error["error"]["kind"] == "Usage"
    assert "--seed" in error["error"]["message"]
