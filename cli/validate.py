"""`inferplan validate`: is this workload right?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from inferplan.cli.options import JsonOption, SetOption, WorkloadArgument

if TYPE_CHECKING:
    from inferplan.spec.document import LoadedWorkload


def validate(workload: WorkloadArgument, set_: SetOption = None, json: JsonOption = False) -> None:
    """Check a workload, or a price catalogue: every problem at once, with file, line and column."""
    from inferplan.cli.output import emit_json, say
    from inferplan.spec.document import load_workload, read_document

    if workload.is_file():
        data = read_document(workload).data
        if isinstance(data, dict) and data.get("kind") == "Catalogue":
            _catalogue(workload, json)
            return
    loaded = load_workload(workload, set_ or [])
    stages = loaded.workload.pipeline.stages
    counts = {name: len(stage.variants) for name, stage in stages.items()}
    if json:
        emit_json(
            {
                "status": "ok",
                "name": loaded.workload.name,
                "path": str(loaded.path),
                "sha256": loaded.sha256,
                "stages": counts,
                "classes": list(loaded.workload.classes),
                "devices": list(loaded.workload.devices()),
            }
        )
        return
    note_old_prices(loaded)
    described = ", ".join(f"{name} ({count} variants)" for name, count in counts.items())
    say(f"{loaded.path}: right. Stages: {described}. Classes: {', '.join(loaded.workload.classes)}.")


def _catalogue(path: Path, json: bool) -> None:
    from inferplan.cli.output import emit_json, say
    from inferplan.spec.catalogue import read_catalogue

    catalogue = read_catalogue(path)
    if json:
        instances = sorted(catalogue.instances)
        emit_json({"status": "ok", "name": catalogue.name, "date": catalogue.date, "instances": instances})
        return
    say(f"{path}: right. {len(catalogue.instances)} types of machines, prices of {catalogue.date}.")


def note_old_prices(loaded: LoadedWorkload) -> None:
    """Say on stderr which prices are old. Only here does the date of today matter: plans carry none."""
    import datetime

    from inferplan.cli.output import note
    from inferplan.spec.catalogue import stale_notes

    used = tuple(device.instance for device in loaded.workload.devices().values() if device.instance is not None)
    for line in stale_notes(loaded.catalogues, used, datetime.datetime.now(datetime.UTC).date()):
        note(f"note: {line}")
