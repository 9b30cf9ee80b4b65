"""The workload document, version 1: what the user writes.

Every quantity carries its unit in its name. Fields that a later version of the planner will honour are part
of the format already; `inferplan.spec.support` names those that nothing honours yet, and a workload that
uses one is refused, never misread.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, model_validator

from inferplan.spec.accuracy import Accuracy as Accuracy
from inferplan.spec.asks import Asks as Asks
from inferplan.spec.places import Device as Device
from inferplan.spec.places import Likeness as Likeness
from inferplan.spec.places import Link as Link
from inferplan.spec.places import Tier as Tier
from inferplan.spec.processes import Arrivals as Arrivals
from inferplan.spec.stage import Choice, Stage, TensorSpec
from inferplan.spec.types import (
    ChoiceName,
    CodeReference,
    Count,
    Name,
    NonNegative,
    PositiveInt,
    PositiveNumber,
    PositiveSeconds,
    Record,
    RelativePath,
)

API_VERSION = "inferplan/v1"


class FanOut(Record):
    """Distribution of the number of downstream calls per upstream call."""

    values: list[Count] = Field(min_length=1)
    weights: list[PositiveNumber] = Field(min_length=1)

    @model_validator(mode="after")
    def _same_length(self) -> FanOut:
        if len(self.values) != len(self.weights):
            raise ValueError(f"{len(self.values)} values but {len(self.weights)} weights")
        return self

    @property
    def mean(self) -> float:
        """Expected number of calls."""
        total = sum(self.weights)
        return sum(value * weight for value, weight in zip(self.values, self.weights, strict=True)) / total


class Edge(Record):
    """Calls from one stage to the next."""

    source: Name = Field(alias="from")
    target: Name = Field(alias="to")
    fan_out: NonNegative | Literal["measured"] | FanOut = Field(
        1.0,
        description="Calls of 'to' per call of 'from': a mean, a distribution, or what the profile measured.",
    )
    payload_bytes: NonNegative | dict[ChoiceName, NonNegative] | None = Field(
        None,
        description="Bytes per call: a number, or one per choice of 'from'; absent: what the profile observed.",
    )


class Pipeline(Record):
    """A DAG of stages."""

    code: CodeReference | None = Field(None, description="module:Class that joins, scores, decodes, encodes.")
    params: dict[Name, Any] = {}
    inputs: list[TensorSpec] = Field(default=[], description="Tensors of a served request.")
    outputs: list[TensorSpec] = Field(default=[], description="Tensors of a served response.")
    stages: dict[Name, Stage] = Field(min_length=1)
    edges: list[Edge] = []
    request_bytes: NonNegative = Field(0.0, description="Size of a request, from where it enters to the first stage.")
    response_bytes: NonNegative | None = Field(
        None,
        description="Size of a last stage's answer, sent back to where the request came from; absent: not counted.",
    )

    def entry_stages(self) -> list[str]:
        """Stages that requests enter at: those no edge leads to."""
        targets = {edge.target for edge in self.edges}
        return [name for name in self.stages if name not in targets]

    def last_stages(self) -> list[str]:
        """Stages whose predictions make the answer: those no edge leaves."""
        sources = {edge.source for edge in self.edges}
        return [name for name in self.stages if name not in sources]

    def order(self) -> list[str]:
        """Stage names, each after all stages that feed it. Raises ValueError on a cycle, naming it."""
        waiting = {name: {edge.source for edge in self.edges if edge.target == name} for name in self.stages}
        ordered: list[str] = []
        while waiting:
            ready = [name for name, sources in waiting.items() if sources <= set(ordered)]
            if not ready:
                raise ValueError("the pipeline has a cycle through " + ", ".join(sorted(waiting)))
            ordered.extend(ready)
            for name in ready:
                del waiting[name]
        return ordered

    def paths(self) -> list[list[str]]:
        """Every path from an entry stage to a last stage."""
        following: dict[str, list[str]] = {name: [] for name in self.stages}
        for edge in self.edges:
            following[edge.source].append(edge.target)

        def extend(path: list[str]) -> Iterator[list[str]]:
            nexts = following[path[-1]]
            if not nexts:
                yield path
            for stage in nexts:
                yield from extend([*path, stage])

        return [path for entry in self.entry_stages() for path in extend([entry])]


class Slo(Record):
    """A latency promise: this percentile of end-to-end latencies stays within `latency_s`."""

    percentile: Annotated[float, Field(gt=0, lt=100)] = 99.0
    latency_s: PositiveSeconds


class AccuracyGoal(Record):
    """What a class asks of end-to-end accuracy, in the workload's metric."""

    floor: float | None = Field(None, description="Promise: no worse than this (a ceiling where lower is better).")
    goal: float | None = Field(
        None, description="Wish: as near to this as the objective allows; what is better counts as if it were this."
    )


class Job(Record):
    """A batch of requests with one deadline and a mean accuracy."""

    requests: PositiveInt
    deadline_s: PositiveSeconds
    mean_accuracy: float | None = None


class TrafficClass(Record):
    """A stream of requests, or of jobs, and what it was promised."""

    kind: Literal["requests", "jobs"] = "requests"
    rate_rps: PositiveNumber | None = Field(None, description="Mean rate, requests per second.")
    trace: RelativePath | None = Field(None, description="File of recorded arrivals, instead of a rate.")
    arrivals: Arrivals = Arrivals()
    enters_at: Name | None = Field(None, description="Tier the requests come from.")
    slo: Slo | None = None
    accuracy: AccuracyGoal = AccuracyGoal()
    job: Job | None = None
    asks: Asks | None = Field(
        None, description="Model-less requests: they name accuracy and latency, instead of 'slo' and 'accuracy'."
    )

    _level: tuple[str, int] | None = PrivateAttr(default=None)

    @property
    def level_of(self) -> tuple[str, int] | None:
        """Of a level of a model-less class: that class, and its place in the mix; None for any other class."""
        return self._level

    def as_level(self, owner: str, index: int) -> TrafficClass:
        """The same class, known to be a level of another one."""
        self._level = (owner, index)
        return self

    @model_validator(mode="after")
    def _rate_or_trace(self) -> TrafficClass:
        if (self.rate_rps is None) == (self.trace is None):
            raise ValueError("give exactly one of 'rate_rps' (requests per second) and 'trace' (a file)")
        if self.trace is not None and "arrivals" in self.model_fields_set:
            raise ValueError("a trace says when requests arrive: remove 'arrivals'")
        if (self.kind == "jobs") != (self.job is not None):
            raise ValueError("'job' belongs to kind: jobs, and kind: jobs needs 'job'")
        if self.asks is not None and (self.job is not None or {"slo", "accuracy"} & self.model_fields_set):
            raise ValueError("'asks' says what is promised, request by request: remove 'slo', 'accuracy' and 'job'")
        return self


class Objective(Record):
    """What to make best of while every promise is kept."""

    minimize: Literal["cost", "energy"] | None = None
    maximize: Literal["accuracy"] | None = None
    budget_usd_per_h: NonNegative | None = None
    weights: dict[Literal["cost", "accuracy", "energy"], NonNegative] = {}
    lexicographic: list[Literal["cost", "accuracy", "energy"]] = []
    tolerance: NonNegative = Field(
        0.0, description="lexicographic: how much worse, relative, an earlier goal may get for a later one."
    )

    @model_validator(mode="after")
    def _one_form(self) -> Objective:
        forms = [
            self.minimize is not None,
            self.maximize is not None,
            bool(self.weights),
            bool(self.lexicographic),
        ]
        if sum(forms) != 1:
            raise ValueError("give exactly one of 'minimize', 'maximize', 'weights', 'lexicographic'")
        if self.weights and not any(self.weights.values()):
            raise ValueError("at least one weight must be more than 0")
        if len(set(self.lexicographic)) != len(self.lexicographic):
            raise ValueError("lexicographic names every goal once")
        return self

    @property
    def terms(self) -> frozenset[str]:
        """What it is about: cost, accuracy, energy."""
        weighed = (name for name, weight in self.weights.items() if weight > 0)
        named = (self.minimize, self.maximize, *weighed, *self.lexicographic)
        return frozenset(name for name in named if name is not None)


class Robustness(Record):
    """What a plan must withstand besides what is expected. Every field asks for more than a plain plan keeps."""

    confidence: Annotated[float, Field(gt=0.5, lt=1)] | None = Field(
        None,
        description="Plan on one-sided bounds at this confidence: upper of service times, lower of accuracies.",
    )
    load_levels: list[PositiveNumber] = Field(
        default=[], description="Factors of the classes' rates: one plan keeps its promises at each of them, and at 1."
    )
    spare_machines: Count = Field(0, description="Promises hold with any so many machines of any one device type lost.")
    availability: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None,
        description="Share of time in which no more machines are gone than a plan withstands: buys spares for"
        " machines that are interrupted.",
    )
    headroom: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="Share of every replica's capacity that is left unused."
    )

    @property
    def asked(self) -> bool:
        """Whether anything is asked for."""
        return self != Robustness()


class ProfileSettings(Record):
    """What `inferplan profile` measures."""

    batch_sizes: list[PositiveInt] = Field(default=[1, 2, 4, 8], min_length=1)
    threads: list[PositiveInt] = Field(default=[1], min_length=1)
    percentile: Annotated[float, Field(gt=0, lt=100)] = Field(
        99.0, description="A point runs until its bound for this percentile of service time is met."
    )
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = Field(
        0.99, description="Confidence of the upper bounds of percentiles: it decides how many samples a point needs."
    )
    tolerance: NonNegative = Field(
        0.15,
        description="A point is interpolated instead of measured where its relative error is expected to stay within"
        " this, nine times in ten; 0 measures every point.",
    )
    providers: list[Literal["cpu", "openvino", "cuda", "tensorrt"]] = Field(
        default=[], description="Execution providers to measure; empty: cpu on a CPU, cuda and tensorrt on a GPU."
    )
    neighbours: Literal["none", "same", "pairs"] = Field(
        "same",
        description="What every variant is measured beside on one machine: nothing, itself, or every variant.",
    )
    instances: PositiveInt = Field(2, description="Most replicas measured side by side, where the device has room.")
    upstream: dict[Name, ChoiceName] = Field(
        default={},
        description="Which choice of a stage sends the inputs that stages after it are measured with; of others the"
        " first one.",
    )
    processes: PositiveInt = Field(3, description="Fresh processes per point.")
    min_time_s: PositiveSeconds = Field(1.0, description="Least measuring time per point, all processes together.")
    max_time_s: PositiveSeconds = Field(60.0, description="Most measuring time per point, all processes together.")
    load_timeout_s: PositiveSeconds = Field(60.0, description="Most time to load a model and answer once.")
    memory_limit_bytes: PositiveInt = Field(4 * 2**30, description="Most memory of one measuring process.")


class Workload(Record):
    """A pipeline, its traffic with its promises, the machines, the objective."""

    api_version: Literal["inferplan/v1"] = Field(alias="apiVersion")
    kind: Literal["Workload"] = "Workload"
    name: Name
    description: str = ""
    pipeline: Pipeline
    tiers: dict[Name, Tier] = Field(min_length=1)
    links: dict[Name, Link] = {}
    classes: dict[Name, TrafficClass] = Field(min_length=1)
    accuracy: Accuracy | None = None
    objective: Objective = Objective(minimize="cost")
    robustness: Robustness = Robustness()
    catalogues: list[RelativePath] = Field(default=[], description="Price catalogues that devices take prices from.")
    splitting: bool | Literal["devices"] = Field(
        False,
        description="Over what one class may spread its calls of a stage: false: nothing (one option); devices: several"
        " devices and tiers (options of one variant); true: several variants.",
    )
    routing: Literal["proportional", "tier_aware"] = Field(
        "proportional",
        description="How calls find their way where a class is spread: every sender's calls over all receivers by their"
        " shares, or each tier's calls by a rule of its own.",
    )
    max_utilisation: Annotated[float, Field(gt=0, le=1)] = Field(
        0.98, description="Most load of a queue, as a share of its capacity; above 0.98 only where no class has an slo."
    )
    profile: ProfileSettings = ProfileSettings()

    _root: Path = PrivateAttr(default=Path())

    @property
    def root(self) -> Path:
        """Folder of the workload file: what its relative paths are relative to."""
        return self._root

    def at(self, root: Path) -> Workload:
        """The same workload, its relative paths taken from `root`."""
        self._root = root
        return self

    def devices(self) -> dict[str, Device]:
        """Every device type, by `tier/device`."""
        return {
            f"{tier}/{device}": spec for tier, places in self.tiers.items() for device, spec in places.devices.items()
        }

    def model_path(self, stage: str, choice: str) -> Path | None:
        """Absolute path of the model file of a choice (`variant`, or `variant@subset`); None where there is none."""
        wanted = Choice.parse(choice)
        model = self.pipeline.stages[stage].variants[wanted.variant].model_of(wanted.subset)
        return None if model is None else (self.root / model).resolve()
