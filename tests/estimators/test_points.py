"""Which rows count: fresh, of one state, and those left out are named."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import pytest

from inferplan.estimators.points import ModelKey, Points, read_points
from inferplan.spec.profile import Profile
from inferplan.spec.rows import Measurement, PointKey, Quantiles
from inferplan.spec.workload import Workload

SHA256 = hashlib.sha256(b"model").hexdigest()


@pytest.fixture
def spec(tmp_path: Path) -> Workload:
    (tmp_path / "model.onnx").write_bytes(b"model")
    document = {
        "apiVersion": "inferplan/v1",
        "name": "w",
        "pipeline": {
            "stages": {"s": {"variants": {"v": {"model": "model.onnx"}, "skip": {"runtime": "skip"}}}},
        },
        "tiers": {
            "t": {
                "devices": {
                    "d": {"price_usd_per_h": 1.0, "cores": 1},
                    "slow": {"price_usd_per_h": 0.5, "cores": 1, "like": {"device": "t/d", "slowdown": 2.0}},
                }
            }
        },
        "classes": {"c": {"rate_rps": 1.0}},
    }
    return Workload.model_validate(document).at(tmp_path)


def row(batch: int = 1, mean_s: float = 0.01, at: str = "2026-01-01", **key: Any) -> Measurement:
    status = key.pop("status", "ok")
    point = PointKey("s", "v", "", SHA256, "code", "onnxruntime", "1.0", "{}", "cpu", "t/d", "machine", batch, 1, "{}")
    return Measurement(
        dataclasses.replace(point, **key), status, "it crashed" if status != "ok" else "", n=100,
        service=Quantiles(mean_s=mean_s, std_s=0.001), measured_at=at,
    )  # fmt: skip


def read(spec: Workload, *rows: Measurement) -> Points:
    return read_points(spec, Profile(spec.root, rows, (), (), ""), lambda key: None)


def test_rows_become_models_also_of_devices_like_theirs(spec: Workload) -> None:
    points = read(spec, row(1, 0.01), row(4, 0.03), row(1, 0.008, threads=2))
    assert set(points.models) == {
        ModelKey("s", "v", device, "cpu", threads) for device in ("t/d", "t/slow") for threads in (1, 2)
    }
    assert points.models[ModelKey("s", "v", "t/d", "cpu", 1)].batches == (1, 4)
    assert points.models[ModelKey("s", "v", "t/slow", "cpu", 1)].mean_s(4) == pytest.approx(0.06)
    assert points.model_sha256 == {("s", "v"): SHA256, ("s", "skip"): ""}


def test_rows_of_another_model_file_are_stale_and_named(spec: Workload) -> None:
    points = read(spec, row(1), row(2, model_sha256="0" * 64))
    assert points.models[ModelKey("s", "v", "t/d", "cpu", 1)].batches == (1,)
    assert points.stale == ("s/v: 1 rows of another model file",)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"device_fingerprint": "other"}, "machine"),
        ({"runtime_version": "0.9"}, "runtime version"),
        ({"code_sha256": "old"}, "stage code"),
    ],
)
def test_only_the_newest_state_counts(spec: Workload, change: dict[str, str], what: str) -> None:
    points = read(spec, row(1, at="2026-01-02"), row(2, at="2026-01-01", **change))
    assert points.models[ModelKey("s", "v", "t/d", "cpu", 1)].batches == (1,)
    assert points.superseded == (f"s/v on t/d: 1 rows of another {what}",)


def test_failed_points_are_named_and_side_by_side_instances_are_not_mixed_in(spec: Workload) -> None:
    points = read(spec, row(1), row(2, status="failed"), row(4, instances=2))
    assert points.models[ModelKey("s", "v", "t/d", "cpu", 1)].batches == (1,)
    assert points.failed == ("s/v on t/d, batch 2, 1 threads: failed: it crashed",)


def test_rows_of_what_the_workload_no_longer_has_are_ignored(spec: Workload) -> None:
    assert read(spec, row(stage="gone"), row(variant="gone"), row(device="t/gone")).models == {}
