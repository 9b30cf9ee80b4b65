"""`inferplan jobs`, and `inferplan profile --combination`: what is printed, what is refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from inferplan.cli.main import run_command
from inferplan.cli.profile import _combination, _overrides
from inferplan.spec.errors import InputError
from inferplan.spec.profile import Profile
from inferplan.spec.rows import AccuracyRow, Measurement, PointKey, Quantiles, Samples

TIMES = {"acc+gyro": 0.02, "acc": 0.01, "gyro": 0.004}
RIGHT = {"acc+gyro": 0.9, "acc": 0.8, "gyro": 0.6}


class Bare(Profile):
    """A profile without samples."""

    def samples(self, key: PointKey) -> Samples | None:
        return None


@pytest.fixture
def workload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "m.onnx").write_bytes(b"m")
    document: dict[str, Any] = {
        "apiVersion": "inferplan/v1",
        "name": "watch",
        "pipeline": {
            "stages": {
                "s": {
                    "metric": {"name": "right"},
                    "modalities": ["acc", "gyro"],
                    "variants": {
                        "m": {"model": "m.onnx", "modalities": {"reads": ["acc", "gyro"], "optional": ["acc", "gyro"]}}
                    },
                }
            }
        },
        "tiers": {"edge": {"devices": {"cpu": {"price_usd_per_h": 0.1, "cores": 2}}}},
        "classes": {
            "album": {"kind": "jobs", "rate_rps": 1.0, "job": {"requests": 4, "deadline_s": 1.0, "mean_accuracy": 0.7}}
        },
        "accuracy": {"metric": {"name": "right"}},
    }
    path = tmp_path / "workload.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    sha256 = hashlib.sha256(b"m").hexdigest()
    rows = tuple(
        Measurement(
            PointKey("s", "m", subset, sha256, "", "onnxruntime", "", "{}", "cpu", "edge/cpu", "f", batch, 1, "{}"),
            "ok",
            n=100,
            service=Quantiles(mean_s=time * batch**0.5, std_s=0.001),
        )
        for subset, time in TIMES.items()
        for batch in (1, 4)
    )
    accuracy = tuple(
        AccuracyRow("stage", "s", "m", "{}", subset, "right", value, value - 0.02, value + 0.02, 500, "wilson", "")
        for subset, value in RIGHT.items()
    )
    profile = Bare(tmp_path, rows, accuracy, (), "0" * 64)
    monkeypatch.setattr("inferplan.spec.profile.read_profile", lambda path: profile)
    return path


def test_the_table_is_printed_for_people(workload: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["jobs", str(workload), "--b", "4", "--accuracy", "0.6:1.0:0.1"]) == 0
    text = capsys.readouterr().out
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines[0] == "Splits of jobs over 3 configurations, by right, on edge/cpu, cpu, 1 thread"
    assert "4 0.6000 8.00 ms 0.6000 4 x m@gyro" in lines
    assert "4 1.0000 - - none: the best configuration, m@acc+gyro, has right 0.9" in lines
    assert any(line.startswith("album 4 0.7000 0.7") and " met " in line for line in lines)


def test_the_table_is_one_json_object(workload: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["jobs", str(workload), "--b", "2:6:2", "--accuracy", "0.75", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert [cell["requests"] for cell in data["table"]] == [2, 4, 6]
    for cell in data["table"]:
        assert sum(cell["split"].values()) == cell["requests"]
        assert cell["mean_accuracy"] >= 0.75 - 1e-9
        assert cell["mean_accuracy"] - cell["mean_accuracy_lower"] == pytest.approx(0.02)
        assert cell["source"] == "measured"
        for name, count in cell["split"].items():
            assert sum(cell["batches"][name]["s"]) == count
    assert data["classes"][0]["verdict"] == "met"


def test_a_deadline_that_cannot_be_kept_is_infeasible(workload: Path, capsys: pytest.CaptureFixture[str]) -> None:
    late = ["--set", "classes.album.job.deadline_s=0.002"]
    assert run_command(["jobs", str(workload), "--b", "1", *late]) == 3
    assert " missed " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--b", "0"], "expected a rising range"),
        (["--b", "x"], "expected a number of requests or a range"),
        (["--b", "5:2"], "expected a rising range"),
        (["--b", "1:500"], "at most 128"),
        (["--b", "1:9999999999999"], "at most 128"),
        (["--b", "²"], "expected a number of requests or a range"),
        (["--accuracy", "0.5:0.9"], "expected a mean accuracy or first:last:step"),
        (["--accuracy", "0.9:0.5:0.1"], "expected a rising range"),
        (["--accuracy", "nan"], "expected a mean accuracy"),
        (["--stage", "t"], "there is no stage 't'"),
    ],
)
def test_wrong_ranges_are_refused(
    arguments: list[str], message: str, workload: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["jobs", str(workload), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_combinations_to_profile_are_given_by_stage() -> None:
    assert _combination("detect=v4, read=m@acc+gyro") == {"detect": "v4", "read": "m@acc+gyro"}
    assert _overrides(None, None, False, ["a=x,b=y"]) == ['accuracy.combinations=[{"a": "x", "b": "y"}]']
    with pytest.raises(InputError, match="expected a choice per stage"):
        _combination("detect")
    with pytest.raises(InputError, match="named twice"):
        _combination("a=x,a=y")
