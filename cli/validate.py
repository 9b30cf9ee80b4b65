"""`inferplan validate`: is this workload right?"""

from __future__ import annotations

from inferplan.cli.options import JsonOption, SetOption, WorkloadArgument


def validate(workload: WorkloadArgument, set_: SetOption = None, json: JsonOption = False) -> None:
    """Check a workload: every problem at once, with file, line and column."""
    from inferplan.cli.output import emit_json, say
    from inferplan.spec.document import load_workload

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
    described = ", ".join(f"{name} ({count} variants)" for name, count in counts.items())
    say(f"{loaded.path}: right. Stages: {described}. Classes: {', '.join(loaded.workload.classes)}.")
