"""IPA (Ghafouri et al., JSys 4(1), 2024): variant, batch and replicas of every stage by one weighted objective.

From the paper: maximise α PAS - β Σ n_s R_s - δ Σ b_s, where PAS is the product of the stages' accuracies, n_s
replicas of R_s cores each and b_s the batch, such that Σ_s l_s(b_s) + q_s(b_s) <= SLA with the worst wait of a
batch's first request q(b) = (b - 1) / λ, and n_s h_s(b_s) >= λ with throughput h. α, β, δ are those of the published
video pipeline (2, 1, 1e-6). There is no accuracy floor: accuracy is only weighed. R_s, the *base allocation* of a
variant, is the fewest cores that reach 4 requests/s (that pipeline's threshold) at some batch within the stage's
SLA, five times the mean latency of its variants at batch 1 with most cores.

Where the published code differs: its Gurobi program adds the queue term once per variant and batch, chosen or
not, with the 0/1 choice of the batch in place of its size, so that for every plan it is the constant
-Σ_s |V_s| (|B| - 1) / λ, which loosens the SLA instead of tightening it; its simulator takes 0. The product of
accuracies is not implemented for Gurobi (the sum of rank-normalised accuracies is). The stage SLA is multiplied by
another 5. Its base allocations never fall from one variant to the next more accurate one.

Ours: exact by Pareto labels instead of a solver (objective and constraints are monotone in latency, accuracy and
cores). PAS is composed as the workload composes accuracy, where that is the product, mean or minimum of the stages'
metrics, else their product (of 1 - metric where lower is better). Latency is the longest path's. IPA knows cores only:
it is given the device type of the lowest price per core that every stage has options on. A batch waits to be filled as
long as q allows, as far as the workload lists delays.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from inferplan.estimators.accuracy import PLAIN, AccuracyEstimate, Turn
from inferplan.solvers.chains import Limits, accuracy_steps, latency_steps, plain, side_by_side
from inferplan.solvers.columns import Column
from inferplan.solvers.labels import Floats, TooManyLabels, search
from inferplan.solvers.milp import Solution
from inferplan.solvers.options import Option
from inferplan.solvers.problem import Problem
from inferplan.solvers.strategies.tools import Pick, Tools, deploy, limit_s, loads_rps, none_found, replicas_for

ALPHA, BETA, DELTA = 2.0, 1.0, 1e-6
"""Weights of accuracy, cores and batch sizes: the published defaults of the video pipeline."""
THRESHOLD_RPS = 4.0
SLA_FACTOR = 5.0
REPLICAS_CAP = 100


@dataclass(frozen=True)
class Program:
    """IPA's program with what its repository fixes for the systems it compares with: variants (`scale`), or
    replicas (`switch`)."""

    name: str
    variants: Mapping[str, str] | None = None
    replicas: Mapping[str, int] | None = None

    def solve(self, problem: Problem, deadline: float = math.inf) -> Solution:
        """The best deployment for IPA's objective. Raises InfeasibleError; OutOfTimeError after the `deadline`."""
        whole, problem = problem, by_stages(problem)
        loads = loads_rps(problem)
        stages = [self._items(problem, stage, loads[stage]) for stage in problem.stages]
        for stage, own in zip(problem.stages, stages, strict=True):
            if not own:
                raise none_found(self.name, f"no variant and batch of stage {stage} carries its load")
        limit = limit_s(problem)
        parts = [[plain(_costs(own), np.array([np.inf]), "cost") for own in stages]]
        known = problem.accuracy is not None and all(
            (c.stage, c.option.variant) in problem.accuracy.values for own in stages for c in own
        )
        if known:
            parts.append(accuracy_steps(problem, stages, Limits(wants_accuracy=True)))
        if math.isfinite(limit):
            parts.append(latency_steps(problem, stages, Limits(latency_s=limit)))
        steps, _ = side_by_side(parts)
        try:
            labels = search(steps, deadline=deadline)
        except TooManyLabels as error:
            raise none_found(self.name, f"its program is too large for labels: {error}") from None
        if not len(labels.values):
            raise none_found(self.name, "no combination keeps the SLA with batches waiting to be filled")
        accuracy = _accuracies(problem, labels.values[:, 1]) if known else np.zeros(len(labels.values))
        best = int(np.argmax(ALPHA * accuracy - labels.values[:, 0]))
        chosen = [own[item] for own, item in zip(stages, labels.items[best], strict=True)]
        return deploy(whole, {column.stage: Pick(column.option, column.replicas) for column in chosen})

    def _items(self, problem: Problem, stage: str, load_rps: float) -> list[Column]:
        """Variants and batches with the replicas they need; their latency is service plus the wait to fill."""
        items = []
        for option in base_options(problem, stage, load_rps):
            if self.variants is not None and option.variant != self.variants[stage]:
                continue
            if option.service is None:
                items.append(Column(stage, (0,), (), option, 0, load_rps, 0.0, 1.0, 0.0, (0.0,), (0.0,)))
                continue
            needed = replicas_for(option, load_rps)
            replicas = needed if self.replicas is None else self.replicas[stage]
            if needed > replicas or replicas > REPLICAS_CAP:
                continue
            fill = (option.max_batch - 1) / load_rps if load_rps > 0 else 0.0
            latency = option.service.mean_s(option.max_batch) + fill
            items.append(Column(stage, (0,), (), option, replicas, load_rps, 0.0, 1.0, 0.0, (latency,), (latency,)))
        return items


def propose(problem: Problem, tools: Tools) -> Solution:
    """Variants, batches and replicas as IPA weighs them."""
    return Program("ipa").solve(problem, tools.deadline())


def by_stages(problem: Problem) -> Problem:
    """The instance as IPA sees it, which knows stages' metrics alone: where accuracy is not composed of these, their
    product stands in, each turned so that higher is better."""
    accuracy = problem.accuracy
    if accuracy is None or accuracy.composition in PLAIN:
        return problem
    values = {
        (stage, choice): value
        if (own := problem.workload.pipeline.stages[stage].metric) is None or own.direction == "maximize"
        else AccuracyEstimate(1 - value.value)
        for (stage, choice), value in accuracy.values.items()
    }
    return replace(problem, accuracy=replace(accuracy, composition="product", turn=Turn("maximize"), values=values))


def _costs(items: Sequence[Column]) -> Floats:
    return np.array([[BETA * item.cores + DELTA * item.option.max_batch] for item in items])


def _accuracies(problem: Problem, losses: Floats) -> Floats:
    """Accuracy from the criterion of labels, turned so that higher is better."""
    assert problem.accuracy is not None
    if problem.accuracy.composition == "product":
        return np.exp(-losses)
    return -losses / (len(problem.stages) if problem.accuracy.composition == "mean" else 1)


def base_options(problem: Problem, stage: str, load_rps: float) -> list[Option]:
    """A stage's options on IPA's device type, at every variant's base allocation, one per batch size."""
    device = _device(problem)
    own = [option for option in problem.options(stage) if option.device == device]
    own = own or [option for option in problem.options(stage) if option.need is not None]
    firsts = [max((o for o in own if o.variant == v), key=lambda o: o.threads, default=None) for v in _variants(own)]
    latencies = [first.service.mean_s(1) for first in firsts if first is not None and first.service is not None]
    stage_s = SLA_FACTOR * sum(latencies) / max(len(latencies), 1)
    found = [option for option in problem.options(stage) if option.service is None]
    for variant in _variants(own):
        mine = [option for option in own if option.variant == variant]
        threads = _base_threads(mine, stage_s)
        for batch in sorted({option.max_batch for option in mine}):
            wait = (batch - 1) / load_rps if load_rps > 0 else 0.0
            ready = [option for option in mine if option.max_batch == batch and option.threads == threads]
            within = [option for option in ready if option.max_queue_delay_s <= wait] or ready
            found += sorted(within, key=lambda o: (-o.max_queue_delay_s, o.name))[:1]
    return found


def _variants(options: Sequence[Option]) -> list[str]:
    return sorted({option.variant for option in options})


def _base_threads(options: Sequence[Option], stage_s: float) -> int:
    """Fewest cores that reach the threshold within the stage's SLA at some batch; else the most there are."""
    for threads in sorted({option.threads for option in options}):
        for option in options:
            if option.threads != threads or option.service is None:
                continue
            fast = option.service.mean_s(option.max_batch) <= stage_s
            if fast and option.service.capacity_per_s(option.max_batch) >= THRESHOLD_RPS:
                return threads
    return max(option.threads for option in options)


def _device(problem: Problem) -> str | None:
    """The device type of the lowest price per core among those that most stages have options on."""
    stages = dict.fromkeys(problem.devices, 0)
    for stage in problem.stages:
        for name in {option.device for option in problem.options(stage) if option.need is not None}:
            stages[name] += 1
    used = [name for name, count in stages.items() if count == max(stages.values())]
    return min(
        used, key=lambda name: (problem.devices[name].tariff.hourly_usd / problem.devices[name].capacity.cores, name)
    )
