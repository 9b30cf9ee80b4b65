"""Machines and what they hold."""

from __future__ import annotations

import pytest

from inferplan.estimators.cost import Capacity, cost_usd_per_h, fitting, machine_capacity, replica_need
from inferplan.spec.workload import Device, Workload

GIB = 2**30


def test_reserved_cores_are_not_for_replicas() -> None:
    device = Device(price_usd_per_h=1.0, cores=8, reserved_cores=2, memory_bytes=16 * GIB)
    assert machine_capacity(device) == Capacity(6, 16 * GIB, 0)


@pytest.mark.parametrize(("need", "count"), [(Capacity(2, GIB), 3), (Capacity(1, 5 * GIB), 3), (Capacity(7, GIB), 0)])
def test_the_scarcest_resource_decides(need: Capacity, count: int) -> None:
    assert fitting(Capacity(6, 16 * GIB), need) == count


def test_a_replica_on_a_gpu_takes_all_of_it() -> None:
    device = Device(kind="gpu", price_usd_per_h=1.0, cores=8)
    need = replica_need(device, "cuda", 1, None)
    assert need is not None
    assert fitting(machine_capacity(device), need) == 1
    on_cpu = replica_need(device, "cpu", 1, None)
    assert on_cpu is not None
    assert fitting(machine_capacity(device), on_cpu) == 8


def test_unknown_memory_cannot_be_fitted_where_memory_is_limited() -> None:
    limited = Device(price_usd_per_h=1.0, cores=8, memory_bytes=GIB)
    assert replica_need(limited, "cpu", 1, None) is None
    assert replica_need(Device(price_usd_per_h=1.0, cores=8), "cpu", 1, None) == Capacity(1)


def test_machines_are_paid_whole() -> None:
    workload = Workload.model_validate(
        {
            "apiVersion": "inferplan/v1",
            "name": "w",
            "pipeline": {"stages": {"s": {"variants": {"v": {"model": "m"}}}}},
            "tiers": {"t": {"devices": {n: {"price_usd_per_h": p, "cores": 1} for n, p in (("a", 0.1), ("b", 1e6))}}},
            "classes": {"c": {"rate_rps": 1.0}},
        }
    )
    assert cost_usd_per_h(workload, {"t/a": 3, "t/b": 2}) == pytest.approx(2e6 + 0.3)
