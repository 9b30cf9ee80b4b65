"""What a profiling campaign will do: every point, evaluation and combination, most telling first."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from inferplan.profilers.accuracy import combination_text
from inferplan.profilers.evidence import code_sha256, combined_sha256, file_sha256
from inferplan.profilers.fingerprint import Machine, this_machine, usable_cores
from inferplan.profilers.inputs import PipelineSpec
from inferplan.profilers.inspection import Inspection, Inspector
from inferplan.profilers.jobs import AccuracyJob, CombinationsJob, Inspecting, Job, LeftOut, OnEvent, PointJob
from inferplan.profilers.points import PointTask
from inferplan.profilers.process import Limits
from inferplan.profilers.runtimes.executor import ExecutorSpec
from inferplan.profilers.stopping import StoppingRule
from inferplan.spec.document import LoadedWorkload
from inferplan.spec.errors import InputError, MissingExtraError
from inferplan.spec.profile import Profile
from inferplan.spec.rows import PointKey
from inferplan.spec.stage import Choice
from inferplan.spec.workload import ProfileSettings, Workload

PROCESS_START_S = 0.4
"""Expected time to start a measuring process: interpreter, numpy, the runtime."""
ACCURACY_BATCH = 8
_EVALUATE_LEVEL = 0
_COMBINATIONS_LEVEL = 1


@dataclass(frozen=True, slots=True)
class Subject:
    """A variant on one provider, with what a look at it found."""

    stage: str
    variant: str
    spec: ExecutorSpec
    requests: PipelineSpec | None
    provider: str
    model_sha256: str
    code_sha256: str
    found: Inspection
    rank: int = 0
    """Position among the variants of its stage."""


@dataclass(frozen=True, slots=True)
class JobList:
    """All jobs of a workload in order, done or not. `unrunnable` names points of variants that do not run."""

    jobs: tuple[Job, ...]
    unrunnable: tuple[tuple[PointJob | AccuracyJob, Inspection], ...]
    broken: frozenset[tuple[str, str]]
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]


class Planner:
    """Makes the job list of a workload on this machine."""

    def __init__(
        self,
        loaded: LoadedWorkload,
        profile: Profile | None,
        device: str | None,
        retry_failed: bool,
        on_event: OnEvent,
    ) -> None:
        self.workload: Workload = loaded.workload
        self.machine: Machine = this_machine()
        self.device = resolve_device(self.workload, self.machine, device)
        self._settings: ProfileSettings = self.workload.profile
        self._fingerprint = self.machine.sha256()
        self._profile = profile
        self._retry_failed = retry_failed
        self._on_event = on_event
        self._limits = Limits(self._settings.load_timeout_s, self._settings.memory_limit_bytes)
        self._rule = StoppingRule.of(self._settings)
        self._cores = usable_cores()
        self._pipeline = PipelineSpec(
            str(self.workload.root), self.workload.pipeline.code, self.workload.pipeline.params
        )
        self._entry = self.workload.pipeline.entry_stages()[0]
        self._left_out: list[LeftOut] = []
        self._notes: list[str] = []

    def job_list(self) -> JobList:
        """Look at every variant and list the work. Raises InputError, MissingExtraError."""
        require_runtimes(self.workload)
        threads = self._threads()
        with Inspector(self._limits, self.workload.devices()[self.device].kind == "cpu") as inspector:
            providers = self._providers(inspector)
            subjects = self._subjects(inspector, providers)
            jobs: list[Job] = []
            unrunnable: list[tuple[PointJob | AccuracyJob, Inspection]] = []
            for subject in subjects:
                made: list[PointJob | AccuracyJob] = []
                if subject.provider == providers[0]:
                    made += self._evaluations(subject, threads[0])
                made += self._points(subject, threads)
                if subject.found.status == "ok":
                    jobs += made
                else:
                    unrunnable += [(job, subject.found) for job in made]
            first = {(s.stage, s.variant): s for s in subjects if s.provider == providers[0]}
            jobs += self._combinations(inspector, first, providers[0], threads[0])
        jobs.sort(key=lambda job: job.level)
        broken = frozenset(name for name, subject in first.items() if subject.found.status != "ok")
        return JobList(tuple(jobs), tuple(unrunnable), broken, tuple(self._left_out), tuple(self._notes))

    def _threads(self) -> list[int]:
        cores = min(len(self._cores), self.workload.devices()[self.device].cores)
        wanted = sorted(set(self._settings.threads))
        usable = [threads for threads in wanted if threads <= cores]
        self._left_out += [
            LeftOut(f"{threads} threads", f"there are {cores} cores to use") for threads in wanted if threads > cores
        ]
        if not usable:
            raise InputError(f"profile.threads: {wanted} all exceed the {cores} cores there are to use")
        return usable

    def _providers(self, inspector: Inspector) -> list[str]:
        if self.workload.devices()[self.device].kind == "cpu":
            return ["cpu"]
        runtimes = {v.runtime for s in self.workload.pipeline.stages.values() for v in s.variants.values()}
        available = {name for runtime in sorted(runtimes) for name in inspector.providers(runtime)}
        if "cuda" not in available:
            raise InputError(f"device {self.device} is a GPU, but no runtime here has the provider cuda")
        return ["cuda", *(["tensorrt"] if "tensorrt" in available else [])]

    def _subjects(self, inspector: Inspector, providers: Sequence[str]) -> list[Subject]:
        subjects: list[Subject] = []
        problems: list[str] = []
        stages = self.workload.pipeline.stages
        names = [(stage, variant) for stage in stages for variant in stages[stage].variants]
        for index, (stage, variant) in enumerate(names):
            self._on_event(Inspecting(f"{stage}={variant}", index, len(names)))
            # A variant without a model runs nowhere in particular: it is looked at once.
            own = providers[:1] if stages[stage].variants[variant].runtime == "skip" else providers
            for provider in own:
                try:
                    subject = self._subject(inspector, stage, variant, provider)
                except InputError as error:
                    problems.append(str(error))
                    break
                if subject.found.status != "ok" and provider != providers[0]:
                    self._left_out.append(LeftOut(f"{stage}={variant} on {provider}", subject.found.reason))
                else:
                    subjects.append(subject)
        if problems:
            raise InputError("nothing was measured: the workload's code or data is not ready", problems)
        return subjects

    def _subject(self, inspector: Inspector, stage_name: str, variant_name: str, provider: str) -> Subject:
        stage = self.workload.pipeline.stages[stage_name]
        variant = stage.variants[variant_name]
        root = self.workload.root
        spec = ExecutorSpec.of(root, stage_name, stage, Choice(variant_name))
        requests = self._pipeline if stage_name == self._entry and self._pipeline.code else None
        model_sha256 = file_sha256(Path(spec.model)) if spec.model else ""
        code = code_sha256(stage.code, variant.params, root)
        found = self._known_failure(stage_name, variant_name, model_sha256, code, provider)
        if found is None:
            found = inspector.variant(spec, requests, provider, sorted(set(self._settings.batch_sizes)))
        rank = list(stage.variants).index(variant_name)
        return Subject(stage_name, variant_name, spec, requests, provider, model_sha256, code, found, rank)

    def _known_failure(
        self, stage: str, variant: str, model_sha256: str, code: str, provider: str
    ) -> Inspection | None:
        """What an earlier look found where it found that the variant does not run: it is not tried again."""
        if self._profile is None or self._retry_failed:
            return None
        wanted = (stage, variant, model_sha256, code, provider, self.device, self._fingerprint, _NO_SHAPE)
        for row in self._profile.measurements:
            key = row.key
            known = (key.stage, key.variant, key.model_sha256, key.code_sha256, key.provider, key.device)
            if (*known, key.device_fingerprint, key.input_shape) == wanted and row.status != "ok":
                if key.runtime_version != installed_version(key.runtime):
                    continue
                return Inspection(row.status, row.reason, key.runtime_version)
        return None

    def _points(self, subject: Subject, threads: Sequence[int]) -> list[PointJob]:
        found = subject.found
        batches = sorted(set(self._settings.batch_sizes))
        if found.fixed_batch is not None and batches != [found.fixed_batch]:
            self._notes.append(f"{subject.stage}={subject.variant} takes batches of {found.fixed_batch} only")
            batches = [found.fixed_batch]
        counts = threads[:1] if subject.spec.runtime == "skip" else threads
        return [self._point(subject, batch, count, batches, threads) for count in counts for batch in batches]

    def _point(
        self, subject: Subject, batch: int, threads: int, batches: Sequence[int], all_threads: Sequence[int]
    ) -> PointJob:
        found = subject.found
        key = PointKey(
            stage=subject.stage,
            variant=subject.variant,
            modalities="",
            model_sha256=subject.model_sha256,
            code_sha256=subject.code_sha256,
            runtime=subject.spec.runtime,
            runtime_version=found.version,
            provider=subject.provider,
            device=self.device,
            device_fingerprint=self._fingerprint,
            batch=batch,
            threads=threads,
            options=json.dumps(subject.spec.options, sort_keys=True),
            input_shape=found.shapes.get(batch, _NO_SHAPE) if found.status == "ok" else _NO_SHAPE,
        )
        service_s = found.call_s * batch
        measured_s = min(self._rule.max_time_s, max(self._rule.min_time_s, self._rule.least_n * service_s))
        start_s = PROCESS_START_S + found.load_s + found.inputs_s + service_s
        return PointJob(
            PointTask(key, subject.spec, subject.requests, self._limits, self._cores),
            point_level(subject.rank, batch, batches, all_threads.index(threads)),
            start_s * self._rule.processes,
            service_s,
            measured_s,
        )

    def _evaluations(self, subject: Subject, threads: int) -> list[AccuracyJob]:
        stage = self.workload.pipeline.stages[subject.stage]
        targets = tuple(edge.target for edge in self.workload.pipeline.edges if edge.source == subject.stage)
        declared = stage.variants[subject.variant].accuracy is not None
        metric = stage.metric.name if stage.metric is not None and not declared else None
        if stage.metric is None and not targets:
            return []
        found = subject.found
        requests = [self._pipeline_sha256()] if subject.requests else []
        evidence = combined_sha256(subject.model_sha256, subject.code_sha256, found.data_sha256, *requests)
        estimate_s = PROCESS_START_S + found.load_s + found.inputs_s + found.count * found.call_s
        return [
            AccuracyJob(
                subject.spec,
                subject.requests,
                self._limits,
                subject.provider,
                threads,
                self._accuracy_batch(),
                metric,
                targets,
                evidence,
                (_EVALUATE_LEVEL, subject.rank),
                estimate_s,
            )
        ]

    def _combinations(
        self, inspector: Inspector, subjects: Mapping[tuple[str, str], Subject], provider: str, threads: int
    ) -> list[CombinationsJob]:
        accuracy = self.workload.accuracy
        wanted = wanted_combinations(self.workload)
        if accuracy is None or not wanted:
            return []
        count, data_sha256 = inspector.requests(self._pipeline)
        stages = self.workload.pipeline.stages
        edges = [(edge.source, edge.target) for edge in self.workload.pipeline.edges]
        common = combined_sha256(self._pipeline_sha256(), data_sha256, sorted(edges))

        def evidence(combination: Mapping[str, str]) -> str:
            parts = [(s, v, subjects[s, v].model_sha256, subjects[s, v].code_sha256) for s, v in combination.items()]
            return combined_sha256(common, sorted(parts))

        order = self.workload.pipeline.order()
        return [
            CombinationsJob(
                self._pipeline,
                tuple(order),
                {name: tuple(source for source, target in edges if target == name) for name in stages},
                {name: {v: subjects[name, v].spec for v in stages[name].variants} for name in stages},
                self._limits,
                provider,
                threads,
                self._accuracy_batch(),
                accuracy.metric.name,
                {combination_text(combination): evidence(combination) for combination in wanted},
                (_COMBINATIONS_LEVEL,),
                _combinations_s(wanted, order, subjects, count),
            )
        ]

    def _accuracy_batch(self) -> int:
        fitting = [batch for batch in self._settings.batch_sizes if batch <= ACCURACY_BATCH]
        return max(fitting, default=min(self._settings.batch_sizes))

    def _pipeline_sha256(self) -> str:
        return code_sha256(self._pipeline.code, self._pipeline.params, self.workload.root)


_NO_SHAPE = "{}"


def point_level(rank: int, batch: int, batches: Sequence[int], thread_rank: int) -> tuple[int, ...]:
    """Order of points: the smallest batch of every variant, the largest, those between; more threads later.

    The first variant of every stage comes before the second ones, so that there is soon enough for a plan.
    """
    size_rank = 0 if batch == min(batches) else 1 if batch == max(batches) else 2
    if thread_rank == 0 and size_rank == 0:
        return (_EVALUATE_LEVEL, rank)
    return (_COMBINATIONS_LEVEL + 1 + thread_rank, size_rank, batch, rank)


def wanted_combinations(workload: Workload) -> list[dict[str, str]]:
    """Combinations to evaluate end to end: those listed; without a list all of them, for a table."""
    accuracy = workload.accuracy
    if accuracy is None:
        return []
    if accuracy.combinations:
        unique = {combination_text(combination): dict(combination) for combination in accuracy.combinations}
        return list(unique.values())
    if accuracy.composition != "table":
        return []
    stages = workload.pipeline.stages
    choices = itertools.product(*(stages[name].variants for name in stages))
    return [dict(zip(stages, choice, strict=True)) for choice in choices]


def _combinations_s(
    wanted: Sequence[Mapping[str, str]],
    order: Sequence[str],
    subjects: Mapping[tuple[str, str], Subject],
    requests: int,
) -> float:
    """Expected time: every distinct start of a combination runs its last stage once over all its calls.

    How many calls a stage gets is taken from the number of its labelled inputs.
    """
    total_s = PROCESS_START_S
    for depth, stage in enumerate(order):
        starts = {tuple(combination[name] for name in order[: depth + 1]) for combination in wanted}
        for start in starts:
            found = subjects[stage, start[-1]].found
            total_s += found.call_s * (requests if depth == 0 else max(found.count, requests))
    return total_s


def resolve_device(workload: Workload, machine: Machine, wanted: str | None) -> str:
    """The workload's device that this machine stands for. Raises InputError where that is not clear."""
    devices = workload.devices()
    measurable = [name for name, device in devices.items() if device.like is None]
    if wanted is not None:
        if wanted not in devices:
            raise InputError(f"there is no device {wanted!r}; there are: {', '.join(devices)}")
        like = devices[wanted].like
        if like is not None:
            raise InputError(f"{wanted} is not measured itself, it is like {like.device}: measure that")
        if devices[wanted].kind == "gpu" and not machine.gpus:
            raise InputError(f"{wanted} is a GPU, and this machine shows none")
        return wanted
    fitting = [name for name in measurable if devices[name].kind == "cpu" or machine.gpus]
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        raise InputError(f"this machine can stand for none of the devices: {', '.join(measurable)}")
    raise InputError(f"which device does this machine stand for? --device {' | '.join(fitting)}")


def installed_version(runtime: str) -> str:
    """Version of the installed library behind a runtime, without importing it; empty where there is none."""
    for distribution in ("onnxruntime", "onnxruntime-gpu") if runtime == "onnxruntime" else ():
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(distribution)
    return ""


def require_runtimes(workload: Workload) -> None:
    """Raises MissingExtraError where a runtime that the workload uses is not installed."""
    used = {variant.runtime for stage in workload.pipeline.stages.values() for variant in stage.variants.values()}
    if "onnxruntime" in used and importlib.util.find_spec("onnxruntime") is None:
        raise MissingExtraError("cpu", "running ONNX models")
