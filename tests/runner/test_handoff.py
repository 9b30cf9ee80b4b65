"""What serving costs beyond service times: measured at a real replica, kept in the profile, believed by simulations."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from inferplan.estimators.points import ModelKey, read_points
from inferplan.profilers.arriving import Arriving
from inferplan.profilers.store import ProfileStore
from inferplan.runner import handoff
from inferplan.runner.handoff import measure_handoff, stages_to_measure
from inferplan.runner.stalls import STALL_S
from inferplan.runner.trial import Batch, Burst
from inferplan.spec.modelfiles import model_sha256
from inferplan.spec.plan import LoadedPlan
from inferplan.spec.profile import Profile, read_profile
from inferplan.spec.rows import HandoffRow, Measurement, PointKey, Quantiles
from inferplan.spec.workload import Workload

Deploy = Callable[..., LoadedPlan]


def point(workload: Workload, stage: str, batch: int = 1, mean_s: float = 1e-4, machine: str = "f") -> Measurement:
    key = PointKey(
        stage, "only", "", model_sha256(workload, stage, "only"), "", "onnxruntime", "1", "{}", "cpu", "edge/cpu",
        machine, batch, 1, "{}",
    )  # fmt: skip
    return Measurement(key, "ok", n=64, processes=3, service=Quantiles(mean_s=mean_s, std_s=0.0), measured_at=machine)


def profile_of(*rows: Measurement, handoffs: tuple[HandoffRow, ...] = ()) -> Profile:
    return Profile(Path("p"), rows, (), (), "", handoffs=handoffs)


@pytest.mark.parametrize(("kind", "stage", "larger"), [("scale", "double", True), ("graph", "split", False)])
def test_a_stage_is_served_for_a_moment(deploy: Deploy, kind: str, stage: str, larger: bool) -> None:
    workload = deploy(kind).workload.workload
    first = point(workload, stage)
    profile = profile_of(first, *([point(workload, stage, 4)] if larger else []))
    row = measure_handoff(workload, profile, first, Arriving(workload).timed)
    assert (row.status, row.reason) == ("ok", "")
    assert row.n >= (handoff.LEAST - handoff.WARMUP) * (handoff.BURST - handoff.WORKING)
    times = json.loads(row.handoffs_s)
    assert times == sorted(times)
    assert len(times) == min(row.n, handoff.QUANTILES)
    # Two processes cannot pass anything on in less than a microsecond; how long it takes is the machine's affair.
    assert 1e-6 < times[0] <= (row.handoff_mean_s or 0)
    assert (row.entry_s or 0) > 0
    entries = json.loads(row.entries_s)
    assert entries == sorted(entries)
    assert entries[0] <= (row.entry_s or 0) <= entries[-1]
    for stalls in (row.stalls_s, row.replica_stalls_s):
        assert all(stall > STALL_S for stall in json.loads(stalls))
        assert sum(json.loads(stalls)) < row.watched_s + 1.0
    pairs = json.loads(row.wakings_s)
    assert [rest for rest, _ in pairs] == list(handoff.RESTS_S)
    assert pairs == sorted(pairs, key=lambda pair: pair[1])
    ways = json.loads(row.entry_wakings_s)
    assert [rest for rest, _ in ways] == [rest for rest, after in handoff.RESTS_S.items() if after > handoff.SHORT_S]
    assert ways == sorted(ways, key=lambda pair: pair[1])
    assert (row.handoff_call_s is not None) == larger
    assert (row.handoff_call_s or 0.0) >= 0.0
    assert (row.stage, row.variant, row.device, row.device_fingerprint) == (stage, "only", "edge/cpu", "f")


def served(longer_s: dict[float, float], noise_s: float) -> handoff._Served:
    """Inputs whose times differ tenfold; single calls take longer by the length of rests; one stall in ten."""
    rng = np.random.default_rng(0)
    own = rng.uniform(1e-3, 1e-2, 60)

    def batch(own_s: float, more_s: float) -> Batch:
        stall = 0.004 * (rng.random() < 0.1)
        return Batch(1.0, 1.0 + own_s + more_s + stall + abs(rng.normal(0, noise_s)), own_s, 1)

    bursts = [Burst([batch(one, 1e-4) for _ in range(handoff.BURST)]) for one in own]
    singles = {rest: [Burst([batch(one, 1e-4 + longer)]) for one in own] for rest, longer in longer_s.items()}
    return handoff._Served(bursts, singles, [], [])


def test_waking_up_is_told_apart_by_how_long_a_replica_rested() -> None:
    """Nothing after short rests, then 0.2 ms, and 0.5 ms after 20 ms; less after 6 ms than after 2 ms is chance."""
    longer = dict(zip(handoff.RESTS_S.values(), (0.0, 0.0, 2e-4, 1e-4, 5e-4), strict=True))
    found = handoff._wakings(served(longer, 2e-5))
    assert [least for least, _ in found] == list(handoff.RESTS_S)
    assert [time for _, time in found] == pytest.approx([0.0, 0.0, 2e-4, 2e-4, 5e-4], abs=2e-5)
    # What is no more than chance is nothing.
    assert max(time for _, time in handoff._wakings(served(dict.fromkeys(longer, 0.0), 1e-3))) == 0.0


def test_ways_in_and_out_are_longer_after_rests() -> None:
    rng = np.random.default_rng(0)
    usual = 2e-5

    def single(longer: float) -> Burst:
        return Burst([Batch(1.0, 1.001, 9e-4, 1)], 0.001 + usual + longer + abs(rng.normal(0, 1e-6)))

    longer = dict(zip(handoff.RESTS_S.values(), (0.0, 0.0, 4e-6, 2e-6, 9e-5), strict=True))
    singles = {rest: [single(more) for _ in range(60)] for rest, more in longer.items()}
    found = handoff._entry_wakings(dataclasses.replace(served({}, 0.0), singles=singles), usual)
    assert [least for least, _ in found] == list(handoff.RESTS_S)[2:]
    assert [time for _, time in found] == pytest.approx([4.7e-6, 4.7e-6, 9.07e-5], abs=5e-7)


def traffic(handed_s: dict[int, float], count: int, service_s: float = 1e-3) -> list[Batch]:
    """So many batches of each size, half of them sent to a replica at rest, which takes them longer."""
    rng = np.random.default_rng(0)

    def batch(size: int, handed: float, working: bool) -> Batch:
        taken = service_s + handed + (0.0 if working else 1e-3) + rng.normal(0, 1e-7)
        return Batch(1.0, 1.0 + taken, service_s, size, working)

    each = [(size, handed, working) for size, handed in handed_s.items() for working in (True, False)]
    return [batch(*one) for one in each for _ in range(count)]


def test_handing_over_is_what_traffic_took_at_work_with_so_much_for_every_further_call() -> None:
    seen = served({}, 1e-6)
    larger = [Batch(1.0, 1.0 + 1e-3 + 1e-4 + 7 * 9e-6, 1e-3, 8)] * 20
    by_size = {size: 3e-5 + 5e-6 * (size - 1) for size in (1, 2, 4, 8)}
    whole = dataclasses.replace(seen, larger=larger, traffic=traffic(by_size, 20))
    assert whole.further_s == pytest.approx(5e-6, rel=0.02)
    assert len(whole.handing) == 4 * 20
    assert all(one.at_work for one in whole.handing)
    # Sizes that came seldom tell nothing, and with one left there are the bursts.
    one_size = traffic({1: 3e-5}, 20) + traffic({3: 5e-3}, handoff.LEAST - 1)
    assert dataclasses.replace(whole, traffic=one_size).further_s == pytest.approx(9e-6, rel=0.02)
    # So there are for handing over where nothing of the traffic came at work.
    few = dataclasses.replace(whole, traffic=traffic(by_size, 1))
    assert len(few.handing) == 60 * (handoff.BURST - handoff.WORKING)
    assert dataclasses.replace(whole, larger=[]).further_s is None


def test_longer_service_is_told_by_pairs_of_the_same_batches() -> None:
    """Batches that take 1 to 10 ms, each 3 us longer than alone, and 0.1 us of noise; then 3 ms of noise."""
    rng = np.random.default_rng(0)
    alone = rng.uniform(1e-3, 1e-2, 200)
    batches = [Batch(0.0, 1.0, time + 3e-6 + rng.normal(0, 1e-7), 1, True) for time in alone]
    assert handoff._longer(batches, alone) == pytest.approx(3e-6, rel=0.05)
    assert handoff._longer(batches, alone + rng.normal(0, 3e-3, 200)) == 0.0
    assert handoff._longer(batches[:3], alone[:3]) == 0.0


def test_traffic_asks_for_a_share_of_what_the_replica_can_serve() -> None:
    seen = served({}, 0.0)
    by_one = float(np.mean([one.taken_s for batches in seen.at_work for one in batches]))
    assert handoff._traffic(seen) == pytest.approx((handoff.LOAD / by_one, handoff.CALLS * by_one / handoff.LOAD))
    batched = dataclasses.replace(seen, larger=[Batch(0.0, 0.004, 0.003, 8)] * 3)
    assert handoff._traffic(batched) == pytest.approx((handoff.LOAD * 2000, handoff.MOST_S))


def test_what_is_a_stall_is_not_handing_over() -> None:
    """Of equal times the few with a stall in them are cut; of times that differ anyhow the longest tenth."""
    rng = np.random.default_rng(0)
    times = 1e-4 + 1e-5 * rng.random(1000)
    held = times + np.where(np.arange(1000) < 20, 0.004, 0.0)
    cut = handoff._without_stalls(held)
    assert np.array_equal(cut[20:], times[20:])
    assert cut.max() == pytest.approx(float(np.median(held)) + STALL_S)
    long = np.linspace(0.001, 0.011, 1001)
    assert handoff._without_stalls(long).max() == pytest.approx(0.010)


def test_what_cannot_be_served_is_a_row_that_says_why(deploy: Deploy) -> None:
    loaded = deploy("scale")
    workload = loaded.workload.workload
    wanted = point(workload, "double")
    (loaded.path.parent / "double.onnx").write_bytes(b"no model")
    row = measure_handoff(workload, profile_of(wanted), wanted, Arriving(workload).timed)
    assert row.status == "failed"
    assert "onnxruntime cannot load it" in row.reason


def test_the_fastest_point_of_every_stage_stands_for_it_until_it_is_known(deploy: Deploy) -> None:
    workload = deploy("graph").workload.workload
    slow, fast = point(workload, "split", mean_s=0.2), point(workload, "split", mean_s=0.1, batch=1)
    fast = dataclasses.replace(fast, key=dataclasses.replace(fast.key, threads=1, input_shape='{"x": [1]}'))
    other = point(workload, "twice")
    found = stages_to_measure(workload, profile_of(slow, fast, point(workload, "split", 4, 0.01), other), "edge/cpu")
    assert found == {"split": fast, "twice": other}
    known = HandoffRow("split", "only", "", "edge/cpu", "f", watched_s=1.0, entry_wakings_s="[]")
    old = dataclasses.replace(known, entry_wakings_s="")
    assert set(stages_to_measure(workload, profile_of(slow, other, handoffs=(old,)), "edge/cpu")) == {"split", "twice"}
    failed = dataclasses.replace(old, status="failed")
    assert set(stages_to_measure(workload, profile_of(slow, other, handoffs=(failed,)), "edge/cpu")) == {"twice"}
    assert set(stages_to_measure(workload, profile_of(slow, other, handoffs=(known,)), "edge/cpu")) == {"twice"}
    moved = point(workload, "split", machine="g")
    assert stages_to_measure(workload, profile_of(slow, moved, handoffs=(known,)), "edge/cpu") == {"split": moved}
    assert stages_to_measure(workload, profile_of(slow), "edge/other") == {}


def test_it_is_kept_and_believed_on_the_machine_it_was_measured_on(deploy: Deploy, tmp_path: Path) -> None:
    workload = deploy("scale").workload.workload
    row = HandoffRow(
        "double", "only", "", "edge/cpu", "f", 3, 2e-4, "[1e-4, 2e-4, 3e-4]", 5e-5, "[4e-5, 6e-5]",
        handoff_call_s=1e-5, wakings_s="[[1e-3, 2e-5]]", entry_wakings_s="[[2e-3, 3e-5]]", measured_at="now",
    )  # fmt: skip
    with ProfileStore(tmp_path / "p", "scale") as store:
        store.add_measurement(point(workload, "double"), None)
        store.add_handoff(row)
    profile = read_profile(tmp_path / "p")
    assert profile.handoffs == (row,)
    key = ModelKey("double", "only", "edge/cpu", "cpu", 1)
    model = read_points(workload, profile).models[key]
    assert model.mean_s(1) == pytest.approx(3e-4)
    assert model.handed_s(3) == pytest.approx(2.2e-4)
    assert model.entry == (4e-5, 6e-5)
    assert model.wakings == ((1e-3, 2e-5),)
    assert model.entry_wakings == ((2e-3, 3e-5),)
    elsewhere = profile_of(point(workload, "double"), handoffs=(dataclasses.replace(row, device_fingerprint="g"),))
    failed = profile_of(point(workload, "double"), handoffs=(dataclasses.replace(row, status="failed"),))
    for other in (elsewhere, failed):
        assert read_points(workload, other).models[key].mean_s(1) == pytest.approx(1e-4)
