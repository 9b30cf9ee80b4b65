"""`inferplan variants`: what is printed, what is written, exit codes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from inferplan.cli import main as cli

DIGITS = Path(__file__).resolve().parents[2] / "sample_workloads" / "digits"


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """A copy of sample_workloads/digits."""
    return Path(shutil.copytree(DIGITS, tmp_path / "digits", ignore=shutil.ignore_patterns("*.profile", "generated")))


def test_made_variants_can_be_planned_for(digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["variants", str(digits), "--variant", "cnn-s", "--recipe", "int8-static", "--recipe", "graph:basic"]
    assert cli.run_command(arguments) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert lines[0].split() == ["VARIANT", "size", "of", "parent", "max", "diff", "rel.", "L2", "same", "verdict"]
    assert [line.split()[0] for line in lines[1:3]] == ["read=cnn-s-int8s", "read=cnn-s-opt-basic"]
    assert "a mild leak" in out
    assert f"inferplan profile {digits / 'digits-variants.yaml'}" in lines[-1]
    assert cli.run_command(["validate", str(digits / "digits-variants.yaml"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["stages"] == {"read": 12}


def test_json_has_the_documented_keys(digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "variants",
        str(digits),
        "--variant",
        "linear",
        "--recipe",
        "graph:basic",
        "--recipe",
        "onnx",
        "--json",
    ]
    assert cli.run_command(arguments) == 0
    data = json.loads(capsys.readouterr().out)
    assert set(data) == {"status", "path", "derived", "refused", "notes", "created"}
    assert data["created"] == ["digits-variants.generated.yaml", "digits-variants.yaml"]
    (made,) = data["derived"]
    assert (made["variant"], made["verdict"], made["distance"]["n"]) == ("linear-opt-basic", "made", 64)
    assert [refused["reason"] for refused in data["refused"]] == ["takes torch variants only"]


def test_what_cannot_be_made_is_exit_code_5(digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run_command(["variants", str(digits), "--variant", "linear", "--recipe", "opset:999"]) == 5
    assert "read=linear-opset999: onnx cannot convert it to opset 999" in capsys.readouterr().out
    assert not (digits / "digits-variants.yaml").exists()


def test_list_makes_nothing(digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(digits.rglob("*"))
    assert cli.run_command(["variants", str(digits), "--list", "--variant", "cnn-m-int8", "--variant", "resnet-m"]) == 0
    out = capsys.readouterr().out
    assert "read=resnet-m    int8-static fp16 graph offline opset" in out
    assert "int8 already" in out
    assert "param" in out
    assert [path for path in sorted(digits.rglob("*")) if "__pycache__" not in path.parts] == [
        path for path in before if "__pycache__" not in path.parts
    ]
    assert cli.run_command(["variants", str(digits), "--list", "--variant", "linear", "--json"]) == 0
    fits = json.loads(capsys.readouterr().out)["fits"]
    assert set(fits[0]) == {"stage", "variant", "recipe", "reason"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recipe", "int4"], "there is no recipe 'int4'"),
        (["--recipe", "param"], "expected a name and values"),
        (["--variant", "cnn-x"], "did you mean"),
        (["--time-limit", "10"], "a duration with its unit"),
    ],
)
def test_wrong_usage(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run_command(["variants", str(DIGITS), *arguments]) == 2
    assert message in capsys.readouterr().err
