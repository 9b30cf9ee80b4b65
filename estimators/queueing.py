"""Analytic sojourn of one station: fast enough to be asked for every option, load and number of replicas.

The station is what DESIGN calls batching: one queue; a free replica takes up to B waiting calls at once; if
fewer wait, it takes them once the oldest has waited d. Estimates propose; `simulation` disposes.

Notation: λ calls per second, in groups of K that arrive together; n replicas; s(b), σ(b) mean and standard
deviation of the service of a batch of b.

*Stability is exact*: a saturated queue always fills the batch, so capacity is n B / s(B) and the station is
stable if and only if λ is below it. (Not n max_b b / s(b): the queue does not choose its batch.)

*All busy.* Calls come in units of u = E[K] / E[⌈K / B⌉] (what one replica takes of a group). While all n
replicas are busy the queue in units behaves as the birth process of a bulk queue M/M[B/u]/n, geometric with
the root r in (0, 1) of

    λ/u + n μ = (λ/u) / r + n μ r^(B/u),        μ = 1 / s(b̄),  b̄ = u (1 - r^(B/u)) / (1 - r)

(b̄ is the mean batch taken by a replica that finishes; μ and r are found together by iteration). For B = 1
this is M/M/n with r = ρ. The probability that an arrival finds all busy follows from the balance of states below:

    π = p_n / (1 - r) / (Σ_{j<n} p_j + p_n / (1 - r)),   p_j = (λ s(u) / u)^j / j!

*Wait.* Given that all are busy the wait is taken as exponential with the bulk queue's mean 1 / (n μ (1 - r^(B/u))),
whose two parts are corrected for variability as by Pollaczek-Khinchine and Allen-Cunneen: the residual service
by (min(1, c_a²) + c_s²) / 2, the batches queued ahead by (I + c_s²) / 2, where I = E[K] (c_a² + c_K²) is the
dispersion of arrivals (E[K²] / E[K] for Poisson groups). For M/G/1 the mean wait is exact.

*Uneven arrivals.* Bursts and recorded courses change probability and mean of the wait (`unevenness`). Of several
classes with such arrivals the worst counts, the others at their mean rates. Days are taken at their peak.

*Delay.* A batch of fewer than B waits for B - u more calls, at most d; that wait overlaps with the queue's, and
the longer of the two counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from inferplan.estimators.fanout import ONE, FanOutLaw
from inferplan.estimators.service import GRID_WEIGHTS, ServiceModel, ServiceTables
from inferplan.estimators.unevenness import BurstLoad, Uneven
from inferplan.spec.arrivals import Bursts

Floats = NDArray[np.float64]
_BATCH_STEPS = 5
_ROOT_STEPS = 60
_ROBUST_STEPS = 120
ROUNDING = 1e-12
_ENDLESS = (1.0, math.inf)


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Calls that reach a station: `rate_rps` calls per second in groups of the law `group`.

    `scv` is the squared coefficient of variation of the gaps between groups: 1 for Poisson. `uneven` are the parts that
    come in bursts or as recorded, each with its share of the calls. Estimates are for the peak, `peak_factor` times the
    mean rate.
    """

    rate_rps: float
    scv: float = 1.0
    group: FanOutLaw = ONE
    uneven: tuple[tuple[float, Uneven], ...] = ()
    peak_factor: float = 1.0

    @property
    def peak_rps(self) -> float:
        """Calls per second at the peak."""
        return self.rate_rps * self.peak_factor

    def unit(self, max_batch: int) -> float:
        """Mean calls that one replica takes of an arriving group: E[K] / E[ceil(K / B)]."""
        batches = sum(math.ceil(k / max_batch) * w for k, w in zip(self.group.counts, self.group.weights, strict=True))
        return self.group.mean / batches if batches > 0 else 1.0

    def dispersion(self, unit: float) -> float:
        """Index of dispersion of arrivals, counted in units of `unit` calls."""
        if self.group.mean == 0:
            return self.scv
        size = self.group.mean / unit
        return size * (self.scv + self.group.variance / self.group.mean**2)


def capacity_rps(service: ServiceModel, max_batch: int, replicas: int) -> float:
    """Calls per second beyond which the station's queue grows without bound."""
    return replicas * service.capacity_per_s(max_batch)


@dataclass(frozen=True, slots=True)
class Demand:
    """A station to estimate, for each number of replicas in `replicas`.

    `level` is the share (0..1) of calls that the wait for a batch to fill is estimated at.
    """

    service: ServiceModel
    max_batch: int
    max_queue_delay_s: float
    replicas: tuple[int, ...]
    arrivals: Arrivals
    level: float = 0.99


@dataclass(frozen=True, slots=True)
class StationEstimate:
    """Sojourn at stations, one row per demand and number of replicas, in their order.

    Where `utilisation` is 1 or more the queue is unstable: waits are infinite.
    """

    utilisation: Floats
    """λ over capacity."""
    batch_mean: Floats
    wait_probability: Floats
    wait_mean_s: Floats
    """Mean wait of those that find all replicas busy."""
    fill_tail_s: Floats
    """Wait for a batch to fill, at the asked level."""
    fill_mean_s: Floats
    services_s: Floats
    """(rows, grid) representative service times, weighted by `GRID_WEIGHTS`, of the batches that those who waited
    travel in."""
    service_mean_s: Floats
    """Mean service of the mean batch."""

    def mean_s(self) -> Floats:
        """Mean of wait and service."""
        wait = np.where(self.wait_probability > 0, self.wait_probability * self.wait_mean_s, 0.0)
        return np.maximum(wait, self.fill_mean_s) + self.service_mean_s

    def quantile_s(self, level: float) -> Floats:
        """The `level` quantile (0..1) of wait plus service.

        Wait is 0 with probability 1 - π and else exponential: solves E_S[P(W > x - S)] = 1 - level. Between two
        representative service times S_j <= x < S_j+1 the left side is T_j + π A_j exp(-(x - S_j) / w), with T_j the
        weight of the longer ones and A_j = Σ_{i<=j} weight_i exp(-(S_j - S_i) / w): every piece has a closed form.
        """
        services = self.services_s
        known = np.isfinite(self.wait_mean_s)
        scale = np.where(known, np.maximum(self.wait_mean_s, 1e-12), 1.0)
        decay = np.exp(-np.diff(services, axis=1) / scale[:, None])
        room = 1 - level - (1 - np.cumsum(GRID_WEIGHTS))
        ahead = np.zeros(len(services))
        answer = np.zeros(len(services))
        open_ = np.ones(len(services), dtype=bool)
        for j, weight in enumerate(GRID_WEIGHTS):
            ahead = (ahead * decay[:, j - 1] if j else ahead) + weight
            if room[j] < -ROUNDING:
                continue
            left = max(float(room[j]), 0.0)
            last = j == len(GRID_WEIGHTS) - 1
            waiting = self.wait_probability * ahead
            inside = open_ if last else open_ & (waiting * decay[:, j] <= left)
            within = services[:, j] + scale * np.log(np.maximum(waiting / max(left, 1e-300), 1.0))
            answer = np.where(inside, within, answer)
            open_ = open_ & ~inside
        filled = self.fill_tail_s + self.service_quantile_s(level)
        return np.where(known, np.maximum(answer, filled), np.inf)

    def service_quantile_s(self, level: float) -> Floats:
        """The `level` quantile (0..1) of service alone."""
        middles = np.cumsum(GRID_WEIGHTS) - GRID_WEIGHTS / 2
        place = float(np.interp(level, middles, np.arange(len(middles))))
        low = min(int(place), len(middles) - 2)
        below: Floats = self.services_s[:, low] * (low + 1 - place) + self.services_s[:, low + 1] * (place - low)
        return below


class _Rows:
    """Demands laid out as arrays: one row per number of replicas, service tables end to end."""

    def __init__(self, demands: Sequence[Demand]) -> None:
        counts = [len(demand.replicas) for demand in demands]
        self.n = np.array([n for demand in demands for n in demand.replicas], dtype=np.float64)
        tables: dict[int, tuple[int, ServiceTables]] = {}
        size = 0
        for demand in demands:
            if id(demand.service) not in tables:
                tables[id(demand.service)] = size, demand.service.tables
                size += demand.service.max_batch
        self._means = np.concatenate([table.mean_s for _, table in tables.values()])
        self._variations = np.concatenate([table.std_s / table.mean_s for _, table in tables.values()])
        self._grids = np.concatenate([table.grids_s for _, table in tables.values()])
        self._starts = np.repeat([tables[id(demand.service)][0] for demand in demands], counts)
        self.level = np.repeat([demand.level for demand in demands], counts)
        self.max_batch = np.repeat([float(demand.max_batch) for demand in demands], counts)
        self.load = np.repeat([demand.arrivals.peak_rps for demand in demands], counts)
        units = [min(demand.arrivals.unit(demand.max_batch), float(demand.max_batch)) for demand in demands]
        filling = np.array([_filling(demand, unit) for demand, unit in zip(demands, units, strict=True)])
        self.unit, self.fill_tail, self.fill_mean = (np.repeat(column, counts) for column in filling.T)
        self.regularity = np.repeat([min(demand.arrivals.scv, 1.0) for demand in demands], counts)
        dispersion = [d.arrivals.dispersion(unit) for d, unit in zip(demands, filling[:, 0], strict=True)]
        self.dispersion = np.repeat(dispersion, counts)

    def _position(self, batch: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
        low = np.minimum(np.floor(batch), self.max_batch - 1)
        low = np.maximum(low, 1)
        lower = self._starts + low.astype(np.int64) - 1
        upper = np.where(self.max_batch > 1, lower + 1, lower)
        return lower, upper, batch - low

    def service(self, batch: Floats) -> Floats:
        """Mean service of a batch, row by row; straight between whole sizes, as the service model is."""
        lower, upper, part = self._position(batch)
        return self._means[lower] * (1 - part) + self._means[upper] * part

    def scv(self, batch: Floats) -> Floats:
        """Squared coefficient of variation of a batch's service."""
        lower, upper, part = self._position(batch)
        result: Floats = (self._variations[lower] * (1 - part) + self._variations[upper] * part) ** 2
        return result

    def grids(self, batch: Floats) -> Floats:
        """Representative service times of a batch."""
        lower, upper, part = self._position(batch)
        return self._grids[lower] * (1 - part)[:, None] + self._grids[upper] * part[:, None]


def estimate(demands: Sequence[Demand]) -> StationEstimate:
    """Sojourns of many stations at once: rows are every demand's numbers of replicas, in order."""
    found = _even(demands)
    return _uneven(demands, found) if any(demand.arrivals.uneven for demand in demands) else found


def _even(demands: Sequence[Demand]) -> StationEstimate:
    """The same without bursts and courses."""
    rows = _Rows(demands)
    utilisation = rows.load * rows.service(rows.max_batch) / (rows.n * rows.max_batch)
    # A load that is the capacity but for rounding has no finite wait.
    utilisation = np.where(utilisation > 1 - ROUNDING, np.maximum(utilisation, 1.0), utilisation)
    stable = utilisation < 1
    bulk = rows.max_batch / rows.unit
    arrivals = rows.load / rows.unit
    root, busy_batch = _busy(rows, arrivals, bulk)
    root = np.where(stable, root, 1.0)
    busy_service = rows.service(busy_batch)
    probability = _all_busy(arrivals * rows.service(rows.unit), rows.n, root)
    power = root**bulk
    spread = rows.scv(busy_batch)
    with np.errstate(divide="ignore", invalid="ignore"):
        ahead = np.where(stable, power / (1 - power), np.inf)
        wait = busy_service / rows.n * ((rows.regularity + spread) / 2 + ahead * (rows.dispersion + spread) / 2)
        starts = arrivals * (1 - probability) + probability * root * rows.n / busy_service
        batch = np.where(rows.load > 0, rows.load / starts, rows.unit)
    batch = np.where(stable, np.clip(batch, 1.0, rows.max_batch), rows.max_batch)
    # Those in the tail have waited, and travel in the batches that form while all replicas are busy.
    tail_batch = np.where(probability > 1 - rows.level, np.maximum(batch, busy_batch), batch)
    return StationEstimate(
        utilisation,
        batch,
        np.where(stable, probability, 1.0),
        np.where(stable, wait, np.inf),
        rows.fill_tail,
        rows.fill_mean,
        rows.grids(tail_batch),
        rows.service(batch),
    )


def _uneven(demands: Sequence[Demand], even: StationEstimate) -> StationEstimate:
    """Waits with bursts and courses, row by row the worst of them at the demand's level."""
    probability, wait, services = even.wait_probability.copy(), even.wait_mean_s.copy(), even.services_s.copy()
    begin = 0
    for demand in demands:
        part = slice(begin, begin + len(demand.replicas))
        begin = part.stop
        for share, uneven in demand.arrivals.uneven:
            if isinstance(uneven, Bursts):
                found, mean, burst_s = _bursts(demand, share, uneven, even, part)
            else:
                load, left = (
                    demand.arrivals.peak_rps * share,
                    _capacities(demand) - demand.arrivals.peak_rps * (1 - share),
                )
                waits = [uneven.wait(load, c, demand.level) if c > load else (1.0, math.inf) for c in left.tolist()]
                (found, mean), burst_s = np.array(waits).T, even.services_s[part]
            worse = _tail(found, mean, demand.level) > _tail(probability[part], wait[part], demand.level)
            probability[part] = np.where(worse, found, probability[part])
            wait[part] = np.where(worse, mean, wait[part])
            services[part] = np.where(worse[:, None], burst_s, services[part])
    return replace(even, wait_probability=probability, wait_mean_s=wait, services_s=services)


def _tail(probability: Floats, mean_s: Floats, level: float) -> Floats:
    """The `level` quantile of a wait."""
    with np.errstate(divide="ignore", invalid="ignore"):
        tails = np.where(probability > 1 - level, mean_s * np.log(probability / (1 - level)), 0.0)
    return np.nan_to_num(tails, nan=0.0, posinf=np.inf)


def _capacities(demand: Demand) -> Floats:
    return np.array([capacity_rps(demand.service, demand.max_batch, n) for n in demand.replicas])


def _bursts(
    demand: Demand, share: float, bursts: Bursts, even: StationEstimate, part: slice
) -> tuple[Floats, Floats, Floats]:
    """Probability and mean of the wait of a demand, a share of whose calls comes in bursts; service times in them."""
    arrivals, capacity = demand.arrivals, _capacities(demand)
    loads = [arrivals.peak_rps * (1 - share + share * factor) for factor in (bursts.high, bursts.low)]
    states = [_even([replace(demand, arrivals=Arrivals(load, arrivals.scv, arrivals.group))]) for load in loads]
    spread = (demand.service.std_s(demand.max_batch) / demand.service.mean_s(demand.max_batch)) ** 2
    # What one replica serves at once counts as one: in full batches, service varies by batches.
    one = np.ones(len(capacity))
    load = BurstLoad(
        loads[0] / capacity, loads[1] / capacity, 1 / (bursts.high_s * capacity), 1 / (bursts.low_s * capacity),
        one * arrivals.dispersion(1.0), one * spread * demand.max_batch,
    )  # fmt: skip
    stable = even.utilisation[part] < 1
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        probability = load.probability(states[0].wait_probability, states[1].wait_probability)
        wait = even.wait_mean_s[part] * load.longer()
    return np.where(stable, probability, 1.0), np.where(stable, wait, np.inf), states[0].services_s


def _filling(demand: Demand, unit: float) -> tuple[float, float, float]:
    """Mean batch of a lightly loaded station that waits to fill, and the wait of the batch's oldest call
    (at the demand's level), and the mean wait over the calls of the batch."""
    missing, load, delay = demand.max_batch - unit, demand.arrivals.peak_rps, demand.max_queue_delay_s
    if delay <= 0 or missing <= 0:
        return unit, 0.0, 0.0
    if load <= 0:
        return unit, delay, delay
    expected = missing / load
    slow = expected + max(NormalDist().inv_cdf(demand.level), 0.0) * math.sqrt(missing) / load
    filled = min(float(demand.max_batch), unit + load * min(delay, expected))
    # The later a call joins the batch, the less it waits: on average those that join wait half.
    return filled, min(delay, slow), min(delay, expected) * (filled + unit) / (2 * filled)


def _busy(rows: _Rows, arrivals: Floats, bulk: Floats) -> tuple[Floats, Floats]:
    """Root r and mean batch of stations whose replicas are all busy; `arrivals` in units per second."""
    batch = rows.max_batch
    root = np.zeros_like(batch)
    # From full batches downwards: each pass gives a smaller batch, a shorter service, a smaller root.
    for _ in range(_BATCH_STEPS):
        root = _root(arrivals * rows.service(batch) / rows.n, bulk)
        with np.errstate(divide="ignore", invalid="ignore"):
            taken = np.where(root < 1, (1 - root**bulk) / (1 - root), bulk)
        batch = np.clip(rows.unit * taken, 1.0, rows.max_batch)
    return root, batch


def _root(ratio: Floats, bulk: Floats) -> Floats:
    """r in (0, 1) with ratio (1 - r) = r (1 - r^bulk): the bulk queue's geometric decay; 1 where unstable."""
    # r^(bulk + 1) - (1 + ratio) r + ratio is convex and falls from r = 0 to its root: Newton never passes it.
    root = np.zeros_like(ratio)
    for _ in range(_ROOT_STEPS):
        power = root**bulk
        step = (root * (power - 1) + ratio * (1 - root)) / np.maximum(1 + ratio - (bulk + 1) * power, 1e-12)
        root = np.clip(root + step, 0.0, 1.0)
        if float(np.max(np.where(ratio < bulk, step, 0.0), initial=0.0)) < ROUNDING:
            break
    root = np.where(bulk == 1, ratio, root)
    return np.where(ratio < bulk, root, 1.0)


def _all_busy(offered: Floats, n: Floats, root: Floats) -> Floats:
    """Probability that an arrival finds all n replicas busy; `offered` is the mean number busy if none waited.

    Erlang B by its recursion, which does not overflow; then states at and beyond n weigh 1 / (1 - r).
    """
    blocked = np.ones_like(n)
    for j in range(1, int(n.max(initial=0)) + 1):
        blocked = np.where(n >= j, offered * blocked / (j + offered * blocked), blocked)
    with np.errstate(divide="ignore", invalid="ignore"):
        tail = blocked / (1 - root)
        return np.where(root < 1, tail / (1 - blocked + tail), 1.0)
