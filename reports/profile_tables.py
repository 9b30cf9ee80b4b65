"""A profile as tables people read: accuracy, latency, throughput, memory per choice; dominated ones dim.

Marks: `~` interpolated from other points, `*` another tool's measurement, `>` at least (the load that was offered).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from inferplan.estimators.comparison import Comparison
from inferplan.reports.profile_view import ChoiceView, Lineage, Place, tail
from inferplan.reports.quantities import DASH, energy, rate, seconds, share, size
from inferplan.reports.tables import Table, left, right
from inferplan.spec.rows import AccuracyRow, InterferenceRow, Measurement

MARGIN = 0.01
"""Largest loss of accuracy with which a choice is called as accurate as its parent."""
_MARKS = {"measured": "", "interpolated": "~", "imported": "*"}


def place_heading(place: Place) -> str:
    """Stage, where it was measured, and what its metric is."""
    where = f" on {place.device} ({place.provider})" if place.device else ", not measured"
    if place.metric is None:
        return f"{place.stage}{where}"
    better = "higher" if place.metric.direction == "maximize" else "lower"
    return f"{place.stage}{where}; {place.metric.name}: {better} is better"


def place_table(place: Place, wide: bool = False) -> Table:
    """One row per choice: its metric with interval; times at the smallest batch with the fewest threads; the best
    throughput; memory; energy per call where known. `wide` adds counts, bounds, and where each number is from."""
    with_energy = any(choice.least_energy is not None for choice in place.choices)
    metric = place.metric.name if place.metric is not None else "metric"
    columns = [*left("choice"), *right(metric, "95 %")]
    columns += right("n") if wide else []
    columns += right(_first_title(place, "p50"), "p99")
    columns += right("p99 bound", "mean", "batches", "load") if wide else []
    columns += right("best rate", "memory")
    columns += right("J/call") if with_energy else []
    rows = [_choice_cells(choice, wide, with_energy, _first_batch(place)) for choice in place.choices]
    return Table(columns, rows, frozenset(i for i, choice in enumerate(place.choices) if choice.dominated))


def _first_batch(place: Place) -> tuple[int, int]:
    """Threads and batch of most choices' first point."""
    firsts = [(row.key.threads, row.key.batch) for choice in place.choices if (row := choice.first) is not None]
    return max(sorted(set(firsts)), key=firsts.count) if firsts else (1, 1)


def _first_title(place: Place, name: str) -> str:
    threads, batch = _first_batch(place)
    return f"{name} b{batch}" if threads == 1 else f"{name} b{batch} t{threads}"


def _choice_cells(choice: ChoiceView, wide: bool, with_energy: bool, usual: tuple[int, int]) -> list[str]:
    accuracy, first, best = choice.accuracy, choice.first, choice.best
    cells = [choice.choice, *_accuracy_cells(accuracy)]
    cells += [DASH if accuracy is None else str(accuracy.n)] if wide else []
    cells += _time_cells(choice, usual)
    if wide:
        cells += [DASH] * 4 if first is None else _wide_cells(first)
    cells += [DASH if best is None else _rate(best)]
    cells += [size(choice.memory_bytes)]
    least = choice.least_energy
    return [*cells, *([DASH if least is None else energy(least.energy_j)] if with_energy else [])]


def _accuracy_cells(row: AccuracyRow | None) -> list[str]:
    if row is None or row.value is None:
        return [DASH, DASH]
    interval = DASH if row.lower is None or row.upper is None else f"{row.lower:.3f}..{row.upper:.3f}"
    return [share(row.value) + ("*" if row.source else ""), interval]


def _time_cells(choice: ChoiceView, usual: tuple[int, int]) -> list[str]:
    """p50 and p99 of the first point; the highest percentile known where p99 is not, with its name."""
    if choice.skip:
        return ["0 s", "0 s"]
    row = choice.first
    if row is None:
        return [DASH, DASH]
    other = "" if (row.key.threads, row.key.batch) == usual else f" b{row.key.batch}"
    mark = _MARKS[row.origin]
    if row.service.p50_s is not None:
        low = f"{mark}{seconds(row.service.p50_s)}{other}"
    else:
        low = f"mean {mark}{seconds(row.service.mean_s)}{other}"
    found = tail(row.service)
    if found is None or found[0] in ("p50", "mean"):
        return [low, DASH]
    name, value = found
    return [low, f"{'' if name == 'p99' else name + ' '}{mark}{seconds(value)}"]


def _wide_cells(row: Measurement) -> list[str]:
    return [
        seconds(row.service.p99_upper_s),
        _MARKS[row.origin] + seconds(row.service.mean_s),
        str(row.n) if row.n else DASH,
        seconds(row.load_s),
    ]


def _rate(row: Measurement) -> str:
    threads = f" t{row.key.threads}" if row.key.threads > 1 else ""
    sign = ">" if row.censored else ""
    return f"{_MARKS[row.origin]}{sign}{rate(row.throughput_per_s)} b{row.key.batch}{threads}"


def place_notes(place: Place) -> list[str]:
    """What the table's marks mean where they are used, and what could not be measured."""
    notes = []
    if any(row.origin == "interpolated" for choice in place.choices for row in (choice.first, choice.best) if row):
        notes.append("~ interpolated from other points, not measured")
    senders = {tuple(row.key.senders.items()): None for choice in place.choices for row in choice.points}
    for sent in filter(None, senders):
        notes.append(f"measured with what {', '.join(f'{name}={choice}' for name, choice in sent)} sends it")
    for choice in place.choices:
        sources = {row.source for row in choice.points if row.origin == "imported"}
        if choice.accuracy is not None and choice.accuracy.source:
            sources.add(choice.accuracy.source)
        notes += [f"* {choice.choice}: {source}" for source in sorted(sources)]
        if any(row.censored for row in choice.points):
            notes.append(f"> {choice.choice}: no more load was offered than that; it may do more")
        if choice.skip:
            notes.append(f"{choice.choice}: runs no model")
        notes += _failures(choice)
    missing = [choice.choice for choice in place.choices if not (choice.points or choice.failed or choice.skip)]
    if missing:
        notes.append(f"not measured: {', '.join(missing)}")
    if any(choice.dominated for choice in place.choices):
        names = ", ".join(choice.choice for choice in place.choices if choice.dominated)
        notes.append(f"dominated (another is at least as accurate and as fast): {names}")
    return notes


def _failures(choice: ChoiceView) -> list[str]:
    notes = []
    reasons: dict[str, list[str]] = {}
    for row in choice.failed:
        place = f"b{row.key.batch}" + (f" t{row.key.threads}" if row.key.threads > 1 else "")
        reasons.setdefault(f"{row.status}: {row.reason}", []).append(place)
    for reason, places in reasons.items():
        notes.append(f"{choice.choice} ({', '.join(places)}): {reason}")
    if choice.accuracy is not None and choice.accuracy.status != "ok":
        notes.append(f"{choice.choice}: accuracy: {choice.accuracy.status}: {choice.accuracy.reason}")
    return notes


def lineage_table(place: Place, margin: float = MARGIN) -> Table:
    """One row per choice that was made from another: is it as accurate, and is it faster?"""
    rows = []
    for choice in place.choices:
        if choice.lineage is not None:
            made = choice.lineage
            said = accuracy_statement(made.accuracy, margin)
            rows.append([choice.choice, made.parent, made.recipe or DASH, said, speed_statement(made)])
    return Table(left("choice", "made from", "by", "accuracy", "mean time"), rows)


def accuracy_statement(found: Comparison | None, margin: float = MARGIN) -> str:
    """What the paired test says of a choice beside its parent."""
    if found is None:
        return DASH
    chance = "p < 0.001" if found.p_value < 0.001 else f"p = {found.p_value:.2g}"
    if found.verdict == "no difference shown" or found.verdict == "better":
        close = f"as accurate within {margin:g}" if found.as_accurate_within(margin) else "no difference shown"
        if found.verdict == "no difference shown":
            return close if found.as_accurate_within(margin) else f"{close} ({found.lower:+.3f}..{found.upper:+.3f})"
        return f"better by {abs(found.difference):.4f} ({chance})"
    within = f", within {margin:g}" if found.as_accurate_within(margin) else ""
    return f"worse by {abs(found.difference):.4f} ({chance}){within}"


def speed_statement(made: Lineage) -> str:
    """Time beside that of the parent: a variant made to be faster may be slower, and is shown as such."""
    if made.time_ratio is None:
        return DASH
    at = f" (b{made.batch})"
    if made.time_lower is not None and made.time_upper is not None and made.time_lower <= 1 <= made.time_upper:
        return f"no difference shown{at}"
    if made.time_ratio > 1:
        return f"SLOWER, {made.time_ratio:.2f} times{at}"
    return f"{1 / made.time_ratio:.2f} times as fast{at}"


def points_table(place: Place) -> Table:
    """Every point of a place that counts."""
    columns = [
        *left("choice"),
        *right("batch", "threads", "p50", "p99", "p99 bound", "rate", "memory", "batches"),
        *left("origin"),
    ]
    rows = []
    for choice in place.choices:
        for row in (*choice.points, *choice.failed):
            rows.append([choice.choice, str(row.key.batch), str(row.key.threads), *_point_cells(row)])
    return Table(columns, rows)


def _point_cells(row: Measurement) -> list[str]:
    if row.status != "ok":
        return [DASH] * 6 + [row.status]
    found = tail(row.service)
    high = DASH if found is None else f"{'' if found[0] == 'p99' else found[0] + ' '}{seconds(found[1])}"
    return [
        seconds(row.service.p50_s),
        high,
        seconds(row.service.p99_upper_s),
        ("> " if row.censored else "") + rate(row.throughput_per_s),
        size(row.peak_gpu_bytes if row.peak_gpu_bytes is not None else row.peak_rss_bytes),
        str(row.n) if row.n else DASH,
        row.origin if row.origin != "imported" else row.source,
    ]


def interference_table(rows: Iterable[InterferenceRow]) -> Table:
    """How much slower choices are with others at work beside them."""
    cells = []
    for row in sorted(rows, key=lambda r: (r.key.stage, r.choice, r.key.batch, r.neighbours)):
        beside = ", ".join(f"{stage}={choice} b{batch}" for stage, choice, batch, _ in json.loads(row.neighbours))
        ends = (row.slowdown_lower, row.slowdown_upper)
        interval = DASH if ends[0] is None or ends[1] is None else f"{ends[0]:.2f}..{ends[1]:.2f}"
        value = DASH if row.slowdown is None else f"{row.slowdown:.2f}"
        p90 = DASH if row.slowdown_p90 is None else f"{row.slowdown_p90:.2f}"
        note = "" if row.status == "ok" else f"{row.status}: {row.reason}"
        cells.append([f"{row.key.stage}={row.choice} b{row.key.batch}", beside, value, interval, p90, note])
    columns = [*left("choice", "beside"), *right("slow-down", "95 %", "of p90"), *left("note")]
    if not any(row[-1] for row in cells):
        return Table(columns[:-1], [row[:-1] for row in cells])
    return Table(columns, cells)


def combinations_table(rows: Sequence[AccuracyRow], metric: str, direction: str = "maximize") -> Table:
    """End-to-end measurements of whole combinations, best first."""
    sign = 1.0 if direction == "minimize" else -1.0
    found = [row for row in rows if row.scope == "pipeline" and row.metric == metric]
    found.sort(key=lambda row: (sign * row.value if row.value is not None else float("inf"), row.combination))
    cells = [
        [
            ", ".join(f"{stage}={name}" for stage, name in sorted(row.stages().items())),
            *_accuracy_cells(row),
            str(row.n),
        ]
        for row in found
    ]
    return Table([*left("combination"), *right(metric, "95 %", "n")], cells)
