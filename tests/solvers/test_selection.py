"""The table of choices: every way through the deployed options and its worth, less what another one beats."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inferplan.estimators.network import network_of_plan
from inferplan.estimators.simulation import Effort, simulate
from inferplan.solvers import selection as module
from inferplan.solvers.checker import check_plan
from inferplan.solvers.explanation import explain
from inferplan.solvers.planner import solve
from inferplan.solvers.selection import undominated
from inferplan.spec.document import load_workload
from inferplan.spec.errors import CheckFailedError, InfeasibleError, InputError
from inferplan.spec.plan import Choice, ClassPlan, ClassPrediction, Plan, dump_plan, read_plan, write_plan
from inferplan.spec.selection import Selection, ServingRoute, Tail

QUIET = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
ACCURACY = {"s": 0.7, "m": 0.85, "l": 0.95}
TIMES = {"s": {1: 0.004, 4: 0.008}, "m": {1: 0.01, 4: 0.03}, "l": {1: 0.03, 4: 0.08}}
CORES, PRICE = 4, 0.1


def instance(instances: Any, stages: int, mix: list[dict[str, float]], rate_rps: float = 40.0, **more: Any) -> Any:
    names = ["a", "b"][:stages]
    loaded = instances.workload(
        {stage: list(ACCURACY) for stage in names},
        edges=[{"from": a, "to": b} for a, b in itertools.pairwise(names)],
        classes={"app": {"rate_rps": rate_rps, "asks": {"mix": mix}}, **more.pop("classes", {})},
        devices={"cpu": {"price_usd_per_h": PRICE, "count": 8, "cores": CORES}},
        **more,
    )
    times = {(stage, variant): points for stage in names for variant, points in TIMES.items()}
    return loaded, instances.profile(times, {(stage, v): value for stage in names for v, value in ACCURACY.items()})


def planned(instances: Any, *args: Any, **kwargs: Any) -> tuple[Plan, Any, Any]:
    loaded, profile = instance(instances, *args, **kwargs)
    plan = solve(loaded, profile, plan_dir=instances.folder)
    check_plan(plan, loaded.workload, profile)
    return plan, loaded, profile


def by_hand(plan: Plan, options: dict[str, str]) -> tuple[float, float]:
    """Accuracy and cost of a way, from the figures above alone."""
    chosen = [plan.options[name] for name in options.values()]
    cost = 0.0
    for one in chosen:
        batch_s = TIMES[one.variant][one.max_batch]
        # A replica's memory is not limited: its cores decide its share of the machine.
        cost += PRICE * one.threads / CORES / 3600 * batch_s / one.max_batch
    return math.prod(ACCURACY[one.variant] for one in chosen), cost


@st.composite
def mixes(draw: st.DrawFn) -> list[dict[str, float]]:
    asked = st.tuples(st.sampled_from([0.45, 0.65, 0.72, 0.84]), st.sampled_from([0.05, 0.1, 0.4]))
    pairs = draw(st.lists(asked, min_size=1, max_size=3, unique=True))
    return [{"accuracy": a, "latency_s": s, "weight": float(draw(st.integers(1, 3)))} for a, s in pairs]


@QUIET
@given(mix=mixes(), stages=st.integers(1, 2), asked=st.lists(st.tuples(st.floats(0.4, 1), st.floats(0.005, 0.5))))
def test_lookups_find_what_an_exhaustive_search_finds(
    mix: list[dict[str, float]], stages: int, asked: list[tuple[float, float]], module_instances: Any
) -> None:
    every: list[ServingRoute] = []

    def watched(rows: list[ServingRoute], direction: str) -> list[ServingRoute]:
        every.extend(rows)
        return undominated(rows, direction)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "undominated", watched)
        try:
            plan, _, _ = planned(module_instances, stages, mix)
        except InfeasibleError:
            return
    table = plan.selection
    assert table is not None
    at = {stage: [n for n, o in plan.options.items() if o.stage == stage] for stage in ("a", "b")[:stages]}
    ways = [dict(zip(at, names, strict=True)) for names in itertools.product(*at.values())]
    assert sorted(sorted(row.options.items()) for row in every) == sorted(sorted(way.items()) for way in ways)
    for row in every:
        accuracy, cost = by_hand(plan, row.options)
        assert (row.accuracy, row.cost_usd_per_request) == (pytest.approx(accuracy), pytest.approx(cost))
    declared = [(traffic.accuracy_floor, traffic.slo_latency_s) for traffic in plan.classes.values()]
    for accuracy, latency_s in [*asked, *declared]:
        keeping = [row for row in every if row.accuracy >= accuracy - 1e-9 and row.latency_s.upper <= latency_s]
        found = table.keeping(accuracy, latency_s)
        assert bool(found) == bool(keeping)
        if keeping:
            best = min(row.cost_usd_per_request for row in keeping)
            assert table.rows[found[0]].cost_usd_per_request == best


figures = st.sampled_from([0.1, 0.2, 0.3])


@given(st.lists(st.tuples(st.none() | figures, figures, figures), min_size=1, max_size=8), st.booleans())
def test_what_is_left_is_what_nothing_is_as_good_as(
    given_figures: list[tuple[float | None, float, float]], higher: bool
) -> None:
    def rows() -> list[ServingRoute]:
        return [
            ServingRoute(
                options={"a": f"o{index}"},
                accuracy=accuracy,
                latency_s=Tail(value=latency_s, upper=latency_s),
                cost_usd_per_request=cost,
            )
            for index, (accuracy, latency_s, cost) in enumerate(given_figures)
        ]

    def as_good(one: ServingRoute, other: ServingRoute) -> bool:
        sign = 1 if higher else -1
        a, b = (-math.inf if row.accuracy is None else sign * row.accuracy for row in (one, other))
        cheaper = one.cost_usd_per_request <= other.cost_usd_per_request
        return a >= b and one.latency_s.upper <= other.latency_s.upper and cheaper

    kept = undominated(rows(), "maximize" if higher else "minimize")
    assert all(any(as_good(one, row) for one in kept) for row in rows())
    assert not any(as_good(one, other) for one, other in itertools.permutations(kept, 2))
    assert undominated(rows()[::-1], "maximize" if higher else "minimize") == kept


MIX = [
    {"accuracy": 0.45, "latency_s": 0.05, "weight": 3.0},
    {"accuracy": 0.9, "latency_s": 0.5},
]


def test_ways_that_no_class_goes_are_as_fast_as_a_class_that_goes_them(instances: Any) -> None:
    """Sent at a low rate as a class of its own, a request sees what the table says."""
    plan, loaded, profile = planned(instances, 2, MIX)
    assert plan.selection is not None
    planned_ways = [{s: c[0].option for s, c in traffic.routes.items()} for traffic in plan.classes.values()]
    rows = [row for row in plan.selection.rows if row.options not in planned_ways]
    assert rows, "two options per stage make four ways"
    text = loaded.path.read_text().replace("classes:\n", "classes:\n  own: {rate_rps: 0.5, slo: {latency_s: 9}}\n")
    loaded.path.write_text(text)
    grown = load_workload(loaded.path).workload
    for row in rows:
        routes = {stage: [Choice(option=name, share=1.0)] for stage, name in row.options.items()}
        own = ClassPlan(rate_rps=0.5, routes=routes, predicted=ClassPrediction(throughput_rps=0.5))
        with_own = plan.model_copy(update={"classes": {**plan.classes, "own": own}})
        network = network_of_plan(with_own, grown, profile)
        seen = simulate(network, 7, Effort(calls=3_000_000)).streams["own"].latency_slo_s
        assert seen is not None
        assert seen.lower is not None
        assert row.latency_s.upper >= seen.lower
        assert row.latency_s.value == pytest.approx(seen.value, rel=0.15)


def test_the_plan_says_whose_levels_its_classes_are(instances: Any) -> None:
    plan, loaded, _ = planned(instances, 1, MIX, 200.0, classes={"own": {"rate_rps": 5.0, "slo": {"latency_s": 0.3}}})
    assert {name: traffic.asked_of for name, traffic in plan.classes.items()} == {
        "app-1": "app", "app-2": "app", "own": None,
    }  # fmt: skip
    assert plan.selection is not None
    assert (plan.selection.percentile, plan.selection.metric) == (99.0, "acc")
    assert {name for row in plan.selection.rows for name in row.classes} >= {"app-1", "app-2"}
    path = loaded.path.parent / "plan.yaml"
    write_plan(plan, path)
    assert dump_plan(read_plan(path)) == path.read_text()


def test_what_binds_is_named_as_it_is_written(instances: Any) -> None:
    plan, loaded, profile = planned(instances, 1, [{"accuracy": 0.9, "latency_s": 0.5}], 200.0)
    assert [entry.constraint for entry in plan.binding] == ["classes.app.asks.mix[0].accuracy"]
    found = explain(plan, loaded, profile)
    assert found.differs == ""
    assert {one.constraint for one in found.slacks if one.binds} == {"classes.app.asks.mix[0].accuracy"}
    assert any(one.promise == "classes.app.asks.mix[0].accuracy" and one.way == "looser" for one in found.steps)


def test_plans_without_such_classes_have_no_table(instances: Any) -> None:
    loaded = instances.workload({"a": ["s", "l"]})
    profile = instances.profile({("a", "s"): TIMES["s"], ("a", "l"): TIMES["l"]}, {("a", "s"): 0.7, ("a", "l"): 0.9})
    assert solve(loaded, profile, plan_dir=instances.folder).selection is None


def test_what_is_asked_without_a_latency_has_a_way_too(instances: Any) -> None:
    plan, _, _ = planned(instances, 1, [{"accuracy": 0.9}, {"accuracy": 0.6, "latency_s": 0.05}])
    assert plan.selection is not None
    assert plan.selection.keeping(0.9, None)


def test_too_many_ways_leave_those_of_classes(instances: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ROUTES", 3)
    plan, _, _ = planned(instances, 2, MIX)
    assert plan.selection is not None
    assert all(row.classes for row in plan.selection.rows)
    assert any("of 4 ways through the deployed options, more than 3" in line for line in plan.story)


def test_a_plan_at_a_confidence_promises_bounds(instances: Any) -> None:
    plan, _, _ = planned(instances, 1, [{"accuracy": 0.6, "latency_s": 0.1}], robustness={"confidence": 0.99})
    assert plan.selection is not None
    (row,) = plan.selection.rows
    predicted = plan.classes["app-1"].predicted.accuracy
    assert predicted is not None
    assert row.accuracy is not None
    assert row.accuracy < predicted.value


def test_more_asks_than_classes_are_refused(instances: Any) -> None:
    mix = [{"accuracy": 0.5, "latency_s": 0.1 * n} for n in range(1, 8)]
    loaded, profile = instance(instances, 1, mix)
    with pytest.raises(InputError, match="7 traffic classes"):
        solve(loaded, profile, plan_dir=instances.folder)


def test_what_cannot_be_kept_is_named_as_it_is_asked(instances: Any) -> None:
    loaded, profile = instance(instances, 1, [{"accuracy": 0.5, "latency_s": 0.1}, {"accuracy": 0.99}])
    with pytest.raises(InfeasibleError) as caught:
        solve(loaded, profile, plan_dir=instances.folder)
    assert "classes.app.asks.mix[1].accuracy (0.99) cannot be kept" in caught.value.message


FAR = {
    "tiers": {
        "edge": {"devices": {"cpu": {"price_usd_per_h": 5.0, "count": 8, "cores": 1}}},
        "cloud": {
            "devices": {
                "cpu": {"price_usd_per_h": 0.1, "count": 8, "cores": 4, "like": {"device": "edge/cpu", "slowdown": 1.0}}
            }
        },
    },
    "links": {
        "up": {"from": "edge", "to": "cloud", "rtt_s": 0.02, "price_usd_per_gb": 1.0},
    },
    "pipeline_extra": {"request_bytes": 1e6},
}


def test_calls_go_where_there_are_links(instances: Any) -> None:
    """Down again from the cloud there is no link: b follows a up, never down."""
    edges = [{"from": "a", "to": "b", "payload_bytes": 1000.0}]
    mix = [{"accuracy": 0.4, "latency_s": 0.019}, {"accuracy": 0.9, "latency_s": 0.5}]
    loaded = instances.workload(
        {stage: list(ACCURACY) for stage in "ab"},
        edges=edges,
        classes={"app": {"rate_rps": 20.0, "enters_at": "edge", "asks": {"mix": mix}}},
        **FAR,
    )
    times = {(stage, variant): points for stage in "ab" for variant, points in TIMES.items()}
    profile = instances.profile(times, {(stage, v): value for stage in "ab" for v, value in ACCURACY.items()})
    plan = solve(loaded, profile, plan_dir=instances.folder)
    table = plan.selection
    assert table is not None
    tiers = [[plan.options[row.options[s]].device.split("/")[0] for s in "ab"] for row in table.rows]
    assert {"edge", "cloud"} == {tier for pair in tiers for tier in pair}
    assert ["cloud", "edge"] not in tiers
    for row, (first, second) in zip(table.rows, tiers, strict=True):
        up = (1e6 if first == "cloud" else 0.0) + (1000.0 if (first, second) == ("edge", "cloud") else 0.0)
        tolls, cost = up / 2**30, 0.0
        for name in row.options.values():
            option = plan.options[name]
            price, cores = (5.0, 1) if option.device == "edge/cpu" else (0.1, 4)
            cost += price / cores / 3600 * TIMES[option.variant][option.max_batch] / option.max_batch
        assert row.cost_usd_per_request == pytest.approx(cost + tolls)


def forged(plan: Plan, change: Any) -> Plan:
    data = plan.model_dump(by_alias=True)
    change(data["selection"]["rows"], data)
    return Plan.model_validate(data)


FORGERIES = {
    "row 0: a request costs": lambda rows, _: rows[0].update(cost_usd_per_request=rows[0]["cost_usd_per_request"] / 2),
    "row 0: accuracy is 0.85, the plan says 0.8": lambda rows, _: rows[0].update(accuracy=0.8),
    "is far below the": lambda rows, _: rows[-1].update(latency_s={"value": 1e-4, "upper": 1e-4}),
    "is no better than row": lambda rows, _: rows.append({**rows[-1]}),
    "the cheapest do not come first": lambda rows, _: rows.reverse(),
    "no row keeps what class app-2 was promised": lambda rows, _: rows.pop(),
    "does not go through every stage": lambda rows, _: rows[0].update(options={}),
    "choices: metric other": lambda _, data: data["selection"].update(metric="other"),
    "latencies at percentile 50.0, asked for at [99.0]": lambda _, data: data["selection"].update(percentile=50.0),
    "class app-1: said to be asked of None": lambda _, data: data["classes"]["app-1"].update(asked_of=None),
}


@pytest.fixture(scope="module")
def solved(module_instances: Any) -> tuple[Plan, Any, Any]:
    return planned(module_instances, 1, MIX, 200.0)


@pytest.mark.parametrize("finding", FORGERIES)
def test_a_forged_table_fails_loudly(finding: str, solved: tuple[Plan, Any, Any]) -> None:
    plan, loaded, profile = solved
    with pytest.raises(CheckFailedError) as caught:
        check_plan(forged(plan, FORGERIES[finding]), loaded.workload, profile)
    assert any(finding in line for line in caught.value.details), caught.value.details


def test_a_table_that_nobody_asks_for_is_found(solved: tuple[Plan, Any, Any], instances: Any) -> None:
    plan, _, _ = solved
    loaded = instances.workload({"a": ["s"]})
    profile = instances.profile({("a", "s"): TIMES["s"]}, {("a", "s"): 0.7})
    own = solve(loaded, profile, plan_dir=instances.folder)
    assert plan.selection is not None
    row = plan.selection.rows[0].model_copy(update={"options": {"a": next(iter(own.options))}})
    wrong = own.model_copy(update={"selection": Selection(percentile=99, rows=[row])})
    with pytest.raises(CheckFailedError) as caught:
        check_plan(wrong, loaded.workload, profile)
    assert "the plan has a table of choices, and no class asks for one" in caught.value.details


@pytest.mark.parametrize(
    "more",
    [
        {"robustness": {"load_levels": [1.5], "spare_machines": 1}},
        {"robustness": {"confidence": 0.95, "headroom": 0.2}},
        {"objective": {"maximize": "accuracy", "budget_usd_per_h": 0.4}},
        {"objective": {"weights": {"cost": 1.0, "accuracy": 1.0}}},
        {"classes": {"own": {"rate_rps": 5.0, "arrivals": {"process": "mmpp", "burst_factor": 4, "burst_s": 1.0}}}},
    ],
)
def test_whatever_else_is_asked_the_table_is_right(instances: Any, more: dict[str, Any]) -> None:
    """`planned` lets the checker recompute it."""
    plan, _, _ = planned(instances, 2, [MIX[0], {**MIX[1], "accuracy": 0.85}], 20.0, **more)
    assert plan.selection is not None
    assert {name for row in plan.selection.rows for name in row.classes} >= {"app-1"}


def small(instances: Any, variants: dict[str, list[str]], fan_out: Any, asks: dict[str, Any], **more: Any) -> Plan:
    loaded = instances.workload(
        variants,
        edges=[{"from": "a", "to": "b", "fan_out": fan_out}],
        classes={"app": {"rate_rps": 10.0, "asks": asks, **more.pop("fields", {})}},
        **more,
    )
    times = {(s, v): TIMES[v] for s, names in variants.items() for v in names if v != "skip"}
    helpers = __import__("sys").modules[type(instances).__module__]
    flows = [helpers.flow("a", "b", variant, counts) for variant, counts in (("s", [1, 3]), ("l", [4, 6]))]
    accuracy = {**dict.fromkeys(times, 0.9), ("b", "skip"): 0.5}
    profile = instances.profile(times, accuracy, flows=flows)
    plan = solve(loaded, profile, plan_dir=instances.folder)
    check_plan(plan, loaded.workload, profile)
    return plan


def test_calls_of_a_request_are_counted(instances: Any) -> None:
    """Measured fan-outs differ: after s two calls of b, after l five."""
    asks = {"mix": [{"latency_s": 0.04}, {"latency_s": 0.9}]}
    plan = small(instances, {"a": ["s", "l"], "b": ["s"]}, "measured", asks, accuracy=None)
    assert plan.selection is not None
    for row in plan.selection.rows:
        assert row.accuracy is None
        cost = 0.0
        for name in row.options.values():
            option = plan.options[name]
            calls = 1.0 if option.stage == "a" else {"s": 2.0, "l": 5.0}[plan.options[row.options["a"]].variant]
            cost += calls * 0.1 / 4 / 3600 * TIMES[option.variant][option.max_batch] / option.max_batch
        assert row.cost_usd_per_request == pytest.approx(cost)


def test_a_stage_that_may_be_skipped_and_a_day_that_goes_up_and_down(instances: Any) -> None:
    asks = {"percentile": 90.0, "mix": [{"accuracy": 0.4, "latency_s": 0.0075}, {"accuracy": 0.8}]}
    day = {"arrivals": {"process": "diurnal", "period_s": 600.0, "peak_factor": 1.5}}
    plan = small(instances, {"a": ["s"], "b": ["skip", "s"]}, 1.0, asks, fields=day)
    assert plan.selection is not None
    assert plan.selection.percentile == 90.0
    assert [row.accuracy for row in plan.selection.rows] == [pytest.approx(0.45), pytest.approx(0.81)]


def test_beside_classes_that_split_each_request_keeps_what_it_names(instances: Any) -> None:
    """The mean of a class may be kept by a mixture; what a request names is kept by its own way."""
    mix = [{"accuracy": 0.8, "latency_s": 0.4}, {"accuracy": 0.6, "latency_s": 0.4}]
    classes = {
        "web": {"rate_rps": 260.0, "slo": {"latency_s": 0.4}, "accuracy": {"floor": 0.8}},
        "album": {"kind": "jobs", "rate_rps": 20.0, "job": {"requests": 4, "deadline_s": 1.0, "mean_accuracy": 0.8}},
    }
    plan, loaded, profile = planned(instances, 1, mix, 60.0, classes=classes, splitting=True)
    whole, _, _ = planned(instances, 1, mix, 60.0, classes={"web": classes["web"]}, splitting=False)
    assert plan.classes["web"].mixtures
    for name in ("app-1", "app-2"):
        assert not plan.classes[name].mixtures
        accuracy = plan.classes[name].predicted.accuracy
        assert accuracy is not None
        assert accuracy.value >= loaded.workload.classes[name].accuracy.floor
    assert plan.selection is not None
    assert whole.selection is not None
    assert {name for row in plan.selection.rows for name in row.classes} >= {"app-1"}
    # A class of several ways goes none of them as a whole.
    assert not any("web" in row.classes for row in plan.selection.rows)
    mixed = plan.classes["app-1"].model_copy(update={"mixtures": plan.classes["web"].mixtures})
    wrong = plan.model_copy(update={"classes": {**plan.classes, "app-1": mixed}})
    with pytest.raises(CheckFailedError) as caught:
        check_plan(wrong, loaded.workload, profile)
    assert any("app-1: its requests go different ways" in line for line in caught.value.details)
