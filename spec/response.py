"""Response curves as the workload declares them: a stage's output accuracy, by the accuracy of what it is given.

A curve is a table of points over the accuracies of the stages that feed it: one number per feeding stage, and the
output. With several feeding stages the points are a full grid (each value of one with each of the others), so that
reading between them is defined: straight along every axis (multilinear).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

from pydantic import Field

from inferplan.spec.types import ChoiceName, Name, Record


class CurvePoint(Record):
    """One point of a response curve."""

    given: dict[Name, float] = Field(min_length=1, description="Output accuracy of every stage that feeds this one.")
    output: float


class StageResponse(Record):
    """How a stage's output accuracy follows from that of its inputs, per choice."""

    curves: dict[ChoiceName, list[CurvePoint]] = Field(min_length=1)
    monotone: bool = Field(True, description="false: curves may fall where an input gets better, as measured ones may.")


def flaws(points: Sequence[CurvePoint], signs: Mapping[str, float], falls: float | None) -> Iterator[str]:
    """What keeps points from being a curve over the feeding stages.

    `signs` has a +1 per feeding stage whose metric is better when higher, -1 for the others; `falls` is the sign of
    the output's metric where the curve must be monotone, else None.
    """
    odd = [point for point in points if set(point.given) != set(signs)]
    if odd:
        wanted, got = ", ".join(sorted(signs)), ", ".join(sorted(odd[0].given))
        yield f"'given' names the stages that feed this one ({wanted}); a point has {got}"
        return
    names = sorted(signs)
    table: dict[tuple[float, ...], float] = {}
    for point in points:
        at = tuple(point.given[name] for name in names)
        if table.setdefault(at, point.output) != point.output:
            yield f"two points contradict each other: {_at(names, at)} gives {table[at]:g} and {point.output:g}"
            return
    axes = [sorted({at[index] for at in table}) for index in range(len(names))]
    for name, axis in zip(names, axes, strict=True):
        if len(axis) < 2:
            yield f"a curve needs at least two accuracies of {name}; there is only {axis[0]:g}"
            return
    for at in itertools.product(*axes):
        if at not in table:
            yield f"the points are no full grid: {_at(names, at)} is missing"
            return
    if falls is not None:
        yield from _falls(table, names, axes, [signs[name] for name in names], falls)


def _falls(
    table: Mapping[tuple[float, ...], float],
    names: Sequence[str],
    axes: Sequence[Sequence[float]],
    signs: Sequence[float],
    output: float,
) -> Iterator[str]:
    for index, axis in enumerate(axes):
        others = [axis_ if at != index else (None,) for at, axis_ in enumerate(axes)]
        better = axis if signs[index] > 0 else axis[::-1]
        for rest in itertools.product(*others):
            line = [tuple(value if v is None else v for v in rest) for value in better]
            for worse, good in itertools.pairwise(line):
                if output * table[good] < output * table[worse]:
                    yield (
                        f"the output gets worse where {names[index]} gets better: {table[worse]:g} at"
                        f" {_at(names, worse)}, {table[good]:g} at {_at(names, good)}; if it was measured so,"
                        " write monotone: false"
                    )
                    return


def _at(names: Sequence[str], at: Sequence[float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in zip(names, at, strict=True))
