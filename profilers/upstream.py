"""What arrives at stages past the entry: what the stages before them send on the pipeline's labelled requests.

Lines that a detector cuts out of a page differ in size from the labelled ones, and it is the former that replicas
read. So the stages before run once per campaign, in a process of their own (their models do not count into the
memory of one that is measured). What they send is kept in a temporary folder, as pickles: measuring processes read
it, and never this one. They run the same user's code that made it, which is why a pickle is no risk more.
"""

from __future__ import annotations

import json
import pickle
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from inferplan.profilers.frames import Frame
from inferplan.profilers.inputs import PipelineSpec, examples_sha256
from inferplan.profilers.process import Limits, WorkerFailure, WorkerProcess
from inferplan.profilers.runtimes.executor import ExecutorSpec

if TYPE_CHECKING:
    from inferplan.profilers.combinations import Arrivals
    from inferplan.spec.choice import Choice
    from inferplan.spec.workload import Workload

REQUESTS = 64
"""Most requests that are run, evenly spread over all: as many as there are made-up inputs."""
INPUTS = 1024
"""Most inputs of a stage that are kept, drawn at random where there are more."""
INPUTS_BYTES = 256 * 2**20
"""Most bytes of them: every measuring process holds them."""
_BATCH = 8


class Folder:
    """A temporary folder that lasts as long as this object."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="inferplan-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Upstream:
    """What arrives at a stage: `count` inputs in `file`, sent by `choices` (stage: choice) on requests with this hash.

    `reason` says why nothing can be had; empty where something was.
    """

    stage: str
    file: str = ""
    choices: Mapping[str, str] | None = None
    count: int = 0
    data_sha256: str = ""
    reason: str = ""

    @property
    def names(self) -> str:
        """The choices for people."""
        return ", ".join(f"{stage}={choice}" for stage, choice in (self.choices or {}).items())

    def to_json(self) -> dict[str, Any]:
        """What measuring processes need of it (`PipelineSpec.upstream`)."""
        return {"stage": self.stage, "file": self.file, "names": self.names, "reason": self.reason}


def stages_fed(workload: Workload) -> list[str]:
    """Stages past the entry that can do with what arrives there: those with code, or a variant that passes on."""
    pipeline = workload.pipeline
    return [
        name
        for name in pipeline.order()
        if name not in pipeline.entry_stages()
        and (
            pipeline.stages[name].code is not None
            or any(variant.runtime == "skip" for variant in pipeline.stages[name].variants.values())
        )
    ]


def run_upstream(
    workload: Workload, requests: PipelineSpec, stages: Sequence[str], provider: str, limits: Limits, folder: Path
) -> dict[str, Upstream]:
    """Run what leads to `stages`, and keep what arrives in `folder`. Of each stage the first choice that runs does the
    work, the one that `profile.upstream` names before all others.

    `provider` runs it, skip variants apart. What cannot be had says why.
    """
    pipeline = workload.pipeline
    found: dict[str, Upstream] = {}
    sha256 = ""
    try:
        with WorkerProcess(limits, 1, (), provider == "cpu") as worker:
            for frame in worker.ask(
                "upstream",
                pipeline=requests.to_json(),
                order=pipeline.order(),
                parents={n: [edge.source for edge in pipeline.edges if edge.target == n] for n in pipeline.stages},
                specs={
                    name: {
                        choice.name: ExecutorSpec.of(workload.root, name, stage, choice).to_json()
                        for choice in _in_order(workload, name)
                    }
                    for name, stage in pipeline.stages.items()
                },
                stages=list(stages),
                provider=provider,
                batch=_BATCH,
                threads=1,
                metrics=(),
                memory_limit_bytes=limits.memory_bytes,
                folder=str(folder),
            ):
                if frame.event == "requests":
                    sha256 = str(frame.data["sha256"])
                elif frame.event == "arrived":
                    found[frame.data["stage"]] = Upstream(**frame.data, data_sha256=sha256)
                elif frame.event == "upstream":
                    break
    except WorkerFailure as failure:
        missing = [stage for stage in stages if stage not in found]
        found.update({stage: Upstream(stage, reason=f"those before it fail: {failure.reason}") for stage in missing})
    return found


def _in_order(workload: Workload, stage: str) -> list[Choice]:
    choices = workload.pipeline.stages[stage].choices()
    wanted = workload.profile.upstream.get(stage)
    return sorted(choices.values(), key=lambda choice: choice.name != wanted)


def keep_arrivals(command: Mapping[str, Any]) -> Iterator[Frame]:
    """In the measuring process: a frame `arrived` per stage once what arrives there is kept, beats in between."""
    from inferplan.profilers.combinations import Evaluation

    evaluation = Evaluation(command)
    yield Frame("requests", {"sha256": examples_sha256(evaluation.requests)})
    for item in evaluation.arrivals(command["stages"], REQUESTS):
        yield item if isinstance(item, Frame) else _kept(item, Path(command["folder"]))
    yield Frame("upstream")


def _kept(arrivals: Arrivals, folder: Path) -> Frame:
    data: dict[str, Any] = {"stage": arrivals.stage, "choices": dict(arrivals.choices)}
    reason = arrivals.reason
    if not reason and not arrivals.inputs:
        reason = "those before it send it nothing on the labelled requests"
    if not reason:
        file = folder / f"{arrivals.stage}.pickle"
        try:
            inputs = thinned([pickle.dumps(item, protocol=5) for item in arrivals.inputs])
            file.write_bytes(pickle.dumps(inputs, protocol=5))
            return Frame("arrived", {**data, "file": str(file), "count": len(inputs)})
        except Exception as error:
            reason = f"what those before it send cannot be kept: {type(error).__name__}: {error}"
    return Frame("arrived", {**data, "reason": reason})


def thinned(contents: Sequence[bytes]) -> list[bytes]:
    """Contents within both bounds, in their order; one at least. A regular choice could always hit the same item of
    every request, so it is random, and the same every time."""
    total = sum(map(len, contents))
    most = min(INPUTS, max(1, len(contents) * INPUTS_BYTES // max(total, 1)))
    if most >= len(contents):
        return list(contents)
    picks = np.sort(np.random.default_rng(0).permutation(len(contents))[:most])
    return [contents[pick] for pick in picks]


def provenance(upstream: Upstream, evidence_sha256: str) -> str:
    """What a point's key says of inputs that came from upstream: JSON."""
    return json.dumps({"from": dict(upstream.choices or {}), "sha256": evidence_sha256}, sort_keys=True)
