"""`inferplan explain` on a workload, profile and plan on disk."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from inferplan.cli.main import run_command
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
def workload(tmp_path_factory: pytest.TempPathFactory) -> Path:
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


def test_a_plan_is_explained_in_tables_and_in_json(
    workload: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = tmp_path / "plan.yaml"
    assert run_command(["solve", str(workload), "-o", str(plan)]) == 0
    capsys.readouterr()
    assert run_command(["explain", str(plan)]) == 0
    text = capsys.readouterr().out
    for title in ("What it has to keep", "What another promise would be worth", "What else could serve find"):
        assert title in text
    assert "classes.web.accuracy.floor" in text
    assert run_command(["explain", str(plan), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["status"] == "ok"
    assert data["left_out"] == []
    assert {rival["class"] for rival in data["rivals"]} == {"web"}
    (floor,) = [s for s in data["steps"] if s["promise"] == "classes.web.accuracy.floor" and s["way"] == "tighter"]
    assert floor["value"] == pytest.approx(0.72) or floor["value"] == pytest.approx(0.81)


def test_time_that_is_too_short_is_said_and_no_plan_is_refused(
    workload: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = tmp_path / "plan.yaml"
    assert run_command(["solve", str(workload), "-o", str(plan)]) == 0
    capsys.readouterr()
    assert run_command(["explain", str(plan), "--time-limit", "1ms"]) == 4
    assert "out of time" in capsys.readouterr().out
    assert run_command(["explain", str(tmp_path / "none.yaml")]) == 2
    assert run_command(["explain", str(plan), "--time-limit", "5"]) == 2
