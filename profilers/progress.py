"""What is done already, what still fits into the time there is, and how long the rest will take."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from inferplan.profilers.jobs import AccuracyJob, CombinationsJob, Failed, GlanceJob, InterferenceJob, Job, PointJob
from inferplan.profilers.statistics import CONFIDENCE, least_count
from inferplan.profilers.store import ProfileStore
from inferplan.spec.profile import Profile
from inferplan.spec.rows import AccuracyRow, FlowRow, Measurement, PointKey, choice_name, inference_sha256

_SHORT_S = 2.0
_PRIOR_S = 2.0
_WORTHWHILE = 0.1
"""Share of the combinations that must be within reach for them to be begun."""
BUDGET = "budget"
"""`stopped_by` of a point that a time budget cut short: measured again when there is time."""


class Done:
    """What a profile holds already, under today's hashes.

    `final` says whether points that a time budget cut short count as done; `retry_failed` whether failures
    do not. A point whose bounds hold with less than `confidence` is not done; one with more is.
    """

    def __init__(
        self,
        profile: Profile | None,
        store: ProfileStore,
        final: bool,
        retry_failed: bool,
        confidence: float = CONFIDENCE,
    ) -> None:
        self._confidence = confidence
        self._store = store
        self._final = final
        self._retry_failed = retry_failed
        self._points = {row.key.id(): row for row in (profile.measurements if profile else ())}
        self._stages = _grouped(row for row in (profile.accuracy if profile else ()) if row.scope == "stage")
        self._pipelines = _grouped(row for row in (profile.accuracy if profile else ()) if row.scope == "pipeline")
        self._beside = {row.id(): row for row in (profile.interference if profile else ())}
        self._flows: Mapping[tuple[str, str, str], FlowRow] = {
            (row.source, row.target, choice_name(row.variant, row.modalities)): row
            for row in (profile.flows if profile else ())
        }

    def has(self, job: Job) -> bool:
        """Whether nothing of the job is left to do."""
        if isinstance(job, PointJob):
            return self._has_point(job.task.key)
        if isinstance(job, AccuracyJob):
            return self._has_evaluation(job)
        if isinstance(job, InterferenceJob):
            row = self._beside.get(job.where.row().id())
            return row is not None and not (row.status != "ok" and self._retry_failed)
        return not isinstance(job, GlanceJob) and not self.missing(job)

    def missing(self, job: CombinationsJob) -> list[str]:
        """Combinations (as JSON) without rows, or with stale ones."""
        return [
            text
            for text, evidence in job.evidence.items()
            if not self._all_settled(self._pipelines.get(text, ()), evidence)
        ]

    def failures(self, job: Job) -> list[Failed]:
        """What earlier runs could not measure of a job, and why."""
        if isinstance(job, PointJob):
            row = self._points.get(job.task.key.id())
            return [Failed(job.name, row.status, row.reason)] if row is not None and row.status != "ok" else []
        if isinstance(job, AccuracyJob):
            rows = self._stages.get(_full_name(job.spec.stage, job.spec.choice), [])
            return [Failed(job.name, row.status, row.reason) for row in rows if row.status != "ok"]
        if isinstance(job, InterferenceJob):
            beside = self._beside.get(job.where.row().id())
            failed = beside is not None and beside.status != "ok"
            return [Failed(job.name, beside.status, beside.reason)] if beside is not None and failed else []
        if isinstance(job, GlanceJob):
            return []
        return [
            Failed(combination_name(text), row.status, row.reason)
            for text in job.evidence
            for row in self._pipelines.get(text, [])
            if row.status != "ok"
        ]

    def stale(self, jobs: Sequence[Job]) -> list[str]:
        """Which points have been measured before something changed, and what changed."""
        changes: dict[str, set[str]] = {}
        for job in jobs:
            if not isinstance(job, PointJob) or self._has_point(job.task.key):
                continue
            key = job.task.key
            for row in self._points.values():
                if _place(row.key) == _place(key) and row.key != key:
                    name = _full_name(key.stage, job.task.spec.choice)
                    changes.setdefault(name, set()).update(_differences(row.key, key))
        return [f"{name} is measured again: {', '.join(sorted(what))} changed" for name, what in changes.items()]

    def _has_point(self, key: PointKey) -> bool:
        row: Measurement | None = self._points.get(key.id())
        if row is None:
            return False
        if row.status != "ok":
            return not self._retry_failed
        enough = row.confidence >= self._confidence and (self._final or row.stopped_by != BUDGET)
        return enough and self._store.has_samples(key.id())

    def _has_evaluation(self, job: AccuracyJob) -> bool:
        rows = self._stages.get(_full_name(job.spec.stage, job.spec.choice), [])
        flows = [self._flows.get((job.spec.stage, target, job.spec.choice)) for target in job.targets]
        inference = inference_sha256(job.evidence_sha256)
        flowing = all(flow is not None and flow.evidence_sha256 == inference for flow in flows)
        if job.metric is None and flowing:
            return True
        scored = any(row.metric == (job.metric or "") for row in rows)
        failed = any(row.status != "ok" for row in rows)
        return scored and (flowing or failed) and self._all_settled(rows, job.evidence_sha256)

    def _all_settled(self, rows: Sequence[AccuracyRow], evidence: str) -> bool:
        failed = any(row.status != "ok" for row in rows)
        current = bool(rows) and all(row.evidence_sha256 == evidence for row in rows)
        return current and not (failed and self._retry_failed)


@dataclass(frozen=True, slots=True)
class Fit:
    """Jobs that fit into a time, and the measuring time (s) that each of their points may take at most.

    `combinations_s` is what is left for combinations, which can be done in part.
    """

    kept: tuple[Job, ...]
    limit_s: float
    combinations_s: float = math.inf

    def duration_s(self, job: Job) -> float:
        """Expected time of a job under the limit."""
        return min(duration_s(job, self.limit_s), self.combinations_s if isinstance(job, CombinationsJob) else math.inf)


def fit(jobs: Sequence[Job], time_s: float | None, max_time_s: float) -> Fit:
    """Which jobs to do in the time there is (None: as long as it takes).

    Jobs are taken in order. First every point gives up measuring time, down to its least honest amount; only
    what does not fit even so is left out.
    """
    if time_s is None:
        return Fit(tuple(jobs), max_time_s)
    kept: list[Job] = []
    used_s = 0.0
    combinations_s = math.inf
    for job in jobs:
        least_s = duration_s(job, 0.0)
        left_s = time_s - used_s
        if isinstance(job, CombinationsJob) and left_s < least_s and left_s >= _WORTHWHILE * least_s:
            least_s = combinations_s = left_s
        if least_s <= left_s:
            kept.append(job)
            used_s += least_s

    def fits(limit_s: float) -> bool:
        tried = Fit(tuple(kept), limit_s, combinations_s)
        return sum(tried.duration_s(job) for job in kept) <= time_s

    low, high = 0.0, max_time_s
    if fits(high):
        low = high
    while high - low > 1e-3 * max_time_s:
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return Fit(tuple(kept), low, combinations_s)


def duration_s(job: Job, limit_s: float) -> float:
    """Expected time of a job whose measuring may take `limit_s`, or its least honest amount if that is more."""
    if isinstance(job, PointJob):
        return job.overhead_s + min(job.full_s, max(limit_s, least_time_s(job)))
    return job.estimate_s


def least_time_s(job: PointJob) -> float:
    """The least measuring time worth a point's overhead: a tenth of that, or samples for a 90th percentile
    where they take under two seconds, else for a median."""
    for_p90 = least_count(90.0, confidence=job.confidence) * job.service_s
    least_s = max(
        least_count(50.0, confidence=job.confidence) * job.service_s, min(for_p90, _SHORT_S), job.overhead_s / 10
    )
    return min(job.full_s, least_s)


class Pace:
    """How actual times compare with expected ones, from what was done so far."""

    def __init__(self) -> None:
        self._expected_s = _PRIOR_S
        self._actual_s = _PRIOR_S

    def note(self, expected_s: float, actual_s: float) -> None:
        """A job is done."""
        self._expected_s += expected_s
        self._actual_s += actual_s

    @property
    def factor(self) -> float:
        """Actual over expected time."""
        return self._actual_s / self._expected_s


def combination_name(text: str) -> str:
    """A combination for people: from JSON to `detect=a, read=b`."""
    return ", ".join(f"{stage}={variant}" for stage, variant in json.loads(text).items())


def _grouped(rows: Iterable[AccuracyRow]) -> dict[str, list[AccuracyRow]]:
    groups: dict[str, list[AccuracyRow]] = {}
    for row in rows:
        name = row.combination if row.scope == "pipeline" else _full_name(row.stage, row.choice)
        groups.setdefault(name, []).append(row)
    return groups


def _full_name(stage: str, choice: str) -> str:
    return f"{stage}={choice}"


def _place(key: PointKey) -> tuple[str | int, ...]:
    return (key.stage, key.variant, key.modalities, key.provider, key.device, key.batch, key.threads)


_WORDS = {
    "model_sha256": "the model",
    "code_sha256": "the stage code",
    "runtime": "the runtime",
    "runtime_version": "the runtime's version",
    "options": "the runtime's options",
    "device_fingerprint": "the machine",
    "input_shape": "the shape of its inputs",
    "inputs": "where its inputs come from",
}


def _differences(old: PointKey, new: PointKey) -> set[str]:
    before, after = dataclasses.asdict(old), dataclasses.asdict(new)
    return {words for name, words in _WORDS.items() if before[name] != after[name]}
