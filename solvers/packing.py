"""Which replicas stand on which machine: an exact answer, not an aggregate one.

`pack` finds the fewest machines of one type that hold all replicas. First-fit decreasing in several orders gives
an upper bound, aggregate capacities a lower one; where they differ a search over maximal fillings of one
machine after the other, with memory of what failed, closes the gap. The search has a limit; beyond it the
answer says that it is not proven.

An item may limit how many of it one machine holds (`most`), and some items may not share a machine at all (`apart`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from inferplan.estimators.cost import Capacity, fitting

SEARCH_LIMIT = 100_000
Sizes = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Item:
    """Replicas of one option."""

    name: str
    need: Capacity
    count: int
    most: int | None = None
    """How many of them one machine may hold; None: as many as fit."""


@dataclass(frozen=True)
class Packing:
    """Per machine the replicas of each option; `proven`: no packing needs fewer machines."""

    machines: tuple[dict[str, int], ...]
    proven: bool


def pack(items: Sequence[Item], machine: Capacity, apart: frozenset[frozenset[str]] = frozenset()) -> Packing:
    """Pack replicas on as few machines as possible. Every item must fit on an empty machine by itself.

    `apart`: pairs of names that may not be on one machine.
    """
    wanted = sorted((item for item in items if item.count > 0), key=lambda item: item.name)
    for item in wanted:
        if fitting(machine, item.need) < 1:
            raise ValueError(f"a replica of {item.name} does not fit on a machine")
    room = _sizes(machine, machine)
    needs = tuple(_sizes(item.need, machine) for item in wanted)
    fillings, proven = _fillings(needs, tuple(item.count for item in wanted), room, _Rules.of(wanted, apart))
    named = [{wanted[i].name: n for i, n in enumerate(filling) if n} for filling in fillings]
    return Packing(tuple(sorted(named, key=lambda filling: sorted(filling.items()))), proven)


@lru_cache(maxsize=4096)
def _fillings(
    needs: tuple[Sizes, ...], counts: tuple[int, ...], room: Sizes, rules: _Rules
) -> tuple[tuple[tuple[int, ...], ...], bool]:
    """How many of each item are on each machine, and whether that is proven to be the fewest machines.

    Plans that are looked at one after the other differ in few options, and often in none that takes other room.
    """
    least = _least(needs, counts, room, rules)
    best: list[tuple[int, ...]] | None = None
    for order in _orders(needs, room):
        found = _first_fit(needs, counts, room, order, rules)
        best = found if best is None or len(found) < len(best) else best
        if len(best) <= least:
            break
    assert best is not None
    search = _Search(needs, room, rules)
    for machines in range(least, len(best)):
        closer = search.fits(counts, machines)
        if closer is not None:
            return tuple(closer), True
        if search.exhausted():
            return tuple(best), False
    return tuple(best), True


@dataclass(frozen=True)
class _Rules:
    """By item: how many one machine holds at most, and which other items may not be there."""

    most: tuple[int, ...]
    apart: tuple[frozenset[int], ...]

    @classmethod
    def of(cls, items: Sequence[Item], apart: frozenset[frozenset[str]]) -> _Rules:
        most = tuple(item.count if item.most is None else item.most for item in items)
        strangers = [
            frozenset(j for j, other in enumerate(items) if j != i and frozenset({item.name, other.name}) in apart)
            for i, item in enumerate(items)
        ]
        return cls(most, tuple(strangers))

    def allow(self, index: int, filling: Sequence[int]) -> int:
        """How many more of an item these rules let onto a machine."""
        if any(filling[other] for other in self.apart[index]):
            return 0
        return max(self.most[index] - filling[index], 0)


def _sizes(need: Capacity, machine: Capacity) -> Sizes:
    memory = (need.memory_bytes or 0) if machine.memory_bytes is not None else 0
    gpu_memory = (need.gpu_memory_bytes or 0) if machine.gpu_memory_bytes is not None else 0
    return need.cores, memory, need.gpus, gpu_memory


def _fits(size: Sizes, room: Sizes) -> bool:
    return size[0] <= room[0] and size[1] <= room[1] and size[2] <= room[2] and size[3] <= room[3]


def _take(room: Sizes, size: Sizes, times: int = 1) -> Sizes:
    return (
        room[0] - size[0] * times,
        room[1] - size[1] * times,
        room[2] - size[2] * times,
        room[3] - size[3] * times,
    )


def _most(size: Sizes, room: Sizes) -> int:
    """How many of one size fit."""
    return min(r // s for s, r in zip(size, room, strict=True) if s)


def _orders(needs: Sequence[Sizes], room: Sizes) -> Iterator[list[int]]:
    """Orders to try: largest first by share of a machine, in each dimension."""
    shares = [[s / r if r else 0.0 for s, r in zip(need, room, strict=True)] for need in needs]
    for key in (max, sum, lambda s: s[0], lambda s: s[1]):
        yield sorted(range(len(needs)), key=lambda i, key=key: (-key(shares[i]), i))  # type: ignore[misc]


def _first_fit(
    needs: Sequence[Sizes], counts: Sequence[int], room: Sizes, order: Sequence[int], rules: _Rules
) -> list[tuple[int, ...]]:
    left: list[Sizes] = []
    filled: list[list[int]] = []
    for index in order:
        remaining = counts[index]
        for machine, free in enumerate(left):
            times = min(_most(needs[index], free), remaining, rules.allow(index, filled[machine]))
            left[machine] = _take(free, needs[index], times)
            filled[machine][index] += times
            remaining -= times
        while remaining:
            times = min(_most(needs[index], room), remaining, rules.most[index])
            left.append(_take(room, needs[index], times))
            filled.append([times if i == index else 0 for i in range(len(needs))])
            remaining -= times
    return [tuple(filling) for filling in filled]


def _least(needs: Sequence[Sizes], counts: Sequence[int], room: Sizes, rules: _Rules) -> int:
    """A lower bound: aggregate need in each dimension, and items of which only k fit on a machine."""
    bound = max((-(-count // most) for count, most in zip(counts, rules.most, strict=True) if count), default=0)
    for dimension in range(4):
        if not room[dimension]:
            continue
        total = sum(need[dimension] * count for need, count in zip(needs, counts, strict=True))
        bound = max(bound, -(-total // room[dimension]))
        per_machine = [room[dimension] // need[dimension] if need[dimension] else 0 for need in needs]
        for most in sorted(set(per_machine) - {0}):
            bulky = sum(count for count, per in zip(counts, per_machine, strict=True) if 0 < per <= most)
            bound = max(bound, -(-bulky // most))
    return bound


class _Search:
    """Depth-first search for a packing into a given number of machines."""

    def __init__(self, needs: Sequence[Sizes], room: Sizes, rules: _Rules) -> None:
        self.needs = needs
        self.room = room
        self.rules = rules
        self.order = sorted(range(len(needs)), key=lambda i: (-max(self._shares(i)), i))
        self.failed: dict[tuple[int, ...], int] = {}
        self.steps = 0

    def exhausted(self) -> bool:
        """Whether the limit ended the search."""
        return self.steps > SEARCH_LIMIT

    def _shares(self, index: int) -> list[float]:
        return [s / r if r else 0.0 for s, r in zip(self.needs[index], self.room, strict=True)]

    def fits(self, counts: tuple[int, ...], machines: int) -> list[tuple[int, ...]] | None:
        """Fillings of at most `machines` machines that hold everything; None where there are none, or none found."""
        if not any(counts):
            return []
        self.steps += 1
        if self.exhausted() or machines <= self.failed.get(counts, -1):
            return None
        if _least(self.needs, counts, self.room, self.rules) > machines:
            return None
        largest = next(index for index in self.order if counts[index])
        for filling in self._fillings(counts, largest):
            rest = self.fits(tuple(c - f for c, f in zip(counts, filling, strict=True)), machines - 1)
            if rest is not None:
                return [filling, *rest]
            if self.exhausted():
                return None
        self.failed[counts] = max(machines, self.failed.get(counts, -1))
        return None

    def _fillings(self, counts: tuple[int, ...], largest: int) -> Iterator[tuple[int, ...]]:
        """Maximal fillings of one machine that hold at least one of the largest item."""
        chosen = [0] * len(counts)

        def fill(position: int, room: Sizes) -> Iterator[tuple[int, ...]]:
            if position == len(self.order):
                open_ = any(
                    counts[i] > chosen[i] and _fits(self.needs[i], room) and self.rules.allow(i, chosen)
                    for i in self.order
                )
                if not open_:
                    yield tuple(chosen)
                return
            index = self.order[position]
            most = min(counts[index], _most(self.needs[index], room), self.rules.allow(index, chosen))
            for times in range(most, -1 if index != largest else 0, -1):
                chosen[index] = times
                yield from fill(position + 1, _take(room, self.needs[index], times))
            chosen[index] = 0

        yield from fill(0, self.room)
