"""Traces are read as they are written, or refused with the line that is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inferplan.spec.errors import InputError
from inferplan.spec.trace import Trace, read_trace

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def writing(text: str) -> Path:
        path = tmp_path / "trace.csv"
        path.write_text(text)
        return path

    return writing


def test_times_in_every_unit_are_the_same_trace(write: Write) -> None:
    found = [
        read_trace(write(f"# recorded at the gate\ntime_{unit}\n\n" + "\n".join(str(t * f) for t in (0.5, 1, 2.5))))
        for unit, f in (("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9))
    ]
    for trace in found:
        np.testing.assert_allclose(trace.times_s, [0.5, 1.0, 2.5])
        assert trace.span_s == pytest.approx(3.5)
        assert trace.rate_rps == pytest.approx(3 / 3.5)


def test_counts_are_spread_within_their_intervals(write: Write) -> None:
    trace = read_trace(write("interval_s, count\n60, 300\n30, 0\n60, 120\n"))
    assert (trace.span_s, trace.requests) == (150.0, 420)
    times = trace.arrivals_s(np.random.default_rng(0))
    assert np.histogram(times, [0, 60, 90, 150])[0].tolist() == [300, 0, 120]
    assert (np.diff(times) >= 0).all()
    assert times[:300].mean() == pytest.approx(30, abs=5)


class Counted:
    """Chance that remembers how many numbers were drawn at a time."""

    def __init__(self) -> None:
        self.rng, self.most = np.random.default_rng(3), 0

    def __getattr__(self, name: str) -> Any:
        def drawing(*arguments: Any) -> Any:
            found = getattr(self.rng, name)(*arguments)
            self.most = max(self.most, np.size(found))
            return found

        return drawing


def test_of_a_long_fast_trace_only_what_is_asked_for_is_drawn(write: Write) -> None:
    """An hour at 20 000 requests/s, of which a replication sees some seconds, and estimates some thousand arrivals."""
    trace = read_trace(write("interval_s,count\n1800,36000000\n1800,36000000\n"))
    chance: Any = Counted()
    times = trace.arrivals_s(chance, 1799.5, 1801.0)
    assert chance.most < 40_000
    assert len(times) == pytest.approx(30_000, rel=0.05)
    assert 1799.5 <= times[0] < times[-1] < 1801.0
    some = trace.some_s(5000, chance)
    assert chance.most < 40_000
    assert len(some) == 72_000_000 / 5000
    assert (np.diff(some) > 0).all()
    np.testing.assert_allclose(np.diff(some).mean(), 0.25, rtol=1e-3)


def test_a_window_sees_its_share_of_every_interval(write: Write) -> None:
    trace = read_trace(write("interval_s,count\n10,40\n10,0\n10,400\n"))
    rng = np.random.default_rng(1)
    seen = np.array([np.histogram(trace.arrivals_s(rng, 5.0, 25.0), [0, 5, 10, 20, 25, 30])[0] for _ in range(400)])
    np.testing.assert_allclose(seen.mean(axis=0), [0, 20, 0, 200, 0], atol=2.5)
    assert len(trace.arrivals_s(rng, 10.0, 20.0)) == len(trace.arrivals_s(rng, 31.0, 40.0)) == 0
    assert len(trace.arrivals_s(rng, -5.0, 40.0)) == 440
    times = read_trace(write("time_s\n0\n1\n2\n3\n"))
    assert times.arrivals_s(rng, 1.0, 3.0).tolist() == [1.0, 2.0]


def test_every_so_many_arrivals_have_the_law_they_have_among_all(write: Write) -> None:
    trace = read_trace(write("interval_s,count\n4,9\n1,1\n2,0\n3,30\n"))
    rng = np.random.default_rng(2)
    drawn = np.array([trace.some_s(7, rng) for _ in range(4000)])
    among = np.array([trace.arrivals_s(rng)[::7] for _ in range(4000)])
    assert drawn.shape == among.shape == (4000, 6)
    np.testing.assert_allclose(drawn.mean(axis=0), among.mean(axis=0), atol=0.05)
    np.testing.assert_allclose(drawn.std(axis=0), among.std(axis=0), rtol=0.08)
    gaps = np.diff(drawn, axis=1), np.diff(among, axis=1)
    np.testing.assert_allclose(gaps[0].std(axis=0), gaps[1].std(axis=0), rtol=0.08)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty: expected a first line with one of time_s"),
        ("# nothing\n\n", "is empty"),
        ("time_s\n", "has a title and no arrivals"),
        ("0.1\n0.2\n", r"trace.csv:1: '0.1' says no unit"),
        ("time\n0.1\n0.2\n", "says no unit"),
        ("time_s\n0.1\n0.4\n0.3\n", r"trace.csv:4: 0.3 comes after 0.4: sort the times"),
        ("time_s\n0.1\nabc\n", r"trace.csv:3: 'abc' is not a number"),
        ("time_s\n0.1\n-1\n", r"trace.csv:3: '-1' is not a number of at least 0"),
        ("time_s\n0.1\nnan\n", r"trace.csv:3: 'nan' is not a number"),
        ("time_s\n0.1,3\n", r"trace.csv:2: 2 values, expected 1"),
        ("time_s\n0.1\n", "at two times at least"),
        ("time_s\n3\n3\n", "at two times at least"),
        ("time_s\n1700000000.5\n1700000001.5\n", "subtract when it began"),
        ("time_s\n0\n20000000\n40000000\n", "time_s is in doubt: it lasts 694.4 days"),
        ("time_s\n0\n90000\n200000\n", "its mean rate is 1e-05 per second"),
        ("time_ns\n0\n20\n40\n", "its mean rate is 5e\\+07 per second"),
        ("interval_s,count\n60,1.5\n", r"trace.csv:2: 60,1.5: expected a length above 0"),
        ("interval_s,count\n0,4\n", "expected a length above 0"),
        ("interval_s,count\n60,0\n", "counts no arrivals"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(write: Write, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_trace(write(text))


def test_a_missing_or_binary_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_trace(tmp_path / "none")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not a text file"):
        read_trace(tmp_path / "binary")


def test_gaps_are_found_and_chance_is_not_a_gap(write: Write) -> None:
    rng = np.random.default_rng(0)
    times = np.cumsum(rng.exponential(0.01, 20_000))
    smooth = Trace(float(times[-1]) + 0.01, times, np.zeros(1), np.zeros(0, np.int64), "")
    assert smooth.gaps() == []
    broken = times + np.where(times > 100, 30.0, 0.0)
    ((begin, length),) = Trace(float(broken[-1]) + 0.01, broken, np.zeros(1), np.zeros(0, np.int64), "").gaps()
    assert begin == pytest.approx(100, abs=0.1)
    assert length == pytest.approx(30, abs=0.1)
    counted = read_trace(write("interval_s,count\n10,500\n10,0\n10,0\n10,480\n"))
    assert counted.gaps() == [(10.0, 20.0)]
