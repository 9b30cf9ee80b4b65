"""`inferplan diff`: from one plan to another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inferplan.cli.options import JsonOption

if TYPE_CHECKING:
    from inferplan.reports.tables import Table
    from inferplan.solvers.switching import MachineSwitch


def diff(
    before: Annotated[Path, typer.Argument(metavar="BEFORE", help="The plan that runs.")],
    after: Annotated[Path, typer.Argument(metavar="AFTER", help="The plan to go to.")],
    json: JsonOption = False,
) -> None:
    """Say what it takes to go from one plan to another: replicas to start and stop, seconds, money, calls at risk."""
    import dataclasses

    from inferplan.cli.output import emit_json, heading, note, say, show
    from inferplan.reports.quantities import money, seconds
    from inferplan.solvers.switching import switching
    from inferplan.spec.plan import load_plan, read_plan

    old, loaded = read_plan(before), load_plan(after)
    new = loaded.plan
    switch = switching(old, new, loaded.workload.workload)
    if json:
        emit_json(
            {
                "status": "ok",
                "cost_usd_per_h": {"before": old.cost_usd_per_h, "after": new.cost_usd_per_h},
                "starts": switch.starts,
                "stops": switch.stops,
                **dataclasses.asdict(switch),
            }
        )
        return
    if old.workload.sha256 != new.workload.sha256:
        note("note: the plans are of different workloads, or of different versions of one")
    heading(f"{old.name} to {new.name}: {money(old.cost_usd_per_h)} to {money(new.cost_usd_per_h)}")
    if not switch.machines:
        say("Nothing changes on any machine.")
        return
    changes = f"{switch.starts} replicas start, {switch.stops} stop"
    say(f"{changes}, in {seconds(switch.seconds)}, for {switch.cost_usd:.3g} USD of machine time")
    risk = {stage: calls for stage, calls in switch.calls_at_risk.items() if calls > 0}
    if risk:
        listed = ", ".join(f"{calls:.0f} of {stage}" for stage, calls in sorted(risk.items()))
        say(f"Calls beyond what stays can carry: {listed}")
    if switch.unmeasured:
        say(f"Load time not known, taken as 0: {', '.join(switch.unmeasured)}")
    say()
    show(_table(switch.machines))


def _table(machines: Sequence[MachineSwitch]) -> Table:
    """A row per machine on which something changes; machines are numbered as in the plan they are in."""
    from inferplan.reports.quantities import DASH, seconds
    from inferplan.reports.tables import Table, left, right

    def named(replicas: Mapping[str, int]) -> str:
        return ", ".join(f"{count} x {name}" for name, count in sorted(replicas.items())) or DASH

    rows = []
    for machine in machines:
        was = "new" if machine.before is None else f"#{machine.before}"
        becomes = "given back" if machine.after is None else f"#{machine.after}"
        rows.append([machine.device, was, becomes, named(machine.start), named(machine.stop), seconds(machine.seconds)])
    return Table([*left("device", "was", "becomes", "start", "stop"), *right("takes")], rows)
