"""Classes are merged into one schedule."""

from __future__ import annotations

import numpy as np

from inferplan.runner.arrivals import make_schedule
from inferplan.spec.arrivals import Source
from inferplan.spec.workload import Arrivals


def test_every_class_has_its_own_times_which_others_do_not_change() -> None:
    slow, fast = Source(Arrivals(), 5.0), Source(Arrivals(process="deterministic"), 40.0)
    both = make_schedule({"b": fast, "a": slow}, 100.0, seed=3)
    alone = make_schedule({"a": slow}, 100.0, seed=3)
    assert both.names == ("a", "b")
    assert (np.diff(both.times_s) >= 0).all()
    np.testing.assert_array_equal(both.times_s[both.streams == 0], alone.times_s)
    assert np.count_nonzero(both.streams == 1) == 4000
    again, other = make_schedule({"a": slow}, 100.0, seed=3), make_schedule({"a": slow}, 100.0, seed=4)
    np.testing.assert_array_equal(again.times_s, alone.times_s)
    assert len(other.times_s) != len(alone.times_s) or not np.array_equal(other.times_s, alone.times_s)


def test_days_of_all_classes_share_a_clock() -> None:
    day = Source(Arrivals(process="diurnal", period_s=100.0, peak_factor=2.0), 200.0)
    at_night, at_noon = (make_schedule({"a": day, "b": day}, 5.0, 1, clock) for clock in (-2.5, 47.5))
    for stream in (0, 1):
        assert np.count_nonzero(at_night.streams == stream) < 30
        assert np.count_nonzero(at_noon.streams == stream) > 1800
