"""Plans as tables: what was chosen, what it rests on, what its neighbours do to it."""

from __future__ import annotations

from typing import Any

import pytest

from inferplan.reports.plan_tables import (
    assurance_lines,
    basis_lines,
    choices_table,
    cost_lines,
    machines_table,
    options_table,
    traffic_table,
)
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


def test_costs_energy_and_risk_are_said_where_there_are_any(document: dict[str, Any]) -> None:
    assert cost_lines(Plan.model_validate(document)) == []
    document["costs"] = {"machines_usd_per_h": 0.1, "restarts_usd_per_h": 0.002, "energy_usd_per_h": 0.0}
    tiers = {"edge": {"power_w": 50.0, "carbon_g_per_h": 20.0}}
    document["energy"] = {
        "power_w": 50.0, "energy_kwh_per_h": 0.05, "energy_j_per_request": 50.0, "carbon_g_per_h": 20.0, "tiers": tiers,
    }  # fmt: skip
    document["machines"]["edge/cpu"] |= {"interruptions_per_h": 0.5, "lost_share": 0.024, "share": 0.25}
    document["terms"] = {"cost": {"weight": 2.0, "value": 0.1, "unit": 0.05}}
    plan = Plan.model_validate(document)
    assert cost_lines(plan) == [
        "Cost: machines 0.1 USD/h, restarts 0.002 USD/h",
        "Energy: 50 W, 50.0 J per request, 20 g CO2e/h",
        "Interruptions of edge/cpu: 0.5 per hour expected, 2.4 % of its capacity lost",
        "Weighed: cost 2 x 0.1 / 0.05",
    ]
    assert machines_table(plan).rows[0][1] == "0.1 USD/h by share"


def test_assurance_is_said_with_its_cost_and_what_failed(document: dict[str, Any]) -> None:
    assert assurance_lines(Plan.model_validate(document)) == []
    case = {"name": "load x 2", "rate_scale": 2.0, "verdict": "met", "classes": {}}
    document["assurance"] = {
        "confidence": 0.95, "load_levels": [2.0], "spare_machines": {"edge/cpu": 1}, "headroom": 0.2,
        "plain_cost_usd_per_h": 0.06, "extra_usd_per_h": 0.04,
        "cases": [case, {**case, "name": "edge/cpu: 1 lost", "rate_scale": 1.0, "verdict": "undecided"}],
    }  # fmt: skip
    assert assurance_lines(Plan.model_validate(document)) == [
        "Withstands: bounds at 95 % confidence, load x 2, 1 of edge/cpu lost, headroom 20 %:"
        " 0.04 USD/h more than 0.06 USD/h without",
        "  judged in 2 further cases: 1 met, 1 undecided",
        "  edge/cpu: 1 lost: undecided",
    ]


def test_what_goes_between_tiers_is_a_table(document: dict[str, Any]) -> None:
    assert traffic_table(Plan.model_validate(document)) is None
    flow = {"to": "s", "from_tier": "edge", "to_tier": "cloud", "rate_rps": 2.0, "bytes_per_s": 2048.0}
    within = {**flow, "to_tier": "edge"}
    document["traffic"] = {"routing": "proportional", "cost_usd_per_h": 0.5, "flows": {"c": [
        {**flow, "cost_usd_per_h": 0.5}, within]}}  # fmt: skip
    table = traffic_table(Plan.model_validate(document))
    assert table is not None
    assert table.rows == [["c", "requests -> s", "edge -> cloud", "2.00/s", "2.00 KiB/s", "0.5 USD/h"]]


def test_choices_say_what_a_request_gets(document: dict[str, Any]) -> None:
    assert choices_table(Plan.model_validate(document)) is None
    row = {
        "options": {"s": "s-m"}, "accuracy": 0.9, "latency_s": {"value": 0.01, "upper": 0.02},
        "cost_usd_per_request": 2.5e-6, "classes": ["c"],
    }  # fmt: skip
    document["selection"] = {"percentile": 95.0, "metric": "top1", "rows": [row, {**row, "accuracy": None}]}
    table = choices_table(Plan.model_validate(document))
    assert table is not None
    assert [column.title for column in table.columns] == [
        "variants", "top1", "p95 at most", "per million requests", "planned for",
    ]  # fmt: skip
    assert table.rows[0] == ["s=m@acc+gyro", "0.9000", "20.0 ms", "2.5 USD", "c"]
    assert table.rows[1][1] == "-"


def test_a_table_names_options_of_the_plan(document: dict[str, Any]) -> None:
    row = {"options": {"s": "other"}, "latency_s": {"value": 0.01, "upper": 0.02}, "cost_usd_per_request": 0.0}
    document["selection"] = {"percentile": 99.0, "rows": [row]}
    with pytest.raises(ValueError, match=r"selection\.rows\[0\]: 'other' is no option of stage s"):
        Plan.model_validate(document)
