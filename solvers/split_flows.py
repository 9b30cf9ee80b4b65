"""Flows between tiers of classes that are spread: transports, and the fences around products of shares.

What the rows say stands in `split_program`; how the fences become exact, in `split_search`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from inferplan.estimators.transport import Leg
from inferplan.solvers.split_instance import SplitInstance

NOTHING = 1e-7
"""Shares up to this are none."""

Knob = tuple[int, str, str]
"""(class, stage, tier): a share that the search narrows down."""
Box = Mapping[Knob, tuple[float, float]]


class SplitFlows:
    """Rows and variables of flows. `tolls`: what they cost, scaled; `knobs`: of every leg whose flows are products of
    two shares that are free, the stage whose shares are narrowed down. `x`: shares by (class, stage, choice, tier)."""

    def __init__(
        self, instance: SplitInstance, model: Any, x: Mapping[tuple[int, str, str, str], Any], scale: float
    ) -> None:
        import mip

        self.instance = instance
        self.model = model
        self._x = x
        self.scale = scale
        self._f: dict[tuple[int, Leg, str, str, str], Any] = {}
        self._hard: list[tuple[int, Leg]] = []
        """Legs whose flows are products of two shares that are both free."""
        for k in range(len(instance.problem.classes)):
            for leg in instance.legs:
                self._add_leg(k, leg)
                free = leg.source and leg.target and not instance.passed(leg.target)
                if instance.proportional and free and self._matters(k, leg):
                    self._hard.append((k, leg))
        loads: dict[tuple[str, str], list[Any]] = {}
        for (k, leg, choice, t, u), flow in self._f.items():
            loads.setdefault((t, u), []).append(self._bytes_per_s(k, leg, choice) * flow)
        carried = {pair: mip.xsum(terms) for pair, terms in loads.items() if pair[0] != pair[1]}
        for pair, load in carried.items():
            width = instance.ways.bandwidth(*pair)
            if width is not None:
                self.model += load * (instance.level / width) <= 1
        self.tolls = mip.xsum(instance.ways.usd_per_h(*pair, 1.0) / self.scale * load for pair, load in carried.items())
        self._support = self._add_supports()
        self.knobs = self._choose_knobs()

    def _add_leg(self, k: int, leg: Leg) -> None:
        """Flows of a leg, as a transport from where its calls are made to where they are answered."""
        import mip

        instance, model = self.instance, self.model
        groups = self._groups(leg)
        home = instance.homes[k]
        into: dict[str, list[Any]] = {}
        for group, members in groups.items():
            for t in self._tiers(k, leg.source):
                out = []
                for u in self._tiers(k, leg.target):
                    stays = leg.source and leg.target and instance.passed(leg.target)
                    if instance.ways.open(t, u) and (t == u or not stays):
                        flow = self._f[k, leg, group, t, u] = model.add_var(lb=0, ub=1)
                        out.append(flow)
                        into.setdefault(u, []).append(flow)
                made = mip.xsum(self._x[k, leg.source, v, t] for v in members if (k, leg.source, v, t) in self._x)
                model += mip.xsum(out) == (made if leg.source else float(t == home))
        for u in self._tiers(k, leg.target):
            answered = self._share(k, leg.target, u) if leg.target else float(u == home)
            model += mip.xsum(into.get(u, [])) == answered

    def _tiers(self, k: int, stage: str) -> tuple[str, ...]:
        """Tiers where a class's calls of a stage can be; requests are where they come from."""
        if not stage:
            return (self.instance.homes[k],)
        places = {tier for choice in self.instance.choices(stage) for tier in self.instance.places(k, stage, choice)}
        return tuple(sorted(places))

    def _groups(self, leg: Leg) -> dict[str, list[str]]:
        """Choices of a leg's sender that send as much as one another; named by the first of them."""
        if not leg.source:
            return {"": []}
        groups: dict[float, list[str]] = {}
        for choice in self.instance.choices(leg.source):
            groups.setdefault(self.instance.payloads.size_bytes(leg, choice), []).append(choice)
        return {members[0]: members for members in groups.values()}

    def _bytes_per_s(self, k: int, leg: Leg, choice: str) -> float:
        return self.instance.leg_rps(k, leg) * self.instance.payloads.size_bytes(leg, choice)

    def _matters(self, k: int, leg: Leg) -> bool:
        """Whether it is of any consequence between which tiers a leg's calls go."""
        ways = self.instance.ways
        sizes = [self._bytes_per_s(k, leg, choice) for choice in self.instance.choices(leg.source)]
        pairs = [(t, u) for t in self._tiers(k, leg.source) for u in self._tiers(k, leg.target) if t != u]
        for t, u in pairs:
            if not ways.open(t, u):
                return True
            if max(sizes) > 0 and (ways.usd_per_h(t, u, 1.0) > 0 or ways.bandwidth(t, u) is not None):
                return True
        return False

    def _share(self, k: int, stage: str, tier: str) -> Any:
        import mip

        mine = [self._x.get((k, stage, choice, tier)) for choice in self.instance.choices(stage)]
        return mip.xsum(x for x in mine if x is not None)

    def _add_supports(self) -> dict[Knob, Any]:
        """Where there is no link from t to u, calls are not answered in both: no sender knows where others are."""
        import mip

        used: dict[Knob, Any] = {}

        def support(knob: Knob) -> Any:
            if knob not in used:
                used[knob] = self.model.add_var(var_type=mip.BINARY)
                self.model += self._share(*knob) - used[knob] <= 0
            return used[knob]

        for k, leg in self._hard:
            for t in self._tiers(k, leg.source):
                for u in self._tiers(k, leg.target):
                    if not self.instance.ways.open(t, u):
                        self.model += support((k, leg.source, t)) + support((k, leg.target, u)) <= 1
        return used

    def _choose_knobs(self) -> dict[tuple[int, Leg], str]:
        """For every hard leg the stage whose shares the search narrows down: few stages that touch all legs."""
        open_legs = set(self._hard)
        knobs: dict[tuple[int, Leg], str] = {}
        while open_legs:
            touching: dict[tuple[int, str], int] = {}
            for k, leg in open_legs:
                for stage in (leg.source, leg.target):
                    touching[k, stage] = touching.get((k, stage), 0) + 1
            k, stage = min(touching, key=lambda key: (-touching[key], key))
            for leg in [leg for owner, leg in open_legs if owner == k and stage in (leg.source, leg.target)]:
                knobs[k, leg] = stage
                open_legs.remove((k, leg))
        return knobs

    def box_rows(self, box: Box) -> Iterable[Any]:
        """Envelopes of the products within bounds of one factor: l S <= F <= u S."""
        import mip

        for (k, stage, tier), (low, high) in box.items():
            share = self._share(k, stage, tier)
            if low > 0:
                yield share >= low
            if high < 1:
                yield share <= high
        for (k, leg), stage in self.knobs.items():
            sent: dict[tuple[str, str], list[Any]] = {}
            for (owner, other, group, t, u), flow in self._f.items():
                if (owner, other) == (k, leg):
                    # The factor that is not narrowed down, as a sum of flows over the one that is.
                    sent.setdefault((group, t if stage == leg.target else u), []).append(flow)
            for (owner, other, group, t, u), flow in self._f.items():
                if (owner, other) != (k, leg):
                    continue
                mine, others = (u, t) if stage == leg.target else (t, u)
                low, high = box.get((k, stage, mine), (0.0, 1.0))
                if low > 0:
                    yield flow - low * mip.xsum(sent[group, others]) >= 0
                if high < 1:
                    yield flow - high * mip.xsum(sent[group, others]) <= 0

    def relaxed(self) -> dict[tuple[int, Leg, str, str], float]:
        flows: dict[tuple[int, Leg, str, str], float] = {}
        for (k, leg, _, t, u), flow in self._f.items():
            flows[k, leg, t, u] = flows.get((k, leg, t, u), 0.0) + float(flow.x)
        return flows

    def products(self, shares: Mapping[tuple[int, str, str], float]) -> dict[tuple[int, Leg, str, str], float]:
        flows: dict[tuple[int, Leg, str, str], float] = {}
        for k in range(len(self.instance.problem.classes)):
            home = {self.instance.homes[k]: 1.0}
            for leg in self.instance.legs:
                senders = _at(shares, k, leg.source) if leg.source else home
                receivers = _at(shares, k, leg.target) if leg.target else home
                stays = leg.source and leg.target and self.instance.passed(leg.target)
                for t, share in senders.items():
                    for u, other in ({t: 1.0} if stays else receivers).items():
                        flows[k, leg, t, u] = share * other
        return flows

    def tolls_usd_per_h(
        self, choices: Mapping[tuple[int, str], str], flows: Mapping[tuple[int, Leg, str, str], float]
    ) -> float:
        """What flows cost."""
        ways = self.instance.ways
        return math.fsum(
            ways.usd_per_h(t, u, share * self._bytes_per_s(k, leg, choices.get((k, leg.source), "")))
            for (k, leg, t, u), share in flows.items()
            if t != u and ways.open(t, u)
        )

    def carried(
        self, choices: Mapping[tuple[int, str], str], flows: Mapping[tuple[int, Leg, str, str], float]
    ) -> dict[tuple[str, str], float]:
        """Bytes per second between every two tiers."""
        loads: dict[tuple[str, str], float] = {}
        for (k, leg, t, u), share in flows.items():
            size = self._bytes_per_s(k, leg, choices.get((k, leg.source), ""))
            loads[t, u] = loads.get((t, u), 0.0) + share * size
        return loads


def _at(shares: Mapping[tuple[int, str, str], float], k: int, stage: str) -> dict[str, float]:
    return {tier: share for (owner, name, tier), share in shares.items() if (owner, name) == (k, stage)}


def present(flows: Mapping[tuple[int, Leg, str, str], float]) -> dict[tuple[int, Leg, str, str], float]:
    return {key: share for key, share in sorted(flows.items()) if share > NOTHING}
