"""Service times: exact at measured points, between them nowhere outside, never beyond."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferplan.estimators.service import GRID_WEIGHTS, ServiceModel, ServicePoint, percentile_draws_s
from inferplan.spec.rows import Measurement, PointKey, Quantiles, Samples

KEY = PointKey("s", "v", "", "", "", "onnxruntime", "1", "{}", "cpu", "t/d", "f", 4, 1, "{}")


@given(st.lists(st.tuples(st.integers(1, 64), st.floats(1e-4, 1.0)), min_size=1, max_size=6, unique_by=lambda p: p[0]))
def test_measured_points_are_exact_and_the_rest_lies_between(points: list[tuple[int, float]]) -> None:
    points = sorted(points)
    model = ServiceModel(tuple(ServicePoint(batch, mean) for batch, mean in points))
    for batch, mean in points:
        assert model.mean_s(batch) == pytest.approx(mean, rel=1e-12)
    for (low, a), (high, b) in itertools.pairwise(points):
        for batch in range(low, high + 1):
            assert min(a, b) - 1e-12 <= model.mean_s(batch) <= max(a, b) + 1e-12
    # A batch below the smallest measured one is padded up to it.
    assert model.mean_s(1) == pytest.approx(points[0][1])


def test_nothing_is_said_beyond_the_largest_measured_batch(model: Callable[..., ServiceModel]) -> None:
    service = model([(1, 0.01), (4, 0.02)])
    for ask in (service.mean_s, service.std_s, service.draws_s, service.grid_s):
        with pytest.raises(ValueError, match="measured up to 4"):
            ask(5)


def test_draws_are_the_measured_samples_scaled_to_the_batch() -> None:
    raw = np.array([0.02, 0.03, 0.04])

    def source(key: PointKey) -> Samples:
        return Samples(key.id(), np.zeros(3, np.int32), raw, raw, np.ones(len(raw), np.int64))

    row = Measurement(KEY, "ok", n=3, service=Quantiles(mean_s=0.03))
    model = ServiceModel((ServicePoint(1, 0.01, row=row), ServicePoint(4, 0.03, row=row)), source=source)
    assert model.draws_s(4) == pytest.approx(raw)
    assert model.draws_s(3) == pytest.approx(raw * model.mean_s(3) / 0.03)


def test_an_interpolated_point_has_the_shape_of_a_measured_one() -> None:
    raw = np.array([0.02, 0.03, 0.07])
    source = {KEY: Samples(KEY.id(), np.zeros(3, np.int32), raw, raw, np.ones(3, np.int64))}.get
    row = Measurement(dataclasses.replace(KEY, batch=2), "ok", service=Quantiles(mean_s=0.08), origin="interpolated")
    model = ServiceModel((ServicePoint(2, 0.08, 0.01, row=row, shape=KEY),), source=source)
    assert model.draws_s(2) == pytest.approx(raw * 2)


def test_pools_hold_the_draws_of_every_batch_size() -> None:
    handed = ServiceModel(
        (ServicePoint(1, 0.01, 0.002), ServicePoint(4, 0.02, 0.003)), handoff=(1e-4, 3e-4), handoff_call_s=1e-5
    )
    for most in (4, 1, 3):
        pools, at = handed.pools_s(most)
        assert len(at) == most + 2
        assert at[-1] == len(pools)
        for size in range(1, most + 1):
            np.testing.assert_array_equal(pools[at[size] : at[size + 1]], handed.draws_s(size))
    assert handed.pools_s(3)[0] is handed.pools_s(3)[0]


def test_an_imported_points_draws_follow_its_percentiles() -> None:
    service = Quantiles(mean_s=0.0125, p50_s=0.01, p90_s=0.02, p99_s=0.05)
    row = Measurement(KEY, "ok", service=service, origin="imported")
    draws = ServiceModel((ServicePoint(1, 0.0125, row=row),)).draws_s(1)
    assert draws.mean() == pytest.approx(0.0125)
    for level, value in ((0.5, 0.01), (0.9, 0.02), (0.99, 0.05)):
        assert np.quantile(draws, level) == pytest.approx(value, rel=0.02)
    assert draws.min() >= 0
    heavy = dataclasses.replace(service, mean_s=0.03)
    assert percentile_draws_s(heavy, 0.03).mean() == pytest.approx(0.03)


def test_draws_without_samples_have_the_points_mean_and_spread() -> None:
    model = ServiceModel((ServicePoint(1, 0.01, 0.003),))
    draws = model.draws_s(1)
    assert draws.mean() == pytest.approx(0.01)
    assert draws.std() == pytest.approx(0.003, rel=0.1)
    assert np.array_equal(draws, ServiceModel((ServicePoint(1, 0.01, 0.003),)).draws_s(1))


def test_slowdown_multiplies_everything() -> None:
    points = (ServicePoint(1, 0.01, 0.001), ServicePoint(2, 0.015, 0.001))
    plain, slow = ServiceModel(points), ServiceModel(points, slowdown=3.0)
    assert slow.mean_s(2) == pytest.approx(3 * plain.mean_s(2))
    assert slow.draws_s(1) == pytest.approx(3 * plain.draws_s(1))
    assert slow.grid_s(1.5) == pytest.approx(3 * plain.grid_s(1.5))
    assert slow.capacity_per_s(2) == pytest.approx(plain.capacity_per_s(2) / 3)


def test_grid_keeps_the_mean_and_reaches_into_the_tail() -> None:
    model = ServiceModel((ServicePoint(1, 1.0, 1.0),))
    assert GRID_WEIGHTS.sum() == pytest.approx(1)
    assert model.grid_s(1) @ GRID_WEIGHTS == pytest.approx(1.0, rel=0.02)
    # Exponential: the 99.9th percentile is 6.9 means.
    assert model.grid_s(1).max() > 6


def test_memory_is_the_most_of_all_smaller_batches_and_unknown_if_one_is() -> None:
    points = (ServicePoint(1, 0.01, memory_bytes=10), ServicePoint(2, 0.02, memory_bytes=7), ServicePoint(4, 0.03))
    model = ServiceModel(points)
    assert [model.memory_bytes(b) for b in (1, 2, 4)] == [10, 10, None]


@pytest.mark.parametrize("points", [(), (ServicePoint(2, 1.0), ServicePoint(1, 1.0)), (ServicePoint(1, 0.0),)])
def test_nonsense_points_are_refused(points: tuple[ServicePoint, ...]) -> None:
    with pytest.raises(ValueError):
        ServiceModel(points)


def test_handing_over_is_in_every_figure_and_nothing_slows_it_down() -> None:
    handoff = (1e-4, 2e-4, 6e-4)
    points = (ServicePoint(1, 0.01, 0.001), ServicePoint(4, 0.03, 0.002))
    plain = ServiceModel(points, 2.0)
    handed = ServiceModel(points, 2.0, handoff=handoff, handoff_call_s=1e-5)
    for batch in (1, 2, 4):
        assert handed.mean_s(batch) == pytest.approx(plain.mean_s(batch) + 3e-4 + (batch - 1) * 1e-5, rel=1e-12)
        assert handed.std_s(batch) == pytest.approx(np.hypot(plain.std_s(batch), np.std(handoff)), rel=1e-12)
        assert float(handed.draws_s(batch).mean()) == pytest.approx(handed.mean_s(batch), rel=1e-9)
        if batch != 2:  # between measured points draws have the shape of the larger one
            assert float(handed.draws_s(batch).std()) == pytest.approx(handed.std_s(batch), rel=0.05)
        assert handed.grid_s(batch) @ GRID_WEIGHTS == pytest.approx(handed.mean_s(batch), rel=0.01)
        assert handed.tables.mean_s[batch - 1] == pytest.approx(handed.mean_s(batch), rel=1e-12)
        assert handed.tables.std_s[batch - 1] == pytest.approx(handed.std_s(batch), rel=1e-12)
        np.testing.assert_allclose(handed.tables.grids_s[batch - 1], handed.grid_s(batch), rtol=1e-9)
    assert handed.capacity_per_s(4) == pytest.approx(4 / 0.06033)
    again = ServiceModel(points, 2.0, handoff=handoff, handoff_call_s=1e-5)
    np.testing.assert_array_equal(handed.draws_s(2), again.draws_s(2))
