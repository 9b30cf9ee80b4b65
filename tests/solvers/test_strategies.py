"""Strategies decide by their systems' rules; what they decide is priced and judged like any other plan."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from inferplan.estimators.network import network_of_plan
from inferplan.estimators.simulation import Effort, SimulationResult, simulate
from inferplan.solvers.columns import build_columns, column_for
from inferplan.solvers.contest import STRATEGIES, Entry, compare, load, plan_of, strategies
from inferplan.solvers.judge import SEARCH, Judge, network_of
from inferplan.solvers.milp import Solution, Solver, promises
from inferplan.solvers.problem import Problem, read_problem
from inferplan.solvers.strategies import infaas, inferline, ipa, jellybean, mosel
from inferplan.solvers.strategies.tools import Pick, Tools, deploy, heaviest, lightest, loads_rps, replicas_for
from inferplan.spec.document import LoadedWorkload
from inferplan.spec.errors import InfeasibleError, InputError
from inferplan.spec.plan import dump_plan, load_plan, write_plan
from inferplan.spec.profile import Profile

Shared = tuple[LoadedWorkload, Profile, Problem]

ACCURACY = {"s": 0.8, "m": 0.85, "l": 0.9}
TIMES = {"s": 0.01, "m": 0.03, "l": 0.06}


def problem_of(instances: Any, stages: int = 2, rate_rps: float = 20.0, **changes: Any) -> Problem:
    names = ["a", "b", "c"][:stages]
    devices = changes.pop("devices", {"cpu": {"price_usd_per_h": 0.1, "count": 40, "cores": 1}})
    traffic = {
        "rate_rps": rate_rps,
        "slo": {"latency_s": changes.pop("latency_s", 0.4)},
        "accuracy": {"floor": changes.pop("floor", 0.7)},
    }
    loaded = instances.workload(
        {name: list(ACCURACY) for name in names},
        edges=[{"from": x, "to": y} for x, y in itertools.pairwise(names)],
        devices=devices,
        classes={"web": traffic},
        **changes,
    )
    profile = instances.profile(
        {(n, v): {b: t * (0.4 + 0.6 * b) for b in (1, 2, 4)} for n in names for v, t in TIMES.items()},
        {(n, v): value for n in names for v, value in ACCURACY.items()},
    )
    return read_problem(loaded.workload, profile)


def tools(problem: Problem) -> Tools:
    return Tools(Judge(problem, 0))


def variants(solution: Solution) -> dict[str, str]:
    return {column.stage: column.option.variant for column in solution.columns}


def test_a_column_for_an_option_is_the_tabulated_one(instances: Any) -> None:
    problem = problem_of(instances)
    for column in build_columns(problem, prune=False):
        again = column_for(problem, column.stage, column.option, column.replicas, {"a": "s"})
        assert (again.option, again.replicas, again.load_rps) == (column.option, column.replicas, column.load_rps)
        assert again.single_s + again.whole_s == pytest.approx(column.single_s + column.whole_s, rel=1e-9)


def test_an_overloaded_option_waits_forever_and_is_judged_unstable(instances: Any) -> None:
    problem = problem_of(instances, stages=1, rate_rps=200.0)
    slow = next(o for o in problem.options("a") if (o.variant, o.max_batch) == ("l", 1))
    solution = deploy(problem, {"a": Pick(slow, 1)})
    assert solution.columns[0].single_s[0] == float("inf")
    assert Judge(problem, 0).judge(solution).unstable


@pytest.mark.parametrize("composition", ["product", "mean"])
def test_ipa_is_exhaustive_search_over_its_own_objective(instances: Any, composition: str) -> None:
    problem = problem_of(
        instances, rate_rps=40.0, latency_s=0.25, accuracy={"metric": {"name": "acc"}, "composition": composition}
    )
    loads = loads_rps(problem)
    best = None
    for chosen in itertools.product(*(problem.options(stage) for stage in problem.stages)):
        latency = sum(o.service.mean_s(o.max_batch) + (o.max_batch - 1) / 40.0 for o in chosen if o.service)
        if latency > 0.25:
            continue
        values = [ACCURACY[o.variant] for o in chosen]
        accuracy = values[0] * values[1] if composition == "product" else sum(values) / 2
        cores = sum(replicas_for(o, loads[o.stage]) * o.threads for o in chosen)
        worth = ipa.ALPHA * accuracy - ipa.BETA * cores - ipa.DELTA * sum(o.max_batch for o in chosen)
        best = worth if best is None else max(best, worth)
    found = ipa.propose(problem, tools(problem))
    columns = found.columns
    values = [ACCURACY[c.option.variant] for c in columns]
    accuracy = values[0] * values[1] if composition == "product" else sum(values) / 2
    assert ipa.ALPHA * accuracy - ipa.BETA * sum(c.cores for c in columns) == pytest.approx(best, abs=1e-4)


def test_ipa_weighs_the_product_of_metrics_where_accuracy_is_composed_otherwise(instances: Any) -> None:
    """A core more costs 1, and two accurate stages are worth 2 (0.9 x 0.9 - 0.8 x 0.8) = 0.34 by their product. Their
    sum, which no paper has, would be worth 0.4."""
    accuracy = {"metric": {"name": "e2e"}, "composition": "table"}
    problem = problem_of(instances, rate_rps=1.0, floor=None, accuracy=accuracy)
    seen = ipa.by_stages(problem)
    assert seen.accuracy is not None
    assert seen.accuracy.composition == "product"
    found = seen.accuracy.of({"a": "l", "b": "s"})
    assert found is not None
    assert found.value == pytest.approx(0.72)


def test_a_metric_of_a_stage_goes_by_its_own_direction(instances: Any) -> None:
    """An error rate may be a stage's metric where end to end more is better."""
    loaded = instances.workload(
        {"a": ["fine", "poor", "new"]}, accuracy={"metric": {"name": "exact"}, "composition": "table"}
    )
    own = loaded.workload.pipeline.stages["a"]
    stages = {"a": own.model_copy(update={"metric": own.metric.model_copy(update={"direction": "minimize"})})}
    changed = loaded.workload.model_copy(
        update={"pipeline": loaded.workload.pipeline.model_copy(update={"stages": stages})}
    ).at(loaded.workload.root)
    times = {("a", name): {1: 0.01} for name in ("fine", "poor", "new")}
    problem = read_problem(changed, instances.profile(times, {("a", "fine"): 0.02, ("a", "poor"): 0.3}))
    assert heaviest(problem, "a") == "fine"
    assert lightest(problem, "a") == "new"


def test_rim_says_where_the_most_accurate_variant_does_not_run_on_its_machines(instances: Any) -> None:
    devices = {
        "cpu": {"price_usd_per_h": 0.1, "count": 40, "cores": 1},
        "big": {"price_usd_per_h": 1.0, "count": 4, "cores": 1},
    }
    loaded = instances.workload({"a": ["s", "l"]}, devices=devices)
    rows = [instances.measurement("a", "l", 1, 0.01, device="edge/big")]
    profile = instances.profile({("a", "s"): {1: 0.01}}, {("a", "s"): 0.8, ("a", "l"): 0.9}, rows=rows)
    (entry,) = compare(read_problem(loaded.workload, profile), ["rim"])
    assert entry.solution is None
    assert "rim finds no deployment: the most accurate variant of stage a" in entry.note


def test_ipa_counts_the_wait_of_a_batch_to_fill(instances: Any) -> None:
    """At 1 request/s a batch of 2 waits a second: within half a second only batch 1 will do."""
    problem = problem_of(instances, rate_rps=1.0, latency_s=0.5)
    assert {c.option.max_batch for c in ipa.propose(problem, tools(problem)).columns} == {1}


def test_fa2_scales_fixed_variants_and_rim_switches_fixed_replicas(instances: Any) -> None:
    problem = problem_of(instances, rate_rps=40.0)
    assert set(variants(load("fa2-low")(problem, tools(problem))).values()) == {"s"}
    assert set(variants(load("fa2-high")(problem, tools(problem))).values()) == {"l"}
    # 40 requests/s x 60 ms at batch 1.
    assert [c.replicas for c in load("rim")(problem, tools(problem)).columns] == [3, 3]


def test_infaas_takes_the_least_costly_variant_of_those_that_answer_the_query(instances: Any) -> None:
    problem = problem_of(instances, floor=0.85 * 0.85)
    assert variants(infaas.propose(problem, tools(problem))) == {"a": "m", "b": "m"} or {
        ACCURACY[v] >= 0.85 for v in variants(infaas.propose(problem, tools(problem))).values()
    } == {True}
    options = infaas.select(problem, "a", infaas.Query(0.85, 0.1))
    assert {option.variant for option in options} <= {"m", "l"}
    assert all(option.service.mean_s(option.max_batch) <= 0.1 for option in options if option.service)
    with pytest.raises(InfeasibleError, match="infaas"):
        infaas.propose(problem_of(instances, floor=0.95 * 0.95), tools(problem))


def test_infaas_scales_with_headroom_and_upgrades_where_that_saves_a_third(instances: Any) -> None:
    problem = problem_of(instances, stages=1, rate_rps=95.0)
    small, large = (
        next(o for o in problem.options("a") if (o.variant, o.max_batch) == key) for key in (("s", 1), ("l", 1))
    )
    # 100/s per replica: 95 % of it carries 95/s, not a call more.
    assert infaas.scale(problem, [small], 95.0).replicas == 1
    assert infaas.scale(problem, [small], 95.1).replicas == 2
    assert infaas.scale(problem, [large, small], 95.0).option is small
    medium = next(o for o in problem.options("a") if (o.variant, o.max_batch) == ("m", 4))
    # 4 of 31 ms each x 95/s: as many replicas of either, so the one selected stays.
    assert infaas.scale(problem, [medium, medium], 95.0).option is medium


def test_jellybean_ranks_by_proxy_cost_among_what_can_still_reach_the_floor(instances: Any) -> None:
    problem = problem_of(instances, stages=3, floor=0.8 * 0.9 * 0.9)
    beams = jellybean.beam(problem)
    assert len(beams) <= jellybean.BEAM_WIDTH
    products = [ACCURACY[m["a"]] * ACCURACY[m["b"]] * ACCURACY[m["c"]] for m in beams]
    assert all(product >= 0.8 * 0.9 * 0.9 - 1e-9 for product in products)
    proxies = [sum(TIMES[v] for v in models.values()) for models in beams]
    assert proxies == sorted(proxies)


def test_jellybean_takes_one_worker_that_carries_the_rate_or_the_best_price_per_call(instances: Any) -> None:
    devices = {
        "cpu": {"price_usd_per_h": 0.1, "cores": 1},
        "old": {"price_usd_per_h": 0.06, "cores": 1, "like": {"device": "edge/cpu", "slowdown": 2.0}},
    }
    problem = problem_of(instances, stages=1, devices=devices)
    alone = jellybean.workers(problem, "a", "s", 20.0, "edge")
    assert (alone.option.device, alone.replicas) == ("edge/old", 1)
    only_new = jellybean.workers(problem, "a", "s", 80.0, "edge")
    assert (only_new.option.device, only_new.replicas) == ("edge/cpu", 1)
    # 0.1 x 10 ms a call beats 0.06 x 20 ms.
    many = jellybean.workers(problem, "a", "s", 500.0, "edge")
    assert (many.option.device, many.replicas) == ("edge/cpu", 5)


def test_mosel_takes_the_fastest_choices_that_keep_the_floor(instances: Any) -> None:
    problem = problem_of(instances, floor=0.8 * 0.9)
    time, expected = min(
        (TIMES[x] + TIMES[y], {"a": x, "b": y})
        for x, y in [("s", "l"), ("m", "m"), ("m", "l"), ("l", "l")]
    )  # fmt: skip
    found = mosel.fastest(problem)
    assert found is not None
    assert TIMES[found["a"]] + TIMES[found["b"]] == pytest.approx(time)
    assert expected == {"a": "m", "b": "m"}
    columns = mosel.propose(problem, tools(problem)).columns
    whole = sum(c.option.service.mean_s(c.option.max_batch) for c in columns if c.option.service)
    assert whole <= 0.91 * 0.4


S = 0.01
LONG = Effort(600_000, 40)


def shared(instances: Any, limits_s: Mapping[str, float | None], rates_rps: Mapping[str, float]) -> Shared:
    """Classes with limits of their own at one stage whose calls take a hundredth of a second each."""
    loaded = instances.workload(
        {"a": ["s"]},
        devices={"cpu": {"price_usd_per_h": 0.1, "count": 40, "cores": 1}},
        classes={
            name: {"rate_rps": rates_rps[name], **({} if limit is None else {"slo": {"latency_s": limit}})}
            for name, limit in limits_s.items()
        },
    )
    profile = instances.profile({("a", "s"): {1: S}}, {("a", "s"): 0.8})
    return loaded, profile, read_problem(loaded.workload, profile)


def by_arrival(solution: Solution) -> Solution:
    columns = tuple(replace(c, option=replace(c.option, order="fifo")) for c in solution.columns)
    return replace(solution, columns=columns)


def means_s(result: SimulationResult) -> dict[str, float]:
    return {name: stream.latency_mean_s.value for name, stream in result.streams.items()}


@pytest.mark.parametrize(("urgent", "patient"), [(10.0, 70.0), (40.0, 40.0), (60.0, 20.0)])
def test_mosel_serves_a_class_without_a_limit_last(instances: Any, urgent: float, patient: float) -> None:
    """Then deadlines are priorities that break no batch off, and waits are Cobham's (M/G/1, two classes)."""
    _, _, problem = shared(instances, {"u": 0.5, "p": None}, {"u": urgent, "p": patient})
    solution = mosel.propose(problem, tools(problem))
    assert [c.replicas for c in solution.columns] == [1]
    residual_s = (urgent + patient) * S**2 / 2
    waits_s = {
        "u": residual_s / (1 - urgent * S),
        "p": residual_s / ((1 - urgent * S) * (1 - (urgent + patient) * S)),
    }
    found = means_s(simulate(network_of(problem, solution.columns), 0, LONG))
    assert {name: seconds - S for name, seconds in found.items()} == pytest.approx(waits_s, rel=0.05)
    # First come, first served, all wait alike.
    alike = residual_s / (1 - (urgent + patient) * S)
    found = means_s(simulate(network_of(problem, by_arrival(solution).columns), 0, LONG))
    assert {name: seconds - S for name, seconds in found.items()} == pytest.approx({"u": alike, "p": alike}, rel=0.05)


def test_mosel_keeps_limits_by_the_order_of_deadlines_and_its_plan_says_so(instances: Any) -> None:
    loaded, profile, problem = shared(instances, {"u": 0.05, "p": 2.0}, {"u": 10.0, "p": 70.0})
    (entry,) = compare(problem, ["mosel"])
    assert entry.solution is not None
    assert entry.broken == ()
    assert Judge(problem, 0).certain(by_arrival(entry.solution)).streams["u"].verdict == "missed"
    plan = plan_of(problem, entry, loaded, profile, plan_dir=instances.folder)
    assert plan is not None
    write_plan(plan, instances.folder / "plan.yaml")
    read = load_plan(instances.folder / "plan.yaml")
    network = network_of_plan(read.plan, read.workload.workload, profile)
    assert {station.order for station in network.stations.values()} == {"edf"}
    assert read.plan.by_deadline() == set(read.plan.options)
    again = simulate(network, 0, SEARCH)
    assert again.verdict == "met"
    assert entry.result is not None
    assert means_s(again) == pytest.approx(means_s(entry.result), rel=0.05)


@pytest.mark.parametrize("limit_s", [0.05, 0.3, None])
def test_with_one_limit_mosel_takes_calls_in_the_order_they_come(instances: Any, limit_s: float | None) -> None:
    loaded, profile, problem = shared(instances, {"u": limit_s, "p": limit_s}, {"u": 10.0, "p": 70.0})
    (entry,) = compare(problem, ["mosel"])
    assert entry.solution is not None
    assert entry.result is not None
    assert means_s(entry.result) == means_s(Judge(problem, 0).certain(by_arrival(entry.solution)))
    plan = plan_of(problem, entry, loaded, profile, plan_dir=instances.folder)
    assert plan is not None
    assert plan.by_deadline() == frozenset()
    assert all(not line.strip().startswith("order:") for line in dump_plan(plan).splitlines())
    # Of one queue and one limit deadlines say the same.
    urgent = replace(
        entry.solution,
        columns=tuple(replace(c, option=replace(c.option, order="edf")) for c in entry.solution.columns),
    )
    assert means_s(Judge(problem, 0).certain(urgent)) == pytest.approx(means_s(entry.result), rel=1e-9)


def test_mosel_climbs_where_there_are_too_many_combinations(instances: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = problem_of(instances, floor=0.8 * 0.9)
    monkeypatch.setattr(mosel, "MAX_COMBINATIONS", 1)
    found = mosel.fastest(problem)
    assert found is not None
    assert ACCURACY[found["a"]] * ACCURACY[found["b"]] >= 0.8 * 0.9


def test_inferline_ends_where_no_single_action_saves_anything(instances: Any) -> None:
    problem = problem_of(instances, rate_rps=60.0)
    own = tools(problem)
    solution = inferline.propose(problem, own)
    picks = {c.stage: Pick(c.option, c.replicas) for c in solution.columns}
    cost = inferline._worth(problem, picks)
    for other in inferline._actions(problem, picks, loads_rps(problem)):
        assert inferline._worth(problem, other) >= cost or not inferline._keeps(problem, own, other)
    assert own.judge.judge(solution, inferline.GLANCE).verdict != "missed"


def test_fixed_variants_are_deployed_at_least_cost(instances: Any) -> None:
    problem = problem_of(instances, rate_rps=60.0, floor=0.64)
    lightest = load("cheapest-fixed")(problem, tools(problem))
    assert set(variants(lightest).values()) == {"s"}
    # With the floor that the lightest variants keep, nothing can be cheaper.
    best = Solver(problem, build_columns(problem)).ask(promises(problem), 60.0, 0.0)
    assert best is not None
    assert lightest.cost_usd_per_h == pytest.approx(best.cost_usd_per_h)


def test_no_strategy_that_keeps_every_promise_beats_the_optimum(instances: Any) -> None:
    problem = problem_of(instances, rate_rps=60.0, latency_s=0.3)
    entries = {entry.strategy: entry for entry in compare(problem, STRATEGIES)}
    best = entries["optimal"].solution
    assert best is not None
    assert entries["optimal"].broken == ()
    for entry in entries.values():
        if entry.solution is not None and not entry.broken:
            assert entry.solution.cost_usd_per_h >= best.cost_usd_per_h - 1e-9


def test_every_broken_promise_is_named(instances: Any) -> None:
    problem = problem_of(instances, floor=0.8, latency_s=0.05)
    tight = replace(
        problem,
        budget_usd_per_h=0.05,
        devices={name: replace(device, count=1) for name, device in problem.devices.items()},
    )
    (entry,) = compare(tight, ["mosel"])
    assert entry.broken == ("slo", "machines of edge/cpu", "budget")
    (low,) = compare(problem, ["fa2-low"])
    assert "accuracy" in low.broken


def test_a_strategy_without_an_answer_says_why(instances: Any) -> None:
    problem = problem_of(instances, floor=0.99)
    entries: list[Entry] = compare(problem, ["jellybean", "mosel"])
    assert [entry.solution for entry in entries] == [None, None]
    assert "keeps the accuracy asked" in entries[0].note


def test_names_of_strategies() -> None:
    assert strategies("all") == list(STRATEGIES)
    assert strategies("rim, ipa,rim") == ["rim", "ipa"]
    with pytest.raises(InputError, match="did you mean jellybean"):
        strategies("jellybeans")
    with pytest.raises(InputError, match="name some of"):
        strategies(" ,")
    for name in STRATEGIES:
        assert load(name).__doc__
