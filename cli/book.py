"""`inferplan book`: plans for load that moves."""

from __future__ import annotations

import math
from dataclasses import dataclass
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
    from inferplan.reports.results import ReplayRow
    from inferplan.solvers.book import Chosen, Question
    from inferplan.solvers.trial import Traffic, Trial
    from inferplan.spec.arrivals import Source
    from inferplan.spec.book import Predictor
    from inferplan.spec.document import LoadedWorkload
    from inferplan.spec.plan import Plan

LEVELS = 16
"""Load levels where none are named: from 1 to 200 each is 1.42 times the one below."""


def book(
    workload: WorkloadArgument,
    rates: Annotated[
        str, typer.Option(metavar="LOW:HIGH[:N]", help="Load levels in requests/s, e.g. 1:200 or 1:200:24.")
    ],
    class_: Annotated[
        str | None,
        typer.Option("--class", metavar="NAME", help="Only this class's load moves [default: all classes']."),
    ] = None,
    plans: Annotated[int | None, typer.Option(min=1, metavar="N", help="Keep so many plans at most.")] = None,
    hysteresis: Annotated[
        float | None,
        typer.Option(help="Go down only this share below where the plan before has to go up [default: derived]."),
    ] = None,
    margin: Annotated[float, typer.Option(help="Go up this share before a plan's load, for loads told too low.")] = 0.0,
    request_usd: Annotated[
        float | None,
        typer.Option(help="What a request at risk counts, in USD [default: what serving one costs at the top]."),
    ] = None,
    interval: Annotated[str, typer.Option(help="How often the plan may change.")] = "10s",
    predictors: Annotated[
        str, typer.Option(metavar="NAMES", help="Some of last, max, holt; the thresholds are derived for the first.")
    ] = "last,max",
    window: Annotated[str, typer.Option(help="How far max looks back.")] = "2min",
    history: Annotated[
        Path | None, typer.Option(metavar="TRACE", help="Choose for the loads of this trace [default: a day].")
    ] = None,
    trace: Annotated[Path | None, typer.Option(metavar="TRACE", help="Replay the book over this trace.")] = None,
    arrivals: Annotated[
        str | None,
        typer.Option(metavar="YAML", help="Replay it over made traffic, as in workloads, e.g. {process: poisson}."),
    ] = None,
    mean_rate: Annotated[
        float | None, typer.Option(help="Mean rate of --arrivals [default: the middle of --rates].")
    ] = None,
    duration: Annotated[str, typer.Option(help="How long --arrivals last.")] = "1h",
    set_: SetOption = None,
    profile: ProfileOption = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="DIR", help="Write the book here.")] = None,
    time_limit: Annotated[str, typer.Option(help="Most time for the solver per level, e.g. 60s.")] = "60s",
    gap: Annotated[float, typer.Option(min=0.0, max=1.0, help="Relative gap that counts as optimal.")] = 1e-6,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all chance.")] = 0,
    parquet: ParquetOption = None,
    json: JsonOption = False,
) -> int:
    """Plan load levels, keep few plans, and say when to go from one to another; replay that over a trace.

    Exit code 3 where no plan carries the highest level: the message says which one is feasible; 4 where some plan is
    not proven optimal in time, or not certified.
    """
    from inferplan.cli.output import emit_json
    from inferplan.cli.validate import note_old_prices
    from inferplan.estimators.forecast import predictor
    from inferplan.reports.results import ReplayRow, write_parquet
    from inferplan.solvers.book import expected_day, loads_of, make_book
    from inferplan.solvers.levels import Moving, plan_levels
    from inferplan.solvers.planner import solve as solve_plan
    from inferplan.solvers.trial import check_length, traffic_of, trials
    from inferplan.spec.book import check_folder, write_book
    from inferplan.spec.document import load_workload
    from inferplan.spec.errors import ExitCode, InputError
    from inferplan.spec.profile import read_profile
    from inferplan.spec.trace import read_trace

    limit_s, interval_s = duration_s(time_limit, "--time-limit"), duration_s(interval, "--interval")
    loads = parse_rates(rates)
    names = [predictor(name.strip()) for name in predictors.split(",") if name.strip()]
    if not names:
        raise InputError("--predictors: name some of last, max, holt")
    asked = _Asked(plans, hysteresis, margin, request_usd, interval_s, window)
    question = asked.question(names[0])
    if parquet is not None and trace is None and arrivals is None:
        raise InputError("--parquet writes the replay: give --trace or --arrivals")
    check_writable(parquet, "--parquet")
    if output is not None:
        check_folder(output)
    loaded = load_workload(workload, set_ or [])
    note_old_prices(loaded)
    moving = Moving.of(loaded, class_)
    seen = None if history is None else read_trace(history)
    source, span_s = _source(trace, arrivals, mean_rate, duration, loads)
    if source is not None:
        check_length(source, span_s)
    store = read_profile(profile_path(profile, loaded.path, loaded.workload.name))
    folder = output if output is not None else loaded.path.parent

    def solve(at: LoadedWorkload) -> Plan:
        return solve_plan(at, store, plan_dir=folder, time_limit_s=limit_s, gap=gap, seed=seed)

    levels = plan_levels(moving, store, loads, solve, seed=seed)
    if seen is None:
        before = expected_day(loads[0], loads[-1], interval_s, seed)
    else:
        import numpy as np

        before = loads_of(seen.arrivals_s(np.random.default_rng([seed, 0])), seen.span_s, interval_s)
    chosen = make_book(moving, store, levels, before, seen, question, folder)
    if output is not None:
        write_book(chosen.document, chosen.plans, output)
    found: list[Trial] = []
    traffic = None
    if source is not None:
        traffic = traffic_of(moving, source, span_s, interval_s, seed)
        found = trials(moving, store, chosen, traffic, list(dict.fromkeys(names)), before, seed)
    rows = _rows(found, traffic)
    if parquet is not None:
        write_parquet(rows, ReplayRow, parquet)
    if json:
        emit_json(
            {
                "status": "optimal" if levels.proven else "feasible",
                "book_path": None if output is None else str(output),
                "book": chosen.document.model_dump(mode="json", by_alias=True),
                "replay": None if traffic is None else _replay_data(traffic, rows, found),
            }
        )
    else:
        print_book(chosen, traffic, rows, output, parquet)
    return ExitCode.DONE if levels.proven else ExitCode.UNDECIDED


def parse_rates(text: str) -> tuple[float, ...]:
    """`1:200`, `1:200:24`. Raises InputError."""
    from inferplan.solvers.levels import grid
    from inferplan.spec.errors import InputError

    parts = text.split(":")
    try:
        low, high = float(parts[0]), float(parts[1])
        levels = int(parts[2]) if len(parts) > 2 else 1 if low == high else LEVELS
        if len(parts) > 3:
            raise ValueError
    except (ValueError, IndexError):
        raise InputError(f"--rates {text}: expected LOW:HIGH or LOW:HIGH:N, e.g. 1:200 or 1:200:24") from None
    return grid(low, high, levels)


@dataclass(frozen=True)
class _Asked:
    """Options that shape the choice, as they were given."""

    plans: int | None
    hysteresis: float | None
    margin: float
    request_usd: float | None
    interval_s: float
    window: str

    def question(self, predictor: Predictor) -> Question:
        """The same, checked. Raises InputError."""
        from inferplan.solvers.book import Question
        from inferplan.spec.errors import InputError

        window_s = duration_s(self.window, "--window")
        if self.hysteresis is not None and not 0 <= self.hysteresis < 1:
            raise InputError(f"--hysteresis {self.hysteresis:g}: expected a share from 0 to below 1")
        if not 0 <= self.margin < 1:
            raise InputError(f"--margin {self.margin:g}: expected a share from 0 to below 1")
        if self.request_usd is not None and not (math.isfinite(self.request_usd) and self.request_usd >= 0):
            raise InputError(f"--request-usd {self.request_usd:g}: expected 0 or more")
        intervals = max(math.ceil(window_s / self.interval_s - 1e-9), 1)
        return Question(
            self.interval_s, predictor, intervals, self.request_usd, self.plans, self.hysteresis, self.margin
        )


def _source(
    trace: Path | None, arrivals: str | None, mean_rate: float | None, duration: str, loads: tuple[float, ...]
) -> tuple[Source | None, float]:
    """What the book is replayed over, and for how long. Raises InputError."""
    from inferplan.spec.arrivals import Source
    from inferplan.spec.document import parse_yaml, validated
    from inferplan.spec.errors import InputError
    from inferplan.spec.trace import read_trace
    from inferplan.spec.workload import Arrivals

    if trace is not None and arrivals is not None:
        raise InputError("give --trace or --arrivals, not both")
    if trace is not None:
        read = read_trace(trace)
        return Source(Arrivals(), read.rate_rps, read), read.span_s
    if arrivals is None:
        return None, 0.0
    process = validated(Arrivals, parse_yaml(arrivals.encode(), "--arrivals"), "--arrivals")
    rate = (loads[0] + loads[-1]) / 2 if mean_rate is None else mean_rate
    if not (math.isfinite(rate) and rate > 0):
        raise InputError(f"--mean-rate {rate:g}: expected a number above 0")
    return Source(process, rate), duration_s(duration, "--duration")


def _rows(trials: list[Trial], traffic: Traffic | None) -> list[ReplayRow]:
    from inferplan.reports.results import ReplayRow

    if traffic is None:
        return []
    oracle = trials[-1].usd
    hours = traffic.span_s / 3600
    rows = []
    for trial in trials:
        promised = [one for one in trial.classes if one.allowed is not None]
        worst = max(promised, key=lambda one: (one.late_share or 0.0) / (one.allowed or 1.0))
        rows.append(
            ReplayRow(
                strategy=trial.strategy,
                predictor=trial.predictor,
                usd=trial.usd,
                usd_per_h=trial.usd / hours,
                over_oracle=trial.usd / oracle - 1 if oracle > 0 else 0.0,
                keeps=trial.kept,
                late_share=worst.late_share or 0.0,
                allowed_share=worst.allowed or 0.0,
                late_requests=float(sum(one.late or 0 for one in trial.classes)),
                unanswered=float(sum(one.unanswered for one in trial.classes)),
                requests=float(sum(one.requests for one in trial.classes)),
                latency_s=worst.latency_s or 0.0,
                worst_class=worst.name,
                switches=float(trial.switches),
                requests_at_risk=trial.at_risk,
                plans=float(len(set(trial.path.tolist()))),
            )
        )
    return rows


def _replay_data(traffic: Traffic, rows: list[ReplayRow], trials: list[Trial]) -> dict[str, object]:
    return {
        "span_s": traffic.span_s,
        "interval_s": traffic.interval_s,
        "mean_rps": sum(len(times) for times in traffic.arrivals_s.values()) / traffic.span_s,
        "highest_rps": float(traffic.loads.max()),
        "strategies": [
            {
                **vars(row),
                "classes": [{**vars(one), "late_share": one.late_share, "kept": one.kept} for one in trial.classes],
            }
            for row, trial in zip(rows, trials, strict=True)
        ],
    }


def print_book(
    chosen: Chosen, traffic: Traffic | None, rows: list[ReplayRow], output: Path | None, parquet: Path | None
) -> None:
    """Print a book for people."""
    from inferplan.cli.output import heading, say, show
    from inferplan.reports import book_tables as tables
    from inferplan.reports.results import replay_table

    document = chosen.document
    heading(f"Plan book {document.name}: {tables.range_text(document)}")
    for line in tables.design_lines(document):
        say(line)
    say()
    heading("Plans and when they take turns")
    show(tables.plans_table(document, chosen.plans), indent=2)
    if document.switches:
        say()
        heading("Switches between neighbours")
        show(tables.switches_table(document), indent=2)
    if traffic is not None:
        say()
        heading(tables.traffic_text(traffic.span_s, traffic.interval_s, traffic.loads))
        show(replay_table(rows), indent=2)
        for line in tables.replay_lines(document, traffic.loads, traffic.interval_s):
            say(f"  {line}")
    for path in (output, parquet):
        if path is not None:
            say()
            say(f"Written to {path}")
