"""Random small instances, few enough plans each that all of them can be simulated.

Chains of one to three stages, or a fork, of two variants; one or two classes; one or two device types of few, small
machines. Drawn besides: batches, queue delays, threads, memory limits, skip variants, fan-outs (constant, drawn, or
measured per variant), arrivals (Poisson, gamma, even, bursts), how service times vary, composition of accuracy, floors,
limits of latency (mean service times of the path times 1.3 to 8), loads, prices from 1e-4 to 1e6, slow-downs by
neighbours. The same seed gives the same instance.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from inferplan.spec.document import LoadedWorkload, load_workload
from inferplan.spec.profile import Profile
from inferplan.spec.rows import AccuracyRow, FlowRow, InterferenceRow, Measurement, PointKey, Quantiles, Samples

MODEL = b"model"
DEVICE = "edge/cpu"
SHAPES = ((1, 1), (1, 1), (1, 2), (2, 1), (2, 1), (2, 1), (2, 2), (3, 1))
"""(stages, classes): as often as they are listed."""


class SyntheticProfile(Profile):
    """A profile without samples."""

    def samples(self, key: PointKey) -> Samples | None:
        """None: draws follow the mean and standard deviation of the point."""
        return None


@dataclass
class Instance:
    """An instance as data, so that it can be changed before it is made. `document` is the workload."""

    document: dict[str, Any]
    times: dict[tuple[str, str, int, int], tuple[float, float]]
    """(stage, variant, batch, threads) -> mean and standard deviation, in seconds."""
    accuracy: dict[tuple[str, str], float]
    flows: dict[tuple[str, str, str], list[int]] = field(default_factory=dict)
    """(source, target, variant) -> calls that were counted."""
    slowdowns: dict[tuple[str, str, str, str], float] = field(default_factory=dict)
    """(stage, variant) beside (stage, variant)."""

    def made(self, folder: Path) -> tuple[LoadedWorkload, Profile]:
        """The workload, written into a folder and read, and its profile."""
        (folder / "model.onnx").write_bytes(MODEL)
        path = folder / "workload.yaml"
        path.write_text(yaml.safe_dump(self.document, sort_keys=False))
        rows = [
            Measurement(
                _key(stage, variant, batch, threads), "ok", n=1000, peak_rss_bytes=100 * 2**20,
                service=Quantiles(mean_s=mean, std_s=std), measured_at="2026-01-01T00:00:00Z",
            )
            for (stage, variant, batch, threads), (mean, std) in self.times.items()
        ]  # fmt: skip
        scores = [
            AccuracyRow("stage", s, v, "{}", "", "acc", value, None, None, 1000, "wilson", "")
            for (s, v), value in self.accuracy.items()
        ]
        flows = [
            FlowRow(a, b, v, "", sum(counts) / len(counts), json.dumps(counts), None, len(counts), "")
            for (a, b, v), counts in self.flows.items()
        ]
        beside = [_beside(*pair, slowdown) for pair, slowdown in self.slowdowns.items()]
        digest = hashlib.sha256(repr(self).encode()).hexdigest()
        profile = SyntheticProfile(folder, tuple(rows), tuple(scores), tuple(flows), digest, (), tuple(beside))
        return load_workload(path), profile


def _key(stage: str, variant: str, batch: int, threads: int) -> PointKey:
    return PointKey(
        stage, variant, "", hashlib.sha256(MODEL).hexdigest(), "", "onnxruntime", "1", "{}", "cpu", DEVICE, "f",
        batch, threads, "{}",
    )  # fmt: skip


def _beside(stage: str, variant: str, other: str, choice: str, slowdown: float) -> InterferenceRow:
    listed = json.dumps([[other, choice, 1, 1]])
    key = _key(stage, variant, 1, 1)
    return InterferenceRow(key, listed, hashlib.sha256(listed.encode()).hexdigest(), slowdown, blocks=9, n=1000)


def random_instance(seed: int) -> Instance:
    """The instance of a seed."""
    rng = random.Random(seed)
    count, classes = rng.choice(SHAPES)
    stages = ["a", "b", "c"][:count]
    few = count * classes >= 3
    threads = [1, 2] if not few and rng.random() < 0.15 else [1]
    batches = [1, 4] if few else rng.choice([[1, 2, 4], [1, 4], [1, 8], [1, 3]])
    variants = {stage: ["s", "l"] for stage in stages}
    if count > 1 and rng.random() < 0.2:
        variants[stages[-1]] = ["skip", "l"]
    times, accuracy = _measured(rng, variants, batches, threads)
    document = {
        "apiVersion": "inferplan/v1",
        "name": f"random-{seed}",
        "pipeline": {
            "stages": {stage: _stage(rng, own, few) for stage, own in variants.items()},
            "edges": _edges(rng, stages),
        },
        "tiers": {"edge": {"devices": _devices(rng, few, max(threads))}},
        "accuracy": {
            "metric": {"name": "acc"},
            "composition": rng.choice(["product", "product", "product", "mean", "minimum"]),
        },
    }
    instance = Instance(document, times, accuracy)
    if count > 1 and rng.random() < 0.2:
        _measure_fan_out(rng, instance, variants)
    if rng.random() < 0.2:
        _measure_slowdowns(rng, instance, variants)
    document["classes"] = {name: _class(rng, instance, variants) for name in ["x", "y"][:classes]}
    return instance


def _measured(
    rng: random.Random, variants: Mapping[str, Sequence[str]], batches: Sequence[int], threads: Sequence[int]
) -> tuple[dict[tuple[str, str, int, int], tuple[float, float]], dict[tuple[str, str], float]]:
    """Service times and accuracies: the second variant is slower and better."""
    times, accuracy = {}, {}
    for stage, own in variants.items():
        base, better = rng.choice([0.002, 0.01, 0.05]) * rng.uniform(0.7, 1.4), rng.uniform(0.6, 0.9)
        for variant in own:
            light = variant != "l"
            accuracy[stage, variant] = round(better if light else better + (1 - better) * rng.uniform(0.2, 0.9), 4)
            slower = 1.0 if light else rng.uniform(1.3, 5)
            shared, varies = rng.uniform(0.0, 0.8), rng.choice([0.02, 0.1, 0.5])
            if variant == "skip":
                continue
            for batch, n in itertools.product(batches, threads):
                mean = base * slower * (shared + (1 - shared) * batch) / n**0.7
                times[stage, variant, batch, n] = (mean, varies * mean)
    return times, accuracy


def _stage(rng: random.Random, variants: Sequence[str], few: bool) -> dict[str, Any]:
    delays = [0.0, rng.choice([0.002, 0.02])] if not few and rng.random() < 0.25 else [0.0]
    return {
        "metric": {"name": "acc"},
        "max_queue_delays_s": delays,
        "variants": {v: {"runtime": "skip"} if v == "skip" else {"model": "model.onnx"} for v in variants},
    }


def _edges(rng: random.Random, stages: Sequence[str]) -> list[dict[str, Any]]:
    pairs = list(itertools.pairwise(stages))
    if len(stages) == 3 and rng.random() < 0.3:
        pairs = [(stages[0], stages[1]), (stages[0], stages[2])]
    laws: list[Any] = [1.0, 1.0, 1.0, 2.0, {"values": [1, 3], "weights": [1.0, 1.0]}]
    return [{"from": a, "to": b, "fan_out": rng.choice(laws)} for a, b in pairs]


def _devices(rng: random.Random, few: bool, threads: int) -> dict[str, dict[str, Any]]:
    price = 10 ** rng.uniform(-4, 6)
    cpu = {"price_usd_per_h": price, "count": rng.choice([3, 4, 6]), "cores": max(rng.choice([1, 1, 1, 2, 3]), threads)}
    if rng.random() < 0.15:
        cpu["memory_bytes"] = rng.choice([150, 250]) * 2**20
    devices = {"cpu": cpu}
    if rng.random() < (0.3 if few else 0.6):
        devices["old"] = {
            "price_usd_per_h": price * rng.uniform(0.2, 0.9),
            "count": rng.choice([1, 2, 4]),
            "cores": max(rng.choice([1, 2]), threads),
            "like": {"device": DEVICE, "slowdown": round(rng.uniform(1.2, 3), 2)},
        }
    return devices


def _measure_fan_out(rng: random.Random, instance: Instance, variants: Mapping[str, Sequence[str]]) -> None:
    edge = instance.document["pipeline"]["edges"][0]
    edge["fan_out"] = "measured"
    for variant in variants[edge["from"]]:
        instance.flows[edge["from"], edge["to"], variant] = rng.choice([[1], [1, 2], [2], [0, 1, 4]])


def _measure_slowdowns(rng: random.Random, instance: Instance, variants: Mapping[str, Sequence[str]]) -> None:
    running = [(stage, v) for stage, own in variants.items() for v in own if v != "skip"]
    for (stage, variant), (other, choice) in itertools.product(running, running):
        instance.slowdowns[stage, variant, other, choice] = round(rng.uniform(1.0, 1.6), 3)


def _class(rng: random.Random, instance: Instance, variants: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """A class whose load keeps the slowest stage's heavier variant at work for 0.2 to 2.5 replicas' time."""
    longest = {
        stage: max(
            (mean for (s, _, b, n), (mean, _) in instance.times.items() if (s, b, n) == (stage, 1, 1)), default=0
        )
        for stage in variants
    }
    rate = rng.uniform(0.2, 2.5) / max(longest.values())
    spec: dict[str, Any] = {"rate_rps": rate, "arrivals": _arrivals(rng, rate)}
    if rng.random() < 0.95:
        percentile = rng.choice([90.0, 95.0, 99.0, 99.0])
        spec["slo"] = {"percentile": percentile, "latency_s": sum(longest.values()) * math.exp(rng.uniform(0.25, 2.1))}
    if rng.random() < 0.8:
        best = [max(instance.accuracy[stage, v] for v in own) for stage, own in variants.items()]
        worst = [min(instance.accuracy[stage, v] for v in own) for stage, own in variants.items()]
        part = rng.uniform(-0.1, 0.95)
        floors = {
            "product": math.prod(w + (b - w) * part for w, b in zip(worst, best, strict=True)),
            "mean": sum(w + (b - w) * part for w, b in zip(worst, best, strict=True)) / len(best),
            "minimum": min(w + (b - w) * part for w, b in zip(worst, best, strict=True)),
        }
        spec["accuracy"] = {"floor": max(floors[instance.document["accuracy"]["composition"]], 0.0)}
    return spec


def _arrivals(rng: random.Random, rate: float) -> dict[str, Any]:
    kind = rng.choice(["poisson"] * 5 + ["gamma", "gamma", "deterministic", "mmpp"])
    if kind == "gamma":
        return {"process": kind, "cv": rng.choice([0.5, 2.0])}
    if kind == "mmpp":
        return {"process": kind, "burst_factor": 2.0, "burst_s": rng.choice([5, 50]) / rate}
    return {"process": kind}
