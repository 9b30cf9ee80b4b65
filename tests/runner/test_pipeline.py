"""Calls follow one another as a plain evaluation, stage by stage, would make them; in any order of completion."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferplan.runner.pipeline import Call, Progress, Topology
from inferplan.spec.errors import InputError
from inferplan.spec.workload import Pipeline

Route = Callable[[str, str], list[str]]


def topology(*edges: str) -> Topology:
    stages = sorted({stage for edge in edges for stage in edge.split(">")})
    return Topology.of(
        Pipeline.model_validate(
            {
                "stages": {stage: {"variants": {"v": {"runtime": "skip"}}} for stage in stages},
                "edges": [dict(zip(("from", "to"), edge.split(">"), strict=True)) for edge in edges],
            }
        )
    )


def plain(graph: Topology, route: Route) -> dict[str, list[str]]:
    """Stage by stage: all calls of a stage, in order, before any of the next; joins pair by index."""
    sent: dict[str, list[str]] = {}
    results: dict[str, list[str]] = {}
    for stage in graph.order:
        parents = graph.parents[stage]
        columns = [sent[parent] for parent in parents] or [["request"]]
        inputs = ["+".join(row) for row in zip(*columns, strict=True)]
        outputs = [route(stage, item) for item in inputs]
        if graph.following[stage]:
            sent[stage] = [item for items in outputs for item in items]
        else:
            results[stage] = [item for items in outputs for item in items]
    return results


def stepwise(graph: Topology, route: Route, rng: random.Random) -> dict[str, list[str]]:
    """Through `Progress`, completing open calls in random order."""
    progress: Progress[str] = Progress(graph)
    open_calls: list[Call[str]] = [progress.begin("request")]
    while open_calls:
        call = open_calls.pop(rng.randrange(len(open_calls)))
        open_calls += progress.complete(call.stage, call.key, route(call.stage, "+".join(call.parts)))
    assert progress.outstanding == 0
    return progress.answers()


GRAPHS = [
    # (graph, stages whose calls send exactly one item: those between a fork and its join)
    (topology("a>b"), ""),
    (topology("a>b", "b>c", "c>d"), ""),
    (topology("a>b", "a>c", "b>d", "c>d"), "bc"),
    (topology("a>b", "a>d", "b>c", "c>d", "d>e"), "bc"),
    (topology("a>b", "b>c", "b>d", "c>e", "d>f", "f>g", "e>h", "g>h", "h>i", "b>z"), "cdefg"),
]


@given(choice=st.sampled_from(GRAPHS), seed=st.integers(0, 10_000))
def test_any_order_of_completion_gives_the_answers_of_a_plain_evaluation(
    choice: tuple[Topology, str], seed: int
) -> None:
    graph, single = choice

    def route(stage: str, item: str) -> list[str]:
        wide = graph.following[stage] and stage not in single
        return [
            f"{item}.{stage}{n}" for n in range(random.Random(f"{seed} {stage} {item}").randrange(4) if wide else 1)
        ]

    assert stepwise(graph, route, random.Random(seed)) == plain(graph, route)


def test_items_are_matched_by_index_where_fan_outs_differ_on_the_way() -> None:
    graph = topology("a>b", "a>c", "b>d", "c>d")
    sizes = {("b", "request.a0"): 1, ("b", "request.a1"): 2, ("c", "request.a0"): 2, ("c", "request.a1"): 1}

    def route(stage: str, item: str) -> list[str]:
        return [f"{item}.{stage}{n}" for n in range(2 if stage == "a" else sizes.get((stage, item), 1))]

    for seed in range(20):
        answers = stepwise(graph, route, random.Random(seed))
        assert answers["d"] == [
            "request.a0.b0+request.a0.c0.d0",
            "request.a1.b0+request.a0.c1.d0",
            "request.a1.b1+request.a1.c0.d0",
        ]


def test_a_join_whose_parents_send_different_numbers_is_an_error() -> None:
    graph = topology("a>b", "a>c", "b>d", "c>d")

    def route(stage: str, item: str) -> list[str]:
        return [] if stage == "c" else [item]

    with pytest.raises(InputError, match="stage d joins items that do not match in number: 1 from b, 0 from c"):
        stepwise(graph, route, random.Random(0))


def test_a_request_that_nothing_follows_from_has_empty_results() -> None:
    progress: Progress[str] = Progress(topology("a>b", "b>c"))
    call = progress.begin("request")
    assert progress.complete(call.stage, call.key, []) == []
    assert (progress.outstanding, progress.answers()) == (0, {"c": []})
