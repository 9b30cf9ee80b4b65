"""Predicted beside measured: p50 and p99 by the analytic estimate and by simulation, and those of real runs.

    python benchmarks/fidelity.py WORKLOAD PROFILE [--loads 0.3 0.6 0.85] [--runs 3] [--duration 20] [--plan FILE]

Takes a plan (without --plan, the one that `solve` finds with the workload's own promises) and scales its traffic until
its busiest replica is as loaded as asked. Then `run`s it on this machine, each time with another seed, and prints the
median over the runs, their range, and what was predicted over it. What serving costs beyond service times is in the
predictions where the profile has it (`inferplan profile` measures it last). Goal: simulation within 10 % for p50 and
20 % for p99.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from inferplan.estimators.network import Network, Stream, network_of_plan
from inferplan.estimators.queueing import Arrivals, Demand, estimate
from inferplan.estimators.simulation import Effort, simulate
from inferplan.runner.verify import run_plan
from inferplan.solvers.planner import solve
from inferplan.spec.document import load_workload
from inferplan.spec.plan import LoadedPlan, load_plan, write_plan
from inferplan.spec.profile import read_profile

LEVELS = (50.0, 99.0)


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


def simulated_s(network: Network) -> dict[tuple[str, float], float]:
    """Percentiles of every class by simulation."""
    streams = simulate(network, effort=Effort(calls=1_000_000)).streams
    p50 = {(name, 50.0): stream.latency_p50_s.value for name, stream in streams.items()}
    return p50 | {(name, 99.0): stream.latency_p99_s.value for name, stream in streams.items()}


def measured_s(loaded: LoadedPlan, factor: float, runs: int, duration_s: float) -> dict[tuple[str, float], list[float]]:
    """Percentiles of every class in real runs; NaN where a run cannot tell."""
    found: dict[tuple[str, float], list[float]] = {}
    for seed in range(runs):
        report = run_plan(loaded, duration_s, seed, factor, oversubscribe=True)
        for name, traffic in report.classes.items():
            for level, compared in ((50.0, traffic.latency_p50_s), (99.0, traffic.latency_p99_s)):
                value = compared.measured.value
                found.setdefault((name, level), []).append(float("nan") if value is None else value)
    return found


def line(load: float, name: str, level: float, analytic: float, simulated: float, measured: list[float]) -> str:
    """One row of the table."""
    middle = float(np.median(measured))
    span = f"{1e3 * min(measured):.2f} .. {1e3 * max(measured):.2f}"
    return (
        f"  {load:5.0%} {name:8} p{level:<3.0f} {1e3 * analytic:10.2f} {1e3 * simulated:10.2f} {1e3 * middle:10.2f}"
        f" {span:>20} {simulated / middle:8.2f} {analytic / middle:8.2f}"
    )


def main() -> None:
    """Print the table of one workload."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workload", type=Path)
    parser.add_argument("profile", type=Path)
    parser.add_argument("--plan", type=Path, help="a plan of this workload and profile")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="PATH=VALUE")
    parser.add_argument("--loads", type=float, nargs="+", default=[0.3, 0.6, 0.85])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--duration", type=float, default=20.0, help="seconds per run")
    options = parser.parse_args()
    profile = read_profile(options.profile)
    with tempfile.TemporaryDirectory() as scratch:
        path = options.plan
        if path is None:
            loaded = load_workload(options.workload, options.overrides)
            path = Path(scratch) / "plan.yaml"
            write_plan(solve(loaded, profile, plan_dir=path.parent), path)
        planned = load_plan(path)
        network = network_of_plan(planned.plan, planned.workload.workload, profile)
        compare(planned, network, vars(options))


def compare(loaded: LoadedPlan, network: Network, options: Mapping[str, object]) -> None:
    """Print predictions and runs at every load."""
    loads, runs, duration_s = options["loads"], int(str(options["runs"])), float(str(options["duration"]))
    assert isinstance(loads, list)
    print(f"{loaded.plan.name}: {', '.join(loaded.plan.options)}; {runs} runs of {duration_s:g} s each")
    head = f"{'analytic':>10} {'simulated':>10} {'measured':>10} {'runs':>20} {'sim/run':>8} {'ana/run':>8}"
    print(f"  {'load':>5} {'class':8} {'':4} {head}   (ms)")
    for load in loads:
        factor = load / busiest(network)
        here = scaled(network, factor)
        simulated, measured = simulated_s(here), measured_s(loaded, factor, runs, duration_s)
        for traffic in here.streams:
            for level in LEVELS:
                key = (traffic.name, level)
                analytic = analytic_s(here, traffic, level)
                print(line(load, *key, analytic, simulated[key], measured[key]), flush=True)


if __name__ == "__main__":
    main()
