"""The choice of a book: as good as any that can be enumerated, and as its policy says."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inferplan.solvers.thresholds import Book, Carrier, active, choose

QUIET = settings(max_examples=120, deadline=None)
INTERVAL_S = 360.0
HOURS = INTERVAL_S / 3600


def walked(loads: Sequence[float], ups: Sequence[float], downs: Sequence[float]) -> list[int]:
    """The policy, step by step: up while above, down while at or below, the first plan that carries the first load."""
    now, path = 0, []
    for t, load in enumerate(loads):
        while now < len(ups) and load > ups[now]:
            now += 1
        while t > 0 and now > 0 and load <= downs[now - 1]:
            now -= 1
        path.append(now)
    return path


def paid(
    plans: Sequence[int], downs: Sequence[float], carriers: Sequence[Carrier], price: Sequence[Sequence[float]],
    loads: Sequence[float],
) -> float:  # fmt: skip
    """What a book costs over the loads: every boundary that a switch passes is paid."""
    path = walked(loads, [carriers[p].carries_rps for p in plans[:-1]], downs)
    usd = sum(carriers[plans[at]].cost_usd_per_h * HOURS for at in path)
    for before, after in itertools.pairwise(path):
        step = 1 if after > before else -1
        usd += sum(price[plans[at]][plans[at + step]] for at in range(before, after, step))
    return usd


def enumerated(
    carriers: Sequence[Carrier], price: Sequence[Sequence[float]], loads: Sequence[float], grid: Sequence[float],
    most: int,
) -> float:  # fmt: skip
    """The least cost of all books."""
    best, n = np.inf, len(carriers)
    for size in range(1, most + 1):
        for others in itertools.combinations(range(n - 1), size - 1):
            plans = (*others, n - 1)
            if carriers[plans[0]].least_rps > grid[0]:
                continue
            for downs in itertools.combinations_with_replacement(grid, size - 1):
                fits = all(
                    d <= carriers[low].carries_rps and d >= carriers[high].least_rps
                    for d, low, high in zip(downs, plans, plans[1:], strict=False)
                )
                if fits:
                    best = min(best, paid(plans, downs, carriers, price, loads))
    return float(best)


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[Carrier], list[list[float]], list[float], list[float]]:
    grid = [1.0, 2.0, 3.0, 5.0, 8.0]
    n = draw(st.integers(1, 4))
    carried = sorted(
        draw(st.lists(st.sampled_from([1.5, 2.0, 3.0, 4.5, 6.0, 9.0]), min_size=n, max_size=n, unique=True))
    )
    costs = [draw(st.floats(0.1, 4.0)) for _ in range(n)]
    least = [0.0, *(draw(st.sampled_from([0.0, 0.0, 2.0])) for _ in range(n - 1))]
    price = [[draw(st.floats(0.0, 2.0)) if i != j else 0.0 for j in range(n)] for i in range(n)]
    loads = draw(st.lists(st.floats(0.5, 9.5), min_size=1, max_size=25))
    return [Carrier(c, u, low) for c, u, low in zip(costs, carried, least, strict=True)], price, loads, grid


@QUIET
@given(case=cases(), most=st.integers(1, 4))
def test_no_book_is_cheaper(case: tuple[list[Carrier], list[list[float]], list[float], list[float]], most: int) -> None:
    carriers, price, loads, grid = case
    if most == 1 and carriers[-1].least_rps > grid[0]:
        with pytest.raises(ValueError, match="no allowed way"):
            choose(carriers, price, np.array(loads), np.array(grid), INTERVAL_S, most=most)
        return
    least = enumerated(carriers, price, loads, grid, min(most, len(carriers)))
    if not np.isfinite(least):
        with pytest.raises(ValueError, match="no allowed way"):
            choose(carriers, price, np.array(loads), np.array(grid), INTERVAL_S, most=most)
        return
    book = choose(carriers, price, np.array(loads), np.array(grid), INTERVAL_S, most=most)
    assert book.usd == pytest.approx(least, rel=1e-9, abs=1e-12)
    assert paid(book.plans, book.down_rps, carriers, price, loads) == pytest.approx(book.usd, rel=1e-9, abs=1e-12)
    assert len(book.plans) <= most
    assert_rises(book, carriers)


def assert_rises(book: Book, carriers: Sequence[Carrier]) -> None:
    ups = [carriers[p].carries_rps for p in book.plans]
    assert ups == sorted(set(ups))
    assert list(book.down_rps) == sorted(book.down_rps)
    assert all(down <= up for down, up in zip(book.down_rps, ups, strict=False))


@QUIET
@given(
    loads=st.lists(st.floats(0.0, 10.0), min_size=1, max_size=40),
    bounds=st.lists(st.tuples(st.floats(1, 9), st.floats(0.1, 1)), min_size=0, max_size=3),
)
def test_relays_add_up_to_the_policy(loads: list[float], bounds: list[tuple[float, float]]) -> None:
    ups = sorted({up for up, _ in bounds})
    downs = sorted(up * share for up, (_, share) in zip(ups, bounds, strict=False))
    downs = [min(down, up) for down, up in zip(downs, ups, strict=True)]
    assert active(np.array(loads), ups, downs).tolist() == walked(loads, ups, downs)


def test_the_dearer_switches_are_the_wider_the_hysteresis() -> None:
    """The load dips below 2, for one interval or two, which saves 0.1 USD each: a dip is followed if it pays for the
    switches down and up."""
    carriers = [Carrier(1.0, 2.0), Carrier(2.0, 4.0)]
    loads = np.tile([1.8, 2.2, 1.2, 1.2, 2.2], 50)
    grid = np.array([1.0, 1.5, 2.0])
    found = [choose(carriers, [[0.0, usd], [usd, 0.0]], loads, grid, INTERVAL_S).down_rps for usd in (0.0, 0.06, 0.2)]
    assert found[0] == (2.0,)
    assert found[1] == (1.5,)
    # Never going down costs no more than having but the larger plan: one plan is fewer.
    assert found[2] in ((), (1.0,))


def test_a_hysteresis_that_is_asked_is_kept() -> None:
    carriers = [Carrier(1.0, 2.0), Carrier(2.0, 4.0)]
    loads, grid = np.array([1.0, 3.0, 1.9, 3.0, 1.0] * 9), np.array([1.0, 1.2, 1.4, 1.6, 1.8, 2.0])
    free = [[0.0, 0.0], [0.0, 0.0]]
    assert choose(carriers, free, loads, grid, INTERVAL_S, hysteresis=0.25).down_rps == (1.4,)
    assert choose(carriers, free, loads, grid, INTERVAL_S, hysteresis=0.0).down_rps == (2.0,)


def test_plans_that_are_never_needed_are_left_out() -> None:
    carriers = [Carrier(1.0, 1.0), Carrier(2.0, 2.0), Carrier(3.0, 3.0)]
    price = [[0.1] * 3] * 3
    assert choose(carriers, price, np.full(9, 2.5), np.array([0.5, 1.0, 2.0]), INTERVAL_S).plans == (2,)
