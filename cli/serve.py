"""`inferplan serve`: a plan behind the Open Inference Protocol."""

from __future__ import annotations

from typing import Annotated

import typer

from inferplan.cli.options import JsonOption, PlanArgument


def serve(
    plan: PlanArgument,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    oversubscribe: Annotated[
        bool, typer.Option("--oversubscribe", help="Serve although the plan needs more cores than there are.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Serve the plan's pipeline over HTTP (Open Inference Protocol, KServe v2) until Ctrl-C."""
    from inferplan.cli.output import emit_json
    from inferplan.cli.progress import Progress
    from inferplan.cli.run import tell
    from inferplan.runner.events import Event, Listening
    from inferplan.runner.server import serve_plan
    from inferplan.spec.plan import load_plan

    loaded = load_plan(plan)
    with Progress(enabled=not json) as progress:

        def on_event(event: Event) -> None:
            tell(progress, event)
            if json and isinstance(event, Listening):
                emit_json({"status": "listening", "url": event.url, "model": loaded.plan.name})

        serve_plan(loaded, host, port, oversubscribe=oversubscribe, on_event=on_event)
