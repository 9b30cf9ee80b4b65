"""Everything the solver knows, gathered once from workload and profile and sorted by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from inferplan.estimators.accuracy import AccuracyModel, accuracy_model
from inferplan.estimators.bounds import low_accuracy, slow_points
from inferplan.estimators.cost import Capacity, Tariff, machine_capacity, tariff
from inferplan.estimators.fanout import FanOuts, fan_outs
from inferplan.estimators.interference import Interference, measured_on, read_interference
from inferplan.estimators.network import stage_order
from inferplan.estimators.points import Points, read_points
from inferplan.estimators.service import SampleSource
from inferplan.estimators.transport import Payloads, Ways, payloads_of, ways_of
from inferplan.estimators.unevenness import Unevenness, unevenness_of
from inferplan.solvers.options import Option, OptionTable, option_table
from inferplan.spec.arrivals import Source, source_of
from inferplan.spec.errors import InputError
from inferplan.spec.profile import Profile
from inferplan.spec.workload import Job, TrafficClass, Workload

MAX_CLASSES = 6
DEFAULT_PERCENTILE = 99.0
NO_INTERFERENCE = Interference()


@dataclass(frozen=True)
class Assurance:
    """What a plan must withstand (`solvers.assurance`)."""

    confidence: float | None = None
    levels: tuple[float, ...] = (1.0,)
    """Factors of all rates, rising; 1 is among them."""
    spares: Mapping[str, int] = field(default_factory=dict)
    """Machines of a device type that may be lost."""
    headroom: float = 0.0

    @property
    def shapes_columns(self) -> bool:
        """Whether columns differ from those of a plain plan, times and accuracies aside."""
        return len(self.levels) > 1 or any(self.spares.values()) or self.headroom > 0


PLAIN = Assurance()


@dataclass(frozen=True)
class ClassNeed:
    """A traffic class and its promises. `uneven` is how unevenly its requests arrive."""

    name: str
    rate_rps: float
    uneven: Unevenness
    percentile: float
    """Of the SLO (0..100)."""
    limit_s: float | None
    floor: float | None
    trace_sha256: str | None = None
    goal: float | None = None
    """Accuracy beyond which more counts for nothing."""
    share: float = 1.0
    """Of the class's requests, where this is a part of a class (`parts`)."""
    burst: int = 1
    """Requests that arrive at one instant: those of a job."""
    burst_of: int = 1
    """Requests of a whole job."""

    @property
    def groups_rps(self) -> float:
        """Requests per second; of a class of jobs, jobs."""
        return self.rate_rps / max(self.burst, 1)


@dataclass(frozen=True)
class DeviceType:
    """A type of machine. `count` is None where there are as many as wanted."""

    name: str
    price_usd_per_h: float
    count: int | None
    capacity: Capacity
    tariff: Tariff


@dataclass(frozen=True)
class Problem:
    """An instance to solve. Stages are in topological order; everything else is sorted by name."""

    workload: Workload
    points: Points
    laws: FanOuts
    accuracy: AccuracyModel | None
    table: OptionTable
    stages: tuple[str, ...]
    paths: tuple[tuple[str, ...], ...]
    classes: tuple[ClassNeed, ...]
    devices: Mapping[str, DeviceType]
    budget_usd_per_h: float | None
    ways: Ways
    payloads: Payloads
    interference: Interference = NO_INTERFERENCE
    assurance: Assurance = PLAIN
    estimated: AccuracyModel | None = None
    """Accuracy as it was estimated; `accuracy` may be bounds."""

    @property
    def exclusive(self) -> frozenset[str]:
        """Device types whose machines serve one stage each."""
        return frozenset(name for name, device in self.workload.devices().items() if device.exclusive)

    @property
    def values_accuracy(self) -> bool:
        """Whether accuracy is something to make best of, not only to keep promises about."""
        return "accuracy" in self.workload.objective.terms

    def options(self, stage: str) -> tuple[Option, ...]:
        """The stage's options."""
        return self.table.stages[stage]

    def variants(self, stage: str) -> list[str]:
        """Choices of a stage that some option runs."""
        return sorted({option.variant for option in self.options(stage)})


def read_problem(workload: Workload, profile: Profile, samples: SampleSource | None = None) -> Problem:
    """Gather an instance.

    Raises InputError where the profile lacks what the workload needs, InfeasibleError where a stage fits nowhere.
    """
    points = read_points(workload, profile, samples)
    laws = fan_outs(workload, profile)
    estimated = accuracy = accuracy_model(workload, profile)
    confidence = workload.robustness.confidence
    if confidence is not None:
        points = slow_points(points, confidence)
        accuracy = None if accuracy is None else low_accuracy(accuracy, confidence)
    classes = tuple(_class_need(workload, name) for name in sorted(workload.classes))
    if len(classes) > MAX_CLASSES:
        raise InputError(
            f"{len(classes)} traffic classes (one for everything that a class `asks`): plans for more than"
            f" {MAX_CLASSES} are not honoured yet; merge classes with the same promises"
        )
    wanted = "accuracy" in workload.objective.terms or any(need.floor is not None for need in classes)
    interference = read_interference(workload, profile, points.model_sha256)
    table = option_table(workload, points, laws, accuracy, wanted, _company(workload, interference))
    devices = {
        name: DeviceType(
            name,
            device.price_usd_per_h,
            device.count,
            machine_capacity(device),
            tariff(device, workload.tiers[name.split("/", 1)[0]]),
        )
        for name, device in sorted(workload.devices().items())
    }
    return Problem(
        workload,
        points,
        laws,
        accuracy,
        table,
        tuple(stage_order(workload)),
        tuple(sorted(tuple(path) for path in workload.pipeline.paths())),
        classes,
        devices,
        workload.objective.budget_usd_per_h,
        ways_of(workload),
        payloads_of(workload, profile),
        interference,
        _assurance(workload),
        estimated,
    )


def _assurance(workload: Workload) -> Assurance:
    asked = workload.robustness
    spares = dict.fromkeys(workload.devices(), asked.spare_machines) if asked.spare_machines else {}
    return Assurance(asked.confidence, tuple(sorted({1.0, *asked.load_levels})), spares, asked.headroom)


def _company(workload: Workload, interference: Interference) -> dict[tuple[str, str], frozenset[str]]:
    """By (device, stage/choice): what may share a GPU with it."""
    devices = workload.devices()
    return {
        (name, choice): others
        for name in devices
        for choice, others in interference.company(measured_on(devices, name)).items()
    }


def _class_need(workload: Workload, name: str) -> ClassNeed:
    traffic = workload.classes[name]
    source = source_of(workload, name)
    if traffic.job is not None:
        return _job_need(traffic.job, traffic, name, source)
    return ClassNeed(
        name,
        source.rate_rps,
        unevenness_of(source),
        traffic.slo.percentile if traffic.slo else DEFAULT_PERCENTILE,
        traffic.slo.latency_s if traffic.slo else None,
        traffic.accuracy.floor,
        None if source.trace is None else source.trace.sha256,
        traffic.accuracy.goal,
    )


def _job_need(job: Job, traffic: TrafficClass, name: str, source: Source) -> ClassNeed:
    """What a class of jobs was promised: that a job's last request is answered by the deadline."""
    # The times of a trace are those of jobs.
    rate = source.rate_rps * (job.requests if source.trace is not None else 1)
    return ClassNeed(
        name,
        rate,
        unevenness_of(source),
        traffic.slo.percentile if traffic.slo else DEFAULT_PERCENTILE,
        job.deadline_s,
        job.mean_accuracy,
        None if source.trace is None else source.trace.sha256,
        traffic.accuracy.goal,
        burst=job.requests,
        burst_of=job.requests,
    )
