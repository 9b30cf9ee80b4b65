"""What to measure next: the most error that a plan could be spared, and commands that are commands."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import typer.main
from latency_cases import BATCHES, profile, row, rows, workload

from inferplan.estimators.latency import latency_models
from inferplan.estimators.latency_needs import Need, needs
from inferplan.estimators.observations import interpolated, observe
from inferplan.estimators.points import read_points
from inferplan.spec.rows import AccuracyRow, Measurement


@pytest.fixture
def found(tmp_path: Path):  # type: ignore[no-untyped-def]
    def ask(*measured: Measurement, accuracy: tuple[AccuracyRow, ...] = (), every: bool = False) -> list[Need]:
        whole = workload(tmp_path)
        variants = {made.key.variant: {"model": "model.onnx"} for made in measured}
        only = {"pipeline": {"stages": {"s": {"metric": {"name": "top1"}, "variants": variants}}}}
        spec = whole if every else workload(tmp_path, **only)
        store = profile(tmp_path, *measured, accuracy=accuracy)
        points = read_points(spec, store, lambda key: None)
        guesses = interpolated(points)
        return needs(spec, store, latency_models(observe(points, lambda key: None), 0.15, guesses))

    return ask


def time_s(batch: float) -> float:
    return 0.001 * (1 + batch)


def test_exact_and_complete_profiles_need_nothing(found) -> None:  # type: ignore[no-untyped-def]
    assert found(*rows("a", time_s, half=0.001), *rows("b", time_s, half=0.001)) == []


def test_what_was_never_measured_comes_first_then_what_is_noisy(found) -> None:  # type: ignore[no-untyped-def]
    noisy = [row("a", batch, time_s(batch), half=0.3 if batch == 8 else 0.002) for batch in BATCHES]
    told = found(*noisy, row("b", 1, time_s(1), half=0.002))
    assert {(need.deed, need.batch) for need in told if need.error is None} == {("measure", b) for b in (2, 4, 8, 16)}
    last = told[-1]
    assert (last.deed, last.batch, last.choices, last.gain) == ("measure longer", 8, ("a",), pytest.approx(0.15))
    assert "--confidence 0.995" in last.command


def test_what_no_plan_can_use_is_not_asked_for(found) -> None:  # type: ignore[no-untyped-def]
    slow = [row("a", batch, 0.03 * batch, half=0.3) for batch in BATCHES]
    assert {need.batch for need in found(*slow)} == {1, 2}  # 4 takes longer than any promise: 120 ms of 100


def test_choices_that_another_beats_are_not_asked_for(found) -> None:  # type: ignore[no-untyped-def]
    noisy = [
        made for name, k in (("a", 1.0), ("b", 2.0)) for made in rows(name, lambda b, k=k: k * time_s(b), half=0.3)
    ]

    def accuracy(choice: str, lower: float, upper: float) -> AccuracyRow:
        return AccuracyRow("stage", "s", choice, "{}", "", "top1", (lower + upper) / 2, lower, upper, 99, "wilson", "e")

    assert {c for need in found(*noisy) for c in need.choices} == {"a", "b"}
    clear = (accuracy("a", 0.8, 0.9), accuracy("b", 0.6, 0.7))
    assert {c for need in found(*noisy, accuracy=clear) for c in need.choices} == {"a"}
    close = (accuracy("a", 0.8, 0.9), accuracy("b", 0.75, 0.85))
    assert {c for need in found(*noisy, accuracy=close) for c in need.choices} == {"a", "b"}


def test_commands_are_understood_by_the_command_line(found) -> None:  # type: ignore[no-untyped-def]
    from inferplan.cli.profile_group import MEASURE, app

    measure = typer.main.get_command(app).commands[MEASURE]  # type: ignore[attr-defined]
    for need in found(*[row("a", batch, time_s(batch), half=0.3) for batch in (1, 2, 4)]):
        words = shlex.split(need.command)
        assert words[:2] == ["inferplan", "profile"]
        given = measure.make_context("profile", words[2:]).params
        assert f"profile.batch_sizes=[{need.batch}]" in given["set_"]


def test_interpolated_points_are_asked_for_by_their_interval(found) -> None:  # type: ignore[no-untyped-def]
    exact = [row("a", batch, time_s(batch), half=0.002) for batch in (1, 2, 4, 16)]
    (need,) = found(*exact, row("a", 8, time_s(8), half=0.2, origin="interpolated", n=0))
    assert (need.deed, need.batch, need.error) == ("measure", 8, pytest.approx(0.2))


def test_choices_and_threads_without_a_point_are_asked_for(found) -> None:  # type: ignore[no-untyped-def]
    told = found(*rows("a", time_s, half=0.001), *rows("b", time_s, half=0.001, threads=2), every=True)
    assert {(need.threads, need.batch) for need in told} == {(1, batch) for batch in BATCHES}
    assert {need.choices for need in told} == {("b", "c", "m@acc", "m@acc+gyro", "m@gyro")}
