"""Merging: each thing once, the newest; whatever the order; whole or not at all."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from inferplan.profilers.merging import merge
from inferplan.profilers.store import ProfileStore
from inferplan.spec.errors import InputError
from inferplan.spec.profile import Profile, read_profile
from inferplan.spec.rows import AccuracyRow, ExampleScores, HandoffRow, Measurement, Predictions
from inferplan.spec.tables import AnyRow

Rows = Callable[..., list[AnyRow]]


Write = Callable[[ProfileStore, Path, bytes], None]


def dying_after(real: Write, writes: int) -> Write:
    """`real`, for so many writes; then it fails."""
    left = [writes]

    def failing(store: ProfileStore, path: Path, content: bytes) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise InputError("killed")
        real(store, path, content)

    return failing


def content(path: Path) -> Profile:
    return dataclasses.replace(read_profile(path), path=Path())


def machine(row: Measurement, fingerprint: str, when: str) -> Measurement:
    return dataclasses.replace(row, key=dataclasses.replace(row.key, device_fingerprint=fingerprint), measured_at=when)


@pytest.fixture
def inputs(tmp_path: Path, some_rows: Rows, samples_of: Rows) -> list[Path]:
    """Three profiles: a machine of its own each, one point that all have measured, an evaluation each."""
    paths = []
    rows = [row for row in some_rows(2) if isinstance(row, Measurement)]
    accuracy = next(row for row in some_rows(1) if isinstance(row, AccuracyRow))
    for index, name in enumerate("abc"):
        with ProfileStore(tmp_path / name, "w") as store:
            for row in (machine(rows[0], name, "2026-01-01"), machine(rows[1], "shared", f"2026-01-0{index + 1}")):
                store.add_measurement(row, samples_of(row))  # type: ignore[arg-type]
            found = dataclasses.replace(accuracy, measured_at=f"2026-01-0{index + 1}", evidence_sha256=name)
            value = np.full(2, float(index))
            scores = ExampleScores(found.evaluation(), name, ("x", "y"), {"top1": value}, {"top1": np.ones(2)})
            guesses = Predictions(found.evaluation(), name, ("x", "y"), ('"p"', f'"{name}"'), ('"p"', '"q"'))
            store.add_evaluation([found], [], scores, guesses)
        paths.append(tmp_path / name)
    return paths


def test_machines_stand_side_by_side_and_the_newest_counts(tmp_path: Path, inputs: list[Path]) -> None:
    done = merge(tmp_path / "out", inputs)
    profile = read_profile(tmp_path / "out")
    assert {row.key.device_fingerprint for row in profile.measurements} == {"a", "b", "c", "shared"}
    assert done.machines == ("a", "b", "c", "shared")
    assert len(done.conflicts) == 2
    assert {conflict.kept for conflict in done.conflicts} == {inputs[2].resolve()}
    assert all(profile.samples(row.key) is not None for row in profile.measurements)
    scores, guesses = profile.scores(profile.accuracy[0]), profile.predictions(profile.accuracy[0])
    assert scores is not None
    assert scores.values["top1"].tolist() == [2.0, 2.0]
    assert guesses is not None
    assert guesses.predictions == ('"p"', '"c"')
    assert json.loads((tmp_path / "out" / "profile.json").read_text())["workload"] == "w"


def test_what_was_measured_of_one_machine_twice_is_named_whatever_it_is(tmp_path: Path, inputs: list[Path]) -> None:
    for index, path in enumerate(inputs[:2]):
        row = HandoffRow(
            "read", "small", "", "edge/box", "shared", 9, 1e-4 * (index + 1), measured_at=f"2026-01-0{index + 1}"
        )
        with ProfileStore(path, "w") as store:
            store.add_handoff(row)
    done = merge(tmp_path / "out", inputs)
    (kept,) = read_profile(tmp_path / "out").handoffs
    assert kept.handoff_mean_s == 2e-4
    assert "handing over to read on edge/box" in [conflict.name for conflict in done.conflicts]


def test_the_order_does_not_matter_and_again_changes_nothing(tmp_path: Path, inputs: list[Path]) -> None:
    merged = []
    for number, order in enumerate(itertools.permutations(inputs)):
        merge(tmp_path / f"out-{number}", list(order))
        merged.append(content(tmp_path / f"out-{number}"))
    assert all(profile == merged[0] for profile in merged)
    step = tmp_path / "step"
    for path in inputs:
        merge(step, [path])
    assert content(step) == merged[0]
    assert merge(step, inputs).conflicts != ()
    assert content(step) == merged[0]


def test_a_merge_that_dies_leaves_no_half_of_a_profile(
    tmp_path: Path, inputs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ProfileStore._write
    for moment in range(30):
        monkeypatch.setattr(ProfileStore, "_write", dying_after(real, moment))
        try:
            merge(tmp_path / "out", inputs)
        except InputError:
            assert not (tmp_path / "out").exists()
            assert not [entry for entry in tmp_path.iterdir() if entry.name.startswith(".out")]
            continue
        assert moment > 5
        return
    pytest.fail("it never came to an end")


def test_an_existing_profile_is_valid_at_every_moment(
    tmp_path: Path, inputs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    merge(tmp_path / "whole", inputs)
    real = ProfileStore._write
    for moment in range(30):
        out = tmp_path / f"out-{moment}"
        merge(out, inputs[:1])
        monkeypatch.setattr(ProfileStore, "_write", dying_after(real, moment))
        try:
            merge(out, inputs)
            killed = False
        except InputError:
            killed = True
        monkeypatch.setattr(ProfileStore, "_write", real)
        assert len(read_profile(out).measurements) >= 2
        merge(out, inputs)
        assert content(out) == content(tmp_path / "whole")
        if not killed:
            return
    pytest.fail("it never came to an end")


def test_other_workloads_other_versions_and_other_folders_are_refused(tmp_path: Path, inputs: list[Path]) -> None:
    with ProfileStore(tmp_path / "other", "another"):
        pass
    with pytest.raises(InputError, match=r"different workloads \(another, w\)"):
        merge(tmp_path / "out", [*inputs, tmp_path / "other"])
    (tmp_path / "other" / "profile.json").write_text('{"schema_version": 1}')
    with pytest.raises(InputError, match="schema version 1"):
        merge(tmp_path / "out", [*inputs, tmp_path / "other"])
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="no profile at"):
        merge(tmp_path / "notes", inputs)
    with pytest.raises(InputError, match="no profile at"):
        merge(tmp_path / "out", [tmp_path / "nowhere"])
    assert not (tmp_path / "out").exists()


def test_damaged_files_of_an_input_are_named(tmp_path: Path, inputs: list[Path]) -> None:
    samples = sorted((inputs[0] / "samples").iterdir())
    for file in samples:
        file.write_bytes(b"rubbish")
    done = merge(tmp_path / "out", inputs)
    assert len(done.damaged) == 1
    assert str(samples[0].parent.resolve()) in done.damaged[0]
    assert len(read_profile(tmp_path / "out").measurements) == 4
