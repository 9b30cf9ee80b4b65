"""The pieces of work of a profiling campaign, and what is told of them while they are done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from inferplan.profilers.inputs import PipelineSpec
from inferplan.profilers.interference import Blocks, Neighbourhood
from inferplan.profilers.points import PointTask
from inferplan.profilers.process import Limits
from inferplan.profilers.runtimes.executor import ExecutorSpec
from inferplan.profilers.statistics import CONFIDENCE
from inferplan.spec.rows import Status

Level = tuple[int, ...]
"""How telling a job is: lower comes first."""


@dataclass(frozen=True, slots=True)
class PointJob:
    """Measure one point. `overhead_s` is spent however short the measuring is."""

    task: PointTask
    level: Level
    overhead_s: float
    service_s: float
    full_s: float
    confidence: float = CONFIDENCE

    @property
    def name(self) -> str:
        """What is measured, for people."""
        key = self.task.key
        threads = f", {key.threads} threads" if key.threads > 1 else ""
        provider = f", {key.provider}" if key.provider != "cpu" else ""
        return f"{key.stage}={self.task.spec.choice} batch {key.batch}{threads}{provider}"

    @property
    def estimate_s(self) -> float:
        """Expected duration without a time budget."""
        return self.overhead_s + self.full_s


@dataclass(frozen=True, slots=True)
class AccuracyJob:
    """Score one choice on its stage's labelled data, and see what it sends to `targets`.

    `metric` is the one the workload declares for the stage; it must be among those that `score` returns, or among
    `metrics`, which are computed from predictions and truths (`Metric` as plain data).
    """

    spec: ExecutorSpec
    requests: PipelineSpec | None
    limits: Limits
    provider: str
    threads: int
    batch: int
    metric: str | None
    targets: tuple[str, ...]
    evidence_sha256: str
    level: Level
    estimate_s: float
    metrics: tuple[Mapping[str, Any], ...] = ()

    @property
    def name(self) -> str:
        """What is evaluated, for people."""
        return f"{self.spec.stage}={self.spec.choice} accuracy"


@dataclass(frozen=True, slots=True)
class CombinationsJob:
    """Evaluate combinations of choices end to end. `specs` go by stage and choice; `evidence` has a hash per
    combination, as JSON. `metric` and `metrics` are as in `AccuracyJob`."""

    pipeline: PipelineSpec
    order: tuple[str, ...]
    parents: Mapping[str, tuple[str, ...]]
    specs: Mapping[str, Mapping[str, ExecutorSpec]]
    limits: Limits
    provider: str
    threads: int
    batch: int
    metric: str
    evidence: Mapping[str, str]
    level: Level
    estimate_s: float
    metrics: tuple[Mapping[str, Any], ...] = ()

    @property
    def name(self) -> str:
        """What is evaluated, for people."""
        count = len(self.evidence)
        return f"end-to-end accuracy of {count} combination{'s' * (count != 1)}"


@dataclass(frozen=True, slots=True)
class InterferenceJob:
    """Measure one point beside others at work on the same machine."""

    where: Neighbourhood
    blocks: Blocks
    level: Level
    estimate_s: float

    @property
    def name(self) -> str:
        """What is measured beside what, for people."""
        subject = self.where.subject
        threads = f", {subject.key.threads} threads" if subject.key.threads > 1 else ""
        beside = Counter(f"{task.key.stage}={task.spec.choice}" for task in self.where.neighbours)
        others = ", ".join(f"{count} x {name}" if count > 1 else name for name, count in beside.items())
        return f"{subject.key.stage}={subject.spec.choice} batch {subject.key.batch}{threads} beside {others}"


@dataclass(frozen=True, slots=True)
class GlanceJob:
    """Glance at the points of one choice, provider and thread count, all batch sizes in one process; at each for
    `most_s` at most."""

    tasks: tuple[PointTask, ...]
    most_s: tuple[float, ...]
    level: Level
    estimate_s: float

    @property
    def name(self) -> str:
        """What is glanced at, for people."""
        first = self.tasks[0]
        threads = f", {first.key.threads} threads" if first.key.threads > 1 else ""
        provider = f", {first.key.provider}" if first.key.provider != "cpu" else ""
        return f"{first.key.stage}={first.spec.choice} a glance{threads}{provider}"


Job = PointJob | AccuracyJob | CombinationsJob | InterferenceJob | GlanceJob


@dataclass(frozen=True, slots=True)
class Failed:
    """Something that could not be measured, and why."""

    name: str
    status: Status
    reason: str


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Something that was not measured on purpose, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Inspecting:
    """A choice is being looked at, before anything is measured."""

    name: str
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class JobStarted:
    """A job begins. `left_s` is the expected time for it and all after it, from the speed so far."""

    name: str
    done: int
    total: int
    left_s: float


@dataclass(frozen=True, slots=True)
class JobProgress:
    """How far the running job is: `share` from 0 to 1."""

    name: str
    share: float
    done: int
    total: int
    left_s: float


@dataclass(frozen=True, slots=True)
class JobFinished:
    """A job is done and stored. `reason` is empty when ok."""

    name: str
    status: Status
    reason: str
    seconds: float
    done: int
    total: int
    left_s: float


@dataclass(frozen=True, slots=True)
class JobLeftOut:
    """A job is not done because the time budget does not reach."""

    name: str
    reason: str


Event = Inspecting | JobStarted | JobProgress | JobFinished | JobLeftOut
OnEvent = Callable[[Event], None]


@dataclass(frozen=True, slots=True)
class CampaignSummary:
    """What a campaign did. `resumed` were there already; `damaged` were found unreadable, moved aside and
    measured again."""

    measured: int = 0
    evaluated: int = 0
    resumed: int = 0
    failed: tuple[Failed, ...] = ()
    failed_before: tuple[Failed, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    damaged: tuple[str, ...] = ()
    seconds: float = 0.0
    device: str = ""
    notes: tuple[str, ...] = field(default=())
    beside: int = 0
    """Measured beside neighbours."""
    interpolated: int = 0
    """Points that the profile holds as predicted from others."""
