"""Traces: arrivals as they were recorded, in a text file.

The first line that is not a comment (`#`) names what stands below, and with it the unit. Two forms:

    time_s              arrival times, rising; also time_ms, time_us, time_ns
    0.013
    0.480

    interval_s,count    how many arrived in each of intervals that follow one another
    60,312
    60,287

Times count from the beginning of the trace. A trace of times lasts until its last arrival and one mean gap more, a
trace of counts until the end of its last interval. It is replayed over and over.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inferplan.spec.errors import InputError

Floats = NDArray[np.float64]

UNITS_S = {"time_s": 1.0, "time_ms": 1e-3, "time_us": 1e-6, "time_ns": 1e-9}
COUNTS = ("interval_s", "count")
YEAR_S = 366 * 86400.0
FASTEST_RPS, SLOWEST_RPS = 1e7, 1 / 86400
"""Mean rates beyond which the unit is more likely wrong than the traffic so fast or slow."""
GAP_IN_MEANS, GAP_SHARE = 30.0, 0.02
"""A silence is a gap if it lasts this many mean gaps and this share of the trace: chance makes none so long."""
_FORMS = "expected a first line with one of time_s, time_ms, time_us, time_ns, or interval_s,count"


@dataclass(frozen=True, eq=False)
class Trace:
    """Recorded arrivals over [0, span).

    Either `times_s` has every arrival, rising; or `edges_s` [n + 1] and `counts` [n] say how many fell between
    edges, where they are spread evenly at random. `sha256` is that of the file.
    """

    span_s: float
    times_s: Floats
    edges_s: Floats
    counts: NDArray[np.int64]
    sha256: str

    @property
    def requests(self) -> int:
        """Arrivals of one pass."""
        return len(self.times_s) + int(self.counts.sum())

    @property
    def rate_rps(self) -> float:
        """Mean rate."""
        return self.requests / self.span_s

    def arrivals_s(self, rng: np.random.Generator, begin_s: float = 0.0, end_s: float = math.inf) -> Floats:
        """Arrival times of one pass in [begin, end), rising; those of counts are drawn. Of an interval that reaches
        beyond, as many as chance has within."""
        if len(self.times_s):
            first, last = np.searchsorted(self.times_s, [begin_s, end_s])
            return self.times_s[first:last]
        edges = np.clip(self.edges_s, begin_s, end_s)
        widths, counts = np.diff(edges), self.counts
        shares = widths / np.diff(self.edges_s)
        if np.any(shares < 1):
            counts = np.where(shares < 1, rng.binomial(self.counts, np.minimum(shares, 1.0)), self.counts)
        drawn = np.repeat(edges[:-1], counts) + rng.random(int(counts.sum())) * np.repeat(widths, counts)
        return np.minimum(np.sort(drawn), np.nextafter(min(self.span_s, end_s), 0.0))

    def some_s(self, each: int, rng: np.random.Generator) -> Floats:
        """The first arrival of one pass, and every `each`-th after it, without drawing the others.

        Sorted uniform numbers are sums of exponential ones over the sum of them all; of those in between only the sum
        is drawn, which has a gamma law.
        """
        if len(self.times_s) or each == 1:
            return self.arrivals_s(rng)[::each]
        ends = np.cumsum(self.counts)
        places = np.arange(0, self.requests, each)
        interval = np.searchsorted(ends, places, side="right")
        rank = places - (ends - self.counts)[interval] + 1
        first = np.append(True, np.diff(interval) > 0)
        last = np.append(first[1:], True)
        sums = np.cumsum(rng.standard_gamma(np.where(first, rank, each)))
        # From the beginning of its interval.
        before = np.append(0.0, sums)[:-1][first]
        group = np.cumsum(first) - 1
        sums -= before[group]
        whole = sums[last] + rng.standard_gamma(self.counts[interval[last]] + 1 - rank[last])
        times: Floats = self.edges_s[interval] + np.diff(self.edges_s)[interval] * (sums / whole[group])
        return np.minimum(times, np.nextafter(self.span_s, 0.0))

    def scaled(self, factor: float) -> Trace:
        """The same arrivals, `factor` times as fast."""
        return Trace(self.span_s / factor, self.times_s / factor, self.edges_s / factor, self.counts, self.sha256)

    def gaps(self) -> list[tuple[float, float]]:
        """Silences too long to be chance, as (begin, length) in seconds."""
        least = max(GAP_IN_MEANS / self.rate_rps, GAP_SHARE * self.span_s)
        if len(self.times_s):
            edges = np.concatenate([[0.0], self.times_s, [self.span_s]])
        else:
            silent = np.flatnonzero(self.counts > 0)
            # A silence reaches from the end of one interval with arrivals to the beginning of the next.
            begins = np.concatenate([[0.0], self.edges_s[silent + 1]])
            ends = np.concatenate([self.edges_s[silent], [self.span_s]])
            long = np.flatnonzero(ends - begins > least)
            return [(float(begins[i]), float(ends[i] - begins[i])) for i in long]
        long = np.flatnonzero(np.diff(edges) > least)
        return [(float(edges[i]), float(edges[i + 1] - edges[i])) for i in long]


def read_trace(path: Path) -> Trace:
    """Read a trace file. Raises InputError that names file and line for whatever is wrong with it."""
    try:
        data = path.read_bytes()
        text = data.decode("utf-8")
    except OSError as error:
        raise InputError(f"trace {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"trace {path}: not a text file") from error
    lines = [(at, line.strip()) for at, line in enumerate(text.splitlines(), 1)]
    lines = [(at, line) for at, line in lines if line and not line.startswith("#")]
    if not lines:
        raise InputError(f"trace {path} is empty: {_FORMS}, and arrivals below it")
    (at, first), rows = lines[0], lines[1:]
    titles = tuple(title.strip() for title in first.split(","))
    if titles != COUNTS and (len(titles) != 1 or titles[0] not in UNITS_S):
        raise InputError(f"trace {path}:{at}: {first[:60]!r} says no unit: {_FORMS}")
    values = _numbers(path, rows, len(titles))
    sha256 = hashlib.sha256(data).hexdigest()
    trace = (
        _of_counts(path, rows, values, sha256) if titles == COUNTS else _of_times(path, rows, values, titles[0], sha256)
    )
    _plausible(path, trace, titles[0])
    return trace


def _numbers(path: Path, rows: list[tuple[int, str]], width: int) -> Floats:
    """[rows, width] of finite, non-negative numbers."""
    if not rows:
        raise InputError(f"trace {path} has a title and no arrivals below it")
    try:
        values = np.array([line.split(",") for _, line in rows], dtype=np.float64)
    except ValueError:
        values = np.zeros((0, 0))
    if values.shape == (len(rows), width) and np.all(np.isfinite(values)) and np.all(values >= 0):
        return values
    for at, line in rows:
        cells = line.split(",")
        if len(cells) != width:
            raise InputError(f"trace {path}:{at}: {len(cells)} values, expected {width}")
        for cell in cells:
            if not _is_number(cell):
                raise InputError(f"trace {path}:{at}: {cell.strip()[:40]!r} is not a number of at least 0")
    raise AssertionError("unreachable: some row is wrong")


def _is_number(cell: str) -> bool:
    try:
        value = float(cell)
    except ValueError:
        return False
    return math.isfinite(value) and value >= 0


def _of_times(path: Path, rows: list[tuple[int, str]], values: Floats, title: str, sha256: str) -> Trace:
    times = values[:, 0] * UNITS_S[title]
    back = np.flatnonzero(np.diff(times) < 0)
    if len(back):
        at, line = rows[int(back[0]) + 1]
        raise InputError(f"trace {path}:{at}: {line} comes after {rows[int(back[0])][1]}: sort the times")
    if len(times) < 2 or times[-1] == times[0]:
        raise InputError(f"trace {path} needs arrivals at two times at least, or it has no rate")
    lasting = float(times[-1] - times[0])
    if times[0] > max(lasting, 10 * lasting / (len(times) - 1)):
        raise InputError(
            f"trace {path}:{rows[0][0]}: the first arrival comes {times[0]:.6g} s after time 0, and all others within"
            f" {lasting:.6g} s of it: times count from the beginning of the trace, so subtract when it began"
        )
    span = float(times[-1]) + lasting / (len(times) - 1)
    return Trace(span, times, np.zeros(1), np.zeros(0, dtype=np.int64), sha256)


def _of_counts(path: Path, rows: list[tuple[int, str]], values: Floats, sha256: str) -> Trace:
    lengths, counts = values[:, 0], values[:, 1]
    for index in np.flatnonzero((lengths <= 0) | (counts != np.floor(counts))).tolist():
        at, line = rows[index]
        raise InputError(f"trace {path}:{at}: {line}: expected a length above 0 in seconds, and a whole number")
    if not counts.any():
        raise InputError(f"trace {path} counts no arrivals at all")
    edges = np.concatenate([[0.0], np.cumsum(lengths)])
    return Trace(float(edges[-1]), np.zeros(0), edges, counts.astype(np.int64), sha256)


def _plausible(path: Path, trace: Trace, title: str) -> None:
    """Refuse spans and rates that speak of a wrong unit."""
    if trace.span_s > YEAR_S:
        doubt = f"it lasts {trace.span_s / 86400:.4g} days"
    elif not SLOWEST_RPS <= trace.rate_rps <= FASTEST_RPS:
        doubt = f"its mean rate is {trace.rate_rps:.4g} per second"
    else:
        return
    raise InputError(f"trace {path}: {title} is in doubt: {doubt}. Say in which unit its times are: {_FORMS}")
