"""Whole pipelines on the labelled requests, many combinations of choices at once.

Runs inside the measuring process. Combinations are walked as a tree, stage by stage in the order of the
pipeline: all that share their first stages' choices share those stages' work. Below, a call that a choice
has answered before (same content) is not made again, so that reading the lines that two detectors both found
costs one reading.

Calls are keyed and joined as the runner does it: a call that sends exactly one item on gives it its own key,
one that sends several appends the position; a stage with several parents is called once per key with
`{parent: item}`, items left over are matched by their order.
"""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from inferplan.profilers.frames import Frame
from inferplan.profilers.inputs import PipelineSpec
from inferplan.profilers.runtimes.executor import Executor, ExecutorSpec
from inferplan.profilers.scoring import Answers, evaluated, outcome_frame, predict
from inferplan.profilers.sensors import resident_bytes
from inferplan.spec.errors import InputError
from inferplan.spec.stagecode import Example, PipelineAdapter

Combination = Mapping[str, str]
Key = tuple[int, ...]


class Item(NamedTuple):
    """Something on its way: which request it belongs to, its key there, and the thing itself."""

    request: int
    key: Key
    content: Any


@dataclass(frozen=True, slots=True)
class Walk:
    """What the stages so far have sent on and, where they are last ones, predicted."""

    sent: Mapping[str, list[Item]] = field(default_factory=dict)
    results: Mapping[str, list[Item]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Arrivals:
    """What arrives at a stage where `choices` (stage: choice) do the work before it; `reason` where that fails."""

    stage: str
    choices: Mapping[str, str]
    inputs: list[Any]
    reason: str = ""


class Pool:
    """Open executors and their remembered answers, within about half of the memory limit."""

    def __init__(
        self, specs: Mapping[str, Mapping[str, Mapping[str, Any]]], provider: str, threads: int, limit_bytes: int
    ) -> None:
        self._specs = specs
        self._provider = provider
        self._threads = threads
        self._limit_bytes = limit_bytes
        self._open: dict[tuple[str, str], Executor] = {}
        self._answers: dict[tuple[str, str], dict[bytes, Any]] = {}

    def executor(self, stage: str, choice: str) -> Executor:
        """The choice's executor, opened at first use."""
        name = (stage, choice)
        if name not in self._open:
            spec = ExecutorSpec(**self._specs[stage][choice])
            self._open[name] = Executor.from_spec(spec, self._provider, self._threads)
        return self._open[name]

    def choices(self, stage: str) -> tuple[str, ...]:
        """The choices of a stage, in order."""
        return tuple(self._specs[stage])

    def answers(self, stage: str, choice: str) -> dict[bytes, Any]:
        """Remembered predictions of the choice, by content of the input."""
        return self._answers.setdefault((stage, choice), {})

    def make_room(self) -> None:
        """Let everything go where too much memory is in use; what is needed again is opened again."""
        if resident_bytes(os.getpid()) > self._limit_bytes / 2:
            for executor in self._open.values():
                executor.close()
            self._open.clear()
            self._answers.clear()


class Evaluation:
    """One run over a list of combinations."""

    def __init__(self, command: Mapping[str, Any]) -> None:
        self._order: list[str] = command["order"]
        self._parents: dict[str, list[str]] = command["parents"]
        self._batch = int(command["batch"])
        self._metrics: Sequence[Mapping[str, Any]] = command["metrics"]
        self._pool = Pool(command["specs"], command["provider"], command["threads"], command["memory_limit_bytes"])
        self._pipeline: PipelineAdapter = PipelineSpec(**command["pipeline"]).open()
        self._requests: list[Example] = self._pipeline.examples()
        self._last = [name for name in self._order if not any(name in parents for parents in self._parents.values())]

    def walk(self, combinations: Sequence[Combination], depth: int, walk: Walk) -> Iterator[Frame]:
        """Everything below one node of the tree: a frame per combination, beats in between."""
        if depth == len(self._order):
            for combination in combinations:
                yield from self._scored(combination, walk)
            return
        stage = self._order[depth]
        groups: dict[str, list[Combination]] = {}
        for combination in combinations:
            groups.setdefault(combination[stage], []).append(combination)
        for choice, group in groups.items():
            yield Frame("running", {"stage": stage, "choice": choice})
            try:
                items = self._inputs(stage, walk)
                predictions = yield from self._predictions(stage, choice, items)
                below = self._onward(stage, choice, items, predictions, walk)
            except Exception as error:
                text = error.message if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
                reason = f"{stage}={choice}: {text}"
                for combination in group:
                    yield Frame("combination", {"combination": dict(combination), "reason": reason})
                continue
            yield from self.walk(group, depth + 1, below)

    @property
    def requests(self) -> Sequence[Example]:
        """The labelled requests."""
        return self._requests

    def arrivals(self, stages: Sequence[str], most: int) -> Iterator[Frame | Arrivals]:
        """What each of `stages` is called with on `most` requests, spread evenly over all; beats in between.

        Of every stage before, the first choice does the work that runs and sends on without an error.
        """
        count = len(self._requests)
        self._requests = (
            [self._requests[index * count // most] for index in range(most)] if count > most else self._requests
        )
        walk = Walk()
        before: dict[str, dict[str, str]] = {}
        reasons: dict[str, str] = {} if count else dict.fromkeys(self._order, "the pipeline has no labelled requests")
        for stage in self._order:
            parents = self._parents[stage]
            before[stage] = {name: choice for parent in parents for name, choice in before[parent].items()}
            reason = next((reasons[name] for name in (stage, *parents) if name in reasons), "")
            items: list[Item] = []
            if not reason:
                try:
                    items = self._inputs(stage, walk)
                except InputError as error:
                    reason = error.message
            if stage in stages:
                yield Arrivals(stage, before[stage], [item.content for item in items], reason)
            if not reason and stage not in self._last:
                done = yield from self._by_first_able(stage, items, walk)
                if isinstance(done, str):
                    reason = done
                else:
                    choice, walk = done
                    before[stage] = {**before[stage], stage: choice}
            if reason:
                reasons[stage] = reason

    def _by_first_able(
        self, stage: str, items: Sequence[Item], walk: Walk
    ) -> Generator[Frame, None, tuple[str, Walk] | str]:
        """The first choice that does a stage's work, and the walk behind it; without one, why the first cannot."""
        reason = ""
        for choice in self._pool.choices(stage):
            try:
                predictions = yield from self._predictions(stage, choice, items)
                return choice, self._onward(stage, choice, items, predictions, walk)
            except Exception as error:
                text = error.message if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
                reason = reason or f"those before it fail: {stage}={choice}: {text}"
        return reason

    def _inputs(self, stage: str, walk: Walk) -> list[Item]:
        parents = self._parents[stage]
        if not parents:
            return [Item(index, (), request.input) for index, request in enumerate(self._requests)]
        if len(parents) == 1:
            return walk.sent[parents[0]]
        return joined(stage, {parent: walk.sent[parent] for parent in parents})

    def _predictions(self, stage: str, choice: str, items: Sequence[Item]) -> Generator[Frame, None, list[Any]]:
        """Beats; the return value is a prediction per item. Equal inputs are run once."""
        self._pool.make_room()
        executor = self._pool.executor(stage, choice)
        known = self._pool.answers(stage, choice)
        digests = [_digest(item.content) for item in items]
        new = {digest: item.content for digest, item in zip(digests, items, strict=True) if digest not in known}
        answers = yield from predict(executor, list(new.values()), self._batch)
        known.update(zip(new, answers, strict=True))
        return [known[digest] for digest in digests]

    def _onward(self, stage: str, choice: str, items: Sequence[Item], predictions: Sequence[Any], walk: Walk) -> Walk:
        if stage in self._last:
            found = [Item(item.request, item.key, answer) for item, answer in zip(items, predictions, strict=True)]
            return Walk(walk.sent, {**walk.results, stage: found})
        executor = self._pool.executor(stage, choice)
        sent: list[Item] = []
        for item, prediction in zip(items, predictions, strict=True):
            outputs = executor.route(item.content, prediction)
            for position, output in enumerate(outputs):
                key = item.key if len(outputs) == 1 else (*item.key, position)
                sent.append(Item(item.request, key, output))
        return Walk({**walk.sent, stage: sent}, walk.results)

    def _scored(self, combination: Combination, walk: Walk) -> Iterator[Frame]:
        data = {"combination": dict(combination), "n": len(self._requests)}
        try:
            per_request: list[dict[str, list[Any]]] = [{stage: [] for stage in walk.results} for _ in self._requests]
            for stage, items in walk.results.items():
                for item in sorted(items, key=lambda item: (item.request, item.key)):
                    per_request[item.request][stage].append(item.content)
            answers = [
                self._pipeline.join(request.input, results)
                for request, results in zip(self._requests, per_request, strict=True)
            ]
            truths = [request.truth for request in self._requests]
            scores = self._pipeline.score(answers, truths)
            found = yield from evaluated(scores, self._metrics, answers, truths, self._pipeline.context.root)
        except Exception as error:
            yield Frame("combination", {**data, "reason": f"pipeline code: {type(error).__name__}: {error}"})
            return
        kept = Answers([request.id for request in self._requests], answers, truths)
        yield outcome_frame("combination", {**data, "reason": ""}, found, kept)


def evaluate_combinations(command: Mapping[str, Any]) -> Iterator[Frame]:
    """A frame `combination` for each of `combinations`, with its scores or the reason it has none."""
    evaluation = Evaluation(command)
    yield from evaluation.walk(command["combinations"], 0, Walk())


def joined(stage: str, columns: Mapping[str, Sequence[Item]]) -> list[Item]:
    """Items of several parents, by request and key; what is left over by its order within the request.

    Raises InputError where the numbers do not match.
    """
    by_request: dict[int, dict[str, dict[Key, Any]]] = {}
    for parent, items in columns.items():
        for item in items:
            request = by_request.setdefault(item.request, {name: {} for name in columns})
            request[parent][item.key] = item.content
    calls: list[Item] = []
    for index, waiting in sorted(by_request.items()):
        shared = set.intersection(*(set(column) for column in waiting.values()))
        calls += [Item(index, key, {name: waiting[name][key] for name in columns}) for key in sorted(shared)]
        rest = {name: sorted(set(column) - shared) for name, column in waiting.items()}
        if len({len(keys) for keys in rest.values()}) > 1:
            counts = ", ".join(f"{len(keys)} from {name}" for name, keys in rest.items())
            raise InputError(f"stage {stage} joins items that do not match in number: {counts}")
        for keys in zip(*rest.values(), strict=True):
            row = {name: waiting[name][key] for name, key in zip(rest, keys, strict=True)}
            calls.append(Item(index, keys[0], row))
    return calls


def _digest(content: Any) -> bytes:
    """Hash of an input's content; a value that never comes again where it cannot be pickled."""
    try:
        return hashlib.blake2b(pickle.dumps(content, protocol=5), digest_size=16).digest()
    except Exception:
        return os.urandom(16)
