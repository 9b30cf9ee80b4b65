"""Running a plan on this machine and judging it: predicted beside measured.

`run_plan` starts the replicas, drives them open-loop with every class's arrival process, scores the answers and
gives a verdict per class. See docs/runner.md for what each number means.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from time import process_time
from typing import Literal

from inferplan.runner import eventloop, judging
from inferplan.runner.arrivals import make_schedule
from inferplan.runner.cores import Placing, available_cores, place_replicas
from inferplan.runner.events import OnEvent, ignore
from inferplan.runner.fleet import Fleet
from inferplan.runner.loadgen import LoadGenerator, Windows
from inferplan.runner.pool import PoolStats
from inferplan.runner.requests import Requests
from inferplan.runner.stalls import Watched
from inferplan.runner.warmup import warm_up
from inferplan.spec.arrivals import Source, source_of
from inferplan.spec.errors import InputError
from inferplan.spec.plan import LoadedPlan
from inferplan.spec.report import RunReport

DRAIN_S = 10.0
LONGEST_WARMUP_S = 5.0


@dataclass(frozen=True, slots=True)
class RunSettings:
    """How to run. `warmup_s` None takes a fifth of the duration, at most 5 s; `start_limit_s` None takes the
    workload's `profile.load_timeout_s`."""

    duration_s: float
    seed: int
    rate_scale: float
    warmup_s: float
    drain_s: float
    restart: bool
    start_limit_s: float


def run_plan(
    loaded: LoadedPlan,
    duration_s: float = 30.0,
    seed: int = 0,
    rate_scale: float = 1.0,
    *,
    warmup_s: float | None = None,
    drain_s: float = DRAIN_S,
    oversubscribe: bool = False,
    restart: bool = False,
    start_limit_s: float | None = None,
    on_event: OnEvent = ignore,
) -> RunReport:
    """Run a plan's replicas on this machine under its traffic, and report.

    Replicas serve every batch size a few times, for `warmup_s` at most (default: a fifth of the duration, at most 5 s);
    then requests are sent for `warmup_s` and `duration_s`, and those of the warm-up are not counted. Then at most
    `drain_s` is given to requests under way. `rate_scale` multiplies every class's rate. `restart` starts a replica
    again that ended by itself. Raises InputError for a plan that needs more cores than there are (unless
    `oversubscribe`), for replicas that cannot start, and for workloads without labelled requests. Ctrl-C ends every
    process and raises KeyboardInterrupt.
    """
    for name, value in (("duration_s", duration_s), ("rate_scale", rate_scale)):
        if not (math.isfinite(value) and value > 0):
            raise InputError(f"{name} must be a positive number, got {value:g}")
    workload = loaded.workload.workload
    settings = RunSettings(
        duration_s,
        seed,
        rate_scale,
        min(LONGEST_WARMUP_S, duration_s / 5) if warmup_s is None else warmup_s,
        drain_s,
        restart,
        workload.profile.load_timeout_s if start_limit_s is None else start_limit_s,
    )
    placing = place_replicas(loaded, available_cores(), oversubscribe=oversubscribe)
    requests = Requests(loaded, seed)
    with _quiet_collector():
        return eventloop.run(lambda: _run(loaded, settings, placing, requests, on_event))


async def _run(
    loaded: LoadedPlan, settings: RunSettings, placing: Placing, requests: Requests, on_event: OnEvent
) -> RunReport:
    windows = Windows(settings.warmup_s, settings.duration_s, settings.drain_s)
    sources = _sources(loaded, settings)
    # Traces and days begin when measuring does; the warm-up is the end of the pass before.
    sizes = {name: traffic.job_requests or 1 for name, traffic in loaded.plan.classes.items()}
    schedule = make_schedule(sources, settings.warmup_s + settings.duration_s, settings.seed, -settings.warmup_s, sizes)
    measured: dict[str, PoolStats] = {}
    fleet = Fleet(
        loaded,
        placing,
        seed=settings.seed,
        restart=settings.restart,
        start_limit_s=settings.start_limit_s,
        on_event=on_event,
    )
    async with fleet:
        pools = fleet.router.pools
        clock: dict[str, float] = {}
        watched: dict[str, Watched] = {}

        def on_window(edge: Literal["start", "end"]) -> None:
            clock[edge] = process_time() - eventloop.polled_s()
            watched[edge] = eventloop.watch()
            for name, pool in pools.items():
                if edge == "end":
                    measured[name] = replace(pool.stats)
                pool.stats = PoolStats()

        generator = LoadGenerator(
            schedule, windows, requests.blobs(), fleet.router.submit_all, requests.finish, on_event
        )
        await warm_up(fleet.router, loaded.plan, requests.blobs(), settings.warmup_s)
        await generator.run(on_window)
        crashes = {name: list(pool.crashes) for name, pool in pools.items()}
    loads = {name: generator.load(stream) for stream, name in enumerate(schedule.names)}
    router_cores = (clock["end"] - clock["start"]) / settings.duration_s
    return judging.judge(
        loaded, settings, placing.notes, requests, loads, measured, crashes, router_cores, watched["start"]
    )


def _sources(loaded: LoadedPlan, settings: RunSettings) -> dict[str, Source]:
    """What makes each class's requests arrive; a day that is longer than the run goes by in the run."""
    found = {}
    for name in loaded.plan.classes:
        source = source_of(loaded.workload.workload, name).scaled(settings.rate_scale)
        size = loaded.plan.classes[name].job_requests or 1
        if size > 1 and source.trace is None:
            source = source.scaled(1 / size)
        long = source.cycle_s is not None and source.cycle_s > settings.duration_s
        found[name] = source.with_day(settings.duration_s) if long else source
    return found


@contextmanager
def _quiet_collector() -> Iterator[None]:
    """Leave what exists already (modules, examples) out of garbage collections while requests are timed."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
