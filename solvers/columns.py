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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations, product

import numpy as np
from numpy.typing import NDArray

from inferplan.estimators.accuracy import PLAIN
from inferplan.estimators.cost import fitting
from inferplan.estimators.fanout import CallCounts, FanOutLaw
from inferplan.estimators.queueing import Arrivals, Demand, estimate
from inferplan.solvers.bill import column_usd_per_h, column_w
from inferplan.solvers.clock import in_time
from inferplan.solvers.labels import undominated
from inferplan.solvers.options import Option
from inferplan.solvers.parts import admissible, together
from inferplan.solvers.problem import ClassNeed, Problem
from inferplan.solvers.tier_flows import sizes_differ
from inferplan.spec.errors import InputError

MAX_UTILISATION = 0.98
"""Above this share of capacity a queue is stable in theory only: no finite observation could confirm a promise."""
MAX_CONTEXTS = 256
TABULATED = "every option was tabulated"
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


def build_columns(
    problem: Problem,
    lifted: bool = False,
    prune: bool = True,
    stages: Sequence[str] | None = None,
    deadline: float = math.inf,
) -> list[Column]:
    """All columns of an instance, or of some of its `stages`. `lifted`: as if there were as many machines of every
    device as wanted. Raises OutOfTimeError where they are not tabulated by the `deadline`."""
    columns: list[Column] = []
    for stage in problem.stages if stages is None else stages:
        contexts = [
            (classes, context)
            for classes in _subsets(len(problem.classes))
            if admissible(problem, classes)
            for context in _contexts(problem, stage, classes)
        ]
        if len(contexts) > MAX_CONTEXTS:
            raise InputError(
                f"stage {stage}: {len(contexts)} combinations of classes and measured fan-outs above it are more than"
                f" {MAX_CONTEXTS}; give fan_out as a mean, or merge classes"
            )
        early = prune and not adds_cost(problem, stage)
        for cells in _tabulate(problem, stage, contexts, lifted, deadline):
            found = cells.columns(_undominated(problem, cells) if early else range(len(cells.owner)))
            columns += pruned(problem, stage, found) if prune and not early else found
    return columns


def _subsets(count: int) -> Iterator[tuple[int, ...]]:
    return chain.from_iterable(combinations(range(count), size) for size in range(1, count + 1))


def _contexts(problem: Problem, stage: str, classes: tuple[int, ...]) -> list[Context]:
    """Every joint choice of fan-outs above the stage, for the classes."""
    choices: list[list[tuple[int, str, tuple[str, ...]]]] = []
    lineage = {edge[0]: edge for edge in problem.laws.lineages[stage]}
    for k in (k for k in classes if problem.classes[k].share > 0):
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
    rates = [need.groups_rps * count.groups for need, count in zip(needs, calls, strict=True)]
    total = sum(rates)
    load = sum(need.groups_rps * count.mean for need, count in zip(needs, calls, strict=True))
    if total <= 0 or load <= 0:
        return Arrivals(0.0)
    weights: dict[int, float] = {}
    for rate, count in zip(rates, calls, strict=True):
        for size, weight in zip(count.group.counts, count.group.weights, strict=True):
            weights[size] = weights.get(size, 0.0) + weight * rate / total
    sizes = tuple(sorted(weights))
    groups = FanOutLaw(sizes, tuple(weights[size] for size in sizes))
    scv = sum(need.uneven.scv * rate for need, rate in zip(needs, rates, strict=True)) / total
    shares = [need.groups_rps * count.mean / load for need, count in zip(needs, calls, strict=True)]
    peak = sum(need.uneven.peak_factor * share for need, share in zip(needs, shares, strict=True))
    uneven = [(share, need.uneven.uneven) for need, share in zip(needs, shares, strict=True)]
    return Arrivals(load, scv, groups, tuple((s, part) for s, part in uneven if part is not None and s > 0), peak)


@dataclass(frozen=True)
class _Cells:
    """Columns of one stage and context before they are made: a row each. `owner` is the row's index into `options`,
    `tails` are `single` and `whole` side by side."""

    stage: str
    classes: tuple[int, ...]
    context: Context
    load_rps: float
    options: Sequence[Option]
    owner: NDArray[np.int64]
    replicas: NDArray[np.int64]
    figures: NDArray[np.float64]
    """(rows, 3): utilisation, mean batch, mean latency."""
    tails: NDArray[np.float64]

    def columns(self, rows: Iterable[int]) -> list[Column]:
        """Columns of some rows."""
        count = len(self.classes)
        return [
            Column(
                self.stage, self.classes, self.context, self.options[self.owner[row]], int(self.replicas[row]),
                self.load_rps, float(self.figures[row, 0]), float(self.figures[row, 1]), float(self.figures[row, 2]),
                tuple(self.tails[row, :count].tolist()), tuple(self.tails[row, count:].tolist()),
            )
            for row in rows
        ]  # fmt: skip


def _tabulate(
    problem: Problem, stage: str, contexts: Sequence[tuple[tuple[int, ...], Context]], lifted: bool, deadline: float
) -> Iterator[_Cells]:
    """Estimate every option under the load of every context, for every sensible number of replicas."""
    for classes, context in contexts:
        in_time(deadline, TABULATED)
        needs = [problem.classes[k] for k in classes]
        joined, counts, which = together(needs, [_calls(problem, stage, k, context) for k in classes])
        calls = [counts[index] for index in which]
        arrivals = _arrivals(joined, counts)
        level = max(need.percentile for need in needs) / 100
        most_calls = max(count.quantile(level) for count in calls)
        options = problem.options(stage)
        # What runs nothing is where its input is, which may differ between classes.
        apart = sum(problem.classes[k].share > 0 for k in classes) > 1 and len(problem.ways.tiers) > 1
        skips = [index for index, option in enumerate(options) if option.service is None and not apart]
        demands: list[Demand] = []
        owner: list[int] = []
        for index, option in enumerate(options):
            if option.service is None:
                continue
            replicas = _replicas(problem, option, arrivals.peak_rps, most_calls, lifted)
            if replicas:
                demands.append(
                    Demand(option.service, option.max_batch, option.max_queue_delay_s, replicas, arrivals, level)
                )
                owner += [index] * len(replicas)
        nothing = np.zeros((len(skips), 2 * len(classes)))
        still = np.tile([0.0, 1.0, 0.0], (len(skips), 1))
        if demands:
            figures, tails = _latencies(demands, [need.percentile for need in needs], calls)
            still, nothing = np.concatenate([still, figures]), np.concatenate([nothing, tails])
        replicas_of = [0] * len(skips) + [n for demand in demands for n in demand.replicas]
        yield _Cells(
            stage, classes, context, arrivals.rate_rps, options, np.array(skips + owner, dtype=np.int64),
            np.array(replicas_of, dtype=np.int64), still, nothing,
        )  # fmt: skip


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


def _latencies(
    demands: Sequence[Demand], levels: Sequence[float], calls: Sequence[CallCounts]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Figures and tails of demands, as in `_Cells`. `levels` and `calls` are those of the classes."""
    estimates = estimate(demands)
    figures = np.stack([estimates.utilisation, estimates.batch_mean, estimates.mean_s()], axis=1)
    counts = [len(demand.replicas) for demand in demands]
    replicas = np.array([n for demand in demands for n in demand.replicas])
    batch = np.repeat([demand.max_batch for demand in demands], counts)
    full = np.repeat([demand.service.mean_s(demand.max_batch) for demand in demands], counts)
    tails = {level: estimates.quantile_s(level / 100) for level in set(levels)}
    single = [tails[level] for level in levels]
    whole = []
    for count, level in zip(calls, levels, strict=True):
        # Batches that the busiest replica serves of one request's calls, if all replicas share them evenly.
        batches = np.ceil(count.quantile(level / 100) / batch - 1e-9)
        whole.append(tails[level] + (np.maximum(np.ceil(batches / replicas), 1) - 1) * full)
    return figures, np.stack([*single, *whole], axis=1)


def pruned(problem: Problem, stage: str, columns: Sequence[Column]) -> list[Column]:
    """Drop dominated columns, group by group."""
    groups: dict[tuple[object, ...], list[Column]] = {}
    told_apart = _told_apart(problem, stage)
    for column in columns:
        # Skip variants take no machine: they compete among themselves.
        key = (column.classes, column.context, column.most, *_kind(column.option, told_apart))
        groups.setdefault(key, []).append(column)
    return [column for group in groups.values() for column in _best_columns(problem, group)]


def best_of_kinds(problem: Problem, columns: Sequence[Column], kind: Callable[[Option], object]) -> list[Column]:
    """Columns that no other one of the same kind, classes and context dominates; what a machine costs is part of the
    kind."""
    groups: dict[tuple[object, ...], list[Column]] = {}
    for column in columns:
        key = (column.stage, column.classes, column.context, column.most, kind(column.option))
        groups.setdefault(key, []).append(column)
    return [column for group in groups.values() for column in _best_columns(problem, group)]


def _told_apart(problem: Problem, stage: str) -> bool:
    """Whether columns stand in for one another only if they run the same choice."""
    return _decides_fan_out(problem, stage) or sizes_differ(problem, stage) or not _monotone(problem, stage)


def _kind(option: Option, told_apart: bool) -> tuple[str, str, bool]:
    """Options that may stand in for one another have the same. What may share a GPU depends on the choice."""
    shared = bool(option.company)
    return option.device, option.variant if told_apart or shared else "", shared


def adds_cost(problem: Problem, stage: str) -> bool:
    """Whether some column costs or draws something besides its machines that counts."""
    if "energy" in problem.workload.objective.terms:
        return True
    for option in problem.options(stage):
        if option.need is not None:
            tariff = problem.devices[option.device].tariff
            if tariff.reloads_usd_per_h(option.share, option.load_s) > 0 or tariff.electricity_usd_per_h(1.0) > 0:
                return True
    return False


def _decides_fan_out(problem: Problem, stage: str) -> bool:
    return any(stage in problem.laws.deciding(other) for other in problem.stages)


def _monotone(problem: Problem, stage: str) -> bool:
    """Whether a better stage metric never lowers end-to-end accuracy, so that variants can be compared by it."""
    accuracy = problem.accuracy
    if accuracy is None:
        return True
    known = all((stage, variant) in accuracy.values for variant in problem.variants(stage))
    return accuracy.composition in PLAIN and not accuracy.measured and known


def _undominated(problem: Problem, cells: _Cells) -> list[int]:
    """Rows that no other one dominates, group by group, where columns add nothing to their machines' cost."""
    told_apart = _told_apart(problem, cells.stage)
    groups: dict[tuple[str, str, bool], int] = {}
    group_of = np.array([groups.setdefault(_kind(o, told_apart), len(groups)) for o in cells.options], dtype=np.int64)
    needs = _needs(cells.options)
    metric = np.array([_metric(problem, option) for option in cells.options])
    # Options are sorted by name: of equals the first by name stays.
    ordered = np.lexsort((cells.replicas, cells.owner))
    group = group_of[cells.owner[ordered]]
    kept: list[int] = []
    for (_, _, shared), number in groups.items():
        rows = ordered[group == number]
        owner = cells.owner[rows]
        kept += rows[_best(cells.replicas[rows], needs[owner], metric[owner], cells.tails[rows], shared)].tolist()
    return kept


def _best_columns(problem: Problem, group: Sequence[Column]) -> list[Column]:
    """Undominated columns of one group."""
    ordered = sorted(group, key=lambda c: (c.option.name, c.replicas))
    metric = np.array([_metric(problem, column.option) for column in ordered])
    tails = np.array([column.single_s + column.whole_s for column in ordered])
    replicas = np.array([column.replicas for column in ordered])
    few = any(column.most is not None or column.option.company for column in ordered)
    worth = np.concatenate([tails, _extra(problem, ordered)], axis=1)
    return [ordered[row] for row in _best(replicas, _needs([c.option for c in ordered]), metric, worth, few)]


def _best(
    replicas: NDArray[np.int64],
    needs: NDArray[np.int64],
    metric: NDArray[np.float64],
    burdens: NDArray[np.float64],
    few: bool,
) -> NDArray[np.int64]:
    """Indices of undominated rows of one group, rising. `burdens` are better if smaller. `few`: a machine may hold only
    so many of one kind, so that one replica stands for one at most."""
    if len(replicas) == 0:
        return np.zeros(0, dtype=np.int64)
    # Among equal needs one replica stands for one, and that is plain dominance.
    kinds, kind = np.unique(needs, axis=0, return_inverse=True)
    plain = np.column_stack([replicas * np.any(needs > 0, axis=1), -metric, burdens])
    own = [np.flatnonzero(kind.reshape(-1) == number) for number in range(len(kinds))]
    alive = np.sort(np.concatenate([rows[undominated(plain[rows], math.inf)] for rows in own]))
    if len(kinds) == 1:
        return alive
    # Those that need little and are fast first: they drop most of the others at once.
    queue = alive[np.lexsort((alive, burdens[alive].sum(axis=1), needs[alive, 0] * replicas[alive]))]
    gone = np.zeros(len(replicas), dtype=bool)
    for index in queue:
        if gone[index]:
            continue
        # How many of this row's replicas fit where one of another's stands.
        rooms = np.full(len(alive), 1 if few else _PLENTY)
        for size, need in zip(needs[alive].T, needs[index], strict=True):
            if need:
                rooms = np.minimum(rooms, size // need)
        worse = (replicas[index] <= rooms * replicas[alive]) & (metric[alive] <= metric[index])
        for burden, own in zip(burdens[alive].T, burdens[index], strict=True):
            worse &= burden >= own
        worse &= alive != index
        gone[alive[worse]] = True
        alive = alive[~worse]
    return alive


def _needs(options: Sequence[Option]) -> NDArray[np.int64]:
    """(options, 4): cores, memory, GPUs and GPU memory of a replica."""
    needs = [option.need for option in options]
    return np.array(
        [(n.cores, n.memory_bytes or 0, n.gpus, n.gpu_memory_bytes or 0) if n else (0, 0, 0, 0) for n in needs],
        dtype=np.int64,
    ).reshape(-1, 4)


def _extra(problem: Problem, columns: Sequence[Column]) -> NDArray[np.float64]:
    """What columns cost and draw besides their machines, where that counts: (columns, 2)."""
    counts = "energy" in problem.workload.objective.terms
    return np.array([(column_usd_per_h(problem, c), (column_w(c) or 0.0) if counts else 0.0) for c in columns])


def _metric(problem: Problem, option: Option) -> float:
    if problem.accuracy is None:
        return 0.0
    value = problem.accuracy.values.get((option.stage, option.variant))
    return problem.accuracy.turn.turned(value.value) if value else 0.0


def column_for(problem: Problem, stage: str, option: Option, replicas: int, variants: Mapping[str, str]) -> Column:
    """The column of all classes on one queue of an option, whatever its load, below stages that run `variants`.

    Where the load is more than its capacity the latencies are infinite.
    """
    classes = tuple(range(len(problem.classes)))
    return column_of(problem, option, replicas, classes, [variants] * len(classes))


def column_of(
    problem: Problem,
    option: Option,
    replicas: int,
    classes: tuple[int, ...],
    variants: Sequence[Mapping[str, str]],
) -> Column:
    """The same for some classes; `variants` are those of each of them."""
    return columns_of(problem, [(option, (replicas,))], classes, variants)[0]


def columns_of(
    problem: Problem,
    options: Sequence[tuple[Option, tuple[int, ...]]],
    classes: tuple[int, ...],
    variants: Sequence[Mapping[str, str]],
) -> list[Column]:
    """The same for several options of one stage and choice, each with numbers of replicas, in their order."""
    stage, needs = options[0][0].stage, [problem.classes[k] for k in classes]
    joined, counts, which = together(needs, [problem.laws.calls(stage, own) for own in variants])
    calls = [counts[index] for index in which]
    arrivals = _arrivals(joined, counts)
    if options[0][0].service is None:
        nothing = (0.0,) * len(classes)
        return [
            Column(stage, classes, (), option, 0, arrivals.rate_rps, 0.0, 1.0, 0.0, nothing, nothing)
            for option, _ in options
        ]
    levels = [need.percentile for need in needs]
    demands = [
        Demand(option.service, option.max_batch, option.max_queue_delay_s, replicas, arrivals, max(levels) / 100)
        for option, replicas in options
        if option.service is not None
    ]
    figures, tails = _latencies(demands, levels, calls)
    numbers = [(index, n) for index, (_, replicas) in enumerate(options) for n in replicas]
    owner, replicas_of = np.array(numbers, dtype=np.int64).T
    cells = _Cells(
        stage, classes, (), arrivals.rate_rps, [option for option, _ in options], owner, replicas_of, figures, tails
    )
    return cells.columns(range(len(owner)))
