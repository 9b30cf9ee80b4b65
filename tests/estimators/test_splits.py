"""Splits of jobs against exhaustive enumeration; batches against every way to cut; mixtures."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inferplan.estimators.composition import AccuracyEstimate, Turn
from inferplan.estimators.mixture import mixture
from inferplan.estimators.splits import (
    Configuration,
    batch_cuts,
    fastest,
    fronts,
    is_valid,
    most_accurate,
    split_of,
)


def partitions(n: int, largest: int) -> Iterator[tuple[int, ...]]:
    if n == 0:
        yield ()
    for size in range(min(n, largest), 0, -1):
        yield from ((size, *rest) for rest in partitions(n - size, size))


def compositions(n: int, parts: int) -> Iterator[tuple[int, ...]]:
    if parts == 1:
        yield (n,)
        return
    for first in range(n + 1):
        yield from ((first, *rest) for rest in compositions(n - first, parts - 1))


@settings(max_examples=60)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=6), st.integers(0, 11))
def test_batches_take_least_time(times: list[int], most: int) -> None:
    found = batch_cuts(lambda size: times[size - 1] / 7, len(times), most)
    for n, (time, batches) in enumerate(found):
        assert sum(batches) == n
        assert time == pytest.approx(sum(times[size - 1] for size in batches) / 7)
        assert time == pytest.approx(min(sum(times[s - 1] for s in cut) / 7 for cut in partitions(n, len(times))))


@st.composite
def instances(draw: st.DrawFn) -> tuple[list[Configuration], int]:
    """Configurations with any times at all, also such that more requests take less."""
    most = draw(st.integers(1, 7))
    count = draw(st.integers(1, 4))
    made = []
    for index in range(count):
        times = draw(st.lists(st.integers(1, 40), min_size=most, max_size=most))
        made.append(Configuration(f"c{index}", draw(st.integers(0, 20)) / 20, (0.0, *(float(t) for t in times))))
    return made, most


@settings(max_examples=150)
@given(instances(), st.integers(0, 20), st.sampled_from(["maximize", "minimize"]))
def test_splits_are_valid_and_as_fast_as_exhaustive_enumeration(
    instance: tuple[list[Configuration], int], target: int, direction: str
) -> None:
    configurations, most = instance
    turn = Turn(direction)  # type: ignore[arg-type]
    asked = target / 20
    for b, front in enumerate(fronts(configurations, most, turn)):
        if b == 0:
            continue
        times = []
        for counts in compositions(b, len(configurations)):
            split = split_of({c.name: n for c, n in zip(configurations, counts, strict=True) if n}, configurations)
            if is_valid(split, b, asked, turn):
                times.append(split.time_s)
        found = fastest(front, asked, turn)
        if found is None:
            assert not times
        else:
            assert is_valid(found, b, asked, turn)
            assert found.time_s == pytest.approx(min(times))


@settings(max_examples=60)
@given(instances(), st.integers(0, 120))
def test_the_most_accurate_within_a_time(instance: tuple[list[Configuration], int], deadline: int) -> None:
    configurations, most = instance
    front = fronts(configurations, most, Turn("maximize"))[most]
    every = [
        split_of({c.name: n for c, n in zip(configurations, counts, strict=True) if n}, configurations)
        for counts in compositions(most, len(configurations))
    ]
    within = [split.accuracy for split in every if split.time_s <= deadline]
    found = most_accurate(front, deadline)
    assert (found is None) == (not within)
    if found is not None:
        assert found.accuracy == pytest.approx(max(within))


def test_a_split_that_leaves_one_out_or_misses_the_mean_is_not_valid() -> None:
    configurations = [Configuration("a", 0.5, (0.0, 1.0, 2.0)), Configuration("b", 1.0, (0.0, 2.0, 4.0))]
    turn = Turn("maximize")
    assert is_valid(split_of({"a": 1, "b": 1}, configurations), 2, 0.75, turn)
    assert not is_valid(split_of({"a": 1, "b": 1}, configurations), 3, 0.75, turn)
    assert not is_valid(split_of({"a": 2}, configurations), 2, 0.75, turn)


def test_a_mixture_is_the_mean_with_the_mean_of_the_ends() -> None:
    parts = [(3.0, AccuracyEstimate(0.8, 0.7, 0.9, "measured")), (1.0, AccuracyEstimate(0.6, 0.5, 0.8, "predicted"))]
    found = mixture([*parts, (0.0, AccuracyEstimate(0.0, source="declared"))])
    assert found.value == pytest.approx(0.75)
    assert (found.lower, found.upper) == (pytest.approx(0.65), pytest.approx(0.875))
    assert found.source == "predicted"
    without = mixture([(1.0, AccuracyEstimate(0.5)), (1.0, AccuracyEstimate(1.0, 0.9, 1.0))])
    assert (without.value, without.lower) == (0.75, None)
    with pytest.raises(ValueError, match="not negative"):
        mixture([(-1.0, AccuracyEstimate(0.5)), (2.0, AccuracyEstimate(0.5))])
    assert math.isclose(mixture([(0.2, AccuracyEstimate(0.5))]).value, 0.5)
