"""`inferplan profile`: measures unless told otherwise; show, merge, compact, export, import work end to end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer.main

from inferplan.cli.main import run_command
from inferplan.cli.profile_group import MEASURE, MeasuringGroup, app
from inferplan.profilers.store import ProfileStore
from inferplan.spec.profile import read_profile
from inferplan.spec.rows import Measurement, PointKey, Quantiles

WORKLOAD = """
apiVersion: inferplan/v1
name: w
pipeline:
  stages:
    read:
      metric: {name: top1}
      variants:
        small: {model: a.onnx}
tiers: {edge: {devices: {box: {price_usd_per_h: 0.1, cores: 2}}}}
classes: {web: {rate_rps: 1}}
accuracy: {metric: {name: top1}}
"""


@pytest.fixture
def workload(tmp_path: Path) -> Path:
    (tmp_path / "a.onnx").write_bytes(b"model")
    (tmp_path / "workload.yaml").write_text(WORKLOAD)
    return tmp_path / "workload.yaml"


def fill(path: Path, fingerprint: str = "ff", mean_s: float = 0.01) -> None:
    key = PointKey(
        "read", "small", "", "0" * 64, "", "onnxruntime", "1", "{}", "cpu", "edge/box", fingerprint, 1, 1, "{}"
    )
    row = Measurement(
        key, "ok", n=9, service=Quantiles(mean_s=mean_s, p50_s=mean_s), throughput_per_s=9.0, measured_at="2026"
    )
    with ProfileStore(path, "w") as store:
        store.add_measurement(row, None)


@pytest.mark.parametrize(
    ("arguments", "routed"),
    [
        (["w.yaml"], [MEASURE, "w.yaml"]),
        (["--json", "w.yaml", "--set", "a=b"], [MEASURE, "--json", "w.yaml", "--set", "a=b"]),
        (["--set", "show", "w.yaml"], [MEASURE, "--set", "show", "w.yaml"]),
        (["--device=edge/box", "./show"], [MEASURE, "--device=edge/box", "./show"]),
        (["--", "show"], [MEASURE, "--", "show"]),
        ([], [MEASURE]),
        (["show", "p"], ["show", "p"]),
        (["--json", "show", "p"], ["show", "--json", "p"]),
        (["measure", "w.yaml"], [MEASURE, "w.yaml"]),
    ],
)
def test_the_first_argument_that_is_no_option_decides(
    arguments: list[str], routed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    group = typer.main.get_command(app)
    seen: list[list[str]] = []

    def parse(self: object, ctx: object, args: list[str]) -> list[str]:
        seen.append(args)
        return args

    monkeypatch.setattr(MeasuringGroup.__mro__[1], "parse_args", parse)
    group.parse_args(None, arguments)  # type: ignore[arg-type]
    assert seen == [routed]


def test_help_shows_both_ways(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["profile", "--help"]) == 0
    text = capsys.readouterr().out
    for word in ("WORKLOAD", "--time-budget", "show", "merge", "compact", "export", "import"):
        assert word in text


def test_a_folder_called_like_a_command_can_be_measured(
    workload: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (workload.parent / "show").mkdir()
    monkeypatch.chdir(workload.parent)
    assert run_command(["profile", "./show"]) == 2
    assert "workload.yaml" in capsys.readouterr().err
    assert run_command(["profile"]) == 2
    assert "Missing argument 'WORKLOAD'" in capsys.readouterr().err


def test_show_a_profile_alone_and_with_its_workload(workload: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(workload.parent / "w.profile")
    assert run_command(["profile", "show", str(workload.parent / "w.profile"), "--points", "--wide"]) == 0
    assert "10.0 ms" in capsys.readouterr().out
    assert run_command(["profile", "show", str(workload)]) == 0
    assert "not shown: read=small: another model file (1 row)" in capsys.readouterr().out
    assert run_command(["profile", "show", str(workload), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["workload"], data["stages"][0]["choices"][0]["points"]) == ("w", [])
    assert run_command(["profile", "show", str(workload.parent / "nowhere")]) == 2
    assert run_command(["profile", "show", str(workload), "--stage", "nope"]) == 2


def test_merge_compact_export(workload: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here = workload.parent
    fill(here / "one", "aa")
    fill(here / "two", "bb")
    assert run_command(["profile", "merge", str(here / "all"), str(here / "one"), str(here / "two")]) == 0
    assert "2 measurements from 2 profiles, 2 machines" in capsys.readouterr().out
    assert run_command(["profile", "compact", str(here / "all"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 2
    assert run_command(["profile", "compact", str(here / "all"), "--drop-stale"]) == 2
    assert run_command(["profile", "compact", str(here / "all"), "--drop-stale", "--workload", str(workload)]) == 0
    assert "stale and dropped: 2 (another model file)" in capsys.readouterr().out
    assert read_profile(here / "all").measurements == ()
    assert run_command(["profile", "export", str(here / "one"), "--csv", "-"]) == 0
    assert capsys.readouterr().out.startswith("point,stage,variant,")
    assert run_command(["profile", "export", str(here / "one"), "--csv", str(here / "csv"), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["files"]) == 5
    assert run_command(["profile", "export", str(here / "one"), "--csv", "-", "--table", "nope"]) == 2


def test_drop_stale_refuses_to_guess_where_models_are_missing(workload: Path) -> None:
    fill(workload.parent / "p")
    (workload.parent / "a.onnx").unlink()
    arguments = ["profile", "compact", str(workload.parent / "p"), "--drop-stale", "--workload", str(workload)]
    assert run_command(arguments) == 2
    assert len(read_profile(workload.parent / "p").measurements) == 1


def test_import(workload: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = workload.parent / "m.csv"
    file.write_text("batch,mean_s,throughput_per_s\n1,0.004,250\n4,0.01,400\n")
    into = str(workload.parent / "w.profile")
    arguments = ["profile", "import", into, str(file), "--from", "csv", "--workload", str(workload)]
    assert run_command(arguments) == 2
    assert "--variant" in capsys.readouterr().err
    assert run_command([*arguments, "--variant", "small", "--json"]) == 0
    assert [point["batch"] for point in json.loads(capsys.readouterr().out)["points"]] == [1, 4]
    assert run_command(["profile", "show", str(workload)]) == 0
    assert "* small: csv: m.csv" in capsys.readouterr().out
