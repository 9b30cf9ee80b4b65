"""The store loses nothing: atomic files, one writer, damage moved aside."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from inferplan.profilers.store import ProfileStore
from inferplan.spec.errors import InputError
from inferplan.spec.rows import (
    AccuracyRow,
    ExampleScores,
    FlowRow,
    HandoffRow,
    InterferenceRow,
    Measurement,
    PointKey,
    Predictions,
    Quantiles,
    Samples,
)
from inferplan.spec.tables import TABLES


def key(batch: int = 1) -> PointKey:
    return PointKey("s", "v", "", "00", "", "onnxruntime", "1", "{}", "cpu", "edge/box", "ff", batch, 1, "{}")


def measurement(batch: int = 1) -> Measurement:
    return Measurement(key(batch), "ok", n=3, service=Quantiles(mean_s=0.002), measured_at="2026-01-01")


def samples(batch: int = 1) -> Samples:
    return Samples(
        key(batch).id(),
        np.zeros(3, np.int32),
        np.array([1.0, 2.0, 3.0]),
        np.array([0.5, 1.0, 1.5]),
        np.ones(3, np.int64),
    )


def accuracy(metric: str, value: float, when: str = "2026-01-01") -> AccuracyRow:
    return AccuracyRow("stage", "s", "v", "{}", "", metric, value, 0.0, 1.0, 9, "wilson", "aa", measured_at=when)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    flow = FlowRow("s", "t", "v", "", 2.0, "[2]", 10.0, 1, "aa", "2026-01-01")
    with ProfileStore(tmp_path / "p", "w") as store:
        store.add_measurement(measurement(), samples())
        store.add_evaluation([accuracy("top1", 0.5)], [flow])
        profile = store.profile()
    assert profile.measurements == (measurement(),)
    assert profile.accuracy == (accuracy("top1", 0.5),)
    assert profile.flows == (flow,)
    found = profile.samples(key())
    assert found is not None
    np.testing.assert_array_equal(found.service_s, samples().service_s)
    assert json.loads((tmp_path / "p" / "profile.json").read_text()) == {"schema_version": 2, "workload": "w"}


def test_profiles_are_read_without_pandas(tmp_path: Path) -> None:
    """It takes longer to import than most profiles to read."""
    with ProfileStore(tmp_path / "p", "w") as store:
        store.add_measurement(measurement(), samples())
    code = (
        "import sys\n"
        "from inferplan.spec.profile import read_profile\n"
        "profile = read_profile(sys.argv[1])\n"
        "assert len(profile.samples(profile.measurements[0].key).service_s)\n"
        "print('pandas' in sys.modules)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "p")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("False\n", "")


def test_columns_carry_their_units(tmp_path: Path) -> None:
    with ProfileStore(tmp_path / "p") as store:
        store.add_measurement(measurement(), samples())
    (file,) = (tmp_path / "p" / "measurements").glob("*.parquet")
    assert pq.read_schema(file).field("service_mean_s").metadata[b"unit"] == b"s"


def test_evaluating_again_replaces_every_row_of_the_thing(tmp_path: Path) -> None:
    with ProfileStore(tmp_path / "p") as store:
        store.add_evaluation([accuracy("top1", 0.5), accuracy("f1", 0.4)], [])
        store.add_evaluation([accuracy("top1", 0.6, "2026-01-02")], [])
        assert [(row.metric, row.value) for row in store.profile().accuracy] == [("top1", 0.6)]


def test_only_one_writer(tmp_path: Path) -> None:
    with ProfileStore(tmp_path / "p"), pytest.raises(InputError, match=f"written by process {os.getpid()}"):
        ProfileStore(tmp_path / "p").__enter__()
    with ProfileStore(tmp_path / "p"):
        pass
    ProfileStore.refuse_if_busy(tmp_path / "p")


def test_a_folder_of_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"other things in it \(notes.txt\)"):
        ProfileStore(tmp_path).__enter__()
    assert [entry.name for entry in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(InputError, match="is a file"):
        ProfileStore(tmp_path / "notes.txt").__enter__()


@pytest.mark.parametrize("marker", ["", "{}", '{"schema_version": 99}'])
def test_an_unknown_marker_is_refused(tmp_path: Path, marker: str) -> None:
    with ProfileStore(tmp_path / "p"):
        pass
    (tmp_path / "p" / "profile.json").write_text(marker)
    with pytest.raises(InputError, match=r"damaged|version 99"):
        ProfileStore(tmp_path / "p").__enter__()


def test_damaged_files_are_moved_aside_and_named(tmp_path: Path) -> None:
    with ProfileStore(tmp_path / "p") as store:
        for batch in (1, 2):
            store.add_measurement(measurement(batch), samples(batch))
    bad = tmp_path / "p" / "measurements" / f"{key(1).id()}.parquet"
    bad.write_bytes(b"rubbish")
    with ProfileStore(tmp_path / "p") as store:
        assert [text.partition(":")[0] for text in store.moved_aside] == [str(bad)]
        assert [row.key.batch for row in store.profile().measurements] == [2]
    assert (bad.parent / (bad.name + ".damaged")).read_bytes() == b"rubbish"
    with ProfileStore(tmp_path / "p") as store:
        assert store.moved_aside == ()


def test_half_written_files_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    with ProfileStore(tmp_path / "p"):
        pass
    half = tmp_path / "p" / "samples" / "abc.parquet.partial"
    half.write_bytes(b"PAR1")
    with ProfileStore(tmp_path / "p"):
        assert not half.exists()


def test_a_disk_that_fills_up_half_way_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ProfileStore(tmp_path / "p") as store:
        store.add_measurement(measurement(), samples())
        before = sorted((file, file.read_bytes()) for file in (tmp_path / "p").rglob("*.parquet"))
        real = os.write

        def half(descriptor: int, content: memoryview) -> int:
            if len(content) < 1000:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(descriptor, content[: len(content) // 2])

        monkeypatch.setattr(os, "write", half)
        with pytest.raises(InputError, match="no room left"):
            store.add_measurement(measurement(), samples())
        monkeypatch.undo()
        after = sorted((file, file.read_bytes()) for file in (tmp_path / "p").rglob("*.parquet"))
        assert before == after
        assert not list((tmp_path / "p").rglob("*.partial"))


def test_samples_are_there_before_their_measurement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    with ProfileStore(tmp_path / "p") as store:
        monkeypatch.setattr(store, "_write", lambda path, content: order.append(path.parent.name))
        store.add_measurement(measurement(), samples())
    assert order == ["samples", "measurements"]


def scores_and_predictions(row: AccuracyRow) -> tuple[ExampleScores, Predictions]:
    values, weights = np.array([1.0, 0.0]), np.array([1.0, 2.0])
    return (
        ExampleScores(row.evaluation(), row.evidence_sha256, ("a", "b"), {"top1": values}, {"top1": weights}),
        Predictions(row.evaluation(), row.evidence_sha256, ("a", "b"), ("1", '"x"'), ("1", "null")),
    )


def interference() -> InterferenceRow:
    return InterferenceRow(key(), '[["s", "v", 1, 1]]', "bb", 1.2, 1.1, 1.3, 1.4, 8, 99, measured_at="2026-01-01")


def fill(path: Path) -> None:
    """A file in every table."""
    with ProfileStore(path) as store:
        store.add_measurement(measurement(), samples())
        flow = FlowRow("s", "t", "v", "", 2.0, "[2]", 10.0, 1, "aa", "2026-01-01")
        store.add_evaluation([accuracy("top1", 0.5)], [flow], *scores_and_predictions(accuracy("top1", 0.5)))
        store.add_interference(interference())
        store.add_handoff(
            HandoffRow("s", "v", "", "edge/box", "ff", 30, 1e-4, "[1e-4]", 1e-5, measured_at="2026-01-01")
        )


def test_scores_predictions_and_slow_downs_are_read_back(tmp_path: Path) -> None:
    fill(tmp_path / "p")
    profile = ProfileStore(tmp_path / "p").profile()
    assert profile.interference == (interference(),)
    (row,) = profile.accuracy
    scores, predictions = profile.scores(row), profile.predictions(row)
    expected = scores_and_predictions(row)
    assert scores is not None
    assert scores.ids == ("a", "b")
    assert scores.values["top1"].tolist() == [1.0, 0.0]
    assert scores.weights["top1"].tolist() == [1.0, 2.0]
    assert predictions == expected[1]


def test_scores_of_another_state_are_not_given_out(tmp_path: Path) -> None:
    fill(tmp_path / "p")
    other = AccuracyRow("stage", "s", "v", "{}", "", "top1", 0.6, 0.0, 1.0, 9, "wilson", "bb", measured_at="2027")
    with ProfileStore(tmp_path / "p") as store:
        store.add_evaluation([other], [])
        (row,) = store.profile().accuracy
        assert row.value == 0.6
        assert store.profile().scores(row) is None
        assert store.profile().predictions(row) is None


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("content", ["rubbish", "other columns", "cut off"])
def test_damage_in_any_table_is_moved_aside_and_named(tmp_path: Path, table: str, content: str) -> None:
    fill(tmp_path / "p")
    (file,) = (tmp_path / "p" / table).glob("*.parquet")
    if content == "other columns":
        pq.write_table(pa.table({"x": [1]}), file)
    else:
        file.write_bytes(b"rubbish" if content == "rubbish" else file.read_bytes()[:-30])
    with ProfileStore(tmp_path / "p") as store:
        assert [text.partition(": ")[0] for text in store.moved_aside] == [str(file)]
        store.profile()
    assert file.with_name(file.name + ".damaged").is_file()


def test_all_rows_of_an_evaluation_have_one_time(tmp_path: Path) -> None:
    with ProfileStore(tmp_path / "p") as store:
        store.add_evaluation([accuracy("top1", 0.5, "2026-01-01"), accuracy("f1", 0.4, "2026-01-02")], [])
        assert {row.measured_at for row in store.profile().accuracy} == {"2026-01-02"}


def test_flows_of_modality_subsets_do_not_replace_each_other(tmp_path: Path) -> None:
    with ProfileStore(tmp_path / "p") as store:
        for subset in ("", "image"):
            store.add_evaluation([], [FlowRow("s", "t", "v", subset, 2.0, "[2]", 10.0, 1, "aa", "2026-01-01")])
        assert len(store.profile().flows) == 2


def test_arrays_are_there_before_their_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    with ProfileStore(tmp_path / "p") as store:
        monkeypatch.setattr(store, "_write", lambda path, content: order.append(path.parent.name))
        row = accuracy("top1", 0.5)
        store.add_evaluation([row], [], *scores_and_predictions(row))
    assert order == ["predictions", "scores", "accuracy"]
