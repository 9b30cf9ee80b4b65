"""Classes that spread over devices and tiers: the exact program against exhaustive search, and what must hold of it."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from inferplan.solvers.checker import check_plan
from inferplan.solvers.planner import solve
from inferplan.spec.document import load_workload
from inferplan.spec.errors import CheckFailedError, InfeasibleError, InputError
from inferplan.spec.plan import Plan, dump_plan

HOUR_GB = 3600 / 2**30
TIERS = ("edge", "cloud")
SHAPES = {
    "chain": [("a", "b")],
    "long": [("a", "b"), ("b", "c")],
    "join": [("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")],
}
PLAIN = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


@st.composite
def cases(draw: Any, shape: str | None = None) -> dict[str, Any]:
    """A small instance: one class, up to four stages, two tiers with a device or two, every machine of one core."""
    edges = SHAPES[shape or draw(st.sampled_from(sorted(SHAPES)))]
    stages = sorted({stage for edge in edges for stage in edge})
    devices = {
        f"{tier}/{name}": {
            "price_usd_per_h": draw(st.sampled_from([0.1, 0.25, 0.4, 1.0])),
            "count": draw(st.integers(1, 2)),
            "cores": 1,
            "exclusive": draw(st.booleans()),
        }
        for tier, names in (("edge", ("x", "y")), ("cloud", ("z",)))
        for name in names[: draw(st.integers(1, len(names)))]
    }
    speed = st.sampled_from([7.0, 10.0, 15.0, 22.0])
    variants = {stage: ["s", "l"] if draw(st.booleans()) and len(stages) < 4 else ["s"] for stage in stages}
    return {
        "edges": edges,
        "variants": variants,
        "devices": devices,
        "rate": draw(st.sampled_from([5.0, 12.0, 20.0])),
        "speed": {(s, v, d): draw(speed) for s in stages for v in variants[s] for d in devices},
        "bytes": {e: {v: draw(st.sampled_from([1e3, 1e6, 4e6])) for v in variants[e[0]]} for e in edges},
        "request": draw(st.sampled_from([0.0, 2e6])),
        "response": draw(st.sampled_from([None, 5e5])),
        "forward": draw(st.sampled_from([None, 0.0, 0.3])),
        "backward": draw(st.sampled_from([None, 0.1, 1.0])),
        "floor": draw(st.sampled_from([None, 0.5, 0.7])),
    }


ACCURACY = {"s": 0.8, "l": 0.95}


def loaded(instances: Any, case: dict[str, Any], routing: str, **rest: Any) -> tuple[Any, Any]:
    stages = case["variants"]
    links = {
        name: {"from": a, "to": b, "price_usd_per_gb": case[name]}
        for name, a, b in (("forward", "edge", "cloud"), ("backward", "cloud", "edge"))
        if case[name] is not None
    }
    tiers: dict[str, Any] = {}
    for device, spec in case["devices"].items():
        tier, name = device.split("/")
        tiers.setdefault(tier, {"devices": {}})["devices"][name] = spec
    floor = {"accuracy": {"floor": case["floor"]}} if case["floor"] else {}
    work = instances.workload(
        stages,
        edges=[{"from": a, "to": b, "payload_bytes": case["bytes"][a, b]} for a, b in case["edges"]],
        classes={"web": {"rate_rps": case["rate"], "enters_at": "edge", **floor}},
        tiers=tiers,
        links=links,
        routing=routing,
        splitting="devices",
        max_utilisation=1.0,
        pipeline_extra={"request_bytes": case["request"], "response_bytes": case["response"]},
        **rest,
    )
    rows = [
        instances.measurement(stage, variant, 1, 1 / speed, device=device)
        for (stage, variant, device), speed in case["speed"].items()
    ]
    scored = {(s, v): ACCURACY[v] for s, variants in stages.items() for v in variants}
    return work, instances.profile({}, scored, rows=rows)


def exhaustive(case: dict[str, Any], routing: str) -> float:
    """The least cost over all variants, all uses of all machines, and all shares that can be optimal.

    Flows are linear in each stage's share at the edge (proportional), or piecewise so with breaks where the shares of
    neighbours are equal (tier-aware): an optimum has every share at an end of some stage's range.
    """
    stages = sorted(case["variants"])
    best = math.inf
    for chosen in itertools.product(*(case["variants"][stage] for stage in stages)):
        variants = dict(zip(stages, chosen, strict=True))
        if case["floor"] and math.prod(ACCURACY[v] for v in chosen) < case["floor"] - 1e-9:
            continue
        uses = [
            [
                use
                for use in itertools.product(range(spec["count"] + 1), repeat=len(stages))
                if sum(use) <= spec["count"]
            ]
            for spec in case["devices"].values()
        ]
        for use in itertools.product(*uses):
            rent = sum(
                spec["price_usd_per_h"] * sum(mine) for spec, mine in zip(case["devices"].values(), use, strict=True)
            )
            if rent < best:
                best = min(best, rent + cheapest_traffic(case, variants, stages, use, routing))
    return best


def cheapest_traffic(
    case: dict[str, Any], variants: dict[str, str], stages: list[str], use: Any, routing: str
) -> float:
    ranges = {}
    for index, stage in enumerate(stages):
        room = {"edge": 0.0, "cloud": 0.0}
        for device, mine in zip(case["devices"], use, strict=True):
            room[device.split("/")[0]] += mine[index] * case["speed"][stage, variants[stage], device] / case["rate"]
        if room["edge"] + room["cloud"] < 1 - 1e-9:
            return math.inf
        ranges[stage] = (max(0.0, 1 - room["cloud"]), min(1.0, room["edge"]))
    ends = sorted({end for pair in ranges.values() for end in pair} | {0.0, 1.0})
    points = []
    for stage in stages:
        low, high = ranges[stage]
        inner = [end for end in ends if low < end < high] if routing == "tier_aware" else []
        points.append(sorted({low, high, *inner}))
    return min(traffic_cost(case, variants, dict(zip(stages, at, strict=True)), routing)
               for at in itertools.product(*points))  # fmt: skip


def traffic_cost(case: dict[str, Any], variants: dict[str, str], share: dict[str, float], routing: str) -> float:
    legs = [(1.0, share["a"], case["request"])]
    legs += [(share[a], share[b], case["bytes"][a, b][variants[a]]) for a, b in case["edges"]]
    if case["response"] is not None:
        last = sorted({b for _, b in case["edges"]} - {a for a, _ in case["edges"]})
        legs += [(share[stage], 1.0, case["response"]) for stage in last]
    cost = 0.0
    for x, y, size in legs:
        over, back = (x * (1 - y), (1 - x) * y) if routing == "proportional" else (max(x - y, 0.0), max(y - x, 0.0))
        for flow, link in ((over, "forward"), (back, "backward")):
            if flow > 1e-12:
                cost += math.inf if case[link] is None else case["rate"] * size * flow * HOUR_GB * case[link]
    return cost


def plan_of(instances: Any, case: dict[str, Any], routing: str, **rest: Any) -> Plan:
    work, profile = loaded(instances, case, routing, **rest)
    plan = solve(work, profile, plan_dir=instances.folder, gap=1e-7)
    check_plan(plan, work.workload, profile)
    return plan


@pytest.mark.parametrize("routing", ["proportional", "tier_aware"])
@PLAIN
@given(case=cases())
def test_the_cost_is_that_of_exhaustive_search(module_instances: Any, routing: str, case: dict[str, Any]) -> None:
    expected = exhaustive(case, routing)
    if math.isinf(expected):
        with pytest.raises(InfeasibleError):
            plan_of(module_instances, case, routing)
        return
    plan = plan_of(module_instances, case, routing)
    assert plan.cost_usd_per_h == pytest.approx(expected, rel=2e-6, abs=1e-9)
    assert plan.proof.status == "optimal"


@settings(PLAIN, max_examples=15)
@given(case=cases())
def test_looser_never_costs_more(module_instances: Any, case: dict[str, Any]) -> None:
    def cost(routing: str = "proportional", **changes: Any) -> float:
        try:
            return plan_of(module_instances, {**case, **changes}, routing).cost_usd_per_h
        except InfeasibleError:
            return math.inf

    own = cost()
    assume(own < math.inf)
    more = {name: {**spec, "count": spec["count"] + 1} for name, spec in case["devices"].items()}
    open_ = {name: case[name] if case[name] is not None else 1.0 for name in ("forward", "backward")}
    for looser in (
        cost("tier_aware"),
        cost(floor=None),
        cost(devices=more),
        cost(rate=case["rate"] * 0.8),
        cost(**open_),
    ):
        assert looser <= own * (1 + 1e-6)


@settings(PLAIN, max_examples=10)
@given(case=cases(shape="chain"), routing=st.sampled_from(["proportional", "tier_aware"]))
def test_names_and_order_do_not_matter(module_instances: Any, case: dict[str, Any], routing: str) -> None:
    assume(exhaustive(case, routing) < math.inf)
    first = plan_of(module_instances, case, routing)
    reordered = {**case, "devices": dict(reversed(case["devices"].items()))}
    again = plan_of(module_instances, reordered, routing)
    assert {**again.model_dump(), "workload": None} == {**first.model_dump(), "workload": None}
    names = {"edge/x": "edge/n", "edge/y": "edge/m", "cloud/z": "cloud/k"}
    renamed = {
        **case,
        "devices": {names[name]: spec for name, spec in case["devices"].items()},
        "speed": {(s, v, names[d]): speed for (s, v, d), speed in case["speed"].items()},
    }
    assert plan_of(module_instances, renamed, routing).cost_usd_per_h == pytest.approx(first.cost_usd_per_h, rel=2e-6)


@settings(PLAIN, max_examples=25)
@given(data=st.data())
def test_classes_share_machines_of_several_cores(module_instances: Any, data: Any) -> None:
    """One tier, two classes, replicas that share machines: machines against exhaustive search."""
    cores, count = data.draw(st.integers(2, 4)), data.draw(st.integers(2, 4))
    price = {"x": 0.3, "y": data.draw(st.sampled_from([0.2, 0.5]))}
    speed = {(v, d): data.draw(st.sampled_from([6.0, 11.0, 17.0])) for v in "sl" for d in "xy"}
    rates = {"one": data.draw(st.sampled_from([4.0, 20.0])), "two": data.draw(st.sampled_from([3.0, 25.0]))}
    floors = {"one": data.draw(st.sampled_from([0.5, 0.9])), "two": 0.5}
    work = module_instances.workload(
        {"a": ["s", "l"]},
        classes={n: {"rate_rps": r, "accuracy": {"floor": floors[n]}} for n, r in rates.items()},
        devices={d: {"price_usd_per_h": price[d], "cores": cores, "count": count} for d in "xy"},
        splitting="devices",
        max_utilisation=1.0,
    )
    rows = [module_instances.measurement("a", v, 1, 1 / f, device=f"edge/{d}") for (v, d), f in speed.items()]
    profile = module_instances.profile({}, {("a", v): value for v, value in ACCURACY.items()}, rows=rows)
    best = math.inf
    for chosen in itertools.product("sl", repeat=2):
        if any(ACCURACY[v] < floors[n] for v, n in zip(chosen, rates, strict=True)):
            continue
        load = {v: sum(r for w, r in zip(chosen, rates.values(), strict=True) if w == v) for v in "sl"}
        most = cores * count
        for n in itertools.product(range(most + 1), repeat=3):
            sx, sy, lx = n
            if sx + lx > most or sx * speed["s", "x"] + sy * speed["s", "y"] < load["s"] - 1e-9 or sy > most:
                continue
            left = max(load["l"] - lx * speed["l", "x"], 0.0)
            ly = math.ceil(left / speed["l", "y"] - 1e-9)
            if sy + ly <= most:
                best = min(best, price["x"] * -(-(sx + lx) // cores) + price["y"] * -(-(sy + ly) // cores))
    if math.isinf(best):
        with pytest.raises(InfeasibleError):
            solve(work, profile, plan_dir=module_instances.folder)
    else:
        plan = solve(work, profile, plan_dir=module_instances.folder)
        assert plan.cost_usd_per_h == pytest.approx(best)


CASE: dict[str, Any] = {
    "edges": [("a", "b")],
    "variants": {"a": ["s"], "b": ["s"]},
    "devices": {
        "edge/x": {"price_usd_per_h": 0.1, "count": 2, "cores": 1, "exclusive": True},
        "cloud/z": {"price_usd_per_h": 0.4, "count": 4, "cores": 1, "exclusive": True},
    },
    "rate": 20.0,
    "speed": {("a", "s", "edge/x"): 15.0, ("a", "s", "cloud/z"): 15.0, ("b", "s", "edge/x"): 15.0,
              ("b", "s", "cloud/z"): 15.0},
    "bytes": {("a", "b"): {"s": 1e6}},
    "request": 1e5,
    "response": None,
    "forward": 0.3,
    "backward": 1.0,
    "floor": None,
}  # fmt: skip


@settings(PLAIN, max_examples=15)
@given(case=cases(shape="chain"), wide=st.sampled_from([3e6, 8e6]), back=st.sampled_from([2e6, 6e6]))
def test_no_shares_within_the_bandwidths_are_cheaper(
    module_instances: Any, case: dict[str, Any], wide: float, back: float
) -> None:
    """Where links are narrow an optimum need not lie at the ends of ranges: a grid of shares finds nothing better."""
    case = {
        **case,
        "variants": {"a": ["s"], "b": ["s"]},
        "speed": {key: speed for key, speed in case["speed"].items() if key[1] == "s"},
        "bytes": {("a", "b"): {"s": case["bytes"]["a", "b"]["s"]}},
        "response": None,
        "floor": None,
        "forward": 0.2,
        "backward": 0.5,
    }
    work, profile = loaded(module_instances, case, "proportional")
    narrow = load_workload(
        work.path, [f"links.forward.bandwidth_bytes_per_s={wide}", f"links.backward.bandwidth_bytes_per_s={back}"]
    )
    found = on_a_grid(case, wide, back)
    try:
        plan = solve(narrow, profile, plan_dir=module_instances.folder)
    except InfeasibleError:
        assert math.isinf(found)
        return
    check_plan(plan, narrow.workload, profile)
    assert plan.proof.status == "optimal"
    assert plan.cost_usd_per_h <= found * (1 + 1e-6)


def on_a_grid(case: dict[str, Any], wide: float, back: float, steps: int = 200) -> float:
    """The least cost over a grid of shares at the edge."""
    best = math.inf
    uses = [
        [use for use in itertools.product(range(spec["count"] + 1), repeat=2) if sum(use) <= spec["count"]]
        for spec in case["devices"].values()
    ]
    rate, sent = case["rate"], case["bytes"]["a", "b"]["s"]
    for use in itertools.product(*uses):
        rent = sum(d["price_usd_per_h"] * sum(mine) for d, mine in zip(case["devices"].values(), use, strict=True))
        axes = []
        for index, stage in enumerate("ab"):
            room = {"edge": 0.0, "cloud": 0.0}
            for device, mine in zip(case["devices"], use, strict=True):
                room[device.split("/")[0]] += mine[index] * case["speed"][stage, "s", device] / rate
            low, high = max(0.0, 1 - room["cloud"]), min(1.0, room["edge"])
            axes.append(np.linspace(low, high, steps) if low <= high else np.zeros(0))
        x, y = np.meshgrid(*axes)
        forward = rate * (case["request"] * (1 - x) + sent * x * (1 - y))
        backward = rate * sent * (1 - x) * y
        cost = rent + HOUR_GB * (forward * case["forward"] + backward * case["backward"])
        fits = (forward <= wide) & (backward <= back)
        best = min(best, float(cost[fits].min()) if fits.any() else math.inf)
    return best


def test_without_a_link_calls_do_not_go_that_way(instances: Any) -> None:
    one_way = plan_of(instances, {**CASE, "backward": None}, "proportional")
    assert one_way.traffic is not None
    assert all((f.from_tier, f.to_tier) != ("cloud", "edge") for f in one_way.traffic.flows["web"])
    with pytest.raises(InfeasibleError) as caught:
        plan_of(instances, {**CASE, "backward": None, "forward": None}, "proportional")
    assert "edge.devices.x.count" in str(caught.value)


def test_the_plan_says_where_calls_go_and_what_it_costs(instances: Any) -> None:
    plan = plan_of(instances, CASE, "proportional")
    assert plan.certificate is not None
    assert (plan.certificate.verdict, plan.certificate.judged_on) == ("met", "capacity")
    assert plan.traffic is not None
    assert plan.costs is not None
    machines = sum(m.count * m.price_usd_per_h for m in plan.machines.values())
    assert plan.cost_usd_per_h == pytest.approx(machines + plan.traffic.cost_usd_per_h)
    assert plan.costs.network_usd_per_h == pytest.approx(plan.traffic.cost_usd_per_h)
    assert sum(f.rate_rps for f in plan.traffic.flows["web"] if f.target == "b") == pytest.approx(20.0)
    assert dump_plan(plan) == dump_plan(plan_of(instances, CASE, "proportional"))


def test_an_exclusive_machine_serves_one_stage(instances: Any) -> None:
    """Two cores would hold a replica of each stage; an exclusive machine does not."""
    wide = {"price_usd_per_h": 0.1, "count": 9, "cores": 4, "exclusive": False}
    case = {**CASE, "devices": {"edge/x": wide, "cloud/z": CASE["devices"]["cloud/z"]}}
    shared = plan_of(instances, case, "proportional")
    alone = plan_of(
        instances, {**case, "devices": {**case["devices"], "edge/x": {**wide, "exclusive": True}}}, "proportional"
    )
    assert (shared.machines["edge/x"].count, alone.machines["edge/x"].count) == (1, 2)


def forged(plan: Plan, change: Any) -> Plan:
    data = plan.model_dump(by_alias=True)
    change(data)
    return Plan.model_validate(data)


def cheaper(data: dict[str, Any]) -> None:
    saved = data["traffic"]["cost_usd_per_h"] / 2
    data["traffic"]["cost_usd_per_h"] -= saved
    data["costs"]["network_usd_per_h"] -= saved
    data["cost_usd_per_h"] -= saved


FORGERIES = {
    "traffic costs": cheaper,
    "the plan says nothing of its traffic": lambda data: data.update(traffic=None),
    "bytes/s cross it": lambda data: data["traffic"]["links"]["forward"].update(bytes_per_s=1.0),
    "calls/s go": lambda data: data["traffic"]["flows"]["web"][0].update(rate_rps=1.0),
    "calls/s reach it": lambda data: next(iter(data["options"].values()))["predicted"].update(load_rps=1.0),
}


@pytest.mark.parametrize("finding", FORGERIES)
def test_a_forged_plan_fails_loudly(finding: str, instances: Any) -> None:
    work, profile = loaded(instances, CASE, "proportional")
    plan = solve(work, profile, plan_dir=instances.folder)
    with pytest.raises(CheckFailedError) as caught:
        check_plan(forged(plan, FORGERIES[finding]), work.workload, profile)
    assert any(finding in line for line in caught.value.details)


def test_a_dead_end_is_explained_by_what_would_help(instances: Any) -> None:
    with pytest.raises(InfeasibleError) as caught:
        plan_of(instances, {**CASE, "rate": 80.0}, "proportional")
    assert "tiers.cloud.devices.z.count (4): at least" in str(caught.value)
    helps = next(line for line in caught.value.details if "cloud.devices.z.count" in line)
    count = int(helps.split("at least ")[1].split(",")[0])
    more = {**CASE["devices"], "cloud/z": {**CASE["devices"]["cloud/z"], "count": count}}
    assert plan_of(instances, {**CASE, "rate": 80.0, "devices": more}, "proportional").cost_usd_per_h > 0
    fewer = {**CASE["devices"], "cloud/z": {**CASE["devices"]["cloud/z"], "count": count - 1}}
    with pytest.raises(InfeasibleError):
        plan_of(instances, {**CASE, "rate": 80.0, "devices": fewer}, "proportional")


def test_the_load_that_is_named_is_the_most_there_is_a_plan_for(instances: Any) -> None:
    with pytest.raises(InfeasibleError) as caught:
        plan_of(instances, {**CASE, "rate": 80.0}, "proportional")
    line = next(line for line in caught.value.details if "classes.web.rate_rps: at most" in line)
    rate, cost = float(line.split("at most ")[1].split()[0]), float(line.split(", at ")[1].split()[0])
    assert 20 < rate < 80
    assert plan_of(instances, {**CASE, "rate": rate}, "proportional").cost_usd_per_h == pytest.approx(cost, rel=1e-5)
    with pytest.raises(InfeasibleError):
        plan_of(instances, {**CASE, "rate": rate * 1.02}, "proportional")


def test_an_answer_that_highs_refuses_is_asked_for_again(instances: Any) -> None:
    """HiGHS 1.15 presolves one of this dead end's questions to an answer with violated rows."""
    places = ("edge/x", "edge/y", "cloud/z")
    fast = {("a", "edge/y"), ("b", "edge/y"), ("c", "cloud/z"), ("d", "edge/y"), ("d", "cloud/z")}
    machine = {"price_usd_per_h": 0.1, "count": 1, "cores": 1, "exclusive": False}
    case = {
        "edges": SHAPES["join"],
        "variants": {stage: ["s"] for stage in "abcd"},
        "devices": {"edge/x": {**machine, "count": 2}, "edge/y": machine, "cloud/z": machine},
        "rate": 12.0,
        "speed": {(s, "s", place): 15.0 if (s, place) in fast else 7.0 for s in "abcd" for place in places},
        "bytes": {edge: {"s": 1e3} for edge in SHAPES["join"]},
        "request": 0.0,
        "response": None,
        "forward": 0.0,
        "backward": 0.1,
        "floor": 0.5,
    }
    with pytest.raises(InfeasibleError, match=r"edge\.devices\.x\.count"):
        plan_of(instances, case, "proportional")


def test_what_is_not_honoured_is_refused_by_name(instances: Any) -> None:
    work, profile = loaded(instances, CASE, "proportional")
    promised = load_workload(work.path, ["classes.web.slo.latency_s=1.0", "max_utilisation=0.9"])
    with pytest.raises(InputError, match="without an slo only: web"):
        solve(promised, profile, plan_dir=instances.folder)
    with pytest.raises(InputError, match="splitting: devices only"):
        load_workload(work.path, ["splitting=true"])
    with pytest.raises(InputError, match="no finite observation"):
        load_workload(work.path, ["classes.web.slo.latency_s=1.0"])


def test_neighbours_take_capacity_away(instances: Any) -> None:
    """Replicas side by side that are half as fast: twice the replicas, or machines of their own."""
    devices = {"cpu": {"price_usd_per_h": 0.1, "cores": 2, "count": 9}}
    work = instances.workload(
        {"a": ["s"]}, classes={"web": {"rate_rps": 19.0}}, devices=devices, splitting="devices", max_utilisation=1.0
    )
    calm = instances.profile({("a", "s"): {1: 0.1}}, {("a", "s"): 0.9})
    beside = [instances.interference("a", "s", [("a", "s")], 2.0)]
    loud = instances.profile({("a", "s"): {1: 0.1}}, {("a", "s"): 0.9}, beside=beside)
    assert solve(work, calm, plan_dir=instances.folder).machines["edge/cpu"].count == 1
    plan = solve(work, loud, plan_dir=instances.folder)
    check_plan(plan, work.workload, loud)
    assert plan.machines["edge/cpu"].count == 2
    assert plan.proof.status == "feasible"
