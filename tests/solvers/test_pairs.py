"""Bounds of what two ways could reach: no plan of the program is beyond them."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inferplan.solvers.columns import build_columns
from inferplan.solvers.goals import ACCURACY, COST
from inferplan.solvers.milp import promises
from inferplan.solvers.mixtures import MixtureProgram, mean_keeps
from inferplan.solvers.pairs import Pairs
from inferplan.solvers.parts import parted, patterns, with_pattern
from inferplan.solvers.problem import read_problem

ACCURACIES = {("a", "s"): 0.8, ("a", "l"): 0.95, ("b", "s"): 0.7, ("b", "l"): 0.9}


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    rate=st.sampled_from([5.0, 30.0, 80.0]),
    latency=st.sampled_from([0.08, 0.3, None]),
    floor=st.sampled_from([0.6, 0.72, 0.8]),
    slow=st.lists(st.sampled_from([0.01, 0.03, 0.05]), min_size=4, max_size=4),
    cores=st.integers(1, 3),
    power=st.sampled_from([{}, {"billing": "share"}, {"interruptions_per_h": 6.0, "start_s": 60.0}]),
    at=st.integers(1, 10),
)
def test_the_best_plans_are_within_the_bounds(
    module_instances: Any, rate: float, latency: float | None, floor: float, slow: list[float], cores: int,
    power: dict[str, Any], at: int,
) -> None:  # fmt: skip
    slo = {} if latency is None else {"slo": {"latency_s": latency}}
    loaded = module_instances.workload(
        {"a": ["s", "l"], "b": ["s", "l"]},
        edges=[{"from": "a", "to": "b"}],
        classes={"web": {"rate_rps": rate, "accuracy": {"floor": floor}, **slo}},
        devices={"cpu": {"price_usd_per_h": 0.1, "cores": cores, **power}},
        splitting=True,
    )
    times = {key: {1: seconds, 2: 1.6 * seconds} for key, seconds in zip(ACCURACIES, slow, strict=True)}
    problem = parted(read_problem(loaded.workload, module_instances.profile(times, ACCURACIES)))
    split = with_pattern(problem, patterns(problem)[at])
    program = MixtureProgram(split, build_columns(split))
    assert split.accuracy is not None
    keys = list(split.accuracy.combinations({stage: split.variants(stage) for stage in split.stages}))
    worth = [value.value for key in keys if (value := split.accuracy.of(dict(zip(split.stages, key, strict=True))))]
    pairs = Pairs(split, program.columns, split.accuracy.stages, keys, worth)
    ask = promises(problem)
    program.begin(ask)
    cheapest = program.optimize(COST, time.monotonic() + 60, 0.0)
    most = math.inf if cheapest is None else cheapest.value * program.price_scale
    # What costs less than the cheapest plan may be called possible, the cheapest itself must be.
    assert cheapest is None or pairs.best(most, None if latency is None else 1.0) >= floor - 1e-9
    assert cheapest is None or program.may_keep(ask)
    if cheapest is not None:
        program.keep(COST, cheapest.value)
        best = program.optimize(ACCURACY, time.monotonic() + 60, 0.0)
        assert best is not None
        reached = -best.value
        assert pairs.best(most * (1 + 1e-6), None if latency is None else 1.0) >= reached - 1e-6
        assert reached >= floor - 1e-6
        chosen = {(k, column.stage): column.option.variant for column in best.columns for k in column.classes}
        assert mean_keeps(split, split.accuracy, [0, 1], chosen, floor)
        # A plan that reaches as much could be found again; nothing beats it.
        assert program.may_beat(ACCURACY, -(reached - 1e-3), cheapest.value)
    program.end()


def test_a_pair_that_costs_too_much_or_takes_too_long_is_out(instances: Any) -> None:
    """Half by s (one machine of 0.1), half by l (two); all by l takes 50 ms a call and is what is most accurate."""
    loaded = instances.workload(
        {"a": ["s", "l"]},
        classes={"web": {"rate_rps": 40.0, "accuracy": {"floor": 0.6}, "slo": {"latency_s": 1.0}}},
        devices={"cpu": {"price_usd_per_h": 0.1, "cores": 1}},
        splitting=True,
    )
    times = {("a", "s"): {1: 0.01}, ("a", "l"): {1: 0.05}}
    problem = parted(read_problem(loaded.workload, instances.profile(times, {("a", "s"): 0.7, ("a", "l"): 0.9})))
    split = with_pattern(problem, patterns(problem)[-1])
    pairs = Pairs(split, build_columns(split), ("a",), [("s",), ("l",)], [0.7, 0.9])
    assert pairs.best(math.inf, 1.0) == pytest.approx(0.9)
    assert pairs.best(0.3, 1.0) == pytest.approx(0.9)
    assert pairs.best(0.25, 1.0) == pytest.approx(0.7)
    assert pairs.best(0.05, 1.0) == -math.inf
    # 50 ms and more for l, 10 ms and more for s.
    assert pairs.best(math.inf, 0.03) == pytest.approx(0.7)
    assert pairs.best(math.inf, 0.001) == -math.inf
