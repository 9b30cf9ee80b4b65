"""Which rows of a profile stand for which options: fresh ones, of one machine, of one state of the code.

A row counts for a variant when its model hash is that of the workload's model file. Where rows of one option
disagree about the machine, the runtime's version, the code or the input shape, those of the newest
measurement are used and the others are named: nothing is mixed in silently.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from inferplan.estimators.service import SampleSource, ServiceModel, ServicePoint
from inferplan.spec.profile import Profile
from inferplan.spec.rows import Measurement, PointKey
from inferplan.spec.workload import Workload


@dataclass(frozen=True, slots=True, order=True)
class ModelKey:
    """What a service model is of. `device` is the workload's, also where it is `like` a measured one."""

    stage: str
    variant: str
    device: str
    provider: str
    threads: int


@dataclass(frozen=True)
class Points:
    """Service models that the profile supports, with what was left out and why."""

    models: dict[ModelKey, ServiceModel]
    model_sha256: dict[tuple[str, str], str]
    """Hash of every (stage, variant)'s model file; empty text for skip variants."""
    fingerprints: tuple[str, ...]
    stale: tuple[str, ...]
    """Rows measured on another model file than the workload's, one line per (stage, variant)."""
    superseded: tuple[str, ...]
    """Rows of another machine, version, code or input shape than the newest, one line per group."""
    failed: tuple[str, ...]
    """Points that could not be measured, with the reason."""


def file_sha256(path: Path) -> str:
    """Hash of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def model_hashes(workload: Workload) -> dict[tuple[str, str], str]:
    """Hash of every variant's model file, by (stage, variant); empty text for skip variants."""
    hashes: dict[tuple[str, str], str] = {}
    for stage_name, stage in workload.pipeline.stages.items():
        for variant in stage.variants:
            path = workload.model_path(stage_name, variant)
            hashes[stage_name, variant] = "" if path is None else file_sha256(path)
    return hashes


def read_points(workload: Workload, profile: Profile, samples: SampleSource | None = None) -> Points:
    """Sort a profile's rows into service models.

    `samples` stands in for the profile's own raw times.
    """
    hashes = model_hashes(workload)
    fresh: dict[tuple[str, str, str, str], list[Measurement]] = defaultdict(list)
    stale: dict[tuple[str, str], int] = defaultdict(int)
    failed: list[str] = []
    for row in profile.measurements:
        key = row.key
        known = (key.stage, key.variant) in hashes
        # A skip variant takes no time, whatever passing its input through was measured to take.
        if not known or key.modalities or key.runtime == "skip":
            continue
        if key.model_sha256 != hashes[key.stage, key.variant]:
            stale[key.stage, key.variant] += 1
        elif row.status != "ok":
            where = f"{key.stage}/{key.variant} on {key.device}, batch {key.batch}, {key.threads} threads"
            failed.append(f"{where}: {row.status}: {row.reason}")
        else:
            fresh[key.stage, key.variant, key.device, key.provider].append(row)
    superseded: list[str] = []
    kept: dict[tuple[str, str, str, str], list[Measurement]] = {}
    for place in sorted(fresh):
        kept[place] = _newest_state(fresh[place], superseded)
    models = _models(workload, kept, samples or profile.samples)
    return Points(
        models,
        hashes,
        tuple(sorted({row.key.device_fingerprint for rows in kept.values() for row in rows})),
        tuple(f"{stage}/{variant}: {count} rows of another model file" for (stage, variant), count in _sorted(stale)),
        tuple(superseded),
        tuple(sorted(failed)),
    )


def _sorted(counts: dict[tuple[str, str], int]) -> Iterable[tuple[tuple[str, str], int]]:
    return sorted(counts.items())


def _state(key: PointKey) -> tuple[str, ...]:
    return (key.device_fingerprint, key.runtime_version, key.code_sha256)


def _newest_state(rows: list[Measurement], superseded: list[str]) -> list[Measurement]:
    """The rows that share machine, runtime version and code with the newest one."""
    newest = max(rows, key=lambda row: (row.measured_at, row.key.id()))
    kept = [row for row in rows if _state(row.key) == _state(newest.key)]
    if len(kept) < len(rows):
        names = ("machine", "runtime version", "stage code")
        old = {_state(row.key) for row in rows} - {_state(newest.key)}
        changed = [name for index, name in enumerate(names) if any(s[index] != _state(newest.key)[index] for s in old)]
        key = newest.key
        where = f"{key.stage}/{key.variant} on {key.device}"
        superseded.append(f"{where}: {len(rows) - len(kept)} rows of another {' and '.join(changed)}")
    return kept


def _models(
    workload: Workload, rows: dict[tuple[str, str, str, str], list[Measurement]], samples: SampleSource
) -> dict[ModelKey, ServiceModel]:
    models: dict[ModelKey, ServiceModel] = {}
    for device_name, device in sorted(workload.devices().items()):
        measured = device.like.device if device.like else device_name
        slowdown = device.like.slowdown if device.like else 1.0
        for (stage, variant, place, provider), found in rows.items():
            if place != measured:
                continue
            for threads in sorted({row.key.threads for row in found}):
                points = _points([row for row in found if row.key.threads == threads])
                key = ModelKey(stage, variant, device_name, provider, threads)
                models[key] = ServiceModel(points, slowdown, samples)
    return models


def _points(rows: list[Measurement]) -> tuple[ServicePoint, ...]:
    """One point per batch size; of rows that differ in the shape they were fed, the newest."""
    newest: dict[int, Measurement] = {}
    for row in sorted(rows, key=lambda r: (r.measured_at, r.key.id())):
        newest[row.key.batch] = row
    return tuple(service_point(newest[batch]) for batch in sorted(newest))


def service_point(row: Measurement) -> ServicePoint:
    """A measured row as a point of a service model."""
    return ServicePoint(
        row.key.batch,
        float(row.service.mean_s or 0.0),
        float(row.service.std_s or 0.0),
        row.peak_rss_bytes,
        row.key,
    )
