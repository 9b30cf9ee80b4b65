"""How much slower neighbours make a replica: what was measured, shared out, weighted by how busy they are."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferplan.estimators.interference import Disturbance, Interference, Tenant, read_interference
from inferplan.spec.profile import Profile
from inferplan.spec.rows import InterferenceRow, PointKey
from inferplan.spec.workload import Workload

A, B = Tenant("s", "a", "t/d", 1, 4), Tenant("s", "b", "t/d", 1, 4)
C = Tenant("r", "c", "t/d", 2, 1)
TENANTS = {"a": A, "b": B, "c": C}


def test_as_many_busy_neighbours_as_were_measured_do_as_was_measured() -> None:
    known = Interference((Disturbance(A, A, 1, 1.2), Disturbance(A, A, 3, 1.9)))
    always = {"a": 1.0}
    assert known.slowdowns(TENANTS, [{"a": 2}], always) == {"a": (1.2, 1.2)}
    assert known.slowdowns(TENANTS, [{"a": 4}], always)["a"] == pytest.approx((1.9,) * 4)
    assert known.slowdowns(TENANTS, [{"a": 1}], always) == {}


def test_a_neighbour_that_is_seldom_at_work_does_less() -> None:
    known = Interference((Disturbance(A, B, 1, 2.0), Disturbance(B, A, 1, 1.5)))
    found = known.slowdowns(TENANTS, [{"a": 1, "b": 1}, {"a": 1}], {"a": 0.2, "b": 0.5})
    assert found == {"a": (1.0, pytest.approx(1.5)), "b": (pytest.approx(1.1),)}


def test_what_stands_in_where_a_pair_was_not_measured() -> None:
    same, largest = Disturbance(A, A, 1, 1.3), Disturbance(A, C, 1, 1.6)
    assert Interference((same, largest)).slowdown(A, B) == pytest.approx(1.3)
    assert Interference((largest,)).slowdown(A, B) == pytest.approx(1.6)
    assert Interference((same, largest)).slowdown(B, A) == 1.0
    assert Interference((Disturbance(A, B, 1, 0.9),)).slowdown(A, B) == 1.0


def test_the_nearest_in_batch_and_threads_counts() -> None:
    small, large = Tenant("s", "a", "t/d", 1, 1), Tenant("s", "a", "t/d", 1, 16)
    known = Interference((Disturbance(small, B, 1, 1.1), Disturbance(large, B, 1, 1.8)))
    assert known.slowdown(Tenant("s", "a", "t/d", 1, 2), B) == pytest.approx(1.1)
    assert known.slowdown(Tenant("s", "a", "t/d", 1, 8), B) == pytest.approx(1.8)
    assert known.slowdown(Tenant("s", "a", "t/other", 1, 8), B) == 1.0


@given(slowdown=st.floats(0.5, 3.0), error=st.floats(0.0, 0.5), copies=st.integers(1, 4))
def test_what_noise_explains_does_not_count(slowdown: float, error: float, copies: int) -> None:
    known = Interference((Disturbance(A, B, copies, slowdown, error),))
    found, x = known.slowdown(A, B, copies) ** copies, math.log(slowdown)
    assert 1.0 <= found <= max(slowdown, 1.0) * (1 + 1e-12)
    if x <= error:
        assert found == 1.0
        assert not known.matters
    else:
        # What is left of it is as if its variance had been x^2 - e^2: x (x^2 - e^2) / x^2.
        assert math.log(found) == pytest.approx(x * (x * x - error * error) / (x * x), abs=1e-12)


def test_who_shares_a_machine_unmeasured_is_named() -> None:
    known = Interference((Disturbance(A, A, 1, 1.3),))
    assert known.unmeasured(TENANTS, [{"a": 2}, {"b": 1}]) == []
    assert known.unmeasured(TENANTS, [{"a": 1, "c": 1}]) == ["r/c on t/d"]


@given(
    slowdowns=st.lists(st.floats(1.0, 3.0), min_size=2, max_size=2),
    busy=st.lists(st.floats(0.0, 1.0), min_size=2, max_size=2),
    counts=st.lists(st.integers(1, 4), min_size=2, max_size=2),
)
def test_more_or_busier_neighbours_never_make_faster(
    slowdowns: list[float], busy: list[float], counts: list[int]
) -> None:
    known = Interference((Disturbance(A, A, 1, slowdowns[0]), Disturbance(A, B, 1, slowdowns[1])))
    shares = {"a": busy[0], "b": busy[1]}

    def factor(machine: dict[str, int], shares: dict[str, float]) -> float:
        return known.on_machine(machine, TENANTS, shares)["a"]

    here = factor({"a": counts[0], "b": counts[1]}, shares)
    assert here >= 1
    assert factor({"a": counts[0] + 1, "b": counts[1]}, shares) >= here
    assert factor({"a": counts[0], "b": counts[1] + 1}, shares) >= here
    assert factor({"a": counts[0], "b": counts[1]}, {"a": 1.0, "b": 1.0}) >= here


@pytest.fixture
def spec(tmp_path: Path) -> Workload:
    (tmp_path / "model.onnx").write_bytes(b"model")
    variants = {name: {"model": "model.onnx"} for name in ("a", "b")}
    document = {
        "apiVersion": "inferplan/v1",
        "name": "w",
        "pipeline": {"stages": {"s": {"variants": variants}}},
        "tiers": {"t": {"devices": {"d": {"price_usd_per_h": 1.0, "cores": 4}}}},
        "classes": {"c": {"rate_rps": 1.0}},
    }
    return Workload.model_validate(document).at(tmp_path)


def row(neighbours: list[list[Any]], slowdown: float | None, model: str = "m", **rest: Any) -> InterferenceRow:
    key = PointKey("s", "a", "", model, "", "onnxruntime", "1", "{}", "cpu", "t/d", "f", 4, 1, "{}")
    return InterferenceRow(key, json.dumps(neighbours), json.dumps(neighbours), slowdown, **rest)


def test_rows_are_read_if_fresh_ok_and_of_one_kind_of_neighbour(spec: Workload) -> None:
    rows = (
        row([["s", "b", 4, 1]], 1.1, measured_at="2026-01-01"),
        row(
            [["s", "b", 4, 1]], 1.2, measured_at="2026-01-02", slowdown_lower=1.1, slowdown_upper=1.1 * math.exp(0.392)
        ),
        row([["s", "a", 2, 1]] * 2, 1.44),
        row([["s", "a", 2, 1], ["s", "b", 2, 1]], 9.0),
        row([["s", "gone", 2, 1]], 9.0),
        row([["s", "b", 8, 1]], None, status="failed"),
        row([["s", "b", 8, 1]], 9.0, model="old"),
    )
    known = read_interference(spec, Profile(spec.root, (), (), (), "", (), rows), {("s", "a"): "m", ("s", "b"): "m"})
    assert known.measured == (
        Disturbance(A, Tenant("s", "a", "t/d", 1, 2), 2, 1.44),
        Disturbance(A, B, 1, 1.2, pytest.approx(0.1, rel=1e-3)),
    )
    assert known.measured[0].each == pytest.approx(1.2)
    assert known.stale == ("s/a: 1 rows of interference of another model file",)
