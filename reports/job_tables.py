"""The strategy table of jobs, and the verdicts on job classes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Protocol

from inferplan.estimators.splits import Split
from inferplan.reports.quantities import DASH, seconds, share
from inferplan.reports.tables import Table, left, right


class CellLike(Protocol):
    """A cell of the table: the split for so many requests at a mean accuracy, or why there is none."""

    @property
    def requests(self) -> int: ...
    @property
    def target(self) -> float: ...
    @property
    def split(self) -> Split | None: ...
    @property
    def reason(self) -> str: ...


class VerdictLike(Protocol):
    """What becomes of a job class."""

    @property
    def name(self) -> str: ...
    @property
    def requests(self) -> int: ...
    @property
    def target(self) -> float | None: ...
    @property
    def deadline_s(self) -> float: ...
    @property
    def percentile(self) -> float: ...
    @property
    def split(self) -> Split | None: ...
    @property
    def tail_s(self) -> float | None: ...
    @property
    def verdict(self) -> str: ...
    @property
    def reason(self) -> str: ...


def strategy_table(cells: Sequence[CellLike]) -> Table:
    """A row per job size and range of mean accuracies that have the same split; infeasible ones dim."""
    rows: list[list[str]] = []
    dim: set[int] = set()
    for requests, own in itertools.groupby(cells, key=lambda cell: cell.requests):
        for _, same in itertools.groupby(own, key=lambda cell: None if cell.split is None else dict(cell.split.counts)):
            group = list(same)
            first = group[0]
            targets = share(first.target) + (f" to {share(group[-1].target)}" if len(group) > 1 else "")
            if first.split is None:
                dim.add(len(rows))
                rows.append([str(requests), targets, DASH, DASH, f"none: {first.reason}"])
            else:
                split = first.split
                rows.append([str(requests), targets, seconds(split.time_s), share(split.accuracy), split_text(split)])
    columns = [*right("requests"), *left("mean accuracy asked"), *right("time", "accuracy"), *left("split")]
    return Table(columns, rows, frozenset(dim))


def split_text(split: Split) -> str:
    """A split in words: `5 x m@acc, 3 x m@gyro`; most requests first."""
    ordered = sorted(split.counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} x {name}" for name, count in ordered)


def verdicts_table(verdicts: Sequence[VerdictLike]) -> Table:
    """A row per job class."""
    rows = []
    for one in verdicts:
        split = one.split
        rows.append(
            [
                one.name,
                str(one.requests),
                share(one.target),
                share(None if split is None else split.accuracy),
                seconds(None if split is None else split.time_s),
                DASH if one.tail_s is None else f"p{one.percentile:g} {seconds(one.tail_s)}",
                seconds(one.deadline_s),
                one.verdict,
                DASH if split is None else split_text(split),
                one.reason,
            ]
        )
    columns = [
        *left("class"),
        *right("requests", "asked", "accuracy", "mean time", "tail", "deadline"),
        *left("verdict", "split", ""),
    ]
    return Table(columns, rows)
