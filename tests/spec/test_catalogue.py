"""Price catalogues: where a device's prices and sizes come from, and how old they are."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from inferplan.spec.catalogue import Catalogue, read_catalogue, stale_notes
from inferplan.spec.document import LoadedWorkload, load_workload
from inferplan.spec.errors import DocumentError

EXAMPLE = Path(__file__).resolve().parents[2] / "sample_workloads" / "catalogues" / "example.yaml"
GIB = 2**30
CPU = "cpu: {price_usd_per_h: 0.1, cores: 2, reserved_cores: 1, count: 3}"
CATALOGUE: dict[str, Any] = {
    "apiVersion": "inferplan/v1",
    "kind": "Catalogue",
    "name": "mine",
    "date": "2026-01-01",
    "instances": {
        "box.large": {
            "provider": "acme",
            "region": "north",
            "cores": 4,
            "memory_bytes": 8 * GIB,
            "on_demand_per_h": 0.2,
            "reserved_per_h": {"1y": 0.15, "3y": 0.1},
            "spot": {"price_per_h": 0.05, "interruptions_per_h": 0.01},
            "start_s": 60.0,
            "power_w": 80.0,
            "idle_power_w": 20.0,
            "carbon_g_per_kwh": 400.0,
            "source": "price page",
        },
        "gpu.one": {
            "provider": "acme",
            "region": "north",
            "cores": 8,
            "gpus": 1,
            "gpu_memory_bytes": 16 * GIB,
            "spot": {"price_per_h": 0.4},
            "source": "price page",
            "date": "2025-01-01",
        },
        "gpu.four": {
            "provider": "acme",
            "region": "north",
            "cores": 8,
            "gpus": 4,
            "on_demand_per_h": 4.0,
            "source": "x",
        },
    },
}
Load = Callable[..., LoadedWorkload]


@pytest.fixture
def load(write_workload: Callable[..., Path], tmp_path: Path) -> Load:
    """Load the workload with another device, and a catalogue changed as given."""

    def loading(device: str, *overrides: str, **changes: Any) -> LoadedWorkload:
        (tmp_path / "prices.yaml").write_text(yaml.safe_dump({**CATALOGUE, **changes}))
        path = write_workload((CPU, f"cpu: {device}"), ("name: shop", "name: shop\ncatalogues: [prices.yaml]"))
        return load_workload(path, overrides)

    return loading


def device_of(loaded: LoadedWorkload) -> Any:
    return loaded.workload.tiers["edge"].devices["cpu"]


def test_a_device_takes_sizes_and_price_from_its_instance(load: Load) -> None:
    device = device_of(load("{instance: mine/box.large, reserved_cores: 1}"))
    assert (device.kind, device.cores, device.memory_bytes, device.price_usd_per_h) == ("cpu", 4, 8 * GIB, 0.2)
    assert (device.power_w, device.idle_power_w, device.start_s, device.carbon_g_per_kwh) == (80.0, 20.0, 60.0, 400.0)
    assert device.interruptions_per_h == 0.0


def test_what_the_device_says_itself_comes_first(load: Load) -> None:
    device = device_of(load("{instance: mine/box.large, cores: 2, price_usd_per_h: 0.3, purchase: spot}"))
    assert (device.cores, device.price_usd_per_h, device.interruptions_per_h) == (2, 0.3, 0.01)
    own = device_of(load("{instance: mine/box.large, power_w: 10.0}"))
    assert (own.power_w, own.idle_power_w) == (10.0, None)


@pytest.mark.parametrize(
    ("how", "price"),
    [
        ("purchase: on_demand", 0.2),
        ("purchase: reserved, term: 1y", 0.15),
        ("purchase: reserved, term: 3y", 0.1),
        ("purchase: spot", 0.05),
    ],
)
def test_the_price_is_that_of_the_purchase(load: Load, how: str, price: float) -> None:
    assert device_of(load(f"{{instance: mine/box.large, {how}}}")).price_usd_per_h == price


def test_a_machine_may_have_several_gpus(load: Load) -> None:
    device = device_of(load("{instance: mine/gpu.four}"))
    assert (device.kind, device.gpus, device.gpu_count) == ("gpu", 4, 4)
    assert device_of(load("{instance: mine/gpu.one, price_usd_per_h: 1}")).gpu_count == 1
    assert device_of(load("{instance: mine/gpu.four, kind: cpu}")).gpu_count == 0
    assert device_of(load("{instance: mine/gpu.four, gpus: 2}")).gpu_count == 2


def test_other_currencies_become_dollars(load: Load) -> None:
    loaded = load("{instance: mine/box.large}", currency="EUR", usd_per_unit=1.1)
    assert device_of(loaded).price_usd_per_h == pytest.approx(0.22)


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ("{instance: other/box.large}", "there is no catalogue 'other'; there are: mine"),
        ("{instance: mine/box.larg}", "catalogue mine has no 'box.larg'; did you mean 'box.large'?"),
        ("{instance: mine/gpu.one}", "gpu.one has no on-demand price"),
        ("{instance: mine/box.large, purchase: reserved}", "is reserved for 1y, 3y: name one of them as 'term'"),
        ("{instance: mine/gpu.one, purchase: spot}", "give interruptions_per_h"),
        ("{price_usd_per_h: 0.1, cores: 2, purchase: spot}", "give interruptions_per_h"),
        ("{instance: mine/box.large, term: 1y}", "a term belongs to purchase: reserved"),
        ("{instance: nothing}", "expected catalogue/type"),
        ("{cores: 2, price_usd_per_h: 1, gpus: 2}", "only machines of kind gpu have GPUs"),
        ("{cores: 2}", "missing field 'price_usd_per_h'"),
    ],
)
def test_what_cannot_be_bought_is_named_with_its_line(load: Load, device: str, expected: str) -> None:
    with pytest.raises(DocumentError) as caught:
        load(device)
    found = [problem for problem in caught.value.problems if expected in problem.message]
    assert found, caught.value.details
    assert found[0].line > 1
    assert found[0].file.endswith("workload.yaml")


def test_a_wrong_value_of_the_catalogue_is_named_there(load: Load) -> None:
    instances = {"box.large": {**CATALOGUE["instances"]["box.large"], "cores": "many"}}
    with pytest.raises(DocumentError) as caught:
        load("{instance: mine/box.large}", instances=instances)
    (problem,) = caught.value.problems
    assert problem.file.endswith("prices.yaml")
    assert problem.field == "instances.box.large.cores"
    assert problem.line > 1


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"date": "last week"}, "expected a date as YYYY-MM-DD"),
        ({"currency": "EUR"}, "prices in EUR need usd_per_unit"),
        ({"instances": {"x": {"provider": "a", "region": "b", "cores": 1, "source": "s"}}}, "give at least one of"),
    ],
)
def test_a_wrong_catalogue_says_what_is_wrong(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text(yaml.safe_dump({**CATALOGUE, **changes}))
    with pytest.raises(DocumentError) as caught:
        read_catalogue(path)
    assert any(expected in line for line in caught.value.details), caught.value.details


def test_prices_are_part_of_what_was_planned(load: Load) -> None:
    """Another price is another workload: a plan made for the old one is told apart."""
    before = load("{instance: mine/box.large}")
    assert before.sha256 == load("{instance: mine/box.large}").sha256
    assert before.sha256 != load("{instance: mine/box.large}", date="2026-01-02").sha256


def test_an_included_file_brings_its_catalogue(write_workload: Callable[..., Path], tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    (folder / "prices.yaml").write_text(yaml.safe_dump(CATALOGUE))
    (folder / "tiers.yaml").write_text(
        "catalogues: [prices.yaml]\ntiers: {edge: {devices: {cpu: {instance: mine/box.large}}}}\n"
    )
    path = write_workload(
        ("name: shop", "name: shop\ninclude: [shared/tiers.yaml]"), (f"      {CPU}\n", "      cpu: {count: 2}\n")
    )
    loaded = load_workload(path)
    assert (device_of(loaded).price_usd_per_h, device_of(loaded).count) == (0.2, 2)
    assert [catalogue.name for catalogue in loaded.catalogues] == ["mine"]


def test_old_figures_are_noted_by_entry() -> None:
    catalogue = Catalogue.model_validate(CATALOGUE)
    used = ("mine/box.large", "mine/gpu.one")
    assert stale_notes((catalogue,), used, datetime.date(2025, 3, 1)) == []
    (old,) = stale_notes((catalogue,), used, datetime.date(2026, 2, 1))
    assert old == "prices of mine/gpu.one are of 2025-01-01, 396 days old: check them"
    assert len(stale_notes((catalogue,), used, datetime.date(2027, 1, 1))) == 2


def test_the_example_is_right_and_says_that_it_is_one() -> None:
    catalogue = read_catalogue(EXAMPLE)
    assert len(catalogue.instances) >= 12
    assert {entry.provider for entry in catalogue.instances.values()} == {"aws", "gcp", "azure"}
    assert "not verified" in catalogue.description
    assert all(entry.source.startswith("https://") for entry in catalogue.instances.values())
