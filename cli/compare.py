"""`inferplan compare`: the published systems on the same workload, priced and simulated alike."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inferplan.cli.options import (
    JsonOption,
    ParquetOption,
    ProfileOption,
    SetOption,
    WorkloadArgument,
    check_writable,
    duration_s,
    profile_path,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inferplan.reports.results import ComparisonRow
    from inferplan.solvers.contest import Entry
    from inferplan.solvers.problem import Problem
    from inferplan.spec.document import LoadedWorkload
    from inferplan.spec.profile import Profile


def compare(
    workload: WorkloadArgument,
    strategies: Annotated[
        str, typer.Option("--strategies", metavar="NAMES", help="all, or some: optimal,ipa,rim,... (docs/cli.md).")
    ] = "all",
    set_: SetOption = None,
    profile: ProfileOption = None,
    time_limit: Annotated[str, typer.Option(help="Most time for one strategy, e.g. 60s.")] = "60s",
    gap: Annotated[float, typer.Option(min=0.0, max=1.0, help="Relative gap that counts as optimal.")] = 1e-6,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the simulation.")] = 0,
    parquet: ParquetOption = None,
    plans: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also write every strategy's plan, DIR/STRATEGY.yaml.")
    ] = None,
    json: JsonOption = False,
) -> int:
    """Let strategies decide, each as its system does; price, simulate and check all of them alike."""
    from inferplan.cli.output import emit_json, heading, say, show
    from inferplan.reports.results import ComparisonRow, comparison_table, write_parquet
    from inferplan.solvers.contest import compare as contest
    from inferplan.solvers.contest import strategies as named
    from inferplan.solvers.problem import read_problem
    from inferplan.spec.document import load_workload
    from inferplan.spec.errors import ExitCode
    from inferplan.spec.profile import read_profile

    limit_s = duration_s(time_limit, "--time-limit")
    check_writable(parquet, "--parquet")
    names = named(strategies)
    loaded = load_workload(workload, set_ or [])
    store = read_profile(profile_path(profile, loaded.path, loaded.workload.name))
    problem = read_problem(loaded.workload, store)
    entries = contest(problem, names, seed=seed, time_limit_s=limit_s, gap=gap)
    rows = [_row(problem, entry) for entry in entries]
    written = [] if plans is None else _written(problem, entries, loaded, store, plans)
    if parquet is not None:
        write_parquet(rows, ComparisonRow, parquet)
    if json:
        emit_json({"strategies": [vars(row) for row in rows]})
    else:
        heading(f"{len(rows)} strategies on {loaded.workload.name}")
        show(comparison_table(rows), indent=2)
        for line in dict.fromkeys(row.note for row in rows if row.plan and row.note):
            say(line)
        if parquet is not None:
            say()
            say(f"Written to {parquet}")
        if plans is not None:
            say()
            say(f"Plans written to {plans}: {', '.join(written) or 'none'}")
    return ExitCode.DONE


def _written(
    problem: Problem, entries: Sequence[Entry], loaded: LoadedWorkload, store: Profile, folder: Path
) -> list[str]:
    """Write the plans of those that have one; returns whose."""
    from inferplan.solvers.contest import plan_of
    from inferplan.spec.plan import write_plan

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for entry in entries:
        plan = plan_of(problem, entry, loaded, store, plan_dir=folder)
        if plan is not None:
            write_plan(plan, folder / f"{entry.strategy}.yaml")
            written.append(entry.strategy)
    return written


def _row(problem: Problem, entry: Entry) -> ComparisonRow:
    from inferplan.reports.results import ComparisonRow
    from inferplan.solvers.story import describe, variants_text

    solution, result = entry.solution, entry.result
    tails = [stream.latency_p99_s.value for stream in result.streams.values()] if result is not None else []
    return ComparisonRow(
        strategy=entry.strategy,
        cost_usd_per_h=None if solution is None else solution.cost_usd_per_h,
        accuracy=entry.accuracy,
        p99_s=max(tails, default=None),
        keeps=solution is not None and not entry.broken,
        broken=", ".join(entry.broken),
        decision_s=entry.decision_s,
        variants=""
        if solution is None
        else ", ".join(f"{stage}={text}" for stage, text in variants_text(problem, solution).items()),
        plan="" if solution is None else describe(problem, solution).rsplit(" at ", 1)[0],
        note=entry.note,
    )
