"""Machines: what they hold, cost and draw."""

from __future__ import annotations

import pytest

from inferplan.estimators.cost import (
    Capacity,
    busy_w,
    egress_usd_per_h,
    fitting,
    machine_capacity,
    machines_used,
    replica_need,
    tariff,
)
from inferplan.spec.workload import Device, Tier

GIB = 2**30
GPU = Device(kind="gpu", price_usd_per_h=1.0, cores=8, gpu_memory_bytes=16 * GIB)


def tier(**fields: float) -> Tier:
    return Tier(devices={"x": Device(price_usd_per_h=1.0, cores=1)}, **fields)


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


@pytest.mark.parametrize(
    ("peak", "shares", "count"),
    [(5 * GIB, True, 3), (5 * GIB, False, 1), (None, True, 1), (17 * GIB, False, 0), (17 * GIB, True, 0)],
)
def test_a_gpu_is_shared_where_memory_is_known_and_sharing_is_allowed(
    peak: int | None, shares: bool, count: int
) -> None:
    need = replica_need(GPU, "cuda", 1, None, peak, shares)
    assert need is not None
    assert fitting(machine_capacity(GPU), need) == count


def test_one_that_has_the_gpu_to_itself_leaves_no_memory_for_others() -> None:
    whole, sharing = replica_need(GPU, "cuda", 1, None, GIB), replica_need(GPU, "cuda", 1, None, GIB, True)
    assert whole is not None
    assert sharing is not None
    assert (whole.gpu_memory_bytes or 0) + (sharing.gpu_memory_bytes or 0) > 16 * GIB


def test_unknown_memory_cannot_be_fitted_where_memory_is_limited() -> None:
    limited = Device(price_usd_per_h=1.0, cores=8, memory_bytes=GIB)
    assert replica_need(limited, "cpu", 1, None) is None
    assert replica_need(Device(price_usd_per_h=1.0, cores=8), "cpu", 1, None) == Capacity(1)


def test_the_share_of_machines_used_is_that_of_the_resource_used_most() -> None:
    machine = Capacity(8, 100)
    assert machines_used(machine, [(Capacity(2, 10), 3), (Capacity(1, 40), 2)]) == pytest.approx(1.1)
    assert machines_used(machine, [(Capacity(2, 10), 6)]) == pytest.approx(1.5)
    assert machines_used(machine, []) == 0.0


def test_restarts_are_paid_while_machines_start_and_models_load() -> None:
    spot = tariff(Device(price_usd_per_h=2.0, cores=4, interruptions_per_h=0.1, start_s=90.0), tier())
    assert spot.restarts_usd_per_h == pytest.approx(2.0 * 0.1 * 90 / 3600)
    assert spot.reloads_usd_per_h(0.25, 36.0) == pytest.approx(2.0 * 0.1 * 36 / 3600 * 0.25)
    assert spot.hourly_usd == pytest.approx(2.0 + spot.restarts_usd_per_h)


def test_the_share_of_time_lost_is_that_of_an_alternating_renewal_process() -> None:
    """Up 1 / r on average, down for the start and the load: down / (up + down)."""
    spot = tariff(Device(price_usd_per_h=1.0, cores=4, interruptions_per_h=0.5, start_s=300.0), tier())
    up_s, down_s = 7200.0, 360.0
    assert spot.lost_share(60.0) == pytest.approx(down_s / (up_s + down_s))
    assert tariff(Device(price_usd_per_h=1.0, cores=4), tier()).lost_share(60.0) == 0.0


def test_electricity_is_paid_where_it_has_a_price() -> None:
    device = Device(price_usd_per_h=1.0, cores=4, power_w=100.0, idle_power_w=40.0)
    priced = tariff(device, tier(energy_price_usd_per_kwh=0.25))
    assert priced.hourly_usd == pytest.approx(1.0 + 0.04 * 0.25)
    assert priced.electricity_usd_per_h(60.0) == pytest.approx(0.06 * 0.25)
    assert tariff(device, tier()).hourly_usd == 1.0


def test_a_device_may_have_other_carbon_than_its_tier() -> None:
    own = Device(price_usd_per_h=1.0, cores=4, carbon_g_per_kwh=20.0)
    assert tariff(own, tier(carbon_g_per_kwh=400.0)).carbon_g_per_kwh == 20.0
    assert tariff(Device(price_usd_per_h=1.0, cores=4), tier(carbon_g_per_kwh=400.0)).carbon_g_per_kwh == 400.0


def test_what_a_busy_replica_adds() -> None:
    device = Device(price_usd_per_h=1.0, cores=6, reserved_cores=2, power_w=100.0, idle_power_w=40.0)
    assert busy_w(device, "cpu", 1, None) == pytest.approx(15.0)
    assert busy_w(device, "cpu", 1, 52.0) == pytest.approx(12.0), "the counter, less what it reads when idle"
    assert busy_w(device, "cpu", 1, 30.0) == 0.0
    assert busy_w(device, "cuda", 1, 52.0) == pytest.approx(60.0), "the GPU's own counter does not see the machine"
    constant = Device(price_usd_per_h=1.0, cores=6, power_w=100.0)
    assert busy_w(constant, "cpu", 1, 52.0) == 0.0
    assert tariff(constant, tier()).idle_w == 100.0
    idle_only = Device(price_usd_per_h=1.0, cores=6, idle_power_w=40.0)
    assert busy_w(idle_only, "cpu", 1, None) is None
    assert busy_w(idle_only, "cuda", 1, 200.0) == 200.0
    assert busy_w(Device(price_usd_per_h=1.0, cores=6), "cpu", 1, 52.0) is None


def test_egress_is_bytes_times_calls_times_price() -> None:
    """10 calls/s of 1 MiB are 36000 / 1024 GB per hour."""
    assert egress_usd_per_h(10.0, 2**20, 0.09) == pytest.approx(36000 / 1024 * 0.09)
    assert egress_usd_per_h(10.0, 0.0, 0.09) == 0.0
