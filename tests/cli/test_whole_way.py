"""The whole way on real models through the command itself: profile, plan, export, lint, run, serve."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
COMMAND = str(Path(sys.executable).with_name("inferplan"))
VARIANTS = ("linear", "mlp-128", "cnn-s", "resnet-s-int8")

pytestmark = pytest.mark.slow


def inferplan(*arguments: object, cwd: Path, code: int = 0) -> str:
    """Run the command; check its exit code; return stdout."""
    line = [COMMAND, *map(str, arguments)]
    done = subprocess.run(line, cwd=cwd, capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == code, f"{line}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a smaller digits workload, its profile, and a plan."""
    root = tmp_path_factory.mktemp("way")
    shutil.copytree(ROOT / "sample_workloads" / "digits", root / "digits", ignore=shutil.ignore_patterns("*.profile"))
    text = (root / "digits" / "workload.yaml").read_text()
    lines = [
        line for line in text.splitlines() if "model: models/" not in line or line.split(":")[0].strip() in VARIANTS
    ]
    short = "\n".join(lines).replace("parent: resnet-s, ", "").replace("[1, 2, 4, 8]", "[1, 8]")
    (root / "digits" / "workload.yaml").write_text(short.replace("min_time_s: 0.5", "min_time_s: 0.1"))
    inferplan("profile", "digits", cwd=root)
    inferplan("solve", "digits", "-o", "plan.yaml", cwd=root)
    return root


def test_a_second_profile_measures_nothing(place: Path) -> None:
    data = json.loads(inferplan("profile", "digits", "--json", cwd=place))
    assert (data["status"], data["measured"], data["evaluated"]) == ("ok", 0, 0)
    assert data["resumed"] == len(VARIANTS) * 3
    assert "0 to do" in inferplan("profile", "digits", "--dry-run", cwd=place)


def test_solving_again_gives_the_same_bytes(place: Path) -> None:
    inferplan("solve", "digits", "-o", "again.yaml", cwd=place)
    assert (place / "again.yaml").read_bytes() == (place / "plan.yaml").read_bytes()


def test_the_plan_says_what_it_promises(place: Path) -> None:
    data = json.loads(inferplan("solve", "digits", "--json", cwd=place))
    assert data["status"] == "optimal"
    assert data["certified"] is True
    assert data["cost_usd_per_h"] == pytest.approx(0.085)
    (option,) = data["plan"]["options"].values()
    assert option["variant"] in ("cnn-s", "resnet-s-int8"), "the others miss the accuracy floor"


def test_people_read_the_plan_and_the_run(place: Path) -> None:
    text = inferplan("solve", "digits", cwd=place)
    for line in ("Plan digits: 0.085 USD/h, minimize cost", "Proof: optimal", "Certificate: met", "What runs"):
        assert line in text
    assert "p99 <= 50.0 ms" in text
    line = [COMMAND, "run", "plan.yaml", "--duration", "2s"]
    done = subprocess.run(line, cwd=place, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode in (0, 4), "two seconds may be too few requests to tell"
    for row in ("throughput", "latency p50", "latency p99  <= 50.0 ms", "top1"):
        assert row in done.stdout
    assert "\033[" not in text + done.stdout, "no colour when piped"


def test_overrides_change_the_plan(place: Path) -> None:
    floor = ("--set", "classes.web.accuracy.floor=0.985")
    data = json.loads(inferplan("solve", "digits", "--json", *floor, cwd=place))
    (option,) = data["plan"]["options"].values()
    assert option["variant"] == "resnet-s-int8"
    assert data["plan"]["workload"]["overrides"] == [floor[1]]


def test_what_nothing_can_meet_is_infeasible_and_explained(place: Path) -> None:
    line = [COMMAND, "solve", "digits", "--set", "classes.web.slo.latency_s=0.000001"]
    done = subprocess.run(line, cwd=place, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 3
    assert "classes.web.slo (99 % within 1 µs) cannot be kept" in done.stderr
    assert "would help: classes.web.slo" in done.stderr, "the smallest relaxation is named"


def test_exports_are_written_and_pass_the_linter(place: Path) -> None:
    for target in ("triton", "compose"):
        data = json.loads(inferplan("export", target, "plan.yaml", "-o", target, "--json", cwd=place))
        assert data["files"]
        assert all((place / target / file).is_file() for file in data["files"])
    assert "0 errors" in inferplan("lint", "triton", cwd=place)
    config = next((place / "triton").glob("read-*/config.pbtxt"))
    broken = place / "broken"
    shutil.copytree(place / "triton", broken)
    file = broken / config.relative_to(place / "triton")
    file.write_text(file.read_text().replace("TYPE_UINT8", "TYPE_FP32"))
    assert "TYPE_FP32" in inferplan("lint", "broken", cwd=place, code=5)


def test_the_plan_runs_as_predicted(place: Path) -> None:
    line = [COMMAND, "run", "plan.yaml", "--duration", "6s", "--json"]
    done = subprocess.run(line, cwd=place, capture_output=True, text=True, timeout=60, check=False)
    data: dict[str, Any] = json.loads(done.stdout)
    web = data["classes"]["web"]
    # On a machine busy with other things six seconds may not tell; the promise has room enough not to be missed.
    assert data["verdict"] in ("met", "undecided"), web["reasons"]
    assert done.returncode == {"met": 0, "undecided": 4}[data["verdict"]]
    assert web["failed"] == web["unfinished"] == 0
    assert web["throughput_rps"]["measured"]["value"] == pytest.approx(200, rel=0.15)
    accuracy = web["accuracy"]
    assert accuracy["n"] > 500
    assert accuracy["compared"]["measured"]["value"] == pytest.approx(accuracy["compared"]["predicted"], abs=0.03)


def test_the_plan_is_served_to_a_real_client(place: Path) -> None:
    http = pytest.importorskip("tritonclient.http")
    line = [COMMAND, "serve", "plan.yaml", "--port", "0", "--json"]
    server = subprocess.Popen(line, cwd=place, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        head = "".join(iter(server.stdout.readline, "}\n")) + "}"
        url = json.loads(head)["url"].removeprefix("http://")
        data = np.load(ROOT / "sample_workloads" / "digits" / "data" / "test.npz", allow_pickle=False)
        images, labels = data["images"][:64], data["labels"][:64]
        client = http.InferenceServerClient(url)
        assert client.is_model_ready("digits")
        tensor = http.InferInput("image", list(images.shape), "UINT8")
        tensor.set_data_from_numpy(images)
        answers = client.infer("digits", [tensor]).as_numpy("label")[:, 0]
        assert (answers == labels).mean() > 0.9
    finally:
        server.send_signal(signal.SIGINT)
        code = server.wait(timeout=20)
    assert code in (0, 130)


def test_ctrl_c_stops_a_profile_which_then_goes_on(place: Path, tmp_path: Path) -> None:
    line = [COMMAND, "profile", "digits", "--profile", str(tmp_path / "p")]
    process = subprocess.Popen(line, cwd=place, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert process.stderr is not None
    while not list((tmp_path / "p").glob("measurements/*.parquet")):
        assert process.poll() is None, process.stderr.read()
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(timeout=20) == 130
    assert "Traceback" not in process.stderr.read()
    data = json.loads(inferplan("profile", "digits", "--profile", tmp_path / "p", "--json", cwd=place))
    assert data["resumed"] >= 1
    assert data["resumed"] + data["measured"] + data["evaluated"] == len(VARIANTS) * 3
