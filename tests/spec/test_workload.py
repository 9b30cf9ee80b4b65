"""The workload's graph and its JSON Schema."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from inferplan.spec.schemas import json_schema
from inferplan.spec.workload import FanOut, Pipeline


def pipeline(count: int, edges: list[tuple[int, int]]) -> Pipeline:
    stages = {f"s{i}": {"variants": {"none": {"runtime": "skip"}}} for i in range(count)}
    return Pipeline.model_validate(
        {"stages": stages, "edges": [{"from": f"s{a}", "to": f"s{b}"} for a, b in sorted(set(edges))]}
    )


@st.composite
def dags(draw: st.DrawFn) -> Pipeline:
    count = draw(st.integers(1, 6))
    pairs = [(a, b) for a in range(count) for b in range(a + 1, count)]
    return pipeline(count, draw(st.lists(st.sampled_from(pairs), max_size=8)) if pairs else [])


@given(dags())
def test_order_puts_every_stage_after_what_feeds_it(graph: Pipeline) -> None:
    place = {name: index for index, name in enumerate(graph.order())}
    assert set(place) == set(graph.stages)
    assert all(place[edge.source] < place[edge.target] for edge in graph.edges)


@given(dags())
def test_paths_lead_from_entry_to_last_along_edges(graph: Pipeline) -> None:
    edges = {(edge.source, edge.target) for edge in graph.edges}
    for path in graph.paths():
        assert path[0] in graph.entry_stages()
        assert path[-1] in graph.last_stages()
        assert all(pair in edges for pair in pairwise(path))
    assert {stage for path in graph.paths() for stage in path} == set(graph.stages)


def test_a_cycle_is_named() -> None:
    with pytest.raises(ValueError, match="s0, s1"):
        pipeline(2, [(0, 1), (1, 0)]).order()


def test_mean_fan_out() -> None:
    assert FanOut(values=[0, 10], weights=[1.0, 3.0]).mean == 7.5


@pytest.mark.parametrize("document", ["workload", "plan"])
def test_schemas_describe_the_documents(document: str, write_workload: Callable[..., Path]) -> None:
    schema = json_schema(document)
    assert schema["$schema"].endswith("2020-12/schema")
    assert schema["additionalProperties"] is False
    if document == "workload":
        errors = _schema_errors(schema, yaml.safe_load(write_workload().read_text()))
        assert errors == []
        assert _schema_errors(schema, {"apiVersion": "inferplan/v1", "nme": "x"}) != []


def _schema_errors(schema: dict[str, Any], data: object) -> list[str]:
    jsonschema = pytest.importorskip("jsonschema")
    return [error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(data)]
