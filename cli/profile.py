"""`inferplan profile`: measure every variant."""

from __future__ import annotations

import dataclasses
from json import dumps as json_text
from typing import TYPE_CHECKING, Annotated

import typer

from inferplan.cli.options import JsonOption, ProfileOption, SetOption, WorkloadArgument, duration_s, profile_path

if TYPE_CHECKING:
    from pathlib import Path

    from inferplan.cli.progress import Progress
    from inferplan.profilers.campaign import Campaign
    from inferplan.profilers.jobs import CampaignSummary, Event
    from inferplan.spec.document import LoadedWorkload
    from inferplan.spec.profile import Profile

WORTH = 4
"""Time budgets of so many times what measuring the cost of serving takes have room for it."""
NOT_SERVED = ["what serving costs beyond service times was not measured: the time budget does not reach"]


def profile(
    workload: WorkloadArgument,
    set_: SetOption = None,
    profile: ProfileOption = None,
    device: Annotated[
        str | None, typer.Option(metavar="TIER/DEVICE", help="Device of the workload that this machine stands for.")
    ] = None,
    time_budget: Annotated[
        str | None, typer.Option(help="Fit into this time, e.g. 5m: most telling points first.")
    ] = None,
    confidence: Annotated[
        float | None,
        typer.Option(min=0.5, max=0.999, help="Of the upper bounds of percentiles; less needs fewer samples."),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(min=0.0, help="Interpolate points where the error is expected to stay within this share."),
    ] = None,
    exhaustive: Annotated[bool, typer.Option("--exhaustive", help="Measure every point: --tolerance 0.")] = False,
    combination: Annotated[
        list[str] | None,
        typer.Option(
            metavar="STAGE=CHOICE,...", help="Evaluate this combination end to end, not those listed. Repeatable."
        ),
    ] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try again what failed before.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be measured, and how long it takes.")] = (
        False
    ),
    json: JsonOption = False,
) -> int:
    """Measure latency and accuracy of every variant, in fresh isolated processes, into Parquet.

    Started again, it goes on where it was stopped. Exit code 5 where a variant failed: its row says why.
    """
    from inferplan.cli.output import emit_json, say
    from inferplan.cli.progress import Progress
    from inferplan.profilers.campaign import plan_campaign, run_campaign
    from inferplan.runner.handoff import ESTIMATE_S
    from inferplan.spec.document import load_workload
    from inferplan.spec.errors import ExitCode
    from inferplan.spec.profile import read_profile

    budget_s = None if time_budget is None else duration_s(time_budget, "--time-budget")
    loaded = load_workload(workload, [*(set_ or []), *_overrides(confidence, tolerance, exhaustive, combination or [])])
    path = profile_path(profile, loaded.path, loaded.workload.name)
    # A budget has to have room for it: all of what is left is spent on points.
    reserve_s = ESTIMATE_S * len(loaded.workload.pipeline.stages)
    serves = budget_s is None or budget_s >= WORTH * reserve_s
    with Progress(enabled=not json) as progress:
        campaign = plan_campaign(
            loaded,
            path,
            device=device,
            time_budget_s=budget_s if budget_s is None or not serves else budget_s - reserve_s,
            retry_failed=retry_failed,
            on_event=lambda event: tell(progress, event),
        )
        if dry_run:
            _report_dry_run(campaign, json)
            return ExitCode.DONE
        summary = run_campaign(campaign, lambda event: tell(progress, event))
        handoffs = measure_handoffs(loaded, path, campaign, progress) if serves else NOT_SERVED
    if json:
        told = {**dataclasses.asdict(summary), "notes": [*summary.notes, *handoffs]}
        emit_json({"status": "failed" if summary.failed else "ok", "path": str(path), **told})
    else:
        _report(loaded, read_profile(path), summary)
        for note in handoffs:
            say(f"  note: {note}")
    return ExitCode.CHECK_FAILED if summary.failed else ExitCode.DONE


def measure_handoffs(loaded: LoadedWorkload, path: Path, campaign: Campaign, progress: Progress) -> list[str]:
    """Measure what serving costs beyond service times, for stages where that is not known; what could not be, and
    why."""
    from inferplan.profilers.store import ProfileStore
    from inferplan.runner.handoff import measure_handoff, stages_to_measure
    from inferplan.spec.profile import read_profile

    notes = []
    profile = read_profile(path)
    points = stages_to_measure(loaded.workload, profile, campaign.device)
    for stage, point in points.items():
        progress.update(f"handing {stage} over")
        row = measure_handoff(loaded.workload, profile, point, campaign.listed.arriving.timed)
        with ProfileStore(path) as store:
            store.add_handoff(row)
        if row.status != "ok":
            notes.append(f"what serving {stage} costs beyond its service time is not known: {row.reason}")
    return notes


def _overrides(
    confidence: float | None, tolerance: float | None, exhaustive: bool, combinations: list[str]
) -> list[str]:
    """Options that stand for fields of the workload's `profile`, as `--set` takes them."""
    from inferplan.spec.errors import InputError

    if exhaustive and tolerance:
        raise InputError(f"--exhaustive measures every point; leave out --tolerance {tolerance:g}")
    given = {"confidence": confidence, "tolerance": 0.0 if exhaustive else tolerance}
    found = [f"profile.{name}={value!r}" for name, value in given.items() if value is not None]
    if combinations:
        found.append(f"accuracy.combinations={json_text([_combination(text) for text in combinations])}")
    return found


def _combination(text: str) -> dict[str, str]:
    """`detect=a,read=b` as a combination."""
    from inferplan.spec.errors import InputError

    pairs = [part.partition("=") for part in text.split(",")]
    if any(not stage.strip() or not choice.strip() for stage, _, choice in pairs):
        raise InputError(f"--combination {text}: expected a choice per stage, e.g. detect=small,read=large")
    found = {stage.strip(): choice.strip() for stage, _, choice in pairs}
    if len(found) < len(pairs):
        raise InputError(f"--combination {text}: a stage is named twice")
    return found


def tell(progress: Progress, event: Event) -> None:
    """Show an event of a campaign."""
    from inferplan.profilers.jobs import Inspecting, JobFinished, JobLeftOut, JobProgress, JobStarted
    from inferplan.reports.quantities import clock

    if isinstance(event, Inspecting):
        progress.update(f"looking at {event.name} ({event.done + 1} of {event.total})")
    elif isinstance(event, JobStarted | JobProgress):
        share = f" {100 * event.share:.0f} %" if isinstance(event, JobProgress) else ""
        progress.update(f"[{event.done + 1}/{event.total}] {event.name}{share}, {clock(event.left_s)} left")
    elif isinstance(event, JobFinished) and event.status != "ok":
        progress.line(f"{event.name}: {event.status}: {event.reason}")
    elif isinstance(event, JobLeftOut):
        progress.update(f"left out: {event.name} ({event.reason})")


def _report_dry_run(campaign: Campaign, json: bool) -> None:
    from inferplan.cli.output import emit_json, say, show
    from inferplan.reports.quantities import clock
    from inferplan.reports.tables import Table, left, right

    if json:
        emit_json(
            {
                "status": "dry-run",
                "path": str(campaign.path),
                "device": campaign.device,
                "estimate_s": campaign.estimate_s,
                "certain_s": campaign.certain_s,
                "jobs": [dataclasses.asdict(job) for job in campaign.planned],
                "resumed": campaign.resumed,
                "over_budget": list(campaign.over_budget),
                "left_out": [dataclasses.asdict(item) for item in campaign.left_out],
                "notes": list(campaign.notes),
            }
        )
        return
    if campaign.planned:
        rows = [[job.name, clock(job.estimate_s), "" if job.certain else "or interpolated"] for job in campaign.planned]
        show(Table([*left("would be measured, in this order"), *right("about"), *left("")], rows))
    certain = sum(job.certain for job in campaign.planned)
    say(
        f"{_range(str(certain), str(len(campaign.planned)))} to do in about "
        f"{_range(clock(campaign.certain_s), clock(campaign.estimate_s))} as {campaign.device}, "
        f"{campaign.resumed} there already, in {campaign.path}"
    )
    for name in campaign.over_budget:
        say(f"  beyond the time budget: {name}")
    for item in campaign.left_out:
        say(f"  left out: {item.name}: {item.reason}")
    for note in campaign.notes:
        say(f"  note: {note}")


def _range(least: str, most: str) -> str:
    return least if least == most else f"{least} to {most}"


def _report(loaded: LoadedWorkload, profile: Profile, summary: CampaignSummary) -> None:
    from inferplan.cli.output import heading, say
    from inferplan.cli.profile_show import show_view
    from inferplan.reports.profile_view import view
    from inferplan.reports.quantities import clock

    workload = loaded.workload
    beside = f"{summary.beside} side by side, " if summary.beside else ""
    heading(f"Profile of {workload.name} on {summary.device}")
    show_view(view(profile, workload), workload)
    say()
    say(
        f"{summary.measured} points measured, {summary.interpolated} interpolated, {beside}"
        f"{summary.evaluated} evaluations, {summary.resumed} there already, {len(summary.failed)} failed, "
        f"in {clock(summary.seconds)}: {profile.path}"
    )
    for failed in (*summary.failed, *summary.failed_before):
        say(f"  {failed.status}: {failed.name}: {failed.reason}")
    for item in summary.left_out:
        say(f"  left out: {item.name}: {item.reason}")
    for file in (*summary.damaged, *profile.damaged):
        say(f"  damaged, measured again: {file}")
    for note in summary.notes:
        say(f"  note: {note}")
