"""Compose exports: a service per machine with just its replicas, checked by schema and by our own rules."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from inferplan.exporters.compose import export_compose
from inferplan.exporters.compose_check import check_compose, cpus_of
from inferplan.exporters.triton_lint import lint_repository
from inferplan.spec.errors import CheckFailedError


@pytest.fixture
def exported(fan: Any, fan_options: Any, make_plan: Callable[..., Any], tmp_path: Path) -> Path:
    """Two machines: everything on the first, further readers on the second."""
    plan = make_plan(fan, fan_options, {"edge/cpu": [{"split-only": 1, "read-only": 1}, {"read-only": 2}]})
    export_compose(plan, fan, tmp_path / "out")
    return tmp_path / "out"


def test_it_is_written_as_the_golden_export(exported: Path, golden: Any) -> None:
    golden("compose-fan", exported)


def test_every_machine_has_its_replicas_and_no_others(exported: Path) -> None:
    first, second = (exported / f"machines/edge-cpu-{index}" for index in (0, 1))
    assert lint_repository(first).models == ("fan", "read-only", "split-only")
    assert lint_repository(second).models == ("fan", "read-only")
    assert "count: 1" in (first / "read-only/config.pbtxt").read_text()
    assert "count: 2" in (second / "read-only/config.pbtxt").read_text()


def test_services_have_the_limits_of_their_machines(exported: Path) -> None:
    services = yaml.safe_load((exported / "compose.yaml").read_text())["services"]
    assert sorted(services) == ["edge-cpu-0", "edge-cpu-1"]
    for service in services.values():
        assert service["cpus"] == 4
        assert service["mem_limit"] == 2**31
        assert isinstance(service["command"], list), "no shell reads it"
    assert [cpus_of(service["cpuset"]) for service in services.values()] == [{0, 1, 2, 3}, {4, 5, 6, 7}]


def test_gpus_are_reserved_on_machines_that_have_them(
    chain: Any, make_plan: Callable[..., Any], tmp_path: Path
) -> None:
    options = {
        name: {"stage": name, "variant": "only", "provider": "cuda", "device": "edge/gpu"} for name in ("double", "add")
    }
    export_compose(make_plan(chain, options, {"edge/gpu": [{"double": 1, "add": 1}]}), chain, tmp_path / "out")
    (service,) = yaml.safe_load((tmp_path / "out/compose.yaml").read_text())["services"].values()
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}


def test_replicas_are_spread_over_the_gpus_of_their_machine(
    chain: Any, make_plan: Callable[..., Any], tmp_path: Path
) -> None:
    tier = chain.tiers["edge"]
    four = {"gpu": tier.devices["gpu"].model_copy(update={"gpus": 4})}
    workload = chain.model_copy(update={"tiers": {"edge": tier.model_copy(update={"devices": four})}})
    options = {
        name: {"stage": name, "variant": "only", "provider": "cuda", "device": "edge/gpu"} for name in ("double", "add")
    }
    plan = make_plan(workload, options, {"edge/gpu": [{"double": 1, "add": 2}, {"add": 3}]})
    export_compose(plan, workload, tmp_path / "out")
    services = yaml.safe_load((tmp_path / "out/compose.yaml").read_text())["services"]
    counts = [s["deploy"]["resources"]["reservations"]["devices"][0]["count"] for s in services.values()]
    assert counts == [4, 4]
    first, second = (tmp_path / f"out/machines/edge-gpu-{index}" for index in (0, 1))
    assert "count: 1\n    gpus: [ 0 ]" in (first / "double/config.pbtxt").read_text()
    assert "count: 1\n    gpus: [ 1, 2 ]" in (first / "add/config.pbtxt").read_text()
    assert "count: 1\n    gpus: [ 0, 1, 2 ]" in (second / "add/config.pbtxt").read_text()
    assert lint_repository(first).findings == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s["edge-cpu-0"].update(cpus={}), r"services\.edge-cpu-0"),
        (lambda s: s["edge-cpu-0"].update(colour="red"), "colour"),
        (lambda s: s["edge-cpu-0"].update(depends_on=["gone"]), "there is no service 'gone'"),
        (lambda s: s["edge-cpu-0"].update(networks=["gone"]), "there is no network 'gone'"),
        (lambda s: s["edge-cpu-1"]["ports"][0].update(published="8000"), "host port 8000 is published 2 times"),
        (lambda s: s["edge-cpu-1"].update(cpuset="3-6"), "CPU 3 belongs to several services"),
        (lambda s: s["edge-cpu-0"]["volumes"][0].update(source="./gone"), "there is no folder './gone'"),
        (lambda s: s["edge-cpu-0"]["volumes"][0].update(source="/etc"), "there is no folder '/etc'"),
        (lambda s: s["edge-cpu-0"]["volumes"][0].update(read_only=False), "is not mounted read-only"),
        (lambda s: s["edge-cpu-0"].update(volumes=["/:/host"]), "is not a bind mount written out"),
        (lambda s: s["edge-cpu-0"].update(hostname="$HOSTNAME"), "without a default"),
        (lambda s: s["edge-cpu-0"].update(hostname="${A:-${B}}"), "without a default"),
    ],
)
def test_what_is_not_sound_is_found(exported: Path, change: Callable[[dict[str, Any]], None], message: str) -> None:
    document = yaml.safe_load((exported / "compose.yaml").read_text())
    change(document["services"])
    (exported / "compose.yaml").write_text(yaml.safe_dump(document))
    with pytest.raises(CheckFailedError, match=message):
        check_compose(exported / "compose.yaml")
