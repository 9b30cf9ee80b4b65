"""Options of `profile` stand for fields of the workload's `profile`."""

from __future__ import annotations

from pathlib import Path

import pytest

from inferplan.cli.main import run_command
from inferplan.profilers import campaign
from inferplan.spec.document import LoadedWorkload
from inferplan.spec.errors import ExitCode, InputError
from inferplan.spec.workload import ProfileSettings

DIGITS = str(Path(__file__).resolve().parents[2] / "sample_workloads" / "digits")


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[ProfileSettings]:
    """Settings that a campaign was asked for with; it goes no further."""
    found: list[ProfileSettings] = []

    def plan(loaded: LoadedWorkload, path: Path, **options: object) -> None:
        found.append(loaded.workload.profile)
        raise InputError("far enough")

    monkeypatch.setattr(campaign, "plan_campaign", plan)
    return found


@pytest.mark.parametrize(
    ("options", "confidence", "tolerance"),
    [
        ([], 0.99, 0.15),
        (["--confidence", "0.9"], 0.9, 0.15),
        (["--tolerance", "0.05"], 0.99, 0.05),
        (["--exhaustive"], 0.99, 0.0),
        (["--exhaustive", "--tolerance", "0"], 0.99, 0.0),
        (["--set", "profile.tolerance=0.5", "--tolerance", "1e-3"], 0.99, 1e-3),
    ],
)
def test_options_reach_the_settings(
    seen: list[ProfileSettings], options: list[str], confidence: float, tolerance: float
) -> None:
    assert run_command(["profile", DIGITS, *options]) == ExitCode.INPUT
    assert [(settings.confidence, settings.tolerance) for settings in seen] == [(confidence, tolerance)]


@pytest.mark.parametrize(
    "options",
    [
        ["--confidence", "0.4"],
        ["--confidence", "1"],
        ["--tolerance", "-1"],
        ["--tolerance", "nan"],
        ["--exhaustive", "--tolerance", "0.1"],
    ],
)
def test_what_makes_no_sense_is_refused(
    seen: list[ProfileSettings], options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["profile", DIGITS, *options]) == ExitCode.INPUT
    assert seen == []
    assert options[0].lstrip("-") in capsys.readouterr().err
