"""`inferplan compare`: the published systems on the same workload, priced and simulated alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from inferplan.cli.options import (
    JsonOption,
    ParquetOption,
    ProfileOption,
    SetOption,
    WorkloadArgument,
    duration_s,
    profile_path,
)

if TYPE_CHECKING:
    from inferplan.reports.results import ComparisonRow
    from inferplan.solvers.contest import Entry
    from inferplan.solvers.problem import Problem


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
    names = named(strategies)
    loaded = load_workload(workload, set_ or [])
    store = read_profile(profile_path(profile, loaded.path, loaded.workload.name))
    problem = read_problem(loaded.workload, store)
    entries = contest(problem, names, seed=seed, time_limit_s=limit_s, gap=gap)
    rows = [_row(problem, entry) for entry in entries]
    if parquet is not None:
        write_parquet(rows, ComparisonRow, parquet)
    if json:
        emit_json({"strategies": [vars(row) for row in rows]})
    else:
        heading(f"{len(rows)} strategies on {loaded.workload.name}")
        show(comparison_table(rows), indent=2)
        if parquet is not None:
            say()
            say(f"Written to {parquet}")
    return ExitCode.DONE


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
