"""`inferplan variants`: make variants of variants."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inferplan.cli.options import JsonOption, WorkloadArgument, duration_s

if TYPE_CHECKING:
    from inferplan.spec.derivation import Fit, Generation


def variants(
    workload: WorkloadArgument,
    stage: Annotated[list[str] | None, typer.Option("--stage", help="Of this stage only. Repeatable.")] = None,
    variant: Annotated[list[str] | None, typer.Option("--variant", help="Of this variant only. Repeatable.")] = None,
    recipe: Annotated[
        list[str] | None,
        typer.Option(
            "--recipe",
            metavar="NAME[:SETTINGS]",
            help="e.g. int8-static, fp16, graph:basic, param:side=256,320. Repeatable; see --list.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Workload to write [default: NAME-variants.yaml beside]."),
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="Say which recipes apply to what, and make nothing.")] = False,
    time_limit: Annotated[str, typer.Option(help="Most time for one step of making one variant.")] = "10m",
    json: JsonOption = False,
) -> int:
    """Make variants of a workload's variants (int8, fp16, other sizes, ...) and check each beside its parent.

    Writes a workload that includes WORKLOAD and has them; started again, it makes what is missing or no longer
    current. Exit code 5 where one could not be made.
    """
    from inferplan.cli.output import emit_json
    from inferplan.cli.progress import Progress
    from inferplan.profilers.variants.generation import fits, generate
    from inferplan.profilers.variants.parents import Workplace, parents
    from inferplan.profilers.variants.registry import wanted
    from inferplan.spec.document import load_workload
    from inferplan.spec.errors import ExitCode

    wanted(recipe or [])
    loaded = load_workload(workload)
    chosen = parents(loaded, stage or [], variant or [])
    with Progress(enabled=not json) as progress:
        place = Workplace(loaded, duration_s(time_limit, "--time-limit"), progress.update)
        surveyed = place.surveyed(chosen)
        if list_:
            found = fits(surveyed, recipe or [])
        else:
            done = generate(place, surveyed, recipe or [], output)
    if list_:
        _report_fits(found, json)
        return ExitCode.DONE
    failed = any(item.verdict == "failed" for item in done.derived)
    if json:
        emit_json({"status": "failed" if failed else "ok", **dataclasses.asdict(done)})
    else:
        _report(done, explained=bool(recipe))
    return ExitCode.CHECK_FAILED if failed else ExitCode.DONE


def _report_fits(found: list[Fit], json: bool) -> None:
    from inferplan.cli.output import emit_json, say, show
    from inferplan.profilers.variants.registry import DEFAULTS, RECIPES
    from inferplan.reports.tables import Table, left
    from inferplan.reports.variant_tables import fits_table, refusals_table

    if json:
        emit_json({"status": "ok", "fits": [dataclasses.asdict(fit) for fit in found]})
        return
    show(fits_table(found))
    if any(fit.reason for fit in found):
        say()
        show(refusals_table(found))
    say()
    rows = [[f"{name}{' *' if name in DEFAULTS else ''}", recipe.summary] for name, recipe in RECIPES.items()]
    show(Table(left("RECIPE", "what it makes (*: without --recipe)"), rows))


def _report(done: Generation, explained: bool) -> None:
    from inferplan.cli.output import say, show
    from inferplan.reports.variant_tables import NO_SPEED, derived_table, refusals_table

    if done.derived:
        show(derived_table(done.derived))
    for item in done.derived:
        if item.reason:
            say(f"{item.stage}={item.variant}: {item.reason}")
    for text in dict.fromkeys(note for item in done.derived for note in item.notes):
        say(text)
    if done.refused and (explained or not done.derived):
        say()
        show(refusals_table(done.refused))
    elif done.refused:
        say(f"{len(done.refused)} times a recipe did not apply: --list says why.")
    for text in done.notes:
        say(text)
    if any(item.verdict != "failed" for item in done.derived):
        say()
        say(NO_SPEED.format(command=f"inferplan profile {done.path}"))
