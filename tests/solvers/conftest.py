"""Synthetic workloads and profiles, built in memory."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from inferplan.spec.document import LoadedWorkload, load_workload
from inferplan.spec.profile import Profile
from inferplan.spec.rows import AccuracyRow, FlowRow, InterferenceRow, Measurement, PointKey, Quantiles, Samples

MODEL = b"model"
MODEL_SHA256 = hashlib.sha256(MODEL).hexdigest()


class SyntheticProfile(Profile):
    """A profile without samples: draws follow each point's mean and standard deviation."""

    def samples(self, key: PointKey) -> Samples | None:
        return None


def measurement(stage: str, variant: str, batch: int, mean_s: float, **options: Any) -> Measurement:
    values = {"model_sha256": MODEL_SHA256, "device": "edge/cpu", "threads": 1, "provider": "cpu", **options}
    origin, source = values.pop("origin", "measured"), values.pop("source", "")
    variant, _, modalities = variant.partition("@")
    std = values.pop("std_s", 0.05 * mean_s)
    memory = values.pop("memory_bytes", 100 * 2**20)
    status, reason = values.pop("status", "ok"), values.pop("reason", "")
    measured_at = values.pop("measured_at", "2026-01-01T00:00:00Z")
    upper = values.pop("mean_upper_s", None)
    also = {name: values.pop(name) for name in ("load_s", "mean_power_w", "peak_gpu_bytes") if name in values}
    key = PointKey(
        stage, variant, modalities, values["model_sha256"], "", values.get("runtime", "onnxruntime"),
        values.get("runtime_version", "1.0"), values.get("options", "{}"), values["provider"],
        values["device"], values.get("device_fingerprint", "f"), batch, values["threads"], "{}",
    )  # fmt: skip
    service = Quantiles(mean_s=mean_s, std_s=std, mean_upper_s=upper)
    return Measurement(
        key, status, reason, n=1000 if origin == "measured" else 0, service=service, peak_rss_bytes=memory,
        measured_at=measured_at, origin=origin, source=source, **also,
    )  # fmt: skip


def stage_accuracy(stage: str, variant: str, value: float, width: float = 0.01) -> AccuracyRow:
    variant, _, modalities = variant.partition("@")
    return AccuracyRow(
        "stage", stage, variant, "{}", modalities, "acc", value, value - width, value + width, 1000, "wilson", ""
    )


def interference(
    stage: str, variant: str, neighbours: Sequence[tuple[str, str]], slowdown: float, **options: Any
) -> InterferenceRow:
    """A slow-down at batch 1, beside neighbours (stage, choice) at batch 1, one thread each."""
    key = measurement(stage, variant, 1, 0.01, **options).key
    listed = json.dumps(sorted([other, choice, 1, 1] for other, choice in neighbours))
    return InterferenceRow(key, listed, hashlib.sha256(listed.encode()).hexdigest(), slowdown, blocks=9, n=1000)


def end_to_end(variants: Mapping[str, str], value: float, width: float = 0.01) -> AccuracyRow:
    combination = json.dumps(dict(variants), sort_keys=True)
    return AccuracyRow(
        "pipeline", "", "", combination, "", "acc", value, value - width, value + width, 1000, "wilson", ""
    )


def flow(source: str, target: str, variant: str, counts: Sequence[int]) -> FlowRow:
    mean = sum(counts) / len(counts)
    variant, _, modalities = variant.partition("@")
    return FlowRow(source, target, variant, modalities, mean, json.dumps(list(counts)), None, len(counts), "")


@dataclasses.dataclass
class Instances:
    """Builds instances in a folder of their own."""

    folder: Path
    measurement = staticmethod(measurement)
    interference = staticmethod(interference)

    def workload(
        self,
        stages: Mapping[str, Sequence[str]],
        *,
        edges: Sequence[Mapping[str, Any]] = (),
        classes: Mapping[str, Mapping[str, Any]] | None = None,
        devices: Mapping[str, Mapping[str, Any]] | None = None,
        **rest: Any,
    ) -> LoadedWorkload:
        """Write and load a workload; variants named skip are skip variants; every stage has the metric acc.

        `specs`: fields of single variants, by name.
        """
        (self.folder / "model.onnx").write_bytes(MODEL)
        delays, specs = rest.pop("delays", [0.0]), rest.pop("specs", {})
        extra = rest.pop("pipeline_extra", {})
        modalities = sorted({name for spec in specs.values() for name in spec.get("modalities", {}).get("reads", [])})
        document = {
            "apiVersion": "inferplan/v1",
            "name": "synthetic",
            "pipeline": {
                "stages": {
                    stage: {
                        "metric": {"name": "acc"},
                        "max_queue_delays_s": delays,
                        "modalities": modalities,
                        "variants": {
                            v: {"runtime": "skip"} if v == "skip" else {"model": "model.onnx", **specs.get(v, {})}
                            for v in variants
                        },
                    }
                    for stage, variants in stages.items()
                },
                "edges": list(edges),
                **extra,
            },
            "tiers": {"edge": {"devices": devices or {"cpu": {"price_usd_per_h": 0.1, "count": 8, "cores": 4}}}},
            "classes": classes or {"web": {"rate_rps": 20.0, "slo": {"latency_s": 0.2}}},
            "accuracy": {"metric": {"name": "acc"}, "composition": "product"},
            **rest,
        }
        path = self.folder / "workload.yaml"
        path.write_text(yaml.safe_dump(document, sort_keys=False))
        return load_workload(path)

    def profile(
        self,
        times: Mapping[tuple[str, str], Mapping[int, float]],
        accuracy: Mapping[tuple[str, str], float] | None = None,
        rows: Sequence[Measurement] = (),
        combinations: Sequence[AccuracyRow] = (),
        flows: Sequence[FlowRow] = (),
        beside: Sequence[InterferenceRow] = (),
        **options: Any,
    ) -> SyntheticProfile:
        """A profile of mean service times (stage, variant) -> batch -> seconds on edge/cpu."""
        measured = [
            measurement(stage, variant, batch, mean, **options)
            for (stage, variant), points in times.items()
            for batch, mean in points.items()
        ]
        scored = [stage_accuracy(s, v, value) for (s, v), value in (accuracy or {}).items()]
        return SyntheticProfile(
            self.folder, (*measured, *rows), (*scored, *combinations), tuple(flows), hashlib.sha256(b"p").hexdigest(),
            (), tuple(beside),
        )  # fmt: skip


@pytest.fixture(scope="session")
def instances_in() -> type[Instances]:
    """Builds instances in a folder of choice."""
    return Instances


@pytest.fixture(scope="session")
def no_concessions() -> Callable[[pytest.MonkeyPatch], None]:
    """Where nothing is feasible it is not searched, for seconds, which load would be: tests that do not ask for it."""
    return lambda patch: patch.setattr("inferplan.solvers.infeasible.certified", lambda *asked: iter(()))


@pytest.fixture
def instances(tmp_path: Path) -> Instances:
    return Instances(tmp_path)


@pytest.fixture(scope="module")
def module_instances(tmp_path_factory: pytest.TempPathFactory) -> Instances:
    """For property tests, which share one folder over their examples."""
    return Instances(tmp_path_factory.mktemp("instances"))


@pytest.fixture(scope="session")
def slowed() -> Any:
    """slowed(stage, choice, neighbours, slow-down): an interference row."""
    return interference


@pytest.fixture(scope="session")
def fan_flow() -> Any:
    """fan_flow(source, target, choice, counts): a measured fan-out."""
    return flow
