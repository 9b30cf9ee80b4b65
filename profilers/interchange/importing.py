"""Other tools' measurements as rows of a profile: never taken for our own.

Imported rows carry origin `imported`, the tool and file as `source`, and a device fingerprint that begins with
`imported:`, so that they are no state of a machine that was measured. They stand for the model file the workload has
today: that is what the user says by importing them.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import numpy as np

from inferplan.profilers.interchange.foreign import Foreign, ForeignAccuracy, ForeignPoint, Reading
from inferplan.profilers.interchange.loadgen import read_loadgen
from inferplan.profilers.interchange.model_analyzer import read_model_analyzer
from inferplan.profilers.interchange.perf_analyzer import read_perf_analyzer
from inferplan.profilers.interchange.tidy import read_tidy
from inferplan.profilers.store import ProfileStore
from inferplan.spec.errors import InputError
from inferplan.spec.evidence import combined_sha256
from inferplan.spec.freshness import IMPORTED
from inferplan.spec.modelfiles import model_sha256
from inferplan.spec.rows import AccuracyRow, Measurement, PointKey, Samples
from inferplan.spec.stage import Choice
from inferplan.spec.workload import Workload

MOST = 2**63 - 1
"""What tables can hold."""
PERCENTILES = ("p50_s", "p90_s", "p95_s", "p99_s", "p999_s")
READERS: dict[str, Callable[[Path, Reading], Foreign]] = {
    "perf-analyzer": read_perf_analyzer,
    "model-analyzer": read_model_analyzer,
    "loadgen": read_loadgen,
    "csv": read_tidy,
}


@dataclass(frozen=True, slots=True)
class Target:
    """What imported rows are of, where the file does not say."""

    stage: str | None = None
    variant: str | None = None
    modalities: str = ""
    device: str | None = None
    provider: str | None = None
    threads: int = 1
    machine: str = ""
    """Name of the machine measured on: rows of different machines are not mixed."""


@dataclass(frozen=True, slots=True)
class Imported:
    """What was imported."""

    path: Path
    measurements: tuple[Measurement, ...]
    accuracy: tuple[AccuracyRow, ...]
    left_out: tuple[str, ...]


def import_files(
    workload: Workload, profile: Path, format_name: str, files: Sequence[Path], reading: Reading, target: Target
) -> Imported:
    """Read files and add their rows to a profile (made where there is none). All or nothing is added.

    Raises InputError where a file cannot be read, or says nothing that can be taken, or does not fit the workload.
    """
    reader = READERS.get(format_name)
    if reader is None:
        raise InputError(f"--from {format_name}: there is no such format; there are {', '.join(READERS)}")
    rows: list[tuple[Measurement, Samples | None]] = []
    accuracies: list[AccuracyRow] = []
    left_out: list[str] = []
    for file in files:
        found = reader(file, reading)
        maker = _Maker(workload, target, found.tool, file)
        rows += [maker.measurement(point) for point in found.points]
        accuracies += [maker.accuracy(value) for value in found.accuracies]
        left_out += found.left_out
    _refuse_twice([row for row, _ in rows])
    if not rows and not accuracies:
        raise InputError("there is nothing that can be imported", left_out)
    with ProfileStore(profile, workload.name) as store:
        for row, samples in rows:
            store.add_measurement(row, samples)
        for value in accuracies:
            store.add_evaluation([value], [])
    return Imported(profile, tuple(row for row, _ in rows), tuple(accuracies), tuple(left_out))


def _refuse_twice(rows: Sequence[Measurement]) -> None:
    seen: dict[str, Measurement] = {}
    twice: list[str] = []
    for row in rows:
        other = seen.setdefault(row.key.id(), row)
        if other is not row:
            twice.append(f"{row.key.stage}={row.choice}, batch {row.key.batch}: {other.source} and {row.source}")
    if twice:
        raise InputError("the same point comes twice: import one of them, or name machines with --machine", twice)


class _Maker:
    """Makes rows of what one file said."""

    def __init__(self, workload: Workload, target: Target, tool: str, file: Path) -> None:
        self._workload = workload
        self._target = target
        self._tool = tool
        self._file = file
        self._measured_at = datetime.fromtimestamp(file.stat().st_mtime, UTC).isoformat(timespec="microseconds")

    def measurement(self, point: ForeignPoint) -> tuple[Measurement, Samples | None]:
        """A point's row, and its raw times where there are any."""
        stage, choice = self._choice(point.stage, point.variant, point.modalities)
        self._check(point)
        variant = self._workload.pipeline.stages[stage].variants[choice.variant]
        device = self._device(point.device)
        gpu = self._workload.devices()[device].kind == "gpu"
        key = PointKey(
            stage=stage,
            variant=choice.variant,
            modalities=choice.subset,
            model_sha256=model_sha256(self._workload, stage, choice.name),
            code_sha256="",
            runtime=variant.runtime,
            runtime_version="",
            options=json.dumps(variant.options.changed(), sort_keys=True),
            provider=point.provider or self._target.provider or ("cuda" if gpu else "cpu"),
            device=device,
            device_fingerprint=IMPORTED + self._tool + (f":{self._target.machine}" if self._target.machine else ""),
            batch=point.batch,
            threads=point.threads or self._target.threads,
            input_shape="{}",
        )
        row = Measurement(
            key,
            "ok",
            n=point.n,
            service=point.service,
            throughput_per_s=point.throughput_per_s,
            load_s=point.load_s,
            peak_rss_bytes=point.memory_bytes,
            peak_gpu_bytes=point.gpu_memory_bytes,
            mean_power_w=point.power_w,
            energy_j=point.energy_j,
            measured_at=self._measured_at,
            origin="imported",
            source=self._source(point.remark),
            censored=point.censored,
        )
        return row, _samples(row, point)

    def _check(self, point: ForeignPoint) -> None:
        """Raises InputError where a point's figures cannot be right: counts that no machine counts to, percentiles that
        fall."""
        counts = {
            "batch": point.batch,
            "threads": point.threads or 0,
            "n": point.n,
            "memory_bytes": point.memory_bytes or 0,
            "gpu_memory_bytes": point.gpu_memory_bytes or 0,
        }
        for name, count in counts.items():
            if count > MOST:
                raise InputError(f"{self._file}: {name}: {count:.6g} is more than can be counted")
        known = [(name, value) for name in PERCENTILES if (value := getattr(point.service, name)) is not None]
        for (name, value), (above, higher) in pairwise(known):
            if higher < value:
                raise InputError(
                    f"{self._file}: batch {point.batch}: {above} of {higher:g} is less than {name} of {value:g}:"
                    " percentiles do not fall"
                )

    def accuracy(self, found: ForeignAccuracy) -> AccuracyRow:
        """A metric's row."""
        if found.n > MOST:
            raise InputError(f"{self._file}: {found.metric}: {found.n:.6g} examples are more than can be counted")
        if found.combination is None:
            stage, choice = self._choice(found.stage, found.variant, found.modalities)
        else:
            stage, choice = "", Choice("", ())
        ends = (found.lower, found.upper)
        if None not in ends and not (found.lower or 0.0) <= found.value <= (found.upper or 0.0):
            raise InputError(f"{self._file}: {found.metric} {found.value} is outside its interval {ends}")
        return AccuracyRow(
            "stage" if found.combination is None else "pipeline",
            stage,
            choice.variant,
            self._combination(found.combination),
            choice.subset,
            found.metric,
            found.value,
            found.lower,
            found.upper,
            found.n,
            "imported",
            IMPORTED + combined_sha256(self._tool, dataclasses.asdict(found)),
            measured_at=self._measured_at,
            source=self._source(found.remark),
        )

    def _combination(self, combination: Mapping[str, str] | None) -> str:
        """A combination as rows name it. Raises InputError where it is none of the workload's."""
        stages = self._workload.pipeline.stages
        for stage, choice in (combination or {}).items():
            if stage not in stages or choice not in stages[stage].choices():
                raise InputError(f"{self._file}: the workload has no {stage}={choice}")
        missing = [stage for stage in stages if combination is not None and stage not in combination]
        if missing:
            raise InputError(f"{self._file}: a combination names every stage; missing: {', '.join(missing)}")
        return json.dumps(dict(combination or {}), sort_keys=True)

    def _source(self, remark: str) -> str:
        return f"{self._tool}: {self._file.name}" + (f" ({remark})" if remark else "")

    def _choice(self, stage: str | None, variant: str | None, modalities: str | None) -> tuple[str, Choice]:
        """The stage and choice meant. Raises InputError where they are not the workload's."""
        stages = self._workload.pipeline.stages
        stage = stage or self._target.stage or (next(iter(stages)) if len(stages) == 1 else None)
        if stage is None:
            raise InputError(f"{self._file} does not say the stage: give it with --stage ({', '.join(stages)})")
        if stage not in stages:
            raise InputError(f"{self._file}: there is no stage {stage}; there are {', '.join(stages)}")
        variant = variant or self._target.variant
        if variant is None:
            raise InputError(f"{self._file} does not say the variant: give it with --variant")
        subset = modalities if modalities is not None else self._target.modalities
        choice = Choice(variant, tuple(sorted(subset.split("+"))) if subset else ())
        choices = stages[stage].choices()
        if choice.name not in choices:
            raise InputError(f"{self._file}: {stage} has no {choice.name}; it has {', '.join(choices)}")
        if stages[stage].variants[variant].runtime == "skip":
            raise InputError(f"{self._file}: {stage}={variant} runs no model: there is nothing to measure")
        return stage, choice

    def _device(self, named: str | None) -> str:
        devices = self._workload.devices()
        device = named or self._target.device or (next(iter(devices)) if len(devices) == 1 else None)
        if device is None:
            raise InputError(f"{self._file} does not say the device: give it with --device ({', '.join(devices)})")
        if device not in devices:
            raise InputError(f"{self._file}: there is no device {device}; there are {', '.join(devices)}")
        return device


def _samples(row: Measurement, point: ForeignPoint) -> Samples | None:
    """Raw times: of service alone, the rest is not known."""
    if point.samples_s is None:
        return None
    count = len(point.samples_s)
    return Samples(
        row.key.id(),
        np.zeros(count, np.int32),
        point.samples_s,
        np.full(count, np.nan),
        np.zeros(count, np.int64),
    )
