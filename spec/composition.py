"""Cross-checks of `accuracy`: whether the stages have what their composition needs, and curves are curves."""

from __future__ import annotations

from collections.abc import Iterator

from inferplan.spec.response import flaws
from inferplan.spec.workload import Workload

Path_ = tuple[str | int, ...]
Finding = tuple[Path_, str]
UNLIKE_STAGES = ("table", "fitted")
"""Compositions that do with end-to-end measurements: stages need no metrics."""


def composition_findings(workload: Workload) -> Iterator[Finding]:
    """What is wrong with a workload's composition of accuracies."""
    accuracy = workload.accuracy
    if accuracy is None or accuracy.composition in UNLIKE_STAGES:
        return
    if accuracy.composition == "response":
        yield from _responses(workload)
        return
    stages = workload.pipeline.stages
    if accuracy.composition == "function":
        if all(stage.metric is None for stage in stages.values()):
            yield ("accuracy", "function"), "a function is given the stages' metrics; no stage has a 'metric'"
        return
    for name, stage in stages.items():
        if stage.metric is None:
            yield ("pipeline", "stages", name), f"composition {accuracy.composition} needs a 'metric' of every stage"
        elif accuracy.composition == "product" and stage.metric.direction != "maximize":
            yield (
                ("pipeline", "stages", name, "metric", "direction"),
                "a product is of metrics where higher is better",
            )


def _responses(workload: Workload) -> Iterator[Finding]:
    assert workload.accuracy is not None
    stages, responses = workload.pipeline.stages, workload.accuracy.responses
    parents = {n: [e.source for e in workload.pipeline.edges if e.target == n and e.source in stages] for n in stages}
    last = workload.pipeline.last_stages()
    if len(last) != 1:
        yield (
            ("accuracy", "composition"),
            f"response needs one last stage, whose output is the answer; there are: {', '.join(last)}",
        )
        return
    for name in responses:
        at: Path_ = ("accuracy", "responses", name)
        if name not in stages:
            yield at, f"there is no stage {name!r}; there are: {', '.join(stages)}"
        elif not parents[name]:
            yield at, f"no stage feeds {name}: its accuracy is its own metric, not a response"
        else:
            yield from _curves(workload, name, parents[name], at)
    for name, stage in stages.items():
        curved = name in responses and parents[name]
        if stage.metric is None and not curved and name not in last:
            yield ("pipeline", "stages", name), "composition response needs a 'metric' here, or curves in 'responses'"
        if stage.metric is None and name in last and not parents[name]:
            yield ("pipeline", "stages", name), "composition response needs a 'metric' here"


def _curves(workload: Workload, name: str, parents: list[str], at: Path_) -> Iterator[Finding]:
    assert workload.accuracy is not None
    stages, response = workload.pipeline.stages, workload.accuracy.responses[name]
    missing = [choice for choice in stages[name].choices() if choice not in response.curves]
    if missing:
        yield (*at, "curves"), f"every choice of a stage with curves needs one; missing: {', '.join(missing)}"
    signs = {parent: _sign(workload, parent) for parent in parents}
    for choice, points in response.curves.items():
        where: Path_ = (*at, "curves", choice)
        if choice not in stages[name].choices():
            yield where, f"stage {name} has no choice {choice!r}"
            continue
        for flaw in flaws(points, signs, _sign(workload, name) if response.monotone else None):
            yield where, flaw


def _sign(workload: Workload, stage: str) -> float:
    """+1 where a higher output accuracy of the stage is better. The last stage's is the workload's metric."""
    assert workload.accuracy is not None
    own = workload.pipeline.stages[stage].metric
    metric = workload.accuracy.metric if stage in workload.pipeline.last_stages() or own is None else own
    return 1.0 if metric.direction == "maximize" else -1.0
