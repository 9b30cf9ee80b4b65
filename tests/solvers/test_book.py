"""Levels, books and their replays on synthetic workloads."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inferplan.estimators.network import network_of_plan
from inferplan.solvers.book import Chosen, Question, cheapest, expected_day, make_book
from inferplan.solvers.judge import certified
from inferplan.solvers.levels import Levels, Moving, grid, plan_levels
from inferplan.solvers.planner import solve
from inferplan.solvers.trial import BOOK, FIXED, ORACLE, Trial, traffic_of, trials
from inferplan.spec.arrivals import Source
from inferplan.spec.book import load_book, read_book, write_book
from inferplan.spec.document import LoadedWorkload
from inferplan.spec.errors import InfeasibleError, InputError
from inferplan.spec.plan import Plan
from inferplan.spec.workload import Arrivals

LEVELS = grid(5.0, 900.0, 8)
INTERVAL_S = 10.0


def instance(instances: Any, **rest: Any) -> tuple[LoadedWorkload, Any]:
    """Two classes, two stages; a machine holds two replicas and starts in 20 s."""
    helpers = __import__("sys").modules[type(instances).__module__]
    loaded = instances.workload(
        {"a": ["v"], "b": ["v"]},
        edges=[{"from": "a", "to": "b"}],
        devices={"cpu": {"price_usd_per_h": 0.1, "count": 9, "cores": 2, "start_s": 20.0}},
        classes=rest.pop("classes", None)
        or {
            "app": {"rate_rps": 20.0, "slo": {"latency_s": 0.3}},
            "web": {"rate_rps": 60.0, "slo": {"percentile": 95, "latency_s": 0.2}},
        },
        **rest,
    )
    rows = [helpers.measurement(s, "v", n, 0.01 * (0.5 + 0.5 * n), load_s=4.0) for s in ("a", "b") for n in (1, 4)]
    return loaded, instances.profile({}, {("a", "v"): 0.9, ("b", "v"): 0.9}, rows=rows)


def solving(profile: Any, folder: Path) -> Callable[[LoadedWorkload], Plan]:
    return lambda loaded: solve(loaded, profile, plan_dir=folder)


@pytest.fixture(scope="module")
def made(module_instances: Any) -> tuple[Moving, Any, Levels]:
    loaded, profile = instance(module_instances)
    moving = Moving.of(loaded, None)
    return moving, profile, plan_levels(moving, profile, LEVELS, solving(profile, module_instances.folder))


def booked(made: tuple[Moving, Any, Levels], folder: Path, **asked: Any) -> Chosen:
    moving, profile, levels = made
    history = expected_day(LEVELS[0], LEVELS[-1], INTERVAL_S, 0)
    question = Question(INTERVAL_S, "last", 6, **asked)
    return make_book(moving, profile, levels, history, None, question, folder)


def test_levels_cost_what_solving_each_of_them_says(made: Any, tmp_path: Path) -> None:
    moving, profile, levels = made
    for load, cost in zip(levels.loads_rps, levels.least_usd_per_h, strict=True):
        assert solve(moving.at(load), profile, plan_dir=tmp_path).cost_usd_per_h == pytest.approx(cost)
    assert list(levels.least_usd_per_h) == sorted(levels.least_usd_per_h)
    assert len(levels.plans) >= 3
    assert levels.proven


def test_the_mix_of_a_class_with_asks_moves_as_a_whole(instances: Any) -> None:
    asks = {"mix": [{"latency_s": 0.2, "weight": 3.0}, {"latency_s": 0.5}]}
    loaded, _ = instance(instances, classes={"app": {"rate_rps": 20.0, "asks": asks}, "web": {"rate_rps": 20.0}})
    moving = Moving.of(loaded, "app")
    assert moving.classes == ("app-1", "app-2")
    rates = {name: one.rate_rps for name, one in moving.at(40.0).workload.classes.items()}
    assert rates == {"app-1": 30.0, "app-2": 10.0, "web": 20.0}
    with pytest.raises(InputError, match="there are: app, web"):
        Moving.of(loaded, "app-1")


def test_a_plan_carries_what_is_said(made: Any) -> None:
    moving, profile, levels = made
    for plan in levels.plans:
        for load in {*(x for x in levels.loads_rps if plan.least_rps <= x <= plan.carries_rps), plan.carries_rps}:
            workload = moving.at(load).workload
            assert sum(c.rate_rps for c in workload.classes.values()) == pytest.approx(load, rel=1e-5)
            assert certified(network_of_plan(plan.plan, workload, profile), 0).verdict == "met"
    carried = [plan.carries_rps for plan in levels.plans]
    assert carried == sorted(carried)
    assert carried[-1] == LEVELS[-1]


def test_an_unreachable_top_says_what_is_in_reach(instances: Any) -> None:
    loaded, profile = instance(instances)
    moving = Moving.of(loaded, None)
    with pytest.raises(InfeasibleError, match=r"highest level, 90000 requests/s.* feasible one is 900 requests/s"):
        plan_levels(moving, profile, (9.0, 90.0, 900.0, 9000.0, 90000.0), solving(profile, instances.folder))
    with pytest.raises(InfeasibleError, match="even at the lowest level, 9000"):
        plan_levels(moving, profile, (9000.0, 90000.0), solving(profile, instances.folder))


def test_one_class_alone_may_move(instances: Any) -> None:
    moving = Moving.of(instance(instances)[0], "web")
    classes = moving.at(90.0).workload.classes
    assert (classes["web"].rate_rps, classes["app"].rate_rps) == (90.0, 20.0)


@pytest.mark.parametrize(
    ("rest", "only", "says"),
    [
        ({}, "wob", "there is no such class; there are: app, web"),
        ({"objective": {"maximize": "accuracy", "budget_usd_per_h": 1.0}}, None, "makes cost least"),
        ({"classes": {"web": {"rate_rps": 20.0}}}, None, "no class has an slo"),
        (
            {
                "classes": {
                    "web": {
                        "rate_rps": 20.0,
                        "slo": {"latency_s": 0.2},
                        "arrivals": {"process": "diurnal", "peak_factor": 2.0, "period_s": 600.0},
                    }
                }
            },
            None,
            "has days, which a plan book is to follow",
        ),
    ],
)
def test_what_a_book_is_not_for(instances: Any, rest: Any, only: str | None, says: str) -> None:
    loaded, _ = instance(instances, **rest)
    with pytest.raises(InputError, match=says):
        Moving.of(loaded, only)


@pytest.mark.parametrize(
    ("low", "high", "levels", "says"),
    [
        (5.0, 1.0, 4, "reversed; write 1:5"),
        (0.0, 1.0, 4, "above 0"),
        (1.0, float("nan"), 4, "above 0"),
        (1.0, 5.0, 0, "0 levels"),
        (1.0, 5.0, 1, "two at least"),
        (1.0, 1.0, 3, "one load alone"),
    ],
)
def test_levels_that_make_no_sense(low: float, high: float, levels: int, says: str) -> None:
    with pytest.raises(InputError, match=says):
        grid(low, high, levels)


def test_levels_are_equal_factors_apart() -> None:
    found = grid(1.0, 200.0, 16)
    assert (len(found), found[0], found[-1]) == (16, 1.0, 200.0)
    factors = [b / a for a, b in itertools.pairwise(found)]
    assert max(factors) / min(factors) < 1.0001
    assert grid(7.0, 7.0, 1) == (7.0,)


def test_a_book_is_written_and_read_and_the_same_again(made: Any, tmp_path: Path) -> None:
    folder = tmp_path / "book"
    chosen = booked(made, folder)
    # The fixture's plans were made for another folder.
    here = {
        name: plan.model_copy(
            update={"workload": plan.workload.model_copy(update={"path": str(made[0].loaded.path.resolve())})}
        )
        for name, plan in chosen.plans.items()
    }
    with pytest.raises(InputError, match="has changed since"):
        write_book(chosen.document, here, folder)
        load_book(folder)
    import hashlib

    from inferplan.spec.plan import dump_plan

    entries = [
        entry.model_copy(update={"sha256": hashlib.sha256(dump_plan(here[entry.file]).encode()).hexdigest()})
        for entry in chosen.document.plans
    ]
    document = chosen.document.model_copy(update={"plans": entries})
    write_book(document, here, folder)
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    loaded = load_book(folder)
    # A plan of a book is a plan like any other.
    costs = [plan.plan.cost_usd_per_h for plan in loaded.plans]
    assert costs == sorted(costs) == pytest.approx([entry.cost_usd_per_h for entry in entries])
    write_book(document, here, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first
    one = booked(made, folder, most=1)
    entry = one.document.plans[0].model_copy(update={"sha256": entries[-1].sha256})
    write_book(one.document.model_copy(update={"plans": [entry]}), {"plan-1.yaml": here[entries[-1].file]}, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["book.yaml", "plan-1.yaml"]
    assert len(read_book(folder).plans) == 1


def test_other_folders_are_left_alone(made: Any, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    chosen = booked(made, tmp_path)
    with pytest.raises(InputError, match="not empty and holds no book"):
        write_book(chosen.document, chosen.plans, tmp_path)


def test_thresholds_and_plans_as_asked(made: Any, tmp_path: Path) -> None:
    for asked in ({}, {"hysteresis": 0.2}, {"margin": 0.1}, {"most": 2}, {"request_usd": 1.0}):
        document = booked(made, tmp_path, **asked).document
        ups = [plan.up_rps for plan in document.plans[:-1]]
        downs = [plan.down_rps for plan in document.plans[1:]]
        assert ups == sorted(set(ups))
        assert downs == sorted(downs)
        share = 1 - asked.get("hysteresis", 0.0)
        assert all(down <= up * share for down, up in zip(downs, ups, strict=True))
        for plan in document.plans[:-1]:
            assert plan.up_rps == pytest.approx(plan.carries_rps * (1 - asked.get("margin", 0.0)), rel=1e-5)
        assert len(document.plans) <= asked.get("most", 99)
        assert document.design.expected_usd_per_h >= document.design.least_usd_per_h * (1 - 1e-9) or "most" in asked
        assert len(document.switches) == 2 * (len(document.plans) - 1)


def test_a_dear_request_makes_thresholds_wider(made: Any, tmp_path: Path) -> None:
    cheap, dear = (booked(made, tmp_path, request_usd=usd).document for usd in (0.0, 0.01))
    assert dear.design.expected_switches_per_h < cheap.design.expected_switches_per_h


def tried(made: Any, folder: Path, seed: int = 0) -> tuple[Chosen, Any, list[Trial]]:
    moving, profile, _ = made
    chosen = booked(made, folder)
    source = Source(Arrivals(process="diurnal", peak_factor=1.9, period_s=240.0), 450.0)
    traffic = traffic_of(moving, source, 245.0, INTERVAL_S, seed)
    return chosen, traffic, trials(moving, profile, chosen, traffic, ["last", "max"], expected_day(5, 900, 10, 0), seed)


def test_every_request_of_a_replay_is_accounted_for(made: Any, tmp_path: Path) -> None:
    chosen, traffic, found = tried(made, tmp_path)
    assert [trial.strategy for trial in found] == [BOOK, BOOK, FIXED, ORACLE]
    assert len(traffic.loads) == 25
    assert traffic.hours.sum() == pytest.approx(245 / 3600)
    total = sum(len(times) for times in traffic.arrivals_s.values())
    assert float(traffic.loads @ traffic.hours) * 3600 == pytest.approx(total)
    for trial in found:
        assert sum(one.requests for one in trial.classes) == total
        assert all(one.unanswered == 0 for one in trial.classes)
        assert all(one.late is not None and 0 <= one.late <= one.requests for one in trial.classes)
        held = trial.usd - sum(
            chosen.levels.plans[i].cost_usd_per_h * h for i, h in zip(trial.path, traffic.hours, strict=True)
        )
        assert held >= -1e-12
        assert trial.strategy == BOOK or held == pytest.approx(0)
        assert trial.switches == np.count_nonzero(np.diff(trial.path))


def test_no_strategy_that_carries_every_load_pays_less_than_the_oracle(made: Any, tmp_path: Path) -> None:
    for seed in range(3):
        chosen, traffic, found = tried(made, tmp_path, seed)
        plans = chosen.levels.plans
        oracle = found[-1]
        for trial in found[:-1]:
            if all(plans[i].carries_rps >= load for i, load in zip(trial.path, traffic.loads, strict=True)):
                assert trial.usd >= oracle.usd - 1e-12
        assert found[2].switches == 0
        # The window maximum never has less than the last value.
        assert (found[1].path >= found[0].path).all()


def test_the_cheapest_plan_is_the_cheapest_that_carries(made: Any) -> None:
    plans = made[2].plans
    loads = np.linspace(0.5, 950.0, 200)
    for load, i in zip(loads, cheapest(plans, loads), strict=True):
        fits = [p for p in plans if p.carries_rps >= load] or [plans[-1]]
        assert plans[i].cost_usd_per_h == pytest.approx(min(p.cost_usd_per_h for p in fits))


def test_a_day_goes_from_the_lowest_level_to_the_highest() -> None:
    day = expected_day(100.0, 900.0, 60.0, 0)
    assert len(day) == 1440
    assert day[:10].mean() == pytest.approx(100, rel=0.05)
    assert day[715:725].mean() == pytest.approx(900, rel=0.05)
    assert day.mean() == pytest.approx(500, rel=0.02)


# Classes that split, and jobs


def split_book(instances: Any, classes: dict[str, Any], loads: tuple[float, float, int], **rest: Any) -> Any:
    """Levels, book and its replay, where one stage has a fast variant and an accurate one; machines of one core."""
    loaded = instances.workload(
        {"a": ["s", "l"]},
        devices={"cpu": {"price_usd_per_h": 0.1, "count": 12, "cores": 1, "start_s": 20.0}},
        classes=classes,
        **rest,
    )
    helpers = __import__("sys").modules[type(instances).__module__]
    rows = [
        helpers.measurement("a", v, n, 0.005 * slow * (0.5 + 0.5 * n), load_s=4.0)
        for v, slow in (("s", 1), ("l", 4))
        for n in (1, 4)
    ]
    profile = instances.profile({}, {("a", "s"): 0.8, ("a", "l"): 0.95}, rows=rows)
    moving = Moving.of(loaded, None)
    levels = plan_levels(moving, profile, grid(*loads), solving(profile, instances.folder))
    history = expected_day(loads[0], loads[1], INTERVAL_S, 0)
    chosen = make_book(moving, profile, levels, history, None, Question(INTERVAL_S, "last", 6), instances.folder)
    source = Source(Arrivals(process="diurnal", peak_factor=1.6, period_s=240.0), sum(loads[:2]) / 2)
    traffic = traffic_of(moving, source, 245.0, INTERVAL_S, 0)
    return moving, profile, levels, chosen, traffic, trials(moving, profile, chosen, traffic, ["max"], history, 0)


def test_classes_that_split_have_a_book(instances: Any, tmp_path: Path) -> None:
    classes = {"web": {"rate_rps": 60.0, "slo": {"latency_s": 0.3}, "accuracy": {"floor": 0.86}}}
    moving, profile, levels, _, traffic, found = split_book(instances, classes, (40.0, 500.0, 5), splitting=True)
    for load, cost in zip(levels.loads_rps, levels.least_usd_per_h, strict=True):
        assert solve(moving.at(load), profile, plan_dir=tmp_path).cost_usd_per_h == pytest.approx(cost)
    assert any(plan.plan.classes["web"].mixtures for plan in levels.plans)
    for plan in levels.plans:
        assert certified(network_of_plan(plan.plan, moving.at(plan.carries_rps).workload, profile), 0).verdict == "met"
        accuracy = plan.plan.classes["web"].predicted.accuracy
        assert accuracy is not None
        assert accuracy.value >= 0.86 - 1e-9
    for trial in found:
        (web,) = trial.classes
        assert web.requests == len(traffic.arrivals_s["web"])
        assert web.unanswered == 0
    # It carries every interval's load, and switches for nothing.
    assert found[-1].kept


def test_jobs_have_a_book_and_are_late_as_a_whole(instances: Any) -> None:
    classes = {
        "album": {
            "kind": "jobs",
            "rate_rps": 60.0,
            "job": {"requests": 4, "deadline_s": 0.6, "mean_accuracy": 0.85},
        },
        "web": {"rate_rps": 20.0, "slo": {"latency_s": 0.3}},
    }
    _, _, levels, _, traffic, found = split_book(instances, classes, (40.0, 300.0, 4))
    assert any(plan.plan.classes["album"].mixtures for plan in levels.plans)
    times = traffic.arrivals_s["album"].reshape(-1, 4)
    assert (times == times[:, :1]).all()
    total = sum(len(own) for own in traffic.arrivals_s.values())
    assert float(traffic.loads @ traffic.hours) * 3600 == pytest.approx(total)
    assert times.size / total == pytest.approx(0.75, abs=0.03)
    for trial in found:
        album, web = trial.classes
        assert (album.name, web.name) == ("album", "web")
        assert album.requests == len(times)
        assert album.late is not None
        assert web.requests == len(traffic.arrivals_s["web"])
    assert found[-1].kept
