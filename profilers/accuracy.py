"""Accuracy in rows: run the evaluations in measuring processes, and put intervals on what comes back."""

from __future__ import annotations

import json
import math
from collections.abc import Generator, Iterator, Mapping, Sequence

import numpy as np

from inferplan.profilers.frames import Frame
from inferplan.profilers.jobs import AccuracyJob, CombinationsJob
from inferplan.profilers.points import Progress, now, requests_json
from inferplan.profilers.process import WorkerFailure, WorkerProcess
from inferplan.profilers.scoring import scores_of
from inferplan.profilers.statistics import interval
from inferplan.spec.rows import AccuracyRow, FlowRow, Status
from inferplan.spec.stagecode import Scores

Rows = tuple[list[AccuracyRow], list[FlowRow]]


def evaluate_stage(job: AccuracyJob, progress: Progress) -> Rows:
    """Rows of one variant: a row per metric, a flow per edge. Failures are rows with the reason."""
    try:
        frame = _scored(job, progress)
    except WorkerFailure as failure:
        return failed_stage(job, failure.status, failure.reason), []
    scores = scores_of(frame)
    rows = [_stage_row(job, metric, found, "ok", "") for metric, found in sorted(scores.items())]
    if job.metric is not None and job.metric not in scores:
        rows += failed_stage(job, "failed", _absent(job.metric, scores, bool(frame.data["labelled"]), "stage"))
    return rows, _flows(job, frame)


def failed_stage(job: AccuracyJob, status: Status, reason: str) -> list[AccuracyRow]:
    """The row that says why a variant has no value of its stage's metric (or, without one, no flow)."""
    return [_stage_row(job, job.metric or "", None, status, reason)]


def _scored(job: AccuracyJob, progress: Progress) -> Frame:
    with WorkerProcess(job.limits, job.threads, (), job.provider == "cpu") as worker:
        worker.call("open", "opened", spec=job.spec.to_json(), provider=job.provider, threads=job.threads)
        worker.call("load_inputs", "inputs", requests=requests_json(job.requests))
        for frame in worker.ask("score", batch=job.batch):
            if frame.event == "scored":
                return frame
            progress(frame.data["done"] / frame.data["total"])
    raise AssertionError("an evaluation ends with its scores or an error")


def evaluate_combinations(
    job: CombinationsJob, wanted: Sequence[Mapping[str, str]], progress: Progress
) -> Generator[list[AccuracyRow], None, None]:
    """Rows of the wanted combinations, those of one combination together, as soon as they are known.

    Where a variant takes the measuring process down, combinations with it fail and the rest goes on in a
    fresh process.
    """
    waiting = [dict(combination) for combination in wanted]
    while waiting:
        running: dict[str, str] = {}
        done: list[dict[str, str]] = []
        try:
            for frame in _combination_frames(job, waiting):
                if frame.event == "running":
                    running = {str(frame.data["stage"]): str(frame.data["variant"])}
                elif frame.event == "combination":
                    done.append(frame.data["combination"])
                    yield _combination_rows(job, frame)
                    progress(1 - (len(waiting) - len(done)) / max(1, len(wanted)))
                    if len(done) == len(waiting):
                        return
        except WorkerFailure as failure:
            left = [combination for combination in waiting if combination not in done]
            guilty = [combination for combination in left if running.items() <= combination.items()] or left
            blame = ", ".join(f"{stage}={variant}: " for stage, variant in running.items())
            for combination in guilty:
                yield [failed_combination(job, combination, failure.status, blame + failure.reason)]
            done += guilty
        waiting = [combination for combination in waiting if combination not in done]


def _combination_frames(job: CombinationsJob, combinations: Sequence[Mapping[str, str]]) -> Iterator[Frame]:
    with WorkerProcess(job.limits, job.threads, (), job.provider == "cpu") as worker:
        yield from worker.ask(
            "combinations",
            pipeline=requests_json(job.pipeline),
            order=job.order,
            parents={stage: list(parents) for stage, parents in job.parents.items()},
            specs={
                stage: {name: spec.to_json() for name, spec in variants.items()}
                for stage, variants in job.specs.items()
            },
            combinations=[dict(combination) for combination in combinations],
            batch=job.batch,
            provider=job.provider,
            threads=job.threads,
            memory_limit_bytes=job.limits.memory_bytes,
        )


def _combination_rows(job: CombinationsJob, frame: Frame) -> list[AccuracyRow]:
    combination = frame.data["combination"]
    reason = str(frame.data["reason"])
    if reason:
        return [_combination_row(job, combination, job.metric, None, "failed", reason)]
    scores = scores_of(frame)
    rows = [_combination_row(job, combination, name, found, "ok", "") for name, found in sorted(scores.items())]
    if job.metric not in scores:
        absent = _absent(job.metric, scores, frame.data["n"] > 0, "pipeline")
        rows.append(_combination_row(job, combination, job.metric, None, "failed", absent))
    return rows


def failed_combination(
    job: CombinationsJob, combination: Mapping[str, str], status: Status, reason: str
) -> AccuracyRow:
    """The row that says why a combination has no value of the workload's metric."""
    return _combination_row(job, combination, job.metric, None, status, reason)


def combination_text(combination: Mapping[str, str]) -> str:
    """A combination as rows carry it: JSON, sorted."""
    return json.dumps(dict(combination), sort_keys=True)


def _stage_row(job: AccuracyJob, metric: str, found: Scores | None, status: Status, reason: str) -> AccuracyRow:
    return _row("stage", job.spec.stage, job.spec.variant, "{}", metric, found, status, reason, job.evidence_sha256)


def _combination_row(
    job: CombinationsJob,
    combination: Mapping[str, str],
    metric: str,
    found: Scores | None,
    status: Status,
    reason: str,
) -> AccuracyRow:
    text = combination_text(combination)
    return _row("pipeline", "", "", text, metric, found, status, reason, job.evidence[text])


def _row(
    scope: str,
    stage: str,
    variant: str,
    combination: str,
    metric: str,
    found: Scores | None,
    status: Status,
    reason: str,
    evidence: str,
) -> AccuracyRow:
    if found is not None and not math.isfinite(found.value):
        found, status, reason = None, "failed", "no example had a weight: the metric has no value"
    lower, upper, method = (None, None, "") if found is None else interval(found)
    return AccuracyRow(
        scope="stage" if scope == "stage" else "pipeline",
        stage=stage,
        variant=variant,
        combination=combination,
        modalities="",
        metric=metric,
        value=None if found is None else found.value,
        lower=lower,
        upper=upper,
        n=0 if found is None else len(found.values),
        method=method,
        evidence_sha256=evidence,
        status=status,
        reason=reason,
        measured_at=now(),
    )


def _absent(metric: str, scores: Mapping[str, Scores], labelled: bool, owner: str) -> str:
    if not labelled:
        return f"the {owner}'s code has no labelled examples to evaluate {metric} on"
    if not scores:
        return f"the {owner}'s code has no score, so {metric} has no value"
    return f"score returns {', '.join(sorted(scores))}, but not the metric {metric} that the workload declares"


def _flows(job: AccuracyJob, frame: Frame) -> list[FlowRow]:
    fan_outs = [int(count) for count in frame.data["fan_outs"]]
    payload = frame.data["payload_bytes_mean"]
    return [
        FlowRow(
            source=job.spec.stage,
            target=target,
            variant=job.spec.variant,
            modalities="+".join(job.spec.modalities),
            fan_out_mean=float(np.mean(fan_outs)),
            fan_outs=json.dumps(fan_outs),
            payload_bytes_mean=None if payload is None else float(payload),
            n=len(fan_outs),
            evidence_sha256=job.evidence_sha256,
            measured_at=now(),
        )
        for target in job.targets
    ]
