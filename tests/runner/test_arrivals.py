"""Arrival processes have the rate and the burstiness they are asked for."""

from __future__ import annotations

import numpy as np
import pytest

from inferplan.runner.arrivals import Stream, arrival_times, make_schedule
from inferplan.spec.errors import InputError
from inferplan.spec.workload import Arrivals


@pytest.mark.parametrize(
    ("arrivals", "cv"),
    [
        (Arrivals(process="poisson"), 1.0),
        (Arrivals(process="deterministic"), 0.0),
        (Arrivals(process="gamma", cv=0.4), 0.4),
        (Arrivals(process="gamma", cv=3.0), 3.0),
    ],
)
def test_mean_gap_and_its_variation(arrivals: Arrivals, cv: float) -> None:
    times = arrival_times(arrivals, 50.0, 2000.0, np.random.default_rng(1))
    gaps = np.diff(times)
    count = 100_000
    assert times[0] >= 0
    assert times[-1] < 2000
    assert (gaps >= 0).all()
    # Of a renewal process: sd of the count ~ cv sqrt(n), sd of the estimated cv below (1 + cv^2) / sqrt(n) or so.
    assert len(times) == pytest.approx(count, abs=5 * cv * count**0.5 + 1)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, abs=5 * (1 + cv**2) / count**0.5)


def test_every_class_has_its_own_times_which_others_do_not_change() -> None:
    slow, fast = Stream(Arrivals(), 5.0), Stream(Arrivals(process="deterministic"), 40.0)
    both = make_schedule({"b": fast, "a": slow}, 100.0, seed=3)
    alone = make_schedule({"a": slow}, 100.0, seed=3)
    assert both.names == ("a", "b")
    assert (np.diff(both.times_s) >= 0).all()
    np.testing.assert_array_equal(both.times_s[both.streams == 0], alone.times_s)
    assert np.count_nonzero(both.streams == 1) == 4000
    again, other = make_schedule({"a": slow}, 100.0, seed=3), make_schedule({"a": slow}, 100.0, seed=4)
    np.testing.assert_array_equal(again.times_s, alone.times_s)
    assert len(other.times_s) != len(alone.times_s) or not np.array_equal(other.times_s, alone.times_s)


def test_a_rate_so_low_that_nothing_arrives() -> None:
    for process in ("poisson", "deterministic"):
        times = arrival_times(Arrivals(process=process), 1e-9, 1.0, np.random.default_rng(0))
        assert len(times) == 0


def test_processes_that_cannot_be_driven_are_refused() -> None:
    bursts = Arrivals(process="mmpp", burst_factor=3.0, burst_s=1.0)
    with pytest.raises(InputError, match="mmpp arrivals cannot be driven"):
        arrival_times(bursts, 1.0, 1.0, np.random.default_rng(0))
