"""`inferplan run`: run a plan on this machine; predicted beside measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from inferplan.cli.options import JsonOption, PlanArgument, duration_s

if TYPE_CHECKING:
    from inferplan.cli.progress import Progress
    from inferplan.runner.events import Event
    from inferplan.spec.report import RunReport


def run(
    plan: PlanArgument,
    duration: Annotated[str, typer.Option(help="How long to measure, e.g. 30s.")] = "30s",
    rate_scale: Annotated[float, typer.Option(min=0.0, help="Multiply every class's rate.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the arrival process.")] = 0,
    oversubscribe: Annotated[
        bool, typer.Option("--oversubscribe", help="Run although the plan needs more cores than there are.")
    ] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Start a replica again that ended by itself.")] = False,
    json: JsonOption = False,
) -> int:
    """Start the plan's replicas here, drive them open loop, score the answers, and judge every promise.

    Exit code 0 where every promise was met, 5 where one was missed, 4 where it cannot be told.
    """
    from inferplan.cli.output import emit_json
    from inferplan.cli.progress import Progress
    from inferplan.runner.verify import run_plan
    from inferplan.spec.errors import ExitCode
    from inferplan.spec.plan import load_plan

    measuring_s = duration_s(duration, "--duration")
    loaded = load_plan(plan)
    with Progress(enabled=not json) as progress:
        report = run_plan(
            loaded,
            measuring_s,
            seed,
            rate_scale,
            oversubscribe=oversubscribe,
            restart=restart,
            on_event=lambda event: tell(progress, event),
        )
    if json:
        emit_json(report.model_dump(mode="json"))
    else:
        _print(report)
    return {"met": ExitCode.DONE, "missed": ExitCode.CHECK_FAILED, "undecided": ExitCode.UNDECIDED}[report.verdict]


def tell(progress: Progress, event: Event) -> None:
    """Show an event of the runner."""
    from inferplan.reports.quantities import clock, seconds
    from inferplan.runner.events import Listening, ReplicaEnded, ReplicaReady, RunProgress

    if isinstance(event, ReplicaReady):
        progress.update(f"replicas: {event.ready} of {event.total} ready ({event.replica} in {seconds(event.load_s)})")
    elif isinstance(event, ReplicaEnded):
        progress.line(f"{event.replica} ended: {event.reason}" + ("; starting it again" if event.restarting else ""))
    elif isinstance(event, RunProgress):
        failed = f", {event.failed} failed" if event.failed else ""
        progress.update(
            f"{event.phase}: {event.sent} sent, {event.completed} answered{failed}, {clock(event.left_s)} left"
        )
    elif isinstance(event, Listening):
        progress.line(f"listening on {event.url}")


def _print(report: RunReport) -> None:
    from inferplan.cli.output import heading, say, show
    from inferplan.reports.quantities import clock
    from inferplan.reports.run_tables import classes_table, options_table, reasons, stalls

    heading(f"Run of {report.name}: {report.verdict}")
    say(f"{clock(report.duration_s)} measured after {clock(report.warmup_s)} of warm-up, seed {report.seed}")
    for text in report.notes:
        say(f"Note: {text}")
    say()
    heading("What each class got (95 % intervals)")
    show(classes_table(report), indent=2)
    for line in reasons(report):
        say(f"  {line}")
    say()
    heading("What each option did")
    show(options_table(report), indent=2)
    if told := stalls(report):
        say(f"  {told}")
