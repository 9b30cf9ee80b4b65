"""Borrowing between series: what is alike is learnt from the others, and a point never predicts itself."""

from __future__ import annotations

import numpy as np
import pytest
from latency_cases import observed

from inferplan.estimators.kriging import Field, Spot


def family(batches: dict[int, tuple[int, ...]] | None = None) -> list:  # type: ignore[type-arg]
    """Four choices of one shape, times 1, 2, 4, 8; `batches` of some of them."""
    found = []
    for index in range(4):
        scale = 0.001 * 2**index
        kept = (batches or {}).get(index, (1, 2, 4, 8, 16))
        found += observed(f"v{index}", lambda b, scale=scale: scale * (1 + b**1.2), kept)
    return found


def test_a_series_with_one_point_takes_its_shape_from_the_others() -> None:
    items = family({3: (1,)})
    field = Field(items, by_size=False)
    key = items[-1].key
    spots = [Spot(key, batch, float(np.log(batch))) for batch in (2, 4, 8, 16)]
    truth = [0.008 * (1 + batch**1.2) for batch in (2, 4, 8, 16)]
    assert np.exp(field.log_s(spots)) == pytest.approx(truth, rel=0.05)


def test_threads_are_borrowed_from_the_choice_and_its_stage() -> None:
    items = []
    for index, exponent in enumerate((0.3, 0.5, 0.9)):
        for threads in (1, 2, 4):
            kept = (1, 4) if (index, threads) == (2, 4) else (1, 2, 4, 8)
            items += observed(f"v{index}", lambda b, e=exponent, t=threads: 0.01 * (0.2 + b) * t**-e, kept, threads)
    missing = next(item for item in items if item.key.choice == "v2" and item.key.threads == 4)
    found = Field(items, by_size=False).log_s([Spot(missing.key, 8, float(np.log(8)))])
    assert np.exp(found[0]) == pytest.approx(0.01 * 8.2 * 4**-0.9, rel=0.05)


def test_what_is_predicted_of_a_point_does_not_know_it() -> None:
    items = family()
    field = Field(items, by_size=False)
    before = field.held_out_logs()
    changed = list(items)
    changed[7] = type(items[7])(items[7].key, items[7].batch, items[7].mean_s * 1.5)
    after = Field(changed, by_size=False).held_out_logs()
    assert after[7] == pytest.approx(before[7], abs=1e-6)
    assert np.abs(after - before).max() > 0.01


def test_times_by_size_follow_what_was_fed() -> None:
    items = []
    for index, sizes in enumerate(([100, 150, 700, 900], [120, 300, 320, 1500])):
        for batch, size in zip((1, 2, 4, 8), sizes, strict=True):
            items += observed(f"v{index}", lambda b, s=size, i=index: 1e-5 * (1 + i) * s, (batch,), size=float(size))
    field = Field(items, by_size=True)
    spot = Spot(items[0].key, 4, float(np.log(400)))
    assert np.exp(field.log_s([spot])[0]) == pytest.approx(4e-3, rel=0.03)
