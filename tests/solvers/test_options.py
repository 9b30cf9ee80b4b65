"""The option table: names, needs, and what is left out."""

from __future__ import annotations

import re
from typing import Any

import pytest

from inferplan.solvers.options import MAX_NAME
from inferplan.solvers.problem import Problem, read_problem

NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")


def problem_of(instances: Any, stages: dict[str, list[str]], rows: list[Any], **changes: Any) -> Problem:
    loaded = instances.workload(stages, edges=changes.pop("edges", []), **changes)
    accuracy = {(stage, name): 0.9 for stage, names in stages.items() for name in names}
    return read_problem(loaded.workload, instances.profile({}, accuracy, rows=rows))


def rows(instances: Any, stage: str, variant: str, **options: Any) -> list[Any]:
    helpers = __import__("sys").modules[type(instances).__module__]
    return [helpers.measurement(stage, variant, b, 0.01 * b, **options) for b in (1, 4)]


def test_an_option_per_variant_device_threads_batch_and_delay(instances: Any) -> None:
    measured = rows(instances, "read", "cnn-m") + rows(instances, "read", "cnn-m", threads=2)
    problem = problem_of(instances, {"read": ["cnn-m"]}, measured, delays=[0.0, 0.002])
    names = [option.name for option in problem.options("read")]
    assert names == [
        "read-cnn-m-cpu-1t-b1",
        "read-cnn-m-cpu-1t-b4",
        "read-cnn-m-cpu-1t-b4-d2000us",
        "read-cnn-m-cpu-2t-b1",
        "read-cnn-m-cpu-2t-b4",
        "read-cnn-m-cpu-2t-b4-d2000us",
    ]


def test_names_stay_safe_and_unique_when_they_collide_or_grow(instances: Any) -> None:
    long = "v" * 60
    stages = {"a-b": ["c"], "a": ["b-c", long]}
    measured = rows(instances, "a-b", "c") + rows(instances, "a", "b-c") + rows(instances, "a", long)
    problem = problem_of(instances, stages, measured, edges=[{"from": "a", "to": "a-b"}])
    names = [option.name for stage in stages for option in problem.options(stage)]
    assert len(set(names)) == len(names) == 6
    assert all(NAME.match(name) and len(name) <= MAX_NAME for name in names)


def test_what_does_not_fit_or_was_not_measured_is_named(instances: Any) -> None:
    measured = rows(instances, "s", "v") + rows(instances, "s", "v", threads=9) + rows(instances, "s", "w")
    measured += rows(instances, "s", "x", memory_bytes=None)
    devices = {"cpu": {"price_usd_per_h": 0.1, "cores": 4, "memory_bytes": 2**30}}
    problem = problem_of(instances, {"s": ["v", "w", "x", "y"]}, measured, devices=devices)
    excluded = "\n".join(problem.table.excluded)
    assert "s/v on edge/cpu, 9 threads, batches 1, 4: one replica does not fit on a machine" in excluded
    assert "s/x on edge/cpu, 1 thread, batches 1, 4: the device limits memory, and memory was not measured" in excluded
    assert "s/y: no measurement of its service time" in excluded
    assert {option.variant for option in problem.options("s")} == {"v", "w"}


@pytest.mark.parametrize("needed", [True, False])
def test_accuracy_is_asked_for_only_where_something_rests_on_it(needed: bool, instances: Any) -> None:
    classes = {"web": {"rate_rps": 1.0, "accuracy": {"floor": 0.5}} if needed else {"rate_rps": 1.0}}
    loaded = instances.workload({"s": ["v", "w"]}, classes=classes)
    profile = instances.profile({}, {("s", "v"): 0.9}, rows=rows(instances, "s", "v") + rows(instances, "s", "w"))
    problem = read_problem(loaded.workload, profile)
    assert {option.variant for option in problem.options("s")} == ({"v"} if needed else {"v", "w"})
    assert any("s/w: its accuracy" in line for line in problem.table.excluded) == needed
