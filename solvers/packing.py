"""Which replicas stand on which machine: an exact answer, not an aggregate one.

`pack` finds the fewest machines of one type that hold all replicas. First-fit decreasing in several orders gives
an upper bound, aggregate capacities a lower one; where they differ a search over maximal fillings of one
machine after the other, with memory of what failed, closes the gap. The search has a limit; beyond it the
answer says that it is not proven.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from inferplan.estimators.cost import Capacity, fitting

SEARCH_LIMIT = 100_000
Sizes = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Item:
    """Replicas of one option."""

    name: str
    need: Capacity
    count: int


@dataclass(frozen=True)
class Packing:
    """Per machine the replicas of each option; `proven`: no packing needs fewer machines."""

    machines: tuple[dict[str, int], ...]
    proven: bool


def pack(items: Sequence[Item], machine: Capacity) -> Packing:
    """Pack replicas on as few machines as possible. Every item must fit on an empty machine by itself."""
    wanted = sorted((item for item in items if item.count > 0), key=lambda item: item.name)
    for item in wanted:
        if fitting(machine, item.need) < 1:
            raise ValueError(f"a replica of {item.name} does not fit on a machine")
    room = _sizes(machine, machine)
    needs = [_sizes(item.need, machine) for item in wanted]
    counts = tuple(item.count for item in wanted)
    best = min((_first_fit(needs, counts, room, order) for order in _orders(needs, room)), key=len, default=[])
    least = _least(needs, counts, room)
    proven = True
    search = _Search(needs, room)
    for machines in range(least, len(best)):
        found = search.fits(counts, machines)
        if found is not None:
            best = found
            break
        if search.exhausted():
            proven = False
            break
    named = [{wanted[i].name: n for i, n in enumerate(filling) if n} for filling in best]
    return Packing(tuple(sorted(named, key=lambda filling: sorted(filling.items()))), proven)


def _sizes(need: Capacity, machine: Capacity) -> Sizes:
    memory = (need.memory_bytes or 0) if machine.memory_bytes is not None else 0
    return need.cores, memory, need.gpus


def _fits(size: Sizes, room: Sizes) -> bool:
    return size[0] <= room[0] and size[1] <= room[1] and size[2] <= room[2]


def _take(room: Sizes, size: Sizes, times: int = 1) -> Sizes:
    return room[0] - size[0] * times, room[1] - size[1] * times, room[2] - size[2] * times


def _most(size: Sizes, room: Sizes) -> int:
    """How many of one size fit."""
    return min(r // s for s, r in zip(size, room, strict=True) if s)


def _orders(needs: Sequence[Sizes], room: Sizes) -> Iterator[list[int]]:
    """Orders to try: largest first by share of a machine, in each dimension."""
    shares = [[s / r if r else 0.0 for s, r in zip(need, room, strict=True)] for need in needs]
    for key in (max, sum, lambda s: s[0], lambda s: s[1]):
        yield sorted(range(len(needs)), key=lambda i, key=key: (-key(shares[i]), i))  # type: ignore[misc]


def _first_fit(
    needs: Sequence[Sizes], counts: Sequence[int], room: Sizes, order: Sequence[int]
) -> list[tuple[int, ...]]:
    left: list[Sizes] = []
    filled: list[list[int]] = []
    for index in order:
        remaining = counts[index]
        for machine, free in enumerate(left):
            times = min(_most(needs[index], free), remaining)
            left[machine] = _take(free, needs[index], times)
            filled[machine][index] += times
            remaining -= times
        while remaining:
            times = min(_most(needs[index], room), remaining)
            left.append(_take(room, needs[index], times))
            filled.append([times if i == index else 0 for i in range(len(needs))])
            remaining -= times
    return [tuple(filling) for filling in filled]


def _least(needs: Sequence[Sizes], counts: Sequence[int], room: Sizes) -> int:
    """A lower bound: aggregate need in each dimension, and items of which only k fit on a machine."""
    bound = 0
    for dimension in range(3):
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

    def __init__(self, needs: Sequence[Sizes], room: Sizes) -> None:
        self.needs = needs
        self.room = room
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
        if _least(self.needs, counts, self.room) > machines:
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
                open_ = any(counts[i] > chosen[i] and _fits(self.needs[i], room) for i in self.order)
                if not open_:
                    yield tuple(chosen)
                return
            index = self.order[position]
            most = min(counts[index], _most(self.needs[index], room))
            for times in range(most, -1 if index != largest else 0, -1):
                chosen[index] = times
                yield from fill(position + 1, _take(room, self.needs[index], times))
            chosen[index] = 0

        yield from fill(0, self.room)
