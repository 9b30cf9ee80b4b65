"""Fan-out laws and calls per request."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inferplan.estimators.fanout import ONE, FanOuts, fan_outs, law_of_counts, law_of_mean
from inferplan.spec.errors import InputError
from inferplan.spec.profile import Profile
from inferplan.spec.rows import FlowRow
from inferplan.spec.workload import Workload


def workload(stages: Sequence[str], edges: Sequence[dict[str, Any]]) -> Workload:
    return Workload.model_validate(
        {
            "apiVersion": "inferplan/v1",
            "name": "w",
            "pipeline": {
                "stages": {s: {"variants": {"x": {"model": "m"}, "y": {"model": "m"}}} for s in stages},
                "edges": list(edges),
            },
            "tiers": {"t": {"devices": {"d": {"price_usd_per_h": 1.0, "cores": 1}}}},
            "classes": {"c": {"rate_rps": 1.0}},
        }
    )


def profile(flows: Sequence[FlowRow] = ()) -> Profile:
    return Profile(Path(), (), (), tuple(flows), "")


def flow(variant: str, counts: str, n: int = 3) -> FlowRow:
    return FlowRow("a", "b", variant, "", 0.0, counts, None, n, "")


@pytest.mark.parametrize("mean", [0.0, 1.0, 2.25, 7.0])
def test_a_declared_mean_is_kept_by_whole_numbers(mean: float) -> None:
    law = law_of_mean(mean)
    assert law.mean == pytest.approx(mean)
    assert all(abs(count - mean) < 1 for count in law.counts)


def test_draws_follow_the_law() -> None:
    law = law_of_counts([1, 1, 4])
    drawn = law.draw(np.random.default_rng(0), 30_000)
    assert set(drawn) == {1, 4}
    assert drawn.mean() == pytest.approx(2.0, rel=0.03)
    assert law.variance == pytest.approx(2.0)


def test_calls_multiply_along_the_lineage() -> None:
    spec = workload("abc", [{"from": "a", "to": "b", "fan_out": 3.0}, {"from": "b", "to": "c", "fan_out": 2.5}])
    calls = fan_outs(spec, profile()).calls("c", {})
    assert calls.mean == pytest.approx(7.5)
    # Three independent counts of variance 1/4.
    assert calls.std == pytest.approx((3 * 0.25) ** 0.5)
    assert calls.groups == pytest.approx(3)
    assert calls.group.mean == pytest.approx(2.5)


def test_a_plain_edge_passes_the_groups_on() -> None:
    spec = workload("abc", [{"from": "a", "to": "b", "fan_out": 4.0}, {"from": "b", "to": "c"}])
    calls = fan_outs(spec, profile()).calls("c", {})
    assert (calls.mean, calls.groups, calls.group.mean) == (4.0, 1.0, 4.0)


def test_measured_fan_out_depends_on_the_variant_above() -> None:
    spec = workload("abc", [{"from": "a", "to": "b", "fan_out": "measured"}, {"from": "b", "to": "c"}])
    laws = fan_outs(spec, profile([flow("x", "[1, 2, 3]"), flow("y", "[5, 5, 5]")]))
    assert laws.calls("c", {"a": "x"}).mean == pytest.approx(2)
    assert laws.calls("c", {"a": "y"}).mean == pytest.approx(5)
    assert laws.deciding("c") == ("a",)
    assert laws.deciding("a") == ()
    assert laws.calls("b", {"a": "x"}).quantile(0.5) == 2
    assert laws.calls("b", {"a": "x"}).quantile(0.99) == 3


def test_equal_measurements_decide_nothing() -> None:
    spec = workload("ab", [{"from": "a", "to": "b", "fan_out": "measured"}])
    laws = fan_outs(spec, profile([flow("x", "[1, 2]"), flow("y", "[2, 1]")]))
    assert laws.deciding("b") == ()


def test_a_variant_without_measurement_is_known_to_be_unknown() -> None:
    spec = workload("ab", [{"from": "a", "to": "b", "fan_out": "measured"}])
    laws = fan_outs(spec, profile([flow("x", "[1, 2]")]))
    assert laws.knows("a", "x")
    assert not laws.knows("a", "y")
    with pytest.raises(InputError, match="inferplan profile"):
        fan_outs(spec, profile())


def test_a_join_pairs_calls_of_one_fan_out_only() -> None:
    diamond = [{"from": "a", "to": "b"}, {"from": "a", "to": "c"}, {"from": "b", "to": "d"}, {"from": "c", "to": "d"}]
    laws: FanOuts = fan_outs(workload("abcd", diamond), profile())
    assert laws.calls("d", {}).mean == 1
    assert all(law == ONE for law in laws.declared.values())
    uneven = [{**diamond[0], "fan_out": 3.0}, *diamond[1:]]
    with pytest.raises(InputError, match="do not pair up"):
        fan_outs(workload("abcd", uneven), profile())
