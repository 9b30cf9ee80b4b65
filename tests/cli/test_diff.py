"""`inferplan diff`: what changes between two plans, as text and as JSON."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from inferplan.cli import main as cli
from inferplan.spec.document import load_workload
from inferplan.spec.plan import Plan, write_plan

MODEL = b"model"


@pytest.fixture
def plans(tmp_path: Path) -> tuple[Path, Path]:
    """One replica on one machine, and three on two."""
    (tmp_path / "m.onnx").write_bytes(MODEL)
    workload = tmp_path / "workload.yaml"
    workload.write_text(
        "apiVersion: inferplan/v1\nname: w\npipeline: {stages: {s: {variants: {m: {model: m.onnx}}}}}\n"
        "tiers: {edge: {devices: {cpu: {price_usd_per_h: 3.6, cores: 2, start_s: 60.0}}}}\n"
        "classes: {c: {rate_rps: 1}}\n"
    )
    sha256 = load_workload(workload).sha256
    paths = []
    for name, packing in (("before", [1]), ("after", [2, 1])):
        plan = Plan.model_validate(document(sha256, packing))
        paths.append(tmp_path / f"{name}.yaml")
        write_plan(plan, paths[-1])
    return paths[0], paths[1]


def document(sha256: str, packing: list[int]) -> dict[str, Any]:
    replicas = sum(packing)
    latency = {name: {"value": 0.01} for name in ("latency_mean_s", "latency_p50_s", "latency_p90_s", "latency_p99_s")}
    predicted = {
        "load_rps": 2.0, "capacity_rps": 1.5 * replicas, "utilisation": 0.1, "batch_mean": 1.0,
        "latency_mean_s": 0.01, "latency_tail_s": 0.02,
    }  # fmt: skip
    option = {
        "stage": "s", "variant": "m", "runtime": "onnxruntime", "provider": "cpu", "device": "edge/cpu",
        "model_sha256": hashlib.sha256(MODEL).hexdigest(), "threads": 1, "max_batch": 1, "max_queue_delay_s": 0.0,
        "replicas": replicas, "load_s": 10.0, "predicted": predicted,
    }  # fmt: skip
    return {
        "name": "w",
        "workload": {"path": "workload.yaml", "sha256": sha256},
        "profile": {"sha256": sha256, "fingerprints": []},
        "objective": "minimize cost",
        "cost_usd_per_h": 3.6 * len(packing),
        "proof": {"solver": "HiGHS", "status": "optimal", "objective": 1.0, "bound": 1.0, "gap": 0.0},
        "classes": {
            "c": {
                "rate_rps": 1.0,
                "routes": {"s": [{"option": "s-m", "share": 1.0}]},
                "predicted": {**latency, "throughput_rps": 1.0},
            }
        },
        "options": {"s-m": option},
        "machines": {
            "edge/cpu": {
                "count": len(packing),
                "price_usd_per_h": 3.6,
                "packing": [[{"option": "s-m", "replicas": count}] for count in packing],
            }
        },
    }


def test_what_changes_is_told_for_people(plans: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run_command(["diff", str(plans[0]), str(plans[1])]) == 0
    out = capsys.readouterr().out
    assert "3.6 USD/h to 7.2 USD/h" in out
    assert "2 replicas start, 0 stop, in 70.0 s" in out
    assert "Calls beyond what stays can carry: 35 of s" in out
    assert "new" in out


def test_and_for_programs(plans: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run_command(["diff", str(plans[1]), str(plans[0]), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["starts"], data["stops"], data["seconds"]) == (0, 2, 0.0)
    assert [(m["before"], m["after"]) for m in data["machines"] if m["after"] is None] == [(0, None)]


def test_no_change_is_said(plans: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run_command(["diff", str(plans[0]), str(plans[0])]) == 0
    assert "Nothing changes on any machine." in capsys.readouterr().out


def test_a_plan_of_another_workload_is_refused(plans: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    data = yaml.safe_load(plans[1].read_text())
    data["workload"]["sha256"] = "0" * 64
    plans[1].write_text(yaml.safe_dump(data))
    assert cli.run_command(["diff", str(plans[0]), str(plans[1])]) == 2
    assert "solve again" in capsys.readouterr().err
