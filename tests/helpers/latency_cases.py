"""Observations and profiles for tests of the latency models."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from inferplan.estimators.observations import Observation, SeriesKey
from inferplan.spec.profile import Profile
from inferplan.spec.rows import Measurement, PointKey, Quantiles
from inferplan.spec.workload import Workload

BATCHES = (1, 2, 4, 8, 16)


def observed(
    choice: str, time_s: Callable[[float], float], batches: Iterable[int] = BATCHES, threads: int = 1, **rest: Any
) -> list[Observation]:
    """A series of stage `s` whose mean follows a function of the batch."""
    key = SeriesKey(rest.pop("stage", "s"), choice, "t/d", "cpu", threads)
    return [Observation(key, batch, time_s(batch), **rest) for batch in batches]


def row(
    choice: str, batch: int, mean_s: float, half: float = 0.0, threads: int = 1, model: str = "m", **rest: Any
) -> Measurement:
    """A row of stage `s`; `half` is the relative half-width of its interval, 0: none."""
    variant, _, modalities = choice.partition("@")
    key = PointKey(
        "s", variant, modalities, model, "code", "onnxruntime", "1", "{}", "cpu", "t/d", "machine", batch, threads, "{}"
    )
    change = {
        name: rest.pop(name)
        for name in ("device", "device_fingerprint", "input_shape", "runtime_version")
        if name in rest
    }
    ends = (mean_s * (1 - half), mean_s * (1 + half)) if half else (None, None)
    statistics = {name: rest.pop(name) for name in ("p50_s", "p90_s", "p99_s") if name in rest}
    spread = rest.pop("std_s", 0.1 * mean_s)
    service = Quantiles(mean_s, *ends, spread, **statistics)
    given = {"n": 100, "processes": 3, "measured_at": "2026-01-01"} | rest
    return Measurement(dataclasses.replace(key, **change), "ok", service=service, **given)


def rows(
    choice: str, time_s: Callable[[float], float], batches: Sequence[int] = BATCHES, **rest: Any
) -> list[Measurement]:
    """A series of rows."""
    return [row(choice, batch, time_s(batch), **rest) for batch in batches]


SHA256 = hashlib.sha256(b"model").hexdigest()


def workload(root: Path, **rest: Any) -> Workload:
    """One stage `s` with variants a, b, c of one model file, and m with modalities acc and gyro (either alone)."""
    (root / "model.onnx").write_bytes(b"model")
    plain = {name: {"model": "model.onnx"} for name in ("a", "b", "c")}
    subsets = {"reads": ["acc", "gyro"], "optional": ["acc", "gyro"]}
    document = {
        "apiVersion": "inferplan/v1",
        "name": "w",
        "pipeline": {
            "stages": {
                "s": {
                    "metric": {"name": "top1"},
                    "modalities": ["acc", "gyro"],
                    "variants": plain | {"m": {"model": "model.onnx", "modalities": subsets}},
                }
            }
        },
        "tiers": {"t": {"devices": {"d": {"price_usd_per_h": 1.0, "cores": 4}}}},
        "classes": {"c": {"rate_rps": 1.0, "slo": {"percentile": 99, "latency_s": 0.1}}},
        "profile": {"batch_sizes": list(BATCHES)},
    }
    return Workload.model_validate(document | rest).at(root)


def profile(root: Path, *found: Measurement, **rest: Any) -> Profile:
    """A profile of rows, whose model is the workload's."""
    fresh = [
        dataclasses.replace(r, key=dataclasses.replace(r.key, model_sha256=SHA256)) if r.key.model_sha256 == "m" else r
        for r in found
    ]
    return Profile(root, tuple(fresh), rest.pop("accuracy", ()), (), "", **rest)
