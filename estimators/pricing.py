"""What a given deployment costs: machines and traffic, for plans that somebody else decided.

The calls of a stage are spread over its workers as they have capacity, as a load balancer does that knows how fast each
worker is but not where it stands; or the workers are filled in the order they are listed in, as planners do that hand
out capacity one worker after the other. Traffic between two stages goes from every worker to every other by their
shares.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from inferplan.estimators.fanout import fan_outs
from inferplan.estimators.points import Points, read_points
from inferplan.estimators.transport import Spot, Spots, payloads_of, proportional, tier_of, traffic, ways_of
from inferplan.spec.errors import InputError
from inferplan.spec.plan import Traffic
from inferplan.spec.profile import Profile
from inferplan.spec.workload import Workload


@dataclass(frozen=True, slots=True)
class Worker:
    """Replicas of a choice of a stage on a device (tier/device)."""

    stage: str
    choice: str
    device: str
    replicas: int = 1


@dataclass(frozen=True)
class Price:
    """What a deployment costs. `spare` is the least capacity over load of any stage: below 1 it cannot keep up."""

    machines_usd_per_h: float
    traffic: Traffic
    spare: float

    @property
    def total_usd_per_h(self) -> float:
        """Machines and traffic."""
        return self.machines_usd_per_h + self.traffic.cost_usd_per_h


Spread = Literal["by_capacity", "in_order"]


def price(
    workload: Workload,
    profile: Profile,
    workers: Sequence[Worker],
    machines: Mapping[str, int],
    spread: Spread = "by_capacity",
) -> Price:
    """Price a deployment that all classes share. Stages without workers must be skipped ones.

    Raises InputError where a worker is not in the profile, or calls would go where there is no link.
    """
    points, laws = read_points(workload, profile), fan_outs(workload, profile)
    rate = math.fsum(stream.rate_rps or 0.0 for stream in workload.classes.values())
    choices = {stage: next(iter(spec.choices())) for stage, spec in workload.pipeline.stages.items()}
    choices |= {worker.stage: worker.choice for worker in workers}
    loads = {stage: rate * laws.calls(stage, choices).mean for stage in choices}
    rates = {worker: _capacity_rps(points, worker) for worker in workers}
    spots = _spots(workload, loads, rates, spread)
    spare = min(
        math.fsum(own for worker, own in rates.items() if worker.stage == stage) / loads[stage]
        for stage in {worker.stage for worker in workers}
    )
    crossings = proportional(workload, laws, payloads_of(workload, profile), spots)
    devices = workload.devices()
    rent = math.fsum(devices[name].price_usd_per_h * count for name, count in sorted(machines.items()))
    return Price(rent, traffic(ways_of(workload), "proportional", crossings), spare)


def _spots(workload: Workload, loads: Mapping[str, float], rates: Mapping[Worker, float], spread: Spread) -> Spots:
    """Where every stage's calls are answered."""
    spots: dict[str, dict[str, list[Spot]]] = {name: {} for name in workload.classes}
    for stage, spec in workload.pipeline.stages.items():
        own = {worker: rate for worker, rate in rates.items() if worker.stage == stage}
        shares = _filled(own, loads[stage]) if spread == "in_order" else _by_capacity(own)
        skips = [key for key, variant in spec.variants.items() if variant.runtime == "skip"]
        if not own and not skips:
            raise InputError(f"nothing answers stage {stage}")
        for name, stream in workload.classes.items():
            home = stream.enters_at or next(iter(workload.tiers))
            placed = [Spot(worker.choice, tier_of(worker.device), share) for worker, share in shares.items()]
            spots[name][stage] = placed or [Spot(skips[0], home, 1.0)]
    return spots


def _by_capacity(rates: Mapping[Worker, float]) -> dict[Worker, float]:
    total = math.fsum(rates.values())
    return {worker: rate / total for worker, rate in rates.items()}


def _filled(rates: Mapping[Worker, float], load: float) -> dict[Worker, float]:
    """Shares where every worker is filled before the next gets any; what is too much goes to the last."""
    left = load
    shares: dict[Worker, float] = {}
    for worker, rate in rates.items():
        last = len(shares) == len(rates) - 1
        shares[worker] = (left if last else min(rate, left)) / load
        left -= shares[worker] * load
    return shares


def _capacity_rps(points: Points, worker: Worker) -> float:
    found = [
        model.capacity_per_s(model.max_batch)
        for key, model in points.models.items()
        if (key.stage, key.variant, key.device) == (worker.stage, worker.choice, worker.device)
    ]
    if not found:
        raise InputError(f"the profile has no measurement of {worker.stage}/{worker.choice} on {worker.device}")
    return worker.replicas * max(found)
