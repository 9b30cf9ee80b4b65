"""Sends requests through the pipeline: picks an option per call (or a way per request), queues it, follows its outputs,
joins.

Everything happens in callbacks of one event loop; there is no task per request. Items stay opaque blobs, with
one exception: `skip` options run no model and have no replica, so their `passthrough` and `route` run here.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate

from inferplan.runner.frames import Blob, dump, load
from inferplan.runner.pipeline import Call, Progress, Topology
from inferplan.runner.pool import Failure, OptionPool, Outcome, Waiting
from inferplan.runner.ways import Way, Ways
from inferplan.spec.errors import InputError
from inferplan.spec.plan import Choice
from inferplan.spec.stagecode import StageAdapter

Answers = Mapping[str, list[Blob]]
"""Per last stage, its predictions in order of their calls."""

Done = Callable[[Answers | Failure], None]


class Journey:
    """One request under way. `deadline_s`: until when it was promised its answer, on the router's clock."""

    __slots__ = ("deadline_s", "done", "ended", "progress", "traffic", "way")

    def __init__(
        self, traffic: str, topology: Topology, done: Done, way: Way | None = None, deadline_s: float = math.inf
    ) -> None:
        self.traffic = traffic
        self.deadline_s = deadline_s
        self.way = way
        self.progress: Progress[Blob] = Progress(topology)
        self.done = done
        self.ended = False

    def end(self, result: Answers | Failure) -> None:
        """Report the result, the first time only: a request fails once, whatever its other calls do."""
        if not self.ended:
            self.ended = True
            self.done(result)


class Routes:
    """Which option serves a call of a stage, per traffic class (or row of the plan's table of choices): drawn by the
    plan's shares."""

    def __init__(self, routes: Mapping[str, Mapping[str, Sequence[Choice]]], seed: int) -> None:
        self._random = random.Random(seed)
        self._choices = {
            (name, stage): (
                [choice.option for choice in choices],
                list(accumulate(choice.share for choice in choices)),
            )
            for name, stages in routes.items()
            for stage, choices in stages.items()
        }

    def choose(self, traffic: str, stage: str) -> str:
        """Name of the option."""
        names, upto = self._choices[traffic, stage]
        if len(names) == 1:
            return names[0]
        return self._random.choices(names, cum_weights=upto)[0]


class Router:
    """`pools` has the options with replicas, `skips` the stage code of those without. `limits_s`: within what time
    requests are promised their answer, by class or row of the plan's table of choices, where they are."""

    def __init__(
        self,
        topology: Topology,
        routes: Routes,
        skips: Mapping[str, StageAdapter],
        ways: Ways | None = None,
        limits_s: Mapping[str, float] | None = None,
    ) -> None:
        self.pools: dict[str, OptionPool[Journey]] = {}
        self.under_way = 0
        self._topology = topology
        self._routes = routes
        self._skips = skips
        self._ways = ways or Ways({}, 0)
        self._limits_s = limits_s or {}

    def submit(self, traffic: str, item: Blob, done: Done) -> None:
        """Start a request; `done` is called once with its answers, or with why there are none."""
        self.submit_all(traffic, [item], [done])

    def submit_all(self, traffic: str, items: Sequence[Blob], dones: Sequence[Done]) -> None:
        """Start requests that arrive together: they may share a batch without waiting for one another."""
        deadline_s = time.monotonic() + self._limits_s.get(traffic, math.inf)
        journeys = [
            Journey(traffic, self._topology, self._counted(done), self._ways.begin(traffic), deadline_s)
            for done in dones
        ]
        self.under_way += len(journeys)
        calls = [(journey, journey.progress.begin(item)) for journey, item in zip(journeys, items, strict=True)]
        self._make(calls)

    def deliver(self, outcomes: Sequence[Outcome[Journey]]) -> None:
        """Calls are over: make the calls that follow from them, and end the requests that are done.

        What follows from one batch becomes ready together, so it may share a batch downstream.
        """
        ready: list[tuple[Journey, Call[Blob]]] = []
        for (journey, call), outputs in outcomes:
            if not journey.ended:
                ready.extend((journey, following) for following in self._follow(journey, call, outputs))
        self._make(ready)

    def _follow(self, journey: Journey, call: Call[Blob], outputs: Sequence[Blob] | Failure) -> Sequence[Call[Blob]]:
        if isinstance(outputs, Failure):
            journey.end(outputs)
            return ()
        try:
            ready = journey.progress.complete(call.stage, call.key, outputs)
        except InputError as error:
            journey.end(Failure("code", error.message))
            return ()
        if not ready and journey.progress.outstanding == 0:
            journey.end(journey.progress.answers())
        return ready

    def _counted(self, done: Done) -> Done:
        def finish(result: Answers | Failure) -> None:
            self.under_way -= 1
            done(result)

        return finish

    def _make(self, calls: Sequence[tuple[Journey, Call[Blob]]]) -> None:
        by_option: dict[str, list[Waiting[Journey]]] = {}
        for journey, call in calls:
            way = journey.way
            option = self._routes.choose(journey.traffic, call.stage) if way is None else way[call.stage]
            by_option.setdefault(option, []).append(Waiting(journey, call))
        for option, waiting in by_option.items():
            pool = self.pools.get(option)
            if pool is not None:
                pool.put(waiting)
            else:
                self._pass_through(option, waiting)

    def _pass_through(self, option: str, calls: Sequence[Waiting[Journey]]) -> None:
        adapter = self._skips[option]
        outcomes: list[Outcome[Journey]] = []
        for waiting in calls:
            try:
                outcomes.append((waiting, self._skipped(adapter, waiting.call)))
            except Exception as error:
                outcomes.append((waiting, Failure("code", f"{option}: {type(error).__name__}: {error}")))
        self.deliver(outcomes)

    def _skipped(self, adapter: StageAdapter, call: Call[Blob]) -> list[Blob]:
        parents = self._topology.joins(call.stage)
        items = [load(part) for part in call.parts]
        item = dict(zip(parents, items, strict=True)) if parents else items[0]
        prediction = adapter.passthrough([item])[0]
        if not self._topology.following[call.stage]:
            return [dump(prediction)]
        return [dump(onward) for onward in adapter.route(item, prediction)]
