"""Columns of the program: a stage's option with its replicas, the classes it serves, and what they will wait.

A column (stage, classes S, context, option, n) says: these classes, and no others, send all their calls of the
stage to one queue of this option with n replicas. Its load is known, so its latency can be tabulated and the
program stays linear. The *context* fixes what else the load depends on: where the fan-out of an earlier stage
depends on that stage's variant, one column stands for each of the possible fan-outs of each class.

Latency is tabulated twice per class, at its percentile: `single`, of one call; and `whole`, until the last of the
request's calls at the stage is done. The calls of a request pass the stages like a convoy: on every path one
stage is passed as a whole and the others singly, whichever stage makes that the longest.

*Pruning.* A column is dropped if another one of the same stage, classes and context, on the same device, is at
least as good in all that the program sees: its replicas fit into the room of the other's (n' replicas where
each of the other's n makes room for some), no class's latency is larger, and its variant is the same, or it leaves
accuracy at least as good (stage metrics decide, and compose monotonely, unless combinations were measured) and
changes no fan-out below, and it costs and draws no more besides its machines. Every plan with the dropped column
stays feasible with the other one in its place, at no higher cost, so an optimum is kept. Of equals the first by name
stays. Columns that limit how many of them a machine holds are compared with those of the same limit only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, combinations, product

import numpy as np
from numpy.typing import NDArray

from inferplan.estimators.cost import fitting
from inferplan.estimators.fanout import CallCounts, FanOutLaw
from inferplan.estimators.queueing import Arrivals, Demand, StationEstimate, estimate
from inferplan.solvers.bill import column_usd_per_h, column_w
from inferplan.solvers.options import Option
from inferplan.solvers.problem import ClassNeed, Problem
from inferplan.solvers.tier_flows import sizes_differ
from inferplan.spec.errors import InputError

MAX_UTILISATION = 0.98
"""Above this share of capacity a queue is stable in theory only: no finite observation could confirm a promise."""
MAX_CONTEXTS = 256
_PLENTY = 2**31

Context = tuple[tuple[int, str, tuple[str, ...]], ...]
"""(class index, stage above, variants of it that have this fan-out), for all that the load depends on."""


@dataclass(frozen=True, slots=True)
class Column:
    """One way to serve a set of classes at a stage. Latencies are per class of `classes`, in seconds; 0 for skip."""

    stage: str
    classes: tuple[int, ...]
    context: Context
    option: Option
    replicas: int
    load_rps: float
    utilisation: float
    batch_mean: float
    mean_s: float
    single_s: tuple[float, ...]
    whole_s: tuple[float, ...]
    most: int | None = None
    """How many replicas one machine may hold, so that the loss of machines leaves enough; None: as many as fit."""

    @property
    def cores(self) -> int:
        """Cores of all replicas."""
        return self.replicas * (self.option.need.cores if self.option.need else 0)


def build_columns(problem: Problem, lifted: bool = False, prune: bool = True) -> list[Column]:
    """All columns of an instance. `lifted`: as if there were as many machines of every device as wanted."""
    columns: list[Column] = []
    for stage in problem.stages:
        contexts = [
            (classes, context)
            for classes in _subsets(len(problem.classes))
            for context in _contexts(problem, stage, classes)
        ]
        if len(contexts) > MAX_CONTEXTS:
            raise InputError(
                f"stage {stage}: {len(contexts)} combinations of classes and measured fan-outs above it are more than"
                f" {MAX_CONTEXTS}; give fan_out as a mean, or merge classes"
            )
        found = _tabulate(problem, stage, contexts, lifted)
        columns += pruned(problem, stage, found) if prune else found
    return columns


def _subsets(count: int) -> Iterator[tuple[int, ...]]:
    return chain.from_iterable(combinations(range(count), size) for size in range(1, count + 1))


def _contexts(problem: Problem, stage: str, classes: tuple[int, ...]) -> list[Context]:
    """Every joint choice of fan-outs above the stage, for the classes."""
    choices: list[list[tuple[int, str, tuple[str, ...]]]] = []
    lineage = {edge[0]: edge for edge in problem.laws.lineages[stage]}
    for k in classes:
        for source in problem.laws.deciding(stage):
            groups: dict[FanOutLaw, list[str]] = {}
            for variant in problem.variants(source):
                groups.setdefault(problem.laws.law(lineage[source], variant), []).append(variant)
            if len(groups) > 1:
                choices.append([(k, source, tuple(group)) for group in groups.values()])
    return [tuple(choice) for choice in product(*choices)]


def _calls(problem: Problem, stage: str, k: int, context: Context) -> CallCounts:
    """Calls of a stage per request of class k, in a context."""
    chosen = {source: group[0] for owner, source, group in context if owner == k}
    above = {edge[0]: chosen.get(edge[0], problem.variants(edge[0])[0]) for edge in problem.laws.lineages[stage]}
    return problem.laws.calls(stage, above)


def _arrivals(needs: Sequence[ClassNeed], calls: Sequence[CallCounts]) -> Arrivals:
    """Superposition of the classes' calls: groups and their variability weighted by rates."""
    rates = [need.rate_rps * count.groups for need, count in zip(needs, calls, strict=True)]
    total = sum(rates)
    load = sum(need.rate_rps * count.mean for need, count in zip(needs, calls, strict=True))
    if total <= 0 or load <= 0:
        return Arrivals(0.0)
    weights: dict[int, float] = {}
    for rate, count in zip(rates, calls, strict=True):
        for size, weight in zip(count.group.counts, count.group.weights, strict=True):
            weights[size] = weights.get(size, 0.0) + weight * rate / total
    sizes = tuple(sorted(weights))
    groups = FanOutLaw(sizes, tuple(weights[size] for size in sizes))
    scv = sum(need.uneven.scv * rate for need, rate in zip(needs, rates, strict=True)) / total
    shares = [need.rate_rps * count.mean / load for need, count in zip(needs, calls, strict=True)]
    peak = sum(need.uneven.peak_factor * share for need, share in zip(needs, shares, strict=True))
    uneven = [(share, need.uneven.uneven) for need, share in zip(needs, shares, strict=True)]
    return Arrivals(load, scv, groups, tuple((s, part) for s, part in uneven if part is not None and s > 0), peak)


def _tabulate(
    problem: Problem, stage: str, contexts: Sequence[tuple[tuple[int, ...], Context]], lifted: bool
) -> list[Column]:
    """Estimate every option under the load of every context, for every sensible number of replicas."""
    columns: list[Column] = []
    demands: list[Demand] = []
    owners: list[tuple[tuple[int, ...], Context, Option, list[CallCounts]]] = []
    for classes, context in contexts:
        needs = [problem.classes[k] for k in classes]
        calls = [_calls(problem, stage, k, context) for k in classes]
        arrivals = _arrivals(needs, calls)
        level = max(need.percentile for need in needs) / 100
        most_calls = max(count.quantile(level) for count in calls)
        for option in problem.options(stage):
            if option.service is None and len(classes) > 1 and len(problem.ways.tiers) > 1:
                continue  # What runs nothing is where its input is, which may differ between classes.
            if option.service is None:
                nothing = (0.0,) * len(classes)
                columns.append(
                    Column(stage, classes, context, option, 0, arrivals.rate_rps, 0.0, 1.0, 0.0, nothing, nothing)
                )
                continue
            replicas = _replicas(problem, option, arrivals.peak_rps, most_calls, lifted)
            if replicas:
                demands.append(
                    Demand(option.service, option.max_batch, option.max_queue_delay_s, replicas, arrivals, level)
                )
                owners.append((classes, context, option, calls))
    if demands:
        columns += _columns(problem, stage, demands, owners)
    return columns


def _replicas(problem: Problem, option: Option, load: float, most_calls: float, lifted: bool) -> tuple[int, ...]:
    """Numbers of replicas worth tabulating: from the first that carries the load to where none waits any more."""
    assert option.service is not None
    assert option.need is not None
    least = max(1, math.ceil(load / (MAX_UTILISATION * option.service.capacity_per_s(option.max_batch)) - 1e-12))
    most = least + math.ceil(3 * math.sqrt(least)) + 4
    most = max(most, least + math.ceil(most_calls / option.max_batch) - 1)
    device = problem.devices[option.device]
    if device.count is not None and not lifted:
        most = min(most, device.count * fitting(device.capacity, option.need))
    return tuple(range(least, most + 1))


def _columns(
    problem: Problem,
    stage: str,
    demands: Sequence[Demand],
    owners: Sequence[tuple[tuple[int, ...], Context, Option, list[CallCounts]]],
) -> list[Column]:
    estimates = estimate(demands)
    mean = estimates.mean_s()
    tails = _tails(problem, estimates)
    columns: list[Column] = []
    row = 0
    for demand, (classes, context, option, calls) in zip(demands, owners, strict=True):
        full = demand.service.mean_s(demand.max_batch)
        levels = [problem.classes[k].percentile for k in classes]
        most = [count.quantile(level / 100) for count, level in zip(calls, levels, strict=True)]
        for n in demand.replicas:
            single = [float(tails[level][row]) for level in levels]
            rounds = [_rounds(count, option, n) for count in most]
            columns.append(
                Column(
                    stage, classes, context, option, n, demand.arrivals.rate_rps, float(estimates.utilisation[row]),
                    float(estimates.batch_mean[row]), float(mean[row]), tuple(single),
                    tuple(s + (r - 1) * full for s, r in zip(single, rounds, strict=True)),
                )
            )  # fmt: skip
            row += 1
    return columns


def _tails(problem: Problem, estimates: StationEstimate) -> dict[float, NDArray[np.float64]]:
    levels = sorted({need.percentile for need in problem.classes})
    return {level: estimates.quantile_s(level / 100) for level in levels}


def _rounds(calls: float, option: Option, replicas: int) -> int:
    """Batches that the busiest replica serves of one request's calls, if all replicas share them evenly."""
    return max(1, math.ceil(math.ceil(calls / option.max_batch - 1e-9) / replicas))


def pruned(problem: Problem, stage: str, columns: Sequence[Column]) -> list[Column]:
    """Drop dominated columns, group by group."""
    groups: dict[tuple[object, ...], list[Column]] = {}
    decides = _decides_fan_out(problem, stage)
    for column in columns:
        # What may share a GPU with it depends on the choice.
        told_apart = decides or sizes_differ(problem, stage) or not _monotone(problem, stage) or column.option.company
        kind = column.option.variant if told_apart else ""
        # Skip variants take no machine: they compete among themselves.
        key = (column.classes, column.context, column.option.device, kind, column.most, bool(column.option.company))
        groups.setdefault(key, []).append(column)
    return [column for group in groups.values() for column in _undominated(problem, group)]


def _decides_fan_out(problem: Problem, stage: str) -> bool:
    return any(stage in problem.laws.deciding(other) for other in problem.stages)


def _monotone(problem: Problem, stage: str) -> bool:
    """Whether a better stage metric never lowers end-to-end accuracy, so that variants can be compared by it."""
    accuracy = problem.accuracy
    if accuracy is None:
        return True
    known = all((stage, variant) in accuracy.values for variant in problem.variants(stage))
    return accuracy.composition != "table" and not accuracy.measured and known


def _undominated(problem: Problem, group: Sequence[Column]) -> list[Column]:
    ordered = sorted(group, key=lambda c: (c.option.name, c.replicas))
    metric = np.array([_metric(problem, column) for column in ordered])
    tails = np.array([column.single_s + column.whole_s for column in ordered])
    cores = np.array([column.option.need.cores if column.option.need else 0 for column in ordered])
    memory = np.array([(column.option.need.memory_bytes or 0) if column.option.need else 0 for column in ordered])
    gpus = np.array([column.option.need.gpus if column.option.need else 0 for column in ordered])
    gpu_memory = np.array([(c.option.need.gpu_memory_bytes or 0) if c.option.need else 0 for c in ordered])
    replicas = np.array([column.replicas for column in ordered])
    needs = np.stack([cores, memory, gpus, gpu_memory])
    extra = _extra(problem, ordered)
    # Where a machine may hold only so many of one kind, one replica stands for one at most.
    few = any(column.most is not None or column.option.company for column in ordered)
    alive = np.ones(len(ordered), dtype=bool)
    # Those that need little and are fast first: they drop most of the others at once.
    for index in np.lexsort((np.arange(len(ordered)), tails.sum(axis=1), cores * replicas)):
        if not alive[index]:
            continue
        # How many of this column's replicas fit where one of another's stands.
        rooms = np.where(needs[:, index, None] > 0, needs // np.maximum(needs[:, index, None], 1), _PLENTY).min(axis=0)
        if few:
            rooms = np.minimum(rooms, 1)
        worse = (replicas[index] <= rooms * replicas) & (metric <= metric[index])
        worse &= np.all(tails >= tails[index], axis=1)
        worse &= np.all(extra >= extra[index], axis=1)
        worse[index] = False
        alive &= ~worse
    return [column for column, stays in zip(ordered, alive, strict=True) if stays]


def _extra(problem: Problem, columns: Sequence[Column]) -> NDArray[np.float64]:
    """What columns cost and draw besides their machines, where that counts: (columns, 2)."""
    counts = "energy" in problem.workload.objective.terms
    return np.array([(column_usd_per_h(problem, c), (column_w(c) or 0.0) if counts else 0.0) for c in columns])


def _metric(problem: Problem, column: Column) -> float:
    if problem.accuracy is None:
        return 0.0
    value = problem.accuracy.values.get((column.stage, column.option.variant))
    return problem.accuracy.turn.turned(value.value) if value else 0.0
