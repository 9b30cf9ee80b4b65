"""Observations: measured rows that count, with the noise and the size that they tell."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from latency_cases import profile, row, workload

from inferplan.estimators.observations import by_series, observe, size_matters, standard_error
from inferplan.estimators.points import read_points
from inferplan.spec.rows import PointKey, Samples


def test_standard_errors_come_from_the_interval_and_the_number_of_processes() -> None:
    # Three processes: two degrees of freedom, t = 4.303.
    assert standard_error(row("a", 1, 0.01, half=0.04303)) == pytest.approx(0.01)
    assert standard_error(row("a", 1, 0.01, half=0.12706, processes=2)) == pytest.approx(0.01)
    assert standard_error(row("a", 1, 0.01)) == 0.0


def test_interpolated_rows_are_no_observations(tmp_path: Path) -> None:
    spec = workload(tmp_path)
    store = profile(tmp_path, row("a", 1, 0.01), row("a", 2, 0.02, origin="interpolated", n=0))
    points = read_points(spec, store, lambda key: None)
    assert [item.batch for item in observe(points, lambda key: None)] == [1]


def test_sizes_come_from_samples_or_from_the_shape(tmp_path: Path) -> None:
    spec = workload(tmp_path)
    store = profile(
        tmp_path,
        row("a", 1, 0.01, input_shape='{"x": [1, 3, 10]}'),
        row("a", 2, 0.02, input_shape='{"x": [2, 3, 30]}'),
        row("b", 1, 0.01, input_shape='{"x": [1, {"values": [8]}]}'),
    )
    points = read_points(spec, store, lambda key: None)

    def samples(key: PointKey) -> Samples | None:
        if (key.variant, key.batch) != ("a", 2):
            return None
        times = np.ones(2)
        return Samples(key.id(), np.zeros(2, np.int32), times, times, np.array([100, 140]))

    found = observe(points, samples)
    assert [(item.key.choice, item.size) for item in found] == [("a", 30.0), ("a", 120.0), ("b", None)]
    assert size_matters(found[:2])
    assert not size_matters(found)
    assert not size_matters(found[:1])


def test_of_rows_that_differ_in_shape_the_newest_is_current(tmp_path: Path) -> None:
    spec = workload(tmp_path)
    store = profile(
        tmp_path,
        row("a", 1, 0.01, input_shape='{"x": [1, 8]}', measured_at="2026-01-02"),
        row("a", 1, 0.02, input_shape='{"x": [1, 16]}', measured_at="2026-01-01"),
    )
    points = read_points(spec, store, lambda key: None)
    found = observe(points, lambda key: None)
    assert [(item.mean_s, item.current) for item in found] == [(0.02, False), (0.01, True)]
    assert [item.mean_s for items in by_series(found).values() for item in items] == [0.01]
    assert size_matters(found)
