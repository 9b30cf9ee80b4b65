"""The plan document: what was decided, how sure it is, and what it was decided on.

Machine-written, for people to read and diff: the same inputs give the same bytes. There are no time stamps;
mappings are sorted by name; durations are rounded to a microsecond and other numbers to nine significant digits.
"""

from __future__ import annotations

import math
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, model_validator

from inferplan.spec.core_yaml import CoreDumper
from inferplan.spec.costs import Costs as Costs
from inferplan.spec.costs import Energy as Energy
from inferplan.spec.costs import Flow as Flow
from inferplan.spec.costs import LinkLoad as LinkLoad
from inferplan.spec.costs import Term as Term
from inferplan.spec.costs import TierEnergy as TierEnergy
from inferplan.spec.costs import Traffic as Traffic
from inferplan.spec.document import LoadedWorkload, load_workload, read_document, validated
from inferplan.spec.errors import InputError
from inferplan.spec.routes import Choice as Choice
from inferplan.spec.routes import Estimate as Estimate
from inferplan.spec.routes import Mixture as Mixture
from inferplan.spec.routes import mixture_findings
from inferplan.spec.selection import Selection as Selection
from inferplan.spec.stage import Choice as StageChoice
from inferplan.spec.types import (
    Count,
    Name,
    NonNegative,
    PositiveInt,
    PositiveNumber,
    Record,
    Seconds,
    Sha256,
)

SIGNIFICANT_DIGITS = 9
SECONDS_DECIMALS = 6

DevicePath = str
Provider = Literal["cpu", "openvino", "cuda", "tensorrt", "none"]
Verdict = Literal["met", "missed", "undecided"]


class WorkloadSource(Record):
    """The workload that was planned. `path` is relative to the plan file."""

    path: str = Field(min_length=1, max_length=4096, pattern=r"^[^\x00-\x1f]+$")
    sha256: Sha256
    overrides: list[str] = []


class ProfileSource(Record):
    """The profile it was planned on."""

    sha256: Sha256
    fingerprints: list[str] = Field(description="Device fingerprints of the rows used.")
    stale: list[str] = Field(default=[], description="Rows used although something has changed since, with the reason.")
    interpolated: list[str] = Field(default=[], description="Points used that were predicted from measured ones.")
    imported: list[str] = Field(default=[], description="Points used that another tool measured, with the source.")
    alone: list[str] = Field(
        default=[],
        description="Choices that share machines and were never measured beside others: taken as not slowed down.",
    )


class Proof(Record):
    """How sure it is that no better plan exists under the planner's models."""

    solver: str
    status: Literal["optimal", "feasible"] = Field(description="feasible: stopped before optimality was proven.")
    objective: float
    bound: float | None = Field(None, description="Absent where time ran out before there was one.")
    gap: NonNegative | None = Field(None, description="|objective - bound| / |objective|")


class OptionPrediction(Record):
    """What a deployed option is expected to do, at its load."""

    load_rps: NonNegative = Field(description="Stage calls per second, all replicas together.")
    capacity_rps: PositiveNumber | None = Field(
        None, description="Stage calls per second at full batches; absent for skip."
    )
    utilisation: NonNegative = Field(description="Share of time that a replica is at work.")
    batch_mean: NonNegative | None = Field(None, description="Mean calls per batch.")
    latency_mean_s: Seconds | None = Field(
        None, description="Waiting and service; absent where a plan is judged on capacity alone."
    )
    latency_tail_s: Seconds | None = Field(None, description="At the strictest percentile of the classes it serves.")
    interference: float = Field(
        1.0, ge=1, description="How much slower its replicas are for what runs beside them (harmonic mean over them)."
    )
    energy_j: NonNegative | None = Field(
        None, description="Energy per stage call over what its machine draws idle; absent where power is not known."
    )


class DeployedOption(Record):
    """A chosen option with its replicas."""

    stage: Name
    variant: Name
    modalities: list[Name] = Field(default=[], description="Those the variant is given; empty: no choice of them.")
    runtime: Literal["onnxruntime", "torch", "skip", "external"]
    provider: Provider
    device: DevicePath
    model_sha256: str = Field(pattern=r"^([0-9a-f]{64})?$", description="Empty for skip.")
    threads: Count
    max_batch: PositiveInt
    max_queue_delay_s: Seconds
    order: Literal["edf"] | None = Field(
        None,
        description="Whose turn it is: edf, the call of the earliest deadline, counted from when its request arrived;"
        " absent: the call that came first. What serves a class of jobs goes by deadlines in any case.",
    )
    replicas: Count = Field(description="0 for skip: it needs no machine.")
    memory_bytes: Count | None = Field(None, description="Peak resident memory of one replica, as measured.")
    gpu_memory_bytes: Count | None = Field(None, description="Peak GPU memory of one replica, as measured.")
    shares_gpu: bool = Field(False, description="Whether a replica may have neighbours on its GPU.")
    load_s: Seconds | None = Field(None, description="Time to load its model, as measured.")
    predicted: OptionPrediction

    @property
    def chosen(self) -> StageChoice:
        """The variant with its modality subset."""
        return StageChoice(self.variant, tuple(sorted(self.modalities)))

    @property
    def choice(self) -> str:
        """Name of what was chosen: `variant`, or `variant@modality+modality`."""
        return self.chosen.name


class ClassPrediction(Record):
    """What a class is expected to see. Latencies end to end."""

    latency_mean_s: Estimate | None = Field(None, description="Absent where a plan is judged on capacity alone.")
    latency_p50_s: Estimate | None = None
    latency_p90_s: Estimate | None = None
    latency_p99_s: Estimate | None = None
    latency_slo_s: Estimate | None = Field(None, description="At the percentile of the SLO.")
    throughput_rps: NonNegative
    accuracy: Estimate | None = Field(None, description="In the workload's metric.")
    accuracy_source: Literal["measured", "composed", "declared", "predicted"] | None = None


class ClassPlan(Record):
    """How one traffic class is served."""

    rate_rps: PositiveNumber
    trace_sha256: Sha256 | None = Field(None, description="Of the trace that its requests arrive by.")
    slo_percentile: float | None = None
    slo_latency_s: Seconds | None = None
    accuracy_floor: float | None = None
    accuracy_goal: float | None = None
    asked_of: Name | None = Field(
        None, description="The model-less class whose requests ask for just this latency and accuracy."
    )
    job_requests: PositiveInt | None = Field(
        None,
        description="Requests of a job, where the class is of jobs: the latency is then the deadline, counted until the"
        " last of them is answered, and the floor the mean accuracy.",
    )
    routes: dict[Name, list[Choice]] = Field(description="Per stage, the options and their shares of its calls.")
    mixtures: list[Mixture] = Field(
        default=[],
        description="Where requests of a class go different ways: which ways, and how many go each. A request keeps its"
        " way; `routes` are what that adds up to.",
    )
    predicted: ClassPrediction


class Placement(Record):
    """Replicas of an option on one machine, with the cores they are pinned to."""

    option: Name
    replicas: PositiveInt


class Machines(Record):
    """Machines of one device type, each with what runs on it."""

    count: PositiveInt
    price_usd_per_h: NonNegative
    share: NonNegative | None = Field(
        None, description="Where machines are paid by share: how many of them the replicas use, and what is paid."
    )
    interruptions_per_h: NonNegative | None = Field(
        None, description="Expected interruptions per hour, all machines together, where they can be taken away."
    )
    lost_share: NonNegative | None = Field(
        None, description="Expected share of capacity lost to them: until machines are replaced and models loaded."
    )
    packing: list[list[Placement]]

    @model_validator(mode="after")
    def _one_list_per_machine(self) -> Machines:
        if len(self.packing) != self.count:
            raise ValueError(f"packing lists {len(self.packing)} machines; count is {self.count}")
        return self


class Binding(Record):
    """A promise or limit that holds the plan where it is."""

    constraint: str
    value: float
    limit: float
    unit: str


class Alternative(Record):
    """Another plan that was considered, and why it was not chosen."""

    variants: dict[Name, str] = Field(description="Choice per stage: variant, or variant@modality+modality.")
    cost_usd_per_h: NonNegative | None = None
    accuracy: float | None = None
    latency_s: NonNegative | None = Field(None, description="Largest over classes, at their SLO percentile.")
    reason: str


class Wanted(Record):
    """A combination whose accuracy is only predicted, and that decides the plan."""

    combination: dict[Name, str] = Field(description="Choice per stage: variant, or variant@modality+modality.")
    reason: str


class ClassCertificate(Record):
    """The verdict on one class's latency promise."""

    verdict: Verdict
    latency_s: Estimate
    limit_s: Seconds
    percentile: float
    requests: Count = Field(description="Requests it was judged on.")


class Certificate(Record):
    """The verdict on the plan, and what it was judged on."""

    verdict: Verdict
    judged_on: Literal["simulation", "run", "capacity"] = Field(
        description="capacity: no class has a latency promise, and every queue gets no more than it can serve."
    )
    seed: int
    classes: dict[Name, ClassCertificate]


class AssuredCase(Record):
    """A situation that the plan was judged in: all rates times `rate_scale`, without some machines."""

    name: str
    rate_scale: PositiveNumber
    lost: dict[DevicePath, PositiveInt] = Field(default={}, description="Machines lost, by device.")
    verdict: Verdict
    classes: dict[Name, ClassCertificate]


class Assurance(Record):
    """What the plan withstands besides what is expected, and what that costs."""

    confidence: float | None = Field(None, description="Of the bounds of times and accuracies it was planned on.")
    load_levels: list[PositiveNumber] = []
    spare_machines: dict[DevicePath, PositiveInt] = Field(
        default={}, description="Machines of a device type that may be lost."
    )
    availability: float | None = Field(None, description="Share of time in which no more are gone than that.")
    headroom: NonNegative = 0.0
    plain_cost_usd_per_h: NonNegative | None = Field(
        None, description="Cost of the plan without all this; absent where there was no time to find it."
    )
    extra_usd_per_h: float | None = Field(None, description="What the assurance costs: the difference.")
    cases: list[AssuredCase] = []
    without_bounds: list[str] = Field(
        default=[], description="Figures that stand as they are at any confidence: they have no interval."
    )


class Plan(Record):
    """What was decided."""

    api_version: Literal["inferplan/v1"] = Field("inferplan/v1", alias="apiVersion")
    kind: Literal["Plan"] = "Plan"
    name: Name
    workload: WorkloadSource
    profile: ProfileSource
    objective: str
    terms: dict[Literal["cost", "accuracy", "energy"], Term] = Field(
        default={}, description="Of a weighted objective, by goal."
    )
    cost_usd_per_h: NonNegative = Field(description="Machines and traffic together.")
    costs: Costs | None = None
    energy: Energy | None = None
    prices: list[str] = Field(default=[], description="Entries of price catalogues in use, with date and source.")
    proof: Proof
    certificate: Certificate | None = None
    assurance: Assurance | None = None
    classes: dict[Name, ClassPlan] = Field(min_length=1)
    options: dict[Name, DeployedOption] = Field(min_length=1)
    machines: dict[str, Machines]
    traffic: Traffic | None = Field(None, description="Absent where the workload has one tier.")
    selection: Selection | None = Field(
        None, description="Which options answer a request that names accuracy and latency; where a class has `asks`."
    )
    binding: list[Binding] = []
    alternatives: list[Alternative] = []
    to_measure: list[Wanted] = Field(
        default=[], description="Combinations to measure end to end: what is known of them is predicted."
    )
    story: list[str] = Field(default=[], description="How the planner got there: proposed, rejected because, accepted.")

    def by_deadline(self) -> frozenset[str]:
        """Options that take the calls of the earliest deadlines first: by their order, or as they serve jobs."""
        jobs = {
            choice.option
            for traffic in self.classes.values()
            if traffic.job_requests is not None
            for choices in traffic.routes.values()
            for choice in choices
        }
        return frozenset(jobs | {name for name, option in self.options.items() if option.order == "edf"})

    @model_validator(mode="after")
    def _refers_to_its_own(self) -> Plan:
        for name, traffic in self.classes.items():
            for stage, choices in traffic.routes.items():
                for choice in choices:
                    option = self.options.get(choice.option)
                    if option is None:
                        raise ValueError(f"classes.{name}.routes.{stage} names the unknown option {choice.option!r}")
                    if option.stage != stage:
                        raise ValueError(
                            f"classes.{name}.routes.{stage}: option {choice.option} is of stage {option.stage}"
                        )
                if not math.isclose(sum(choice.share for choice in choices), 1.0, abs_tol=1e-6):
                    raise ValueError(f"classes.{name}.routes.{stage}: shares must add up to 1")
            for wrong in mixture_findings(traffic.mixtures, traffic.job_requests, traffic.routes):
                raise ValueError(f"classes.{name}.mixtures: {wrong}")
        for index, row in enumerate(self.selection.rows if self.selection else ()):
            for stage, key in row.options.items():
                if key not in self.options or self.options[key].stage != stage:
                    raise ValueError(f"selection.rows[{index}]: {key!r} is no option of stage {stage}")
        placed = dict.fromkeys(self.options, 0)
        for device, machines in self.machines.items():
            for placements in machines.packing:
                for placement in placements:
                    if placement.option not in self.options:
                        raise ValueError(f"machines.{device} places the unknown option {placement.option!r}")
                    if self.options[placement.option].device != device:
                        raise ValueError(f"machines.{device} places {placement.option}, which is for another device")
                    placed[placement.option] += placement.replicas
        for name, option in self.options.items():
            if placed[name] != option.replicas:
                raise ValueError(f"options.{name} has {option.replicas} replicas, {placed[name]} are placed")
        return self


def dump_plan(plan: Record) -> str:
    """A plan, or plan book, as YAML text: same document, same bytes."""
    data = _rounded(plan.model_dump(mode="json", by_alias=True, exclude_none=True), "")
    head = {key: data.pop(key) for key in ("apiVersion", "kind", "name")}
    return _dump(head) + _dump(data)


def _dump(data: dict[str, Any]) -> str:
    return yaml.dump(data, Dumper=CoreDumper, sort_keys=False, width=110, allow_unicode=True)


def _rounded(value: Any, name: str) -> Any:
    if isinstance(value, dict):
        keys = list(value) if name in _FIELD_ORDER else sorted(value)
        inherit = name if name.endswith("_s") else ""
        return {key: _rounded(value[key], inherit or key) for key in keys}
    if isinstance(value, list):
        return [_rounded(item, name) for item in value]
    if isinstance(value, float):
        if name.endswith("_s"):
            return round(value, SECONDS_DECIMALS)
        return float(f"{value:.{SIGNIFICANT_DIGITS}g}")
    return value


# Records keep the order their fields are declared in; mappings keyed by the user's names are sorted.
_FIELD_ORDER = frozenset(
    {"", "workload", "profile", "proof", "certificate", "predicted", "binding", "alternatives", "costs", "energy"}
    | {"assurance", "cases", "to_measure", "levels", "plans", "switches", "design", "mixtures", "selection", "rows"}
)


def write_plan(plan: Record, path: Path) -> None:
    """Write a plan, or plan book, atomically: a reader sees the old file or the whole new one. What a link leads to,
    and what is no file (/dev/stdout), is written in place."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        path.write_text(dump_plan(plan), encoding="utf-8")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(dump_plan(plan))
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@dataclass(frozen=True, slots=True)
class LoadedPlan:
    """A plan with the workload it is for."""

    plan: Plan
    path: Path
    workload: LoadedWorkload


def read_plan(path: Path | str) -> Plan:
    """Read a plan alone. Raises DocumentError with every problem."""
    return validated(Plan, read_document(Path(path)), str(path))


def load_plan(path: Path | str) -> LoadedPlan:
    """Read a plan and its workload, and check that they still belong together.

    Raises InputError where the workload, a trace or a model file has changed since planning.
    """
    # Here, as it needs what is defined above.
    from inferplan.spec.plan_checks import check_against

    path = Path(path)
    plan = read_plan(path)
    workload_path = path.parent / plan.workload.path
    loaded = load_workload(workload_path, plan.workload.overrides)
    if loaded.sha256 != plan.workload.sha256:
        raise InputError(f"{path} was made for another version of {workload_path}: solve again")
    check_against(plan, loaded, path)
    return LoadedPlan(plan, path, loaded)
