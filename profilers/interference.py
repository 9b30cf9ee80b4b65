"""How much slower a choice is with others at work beside it: alternating blocks of time, one machine.

Subject and neighbours each have a process of their own, pinned to cores of its own (a GPU is shared). All load
their model and stay; then, in pairs of blocks, the subject's calls are timed once with every neighbour busy in
a closed loop and once with all of them idle. Which comes first is drawn for each pair, so that a machine that
grows slower all the while favours neither. Of each pair the ratio of mean service times counts; the slow-down
is the geometric mean of the ratios, its interval Student's t on their logarithms.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from inferplan.profilers.points import PointTask, Progress, begin_point, now, point_process
from inferplan.profilers.process import WorkerFailure, WorkerProcess
from inferplan.profilers.statistics import INTERVAL_CONFIDENCE, least_count, t_quantile
from inferplan.spec.evidence import combined_sha256
from inferplan.spec.rows import InterferenceRow, Status

PAIRS = 10
LEAST_PAIRS = 4
BLOCK_S = 0.1
"""Least time of a block."""
CALLS = 5
"""Least timed calls of a block."""
LEAST_CALLS = 2

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Neighbourhood:
    """A point to measure beside others, all at work at once."""

    subject: PointTask
    neighbours: tuple[PointTask, ...]

    @property
    def neighbours_text(self) -> str:
        """The neighbours as rows carry them."""
        listed = [[n.key.stage, n.spec.choice, n.key.batch, n.key.threads] for n in self.neighbours]
        return json.dumps(sorted(listed))

    @property
    def neighbours_sha256(self) -> str:
        """Hash of the neighbours' keys."""
        return combined_sha256(sorted(neighbour.key.id() for neighbour in self.neighbours))

    def row(self, status: Status = "ok", reason: str = "") -> InterferenceRow:
        """A row of it, without figures."""
        return InterferenceRow(
            self.subject.key,
            self.neighbours_text,
            self.neighbours_sha256,
            status=status,
            reason=reason,
            measured_at=now(),
        )


@dataclass(frozen=True, slots=True)
class Blocks:
    """How a measurement is cut up."""

    pairs: int
    calls: int
    block_s: float

    @classmethod
    def of(cls, service_s: float, max_time_s: float) -> Blocks:
        """Blocks for calls of this length: fewer calls, then fewer pairs, where `max_time_s` would not do."""
        each_s = max_time_s / (2 * PAIRS)
        calls = CALLS if service_s <= 0 else int(min(CALLS, max(LEAST_CALLS, each_s / service_s)))
        block_s = max(BLOCK_S, calls * service_s)
        return cls(min(PAIRS, max(LEAST_PAIRS, int(max_time_s / (2 * block_s)))), calls, block_s)

    @property
    def estimate_s(self) -> float:
        """Expected time of all blocks, with the one call of each that is not counted."""
        return 2 * self.pairs * (self.block_s + self.block_s / self.calls)


class Party(Protocol):
    """Subject and neighbours, ready to work."""

    def timed(self, blocks: Blocks) -> Floats:
        """Service times [n] in seconds of the subject in one block."""

    def work(self) -> None:
        """Make all neighbours busy; they are when this returns."""

    def rest(self) -> None:
        """Make all neighbours idle; they are when this returns."""


def measure_interference(where: Neighbourhood, blocks: Blocks, progress: Progress) -> InterferenceRow:
    """Measure a choice beside its neighbours. A failure, also one of a neighbour, is a row with the reason."""
    try:
        with ExitStack() as stack:
            party = _Processes(where, stack)
            return summary(where, alternated(party, blocks, int(where.subject.key.id(), 16), progress))
    except WorkerFailure as failure:
        return where.row(failure.status, failure.reason)


@dataclass(slots=True)
class Pairs:
    """Service times of every block, in order of measurement."""

    beside: list[Floats] = field(default_factory=list)
    alone: list[Floats] = field(default_factory=list)


def alternated(party: Party, blocks: Blocks, seed: int, progress: Progress) -> Pairs:
    """Time the pairs of blocks. Neighbours are idle afterwards."""
    generator = np.random.default_rng(seed)
    found = Pairs()
    for pair in range(blocks.pairs):
        for busy in (True, False) if generator.random() < 0.5 else (False, True):
            if busy:
                party.work()
            times = party.timed(blocks)
            if busy:
                party.rest()
            (found.beside if busy else found.alone).append(times)
        progress((pair + 1) / blocks.pairs)
    return found


def summary(where: Neighbourhood, pairs: Pairs) -> InterferenceRow:
    """The row of a measurement."""
    logs = np.array([math.log(a.mean() / b.mean()) for a, b in zip(pairs.beside, pairs.alone, strict=True)])
    middle = float(logs.mean())
    half = t_quantile(len(logs) - 1) * float(logs.std(ddof=1)) / math.sqrt(len(logs))
    beside, alone = np.concatenate(pairs.beside), np.concatenate(pairs.alone)
    enough = min(len(beside), len(alone)) >= least_count(90.0, confidence=INTERVAL_CONFIDENCE)
    return InterferenceRow(
        where.subject.key,
        where.neighbours_text,
        where.neighbours_sha256,
        slowdown=math.exp(middle),
        slowdown_lower=math.exp(middle - half),
        slowdown_upper=math.exp(middle + half),
        slowdown_p90=float(np.quantile(beside, 0.9) / np.quantile(alone, 0.9)) if enough else None,
        blocks=len(logs),
        n=len(beside),
        measured_at=now(),
    )


def side_by_side(cores: Sequence[int], tasks: Sequence[PointTask]) -> list[tuple[int, ...]]:
    """Cores of each task, from the last one down, none shared; nothing to pin to for tasks on a GPU."""
    end = len(cores)
    found: list[tuple[int, ...]] = []
    for task in tasks:
        if task.on_gpu:
            found.append(())
            continue
        start = end - task.key.threads
        if start < 0:
            raise ValueError(f"{len(cores)} cores are too few for {len(tasks)} tasks side by side")
        found.append(tuple(cores[start:end]))
        end = start
    return found


class _Processes:
    """Subject and neighbours in measuring processes."""

    def __init__(self, where: Neighbourhood, stack: ExitStack) -> None:
        tasks = [where.subject, *where.neighbours]
        pins = side_by_side(where.subject.cores, tasks)
        workers: list[WorkerProcess] = []
        for index, (task, pin) in enumerate(zip(tasks, pins, strict=True)):
            worker = stack.enter_context(point_process(task, pin))
            with _blamed(task, index):
                begin_point(worker, task, index)
            workers.append(worker)
        self._subject, *self._neighbours = workers
        self._tasks = where.neighbours
        self._longest_s = where.subject.limits.step_s / 2

    def timed(self, blocks: Blocks) -> Floats:
        frame = self._subject.call(
            "measure",
            "measured",
            least_n=blocks.calls + 1,
            min_time_s=blocks.block_s,
            max_time_s=max(blocks.block_s, self._longest_s),
        )
        times = np.asarray(frame.arrays["times"].sum(axis=0), dtype=np.float64)
        # The first call still finds caches as the block before left them.
        times = times[1:] if len(times) > 1 else times
        if not len(times) or not np.all(np.isfinite(times)) or times.min() <= 0:
            raise WorkerFailure("failed", "the measuring process sent times that are none")
        return times

    def work(self) -> None:
        for index, worker in enumerate(self._neighbours):
            with _blamed(self._tasks[index], index + 1):
                worker.call("burn", "burning")

    def rest(self) -> None:
        for index, worker in enumerate(self._neighbours):
            with _blamed(self._tasks[index], index + 1):
                worker.call("rest", "resting")


@contextmanager
def _blamed(task: PointTask, index: int) -> Iterator[None]:
    """A failure of a neighbour says whose it is; index 0 is the subject."""
    try:
        yield
    except WorkerFailure as failure:
        if index == 0:
            raise
        name = f"{task.key.stage}={task.spec.choice}"
        raise WorkerFailure(failure.status, f"its neighbour {name}: {failure.reason}", failure.raised) from failure
