"""`inferplan explain`: why a plan is what it is."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from inferplan.cli.options import JsonOption, PlanArgument, ProfileOption, duration_s, profile_path

if TYPE_CHECKING:
    from inferplan.solvers.explanation import Explanation


def explain(
    plan: PlanArgument,
    profile: ProfileOption = None,
    time_limit: Annotated[
        str, typer.Option(help="Most time to decide again, and once more for the questions, e.g. 60s.")
    ] = "60s",
    gap: Annotated[float, typer.Option(min=0.0, max=1.0, help="Relative gap that counts as optimal.")] = 1e-6,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the simulation, as for `solve`.")] = 0,
    json: JsonOption = False,
) -> int:
    """Say why each choice was made, what holds the plan, and what one more unit of every promise is worth.

    Exit code 4 where the time was not enough for all of it.
    """
    from inferplan.cli.output import emit_json
    from inferplan.solvers.explanation import explain as explain_plan
    from inferplan.spec.errors import ExitCode
    from inferplan.spec.plan import load_plan
    from inferplan.spec.profile import read_profile

    limit_s = duration_s(time_limit, "--time-limit")
    loaded = load_plan(plan)
    store = read_profile(profile_path(profile, loaded.workload.path, loaded.workload.workload.name))
    found = explain_plan(loaded.plan, loaded.workload, store, time_limit_s=limit_s, gap=gap, seed=seed)
    if json:
        data = asdict(found)
        for rival in data["rivals"]:
            rival["class"] = rival.pop("traffic")
        emit_json({"status": "partial" if found.left_out else "ok", "plan": str(plan), **data})
    else:
        _show(loaded.plan.name, found)
    return ExitCode.UNDECIDED if found.left_out else ExitCode.DONE


def _show(name: str, found: Explanation) -> None:
    from inferplan.cli.output import heading, say, show
    from inferplan.reports.explanation_tables import rivals_table, slack_table, steps_table
    from inferplan.reports.quantities import money

    heading(f"Plan {name}: {money(found.cost_usd_per_h)}, {found.objective}")
    if found.differs:
        say(found.differs)
    if found.slacks:
        say()
        heading("What it has to keep")
        show(slack_table(found.slacks), indent=2)
    if found.steps:
        say()
        heading("What another promise would be worth")
        show(steps_table(found.steps), indent=2)
    for stage in dict.fromkeys(rival.stage for rival in found.rivals):
        say()
        heading(f"What else could serve {stage}" if stage else "How else requests could be shared out")
        show(rivals_table([rival for rival in found.rivals if rival.stage == stage]), indent=2)
    for line in found.left_out:
        say(f"left out: {line}")
