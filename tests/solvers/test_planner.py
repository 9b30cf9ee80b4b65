"""The whole decision: certified plans, their story and proof, determinism, answers to bad profiles."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from inferplan.solvers.checker import check_plan
from inferplan.solvers.planner import solve
from inferplan.spec.errors import InfeasibleError, InputError, UndecidedError
from inferplan.spec.plan import Plan, dump_plan, load_plan, write_plan

TIMES = {
    ("a", "s"): {1: 0.01, 2: 0.018, 4: 0.03, 8: 0.05},
    ("a", "l"): {1: 0.03, 2: 0.05, 4: 0.09, 8: 0.17},
    ("b", "s"): {1: 0.005, 2: 0.008, 4: 0.012, 8: 0.02},
    ("b", "l"): {1: 0.03, 2: 0.05, 4: 0.08, 8: 0.15},
}
ACCURACY = {("a", "s"): 0.9, ("a", "l"): 0.95, ("b", "s"): 0.92, ("b", "l"): 0.99}
STAGES = {"a": ["s", "l"], "b": ["s", "l"]}
EDGES = [{"from": "a", "to": "b"}]


def plan_of(instances: Any, *, seed: int = 0, **changes: Any) -> Plan:
    classes = changes.pop("classes", {"web": {"rate_rps": 40.0, "slo": {"latency_s": 0.3}}})
    profile = changes.pop("profile", {})
    loaded = instances.workload(
        changes.pop("stages", STAGES), edges=changes.pop("edges", EDGES), classes=classes, **changes
    )
    store = instances.profile(profile.pop("times", TIMES), profile.pop("accuracy", ACCURACY), **profile)
    plan = solve(loaded, store, plan_dir=instances.folder, seed=seed)
    check_plan(plan, loaded.workload, store)
    return plan


Patch = Callable[[pytest.MonkeyPatch], None]


def web(rate: float = 40.0, latency: float = 0.3, floor: float | None = None, **rest: Any) -> dict[str, Any]:
    accuracy = {"accuracy": {"floor": floor}} if floor is not None else {}
    return {"web": {"rate_rps": rate, "slo": {"latency_s": latency}, **accuracy, **rest}}


def test_a_plan_is_certified_proven_and_complete(instances: Any) -> None:
    plan = plan_of(instances, classes=web(floor=0.85))
    assert plan.certificate is not None
    assert plan.certificate.verdict == "met"
    assert plan.certificate.classes["web"].latency_s.upper is not None
    assert plan.certificate.classes["web"].latency_s.upper <= 0.3
    assert plan.proof.status == "optimal"
    assert plan.proof.bound == pytest.approx(plan.cost_usd_per_h)
    predicted = plan.classes["web"].predicted
    assert predicted.accuracy is not None
    assert predicted.accuracy.value >= 0.85
    assert predicted.accuracy_source == "composed"
    assert predicted.latency_p50_s.value < predicted.latency_p99_s.value
    assert all(0 < option.predicted.utilisation < 1 for option in plan.options.values())
    assert plan.story
    assert {"variants", "reason"} <= set(plan.alternatives[0].model_dump())


def test_the_plan_is_written_and_read_back_with_its_workload(instances: Any) -> None:
    plan = plan_of(instances)
    folder = instances.folder / "plans" / "deep"
    moved = solve_into(instances, folder)
    write_plan(moved, folder / "plan.yaml")
    loaded = load_plan(folder / "plan.yaml")
    assert loaded.plan.workload.path == "../../workload.yaml"
    assert loaded.plan.cost_usd_per_h == pytest.approx(plan.cost_usd_per_h)


def solve_into(instances: Any, folder: Path) -> Plan:
    loaded = instances.workload(STAGES, edges=EDGES, classes=web())
    return solve(loaded, instances.profile(TIMES, ACCURACY), plan_dir=folder)


def test_same_input_same_bytes(instances: Any) -> None:
    first, again, other = (plan_of(instances, seed=seed) for seed in (0, 0, 1))
    assert dump_plan(first) == dump_plan(again)
    assert dump_plan(first) != dump_plan(other)
    assert other.cost_usd_per_h == first.cost_usd_per_h


def test_tighter_promises_never_cost_less(instances: Any) -> None:
    devices = {"cpu": {"price_usd_per_h": 0.1, "cores": 1}}

    def cost(**promise: float) -> float:
        return plan_of(
            instances, classes=web(**{"rate": 40.0, "latency": 0.5, **promise}), devices=devices
        ).cost_usd_per_h

    by_latency = [cost(latency=latency) for latency in (1.0, 0.1, 0.03)]
    by_floor = [cost(floor=floor) for floor in (0.5, 0.9, 0.94)]
    by_rate = [cost(rate=rate) for rate in (10.0, 200.0)]
    for costs in (by_latency, by_floor, by_rate):
        assert costs == sorted(costs)
        assert costs[0] < costs[-1]


def test_classes_share_or_part_as_is_cheaper(instances: Any) -> None:
    classes = {
        **web(40.0, 0.3, 0.93),
        "bulk": {"rate_rps": 20.0, "slo": {"percentile": 90.0, "latency_s": 2.0}, "accuracy": {"floor": 0.5}},
    }
    plan = plan_of(instances, classes=classes)
    assert plan.certificate is not None
    assert set(plan.certificate.classes) == {"web", "bulk"}
    assert plan.certificate.verdict == "met"
    for name in classes:
        assert set(plan.classes[name].routes) == {"a", "b"}
    alone = sum(plan_of(instances, classes={name: spec}).cost_usd_per_h for name, spec in classes.items())
    assert plan.cost_usd_per_h <= alone + 1e-9


def test_a_class_without_slo_needs_only_capacity(instances: Any) -> None:
    plan = plan_of(instances, classes={"batch": {"rate_rps": 30.0}})
    assert plan.certificate is not None
    assert plan.certificate.verdict == "met"
    assert plan.certificate.classes == {}
    assert plan.classes["batch"].predicted.latency_slo_s is None


def test_a_skip_variant_costs_nothing_and_takes_no_time(instances: Any) -> None:
    plan = plan_of(
        instances,
        stages={"a": ["s"], "b": ["skip", "l"]},
        profile={"accuracy": {("a", "s"): 0.9, ("b", "skip"): 0.8, ("b", "l"): 0.99}},
        devices={"cpu": {"price_usd_per_h": 0.1, "cores": 1}},
        classes=web(floor=0.7),
    )
    skip = plan.options["b-skip"]
    assert (skip.runtime, skip.replicas, skip.device, skip.model_sha256) == ("skip", 0, "none", "")
    assert skip.predicted.capacity_rps is None
    assert all(p.option != "b-skip" for machine in plan.machines["edge/cpu"].packing for p in machine)
    assert plan.classes["web"].predicted.latency_mean_s.value == pytest.approx(
        plan.options[plan.classes["web"].routes["a"][0].option].predicted.latency_mean_s, rel=0.05
    )


def test_the_cheaper_of_two_device_types_is_bought(instances: Any) -> None:
    devices = {
        "cpu": {"price_usd_per_h": 1.0, "count": 8, "cores": 4},
        "old": {"price_usd_per_h": 0.2, "count": 8, "cores": 4, "like": {"device": "edge/cpu", "slowdown": 2.0}},
    }
    relaxed = plan_of(instances, devices=devices, classes=web(40.0, 2.0))
    assert set(relaxed.machines) == {"edge/old"}
    tight = plan_of(instances, devices=devices, classes=web(40.0, 0.03))
    assert "edge/cpu" in tight.machines


def test_a_fan_out_and_a_join(instances: Any) -> None:
    stages = {"in": ["v"], "left": ["v"], "right": ["v"], "out": ["v"], "lines": ["v"]}
    edges = [
        {"from": "in", "to": "left"},
        {"from": "in", "to": "right"},
        {"from": "left", "to": "out"},
        {"from": "right", "to": "out"},
        {"from": "out", "to": "lines", "fan_out": {"values": [1, 5], "weights": [1.0, 1.0]}},
    ]
    times = {(stage, "v"): {1: 0.01, 4: 0.03} for stage in stages}
    plan = plan_of(
        instances,
        stages=stages,
        edges=edges,
        profile={"times": times, "accuracy": {(stage, "v"): 0.99 for stage in stages}},
        classes=web(10.0, 0.4),
    )
    lines = plan.options[plan.classes["web"].routes["lines"][0].option]
    assert lines.predicted.load_rps == pytest.approx(30.0)
    assert plan.certificate is not None
    assert plan.certificate.verdict == "met"


def test_the_load_below_depends_on_the_measured_fan_out_above(instances: Any) -> None:
    helpers = __import__("sys").modules[type(instances).__module__]
    flows = [helpers.flow("a", "b", "s", [1, 1, 4]), helpers.flow("a", "b", "l", [6])]
    plan = plan_of(
        instances,
        edges=[{"from": "a", "to": "b", "fan_out": "measured"}],
        profile={"flows": flows},
        classes=web(10.0, 1.0),
    )
    chosen = plan.options[plan.classes["web"].routes["a"][0].option].variant
    below = plan.options[plan.classes["web"].routes["b"][0].option]
    assert below.predicted.load_rps == pytest.approx({"s": 20.0, "l": 60.0}[chosen])


def test_most_accurate_within_a_budget(instances: Any) -> None:
    budget = {"maximize": "accuracy", "budget_usd_per_h": 0.2}
    plan = plan_of(instances, objective=budget, classes=web(40.0, 0.3))
    assert plan.cost_usd_per_h <= 0.2 + 1e-9
    assert plan.classes["web"].predicted.accuracy is not None
    assert plan.proof.objective == pytest.approx(plan.classes["web"].predicted.accuracy.value)
    richer = plan_of(instances, objective={**budget, "budget_usd_per_h": 0.8}, classes=web(40.0, 0.3))
    assert richer.proof.objective >= plan.proof.objective


def test_binding_promises_are_those_whose_loss_would_save_money(instances: Any) -> None:
    devices = {"cpu": {"price_usd_per_h": 0.1, "cores": 1}}
    plan = plan_of(instances, classes=web(60.0, 5.0, 0.87), devices=devices)
    assert [item.constraint for item in plan.binding] == ["classes.web.accuracy.floor"]
    entry = plan.binding[0]
    assert (entry.limit, entry.unit) == (0.87, "acc")
    assert entry.value >= entry.limit


def test_alternatives_say_what_they_cost_and_why_they_lost(instances: Any) -> None:
    devices = {"cpu": {"price_usd_per_h": 0.1, "cores": 1}}
    plan = plan_of(instances, classes=web(60.0, 5.0, 0.87), devices=devices)
    reasons = [alternative.reason for alternative in plan.alternatives]
    assert "cheapest whatever its accuracy: acc 0.828 of class web is below 0.87" in reasons
    assert "most accurate within the limits: costs 0.1 USD/h more" in reasons
    assert any(reason.startswith("next best choice of variants") for reason in reasons)
    chosen = {stage: plan.options[r[0].option].variant for stage, r in plan.classes["web"].routes.items()}
    assert all(alternative.variants != chosen for alternative in plan.alternatives)


def test_a_limit_nothing_meets_is_infeasible_with_what_would_help(instances: Any) -> None:
    with pytest.raises(InfeasibleError) as caught:
        plan_of(instances, classes=web(40.0, 0.001))
    error = caught.value
    assert error.exit_code == 3
    assert "classes.web.slo (99 % within 1 ms) cannot be kept" in error.message
    line = next(line for line in error.details if "classes.web.slo" in line)
    assert "at least" in line
    assert "USD/h" in line
    assert not any("floor" in line or "count" in line for line in error.details)


def test_the_relaxation_that_is_named_is_enough(
    instances: Any, no_concessions: Patch, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_concessions(monkeypatch)
    devices = {"cpu": {"price_usd_per_h": 0.1, "count": 1, "cores": 2}}
    with pytest.raises(InfeasibleError) as caught:
        plan_of(instances, classes=web(60.0, 0.2, 0.94), devices=devices)
    count = next(line for line in caught.value.details if ".count" in line)
    wanted = int(count.split("at least ")[1].split(",")[0])
    devices["cpu"]["count"] = wanted
    enough = plan_of(instances, classes=web(60.0, 0.2, 0.94), devices=devices)
    assert enough.machines["edge/cpu"].count == wanted
    devices["cpu"]["count"] = wanted - 1
    with pytest.raises(InfeasibleError):
        plan_of(instances, classes=web(60.0, 0.2, 0.94), devices=devices)


@pytest.mark.parametrize("others", [[], [20.0]])
def test_the_load_that_is_named_is_carried_and_not_much_more(
    others: list[float], instances: Any, no_concessions: Patch, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices = {"cpu": {"price_usd_per_h": 0.1, "count": 1, "cores": 2}}

    def classes(times: float) -> dict[str, Any]:
        rates = {"web": 60.0, **{f"more{i}": rate for i, rate in enumerate(others)}}
        return {name: {**web(1.0, 0.2, 0.94)["web"], "rate_rps": rate * times} for name, rate in rates.items()}

    with pytest.raises(InfeasibleError) as caught:
        plan_of(instances, classes=classes(1.0), devices=devices)
    line = next(line for line in caught.value.details if "rate_rps: at most" in line)
    value = float(line.split("at most ")[1].split()[0])
    assert (" times," in line) == bool(others)
    times = value if others else value / 60.0
    assert 0 < times < 1
    assert plan_of(instances, classes=classes(times), devices=devices).certificate.verdict == "met"
    no_concessions(monkeypatch)
    with pytest.raises(InfeasibleError):
        plan_of(instances, classes=classes(times * 1.05), devices=devices)


def test_less_load_is_not_said_to_help_where_it_does_not(instances: Any) -> None:
    with pytest.raises(InfeasibleError) as caught:
        plan_of(instances, classes=web(40.0, 0.001))
    assert not any("rate_rps" in line for line in caught.value.details)


def test_an_unreachable_floor_names_the_best_accuracy(instances: Any) -> None:
    with pytest.raises(InfeasibleError, match=r"accuracy.floor \(0.99\) cannot be kept") as caught:
        plan_of(instances, classes=web(10.0, 1.0, 0.99))
    assert any("at most 0.9405" in line for line in caught.value.details)


def test_a_budget_too_small_names_the_one_that_is_enough(instances: Any) -> None:
    budget = {"maximize": "accuracy", "budget_usd_per_h": 0.01}
    with pytest.raises(InfeasibleError, match="budget_usd_per_h") as caught:
        plan_of(instances, objective=budget, classes=web(10.0, 1.0))
    assert any("objective.budget_usd_per_h (0.01): at least 0.1" in line for line in caught.value.details)


def test_conflicting_promises_are_named_together(instances: Any) -> None:
    with pytest.raises(InfeasibleError) as caught:
        plan_of(instances, classes=web(10.0, 0.03, 0.94))
    assert "classes.web.slo" in caught.value.message
    assert "classes.web.accuracy.floor" in caught.value.message
    assert "conflict" in caught.value.message
    assert len([line for line in caught.value.details if line.startswith("would help")]) == 2


@pytest.mark.parametrize("missing", ["times", "accuracy", "stale"])
def test_a_profile_that_lacks_what_is_needed_says_what_to_run(missing: str, instances: Any) -> None:
    helpers = __import__("sys").modules[type(instances).__module__]
    times = {key: value for key, value in TIMES.items() if missing == "accuracy" or key[0] != "b"}
    accuracy = {key: value for key, value in ACCURACY.items() if missing != "accuracy" or key[0] != "b"}
    rows = [helpers.measurement("b", "s", 1, 0.01, model_sha256="0" * 64)] if missing == "stale" else []
    with pytest.raises(InputError, match="inferplan profile") as caught:
        plan_of(instances, classes=web(floor=0.5), profile={"times": times, "accuracy": accuracy, "rows": rows})
    assert any("b/s" in line for line in caught.value.details)
    assert ("other models or settings" in caught.value.message) == (missing == "stale")


@pytest.mark.parametrize("values", [(0.7071067, 0.9), (0.7071062, 0.9), (0.5, 0.5)])
def test_a_floor_that_would_help_is_one_that_is_kept(instances: Any, values: tuple[float, float]) -> None:
    """What a product reaches has more figures than are shown: it is rounded so that it is kept."""
    accuracy = {("a", "s"): values[0], ("b", "s"): values[1]}
    only = {"stages": {"a": ["s"], "b": ["s"]}}
    with pytest.raises(InfeasibleError) as caught:
        plan_of(instances, classes=web(floor=0.99), profile={"accuracy": accuracy}, **only)
    (line,) = (line for line in caught.value.details if line.startswith("would help: classes.web.accuracy.floor"))
    said = float(line.split("at most ")[1].split(",")[0])
    assert said == pytest.approx(values[0] * values[1], abs=2e-6)
    plan_of(instances, classes=web(floor=said), profile={"accuracy": accuracy}, **only)


def test_what_would_help_is_certified(instances: Any, no_concessions: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that believes in a third of the latency has plans in mind that miss: their floors and counts
    would not help."""
    from inferplan.estimators.queueing import StationEstimate

    no_concessions(monkeypatch)
    original = StationEstimate.quantile_s
    monkeypatch.setattr(StationEstimate, "quantile_s", lambda self, level: original(self, level) / 3)
    asked = {"classes": web(80.0, 0.1, 0.93), "devices": {"cpu": {"price_usd_per_h": 0.1, "cores": 4, "count": 1}}}
    with pytest.raises(InfeasibleError) as caught:
        plan_of(instances, **asked)
    helps = [line for line in caught.value.details if line.startswith("would help")]
    floors = [float(line.split("at most ")[1].split(",")[0]) for line in helps if "accuracy.floor" in line]
    counts = [int(line.split("at least ")[1].split(",")[0]) for line in helps if ".count" in line]
    assert floors or counts
    for floor in floors:
        plan = plan_of(instances, classes=web(80.0, 0.1, floor), devices=asked["devices"])
        assert plan.certificate is not None
        assert plan.certificate.verdict == "met"
    for count in counts:
        more = {"cpu": {**asked["devices"]["cpu"], "count": count}}
        plan = plan_of(instances, classes=asked["classes"], devices=more)
        assert plan.certificate is not None
        assert plan.certificate.verdict == "met"


@pytest.mark.parametrize(
    ("rate", "limit_s", "arrivals", "robustness"),
    [
        (40.0, 0.012, None, {"load_levels": [1.5]}),
        (60.0, 0.03, {"process": "gamma", "cv": 2}, {}),
        (75.0, 0.02, {"process": "gamma", "cv": 3}, {}),
    ],
)
def test_a_latency_that_would_help_is_kept(
    rate: float,
    limit_s: float,
    arrivals: dict[str, Any] | None,
    robustness: dict[str, Any],
    instances: Any,
    no_concessions: Patch,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A simulation ends early where the limit is missed by far, and looks at no other load then."""
    no_concessions(monkeypatch)
    devices = {"cpu": {"price_usd_per_h": 0.1, "cores": 2, "count": 1}}
    rest = {} if arrivals is None else {"arrivals": arrivals}
    asked: dict[str, Any] = {"devices": devices, "robustness": robustness}
    with pytest.raises(InfeasibleError) as caught:
        plan_of(instances, classes=web(rate, limit_s, **rest), **asked)
    (line,) = (line for line in caught.value.details if line.startswith("would help: classes.web.slo"))
    value, unit = line.split("at least ")[1].split(",")[0].split()
    plan = plan_of(instances, classes=web(rate, float(value) * {"s": 1.0, "ms": 1e-3}[unit], **rest), **asked)
    assert plan.certificate is not None
    assert plan.certificate.verdict == "met"


def test_a_budget_that_would_help_is_enough(instances: Any) -> None:
    devices = {"cpu": {"price_usd_per_h": 0.1234564, "cores": 4}}
    objective = {"minimize": "cost", "budget_usd_per_h": 0.01}
    with pytest.raises(InfeasibleError) as caught:
        plan_of(instances, devices=devices, objective=objective)
    (line,) = (line for line in caught.value.details if line.startswith("would help: objective.budget_usd_per_h"))
    said = float(line.split("at least ")[1])
    plan = plan_of(instances, devices=devices, objective={**objective, "budget_usd_per_h": said})
    assert plan.cost_usd_per_h <= said


def test_failed_points_are_left_out_and_named(instances: Any) -> None:
    helpers = __import__("sys").modules[type(instances).__module__]
    rows = [helpers.measurement("a", "l", 16, 0.0, status="out_of_memory", reason="it ate 4 GiB")]
    plan = plan_of(instances, profile={"rows": rows})
    assert any("out_of_memory: it ate 4 GiB" in line for line in plan.story)


def test_memory_limits_what_fits(instances: Any) -> None:
    devices = {"cpu": {"price_usd_per_h": 0.1, "cores": 8, "memory_bytes": 150 * 2**20}}
    plan = plan_of(instances, devices=devices)
    assert all(sum(p.replicas for p in machine) == 1 for machine in plan.machines["edge/cpu"].packing)
    tiny = {"cpu": {"price_usd_per_h": 0.1, "cores": 8, "memory_bytes": 50 * 2**20}}
    with pytest.raises(InfeasibleError, match="fits on any machine"):
        plan_of(instances, devices=tiny)


def test_a_proposal_the_simulation_rejects_is_refined(instances: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that believes in half the latency proposes plans that miss; the answer is certified all the same."""
    from inferplan.estimators.queueing import StationEstimate

    honest = plan_of(instances, classes=web(80.0, 0.12))
    original = StationEstimate.quantile_s
    monkeypatch.setattr(StationEstimate, "quantile_s", lambda self, level: 0.5 * original(self, level))
    plan = plan_of(instances, classes=web(80.0, 0.12))
    assert plan.certificate is not None
    assert plan.certificate.verdict == "met"
    assert any("rejected: web missed" in line for line in plan.story)
    assert plan.cost_usd_per_h == pytest.approx(honest.cost_usd_per_h)


def test_a_steady_class_is_not_thought_to_meet_the_bursts_of_another_one(instances: Any) -> None:
    """The estimates of a queue that both share are those of all its calls, half of which come in bursts."""
    bursts = {"process": "mmpp", "burst_factor": 20.0, "burst_s": 0.5}
    plan = plan_of(
        instances,
        stages={"b": ["s"]},
        edges=[],
        classes={
            "bursty": {"rate_rps": 100.0, "slo": {"percentile": 50, "latency_s": 5.0}, "arrivals": bursts},
            "steady": {"rate_rps": 1.0, "slo": {"percentile": 50, "latency_s": 0.1}},
        },
        devices={"cpu": {"price_usd_per_h": 0.1, "cores": 1, "count": 1}},
        profile={"times": {("b", "s"): {1: 0.002}}, "accuracy": {}},
    )
    assert plan.certificate is not None
    assert plan.certificate.verdict == "met"


def test_where_one_plan_stayed_undecided_nothing_is_called_infeasible(
    instances: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first proposal stays undecided, all others miss: the first came nearest, whatever was tried after it."""
    import dataclasses

    from inferplan.solvers.judge import Judge

    original, seen = Judge.certain, []

    def certain(self: Judge, solution: Any) -> Any:
        if solution.columns not in seen:
            seen.append(solution.columns)
        verdict = "missed" if seen.index(solution.columns) else "undecided"
        result = original(self, solution)
        streams = {name: dataclasses.replace(stream, verdict=verdict) for name, stream in result.streams.items()}
        return dataclasses.replace(result, streams=streams)

    monkeypatch.setattr(Judge, "certain", certain)
    plan = plan_of(instances)
    assert len(seen) > 1
    assert plan.certificate is not None
    assert plan.certificate.verdict == "undecided"
    assert any("came nearest" in line for line in plan.story)


def test_a_pessimistic_program_gives_room_back(instances: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from inferplan.estimators.queueing import StationEstimate

    honest = plan_of(instances, classes=web(80.0, 0.25))
    original = StationEstimate.quantile_s
    monkeypatch.setattr(StationEstimate, "quantile_s", lambda self, level: 2.5 * original(self, level))
    plan = plan_of(instances, classes=web(80.0, 0.25))
    assert plan.cost_usd_per_h == pytest.approx(honest.cost_usd_per_h)
    assert plan.certificate is not None
    assert plan.certificate.verdict == "met"


def test_renaming_changes_no_cost(instances: Any) -> None:
    plain = plan_of(instances, classes=web(80.0, 0.2, 0.9))
    times = {({"a": "z", "b": "b"}[s], {"s": "big", "l": "a"}[v]): points for (s, v), points in TIMES.items()}
    accuracy = {({"a": "z", "b": "b"}[s], {"s": "big", "l": "a"}[v]): value for (s, v), value in ACCURACY.items()}
    renamed = plan_of(
        instances,
        stages={"z": ["big", "a"], "b": ["big", "a"]},
        edges=[{"from": "z", "to": "b"}],
        profile={"times": times, "accuracy": accuracy},
        classes={"other": web(80.0, 0.2, 0.9)["web"]},
    )
    assert renamed.cost_usd_per_h == pytest.approx(plain.cost_usd_per_h)


def test_too_many_classes_are_refused_not_approximated(instances: Any) -> None:
    with pytest.raises(InputError, match="7 traffic classes"):
        plan_of(instances, classes={f"c{i}": {"rate_rps": 1.0} for i in range(7)})


def test_a_time_limit_is_never_reported_as_optimal(instances: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """HiGHS stopped by its clock with a solution in hand says FEASIBLE."""
    import mip

    optimize = mip.Model.optimize

    def stopped(self: mip.Model, **options: Any) -> mip.OptimizationStatus:
        outcome = optimize(self, **options)
        return mip.OptimizationStatus.FEASIBLE if outcome == mip.OptimizationStatus.OPTIMAL else outcome

    monkeypatch.setattr(mip.Model, "optimize", stopped)
    # Several classes, so that the program decides.
    plan = plan_of(instances, classes={**web(), "more": web()["web"]})
    assert plan.proof.status == "feasible"


def test_no_time_at_all_gives_a_plan_or_says_so(instances: Any) -> None:
    loaded = instances.workload(STAGES, edges=EDGES, classes=web())
    try:
        plan = solve(loaded, instances.profile(TIMES, ACCURACY), plan_dir=instances.folder, time_limit_s=0.0)
    except UndecidedError as error:
        assert error.exit_code == 4
    else:
        assert plan.certificate is not None
        assert plan.certificate.verdict == "met"
