"""`inferplan simulate`: what a plan does under its traffic, other traffic, failures."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inferplan.cli.options import JsonOption, PlanArgument, ProfileOption, duration_s, profile_path
from inferplan.spec.errors import InputError

if TYPE_CHECKING:
    from inferplan.estimators.network import Network
    from inferplan.estimators.simulation import SimulationResult
    from inferplan.estimators.simulation.scenario import Failure, Start
    from inferplan.spec.plan import LoadedPlan
    from inferplan.spec.profile import Profile

CALLS = 6_000_000
"""Stage calls simulated at most: as many as the certificate of a plan may take."""

_FAIL = re.compile(r"(?P<option>.+)#(?P<replica>\d+)@(?P<at>[^+]+)(\+(?P<back>.+))?")
_START = re.compile(r"(?P<option>.+)@(?P<at>.+)")


def simulate(
    plan: PlanArgument,
    profile: ProfileOption = None,
    trace: Annotated[
        list[str] | None,
        typer.Option("--trace", metavar="CLASS=FILE", help="Replay a trace as this class's traffic. Repeatable."),
    ] = None,
    rate_scale: Annotated[float, typer.Option(help="Multiply every class's rate.")] = 1.0,
    fail: Annotated[
        list[str] | None,
        typer.Option(
            "--fail",
            metavar="OPTION#I@T[+D]",
            help="Replica I (from 0) of an option fails at T, e.g. read#0@30s+10s; back after D, `+load`: after the"
            " time that loading takes; without: never. Repeatable.",
        ),
    ] = None,
    start: Annotated[
        list[str] | None,
        typer.Option("--start", metavar="OPTION@T", help="A replica is added at T, and loads. Repeatable."),
    ] = None,
    duration: Annotated[
        str | None, typer.Option(help="Counted time of one replication, e.g. 5m [default: as much as it takes].")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all chance.")] = 0,
    json: JsonOption = False,
) -> int:
    """Simulate a plan, and judge every promise.

    Exit code 0 where every promise is met; 4 where one is missed or undecided, or a queue grows without bound.
    """
    from inferplan.cli.output import emit_json
    from inferplan.estimators import simulation
    from inferplan.estimators.network import network_of_plan
    from inferplan.estimators.simulation import scenario
    from inferplan.reports.simulation_tables import result_data
    from inferplan.spec.errors import ExitCode
    from inferplan.spec.plan import load_plan
    from inferplan.spec.profile import read_profile

    if not (math.isfinite(rate_scale) and rate_scale > 0):
        raise InputError(f"--rate-scale {rate_scale:g}: expected a number above 0")
    counted_s = None if duration is None else duration_s(duration, "--duration")
    failures, starts = [parse_failure(text) for text in fail or ()], [parse_start(text) for text in start or ()]
    loaded = load_plan(plan)
    store = read_profile(profile_path(profile, loaded.workload.path, loaded.workload.workload.name))
    network = _traced(network_of_plan(loaded.plan, loaded.workload.workload, store), trace or [])
    network = scenario.happening(scenario.scaled(network, rate_scale), failures, starts)
    effort = simulation.Effort(CALLS, counted_s=counted_s)
    result = simulation.simulate(network, seed, effort, detail=True)
    notes = [*_notes(loaded, store, network), *result.notes]
    if json:
        emit_json({**result_data(network, result), "plan": str(plan), "rate_scale": rate_scale, "notes": notes})
    else:
        print_result(loaded.plan.name, network, result, notes)
    return ExitCode.DONE if result.verdict == "met" else ExitCode.UNDECIDED


def parse_failure(text: str) -> Failure:
    """`read#0@30s+10s`. Raises InputError where it is something else."""
    from inferplan.estimators.simulation.scenario import Failure

    match = _FAIL.fullmatch(text)
    if match is None:
        raise InputError(f"--fail {text}: expected OPTION#I@T or OPTION#I@T+D, e.g. read#0@30s+10s")
    back = match["back"]
    after = math.inf if back is None else None if back == "load" else duration_s(back, f"--fail {text}:")
    return Failure(match["option"], int(match["replica"]), _moment_s(match["at"], f"--fail {text}:"), after)


def parse_start(text: str) -> Start:
    """`read@30s`. Raises InputError where it is something else."""
    from inferplan.estimators.simulation.scenario import Start

    match = _START.fullmatch(text)
    if match is None:
        raise InputError(f"--start {text}: expected OPTION@T, e.g. read@30s")
    return Start(match["option"], _moment_s(match["at"], f"--start {text}:"))


def _moment_s(text: str, option: str) -> float:
    """A time after the beginning of the counted time; it may be 0."""
    return 0.0 if text.strip() in ("0", "0s") else duration_s(text, option)


def _traced(network: Network, given: list[str]) -> Network:
    """The network with classes whose traffic is a trace: CLASS=FILE, or the file alone where there is one class."""
    from inferplan.estimators.simulation.scenario import traced
    from inferplan.spec.trace import read_trace

    for text in given:
        name, separator, file = text.partition("=")
        if not separator and len(network.streams) == 1:
            name, file = network.streams[0].name, text
        elif not separator:
            raise InputError(f"--trace {text}: expected CLASS=FILE, as the plan has several classes")
        network = traced(network, name, read_trace(Path(file)))
    return network


def _notes(loaded: LoadedPlan, store: Profile, network: Network) -> list[str]:
    """What should be known of what was simulated."""
    from inferplan.reports.quantities import seconds

    notes = []
    if store.sha256 != loaded.plan.profile.sha256:
        notes.append("the profile is not the one that was planned on: it has changed since")
    for stream in network.streams:
        for begin, length in stream.trace.gaps() if stream.trace is not None else ():
            notes.append(
                f"the trace of {stream.name} is silent for {seconds(length)}, {seconds(begin)} after it begins"
            )
    return notes


def print_result(name: str, network: Network, result: SimulationResult, notes: list[str]) -> None:
    """Print a result for people."""
    from inferplan.cli.output import heading, say, show
    from inferplan.reports import simulation_tables as tables
    from inferplan.reports.quantities import seconds

    if result.unstable:
        heading(f"Simulation of {name}: unstable")
        for line in result.unstable:
            say(f"  {line}")
        say("Queues grow without bound: nothing was simulated. Add replicas, or lower the rate.")
        return
    heading(f"Simulation of {name}: {result.verdict}")
    say(
        f"{result.replications} replications of {seconds(result.counted_s)} each after {seconds(result.warmup_s)} of"
        f" warm-up, seed {result.seed}"
    )
    for note in notes:
        say(f"Note: {note}")
    say()
    heading("What each class gets (99 % intervals)")
    show(tables.classes_table(network, result), indent=2)
    for line in tables.undecided_lines(result):
        say(f"  {line}")
    for title, table in (
        (
            "Where the time of a request goes (means, along the way that its answer waits for)",
            tables.ways_table(result),
        ),
        ("What the calls of each stage see", tables.stages_table(result)),
        ("What each option does", tables.options_table(network, result)),
    ):
        say()
        heading(title)
        show(table, indent=2)
