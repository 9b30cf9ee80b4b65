"""The profile's schemas: one owner, every column described, rows survive the way there and back."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferplan.spec.errors import InputError
from inferplan.spec.profile import newest_rows, read_profile
from inferplan.spec.rows import AccuracyRow, FlowRow, Measurement, PointKey, Quantiles
from inferplan.spec.tables import TABLES, from_record, table_schema, to_record


def key(**changes: object) -> PointKey:
    values: dict[str, object] = {
        "stage": "read", "variant": "small", "modalities": "", "model_sha256": "a", "code_sha256": "",
        "runtime": "onnxruntime", "runtime_version": "1", "provider": "cpu", "device": "edge/cpu",
        "device_fingerprint": "f", "batch": 1, "threads": 1, "options": "{}", "input_shape": "{}",
    }  # fmt: skip
    return PointKey(**(values | changes))  # type: ignore[arg-type]


def measurement(when: str = "2026-01-01T00:00:00Z", mean_s: float = 1.0) -> Measurement:
    return Measurement(key(), "ok", n=10, service=Quantiles(mean_s=mean_s), measured_at=when)


def write_store(root: Path, *rows: Measurement) -> Path:
    (root / "measurements").mkdir(parents=True)
    (root / "profile.json").write_text(json.dumps({"schema_version": 2}))
    for index, row in enumerate(rows):
        table = pa.Table.from_pylist([to_record(row)], schema=table_schema("measurements"))
        pq.write_table(table, root / "measurements" / f"{index}.parquet")
    return root


@pytest.mark.parametrize("table", TABLES)
def test_every_column_says_what_it_is(table: str) -> None:
    for column in table_schema(table):
        assert column.metadata[b"description"], column.name
        assert b"unit" in column.metadata
        if column.name.endswith("_s") and column.name != "throughput_per_s":
            assert column.metadata[b"unit"] == b"s", column.name


@given(st.floats(1e-6, 1e3), st.none() | st.floats(1e-6, 1e3))
def test_rows_survive_parquet(mean_s: float, p99_s: float | None) -> None:
    row = Measurement(key(batch=4), "ok", n=3, service=Quantiles(mean_s=mean_s, p99_s=p99_s))
    table = pa.Table.from_pylist([to_record(row)], schema=table_schema("measurements"))
    assert from_record(Measurement, table.to_pylist()[0]) == row


def test_accuracy_and_flow_rows_fit_their_schemas() -> None:
    accuracy = AccuracyRow("stage", "read", "small", "{}", "", "top1", 0.9, 0.8, 0.95, 100, "wilson", "e")
    flow = FlowRow("find", "read", "small", "", 2.0, "[1, 3]", None, 2, "e")
    for table, row in (("accuracy", accuracy), ("flows", flow)):
        record = pa.Table.from_pylist([to_record(row)], schema=table_schema(table)).to_pylist()[0]
        assert from_record(type(row), record) == row


def test_a_measurement_that_is_ok_has_samples() -> None:
    with pytest.raises(ValueError, match="has samples"):
        Measurement(key(), "ok")


def test_point_ids_depend_on_every_field() -> None:
    ids = {key().id(), key(batch=2).id(), key(model_sha256="b").id(), key(runtime_version="2").id()}
    assert len(ids) == 4
    assert key().id() == key().id()


def test_the_newest_row_of_a_point_counts(tmp_path: Path) -> None:
    older, newer = measurement("2026-01-01T00:00:00Z", 1.0), measurement("2026-01-02T00:00:00Z", 2.0)
    profile = read_profile(write_store(tmp_path / "p", newer, older))
    assert [row.service.mean_s for row in profile.measurements] == [2.0]


def test_a_damaged_part_is_named_and_left_out(tmp_path: Path) -> None:
    root = write_store(tmp_path / "p", measurement())
    (root / "measurements" / "broken.parquet").write_bytes(b"PAR1 this is not parquet")
    profile = read_profile(root)
    assert len(profile.measurements) == 1
    assert len(profile.damaged) == 1
    assert "broken.parquet" in profile.damaged[0]


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("origin", "x", "is none of measured, interpolated, imported"),
        ("status", "", "is none of ok"),
        ("service_mean_s", float("nan"), "is not a number of at least 0"),
        ("service_mean_s", float("inf"), "is not a number of at least 0"),
        ("service_std_s", -1.0, "is not a number of at least 0"),
        ("service_mean_s", 0.0, "takes some time"),
        ("service_p99_s", "0.1", "is no float"),
        ("batch", 0, "is not a number of at least 1"),
        ("stage", None, "is missing"),
        ("options", "[]", "is no JSON dict"),
        ("inputs", "{", "Expecting"),
    ],
)
def test_a_file_whose_columns_hold_what_they_cannot_is_damaged(
    tmp_path: Path, column: str, value: object, says: str
) -> None:
    root = write_store(tmp_path / "p", measurement())
    record = {**to_record(measurement()), column: value}
    pq.write_table(pa.Table.from_pylist([record]), root / "measurements" / "odd.parquet")
    profile = read_profile(root)
    assert len(profile.measurements) == 1
    (named,) = profile.damaged
    assert "odd.parquet" in named
    assert says in named


def test_no_profile_or_another_version_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="inferplan profile"):
        read_profile(tmp_path)
    (tmp_path / "profile.json").write_text('{"schema_version": 99}')
    with pytest.raises(InputError, match="schema version 99"):
        read_profile(tmp_path)
    (tmp_path / "profile.json").write_text("{")
    with pytest.raises(InputError, match="damaged"):
        read_profile(tmp_path)


def test_which_row_counts_does_not_depend_on_the_order() -> None:
    old, new, tie = measurement("2026-01-01"), measurement("2026-01-02"), measurement("2026-01-02", 2.0)
    guess = dataclasses.replace(measurement("2027-01-01", 9.0), origin="interpolated", n=0)
    brought = dataclasses.replace(measurement("2027-01-01", 8.0), origin="imported", source="csv: x")
    for order in itertools.permutations([old, new, tie, guess, brought]):
        assert newest_rows(order) == [max(new, tie, key=repr)]
    assert newest_rows([guess, brought]) == [brought]


def test_an_evaluation_replaces_the_whole_of_an_earlier_one() -> None:
    first = AccuracyRow("stage", "s", "v", "{}", "", "top1", 0.9, 0.8, 1.0, 9, "wilson", "e", measured_at="2026-01-01")
    gone = dataclasses.replace(first, metric="f1")
    again = dataclasses.replace(first, value=0.8, measured_at="2026-01-02")
    brought = dataclasses.replace(gone, source="csv: x", measured_at="2027-01-01")
    others = [dataclasses.replace(brought, metric=name, measured_at=f"202{day}") for day, name in ((8, "a"), (9, "b"))]
    for order in itertools.permutations([first, gone, again, brought]):
        assert newest_rows(order) == [again]
    assert {row.metric for row in newest_rows([brought, *others]) if isinstance(row, AccuracyRow)} == {"f1", "a", "b"}
