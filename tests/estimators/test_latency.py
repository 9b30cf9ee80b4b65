"""Latency models: measured points exact, noise-free families recovered, errors honest, ranges kept."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from latency_cases import observed

from inferplan.estimators.latency import GroupModel, RangeError, latency_models
from inferplan.estimators.observations import Observation

TOLERANCE = 0.15
FAMILIES: dict[str, Callable[[int], Callable[[float], float]]] = {
    "affine": lambda i: lambda b: 0.001 * (i + 1) * (0.3 * i + b),
    "power": lambda i: lambda b: 0.002 * (i + 1) * b ** (0.6 + 0.1 * i),
    "shared shape": lambda i: lambda b: 0.001 * 2**i * (1 + b**1.3 / (1 + 0.1 * b)),
    "saturating": lambda i: lambda b: 0.001 * (i + 1) * max(b, 3.0),
}


def one_group(items: list[Observation]) -> GroupModel:
    models = latency_models(items, TOLERANCE)
    assert len(models) == 1
    return next(iter(models.values()))


def family(name: str, count: int = 5, noise: float = 0.0) -> list[Observation]:
    rng = np.random.default_rng(0)
    items = []
    for index in range(count):
        items += observed(f"v{index}", FAMILIES[name](index), error=noise)
    return [
        Observation(item.key, item.batch, item.mean_s * float(np.exp(noise * rng.standard_normal())), noise)
        for item in items
    ]


@pytest.mark.parametrize("name", ["affine", "power", "shared shape"])
def test_families_without_noise_are_predicted_within_five_percent(name: str) -> None:
    errors = one_group(family(name)).errors("interior", "lower", "upper")
    assert errors.n == 25
    assert errors.median is not None
    assert errors.p90 is not None
    assert errors.p90 < 0.05


def test_affine_times_are_recovered_exactly_and_told_so() -> None:
    group = one_group(family("affine"))
    assert group.fit.name == "affine"
    assert group.errors().p90 == pytest.approx(0, abs=1e-9)


def test_one_series_alone_is_modelled_too() -> None:
    group = one_group(observed("v", lambda b: 0.002 * b**0.7))
    assert group.errors("interior").p90 == pytest.approx(0, abs=0.05)


@settings(max_examples=20)
@given(st.lists(st.floats(1e-4, 1.0), min_size=6, max_size=12))
def test_measured_points_are_exact_whatever_they_are(times: list[float]) -> None:
    items = [o for i, t in enumerate(times) for o in observed(f"v{i % 3}", lambda b, t=t: t, (2 ** (i // 3),))]
    for one in one_group(items).series.values():
        for item in one.observations:
            found = one.estimate(item.batch)
            assert (found.mean_s, found.basis) == (item.mean_s, "measured")


def test_the_order_of_observations_changes_nothing() -> None:
    items = family("shared shape", noise=0.05)
    shuffled = list(items)
    random.Random(3).shuffle(shuffled)
    one, other = one_group(items), one_group(shuffled)
    assert one.fit == other.fit
    assert one.logs() == other.logs()
    for key in one.series:
        assert one.series[key].estimate(3) == other.series[key].estimate(3)


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_rising_points_give_rising_predictions(name: str) -> None:
    for one in one_group(family(name)).series.values():
        times = [one.estimate(batch).mean_s for batch in range(1, one.range[1] + 1)]
        marks = [times[item.batch - 1] for item in one.observations]
        assert marks == sorted(marks)
        for item in one.observations:
            assert all(time_s <= item.mean_s * (1 + 1e-9) for time_s in times[: item.batch])


def test_errors_of_a_noisy_machine_are_about_its_noise() -> None:
    group = one_group(family("affine", 12, noise=0.04))
    found, least = group.errors("interior", "lower", "upper"), group.noise()
    assert least.median == pytest.approx(0.027, abs=0.002)
    assert found.median is not None
    assert least.median is not None
    assert 0.8 * least.median < found.median < 2 * least.median


def test_intervals_hold_nine_in_ten_of_what_was_not_measured() -> None:
    truth = {f"v{i}": FAMILIES["affine"](i) for i in range(12)}
    held = []
    for one in one_group(family("affine", 12, noise=0.04)).series.values():
        for batch in (3, 6, 12):
            found = one.estimate(batch)
            assert found.lower_s is not None
            assert found.upper_s is not None
            held.append(found.lower_s <= truth[one.key.choice](batch) <= found.upper_s)
    assert np.mean(held) >= 0.85


def test_extrapolation_goes_as_far_as_it_was_tried_and_is_refused_beyond() -> None:
    group = one_group(family("affine", 9))
    one = next(iter(group.series.values()))
    assert group.reach == 2
    assert one.range == (1, 32)
    assert one.estimate(32).basis == "extrapolated"
    with pytest.raises(RangeError, match="measured up to 16, predicted up to 32"):
        one.estimate(33)


def test_without_nine_tests_or_with_large_errors_nothing_is_extrapolated() -> None:
    few = next(iter(one_group(family("affine", 8)).series.values()))
    assert few.range == (1, 16)
    wild = family("affine", 12, noise=0.4)
    assert one_group(wild).reach == 1
    with pytest.raises(RangeError, match="predicted up to 16"):
        few.estimate(17)


def test_batches_below_the_smallest_are_padded_up_to_it() -> None:
    one = next(iter(one_group(observed("v", lambda b: 0.01 * b, (4, 8, 16))).series.values()))
    assert one.estimate(2).mean_s == 0.04
    assert one.estimate(2).basis == "padded"


def test_a_series_with_one_batch_size_borrows_and_says_so() -> None:
    items = family("shared shape") + observed("lone", lambda b: 0.004, (1,))
    lone = next(one for one in one_group(items).series.values() if one.key.choice == "lone")
    assert lone.range == (1, 1)
    assert lone.errors().n == 0
    more = items + observed("lone", lambda b: 0.003, (1, 2, 4, 8, 16), threads=2)
    lone = next(o for o in one_group(more).series.values() if (o.key.choice, o.key.threads) == ("lone", 1))
    assert [test.kind for test in lone.group.tests if test.observation.key == lone.key] == ["borrowed"]


def test_sizes_are_used_where_they_tell_more_than_the_batch() -> None:
    rng = np.random.default_rng(5)
    items = []
    for index in range(6):
        for batch in (1, 2, 4, 8):
            size = batch * 1000 * float(np.exp(0.4 * rng.standard_normal()))
            items += observed(f"v{index}", lambda b, s=size, i=index: 1e-6 * (i + 1) * s, (batch,), size=size)
    group = one_group(items)
    assert group.fit.by_size
    assert group.errors("interior").p90 == pytest.approx(0, abs=0.03)


def test_times_are_the_same_as_without_sizes_where_all_inputs_are_alike() -> None:
    plain = one_group(family("affine"))
    sized = one_group([Observation(o.key, o.batch, o.mean_s, size=7.0 * o.batch) for o in family("affine")])
    assert sized.candidates == plain.candidates


def test_what_the_profiler_interpolated_is_said_as_it_is_and_not_counted() -> None:
    items = observed("v", lambda b: 0.001 * (1 + b), (1, 2, 4))
    key = items[0].key
    models = latency_models(items, TOLERANCE, {key: (Observation(key, 8, 0.02), Observation(key, 4, 9.9))})
    group = next(iter(models.values()))
    one = group.series[key]
    assert one.range == (1, 8)
    assert (one.estimate(8).mean_s, one.estimate(8).basis) == (0.02, "interpolated")
    assert (one.estimate(4).mean_s, one.estimate(4).basis) == (items[2].mean_s, "measured")
    assert one.estimate(6).basis == "extrapolated"
    assert len(group.tests) == 3


def test_the_errors_with_the_fit_chosen_blindly_stand_beside() -> None:
    group = one_group(family("affine", 12, noise=0.04))
    assert {test.chosen for test in group.tests} == {group.fit}
    assert {test.blind for test in group.tests} <= set(group.candidates)
    blind = group.blind_errors()
    assert blind.n == group.errors("interior", "lower", "upper").n
    # Blind choices may be worse, and are of the same size: there are two fits to choose from.
    assert blind.median is not None
    assert blind.median < 2 * 0.04
