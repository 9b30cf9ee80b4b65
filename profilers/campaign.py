"""Profiling a workload: plan what is missing, measure it one thing at a time, store each as it is finished."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from time import monotonic

from inferplan.profilers import accuracy
from inferplan.profilers.agenda import Agenda, Outlook
from inferplan.profilers.fingerprint import Machine
from inferplan.profilers.glances import Glance, look_around, read_glances, take_glances, write_glances
from inferplan.profilers.inspection import Inspection
from inferplan.profilers.interference import measure_interference
from inferplan.profilers.jobs import (
    AccuracyJob,
    CampaignSummary,
    CombinationsJob,
    Event,
    Failed,
    GlanceJob,
    InterferenceJob,
    Job,
    JobFinished,
    JobLeftOut,
    JobProgress,
    JobStarted,
    LeftOut,
    OnEvent,
    PointJob,
)
from inferplan.profilers.planning import JobList, Planner
from inferplan.profilers.points import Progress, failed_point, measure_point
from inferplan.profilers.process import WorkerProcess
from inferplan.profilers.progress import BUDGET, Done, Fit, Pace, combination_name, fit, least_time_s
from inferplan.profilers.stopping import StoppingRule
from inferplan.profilers.store import ProfileStore
from inferplan.spec.document import LoadedWorkload
from inferplan.spec.errors import InputError
from inferplan.spec.profile import MARKER, Profile, read_profile
from inferplan.spec.rows import PointKey, Samples, Status
from inferplan.spec.tables import read_samples
from inferplan.spec.workload import ProfileSettings

OVER_BUDGET = "the time budget does not reach"


def ignore(event: Event) -> None:
    """Listener that wants to know nothing."""


@dataclass(frozen=True, slots=True)
class PlannedJob:
    """A job that will be done, and how long it is expected to take. A point that is not `certain` is interpolated
    instead where its prediction turns out to be good enough."""

    name: str
    estimate_s: float
    certain: bool = True


@dataclass(frozen=True)
class Campaign:
    """What is missing in a profile, in the order in which it will be measured. `resumed` is there already;
    `conditional` names points of `jobs` that are measured only where they cannot be interpolated."""

    path: Path
    workload: str
    device: str
    machine: Machine
    settings: ProfileSettings
    jobs: tuple[Job, ...]
    resumed: int
    failed_before: tuple[Failed, ...]
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]
    time_budget_s: float | None
    retry_failed: bool
    listed: JobList = field(repr=False)
    outlook: Outlook = field(repr=False)
    conditional: frozenset[str] = frozenset()

    @property
    def fitted(self) -> Fit:
        """What fits into the time budget."""
        return fit(self.jobs, self.time_budget_s, self.settings.max_time_s)

    @property
    def planned(self) -> tuple[PlannedJob, ...]:
        """Jobs that will be done, with expected times under the time budget."""
        fitted = self.fitted
        return tuple(
            PlannedJob(job.name, fitted.duration_s(job), job.name not in self.conditional) for job in fitted.kept
        )

    @property
    def over_budget(self) -> tuple[str, ...]:
        """Names of jobs that the time budget leaves out."""
        kept = set(map(id, self.fitted.kept))
        return tuple(job.name for job in self.jobs if id(job) not in kept)

    @property
    def estimate_s(self) -> float:
        """Expected time of all that may be done."""
        return sum(job.estimate_s for job in self.planned)

    @property
    def certain_s(self) -> float:
        """Expected time of what is done whatever the points find."""
        return sum(job.estimate_s for job in self.planned if job.certain)


def plan_campaign(
    loaded: LoadedWorkload,
    path: Path,
    *,
    device: str | None = None,
    time_budget_s: float | None = None,
    retry_failed: bool = False,
    on_event: OnEvent = ignore,
) -> Campaign:
    """List what is missing in the profile at `path` for this workload on this machine. Writes nothing.

    Every choice is loaded once, in a measuring process, to see what it is and how long it takes. `device`
    (tier/device) is what this machine stands for. Raises InputError where that is not clear, where the
    workload's code or data is not ready, or where another process writes to the profile; MissingExtraError
    where a runtime is not installed.
    """
    ProfileStore.refuse_if_busy(path)
    profile = _existing(path)
    planner = Planner(loaded, profile, device, retry_failed, on_event)
    listed = planner.job_list()
    confidence = loaded.workload.profile.confidence
    done = Done(profile, ProfileStore(path), time_budget_s is not None, retry_failed, confidence)
    everything: list[Job] = [*listed.jobs, *(job for job, _ in listed.unrunnable)]
    # Glances cost time at once and save it only later, if at all: a budget is spent on measuring.
    outlook = replace(Outlook.of(loaded.workload, planner.device), glances=time_budget_s is None)
    agenda = Agenda(outlook, listed.jobs, done.has, profile, read_glances(path), partial(_samples, path))
    missing = tuple(agenda.remaining())
    return Campaign(
        path=path,
        workload=loaded.workload.name,
        device=planner.device,
        machine=planner.machine,
        settings=loaded.workload.profile,
        jobs=missing,
        resumed=sum(done.has(job) for job in everything),
        failed_before=tuple(failed for job in everything if done.has(job) for failed in done.failures(job)),
        left_out=listed.left_out,
        notes=(*listed.notes, *done.stale(everything)),
        time_budget_s=time_budget_s,
        retry_failed=retry_failed,
        listed=listed,
        outlook=outlook,
        conditional=frozenset(job.name for job in missing if not agenda.is_certain(job)),
    )


def run_campaign(campaign: Campaign, on_event: OnEvent = ignore) -> CampaignSummary:
    """Measure what is missing. Each finished piece is stored at once, so that a kill loses at most the one
    under way; Ctrl-C ends the measuring process and passes on as KeyboardInterrupt.

    Raises InputError where another process writes to the profile, or the disk is full.
    """
    with ProfileStore(campaign.path, campaign.workload) as store:
        return _Run(campaign, store, on_event).all()


def _existing(path: Path) -> Profile | None:
    return read_profile(path) if (path / MARKER).is_file() else None


class _Run:
    """One run of a campaign."""

    def __init__(self, campaign: Campaign, store: ProfileStore, on_event: OnEvent) -> None:
        self._campaign = campaign
        self._store = store
        self._on_event = on_event
        self._start = monotonic()
        self._pace = Pace()
        self._failed: list[Failed] = []
        self._left_out = list(campaign.left_out)
        self._measured = 0
        self._evaluated = 0
        self._beside = 0
        self._notes = list(campaign.notes)
        # Since it was planned, files may have been found damaged, or another run may have measured.
        final = campaign.time_budget_s is not None
        confidence = campaign.settings.confidence
        self._before = store.profile()
        self._done = Done(self._before, store, final, campaign.retry_failed, confidence)
        self._agenda = Agenda(
            campaign.outlook, campaign.listed.jobs, self._done.has, self._before, read_glances(campaign.path),
            partial(_samples, campaign.path),
        )  # fmt: skip
        self._unrunnable = [(job, found) for job, found in campaign.listed.unrunnable if not self._done.has(job)]
        everything = [*campaign.listed.jobs, *(job for job, _ in campaign.listed.unrunnable)]
        self._resumed = sum(self._done.has(job) for job in everything)
        self._finished = 0

    def all(self) -> CampaignSummary:
        while self._unrunnable:
            self._give_up(*self._unrunnable.pop(0))
        while remaining := self._agenda.remaining():
            fitted = fit(remaining, self._time_left_s(), self._campaign.settings.max_time_s)
            job = remaining[0]
            if any(kept is job for kept in fitted.kept):
                self._do(job, fitted)
            else:
                self._leave_out(job)
        interpolated = self._interpolate()
        return CampaignSummary(
            measured=self._measured,
            evaluated=self._evaluated,
            resumed=self._resumed,
            failed=tuple(self._failed),
            failed_before=self._campaign.failed_before,
            left_out=tuple(item for item in self._left_out if item.name not in interpolated),
            damaged=self._store.moved_aside,
            seconds=monotonic() - self._start,
            device=self._campaign.device,
            notes=tuple(self._notes),
            beside=self._beside,
            interpolated=len(interpolated),
        )

    def _interpolate(self) -> set[str]:
        """Write the points that are predicted, as far as they are not there like this; names of all of them."""
        for row in self._agenda.interpolated():
            self._store.add_measurement(row, None)
        self._left_out += self._agenda.unused()
        return self._agenda.interpolated_names()

    @property
    def _total(self) -> int:
        """Jobs done and to do, as far as is known now."""
        return self._finished + len(self._unrunnable) + len(self._agenda.remaining())

    def _time_left_s(self) -> float | None:
        """Time left of the budget, in expected seconds."""
        budget_s = self._campaign.time_budget_s
        return None if budget_s is None else (budget_s - (monotonic() - self._start)) / self._pace.factor

    def _give_up(self, job: PointJob | AccuracyJob, found: Inspection) -> None:
        if isinstance(job, PointJob):
            self._store.add_measurement(failed_point(job.task, found.status, found.reason), None)
        else:
            self._store.add_evaluation(accuracy.failed_stage(job, found.status, found.reason), [])
        self._failed.append(Failed(job.name, found.status, found.reason))
        self._finished += 1
        self._tell_finished(job.name, found.status, found.reason, 0.0)

    def _leave_out(self, job: Job) -> None:
        if not isinstance(job, GlanceJob):
            self._left_out.append(LeftOut(job.name, OVER_BUDGET))
        self._on_event(JobLeftOut(job.name, OVER_BUDGET))
        self._agenda.drop(job)
        self._finished += 1

    def _do(self, job: Job, fitted: Fit) -> None:
        glance = self._agenda.companion(job) if isinstance(job, PointJob) else None
        expected_s = fitted.duration_s(job) + (glance.estimate_s if glance else 0.0)
        after_s = sum(fitted.duration_s(other) for other in fitted.kept if other is not job)
        self._on_event(JobStarted(job.name, self._finished, self._total, (expected_s + after_s) * self._pace.factor))
        start = monotonic()

        def progress(share: float) -> None:
            spent_s = monotonic() - start
            left_s = (expected_s * (1 - share) + after_s) * self._pace.factor
            if share > 0.2:
                left_s = spent_s * (1 - share) / share + after_s * self._pace.factor
            self._on_event(JobProgress(job.name, share, self._finished, self._total, left_s))

        if isinstance(job, PointJob):
            failures = self._measure(job, glance, fitted.limit_s, progress)
        elif isinstance(job, AccuracyJob):
            failures = self._evaluate(job, progress)
        elif isinstance(job, InterferenceJob):
            failures = self._measure_beside(job, progress)
        elif isinstance(job, GlanceJob):
            failures = self._glance(job, progress)
        else:
            failures = self._combine(job, progress)
        self._failed += failures
        self._finished += 1
        self._pace.note(expected_s, monotonic() - start)
        status, reason = (failures[0].status, failures[0].reason) if failures else ("ok", "")
        self._tell_finished(job.name, status, reason, monotonic() - start)

    def _tell_finished(self, name: str, status: Status, reason: str, seconds: float) -> None:
        fitted = fit(self._agenda.remaining(), self._time_left_s(), self._campaign.settings.max_time_s)
        left_s = sum(fitted.duration_s(job) for job in fitted.kept) * self._pace.factor
        self._on_event(JobFinished(name, status, reason, seconds, self._finished, self._total, left_s))

    def _measure(self, job: PointJob, glance: GlanceJob | None, limit_s: float, progress: Progress) -> list[Failed]:
        """Measure a point, and glance at others by the way."""
        settings = self._campaign.settings
        within_budget = limit_s < settings.max_time_s
        rule = StoppingRule.of(settings, max(limit_s, least_time_s(job)) if within_budget else math.inf)
        cut_short_by = BUDGET if within_budget else "time"
        seen: dict[str, Glance] = {}

        def look(worker: WorkerProcess) -> None:
            if glance is not None:
                seen.update(look_around(worker, glance.tasks, glance.most_s, lambda share: None))

        row, samples = measure_point(job.task, rule, cut_short_by, progress, look)
        self._store.add_measurement(row, samples)
        write_glances(self._campaign.path, seen)
        self._agenda.finish(job, row, None if glance is None else seen)
        self._measured += row.status == "ok"
        return [] if row.status == "ok" else [Failed(job.name, row.status, row.reason)]

    def _glance(self, job: GlanceJob, progress: Progress) -> list[Failed]:
        """See how long batches take. What fails is measured, and its row says why."""
        seen = take_glances(job.tasks, job.most_s, progress)
        write_glances(self._campaign.path, seen)
        self._agenda.finish(job, seen=seen)
        return []

    def _measure_beside(self, job: InterferenceJob, progress: Progress) -> list[Failed]:
        row = measure_interference(job.where, job.blocks, progress)
        self._store.add_interference(row)
        self._agenda.finish(job)
        self._beside += row.status == "ok"
        return [] if row.status == "ok" else [Failed(job.name, row.status, row.reason)]

    def _evaluate(self, job: AccuracyJob, progress: Progress) -> list[Failed]:
        found = accuracy.evaluate_stage(job, progress, accuracy.kept_predictions(self._before, job))
        self._keep(found, job.name)
        self._agenda.finish(job, accuracies=found.rows)
        return [Failed(job.name, row.status, row.reason) for row in found.rows if row.status != "ok"]

    def _keep(self, found: accuracy.Evaluation, name: str) -> None:
        self._store.add_evaluation(found.rows, found.flows, found.scores, found.predictions)
        self._evaluated += 1
        if found.not_kept:
            self._notes.append(f"{name}: predictions are not kept: {found.not_kept}")

    def _combine(self, job: CombinationsJob, progress: Progress) -> list[Failed]:
        """Evaluate what is missing of a list of combinations, as far as the time budget reaches."""
        failures: list[Failed] = []
        missing = [dict(json.loads(text)) for text in self._done.missing(job)]
        runnable = [c for c in missing if not self._campaign.listed.broken & set(c.items())]
        for combination in missing:
            if combination not in runnable:
                names = sorted(f"{s}={v}" for s, v in self._campaign.listed.broken & set(combination.items()))
                row = accuracy.failed_combination(job, combination, "failed", f"{', '.join(names)} does not run")
                self._store.add_evaluation([row], [])
                failures.append(Failed(combination_name(row.combination), row.status, row.reason))
        waiting = {accuracy.combination_text(combination) for combination in runnable}
        kept = partial(accuracy.kept_answers, self._before, job)
        evaluations = accuracy.evaluate_combinations(job, runnable, progress, kept)
        for found in evaluations:
            text = found.rows[0].combination
            self._keep(found, combination_name(text))
            waiting.discard(text)
            failures += [
                Failed(combination_name(text), row.status, row.reason) for row in found.rows if row.status != "ok"
            ]
            left_s = self._time_left_s()
            if left_s is not None and left_s <= 0:
                evaluations.close()
                break
        self._left_out += [LeftOut(combination_name(text), OVER_BUDGET) for text in sorted(waiting)]
        self._agenda.finish(job)
        return failures


def _samples(path: Path, key: PointKey) -> Samples | None:
    """Single calls of a point; damaged ones count as lost, and are moved aside when the store is opened to write."""
    try:
        return read_samples(path, key.id())
    except InputError:
        return None
