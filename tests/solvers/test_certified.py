"""Certified plans against exhaustive search with the simulator as judge; and what must not change them.

Instances are those of `benchmarks/certified_optimality.py`, which looks at 300 of them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from certified_optimality import Outcome, instance_of, judged
from small_instances import Instance, random_instance

from inferplan.solvers.planner import solve
from inferplan.spec.errors import InfeasibleError
from inferplan.spec.plan import Plan

SEEDS = range(1000, 1025)
FEW = range(2000, 2008)


@pytest.fixture(scope="module", autouse=True)
def unasked(no_concessions: Callable[[pytest.MonkeyPatch], None]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        no_concessions(patch)
        yield


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> list[Outcome]:
    folder = tmp_path_factory.mktemp("certified")
    return [judged(seed, folder, most=1500) for seed in SEEDS]


def test_nearly_every_plan_is_the_cheapest_that_certifies_and_none_is_far_from_it(outcomes: list[Outcome]) -> None:
    assert sum(outcome.kind == "same" for outcome in outcomes) >= 0.95 * len(outcomes)
    assert [outcome for outcome in outcomes if outcome.kind == "beyond"] == []
    assert sum(outcome.simulated > 0 for outcome in outcomes) >= len(outcomes) / 3


def test_no_plan_is_certified_wrongly(outcomes: list[Outcome]) -> None:
    assert [outcome.wrong for outcome in outcomes if outcome.wrong] == []


def plan_of(instance: Instance, folder: Path) -> Plan | None:
    """The certified plan; None where there is none."""
    loaded, profile = instance.made(folder)
    try:
        plan = solve(loaded, profile, plan_dir=folder)
    except InfeasibleError:
        return None
    assert plan.certificate is not None
    return plan if plan.certificate.verdict == "met" else None


@dataclass(frozen=True)
class Decided:
    """An instance and its certified plan, if there is one."""

    instance: Instance
    plan: Plan | None

    @property
    def cost(self) -> float:
        return float("inf") if self.plan is None else self.plan.cost_usd_per_h


def cost_of(instance: Instance, folder: Path) -> float:
    return Decided(instance, plan_of(instance, folder)).cost


def small(seed: int, folder: Path) -> Instance:
    """The instance of a seed, as a copy that may be changed."""
    name = instance_of(seed, folder)[0].workload.name
    return random_instance(int(name.rpartition("-")[2]))


def changed(instance: Instance, **changes: Any) -> Instance:
    """A copy with other classes or devices: every class's or device's fields, as functions of what they were."""
    other = copy.deepcopy(instance)
    for one in other.document["classes"].values():
        if "latency" in changes and "slo" in one:
            one["slo"]["latency_s"] *= changes["latency"]
        if "floor" in changes and "accuracy" in one:
            one["accuracy"]["floor"] *= changes["floor"]
    for device in other.document["tiers"]["edge"]["devices"].values():
        device["count"] += changes.get("machines", 0)
        device["price_usd_per_h"] *= changes.get("prices", 1.0)
    return other


Make = Callable[[int], Decided]


@pytest.fixture(scope="module")
def decided(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """decided(seed): an instance, which may not be changed, and its certified plan; made once for all tests."""

    @cache
    def made(seed: int) -> Decided:
        folder = tmp_path_factory.mktemp("decided")
        instance = small(seed, folder)
        return Decided(instance, plan_of(instance, folder))

    return made


@pytest.mark.parametrize("seed", FEW)
def test_looser_promises_never_cost_more(seed: int, decided: Make, tmp_path: Path) -> None:
    instance, cost = decided(seed).instance, decided(seed).cost
    for looser in ({"latency": 1.5}, {"floor": 0.8}, {"machines": 1}):
        assert cost_of(changed(instance, **looser), tmp_path) <= cost * (1 + 1e-6)


@pytest.mark.parametrize("seed", FEW)
def test_a_larger_budget_never_buys_less_accuracy(seed: int, decided: Make, tmp_path: Path) -> None:
    instance, cost = decided(seed).instance, decided(seed).cost
    if cost == float("inf"):
        return
    accuracies = []
    for budget in (1.01, 1.5, 3.0):
        other = copy.deepcopy(instance)
        other.document["objective"] = {"maximize": "accuracy", "budget_usd_per_h": cost * budget}
        plan = plan_of(other, tmp_path)
        assert plan is not None
        assert plan.cost_usd_per_h <= cost * budget * (1 + 1e-6)
        total = sum(one.rate_rps for one in plan.classes.values())
        values = [(one.rate_rps, one.predicted.accuracy) for one in plan.classes.values()]
        accuracies.append(sum(rate * value.value for rate, value in values if value is not None) / total)
    assert accuracies[0] <= accuracies[1] + 1e-9
    assert accuracies[1] <= accuracies[2] + 1e-9


@pytest.mark.parametrize("seed", FEW)
def test_the_order_of_what_is_given_changes_nothing(seed: int, decided: Make, tmp_path: Path) -> None:
    instance = decided(seed).instance
    turned = copy.deepcopy(instance)
    turned.document["classes"] = reverse(turned.document["classes"])
    turned.document["tiers"]["edge"]["devices"] = reverse(turned.document["tiers"]["edge"]["devices"])
    stages = turned.document["pipeline"]["stages"]
    turned.document["pipeline"]["stages"] = {
        name: {**stage, "variants": reverse(stage["variants"])} for name, stage in reverse(stages).items()
    }
    turned.document["pipeline"]["edges"].reverse()
    for name in ("times", "accuracy", "flows", "slowdowns"):
        setattr(turned, name, reverse(getattr(turned, name)))
    one, two = decided(seed).plan, plan_of(turned, tmp_path)
    assert (one is None) == (two is None)
    if one is not None and two is not None:
        mine, theirs = (
            {**plan.model_dump(exclude={"workload", "profile"}), "story": sorted(plan.story)} for plan in (one, two)
        )
        assert mine == theirs


def reverse(mapping: dict[Any, Any]) -> dict[Any, Any]:
    return dict(reversed(mapping.items()))


@pytest.mark.parametrize("seed", FEW)
def test_other_names_change_no_cost(seed: int, decided: Make, tmp_path: Path) -> None:
    """Stages, variants, classes and devices whose names sort the other way round."""
    instance = decided(seed).instance
    stage, variant = {"a": "z", "b": "y", "c": "x"}, {"s": "t", "l": "a", "skip": "skip"}
    document = copy.deepcopy(instance.document)
    document["pipeline"]["stages"] = {
        stage[name]: {**own, "variants": {variant[v]: spec for v, spec in own["variants"].items()}}
        for name, own in document["pipeline"]["stages"].items()
    }
    for edge in document["pipeline"]["edges"]:
        edge["from"], edge["to"] = stage[edge["from"]], stage[edge["to"]]
    document["classes"] = {{"x": "q", "y": "p"}[name]: one for name, one in document["classes"].items()}
    other = Instance(
        document,
        {(stage[s], variant[v], batch, threads): time for (s, v, batch, threads), time in instance.times.items()},
        {(stage[s], variant[v]): value for (s, v), value in instance.accuracy.items()},
        {(stage[a], stage[b], variant[v]): counts for (a, b, v), counts in instance.flows.items()},
        {(stage[s], variant[v], stage[o], variant[c]): slower for (s, v, o, c), slower in instance.slowdowns.items()},
    )
    assert cost_of(other, tmp_path) == pytest.approx(decided(seed).cost, rel=1e-6)


@pytest.mark.parametrize("factor", [1e-4, 1e6])
@pytest.mark.parametrize("seed", [2000, 2003, 2006])
def test_prices_of_any_scale(seed: int, factor: float, decided: Make, tmp_path: Path) -> None:
    instance = decided(seed).instance
    price = instance.document["tiers"]["edge"]["devices"]["cpu"]["price_usd_per_h"]
    one = changed(instance, prices=1 / price)
    assert cost_of(changed(one, prices=factor), tmp_path) == pytest.approx(factor * cost_of(one, tmp_path), rel=1e-6)


@pytest.mark.parametrize("factor", [1e-2, 1e4])
@pytest.mark.parametrize("seed", [2000, 2003, 2006])
def test_hours_and_microseconds(seed: int, factor: float, decided: Make, tmp_path: Path) -> None:
    """Everything that takes or lasts a time takes `factor` times as long, and comes as much more seldom."""
    instance = decided(seed).instance
    slow = copy.deepcopy(instance)
    slow.times = {key: (mean * factor, std * factor) for key, (mean, std) in slow.times.items()}
    for own in slow.document["pipeline"]["stages"].values():
        own["max_queue_delays_s"] = [delay * factor for delay in own["max_queue_delays_s"]]
    for one in slow.document["classes"].values():
        one["rate_rps"] /= factor
        if "slo" in one:
            one["slo"]["latency_s"] *= factor
        if "burst_s" in one["arrivals"]:
            one["arrivals"]["burst_s"] *= factor
    assert cost_of(slow, tmp_path) == pytest.approx(decided(seed).cost, rel=1e-6)
