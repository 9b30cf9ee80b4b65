"""`inferplan book` on a workload and profile on disk."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from inferplan.cli.main import run_command
from inferplan.profilers.store import ProfileStore
from inferplan.spec.book import load_book
from inferplan.spec.rows import AccuracyRow, Measurement, PointKey, Quantiles

WORKLOAD = """
apiVersion: inferplan/v1
name: w
pipeline: {stages: {read: {metric: {name: top1}, variants: {v: {model: a.onnx}}}}}
tiers: {edge: {devices: {box: {price_usd_per_h: 0.1, cores: 1, count: 6}}}}
classes: {web: {rate_rps: 20, slo: {latency_s: 0.1}}}
accuracy: {metric: {name: top1}, composition: product}
"""


@pytest.fixture(scope="module")
def workload(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("w")
    (folder / "a.onnx").write_bytes(b"model")
    (folder / "workload.yaml").write_text(WORKLOAD)
    key = PointKey(
        "read", "v", "", hashlib.sha256(b"model").hexdigest(), "", "onnxruntime", "1", "{}", "cpu", "edge/box", "f", 1,
        1, "{}",
    )  # fmt: skip
    service = Quantiles(mean_s=0.02, std_s=0.001)
    row = Measurement(key, "ok", n=99, service=service, measured_at="2026-01-01T00:00:00Z", load_s=3.0)
    with ProfileStore(folder / "w.profile", "w") as store:
        store.put_rows("measurements", [row], [])
        store.put_rows(
            "accuracy", [AccuracyRow("stage", "read", "v", "{}", "", "top1", 0.9, None, None, 100, "wilson", "")], []
        )
    return folder / "workload.yaml"


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Ten minutes that rise to 90 requests/s and fall again."""
    counts = np.rint(10 * (10 + 80 * np.sin(np.linspace(0, np.pi, 60)))).astype(int)
    path = tmp_path / "trace.csv"
    path.write_text("interval_s,count\n" + "\n".join(f"10,{count}" for count in counts))
    return path


def test_a_book_is_written_replayed_and_each_plan_is_a_plan(
    workload: Path, trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, table = tmp_path / "book", tmp_path / "r.parquet"
    arguments = ["book", str(workload), "--rates", "5:100:6", "--trace", str(trace), "-o", str(folder), "--json"]
    assert run_command([*arguments, "--history", str(trace), "--parquet", str(table)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["status"] == "optimal"
    assert found["book"]["design"]["loads"] == "trace"
    strategies = found["replay"]["strategies"]
    assert [(s["strategy"], s["predictor"]) for s in strategies] == [
        ("book", "last"), ("book", "max"), ("best fixed", ""), ("oracle", ""),
    ]  # fmt: skip
    requests = sum(int(line.split(",")[1]) for line in trace.read_text().split("\n")[1:])
    assert all(s["requests"] == requests for s in strategies)
    assert strategies[-1]["over_oracle"] == 0
    assert strategies[0]["usd"] < strategies[2]["usd"], "following the load costs less than the best fixed plan"
    assert pq.read_table(table).column("strategy").to_pylist() == [s["strategy"] for s in strategies]
    assert pq.read_schema(table).field("usd_per_h").metadata[b"unit"] == b"USD/h"
    book = load_book(folder)
    assert len(book.plans) >= 2
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert run_command([*arguments, "--history", str(trace)]) == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before, "same inputs, same bytes"
    capsys.readouterr()
    assert run_command(["simulate", str(folder / "plan-1.yaml"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "met"


def test_a_book_is_printed(workload: Path, capsys: pytest.CaptureFixture[str]) -> None:
    traffic = "{process: mmpp, burst_factor: 2, burst_s: 30}"
    assert run_command(["book", str(workload), "--rates", "5:100:4", "--arrivals", traffic, "--duration", "5min"]) == 0
    out = capsys.readouterr().out
    assert "5 to 100 requests/s in 4 levels" in out
    assert "best fixed" in out
    assert "Replayed over 5 min in 30 intervals of 10.0 s" in out
    assert run_command(["book", str(workload), "--rates", "20:20"]) == 0
    assert "20 to 20 requests/s in one level, one plan" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--rates", "5"], 2, "expected LOW:HIGH or LOW:HIGH:N"),
        (["--rates", "9:5"], 2, "the range is reversed; write 5:9"),
        (["--rates", "5:9:0"], 2, "0 levels"),
        (["--rates", "5:9:9999999999999"], 2, "levels are too many"),
        (["--rates", "5:9", "--class", "wob"], 2, "there is no such class"),
        (["--rates", "5:9", "--predictors", "mx"], 2, "did you mean max"),
        (["--rates", "5:9", "--hysteresis", "1"], 2, "--hysteresis 1: expected a share"),
        (["--rates", "5:9", "--margin", "-1"], 2, "--margin -1: expected a share"),
        (["--rates", "5:9", "--interval", "10"], 2, "expected a duration with its unit"),
        (["--rates", "5:9", "--parquet", "x"], 2, "give --trace or --arrivals"),
        (["--rates", "5:9", "--arrivals", "{process: posson}"], 2, "poisson"),
        (["--rates", "5:9", "--arrivals", "{}", "--duration", "3s"], 2, "less than one interval"),
        (["--rates", "5:9", "--arrivals", "{}", "--duration", "9999h"], 2, "more than a book is replayed over at once"),
        (["--rates", "5:9", "--set", "classes.web.slo.latency_s=0.001"], 3, "even at the lowest level"),
        (["--rates", "5:5000:5"], 3, "highest feasible one is"),
    ],
)
def test_wrong_books_are_refused(
    workload: Path, arguments: list[str], code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["book", str(workload), *arguments]) == code
    assert says in capsys.readouterr().err


def test_an_empty_trace_is_refused(workload: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = tmp_path / "empty.csv"
    empty.write_text("")
    for option in ("--trace", "--history"):
        assert run_command(["book", str(workload), "--rates", "5:9", option, str(empty)]) == 2
        assert "is empty" in capsys.readouterr().err
