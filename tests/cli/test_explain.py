"""`inferplan explain` on a workload, profile and plan on disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from inferplan.cli.main import run_command


def test_a_plan_is_explained_in_tables_and_in_json(
    chain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = tmp_path / "plan.yaml"
    assert run_command(["solve", str(chain), "-o", str(plan)]) == 0
    capsys.readouterr()
    assert run_command(["explain", str(plan)]) == 0
    text = capsys.readouterr().out
    for title in ("What it has to keep", "What another promise would be worth", "What else could serve find"):
        assert title in text
    assert "classes.web.accuracy.floor" in text
    assert run_command(["explain", str(plan), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["status"] == "ok"
    assert data["left_out"] == []
    assert {rival["class"] for rival in data["rivals"]} == {"web"}
    (floor,) = [s for s in data["steps"] if s["promise"] == "classes.web.accuracy.floor" and s["way"] == "tighter"]
    assert floor["value"] == pytest.approx(0.72) or floor["value"] == pytest.approx(0.81)


def test_time_that_is_too_short_is_said_and_no_plan_is_refused(
    chain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = tmp_path / "plan.yaml"
    assert run_command(["solve", str(chain), "-o", str(plan)]) == 0
    capsys.readouterr()
    assert run_command(["explain", str(plan), "--time-limit", "1ms"]) == 4
    assert "out of time" in capsys.readouterr().out
    assert run_command(["explain", str(tmp_path / "none.yaml")]) == 2
    assert run_command(["explain", str(plan), "--time-limit", "5"]) == 2
