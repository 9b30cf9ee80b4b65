"""`inferplan models`: what is predicted from a profile, and how wrong it is."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inferplan.cli.options import JsonOption, ProfileOption, SetOption, WorkloadArgument, profile_path

if TYPE_CHECKING:
    from inferplan.reports.sections import Section
    from inferplan.spec.profile import Profile
    from inferplan.spec.workload import Workload


def models(
    workload: WorkloadArgument,
    set_: SetOption = None,
    profile: ProfileOption = None,
    stage: Annotated[str | None, typer.Option(help="Show this stage only.")] = None,
    points: Annotated[
        bool, typer.Option("--points", help="List every point with its prediction, and every prediction.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Show the models that plans rest on: per stage the fit, its error on points left out, and what would help.

    Nothing is measured and nothing is written.
    """
    from inferplan.cli.output import emit_json
    from inferplan.spec.document import load_workload
    from inferplan.spec.errors import InputError
    from inferplan.spec.profile import read_profile

    loaded = load_workload(workload, set_ or [])
    stages = list(loaded.workload.pipeline.stages)
    if stage is not None and stage not in stages:
        raise InputError(f"there is no stage {stage}; there are {', '.join(stages)}")
    store = read_profile(profile_path(profile, loaded.path, loaded.workload.name))
    target = " ".join(_target(workload, profile, set_ or []))
    sections = {"latency": latency(loaded.workload, store, target, stage, points)}
    if json:
        emit_json({"status": "ok", "path": str(store.path), **{name: one.data for name, one in sections.items()}})
        return
    for index, section in enumerate(sections.values()):
        _show(section, index > 0)


def latency(workload: Workload, profile: Profile, target: str, stage: str | None, points: bool) -> Section:
    """The section on service times. Raises InputError where no point counts."""
    from inferplan.estimators.interference import read_interference
    from inferplan.estimators.latency import latency_models
    from inferplan.estimators.latency_checks import findings
    from inferplan.estimators.latency_needs import needs
    from inferplan.estimators.observations import interpolated, observe
    from inferplan.estimators.points import read_points
    from inferplan.reports.latency_report import LatencyReport, latency_section
    from inferplan.spec.errors import InputError

    found = read_points(workload, profile)
    every = latency_models(observe(found, profile.samples), workload.profile.tolerance, interpolated(found))
    shown = {key: group for key, group in every.items() if stage in (None, key.stage)}
    troubles = [
        one for one in findings(workload, profile, found, every, target) if stage in (None, one.stage) or not one.stage
    ]
    if not shown:
        raise InputError(
            f"no point of {stage or 'any stage'} counts: measure with `inferplan profile {target}`",
            [str(trouble) for trouble in troubles],
        )
    report = LatencyReport(
        shown,
        read_interference(workload, profile, found.model_sha256),
        troubles,
        needs(workload, profile, shown, target),
        workload.profile.batch_sizes,
    )
    return latency_section(report, points)


def _target(workload: Path, profile: Path | None, overrides: list[str]) -> list[str]:
    """How commands name the workload and profile shown; overrides of what is profiled are given anew by them."""
    named = [shlex.quote(str(workload))]
    if profile is not None:
        named += ["--profile", shlex.quote(str(profile))]
    for override in overrides:
        if not override.startswith("profile."):
            named += ["--set", shlex.quote(override)]
    return named


def _show(section: Section, later: bool) -> None:
    from inferplan.cli.output import heading, say
    from inferplan.cli.output import show as show_table

    for index, block in enumerate(section.blocks):
        if index or later:
            say()
        if block.heading:
            heading(block.heading)
        if block.table is not None:
            show_table(block.table, indent=2)
        for line in block.lines:
            say(f"  {line}")
