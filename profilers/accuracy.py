"""Accuracy in rows: run the evaluations in measuring processes, and keep what comes back.

Where only the metrics changed that are computed from predictions, and those predictions are kept, nothing is
inferred again: the measuring process gets the predictions and loads no model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from inferplan.profilers.frames import Frame
from inferplan.profilers.gpu_sensors import GPU_PROVIDERS
from inferplan.profilers.jobs import AccuracyJob, CombinationsJob
from inferplan.profilers.metrics import Evaluated
from inferplan.profilers.points import Progress, now, requests_json
from inferplan.profilers.process import WorkerFailure, WorkerProcess
from inferplan.profilers.scoring import Outcome, outcome_of
from inferplan.spec.profile import Profile
from inferplan.spec.rows import (
    AccuracyRow,
    ExampleScores,
    FlowRow,
    Predictions,
    Status,
    choice_name,
    evaluation_id,
    inference_sha256,
)
from inferplan.spec.stage import subset_name
from inferplan.spec.tables import read_predictions


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All that one evaluation gives the store. `not_kept` says why there are no predictions, where there might
    have been."""

    rows: list[AccuracyRow]
    flows: list[FlowRow]
    scores: ExampleScores | None = None
    predictions: Predictions | None = None
    not_kept: str = ""


def evaluate_stage(job: AccuracyJob, progress: Progress, kept: Predictions | None = None) -> Evaluation:
    """Evaluate one choice: a row per metric, a flow per edge. Failures are rows with the reason.

    `kept` are predictions of the same state (see `kept_predictions`): metrics are computed from them, and there
    are no flows, since those stay as they are.
    """
    frame = _rescored(job, kept, spec=job.spec.to_json()) if kept is not None else None
    try:
        frame = frame or _scored(job, progress)
    except WorkerFailure as failure:
        return Evaluation(failed_stage(job, failure.status, failure.reason), [])
    found = outcome_of(frame)
    rows = [_stage_row(job, name, metric) for name, metric in sorted(found.metrics.items())]
    if job.metric is not None and job.metric not in found.metrics:
        reason = _absent(job.metric, found.metrics, bool(frame.data["labelled"]), "stage")
        rows += failed_stage(job, "failed", reason)
    flows = _flows(job, frame) if "fan_outs" in frame.data else []
    return _evaluation(rows, flows, found, stage_evaluation(job), job.evidence_sha256)


def failed_stage(job: AccuracyJob, status: Status, reason: str) -> list[AccuracyRow]:
    """The row that says why a choice has no value of its stage's metric (or, without one, no flow)."""
    return [_stage_row(job, job.metric or "", Evaluated(None, reason=reason), status)]


def stage_evaluation(job: AccuracyJob) -> str:
    """Name of the evaluation of a choice."""
    return evaluation_id("stage", job.spec.stage, job.spec.variant, subset_name(job.spec.modalities), "{}")


def combination_evaluation(text: str) -> str:
    """Name of the evaluation of a combination, given as JSON."""
    return evaluation_id("pipeline", "", "", "", text)


def kept_predictions(profile: Profile, job: AccuracyJob) -> Predictions | None:
    """Predictions in the profile of the job's own state, where its flows are there as well; else None."""
    wanted = inference_sha256(job.evidence_sha256)
    flowing = {
        row.target
        for row in profile.flows
        if (row.source, choice_name(row.variant, row.modalities)) == (job.spec.stage, job.spec.choice)
        and row.evidence_sha256 == wanted
    }
    return _kept(profile, stage_evaluation(job), wanted) if flowing >= set(job.targets) else None


def kept_answers(profile: Profile, job: CombinationsJob, text: str) -> Predictions | None:
    """Answers of a combination (JSON) in the profile, of the job's own state; else None."""
    return _kept(profile, combination_evaluation(text), inference_sha256(job.evidence[text]))


def _kept(profile: Profile, evaluation: str, inference: str) -> Predictions | None:
    found = read_predictions(profile.path, evaluation)
    return found if found is not None and found.evidence_sha256 == inference else None


def _scored(job: AccuracyJob, progress: Progress) -> Frame:
    with WorkerProcess(job.limits, job.threads, (), job.provider not in GPU_PROVIDERS) as worker:
        worker.call("open", "opened", spec=job.spec.to_json(), provider=job.provider, threads=job.threads)
        worker.call("load_inputs", "inputs", requests=requests_json(job.requests))
        for frame in worker.ask("score", batch=job.batch, metrics=_plain(job.metrics)):
            if frame.event == "scored":
                return frame
            progress(frame.data["done"] / frame.data["total"])
    raise AssertionError("an evaluation ends with its scores or an error")


def _rescored(job: AccuracyJob | CombinationsJob, kept: Predictions, **owner: object) -> Frame | None:
    """Scores of kept predictions; None where the code cannot score them without having run."""
    texts = {"ids": kept.ids, "predictions": kept.predictions, "truths": kept.truths}
    try:
        with WorkerProcess(job.limits, job.threads, (), job.provider not in GPU_PROVIDERS) as worker:
            return worker.call("rescore", "scored", kept=texts, metrics=_plain(job.metrics), **owner)
    except WorkerFailure:
        return None


def _plain(metrics: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    return [dict(metric) for metric in metrics]


def no_answers(text: str) -> Predictions | None:
    """Nothing is kept of any combination."""
    return None


def evaluate_combinations(
    job: CombinationsJob,
    wanted: Sequence[Mapping[str, str]],
    progress: Progress,
    kept: Callable[[str], Predictions | None] = no_answers,
) -> Generator[Evaluation, None, None]:
    """The wanted combinations, each as soon as it is known. `kept` gives the answers of one (JSON), if any.

    Where a choice takes the measuring process down, combinations with it fail and the rest goes on in a
    fresh process.
    """
    waiting: list[dict[str, str]] = []
    for combination in wanted:
        answers = kept(combination_text(combination))
        frame = _rescored(job, answers, pipeline=requests_json(job.pipeline)) if answers is not None else None
        if frame is None:
            waiting.append(dict(combination))
        else:
            yield _combination(job, combination, frame)
    while waiting:
        running: dict[str, str] = {}
        done: list[dict[str, str]] = []
        try:
            for frame in _combination_frames(job, waiting):
                if frame.event == "running":
                    running = {str(frame.data["stage"]): str(frame.data["choice"])}
                elif frame.event == "combination":
                    done.append(frame.data["combination"])
                    yield _combination(job, frame.data["combination"], frame)
                    progress(1 - (len(waiting) - len(done)) / max(1, len(wanted)))
                    if len(done) == len(waiting):
                        return
        except WorkerFailure as failure:
            left = [combination for combination in waiting if combination not in done]
            guilty = [combination for combination in left if running.items() <= combination.items()] or left
            blame = ", ".join(f"{stage}={choice}: " for stage, choice in running.items())
            for combination in guilty:
                row = failed_combination(job, combination, failure.status, blame + failure.reason)
                yield Evaluation([row], [])
            done += guilty
        waiting = [combination for combination in waiting if combination not in done]


def _combination_frames(job: CombinationsJob, combinations: Sequence[Mapping[str, str]]) -> Iterator[Frame]:
    with WorkerProcess(job.limits, job.threads, (), job.provider not in GPU_PROVIDERS) as worker:
        yield from worker.ask(
            "combinations",
            pipeline=requests_json(job.pipeline),
            order=job.order,
            parents={stage: list(parents) for stage, parents in job.parents.items()},
            specs={
                stage: {name: spec.to_json() for name, spec in choices.items()} for stage, choices in job.specs.items()
            },
            combinations=[dict(combination) for combination in combinations],
            batch=job.batch,
            metrics=_plain(job.metrics),
            provider=job.provider,
            threads=job.threads,
            memory_limit_bytes=job.limits.memory_bytes,
        )


def _combination(job: CombinationsJob, combination: Mapping[str, str], frame: Frame) -> Evaluation:
    reason = str(frame.data.get("reason", ""))
    if reason:
        return Evaluation([failed_combination(job, combination, "failed", reason)], [])
    found = outcome_of(frame)
    rows = [_combination_row(job, combination, name, metric) for name, metric in sorted(found.metrics.items())]
    if job.metric not in found.metrics:
        absent = _absent(job.metric, found.metrics, frame.data["n"] > 0, "pipeline")
        rows.append(failed_combination(job, combination, "failed", absent))
    text = combination_text(combination)
    return _evaluation(rows, [], found, combination_evaluation(text), job.evidence[text])


def failed_combination(
    job: CombinationsJob, combination: Mapping[str, str], status: Status, reason: str
) -> AccuracyRow:
    """The row that says why a combination has no value of the workload's metric."""
    return _combination_row(job, combination, job.metric, Evaluated(None, reason=reason), status)


def combination_text(combination: Mapping[str, str]) -> str:
    """A combination as rows carry it: JSON, sorted."""
    return json.dumps(dict(combination), sort_keys=True)


def _evaluation(
    rows: list[AccuracyRow], flows: list[FlowRow], found: Outcome, evaluation: str, evidence: str
) -> Evaluation:
    scored = {name: metric.scores for name, metric in found.metrics.items() if metric.scores is not None}
    scores = ExampleScores(
        evaluation,
        evidence,
        found.ids,
        {name: score.values for name, score in scored.items()},
        {name: score.weights for name, score in scored.items()},
    )
    predictions = Predictions(evaluation, inference_sha256(evidence), found.ids, found.predictions, found.truths)
    return Evaluation(
        rows,
        flows,
        scores if scored else None,
        predictions if found.predictions else None,
        found.not_kept,
    )


def _stage_row(job: AccuracyJob, metric: str, found: Evaluated, status: Status = "ok") -> AccuracyRow:
    return AccuracyRow(
        scope="stage",
        stage=job.spec.stage,
        variant=job.spec.variant,
        combination="{}",
        modalities=subset_name(job.spec.modalities),
        metric=metric,
        evidence_sha256=job.evidence_sha256,
        **_value(found, status),
    )


def _combination_row(
    job: CombinationsJob, combination: Mapping[str, str], metric: str, found: Evaluated, status: Status = "ok"
) -> AccuracyRow:
    text = combination_text(combination)
    return AccuracyRow(
        scope="pipeline",
        stage="",
        variant="",
        combination=text,
        modalities="",
        metric=metric,
        evidence_sha256=job.evidence[text],
        **_value(found, status),
    )


def _value(found: Evaluated, status: Status) -> dict[str, Any]:
    """The columns of an accuracy that a metric fills."""
    return {
        "value": found.value,
        "lower": found.lower,
        "upper": found.upper,
        "n": found.n if found.value is not None else 0,
        "method": found.method,
        "status": "failed" if found.value is None and status == "ok" else status,
        "reason": found.reason,
        "measured_at": now(),
    }


def _absent(metric: str, found: Mapping[str, Evaluated], labelled: bool, owner: str) -> str:
    if not labelled:
        return f"the {owner}'s code has no labelled examples to evaluate {metric} on"
    if not found:
        return f"the {owner}'s code has no score, so {metric} has no value; give the metric 'compute', or write one"
    return f"score returns {', '.join(sorted(found))}, but not the metric {metric} that the workload declares"


def _flows(job: AccuracyJob, frame: Frame) -> list[FlowRow]:
    fan_outs = [int(count) for count in frame.data["fan_outs"]]
    payload = frame.data["payload_bytes_mean"]
    return [
        FlowRow(
            source=job.spec.stage,
            target=target,
            variant=job.spec.variant,
            modalities=subset_name(job.spec.modalities),
            fan_out_mean=float(np.mean(fan_outs)),
            fan_outs=json.dumps(fan_outs),
            payload_bytes_mean=None if payload is None else float(payload),
            n=len(fan_outs),
            evidence_sha256=inference_sha256(job.evidence_sha256),
            measured_at=now(),
        )
        for target in job.targets
    ]
