"""What a run measured, beside what the plan predicted. Every record turns to JSON with `model_dump(mode="json")`.

None stands for a number that the run cannot tell: too few requests, or a percentile that falls on requests
which never got an answer.
"""

from __future__ import annotations

from pydantic import Field

from inferplan.spec.plan import Verdict
from inferplan.spec.types import Record


class Measured(Record):
    """A measured number with its 95 % interval."""

    value: float | None
    lower: float | None = None
    upper: float | None = None


class Compared(Record):
    """Predicted beside measured."""

    predicted: float | None
    measured: Measured
    ratio: float | None = Field(None, description="Measured over predicted.")


class Lateness(Record):
    """How long after their scheduled time the load generator really sent requests."""

    p50_s: float
    p99_s: float
    max_s: float


class Stalls(Record):
    """Times of over 0.1 ms for which the machine left a thread standing that had something to do, as seen by one that
    polls (see docs/runner.md)."""

    watched_s: float = Field(description="How long it polled; of the rest of the time it does not know.")
    per_s: float = Field(description="Stalls a second of polling.")
    share: float = Field(description="Share of the polling that was stalls.")
    lengths_s: list[float] = Field(description="How long stalls were: all of them, or evenly spaced quantiles.")


class AccuracyReport(Record):
    """Accuracy of the answers, in the workload's metric."""

    metric: str
    compared: Compared
    n: int = Field(description="Different labelled requests that were answered.")
    of: int = Field(description="Labelled requests there are.")
    floor: float | None = None
    verdict: Verdict | None = Field(None, description="None where nothing was promised.")


class ClassReport(Record):
    """One traffic class. `requests` are those scheduled while measuring."""

    verdict: Verdict
    reasons: list[str] = Field(description="Why this verdict, promise by promise.")
    requests: int
    completed: int
    failed: int
    unfinished: int = Field(description="Still without an answer when draining ended.")
    errors: dict[str, int] = Field(description="Failed requests by reason.")
    offered_rps: float
    throughput_rps: Compared = Field(description="Answers per second while measuring.")
    latency_mean_s: Compared
    latency_p50_s: Compared
    latency_p90_s: Compared
    latency_p99_s: Compared
    latency_slo_s: Compared | None = Field(None, description="At the percentile of the SLO.")
    slo_percentile: float | None = None
    slo_latency_s: float | None = None
    within_slo: float | None = Field(None, description="Share of requests answered within the SLO's latency.")
    accuracy: AccuracyReport | None = None
    lateness: Lateness


class OptionReport(Record):
    """One option, all its replicas together, while measuring."""

    stage: str
    variant: str
    replicas: int
    max_batch: int
    calls: int
    calls_per_s: Compared
    batch_sizes: dict[int, int] = Field(description="Batches by number of calls in them.")
    batch_mean: Compared
    utilisation: Compared = Field(description="Share of time that replicas were at work.")
    service_per_call_s: Compared = Field(description="Time of a replica at work per call it served.")
    service_per_batch_s: float | None = Field(description="Pre-processing, inference and post-processing of a batch.")
    wait_mean_s: float | None = Field(description="Time in the queue.")
    transport_per_batch_s: float | None = Field(
        description="Time a replica was taken by a batch beyond what it worked: sockets and the router's turn."
    )
    stalls: Stalls | None = Field(None, description="Of its replicas; None where they did not poll.")
    failed_calls: int
    crashes: list[str] = Field(description="Replicas that ended by themselves.")


class RunReport(Record):
    """A plan, run on this machine."""

    name: str
    plan: str
    seed: int
    rate_scale: float = Field(description="Traffic sent over traffic planned for.")
    duration_s: float
    warmup_s: float
    verdict: Verdict = Field(description="The worst of the classes'.")
    notes: list[str] = Field(description="What makes this run differ from the plan.")
    router_cores: float = Field(
        description="Cores that router and load generator, one process, kept busy while measuring: they have one."
    )
    router_stalls: Stalls | None = Field(None, description="Of the router; None where it did not poll.")
    classes: dict[str, ClassReport]
    options: dict[str, OptionReport]
