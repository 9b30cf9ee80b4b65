"""Which way a request goes: by shares, and in whole numbers where a class has jobs."""

from __future__ import annotations

from collections import Counter

import pytest

from inferplan.runner.ways import Ways
from inferplan.spec.plan import Choice, ClassPlan, ClassPrediction, Mixture


def traffic(weights: dict[str, float], requests: dict[str, int] | None = None) -> ClassPlan:
    counts = requests or {}
    return ClassPlan(
        rate_rps=10.0,
        job_requests=sum(counts.values()) or None,
        routes={stage: [Choice(option=f"{stage}-{v}", share=w) for v, w in weights.items()] for stage in ("a", "b")},
        mixtures=[
            Mixture(share=w, requests=counts.get(v), routes={stage: f"{stage}-{v}" for stage in ("a", "b")})
            for v, w in weights.items()
        ],
        predicted=ClassPrediction(throughput_rps=10.0),
    )


def test_shares_are_drawn_and_stages_go_together() -> None:
    ways = Ways({"web": traffic({"x": 0.3, "y": 0.7})}, seed=1)
    drawn = [ways.begin("web") for _ in range(4000)]
    assert all(way is not None and way["a"][-1] == way["b"][-1] for way in drawn)
    assert sum(way is not None and way["a"] == "a-x" for way in drawn) / 4000 == pytest.approx(0.3, abs=0.03)
    again = Ways({"web": traffic({"x": 0.3, "y": 0.7})}, seed=1)
    assert [again.begin("web") for _ in range(50)] == drawn[:50]


def test_of_every_job_so_many_requests_go_each_way() -> None:
    ways = Ways({"album": traffic({"x": 0.25, "y": 0.75}, {"x": 1, "y": 3})}, seed=0)
    for _ in range(5):
        job = Counter((ways.begin("album") or {})["a"] for _ in range(4))
        assert job == {"a-x": 1, "a-y": 3}


def test_a_class_that_goes_one_way_has_none_to_draw() -> None:
    assert Ways({}, 0).begin("web") is None
