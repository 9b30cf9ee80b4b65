"""The models as people read them, to the letter."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from latency_cases import profile, row, rows, workload

from inferplan.estimators.interference import Disturbance, Interference, Tenant
from inferplan.estimators.latency import latency_models
from inferplan.estimators.latency_checks import Finding, findings
from inferplan.estimators.latency_needs import needs
from inferplan.estimators.observations import interpolated, observe
from inferplan.estimators.points import read_points
from inferplan.reports.latency_report import LatencyReport, finding_lines, latency_section
from inferplan.reports.sections import Section
from inferplan.reports.tables import plain
from inferplan.spec.rows import Measurement


def wobbly(scale: float) -> Callable[[float], float]:
    """Affine times, a little off by a pattern that is the same every time."""
    return lambda batch: scale * (1 + batch) * (1 + 0.03 * math.sin(batch + 1e4 * scale))


MEASURED = (
    *rows("a", wobbly(0.001), half=0.04),
    *rows("b", wobbly(0.002), half=0.04),
    *rows("m@acc", wobbly(0.0005), (1, 2, 4), half=0.04),
    row("m@acc", 8, 0.0045, half=0.1, origin="interpolated", n=0),
    row("m@gyro", 4, 0.003, half=0.2),
    *rows(
        "c", wobbly(0.004), (1, 4, 16), origin="imported", n=0, source="csv t.csv", device_fingerprint="imported:csv"
    ),
)


def section(root: Path, *measured: Measurement, points: bool = False) -> Section:
    spec, store = workload(root), profile(root, *measured)
    found = read_points(spec, store, lambda key: None)
    models = latency_models(observe(found, lambda key: None), spec.profile.tolerance, interpolated(found))
    report = LatencyReport(
        models,
        Interference((Disturbance(Tenant("s", "a", "t/d", 1, 1), Tenant("s", "a", "t/d", 1, 1), 1, 1.2),)),
        findings(spec, store, found, models),
        needs(spec, store, models),
        spec.profile.batch_sizes,
    )
    return latency_section(report, points)


def text(shown: Section) -> str:
    parts = []
    for block in shown.blocks:
        parts += [block.heading] if block.heading else []
        parts += [plain(block.table)] if block.table is not None else []
        parts += block.lines
    return "\n".join(parts) + "\n"


GOLDEN = Path(__file__).with_name("latency_section.txt")


def test_the_section_says_fit_errors_ranges_troubles_and_needs(tmp_path: Path) -> None:
    assert text(section(tmp_path, *MEASURED)) == GOLDEN.read_text()


def test_points_are_listed_with_what_is_predicted_without_them(tmp_path: Path) -> None:
    lines = text(section(tmp_path, *MEASURED, points=True)).splitlines()
    assert (
        "choice  threads  batch     mean  interval              std  p90  p99  basis         without it   error"
        in lines
    )
    (measured,) = [line for line in lines if line.startswith("a             1      8")]
    assert measured.endswith("measured         9.26 ms  +5.3 %")
    assert any("c             1      8" in line and " fitted " in line for line in lines)
    assert any("m@acc         1      8  4.50 ms  4.05 ms..4.95 ms" in line and "interpolated" in line for line in lines)


def test_extrapolation_is_flagged(tmp_path: Path) -> None:
    exact = [made for name in ("a", "b", "c") for t in (1, 2, 3) for made in rows(name, wobbly(0.001 * t), threads=t)]
    shown = text(section(tmp_path, *exact))
    assert "+ extrapolated up to 2 times the largest measured batch; refused beyond" in shown
    assert shown.count("32+") == 9
    assert " 32 " not in shown
    points = text(section(tmp_path, *exact, points=True))
    assert points.count("extrapolated       ") == 9


def test_findings_that_are_alike_are_not_listed_without_end() -> None:
    many = [Finding("stale", "s", f"s/v{index}", "another machine: not used", "again") for index in range(9)]
    lines = finding_lines([*many, Finding("failed", "s", "s/x", "it crashed", "mend it")])
    assert lines[2:] == [
        "stale: s/v2: another machine: not used",
        "stale: and 6 more places of s like it",
        "  -> again",
        "failed: s/x: it crashed",
        "  -> mend it",
    ]


def test_the_json_says_everything(tmp_path: Path) -> None:
    data = section(tmp_path, *MEASURED).data
    assert set(data) == {"errors", "stages", "interference", "findings", "needs"}
    (stage,) = data["stages"]
    assert stage["fit"] == "affine"
    assert stage["errors"]["all"]["n"] == data["errors"]["n"] == 16
    series = {(one["choice"], one["threads"]): one for one in stage["series"]}
    assert series["m@acc", 1]["largest_measured_batch"] == 4
    assert series["m@acc", 1]["largest_batch"] == 8
    assert {one["kind"] for one in series["a", 1]["left_out"]} == {"lower", "interior", "upper"}
    assert all(one["command"].startswith("inferplan profile W ") for one in data["needs"])
