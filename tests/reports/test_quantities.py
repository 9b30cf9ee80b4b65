"""Numbers as people read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferplan.reports.quantities import clock, money, rate, seconds, share, size


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"), (0.0, "0 s"), (1.0, "1.00 s"), (0.9999, "1.00 s"), (0.0123, "12.3 ms"), (12.345, "12.3 s"),
        (0.000_999_9, "1.00 ms"), (0.000_045_6, "45.6 µs"), (2e-8, "0.0200 µs"), (float("nan"), "-"), (345.6, "346 s"),
    ],
)  # fmt: skip
def test_seconds(value: float | None, text: str) -> None:
    assert seconds(value) == text


@given(st.floats(1e-7, 1e5))
def test_seconds_keep_three_digits(value: float) -> None:
    number, unit = seconds(value).split(" ")
    assert float(number) * {"s": 1, "ms": 1e-3, "µs": 1e-6}[unit] == pytest.approx(value, rel=6e-3)


def test_the_others() -> None:
    assert (clock(45), clock(200), clock(180), clock(7500)) == ("45 s", "3 min 20 s", "3 min", "2 h 5 min")
    assert (share(0.95), share(None)) == ("0.9500", "-")
    assert (rate(1234.0), rate(0.5)) == ("1230/s", "0.500/s")
    assert money(0.085) == "0.085 USD/h"
    assert (size(512), size(3 * 2**20), size(None)) == ("512 B", "3.00 MiB", "-")
