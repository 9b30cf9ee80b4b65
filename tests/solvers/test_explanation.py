"""A plan explained: steps and rivals are what deciding again with that promise, or without the others, gives."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from inferplan.solvers import rivals
from inferplan.solvers.explanation import Explanation, explain
from inferplan.solvers.planner import solve
from inferplan.solvers.queue_planner import decided
from inferplan.solvers.steps import Step
from inferplan.spec.document import LoadedWorkload, load_workload
from inferplan.spec.errors import InfeasibleError
from inferplan.spec.plan import Plan
from inferplan.spec.profile import Profile

STAGES = {"a": ["s", "m", "l"], "b": ["s", "l"]}
ACCURACY = {("a", "s"): 0.7, ("a", "m"): 0.8, ("a", "l"): 0.9, ("b", "s"): 0.85, ("b", "l"): 1.0}


class Case:
    """An instance with its plan, and ways to change a promise and decide again."""

    def __init__(self, instances: Any, times: Any, **changes: Any) -> None:
        self.folder: Path = instances.folder
        self.loaded: LoadedWorkload = instances.workload(
            changes.pop("stages", STAGES), edges=changes.pop("edges", [{"from": "a", "to": "b"}]), **changes
        )
        self.store: Profile = instances.profile(times, ACCURACY)
        self.plan: Plan = solve(self.loaded, self.store, plan_dir=self.folder)

    def explained(self) -> Explanation:
        found = explain(self.plan, self.loaded, self.store, time_limit_s=300.0)
        assert found.left_out == ()
        assert found.differs == ""
        assert found.cost_usd_per_h == pytest.approx(self.plan.cost_usd_per_h)
        return found

    def again(self, *overrides: str) -> Plan | None:
        """The plan with other promises; None where there is none."""
        try:
            return solve(load_workload(self.loaded.path, list(overrides)), self.store, plan_dir=self.folder)
        except InfeasibleError:
            return None

    def cost(self, *overrides: str) -> float | None:
        """Its cost."""
        try:
            found = decided(load_workload(self.loaded.path, list(overrides)), self.store)
        except InfeasibleError:
            return None
        return found.solution.cost_usd_per_h


def times_of(base_s: float, slower: float) -> dict[tuple[str, str], dict[int, float]]:
    """Larger variants take longer."""
    sizes = {"s": 1.0, "m": slower, "l": slower**2}
    return {(stage, v): {1: base_s * sizes[v], 4: base_s * sizes[v] * 2.5} for stage, vs in STAGES.items() for v in vs}


def step(found: Explanation, promise: str, way: str) -> Step | None:
    steps = [one for one in found.steps if one.promise == promise and one.way == way]
    assert len(steps) <= 1
    return steps[0] if steps else None


def case_of(
    base_s: float, slower: float, rate_rps: float, latency_s: float, floor: float, count: int
) -> dict[str, Any]:
    """Arguments of `Case`."""
    traffic = {"rate_rps": rate_rps, "slo": {"latency_s": latency_s}, "accuracy": {"floor": floor}}
    return {
        "times": times_of(base_s, slower),
        "classes": {"web": traffic},
        "devices": {"cpu": {"price_usd_per_h": 0.1, "count": count, "cores": 2}},
    }


CASES = {
    "loose": case_of(0.004, 1.5, 10.0, 0.5, 0.6, 8),
    "busy": case_of(0.004, 1.5, 150.0, 0.15, 0.72, 8),
    "few machines": case_of(0.01, 1.5, 60.0, 0.08, 0.6, 3),
    "tight": case_of(0.01, 2.0, 60.0, 0.08, 0.72, 8),
}
"""All can be kept."""
EVERY = pytest.mark.parametrize("name", CASES)
Explained = Callable[[str], tuple[Case, Explanation]]


@pytest.fixture(scope="module")
def explained(instances_in: Any, tmp_path_factory: pytest.TempPathFactory) -> Explained:
    """A case of CASES and its explanation, made once for all tests."""

    @cache
    def made(name: str) -> tuple[Case, Explanation]:
        this = Case(instances_in(tmp_path_factory.mktemp("case")), **CASES[name])
        return this, this.explained()

    return made


@EVERY
def test_steps_are_what_deciding_again_gives(name: str, explained: Explained) -> None:
    this, found = explained(name)
    own = this.plan.cost_usd_per_h
    floor = "classes.web.accuracy.floor"
    reached = this.plan.classes["web"].predicted.accuracy
    assert reached is not None
    looser, tighter = step(found, floor, "looser"), step(found, floor, "tighter")
    if looser is None:
        assert this.cost(f"{floor}=0") == pytest.approx(own)
    else:
        assert looser.cost_usd_per_h < own
        assert this.cost(f"{floor}={looser.value - 1e-9}") == pytest.approx(looser.cost_usd_per_h)
        assert this.cost(f"{floor}={looser.value + 1e-4}") == pytest.approx(own)
    assert this.cost(f"{floor}={reached.value - 1e-9}") == pytest.approx(own)
    beyond = this.cost(f"{floor}={reached.value + 1e-4}")
    assert beyond == (None if tighter is None else pytest.approx(tighter.cost_usd_per_h))
    count = "tiers.edge.devices.cpu.count"
    used = this.plan.machines["edge/cpu"].count
    fewer, more = step(found, count, "tighter"), step(found, count, "looser")
    without = this.cost(f"{count}={used - 1}") if used > 1 else None
    assert without == (None if fewer is None else pytest.approx(fewer.cost_usd_per_h))
    # Plans cost what their machines cost: more machines never make a cheaper one.
    assert more is None


@EVERY
def test_latency_steps_keep_what_they_say_and_nothing_is_gained_before(name: str, explained: Explained) -> None:
    this, found = explained(name)
    own = this.plan.cost_usd_per_h
    path = "classes.web.slo.latency_s"
    limit = this.loaded.workload.classes["web"].slo
    assert limit is not None
    looser, kept, tighter = (step(found, path, way) for way in ("looser", "as it is", "tighter"))
    if looser is None:
        assert this.cost(f"{path}=100") == pytest.approx(own)
    else:
        assert looser.value > limit.latency_s
        then = this.cost(f"{path}={looser.value}")
        assert then is not None
        assert then <= looser.cost_usd_per_h * (1 + 1e-6) < own
    if kept is not None:
        assert kept.value < limit.latency_s
        assert this.cost(f"{path}={kept.value}") == pytest.approx(own)
    if tighter is not None:
        assert tighter.cost_usd_per_h > own
        assert kept is None or tighter.value < kept.value
        then = this.cost(f"{path}={tighter.value}")
        assert then is not None
        assert then <= tighter.cost_usd_per_h * (1 + 1e-6)


@EVERY
def test_rivals_are_what_deciding_without_the_others_gives(name: str, explained: Explained, instances: Any) -> None:
    this, found = explained(name)
    said = {(r.stage, r.other): r for r in found.rivals if r.aspect == "variant"}
    own = {option.stage: option.choice for option in this.plan.options.values()}
    assert set(said) == {(s, v) for s, variants in STAGES.items() for v in variants if own[s] != v}
    for (stage, variant), rival in said.items():
        only = {**STAGES, stage: [variant]}
        try:
            alone = Case(instances, stages=only, **CASES[name])
        except InfeasibleError:
            assert not rival.keeps
            continue
        assert rival.keeps
        assert rival.cost_usd_per_h == pytest.approx(alone.plan.cost_usd_per_h)


def test_what_is_not_certified_in_time_is_estimated_and_said_to_be(
    explained: Explained, monkeypatch: pytest.MonkeyPatch
) -> None:
    this, whole = explained("tight")
    certified = {(r.stage, r.other): r for r in whole.rivals if r.aspect == "variant"}
    monkeypatch.setattr(rivals._Question, "answer", lambda self: None)
    found = explain(this.plan, this.loaded, this.store, time_limit_s=300.0)
    estimated = {(r.stage, r.other): r for r in found.rivals if r.aspect == "variant"}
    assert estimated
    assert set(estimated) <= set(certified)
    for rival in found.rivals:
        assert (rival.keeps, rival.latency_s) == (False, None)
        assert rival.reason.endswith("by estimate (not simulated)")
        assert rival.cost_usd_per_h is not None
        assert rival.cost_usd_per_h >= found.cost_usd_per_h * (1 - 1e-6)
    left = [line for line in found.left_out if "were not simulated" in line]
    assert len(left) == len(STAGES)


def test_the_load_it_carries_is_simulated_and_the_next_plan_carries_more(instances: Any) -> None:
    classes = {"web": {"rate_rps": 40.0, "slo": {"latency_s": 0.2}, "accuracy": {"floor": 0.6}}}
    this = Case(instances, times_of(0.01, 1.5), classes=classes)
    found = this.explained()
    kept, more = (step(found, "classes.*.rate_rps", way) for way in ("as it is", "tighter"))
    assert kept is not None
    assert more is not None
    assert kept.value >= 1
    assert this.cost(f"classes.web.rate_rps={40 * kept.value}") == pytest.approx(this.plan.cost_usd_per_h)
    assert this.cost(f"classes.web.rate_rps={40 * more.value}") == pytest.approx(more.cost_usd_per_h)


def test_a_budget_says_what_more_would_buy(instances: Any) -> None:
    this = Case(
        instances,
        times_of(0.01, 2.0),
        classes={"web": {"rate_rps": 60.0, "slo": {"latency_s": 0.3}}},
        objective={"maximize": "accuracy", "budget_usd_per_h": 0.25},
        devices={"cpu": {"price_usd_per_h": 0.1, "count": 8, "cores": 1}},
    )
    found = this.explained()
    more, less = (step(found, "objective.budget_usd_per_h", way) for way in ("looser", "tighter"))
    assert more is not None
    assert more.extra_accuracy is not None
    assert more.extra_accuracy > 0
    assert more.value >= more.cost_usd_per_h * (1 - 1e-6)
    richer = this.again(f"objective.budget_usd_per_h={more.value + 1e-6}")
    assert richer is not None
    accuracy = richer.classes["web"].predicted.accuracy
    assert accuracy is not None
    assert accuracy.value == pytest.approx(more.accuracy)
    if less is not None:
        assert less.extra_accuracy is not None
        assert less.extra_accuracy < 0


def test_a_plan_that_is_not_what_solving_gives_is_named(instances: Any) -> None:
    classes = {"web": {"rate_rps": 40.0, "slo": {"latency_s": 0.2}, "accuracy": {"floor": 0.6}}}
    this = Case(instances, times_of(0.01, 1.5), classes=classes)
    dearer = this.again("tiers.edge.devices.cpu.cores=1")
    assert dearer is not None
    found = explain(dearer, this.loaded, this.store)
    assert "deciding again" in found.differs


def test_time_that_is_not_there_is_said(instances: Any) -> None:
    classes = {"web": {"rate_rps": 40.0, "slo": {"latency_s": 0.2}, "accuracy": {"floor": 0.6}}}
    this = Case(instances, times_of(0.01, 1.5), classes=classes)
    found = explain(this.plan, this.loaded, this.store, time_limit_s=1e-6)
    assert any("out of time" in line for line in found.left_out)


@pytest.mark.parametrize(
    ("goal", "tighter"),
    [
        pytest.param(0.62, None, id="below what the plan reaches"),
        pytest.param(0.7, 0.7, id="between two plans"),
        pytest.param(0.9, 0.8, id="out of the way"),
    ],
)
def test_no_floor_is_named_beyond_the_goal(goal: float, tighter: float | None, instances: Any) -> None:
    """A floor above the goal is refused; up to it, what is named is what deciding again gives."""
    traffic = {"rate_rps": 10.0, "slo": {"latency_s": 0.5}, "accuracy": {"floor": 0.6, "goal": goal}}
    one = {"stages": {"a": ["s", "m"]}, "edges": [], "objective": {"minimize": "cost"}}
    devices = {"cpu": {"price_usd_per_h": 0.1, "cores": 2}}
    times = {("a", "s"): {1: 0.01}, ("a", "m"): {1: 0.3}}
    case = Case(instances, times, classes={"web": traffic}, devices=devices, **one)
    found = case.explained()
    path = "classes.web.accuracy.floor"
    same, beyond = step(found, path, "as it is"), step(found, path, "tighter")
    assert same is not None
    assert same.value == pytest.approx(min(goal, 0.7))
    assert case.cost(f"{path}={same.value!r}") == pytest.approx(case.plan.cost_usd_per_h)
    if tighter is None or goal <= 0.7:
        assert beyond is None
        return
    assert beyond is not None
    assert case.cost(f"{path}={beyond.value!r}") == pytest.approx(beyond.cost_usd_per_h)
