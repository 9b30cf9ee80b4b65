"""Plans that take turns: nothing is lost, nothing is served twice, what carries over carries over."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inferplan.estimators.network import Network, Station, Way
from inferplan.estimators.simulation import Chance, replicate
from inferplan.estimators.simulation.replay import Epoch, Fleet, replay

MakeStation = Callable[..., Station]
Make = Callable[..., Network]
QUIET = settings(max_examples=60, deadline=None)


def fleet(networks: Sequence[Network], same: bool = True) -> Fleet:
    """Networks of one station per stage as plans; `same`: a stage's replicas can stay from one to the next."""
    stations, routes, names, identities = {}, {}, [], {}
    for index, network in enumerate(networks):
        own = {}
        for name, station in network.stations.items():
            unique = f"{index:04d}:{name}"
            own[name] = unique
            stations[unique] = replace(station, name=unique)
            identities[unique] = (station.stage, "v" if same else unique, "d", "cpu", 1)
            routes.setdefault(station.stage, []).append((unique, 1.0))
        names.append(own)
    streams = tuple(replace(s, routes={k: tuple(v) for k, v in routes.items()}) for s in networks[0].streams)
    whole = replace(networks[0], stations=stations, streams=streams)
    return Fleet(whole, tuple(names), identities, {n: i for i, own in enumerate(names) for n in own.values()})


def test_by_hand(station: MakeStation, single: Make) -> None:
    """One replica, calls of 1 s. From 1.5 s on there are two, the second of which has loaded at 2.5 s."""
    one, two = (single(station("s", "s", [(1, 1.0)], n=n), 1.0) for n in (1, 2))
    times = np.array([0.0, 0.1, 0.2, 0.3, 0.4])
    run = replay(fleet([one, two]), [Epoch(0.0, 0, {}), Epoch(1.5, 1, {"s": (1.0,)})], {"c": times}, Chance(0, 0))
    # The second call is in hand at 1.5 s; then two replicas take what waits.
    assert run.answered_s["c"].tolist() == pytest.approx([1.0, 2.0, 3.0, 3.5, 4.0])


def test_another_model_works_off_what_waits(station: MakeStation, single: Make) -> None:
    """Nothing stays: the batch in hand is finished, the rest waits until the other model has loaded."""
    one, two = (single(station(n, "s", [(1, 1.0)]), 1.0) for n in ("a", "b"))
    run = replay(
        fleet([one, two], same=False),
        [Epoch(0.0, 0, {}), Epoch(1.5, 1, {"b": (2.0,)})],
        {"c": np.array([0.0, 0.1, 0.2, 3.0])},
        Chance(0, 0),
    )
    assert run.answered_s["c"].tolist() == pytest.approx([1.0, 2.0, 4.5, 5.5])
    assert run.calls["c", "s"].station.tolist() == [0, 0, 1, 1]


def test_a_switch_before_loading_is_done_goes_on_loading(station: MakeStation, single: Make) -> None:
    plans = [single(station("s", "s", [(1, 1.0)], n=n), 1.0) for n in (1, 2)]
    epochs = [Epoch(0.0, 0, {}), Epoch(1.0, 1, {"s": (10.0,)}), Epoch(2.0, 1, {})]
    run = replay(fleet(plans), epochs, {"c": np.arange(6) * 1e-3}, Chance(0, 0))
    assert run.answered_s["c"].tolist() == pytest.approx([1, 2, 3, 4, 5, 6], abs=0.01)


@QUIET
@given(data=st.data())
def test_cutting_time_changes_nothing(station: MakeStation, chain: Make, data: st.DataObject) -> None:
    """A plan that goes on from epoch to epoch serves as if there were none."""
    batch = data.draw(st.sampled_from([1, 4]))
    times = [(1, 0.1)] if batch == 1 else [(1, 0.1), (4, 0.2)]
    stations = [station(name, name, times, n=data.draw(st.integers(1, 3))) for name in ("a", "b")]
    network = chain(stations, [], {"x": 20.0, "y": 5.0})
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    arrivals = {name: np.sort(rng.random(n) * 4) for name, n in (("x", 60), ("y", 15))}
    cuts = sorted(data.draw(st.lists(st.floats(0.01, 6.0), max_size=5, unique=True)))
    whole = replay(fleet([network]), [Epoch(0.0, 0, {})], arrivals, Chance(0, 0))
    parts = replay(fleet([network]), [Epoch(t, 0, {}) for t in (0.0, *cuts)], arrivals, Chance(0, 0))
    for name in arrivals:
        np.testing.assert_allclose(parts.answered_s[name], whole.answered_s[name], rtol=0, atol=1e-9)


@QUIET
@given(data=st.data())
def test_every_request_is_answered_once(station: MakeStation, chain: Make, data: st.DataObject) -> None:
    """Whatever takes turns with whatever: all are answered, none before it could be, no replica does two at a time."""
    plans = []
    for _ in range(3):
        size = data.draw(st.sampled_from([1, 3]))
        times = [(1, 0.1)] if size == 1 else [(1, 0.1), (3, 0.15)]
        plans.append(
            chain([station(n, n, times, n=data.draw(st.integers(1, 3)), cv=0.3) for n in ("a", "b")], [], {"c": 20.0})
        )
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    arrivals = {"c": np.sort(rng.random(80) * 4)}
    epochs, before = [Epoch(0.0, data.draw(st.integers(0, 2)), {})], None
    for t in sorted(data.draw(st.lists(st.floats(0.01, 5.0), max_size=5, unique=True))):
        before = epochs[-1].plan
        plan = data.draw(st.integers(0, 2))
        loading = {}
        for name in ("a", "b"):
            more = plans[plan].stations[name].replicas - plans[before].stations[name].replicas
            loading[name] = (data.draw(st.floats(0, 1)),) * max(more, 0)
        epochs.append(Epoch(t, plan, loading))
    run = replay(fleet(plans), epochs, arrivals, Chance(1, 0))
    assert np.isfinite(run.answered_s["c"]).all()
    assert len(run.answered_s["c"]) == 80
    first, second = run.calls["c", "a"], run.calls["c", "b"]
    assert (first.done_s > first.arrived_s).all()
    np.testing.assert_array_equal(second.arrived_s, first.done_s)
    assert (second.done_s > second.arrived_s).all()


def test_without_a_switch_it_is_the_simulation(station: MakeStation, single: Make) -> None:
    """The same arrivals through `replicate`: equal in distribution, and equal where service takes no chance."""
    network = single(station("s", "s", [(1, 0.1), (4, 0.2)], n=2, delay_s=0.05), 25.0)
    run = replicate(network, Chance(3, 0), 50.0, 0.0)
    again = replay(fleet([network]), [Epoch(0.0, 0, {})], {"c": run.entries_s["c"]}, Chance(3, 0))
    np.testing.assert_allclose(again.latencies_s["c"], run.latencies_s["c"])


def test_a_full_queue_sheds(station: MakeStation, single: Make) -> None:
    made = replace(station("s", "s", [(1, 1.0)]), queue_limit=2)
    run = replay(
        fleet([single(made, 1.0)]), [Epoch(0.0, 0, {}), Epoch(2.5, 0, {})], {"c": np.arange(6) * 0.1}, Chance(0, 0)
    )
    # Before a replica looks at it a call is in the queue.
    assert np.isfinite(run.answered_s["c"]).sum() == 3
    assert np.isinf(run.latencies_s["c"]).sum() == 3


def mixed(station: MakeStation, chain: Make, shares: tuple[float, ...], job_size: int, order: str = "fifo") -> Network:
    """Two stages of two stations; so many of the requests go through a1 and b1, the rest through a2 and b2."""
    made = [
        replace(station(f"{s}{i}", s, [(1, 0.01 * i), (2, 0.015 * i)], n=i), order=order)
        for s in ("a", "b")
        for i in (1, 2)
    ]
    plain = chain([made[0], made[2]], [], {"c": 40.0}, limit_s=0.5)
    total = sum(shares)
    routes = {s: tuple((f"{s}{i}", shares[i - 1] / total) for i in (1, 2)) for s in ("a", "b")}
    counts = [None, None] if job_size == 1 else [round(share) for share in shares]
    ways = tuple(
        Way(shares[i - 1] / total, {s: f"{s}{i}" for s in ("a", "b")}, counts[i - 1]) for i in (1, 2)
    )  # fmt: skip
    stream = replace(plain.streams[0], routes=routes, ways=ways, job_size=job_size)
    return replace(plain, stations={s.name: s for s in made}, streams=(stream,))


def mixed_fleet(networks: Sequence[Network]) -> Fleet:
    """Networks of `mixed` as plans, whose replicas stay from one to the next."""
    stations, identities, names, ways = {}, {}, [], []
    routes: dict[str, list[tuple[str, float]]] = {}
    for index, network in enumerate(networks):
        own = {name: f"{index:04d}:{name}" for name in network.stations}
        for name, unique in own.items():
            stations[unique] = replace(network.stations[name], name=unique)
            identities[unique] = (stations[unique].stage, name, "d", "cpu", 1)
            routes.setdefault(stations[unique].stage, []).append((unique, 1.0))
        (stream,) = network.streams
        ways.append({"c": tuple(replace(w, stations={s: own[n] for s, n in w.stations.items()}) for w in stream.ways)})
        names.append(own)
    stream = replace(networks[0].streams[0], routes={s: tuple(r) for s, r in routes.items()}, ways=())
    whole = replace(networks[0], stations=stations, streams=(stream,))
    plan_of = {name: i for i, own in enumerate(names) for name in own.values()}
    return Fleet(whole, tuple(names), identities, plan_of, tuple(ways))


@pytest.mark.parametrize("order", ["fifo", "edf"])
@pytest.mark.parametrize(("shares", "job_size"), [((0.3, 0.7), 1), ((3.0, 1.0), 4)])
def test_ways_and_jobs_are_those_of_the_simulation(
    station: MakeStation, chain: Make, shares: tuple[float, ...], job_size: int, order: str
) -> None:
    network = mixed(station, chain, shares, job_size, order)
    run = replicate(network, Chance(3, 0), 20.0, 0.0)
    one = mixed_fleet([network])
    again = replay(one, [Epoch(0.0, 0, {})], {"c": run.entries_s["c"]}, Chance(3, 0))
    np.testing.assert_allclose(again.latencies_s["c"], run.latencies_s["c"], atol=1e-9)
    assert len(again.latencies_s["c"]) == len(run.entries_s["c"]) / job_size
    cut = replay(one, [Epoch(t, 0, {}) for t in (0.0, 3.3, 7.7)], {"c": run.entries_s["c"]}, Chance(3, 0))
    np.testing.assert_allclose(cut.latencies_s["c"], run.latencies_s["c"], atol=1e-9)


def test_requests_take_the_ways_of_the_plan_that_is_active(station: MakeStation, chain: Make) -> None:
    """A quarter the first way, then three quarters; those that were on the first way stay on it."""
    plans = [mixed(station, chain, shares, 1) for shares in ((0.25, 0.75), (0.75, 0.25))]
    times = np.arange(8000) * 0.05
    run = replay(mixed_fleet(plans), [Epoch(0.0, 0, {}), Epoch(200.0, 1, {})], {"c": times}, Chance(0, 0))
    sent = run.calls["c", "a"].station
    assert np.mean(sent[:4000] == 0) == pytest.approx(0.25, abs=0.03)
    assert np.mean(sent[4000:] == 2) == pytest.approx(0.75, abs=0.03)
    assert set(sent[:4000]) == {0, 1}
    assert set(sent[4000:]) == {2, 3}
    # Both stages are passed the same way.
    np.testing.assert_array_equal(sent, run.calls["c", "b"].station)


def test_of_a_job_so_many_requests_go_each_way(station: MakeStation, chain: Make) -> None:
    plans = [mixed(station, chain, shares, 4, "edf") for shares in ((3.0, 1.0), (1.0, 3.0))]
    times = np.repeat(np.arange(40) * 1.0, 4)
    run = replay(mixed_fleet(plans), [Epoch(0.0, 0, {}), Epoch(19.5, 1, {})], {"c": times}, Chance(0, 0))
    sent = run.calls["c", "a"].station.reshape(-1, 4)
    assert sent[:20].tolist() == [[0, 0, 0, 1]] * 20
    assert sent[20:].tolist() == [[2, 3, 3, 3]] * 20
    assert len(run.latencies_s["c"]) == 40


def test_the_earliest_deadline_goes_first(station: MakeStation, single: Make) -> None:
    """A job and a request wait for one replica; the request came later, but is due sooner."""
    made = replace(station("s", "s", [(1, 1.0)]), order="edf")
    plain = single(made, 1.0)
    (job,) = plain.streams
    streams = (replace(job, limit_s=60.0, job_size=3), replace(job, name="d", limit_s=2.5))
    run = replay(
        fleet([replace(plain, streams=streams)]),
        [Epoch(0.0, 0, {}), Epoch(1.5, 0, {})],
        {"c": np.zeros(3), "d": np.array([0.5])},
        Chance(0, 0),
    )
    assert run.latencies_s["c"].tolist() == pytest.approx([4.0])
    assert run.latencies_s["d"].tolist() == pytest.approx([1.5])
