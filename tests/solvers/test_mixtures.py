"""Classes whose requests go different ways: the program against enumeration, certificates, the checker, refusals."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inferplan.solvers.checker import check_plan
from inferplan.solvers.columns import build_columns
from inferplan.solvers.goals import Goal
from inferplan.solvers.judge import Judge
from inferplan.solvers.milp import solution_of
from inferplan.solvers.mixtures import MixtureProgram, mean_keeps
from inferplan.solvers.parts import parted, patterns, with_pattern
from inferplan.solvers.planner import solve
from inferplan.solvers.problem import read_problem
from inferplan.spec.errors import CheckFailedError, InfeasibleError, InputError
from inferplan.spec.plan import Choice, Plan, dump_plan

ONE_CORE = {"cpu": {"price_usd_per_h": 0.1, "cores": 1}}
TIMES = {("a", "s"): {1: 0.01, 2: 0.018, 4: 0.03}, ("a", "l"): {1: 0.05, 2: 0.09, 4: 0.17}}
ACCURACY = {("a", "s"): 0.8, ("a", "l"): 0.95}
CHAIN_TIMES = {**TIMES, ("b", "s"): {1: 0.004, 2: 0.006}, ("b", "l"): {1: 0.04, 2: 0.075}}
CHAIN_ACCURACY = {**ACCURACY, ("b", "s"): 0.7, ("b", "l"): 0.9}
EDGES = [{"from": "a", "to": "b"}]


def plan_of(
    instances: Any,
    classes: dict[str, Any],
    *,
    times: Any = TIMES,
    accuracy: Any = ACCURACY,
    splitting: Any = True,
    flows: Any = (),
    **changes: Any,
) -> Plan:
    stages: dict[str, list[str]] = {}
    for stage, variant in times:
        stages.setdefault(stage, []).append(variant)
    loaded = instances.workload(stages, classes=classes, splitting=splitting, **{"devices": ONE_CORE, **changes})
    store = instances.profile(times, accuracy, flows=flows)
    plan = solve(loaded, store, plan_dir=instances.folder)
    check_plan(plan, loaded.workload, store)
    return plan


def web(rate: float, floor: float, latency: float | None = None, **rest: Any) -> dict[str, Any]:
    slo = {} if latency is None else {"slo": {"latency_s": latency}}
    return {"web": {"rate_rps": rate, "accuracy": {"floor": floor}, **slo, **rest}}


def jobs(requests: int, rate: float, mean: float | None, deadline: float) -> dict[str, Any]:
    job = {"requests": requests, "deadline_s": deadline, **({} if mean is None else {"mean_accuracy": mean})}
    return {"album": {"kind": "jobs", "rate_rps": rate, "job": job}}


def capacity(points: dict[int, float]) -> float:
    """Calls per second of a replica, at the batch that serves most."""
    return max(0.98 * batch / seconds for batch, seconds in points.items())


def test_a_little_of_the_accurate_variant_is_enough_where_the_mean_counts(instances: Any) -> None:
    classes = web(60.0, 0.84)
    whole, split = (plan_of(instances, classes, splitting=splitting) for splitting in (False, True))
    assert split.cost_usd_per_h < whole.cost_usd_per_h
    assert split.proof.status == "optimal"
    found = split.classes["web"]
    assert {mixture.routes["a"].split("-")[1] for mixture in found.mixtures} == {"s", "l"}
    assert math.fsum(mixture.share for mixture in found.mixtures) == pytest.approx(1.0)
    assert found.predicted.accuracy is not None
    assert found.predicted.accuracy.value >= 0.84 - 1e-9
    assert {c.option: c.share for c in found.routes["a"]} == {m.routes["a"]: m.share for m in found.mixtures}
    for mixture in found.mixtures:
        assert split.options[mixture.routes["a"]].predicted.load_rps == pytest.approx(60 * mixture.share)


@pytest.mark.parametrize("rate", [60.0, 230.0])
def test_the_most_accurate_plan_that_is_named_costs_no_more_than_it_has_to(instances: Any, rate: float) -> None:
    """It was given with as many machines as the program happened to answer with."""
    split = plan_of(instances, web(rate, 0.84, 2.0))
    whole = plan_of(instances, web(rate, 0.95, 2.0), splitting=False)
    (named,) = [other for other in split.alternatives if other.reason.startswith("most accurate within the limits")]
    assert named.accuracy == pytest.approx(0.95)
    assert named.cost_usd_per_h == pytest.approx(whole.cost_usd_per_h)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rate=st.sampled_from([15.0, 40.0, 90.0, 160.0]),
    slow=st.lists(st.sampled_from([0.01, 0.02, 0.04, 0.07]), min_size=3, max_size=3),
    worth=st.lists(st.integers(60, 98), min_size=3, max_size=3, unique=True),
    part=st.sampled_from([0.2, 0.5, 0.77, 0.95]),
)
def test_without_latency_the_cost_is_that_of_enumeration(
    module_instances: Any, rate: float, slow: list[float], worth: list[int], part: float
) -> None:
    """Machines of one core: a plan costs its replicas. All shares of 640ths, all pairs of variants."""
    names = ["x", "y", "z"]
    accuracy = dict(zip(names, (w / 100 for w in worth), strict=True))
    times = {name: {1: seconds, 2: 1.8 * seconds} for name, seconds in zip(names, slow, strict=True)}
    low, high = min(accuracy.values()), max(accuracy.values())
    floor = round(low + part * (high - low), 6)
    best = math.inf
    for one, other in itertools.product(names, repeat=2):
        for few in range(641):
            w = few / 640
            if w * accuracy[one] + (1 - w) * accuracy[other] < floor - 1e-9:
                continue
            loads: dict[str, float] = {}
            for name, share in ((one, w), (other, 1 - w)):
                loads[name] = loads.get(name, 0.0) + share * rate
            replicas = (math.ceil(load / capacity(times[name]) - 1e-9) for name, load in loads.items() if load > 1e-9)
            best = min(best, sum(replicas))
    plan = plan_of(
        module_instances,
        web(rate, floor),
        times={("a", name): points for name, points in times.items()},
        accuracy={("a", name): value for name, value in accuracy.items()},
    )
    assert plan.cost_usd_per_h == pytest.approx(0.1 * best)
    assert plan.proof.status == "optimal"


def fewest_replicas(rate: float, slow: list[float], worth: list[float], floor: float, ways: int) -> float:
    """The fewest replicas, of so many variants at most, over which some shares have a mean that keeps the floor: calls
    go to the most accurate first, as far as they can serve."""
    serve = [capacity({1: seconds, 2: 1.8 * seconds}) / rate for seconds in slow]
    order = sorted(range(len(slow)), key=lambda i: -worth[i])
    fewest = math.inf
    for counts in itertools.product(*(range(math.ceil(1 / one) + 1) for one in serve)):
        if sum(count > 0 for count in counts) > ways or sum(counts) >= fewest:
            continue
        left, mean = 1.0, 0.0
        for i in order:
            part = min(left, counts[i] * serve[i])
            left, mean = left - part, mean + part * worth[i]
        if left <= 1e-9 and mean >= floor - 1e-9:
            fewest = sum(counts)
    return fewest


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rate=st.sampled_from([40.0, 90.0, 160.0]),
    slow=st.lists(st.sampled_from([0.01, 0.02, 0.04, 0.07]), min_size=3, max_size=3),
    worth=st.lists(st.integers(60, 98), min_size=3, max_size=3, unique=True),
    part=st.sampled_from([0.2, 0.5, 0.77, 0.95]),
)
def test_more_ways_save_less_than_a_replica_of_each_of_two(
    module_instances: Any, rate: float, slow: list[float], worth: list[int], part: float
) -> None:
    accuracy = [w / 100 for w in worth]
    floor = round(min(accuracy) + part * (max(accuracy) - min(accuracy)), 6)
    any_number = fewest_replicas(rate, slow, accuracy, floor, ways=3)
    plan = plan_of(
        module_instances,
        web(rate, floor),
        times={("a", name): {1: seconds, 2: 1.8 * seconds} for name, seconds in zip("xyz", slow, strict=True)},
        accuracy={("a", name): value for name, value in zip("xyz", accuracy, strict=True)},
    )
    replicas = sum(option.replicas for option in plan.options.values())
    assert any_number <= replicas < any_number + 2


def test_a_third_way_may_use_up_what_whole_replicas_leave_over(instances: Any) -> None:
    """What two ways each may lose: four replicas would do."""
    rate, slow, worth, floor = 160.0, [0.04, 0.07, 0.01], [0.8, 0.85, 0.78], 0.794
    assert [fewest_replicas(rate, slow, worth, floor, ways) for ways in (1, 2, 3)] == [6, 5, 4]
    plan = plan_of(
        instances,
        web(rate, floor),
        times={("a", name): {1: seconds, 2: 1.8 * seconds} for name, seconds in zip("xyz", slow, strict=True)},
        accuracy={("a", name): value for name, value in zip("xyz", worth, strict=True)},
    )
    assert sum(option.replicas for option in plan.options.values()) == 5


def test_where_accuracies_leave_no_doubt_the_program_is_not_asked(
    instances: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All by the best variant: no mean is better, however requests are shared out."""
    asked: list[float] = []
    solved = MixtureProgram.optimize

    def optimize(self: MixtureProgram, goal: Goal, deadline: float, gap: float) -> Any:
        if goal[0] == "accuracy":
            asked.append(self.problem.classes[1].share)
        return solved(self, goal, deadline, gap)

    monkeypatch.setattr(MixtureProgram, "optimize", optimize)
    plan = plan_of(instances, web(5.0, 0.9))
    assert {option.variant for option in plan.options.values()} == {"l"}
    assert set(asked) == {0.0}


@pytest.mark.parametrize("floor", [0.82, 0.87, 0.92])
@pytest.mark.parametrize("rate", [20.0, 55.0, 110.0])
def test_splitting_never_costs_more_and_keeps_its_promises(instances: Any, rate: float, floor: float) -> None:
    classes = web(rate, floor, latency=0.4)
    whole, split = (plan_of(instances, classes, splitting=splitting) for splitting in (False, True))
    assert split.cost_usd_per_h <= whole.cost_usd_per_h + 1e-9
    assert split.certificate is not None
    assert split.certificate.verdict == "met"
    assert split.certificate.classes["web"].latency_s.upper is not None
    assert split.certificate.classes["web"].latency_s.upper <= 0.4


def cheapest_certified(instances: Any, classes: dict[str, Any], splitting: bool, below: int) -> int:
    """Fewest replicas, fewer than `below`, of all plans that the simulation certifies: every pattern of shares, option
    and number of replicas of every part, apart or in one queue; `below` where there is none."""
    loaded = instances.workload({"a": ["s", "l"]}, classes=classes, splitting=splitting, devices=ONE_CORE)
    problem = parted(read_problem(loaded.workload, instances.profile(TIMES, ACCURACY)))
    (need, *_) = problem.classes
    judge, best = Judge(problem, 0), below
    assert problem.accuracy is not None
    for pattern in patterns(problem):
        split = with_pattern(problem, pattern)
        columns = build_columns(split, prune=False)
        plans = [(column,) for column in columns if column.classes == (0, 1)]
        plans += itertools.product(*([c for c in columns if c.classes == (part,)] for part in (0, 1)))
        for plan in sorted(plans, key=lambda plan: sum(c.replicas for c in plan)):
            if sum(c.replicas for c in plan) >= best:
                break
            chosen = {(k, c.stage): c.option.variant for c in plan for k in c.classes}
            parts = [k for k in (0, 1) if split.classes[k].share > 0]
            if need.floor is not None and not mean_keeps(split, problem.accuracy, parts, chosen, need.floor):
                continue
            if judge.certain(replace(solution_of(split, plan), classes=split.classes)).verdict == "met":
                best = sum(c.replicas for c in plan)
    return best


@pytest.mark.parametrize(
    ("classes", "splitting"),
    [
        (web(60.0, 0.84, 0.6), True),
        (web(45.0, 0.87, 0.3), True),
        (web(75.0, 0.85, 0.35), True),
        (jobs(4, 40.0, 0.83, 0.45), False),
        (jobs(6, 30.0, 0.87, 0.4), False),
    ],
)
def test_no_cheaper_plan_is_certified(instances: Any, classes: dict[str, Any], splitting: bool) -> None:
    plan = plan_of(instances, classes, splitting=splitting)
    assert plan.certificate is not None
    assert plan.certificate.verdict == "met"
    replicas = round(plan.cost_usd_per_h / 0.1)
    assert cheapest_certified(instances, classes, splitting, replicas) == replicas


def test_looser_floors_and_limits_never_cost_more(instances: Any) -> None:
    by_floor = [plan_of(instances, web(70.0, floor, 0.4)).cost_usd_per_h for floor in (0.8, 0.83, 0.87, 0.91, 0.95)]
    by_limit = [plan_of(instances, web(70.0, 0.87, limit)).cost_usd_per_h for limit in (1.0, 0.4, 0.2)]
    for costs in (by_floor, by_limit):
        assert costs == sorted(costs)
    assert by_floor[0] < by_floor[-1]


def test_a_request_keeps_its_way_through_all_stages(instances: Any) -> None:
    """What counts is the mean of the ways' accuracies, not of the stages' one by one."""
    plan = plan_of(instances, web(60.0, 0.62, 1.5), times=CHAIN_TIMES, accuracy=CHAIN_ACCURACY, edges=EDGES)
    found = plan.classes["web"]
    assert len(found.mixtures) == 2
    mean = 0.0
    for mixture in found.mixtures:
        variants = [plan.options[mixture.routes[stage]].variant for stage in ("a", "b")]
        value = CHAIN_ACCURACY["a", variants[0]] * CHAIN_ACCURACY["b", variants[1]]
        assert mixture.accuracy is not None
        assert mixture.accuracy.value == pytest.approx(value)
        mean += mixture.share * value
    assert found.predicted.accuracy is not None
    assert found.predicted.accuracy.value == pytest.approx(mean)
    assert mean >= 0.62 - 1e-9


def test_fan_outs_that_depend_on_the_way_are_counted_by_way(instances: Any, fan_flow: Any) -> None:
    edges = [{"from": "a", "to": "b", "fan_out": "measured"}]
    plan = plan_of(
        instances,
        web(20.0, 0.66),
        times=CHAIN_TIMES,
        accuracy=CHAIN_ACCURACY,
        edges=edges,
        flows=[fan_flow("a", "b", "s", [1]), fan_flow("a", "b", "l", [3])],
    )
    calls = math.fsum(
        20.0 * m.share * (3 if plan.options[m.routes["a"]].variant == "l" else 1) for m in plan.classes["web"].mixtures
    )
    served = math.fsum(o.predicted.load_rps for o in plan.options.values() if o.stage == "b")
    if plan.classes["web"].mixtures:
        assert served == pytest.approx(calls)
    assert plan.certificate is not None
    assert plan.certificate.verdict == "met"


def test_several_classes_are_split_and_share_queues(instances: Any) -> None:
    classes = {**web(30.0, 0.86, 0.5), "bulk": {"rate_rps": 30.0, "accuracy": {"floor": 0.84}}}
    whole, split = (plan_of(instances, classes, splitting=splitting) for splitting in (False, True))
    assert split.cost_usd_per_h <= whole.cost_usd_per_h + 1e-9
    assert set(split.classes) == {"web", "bulk"}


def test_the_most_accurate_mixture_within_a_budget(instances: Any) -> None:
    objective = {"maximize": "accuracy", "budget_usd_per_h": 0.2}
    classes = {"web": {"rate_rps": 60.0}}
    whole, split = (
        plan_of(instances, classes, splitting=splitting, objective=objective) for splitting in (False, True)
    )
    values = [plan.classes["web"].predicted.accuracy for plan in (whole, split)]
    # One replica of the accurate variant serves 0.98 x 4 / 0.17 = 23.05 of 60 requests: 245 of 640.
    assert values[0] is not None
    assert values[0].value == pytest.approx(0.8)
    assert values[1] is not None
    assert values[1].value == pytest.approx(0.8 + 0.15 * 245 / 640)


def test_what_no_mixture_reaches_is_infeasible_with_the_best_mean(instances: Any) -> None:
    with pytest.raises(InfeasibleError) as error:
        plan_of(instances, web(20.0, 0.96, 0.5))
    assert "accuracy.floor (0.96)" in error.value.message
    assert any("at most 0.95" in line for line in error.value.details)


def test_the_checker_finds_other_shares_than_planned(instances: Any) -> None:
    plan = plan_of(instances, web(60.0, 0.84))
    found = plan.classes["web"]
    first, second = found.mixtures
    moved = [
        first.model_copy(update={"share": first.share + 0.05}),
        second.model_copy(update={"share": second.share - 0.05}),
    ]
    routes = {"a": [Choice(option=m.routes["a"], share=m.share) for m in moved]}
    broken = found.model_copy(update={"mixtures": moved, "routes": routes})
    loaded = instances.workload({"a": ["s", "l"]}, classes=web(60.0, 0.84), splitting=True, devices=ONE_CORE)
    with pytest.raises(CheckFailedError) as error:
        check_plan(
            plan.model_copy(update={"classes": {"web": broken}}), loaded.workload, instances.profile(TIMES, ACCURACY)
        )
    text = "\n".join(error.value.details)
    assert "calls/s reach it" in text
    assert "mean accuracy" in text


def test_a_mixture_is_refused_where_the_workload_allows_none(instances: Any) -> None:
    plan = plan_of(instances, web(60.0, 0.84))
    loaded = instances.workload({"a": ["s", "l"]}, classes=web(60.0, 0.84), devices=ONE_CORE)
    with pytest.raises(CheckFailedError) as error:
        check_plan(plan, loaded.workload, instances.profile(TIMES, ACCURACY))
    assert any("does not allow" in line for line in error.value.details)


def test_what_is_not_honoured_is_refused_by_name(instances: Any) -> None:
    with pytest.raises(InputError) as error:
        plan_of(instances, web(60.0, 0.84), max_utilisation=0.9)
    assert "max_utilisation" in str(error.value) + "".join(error.value.details)


# Jobs


@pytest.mark.parametrize(("mean", "slow"), [(0.80, 0), (0.81, 1), (0.87, 4), (0.9, 6), (0.95, 8)])
def test_a_job_is_split_into_whole_requests(instances: Any, mean: float, slow: int) -> None:
    """Of eight requests so many need the accurate variant (0.8 + 0.15 n / 8 >= mean)."""
    plan = plan_of(instances, jobs(8, 8.0, mean, 2.0), splitting=False)
    found = plan.classes["album"]
    assert found.job_requests == 8
    assert plan.certificate is not None
    assert plan.certificate.verdict == "met"
    assert plan.certificate.classes["album"].limit_s == 2.0
    counts = {plan.options[m.routes["a"]].variant: m.requests for m in found.mixtures}
    if found.mixtures:
        assert sum(count or 0 for count in counts.values()) == 8
        assert (counts["l"] or 0) >= slow
    assert found.predicted.accuracy is not None
    assert found.predicted.accuracy.value >= mean - 1e-9


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    requests=st.integers(2, 9),
    rate=st.sampled_from([20.0, 60.0, 120.0]),
    part=st.sampled_from([0.1, 0.45, 0.8]),
)
def test_jobs_with_time_cost_what_enumeration_finds(
    module_instances: Any, requests: int, rate: float, part: float
) -> None:
    """With a deadline that no stable queue misses, a job costs the replicas of its best split."""
    mean = round(0.8 + 0.15 * part, 6)
    best = math.inf
    for few in range(requests + 1):
        w = few / requests
        if 0.95 * w + 0.8 * (1 - w) >= mean - 1e-9:
            loads = {"l": w * rate, "s": (1 - w) * rate}
            best = min(
                best,
                sum(
                    math.ceil(load / capacity(TIMES["a", variant]) - 1e-9)
                    for variant, load in loads.items()
                    if load > 1e-9
                ),
            )
    plan = plan_of(module_instances, jobs(requests, rate, mean, 3600.0), splitting=False)
    assert plan.cost_usd_per_h == pytest.approx(0.1 * best)


def test_tighter_deadlines_and_higher_means_never_cost_less(instances: Any) -> None:
    by_deadline = [plan_of(instances, jobs(6, 30.0, 0.87, d), splitting=False).cost_usd_per_h for d in (3.0, 0.5, 0.2)]
    by_mean = [plan_of(instances, jobs(6, 30.0, m, 1.0), splitting=False).cost_usd_per_h for m in (0.8, 0.86, 0.92)]
    for costs in (by_deadline, by_mean):
        assert costs == sorted(costs)
    assert by_deadline[0] < by_deadline[-1]


def test_jobs_and_requests_are_planned_together(instances: Any) -> None:
    classes = {**jobs(4, 20.0, 0.87, 1.0), **web(20.0, 0.9, 0.5)}
    plan = plan_of(instances, classes, splitting=False)
    assert plan.certificate is not None
    assert plan.certificate.verdict == "met"
    assert not plan.classes["web"].mixtures
    assert plan.classes["web"].predicted.accuracy is not None
    assert plan.classes["web"].predicted.accuracy.value >= 0.9


def test_a_deadline_that_cannot_be_kept_is_named(instances: Any) -> None:
    with pytest.raises(InfeasibleError) as error:
        plan_of(instances, jobs(4, 4.0, 0.94, 0.02), splitting=False)
    assert "classes.album.job.deadline_s (99 % within 20 ms)" in error.value.message


def test_the_same_input_gives_the_same_plan(instances: Any) -> None:
    first, again = (plan_of(instances, web(60.0, 0.84, 0.6)) for _ in range(2))
    assert first.classes["web"].mixtures
    assert dump_plan(first) == dump_plan(again)


def test_four_classes_that_split_are_too_many(instances: Any) -> None:
    classes = {f"c{number}": {"rate_rps": 5.0, "accuracy": {"floor": 0.8}} for number in range(4)}
    with pytest.raises(InputError, match="at most 3"):
        plan_of(instances, classes)
