"""Inputs of a stage past the entry that has no examples of its own: what its upstream stages send it.

`python -m inferplan.profilers.upstream` takes JSON on standard input (`PipelineSpec` with its `upstream`), runs
the upstream stages on the labelled requests, and writes the stage inputs to standard output as a pickle. The
measuring process starts it and reads it: a process of its own, so that the models upstream do not count into
the memory of the one that is measured. Both run the same user's code, which is why a pickle is no risk more.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from inferplan.profilers.runtimes.executor import ExecutorSpec
from inferplan.spec.errors import InferplanError, InputError

if TYPE_CHECKING:
    from inferplan.spec.workload import Workload

REQUESTS = 64
"""Most requests that are run: as many as there are made-up inputs."""
_BATCH = 8


def upstream_of(workload: Workload, stage: str, provider: str) -> dict[str, Any]:
    """What to run before a stage, as plain data: of every stage that leads to it the first choice.

    `provider` runs them, skip variants apart.
    """
    pipeline = workload.pipeline
    parents = {name: [edge.source for edge in pipeline.edges if edge.target == name] for name in pipeline.stages}
    leading = {stage}
    for name in reversed(pipeline.order()):
        if name in leading:
            leading.update(parents[name])
    order = [name for name in pipeline.order() if name in leading]
    choices = {name: next(iter(pipeline.stages[name].choices().values())) for name in order}
    specs = {
        name: ExecutorSpec.of(workload.root, name, pipeline.stages[name], choice).to_json()
        for name, choice in choices.items()
    }
    return {
        "stage": stage,
        "order": order,
        "parents": {name: parents[name] for name in order},
        "specs": {name: {choices[name].name: spec} for name, spec in specs.items()},
        "combination": {name: choice.name for name, choice in choices.items()},
        "provider": provider,
    }


def collected(pipeline: Mapping[str, Any], upstream: Mapping[str, Any]) -> list[Any]:
    """Stage inputs, from a fresh process. Raises InputError where the upstream stages fail or send nothing."""
    command = json.dumps({"pipeline": pipeline, "upstream": upstream}).encode()
    done = subprocess.run(
        [sys.executable, "-m", "inferplan.profilers.upstream"], input=command, capture_output=True, check=False
    )
    where = f"stage {upstream['stage']}: it has no examples of its own, and those before it"
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise InputError(f"{where} fail: {lines[-1] if lines else f'exit code {done.returncode}'}")
    found: list[Any] = pickle.loads(done.stdout)  # noqa: S301 - made by the same user's code that runs here
    if not found:
        raise InputError(f"{where} send it nothing on the labelled requests")
    return found


def main() -> None:
    """Entry point of the process."""
    from inferplan.profilers.combinations import Evaluation

    results = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the user's code prints is no result
    command = json.load(sys.stdin)
    upstream = command["upstream"]
    try:
        evaluation = Evaluation(
            {
                **{name: upstream[name] for name in ("order", "parents", "specs", "provider")},
                "pipeline": command["pipeline"],
                "batch": _BATCH,
                "threads": 1,
                "metrics": (),
                "memory_limit_bytes": 2**62,
            }
        )
        inputs = evaluation.arriving(upstream["stage"], upstream["combination"], REQUESTS)
        content = pickle.dumps(inputs, protocol=5)
    except Exception as error:
        text = error.message if isinstance(error, InferplanError) else f"{type(error).__name__}: {error}"
        sys.stderr.write("\n" + " ".join(text.split()) + "\n")
        sys.stderr.flush()
        os._exit(1)
    with results:
        results.write(content)
    sys.stderr.flush()
    os._exit(0)  # runtimes hold threads; there is nothing left to do for any of them


if __name__ == "__main__":
    main()
