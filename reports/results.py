"""Frontiers and comparisons as rows: one record each, as tables for people and as Parquet for programs."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from inferplan.reports.quantities import DASH, money, seconds, share
from inferplan.reports.tables import Table, left, right

if TYPE_CHECKING:
    import pyarrow as pa


def _field(description: str, unit: str = "") -> typing.Any:
    return dataclasses.field(metadata={"description": description, "unit": unit})


@dataclasses.dataclass(frozen=True)
class FrontierRow:
    """A point of a frontier."""

    by: str = _field("Overrides that this frontier was found under, as --set takes them")
    cost_usd_per_h: float = _field("Price of the machines", "USD/h")
    accuracy: float | None = _field("Accuracy; of several classes the mean weighted by rates")
    latency_s: float | None = _field("Tabulated latency at the SLO's percentile (one class)", "s")
    latency_ratio: float | None = _field("The largest tabulated latency over its limit (several classes)")
    simulated_s: float | None = _field("Simulated latency at the SLO's percentile (one class)", "s")
    verdict: str = _field("Of the simulation on the SLOs: met, missed, undecided; empty where none was run")
    variants: str = _field("Choice per stage: stage=choice, ...")
    plan: str = _field("Options with their replicas")
    method: str = _field("labels, or program where these are not exact")


@dataclasses.dataclass(frozen=True)
class ComparisonRow:
    """What came of a strategy."""

    strategy: str = _field("Its name")
    cost_usd_per_h: float | None = _field("Price of the machines", "USD/h")
    accuracy: float | None = _field("Accuracy; of several classes the mean weighted by rates")
    p99_s: float | None = _field("Simulated 99th percentile of latency; of several classes the largest", "s")
    keeps: bool = _field("Whether every promise is kept")
    broken: str = _field("Promises that are not kept")
    decision_s: float = _field("Time to decide, one run", "s")
    variants: str = _field("Choice per stage: stage=choice, ...")
    plan: str = _field("Options with their replicas")
    note: str = _field("Why there is no deployment, or what of the workload the strategy cannot use")


@dataclasses.dataclass(frozen=True)
class ReplayRow:
    """What came of a strategy over traffic that moves."""

    strategy: str = _field("book, best fixed or oracle")
    predictor: str = _field("Of a book: who tells the load of the coming interval")
    usd: float = _field("Plans, and machines held while a switch lasts", "USD")
    usd_per_h: float = _field("The same per hour", "USD/h")
    over_oracle: float = _field("Cost over the oracle's, as a share of it")
    keeps: bool = _field("Whether every promise is kept over the whole")
    late_share: float = _field("Share of requests that are late or not answered, of the class nearest to its limit")
    allowed_share: float = _field("Share that this class's promise allows")
    late_requests: float = _field("Requests (of classes of jobs: jobs) that are late or not answered, all classes")
    unanswered: float = _field("Requests that are not answered: a queue was full")
    requests: float = _field("Requests (of classes of jobs: jobs), all classes")
    latency_s: float = _field("Latency of that class at its promised percentile", "s")
    worst_class: str = _field("That class")
    switches: float = _field("How often the plan changes")
    requests_at_risk: float = _field("Requests that switches put at risk, by calculation")
    plans: float = _field("Different plans in use")


Row = FrontierRow | ComparisonRow | ReplayRow


def frontier_table(rows: Sequence[FrontierRow]) -> Table:
    """One row per point."""
    grouped = len({row.by for row in rows}) > 1
    several = any(row.latency_ratio is not None for row in rows)
    judged = any(row.verdict for row in rows)
    columns = [
        *(left("for") if grouped else ()),
        *right("cost", "accuracy", "latency / limit" if several else "latency"),
        *((right("simulated") + left("verdict")) if judged else ()),
        *left("plan"),
    ]
    body = []
    for row in rows:
        latency = seconds(row.latency_s) if row.latency_ratio is None else f"{row.latency_ratio:.3f}"
        body.append(
            [
                *([row.by] if grouped else []),
                money(row.cost_usd_per_h),
                share(row.accuracy),
                latency,
                *([seconds(row.simulated_s), row.verdict or DASH] if judged else []),
                row.plan,
            ]
        )
    return Table(columns, body)


def comparison_table(rows: Sequence[ComparisonRow]) -> Table:
    """One row per strategy; those that break a promise are dim."""
    columns = [
        *left("strategy"),
        *right("cost", "accuracy", "p99"),
        *left("promises"),
        *right("decided in"),
        *left("plan"),
    ]
    body = [
        [
            row.strategy,
            money(row.cost_usd_per_h),
            share(row.accuracy),
            seconds(row.p99_s),
            "kept" if row.keeps else row.broken or "no deployment",
            seconds(row.decision_s),
            row.plan or row.note,
        ]
        for row in rows
    ]
    return Table(columns, body, frozenset(index for index, row in enumerate(rows) if not row.keeps))


def replay_table(rows: Sequence[ReplayRow]) -> Table:
    """One row per strategy; those that break a promise are dim."""
    columns = [
        *left("strategy"),
        *right("cost", "over"),
        *left("kept"),
        *right("late", "tail", "switches"),
    ]
    body = [
        [
            f"{row.strategy}, {row.predictor}" if row.predictor else row.strategy,
            money(row.usd_per_h),
            f"{100 * row.over_oracle:+.1f} %",
            "yes" if row.keeps else "no",
            f"{100 * row.late_share:.2g} of {100 * row.allowed_share:.2g} %",
            seconds(row.latency_s),
            f"{row.switches:.0f}",
        ]
        for row in rows
    ]
    return Table(columns, body, frozenset(index for index, row in enumerate(rows) if not row.keeps))


def write_parquet(rows: Sequence[Row], kind: type[Row], path: Path) -> None:
    """Write rows as one Parquet file; units and descriptions are in the schema."""
    import pyarrow.parquet as pq

    pq.write_table(_arrow(rows, kind), path)


def _arrow(rows: Sequence[Row], kind: type[Row]) -> pa.Table:
    import pyarrow as pa

    types = {str: pa.string(), float: pa.float64(), bool: pa.bool_()}
    hints = typing.get_type_hints(kind)
    fields = []
    for item in dataclasses.fields(kind):
        options = typing.get_args(hints[item.name]) or (hints[item.name],)
        plain = next(option for option in options if option is not type(None))
        fields.append(pa.field(item.name, types[plain], type(None) in options, dict(item.metadata)))
    return pa.Table.from_pylist([dataclasses.asdict(row) for row in rows], pa.schema(fields))
