"""Calls per request: fan-out laws of the edges, and how many calls of a stage one request makes.

A stage's *lineage* is the chain of edges from the entry stage to it. Calls multiply along it. A stage that joins
several edges makes one call per call of any of its sources, so these must come from the same fan-out: their
calls pair up one to one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from inferplan.spec.errors import InputError
from inferplan.spec.profile import Profile
from inferplan.spec.rows import choice_name
from inferplan.spec.workload import Edge, FanOut, Workload

EdgeName = tuple[str, str]


@dataclass(frozen=True)
class FanOutLaw:
    """Distribution of downstream calls per upstream call. `counts` rise; `weights` add up to 1."""

    counts: tuple[int, ...]
    weights: tuple[float, ...]

    @cached_property
    def mean(self) -> float:
        """Expected calls."""
        return sum(c * w for c, w in zip(self.counts, self.weights, strict=True))

    @cached_property
    def square(self) -> float:
        """Second moment of the number of calls."""
        return sum(c * c * w for c, w in zip(self.counts, self.weights, strict=True))

    @property
    def variance(self) -> float:
        """Variance of the number of calls."""
        return max(self.square - self.mean**2, 0.0)

    @property
    def is_one(self) -> bool:
        """Whether every call makes exactly one."""
        return self.counts == (1,)

    def draw(self, rng: np.random.Generator, size: int) -> NDArray[np.int64]:
        """Calls of `size` upstream calls."""
        if len(self.counts) == 1:
            return np.full(size, self.counts[0], dtype=np.int64)
        edges = np.cumsum(self.weights)
        return np.asarray(self.counts)[np.searchsorted(edges[:-1], rng.random(size), side="right")]


ONE = FanOutLaw((1,), (1.0,))


def law_of_mean(mean: float) -> FanOutLaw:
    """The law of a declared mean: the whole numbers next to it, as often as the mean asks."""
    low = math.floor(mean)
    share = mean - low
    return FanOutLaw((low,), (1.0,)) if share == 0 else FanOutLaw((low, low + 1), (1.0 - share, share))


def law_of_counts(counts: list[int]) -> FanOutLaw:
    """The empirical law of observed counts."""
    values, times = np.unique(np.asarray(counts, dtype=np.int64), return_counts=True)
    return FanOutLaw(tuple(values.tolist()), tuple((times / times.sum()).tolist()))


def _declared(fan_out: float | FanOut) -> FanOutLaw:
    if not isinstance(fan_out, FanOut):
        return law_of_mean(fan_out)
    weights: dict[int, float] = {}
    for value, weight in zip(fan_out.values, fan_out.weights, strict=True):
        weights[value] = weights.get(value, 0.0) + weight
    total = sum(weights.values())
    return FanOutLaw(tuple(sorted(weights)), tuple(weights[v] / total for v in sorted(weights)))


@dataclass(frozen=True)
class FanOuts:
    """Fan-out laws of a workload: one per edge, or one per edge and upstream choice where they were measured."""

    declared: Mapping[EdgeName, FanOutLaw]
    measured: Mapping[EdgeName, Mapping[str, FanOutLaw]]
    lineages: Mapping[str, tuple[EdgeName, ...]]
    """Per stage, the edges from the entry stage to it."""

    def law(self, edge: EdgeName, variant: str) -> FanOutLaw:
        """The law of an edge where the upstream stage runs `variant`."""
        return self.declared[edge] if edge in self.declared else self.measured[edge][variant]

    def knows(self, stage: str, variant: str) -> bool:
        """Whether every edge leaving `stage` has a law for `variant`."""
        return all(variant in laws for (source, _), laws in self.measured.items() if source == stage)

    def calls(self, stage: str, variants: Mapping[str, str]) -> CallCounts:
        """Calls of `stage` per request, where the stages above it run `variants`."""
        mean, variance, group = 1.0, 0.0, ONE
        rate_of_groups = 1.0
        for edge in self.lineages[stage]:
            law = self.law(edge, variants.get(edge[0], ""))
            if not law.is_one:
                rate_of_groups, group = mean, law
            # A sum of N independent counts: the mean multiplies, the variances add.
            mean, variance = mean * law.mean, mean * law.variance + variance * law.mean**2
        return CallCounts(mean, math.sqrt(variance), rate_of_groups, group)

    def deciding(self, stage: str) -> tuple[str, ...]:
        """Stages above `stage` whose choice of variant changes how many calls it gets."""
        found = []
        for edge in self.lineages[stage]:
            laws = self.measured.get(edge, {})
            if len(set(laws.values())) > 1:
                found.append(edge[0])
        return tuple(found)


@dataclass(frozen=True, slots=True)
class CallCounts:
    """Calls of a stage per request: mean and standard deviation; they come in groups that arrive together.

    `groups` is the mean number of groups per request and `group` the law of a group's size.
    """

    mean: float
    std: float
    groups: float
    group: FanOutLaw

    def quantile(self, level: float) -> float:
        """Roughly the calls of a request that has more than a share `level` of all requests (normal tail)."""
        if self.std == 0:
            return self.mean
        if self.groups == 1.0 and math.isclose(self.std**2, self.group.variance):
            total = np.cumsum(self.group.weights)
            return float(self.group.counts[int(np.searchsorted(total, level - 1e-12))])
        return max(self.mean + NormalDist().inv_cdf(level) * self.std, 0.0)


def fan_outs(workload: Workload, profile: Profile) -> FanOuts:
    """The fan-out laws of a workload's edges.

    Raises InputError where a measured fan-out was never measured, or a join's edges do not pair up.
    """
    declared: dict[EdgeName, FanOutLaw] = {}
    measured: dict[EdgeName, dict[str, FanOutLaw]] = {}
    for edge in workload.pipeline.edges:
        name = (edge.source, edge.target)
        if edge.fan_out == "measured":
            measured[name] = _observed(edge, workload, profile)
        else:
            declared[name] = _declared(edge.fan_out)
    return FanOuts(declared, measured, _lineages(workload, declared))


def _observed(edge: Edge, workload: Workload, profile: Profile) -> dict[str, FanOutLaw]:
    laws = {
        choice_name(row.variant, row.modalities): law_of_counts(json.loads(row.fan_outs))
        for row in profile.flows
        if row.source == edge.source and row.target == edge.target and row.n > 0
    }
    known = workload.pipeline.stages[edge.source].choices()
    laws = {variant: law for variant, law in laws.items() if variant in known}
    if not laws:
        raise InputError(
            f"the fan-out from {edge.source} to {edge.target} is 'measured', but the profile has no measurement of it:"
            " run `inferplan profile`, or declare fan_out in the workload"
        )
    return laws


def _lineages(workload: Workload, declared: Mapping[EdgeName, FanOutLaw]) -> dict[str, tuple[EdgeName, ...]]:
    pipeline = workload.pipeline
    lineages: dict[str, tuple[EdgeName, ...]] = {}
    for stage in pipeline.order():
        incoming = sorted((e.source, e.target) for e in pipeline.edges if e.target == stage)
        chains = [(*lineages[source], (source, target)) for source, target in incoming]
        if not chains:
            lineages[stage] = ()
            continue
        origins = {tuple(e for e in chain if e not in declared or not declared[e].is_one) for chain in chains}
        if len(origins) > 1:
            raise InputError(
                f"stage {stage} joins {' and '.join(source for source, _ in incoming)}, whose calls do not pair up:"
                " they come from different fan-outs"
            )
        lineages[stage] = chains[0]
    return lineages
