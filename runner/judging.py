"""From measurements to verdicts.

A latency promise is *met* when the upper bound of its percentile keeps it, *missed* when the lower bound breaks
it, and undecided otherwise. An accuracy promise is about the workload's labelled requests: when all of them were
answered it is decided by the value; when only some were, by the interval, narrowed as for samples without
replacement from a known number. The reported interval is the wider one, for requests like them.

Whatever makes a run unlike its plan turns a verdict that could come from it into undecided: a generator that was
late and shared cores a miss (both make latencies worse, never better), a replica that ended a promise kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from inferplan.runner import intervals
from inferplan.runner.intervals import Interval
from inferplan.runner.loadgen import Load
from inferplan.runner.pool import PoolStats
from inferplan.runner.requests import Requests
from inferplan.runner.stalls import Watched
from inferplan.spec.plan import ClassPlan, DeployedOption, Estimate, LoadedPlan, Verdict
from inferplan.spec.report import (
    AccuracyReport,
    ClassReport,
    Compared,
    Lateness,
    Measured,
    OptionReport,
    RunReport,
    Stalls,
)

LATE_SHARE = 0.1
"""A generator later than this share of the SLO's latency, at its percentile, may itself be why it was missed."""
FULL = 0.7
"""Share of the router's core from which on requests wait for it more than twice as long as it works on them: in an
M/M/1 queue 0.7 / (1 - 0.7) times."""
MOST_LENGTHS = 200
ANSWERED_SHARE = 0.99
"""A class without a latency promise still wants answers."""


class Settings(Protocol):
    """What judging needs to know of how the run was made."""

    @property
    def duration_s(self) -> float: ...
    @property
    def warmup_s(self) -> float: ...
    @property
    def seed(self) -> int: ...
    @property
    def rate_scale(self) -> float: ...


def judge(
    loaded: LoadedPlan,
    settings: Settings,
    notes: Sequence[str],
    requests: Requests,
    loads: Mapping[str, Load],
    stats: Mapping[str, PoolStats],
    crashes: Mapping[str, Sequence[str]],
    router_cores: float,
    router_watched: Watched,
) -> RunReport:
    """The report of a run. `router_cores`: cores that router and load generator kept busy; `router_watched`: what they
    saw of stalls."""
    plan = loaded.plan
    notes = list(notes)
    if settings.rate_scale != 1.0:
        notes.append(
            f"traffic is {settings.rate_scale:g} times what was planned for: predictions are for the planned traffic"
        )
    if requests.made_up:
        notes.append("the workload has no labelled requests: random ones were sent, and nothing was scored")
    if router_cores > FULL:
        notes.append(
            f"router and load generator kept {router_cores:.2f} of a core busy: they are part of these latencies"
        )
    doubts = [f"replica {crash}" for name in sorted(crashes) for crash in crashes[name]]
    notes += doubts
    oversubscribed = any(note.startswith("oversubscribed") for note in notes)
    metric = loaded.workload.workload.accuracy
    lower_is_better = metric is not None and metric.metric.direction == "minimize"
    classes = {
        name: _class_report(plan.classes[name], load, settings, requests, lower_is_better, doubts, oversubscribed)
        for name, load in sorted(loads.items())
    }
    return RunReport(
        name=plan.name,
        plan=str(loaded.path),
        seed=settings.seed,
        rate_scale=settings.rate_scale,
        duration_s=settings.duration_s,
        warmup_s=settings.warmup_s,
        verdict=_worst([report.verdict for report in classes.values()]),
        notes=notes,
        router_cores=router_cores,
        router_stalls=stalls(router_watched),
        classes=classes,
        options={
            name: _option_report(plan.options[name], part, settings.duration_s, crashes.get(name, ()))
            for name, part in sorted(stats.items())
        },
    )


def _class_report(
    plan: ClassPlan,
    load: Load,
    settings: Settings,
    requests: Requests,
    lower_is_better: bool,
    doubts: Sequence[str],
    oversubscribed: bool,
) -> ClassReport:
    count, latency_s = len(load.latency_s), latencies_s(plan, load)
    answered = latency_s[np.isfinite(latency_s)]
    predicted = plan.predicted
    accuracy = _accuracy(plan, load, requests, settings.seed, lower_is_better)
    verdict, reasons = _verdict(plan, load, accuracy, doubts, oversubscribed)
    slo = plan.slo_latency_s
    slo_prediction = predicted.latency_slo_s
    lateness = load.lateness_s if count else np.zeros(1)
    return ClassReport(
        verdict=verdict,
        reasons=reasons,
        requests=count,
        completed=int(np.isfinite(load.latency_s).sum()),
        failed=load.failed,
        unfinished=load.unfinished,
        errors=dict(sorted(load.reasons.items())),
        offered_rps=count / settings.duration_s,
        throughput_rps=compared(predicted.throughput_rps, Interval(load.completed_in_window / settings.duration_s)),
        latency_mean_s=compared(
            value_of(predicted.latency_mean_s),
            Interval(float(answered.mean()) if len(answered) == len(latency_s) > 0 else None),
        ),
        latency_p50_s=compared(value_of(predicted.latency_p50_s), intervals.percentile(latency_s, 50.0)),
        latency_p90_s=compared(value_of(predicted.latency_p90_s), intervals.percentile(latency_s, 90.0)),
        latency_p99_s=compared(value_of(predicted.latency_p99_s), intervals.percentile(latency_s, 99.0)),
        latency_slo_s=None
        if plan.slo_percentile is None
        else compared(
            slo_prediction.value if slo_prediction else None,
            intervals.percentile(latency_s, plan.slo_percentile),
        ),
        slo_percentile=plan.slo_percentile,
        slo_latency_s=slo,
        within_slo=None if slo is None or not count else float((latency_s <= slo).mean()),
        accuracy=accuracy,
        lateness=Lateness(
            p50_s=float(np.quantile(lateness, 0.5)),
            p99_s=float(np.quantile(lateness, 0.99)),
            max_s=float(lateness.max()),
        ),
    )


def latencies_s(plan: ClassPlan, load: Load) -> NDArray[np.float64]:
    """Latencies of a class's requests; of a class of jobs, until the last request of each job was answered."""
    size = plan.job_requests or 1
    if size == 1:
        return load.latency_s
    # The requests of a job are scheduled at one instant, one job after the other.
    jobs: NDArray[np.float64] = load.latency_s.reshape(-1, size).max(axis=1)
    return jobs


def value_of(estimate: Estimate | None) -> float | None:
    """What was predicted, if anything was."""
    return None if estimate is None else estimate.value


def compared(predicted: float | None, measured: Interval) -> Compared:
    """Predicted beside measured; an infinite measurement is one that the run cannot tell."""
    value, lower, upper = (
        None if number is None or not math.isfinite(number) else number
        for number in (measured.value, measured.lower, measured.upper)
    )
    ratio = value / predicted if value is not None and predicted else None
    return Compared(predicted=predicted, measured=Measured(value=value, lower=lower, upper=upper), ratio=ratio)


def _verdict(
    plan: ClassPlan, load: Load, accuracy: AccuracyReport | None, doubts: Sequence[str], oversubscribed: bool
) -> tuple[Verdict, list[str]]:
    found = [_latency_verdict(plan, load, oversubscribed)]
    if plan.accuracy_floor is not None:
        found.append(_accuracy_verdict(plan.accuracy_floor, accuracy))
    verdict = _worst([one for one, _ in found])
    reasons = [reason for _, reason in found]
    if verdict == "met" and doubts:
        return "undecided", [*reasons, f"undecided: what ran was not the plan: {doubts[0]}"]
    return verdict, reasons


def _latency_verdict(plan: ClassPlan, load: Load, oversubscribed: bool) -> tuple[Verdict, str]:
    count = len(load.latency_s)
    lost = load.failed + load.unfinished
    if not count:
        return "undecided", "no request was scheduled while measuring: run for longer"
    if plan.slo_latency_s is None or plan.slo_percentile is None:
        if lost > (1 - ANSWERED_SHARE) * count:
            return "missed", f"{lost} of {count} requests got no answer"
        return "met", "no latency was promised"
    q, limit_s = plan.slo_percentile, plan.slo_latency_s
    late_s = float(np.quantile(load.lateness_s, q / 100.0))
    late = late_s > LATE_SHARE * limit_s
    latency_s = latencies_s(plan, load)
    tail = intervals.percentile(latency_s, q)
    shown = f"p{q:g} latency {_time(tail.value)} [{_time(tail.lower)}, {_time(tail.upper)}], promised {_time(limit_s)}"
    if lost:
        shown += f"; {lost} of {count} requests got no answer"
    if late:
        shown += f"; the load generator itself was {_time(late_s)} late at p{q:g}, which is part of these latencies"
    if tail.upper is not None and tail.upper <= limit_s:
        return "met", shown
    if late:
        return "undecided", f"{shown}: this machine has no room to drive this traffic"
    if tail.lower is not None and tail.lower > limit_s:
        if oversubscribed:
            return "undecided", f"{shown}; but replicas share cores"
        return "missed", shown
    return (
        "undecided",
        f"{shown}: {len(latency_s)} {'jobs' if plan.job_requests else 'requests'} cannot tell, run for longer",
    )


def _accuracy_verdict(floor: float, accuracy: AccuracyReport | None) -> tuple[Verdict, str]:
    if accuracy is None or accuracy.verdict is None:
        return "undecided", f"an accuracy of {floor:g} was promised, but nothing scored the answers"
    value = accuracy.compared.measured.value
    shown = "unknown" if value is None else f"{value:.4g}"
    on = f"all {accuracy.of}" if accuracy.n == accuracy.of else f"{accuracy.n} of {accuracy.of}"
    return accuracy.verdict, f"{accuracy.metric} {shown} on {on} labelled requests, promised {floor:g}"


def _accuracy(
    plan: ClassPlan, load: Load, requests: Requests, seed: int, lower_is_better: bool
) -> AccuracyReport | None:
    scores = requests.score(load.answers)
    if scores is None or requests.metric is None:
        return None
    interval = intervals.accuracy(scores, seed)
    predicted = plan.predicted.accuracy.value if plan.predicted.accuracy else None
    answered, everything = len(load.answers), len(requests)
    return AccuracyReport(
        metric=requests.metric,
        compared=compared(predicted, interval),
        n=answered,
        of=everything,
        floor=plan.accuracy_floor,
        verdict=None
        if plan.accuracy_floor is None
        else floor_verdict(interval, plan.accuracy_floor, answered, everything, lower_is_better),
    )


def floor_verdict(interval: Interval, floor: float, answered: int, everything: int, lower_is_better: bool) -> Verdict:
    """Whether the metric over all labelled requests keeps its floor (a ceiling where lower is better)."""
    if interval.value is None or interval.lower is None or interval.upper is None:
        return "undecided"
    # Finite population: the labelled requests that were not sent are all that is unknown.
    narrowed = math.sqrt((everything - answered) / max(1, everything - 1))
    worst = interval.value - (interval.value - interval.lower) * narrowed
    best = interval.value + (interval.upper - interval.value) * narrowed
    if lower_is_better:
        worst, best, floor = -best, -worst, -floor
    rounding = 1e-9 * max(1.0, abs(floor))
    if worst >= floor - rounding:
        return "met"
    return "missed" if best < floor - rounding else "undecided"


def _option_report(option: DeployedOption, stats: PoolStats, duration_s: float, crashes: Sequence[str]) -> OptionReport:
    batches = stats.batch_sizes.total()
    predicted = option.predicted
    capacity_s = option.replicas * duration_s
    per_call = predicted.utilisation * option.replicas / predicted.load_rps if predicted.load_rps else None
    return OptionReport(
        stage=option.stage,
        variant=option.choice,
        replicas=option.replicas,
        max_batch=option.max_batch,
        calls=stats.calls,
        calls_per_s=compared(predicted.load_rps, Interval(stats.calls / duration_s)),
        batch_sizes=dict(sorted(stats.batch_sizes.items())),
        batch_mean=compared(predicted.batch_mean, Interval(stats.calls / batches if batches else None)),
        utilisation=compared(predicted.utilisation, Interval(stats.busy_s / capacity_s)),
        service_per_call_s=compared(per_call, Interval(stats.busy_s / stats.calls if stats.calls else None)),
        service_per_batch_s=stats.service_s / batches if batches else None,
        wait_mean_s=stats.waited_s / stats.calls if stats.calls else None,
        transport_per_batch_s=(stats.occupied_s - stats.busy_s) / batches if batches else None,
        stalls=stalls(stats.watched),
        failed_calls=stats.failures,
        crashes=list(crashes),
    )


def stalls(watched: Watched) -> Stalls | None:
    """What was seen of stalls; None where nobody watched."""
    if not watched.watched_s:
        return None
    lengths = np.sort(watched.lengths_s)
    if len(lengths) > MOST_LENGTHS:
        lengths = np.quantile(lengths, (np.arange(MOST_LENGTHS) + 0.5) / MOST_LENGTHS)
    return Stalls(
        watched_s=watched.watched_s,
        per_s=watched.count / watched.watched_s,
        share=watched.stood_s / watched.watched_s,
        lengths_s=[round(float(length), 9) for length in lengths],
    )


def _worst(verdicts: Sequence[Verdict]) -> Verdict:
    order: tuple[Verdict, ...] = ("missed", "undecided", "met")
    return next((verdict for verdict in order if verdict in verdicts), "met")


def _time(value_s: float | None) -> str:
    if value_s is None:
        return "unknown"
    if math.isinf(value_s):
        return "no answer"
    return f"{value_s:.3g} s" if value_s >= 0.9995 else f"{value_s * 1e3:.3g} ms"
