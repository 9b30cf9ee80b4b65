"""Models of service time as people read them: what was chosen, how wrong it is, what would help.

Marks: `~` interpolated points, `*` another tool's, `+` batches that are extrapolated.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from inferplan.estimators.interference import Interference, Tenant
from inferplan.estimators.interference_error import SlowdownErrors, slowdown_errors
from inferplan.estimators.latency import KINDS, GroupModel, LatencyEstimate, RangeError, SeriesModel
from inferplan.estimators.latency_checks import Finding
from inferplan.estimators.latency_needs import Need
from inferplan.estimators.leave_one_out import Errors, bound
from inferplan.estimators.observations import GroupKey
from inferplan.reports.quantities import DASH, seconds
from inferplan.reports.sections import Block, Section
from inferplan.reports.tables import Table, left, right

MOST_NEEDS = 8
MOST_ALIKE = 3
"""Findings that say the same of many places are listed up to here; the JSON has all."""


@dataclass(frozen=True)
class LatencyReport:
    """Everything the section is made of. `batches`: those the workload profiles."""

    models: Mapping[GroupKey, GroupModel]
    interference: Interference
    findings: Sequence[Finding]
    needs: Sequence[Need]
    batches: Sequence[int]


def latency_section(report: LatencyReport, points: bool = False) -> Section:
    """The section; `points` adds every measured point with its prediction, and what is predicted beside."""
    blocks: list[Block] = []
    for key, group in report.models.items():
        blocks.append(Block(group_heading(key), series_table(group, report), tuple(group_lines(group))))
        if points:
            blocks.append(Block("", points_table(group, report.batches)))
    if len(report.models) > 1:
        blocks.append(Block("All stages", overview_table(report.models)))
    told = slowdown_errors(report.interference)
    blocks.append(Block("Slow-downs by neighbours", None, tuple(interference_lines(report.interference, told))))
    if report.findings:
        blocks.append(Block("What is wrong or missing", None, tuple(finding_lines(report.findings))))
    if report.needs:
        shown = report.needs[:MOST_NEEDS]
        blocks.append(Block("What would help most", needs_table(shown), tuple(need_lines(shown, len(report.needs)))))
    return Section(tuple(blocks), latency_data(report, told))


def group_heading(key: GroupKey) -> str:
    """Stage and where it was measured."""
    return f"{key.stage} on {key.device} ({key.provider}): service time"


def series_table(group: GroupModel, report: LatencyReport) -> Table:
    """One row per choice and number of threads: what its model rests on, how wrong it is, how far it goes."""
    columns = [
        *left("choice"), *right("threads"), *left("points", "batches"),
        *right("left out", "median", "p90", "mean b1", "std"), *left("up to", "beside others"),
    ]  # fmt: skip
    rows = []
    for one in group.series.values():
        errors = one.errors()
        first = one.observations[0]
        std = group.spreads["std"].ratio(one.key, first.batch)
        rows.append([
            one.key.choice, str(one.key.threads), _points_text(one), _batches_text(one),
            str(errors.n) if errors.n else "none", _percent(errors.median), _percent(errors.p90),
            seconds(first.mean_s) + (f" b{first.batch}" if first.batch > 1 else ""), _percent(std),
            _range_text(one), _beside(one, report.interference),
        ])  # fmt: skip
    return Table(columns, rows)


def _points_text(one: SeriesModel) -> str:
    """`5`, `2 + 3~` (interpolated), `4*` (imported)."""
    origins = Counter(_origin(item.row.origin if item.row is not None else "measured") for item in one.observations)
    parts = [f"{origins[mark]}{mark}" for mark in ("", "*") if origins[mark]]
    return " + ".join([*parts, *([f"{len(one.guesses)}~"] if one.guesses else [])])


def _origin(origin: str) -> str:
    return "*" if origin == "imported" else ""


def _batches_text(one: SeriesModel) -> str:
    batches = [item.batch for item in one.observations]
    return ",".join(map(str, batches)) if len(batches) <= 5 else f"{batches[0]}..{batches[-1]}"


def _range_text(one: SeriesModel) -> str:
    """The largest batch it may be asked for, marked where that is extrapolated."""
    most = one.range[1]
    known = max(item.batch for item in (*one.observations, *one.guesses))
    return f"{most}+" if most > known else str(most)


def _beside(one: SeriesModel, interference: Interference) -> str:
    tenant = Tenant(one.key.stage, one.key.choice, one.key.device, one.key.threads, one.observations[0].batch)
    return "known" if interference.known(tenant) else "unknown"


def group_lines(group: GroupModel) -> list[str]:
    """The fit, what it was chosen over, and its errors by where points stood."""
    tested = [test for test in group.tests if test.kind != "borrowed"]
    lines = [f"fit: {group.fit.name}, {_errors_text(group.errors('interior', 'lower', 'upper'))} left out"]
    if not tested:
        lines = ["fit: its error is unknown, as no series has three batch sizes"]
    for kind in KINDS:
        if any(test.kind == kind for test in group.tests):
            lines.append(f"  {_KIND_TEXT[kind]}: {_errors_text(group.errors(kind))}{_interval_text(group, kind)}")
    if any(test.observation.error for test in tested):
        lines.append(f"  of which noise of the means themselves: {_errors_text(group.noise(), count=False)}")
    rivals = [
        f"{candidate.name} {_sizes_text(Errors.of([test.errors[candidate] for test in tested]))}"
        for candidate in group.candidates
        if candidate != group.fit and tested and all(candidate in test.errors for test in tested)
    ]
    if len(rivals) > 0 and group.blind_errors() != group.errors("interior", "lower", "upper"):
        lines.append(f"  with the fit chosen without them: {_errors_text(group.blind_errors(), count=False)}")
    if rivals:
        lines.append("  instead of: " + ", ".join(rivals))
    for statistic, model in group.spreads.items():
        what = _STATISTIC_TEXT[statistic]
        if model.fit:
            lines.append(f"{what} over mean: as {_SPREAD_TEXT[model.fit]}, {_errors_text(model.errors)} left out")
        else:
            lines.append(f"{what}: known of fewer than two points")
    if group.reach > 1:
        lines.append(f"+ extrapolated up to {group.reach:g} times the largest measured batch; refused beyond")
    else:
        lines.append(f"not extrapolated beyond the largest measured batch: {_why_not(group)}")
    return lines


_KIND_TEXT = {
    "interior": "between measured batches",
    "lower": "at the smallest batch",
    "upper": "at the largest batch",
    "borrowed": "borrowed, of a series with fewer than two others",
}
_STATISTIC_TEXT = {"std": "standard deviation", "p90": "90th percentile", "p99": "99th percentile"}
_SPREAD_TEXT = {
    "stage": "in the stage",
    "series": "in its series",
    "nearest": "at the nearest batch",
    "line": "on a line between batches",
}


def _why_not(group: GroupModel) -> str:
    upper = group.logs("upper")
    if bound(upper) is None:
        return f"{len(upper)} of 9 tests that it takes to say how wrong that is"
    return f"nine in ten errors are not known to be within {100 * group.tolerance:g} %"


def _errors_text(errors: Errors, count: bool = True) -> str:
    if not errors.n:
        return "error unknown"
    of = f" of {errors.n}" if count else ""
    return f"median {_percent(errors.median)}, p90 {_percent(errors.p90)}{of}"


def _sizes_text(errors: Errors) -> str:
    return f"{_percent(errors.median)} / {_percent(errors.p90)}"


def _interval_text(group: GroupModel, kind: str) -> str:
    """The interval that goes with predictions of a kind."""
    most = bound([test.error for test in group.tests if test.kind == kind])
    return "" if most is None else f"; nine in ten within a factor of {math.exp(most):.2f}"


def _percent(value: float | None) -> str:
    if value is None:
        return DASH
    return f"{100 * value:.1f} %" if value < 9.995 else f"{100 * value:.0f} %"


def overview_table(models: Mapping[GroupKey, GroupModel]) -> Table:
    """One row per stage and place, and one for all: points left out of series with three batch sizes or more."""
    columns = [*left("stage", "device", "fit"), *right("left out", "median", "p90", "noise p90")]
    rows = []
    for key, group in models.items():
        rows.append(
            [key.stage, _device(key), group.fit.name, *_overview_cells(_tested(group)), _percent(group.noise().p90)]
        )
    every = [log for group in models.values() for log in _tested(group)]
    rows.append(["all", "", "", *_overview_cells(every), ""])
    return Table(columns, rows)


def _device(key: GroupKey) -> str:
    return key.device if key.provider == "cpu" else f"{key.device} {key.provider}"


def _tested(group: GroupModel) -> list[float]:
    return group.logs("interior", "lower", "upper")


def _overview_cells(logs: Sequence[float]) -> list[str]:
    errors = Errors.of(logs)
    return [str(errors.n), _percent(errors.median), _percent(errors.p90)]


def points_table(group: GroupModel, batches: Sequence[int]) -> Table:
    """Every measured batch with what is predicted without it; the other batches up to the end of the range."""
    tests = {(test.observation.key, test.observation.batch): test for test in group.tests}
    columns = [
        *left("choice"), *right("threads", "batch", "mean"), *left("interval"), *right("std", "p90", "p99"),
        *left("basis"), *right("without it", "error"),
    ]  # fmt: skip
    rows = []
    for one in group.series.values():
        for found in estimates(one, batches):
            test = tests.get((one.key, found.batch)) if found.basis == "measured" else None
            told = [DASH, DASH]
            if test is not None:
                told = [seconds(test.observation.mean_s * math.exp(test.error)), _signed(test.error)]
            rows.append([
                one.key.choice, str(one.key.threads), str(found.batch), seconds(found.mean_s), _ends(found),
                seconds(found.std_s), seconds(found.p90_s), seconds(found.p99_s), found.basis, *told,
            ])  # fmt: skip
    return Table(columns, rows)


def estimates(one: SeriesModel, batches: Sequence[int]) -> list[LatencyEstimate]:
    """Of every batch measured or asked for, and the largest one of the range."""
    wanted = {item.batch for item in (*one.observations, *one.guesses)} | set(batches) | {one.range[1]}
    found = []
    for batch in sorted(batch for batch in wanted if batch <= one.range[1]):
        try:
            found.append(one.estimate(batch))
        except RangeError:  # one batch size, and nothing to borrow from
            continue
    return found


def _signed(log: float) -> str:
    return f"{100 * (math.exp(log) - 1):+.1f} %"


def _ends(found: LatencyEstimate) -> str:
    if found.lower_s is None or found.upper_s is None:
        return DASH
    return f"{seconds(found.lower_s)}..{seconds(found.upper_s)}"


def interference_lines(interference: Interference, told: Sequence[SlowdownErrors]) -> list[str]:
    """How well slow-downs are predicted, by what predicts them."""
    count = len(interference.measured)
    if not count:
        return ["unknown: nothing was measured beside anything (`profile.neighbours`); plans take it for none"]
    lines = [f"{count} measured; each predicted from the others:"]
    for item in told:
        if item.errors.median is None:
            few = f"{item.errors.n} cases" if item.errors.n else "no case"
            lines.append(f"  by {item.ground}: error unknown, {few}")
        else:
            taken = _sizes_text(item.ignored)
            lines.append(f"  by {item.ground}: {_errors_text(item.errors)}; taken for none {taken}")
    return lines


def finding_lines(findings: Sequence[Finding]) -> list[str]:
    """What and where, then what to do; of many that say the same of a stage, the first few."""
    groups: dict[tuple[str, str, str], list[Finding]] = {}
    for found in findings:
        groups.setdefault((found.trouble, found.stage, found.what), []).append(found)
    lines = []
    for alike in groups.values():
        lines += [f"{found.trouble}: {found.where}: {found.what}" for found in alike[:MOST_ALIKE]]
        if len(alike) > MOST_ALIKE:
            lines.append(f"{alike[0].trouble}: and {len(alike) - MOST_ALIKE} more places of {alike[0].stage} like it")
        lines.append(f"  -> {alike[0].remedy}")
    return lines


def needs_table(needs: Sequence[Need]) -> Table:
    """What to measure, most helpful first; `gain` is summed over the choices."""
    columns = [*right("#"), *left("what", "stage"), *right("batch", "threads", "choices", "error now", "gain")]
    rows = [
        [
            str(index), need.deed, need.stage, str(need.batch), str(need.threads), str(len(need.choices)),
            "unknown" if need.error is None else _percent(need.error), _percent(need.gain),
        ]
        for index, need in enumerate(needs, 1)
    ]  # fmt: skip
    return Table(columns, rows)


def need_lines(needs: Sequence[Need], count: int) -> list[str]:
    """The commands, by number."""
    lines = [f"#{index}  {need.command}" for index, need in enumerate(needs, 1)]
    return [*lines, f"and {count - len(needs)} more that would gain less"] if count > len(needs) else lines


def latency_data(report: LatencyReport, told: Sequence[SlowdownErrors]) -> dict[str, Any]:
    """Everything the section knows, for `--json`."""
    every = [log for group in report.models.values() for log in _tested(group)]
    return {
        "errors": asdict(Errors.of(every)),
        "stages": [_group_data(group, report) for group in report.models.values()],
        "interference": [
            {"ground": item.ground, "errors": asdict(item.errors), "ignored": asdict(item.ignored)} for item in told
        ],
        "findings": [asdict(found) for found in report.findings],
        "needs": [asdict(need) for need in report.needs],
    }


def _group_data(group: GroupModel, report: LatencyReport) -> dict[str, Any]:
    tested = [test for test in group.tests if test.kind != "borrowed"]
    return {
        "stage": group.key.stage,
        "device": group.key.device,
        "provider": group.key.provider,
        "fit": group.fit.name,
        "candidates": {
            c.name: asdict(Errors.of([test.errors[c] for test in tested if c in test.errors])) for c in group.candidates
        },
        "errors": {"all": asdict(Errors.of(_tested(group)))} | {kind: asdict(group.errors(kind)) for kind in KINDS},
        "blind_errors": asdict(group.blind_errors()),
        "noise": asdict(group.noise()),
        "reach": group.reach,
        "spread": {
            name: {"fit": model.fit or None, "errors": asdict(model.errors)} for name, model in group.spreads.items()
        },
        "series": [_series_data(one, report) for one in group.series.values()],
    }


def _series_data(one: SeriesModel, report: LatencyReport) -> dict[str, Any]:
    tests = [test for test in one.group.tests if test.observation.key == one.key]
    return {
        "choice": one.key.choice,
        "threads": one.key.threads,
        "points": _points_text(one),
        "errors": asdict(one.errors()),
        "largest_measured_batch": one.observations[-1].batch,
        "largest_batch": one.range[1],
        "beside_others": _beside(one, report.interference),
        "estimates": [asdict(found) for found in estimates(one, report.batches)],
        "left_out": [
            {
                "batch": test.observation.batch,
                "measured_s": test.observation.mean_s,
                "predicted_s": test.observation.mean_s * math.exp(test.error),
                "kind": test.kind,
                "fit": test.chosen.name,
            }
            for test in tests
        ],
    }
