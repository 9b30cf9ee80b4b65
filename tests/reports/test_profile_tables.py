"""A profile as people read it."""

from __future__ import annotations

import json
from pathlib import Path

from inferplan.reports.profile_tables import combinations_table, variants_table
from inferplan.reports.tables import plain
from inferplan.spec.profile import Profile
from inferplan.spec.rows import AccuracyRow, Measurement, PointKey, Quantiles
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


def test_every_variant_has_a_row_and_dominated_ones_are_dim() -> None:
    table = variants_table(WORKLOAD, profile())
    lines = plain(table).splitlines()
    assert len(lines) == 5
    assert table.dim == {1}, "slow is beaten by good in both"
    assert "0.9000  0.8000..1.0000  50  10.0 ms" in lines[1]
    assert "20.0 ms (b4)" in lines[1]
    assert "200/s" in lines[1]
    assert lines[3].endswith("timeout: no answer within 60 s")
    assert lines[4].endswith("runs no model")


def test_combinations_are_listed_best_first() -> None:
    assert plain(combinations_table(profile(), "top1")).splitlines()[1] == "read=good    0.9000  0.8500..0.9500  50"
