"""A profile as a table people read: accuracy, latency, throughput, memory per variant; dominated ones dim."""

from __future__ import annotations

from collections.abc import Iterable

from inferplan.reports.quantities import DASH, rate, seconds, share, size
from inferplan.reports.tables import Table, left, right
from inferplan.spec.profile import Profile
from inferplan.spec.rows import AccuracyRow, Measurement
from inferplan.spec.workload import Workload


def variants_table(workload: Workload, profile: Profile) -> Table:
    """One row per variant and stage: its metric with interval, and service times at batch 1 and at the
    largest measured batch, with the fewest measured threads."""
    columns = [
        *left("stage", "variant", "metric"),
        *right("value", "95 % interval", "n", "p50 b1", "p99 b1", "p99 bound", "p50 bmax", "peak rate", "memory"),
        *left("note"),
    ]
    rows: list[list[str]] = []
    points: list[tuple[str, float | None, float | None]] = []
    for stage_name, stage in workload.pipeline.stages.items():
        metric = stage.metric.name if stage.metric else ""
        sign = -1.0 if stage.metric and stage.metric.direction == "minimize" else 1.0
        for variant in stage.variants:
            accuracy = _accuracy(profile.accuracy, stage_name, variant, metric)
            mine = [m for m in profile.measurements if (m.key.stage, m.key.variant) == (stage_name, variant)]
            skip = stage.variants[variant].runtime == "skip"
            rows.append([stage_name, variant, metric or DASH, *_accuracy_cells(accuracy), *_latency_cells(mine, skip)])
            value = sign * accuracy.value if accuracy and accuracy.value is not None else None
            points.append((stage_name, value, 0.0 if skip else _first_p50(mine)))
    return Table(columns, rows, frozenset(_dominated(points)))


def _accuracy(rows: Iterable[AccuracyRow], stage: str, variant: str, metric: str) -> AccuracyRow | None:
    wanted = ("stage", stage, variant, metric)
    return next((row for row in rows if (row.scope, row.stage, row.variant, row.metric) == wanted), None)


def _accuracy_cells(row: AccuracyRow | None) -> list[str]:
    if row is None:
        return [DASH, DASH, DASH]
    interval = DASH if row.lower is None or row.upper is None else f"{row.lower:.4f}..{row.upper:.4f}"
    return [share(row.value), interval, str(row.n)]


def _good(rows: Iterable[Measurement]) -> list[Measurement]:
    good = [row for row in rows if row.status == "ok"]
    fewest = min((row.key.threads for row in good), default=0)
    return sorted((row for row in good if row.key.threads == fewest), key=lambda row: row.key.batch)


def _first_p50(rows: Iterable[Measurement]) -> float | None:
    good = _good(rows)
    return good[0].service.p50_s if good else None


def _latency_cells(rows: list[Measurement], skip: bool) -> list[str]:
    if skip:
        return ["0 s", "0 s", DASH, "0 s", DASH, DASH, "runs no model"]
    good, failed = _good(rows), [row for row in rows if row.status != "ok"]
    note = f"{failed[0].status}: {failed[0].reason}" if failed else ""
    if not good:
        return [DASH] * 6 + [note or "not measured"]
    first, last = good[0], good[-1]
    best = max((row.throughput_per_s or 0.0 for row in good), default=0.0)
    memory = max((row.peak_rss_bytes or 0 for row in good), default=0)
    return [
        seconds(first.service.p50_s),
        seconds(first.service.p99_s),
        seconds(first.service.p99_upper_s),
        f"{seconds(last.service.p50_s)} (b{last.key.batch})",
        rate(best),
        size(memory) if memory else DASH,
        note,
    ]


def _dominated(points: list[tuple[str, float | None, float | None]]) -> Iterable[int]:
    """Indices of variants that another of the stage beats: at least as accurate and as fast, one strictly."""
    for index, (stage, accuracy, latency) in enumerate(points):
        if accuracy is None or latency is None:
            continue
        for other_stage, other_accuracy, other_latency in points:
            if other_stage != stage or other_accuracy is None or other_latency is None:
                continue
            no_worse = other_accuracy >= accuracy and other_latency <= latency
            if no_worse and (other_accuracy > accuracy or other_latency < latency):
                yield index
                break


def combinations_table(profile: Profile, metric: str) -> Table:
    """End-to-end measurements of whole combinations, best first."""
    rows = [row for row in profile.accuracy if row.scope == "pipeline" and row.metric == metric]
    rows.sort(key=lambda row: (-(row.value if row.value is not None else float("-inf")), row.combination))
    cells = [
        [", ".join(f"{stage}={variant}" for stage, variant in sorted(row.stages().items())), *_accuracy_cells(row)]
        for row in rows
    ]
    return Table([*left("combination"), *right(metric, "95 % interval", "n")], cells)
