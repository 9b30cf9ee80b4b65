"""Plans: the same plan gives the same bytes, reads back equal, and belongs to its workload."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

from inferplan.spec import plan as plan_document
from inferplan.spec.document import load_workload
from inferplan.spec.errors import DocumentError, InputError
from inferplan.spec.plan import Plan, dump_plan, load_plan, read_plan, write_plan
from inferplan.spec.types import Record

SHA = "0" * 64
MODELS = {name: hashlib.sha256(b"model " + name.encode()).hexdigest() for name in ("small", "only")}
PREDICTED = {"load_rps": 40.0, "capacity_rps": 100.0, "utilisation": 0.4, "batch_mean": 1.0} | {
    "latency_mean_s": 0.01,
    "latency_tail_s": 0.0123456789,
}


def plan_data(workload_sha256: str = SHA) -> dict[str, Any]:
    def option(stage: str, variant: str) -> dict[str, Any]:
        return {
            "stage": stage,
            "variant": variant,
            "runtime": "onnxruntime",
            "provider": "cpu",
            "device": "edge/cpu",
            "model_sha256": MODELS[variant],
            "threads": 1,
            "max_batch": 4,
            "max_queue_delay_s": 0.0,
            "replicas": 1,
            "predicted": PREDICTED,
        }

    estimate = {"value": 0.05, "lower": 0.04, "upper": 0.06}
    predicted = dict.fromkeys(("latency_mean_s", "latency_p50_s", "latency_p90_s", "latency_p99_s"), estimate)
    return {
        "name": "shop",
        "workload": {"path": "workload.yaml", "sha256": workload_sha256},
        "profile": {"sha256": SHA, "fingerprints": ["f"]},
        "objective": "minimize cost",
        "cost_usd_per_h": 0.1,
        "proof": {"solver": "HiGHS", "status": "optimal", "objective": 0.1, "bound": 0.1, "gap": 0.0},
        "classes": {
            "web": {
                "rate_rps": 40.0,
                "routes": {
                    "find": [{"option": "find-small", "share": 1.0}],
                    "read": [{"option": "read-only", "share": 1.0}],
                },
                "predicted": {**predicted, "throughput_rps": 40.0},
            }
        },
        "options": {"find-small": option("find", "small"), "read-only": option("read", "only")},
        "machines": {
            "edge/cpu": {
                "count": 2,
                "price_usd_per_h": 0.1,
                "packing": [
                    [{"option": "find-small", "replicas": 1}],
                    [{"option": "read-only", "replicas": 1}],
                ],
            }
        },
    }


def test_a_plan_survives_writing_and_reading(tmp_path: Path) -> None:
    plan = Plan.model_validate(plan_data())
    write_plan(plan, tmp_path / "plan.yaml")
    again = read_plan(tmp_path / "plan.yaml")
    assert dump_plan(again) == (tmp_path / "plan.yaml").read_text()
    assert again.options["find-small"].predicted.latency_tail_s == 0.012346, "durations are rounded to a microsecond"
    assert list(tmp_path.iterdir()) == [tmp_path / "plan.yaml"], "no temporary file stays behind"


def test_what_a_link_leads_to_is_written_and_the_link_stays(tmp_path: Path) -> None:
    """So it is with /dev/stdout, which must not become a file."""
    (tmp_path / "link").symlink_to(tmp_path / "plan.yaml")
    plan = Plan.model_validate(plan_data())
    for _ in range(2):
        write_plan(plan, tmp_path / "link")
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "plan.yaml").read_text() == dump_plan(plan)


def test_what_is_unknown_in_a_plan_is_left_out_and_reads_back(tmp_path: Path) -> None:
    alternative = {"variants": {"find": "large"}, "reason": "not measured"}
    plan = Plan.model_validate(plan_data() | {"alternatives": [alternative]})
    write_plan(plan, tmp_path / "plan.yaml")
    assert "null" not in (tmp_path / "plan.yaml").read_text()
    assert read_plan(tmp_path / "plan.yaml").alternatives[0].accuracy is None


def test_every_field_that_may_be_unknown_may_be_left_out() -> None:
    records = [r for r in vars(plan_document).values() if isinstance(r, type) and issubclass(r, Record)]
    assert Plan in records
    for record in records:
        for name, field in record.model_fields.items():
            if type(None) in get_args(field.annotation):
                assert not field.is_required(), f"{record.__name__}.{name}"


def test_the_order_of_mappings_does_not_change_the_bytes() -> None:
    data = plan_data()
    turned = copy.deepcopy(data)
    turned["options"] = dict(reversed(turned["options"].items()))
    turned["classes"]["web"]["routes"] = dict(reversed(turned["classes"]["web"]["routes"].items()))
    assert dump_plan(Plan.model_validate(data)) == dump_plan(Plan.model_validate(turned))


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        (("options", "find-small", "replicas"), 2, "find-small has 2 replicas, 1 are placed"),
        (("machines", "edge/cpu", "count"), 3, "packing lists 2 machines; count is 3"),
        (("classes", "web", "routes", "find", 0, "option"), "gone", "unknown option 'gone'"),
        (("classes", "web", "routes", "find", 0, "option"), "read-only", "is of stage read"),
        (("classes", "web", "routes", "find", 0, "share"), 0.5, "shares must add up to 1"),
        (("options", "find-small", "device"), "edge/other", "is for another device"),
        (("options", "find-small", "model_sha256"), "../../etc/passwd", "not allowed here"),
        (("options", "find-small", "variant"), "../../etc", "a name is 1 to 64"),
        (("options", "find-small", "threads"), "1; rm -rf /", "expected a whole number"),
        (("name",), "a\nb: c", "a name is 1 to 64"),
    ],
)
def test_a_plan_that_contradicts_itself_is_refused(
    tmp_path: Path, path: tuple[str | int, ...], value: object, expected: str
) -> None:
    data = plan_data()
    node: Any = data
    for part in path[:-1]:
        node = node[part]
    node[path[-1]] = value
    file = tmp_path / "plan.yaml"
    file.write_text(_yaml(data))
    with pytest.raises(DocumentError, match=expected):
        read_plan(file)


def _yaml(data: dict[str, Any]) -> str:
    import yaml

    return yaml.safe_dump({"apiVersion": "inferplan/v1", "kind": "Plan", **data})


def test_a_plan_finds_its_workload_and_notices_a_change(write_workload: Callable[..., Path], tmp_path: Path) -> None:
    workload = write_workload()
    data = plan_data(load_workload(workload).sha256)
    write_plan(Plan.model_validate(data), tmp_path / "plan.yaml")
    assert load_plan(tmp_path / "plan.yaml").workload.workload.name == "shop"
    workload.write_text(workload.read_text().replace("floor: 0.8", "floor: 0.9"))
    with pytest.raises(InputError, match="another version"):
        load_plan(tmp_path / "plan.yaml")


def test_a_plan_of_unknown_variants_is_refused(write_workload: Callable[..., Path], tmp_path: Path) -> None:
    data = plan_data(load_workload(write_workload()).sha256)
    data["options"]["find-small"]["variant"] = "huge"
    write_plan(Plan.model_validate(data), tmp_path / "plan.yaml")
    with pytest.raises(InputError, match="does not have"):
        load_plan(tmp_path / "plan.yaml")


def test_machines_of_an_unknown_device_are_refused(write_workload: Callable[..., Path], tmp_path: Path) -> None:
    data = plan_data(load_workload(write_workload()).sha256)
    data["machines"]["edge/gone"] = {"count": 1, "price_usd_per_h": 0.1, "packing": [[]]}
    write_plan(Plan.model_validate(data), tmp_path / "plan.yaml")
    with pytest.raises(InputError, match="machines are of device 'edge/gone', which the workload does not have"):
        load_plan(tmp_path / "plan.yaml")


def test_a_model_that_changed_since_planning_is_refused(write_workload: Callable[..., Path], tmp_path: Path) -> None:
    data = plan_data(load_workload(write_workload()).sha256)
    write_plan(Plan.model_validate(data), tmp_path / "plan.yaml")
    (tmp_path / "small.onnx").write_bytes(b"another model")
    with pytest.raises(InputError, match=r"small.onnx of option find-small has changed"):
        load_plan(tmp_path / "plan.yaml")
