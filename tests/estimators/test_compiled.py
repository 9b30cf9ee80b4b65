"""Compiled loops: as the interpreted ones to the last bit, with many replicas too, and only where they can be kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from heapq import heapify, heapreplace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inferplan.estimators.network import Station
from inferplan.estimators.simulation.compiled import INTERPRETED, compiled, loops
from inferplan.estimators.simulation.kernels import sifted
from inferplan.estimators.simulation.station import serve

MakeStation = Callable[..., Station]
ENTRIES = st.tuples(st.integers(0, 5).map(float), st.sampled_from([1.0, 1.5]))


@given(start=st.lists(ENTRIES, min_size=1, max_size=40), items=st.lists(ENTRIES, max_size=60))
def test_what_is_sifted_in_comes_out_in_order(
    start: list[tuple[float, float]], items: list[tuple[float, float]]
) -> None:
    heap, other = list(start), list(start)
    heapify(heap)
    heapify(other)
    for item in items:
        assert heap[0] == heapreplace(other, item)
        sifted(heap, item)
    assert sorted(heap) == sorted(other)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_many_replicas_give_the_same_bytes(station: MakeStation, data: st.DataObject) -> None:
    pytest.importorskip("numba")
    fast = compiled()
    assert fast.compiled
    replicas, seed = data.draw(st.integers(1, 70)), data.draw(st.integers(0, 1000))
    times = [(1, 0.1), (8, 0.25)] if data.draw(st.booleans()) else [(1, 0.1)]
    slow = tuple(np.random.default_rng(seed).choice([1.0, 1.25, 2.0], replicas).tolist())
    made = replace(station("s", "s", times, replicas, cv=0.5), slowdowns=data.draw(st.sampled_from([(), slow])))
    arrivals = np.sort(np.random.default_rng(seed).random(600)) * data.draw(st.sampled_from([0.1, 1.0, 10.0]))
    one, other = (serve(arrivals, made, np.random.default_rng(seed), loops=w) for w in (INTERPRETED, fast))
    for part in ("done_s", "starts_s", "sizes", "services_s", "ready_s"):
        assert np.array_equal(getattr(one, part), getattr(other, part)), part


@pytest.fixture
def nowhere_to_keep(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package and a home that cannot be written, as in many containers."""
    pytest.importorskip("numba")
    from numba.core.caching import CacheImpl

    monkeypatch.setattr(CacheImpl, "_locator_classes", [])
    compiled.cache_clear()
    yield
    compiled.cache_clear()


@pytest.mark.usefixtures("nowhere_to_keep")
def test_without_a_place_to_keep_them_loops_stay_as_they_are() -> None:
    assert compiled() is INTERPRETED
    assert loops(10**8) is INTERPRETED
