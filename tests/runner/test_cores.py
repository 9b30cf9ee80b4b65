"""Every replica gets cores of its own, or the plan is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from inferplan.runner import cores
from inferplan.runner.cores import available_cores, place_replicas
from inferplan.spec.errors import InputError
from inferplan.spec.plan import LoadedPlan, Plan

Deploy = Callable[..., LoadedPlan]


def test_replicas_do_not_share_cores(deploy: Deploy) -> None:
    plan = deploy("scale", options={"double": {"replicas": 3, "threads": 2}}).plan
    placing = place_replicas(plan, range(8))
    assert [slot.cores for slot in placing.slots] == [(6, 7), (4, 5), (2, 3)]
    assert {slot.machine for slot in placing.slots} == {"edge/cpu[0]"}
    assert placing.notes == ()


def test_no_core_left_for_the_router_is_noted(deploy: Deploy) -> None:
    placing = place_replicas(deploy("scale", options={"double": {"replicas": 2}}).plan, [3, 5])
    assert [slot.cores for slot in placing.slots] == [(5,), (3,)]
    assert "every core" in placing.notes[0]


def test_too_few_cores_are_refused_unless_sharing_is_asked_for(deploy: Deploy) -> None:
    plan = deploy("scale", options={"double": {"replicas": 3, "threads": 2}}).plan
    with pytest.raises(InputError, match="need 6 cores, this machine has 3"):
        place_replicas(plan, range(3))
    placing = place_replicas(plan, range(3), oversubscribe=True)
    assert [slot.cores for slot in placing.slots] == [(1, 2), (0, 2), (0, 1)]
    assert placing.notes[0].startswith("oversubscribed")


def test_where_cores_are_shared_the_least_busy_share_them() -> None:
    busy = {"detect": 0.2, "orient": 0.05, "read": 0.6}
    options = {name: SimpleNamespace(predicted=SimpleNamespace(utilisation=value)) for name, value in busy.items()}
    wanted = [(name, "edge/cpu[0]", 1) for name in busy]
    slots = cores._spread(cast(Plan, SimpleNamespace(options=options)), wanted, [0, 1])
    assert [(slot.option, slot.cores) for slot in slots] == [("detect", (0,)), ("orient", (0,)), ("read", (1,))]


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
