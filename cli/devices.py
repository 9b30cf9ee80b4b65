"""`inferplan devices`: what is here to measure with."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inferplan.cli.options import JsonOption, SetOption

if TYPE_CHECKING:
    from inferplan.spec.inventory import Inventory


def devices(
    workload: Annotated[
        Path | None,
        typer.Argument(metavar="WORKLOAD", help="workload.yaml, or its folder: which of its devices this can be."),
    ] = None,
    set_: SetOption = None,
    ask_runtimes: Annotated[
        bool, typer.Option("--ask-runtimes/--no-ask-runtimes", help="Start the runtimes to ask for their providers.")
    ] = True,
    json: JsonOption = False,
) -> None:
    """Show processor, memory, GPUs and runtimes of this machine, and which device of a workload it can stand for.

    What is missing, or may not be read, is named and is no error.
    """
    from inferplan.cli.output import emit_json
    from inferplan.profilers.devices import take_inventory
    from inferplan.spec.errors import InputError

    loaded = None
    if workload is not None:
        from inferplan.spec.document import load_workload

        loaded = load_workload(workload, set_ or []).workload
    elif set_:
        raise InputError("--set needs a WORKLOAD to override fields of")
    inventory = take_inventory(loaded, ask_runtimes=ask_runtimes)
    if json:
        emit_json({"status": "ok", **dataclasses.asdict(inventory)})
    else:
        _print(inventory)


def _print(inventory: Inventory) -> None:
    from inferplan.cli.output import say, show
    from inferplan.reports.device_tables import (
        LISTED_ONLY,
        graphics_tables,
        libraries_table,
        lines_table,
        memory_table,
        processor_table,
        standings_table,
    )

    tables = [processor_table(inventory.processor), memory_table(inventory.memory)]
    for table in [*tables, *graphics_tables(inventory.graphics)]:
        show(table)
        say()
    show(libraries_table(inventory.libraries))
    if any(library.providers is not None for library in inventory.libraries):
        say(LISTED_ONLY)
    standings = inventory.standings
    if standings is not None:
        say()
        show(standings_table(standings))
        if standings.unclear:
            say(standings.unclear)
    if inventory.warnings:
        say()
        show(lines_table("WARNING", inventory.warnings))
