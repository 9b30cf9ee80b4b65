"""`inferplan profile merge`, `compact`, `export`: what is done with profiles as they are."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Annotated

import typer

from inferplan.cli.options import JsonOption, SetOption

ProfileArgument = Annotated[Path, typer.Argument(metavar="PROFILE", help="Profile directory.")]
_SHOWN = 10


def merge(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Profile to write; added to where it is there.")],
    inputs: Annotated[list[Path], typer.Argument(metavar="IN", help="Profiles to read.")],
    json: JsonOption = False,
) -> None:
    """Make one profile of several, e.g. from several machines; of what was measured twice the newest counts."""
    from inferplan.cli.output import emit_json, say
    from inferplan.profilers import merging

    done = merging.merge(out, inputs)
    if json:
        emit_json({"status": "ok", **_plain(dataclasses.asdict(done))})
        return
    rows = ", ".join(f"{count} {table}" for table, count in done.rows.items() if count)
    say(f"{done.path}: {rows or 'no rows'} from {len(done.inputs)} profiles, {len(done.machines)} machines")
    for conflict in done.conflicts[:_SHOWN]:
        say(f"  measured more than once: {conflict.name}: kept that of {conflict.kept} ({conflict.measured_at})")
    if len(done.conflicts) > _SHOWN:
        say(f"  and {len(done.conflicts) - _SHOWN} more (all: --json)")
    for file in done.damaged:
        say(f"  damaged, left out: {file}")


def compact(
    profile: ProfileArgument,
    drop_stale: Annotated[
        bool, typer.Option("--drop-stale", help="Drop rows of models and code that --workload has no more.")
    ] = False,
    workload: Annotated[
        Path | None, typer.Option("--workload", metavar="WORKLOAD", help="Workload that --drop-stale goes by.")
    ] = None,
    set_: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Join a profile's many small files, without rows that newer ones supersede."""
    from inferplan.cli.output import emit_json, say
    from inferplan.profilers import compaction
    from inferplan.spec.document import load_workload
    from inferplan.spec.errors import InputError
    from inferplan.spec.freshness import Freshness

    if drop_stale != (workload is not None):
        raise InputError("--drop-stale and --workload belong together: what is stale is told by the workload")
    judge = None
    if workload is not None:
        judge = Freshness(load_workload(workload, set_ or []).workload)
        if missing := judge.missing():
            raise InputError("whether rows are stale cannot be told: files are missing", missing)
    done = compaction.compact(profile, None if judge is None else judge.stale)
    if json:
        emit_json({"status": "ok", **_plain(dataclasses.asdict(done))})
        return
    say(f"{done.path}: {done.files_before} files, now {done.files_after}; {done.rows} rows")
    say(f"  superseded by newer rows and dropped: {done.superseded}")
    for reason, count in done.dropped.items():
        say(f"  stale and dropped: {count} ({reason})")
    for file in done.damaged:
        say(f"  damaged, moved aside: {file}")


def export(
    profile: ProfileArgument,
    csv: Annotated[
        Path,
        typer.Option("--csv", metavar="FILE|DIR", help="File to write one table to (- is stdout), or folder for all."),
    ],
    table: Annotated[
        str | None,
        typer.Option(
            help="Table: measurements, accuracy, interference, flows or handoffs [default: measurements, or all]."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
    json: JsonOption = False,
) -> None:
    """Write a profile as CSV, a row per measured point (columns: docs/file-formats.md)."""
    from inferplan.cli.output import emit_json, say
    from inferplan.profilers.interchange import csv_export
    from inferplan.spec.errors import InputError
    from inferplan.spec.profile import read_profile

    if str(csv) == "-":
        csv_export.check_table(table)
        if json:
            raise InputError("--csv - writes CSV to standard output, where --json would write, too")
        name = table or "measurements"
        sys.stdout.write(csv_export.csv_text(name, csv_export.rows_of(read_profile(profile), name)))
        return
    written = csv_export.export_csv(profile, csv, table, force=force)
    if json:
        emit_json({"status": "ok", "files": {str(file): rows for file, rows in written.items()}})
        return
    for file, rows in written.items():
        say(f"{file}: {rows} rows")


def _plain(value: object) -> dict[str, object]:
    """Dataclass fields for JSON: paths as text."""

    def walk(item: object) -> object:
        if isinstance(item, Path):
            return str(item)
        if isinstance(item, dict):
            return {key: walk(part) for key, part in item.items()}
        return [walk(part) for part in item] if isinstance(item, list | tuple) else item

    plain = walk(value)
    assert isinstance(plain, dict)
    return plain
