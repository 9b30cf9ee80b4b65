"""Bad profiles: what is wrong is named, with where it is and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
from latency_cases import profile, row, rows, workload

from inferplan.estimators.latency import latency_models
from inferplan.estimators.latency_checks import Finding, findings
from inferplan.estimators.observations import observe
from inferplan.estimators.points import read_points
from inferplan.spec.rows import Measurement

MISSING = ("c", "m@acc", "m@acc+gyro", "m@gyro")


@pytest.fixture
def found(tmp_path: Path):  # type: ignore[no-untyped-def]
    def check(*measured: Measurement, damaged: tuple[str, ...] = ()) -> list[Finding]:
        spec, store = workload(tmp_path), profile(tmp_path, *measured, damaged=damaged)
        points = read_points(spec, store, lambda key: None)
        models = latency_models(observe(points, lambda key: None), 0.15)
        return findings(spec, store, points, models)

    return check


def time_s(batch: float) -> float:
    return 0.001 * (1 + batch)


def healthy(*without: str) -> list[Measurement]:
    choices = [name for name in ("a", "b", *MISSING) if name not in without]
    return [made for choice in choices for made in rows(choice, time_s, half=0.01)]


def test_a_good_profile_has_nothing_wrong(found) -> None:  # type: ignore[no-untyped-def]
    assert found(*healthy()) == []


def test_missing_choices_and_subsets_are_named(found) -> None:  # type: ignore[no-untyped-def]
    told = found(*healthy("c", "m@gyro"))
    assert [(one.trouble, one.where) for one in told] == [("missing", "s/c"), ("missing", "s/m@gyro")]
    assert "subset" in told[1].what
    assert "subset" not in told[0].what
    assert all("inferplan profile" in one.remedy for one in told)


def test_one_batch_size_has_no_error(found) -> None:  # type: ignore[no-untyped-def]
    (one,) = found(*healthy("a"), row("a", 4, 0.005))
    assert one.trouble == "too few"
    assert "one batch size (4)" in one.what
    assert "profile.batch_sizes=[1,2,4,8]" in one.remedy
    (two,) = found(*healthy("a"), row("a", 4, 0.005), row("a", 8, 0.009))
    assert "two batch sizes (4, 8)" in two.what


def test_a_larger_batch_that_is_faster_beyond_noise_is_a_contradiction(found) -> None:  # type: ignore[no-untyped-def]
    times = {1: 0.002, 2: 0.003, 4: 0.005, 8: 0.004, 16: 0.017}
    (one,) = found(*healthy("a"), *rows("a", times.__getitem__, half=0.05))
    assert (one.trouble, one.where) == ("contradiction", "s/a on t/d, 1 threads")
    assert "batch 8 (4 ms) is faster than batch 4 (5 ms)" in one.what
    assert "profile.batch_sizes=[4,8]" in one.remedy
    assert found(*healthy("a"), *rows("a", times.__getitem__, half=0.3)) == []


def test_rows_of_one_point_that_disagree_are_named(found) -> None:  # type: ignore[no-untyped-def]
    other = row(
        "a", 4, 0.02, origin="imported", source="csv t.csv", n=0, device_fingerprint="imported:csv", measured_at="2025"
    )
    told = found(*healthy(), other)
    contradiction = next(one for one in told if one.trouble == "contradiction")
    assert "csv t.csv" in contradiction.what
    assert "20 ms" in contradiction.what
    assert "5 ms" in contradiction.what
    close = row("a", 4, 0.00501, origin="imported", source="csv", n=0, device_fingerprint="imported:csv")
    assert not [one for one in found(*healthy(), close) if one.trouble == "contradiction"]


def test_rows_of_other_machines_may_differ_and_are_stale(found) -> None:  # type: ignore[no-untyped-def]
    told = found(*healthy(), row("a", 4, 0.02, device_fingerprint="older", measured_at="2025-01-01"))
    assert [one.trouble for one in told] == ["stale"]
    assert "another machine" in told[0].what


def test_stale_failed_censored_and_damaged_rows_are_named(found) -> None:  # type: ignore[no-untyped-def]
    told = found(
        *healthy("a"),
        *rows("a", time_s, (1, 2, 4, 8)),
        row("a", 16, time_s(16), censored=True, throughput_per_s=100.0),
        row("b", 32, 0.1, model="0" * 64),
        damaged=("x.parquet: not a Parquet file",),
    )
    assert [one.trouble for one in told] == ["stale", "censored", "damaged"]
    assert "100/s" in told[1].what
    assert told[2].where == "x.parquet"


def test_rows_of_a_device_that_is_gone_are_named_and_not_modelled(found) -> None:  # type: ignore[no-untyped-def]
    (one,) = found(*healthy(), *rows("a", time_s, (1, 2), device="t/gone"))
    assert (one.trouble, one.where) == ("stale", "s/a on t/gone")
    assert "2 rows of a device that the workload does not have" in one.what


def test_percentiles_that_fall_are_a_contradiction(found) -> None:  # type: ignore[no-untyped-def]
    (one,) = found(*healthy("a"), *rows("a", time_s, (1, 2, 4)), row("a", 8, time_s(8), p90_s=0.02, p99_s=0.01))
    assert "p99 (10 ms) is below p90 (20 ms)" in one.what
