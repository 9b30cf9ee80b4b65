"""Which replicas may stand on one machine, besides what fits.

Replicas share a GPU where its memory holds both and each choice was measured beside the other; a choice that was
not measured beside itself has at most one replica on a GPU. Without such measurements, or where the peak of GPU
memory or the device's `gpu_memory_bytes` is not known, a replica has the GPU to itself.
"""

from __future__ import annotations

from collections.abc import Mapping

from inferplan.solvers.columns import Column


def most_together(column: Column) -> int | None:
    """How many replicas of a column one machine may hold; None where that is as many as fit."""
    option = column.option
    alone = option.company and f"{option.stage}/{option.variant}" not in option.company
    return 1 if alone else column.most


def strangers(named: Mapping[str, Column]) -> frozenset[frozenset[str]]:
    """Pairs of columns whose replicas may not share a GPU, as they were never measured beside one another."""
    sharing = {name: column.option for name, column in named.items() if column.option.company}
    return frozenset(
        frozenset({one, other})
        for one, option in sharing.items()
        for other, neighbour in sharing.items()
        if one < other
        and option.device == neighbour.device
        and f"{neighbour.stage}/{neighbour.variant}" not in option.company
    )
