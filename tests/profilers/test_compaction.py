"""Compaction changes files, never what a profile says, and may be killed at any moment."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inferplan.profilers.compaction import compact
from inferplan.profilers.store import ProfileStore
from inferplan.spec.errors import InputError
from inferplan.spec.profile import Profile, read_profile
from inferplan.spec.rows import AccuracyRow, FlowRow, HandoffRow, InterferenceRow, Measurement
from inferplan.spec.tables import ROWS, AnyRow

Rows = Callable[..., list[AnyRow]]


class KilledError(BaseException):
    """Stands for a kill: nothing may catch it."""


def dying_after(real: Callable[..., object], calls: int) -> Callable[..., object]:
    """`real`, for so many calls; then it kills."""
    left = [calls]

    def failing(*args: object, **options: object) -> object:
        left[0] -= 1
        if left[0] < 0:
            raise KilledError
        return real(*args, **options)

    return failing


def content(profile: Profile) -> Profile:
    return dataclasses.replace(profile, path=Path())


def write(path: Path, rows: Sequence[AnyRow]) -> None:
    with ProfileStore(path, "w") as store:
        for row in rows:
            if isinstance(row, Measurement):
                store.add_measurement(row, None)
            elif isinstance(row, InterferenceRow):
                store.add_interference(row)
            elif isinstance(row, HandoffRow):
                store.add_handoff(row)
            elif isinstance(row, AccuracyRow):
                store.add_evaluation([row], [])
            else:
                assert isinstance(row, FlowRow)
                store.add_evaluation([], [row])


def test_many_files_become_one_per_table(tmp_path: Path, some_rows: Rows) -> None:
    write(tmp_path, some_rows(8))
    before = read_profile(tmp_path)
    done = compact(tmp_path)
    assert done.files_before == 8 * len(ROWS)
    assert done.files_after == len(ROWS)
    assert content(read_profile(tmp_path)) == content(before)
    again = compact(tmp_path)
    assert (again.files_before, again.files_after, again.superseded) == (len(ROWS), len(ROWS), 0)


def test_what_is_measured_after_compaction_counts(tmp_path: Path, some_rows: Rows) -> None:
    rows = some_rows(4)
    write(tmp_path, rows)
    compact(tmp_path)
    newer = [dataclasses.replace(row, measured_at="2027-01-01") for row in rows]
    write(tmp_path, newer)
    profile = read_profile(tmp_path)
    assert {
        row.measured_at for row in (*profile.measurements, *profile.accuracy, *profile.interference, *profile.handoffs)
    } == {"2027-01-01"}
    assert compact(tmp_path).superseded == len(newer)
    assert content(read_profile(tmp_path)) == content(profile)


def test_an_evaluation_with_fewer_metrics_replaces_all_of_the_earlier_one(tmp_path: Path, some_rows: Rows) -> None:
    first = next(row for row in some_rows(1) if isinstance(row, AccuracyRow))
    write(tmp_path, [])
    with ProfileStore(tmp_path) as store:
        store.add_evaluation([first, dataclasses.replace(first, metric="f1")], [])
    compact(tmp_path)
    with ProfileStore(tmp_path) as store:
        store.add_evaluation([dataclasses.replace(first, measured_at="2027")], [])
    assert [row.metric for row in read_profile(tmp_path).accuracy] == [first.metric]
    compact(tmp_path)
    assert [row.metric for row in read_profile(tmp_path).accuracy] == [first.metric]


@pytest.mark.parametrize("name", ["write", "fsync", "rename", "unlink"])
def test_killed_at_any_moment_it_reads_as_before(
    tmp_path: Path, some_rows: Rows, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every call of a system function in turn is the last one."""
    rows = some_rows(2)
    write(tmp_path / "whole", rows)
    before = content(read_profile(tmp_path / "whole"))
    owner = Path if name in ("rename", "unlink") else os
    real = getattr(owner, name)
    for moment in range(200):
        path = tmp_path / f"killed-{moment}"
        write(path, rows)
        monkeypatch.setattr(owner, name, dying_after(real, moment))
        try:
            compact(path)
            killed = False
        except KilledError:
            killed = True
        monkeypatch.setattr(owner, name, real)
        assert content(read_profile(path)) == before
        compact(path)
        assert content(read_profile(path)) == before
        assert sum(1 for _ in path.glob("*/*.parquet")) == len(ROWS)
        if not killed:
            assert moment > 0
            return
    pytest.fail("it never came to an end")


def test_a_full_disk_is_explained_and_loses_nothing(
    tmp_path: Path, some_rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, some_rows(3))
    before = content(read_profile(tmp_path))

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    real = os.write
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(InputError, match="no room left"):
        compact(tmp_path)
    monkeypatch.setattr(os, "write", real)
    assert content(read_profile(tmp_path)) == before


def test_stale_rows_are_dropped_on_request_with_their_arrays(tmp_path: Path, some_rows: Rows, samples_of: Rows) -> None:
    rows = [row for row in some_rows(2) if isinstance(row, Measurement)]
    with ProfileStore(tmp_path) as store:
        for row in rows:
            store.add_measurement(row, samples_of(row))  # type: ignore[arg-type]
    done = compact(tmp_path, lambda row: "gone" if row == rows[0] else "")
    assert done.dropped == {"gone": 1}
    assert read_profile(tmp_path).measurements == (rows[1],)
    assert [file.stem for file in (tmp_path / "samples").iterdir()] == [rows[1].key.id()]


@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_compaction_changes_nothing_that_is_read(
    tmp_path_factory: pytest.TempPathFactory, some_rows: Rows, data: st.DataObject
) -> None:
    """Any history of writes and compactions reads as the same history without compactions."""
    pool = some_rows(2)
    steps = data.draw(
        st.lists(
            st.tuples(st.sampled_from(range(len(pool))), st.sampled_from("123"), st.booleans()), min_size=1, max_size=8
        )
    )
    plain, compacted = tmp_path_factory.mktemp("plain"), tmp_path_factory.mktemp("compacted")
    # One file of a thing replaces the other, so that times must rise, as they do.
    for step, (index, value, squeeze) in enumerate(steps):
        row = (
            dataclasses.replace(pool[index], measured_at=f"2026-02-{step:02d}", reason=value if value != "1" else "")
            if not isinstance(pool[index], FlowRow)
            else dataclasses.replace(pool[index], measured_at=f"2026-02-{step:02d}")
        )
        write(plain, [row])
        write(compacted, [row])
        if squeeze:
            compact(compacted)
    assert content(read_profile(plain)) == content(read_profile(compacted))
