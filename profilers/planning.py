"""What a profiling campaign will do: every point, evaluation and combination, most telling first."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from inferplan.profilers.accuracy import combination_text
from inferplan.profilers.arriving import Arriving
from inferplan.profilers.fingerprint import Machine, this_machine, usable_cores
from inferplan.profilers.inputs import PipelineSpec
from inferplan.profilers.inspection import Inspection, Inspector
from inferplan.profilers.jobs import AccuracyJob, CombinationsJob, InterferenceJob, Job, LeftOut, OnEvent, PointJob
from inferplan.profilers.metrics import computed_metrics, with_metrics
from inferplan.profilers.neighbours import Room, interference_jobs
from inferplan.profilers.points import PointTask
from inferplan.profilers.process import Limits
from inferplan.profilers.provision import providers, require_runtimes, resolve_device, thread_counts, used_runtimes
from inferplan.profilers.stopping import StoppingRule
from inferplan.profilers.subjects import NO_SHAPE, Casting, Subject
from inferplan.spec.document import LoadedWorkload
from inferplan.spec.evidence import code_sha256, combined_sha256
from inferplan.spec.profile import Profile
from inferplan.spec.rows import PointKey
from inferplan.spec.workload import ProfileSettings, Workload

PROCESS_START_S = 0.4
"""Expected time to start a measuring process: interpreter, numpy, the runtime."""
ACCURACY_BATCH = 8
_EVALUATE_LEVEL = 0
_COMBINATIONS_LEVEL = 1


@dataclass(frozen=True, slots=True)
class JobList:
    """All jobs of a workload in order, done or not. `unrunnable` names points of choices that do not run."""

    jobs: tuple[Job, ...]
    unrunnable: tuple[tuple[PointJob | AccuracyJob, Inspection], ...]
    broken: frozenset[tuple[str, str]]
    """(stage, choice) that cannot be part of a combination."""
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]
    arriving: Arriving
    """What arrives at stages past the entry; it is kept until all is done."""


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
        self._known = None if retry_failed else profile
        self._on_event = on_event
        self._limits = Limits(self._settings.load_timeout_s, self._settings.memory_limit_bytes)
        self._rule = StoppingRule.of(self._settings)
        self._cores = usable_cores()
        self._pipeline = PipelineSpec(
            str(self.workload.root), self.workload.pipeline.code, self.workload.pipeline.params
        )
        self._left_out: list[LeftOut] = []
        self._notes: list[str] = []

    def job_list(self) -> JobList:
        """Look at every choice and list the work. Raises InputError, MissingExtraError."""
        require_runtimes(used_runtimes(self.workload))
        threads = self._threads()
        with Inspector(self._limits, self.workload.devices()[self.device].kind == "cpu") as inspector:
            offered = providers(self.workload, self.device, inspector.providers)
            self._notes += offered.notes
            casting = Casting(self.workload, inspector, offered, self.device, self._fingerprint, self._limits)
            subjects = casting.subjects(self._known, self._on_event)
            self._left_out += casting.left_out
            self._notes += casting.notes(subjects)
            jobs: list[Job] = []
            alone: list[PointJob] = []
            unrunnable: list[tuple[PointJob | AccuracyJob, Inspection]] = []
            for subject in subjects:
                made: list[PointJob | AccuracyJob] = []
                if subject.primary:
                    made += self._evaluations(subject, threads[0])
                made += self._points(subject, threads)
                if subject.found.status == "ok":
                    jobs += made
                    # Side by side, a choice is measured on the provider that it has been evaluated on.
                    alone += [job for job in made if isinstance(job, PointJob) and subject.primary]
                else:
                    unrunnable += [(job, subject.found) for job in made]
            jobs += self._combinations(inspector, subjects, offered.common, threads[0])
        jobs += self._interference(alone)
        jobs.sort(key=lambda job: job.level)
        able = {(s.stage, s.choice.name) for s in subjects if s.found.status == "ok" and _joins(s, offered.common)}
        broken = {(subject.stage, subject.choice.name) for subject in subjects} - able
        left_out, notes = tuple(self._left_out), tuple(self._notes)
        return JobList(tuple(jobs), tuple(unrunnable), frozenset(broken), left_out, notes, casting.arriving)

    def _threads(self) -> list[int]:
        cores = min(len(self._cores), self.workload.devices()[self.device].cores)
        usable, beyond = thread_counts(self._settings, cores)
        self._left_out += [LeftOut(f"{threads} threads", f"there are {cores} cores to use") for threads in beyond]
        return usable

    def _points(self, subject: Subject, threads: Sequence[int]) -> list[PointJob]:
        found = subject.found
        batches = sorted(set(self._settings.batch_sizes))
        if found.fixed_batch is not None and batches != [found.fixed_batch]:
            self._notes.append(f"{subject.name} takes batches of {found.fixed_batch} only")
            batches = [found.fixed_batch]
        counts = threads[:1] if subject.spec.runtime == "skip" else threads
        return [self._point(subject, batch, count, batches, threads) for count in counts for batch in batches]

    def _point(
        self, subject: Subject, batch: int, threads: int, batches: Sequence[int], all_threads: Sequence[int]
    ) -> PointJob:
        found = subject.found
        service_s = found.call_s * batch
        measured_s = min(self._rule.max_time_s, max(self._rule.min_time_s, self._rule.least_n * service_s))
        start_s = PROCESS_START_S + found.load_s + found.inputs_s + service_s
        return PointJob(
            self._task(subject, batch, threads),
            point_level(subject.rank, batch, batches, all_threads.index(threads)),
            start_s * self._rule.processes,
            service_s,
            measured_s,
            self._settings.confidence,
        )

    def _task(self, subject: Subject, batch: int, threads: int) -> PointTask:
        found = subject.found
        key = PointKey(
            stage=subject.stage,
            variant=subject.choice.variant,
            modalities=subject.choice.subset,
            model_sha256=subject.model_sha256,
            code_sha256=subject.code_sha256,
            runtime=subject.spec.runtime,
            runtime_version=found.version,
            options=subject.options,
            provider=subject.provider,
            device=self.device,
            device_fingerprint=self._fingerprint,
            batch=batch,
            threads=threads,
            input_shape=found.shapes.get(batch, NO_SHAPE) if found.status == "ok" else NO_SHAPE,
            inputs=subject.inputs,
        )
        return PointTask(key, subject.spec, subject.requests, self._limits, self._cores, subject.lineage)

    def _evaluations(self, subject: Subject, threads: int) -> list[AccuracyJob]:
        stage = self.workload.pipeline.stages[subject.stage]
        targets = tuple(edge.target for edge in self.workload.pipeline.edges if edge.source == subject.stage)
        declared = stage.variants[subject.choice.variant].accuracy is not None
        metric = stage.metric.name if stage.metric is not None and not declared else None
        if stage.metric is None and not targets:
            return []
        found = subject.found
        # Past the entry, what arrives is part of the data's hash, whatever made it.
        at_entry = subject.requests is not None and subject.requests.upstream is None
        requests = [self._pipeline_sha256()] if at_entry else []
        metrics = computed_metrics(stage.metric) if metric is not None else ()
        inference = combined_sha256(*_evidence(subject), found.data_sha256, *requests)
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
                with_metrics(inference, metrics, self.workload.root),
                (_EVALUATE_LEVEL, subject.rank),
                estimate_s,
                metrics,
            )
        ]

    def _combinations(
        self, inspector: Inspector, subjects: Sequence[Subject], provider: str, threads: int
    ) -> list[CombinationsJob]:
        accuracy = self.workload.accuracy
        wanted = wanted_combinations(self.workload)
        if accuracy is None or not wanted:
            return []
        count, data_sha256 = inspector.requests(self._pipeline)
        stages = self.workload.pipeline.stages
        edges = [(edge.source, edge.target) for edge in self.workload.pipeline.edges]
        common = combined_sha256(self._pipeline_sha256(), data_sha256, sorted(edges))
        cast = {(subject.stage, subject.choice.name): subject for subject in subjects if subject.primary}
        metrics = computed_metrics(accuracy.metric)

        def evidence(combination: Mapping[str, str]) -> str:
            parts = [(stage, name, *_evidence(cast[stage, name])) for stage, name in combination.items()]
            return with_metrics(combined_sha256(common, sorted(parts)), metrics, self.workload.root)

        order = self.workload.pipeline.order()
        return [
            CombinationsJob(
                self._pipeline,
                tuple(order),
                {name: tuple(source for source, target in edges if target == name) for name in stages},
                {name: {choice: cast[name, choice].spec for choice in stages[name].choices()} for name in stages},
                self._limits,
                provider,
                threads,
                self._accuracy_batch(),
                accuracy.metric.name,
                {combination_text(combination): evidence(combination) for combination in wanted},
                (_COMBINATIONS_LEVEL,),
                _combinations_s(wanted, order, cast, count),
                metrics,
            )
        ]

    def _interference(self, points: Sequence[PointJob]) -> list[InterferenceJob]:
        device = self.workload.devices()[self.device]
        room = Room(self.device, device.cores, device.reserved_cores, len(self._cores))
        jobs, left_out = interference_jobs(points, self._settings, room)
        self._left_out += left_out
        return jobs

    def _accuracy_batch(self) -> int:
        fitting = [batch for batch in self._settings.batch_sizes if batch <= ACCURACY_BATCH]
        return max(fitting, default=min(self._settings.batch_sizes))

    def _pipeline_sha256(self) -> str:
        return code_sha256(self._pipeline.code, self._pipeline.params, self.workload.root)


def _evidence(subject: Subject) -> tuple[str, ...]:
    """What an accuracy rests on, data apart."""
    return (subject.model_sha256, subject.code_sha256, subject.choice.subset, subject.options)


def _joins(subject: Subject, provider: str) -> bool:
    return subject.provider == provider or subject.spec.runtime == "skip"


def point_level(rank: int, batch: int, batches: Sequence[int], thread_rank: int) -> tuple[int, ...]:
    """Order of points: the smallest batch of every choice, the largest, those between; more threads later.

    The first choice of every stage comes before the second ones, so that there is soon enough for a plan.
    """
    size_rank = 0 if batch == min(batches) else 1 if batch == max(batches) else 2
    if thread_rank == 0 and size_rank == 0:
        return (_EVALUATE_LEVEL, rank)
    return (_COMBINATIONS_LEVEL + 1 + thread_rank, size_rank, batch, rank)


def wanted_combinations(workload: Workload) -> list[dict[str, str]]:
    """Combinations (stage: choice) to evaluate end to end: those listed; without a list all, for a table, and
    for a fitted model as few as show every choice."""
    accuracy = workload.accuracy
    if accuracy is None:
        return []
    if accuracy.combinations:
        unique = {combination_text(combination): dict(combination) for combination in accuracy.combinations}
        return list(unique.values())
    stages = workload.pipeline.stages
    if accuracy.composition == "fitted":
        return _showing_all({name: list(stage.choices()) for name, stage in stages.items()})
    if accuracy.composition != "table":
        return []
    chosen = itertools.product(*(stages[name].choices() for name in stages))
    return [dict(zip(stages, choices, strict=True)) for choices in chosen]


def _showing_all(choices: Mapping[str, Sequence[str]]) -> list[dict[str, str]]:
    """The fewest combinations in which every choice occurs: every stage goes round its choices."""
    count = max(len(names) for names in choices.values())
    return [{stage: names[index % len(names)] for stage, names in choices.items()} for index in range(count)]


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
