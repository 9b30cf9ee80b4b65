"""One profile from several: rows measured on many machines side by side, each thing once."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from inferplan.profilers.store import ProfileStore
from inferplan.spec.errors import InputError
from inferplan.spec.profile import Profile, check_version, identity, newest_rows, read_profile
from inferplan.spec.rows import AccuracyRow, FlowRow, HandoffRow, Measurement
from inferplan.spec.tables import ROWS, AnyRow, DamagedFileError


@dataclass(frozen=True, slots=True)
class Conflict:
    """A thing that several profiles hold rows of: the one in `kept` counts."""

    name: str
    kept: Path
    measured_at: str
    left: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Merged:
    """What a merge made."""

    path: Path
    workload: str
    inputs: tuple[Path, ...]
    rows: dict[str, int]
    """Rows per table."""
    conflicts: tuple[Conflict, ...]
    machines: tuple[str, ...]
    """Device fingerprints."""
    damaged: tuple[str, ...]
    """Files that could not be read and were left out."""


def merge(out: Path, inputs: Sequence[Path]) -> Merged:
    """Write the rows of all `inputs`, and those of `out` where it is a profile, to `out`.

    Of rows of one thing the same counts as in one profile: measured before imported, then the newest. Samples,
    scores and predictions come along with their rows. A new `out` appears whole or not at all; an existing one
    is a valid profile at every moment, and merging again finishes what was interrupted. Raises InputError where
    an input is no profile of this version, or they are of different workloads.
    """
    sources = list(dict.fromkeys(path.resolve() for path in inputs))
    there = out.exists() and (not out.is_dir() or any(out.iterdir()))
    if there and out.resolve() not in sources:
        check_version(out)
        sources.append(out.resolve())
    workload = _one_workload(sources)
    profiles = [read_profile(path) for path in sources]
    if there:
        with ProfileStore(out, workload) as store:
            return _merge_into(store, workload, profiles)
    return _merge_new(out, workload, profiles)


def _one_workload(sources: Sequence[Path]) -> str:
    names = {name for path in sources if (name := check_version(path))}
    if len(names) > 1:
        raise InputError(
            f"these are profiles of different workloads ({', '.join(sorted(names))}): merging would mix their stages"
        )
    return next(iter(names), "")


def _merge_new(out: Path, workload: str, profiles: Sequence[Profile]) -> Merged:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise InputError(f"cannot write to {out.parent}: {error.strerror or error}") from error
    try:
        unfinished.chmod(0o755)
        with ProfileStore(unfinished, workload) as store:
            merged = _merge_into(store, workload, profiles)
        unfinished.rename(out)
    except OSError as error:
        raise InputError(f"cannot write to {out}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return Merged(out, workload, merged.inputs, merged.rows, merged.conflicts, merged.machines, merged.damaged)


def _merge_into(store: ProfileStore, workload: str, profiles: Sequence[Profile]) -> Merged:
    held: dict[str, list[tuple[AnyRow, Profile]]] = {}
    for profile in profiles:
        for row in _rows(profile):
            held.setdefault(_thing(row), []).append((row, profile))
    winners = newest_rows_of([row for rows in held.values() for row, _ in rows])
    damaged = [text for profile in profiles for text in profile.damaged]
    for row in winners:
        damaged += _copy_arrays(store, row, [profile for other, profile in held[_thing(row)] if other == row])
    counts: dict[str, int] = {}
    for table, kind in ROWS.items():
        mine = [row for row in winners if isinstance(row, kind)]
        store.put_rows(table, mine, store.files(table))
        counts[table] = len(mine)
    kept = {id(row) for row in winners}
    conflicts = [_conflict(rows, kept) for rows in held.values()]
    machines = sorted({row.key.device_fingerprint for row in winners if isinstance(row, Measurement)})
    return Merged(
        store.path,
        workload,
        tuple(profile.path for profile in profiles),
        counts,
        tuple(conflict for conflict in conflicts if conflict is not None),
        tuple(machines),
        tuple(damaged),
    )


def newest_rows_of(rows: Sequence[AnyRow]) -> list[AnyRow]:
    """Rows that count among those of several tables."""
    return [row for kind in ROWS.values() for row in newest_rows(row for row in rows if isinstance(row, kind))]


def _rows(profile: Profile) -> list[AnyRow]:
    return [*profile.measurements, *profile.accuracy, *profile.flows, *profile.interference, *profile.handoffs]


def _thing(row: AnyRow) -> str:
    return f"{type(row).__name__} {identity(row)}"


def _copy_arrays(store: ProfileStore, row: AnyRow, holders: Sequence[Profile]) -> list[str]:
    """Take over the arrays that belong to a row from profiles that hold it; returns what could not be read."""
    if isinstance(row, Measurement):
        wanted = [("samples", row.key.id())]
    elif isinstance(row, AccuracyRow):
        wanted = [("scores", row.evaluation()), ("predictions", row.evaluation())]
    else:
        return []
    damaged: list[str] = []
    for table, name in wanted:
        files = [profile.path / table / f"{name}.parquet" for profile in holders]
        if any(file.parent.resolve() == (store.path / table).resolve() and file.is_file() for file in files):
            continue
        for file in files:
            try:
                if file.is_file():
                    store.copy_file(table, file)
                    break
            except DamagedFileError as error:
                damaged.append(error.message)
    return damaged


def _conflict(rows: Sequence[tuple[AnyRow, Profile]], kept: set[int]) -> Conflict | None:
    """What was left of several different rows of one thing; None where there was nothing to choose."""
    chosen = next(((row, profile) for row, profile in rows if id(row) in kept), None)
    if chosen is None or all(row == chosen[0] for row, _ in rows):
        return None
    left = [profile.path for row, profile in rows if row != chosen[0]]
    return Conflict(_name(chosen[0]), chosen[1].path, chosen[0].measured_at, tuple(left))


def _name(row: AnyRow) -> str:
    """A row's thing, for people."""
    if isinstance(row, Measurement):
        return f"{row.key.stage}={row.choice} on {row.key.device}, batch {row.key.batch}, {row.key.threads} threads"
    if isinstance(row, AccuracyRow):
        what = f"{row.stage}={row.choice}" if row.scope == "stage" else row.combination
        return f"{row.metric} of {what}"
    if isinstance(row, FlowRow):
        return f"flow {row.source} -> {row.target}"
    if isinstance(row, HandoffRow):
        return f"handing over to {row.stage} on {row.device}"
    return f"{row.key.stage}={row.choice} beside {row.neighbours}"
