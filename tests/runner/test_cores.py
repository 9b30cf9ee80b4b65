"""Every replica gets cores of its own, or the plan is refused."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from inferplan.runner import cores
from inferplan.runner.cores import available_cores, kept_to, place_replicas
from inferplan.runner.replica import Replica, ReplicaName
from inferplan.runner.worker import Assignment
from inferplan.spec.errors import InputError
from inferplan.spec.plan import LoadedPlan, Plan

Deploy = Callable[..., LoadedPlan]


def test_replicas_do_not_share_cores(deploy: Deploy) -> None:
    plan = deploy("scale", options={"double": {"replicas": 3, "threads": 2}})
    placing = place_replicas(plan, range(8))
    assert [slot.cores for slot in placing.slots] == [(6, 7), (4, 5), (2, 3)]
    assert {slot.machine for slot in placing.slots} == {"edge/cpu[0]"}
    assert placing.notes == ()
    assert placing.free == (0, 1)
    assert placing.apart


def test_no_core_left_for_the_router_is_noted(deploy: Deploy) -> None:
    placing = place_replicas(deploy("scale", options={"double": {"replicas": 2}}), [3, 5])
    assert [slot.cores for slot in placing.slots] == [(5,), (3,)]
    assert "every core" in placing.notes[0]
    assert placing.free == ()
    assert not placing.apart  # nobody may poll then: it would take time from somebody


def test_too_few_cores_are_refused_unless_sharing_is_asked_for(deploy: Deploy) -> None:
    plan = deploy("scale", options={"double": {"replicas": 3, "threads": 2}})
    with pytest.raises(InputError, match="need 6 cores, this machine has 3"):
        place_replicas(plan, range(3))
    placing = place_replicas(plan, range(3), oversubscribe=True)
    assert [slot.cores for slot in placing.slots] == [(1, 2), (0, 2), (0, 1)]
    assert placing.notes[0].startswith("oversubscribed")


def test_where_cores_are_shared_the_least_busy_share_them() -> None:
    busy = {"detect": 0.2, "orient": 0.05, "read": 0.6}
    options = {name: SimpleNamespace(predicted=SimpleNamespace(utilisation=value)) for name, value in busy.items()}
    wanted = [cores.Wanted(name, "edge/cpu[0]", 1) for name in busy]
    slots = cores._spread(cast(Plan, SimpleNamespace(options=options)), wanted, [0, 1])
    assert [(slot.option, slot.cores) for slot in slots] == [("detect", (0,)), ("orient", (0,)), ("read", (1,))]


def test_replicas_on_machines_with_several_gpus_are_shown_their_own(
    deploy: Deploy, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = deploy("scale", options={"double": {"replicas": 3, "provider": "cuda"}})
    assert [slot.gpu for slot in place_replicas(loaded, range(8)).slots] == [None] * 3
    tier = loaded.workload.workload.tiers["edge"]
    gpus = tier.devices["cpu"].model_copy(update={"kind": "gpu", "gpus": 4})
    tiers = {"edge": tier.model_copy(update={"devices": {"cpu": gpus}})}
    workload = replace(loaded.workload, workload=loaded.workload.workload.model_copy(update={"tiers": tiers}))
    slots = place_replicas(replace(loaded, workload=workload), range(8)).slots
    assert [slot.gpu for slot in slots] == [0, 1, 2]

    def shown(gpu: int | None) -> dict[str, str]:
        assignment = cast(Assignment, SimpleNamespace(parents=(), gpu=gpu))
        return Replica(ReplicaName("double", 0), assignment, lambda *_: None, lambda *_: None)._shown_gpu()

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [shown(None), shown(2)] == [{}, {"CUDA_VISIBLE_DEVICES": "2"}]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, GPU-7f")
    assert shown(1) == {"CUDA_VISIBLE_DEVICES": "GPU-7f"}
    with pytest.raises(InputError, match="planned for GPU 2 of its machine, and 2 are shown here"):
        shown(2)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="threads cannot be pinned here")
def test_a_thread_is_kept_to_cores_for_as_long_as_asked() -> None:
    before = os.sched_getaffinity(0)
    one = min(before)
    with pytest.raises(KeyError), kept_to([one]):
        assert os.sched_getaffinity(0) == {one}
        raise KeyError
    assert os.sched_getaffinity(0) == before
    with kept_to([]):
        assert os.sched_getaffinity(0) == before


def test_a_container_quota_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = available_cores()
    quota = tmp_path / "cpu.max"
    monkeypatch.setattr(cores, "CGROUP_QUOTA", quota)
    for text, expected in (
        ("max 100000", len(everything)),
        ("150000 100000", 1),
        ("20000 100000", 1),
        ("?", len(everything)),
    ):
        quota.write_text(text)
        assert available_cores() == everything[:expected]
