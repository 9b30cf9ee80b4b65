"""The store loses nothing: atomic files, one writer, damage moved aside."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from inferplan.profilers.store import ProfileStore
from inferplan.spec.errors import InputError
from inferplan.spec.rows import AccuracyRow, FlowRow, Measurement, PointKey, Quantiles, Samples


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
