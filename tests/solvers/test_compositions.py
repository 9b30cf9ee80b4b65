"""Plans under response, function and fitted accuracies are those of brute force; what is asked for."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from inferplan.estimators.accuracy import AccuracyModel, accuracy_model
from inferplan.reports.plan_tables import basis_lines, measuring_lines
from inferplan.solvers import combinations
from inferplan.solvers.accuracy_check import end_to_end as recomputed
from inferplan.solvers.checker import check_plan
from inferplan.solvers.planner import solve
from inferplan.spec.errors import CheckFailedError, DocumentError, InfeasibleError, InputError
from inferplan.spec.plan import Plan, load_plan, write_plan
from inferplan.spec.profile import Profile

STAGES = {"a": ["a0", "a1", "a2"], "b": ["b0", "b1"], "c": ["c0", "c1", "c2"]}
EDGES = [{"from": "a", "to": "b"}, {"from": "b", "to": "c"}]
QUALITY = {"a0": 0.7, "a1": 0.85, "a2": 0.95, "b0": 0.8, "b1": 0.97, "c0": 0.75, "c1": 0.88, "c2": 0.93}
TIMES = {
    ("a", "a0"): 0.02, ("a", "a1"): 0.05, ("a", "a2"): 0.09, ("b", "b0"): 0.01, ("b", "b1"): 0.06,
    ("c", "c0"): 0.02, ("c", "c1"): 0.03, ("c", "c2"): 0.11,
}  # fmt: skip
EVERY = [dict(zip(STAGES, chosen, strict=True)) for chosen in itertools.product(*STAGES.values())]
MACHINE = {"cpu": {"price_usd_per_h": 0.1, "count": 40, "cores": 1}}

FUNCTION = """
def weakest_and_mean(metrics):
    values = sorted(metrics.values())
    return 0.5 * values[0] + 0.5 * sum(values) / len(values)
def broken(metrics):
    return 1 / 0
"""


def measured_value(chosen: dict[str, str]) -> float:
    """A truth that is nearly, but not quite, what a fitted model can say."""
    product = QUALITY[chosen["a"]] * QUALITY[chosen["b"]] * QUALITY[chosen["c"]]
    squeezed = 0.9 if chosen["a"] == "a0" and chosen["c"] == "c0" else 1.0
    return product**0.8 * squeezed


def curves(parent: str, quality: dict[str, float]) -> dict[str, Any]:
    return {
        "curves": {
            choice: [{"given": {parent: at}, "output": q * at**1.5} for at in (0.3, 0.6, 0.8, 1.0)]
            for choice, q in quality.items()
        }
    }


def accuracy_section(composition: str) -> dict[str, Any]:
    section: dict[str, Any] = {"metric": {"name": "acc"}, "composition": composition}
    if composition == "function":
        section["function"] = "how:weakest_and_mean"
    if composition == "response":
        section["responses"] = {
            "b": curves("a", {name: QUALITY[name] for name in STAGES["b"]}),
            "c": curves("b", {name: QUALITY[name] for name in STAGES["c"]}),
        }
    return section


def workload_of(instances: Any, composition: str, floor: float | None, **rest: Any) -> Any:
    (instances.folder / "how.py").write_text(FUNCTION)
    return instances.workload(
        STAGES,
        edges=EDGES,
        devices=MACHINE,
        classes={
            "web": {"rate_rps": 30.0, "slo": {"latency_s": 2.0}, "accuracy": {} if floor is None else {"floor": floor}}
        },
        accuracy=accuracy_section(composition),
        **rest,
    )


def profile_of(instances: Any, count: int) -> Any:
    """Stage metrics of all, and `count` combinations measured end to end."""
    helpers = __import__("sys").modules[type(instances).__module__]
    rows = [
        helpers.end_to_end(chosen, measured_value(chosen)) for chosen in EVERY[:: len(EVERY) // max(count, 1)][:count]
    ]
    return instances.profile(
        {key: {1: t} for key, t in TIMES.items()},
        {(s, v): QUALITY[v] for s, variants in STAGES.items() for v in variants},
        combinations=rows,
    )


def model_of(loaded: Any, profile: Profile) -> AccuracyModel:
    found = accuracy_model(loaded.workload, profile)
    assert found is not None
    return found


def chosen_by(plan: Plan) -> dict[str, str]:
    return {stage: plan.options[route[0].option].choice for stage, route in plan.classes["web"].routes.items()}


def machines(chosen: dict[str, str]) -> int:
    """Fewest machines of one core for 30 calls/s per stage below 98 % of capacity."""
    return sum(int(30 * TIMES[stage, choice] / 0.98) + 1 for stage, choice in chosen.items())


@pytest.mark.parametrize(("composition", "count"), [("response", 0), ("function", 0), ("fitted", 6), ("response", 3)])
@pytest.mark.parametrize("rank", [4, 11])
def test_the_plan_is_the_cheapest_combination_that_keeps_the_floor(
    composition: str, count: int, rank: int, instances: Any
) -> None:
    profile = profile_of(instances, count)
    model = model_of(workload_of(instances, composition, None), profile)
    values = {tuple(chosen.values()): model.of(chosen) for chosen in EVERY}
    known = sorted((estimate.value for estimate in values.values() if estimate is not None), reverse=True)
    floor = known[rank] - 1e-6
    plan = solve(workload_of(instances, composition, floor), profile, plan_dir=instances.folder)
    good = [c for c in EVERY if (e := values[tuple(c.values())]) is not None and e.value >= floor]
    best = min(machines(chosen) for chosen in good)
    assert machines(chosen_by(plan)) == best
    assert sum(bought.count for bought in plan.machines.values()) == best
    predicted = plan.classes["web"].predicted
    assert predicted.accuracy is not None
    assert predicted.accuracy.value >= floor


@pytest.mark.parametrize(
    ("composition", "count"), [("response", 0), ("response", 5), ("function", 2), ("fitted", 5), ("fitted", 12)]
)
def test_the_checker_comes_to_the_same_values_on_its_own(composition: str, count: int, instances: Any) -> None:
    profile = profile_of(instances, count)
    loaded = workload_of(instances, composition, None)
    model = model_of(loaded, profile)
    for chosen in EVERY:
        estimate = model.of(chosen)
        assert estimate is not None
        assert recomputed(chosen, loaded.workload, profile) == pytest.approx(estimate.value, rel=1e-6)


def test_the_checker_knows_curves_made_of_measured_combinations(instances: Any) -> None:
    profile = profile_of(instances, 9)
    section = {"metric": {"name": "acc"}, "composition": "response"}
    loaded = instances.workload(STAGES, edges=EDGES, accuracy=section)
    model = model_of(loaded, profile)
    both = [(model.of(chosen), recomputed(chosen, loaded.workload, profile)) for chosen in EVERY]
    assert all((mine is None) == (theirs is None) for mine, theirs in both)
    known = [(mine.value, theirs) for mine, theirs in both if mine is not None]
    assert len(known) > 12
    assert all(mine == pytest.approx(theirs, rel=1e-6) for mine, theirs in known)


def test_a_wrong_predicted_accuracy_is_found(instances: Any) -> None:
    profile = profile_of(instances, 6)
    loaded = workload_of(instances, "fitted", 0.6)
    plan = solve(loaded, profile, plan_dir=instances.folder)
    traffic = plan.classes["web"]
    assert traffic.predicted.accuracy is not None
    off = traffic.predicted.accuracy.model_copy(update={"value": traffic.predicted.accuracy.value + 1e-4})
    wrong = traffic.model_copy(update={"predicted": traffic.predicted.model_copy(update={"accuracy": off})})
    with pytest.raises(CheckFailedError, match="does not keep"):
        check_plan(plan.model_copy(update={"classes": {"web": wrong}}), loaded.workload, profile)


def test_measuring_what_is_asked_for_leads_to_the_plan_that_measuring_everything_would(instances: Any) -> None:
    floor = 0.66
    helpers = __import__("sys").modules[type(instances).__module__]
    loaded = workload_of(instances, "fitted", floor)
    profile = profile_of(instances, 3)
    for _ in range(len(EVERY)):
        plan = solve(loaded, profile, plan_dir=instances.folder)
        source = plan.classes["web"].predicted.accuracy_source
        asked = [wanted.combination for wanted in plan.to_measure]
        assert (chosen_by(plan) in asked) == (source == "predicted")
        if not asked:
            break
        rows = [helpers.end_to_end(chosen, measured_value(chosen)) for chosen in asked]
        profile = dataclasses.replace(profile, accuracy=(*profile.accuracy, *rows))
    best = min(machines(chosen) for chosen in EVERY if measured_value(chosen) >= floor)
    assert source == "measured"
    assert machines(chosen_by(plan)) == best
    measured = sum(row.scope == "pipeline" for row in profile.accuracy)
    assert measured < len(EVERY) / 2
    assert any("leave-one-out error" in line for line in plan.story)


def test_infeasible_by_prediction_says_what_to_measure(instances: Any) -> None:
    model = model_of(workload_of(instances, "fitted", None), profile_of(instances, 4))
    estimates = [estimate for chosen in EVERY if (estimate := model.of(chosen)) is not None]
    best = max(estimate.value for estimate in estimates)
    hope = max(estimate.upper or 0.0 for estimate in estimates)
    assert hope > best
    with pytest.raises(InfeasibleError) as caught:
        solve(workload_of(instances, "fitted", (best + hope) / 2), profile_of(instances, 4), plan_dir=instances.folder)
    assert any(line.startswith("measure a=a2,b=b1,c=c2: ") for line in caught.value.details)


def test_too_many_combinations_to_list_are_refused(instances: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(combinations, "MAX_COMBINATIONS", 10)
    with pytest.raises(InputError, match="composition function is planned by listing combinations: 18"):
        solve(workload_of(instances, "function", 0.5), profile_of(instances, 0), plan_dir=instances.folder)


def test_a_function_that_fails_is_named_with_what_it_was_given(instances: Any) -> None:
    loaded = workload_of(instances, "function", 0.5)
    section = {**accuracy_section("function"), "function": "how:broken"}
    loaded = instances.workload(STAGES, edges=EDGES, accuracy=section)
    with pytest.raises(InputError, match=r"how:broken, given a 0.7, b 0.8, c 0.75: fails with ZeroDivisionError"):
        model_of(loaded, profile_of(instances, 0)).of(EVERY[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s["b"]["curves"].pop("b1"), "missing: b1"),
        (lambda s: s["b"]["curves"]["b0"].append({"given": {"a": 0.3}, "output": 0.9}), "contradict each other: a 0.3"),
        (lambda s: s["b"]["curves"]["b0"].append({"given": {"c": 0.3}, "output": 0.9}), "names the stages that feed"),
        (lambda s: s["b"]["curves"]["b0"].append({"given": {"a": 1.1}, "output": 0.1}), "write monotone: false"),
        (lambda s: s["b"]["curves"].update(b0=[{"given": {"a": 0.5}, "output": 0.1}]), "at least two accuracies of a"),
        (lambda s: s.update(a=s["b"]), "no stage feeds a"),
        (lambda s: s.update(z=s["b"]), "there is no stage 'z'"),
        (lambda s: s["b"]["curves"].update(b9=[]), "has no choice 'b9'"),
    ],
)  # fmt: skip
def test_wrong_curves_are_named(change: Callable[[Any], Any], message: str, instances: Any) -> None:
    section = accuracy_section("response")
    change(section["responses"])
    with pytest.raises(DocumentError) as caught:
        instances.workload(STAGES, edges=EDGES, accuracy=section)
    assert message in str(caught.value)


def test_two_values_of_one_combination_are_an_error_that_names_both(instances: Any) -> None:
    profile = profile_of(instances, 4)
    row = next(row for row in profile.accuracy if row.scope == "pipeline")
    other = dataclasses.replace(row, combination=row.combination.replace(", ", ","), value=0.5)
    loaded = workload_of(instances, "fitted", 0.5)
    with pytest.raises(InputError, match=r"two values of acc for a=a0, b=b0, c=c0: 0\.\d+ and 0.5; remove one"):
        model_of(loaded, dataclasses.replace(profile, accuracy=(*profile.accuracy, other)))
    same = dataclasses.replace(row, combination=row.combination.replace(", ", ","))
    model_of(loaded, dataclasses.replace(profile, accuracy=(*profile.accuracy, same)))


@pytest.mark.parametrize(("composition", "count"), [("response", 0), ("function", 0), ("fitted", 9)])
def test_with_a_confidence_floors_hold_for_the_worse_bound(composition: str, count: int, instances: Any) -> None:
    profile = profile_of(instances, count)
    asked = {"robustness": {"confidence": 0.975}}
    model = model_of(workload_of(instances, composition, None), profile)
    lower = {tuple(c.values()): e.lower for c in EVERY if (e := model.of(c)) is not None and e.lower is not None}
    floor = sorted(lower.values())[-4] - 1e-6
    plan = solve(workload_of(instances, composition, floor, **asked), profile, plan_dir=instances.folder)
    best = min(machines(c) for c in EVERY if lower[tuple(c.values())] >= floor)
    assert machines(chosen_by(plan)) == best
    assert lower[tuple(chosen_by(plan).values())] >= floor
    said = plan.classes["web"].predicted.accuracy
    assert said is not None
    assert said.value > floor + 0.005, "what is shown is the estimate"


def test_what_is_to_measure_is_printed_with_the_command_that_does_it(instances: Any) -> None:
    plan = solve(workload_of(instances, "fitted", 0.66), profile_of(instances, 3), plan_dir=instances.folder)
    lines = measuring_lines(plan, Path("my work/workload.yaml"), Path("p"))
    assert len(lines) == len(plan.to_measure) + 1
    assert lines[-1].startswith("with: inferplan profile 'my work/workload.yaml' --profile p --combination a=")
    assert lines[-1].count("--combination") == len(plan.to_measure)
    chosen = ",".join(f"{stage}={choice}" for stage, choice in sorted(chosen_by(plan).items()))
    assert any(line.startswith(f"{chosen}: the plan rests on it for class web: predicted 0.") for line in lines)
    assert any(line.startswith("Accuracy of class web is predicted, not measured: 0.") for line in basis_lines(plan))
    write_plan(plan, instances.folder / "plan.yaml")
    assert load_plan(instances.folder / "plan.yaml").plan.to_measure == plan.to_measure
