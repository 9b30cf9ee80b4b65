"""GPUs shared by replicas: only where memory fits and each was measured beside the other."""

from __future__ import annotations

from typing import Any

import pytest

from inferplan.solvers.checker import check_plan
from inferplan.solvers.planner import solve
from inferplan.spec.errors import CheckFailedError, InfeasibleError
from inferplan.spec.plan import Plan

GIB = 2**30
GPU = {"kind": "gpu", "price_usd_per_h": 1.0, "cores": 8, "gpu_memory_bytes": 16 * GIB}


def inputs(
    instances: Any, pairs: list[tuple[str, str]], peaks: dict[str, int | None] | None = None, **changes: Any
) -> tuple[Any, Any]:
    """Two stages, each of one variant on a GPU; `pairs`: (stage, neighbour) measured beside one another."""
    helpers = __import__("sys").modules[type(instances).__module__]
    loaded = instances.workload(
        {"a": ["v"], "b": ["v"]},
        edges=[{"from": "a", "to": "b"}],
        classes={"web": {"rate_rps": 20.0, "slo": {"latency_s": 1.0}}},
        devices={"gpu": {**GPU, **changes}},
    )
    peaks = peaks or {"a": 4 * GIB, "b": 6 * GIB}
    on_gpu = {"device": "edge/gpu", "provider": "cuda"}
    rows = [
        helpers.measurement(stage, "v", 1, 0.01, **on_gpu, **({} if peak is None else {"peak_gpu_bytes": peak}))
        for stage, peak in peaks.items()
    ]
    beside = [helpers.interference(one, "v", [(other, "v")], 1.1, **on_gpu) for one, other in pairs]
    return loaded, instances.profile({}, {("a", "v"): 0.9, ("b", "v"): 0.9}, rows=rows, beside=beside)


def machines(instances: Any, pairs: list[tuple[str, str]], **changes: Any) -> Plan:
    loaded, profile = inputs(instances, pairs, **changes)
    plan = solve(loaded, profile, plan_dir=instances.folder)
    check_plan(plan, loaded.workload, profile)
    return plan


BOTH = [("a", "b"), ("b", "a")]


def test_measured_beside_one_another_they_share(instances: Any) -> None:
    plan = machines(instances, BOTH)
    assert plan.machines["edge/gpu"].count == 1
    assert all(option.shares_gpu for option in plan.options.values())


@pytest.mark.parametrize(
    ("pairs", "changes"),
    [
        ([], {}),
        ([("a", "b")], {}),
        ([("a", "a"), ("b", "b")], {}),
        (BOTH, {"peaks": {"a": 4 * GIB, "b": None}}),
        (BOTH, {"peaks": {"a": 8 * GIB, "b": 9 * GIB}}),
    ],
)
def test_otherwise_each_has_a_gpu_to_itself(
    instances: Any, pairs: list[tuple[str, str]], changes: dict[str, Any]
) -> None:
    assert machines(instances, pairs, **changes).machines["edge/gpu"].count == 2


def test_copies_share_where_it_was_measured_beside_itself(instances: Any) -> None:
    helpers = __import__("sys").modules[type(instances).__module__]
    loaded = instances.workload(
        {"a": ["v"]}, classes={"web": {"rate_rps": 150.0, "slo": {"latency_s": 1.0}}}, devices={"gpu": GPU}
    )
    on_gpu = {"device": "edge/gpu", "provider": "cuda"}
    rows = [helpers.measurement("a", "v", 1, 0.01, **on_gpu, peak_gpu_bytes=4 * GIB)]
    for pairs, count in (([("a", "a")], 1), ([], 2)):
        beside = [helpers.interference(one, "v", [(other, "v")], 1.05, **on_gpu) for one, other in pairs]
        store = instances.profile({}, {("a", "v"): 0.9}, rows=rows, beside=beside)
        plan = solve(loaded, store, plan_dir=instances.folder)
        check_plan(plan, loaded.workload, store)
        assert plan.machines["edge/gpu"].count == count


def test_a_share_of_a_gpu_is_the_memory_it_takes(instances: Any) -> None:
    plan = machines(instances, BOTH, billing="share")
    assert plan.machines["edge/gpu"].share == pytest.approx(10 / 16)
    assert machines(instances, [], billing="share").machines["edge/gpu"].share == pytest.approx(2.0)


@pytest.mark.parametrize(("gpus", "count"), [(1, 3), (2, 2), (3, 1), (4, 1)])
def test_on_machines_with_several_gpus_every_replica_has_its_own(instances: Any, gpus: int, count: int) -> None:
    helpers = __import__("sys").modules[type(instances).__module__]
    loaded = instances.workload(
        {"a": ["v"]},
        classes={"web": {"rate_rps": 250.0, "slo": {"latency_s": 1.0}}},
        devices={"gpu": {**GPU, "gpus": gpus, "power_w": 400.0, "idle_power_w": 100.0}},
    )
    on_gpu = {"device": "edge/gpu", "provider": "cuda"}
    rows = [helpers.measurement("a", "v", 1, 0.01, **on_gpu, peak_gpu_bytes=4 * GIB)]
    # Measured beside itself on one GPU: three times as slow, which says nothing of two GPUs.
    beside = [helpers.interference("a", "v", [("a", "v")], 3.0, **on_gpu)]
    store = instances.profile({}, {("a", "v"): 0.9}, rows=rows, beside=beside if gpus > 1 else [])
    plan = solve(loaded, store, plan_dir=instances.folder)
    check_plan(plan, loaded.workload, store)
    (option,) = plan.options.values()
    assert plan.machines["edge/gpu"].count == count
    assert option.replicas >= 3
    assert option.predicted.interference == 1.0
    assert option.predicted.energy_j == pytest.approx(300 / gpus * 0.01)
    crowded = plan.model_dump(by_alias=True)
    crowded["options"][next(iter(plan.options))]["replicas"] += gpus
    crowded["machines"]["edge/gpu"]["packing"][0][0]["replicas"] += gpus
    with pytest.raises(CheckFailedError) as caught:
        check_plan(Plan.model_validate(crowded), loaded.workload, store)
    assert any("replicas on" in line for line in caught.value.details)


def test_the_memory_that_counts_is_that_of_one_gpu(instances: Any) -> None:
    loaded, profile = inputs(instances, [], {"a": 17 * GIB, "b": 4 * GIB}, gpus=4)
    with pytest.raises(InfeasibleError, match="no variant of stage a fits"):
        solve(loaded, profile, plan_dir=instances.folder)


def test_a_share_of_a_machine_with_several_gpus(instances: Any) -> None:
    plan = machines(instances, BOTH, billing="share", gpus=4)
    assert plan.machines["edge/gpu"].share == pytest.approx(2 / 4)
    assert not any(option.shares_gpu for option in plan.options.values())
    data = plan.model_dump(by_alias=True)
    for option in data["options"].values():
        option["shares_gpu"] = True
    loaded, profile = inputs(instances, BOTH, billing="share", gpus=4)
    with pytest.raises(CheckFailedError) as caught:
        check_plan(Plan.model_validate(data), loaded.workload, profile)
    assert any("a machine has several" in line for line in caught.value.details)


def test_sharing_that_was_not_measured_is_found_out(instances: Any) -> None:
    loaded, profile = inputs(instances, BOTH)
    plan = solve(loaded, profile, plan_dir=instances.folder)
    unmeasured = inputs(instances, [("a", "b")])[1]
    with pytest.raises(CheckFailedError) as caught:
        check_plan(plan, loaded.workload, unmeasured)
    assert any("never measured beside one another" in line for line in caught.value.details)
    data = plan.model_dump(by_alias=True)
    for option in data["options"].values():
        option["gpu_memory_bytes"] = 9 * GIB
    with pytest.raises(CheckFailedError) as caught:
        check_plan(Plan.model_validate(data), loaded.workload, profile)
    assert any("bytes of GPU memory" in line for line in caught.value.details)


def test_a_larger_batch_does_not_stand_in_for_a_smaller_one_of_which_more_fit(instances: Any) -> None:
    """Spread over devices: two replicas of batch 1 share a GPU and serve more than the one of batch 4 that fits."""
    helpers = __import__("sys").modules[type(instances).__module__]
    loaded = instances.workload(
        {"a": ["v"]}, classes={"web": {"rate_rps": 150.0}}, devices={"gpu": {**GPU, "count": 1}}, splitting="devices"
    )
    on_gpu = {"device": "edge/gpu", "provider": "cuda"}
    rows = [
        helpers.measurement("a", "v", batch, mean_s, **on_gpu, peak_gpu_bytes=peak * GIB)
        for batch, mean_s, peak in ((1, 0.01, 6), (4, 0.032, 12))
    ]
    beside = [helpers.interference("a", "v", [("a", "v")], 1.05, **on_gpu)]
    profile = instances.profile({}, {("a", "v"): 0.9}, rows=rows, beside=beside)
    plan = solve(loaded, profile, plan_dir=instances.folder)
    check_plan(plan, loaded.workload, profile)
    assert plan.machines["edge/gpu"].count == 1
    assert [(option.max_batch, option.replicas) for option in plan.options.values()] == [(1, 2)]
