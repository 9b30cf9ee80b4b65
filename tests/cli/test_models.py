"""`inferplan models`: a profile's models from end to end, and what is said of bad ones."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import yaml
from latency_cases import SHA256, row, rows, workload

from inferplan.cli.main import run_command
from inferplan.profilers.store import ProfileStore
from inferplan.spec.rows import Measurement


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    document = workload(tmp_path).model_dump(mode="json", by_alias=True, exclude_unset=True)
    (tmp_path / "workload.yaml").write_text(yaml.safe_dump(document))
    return tmp_path / "workload.yaml"


def fill(spec: Path, *found: Measurement) -> None:
    with ProfileStore(spec.parent / "w.profile", "w") as store:
        for made in found:
            store.add_measurement(made, None)


def series(choice: str, scale: float) -> list[Measurement]:
    return rows(choice, lambda batch: scale * (1 + batch), half=0.03, model=SHA256)


def test_models_are_shown_with_their_error(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(spec, *series("a", 0.001), *series("b", 0.002))
    assert run_command(["models", str(spec)]) == 0
    out = capsys.readouterr().out
    assert "s on t/d (cpu): service time" in out
    assert "fit: affine, median 0.0 %, p90 0.0 % of 10 left out" in out
    assert "missing: s/c: no point that counts" in out
    (command,) = [line for line in out.splitlines() if line.strip().startswith("#1  ")]
    assert shlex.split(command)[1:4] == ["inferplan", "profile", str(spec)]


def test_json_is_one_object_with_a_section_per_subject(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(spec, *series("a", 0.001))
    assert run_command(["models", str(spec), "--json", "--points"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["status"] == "ok"
    assert found["latency"]["errors"]["n"] == 5
    assert found["latency"]["stages"][0]["series"][0]["choice"] == "a"


def test_a_stage_that_is_not_there_is_named(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(spec, *series("a", 0.001))
    assert run_command(["models", str(spec), "--stage", "x"]) == 2
    assert "there is no stage x; there are s" in capsys.readouterr().err


def test_without_a_point_that_counts_it_says_why(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["models", str(spec)]) == 2
    assert "there is no profile" in capsys.readouterr().err
    fill(spec, *rows("a", lambda batch: 0.001 * batch, model="0" * 64))
    assert run_command(["models", str(spec)]) == 2
    err = capsys.readouterr().err
    assert "no point of any stage counts: measure with `inferplan profile" in err
    assert "5 rows of another model file" in err


def test_one_batch_size_is_shown_with_what_to_measure(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(spec, row("a", 2, 0.01, model=SHA256))
    assert run_command(["models", str(spec)]) == 0
    out = capsys.readouterr().out
    assert "its error is unknown" in out
    assert "one batch size (2)" in out
