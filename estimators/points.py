"""Which rows of a profile stand for which options: fresh ones, of one machine, of one state of the code.

A row counts for a choice when its model hash, runtime and runtime options are those of the workload. Where rows
of one option disagree about the machine, the runtime's version, the code, where their inputs came from or the input
shape, those of the newest measurement are used and the others are named: nothing is mixed in silently.

Measured rows come first. An interpolated row fills a gap between them: its times have the shape of the nearest
measured point's, scaled to its mean. Imported rows stand in where nothing of an option was measured here.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from inferplan.estimators.service import SampleSource, ServiceModel, ServicePoint
from inferplan.spec.modelfiles import model_sha256
from inferplan.spec.profile import Profile
from inferplan.spec.rows import Measurement, PointKey
from inferplan.spec.stage import Variant
from inferplan.spec.workload import Workload


@dataclass(frozen=True, slots=True, order=True)
class ModelKey:
    """What a service model is of. `variant` names the choice (`variant`, or `variant@subset`); `device` is the
    workload's, also where it is `like` a measured one."""

    stage: str
    variant: str
    device: str
    provider: str
    threads: int


Place = tuple[str, str, str, str]
"""(stage, choice, measured device, provider)."""


@dataclass(frozen=True)
class Points:
    """Service models that the profile supports, with what was left out and why."""

    models: dict[ModelKey, ServiceModel]
    model_sha256: dict[tuple[str, str], str]
    """Hash of every (stage, choice)'s model; empty text for skip variants."""
    fingerprints: tuple[str, ...]
    stale: tuple[str, ...]
    """Rows of another model, runtime or runtime options than the workload's, one line per (stage, choice)."""
    superseded: tuple[str, ...]
    """Rows of another machine, version or code than the newest, or imported where there are measured ones, one
    line per group."""
    failed: tuple[str, ...]
    """Points that could not be measured, with the reason."""
    aged: dict[Place, str] = field(default_factory=dict)
    """Rows that are used although newer ones of their device come from another machine or runtime version."""
    rows: dict[Place, list[Measurement]] = field(default_factory=dict)
    """The rows that count, also those that differ only in the input shape they were fed."""


def model_hashes(workload: Workload) -> dict[tuple[str, str], str]:
    """Hash of every choice's model, by (stage, choice); empty text for skip variants."""
    hashes: dict[tuple[str, str], str] = {}
    for name, stage in workload.pipeline.stages.items():
        for choice, chosen in stage.choices().items():
            skips = stage.variants[chosen.variant].runtime == "skip"
            hashes[name, choice] = "" if skips else model_sha256(workload, name, choice)
    return hashes


def changed_since(key: PointKey, variant: Variant, model: str) -> str | None:
    """What of a variant is not as it was when a row was measured: a word or two; None where all is."""
    if key.model_sha256 != model:
        return "model file"
    if key.runtime != variant.runtime:
        return "runtime"
    return None if json.loads(key.options or "{}") == variant.options.changed() else "runtime options"


def read_points(workload: Workload, profile: Profile, samples: SampleSource | None = None) -> Points:
    """Sort a profile's rows into service models.

    `samples` stands in for the profile's own raw times.
    """
    hashes = model_hashes(workload)
    fresh: dict[Place, list[Measurement]] = defaultdict(list)
    stale: dict[tuple[str, str, str], int] = defaultdict(int)
    failed: list[str] = []
    for row in profile.measurements:
        key = row.key
        # A skip variant takes no time, whatever passing its input through was measured to take.
        if (key.stage, row.choice) not in hashes or key.runtime == "skip":
            continue
        variant = workload.pipeline.stages[key.stage].variants[key.variant]
        changed = changed_since(key, variant, hashes[key.stage, row.choice])
        if changed is not None:
            stale[key.stage, row.choice, changed] += 1
        elif row.status != "ok":
            failed.append(f"{where(row)}: {row.status}: {row.reason}")
        else:
            fresh[key.stage, row.choice, key.device, key.provider].append(row)
    superseded: list[str] = []
    kept = {place: _newest_state(fresh[place], superseded) for place in sorted(fresh)}
    return Points(
        _models(workload, profile, kept, samples or profile.samples),
        hashes,
        tuple(sorted({row.key.device_fingerprint for rows in kept.values() for row in rows})),
        tuple(f"{stage}/{choice}: {n} rows of another {what}" for (stage, choice, what), n in sorted(stale.items())),
        tuple(superseded),
        tuple(sorted(failed)),
        _aged(kept),
        kept,
    )


def where(row: Measurement) -> str:
    """A point in words."""
    key = row.key
    return f"{key.stage}/{row.choice} on {key.device}, batch {key.batch}, {key.threads} threads"


def _state(key: PointKey) -> tuple[str, ...]:
    return (key.device_fingerprint, key.runtime_version, key.code_sha256, key.inputs)


def _newest_state(rows: Sequence[Measurement], superseded: list[str]) -> list[Measurement]:
    """The rows that share machine, runtime version and code with the newest measured one; imported ones, those of one
    tool and machine, only for thread counts of which nothing was measured."""
    own = [row for row in rows if row.origin != "imported"]
    if not own:
        return _newest_import(rows, superseded)
    # Which is newest only matters where they differ: there may be many rows, and hashing them takes time.
    alike = len({_state(row.key) for row in own}) == 1
    newest = own[0] if alike else max(own, key=lambda r: (r.origin == "measured", r.measured_at, r.key.id()))
    kept = [row for row in own if _state(row.key) == _state(newest.key)]
    place = f"{newest.key.stage}/{newest.choice} on {newest.key.device}"
    if len(kept) < len(own):
        names = ("machine", "runtime version", "stage code", "source of inputs")
        old = {_state(row.key) for row in own} - {_state(newest.key)}
        changed = [name for index, name in enumerate(names) if any(s[index] != _state(newest.key)[index] for s in old)]
        superseded.append(f"{place}: {len(own) - len(kept)} rows of another {' and '.join(changed)}")
    threads = {row.key.threads for row in kept if row.origin == "measured"}
    foreign = [row for row in rows if row.origin == "imported"]
    needed = [row for row in foreign if row.key.threads not in threads]
    if len(needed) < len(foreign):
        superseded.append(f"{place}: {len(foreign) - len(needed)} imported rows, as there are measured ones")
    return kept + _newest_import(needed, superseded)


def _newest_import(rows: Sequence[Measurement], superseded: list[str]) -> list[Measurement]:
    """Of imported rows those of the tool and machine that the newest one comes from."""
    if not rows:
        return []
    newest = max(rows, key=lambda row: (row.measured_at, row.key.id()))
    kept = [row for row in rows if _state(row.key) == _state(newest.key)]
    if len(kept) < len(rows):
        place = f"{newest.key.stage}/{newest.choice} on {newest.key.device}"
        superseded.append(f"{place}: {len(rows) - len(kept)} imported rows of another tool or machine")
    return kept


def _aged(kept: dict[Place, list[Measurement]]) -> dict[Place, str]:
    """Places whose rows come from another machine, or another version of their runtime, than newer rows of the
    same device: what runs there now may be neither."""
    measured = {place: [row for row in rows if row.origin == "measured"] for place, rows in kept.items()}
    newest: dict[tuple[str, str], Measurement] = {}
    for place, rows in measured.items():
        for row in rows:
            group = (place[2], row.key.runtime)
            if group not in newest or row.measured_at > newest[group].measured_at:
                newest[group] = row
    found: dict[Place, str] = {}
    for place, rows in measured.items():
        if not rows:
            continue
        key = rows[0].key
        now = newest[place[2], key.runtime].key
        if key.device_fingerprint != now.device_fingerprint:
            found[place] = f"{place[0]}/{place[1]} on {place[2]}: measured on another machine than newer rows"
        elif key.runtime_version != now.runtime_version:
            versions = f"{key.runtime} {key.runtime_version}, newer rows with {now.runtime_version}"
            found[place] = f"{place[0]}/{place[1]} on {place[2]}: measured with {versions}"
    return found


def _serving(profile: Profile, key: PointKey) -> dict[str, Any]:
    """What serving costs beyond service times on the machine that a point was measured on, as fields of a
    `ServiceModel`; nothing where it was not measured there."""
    place = (key.stage, key.device, key.device_fingerprint)
    for row in profile.handoffs:
        if (row.stage, row.device, row.device_fingerprint) == place and row.status == "ok":
            return {
                "handoff": tuple(map(float, json.loads(row.handoffs_s))),
                "handoff_call_s": row.handoff_call_s or 0.0,
                "entry": tuple(map(float, json.loads(row.entries_s))),
                "wakings": _pairs(row.wakings_s),
                "entry_wakings": _pairs(row.entry_wakings_s or "[]"),
                "stalls": tuple(map(float, json.loads(row.stalls_s))),
                "replica_stalls": tuple(map(float, json.loads(row.replica_stalls_s or "[]"))),
                "watched_s": row.watched_s,
            }
    return {}


def _pairs(text: str) -> tuple[tuple[float, float], ...]:
    return tuple((float(rest), float(longer)) for rest, longer in json.loads(text))


def _models(
    workload: Workload, profile: Profile, rows: dict[Place, list[Measurement]], samples: SampleSource
) -> dict[ModelKey, ServiceModel]:
    models: dict[ModelKey, ServiceModel] = {}
    for device_name, device in sorted(workload.devices().items()):
        measured = device.like.device if device.like else device_name
        slowdown = device.like.slowdown if device.like else 1.0
        for (stage, choice, place, provider), found in rows.items():
            if place != measured:
                continue
            for threads in sorted({row.key.threads for row in found}):
                points = _points([row for row in found if row.key.threads == threads], found)
                key = ModelKey(stage, choice, device_name, provider, threads)
                models[key] = ServiceModel(points, slowdown, samples, **_serving(profile, found[0].key))
    return models


_RANK = {"measured": 2, "interpolated": 1, "imported": 0}


def _points(rows: Iterable[Measurement], series: Sequence[Measurement]) -> tuple[ServicePoint, ...]:
    """One point per batch size: measured before interpolated before imported; of rows that differ in the shape they
    were fed, the newest. `series`: the rows of all thread counts, in which an interpolated point finds its shape."""
    found: dict[int, list[Measurement]] = {}
    for row in rows:
        found.setdefault(row.key.batch, []).append(row)
    measured = [row for row in series if row.origin == "measured"]
    return tuple(service_point(_latest(found[batch]), measured) for batch in sorted(found))


def _latest(rows: Sequence[Measurement]) -> Measurement:
    """The row that counts of those of one point."""
    return rows[0] if len(rows) == 1 else max(rows, key=lambda r: (_RANK[r.origin], r.measured_at, r.key.id()))


def service_point(row: Measurement, measured: Sequence[Measurement] = ()) -> ServicePoint:
    """A row as a point of a service model; `measured` are the measured rows of its series."""
    mean_s = float(row.service.mean_s or 0.0)
    std_s = float(row.service.std_s or 0.0)
    shape = _nearest(row.key, measured) if row.origin == "interpolated" else None
    if shape is None:
        return ServicePoint(row.key.batch, mean_s, std_s, row.peak_rss_bytes, row)
    std_s = float(shape.service.std_s or 0.0) / float(shape.service.mean_s or 1.0) * mean_s
    memory = row.peak_rss_bytes if row.peak_rss_bytes is not None else _memory(row.key, measured)
    return ServicePoint(row.key.batch, mean_s, std_s, memory, row, shape.key)


def _nearest(key: PointKey, measured: Sequence[Measurement]) -> Measurement | None:
    """The measured point nearest in batch and threads, in factors of two."""

    def distance(row: Measurement) -> tuple[float, int, int, str]:
        apart = abs(math.log2(row.key.batch / key.batch)) + abs(math.log2(row.key.threads / key.threads))
        return apart, row.key.threads, row.key.batch, row.key.id()

    return min(measured, key=distance, default=None)


def _memory(key: PointKey, measured: Sequence[Measurement]) -> int | None:
    """Memory of a point that was not measured: that of measured ones with batches at least as large."""
    larger = [row.peak_rss_bytes for row in measured if row.key.batch >= key.batch]
    return min((memory for memory in larger if memory is not None), default=None)
