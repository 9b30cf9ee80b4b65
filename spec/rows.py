"""The rows of a profile: what each of its tables says, with units and descriptions."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Status = Literal["ok", "failed", "timeout", "out_of_memory"]
Origin = Literal["measured", "interpolated", "imported"]
METRICS_MARK = "-"
"""In the evidence of an accuracy: after it comes the hash of the metrics computed from the predictions."""


def column(description: str, unit: str = "", **options: Any) -> Any:
    """A dataclass field with the description and unit that its Parquet column carries."""
    return field(metadata={"description": description, "unit": unit}, **options)


@dataclass(frozen=True, slots=True)
class PointKey:
    """What makes a measured point the same point: measured again only if one of these differs."""

    stage: str = column("Stage of the pipeline")
    variant: str = column("Variant of the stage")
    modalities: str = column("Modality subset, names sorted and joined by '+'; empty where there are none")
    model_sha256: str = column("SHA-256 of the model file; empty for skip variants")
    code_sha256: str = column("SHA-256 of the stage code and its params; empty where there is none")
    runtime: str = column("Runtime: onnxruntime, torch, skip")
    runtime_version: str = column("Version of the runtime")
    options: str = column("JSON object: runtime options that are not at their default")
    provider: str = column("Execution provider that really ran: cpu, openvino, cuda, tensorrt")
    device: str = column("Device of the workload (tier/device) this machine stood for")
    device_fingerprint: str = column("Hash of the machine's processor, memory, GPU, driver")
    batch: int = column("Stage calls per inference")
    threads: int = column("Threads of the runtime inside one operator")
    input_shape: str = column(
        "JSON object: shape per model input, as fed; a size that was drawn is its distribution; {} for skip variants"
    )
    inputs: str = column(
        "JSON object: `from`, the choice of every stage before it that sent the inputs, and the `sha256` of what they"
        " rest on; empty where the stage's own were fed: labelled ones, requests at the entry, random ones",
        default="",
    )

    def id(self) -> str:
        """A short stable name of the point: the start of the hash of its fields. An empty `inputs` is left out: rows
        that know none keep their names."""
        names = [item.name for item in dataclasses.fields(self) if item.name != "inputs" or self.inputs]
        text = json.dumps({name: getattr(self, name) for name in names}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:24]

    @property
    def senders(self) -> dict[str, str]:
        """The choices that sent the inputs, by stage; none where the stage's own were fed."""
        return dict(json.loads(self.inputs or "{}").get("from", {}))


def choice_name(variant: str, modalities: str) -> str:
    """A choice as combinations, plans and tables name it: `variant`, or `variant@modality+modality`."""
    return f"{variant}@{modalities}" if modalities else variant


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Percentiles of a duration. `*_s` are estimates, `*_upper_s` one-sided upper bounds at the
    row's `confidence` (see docs/measurement.md); None where there are too few samples to say."""

    mean_s: float | None = column("Mean", "s", default=None)
    mean_lower_s: float | None = column("Lower end of the mean's 95 % interval", "s", default=None)
    mean_upper_s: float | None = column("Upper end of the mean's 95 % interval", "s", default=None)
    std_s: float | None = column("Standard deviation", "s", default=None)
    min_s: float | None = column("Least", "s", default=None)
    p50_s: float | None = column("Median", "s", default=None)
    p50_upper_s: float | None = column("Upper bound of the median, at `confidence`", "s", default=None)
    p90_s: float | None = column("90th percentile", "s", default=None)
    p90_upper_s: float | None = column("Upper bound of the 90th percentile, at `confidence`", "s", default=None)
    p95_s: float | None = column("95th percentile", "s", default=None)
    p95_upper_s: float | None = column("Upper bound of the 95th percentile, at `confidence`", "s", default=None)
    p99_s: float | None = column("99th percentile", "s", default=None)
    p99_upper_s: float | None = column("Upper bound of the 99th percentile, at `confidence`", "s", default=None)
    p999_s: float | None = column("99.9th percentile", "s", default=None)
    p999_upper_s: float | None = column("Upper bound of the 99.9th percentile, at `confidence`", "s", default=None)


@dataclass(frozen=True, slots=True)
class Measurement:
    """One measured point. Service time is what a replica spends on one batch: pre-processing, inference,
    post-processing. Inference time is the runtime's call alone."""

    key: PointKey
    status: Status = column("ok, or how measuring failed")
    reason: str = column("Why it failed; empty when ok", default="")
    n: int = column("Timed batches, all processes together", default=0)
    processes: int = column("Fresh processes the samples come from", default=0)
    service: Quantiles = field(default_factory=Quantiles)
    infer: Quantiles = field(default_factory=Quantiles)
    pre_mean_s: float | None = column("Mean time of pre-processing a batch", "s", default=None)
    post_mean_s: float | None = column("Mean time of post-processing a batch", "s", default=None)
    throughput_per_s: float | None = column(
        "Stage calls per second of one busy replica, closed loop", "1/s", default=None
    )
    load_s: float | None = column("Time to load the model, median over processes", "s", default=None)
    first_inference_s: float | None = column("Time of the first batch after loading, median", "s", default=None)
    warmup_n: int | None = column("Batches judged to be warm-up and left out, most over processes", default=None)
    peak_rss_bytes: int | None = column("Most resident memory of a measuring process", "B", default=None)
    cpu_utilisation: float | None = column("CPU time over wall time while measuring (1 = one core busy)", default=None)
    foreign_cpu: float | None = column("Cores kept busy by other processes while measuring", default=None)
    drift: float | None = column("Median of the last third over that of the first third of samples", default=None)
    process_spread: float | None = column("Largest over smallest per-process median service time", default=None)
    clock_min_hz: float | None = column("Lowest CPU clock seen", "Hz", default=None)
    clock_max_hz: float | None = column("Highest CPU clock seen", "Hz", default=None)
    temperature_c: float | None = column("Highest temperature seen", "Cel", default=None)
    peak_gpu_bytes: int | None = column("Most GPU memory of a measuring process", "B", default=None)
    gpu_clock_min_hz: float | None = column("Lowest GPU clock seen", "Hz", default=None)
    gpu_clock_max_hz: float | None = column("Highest GPU clock seen", "Hz", default=None)
    gpu_temperature_c: float | None = column("Highest GPU temperature seen", "Cel", default=None)
    gpu_throttle: str = column("Reasons the GPU's clocks were held back, joined by '+'; empty: none seen", default="")
    gpu_foreign_processes: int | None = column("Other processes on the GPU while measuring, most seen", default=None)
    mean_power_w: float | None = column("Mean power while measuring, where there is a counter", "W", default=None)
    energy_j: float | None = column("Energy per stage call, where there is a counter", "J", default=None)
    stopped_by: str = column(
        "percentile: its bound was met; time: the point's time limit came first; budget: the whole run's did",
        default="",
    )
    measured_at: str = column("When measuring ended, UTC, ISO 8601", default="")
    confidence: float = column("Confidence of the upper bounds of percentiles", default=0.99)
    origin: Origin = column(
        "measured; interpolated: predicted from other points, n is 0; imported: another tool's measurement",
        default="measured",
    )
    source: str = column(
        "interpolated: JSON list of the points it rests on; imported: tool and file it comes from", default=""
    )
    censored: bool = column(
        "Whether throughput is only a lower bound: it equals the load that was offered", default=False
    )
    lineage: str = column(
        "JSON object: parent and recipe of a variant made from another; empty for the others", default=""
    )

    def __post_init__(self) -> None:
        if self.status == "ok" and (self.service.mean_s is None or (self.n < 1 and self.origin == "measured")):
            raise ValueError("a measurement that is ok has samples")
        if self.status == "ok" and self.service.mean_s == 0:
            raise ValueError("a measurement takes some time")

    @property
    def choice(self) -> str:
        """The choice it is of: `variant`, or `variant@modality+modality`."""
        return choice_name(self.key.variant, self.key.modalities)


@dataclass(frozen=True, slots=True)
class AccuracyRow:
    """A metric of one variant on its stage's labelled data, or of one combination end to end."""

    scope: Literal["stage", "pipeline"] = column("stage: one variant; pipeline: a combination, end to end")
    stage: str = column("Stage; empty end to end")
    variant: str = column("Variant; empty end to end")
    combination: str = column("JSON object stage: variant (or variant@subset), sorted; '{}' for one stage")
    modalities: str = column("Modality subset, as in measurements; empty end to end")
    metric: str = column("Name of the metric; empty where an evaluation without one failed")
    value: float | None = column("The metric; null where it could not be evaluated")
    lower: float | None = column("Lower end of the 95 % interval")
    upper: float | None = column("Upper end of the 95 % interval")
    n: int = column("Labelled examples")
    method: str = column("How the interval was made: wilson, bootstrap; imported, where another tool says")
    evidence_sha256: str = column(
        "Hash of models, code, params and data the value rests on; where metrics are computed, '-' and their hash"
    )
    status: Status = column("ok, or how the evaluation failed", default="ok")
    reason: str = column("Why it failed; empty when ok", default="")
    measured_at: str = column(
        "When it was evaluated, UTC, ISO 8601; one time for all rows of an evaluation", default=""
    )
    source: str = column("imported: tool and file it comes from; empty where it was evaluated here", default="")

    def stages(self) -> dict[str, str]:
        """The combination as a mapping from stage to choice."""
        return dict(json.loads(self.combination))

    @property
    def choice(self) -> str:
        """The choice it is of: `variant`, or `variant@modality+modality`; empty end to end."""
        return choice_name(self.variant, self.modalities)

    @property
    def inference_sha256(self) -> str:
        """Hash of what the predictions rest on: the evidence without that of the metrics."""
        return inference_sha256(self.evidence_sha256)

    def evaluation(self) -> str:
        """A short stable name of the evaluation it comes from: that of its files in `scores` and `predictions`."""
        return evaluation_id(self.scope, self.stage, self.variant, self.modalities, self.combination)


def inference_sha256(evidence_sha256: str) -> str:
    """The part of an accuracy's evidence that its predictions and flows rest on."""
    return evidence_sha256.partition(METRICS_MARK)[0]


def evaluation_id(scope: str, stage: str, variant: str, modalities: str, combination: str) -> str:
    """A short stable name of an evaluation: evaluating again replaces its files."""
    text = json.dumps([scope, stage, variant, modalities, combination])
    return hashlib.sha256(text.encode()).hexdigest()[:24]


@dataclass(frozen=True, slots=True)
class FlowRow:
    """What one variant of a stage sent along an edge, per call, on the labelled data."""

    source: str = column("Stage the calls come from")
    target: str = column("Stage the calls go to")
    variant: str = column("Variant of the upstream stage")
    modalities: str = column("Modality subset of the upstream variant, as in measurements")
    fan_out_mean: float = column("Mean downstream calls per upstream call")
    fan_outs: str = column("JSON list: downstream calls of every upstream call observed")
    payload_bytes_mean: float | None = column("Mean size of a downstream call's input", "B")
    n: int = column("Upstream calls observed")
    evidence_sha256: str = column("Hash of model, code, params and data the value rests on")
    measured_at: str = column("When it was observed, UTC, ISO 8601", default="")


@dataclass(frozen=True, slots=True)
class InterferenceRow:
    """How much slower a choice is with others at work beside it on the same machine, each on cores of its own.

    The slow-down is that of its mean service time: busy neighbours over none, from alternating blocks of time.
    """

    key: PointKey
    neighbours: str = column("JSON list, sorted: [stage, choice, batch, threads] of each neighbour, all busy")
    neighbours_sha256: str = column("Hash of the neighbours' point keys")
    slowdown: float | None = column("Mean service time beside them over that alone", default=None)
    slowdown_lower: float | None = column("Lower end of its 95 % interval over blocks", default=None)
    slowdown_upper: float | None = column("Upper end of its 95 % interval over blocks", default=None)
    slowdown_p90: float | None = column("90th percentile of service time beside them over that alone", default=None)
    blocks: int = column("Pairs of blocks", default=0)
    n: int = column("Timed batches beside the neighbours", default=0)
    status: Status = column("ok, or how measuring failed", default="ok")
    reason: str = column("Why it failed; empty when ok", default="")
    measured_at: str = column("When measuring ended, UTC, ISO 8601", default="")

    def id(self) -> str:
        """A short stable name: that of its file."""
        return hashlib.sha256(f"{self.key.id()} {self.neighbours_sha256}".encode()).hexdigest()[:24]

    @property
    def choice(self) -> str:
        """The choice it is of."""
        return choice_name(self.key.variant, self.key.modalities)


@dataclass(frozen=True, slots=True)
class HandoffRow:
    """What serving costs beyond service times: handing batches to a replica of the runner and back.

    Measured at a stage's fastest choice, with the stage's own inputs, under bursts, single requests and traffic.
    """

    stage: str = column("Stage of the pipeline")
    variant: str = column("Variant that was served")
    modalities: str = column("Its modality subset, as in measurements")
    device: str = column("Device of the workload (tier/device) this machine stood for")
    device_fingerprint: str = column("Hash of the machine, as in measurements")
    n: int = column("Batches that were handed over", default=0)
    handoff_mean_s: float | None = column(
        "Mean time that a replica is taken by a batch of one beyond the service time", "s", default=None
    )
    handoffs_s: str = column("JSON list: quantiles of that time, evenly spaced", "s", default="[]")
    entry_s: float | None = column(
        "Median latency of a request beyond its wait and the time a replica is taken", "s", default=None
    )
    entries_s: str = column("JSON list: quantiles of that latency, evenly spaced", "s", default="[]")
    handoff_call_s: float | None = column("How much longer for every further call of a batch", "s", default=None)
    wakings_s: str = column(
        "JSON list of pairs: a replica that rested for longer than the first takes the second longer", "s", default="[]"
    )
    entry_wakings_s: str = column(
        "JSON list of pairs: a request takes the second longer on its way if none came for the first before it; empty"
        " where an earlier version measured",
        "s",
        default="",
    )
    stalls_s: str = column("JSON list: times for which a busy router would not have been run", "s", default="[]")
    replica_stalls_s: str = column("JSON list: the same of a busy replica", "s", default="")
    watched_s: float = column("How long that was looked for", "s", default=0.0)
    status: Status = column("ok, or how measuring failed", default="ok")
    reason: str = column("Why it failed; empty when ok", default="")
    measured_at: str = column("When measuring ended, UTC, ISO 8601", default="")

    def id(self) -> str:
        """A short stable name: that of its file."""
        return hashlib.sha256(f"{self.stage} {self.device} {self.device_fingerprint}".encode()).hexdigest()[:24]


@dataclass(frozen=True, slots=True)
class Samples:
    """Raw times of one point, in order of measurement. `elements` is the size of what the model was fed."""

    point: str
    process: NDArray[np.int32]
    service_s: NDArray[np.float64]
    infer_s: NDArray[np.float64]
    elements: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ExampleScores:
    """Scores of one evaluation, by metric: arrays [n] of values and weights (`spec.stagecode.Scores`)."""

    evaluation: str
    evidence_sha256: str
    ids: tuple[str, ...]
    values: Mapping[str, NDArray[np.float64]]
    weights: Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class Predictions:
    """What was predicted for every labelled example of an evaluation, and the truth: JSON texts."""

    evaluation: str
    evidence_sha256: str
    ids: tuple[str, ...]
    predictions: tuple[str, ...]
    truths: tuple[str, ...]
