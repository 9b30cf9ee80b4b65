"""What strategies decide as plan documents: priced by the checker that prices ours, on one tier and on three."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from certified_optimality import instance_of

from inferplan.solvers.contest import STRATEGIES, Entry, compare, plan_of
from inferplan.solvers.problem import Problem, read_problem
from inferplan.solvers.strategies import jellybean
from inferplan.solvers.strategies.tools import loads_rps
from inferplan.spec.document import LoadedWorkload
from inferplan.spec.errors import InputError
from inferplan.spec.plan import load_plan, write_plan
from inferplan.spec.profile import Profile

HOUR_GB = 3600 / 2**30
EVERY = pytest.mark.parametrize("seed", range(3000, 3012))
Compared = Callable[[int], tuple[LoadedWorkload, Profile, Problem, list[Entry]]]


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Compared:
    """The instance of a seed, and what every strategy decides; made once for all tests."""

    @cache
    def made(seed: int) -> tuple[LoadedWorkload, Profile, Problem, list[Entry]]:
        loaded, profile, problem = instance_of(seed, tmp_path_factory.mktemp("compared"))
        return loaded, profile, problem, compare(problem, STRATEGIES)

    return made


@EVERY
def test_every_decision_is_priced_by_the_independent_checker(seed: int, compared: Compared, tmp_path: Path) -> None:
    loaded, profile, problem, entries = compared(seed)
    for entry in entries:
        plan = plan_of(problem, entry, loaded, profile, plan_dir=tmp_path)
        assert (plan is None) == (entry.solution is None or "capacity" in entry.broken)
        if plan is None:
            continue
        assert entry.solution is not None
        assert plan.cost_usd_per_h == pytest.approx(entry.solution.cost_usd_per_h, rel=1e-9)
        paid = sum(m.count * problem.devices[name].price_usd_per_h for name, m in plan.machines.items())
        assert plan.cost_usd_per_h == pytest.approx(paid, rel=1e-6)
        assert plan.certificate is not None
        assert (plan.certificate.verdict == "met") == (not {"slo", "slo (undecided)"} & set(entry.broken))
        write_plan(plan, tmp_path / "plan.yaml")
        assert load_plan(tmp_path / "plan.yaml").plan.cost_usd_per_h == pytest.approx(plan.cost_usd_per_h)


@EVERY
def test_nothing_that_keeps_every_promise_is_cheaper_than_ours(seed: int, compared: Compared) -> None:
    entries = {entry.strategy: entry for entry in compared(seed)[-1]}
    best = entries.pop("optimal")
    for entry in entries.values():
        if entry.solution is not None and not entry.broken:
            assert best.solution is not None
            assert best.broken == ()
            assert entry.solution.cost_usd_per_h >= best.solution.cost_usd_per_h * (1 - 1e-6)


def tiers(instances: Any, toll_usd: float = 0.0, **changes: Any) -> tuple[Any, Any, Problem]:
    """Stages a -> b; a dear machine at the edge, cheap ones in the cloud."""
    names = ["a", "b"]
    like = {"device": "edge/cpu"}
    loaded = instances.workload(
        {name: ["s", "l"] for name in names},
        edges=[{"from": "a", "to": "b", "payload_bytes": changes.pop("payload", 1e4)}],
        classes={
            "web": {
                "rate_rps": changes.pop("rate", 20.0),
                "enters_at": "edge",
                "slo": {"latency_s": changes.pop("latency", 0.5)},
                "accuracy": {"floor": changes.pop("floor", 0.6)},
            }
        },
        tiers={
            "edge": {"devices": {"cpu": {"price_usd_per_h": 1.0, "count": changes.pop("edge", 8), "cores": 1}}},
            "cloud": {"devices": {"box": {"price_usd_per_h": 0.2, "cores": 1, "like": like}}},
        },
        links={
            f"{x}-{y}": {
                "from": x, "to": y, "rtt_s": 0.02, "price_usd_per_gb": toll_usd / HOUR_GB,
                "bandwidth_bytes_per_s": changes.get("bandwidth", 1e9),
            }
            for x, y in changes.pop("links", (("edge", "cloud"), ("cloud", "edge")))
        },
        pipeline_extra={"request_bytes": 1e5, "response_bytes": 100.0},
    )  # fmt: skip
    profile = instances.profile(
        {(n, v): {1: t, 4: 3 * t} for n in names for v, t in (("s", 0.01), ("l", 0.03))},
        {(n, v): value for n in names for v, value in (("s", 0.8), ("l", 0.9))},
    )
    return loaded, profile, read_problem(loaded.workload, profile)


def where(entry: Entry) -> dict[str, str]:
    assert entry.solution is not None
    return {column.stage: column.option.device.split("/")[0] for column in entry.solution.columns}


def test_jellybean_goes_to_the_cheap_tier_unless_traffic_costs_more(instances: Any) -> None:
    free, priced = (compare(tiers(instances, toll)[2], ["jellybean"])[0] for toll in (0.0, 1.0))
    assert where(free) == {"a": "cloud", "b": "cloud"}
    assert where(priced) == {"a": "edge", "b": "edge"}


def test_jellybean_places_as_exhaustive_search_over_tiers_does(instances: Any) -> None:
    """Two operators, two tiers: the beam is wide enough to hold every placement."""
    for toll, payload in itertools.product((0.0, 1e-7, 1e-6), (1e2, 1e6)):
        _, _, problem = tiers(instances, toll, payload=payload, floor=0.85 * 0.85)
        models = {"a": "l", "b": "l"}
        loads = loads_rps(problem)
        kept = jellybean.placements(problem, models, loads)
        assert len(kept) == 4
        costs = []
        for picks in kept:
            homes = {stage: pick.option.device.split("/")[0] for stage, pick in picks.items()}
            sent = [("edge", homes["a"], 1e5), (homes["a"], homes["b"], payload)]
            tolls = sum(20.0 * size * toll for source, target, size in sent if source != target)
            prices = {"edge": 1.0, "cloud": 0.2}
            costs.append(tolls + sum(pick.replicas * prices[homes[stage]] for stage, pick in picks.items()))
        assert costs == sorted(costs)


def test_jellybean_does_not_go_where_there_is_no_link(instances: Any) -> None:
    _, _, problem = tiers(instances, links=())
    (entry,) = compare(problem, ["jellybean"])
    assert where(entry) == {"a": "edge", "b": "edge"}
    _, _, full = tiers(instances, links=(), edge=1, rate=60.0)
    (none,) = compare(full, ["jellybean"])
    assert none.solution is None
    assert "too few workers" in none.note


def test_missing_and_narrow_links_are_broken_promises(instances: Any) -> None:
    loaded, profile, problem = tiers(instances, links=())
    entries = {entry.strategy: entry for entry in compare(problem, ["ipa", "optimal"])}
    # IPA knows no tiers: it takes the cheapest cores.
    assert where(entries["ipa"]) == {"a": "cloud", "b": "cloud"}
    assert "no link from edge to cloud" in entries["ipa"].broken
    assert plan_of(problem, entries["ipa"], loaded, profile, plan_dir=instances.folder) is None
    assert entries["optimal"].broken == ()
    loaded, profile, problem = tiers(instances, bandwidth=1e6)
    (narrow,) = compare(problem, ["ipa"])
    assert "bandwidth from edge to cloud" in narrow.broken
    assert plan_of(problem, narrow, loaded, profile, plan_dir=instances.folder) is not None


def test_traffic_is_part_of_every_strategys_bill(instances: Any) -> None:
    toll = 1e-9
    loaded, profile, problem = tiers(instances, toll)
    for entry in compare(problem, STRATEGIES):
        plan = plan_of(problem, entry, loaded, profile, plan_dir=instances.folder)
        if plan is None or set(where(entry).values()) != {"cloud"}:
            continue
        assert plan.costs is not None
        assert plan.costs.network_usd_per_h == pytest.approx(20.0 * (1e5 + 100) * toll, rel=1e-6)


def test_strategies_are_told_of_load_levels_and_headroom(instances: Any) -> None:
    def replicas(**robustness: Any) -> int:
        loaded = instances.workload(
            {"a": ["s"]},
            classes={"web": {"rate_rps": 90.0, "slo": {"latency_s": 1.0}, "accuracy": {"floor": 0.5}}},
            devices={"cpu": {"price_usd_per_h": 0.1, "count": 40, "cores": 1}},
            robustness=robustness,
        )
        profile = instances.profile({("a", "s"): {1: 0.01}}, {("a", "s"): 0.8})
        problem = read_problem(loaded.workload, profile)
        (entry,) = compare(problem, ["jellybean"])
        assert entry.solution is not None
        # Without its only machine it cannot carry the load: there is no plan to write.
        plan = plan_of(problem, entry, loaded, profile, plan_dir=instances.folder)
        assert (plan is None) == ("capacity" in entry.broken) == ("spare_machines" in robustness)
        return entry.solution.columns[0].replicas

    assert replicas() == 1
    assert replicas(load_levels=[2.0]) == 2
    assert replicas(headroom=0.5) == 2
    assert replicas(spare_machines=1) == 1
    with pytest.raises(InputError, match="availability"):
        replicas(availability=0.99)
