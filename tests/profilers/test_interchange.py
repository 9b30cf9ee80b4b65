"""Other tools' files: what is taken, what is refused and why, and that it is never taken for our own."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from inferplan.profilers.interchange.csv_export import columns_text, csv_text, export_csv
from inferplan.profilers.interchange.foreign import Reading
from inferplan.profilers.interchange.importing import Imported, Target, import_files
from inferplan.profilers.interchange.loadgen import read_loadgen
from inferplan.profilers.interchange.model_analyzer import read_model_analyzer
from inferplan.profilers.interchange.perf_analyzer import read_perf_analyzer
from inferplan.profilers.interchange.tidy import COLUMNS, read_tidy
from inferplan.profilers.store import ProfileStore
from inferplan.spec.errors import InputError
from inferplan.spec.profile import read_profile
from inferplan.spec.rows import Measurement, PointKey, Quantiles
from inferplan.spec.tables import table_schema
from inferplan.spec.workload import Workload

FILES = Path(__file__).parent / "interchange"


@pytest.fixture
def workload(tmp_path: Path) -> Workload:
    (tmp_path / "a.onnx").write_bytes(b"model a")
    return Workload.model_validate(
        {
            "apiVersion": "inferplan/v1",
            "name": "w",
            "pipeline": {
                "stages": {
                    "read": {
                        "metric": {"name": "top1"},
                        "modalities": ["image", "text"],
                        "variants": {
                            "small": {"model": "a.onnx"},
                            "both": {
                                "model": "a.onnx",
                                "modalities": {"reads": ["image", "text"], "optional": ["text"]},
                            },
                            "none": {"runtime": "skip"},
                        },
                    }
                }
            },
            "tiers": {"edge": {"devices": {"box": {"price_usd_per_h": 0.1, "cores": 2}}}},
            "classes": {"web": {"rate_rps": 1.0}},
        }
    ).at(tmp_path)


def bring(workload: Workload, tmp_path: Path, fmt: str, *names: str, **changes: object) -> Imported:
    target = {"variant": "small"} | {k: v for k, v in changes.items() if k in Target.__dataclass_fields__}
    reading = {k: v for k, v in changes.items() if k in Reading.__dataclass_fields__}
    files = [FILES / name for name in names]
    return import_files(workload, tmp_path / "p", fmt, files, Reading(**reading), Target(**target))  # type: ignore[arg-type]


# perf_analyzer


def test_the_servers_compute_time_at_concurrency_one_is_the_service_time() -> None:
    found = read_perf_analyzer(FILES / "perf_concurrency.csv", Reading(batch=4))
    (point,) = found.points
    assert point.batch == 4
    assert point.service == Quantiles(mean_s=pytest.approx(2478e-6))
    assert (point.throughput_per_s, point.censored) == (1520.6, True)
    assert [text.split(": ")[1] for text in found.left_out] == ["concurrency 2", "concurrency 4"]
    assert "queueing" in found.left_out[0]


def test_a_server_that_does_not_batch_says_more_under_load() -> None:
    (point,) = read_perf_analyzer(FILES / "perf_concurrency.csv", Reading(batch=4, unbatched=True, instances=2)).points
    assert point.service.mean_s == pytest.approx(2478e-6)
    assert point.throughput_per_s == 1735.9 / 2
    assert point.censored, "the highest throughput came with the heaviest load: more might have given more"


def test_throughput_equal_to_the_offered_load_is_censored(tmp_path: Path) -> None:
    found = read_perf_analyzer(FILES / "perf_request_rate.csv", Reading(batch=1))
    assert found.points == ()
    (point,) = read_perf_analyzer(FILES / "perf_request_rate.csv", Reading(batch=1, unbatched=True)).points
    assert (point.throughput_per_s, point.censored) == (388.4, False)
    light = tmp_path / "light.csv"
    light.write_text("\n".join((FILES / "perf_request_rate.csv").read_text().splitlines()[:3]) + "\n")
    (point,) = read_perf_analyzer(light, Reading(batch=1, unbatched=True)).points
    assert (point.throughput_per_s, point.censored) == (199.5, True)


def test_client_latency_is_taken_only_on_demand() -> None:
    found = read_perf_analyzer(FILES / "perf_no_server.csv", Reading(batch=1))
    assert found.points == ()
    assert "--client-latency" in found.left_out[0]
    (point,) = read_perf_analyzer(FILES / "perf_no_server.csv", Reading(batch=1, client_latency=True)).points
    assert point.service.mean_s == pytest.approx(2628e-6)
    assert point.service.p99_s == pytest.approx(2903e-6)
    assert point.service.p99_upper_s is None, "n is unknown, so is the bound"


def test_the_batch_size_is_asked_for() -> None:
    with pytest.raises(InputError, match="--batch"):
        read_perf_analyzer(FILES / "perf_concurrency.csv", Reading())


def test_a_profile_export_gives_samples_with_bounds() -> None:
    found = read_perf_analyzer(FILES / "perf_export.json", Reading(batch=1, client_latency=True))
    (point,) = found.points
    raw = json.loads((FILES / "perf_export.json").read_text())["experiments"][0]
    starts = raw["window_boundaries"][0]
    own = [r["response_timestamps"][-1] - r["timestamp"] for r in raw["requests"] if r["timestamp"] >= starts]
    assert point.n == len(own) == 680
    assert point.service.mean_s == pytest.approx(np.mean(own) * 1e-9)
    assert point.service.p99_upper_s is not None
    assert point.service.p999_s is None
    assert len(found.left_out) == 2
    with pytest.raises(InputError, match="--batch"):
        read_perf_analyzer(FILES / "perf_export.json", Reading())


@pytest.mark.parametrize(
    "text",
    ["", "a,b\n1,2\n", "{", "{}", '{"experiments": [1]}', "Concurrency,Inferences/Second\n1,fast\n",
     "Concurrency,Inferences/Second\n1,nan\n", "Concurrency,Inferences/Second\n1,-4\n",
     "Concurrency,Inferences/Second\n1,2,3\n", '{"experiments": [{"experiment": {"mode": "concurrency", "value": 1},'
     ' "requests": [{"timestamp": 5, "response_timestamps": [4]}]}]}'],
)  # fmt: skip
def test_what_is_not_its_file_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "x.csv"
    file.write_text(text)
    with pytest.raises(InputError, match=r"x\.csv"):
        read_perf_analyzer(file, Reading(batch=1, client_latency=True))


# Model Analyzer


def test_model_analyzer_with_the_default_columns() -> None:
    with pytest.raises(InputError) as error:
        read_model_analyzer(FILES / "metrics-model-inference.csv", Reading())
    assert error.value.details == ("reader_config_0", "reader_config_default")
    chosen = Reading(model="reader_config_default", client_latency=True)
    found = read_model_analyzer(FILES / "metrics-model-inference.csv", chosen)
    assert [(p.batch, p.service.mean_s, p.service.p99_s) for p in found.points] == [
        (1, pytest.approx(1 / 382.4), pytest.approx(0.0029)),
        (4, pytest.approx(4 / 501.0), pytest.approx(0.0088)),
    ]
    assert len(found.left_out) == 1
    without = read_model_analyzer(FILES / "metrics-model-inference.csv", Reading(model="reader_config_default"))
    assert without.points == ()


def test_model_analyzer_with_server_times_and_instances() -> None:
    (point,) = read_model_analyzer(FILES / "metrics-model-inference-server.csv", Reading(unbatched=True)).points
    assert point.service.mean_s == pytest.approx(2.43e-3)
    assert (point.throughput_per_s, point.censored) == (395.0, False)
    assert point.gpu_memory_bytes == 310 * 2**20


# MLPerf LoadGen: logs of real runs


def test_a_stream_of_single_queries_is_service_time_with_its_bounds() -> None:
    (point,) = read_loadgen(FILES / "loadgen_single_stream", Reading()).points
    assert (point.batch, point.n) == (1, 1326)
    assert point.service.mean_s == pytest.approx(1114565e-9)
    assert point.service.p50_s == pytest.approx(1100635e-9)
    assert (point.service.p90_upper_s, point.service.p99_upper_s) == (
        pytest.approx(1161563e-9),
        pytest.approx(1245524e-9),
    )
    assert point.service.p999_s is None, "1326 samples are too few"
    assert point.throughput_per_s == pytest.approx(897.21, rel=1e-4)
    (summary,) = read_loadgen(FILES / "loadgen_single_stream" / "mlperf_log_summary.txt", Reading()).points
    assert summary == point


def test_a_query_of_several_samples_is_a_batch() -> None:
    (point,) = read_loadgen(FILES / "loadgen_multi_stream", Reading()).points
    assert (point.batch, point.n) == (4, 800)
    assert point.remark == "MultiStream, result INVALID"
    with pytest.raises(InputError, match="4 samples"):
        read_loadgen(FILES / "loadgen_multi_stream", Reading(batch=8))


def test_offline_says_throughput_and_server_nothing() -> None:
    with pytest.raises(InputError, match="--batch"):
        read_loadgen(FILES / "loadgen_offline", Reading())
    (point,) = read_loadgen(FILES / "loadgen_offline", Reading(batch=8, instances=2)).points
    assert point.throughput_per_s == pytest.approx(7041.76 / 2)
    assert point.service == Quantiles(mean_s=pytest.approx(8 / (7041.76 / 2)))
    found = read_loadgen(FILES / "loadgen_server", Reading())
    assert found.points == ()
    assert "offered" in found.left_out[0]


def test_logs_that_are_cut_off_are_refused(tmp_path: Path) -> None:
    whole = (FILES / "loadgen_single_stream" / "mlperf_log_detail.txt").read_text()
    for end in (0, 10, 400, len(whole) // 2, len(whole) - 400):
        file = tmp_path / "mlperf_log_detail.txt"
        file.write_text(whole[:end])
        with pytest.raises(InputError, match="mlperf_log_detail"):
            read_loadgen(tmp_path, Reading())


# Plain CSV


def test_the_plain_csv() -> None:
    found = read_tidy(FILES / "tidy.csv", Reading())
    assert [(p.stage, p.variant, p.batch, p.service.p99_s, p.n) for p in found.points] == [
        ("read", "small", 1, 0.0052, 800),
        ("read", "small", 4, None, 0),
    ]
    (accuracy,) = found.accuracies
    assert (accuracy.metric, accuracy.value, accuracy.n) == ("top1", 0.91, 360)
    assert found.left_out == (f"{FILES / 'tidy.csv'}: columns that mean nothing here: colour",)


def test_every_problem_of_a_plain_csv_is_reported_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("batch,mean_s,p50_s,metric,accuracy\n1.5,0.1,,,\n1,,0.2,,\n1,x,,,\n,,,,0.4\n,,,,\n1,0.1,,,\n")
    with pytest.raises(InputError) as error:
        read_tidy(file, Reading())
    assert [text.split(": ")[0].rpartition(":")[2] for text in error.value.details] == ["2", "3", "4", "5", "6"]


# Into a profile


def test_imported_rows_are_marked_and_bound_to_the_workloads_model(workload: Workload, tmp_path: Path) -> None:
    done = bring(workload, tmp_path, "csv", "tidy.csv")
    profile = read_profile(tmp_path / "p")
    assert len(profile.measurements) == len(done.measurements) == 2
    for row in profile.measurements:
        assert row.origin == "imported"
        assert row.source == "csv: tidy.csv (bench of May)"
        assert row.key.device_fingerprint == "imported:csv"
        assert len(row.key.model_sha256) == 64
    (accuracy,) = profile.accuracy
    assert accuracy.source == "csv: tidy.csv (bench of May)"
    assert bring(workload, tmp_path, "csv", "tidy.csv").measurements == done.measurements
    assert len(read_profile(tmp_path / "p").measurements) == 2


def test_raw_times_come_along(workload: Workload, tmp_path: Path) -> None:
    done = bring(workload, tmp_path, "perf-analyzer", "perf_export.json", batch=1, client_latency=True)
    samples = read_profile(tmp_path / "p").samples(done.measurements[0].key)
    assert samples is not None
    assert len(samples.service_s) == 680
    assert np.isnan(samples.infer_s).all()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"stage": "nope"}, "no stage nope"),
        ({"variant": "nope"}, "has no nope"),
        ({"variant": "none"}, "runs no model"),
        ({"variant": "both"}, "has no both; it has small, both@image\\+text"),
        ({"variant": None}, "--variant"),
        ({"device": "edge/nope"}, "no device"),
    ],
)
def test_what_does_not_fit_the_workload_is_refused(
    workload: Workload, tmp_path: Path, changes: dict[str, object], match: str
) -> None:
    with pytest.raises(InputError, match=match):
        bring(workload, tmp_path, "perf-analyzer", "perf_concurrency.csv", batch=1, **changes)
    assert not (tmp_path / "p").exists(), "nothing was made of it"


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("1,0.01,,1e30,", "n: 1e\\+30 is more than can be counted"),
        ("1e30,0.01,,,", "batch: 1e\\+30 is more"),
        ("1,0.01,0.02,9,0.015", "p99_s of 0.015 is less than p50_s of 0.02"),
    ],
)
def test_figures_that_cannot_be_are_refused(workload: Workload, tmp_path: Path, line: str, match: str) -> None:
    file = tmp_path / "t.csv"
    file.write_text(f"batch,mean_s,p50_s,n,p99_s\n{line}\n")
    target = Target("read", "small", "", "edge/box")
    with pytest.raises(InputError, match=match):
        import_files(workload, tmp_path / "p", "csv", [file], Reading(), target)


def test_numbers_that_are_none_are_refused_wherever_they_stand(tmp_path: Path) -> None:
    log = (FILES / "loadgen_single_stream" / "mlperf_log_detail.txt").read_text()
    broken = re.sub(r'("result_50.00_percentile_latency_ns", "value": )[0-9]+', r"\1null", log)
    assert broken != log
    (tmp_path / "log.txt").write_text(broken)
    with pytest.raises(InputError, match="None is no number"):
        read_loadgen(tmp_path / "log.txt", Reading())
    late = {"timestamp": 1, "response_timestamps": [1e30]}
    export = {"experiments": [{"experiment": {"mode": "concurrency", "value": 1}, "requests": [late]}]}
    (tmp_path / "export.json").write_text(json.dumps(export))
    with pytest.raises(InputError, match="requests are not as expected"):
        read_perf_analyzer(tmp_path / "export.json", Reading(batch=1, client_latency=True))
    columns = "Model,Batch,Concurrency,Throughput (infer/sec),Instance Group,Server Compute Infer time (ms)"
    (tmp_path / "metrics.csv").write_text(f"{columns}\nm,1,1,100,0:CPU,9\n")
    with pytest.raises(InputError, match="has no instances"):
        read_model_analyzer(tmp_path / "metrics.csv", Reading())


def test_a_modality_subset_can_be_named(workload: Workload, tmp_path: Path) -> None:
    done = bring(
        workload, tmp_path, "perf-analyzer", "perf_concurrency.csv", batch=1, variant="both", modalities="text+image"
    )
    assert done.measurements[0].choice == "both@image+text"


def test_the_same_point_twice_and_nothing_at_all_are_refused(workload: Workload, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="comes twice"):
        bring(workload, tmp_path, "perf-analyzer", "perf_concurrency.csv", "perf_concurrency.csv", batch=1)
    with pytest.raises(InputError, match="nothing that can be imported"):
        bring(workload, tmp_path, "loadgen", "loadgen_server")
    with pytest.raises(InputError, match="there is no such format"):
        bring(workload, tmp_path, "xml", "tidy.csv")


# CSV export


def measured(reason: str = "") -> Measurement:
    key = PointKey("read", "small", "", "00", "", "onnxruntime", "1", "{}", "cpu", "edge/box", "ff", 2, 1, "{}")
    if reason:
        return Measurement(key, "failed", reason)
    return Measurement(key, "ok", n=9, service=Quantiles(mean_s=0.25, p50_s=0.125), throughput_per_s=8.0)


def test_the_csv_has_the_columns_of_the_table_and_exact_numbers() -> None:
    (row,) = csv.DictReader(io.StringIO(csv_text("measurements", [measured()])))
    assert list(row) == table_schema("measurements").names
    assert (row["service_mean_s"], row["service_p99_s"], row["batch"], row["censored"]) == ("0.25", "", "2", "false")
    described = list(csv.DictReader(io.StringIO(columns_text())))
    assert {"table": "measurements", "column": "service_mean_s", "unit": "s"}.items() <= next(
        line for line in described if line["column"] == "service_mean_s"
    ).items()


@pytest.mark.parametrize("reason", ["=1+1", "+1", "-1", "@sum", "\tx", "\rx"])
def test_no_cell_is_a_formula(reason: str) -> None:
    (row,) = csv.DictReader(io.StringIO(csv_text("measurements", [measured(reason)]), newline=""))
    assert row["reason"] == "'" + reason


def test_export_to_files_and_folders(tmp_path: Path) -> None:
    with ProfileStore(tmp_path / "p") as store:
        store.add_measurement(measured(), None)
    assert export_csv(tmp_path / "p", tmp_path / "m.csv") == {tmp_path / "m.csv": 1}
    with pytest.raises(InputError, match="--force"):
        export_csv(tmp_path / "p", tmp_path / "m.csv")
    assert export_csv(tmp_path / "p", tmp_path / "m.csv", "accuracy", force=True) == {tmp_path / "m.csv": 0}
    export_csv(tmp_path / "p", tmp_path / "all")
    assert sorted(os.listdir(tmp_path / "all")) == [
        "accuracy.csv", "columns.csv", "flows.csv", "handoffs.csv", "interference.csv", "measurements.csv",
    ]  # fmt: skip
    with pytest.raises(InputError, match="no such table"):
        export_csv(tmp_path / "p", tmp_path / "x.csv", "samples")


def test_what_we_export_can_be_imported(workload: Workload, tmp_path: Path) -> None:
    with ProfileStore(tmp_path / "own") as store:
        store.add_measurement(measured(), None)
    export_csv(tmp_path / "own", tmp_path / "m.csv")
    done = import_files(workload, tmp_path / "p", "csv", [tmp_path / "m.csv"], Reading(), Target())
    (row,) = done.measurements
    assert (row.service.mean_s, row.service.p50_s, row.n, row.throughput_per_s) == (0.25, 0.125, 9, 8.0)
    assert done.left_out == ()
    assert set(COLUMNS) >= {"stage", "variant", "batch", "mean_s"}


def test_a_folder_of_a_run_without_details_will_do(tmp_path: Path) -> None:
    shutil.copy(FILES / "loadgen_single_stream" / "mlperf_log_summary.txt", tmp_path)
    assert len(read_loadgen(tmp_path, Reading()).points) == 1


def test_accuracies_of_whole_combinations_are_taken(tmp_path: Path, workload: Workload) -> None:
    file = tmp_path / "whole.csv"
    file.write_text('combination,metric,accuracy\n"{""read"": ""both@image+text""}",top1,0.9\n')
    done = import_files(workload, tmp_path / "w.profile", "csv", [file], Reading(), Target())
    row = read_profile(tmp_path / "w.profile").accuracy[0]
    assert (row.scope, row.stages(), row.value) == ("pipeline", {"read": "both@image+text"}, 0.9)
    assert len(done.accuracy) == 1


@pytest.mark.parametrize(
    ("combination", "says"),
    [
        ('"{""read"": ""large""}"', "no read=large"),
        ('"{""look"": ""small""}"', "no look=small"),
        ("read=small", "no JSON object"),
    ],
)
def test_a_combination_must_be_the_workloads(tmp_path: Path, workload: Workload, combination: str, says: str) -> None:
    file = tmp_path / "whole.csv"
    file.write_text(f"combination,metric,accuracy\n{combination},top1,0.9\n")
    with pytest.raises(InputError) as caught:
        import_files(workload, tmp_path / "w.profile", "csv", [file], Reading(), Target())
    assert says in str(caught.value)
