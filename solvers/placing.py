"""Which replicas may stand on one machine, besides what fits.

Replicas share a GPU where its memory holds both and each choice was measured beside the other; a choice that was
not measured beside itself has at most one replica on a GPU. Without such measurements, or where the peak of GPU
memory or the device's `gpu_memory_bytes` is not known, a replica has the GPU to itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from inferplan.estimators.cost import Capacity
from inferplan.solvers.options import Option

if TYPE_CHECKING:
    from inferplan.solvers.columns import Column


def dimensions(machine: Capacity) -> list[tuple[int, Callable[[Column], int]]]:
    """Room of a machine and need of a column's replica, per limited resource."""

    def need_of(what: str) -> Callable[[Column], int]:
        return lambda column: int(getattr(column.option.need, what, 0) or 0)

    names = ("cores", "memory_bytes", "gpus", "gpu_memory_bytes")
    return [(room, need_of(what)) for what in names if (room := getattr(machine, what))]


def most_together(option: Option, most: int | None = None) -> int | None:
    """How many replicas of an option one machine may hold, `most` at most; None where that is as many as fit."""
    alone = option.company and f"{option.stage}/{option.variant}" not in option.company
    return 1 if alone else most


def strangers(named: Mapping[str, Option], exclusive: frozenset[str] = frozenset()) -> frozenset[frozenset[str]]:
    """Pairs of options whose replicas may not share a machine: a GPU, as they were never measured beside one another;
    or an exclusive machine, as they are of different stages."""
    own = {name: option for name, option in named.items() if option.device in exclusive}
    alone = frozenset(
        frozenset({one, other})
        for one, option in own.items()
        for other, neighbour in own.items()
        if one < other and option.device == neighbour.device and option.stage != neighbour.stage
    )
    sharing = {name: option for name, option in named.items() if option.company}
    return alone | frozenset(
        frozenset({one, other})
        for one, option in sharing.items()
        for other, neighbour in sharing.items()
        if one < other
        and option.device == neighbour.device
        and f"{neighbour.stage}/{neighbour.variant}" not in option.company
    )


def column_names(columns: Sequence[Column]) -> dict[str, Column]:
    """Chosen columns by name: the option's; where classes keep queues of their own of one option, with a number."""
    named: dict[str, Column] = {}
    for column in sorted(columns, key=lambda c: (c.option.name, c.classes)):
        name, number = column.option.name, 1
        while name in named:
            number += 1
            name = f"{column.option.name}-{number}"
        named[name] = column
    return named
