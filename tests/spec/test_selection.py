"""Looking a way up for a request that names accuracy and latency."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferplan.spec.selection import Selection, ServingRoute, Tail, same_ask

numbers = st.sampled_from([0.1, 0.2, 0.25, 0.3, 0.5, 0.8, 0.9])


def row(accuracy: float | None, latency_s: float, cost: float) -> ServingRoute:
    tail = Tail(value=latency_s / 2, upper=latency_s)
    return ServingRoute(options={"a": "one"}, accuracy=accuracy, latency_s=tail, cost_usd_per_request=cost)


@given(
    st.lists(st.tuples(st.none() | numbers, numbers, numbers), min_size=1, max_size=6),
    st.none() | numbers,
    st.none() | numbers,
    st.sampled_from(["maximize", "minimize"]),
)
def test_rows_that_keep_what_is_asked_come_in_order(
    figures: list[tuple[float | None, float, float]], accuracy: float | None, latency_s: float | None, direction: str
) -> None:
    rows = [row(*figure) for figure in sorted(figures, key=lambda figure: figure[2])]
    table = Selection(percentile=99, metric="top1", direction=direction, rows=rows)

    def keeps(one: ServingRoute) -> bool:
        better = (lambda a, b: a >= b) if direction == "maximize" else (lambda a, b: a <= b)
        good = accuracy is None or (one.accuracy is not None and better(one.accuracy, accuracy))
        return good and (latency_s is None or one.latency_s.upper <= latency_s)

    assert table.keeping(accuracy, latency_s) == [index for index, one in enumerate(rows) if keeps(one)]


def test_what_is_asked_is_kept_but_for_rounding() -> None:
    table = Selection(percentile=99, rows=[row(0.9, 0.1, 1.0)])
    assert table.keeping(0.9 + 1e-12, 0.1 - 1e-12) == [0]
    assert table.keeping(0.9 + 1e-6, None) == []
    assert table.keeping(None, 0.1 - 1e-6) == []


@pytest.mark.parametrize(
    ("accuracy", "latency_s", "expected"),
    [
        (0.99, 0.1, "no deployed route has top1 >= 0.99 and latency within 0.1 s at percentile 99; within that latency"
         " top1 is 0.8 at best; of any accuracy the fastest takes 0.05 s"),
        (0.95, 0.1, "within that latency top1 is 0.8 at best; with that accuracy the fastest takes 0.3 s"),
        (None, 0.01, "no deployed route has latency within 0.01 s at percentile 99; of any accuracy the fastest takes"
         " 0.05 s"),
        (0.99, None, "no deployed route has top1 >= 0.99; at any latency top1 is 0.96 at best"),
    ],
)  # fmt: skip
def test_a_refusal_says_what_could_be_had(accuracy: float | None, latency_s: float | None, expected: str) -> None:
    rows = [row(0.8, 0.05, 1.0), row(0.96, 0.3, 2.0)]
    table = Selection(percentile=99, metric="top1", rows=rows)
    assert table.keeping(accuracy, latency_s) == []
    assert table.refusal(accuracy, latency_s).endswith(expected)


def test_asking_for_the_same() -> None:
    assert same_ask(None, None)
    assert same_ask(0.05, 0.0500000000001)
    assert not same_ask(None, 0.05)
    assert not same_ask(0.05, 0.051)
