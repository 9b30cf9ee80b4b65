"""`inferplan profile import`: other tools' measurements."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from inferplan.cli.options import JsonOption, SetOption


def import_(
    profile: Annotated[Path, typer.Argument(metavar="PROFILE", help="Profile to add to; made where there is none.")],
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="What the tool wrote.")],
    format_: Annotated[
        str, typer.Option("--from", metavar="FORMAT", help="perf-analyzer, model-analyzer, loadgen or csv.")
    ],
    workload: Annotated[Path, typer.Option("--workload", metavar="WORKLOAD", help="Workload the variants are of.")],
    set_: SetOption = None,
    stage: Annotated[str | None, typer.Option(help="Stage that was measured.")] = None,
    variant: Annotated[str | None, typer.Option(help="Variant that was measured.")] = None,
    modalities: Annotated[str, typer.Option(metavar="A+B", help="Modality subset it was given.")] = "",
    device: Annotated[
        str | None, typer.Option(metavar="TIER/DEVICE", help="Device of the workload it was measured on.")
    ] = None,
    provider: Annotated[str | None, typer.Option(help="Execution provider [default: cpu, on a GPU cuda].")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Batch size, where the file has none.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads inside one operator.")] = 1,
    instances: Annotated[int, typer.Option(min=1, help="Replicas that shared the load.")] = 1,
    machine: Annotated[str, typer.Option(metavar="NAME", help="Name of the machine, to tell several apart.")] = "",
    model: Annotated[
        str | None, typer.Option(help="model-analyzer: the model or configuration, where the file has several.")
    ] = None,
    unbatched: Annotated[
        bool, typer.Option("--unbatched", help="The server put no requests together: take rows at any load.")
    ] = False,
    client_latency: Annotated[
        bool, typer.Option("--client-latency", help="Take the client's latency for the service time.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Add measurements of perf_analyzer, Model Analyzer, MLPerf LoadGen, or a plain CSV (docs/file-formats.md).

    They are marked as imported, with their source, and stand back where the option was measured.
    """
    from inferplan.cli.output import emit_json, say
    from inferplan.profilers.interchange import importing
    from inferplan.profilers.interchange.foreign import Reading
    from inferplan.spec.document import load_workload

    loaded = load_workload(workload, set_ or [])
    reading = Reading(batch, instances, client_latency, unbatched, model)
    target = importing.Target(stage, variant, modalities, device, provider, threads, machine)
    done = importing.import_files(loaded.workload, profile, format_, files, reading, target)
    if json:
        points = [
            {
                "stage": row.key.stage,
                "choice": row.choice,
                "device": row.key.device,
                "batch": row.key.batch,
                "threads": row.key.threads,
                "mean_s": row.service.mean_s,
                "source": row.source,
            }
            for row in done.measurements
        ]
        values = [
            {"stage": row.stage, "choice": row.choice, "metric": row.metric, "value": row.value, "source": row.source}
            for row in done.accuracy
        ]
        emit_json(
            {
                "status": "ok",
                "path": str(done.path),
                "points": points,
                "accuracy": values,
                "left_out": list(done.left_out),
            }
        )
        return
    say(f"{done.path}: {len(done.measurements)} points and {len(done.accuracy)} accuracies imported")
    for reason in done.left_out:
        say(f"  left out: {reason}")
