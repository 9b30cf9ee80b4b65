"""How fast the simulator is: `python benchmarks/simulation_speed.py [PLAN] [--calls 2000000]`.

Needs the `benchmarks` extra: simpy, and numba for the compiled loops. Three networks: one server (M/M/1), a
chain of three stages with several replicas each, and a pipeline like that of sample_workloads/ocr: detect, about 12
lines a page, orient, read in batches. Each is simulated by the simulator with and without compiled loops, by a loop
over a heap of events in plain Python, and by simpy, one process per replica. A request-stage is one call served at one
station; the simulator runs ten replications, as certification does. Times are processor time of one core, the best of
three runs after a warm-up (simpy: one run); the other two simulate fewer requests. Mean latencies are shown so that it
can be seen that all simulate the same thing. A batch is few events to simpy, so batches narrow the gap.

Then the time that `simulate` takes to certify a plan at p99: PLAN if one is given, at its own limits and at such as are
hard to decide, else the pipeline like ocr's at several limits, from easy to the very percentile. It is the whole call,
the intervals included. For ocr's own plan: `inferplan solve sample_workloads/ocr/workload.yaml` after a profile of it,
then `python benchmarks/simulation_speed.py ocr.plan.yaml`.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import time
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import simpy

from inferplan.estimators.fanout import ONE, FanOutLaw, FanOuts
from inferplan.estimators.network import Network, Station, Stream, network_of_plan
from inferplan.estimators.service import ServiceModel, ServicePoint
from inferplan.estimators.simulation import Chance, Effort, replicate, simulate
from inferplan.estimators.simulation.compiled import INTERPRETED, Loops, compiled
from inferplan.spec.workload import Arrivals

REPLICATIONS = 10
SEARCH, FINAL = Effort(1_000_000), Effort(6_000_000)
LINES = FanOutLaw(tuple(range(4, 21)), tuple(float(w) for w in np.full(17, 1 / 17)))


def station(name: str, times: list[tuple[int, float]], replicas: int, cv: float) -> Station:
    """A station whose service times follow a gamma law of this variation, at every batch size."""
    points = tuple(ServicePoint(batch, mean, cv * mean) for batch, mean in times)
    return Station(name, name, name, replicas, times[-1][0], 0.0, ServiceModel(points))


def chain(stations: list[Station], laws: list[FanOutLaw], rate_rps: float, limit_s: float) -> Network:
    """One station per stage, one after the other."""
    order = tuple(s.name for s in stations)
    edges = list(itertools.pairwise(order))
    lineages = {stage: tuple(edges[:index]) for index, stage in enumerate(order)}
    feeds = {stage: (order[index - 1],) if index else () for index, stage in enumerate(order)}
    routes = {stage: ((stage, 1.0),) for stage in order}
    stream = Stream("c", rate_rps, Arrivals(), 99.0, limit_s, routes)
    fan_outs = FanOuts(dict(zip(edges, laws, strict=True)), {}, lineages)
    return Network(order, feeds, fan_outs, {s.name: s for s in stations}, (stream,))


def ocr_like(limit_s: float) -> Network:
    """Service times as README of sample_workloads/ocr has them for v4-480, v2, v6s-int8-320; three pages a second."""
    stations = [
        station("detect", [(1, 0.129), (4, 0.637)], 1, 0.1),
        station("orient", [(1, 0.0023), (4, 0.0088)], 1, 0.15),
        station("read", [(1, 0.037), (4, 0.14), (8, 0.27)], 4, 0.1),
    ]
    stations[0] = replace(stations[0], max_batch=1, replicas=2)
    return chain(stations, [LINES, ONE], 6.0, limit_s)


def networks() -> dict[str, Network]:
    """What is simulated."""
    return {
        "one server": chain([station("s", [(1, 0.01)], 1, 1.0)], [], 70.0, 1.0),
        "three stages": chain(
            [
                station("a", [(1, 0.01)], 2, 0.3),
                station("b", [(1, 0.01), (2, 0.016), (4, 0.026), (8, 0.045)], 2, 0.2),
                station("c", [(1, 0.004)], 1, 0.5),
            ],
            [ONE, ONE],
            150.0,
            1.0,
        ),
        "like ocr": ocr_like(3.0),
    }


@dataclass(frozen=True)
class Run:
    """Request-stages served, the mean latency, and the processor time it took."""

    served: int
    latency_s: float
    cpu_s: float

    @property
    def per_s(self) -> float:
        """Request-stages per second."""
        return self.served / self.cpu_s


def timed(function: Callable[[], tuple[int, float]], runs: int = 3) -> Run:
    """The best of some runs."""
    best: Run | None = None
    for _ in range(runs):
        start = time.process_time()
        served, latency = function()
        spent = time.process_time() - start
        if best is None or spent < best.cpu_s:
            best = Run(served, latency, spent)
    assert best is not None
    return best


def ours(network: Network, calls: int, loops: Loops) -> tuple[int, float]:
    """Ten replications by the simulator, of so many request-stages in all. Of each the latencies are kept, as
    certification does: memory for everything that all of them did takes longer to get than to fill."""
    horizon_s = calls / REPLICATIONS / sum(network.loads_rps().values())
    served, latencies = 0, []
    for index in range(REPLICATIONS):
        run = replicate(network, Chance(1, index), horizon_s, 0.0, loops=loops)
        served += sum(len(times) for times, _ in run.served.values())
        latencies.append(run.latencies_s["c"])
    return served, float(np.concatenate(latencies).mean())


class Draws:
    """Random numbers drawn in blocks: neither of the others should be slow for asking numpy one at a time."""

    def __init__(self, network: Network) -> None:
        self.rng = np.random.default_rng(1)
        self.pools = {
            (name, size): s.service.draws_s(size).tolist()
            for name, s in network.stations.items()
            if s.service is not None
            for size in range(1, s.max_batch + 1)
        }
        self.laws = dict(network.fan_outs.declared)
        self.uniform = self._blocks(lambda n: self.rng.random(n))
        self.gap = self._blocks(lambda n: self.rng.exponential(1 / network.streams[0].rate_rps, n))
        self.counts = {e: self._blocks(lambda n, law=law: law.draw(self.rng, n)) for e, law in self.laws.items()}

    @staticmethod
    def _blocks(draw: Callable[[int], Any]) -> Callable[[], Any]:
        def numbers() -> Generator[Any, None, None]:
            while True:
                yield from draw(4096).tolist()

        return numbers().__next__

    def service_s(self, name: str, size: int) -> float:
        """A service time of a batch."""
        pool = self.pools[name, size]
        return pool[int(self.uniform() * len(pool))]


def by_simpy(network: Network, requests: int) -> tuple[int, float]:
    """The same in simpy: a store of waiting calls per station and a process per replica."""
    env, draws = simpy.Environment(), Draws(network)
    queues = {name: simpy.Store(env) for name in network.order}
    after = dict(itertools.pairwise(network.order))
    open_calls: dict[int, int] = {}
    begun: dict[int, float] = {}
    served, total = 0, 0.0

    def replica(stage: str) -> Generator[Any, Any, None]:
        nonlocal served, total
        queue, limit = queues[stage], network.stations[stage].max_batch
        following = after.get(stage)
        while True:
            batch = [(yield queue.get())]
            while len(batch) < limit and queue.items:
                batch.append(queue.items.pop(0))
            yield env.timeout(draws.service_s(stage, len(batch)))
            served += len(batch)
            for request in batch:
                calls = draws.counts[stage, following]() if following is not None else 0
                open_calls[request] += calls - 1
                for _ in range(calls):
                    queues[following].put(request)
                if open_calls[request] == 0:
                    total += env.now - begun.pop(request)
                    del open_calls[request]

    def traffic() -> Generator[Any, Any, None]:
        first = queues[network.order[0]]
        for request in range(requests):
            yield env.timeout(draws.gap())
            begun[request], open_calls[request] = env.now, 1
            first.put(request)

    for stage in network.order:
        for _ in range(network.stations[stage].replicas):
            env.process(replica(stage))
    env.process(traffic())
    env.run()
    return served, total / requests


def by_heap(network: Network, requests: int) -> tuple[int, float]:
    """The same with a heap of events in plain Python."""
    draws = Draws(network)
    order = network.order
    limits = [network.stations[stage].max_batch for stage in order]
    free = [network.stations[stage].replicas for stage in order]
    queues: list[deque[int]] = [deque() for _ in order]
    events: list[tuple[float, int, int, list[int]]] = []
    begun, open_calls = [0.0] * requests, [1] * requests
    served, total, number, arrived = 0, 0.0, 0, 0
    heapq.heappush(events, (draws.gap(), 0, -1, []))
    while events:
        now, _, stage, batch = heapq.heappop(events)
        touched = {0} if stage < 0 else {stage}
        if stage < 0:
            begun[arrived] = now
            queues[0].append(arrived)
            arrived += 1
            if arrived < requests:
                number += 1
                heapq.heappush(events, (now + draws.gap(), number, -1, []))
        else:
            free[stage] += 1
            served += len(batch)
            for request in batch:
                if stage + 1 < len(order):
                    calls = draws.counts[order[stage], order[stage + 1]]()
                    open_calls[request] += calls - 1
                    queues[stage + 1].extend([request] * calls)
                    touched.add(stage + 1)
                else:
                    open_calls[request] -= 1
                if open_calls[request] == 0:
                    total += now - begun[request]
        for place in touched:
            queue = queues[place]
            while free[place] and queue:
                taken = [queue.popleft() for _ in range(min(limits[place], len(queue)))]
                free[place] -= 1
                number += 1
                end = now + draws.service_s(order[place], len(taken))
                heapq.heappush(events, (end, number, place, taken))
    return served, total / requests


def speeds(calls: int) -> None:
    """Print the table of request-stages per second."""
    print(f"{'network':14} {'simulated by':22} {'request-stages':>14} {'seconds':>8} {'per second':>12}"
          f" {'x simpy':>8} {'mean latency':>13}")  # fmt: skip
    fast = compiled()
    for name, network in networks().items():
        rate = sum(network.loads_rps().values())
        few = int(calls / 20 / rate * network.streams[0].rate_rps)
        ways: dict[str, Run] = {
            "simpy": timed(lambda n=network, f=few: by_simpy(n, f), 1),
            "heap, plain Python": timed(lambda n=network, f=few: by_heap(n, f)),
        }
        for title, loops in (("inferplan, interpreted", INTERPRETED), ("inferplan, compiled", fast)):
            ours(network, calls // 50, loops)
            ways[title] = timed(lambda n=network, w=loops: ours(n, calls, w))
        for title, run in ways.items():
            print(f"{name:14} {title:22} {run.served:14,} {run.cpu_s:8.3f} {run.per_s:12,.0f}"
                  f" {run.per_s / ways['simpy'].per_s:8.1f} {1000 * run.latency_s:10.2f} ms")  # fmt: skip


def certified(network: Network, title: str, factors: tuple[float, ...] = ()) -> None:
    """Print how long certification takes in a process that has loaded all it needs, the median of three times; also
    with limits at so many times the simulated percentiles."""
    seen = simulate(network, 0, FINAL).streams
    variants = [(title, network)]
    for factor in factors:
        tails = {name: stream.latency_slo_s for name, stream in seen.items()}
        limits = {name: factor * tail.value for name, tail in tails.items() if tail is not None}
        streams = tuple(replace(s, limit_s=limits.get(s.name)) for s in network.streams)
        variants.append((f"limits {factor:g} x simulated", replace(network, streams=streams)))
    for name, variant in variants:
        for effort in (SEARCH, FINAL):
            walls = []
            for _ in range(3):
                start = time.perf_counter()
                result = simulate(variant, 0, effort)
                walls.append(time.perf_counter() - start)
            requests = sum(stream.requests for stream in result.streams.values())
            at_slo = [s.latency_slo_s for s in result.streams.values() if s.latency_slo_s is not None]
            tail = max((estimate.value for estimate in at_slo), default=float("nan"))
            print(f"{name:22} {effort.calls:13,} {result.replications:13} {requests:9,} {result.verdict:>10}"
                  f" {tail:9.3f} s {sorted(walls)[1]:8.3f} s")  # fmt: skip


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("plan", nargs="?", type=Path, help="a plan to certify, instead of one like ocr's")
    parser.add_argument("--calls", type=int, default=2_000_000, help="request-stages that the simulator runs")
    parser.add_argument("--profile", type=Path, help="profile of the plan [default: NAME.profile beside its workload]")
    arguments = parser.parse_args()
    speeds(arguments.calls)
    print()
    print(f"{'certify':22} {'calls at most':>13} {'replications':>13} {'requests':>9} {'verdict':>10} {'p99':>11}"
          f" {'wall':>10}")  # fmt: skip
    if arguments.plan is not None:
        from inferplan.spec.plan import load_plan
        from inferplan.spec.profile import read_profile

        loaded = load_plan(arguments.plan)
        workload = loaded.workload.workload
        folder = arguments.profile or loaded.workload.path.parent / f"{workload.name}.profile"
        network = network_of_plan(loaded.plan, workload, read_profile(folder))
        certified(network, arguments.plan.name[:22], (1.1, 1.03, 1.0))
        return
    for limit in (3.0, 1.2, 1.0, 0.985):
        certified(ocr_like(limit), f"like ocr, p99 <= {limit:g} s")


if __name__ == "__main__":
    main()
