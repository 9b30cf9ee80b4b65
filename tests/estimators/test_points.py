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
ACC_SHA256 = hashlib.sha256(b"acc").hexdigest()


@pytest.fixture
def spec(tmp_path: Path) -> Workload:
    (tmp_path / "model.onnx").write_bytes(b"model")
    (tmp_path / "acc.onnx").write_bytes(b"acc")
    document = {
        "apiVersion": "inferplan/v1",
        "name": "w",
        "pipeline": {
            "stages": {
                "s": {
                    "modalities": ["acc", "gyro"],
                    "variants": {
                        "v": {"model": "model.onnx"},
                        "skip": {"runtime": "skip"},
                        "m": {
                            "model": "model.onnx",
                            "modalities": {
                                "reads": ["acc", "gyro"],
                                "optional": ["gyro"],
                                "models": {"acc": "acc.onnx"},
                            },
                        },
                        "basic": {"model": "model.onnx", "options": {"graph_optimization": "basic"}},
                    },
                }
            },
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
    others = {name: key.pop(name) for name in ("origin", "peak_rss_bytes", "source") if name in key}
    others |= {"service": Quantiles(mean_s=mean_s, std_s=key.pop("std_s", 0.001))}
    point = PointKey("s", "v", "", SHA256, "code", "onnxruntime", "1.0", "{}", "cpu", "t/d", "machine", batch, 1, "{}")
    return Measurement(
        dataclasses.replace(point, **key), status, "it crashed" if status != "ok" else "", n=100,
        measured_at=at, **others,
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
    assert points.model_sha256 == {
        ("s", "v"): SHA256,
        ("s", "skip"): "",
        ("s", "m@acc+gyro"): SHA256,
        ("s", "m@acc"): ACC_SHA256,
        ("s", "basic"): SHA256,
    }


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


def test_failed_points_are_named(spec: Workload) -> None:
    points = read(spec, row(1), row(2, status="failed"))
    assert points.models[ModelKey("s", "v", "t/d", "cpu", 1)].batches == (1,)
    assert points.failed == ("s/v on t/d, batch 2, 1 threads: failed: it crashed",)


def test_rows_of_what_the_workload_no_longer_has_are_ignored(spec: Workload) -> None:
    assert read(spec, row(stage="gone"), row(variant="gone"), row(device="t/gone")).models == {}


def test_every_modality_subset_has_points_of_its_own(spec: Workload) -> None:
    both, one = {"variant": "m", "modalities": "acc+gyro"}, {"variant": "m", "modalities": "acc"}
    points = read(spec, row(1, 0.02, **both), row(1, 0.01, model_sha256=ACC_SHA256, **one), row(4, **one))
    assert {key.variant for key in points.models} == {"m@acc+gyro", "m@acc"}
    assert points.models[ModelKey("s", "m@acc", "t/d", "cpu", 1)].mean_s(1) == pytest.approx(0.01)
    assert points.stale == ("s/m@acc: 1 rows of another model file",)
    assert read(spec, row(1, variant="m"), row(1, modalities="acc")).models == {}


def test_rows_measured_with_other_options_or_runtime_are_stale(spec: Workload) -> None:
    basic = '{"graph_optimization": "basic"}'
    points = read(spec, row(1, variant="basic", options=basic), row(2, variant="basic"), row(1, runtime="torch"))
    assert points.models[ModelKey("s", "basic", "t/d", "cpu", 1)].batches == (1,)
    assert points.stale == ("s/basic: 1 rows of another runtime options", "s/v: 1 rows of another runtime")


def test_an_interpolated_row_fills_a_gap_with_the_shape_of_its_nearest_measured_one(spec: Workload) -> None:
    rows = (
        row(1, 0.01, peak_rss_bytes=10, std_s=0.002),
        row(8, 0.08, peak_rss_bytes=80, std_s=0.008),
        row(2, 0.018, origin="interpolated"),
        row(4, 0.05, origin="interpolated"),
        row(8, 0.5, at="2026-02-01", origin="interpolated", input_shape="other"),
        row(2, 0.03, origin="interpolated", threads=2),
    )
    points = read(spec, *rows).models[ModelKey("s", "v", "t/d", "cpu", 1)].points
    assert [point.mean_s for point in points] == [0.01, 0.018, 0.05, 0.08]
    assert [point.shape.batch if point.shape else None for point in points] == [None, 1, 8, None]
    assert points[1].std_s == pytest.approx(0.2 * 0.018)
    assert [point.memory_bytes for point in points] == [10, 80, 80, 80]
    other = read(spec, *rows).models[ModelKey("s", "v", "t/d", "cpu", 2)].points
    assert other[0].shape == rows[0].key


def test_imported_rows_count_only_where_nothing_was_measured(spec: Workload) -> None:
    imported = row(4, 0.03, origin="imported", device_fingerprint="theirs", source="perf_analyzer x.csv")
    both = read(spec, row(1), imported)
    assert both.models[ModelKey("s", "v", "t/d", "cpu", 1)].batches == (1,)
    assert both.superseded == ("s/v on t/d: 1 imported rows, as there are measured ones",)
    alone = read(spec, imported)
    older = row(8, 0.05, origin="imported", device_fingerprint="others", source="loadgen y", at="2000-01-01")
    two = read(spec, imported, older)
    assert two.superseded == ("s/v on t/d: 1 imported rows of another tool or machine",)
    assert {point.batch for model in two.models.values() for point in model.points} == {4}
    assert alone.models[ModelKey("s", "v", "t/d", "cpu", 1)].batches == (4,)
    threads = read(spec, row(1), row(1, threads=2, origin="imported"))
    assert {key.threads for key in threads.models} == {1, 2}


def test_rows_used_though_newer_ones_are_of_another_machine_or_version_are_named(spec: Workload) -> None:
    basic = {"variant": "basic", "options": '{"graph_optimization": "basic"}'}
    newer = read(spec, row(1, at="2026-01-01"), row(1, at="2026-01-02", runtime_version="2.0", **basic))
    assert newer.aged == {("s", "v", "t/d", "cpu"): "s/v on t/d: measured with onnxruntime 1.0, newer rows with 2.0"}
    moved = read(spec, row(1, at="2026-01-01"), row(1, at="2026-01-02", device_fingerprint="new", **basic))
    assert list(moved.aged) == [("s", "v", "t/d", "cpu")]
    assert "another machine" in moved.aged["s", "v", "t/d", "cpu"]
