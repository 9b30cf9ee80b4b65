"""`inferplan jobs`: the best split of jobs over configurations."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inferplan.cli.options import JsonOption, ProfileOption, SetOption, WorkloadArgument, profile_path

if TYPE_CHECKING:
    from inferplan.solvers.jobs import Cell, Jobs, JobVerdict

MOST_TARGETS = 1000


def jobs(
    workload: WorkloadArgument,
    set_: SetOption = None,
    profile: ProfileOption = None,
    stage: Annotated[
        str | None, typer.Option(help="Split over this stage's choices [default: over whole combinations].")
    ] = None,
    b: Annotated[str, typer.Option("--b", metavar="N|FIRST:LAST", help="Requests of a job.")] = "1:32",
    accuracy: Annotated[
        str | None,
        typer.Option(metavar="A|FIRST:LAST:STEP", help="Mean accuracies [default: from worst to best, 20 steps]."),
    ] = None,
    device: Annotated[str | None, typer.Option(metavar="TIER/DEVICE", help="Device the jobs run on.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of the replica.")] = None,
    json: JsonOption = False,
) -> int:
    """Split a job's requests over variants and modality subsets: least time for a mean accuracy, exactly.

    Job classes of the workload get their split, and whether it keeps their deadline alone. Exit code 3 where one does
    not.
    """
    from inferplan.cli.output import emit_json
    from inferplan.solvers.jobs import job_sizes, judge, read_jobs, table
    from inferplan.spec.document import load_workload
    from inferplan.spec.errors import ExitCode
    from inferplan.spec.profile import read_profile

    sizes = _sizes(b)
    loaded = load_workload(workload, set_ or [])
    store = read_profile(profile_path(profile, loaded.path, loaded.workload.name))
    most = max([*sizes, *job_sizes(loaded.workload)])
    found = read_jobs(loaded.workload, store, most=most, stage=stage, device=device, threads=threads)
    cells = table(found, sizes, _targets(accuracy, found))
    verdicts = judge(found, loaded.workload)
    if json:
        emit_json(_data(found, cells, verdicts))
    else:
        _show(found, cells, verdicts)
    return ExitCode.DONE if all(one.verdict == "met" for one in verdicts) else ExitCode.INFEASIBLE


def _sizes(text: str) -> list[int]:
    """`8`, `1:32` or `8:32:8`."""
    from inferplan.estimators.splits import MOST_REQUESTS
    from inferplan.spec.errors import InputError

    parts = text.split(":")
    if not 1 <= len(parts) <= 3 or not all(part.strip().isdecimal() for part in parts):
        raise InputError(f"--b {text}: expected a number of requests or a range, e.g. 8 or 1:32")
    first, last, step = ([int(part) for part in parts] + [int(parts[0]), 1][len(parts) - 1 :])[:3]
    if first < 1 or last < first or step < 1:
        raise InputError(f"--b {text}: expected a rising range of at least 1")
    if last > MOST_REQUESTS:
        raise InputError(f"--b {text}: splits are found for jobs of at most {MOST_REQUESTS} requests")
    return list(range(first, last + 1, step))


def _targets(text: str | None, jobs: Jobs) -> list[float]:
    """`0.8` or `0.6:0.9:0.02`; without any, from the worst configuration to the best."""
    from inferplan.spec.errors import InputError

    if text is None:
        reached = sorted({c.accuracy for c in jobs.configurations}, key=jobs.turn.turned)
        worst, best = reached[0], reached[-1]
        return [worst + (best - worst) * i / 20 for i in range(20 + 1)] if worst != best else [worst]
    try:
        numbers = [float(part) for part in text.split(":")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 3) or not all(math.isfinite(number) for number in numbers):
        raise InputError(f"--accuracy {text}: expected a mean accuracy or first:last:step, e.g. 0.6:0.9:0.02")
    if len(numbers) == 1:
        return numbers
    first, last, step = numbers
    if step <= 0 or last < first or (last - first) / step > MOST_TARGETS:
        raise InputError(f"--accuracy {text}: expected a rising range of at most {MOST_TARGETS} steps")
    return [round(first + index * step, 12) for index in range(math.floor((last - first) / step + 1e-9) + 1)]


def _show(jobs: Jobs, cells: list[Cell], verdicts: list[JobVerdict]) -> None:
    from inferplan.cli.output import heading, say, show
    from inferplan.reports.job_tables import strategy_table, verdicts_table

    heading(f"Splits of jobs over {len(jobs.configurations)} configurations, by {jobs.metric}, on {jobs.place}")
    show(strategy_table(cells), indent=2)
    if verdicts:
        say()
        heading("Job classes, each alone")
        show(verdicts_table(verdicts), indent=2)
    for line in jobs.left_out:
        say(f"  left out: {line}")


def _data(jobs: Jobs, cells: list[Cell], verdicts: list[JobVerdict]) -> dict[str, Any]:
    return {
        "status": "ok" if all(one.verdict == "met" for one in verdicts) else "infeasible",
        "metric": jobs.metric,
        "device": jobs.place.device,
        "provider": jobs.place.provider,
        "threads": jobs.place.threads,
        "configurations": [{"name": c.name, "accuracy": c.accuracy} for c in jobs.configurations],
        "table": [{"requests": c.requests, "accuracy": c.target, **_split(jobs, c.split, c.reason)} for c in cells],
        "classes": [
            {
                "class": one.name,
                "requests": one.requests,
                "accuracy": one.target,
                "deadline_s": one.deadline_s,
                "percentile": one.percentile,
                "tail_s": one.tail_s,
                "verdict": one.verdict,
                **_split(jobs, one.split, one.reason),
            }
            for one in verdicts
        ],
        "left_out": list(jobs.left_out),
    }


def _split(jobs: Jobs, split: Any, reason: str) -> dict[str, Any]:
    if split is None:
        empty = ("split", "batches", "time_s", "mean_accuracy", "mean_accuracy_lower", "mean_accuracy_upper", "source")
        return {**dict.fromkeys(empty), "reason": reason}
    estimate = jobs.accuracy(split)
    return {
        "split": dict(split.counts),
        "batches": {
            name: {stage: list(sizes) for stage, sizes in jobs.batches(name, count).items()}
            for name, count in split.counts.items()
        },
        "time_s": split.time_s,
        "mean_accuracy": split.accuracy,
        "mean_accuracy_lower": estimate.lower,
        "mean_accuracy_upper": estimate.upper,
        "source": estimate.source,
        "reason": reason,
    }
