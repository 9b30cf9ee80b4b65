"""A request's way through the pipeline: which calls follow from which, and when the answer is whole.

Pure logic: no processes, no clock. Items are opaque (the router passes blobs, tests may pass anything).

**Order.** A call has a key, a tuple of positions: the entry call has the empty key; a call that sends exactly
one item on gives it its own key, one that sends several appends the position. Sorted keys are the order of
calls that a plain evaluation, stage by stage, would make.

**Joins.** A stage with several parents is called once per key, with the item of every parent for that key, as
soon as the last of them is there. Keys agree where the parents' calls descend one to one from the same fan-out.
Items that are still without partners when nothing else is under way are matched by their index in call order;
different numbers of them are an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from inferplan.spec.errors import InputError
from inferplan.spec.workload import Pipeline

Item = TypeVar("Item")
Key = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Topology:
    """The DAG, as the router needs it. `order` has each stage after those that feed it."""

    order: tuple[str, ...]
    entry: str
    following: dict[str, tuple[str, ...]]
    parents: dict[str, tuple[str, ...]]

    @classmethod
    def of(cls, pipeline: Pipeline) -> Topology:
        """The topology of a workload's pipeline. Raises InputError unless requests enter at one stage."""
        entries = pipeline.entry_stages()
        if len(entries) != 1:
            raise InputError(f"requests enter at one stage; without an edge leading to them: {', '.join(entries)}")
        edges = pipeline.edges
        return cls(
            tuple(pipeline.order()),
            entries[0],
            {name: tuple(edge.target for edge in edges if edge.source == name) for name in pipeline.stages},
            {name: tuple(edge.source for edge in edges if edge.target == name) for name in pipeline.stages},
        )

    def joins(self, stage: str) -> tuple[str, ...]:
        """The parents of a stage that joins several; empty for the others."""
        parents = self.parents[stage]
        return parents if len(parents) > 1 else ()


class Call(NamedTuple, Generic[Item]):
    """A call of a stage that is ready to be made. `parts` is the item, or one item per joined parent."""

    stage: str
    key: Key
    parts: tuple[Item, ...]


class Progress(Generic[Item]):
    """How far one request has come."""

    __slots__ = ("_joining", "_results", "_topology", "outstanding")

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        self._results: list[tuple[str, Key, Item]] = []
        self._joining: dict[str, dict[Key, dict[str, Item]]] = {}
        self.outstanding = 0
        """Calls handed out and not yet completed; the request is done when there are none."""

    def begin(self, item: Item) -> Call[Item]:
        """The first call."""
        self.outstanding = 1
        return Call(self._topology.entry, (), (item,))

    def complete(self, stage: str, key: Key, outputs: Sequence[Item]) -> list[Call[Item]]:
        """Note what a call sent on (at a last stage: its prediction); the calls that are now ready.

        Raises InputError where the items of a join's parents do not match.
        """
        self.outstanding -= 1
        following = self._topology.following[stage]
        if not following:
            self._results.extend((stage, key, output) for output in outputs)
        ready: list[Call[Item]] = []
        for target in following:
            joined = self._topology.joins(target)
            for position, output in enumerate(outputs):
                onward = key if len(outputs) == 1 else (*key, position)
                if not joined:
                    ready.append(Call(target, onward, (output,)))
                    continue
                items = self._joining.setdefault(target, {}).setdefault(onward, {})
                items[stage] = output
                if len(items) == len(joined):
                    del self._joining[target][onward]
                    ready.append(Call(target, onward, tuple(items[parent] for parent in joined)))
        if not ready and self.outstanding == 0 and self._joining:
            ready = self._match_rest()
        self.outstanding += len(ready)
        return ready

    def answers(self) -> dict[str, list[Item]]:
        """Predictions of the last stages, each in order of its calls."""
        ordered = sorted(self._results, key=lambda result: result[1])
        last = [stage for stage in self._topology.order if not self._topology.following[stage]]
        return {stage: [item for name, _, item in ordered if name == stage] for stage in last}

    def _match_rest(self) -> list[Call[Item]]:
        for stage in self._topology.order:
            waiting = self._joining.pop(stage, {})
            if not waiting:
                continue
            parents = self._topology.joins(stage)
            columns = {
                parent: [(key, waiting[key][parent]) for key in sorted(waiting) if parent in waiting[key]]
                for parent in parents
            }
            if len({len(column) for column in columns.values()}) > 1:
                counts = ", ".join(f"{len(column)} from {parent}" for parent, column in columns.items())
                raise InputError(f"stage {stage} joins items that do not match in number: {counts}")
            return [
                Call(stage, row[0][0], tuple(item for _, item in row)) for row in zip(*columns.values(), strict=True)
            ]
        return []
