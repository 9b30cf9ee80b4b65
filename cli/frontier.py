"""`inferplan frontier`: every trade-off that no plan beats."""

from __future__ import annotations

from collections.abc import Sequence
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
    from inferplan.reports.results import FrontierRow
    from inferplan.solvers.pareto import Axis, Frontier, Point
    from inferplan.solvers.problem import Problem
    from inferplan.spec.document import LoadedWorkload

UNITS = {"cost": "cost, USD/h", "accuracy": "accuracy", "latency": "latency, s"}


def frontier(
    workload: WorkloadArgument,
    x: Annotated[str, typer.Option("--x", metavar="AXIS", help="First axis: cost, accuracy or latency.")] = "cost",
    y: Annotated[str, typer.Option("--y", metavar="AXIS", help="Second axis.")] = "accuracy",
    by: Annotated[
        str | None,
        typer.Option(
            "--by", metavar="FIELD=V1,V2", help="One frontier per value, e.g. slo.latency_s=0.1,0.2 (of all classes)."
        ),
    ] = None,
    set_: SetOption = None,
    profile: ProfileOption = None,
    simulate: Annotated[bool, typer.Option(help="Simulate every point.")] = True,
    time_limit: Annotated[str, typer.Option(help="Most time for one frontier, e.g. 300s.")] = "300s",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the simulation.")] = 0,
    parquet: ParquetOption = None,
    picture: Annotated[Path | None, typer.Option(metavar="FILE.svg", help="Draw it as SVG.")] = None,
    json: JsonOption = False,
) -> int:
    """The exact Pareto set over two axes: every plan that no other one beats on one without losing on the other.

    What is an axis is no promise: floors, limits or the budget on it are left out. Exit code 3 where no plan keeps the
    promises that remain; 4 where time ran out.
    """
    from inferplan.cli.output import emit_json, heading, say, show
    from inferplan.reports.picture import Series, svg
    from inferplan.reports.results import FrontierRow, frontier_table, write_parquet
    from inferplan.solvers.pareto import frontier as find
    from inferplan.solvers.problem import read_problem
    from inferplan.spec.document import load_workload
    from inferplan.spec.errors import ExitCode, InfeasibleError, InputError
    from inferplan.spec.profile import read_profile

    limit_s = duration_s(time_limit, "--time-limit")
    check_writable(parquet, "--parquet")
    check_writable(picture, "--picture")
    axes = _axis(x, "--x"), _axis(y, "--y")
    if picture is not None and picture.suffix.lower() != ".svg":
        raise InputError(f"--picture {picture}: pictures are SVG; name it {picture.with_suffix('.svg').name}")
    first = load_workload(workload, set_ or [])
    store = read_profile(profile_path(profile, first.path, first.workload.name))
    rows: list[FrontierRow] = []
    complete, methods = True, []
    for overrides in _variations(first, by):
        loaded = load_workload(workload, [*(set_ or []), *overrides])
        problem = read_problem(loaded.workload, store)
        found = find(problem, axes, time_limit_s=limit_s)
        complete &= found.complete
        methods.append(found.why)
        name = by.split("=", 1)[0] + "=" + overrides[0].split("=", 1)[1] if by and overrides else ""
        rows += [_row(problem, found, point, name, seed if simulate else None) for point in found.points]
    if not rows and complete:
        raise InfeasibleError("no plan keeps the promises that are no axis; `inferplan solve` says which conflict")
    if parquet is not None:
        write_parquet(rows, FrontierRow, parquet)
    if picture is not None:
        series = [
            Series(name, [(_value(row, axes[0]), _value(row, axes[1])) for row in rows if row.by == name])
            for name in dict.fromkeys(row.by for row in rows)
        ]
        picture.write_text(svg(series, UNITS[x], UNITS[y]), encoding="utf-8")
    if json:
        emit_json(
            {
                "axes": [x, y],
                "complete": complete,
                "points": [vars(row) for row in rows],
            }
        )
    else:
        heading(f"Frontier of {x} and {y}: {len(rows)} point{'' if len(rows) == 1 else 's'}")
        show(frontier_table(rows), indent=2)
        say()
        say(_basis(methods, complete))
        for path in (parquet, picture):
            if path is not None:
                say(f"Written to {path}")
    return ExitCode.DONE if complete else ExitCode.UNDECIDED


def _axis(text: str, option: str) -> Axis:
    from inferplan.solvers.pareto import AXES
    from inferplan.spec.errors import InputError

    for axis in AXES:
        if axis == text:
            return axis
    raise InputError(f"{option} {text}: an axis is one of {', '.join(AXES)}")


def _variations(loaded: LoadedWorkload, by: str | None) -> list[list[str]]:
    """Overrides per value of `--by`. A field that is none of the workload's is one of every class."""
    from inferplan.spec.errors import InputError
    from inferplan.spec.workload import Workload

    if by is None:
        return [[]]
    field, equals, values = by.partition("=")
    wanted = [value.strip() for value in values.split(",") if value.strip()]
    if not equals or not field or not wanted:
        raise InputError(f"--by {by}: expected a field and values, e.g. slo.latency_s=0.1,0.2,0.5")
    whole = field.split(".", 1)[0] in Workload.model_fields
    asking = sorted({level.level_of[0] for level in loaded.workload.classes.values() if level.level_of is not None})
    if asking and not whole:
        raise InputError(
            f"--by {by}: class {asking[0]} promises what its requests ask: name the field whole, e.g."
            f" classes.{asking[0]}.asks.mix[0].latency_s=0.1,0.2"
        )
    fields = [field] if whole else [f"classes.{name}.{field}" for name in sorted(loaded.workload.classes)]
    return [[f"{one}={value}" for one in fields] for value in wanted]


def _row(problem: Problem, found: Frontier, point: Point, by: str, seed: int | None) -> FrontierRow:
    from inferplan.reports.results import FrontierRow
    from inferplan.solvers.judge import Judge
    from inferplan.solvers.neighbours import arranged
    from inferplan.solvers.story import describe, variants_text

    alone = len(problem.classes) == 1
    verdict, simulated = "", None
    if seed is not None:
        result = Judge(problem, seed).certain(arranged(problem, point.solution))
        verdict = "unstable" if result.unstable else result.verdict
        stream = result.streams.get(problem.classes[0].name) if alone else None
        if stream is not None and stream.latency_slo_s is not None:
            simulated = stream.latency_slo_s.value
    return FrontierRow(
        by=by,
        cost_usd_per_h=point.cost_usd_per_h,
        accuracy=point.accuracy,
        latency_s=point.latency if alone else None,
        latency_ratio=None if alone else point.latency,
        simulated_s=simulated,
        verdict=verdict,
        variants=", ".join(f"{stage}={text}" for stage, text in variants_text(problem, point.solution).items()),
        plan=describe(problem, point.solution).rsplit(" at ", 1)[0],
        method=found.method,
    )


def _value(row: FrontierRow, axis: Axis) -> float:
    if axis == "cost":
        return row.cost_usd_per_h
    value = row.accuracy if axis == "accuracy" else row.latency_s if row.latency_ratio is None else row.latency_ratio
    return float("nan") if value is None else value


def _basis(methods: Sequence[str], complete: bool) -> str:
    """How the points were found, and whether any is missing."""
    reasons = sorted({why for why in methods if why})
    how = "by Pareto labels" if not reasons else f"by the program, point by point ({'; '.join(reasons)})"
    if complete:
        return f"Exact under the planner's models: no point is missing; found {how}."
    return f"Time ran out: points may be missing (found {how}); give more with --time-limit."
