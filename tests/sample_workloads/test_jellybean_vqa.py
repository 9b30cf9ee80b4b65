"""JellyBean's workload: the optimum at the points of the reference, their plan at their price."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from inferplan.estimators.pricing import Worker, price
from inferplan.solvers.planner import solve
from inferplan.spec.document import load_workload
from inferplan.spec.errors import InfeasibleError
from inferplan.spec.profile import Profile, read_profile

SAMPLE = Path(__file__).parents[2] / "sample_workloads" / "jellybean_vqa"
FILES = {"forward": "workload.yaml", "backward": "workload-backward.yaml"}
LARGE = "wav2vec2-large-960h-lv60-self"


@pytest.fixture(scope="module")
def profile() -> Profile:
    return read_profile(SAMPLE / "jellybean-vqa.profile")


def plan_of(profile: Profile, links: str, rate: float, floor: float, *more: str) -> Any:
    loaded = load_workload(
        SAMPLE / FILES[links], [f"classes.vqa.rate_rps={rate}", f"classes.vqa.accuracy.floor={floor}", *more]
    )
    return solve(loaded, profile, plan_dir=SAMPLE, gap=1e-7)


def reference() -> list[tuple[str, float, float, float]]:
    with (SAMPLE / "reference.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [
        (links, float(row["rate_rps"]), float(row["floor_percent"]), float(row[f"exact_{links}_usd_per_h"]))
        for links in FILES
        for row in rows
        if row["floor_percent"] in ("54.0", "56.0", "57.0", "58.0", "58.3")
    ]


@pytest.mark.parametrize(("links", "rate", "floor", "cost"), reference())
def test_the_optimum_is_that_of_exhaustive_search(
    profile: Profile, links: str, rate: float, floor: float, cost: float
) -> None:
    plan = plan_of(profile, links, rate, floor)
    assert plan.cost_usd_per_h == pytest.approx(cost, abs=1e-6)
    assert (plan.proof.status, plan.proof.gap) == ("optimal", 0.0)
    accuracy = plan.classes["vqa"].predicted.accuracy
    assert accuracy.value >= floor
    assert plan.certificate.verdict == "met"


def test_their_published_plan_costs_what_they_say(profile: Profile) -> None:
    """Their optimiser fills workers in the order it lists them."""
    workers = [
        *(Worker("image", "resnet18", f"edge/{name}") for name in ("cpu-1", "cpu-2", "cpu-5")),
        *(Worker("speech", LARGE, device) for device in ("cloud/gpu-1", "edge/cpu-3")),
        Worker("answer", "vqa", "cloud/cpu-6"),
    ]
    workload = load_workload(SAMPLE / FILES["forward"]).workload
    found = price(workload, profile, workers, {worker.device: 1 for worker in workers}, "in_order")
    assert found.machines_usd_per_h == pytest.approx(6.242, abs=1e-12)
    assert found.traffic.cost_usd_per_h == pytest.approx(1.2667783071018048, abs=1e-12)
    assert found.spare >= 1
    assert price(workload, profile, workers, {}).traffic.cost_usd_per_h < found.traffic.cost_usd_per_h


def test_knowing_tiers_never_costs_more(profile: Profile) -> None:
    for rate, floor in ((40, 57.0), (40, 58.3)):
        plain, aware = (plan_of(profile, "forward", rate, floor, *more) for more in ((), ("routing=tier_aware",)))
        assert aware.cost_usd_per_h <= plain.cost_usd_per_h + 1e-9
        assert aware.proof.status == "optimal"


def test_beyond_all_workers_there_is_no_plan(profile: Profile) -> None:
    with pytest.raises(InfeasibleError, match="floor") as caught:
        plan_of(profile, "forward", 100.0, 58.3)
    helps = "would help: tiers.cloud.devices.gpu-1.count (1): at least 5"
    assert any(line.startswith(helps) for line in caught.value.details)
    with pytest.raises(InfeasibleError, match=r"accuracy.floor \(59\) cannot be kept"):
        plan_of(profile, "forward", 10.0, 59)


def test_the_command_works_out_of_the_box(capsys: pytest.CaptureFixture[str]) -> None:
    from inferplan.cli.main import run_command

    code = run_command(
        ["solve", str(SAMPLE / "workload.yaml"), "--set", "classes.vqa.rate_rps=40", "--set",
         "classes.vqa.accuracy.floor=56.0", "--json"]
    )  # fmt: skip
    said = json.loads(capsys.readouterr().out)
    assert (code, said["status"]) == (0, "optimal")
    assert said["cost_usd_per_h"] == pytest.approx(7.485018, abs=1e-6)
