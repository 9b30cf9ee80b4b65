"""The simulator: queueing theory within its intervals, verdicts, what is simulated of days and traces."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import sys
from collections.abc import Callable

import numpy as np
import pytest

from inferplan.estimators.fanout import ONE, FanOutLaw, FanOuts, law_of_mean
from inferplan.estimators.network import Network, Stalls, Station, Stream
from inferplan.estimators.simulation import Chance, Effort, replicate, simulate
from inferplan.estimators.simulation.compiled import loops
from inferplan.estimators.simulation.scenario import traced
from inferplan.spec.arrivals import arrival_times
from inferplan.spec.trace import Trace
from inferplan.spec.workload import Arrivals

Make = Callable[..., Network]
MakeStation = Callable[..., Station]
S = 0.01


def mean_wait(network: Network, effort: int = 400_000) -> tuple[float, float]:
    """Simulated mean sojourn with the half width of its interval."""
    # A limit at the very percentile would be decided at once; an undecidable one uses the whole effort.
    found = simulate(network, seed=7, effort=Effort(effort, beyond=40.0)).streams["c"].latency_mean_s
    assert found.lower is not None
    return found.value, found.value - found.lower


@pytest.mark.parametrize("rho", [0.3, 0.6, 0.8])
@pytest.mark.parametrize("cv", [0.0, 0.5, 1.0])
def test_mg1_waits_as_pollaczek_khinchine_says(rho: float, cv: float, station: MakeStation, single: Make) -> None:
    """M/D/1, M/G/1 and (nearly) M/M/1: services are draws of a gamma law with this variation."""
    served = station("s", "s", [(1, S)], cv=cv)
    assert served.service is not None
    draws = served.service.draws_s(1)
    wait = rho / S * float((draws**2).mean()) / (2 * (1 - rho))
    value, half = mean_wait(single(served, rho / S))
    assert abs(value - (S + wait)) <= half + 0.01 * value


@pytest.mark.parametrize(("n", "rho"), [(2, 0.7), (5, 0.8)])
def test_mmn_waits_as_erlang_says(n: int, rho: float, station: MakeStation, single: Make) -> None:
    offered = rho * n
    top = offered**n / math.factorial(n) / (1 - rho)
    queued = top / (sum(offered**j / math.factorial(j) for j in range(n)) + top)
    value, half = mean_wait(single(station("s", "s", [(1, S)], n, cv=1.0), offered / S))
    assert abs(value - (S + queued * S / (n * (1 - rho)))) <= half + 0.02 * value


@pytest.mark.parametrize("rho", [0.2, 0.6])
def test_replicas_that_wake_up_wait_as_welch_says(rho: float, station: MakeStation, single: Make) -> None:
    """M/G/1 where a call that finds the server idle takes longer (Welch 1964): here all services are constant."""
    first, rate = 1.5 * S, rho / S
    served = station("s", "s", [(1, S)])
    assert served.service is not None
    served = dataclasses.replace(served, service=dataclasses.replace(served.service, wakings=((0.0, first - S),)))
    idle = (1 - rho) / (1 - rho + rate * first)
    wait = rate * S**2 / (2 * (1 - rho)) + rate * (first**2 - S**2) / (2 * (1 - rho + rate * first))
    value, half = mean_wait(single(served, rate))
    assert abs(value - (wait + idle * first + (1 - idle) * S)) <= half + 0.01 * value


@pytest.mark.parametrize(
    ("wakings", "latency_s"),
    [
        (((0.0095, 0.002),), 0.001),
        (((0.005, 0.002),), 0.003),
        (((0.005, 0.002), (0.02, 0.004)), 0.003),
        (((0.001, 0.001), (0.006, 0.002)), 0.003),
    ],
)
@pytest.mark.parametrize("batch", [1, 4])
def test_the_rest_decides_what_waking_up_takes(
    wakings: tuple[tuple[float, float], ...], latency_s: float, batch: int, station: MakeStation, single: Make
) -> None:
    """Calls of 1 ms come every 10 ms: a replica rests for 9 ms, or for what waking up leaves of that."""
    served = station("s", "s", [(1, 0.001)] + [(4, 0.002)] * (batch > 1))
    assert served.service is not None
    woken = dataclasses.replace(served, service=dataclasses.replace(served.service, wakings=wakings))
    network = single(woken, 100.0, Arrivals(process="deterministic"))
    assert simulate(network).streams["c"].latency_p50_s.value == pytest.approx(latency_s)


def test_mm1_tail_is_exponential(station: MakeStation, single: Make) -> None:
    found = simulate(single(station("s", "s", [(1, S)], cv=1.0), 0.6 / S), effort=Effort(400_000, beyond=40))
    p99 = found.streams["c"].latency_p99_s
    assert p99.value == pytest.approx(math.log(100) * S / 0.4, rel=0.05)


def test_bulk_service_waits_as_the_geometric_queue_says(station: MakeStation, single: Make) -> None:
    """M/M[B]/1 with service that does not depend on the batch: P(q waiting | busy) is geometric with root r."""
    bulk, load = 4, 1.6 / S
    root = brentq(lambda r: load * (1 - r) - r / S * (1 - r**bulk))
    times = [(b, S) for b in range(1, bulk + 1)]
    found = simulate(single(station("s", "s", times, cv=1.0), load), effort=Effort(600_000, beyond=40)).streams["c"]
    busy = (load * S) / (1 - root) / (1 + load * S / (1 - root))
    wait = busy * root / (1 - root) / load
    # An arrival finds q waiting and takes their place in line: Little's law gives the mean wait from the mean queue.
    assert found.latency_mean_s.value == pytest.approx(S + wait, rel=0.04)


def brentq(function: Callable[[float], float]) -> float:
    low, high = 1e-9, 1 - 1e-9
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) > 0 else (low, middle)
    return low


def test_deterministic_arrivals_below_capacity_never_wait(station: MakeStation, single: Make) -> None:
    network = single(station("s", "s", [(1, S)]), 0.9 / S, Arrivals(process="deterministic"))
    found = simulate(network).streams["c"]
    assert found.latency_p99_s.value == pytest.approx(S)


def test_bursts_wait_longer_than_poisson(station: MakeStation, single: Make) -> None:
    served = station("s", "s", [(1, S)])
    waits = [
        simulate(single(served, 0.7 / S, process)).streams["c"].latency_mean_s.value
        for process in (Arrivals(process="gamma", cv=0.5), Arrivals(), Arrivals(process="gamma", cv=3.0))
    ]
    assert waits == sorted(waits)


@pytest.mark.parametrize("process", [Arrivals(), Arrivals(process="deterministic"), Arrivals(process="gamma", cv=2.0)])
def test_arrivals_come_at_the_rate_in_order(process: Arrivals) -> None:
    times = arrival_times(process, 50.0, 400.0, np.random.default_rng(1))
    assert len(times) == pytest.approx(20_000, rel=0.06)
    assert np.all(np.diff(times) >= 0)
    assert times[0] >= 0
    assert times[-1] < 400


def test_unstable_is_said_at_once(station: MakeStation, single: Make) -> None:
    found = simulate(single(station("s", "s", [(1, S), (4, 2 * S)], n=2), 401.0), effort=Effort(10**9))
    assert found.verdict == "missed"
    assert found.unstable == ("s: 401 calls/s reach it, its capacity is 400",)


def test_same_seed_same_result_and_another_seed_another(station: MakeStation, single: Make) -> None:
    network = single(station("s", "s", [(1, S), (4, 2 * S)], cv=0.3), 60.0)
    first, again, other = (simulate(network, seed) for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_verdicts_and_intervals_agree(station: MakeStation, single: Make) -> None:
    served = station("s", "s", [(1, S)], cv=1.0)
    tail = math.log(100) * S / 0.4
    for limit, verdict in ((tail * 2, "met"), (tail / 2, "missed")):
        found = simulate(single(served, 0.6 / S, limit_s=limit)).streams["c"]
        assert found.verdict == verdict
        latency = found.latency_slo_s
        assert latency is not None
        assert latency.lower is not None
        assert (latency.upper is not None and latency.upper <= limit) == (verdict == "met")
        assert (latency.lower > limit) == (verdict == "missed")


def test_a_limit_at_the_percentile_itself_stays_undecided(station: MakeStation, single: Make) -> None:
    network = single(station("s", "s", [(1, S)]), 0.5 / S, limit_s=0.0315)
    exact = simulate(network, 1, Effort(3_000_000, beyond=40)).streams["c"].latency_p99_s.value
    found = simulate(single(station("s", "s", [(1, S)]), 0.5 / S, limit_s=exact), 5, Effort(60_000))
    assert found.streams["c"].verdict == "undecided"
    assert found.replications > 10


def test_a_request_waits_for_the_last_of_its_calls(station: MakeStation, chain: Make) -> None:
    """One request at a time: 1 call, then 6 calls on 2 replicas of 1 s each: 1 + 3 s."""
    network = chain([station("a", "a", [(1, 1.0)]), station("b", "b", [(1, 1.0)], n=2)], [law_of_mean(6)], {"c": 0.001})
    found = simulate(network, effort=Effort(20_000)).streams["c"]
    assert found.latency_p50_s.value == pytest.approx(4.0)


def test_a_request_without_further_calls_is_answered(station: MakeStation, chain: Make) -> None:
    law = FanOutLaw((0, 2), (0.5, 0.5))
    network = chain([station("a", "a", [(1, 1.0)]), station("b", "b", [(1, 1.0)], n=2)], [law], {"c": 0.001})
    run = replicate(network, Chance(0, 0), 400_000.0, 0.0)
    assert sorted(set(np.round(run.latencies_s["c"], 6))) == [1.0, 2.0]


def test_skip_takes_no_time(station: MakeStation, chain: Make) -> None:
    network = chain([station("a", "a", [(1, 1.0)]), station("b", "b", None)], [ONE], {"c": 0.001})
    assert simulate(network, effort=Effort(10_000)).streams["c"].latency_p99_s.value == pytest.approx(1.0)


def test_classes_share_a_queue(station: MakeStation, chain: Make) -> None:
    together = chain([station("a", "a", [(1, S)], cv=1.0)], [], {"x": 40.0, "y": 40.0})
    alone = chain([station("a", "a", [(1, S)], cv=1.0)], [], {"x": 80.0})
    one, two = simulate(together, effort=Effort(400_000, 40)), simulate(alone, effort=Effort(400_000, 40))
    assert one.streams["x"].latency_mean_s.value == pytest.approx(two.streams["x"].latency_mean_s.value, rel=0.1)
    assert one.stations["a"].utilisation == pytest.approx(0.8, rel=0.03)


def test_slowed_down_replicas_have_less_capacity_and_are_busier(station: MakeStation, single: Make) -> None:
    plain = station("s", "s", [(1, S)], n=2)
    slowed = dataclasses.replace(plain, slowdowns=(1.0, 2.0))
    assert slowed.interference == pytest.approx(4 / 3)
    assert slowed.capacity_rps == pytest.approx(1 / S + 1 / (2 * S))
    assert simulate(single(slowed, 1.51 / S)).unstable
    quiet, loud = (simulate(single(one, 1.2 / S), effort=Effort(200_000, 40)) for one in (plain, slowed))
    assert loud.stations["s"].utilisation > 1.2 * quiet.stations["s"].utilisation
    assert loud.streams["c"].latency_p99_s.value > quiet.streams["c"].latency_p99_s.value


def test_replicas_slowed_down_alike_are_like_a_slower_model(station: MakeStation, single: Make) -> None:
    one = dataclasses.replace(station("s", "s", [(1, S), (4, 2 * S)], n=2, cv=0.5), slowdowns=(1.5, 1.5))
    other = station("s", "s", [(1, 1.5 * S), (4, 3 * S)], n=2, cv=0.5)
    found, expected = (simulate(single(s, 100.0), effort=Effort(100_000, 40)).streams["c"] for s in (one, other))
    assert found.latency_p99_s.value == pytest.approx(expected.latency_p99_s.value, rel=1e-6)


def test_shares_split_the_calls(station: MakeStation) -> None:
    stations = {name: station(name, "a", [(1, S)]) for name in ("p", "q")}
    stream = Stream("c", 40.0, Arrivals(), 99.0, 1.0, {"a": (("p", 0.25), ("q", 0.75))})
    network = Network(("a",), {"a": ()}, FanOuts({}, {}, {"a": ()}), stations, (stream,))
    found = simulate(network, effort=Effort(200_000, 40)).stations
    assert found["p"].load_rps == pytest.approx(10)
    assert found["p"].utilisation == pytest.approx(0.1, rel=0.1)
    assert found["q"].utilisation == pytest.approx(0.3, rel=0.1)


def test_the_network_delays_calls_and_answers(station: MakeStation, chain: Make) -> None:
    """No queueing: entry, service, transfer, service, exit; without calls below, the way back from the first stage."""
    law = FanOutLaw((0, 2), (0.5, 0.5))
    network = dataclasses.replace(
        chain([station("a", "a", [(1, 1.0)]), station("b", "b", [(1, 1.0)], n=2)], [law], {"c": 0.001}),
        entry_delay_s={("c", "a"): 0.25},
        transfer_s={("a", "b"): 0.5, ("b", "a"): 99.0},
        exit_delay_s={("c", "b"): 0.125, ("c", "a"): 4.0},
    )
    run = replicate(network, Chance(0, 0), 400_000.0, 0.0)
    assert sorted(set(np.round(run.latencies_s["c"], 6))) == [2.875, 5.25]


def test_overheads_are_drawn_and_occupy_nothing(station: MakeStation, single: Make) -> None:
    quiet = single(station("s", "s", [(1, 0.001)]), 0.01)
    network = dataclasses.replace(quiet, overheads_s={("c", "s"): (0.002, 0.004, 0.004, 0.008)})
    run = replicate(network, Chance(0, 0), 400_000.0, 0.0)
    values, counts = np.unique(np.round(run.latencies_s["c"], 6), return_counts=True)
    assert values.tolist() == [0.003, 0.005, 0.009]
    assert counts / counts.sum() == pytest.approx([0.25, 0.5, 0.25], abs=0.03)
    # Beyond what a replica could serve one after the other they would queue; here none waits for another.
    busy = dataclasses.replace(single(station("s", "s", [(1, 0.001)]), 100.0), overheads_s={("c", "s"): (1.0,)})
    assert simulate(busy, effort=Effort(50_000)).streams["c"].latency_p50_s.value == pytest.approx(1.001, abs=0.001)


def test_a_request_that_comes_after_a_rest_takes_longer_on_its_way(station: MakeStation, single: Make) -> None:
    """Gaps of a sparse Poisson stream are exponential: so are the shares of rests."""
    quiet = single(station("s", "s", [(1, 0.001)]), 0.01)
    network = dataclasses.replace(quiet, entry_wakings={("c", "s"): ((50.0, 0.002), (150.0, 0.008))})
    run = replicate(network, Chance(0, 0), 400_000.0, 0.0)
    values, counts = np.unique(np.round(run.latencies_s["c"], 6), return_counts=True)
    assert values.tolist() == [0.001, 0.003, 0.009]
    short, long = math.exp(-0.5), math.exp(-1.5)
    assert counts / counts.sum() == pytest.approx([1 - short, short - long, long], abs=0.03)


def test_stalls_hold_up_what_comes_meanwhile(station: MakeStation, single: Make) -> None:
    """A request of a sparse Poisson stream finds the router standing for as long as what is left of a busy period of
    an M/G/inf queue: with one length d and rate r it is idle for a share exp(-r d) of the time."""
    rate, length = 2.0, 0.2
    quiet = single(station("s", "s", [(1, 0.001)]), 0.05)
    run = replicate(dataclasses.replace(quiet, stalls=Stalls(rate, (length,))), Chance(0, 0), 400_000.0, 0.0)
    waits = run.latencies_s["c"] - 0.001
    assert float((waits < 1e-9).mean()) == pytest.approx(math.exp(-rate * length), abs=0.01)
    # Of those held up, some by a stall that began within another one.
    assert float((waits > length).mean()) > 0.01
    few = replicate(dataclasses.replace(quiet, stalls=Stalls(1e-3, (length,))), Chance(0, 0), 400_000.0, 0.0)
    assert few.latencies_s["c"].max() <= length + 0.001 + 1e-6


def test_stalls_hold_up_replies(station: MakeStation, single: Make) -> None:
    """Of requests served for a time w one is late that meets a stall on the way in or has its reply in one: as stalls
    of length d come at rate r, and w is longer than d, a share 1 - exp(-2 r d) of them is."""
    rate, length = 0.1, 0.2
    slow = single(station("s", "s", [(1, 1.0)]), 0.005)
    run = replicate(dataclasses.replace(slow, stalls=Stalls(rate, (length,))), Chance(0, 0), 2_000_000.0, 0.0)
    late = run.latencies_s["c"] - 1.0
    alone = late < 1.0 - 1e-6  # served without waiting for others
    expected = 1 - math.exp(-2 * rate * length)
    assert float((late[alone] > 1e-6).mean()) == pytest.approx(expected, abs=0.02)


def test_a_stall_sends_a_burst(station: MakeStation, single: Make) -> None:
    """What came in a second of standing still waits for one another, and so does what comes until they are served."""
    busy = single(station("s", "s", [(1, 0.005)]), 100.0, Arrivals(process="deterministic"))
    run = replicate(dataclasses.replace(busy, stalls=Stalls(0.01, (1.0,))), Chance(0, 0), 1000.0, 0.0)
    latencies = run.latencies_s["c"]
    stalls = int(np.sum(np.diff(latencies) > 0.5))
    assert stalls > 3
    # 100 requests at 200 a second while 100 a second come: the queue is gone after another second.
    assert float((latencies > 0.0055).mean() * len(latencies)) == pytest.approx(200 * stalls, rel=0.05)


def test_a_bounded_queue_sheds_as_erlang_says(station: MakeStation, single: Make) -> None:
    """M/M/1/K with K - 1 places to wait: what finds K in the system is shed."""
    rho, places = 0.9, 4
    bounded = dataclasses.replace(station("s", "s", [(1, S)], cv=1.0), queue_limit=places - 1)
    found = simulate(single(bounded, rho / S, limit_s=0.0314), effort=Effort(400_000, beyond=40))
    blocked = (1 - rho) * rho**places / (1 - rho ** (places + 1))
    seen = found.streams["c"]
    assert seen.unanswered / seen.requests == pytest.approx(blocked, rel=0.05)
    assert found.stations["s"].shed == seen.unanswered
    assert found.stations["s"].utilisation == pytest.approx(rho * (1 - blocked), rel=0.02)
    # Shed requests are late, whatever the limit; the percentiles of the rest know nothing of them.
    assert found.verdict == "missed"
    assert math.isinf(seen.latency_slo_s.value if seen.latency_slo_s else 0.0)
    assert seen.late is not None
    assert seen.late.value >= blocked * 0.9
    assert seen.latency_p99_s.value < 0.2


def test_a_bounded_queue_is_never_unstable_and_spares_what_is_below(station: MakeStation, chain: Make) -> None:
    first = dataclasses.replace(station("a", "a", [(1, S)], cv=1.0), queue_limit=5)
    network = chain([first, station("b", "b", [(1, 0.9 * S)])], [ONE], {"c": 200.0})
    assert network.unstable() == ()
    found = simulate(network, effort=Effort(100_000))
    assert found.streams["c"].unanswered / found.streams["c"].requests == pytest.approx(0.5, abs=0.03)
    assert found.stations["b"].utilisation == pytest.approx(0.9, abs=0.03)


def test_deadlines_go_first(station: MakeStation, chain: Make) -> None:
    """Two classes at one server: by deadline the urgent one waits less, the patient one longer."""
    results = {}
    for order in ("fifo", "edf"):
        served = dataclasses.replace(station("a", "a", [(1, S)], cv=1.0), order=order)
        network = chain([served], [], {"x": 40.0, "y": 40.0})
        x, y = network.streams
        network = dataclasses.replace(network, streams=(dataclasses.replace(x, limit_s=0.05), y))
        results[order] = simulate(network, effort=Effort(300_000, 40)).streams
    assert results["edf"]["x"].latency_p99_s.value < 0.6 * results["fifo"]["x"].latency_p99_s.value
    assert results["edf"]["y"].latency_mean_s.value > results["fifo"]["y"].latency_mean_s.value


def test_a_job_is_done_with_the_last_of_its_requests(station: MakeStation, single: Make) -> None:
    """Jobs of 6 at two replicas, so seldom that they never meet: three rounds of 1 s."""
    network = single(station("s", "s", [(1, 1.0)], n=2), 0.006, limit_s=3.5)
    jobs = dataclasses.replace(network.streams[0], job_size=6)
    found = simulate(dataclasses.replace(network, streams=(jobs,)), effort=Effort(30_000)).streams["c"]
    assert found.latency_p50_s.value == pytest.approx(3.0)
    assert found.verdict == "met"
    assert found.requests < 30_000 / 6


def test_about_as_many_requests_as_are_said_do_decide(station: MakeStation, single: Make) -> None:
    network = single(station("s", "s", [(1, S)], cv=1.0), 0.5 / S, limit_s=0.97 * math.log(100) * S / 0.5)
    before = simulate(network, 3, Effort(40_000))
    seen = before.streams["c"]
    assert seen.verdict == "undecided"
    assert seen.requests_to_decide is not None
    assert 0 < seen.requests_to_decide < 10**7
    after = simulate(network, 3, Effort(80_000 + 4 * seen.requests_to_decide)).streams["c"]
    assert after.verdict == "missed"
    assert after.requests_to_decide is None


def test_a_day_is_seen_whole_and_its_peak_counts(station: MakeStation, single: Make) -> None:
    def day(period_s: float, peak: float) -> Arrivals:
        return Arrivals(process="diurnal", period_s=period_s, peak_factor=peak)

    served = station("s", "s", [(1, S)], cv=1.0)
    short = simulate(single(served, 50.0, day(300.0, 1.5)), effort=Effort(600_000, 40))
    assert short.counted_s % 300 == pytest.approx(0)
    assert short.notes == ()
    long = simulate(single(served, 50.0, day(86_400.0, 1.5)), effort=Effort(600_000, 40))
    assert long.counted_s < 86_400
    assert "days go by in" in long.notes[0]
    # Queues settle within seconds: a quick day has the tails of a slow one.
    assert long.streams["c"].latency_p99_s.value == pytest.approx(short.streams["c"].latency_p99_s.value, rel=0.15)
    overloaded = simulate(single(served, 60.0, day(86_400.0, 1.8)), effort=Effort(200_000))
    assert overloaded.unstable == ("s: 108 calls/s reach it at the peak, its capacity is 100",)


def test_a_trace_is_replayed_as_it_is(station: MakeStation, single: Make) -> None:
    times = np.sort(np.random.default_rng(0).uniform(0, 100.0, 4000))
    trace = Trace(100.0, times, np.zeros(1), np.zeros(0, np.int64), "")
    network = traced(single(station("s", "s", [(1, S)]), 1.0), "c", trace)
    found = simulate(network, effort=Effort(400_000, 40))
    assert found.counted_s % 100.0 == pytest.approx(0)
    assert found.streams["c"].requests == found.replications * 40 * found.counted_s
    # Nothing else is random: the waits are those of the recursion of Lindley over the trace, twice over.
    free, waits = 0.0, []
    for at in np.concatenate([times, times + 100.0]):
        waits.append(max(free - at, 0.0))
        free = max(free, at) + S
    assert found.streams["c"].latency_mean_s.value == pytest.approx(np.mean(waits[4000:]) + S, rel=1e-6)
    part = simulate(network, effort=Effort(20_000))
    assert "entered at random" in part.notes[0]


def test_loops_are_compiled_where_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "numba", raising=False)
    assert not loops(1000).compiled
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not loops(10**8).compiled


def test_a_batch_takes_longer_by_the_stalls_of_its_replica(station: MakeStation, single: Make) -> None:
    """Stalls of length d come at rate r. A call that is served for w meets r w of them, and one may be on when it
    comes: it is late by r d (w + d / 2), and by the wait of an M/D/1 queue."""
    stalls_hz, length, took, rate = 0.05, 0.2, 1.0, 0.005
    plain = station("s", "s", [(1, took)])
    assert plain.service is not None
    service = dataclasses.replace(plain.service, replica_stalls=(length,) * 5, watched_s=5 / stalls_hz)
    run = replicate(single(dataclasses.replace(plain, service=service), rate), Chance(0, 0), 4_000_000.0, 0.0)
    late = run.latencies_s["c"] - took
    expected = stalls_hz * length * (took + length / 2) + rate * took**2 / 2
    assert float(late.mean()) == pytest.approx(expected, rel=0.1)
