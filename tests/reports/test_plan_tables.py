"""Plans as tables: what was chosen, what it rests on, what its neighbours do to it."""

from __future__ import annotations

from typing import Any

import pytest

from inferplan.reports.plan_tables import basis_lines, options_table
from inferplan.spec.plan import Plan

SHA = "0" * 64


@pytest.fixture
def document() -> dict[str, Any]:
    latency = {name: {"value": 0.01} for name in ("latency_mean_s", "latency_p50_s", "latency_p90_s", "latency_p99_s")}
    predicted = {
        "load_rps": 1.0, "capacity_rps": 9.0, "utilisation": 0.1, "batch_mean": 1.0, "latency_mean_s": 0.01,
        "latency_tail_s": 0.02,
    }  # fmt: skip
    option = {
        "stage": "s", "variant": "m", "modalities": ["acc", "gyro"], "runtime": "onnxruntime", "provider": "openvino",
        "device": "edge/cpu", "model_sha256": SHA, "threads": 1, "max_batch": 1, "max_queue_delay_s": 0.0,
        "replicas": 1, "predicted": predicted,
    }  # fmt: skip
    return {
        "name": "p",
        "workload": {"path": "w.yaml", "sha256": SHA},
        "profile": {"sha256": SHA, "fingerprints": []},
        "objective": "minimize cost",
        "cost_usd_per_h": 0.1,
        "proof": {"solver": "HiGHS", "status": "optimal", "objective": 0.1, "bound": 0.1, "gap": 0.0},
        "classes": {
            "c": {
                "rate_rps": 1.0,
                "routes": {"s": [{"option": "s-m", "share": 1.0}]},
                "predicted": {**latency, "throughput_rps": 1.0},
            }
        },
        "options": {"s-m": option},
        "machines": {"edge/cpu": {"count": 1, "price_usd_per_h": 0.1, "packing": [[{"option": "s-m", "replicas": 1}]]}},
    }


def cells(plan: Plan) -> dict[str, str]:
    table = options_table(plan)
    return dict(zip([column.title for column in table.columns], table.rows[0], strict=True))


def test_an_option_is_named_with_its_modalities_and_its_provider(document: dict[str, Any]) -> None:
    shown = cells(Plan.model_validate(document))
    assert shown["variant"] == "m@acc+gyro"
    assert shown["device"] == "edge/cpu openvino"
    assert "neighbours" not in shown


def test_what_neighbours_do_is_shown_where_it_is_worth_it(document: dict[str, Any]) -> None:
    for factor, text in ((1.005, None), (1.234, "x 1.23")):
        document["options"]["s-m"]["predicted"]["interference"] = factor
        assert cells(Plan.model_validate(document)).get("neighbours") == text


def test_what_a_plan_rests_on_is_said_in_a_line(document: dict[str, Any]) -> None:
    assert basis_lines(Plan.model_validate(document)) == []
    document["profile"] |= {
        "interpolated": [f"s/m, batch {batch}" for batch in range(6)],
        "imported": ["t/v from x.csv"],
        "alone": ["s/m"],
    }
    assert basis_lines(Plan.model_validate(document)) == [
        "Rests on 6 interpolated points: s/m, batch 0; s/m, batch 1; s/m, batch 2; s/m, batch 3; and 2 more",
        "Rests on 1 imported point: t/v from x.csv",
        "Share machines, and were never measured beside others: s/m",
    ]
