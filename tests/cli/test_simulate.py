"""`inferplan simulate`: a solved plan under its traffic, other traffic and failures."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from inferplan.cli.main import run_command
from inferplan.profilers.store import ProfileStore
from inferplan.spec.plan import read_plan
from inferplan.spec.rows import Measurement, PointKey, Quantiles

MODEL = b"model"
TIMES = {("find", "v", 1): 0.010, ("find", "v", 4): 0.024, ("read", "v", 1): 0.006, ("read", "v", 4): 0.014}


def measurement(stage: str, variant: str, batch: int, mean_s: float) -> Measurement:
    sha256 = hashlib.sha256(MODEL).hexdigest()
    key = PointKey(stage, variant, "", sha256, "", "onnxruntime", "1.0", "{}", "cpu", "edge/cpu", "f", batch, 1, "{}")
    quantiles = Quantiles(mean_s=mean_s, std_s=0.1 * mean_s)
    return Measurement(
        key, "ok", "", n=1000, service=quantiles, peak_rss_bytes=10**8, load_s=0.5, measured_at="2026-01-01T00:00:00Z"
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a workload whose one class is a trace, its profile, and a plan."""
    folder = tmp_path_factory.mktemp("simulate")
    (folder / "model.onnx").write_bytes(MODEL)
    times = np.cumsum(np.random.default_rng(0).exponential(1 / 40, 2400))
    (folder / "trace.csv").write_text("time_s\n" + "\n".join(f"{t:.6f}" for t in times))
    document = {
        "apiVersion": "inferplan/v1",
        "name": "small",
        "pipeline": {
            "stages": {s: {"variants": {"v": {"model": "model.onnx"}}} for s in ("find", "read")},
            "edges": [{"from": "find", "to": "read", "fan_out": 2.0}],
        },
        "tiers": {"edge": {"devices": {"cpu": {"price_usd_per_h": 0.1, "cores": 2}}}},
        "classes": {"web": {"trace": "trace.csv", "slo": {"latency_s": 0.15}}},
    }
    (folder / "workload.yaml").write_text(yaml.safe_dump(document))
    with ProfileStore(folder / "small.profile", "small") as store:
        for (stage, variant, batch), mean_s in TIMES.items():
            store.add_measurement(measurement(stage, variant, batch, mean_s), None)
    assert run_command(["solve", str(folder), "-o", str(folder / "plan.yaml")]) == 0
    return folder


def simulated(place: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    """Exit code and JSON of `inferplan simulate`."""
    capsys.readouterr()
    code = run_command(["simulate", str(place / "plan.yaml"), "--json", *arguments])
    return code, json.loads(capsys.readouterr().out)


def option(place: Path, stage: str) -> str:
    plan = read_plan(place / "plan.yaml")
    return next(name for name, found in plan.options.items() if found.stage == stage)


def test_a_plan_keeps_what_it_was_certified_for(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, data = simulated(place, capsys)
    assert (code, data["verdict"]) == (0, "met")
    web = data["classes"]["web"]
    assert web["rate_rps"] == pytest.approx(40, rel=0.05)
    assert web["late"]["upper"] <= 0.01
    ways = sum(sum(stage["path"].values()) for stage in web["stages"].values()) + web["way_back_s"]
    assert ways == pytest.approx(web["latency_mean_s"]["value"], rel=1e-6)
    assert set(data["options"]) == {option(place, "find"), option(place, "read")}
    # The same seed gives the same bytes.
    assert simulated(place, capsys) == (code, data)


def test_tables_for_people(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert run_command(["simulate", str(place / "plan.yaml")]) == 0
    text = capsys.readouterr().out
    assert "Simulation of small: met" in text
    for heading in ("What each class gets", "Where the time of a request goes", "What each option does"):
        assert heading in text
    assert "p99 <= 150 ms" in text


def test_more_than_capacity_is_unstable_at_once(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, data = simulated(place, capsys, "--rate-scale", "50")
    assert (code, data["verdict"], data["classes"]) == (4, "unstable", {})
    assert any(option(place, "find") in line and "its capacity is" in line for line in data["unstable"])
    capsys.readouterr()
    assert run_command(["simulate", str(place / "plan.yaml"), "--rate-scale", "50"]) == 4
    assert "Simulation of small: unstable" in capsys.readouterr().out


def test_a_failure_loses_requests_and_another_replica_helps(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = option(place, "find")
    code, failed = simulated(place, capsys, "--fail", f"{name}#0@10s+load", "--duration", "40s")
    assert code == 4
    assert failed["options"][name]["lost"] >= 1
    assert failed["classes"]["web"]["unanswered"] >= 1
    _, helped = simulated(place, capsys, "--fail", f"{name}#0@10s+load", "--start", f"{name}@5s", "--duration", "40s")
    late = [data["classes"]["web"]["late"]["value"] for data in (failed, helped)]
    assert late[1] < late[0]


def test_another_trace(place: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    trace = tmp_path / "quiet.csv"
    trace.write_text("interval_s,count\n30,150\n30,0\n30,150\n")
    for given in (str(trace), f"web={trace}"):
        code, data = simulated(place, capsys, "--trace", given)
        assert code == 0
        assert data["classes"]["web"]["rate_rps"] == pytest.approx(300 / 90)
        assert data["counted_s"] % 90 == pytest.approx(0)
        assert "the trace of web is silent for 30.0 s, 30.0 s after it begins" in data["notes"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--fail", "read"], "expected OPTION#I@T"),
        (["--fail", "none#0@3s"], "there is no option 'none' with replicas; there are: "),
        (["--fail", "FIND#9@3s"], "there is no #9"),
        (["--fail", "FIND#0@3"], "expected a duration with its unit"),
        (["--start", "FIND"], "expected OPTION@T"),
        (["--trace", "other=x.csv"], "trace x.csv: No such file"),
        (["--rate-scale", "0"], "expected a number above 0"),
        (["--duration", "5"], "expected a duration with its unit"),
    ],
)
def test_wrong_usage_is_said(
    place: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    given = [text.replace("FIND", option(place, "find")) for text in arguments]
    assert run_command(["simulate", str(place / "plan.yaml"), *given]) == 2
    assert message in capsys.readouterr().err


def test_a_trace_that_changed_is_another_plan(place: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for file in ("workload.yaml", "plan.yaml", "model.onnx"):
        (tmp_path / file).write_bytes((place / file).read_bytes())
    (tmp_path / "trace.csv").write_text("time_s\n1\n2\n")
    assert run_command(["simulate", str(tmp_path / "plan.yaml")]) == 2
    assert "the trace of class web has changed since planning: solve again" in capsys.readouterr().err
