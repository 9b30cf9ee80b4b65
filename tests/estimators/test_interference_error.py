"""Errors of slow-downs: each predicted from the others, told apart by what predicts it; unknown of few."""

from __future__ import annotations

import pytest

from inferplan.estimators.interference import Disturbance, Interference, Tenant
from inferplan.estimators.interference_error import slowdown_errors


def tenant(choice: str, batch: int = 1) -> Tenant:
    return Tenant("s", choice, "t/d", 1, batch)


def test_a_pair_measured_at_several_batches_predicts_itself() -> None:
    rows = tuple(Disturbance(tenant("a", b), tenant("a", b), 1, 1.2) for b in (1, 2, 4, 8))
    same, copies, largest = slowdown_errors(Interference(rows))
    assert (same.errors.n, same.errors.p90) == (4, pytest.approx(0))
    assert same.ignored.median == pytest.approx(1 - 1 / 1.2)
    assert copies.errors.n == largest.errors.n == 0


def test_a_row_never_predicts_itself() -> None:
    odd = tuple(Disturbance(tenant("a", b), tenant("a", b), 1, 1.0 + b / 10) for b in (1, 2, 4, 8))
    same, _, _ = slowdown_errors(Interference(odd))
    assert same.errors.median is not None
    assert same.errors.median > 0.05


def test_other_pairs_are_predicted_by_own_copies_or_the_largest() -> None:
    own = Disturbance(tenant("a"), tenant("a"), 1, 1.2)
    rows = (own, *(Disturbance(tenant("a"), tenant(choice), 1, 1.3) for choice in "bcde"))
    _, copies, largest = slowdown_errors(Interference(rows))
    assert copies.errors.n == 4
    assert copies.errors.median == pytest.approx(0.1 / 1.3)
    assert (largest.errors.n, largest.errors.median) == (1, None)


def test_few_cases_say_nothing() -> None:
    rows = tuple(Disturbance(tenant("a", b), tenant("a", b), 1, 1.2) for b in (1, 2))
    assert [item.errors.median for item in slowdown_errors(Interference(rows))] == [None, None, None]
    alone = Interference((Disturbance(tenant("a"), tenant("b"), 1, 1.2),))
    assert [item.errors.n for item in slowdown_errors(alone)] == [0, 0, 0]
