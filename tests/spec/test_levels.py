"""Classes whose requests name accuracy and latency alone: what they become, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from inferplan.spec.document import load_workload
from inferplan.spec.errors import DocumentError
from inferplan.spec.levels import promise_path
from inferplan.spec.workload import Workload

Write = Callable[..., Path]
OWN = "    slo: {percentile: 99, latency_s: 0.2}\n    accuracy: {floor: 0.8}\n"
MIX = "[{accuracy: 0.8, latency_s: 0.2, weight: 3}, {accuracy: 0.9}]"


def asking(mix: str = MIX, more: str = "", percentile: str = "") -> tuple[str, str]:
    return OWN, f"    asks: {{{percentile}mix: {mix}}}\n{more}"


def load(path: Path) -> Workload:
    return load_workload(path).workload


def test_a_class_that_asks_is_one_class_for_each_thing_asked(write_workload: Write) -> None:
    workload = load(write_workload(asking(percentile="percentile: 95, ")))
    assert list(workload.classes) == ["web-1", "web-2"]
    first, second = workload.classes.values()
    assert (first.rate_rps, second.rate_rps) == (30.0, 10.0)
    assert first.slo is not None
    assert (first.slo.percentile, first.slo.latency_s, first.accuracy.floor) == (95.0, 0.2, 0.8)
    assert (second.slo, second.accuracy.floor) == (None, 0.9)
    assert (first.level_of, second.level_of) == (("web", 0), ("web", 1))


def test_other_classes_stay_as_they_are(write_workload: Write) -> None:
    edits = asking(more="  own: {rate_rps: 5}\n")
    workload = load(write_workload(edits))
    assert list(workload.classes) == ["web-1", "web-2", "own"]
    assert workload.classes["own"].level_of is None
    assert workload.root.is_absolute()


def test_overrides_are_of_what_was_written(write_workload: Write) -> None:
    path = write_workload(asking())
    sets = ["classes.web.rate_rps=8", "classes.web.asks.mix[1].weight=1", "classes.web.asks.mix[0].weight=1"]
    loaded = load_workload(path, sets)
    assert [traffic.rate_rps for traffic in loaded.workload.classes.values()] == [4.0, 4.0]


def test_promises_are_named_as_they_are_written(write_workload: Write) -> None:
    workload = load(write_workload(asking(more="  own: {rate_rps: 5, slo: {latency_s: 1}}\n")))
    assert promise_path(workload, "web-2", "accuracy.floor") == "classes.web.asks.mix[1].accuracy"
    assert promise_path(workload, "web-1", "slo.latency_s") == "classes.web.asks.mix[0].latency_s"
    assert promise_path(workload, "own", "slo.latency_s") == "classes.own.slo.latency_s"


TIERS = ("tiers:\n  edge:", "tiers:\n  far: {devices: {box: {price_usd_per_h: 1, cores: 1}}}\n  edge:")


@pytest.mark.parametrize(
    ("edits", "expected"),
    [
        ([asking("[]")], "classes.web.asks.mix: must not be empty"),
        ([asking("[{weight: 2}]")], "classes.web.asks.mix[0]: give 'accuracy', 'latency_s' or both"),
        ([asking("[{latency_s: -1}]")], "classes.web.asks.mix[0].latency_s: expected a number of seconds > 0"),
        ([asking("[{accuracy: 0.9, weight: 0}]")], "classes.web.asks.mix[0].weight: expected a number > 0"),
        ([asking("[{accuracy: 0.9}, {accuracy: 0.9}]")], "classes.web.asks.mix[1]: asks for the same as mix[0]"),
        ([asking("[{acuracy: 0.9}]")], "classes.web.asks.mix[0].acuracy: unknown field; did you mean 'accuracy'?"),
        (
            [("    accuracy: {floor: 0.8}\n", f"    asks: {{mix: {MIX}}}\n")],
            "classes.web: 'asks' says what is promised",
        ),
        ([asking(more="    kind: jobs\n    job: {requests: 2, deadline_s: 1}\n")], "classes.web: 'asks' says what"),
        ([asking(more="  web-2: {rate_rps: 1}\n")], "classes.web.asks.mix[1]: this is planned as class web-2"),
        ([asking(), ("  web:", f"  {'w' * 63}:")], "is too long a name for a class with asks"),
        (
            [asking(more="  app: {rate_rps: 1, asks: {percentile: 90, mix: [{latency_s: 1}]}}\n")],
            "classes.app.asks.percentile: class web asks at percentile 99",
        ),
        (
            [
                TIERS,
                asking(
                    more="    enters_at: edge\n  app: {rate_rps: 1, enters_at: far, asks: {mix: [{latency_s: 1}]}}\n"
                ),
            ],
            "classes.app.enters_at: class web enters at edge",
        ),
        (
            [asking(), ("accuracy:\n  metric: {name: top1}\n  composition: product\n", "")],
            "classes.web.asks.mix[0].accuracy: the workload has no 'accuracy'",
        ),
        (
            [asking(more="    arrivals: {process: gamma, cv: 2}\n")],
            "classes.web.arrivals.process: process gamma is not honoured yet for a class with asks; poisson or diurnal",
        ),
        (
            [asking(), ("    rate_rps: 40", "    trace: times.csv")],
            "classes.web.trace: traces are not honoured yet for a class with asks",
        ),
        (
            [asking(), ("apiVersion", "splitting: devices\napiVersion")],
            "classes.web.asks: classes that spread over devices have no latency promise",
        ),
        (
            [asking("[{accuracy: 95}]"), ("accuracy:\n  metric: {name: top1}", "accuracy:\n  metric: {name: acc}")],
            "classes.web.asks.mix[0].accuracy: accuracies are fractions: write 0.95 for 95 %",
        ),
    ],
)
def test_what_is_wrong_is_said_by_name(
    edits: list[tuple[str, str]], expected: str, write_workload: Write, tmp_path: Path
) -> None:
    (tmp_path / "times.csv").write_text("time_s\n0.1\n0.2\n0.3\n")
    with pytest.raises(DocumentError) as caught:
        load_workload(write_workload(*edits))
    found = [f"{problem.field}: {problem.message}" for problem in caught.value.problems]
    assert any(expected in line for line in found), found


@pytest.mark.parametrize(
    ("edits", "expected"),
    [
        ([("{floor: 0.8}", "{floor: 0.8, goal: 0.7}")], "accuracy.goal: this is worse than the floor, 0.8"),
        (
            [("{floor: 0.8}", "{goal: 0.9}"), ("accuracy:\n  metric: {name: top1}\n  composition: product\n", "")],
            "classes.web.accuracy.goal: the workload has no 'accuracy'",
        ),
    ],
)
def test_goals_that_cannot_be_honoured_are_refused(
    edits: list[tuple[str, str]], expected: str, write_workload: Write
) -> None:
    with pytest.raises(DocumentError) as caught:
        load_workload(write_workload(*edits))
    found = [f"{problem.field}: {problem.message}" for problem in caught.value.problems]
    assert any(expected in line for line in found), found
