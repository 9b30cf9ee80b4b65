"""`inferplan export`: write a plan for the servers people already use."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inferplan.cli.options import JsonOption, PlanArgument

if TYPE_CHECKING:
    from inferplan.spec.plan import Plan

app = typer.Typer(help="Write a plan for Triton or compose.", no_args_is_help=True, rich_markup_mode=None)

OutputOption = Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Directory to write.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace DIR although we did not write it.")]


@app.command("triton", short_help="Write a Triton model repository.")
def triton(plan: PlanArgument, output: OutputOption, force: ForceOption = False, json: JsonOption = False) -> None:
    """Write a Triton model repository, checked before it is put in place."""
    from inferplan.exporters.triton import export_triton
    from inferplan.spec.plan import load_plan

    loaded = load_plan(plan)
    _report(loaded.plan, output, export_triton(loaded.plan, loaded.workload.workload, output, force=force), json)


@app.command("compose", short_help="Write a compose file with its repositories.")
def compose(plan: PlanArgument, output: OutputOption, force: ForceOption = False, json: JsonOption = False) -> None:
    """Write a compose file with a Triton server per machine, and their model repositories."""
    from inferplan.exporters.compose import export_compose
    from inferplan.spec.plan import load_plan

    loaded = load_plan(plan)
    _report(loaded.plan, output, export_compose(loaded.plan, loaded.workload.workload, output, force=force), json)


def _report(plan: Plan, output: Path, files: list[Path], json: bool) -> None:
    from inferplan.cli.output import emit_json, say
    from inferplan.exporters.deployment import not_exported

    names, notes = sorted(str(file) for file in files), not_exported(plan)
    if json:
        emit_json({"status": "ok", "output": str(output), "files": names, **({"notes": notes} if notes else {})})
        return
    for note in notes:
        say(f"Note: {note}")
    say(f"{output}: {len(names)} files, checked")
    for name in names:
        say(f"  {name}")
