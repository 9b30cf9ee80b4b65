"""`inferplan solve`: decide the deployment."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inferplan.cli.options import JsonOption, ProfileOption, SetOption, WorkloadArgument, duration_s, profile_path

if TYPE_CHECKING:
    from inferplan.spec.plan import Plan


def solve(
    workload: WorkloadArgument,
    set_: SetOption = None,
    profile: ProfileOption = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="PLAN", help="Write the plan here.")] = None,
    time_limit: Annotated[str, typer.Option(help="Most time for the solver, e.g. 60s.")] = "60s",
    gap: Annotated[float, typer.Option(min=0.0, max=1.0, help="Relative gap that counts as optimal.")] = 1e-6,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the simulation that certifies.")] = 0,
    confidence: Annotated[
        float | None, typer.Option(help="Plan on bounds of times and accuracies at this confidence.")
    ] = None,
    rates: Annotated[
        str | None, typer.Option(metavar="LIST", help="Keep promises at each of these multiples of the rates: 1,1.5,2.")
    ] = None,
    spare_machines: Annotated[
        int | None, typer.Option(help="Keep promises with any so many machines of any one type lost.")
    ] = None,
    availability: Annotated[
        float | None, typer.Option(help="Spares such that this share of time no more machines are gone.")
    ] = None,
    headroom: Annotated[float | None, typer.Option(help="Share of every replica's capacity left unused.")] = None,
    json: JsonOption = False,
) -> int:
    """Decide variant, batch and replicas per stage: the best plan that keeps every promise, by default the cheapest.

    Exit code 3 where no plan can; 4 where the plan is not proven optimal in time, or not certified.
    """
    from inferplan.cli.output import emit_json
    from inferplan.cli.validate import note_old_prices
    from inferplan.solvers.planner import solve as solve_plan
    from inferplan.spec.document import load_workload
    from inferplan.spec.errors import ExitCode, InputError
    from inferplan.spec.plan import write_plan
    from inferplan.spec.profile import read_profile

    limit_s = duration_s(time_limit, "--time-limit")
    if output is not None and output.is_dir():
        raise InputError(f"--output {output}: this is a folder; name a file in it, e.g. {output / 'plan.yaml'}")
    asked = _robustness(confidence, rates, spare_machines, availability, headroom)
    loaded = load_workload(workload, [*(set_ or []), *asked])
    note_old_prices(loaded)
    store = read_profile(profile_path(profile, loaded.path, loaded.workload.name))
    folder = output.parent if output is not None else loaded.path.parent
    plan = solve_plan(loaded, store, plan_dir=folder, time_limit_s=limit_s, gap=gap, seed=seed)
    if output is not None:
        write_plan(plan, output)
    certified = plan.certificate is not None and plan.certificate.verdict == "met"
    if json:
        emit_json(
            {
                "status": plan.proof.status,
                "certified": certified,
                "cost_usd_per_h": plan.cost_usd_per_h,
                "plan_path": None if output is None else str(output),
                "plan": plan.model_dump(mode="json", by_alias=True),
            }
        )
    else:
        print_plan(plan, output, workload, profile)
    return ExitCode.DONE if certified and plan.proof.status == "optimal" else ExitCode.UNDECIDED


def _robustness(
    confidence: float | None,
    rates: str | None,
    spare_machines: int | None,
    availability: float | None,
    headroom: float | None,
) -> list[str]:
    """The options as overrides of the workload, so that the plan remembers them."""
    fields = {
        "confidence": confidence,
        "load_levels": None if rates is None else f"[{', '.join(_number(part) for part in rates.split(','))}]",
        "spare_machines": spare_machines,
        "availability": availability,
        "headroom": headroom,
    }
    return [f"robustness.{field}={value}" for field, value in fields.items() if value is not None]


def _number(text: str) -> str:
    """A number of a list, as YAML."""
    from inferplan.spec.errors import InputError

    try:
        return repr(float(text))
    except ValueError:
        raise InputError(f"--rates: expected numbers, e.g. 1,1.5,2; got {text.strip()!r}") from None


def print_plan(plan: Plan, output: Path | None, workload: Path, profile: Path | None) -> None:
    """Print a plan for people. `workload` and `profile` are what it was asked with."""
    from inferplan.cli.output import heading, say, show
    from inferplan.reports.plan_tables import (
        alternatives_table,
        assurance_lines,
        basis_lines,
        binding_lines,
        choices_table,
        classes_table,
        cost_lines,
        machines_table,
        measuring_lines,
        mixtures_table,
        options_table,
        proof_line,
        traffic_table,
    )
    from inferplan.reports.quantities import money

    heading(f"Plan {plan.name}: {money(plan.cost_usd_per_h)}, {plan.objective}")
    say(f"Proof: {proof_line(plan)}")
    if plan.certificate is not None:
        say(f"Certificate: {plan.certificate.verdict}, judged by {plan.certificate.judged_on}")
    for line in (*cost_lines(plan), *assurance_lines(plan), *basis_lines(plan)):
        say(line)
    for title, table in (
        ("What runs", options_table(plan)),
        ("Where it runs", machines_table(plan)),
        ("What goes between tiers", traffic_table(plan)),
        ("Which ways requests go", mixtures_table(plan)),
        ("What each class gets", classes_table(plan)),
        ("What answers requests that name accuracy and latency", choices_table(plan)),
    ):
        if table is not None:
            say()
            heading(title)
            show(table, indent=2)
    none = ["no single promise or limit: without any one of them this would still be the plan"]
    if plan.assurance is not None and (plan.assurance.extra_usd_per_h or 0.0) > 0:
        none = [f"robustness: {money(plan.assurance.extra_usd_per_h)} of it are what it withstands"]
    _lines("What holds it there", binding_lines(plan) or none)
    if plan.alternatives:
        say()
        heading("Also considered")
        show(alternatives_table(plan), indent=2)
    _lines("How it was found", plan.story)
    _lines("Stale measurements used", plan.profile.stale)
    _lines("Still to measure", measuring_lines(plan, workload, profile))
    if output is not None:
        say()
        say(f"Written to {output}")


def _lines(title: str, lines: list[str]) -> None:
    from inferplan.cli.output import heading, say

    if lines:
        say()
        heading(title)
        for line in lines:
            say(f"  {line}")
