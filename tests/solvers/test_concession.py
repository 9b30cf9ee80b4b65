"""Values of a load or a bandwidth that would do: rounding, and the time there is. What they are worth: `test_planner`,
`test_tiers`, `test_split`."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest

from inferplan.solvers.concession import certified, concessions
from inferplan.solvers.milp import promises
from inferplan.solvers.problem import Problem, read_problem


@pytest.fixture
def narrow(instances: Any) -> Problem:
    """33.37 requests per second of 0.1 s each, on one core."""
    loaded = instances.workload(
        {"s": ["v"]},
        devices={"cpu": {"price_usd_per_h": 0.1, "count": 1, "cores": 1}},
        classes={"web": {"rate_rps": 33.37, "slo": {"latency_s": 1.0}}},
    )
    problem: Problem = read_problem(loaded.workload, instances.profile({("s", "v"): {1: 0.1}}, {}))
    return problem


def test_a_load_is_named_with_three_figures_rounded_down(narrow: Problem) -> None:
    (load,) = concessions(narrow)
    assert load.text(load.neat(0.2)) == "classes.web.rate_rps: at most 6.67 requests/s"
    # What has three figures already stays, whatever the last bit.
    for value in (6.67, 10.1, 29.9, 0.334):
        assert load.neat(value / 33.37) * 33.37 == pytest.approx(value, rel=1e-12)
    assert sum(need.rate_rps for need in load.at(0.5).classes) == pytest.approx(33.37 / 2)


def test_nothing_is_named_once_there_is_no_time(narrow: Problem) -> None:
    ask = promises(narrow)
    assert list(certified(narrow, ask, ask, 0, time.monotonic() - 1)) == []
    (line,) = certified(narrow, ask, ask, 0, math.inf)
    assert line.startswith("classes.web.rate_rps: at most")
    assert 1 < float(line.split("at most ")[1].split()[0]) < 10
