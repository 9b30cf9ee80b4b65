"""Which GPU a replica runs on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from inferplan.spec.gpus import gpus_of_replicas
from inferplan.spec.plan import Placement
from inferplan.spec.workload import Device


@pytest.mark.parametrize(
    ("fields", "expected"),
    [({"gpus": 4}, [0, 1, None, None, 2]), ({"gpus": 3}, [0, 1, None, None, 2]), ({}, [0, 0, None, None, 0])],
)
def test_each_has_the_next_one_and_all_share_a_single_one(fields: dict[str, Any], expected: list[int | None]) -> None:
    device = Device(kind="gpu", price_usd_per_h=1.0, cores=8, **fields)
    providers = {"fast": "cuda", "plain": "cpu", "faster": "tensorrt"}
    options = cast(Any, {name: SimpleNamespace(provider=provider) for name, provider in providers.items()})
    counts = {"fast": 2, "plain": 2, "faster": 1}
    placements = [Placement(option=name, replicas=count) for name, count in counts.items()]
    found = gpus_of_replicas(placements, options, device)
    assert [name for name, _ in found] == ["fast", "fast", "plain", "plain", "faster"]
    assert [gpu for _, gpu in found] == expected
