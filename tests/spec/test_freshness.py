"""What is stale is told by hashes, for each kind of row."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import pytest

from inferplan.spec.freshness import Freshness
from inferplan.spec.rows import AccuracyRow, FlowRow, InterferenceRow, Measurement, PointKey, Quantiles
from inferplan.spec.workload import Workload


@pytest.fixture
def workload(tmp_path: Path) -> Workload:
    (tmp_path / "a.onnx").write_bytes(b"model")
    return Workload.model_validate(
        {
            "apiVersion": "inferplan/v1",
            "name": "w",
            "pipeline": {"stages": {"read": {"variants": {"small": {"model": "a.onnx"}, "lost": {"model": "b.onnx"}}}}},
            "tiers": {"edge": {"devices": {"box": {"price_usd_per_h": 0.1, "cores": 2}}}},
            "classes": {"web": {"rate_rps": 1.0}},
        }
    ).at(tmp_path)


KEY = PointKey(
    "read", "small", "", hashlib.sha256(b"model").hexdigest(), "", "onnxruntime", "1", "{}", "cpu", "edge/box", "ff",
    1, 1, "{}",
)  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, ""),
        ({"device_fingerprint": "another"}, ""),
        ({"model_sha256": "0"}, "another model file"),
        ({"code_sha256": "0"}, "other stage code"),
        ({"code_sha256": "0", "device_fingerprint": "imported:csv"}, ""),
        ({"options": '{"compile": true}'}, "other runtime options"),
        ({"variant": "gone"}, "no such choice"),
        ({"modalities": "image"}, "no such choice"),
        ({"stage": "gone"}, "no such choice"),
        ({"device": "edge/gone"}, "no such device"),
        ({"variant": "lost"}, ""),
    ],
)
def test_points(workload: Workload, changes: dict[str, str], reason: str) -> None:
    key = dataclasses.replace(KEY, **changes)  # type: ignore[arg-type]
    judge = Freshness(workload)
    assert judge.stale(Measurement(key, "ok", n=1, service=Quantiles(mean_s=1.0))) == reason
    assert judge.stale(InterferenceRow(key, "[]", "x")) == reason
    assert [text.partition(":")[0] for text in judge.missing()] == ["read=lost"]


def test_evaluations_are_stale_where_what_they_are_of_is_gone(workload: Workload) -> None:
    judge = Freshness(workload)

    def accuracy(scope: str, stage: str, variant: str, combination: dict[str, str]) -> AccuracyRow:
        text = json.dumps(combination)
        return AccuracyRow(scope, stage, variant, text, "", "m", 1.0, 1.0, 1.0, 1, "wilson", "e")  # type: ignore[arg-type]

    assert judge.stale(accuracy("stage", "read", "small", {})) == ""
    assert judge.stale(accuracy("stage", "read", "gone", {})) == "no such choice"
    assert judge.stale(accuracy("pipeline", "", "", {"read": "small"})) == ""
    assert judge.stale(accuracy("pipeline", "", "", {"read": "gone"})) == "no such combination"
    assert judge.stale(accuracy("pipeline", "", "", {"read": "small", "more": "x"})) == "no such combination"
    assert judge.stale(FlowRow("read", "next", "small", "", 1.0, "[1]", None, 1, "e")) == ""
    assert judge.stale(FlowRow("read", "next", "gone", "", 1.0, "[1]", None, 1, "e")) == "no such choice"
