"""Modality subsets, runtime options, and where a plan's times come from."""

from __future__ import annotations

from typing import Any

import pytest

from inferplan.solvers.planner import solve
from inferplan.spec.errors import InputError
from inferplan.spec.plan import Plan, load_plan, write_plan

FUSED = {"modalities": {"reads": ["acc", "gyro"], "optional": ["acc", "gyro"]}}
CHOICES = ("m@acc+gyro", "m@acc", "m@gyro")
TIMES = {("s", choice): {1: t, 2: 1.8 * t} for choice, t in zip(CHOICES, (0.04, 0.02, 0.01), strict=True)}
ACCURACY = {("s", choice): value for choice, value in zip(CHOICES, (0.9, 0.8, 0.7), strict=True)}
ROWS = {"times": TIMES, "accuracy": ACCURACY}


def plan_of(instances: Any, floor: float | None = None, **changes: Any) -> Plan:
    rows = changes.pop("rows", ROWS)
    loaded = instances.workload(
        changes.pop("stages", {"s": ["m"]}),
        classes={
            "web": {
                "rate_rps": changes.pop("rate", 20.0),
                "slo": {"latency_s": 0.3},
                "accuracy": {} if floor is None else {"floor": floor},
            }
        },
        specs=changes.pop("specs", {"m": FUSED}),
        **changes,
    )
    return solve(loaded, instances.profile(rows.pop("times"), rows.pop("accuracy"), **rows), plan_dir=instances.folder)


def rows(**changes: Any) -> dict[str, Any]:
    return {**ROWS, **changes}


@pytest.mark.parametrize(("floor", "modalities"), [(0.65, ["gyro"]), (0.75, ["acc"]), (0.85, ["acc", "gyro"])])
def test_the_cheapest_subset_that_keeps_the_floor_is_chosen(
    floor: float, modalities: list[str], instances: Any
) -> None:
    devices = {"cpu": {"price_usd_per_h": 0.1, "cores": 1}}
    plan = plan_of(instances, floor, rows=rows(), devices=devices, rate=60.0)
    ((name, option),) = plan.options.items()
    assert (option.variant, option.modalities) == ("m", modalities)
    assert option.choice == f"m@{'+'.join(modalities)}"
    assert name.startswith(f"s-m-{'-'.join(modalities)}-cpu-1t-b")
    assert all("@" in choice for other in plan.alternatives for choice in other.variants.values())


def test_a_plan_with_a_subset_is_written_and_read_back(instances: Any) -> None:
    plan = plan_of(instances, 0.75, rows=rows())
    write_plan(plan, instances.folder / "plan.yaml")
    assert load_plan(instances.folder / "plan.yaml").plan == load_plan(instances.folder / "plan.yaml").plan
    (option,) = load_plan(instances.folder / "plan.yaml").plan.options.values()
    assert option.modalities == next(iter(plan.options.values())).modalities


def test_combinations_and_flows_are_by_choice(instances: Any) -> None:
    helpers = __import__("sys").modules[type(instances).__module__]
    combined = [helpers.end_to_end({"s": "m@gyro", "t": "v"}, 0.95), helpers.end_to_end({"s": "m@acc", "t": "v"}, 0.5)]
    flows = [helpers.flow("s", "t", "m@gyro", [2]), helpers.flow("s", "t", "m@acc", [1])]
    plan = plan_of(
        instances,
        0.9,
        stages={"s": ["m"], "t": ["v"]},
        edges=[{"from": "s", "to": "t", "fan_out": "measured"}],
        rows=rows(
            times={**TIMES, ("t", "v"): {1: 0.01}},
            accuracy={**ACCURACY, ("t", "v"): 0.9},
            combinations=combined,
            flows=flows,
        ),
    )
    below = next(option for option in plan.options.values() if option.stage == "t")
    assert below.predicted.load_rps == pytest.approx(40.0)
    assert any("s/m@acc+gyro: its fan-out was not measured" in line for line in plan.story)


def test_a_declared_accuracy_is_that_of_all_modalities(instances: Any) -> None:
    plan = plan_of(instances, 0.8, specs={"m": {**FUSED, "accuracy": 0.85}}, rows=rows(accuracy={}))
    assert next(iter(plan.options.values())).modalities == ["acc", "gyro"]
    assert plan.classes["web"].predicted.accuracy_source == "declared"
    assert any("s/m@acc: its accuracy was neither measured nor declared" in line for line in plan.story)


def test_names_that_would_collide_are_told_apart(instances: Any) -> None:
    specs = {"m": FUSED, "m-acc": {}}
    plan = plan_of(
        instances,
        stages={"s": ["m", "m-acc"]},
        specs=specs,
        rows=rows(times={**TIMES, ("s", "m-acc"): {1: 0.02}}, accuracy={**ACCURACY, ("s", "m-acc"): 0.8}),
    )
    assert plan.certificate is not None
    assert plan.certificate.verdict == "met"


def test_rows_with_other_options_are_left_out_and_named(instances: Any) -> None:
    helpers = __import__("sys").modules[type(instances).__module__]
    specs = {"v": {"options": {"graph_optimization": "basic"}}}
    basic = '{"graph_optimization": "basic"}'
    stale = [helpers.measurement("s", "v", 4, 0.001)]
    profile = {"times": {("s", "v"): {1: 0.01}}, "accuracy": {}, "options": basic}
    plan = plan_of(instances, stages={"s": ["v"]}, specs=specs, rows={**profile, "rows": stale})
    assert next(iter(plan.options.values())).max_batch == 1
    assert "not considered: s/v: 1 rows of another runtime options" in plan.story
    with pytest.raises(InputError, match="other models or settings"):
        plan_of(instances, stages={"s": ["v"]}, specs=specs, rows={**profile, "options": "{}"})


def test_torch_variants_are_planned(instances: Any) -> None:
    specs = {"v": {"runtime": "torch", "options": {"autocast": "bf16"}}}
    plan = plan_of(
        instances,
        stages={"s": ["v"]},
        specs=specs,
        rows={"times": {("s", "v"): {1: 0.01}}, "accuracy": {}, "runtime": "torch", "options": '{"autocast": "bf16"}'},
    )
    assert next(iter(plan.options.values())).runtime == "torch"


def test_openvino_takes_cores_and_no_gpu(instances: Any) -> None:
    profile = {"times": {("s", "v"): {1: 0.01}}, "accuracy": {}, "provider": "openvino"}
    plan = plan_of(instances, stages={"s": ["v"]}, specs={}, rows=profile)
    ((name, option),) = plan.options.items()
    assert option.provider == "openvino"
    assert "openvino" in name


def test_a_plan_says_on_which_interpolated_and_imported_points_it_rests(instances: Any) -> None:
    helpers = __import__("sys").modules[type(instances).__module__]
    extra = [
        helpers.measurement("s", "v", 4, 0.012, origin="interpolated"),
        helpers.measurement("t", "v", 1, 0.01, origin="imported", source="perf_analyzer t.csv", device_fingerprint="x"),
    ]
    plan = plan_of(
        instances,
        stages={"s": ["v"], "t": ["v"]},
        edges=[{"from": "s", "to": "t"}],
        specs={},
        rate=180.0,
        rows={"times": {("s", "v"): {1: 0.01, 8: 0.02}}, "accuracy": {}, "rows": extra},
        devices={"cpu": {"price_usd_per_h": 0.1, "cores": 1}},
    )
    assert plan.profile.interpolated == ["s/v on edge/cpu, batch 4, 1 threads"]
    assert plan.profile.imported == ["t/v on edge/cpu, batch 1, 1 threads from perf_analyzer t.csv"]
    assert plan.profile.fingerprints == ["f"]


def test_rows_older_than_their_machine_are_used_and_named(instances: Any) -> None:
    helpers = __import__("sys").modules[type(instances).__module__]
    newer = [helpers.measurement("s", "w", 1, 0.5, runtime_version="2.0", measured_at="2026-02-01T00:00:00Z")]
    plan = plan_of(
        instances,
        stages={"s": ["v", "w"]},
        specs={},
        rows={"times": {("s", "v"): {1: 0.01}}, "accuracy": {}, "rows": newer},
    )
    assert plan.profile.stale == ["s/v on edge/cpu: measured with onnxruntime 1.0, newer rows with 2.0"]
