"""What is left to do in a campaign, in order: asked anew after every piece of work, because measuring one point
may settle others (`profilers.choosing`)."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from inferplan.profilers.choosing import Candidate, Decision, Wanted, decide
from inferplan.profilers.glances import Glance, glance_s, most_glance_s
from inferplan.profilers.interpolation import LEAST_SERIES, Cell, Prediction, Series
from inferplan.profilers.jobs import GlanceJob, Job, LeftOut, PointJob
from inferplan.profilers.points import now
from inferplan.profilers.sizes import Calls, Cells
from inferplan.profilers.stopping import StoppingRule
from inferplan.spec.profile import Profile
from inferplan.spec.rows import AccuracyRow, Measurement, PointKey, Quantiles, Samples
from inferplan.spec.workload import Workload

_POINTS_LEVEL = (2,)
"""Glances and all points but the smallest ones come after everything of a lower level."""
_SUMMED = ("product", "mean", "minimum")
"""Compositions under which a choice of a stage that is better by its own accuracy is better end to end."""

SampleSource = Callable[[PointKey], Samples | None]
"""Where the single calls of measured points come from."""


def nothing_kept(key: PointKey) -> None:
    """The source of an agenda that has means alone."""


@dataclass(frozen=True)
class Outlook:
    """What a plan could use: it decides what is worth measuring.

    `limit_s` is the longest service time that some promise allows; `directions` has +1 per stage and metric where
    more is better, else -1, for stages whose choices can be compared by their accuracy. Without `glances` what was
    seen so far has to do.
    """

    tolerance: float
    limit_s: float
    rule: StoppingRule
    directions: Mapping[tuple[str, str], float]
    glances: bool = True

    @classmethod
    def of(cls, workload: Workload, device: str) -> Outlook:
        """The outlook of a workload on the device that is measured, and on those that are like it."""
        slowdowns = [d.like.slowdown for d in workload.devices().values() if d.like and d.like.device == device]
        promises = [
            one.job.deadline_s if one.job is not None else one.slo.latency_s if one.slo is not None else math.inf
            for one in workload.classes.values()
        ]
        comparable = workload.accuracy is not None and workload.accuracy.composition in _SUMMED
        metrics = {name: stage.metric for name, stage in workload.pipeline.stages.items() if comparable}
        return cls(
            workload.profile.tolerance,
            max(promises, default=math.inf) / min([1.0, *slowdowns]),
            StoppingRule.of(workload.profile),
            {(n, m.name): 1.0 if m.direction == "maximize" else -1.0 for n, m in metrics.items() if m is not None},
        )


@dataclass
class _Row:
    """The points of a series, by cell, with what is known of each."""

    name: str
    first: PointJob
    jobs: dict[Cell, PointJob] = field(default_factory=dict)

    @property
    def timeless(self) -> bool:
        return self.first.task.key.runtime == "skip"


class Agenda:
    """The work of a campaign that is left. `finish` and `drop` say what became of a job."""

    def __init__(
        self,
        outlook: Outlook,
        jobs: Sequence[Job],
        done: Callable[[Job], bool],
        profile: Profile | None,
        glances: Mapping[str, Glance],
        samples: SampleSource = nothing_kept,
    ) -> None:
        self._outlook = outlook
        self._samples = samples
        self._calls: dict[str, Calls] = {}
        self._glances = dict(glances)
        self._rows = {row.key.id(): row for row in (profile.measurements if profile else ())}
        self._accuracy = list(profile.accuracy if profile else ())
        self._closed = {job.task.key.id() for job in jobs if isinstance(job, PointJob) and done(job)}
        self._blind: set[tuple[str, int]] = set()
        self._dropped: set[str] = set()
        self._series: dict[str, _Row] = {}
        for job in jobs:
            if isinstance(job, PointJob):
                row = self._series.setdefault(_series_name(job), _Row(_series_name(job), job))
                row.jobs[Cell(job.task.key.batch, job.task.key.threads)] = job
        # A point with a row that does not suffice (cut short by a budget, less confidence) is measured again.
        self._fixed = [job for job in jobs if not done(job) and not (isinstance(job, PointJob) and self._may_wait(job))]
        self._decision: Decision | None = None
        self._order: list[Job] | None = None

    def remaining(self) -> list[Job]:
        """Everything that is left, in order; of the points those that may still have to be measured."""
        if self._order is None:
            chosen = [job for wanted in self.decision.wanted if (job := self._job(wanted)) is not None]
            early = [job for job in self._fixed if job.level < _POINTS_LEVEL]
            late = [job for job in self._fixed if job.level >= _POINTS_LEVEL and isinstance(job, PointJob)]
            last = [job for job in self._fixed if job.level >= _POINTS_LEVEL and not isinstance(job, PointJob)]
            self._order = [job for job in (*early, *late, *chosen, *last) if job.name not in self._dropped]
        return list(self._order)

    @property
    def decision(self) -> Decision:
        """What was decided on what is known now."""
        if self._decision is None:
            candidates = [self._candidate(row) for row in self._series.values()]
            self._decision = decide(candidates, self._outlook.tolerance, self._outlook.limit_s, self._outlook.glances)
        return self._decision

    def is_certain(self, job: Job) -> bool:
        """Whether a job has to be done whatever others find."""
        fixed = any(job is other for other in self._fixed)
        return fixed or not isinstance(job, PointJob) or not self._can_be_predicted(job)

    def companion(self, job: PointJob) -> GlanceJob | None:
        """The glance to take by the way in a process that measures a point; None where there is none to take."""
        key, name = job.task.key, _series_name(job)
        for wanted in self.decision.wanted:
            if wanted.glance and (wanted.series, wanted.cell) == (name, Cell(key.batch, key.threads)):
                return self._glance_job(self._series[name], key.threads, fresh=False)
        return None

    def finish(
        self, job: Job, row: Measurement | None = None, seen: Mapping[str, Glance] | None = None,
        accuracies: Iterable[AccuracyRow] = (),
    ) -> None:  # fmt: skip
        """A job is done: with its row, or what a glance saw, or accuracies."""
        self._fixed = [other for other in self._fixed if other is not job]
        if isinstance(job, PointJob):
            self._closed.add(job.task.key.id())
            if row is not None:
                self._rows[row.key.id()] = row
                self._calls.pop(row.key.id(), None)
        if isinstance(job, GlanceJob) or (isinstance(job, PointJob) and seen is not None):
            self._glances.update(seen or {})
            threads = (job.task if isinstance(job, PointJob) else job.tasks[0]).key.threads
            self._blind.add((_series_name(job), threads))
            self._refine()
        self._accuracy += accuracies
        self._decision = self._order = None

    def drop(self, job: Job) -> None:
        """A job is not done for want of time."""
        self._dropped.add(job.name)
        self._order = None

    def interpolated(self) -> list[Measurement]:
        """Rows of the points that are predicted: those that the profile does not hold like this already."""
        found = []
        for name, prediction in self.decision.interpolated:
            job = self._series[name].jobs[prediction.cell]
            row = self._interpolated_row(self._series[name], job, prediction)
            kept = self._rows.get(row.key.id())
            if kept is None or dataclasses.replace(row, measured_at=kept.measured_at) != kept:
                found.append(row)
        return found

    def interpolated_names(self) -> set[str]:
        """Names of the jobs of points that are predicted."""
        return {self._series[name].jobs[prediction.cell].name for name, prediction in self.decision.interpolated}

    def unused(self) -> list[LeftOut]:
        """Points that no plan could use, those of one series and reason in one line."""
        groups: dict[tuple[str, int, str], list[int]] = {}
        for item in self.decision.unused:
            groups.setdefault((item.series, item.cell.threads, item.reason), []).append(item.cell.batch)
        return [
            LeftOut(f"{name} batch {', '.join(map(str, sorted(batches)))}" + _threads_text(threads), reason)
            for (name, threads, reason), batches in groups.items()
        ]

    def _may_wait(self, job: PointJob) -> bool:
        """Whether choosing decides on a point: all but smallest ones, and those that have a row too poor."""
        row = self._rows.get(job.task.key.id())
        measured = row is not None and row.origin == "measured" and row.status == "ok"
        return job.level >= _POINTS_LEVEL and not measured

    def _candidate(self, row: _Row) -> Candidate:
        measured: dict[Cell, Calls] = {}
        waiting: dict[Cell, float] = {}
        for cell, job in row.jobs.items():
            point = job.task.key.id()
            known = self._rows.get(point)
            if known is not None and known.origin == "measured" and known.status == "ok":
                measured[cell] = self._calls_of(known)
            elif point not in self._closed:
                waiting[cell] = job.estimate_s
        key = row.first.task.key
        seen = {
            cell: glance
            for cell, job in row.jobs.items()
            if (glance := self._glances.get(job.task.key.id())) is not None
        }
        glanced = {cell: glance.calls for cell, glance in seen.items()}
        cells = Cells(measured, glanced, [(cell.batch, glance.sizes) for cell, glance in seen.items()], batch_of)
        base = min(cell.threads for cell in row.jobs)
        series = Series(row.name, key.stage, key.provider, base, *cells.means_s())
        unseen = {
            threads: self._glance_job(row, threads).estimate_s
            for threads in {cell.threads for cell in waiting if cell not in seen}
            if (row.name, threads) not in self._blind and not row.timeless
        }
        return Candidate(series, waiting, unseen, self._interval(key.stage, row.first.task.spec.choice), row.timeless)

    def _calls_of(self, row: Measurement) -> Calls:
        """The calls of a measured point; where they are lost, its mean as one."""
        point = row.key.id()
        if point not in self._calls:
            kept = self._samples(row.key)
            known = kept is not None and len(kept.service_s) > 0
            self._calls[point] = (
                Calls.of(kept.service_s, kept.elements, kept.process)
                if kept is not None and known
                else Calls.of([float(row.service.mean_s or math.nan)], [1])
            )
        return self._calls[point]

    def _interval(self, stage: str, choice: str) -> tuple[float, float] | None:
        """A choice's interval of accuracy, higher being better; of several rows the newest."""
        for row in sorted(self._accuracy, key=lambda row: row.measured_at, reverse=True):
            sign = self._outlook.directions.get((row.stage, row.metric))
            if sign is None or row.scope != "stage" or (row.stage, row.choice) != (stage, choice):
                continue
            if row.lower is not None and row.upper is not None:
                low, high = sorted((sign * row.lower, sign * row.upper))
                return low, high
        return None

    def _job(self, wanted: Wanted) -> Job | None:
        row = self._series[wanted.series]
        if wanted.cell is None:
            return self._glance_job(row, wanted.threads)
        job = row.jobs[wanted.cell]
        return None if any(job is fixed for fixed in self._fixed) else job

    def _glance_job(self, row: _Row, threads: int, fresh: bool = True) -> GlanceJob:
        """A glance at one thread count of a series, in a `fresh` process or in one that is there."""
        jobs = [job for cell, job in sorted(row.jobs.items()) if cell.threads == threads and not self._has_failed(job)]
        start_s = jobs[0].overhead_s / self._outlook.rule.processes if fresh else 0.0
        most_s = tuple(most_glance_s(job.full_s) for job in jobs)
        estimate_s = glance_s(start_s, [job.service_s for job in jobs], most_s)
        return GlanceJob(tuple(job.task for job in jobs), most_s, _POINTS_LEVEL, estimate_s)

    def _has_failed(self, job: PointJob) -> bool:
        row = self._rows.get(job.task.key.id())
        return job.task.key.id() in self._closed and row is not None and row.status != "ok"

    def _refine(self) -> None:
        """Expected times by what was seen instead of what the smallest batch took."""
        rule = self._outlook.rule
        for row in self._series.values():
            for cell, job in row.jobs.items():
                seen = self._glances.get(job.task.key.id())
                if seen is not None and seen.mean_s != job.service_s and not any(job is f for f in self._fixed):
                    full_s = min(rule.max_time_s, max(rule.min_time_s, rule.least_n * seen.mean_s))
                    row.jobs[cell] = dataclasses.replace(job, service_s=seen.mean_s, full_s=full_s)

    def _can_be_predicted(self, job: PointJob) -> bool:
        """Whether a point may be settled by others: with a tolerance, and enough series to learn from."""
        key = job.task.key
        others = [row for row in self._series.values() if row.first.task.key.provider == key.provider]
        learning = sum(not row.timeless for row in others)
        return self._outlook.tolerance > 0 and (learning >= LEAST_SERIES or key.runtime == "skip")

    def _interpolated_row(self, row: _Row, job: PointJob, prediction: Prediction) -> Measurement:
        key = job.task.key
        basis = [self._series[name].jobs[cell].task.key.id() for name, cell in prediction.basis]
        nearest = self._nearest_measured(row, prediction.cell)
        spread = None
        if nearest is not None and nearest.service.std_s is not None and nearest.service.mean_s:
            spread = nearest.service.std_s / nearest.service.mean_s * prediction.mean_s
        return Measurement(
            key=key,
            status="ok",
            service=Quantiles(
                mean_s=prediction.mean_s,
                mean_lower_s=prediction.lower_s,
                mean_upper_s=prediction.upper_s,
                std_s=spread,
            ),
            throughput_per_s=key.batch / prediction.mean_s,
            load_s=None if nearest is None else nearest.load_s,
            peak_rss_bytes=self._glances[key.id()].peak_rss_bytes,
            measured_at=now(),
            origin="interpolated",
            source=json.dumps(sorted(set(basis))),
            lineage=job.task.lineage,
        )

    def _nearest_measured(self, row: _Row, cell: Cell) -> Measurement | None:
        """The measured row of a series that is nearest in batch and threads."""

        def distance(other: Cell) -> tuple[float, Cell]:
            return abs(math.log(other.batch / cell.batch)) + abs(math.log(other.threads / cell.threads)), other

        rows = {other: self._rows.get(job.task.key.id()) for other, job in row.jobs.items()}
        measured = {c: r for c, r in rows.items() if r is not None and r.origin == "measured" and r.status == "ok"}
        return measured[min(measured, key=distance)] if measured else None


def _series_name(job: PointJob | GlanceJob) -> str:
    task = job.task if isinstance(job, PointJob) else job.tasks[0]
    provider = f" ({task.key.provider})" if task.key.provider != "cpu" else ""
    return f"{task.key.stage}={task.spec.choice}{provider}"


def batch_of(cell: Cell) -> int:
    """How large a cell's batches are."""
    return cell.batch


def _threads_text(threads: int) -> str:
    return f", {threads} threads" if threads > 1 else ""
