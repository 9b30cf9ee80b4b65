"""`inferplan profile show`: a profile as tables."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inferplan.cli.options import JsonOption, ProfileOption, SetOption, profile_path

if TYPE_CHECKING:
    from inferplan.reports.profile_view import Place, ProfileView
    from inferplan.spec.workload import Workload


def show(
    source: Annotated[
        Path,
        typer.Argument(metavar="PROFILE|WORKLOAD", help="Profile directory, or a workload, whose profile is shown."),
    ],
    set_: SetOption = None,
    profile: ProfileOption = None,
    stage: Annotated[str | None, typer.Option(help="Show this stage only.")] = None,
    points: Annotated[bool, typer.Option("--points", help="List every point.")] = False,
    wide: Annotated[bool, typer.Option("--wide", help="More columns: counts, bounds, means, load times.")] = False,
    margin: Annotated[
        float, typer.Option(min=0.0, help="Loss of accuracy with which a variant is as accurate as its parent.")
    ] = 0.01,
    json: JsonOption = False,
) -> None:
    """Show what a profile knows: per stage and choice accuracy, latency, throughput, memory.

    With a workload, its order, its parents and what is stale are known, too.
    """
    from inferplan.cli.output import emit_json, say
    from inferplan.reports.profile_data import view_data
    from inferplan.reports.profile_view import view
    from inferplan.spec.document import load_workload
    from inferplan.spec.profile import MARKER, read_profile

    workload: Workload | None = None
    path = source
    if profile is not None or not (source / MARKER).is_file():
        if not source.exists() or (source.is_dir() and not any(source.glob("workload.y*ml"))):
            read_profile(source)  # says that there is no profile
        loaded = load_workload(source, set_ or [])
        workload = loaded.workload
        path = profile_path(profile, loaded.path, workload.name)
    found = read_profile(path)
    sorted_ = view(found, workload, stage)
    if json:
        emit_json({"status": "ok", "path": str(path), **view_data(sorted_, margin), "damaged": list(found.damaged)})
        return
    show_view(sorted_, workload, points=points, wide=wide, margin=margin)
    for file in found.damaged:
        say(f"damaged, left out: {file}")


def show_view(
    view: ProfileView,
    workload: Workload | None = None,
    *,
    points: bool = False,
    wide: bool = False,
    margin: float = 0.01,
) -> None:
    """Print a sorted profile: stages, what was made from what, interference, combinations, what was left out."""
    from inferplan.cli.output import heading, say
    from inferplan.cli.output import show as show_table
    from inferplan.reports.profile_tables import combinations_table, interference_table

    for index, place in enumerate(view.places):
        if index:
            say()
        _show_place(place, points, wide, margin)
    if view.interference:
        say()
        heading("Beside others on the same machine")
        show_table(interference_table(view.interference), indent=2)
    for metric in sorted({row.metric for row in view.combinations if row.metric}):
        direction = "maximize"
        if workload is not None and workload.accuracy is not None and workload.accuracy.metric.name == metric:
            direction = workload.accuracy.metric.direction
        say()
        heading("Whole combinations, end to end")
        show_table(combinations_table(view.combinations, metric, direction), indent=2)
    if view.notes:
        say()
    for note in view.notes:
        say(f"not shown: {note}")


def _show_place(place: Place, points: bool, wide: bool, margin: float) -> None:
    from inferplan.cli.output import heading, say
    from inferplan.cli.output import show as show_table
    from inferplan.reports import profile_tables

    heading(profile_tables.place_heading(place))
    show_table(profile_tables.place_table(place, wide), indent=2)
    for note in profile_tables.place_notes(place):
        say(f"  {note}")
    lineage = profile_tables.lineage_table(place, margin)
    if lineage.rows:
        say()
        show_table(lineage, indent=2)
    if points:
        say()
        show_table(profile_tables.points_table(place), indent=2)
