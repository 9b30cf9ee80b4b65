"""A profile as people read it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from inferplan.estimators.comparison import Comparison
from inferplan.reports.profile_data import view_data
from inferplan.reports.profile_tables import (
    accuracy_statement,
    combinations_table,
    interference_table,
    lineage_table,
    place_heading,
    place_notes,
    place_table,
    points_table,
    speed_statement,
)
from inferplan.reports.profile_view import Lineage, Place, view
from inferplan.reports.tables import plain
from inferplan.spec.errors import InputError
from inferplan.spec.profile import Profile
from inferplan.spec.rows import AccuracyRow, InterferenceRow, Measurement, PointKey, Quantiles
from inferplan.spec.stage import Metric
from inferplan.spec.workload import Workload

WORKLOAD = Workload.model_validate(
    {
        "apiVersion": "inferplan/v1",
        "name": "w",
        "pipeline": {
            "stages": {
                "read": {
                    "metric": {"name": "top1"},
                    "variants": {
                        "good": {"model": "a"}, "slow": {"model": "b"}, "broken": {"model": "c"},
                        "none": {"runtime": "skip"},
                    },
                }
            }
        },
        "tiers": {"edge": {"devices": {"cpu": {"price_usd_per_h": 0.1, "cores": 1}}}},
        "classes": {"web": {"rate_rps": 1.0}},
    }
)  # fmt: skip


def measured(variant: str, batch: int, p50_s: float) -> Measurement:
    key = PointKey("read", variant, "", "a", "", "onnxruntime", "1", "{}", "cpu", "edge/cpu", "f", batch, 1, "{}")
    if variant == "broken":
        return Measurement(key, "timeout", "no answer within 60 s")
    service = Quantiles(mean_s=p50_s, p50_s=p50_s)
    return Measurement(key, "ok", n=10, service=service, throughput_per_s=batch / p50_s, peak_rss_bytes=2**26)


def accuracy(variant: str, value: float) -> AccuracyRow:
    return AccuracyRow("stage", "read", variant, "{}", "", "top1", value, value - 0.1, value + 0.1, 50, "wilson", "e")


def profile() -> Profile:
    combination = AccuracyRow(
        "pipeline", "", "", json.dumps({"read": "good"}), "", "top1", 0.9, 0.85, 0.95, 50, "wilson", "e"
    )
    rows = (measured("good", 1, 0.01), measured("good", 4, 0.02), measured("slow", 1, 0.03), measured("broken", 1, 1.0))
    return Profile(Path("p"), rows, (accuracy("good", 0.9), accuracy("slow", 0.8), combination), (), "0" * 64)


def only_place(found: Profile) -> Place:
    (place,) = view(found).places
    return place


def test_every_choice_has_a_row_and_dominated_ones_are_dim() -> None:
    place = only_place(profile())
    table = place_table(place)
    assert place_heading(place) == "read on edge/cpu (cpu); top1: higher is better"
    lines = plain(table).splitlines()
    assert [line.split()[0] for line in lines] == ["choice", "broken", "good", "slow"]
    assert table.dim == {2}, "slow is beaten by good in both"
    assert lines[2].split() == ["good", "0.9000", "0.800..1.000", "10.0", "ms", "-", "200/s", "b4", "64.0", "MiB"]
    assert place_notes(place) == [
        "broken (b1): timeout: no answer within 60 s",
        "dominated (another is at least as accurate and as fast): slow",
    ]
    assert max(map(len, lines)) <= 78


def test_with_a_workload_order_and_staleness_are_known(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).write_bytes(name.encode())
    found = view(profile(), WORKLOAD.at(tmp_path))
    assert [choice.choice for choice in found.places[0].choices] == ["good", "slow", "broken", "none"]
    assert found.notes == (
        "read=broken: another model file (1 row)",
        "read=good: another model file (2 rows)",
        "read=slow: another model file (1 row)",
    )
    assert "none: runs no model" in place_notes(found.places[0])
    assert "not measured: good, slow, broken" in place_notes(found.places[0])


def changed(row: Measurement, **changes: object) -> Measurement:
    keys = {name: value for name, value in changes.items() if name in PointKey.__dataclass_fields__}
    others = {name: value for name, value in changes.items() if name not in keys}
    return dataclasses.replace(row, key=dataclasses.replace(row.key, **keys), **others)  # type: ignore[arg-type]


def of(*rows: Measurement, accuracies: tuple[AccuracyRow, ...] = ()) -> Profile:
    return Profile(Path("p"), rows, accuracies, (), "0" * 64)


def test_marks_say_where_numbers_come_from() -> None:
    rows = (
        changed(measured("good", 1, 0.01), origin="imported", source="perf_analyzer: x.csv", censored=True),
        changed(measured("slow", 1, 0.02), origin="interpolated"),
    )
    place = only_place(of(*rows))
    text = plain(place_table(place))
    assert "*10.0 ms" in text
    assert "*>100/s b1" in text
    assert "~20.0 ms" in text
    assert place_notes(place) == [
        "~ interpolated from other points, not measured",
        "* good: perf_analyzer: x.csv",
        "> good: no more load was offered than that; it may do more",
    ]
    assert [row[-1] for row in points_table(place).rows] == ["perf_analyzer: x.csv", "interpolated"]


def test_the_highest_percentile_known_is_named() -> None:
    row = measured("good", 1, 0.01)
    short = changed(row, service=Quantiles(mean_s=0.01, p50_s=0.01, p90_s=0.02))
    assert "p90 20.0 ms" in plain(place_table(only_place(of(short))))
    bare = changed(row, service=Quantiles(mean_s=0.01))
    assert "mean 10.0 ms" in plain(place_table(only_place(of(bare))))


def test_other_states_are_named_not_mixed() -> None:
    old = changed(measured("good", 1, 0.5), device_fingerprint="other", measured_at="2025")
    new = changed(measured("good", 4, 0.02), measured_at="2026")
    foreign = changed(
        measured("good", 2, 0.9), device_fingerprint="imported:csv", origin="imported", measured_at="2027"
    )
    found = view(of(old, new, foreign))
    assert [row.key.batch for row in found.places[0].choices[0].points] == [4]
    assert found.notes == (
        "read=good on edge/cpu: imported, but measured as well (1 row)",
        "read=good on edge/cpu: of another machine (1 row)",
    )


def test_a_slower_child_is_called_slower() -> None:
    lineage = json.dumps({"parent": "good", "precision": "int8", "recipe": {"name": "dynamic-int8", "settings": {}}})
    child = changed(measured("slow", 1, 0.02), lineage=lineage)
    (row,) = lineage_table(only_place(of(measured("good", 1, 0.01), child))).rows
    assert list(row) == ["slow", "good", "dynamic-int8", "-", "SLOWER, 2.00 times (b1)"]
    assert speed_statement(Lineage("p", "r", None, 0.5, 0.4, 0.6, 8)) == "2.00 times as fast (b8)"
    assert speed_statement(Lineage("p", "r", None, 1.1, 0.9, 1.3, 1)) == "no difference shown (b1)"


def comparison(difference: float, lower: float, upper: float, p_value: float) -> Comparison:
    metric = Metric(name="top1")
    return Comparison("read", "slow", "good", metric, difference, lower, upper, p_value, 500, "mcnemar")


def test_statements_of_accuracy() -> None:
    said = accuracy_statement
    assert said(None) == "-"
    assert said(comparison(-0.002, -0.006, 0.002, 0.3)) == "as accurate within 0.01"
    assert said(comparison(-0.002, -0.06, 0.05, 0.9)) == "no difference shown (-0.060..+0.050)"
    assert said(comparison(-0.021, -0.03, -0.012, 1e-6)) == "worse by 0.0210 (p < 0.001)"
    assert said(comparison(-0.004, -0.006, -0.002, 0.01)) == "worse by 0.0040 (p = 0.01), within 0.01"
    assert said(comparison(0.03, 0.01, 0.05, 0.002)) == "better by 0.0300 (p = 0.002)"


def test_interference_is_read_aloud() -> None:
    key = measured("good", 1, 0.01).key
    row = InterferenceRow(key, '[["read", "slow", 4, 1]]', "x", 1.25, 1.2, 1.3, 1.4, 8, 100)
    lines = plain(interference_table([row])).splitlines()
    assert lines[1].split() == ["read=good", "b1", "read=slow", "b4", "1.25", "1.20..1.30", "1.40"]


def test_data_has_every_column_that_says_something() -> None:
    data = view_data(view(profile()))
    (stage,) = data["stages"]
    good = next(choice for choice in stage["choices"] if choice["choice"] == "good")
    assert good["points"][0]["service_p50_s"] == 0.01
    assert "service_p99_s" not in good["points"][0]
    assert good["accuracy"]["value"] == 0.9
    json.dumps(data)


def test_a_stage_that_is_not_there_is_named() -> None:
    with pytest.raises(InputError, match="no stage nope; there are read"):
        view(profile(), stage="nope")


def test_combinations_are_listed_best_first() -> None:
    lines = plain(combinations_table(profile().accuracy, "top1")).splitlines()
    assert lines[1] == "read=good    0.9000  0.850..0.950  50"
