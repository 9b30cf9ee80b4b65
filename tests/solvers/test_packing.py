"""Packing: fewest machines, really fitting."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inferplan.estimators.cost import Capacity
from inferplan.solvers.packing import Item, pack

MACHINE = Capacity(8, 100, 1)


def fewest(sizes: tuple[tuple[int, int, int], ...], machine: Capacity) -> int:
    """By trying every assignment of single replicas."""
    room = (machine.cores, machine.memory_bytes or 10**9, machine.gpus)

    @cache
    def fits(left: tuple[tuple[int, int, int], ...], rooms: tuple[tuple[int, int, int], ...]) -> bool:
        if not left:
            return True
        first, rest = left[0], left[1:]
        for index in range(len(rooms)):
            if index and rooms[index] == rooms[index - 1]:
                continue
            after = tuple(r - s for r, s in zip(rooms[index], first, strict=True))
            if min(after) >= 0:
                changed = tuple(sorted((*rooms[:index], after, *rooms[index + 1 :])))
                if fits(rest, changed):
                    return True
        return False

    return next(count for count in range(len(sizes) + 1) if fits(sizes, (room,) * count))


needs = st.builds(Capacity, st.integers(1, 8), st.integers(1, 100), st.sampled_from([0, 0, 1]))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(needs, st.integers(0, 3)), max_size=4), st.integers(1, 4))
def test_as_few_machines_as_exhaustive_search(wanted: list[tuple[Capacity, int]], gpus: int) -> None:
    machine_type = replace(MACHINE, gpus=gpus)
    items = [Item(f"o{index}", need, count) for index, (need, count) in enumerate(wanted)]
    packing = pack(items, machine_type)
    assert packing.proven
    singles = sorted((n.cores, n.memory_bytes or 0, n.gpus) for n, count in wanted for _ in range(count))
    assert len(packing.machines) == fewest(tuple(reversed(singles)), machine_type)
    for machine in packing.machines:
        for dimension in ("cores", "memory_bytes", "gpus"):
            used = sum(count * getattr(items[int(name[1:])].need, dimension) for name, count in machine.items())
            assert used <= getattr(machine_type, dimension)
    for item in items:
        assert sum(machine.get(item.name, 0) for machine in packing.machines) == item.count


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(0, 3), st.sampled_from([None, 1, 2])), min_size=1, max_size=3),
    st.sets(st.sampled_from([("o0", "o1"), ("o0", "o2"), ("o1", "o2")])),
)
def test_limits_per_machine_and_strangers_are_kept(
    wanted: list[tuple[int, int, int | None]], pairs: set[tuple[str, str]]
) -> None:
    """As few machines as trying every way to put the replicas into groups."""
    items = [Item(f"o{i}", Capacity(cores), count, most) for i, (cores, count, most) in enumerate(wanted)]
    apart = frozenset(frozenset(pair) for pair in pairs)
    packing = pack(items, Capacity(6), apart)

    def allowed(machine: dict[str, int]) -> bool:
        by_name = {item.name: item for item in items}
        cores = sum(by_name[name].need.cores * count for name, count in machine.items())
        few = all(count <= (by_name[name].most or count) for name, count in machine.items())
        return cores <= 6 and few and not any(pair <= machine.keys() for pair in apart)

    def least(left: list[str], machines: list[dict[str, int]], best: int) -> int:
        if len(machines) >= best:
            return best
        if not left:
            return len(machines)
        for index in range(len(machines) + 1):
            extended = [dict(machine) for machine in machines] + ([{}] if index == len(machines) else [])
            extended[index][left[0]] = extended[index].get(left[0], 0) + 1
            if allowed(extended[index]):
                best = min(best, least(left[1:], extended, best))
        return best

    singles = [item.name for item in items for _ in range(item.count)]
    assert packing.proven
    assert all(allowed(machine) for machine in packing.machines)
    assert len(packing.machines) == least(singles, [], len(singles) + 1 if singles else 1) if singles else True
    for item in items:
        assert sum(machine.get(item.name, 0) for machine in packing.machines) == item.count


def test_where_first_fit_fails_the_search_does_not() -> None:
    """Aggregate cores say 2 machines of 10, first fit decreasing takes 3."""
    items = [Item("a", Capacity(6), 1), Item("b", Capacity(4), 1), Item("c", Capacity(5), 2)]
    assert len(pack(items, Capacity(10)).machines) == 2
    tricky = [Item("a", Capacity(4), 2), Item("b", Capacity(3), 4)]
    assert len(pack(tricky, Capacity(10)).machines) == 2


def test_aggregate_capacity_lies() -> None:
    assert len(pack([Item("a", Capacity(3), 4)], Capacity(4)).machines) == 4


def test_order_of_items_changes_nothing() -> None:
    items = [Item("b", Capacity(3), 3), Item("a", Capacity(2), 4), Item("c", Capacity(5), 1)]
    assert pack(items, MACHINE) == pack(items[::-1], MACHINE)


def test_many_replicas_are_quick() -> None:
    packing = pack([Item("a", Capacity(1), 900), Item("b", Capacity(2), 300)], Capacity(7))
    assert len(packing.machines) == -(-1500 // 7)


def test_what_fits_nowhere_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        pack([Item("a", Capacity(9), 1)], MACHINE)
