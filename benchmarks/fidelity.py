"""Predicted beside measured: p50 and p99 by the analytic estimate and by simulation, and those of real runs.

    python benchmarks/fidelity.py WORKLOAD PROFILE [--loads 0.3 0.6 0.85] [--runs 3] [--duration 10] [--plan FILE]

Takes a plan (without --plan, the one that `solve` finds with the workload's own promises) and measures the points that
it rests on again, and what serving its stages costs, in the minute before the runs, with the inputs that the plan's own
choices send: what is compared is the model, not the machine of some hours ago (`--as-profiled` takes PROFILE's own).
Then it scales the plan's traffic until the busiest replica is as loaded as asked, and `run`s it, each time with another
seed. A level of a small workload takes a minute.

Per class and percentile: the simulated value, that of every run, their median, how far apart they are (largest over
smallest: what repeats no better cannot be predicted better), and predicted over median. Simulated are runs as long as
the real ones, from empty queues and with percentiles taken alike, as a run of few requests does not show the p99 of
many: their median, and in what range nine of ten of them lie. `as sent` is that of simulations of the very requests of
each run: 300 requests of a Poisson process are some tenths more or fewer, which is much at high load. `as run` has the
same requests, service and handing over that take as long in the mean as they took in the runs, and the stalls that
router and replicas saw meanwhile: it judges the model where the machine was faster, slower or more often elsewhere than
when it was measured. Both are medians over the runs. `goal` is within 10 % at p50 and 20 % at p99: `met`; `as sent` or
`as run` where that is within it; `chance` where it is off, but every run is within nine of ten simulated ones of its
requests and its machine; else `off`.
Per load: service and handing over as the replicas saw them over what the model has for the batches that they got, and
how much of a core router and load generator took. They are one process: beyond about 0.7 they are what is measured.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from inferplan.estimators.network import Network, Stalls, Station, Stream, network_of_plan
from inferplan.estimators.points import ModelKey, read_points
from inferplan.estimators.queueing import Arrivals, Demand, estimate
from inferplan.estimators.simulation.compiled import loops
from inferplan.estimators.simulation.replication import Chance, replicate
from inferplan.profilers.arriving import Arriving
from inferplan.profilers.fingerprint import usable_cores
from inferplan.profilers.points import PointTask, measure_point
from inferplan.profilers.process import Limits
from inferplan.profilers.runtimes.executor import ExecutorSpec
from inferplan.profilers.stopping import StoppingRule
from inferplan.runner.arrivals import generator_of
from inferplan.runner.handoff import measure_handoff
from inferplan.runner.verify import LONGEST_WARMUP_S, run_plan
from inferplan.solvers.planner import solve
from inferplan.spec.choice import Choice
from inferplan.spec.document import load_workload
from inferplan.spec.plan import Estimate, LoadedPlan, load_plan, write_plan
from inferplan.spec.profile import Profile, read_profile
from inferplan.spec.report import OptionReport, RunReport
from inferplan.spec.report import Stalls as ReportedStalls
from inferplan.spec.rows import HandoffRow, Measurement, PointKey, Samples

LEVELS = {50.0: 0.10, 99.0: 0.20}
"""Percentiles, and how far off a prediction may be."""
MOST_CALLS = 3e6
FEWEST_TO_MOST = (20, 400)
"""How many runs are simulated: as many as these calls allow."""
Predictions = dict[tuple[str, float], Estimate]
"""By class and percentile."""
MOST_S = 6.0
"""Longest time to measure a point again, once there are enough samples for a median."""


@dataclass(frozen=True, slots=True)
class Fresh:
    """A profile whose rows of a plan were measured again, and the raw times behind them."""

    profile: Profile
    times: Mapping[str, Samples]

    def samples(self, key: PointKey) -> Samples | None:
        """Raw times of a point."""
        return self.times.get(key.id()) or self.profile.samples(key)


def refreshed(loaded: LoadedPlan, profile: Profile) -> Fresh:
    """The plan's points, up to the batches it uses, and the costs of serving its stages, measured now."""
    workload = loaded.workload.workload
    models = read_points(workload, profile).models
    rows: dict[str, Measurement] = {}
    times: dict[str, Samples] = {}
    handoffs: dict[str, HandoffRow] = {}
    arriving = arriving_at(loaded)
    for option in loaded.plan.options.values():
        if option.runtime == "skip":
            continue
        key = ModelKey(option.stage, option.choice, option.device, option.provider, option.threads)
        points = [point.row for point in models[key].points if point.row is not None]
        largest = min(row.key.batch for row in points if row.key.batch >= option.max_batch)
        for row in [row for row in points if row.key.batch <= largest]:
            fresh, samples = measured_again(loaded, arriving, row)
            rows[row.key.id()] = fresh
            if samples is not None:
                times[row.key.id()] = samples
        fastest = rows[min(points, key=lambda row: row.key.batch).key.id()]
        handoffs[option.stage] = measure_handoff(workload, profile, fastest, arriving.timed)
        print(f"  {handoffs[option.stage].reason or described(handoffs[option.stage])}")
    kept = [rows.get(row.key.id(), row) for row in profile.measurements]
    others = [row for row in profile.handoffs if row.stage not in handoffs]
    return Fresh(dataclasses.replace(profile, measurements=tuple(kept), handoffs=(*others, *handoffs.values())), times)


def arriving_at(loaded: LoadedPlan) -> Arriving:
    """What the plan's choices send one another."""
    workload = loaded.workload.workload
    senders = {option.stage: option.choice for option in loaded.plan.options.values()}
    settings = workload.profile.model_copy(update={"upstream": senders})
    sending = workload.model_copy(update={"profile": settings})
    limits = Limits(settings.load_timeout_s, settings.memory_limit_bytes)
    return Arriving.of(sending, "cpu", limits, lambda text: print(f"  {text}", flush=True))


def measured_again(loaded: LoadedPlan, arriving: Arriving, row: Measurement) -> tuple[Measurement, Samples | None]:
    """A point as `inferplan profile` measures it under a time budget."""
    workload, key = loaded.workload.workload, row.key
    stage = workload.pipeline.stages[key.stage]
    settings = workload.profile
    limits = Limits(settings.load_timeout_s, settings.memory_limit_bytes)
    spec = ExecutorSpec.of(workload.root, key.stage, stage, Choice.parse(row.choice))
    task = PointTask(key, spec, arriving.requests(key.stage), limits, usable_cores(), row.lineage)
    fresh, samples = measure_point(task, StoppingRule.of(settings, MOST_S), "time", lambda share: None)
    if fresh.status != "ok":
        raise SystemExit(f"{key.stage}/{row.choice}: {fresh.reason}")
    was, now = row.service.mean_s or np.nan, fresh.service.mean_s or np.nan
    print(
        f"  {key.stage}/{row.choice} batch {key.batch}: mean {1e3 * now:.4g} ms, {now / was:.2f} of the profile's;"
        f" between processes {fresh.process_spread or 1:.2f}",
        flush=True,
    )
    return fresh, samples


def described(row: HandoffRow) -> str:
    """What serving a stage costs, in a line."""
    return (
        f"{row.stage}: handing over {1e3 * (row.handoff_mean_s or 0):.3f} ms and {1e3 * (row.handoff_call_s or 0):.4f}"
        f" per further call, way in and out {1e3 * (row.entry_s or 0):.3f} ms, waking up {row.wakings_s} s,"
        f" stalls {100 * sum(json.loads(row.stalls_s)) / row.watched_s:.1f} % of the router's time,"
        f" {100 * sum(json.loads(row.replica_stalls_s)) / row.watched_s:.1f} % of a replica's"
    )


def scaled(network: Network, factor: float) -> Network:
    """The same network with all rates multiplied."""
    streams = tuple(dataclasses.replace(one, rate_rps=one.rate_rps * factor) for one in network.streams)
    return dataclasses.replace(network, streams=streams)


def busiest(network: Network) -> float:
    """Load over capacity of the most loaded station."""
    loads = network.loads_rps()
    return max(loads[name] / station.capacity_rps for name, station in network.stations.items())


def analytic_s(network: Network, traffic: Stream, level: float) -> float:
    """Sum over the stages on the longest way of the estimated sojourn of a class at a percentile (0..100), as for
    requests that call every stage once."""
    loads = network.loads_rps()
    ends: dict[str, float] = {}
    for stage in network.order:
        before = max((ends[source] for source in network.feeds[stage]), default=0.0)
        own = 0.0
        for station in (network.stations[name] for name, _ in traffic.routes[stage]):
            if station.service is not None:
                demand = Demand(
                    station.service, station.max_batch, station.max_queue_delay_s, (station.replicas,),
                    Arrivals(loads[station.name]), level / 100,
                )  # fmt: skip
                own = max(own, float(estimate([demand]).quantile_s(level / 100)[0]))
        ends[stage] = before + own
    mine = [times for (name, _), times in network.overheads_s.items() if name == traffic.name]
    overheads = [float(np.quantile(times, level / 100)) for times in mine]
    return max(ends.values()) + max(overheads, default=0.0)


@dataclass(frozen=True, slots=True)
class Sent:
    """Generators of a replication in which the requests of a run arrive when they did."""

    chance: Chance
    seed: int

    def of(self, *purpose: str) -> np.random.Generator:
        """Those of arrivals are the load generator's."""
        kind, *names = purpose
        return generator_of(self.seed, names[0]) if kind == "arrivals" else self.chance.of(*purpose)


def simulated(network: Network, duration_s: float, share: float = 1.0, seed: int | None = None) -> Predictions:
    """Percentiles of every class in runs of this length: the median run, and the range of nine of ten. `seed`: of a run
    whose arrivals they all have; `share` of the calls that may be simulated."""
    warmup_s = min(LONGEST_WARMUP_S, duration_s / 5)
    calls = sum(network.loads_rps().values()) * (warmup_s + duration_s)
    count = int(np.clip(share * MOST_CALLS / calls, *FEWEST_TO_MOST))
    fast = loops(int(calls * count))
    found: dict[tuple[str, float], list[float]] = {}
    for index in range(count):
        chance = Chance(0, index) if seed is None else Sent(Chance(0, index), seed)
        run = replicate(network, chance, duration_s, warmup_s, loops=fast)
        for name, seen in run.latencies_s.items():
            ordered = np.sort(seen)
            for level in LEVELS if len(ordered) else ():
                rank = max(math.ceil(level / 100 * len(ordered)), 1)
                found.setdefault((name, level), []).append(float(ordered[rank - 1]))
    return {
        key: Estimate(value=float(np.median(values)), lower=float(low), upper=float(high))
        for key, values in found.items()
        for low, high in [np.quantile(values, [0.05, 0.95])]
    }


def measured_s(reports: Sequence[RunReport], name: str, level: float) -> list[float]:
    """A percentile of a class in every run; NaN where a run cannot tell."""
    classes = [report.classes[name] for report in reports]
    found = [(one.latency_p50_s if level == 50.0 else one.latency_p99_s).measured.value for one in classes]
    return [float("nan") if value is None else value for value in found]


def line(title: str, level: float, analytic: float, estimate: Estimate, sent: Ratios, ran: Ratios) -> str:
    """One row of the table."""
    runs = sent.runs
    middle, value = float(np.median(runs)), estimate.value
    low, high = estimate.lower or value, estimate.upper or value
    goal = "off"
    if abs(value / middle - 1) <= LEVELS[level]:
        goal = "met"
    elif abs(sent.median - 1) <= LEVELS[level]:
        goal = "as sent"
    elif abs(ran.median - 1) <= LEVELS[level]:
        goal = "as run"
    elif ran.within:
        goal = "chance"
    interval = f"[{1e3 * low:.3g}, {1e3 * high:.3g}]"
    each = " ".join(f"{1e3 * run:.4g}" for run in runs)
    ratios = f"{value / middle:8.2f} {sent.median:7.2f} {ran.median:7.2f} {analytic / middle:8.2f}"
    return (
        f"  {title} p{level:<3.0f} {1e3 * analytic:9.4g} {1e3 * value:9.4g} {interval:>16} {each:>26}"
        f" {1e3 * middle:9.4g} {max(runs) / min(runs):6.2f} {ratios} {goal}"
    )


@dataclass(frozen=True, slots=True)
class Ratios:
    """Runs (s), and for each what was predicted."""

    runs: Sequence[float]
    predicted: Sequence[Estimate]

    @property
    def median(self) -> float:
        """Predicted over measured."""
        return float(np.median([one.value / run for run, one in zip(self.runs, self.predicted, strict=True)]))

    @property
    def within(self) -> bool:
        """Whether every run is within the range of its simulations."""
        pairs = zip(self.runs, self.predicted, strict=True)
        return all((one.lower or 0) <= run <= (one.upper or math.inf) for run, one in pairs)


def handed_s(option: OptionReport) -> float:
    """What replicas were taken by a batch beyond pre-processing, inference and post-processing."""
    busy = (option.service_per_call_s.measured.value or 0.0) * (option.batch_mean.measured.value or 0.0)
    return (option.transport_per_batch_s or 0.0) + busy - (option.service_per_batch_s or 0.0)


@dataclass(frozen=True, slots=True)
class Seen:
    """What a station's replicas needed per batch in the runs, and the model for batches of the same sizes, seconds."""

    served_s: float
    modelled_s: float
    handed_s: float
    handed_modelled_s: float


def seen(station: Station, reports: Sequence[RunReport]) -> Seen | None:
    """Of all runs together; None of a station that serves nothing."""
    options = [report.options[station.name] for report in reports if station.name in report.options]
    sizes = [(size, count) for option in options for size, count in option.batch_sizes.items()]
    batches = sum(count for _, count in sizes)
    model = station.service
    if model is None or not batches:
        return None
    handed = sum(count * model.handed_s(size) for size, count in sizes) / batches
    modelled = sum(count * model.mean_s(size) for size, count in sizes) / batches - handed
    shares = [sum(option.batch_sizes.values()) / batches for option in options]
    served = sum(share * (option.service_per_batch_s or 0) for share, option in zip(shares, options, strict=True))
    moved = sum(share * handed_s(option) for share, option in zip(shares, options, strict=True))
    return Seen(served, modelled, moved, handed)


def as_run(network: Network, reports: Sequence[RunReport]) -> Network:
    """The network with service and handing over as fast in the mean as in the runs, and their stalls: what the machine
    did between measuring and running is out of it."""
    stations = {}
    router = together([report.router_stalls for report in reports])
    for name, station in network.stations.items():
        found, model = seen(station, reports), station.service
        if found is not None and model is not None:
            handed = found.handed_s / found.handed_modelled_s if found.handed_modelled_s else 1.0
            model = dataclasses.replace(
                model,
                slowdown=model.slowdown * found.served_s / found.modelled_s,
                handoff=tuple(time * handed for time in model.handoff),
                handoff_call_s=model.handoff_call_s * handed,
                wakings=(),  # the runs' means have it in them
            )
            stood = together([report.options[name].stalls for report in reports])
            if stood is not None:
                model = dataclasses.replace(model, replica_stalls=stood.lengths_s, watched_s=stood.watched_s)
        stations[name] = dataclasses.replace(station, service=model)
    stalls = network.stalls if router is None else router.drawn
    return dataclasses.replace(network, stations=stations, stalls=stalls)


@dataclass(frozen=True, slots=True)
class Stood:
    """Stalls of all runs together: for how long somebody watched, and all lengths, or as many that are like them."""

    watched_s: float
    lengths_s: tuple[float, ...]

    @property
    def drawn(self) -> Stalls | None:
        """As the simulator has them."""
        return Stalls(len(self.lengths_s) / self.watched_s, self.lengths_s) if self.lengths_s else None

    def __str__(self) -> str:
        count, share = len(self.lengths_s) / self.watched_s, sum(self.lengths_s) / self.watched_s
        return f"{100 * share:.2f} % of the time ({count:.1f}/s)"


def together(reports: Sequence[ReportedStalls | None]) -> Stood | None:
    """None where a run did not watch."""
    found = [one for one in reports if one is not None]
    if len(found) < len(reports) or not found:
        return None
    # Of very many stalls a report has quantiles: each stands for several.
    each = [one.per_s * one.watched_s / max(len(one.lengths_s), 1) for one in found]
    lengths = [np.repeat(one.lengths_s, round(times)) for one, times in zip(found, each, strict=True)]
    return Stood(math.fsum(one.watched_s for one in found), tuple(np.concatenate(lengths).tolist()))


def causes(network: Network, reports: Sequence[RunReport]) -> str:
    """What replicas needed over what the model has for the batches that they got, and who took the router's core."""
    told = []
    for station in network.stations.values():
        found = seen(station, reports)
        if found is not None:
            told.append(
                f"{station.stage}: service {1e3 * found.served_s:.4g} ms a batch,"
                f" {found.served_s / found.modelled_s:.2f} of the model's, handing over {1e3 * found.handed_s:.3f} ms,"
                f" {1e3 * found.handed_modelled_s:.3f} in the model"
            )
            stood = together([report.options[station.name].stalls for report in reports])
            told[-1] += f"; left standing {stood}" if stood else ""
    router = np.median([report.router_cores for report in reports])
    late = [one.lateness.p99_s for report in reports for one in report.classes.values()]
    told.append(f"router and generator {router:.2f} of a core, late by {1e3 * float(np.median(late)):.2f} ms at p99")
    stood = together([report.router_stalls for report in reports])
    told[-1] += f"; left standing {stood}" if stood else ""
    return "\n".join(f"        {text}" for text in told)


def compare(loaded: LoadedPlan, network: Network, options: argparse.Namespace) -> None:
    """Print predictions and runs at every load."""
    print(f"{loaded.plan.name}: {', '.join(loaded.plan.options)}; {options.runs} runs of {options.duration:g} s each")
    head = (
        f"{'analytic':>9} {'simulated':>9} {'nine of ten':>16} {'runs':>26} {'median':>9} {'spread':>6} {'sim/run':>8}"
    )
    print(f"  {'load':>5} {'class':8} {'':4} {head} {'as sent':>7} {'as run':>7} {'ana/run':>8} goal   (ms)")
    for load in options.loads:
        factor = load / busiest(network)
        here = scaled(network, factor)
        predicted = simulated(here, options.duration)
        seeds = range(options.runs)
        reports = [run_plan(loaded, options.duration, seed, factor, oversubscribe=True) for seed in seeds]
        share, ran = 1 / len(reports), as_run(here, reports)
        as_sent = [simulated(here, options.duration, share, seed) for seed in seeds]
        as_it_ran = [simulated(ran, options.duration, share, seed) for seed in seeds]
        for traffic in here.streams:
            for level in LEVELS:
                key, runs = (traffic.name, level), measured_s(reports, traffic.name, level)
                sent, whole = ([one[key] for one in found] for found in (as_sent, as_it_ran))
                analytic, title = analytic_s(here, traffic, level), f"{load:5.0%} {traffic.name:8}"
                row = line(title, level, analytic, predicted[key], Ratios(runs, sent), Ratios(runs, whole))
                print(row, flush=True)
        print(causes(here, reports), flush=True)


def main() -> None:
    """Print the table of one workload."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workload", type=Path)
    parser.add_argument("profile", type=Path)
    parser.add_argument("--plan", type=Path, help="a plan of this workload and profile")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="PATH=VALUE")
    parser.add_argument("--loads", type=float, nargs="+", default=[0.3, 0.6, 0.85])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--duration", type=float, default=10.0, help="seconds per run")
    parser.add_argument("--as-profiled", action="store_true", help="measure no point again")
    options = parser.parse_args()
    profile = read_profile(options.profile)
    with tempfile.TemporaryDirectory() as scratch:
        path = options.plan
        if path is None:
            loaded = load_workload(options.workload, options.overrides)
            path = Path(scratch) / "plan.yaml"
            write_plan(solve(loaded, profile, plan_dir=path.parent), path)
        planned = load_plan(path)
        fresh = Fresh(profile, {}) if options.as_profiled else refreshed(planned, profile)
        network = network_of_plan(planned.plan, planned.workload.workload, fresh.profile, fresh.samples)
        compare(planned, network, options)


if __name__ == "__main__":
    main()
