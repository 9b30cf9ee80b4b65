"""Splitting jobs: what a workload's configurations take and give, the table of best splits, and its job classes.

A configuration is a choice of one stage, or a whole combination of choices. All of a job runs in one place (device,
provider, threads), on one replica of every stage: its batches one after the other, and the stages of a combination one
after the other too. Nothing else runs there meanwhile.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from inferplan.estimators.accuracy import AccuracyModel, accuracy_model, combination_text, stage_values
from inferplan.estimators.composition import AccuracyEstimate, Turn
from inferplan.estimators.fanout import FanOuts, fan_outs
from inferplan.estimators.mixture import mixture
from inferplan.estimators.points import ModelKey, Points, read_points
from inferplan.estimators.service import ServiceModel
from inferplan.estimators.splits import (
    MOST_REQUESTS,
    Configuration,
    Split,
    batch_cuts,
    fastest,
    fronts,
    most_accurate,
)
from inferplan.spec.errors import InputError
from inferplan.spec.profile import Profile
from inferplan.spec.workload import Workload

MOST_COMBINATIONS = 20_000
DRAWS = 20_000
DEFAULT_PERCENTILE = 99.0
Cut = tuple[float, tuple[int, ...]]
"""Least time of a number of calls, and the batches that take it."""


@dataclass(frozen=True, order=True)
class Place:
    """Where a job runs."""

    device: str
    provider: str
    threads: int

    def __str__(self) -> str:
        return f"{self.device}, {self.provider}, {self.threads} thread{'' if self.threads == 1 else 's'}"


@dataclass(frozen=True)
class Jobs:
    """What jobs of a workload can be split over, for up to `most` requests."""

    place: Place
    metric: str
    turn: Turn
    most: int
    configurations: tuple[Configuration, ...]
    left_out: tuple[str, ...]
    """What cannot be used, and why, a line each."""
    services: Mapping[tuple[str, str], ServiceModel | None] = field(repr=False)
    """By (stage, choice); None for skip variants."""
    variants: Mapping[str, Mapping[str, str]] = field(repr=False)
    """Stage -> choice, by the configuration's name."""
    calls: Mapping[str, Mapping[str, float]] = field(repr=False)
    """Calls per request of every stage, by the configuration's name."""
    estimates: Mapping[str, AccuracyEstimate] = field(repr=False)
    """Accuracy with its interval, by the configuration's name."""

    @cached_property
    def fronts(self) -> list[list[Split]]:
        """For every number of requests, the splits that nothing beats."""
        return fronts(self.configurations, self.most, self.turn)

    def batches(self, name: str, requests: int) -> dict[str, tuple[int, ...]]:
        """The batches, by stage, that requests of a configuration are cut into."""
        return {
            stage: _cuts(service, count)[count][1]
            for stage, choice in self.variants[name].items()
            if (service := self.services[stage, choice]) is not None
            and (count := _count(requests, self.calls[name][stage]))
        }

    def accuracy(self, split: Split) -> AccuracyEstimate:
        """Mean accuracy of a split, with its interval where every part has one."""
        return mixture([(float(count), self.estimates[name]) for name, count in split.counts.items()])

    def tail_s(self, split: Split, percentile: float) -> float:
        """A percentile of a split's time: measured batch times drawn independently, the same draws every time."""
        rng = np.random.default_rng(0)
        total = np.zeros(DRAWS)
        for name, requests in split.counts.items():
            for stage, batches in self.batches(name, requests).items():
                service = self.services[stage, self.variants[name][stage]]
                assert service is not None
                for batch in batches:
                    total += rng.choice(service.draws_s(batch), DRAWS)
        return float(np.quantile(total, percentile / 100))


@dataclass(frozen=True)
class Cell:
    """A cell of the table: the fastest split of `requests` with a mean accuracy, or why there is none."""

    requests: int
    target: float
    split: Split | None
    reason: str = ""


@dataclass(frozen=True)
class JobVerdict:
    """What becomes of a job class that has the place to itself."""

    name: str
    requests: int
    target: float | None
    deadline_s: float
    percentile: float
    split: Split | None
    tail_s: float | None
    verdict: str
    """met, missed or infeasible."""
    reason: str = ""


def read_jobs(
    workload: Workload,
    profile: Profile,
    *,
    most: int,
    stage: str | None = None,
    device: str | None = None,
    threads: int | None = None,
) -> Jobs:
    """Gather configurations: a stage's choices, or (without a stage) the pipeline's combinations.

    Raises InputError where nothing can be used, saying what is missing.
    """
    if most > MOST_REQUESTS:
        raise InputError(f"jobs of {most} requests: splits are found for at most {MOST_REQUESTS}")
    if stage is not None and stage not in workload.pipeline.stages:
        raise InputError(f"there is no stage {stage!r}; there are: {', '.join(workload.pipeline.stages)}")
    points = read_points(workload, profile)
    laws = fan_outs(workload, profile)
    stages = [stage] if stage is not None else sorted(workload.pipeline.stages)
    place = _place(workload, points, stages, device, threads)
    services = {
        (name, choice): points.models.get(ModelKey(name, choice, place.device, place.provider, place.threads))
        for name in stages
        for choice in workload.pipeline.stages[name].choices()
    }
    missing: list[str] = []
    usable = {name: _timed(workload, name, services, laws, missing) for name in stages}
    model = accuracy_model(workload, profile)
    accuracies = _accuracies(workload, profile, model, stage, usable, missing)
    metric, turn = _metric(workload, model, stage)
    named: dict[str, Mapping[str, str]] = {}
    calls: dict[str, Mapping[str, float]] = {}
    found: list[Configuration] = []
    cuts: dict[tuple[str, str, int], list[Cut]] = {}
    for name, (variants, estimate) in sorted(accuracies.items()):
        named[name] = variants
        calls[name] = {s: 1.0 if stage is not None else laws.calls(s, variants).mean for s in variants}
        found.append(Configuration(name, estimate.value, _times(variants, calls[name], services, most, cuts)))
    estimates = {name: estimate for name, (_, estimate) in accuracies.items()}
    if not found:
        raise InputError(f"nothing to split jobs over: run `inferplan profile` on workload {workload.name}", missing)
    return Jobs(place, metric, turn, most, tuple(found), tuple(missing), services, named, calls, estimates)


def _place(workload: Workload, points: Points, stages: Sequence[str], device: str | None, threads: int | None) -> Place:
    """The place asked for; else the one where most choices were measured, the first by name of equals."""
    counts: dict[Place, int] = {}
    for key in points.models:
        if key.stage in stages and device in (None, key.device) and threads in (None, key.threads):
            place = Place(key.device, key.provider, key.threads)
            counts[place] = counts.get(place, 0) + 1
    if not counts:
        asked = [device or "", "" if threads is None else f"with {threads} threads"]
        where = " ".join(part for part in asked if part)
        raise InputError(
            f"no choice of {', '.join(stages)} was measured{f' on {where}' if where else ''}: run `inferplan profile`"
            f" on workload {workload.name}",
            [*points.stale, *points.failed],
        )
    return min(counts, key=lambda place: (-counts[place], place))


def _timed(
    workload: Workload,
    stage: str,
    services: Mapping[tuple[str, str], ServiceModel | None],
    laws: FanOuts,
    missing: list[str],
) -> list[str]:
    """Choices of a stage whose times, and calls of what follows, are known."""
    usable = []
    own = workload.pipeline.stages[stage]
    for choice, chosen in own.choices().items():
        if own.variants[chosen.variant].runtime != "skip" and services[stage, choice] is None:
            missing.append(f"{stage}/{choice}: no measurement of its service time there")
        elif not laws.knows(stage, choice):
            missing.append(f"{stage}/{choice}: its fan-out was not measured")
        else:
            usable.append(choice)
    return usable


def _accuracies(
    workload: Workload,
    profile: Profile,
    model: AccuracyModel | None,
    stage: str | None,
    usable: Mapping[str, Sequence[str]],
    missing: list[str],
) -> dict[str, tuple[Mapping[str, str], AccuracyEstimate]]:
    """Usable configurations by name, with their accuracy; those without one are named."""
    found: dict[str, tuple[Mapping[str, str], AccuracyEstimate]] = {}
    if model is None or (stage is not None and len(workload.pipeline.stages) > 1):
        if stage is None and len(usable) > 1:
            raise InputError("jobs of a whole pipeline need the workload's 'accuracy'; add it, or give --stage")
        ((name, choices),) = usable.items()
        values = stage_values(workload, profile)
        for choice in choices:
            if (name, choice) in values:
                found[choice] = ({name: choice}, values[name, choice])
            else:
                missing.append(f"{name}/{choice}: its accuracy was neither measured nor declared")
        return found
    size = math.prod(len(choices) for choices in usable.values())
    if size > MOST_COMBINATIONS:
        raise InputError(
            f"{size:,} combinations are more than {MOST_COMBINATIONS:,}: give --stage, or take out variants"
        )
    unknown = 0
    for key in model.combinations({name: list(choices) for name, choices in usable.items()}):
        variants = dict(zip(model.stages, key, strict=True))
        name = key[0] if len(key) == 1 else combination_text(variants)
        estimate = model.of(variants)
        if estimate is not None:
            found[name] = (variants, estimate)
        elif len(key) == 1:
            missing.append(f"{model.stages[0]}/{name}: its accuracy was neither measured nor declared")
        else:
            unknown += 1
    if unknown:
        missing.append(f"{unknown} combinations: their accuracy is not known")
    return found


def _metric(workload: Workload, model: AccuracyModel | None, stage: str | None) -> tuple[str, Turn]:
    own = workload.pipeline.stages[stage or next(iter(workload.pipeline.stages))].metric
    if model is not None and (stage is None or len(workload.pipeline.stages) == 1):
        return model.metric, model.turn
    assert own is not None  # without a metric no choice has an accuracy, which was refused
    return own.name, Turn(own.direction)


def _times(
    variants: Mapping[str, str],
    calls: Mapping[str, float],
    services: Mapping[tuple[str, str], ServiceModel | None],
    most: int,
    cuts: dict[tuple[str, str, int], list[Cut]],
) -> tuple[float, ...]:
    """Least time of 0..most requests; `cuts` remembers those of choices."""
    times = np.zeros(most + 1)
    for stage, choice in variants.items():
        service = services[stage, choice]
        if service is None:
            continue
        largest = _count(most, calls[stage])
        known = cuts.setdefault((stage, choice, largest), [])
        if not known:
            known += _cuts(service, largest)
        times += [known[_count(n, calls[stage])][0] for n in range(most + 1)]
    return tuple(times.tolist())


def _cuts(service: ServiceModel, most: int) -> list[Cut]:
    return batch_cuts(service.mean_s, service.max_batch, most)


def _count(requests: int, calls: float) -> int:
    """Calls of a number of requests: the expected ones, rounded up."""
    return math.ceil(requests * calls - 1e-9)


def table(jobs: Jobs, sizes: Sequence[int], targets: Sequence[float]) -> list[Cell]:
    """The fastest valid split for every job size and mean accuracy."""
    return [_cell(jobs, requests, target) for requests in sizes for target in targets]


def _cell(jobs: Jobs, requests: int, target: float) -> Cell:
    split = fastest(jobs.fronts[requests], target, jobs.turn)
    return Cell(requests, target, split, "" if split is not None else _best_text(jobs))


def _best_text(jobs: Jobs) -> str:
    best = max(jobs.configurations, key=lambda c: jobs.turn.turned(c.accuracy))
    return f"the best configuration, {best.name}, has {jobs.metric} {best.accuracy:.4g}"


def judge(jobs: Jobs, workload: Workload) -> list[JobVerdict]:
    """The split for every job class of the workload, and whether it keeps the deadline alone."""
    found = []
    for name, traffic in sorted(workload.classes.items()):
        if traffic.job is None:
            continue
        job = traffic.job
        percentile = traffic.slo.percentile if traffic.slo else DEFAULT_PERCENTILE
        front = jobs.fronts[job.requests]
        split = fastest(front, job.mean_accuracy, jobs.turn)
        tail = None if split is None else jobs.tail_s(split, percentile)
        verdict, reason = "infeasible", _best_text(jobs)
        if tail is not None:
            verdict, reason = (
                ("met", "") if tail <= job.deadline_s else ("missed", _instead(jobs, front, job.deadline_s))
            )
        found.append(
            JobVerdict(name, job.requests, job.mean_accuracy, job.deadline_s, percentile, split, tail, verdict, reason)
        )
    return found


def _instead(jobs: Jobs, front: Sequence[Split], deadline_s: float) -> str:
    best = most_accurate(front, deadline_s)
    if best is None:
        return "no split is done within the deadline, even in the mean"
    return f"within the deadline (in the mean) {jobs.metric} is at best {best.accuracy:.4g}"


def job_sizes(workload: Workload) -> list[int]:
    """Requests of the workload's job classes."""
    return [traffic.job.requests for traffic in workload.classes.values() if traffic.job is not None]
