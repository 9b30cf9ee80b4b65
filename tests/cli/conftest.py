"""A workload of two stages with its profile on disk."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from inferplan.profilers.store import ProfileStore
from inferplan.spec.rows import AccuracyRow, Measurement, PointKey, Quantiles

WORKLOAD = """
apiVersion: inferplan/v1
name: w
pipeline:
  stages:
    find: {metric: {name: top1}, variants: {s: {model: a.onnx}, l: {model: a.onnx}}}
    read: {metric: {name: top1}, variants: {s: {model: a.onnx}, l: {model: a.onnx}}}
  edges: [{from: find, to: read}]
tiers: {edge: {devices: {box: {price_usd_per_h: 0.1, cores: 1}}}}
classes: {web: {rate_rps: 20, slo: {latency_s: 0.3}, accuracy: {floor: 0.7}}}
accuracy: {metric: {name: top1}, composition: product}
"""
ACCURACIES = {"s": 0.8, "l": 0.9}
TIMES = {"s": 0.01, "l": 0.06}


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its workload.yaml."""
    folder = tmp_path_factory.mktemp("w")
    (folder / "a.onnx").write_bytes(b"model")
    (folder / "workload.yaml").write_text(WORKLOAD)
    model = hashlib.sha256(b"model").hexdigest()
    rows, scores = [], []
    for stage in ("find", "read"):
        for variant, value in ACCURACIES.items():
            scores.append(AccuracyRow("stage", stage, variant, "{}", "", "top1", value, None, None, 100, "wilson", ""))
            for batch in (1, 4):
                key = PointKey(
                    stage, variant, "", model, "", "onnxruntime", "1", "{}", "cpu", "edge/box", "f", batch, 1, "{}"
                )
                mean = TIMES[variant] * (0.4 + 0.6 * batch)
                service = Quantiles(mean_s=mean, std_s=0.05 * mean)
                rows.append(Measurement(key, "ok", n=99, service=service, measured_at="2026-01-01T00:00:00Z"))
    with ProfileStore(folder / "w.profile", "w") as store:
        store.put_rows("measurements", rows, [])
        store.put_rows("accuracy", scores, [])
    return folder / "workload.yaml"
